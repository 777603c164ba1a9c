/*-------------------------------------------------------------------------
 *
 * capture.h
 *	  Writers' side: row triggers and emit() turn changes into events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CAPTURE_H
#define OUTBOX_CAPTURE_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#include "capture/encode.h"
#include "log/event.h"

/* Headers that are only sent where a publication asks for them. */
#define CAPTURE_HEADER_SOURCE	0x01	/* database, schema and table */
#define CAPTURE_HEADER_TXID		0x02

/* What becomes of TRUNCATE. */
typedef enum OutboxOnTruncate
{
	CAPTURE_TRUNCATE_REFUSE,
	CAPTURE_TRUNCATE_IGNORE,
	CAPTURE_TRUNCATE_PUBLISH	/* one event that every partition gets */
} OutboxOnTruncate;

/* A published column of one relation (attribute numbers differ in partitions). */
typedef struct CapturedColumn
{
	AttrNumber	attnum;
	const char *label;			/* "name": with quotes and colon */
	int			label_len;
	OutboxEncoder enc;
} CapturedColumn;

typedef struct CapturedColumns
{
	int			ncols;
	AttrNumber	last;			/* the largest of their numbers */
	CapturedColumn *cols;
} CapturedColumns;

/* One publication, prepared for the rows of one relation. */
typedef struct CapturedPublication
{
	int32		pubid;
	int32		stream;
	const char *name;

	/* what is sent */
	bool		thin;			/* value is the identity only */
	CapturedColumns value;		/* full events */
	CapturedColumns identity;	/* of the row */
	CapturedColumns key;		/* of the message; may be identity's */
	bool		key_is_identity;
	const char *headers;		/* fixed headers, packed; NULL: none */
	int			headers_len;
	int			with_headers;	/* CAPTURE_HEADER_* */

	/* which changes are sent */
	bool		skip_unchanged;
	OutboxOnTruncate on_truncate;
	ExprState  *filter;			/* NULL: every row */
	ExprContext *econtext;

	/* for looking whether a row of some identity is there */
	Oid			root;			/* the published table */
	const char *filter_text;
	void	   *probe_plan;		/* SPIPlanPtr, made when first needed */
} CapturedPublication;

/* What is published of one relation; owned by relation.c. */
typedef struct CapturedRelation
{
	Oid			relid;			/* hash key */
	bool		valid;			/* cleared by invalidation, never while used */
	bool		pinned;			/* some column needs outbox_encode_pin() */
	MemoryContext context;
	int			npubs;
	CapturedPublication *pubs;
} CapturedRelation;

/* Publications of the relation, looked up at first use. */
extern CapturedRelation *outbox_captured_relation(Relation rel);

/*
 * Mark what is cached for a table stale in all sessions, at commit.  For those
 * who change outbox._publication.
 */
extern void outbox_capture_invalidate(Oid relid);

/*
 * Run a query whose $1 is the relation and the partitioned tables above it
 * (regclass[]), with the extension's rights and a fresh snapshot.  Inside SPI.
 */
extern void outbox_capture_query(Relation rel, const char *sql);

/* Is there a row of this identity that the publication shows? */
extern bool outbox_capture_probe(CapturedPublication *pub, Relation rel,
								 TupleTableSlot *slot);

/*
 * Append to the packed headers those that the session asks for
 * (pg_outbox.traceparent, .correlation_id, .causation_id).
 */
extern void outbox_session_headers(StringInfo buf);

/* Pack a header whose name and value are in the server's encoding. */
extern void outbox_header_add(StringInfo buf, const char *name, const char *value);

/* Raises for a name of those headers that say how an event is to be read. */
extern void outbox_header_name_check(const char *name);

/* Pack a JSON object's members as headers; raises if it is no object. */
extern void outbox_jsonb_headers(StringInfo buf, Jsonb *headers);

extern bool outbox_capture_enabled(void);

/* Raises unless Kafka takes the name for a topic. */
extern void outbox_topic_check(const char *topic);

/*
 * The server to publish to (NULL: pg_outbox.default_server).  Raises unless
 * the current user may publish to the topic there; topic NULL: to some.
 */
extern const char *outbox_topic_server(const char *server, const char *topic);

/* Milliseconds since the Unix epoch of the current statement's start. */
extern int64 outbox_statement_time_ms(void);

/*
 * Around everything that uses what is cached of a relation: code of users runs
 * in between, and must not come here again.  End also after an error.
 */
extern void outbox_capture_begin(Relation rel);
extern void outbox_capture_end(void);

/*
 * Record the row in the slot, which a copy reads, unless the publication does
 * not show it (false).  The id was taken before; version 0: it is the version.
 */
extern bool outbox_capture_read(CapturedPublication *pub, Relation rel,
								TupleTableSlot *slot, int64 id, int64 version);

/*
 * Record an event that speaks of all of the publication's topic; between
 * outbox_capture_begin() and end.  Version 0: the id is it.
 */
extern void outbox_capture_whole(CapturedPublication *pub, Relation rel, OutboxOp op,
								 int64 version);

/* ---------------- truncate.c ---------------- */

/*
 * Tables truncated in this transaction; whoever captures a row of one has it
 * forgotten.
 */
extern List *outbox_truncated;
extern void outbox_truncate_forget(Oid relid);
extern void outbox_truncate_init(void);

/* ---------------- unrecorded.c ---------------- */

/* This transaction changed rows of the publication and recorded no event. */
extern void outbox_unrecorded_note(const CapturedPublication *pub);

/*
 * Ask for copies of publications of which changes were not recorded, if the
 * log has room.  In the relay, outside a transaction.
 */
extern void outbox_unrecorded_step(void);

extern void outbox_unrecorded_init(void);

/* Shared by publish and adopt: check arguments. */
extern char *outbox_choice_check(char *value, const char *parameter, const char *first,
								 const char *second, const char *third);
extern void outbox_publication_name_check(const char *name);

extern void outbox_publish_init(void);
extern void outbox_capture_init(void);

#endif							/* OUTBOX_CAPTURE_H */
