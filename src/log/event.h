/*-------------------------------------------------------------------------
 *
 * event.h
 *	  An event, and its packed form in the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_H
#define OUTBOX_EVENT_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* What an event says of its row; the letter is Debezium's. */
typedef enum OutboxOp
{
	OUTBOX_OP_NONE,				/* not a row: outbox.emit */
	OUTBOX_OP_CREATE,
	OUTBOX_OP_UPDATE,
	OUTBOX_OP_DELETE,
	OUTBOX_OP_READ,				/* a present row, read by a copy */
	OUTBOX_OP_TRUNCATE,			/* all rows of the topic are gone */
	OUTBOX_OP_END				/* end of a resync: rows older than the
								 * version are gone */
} OutboxOp;

/* 'c', 'u', 'd', 'r', 't', 'e', or '\0' */
extern char outbox_op_letter(OutboxOp op);

/* Does the event speak of a whole topic?  Then each partition gets it. */
static inline bool
outbox_op_is_broadcast(OutboxOp op)
{
	return op == OUTBOX_OP_TRUNCATE || op == OUTBOX_OP_END;
}

typedef struct OutboxEvent
{
	int64		id;				/* unique; the version of what it says */
	int64		version;		/* 0: the id; else an older one (copies, END) */
	OutboxOp	op;
	int32		stream;			/* outbox._stream.id, or 0 and the next two */
	const char *server;
	int32		server_len;
	const char *topic;
	int32		topic_len;
	int64		time_ms;		/* of the change, since the Unix epoch */
	const char *key;			/* NULL: none */
	int32		key_len;
	const char *value;			/* NULL: none (tombstone) */
	int32		value_len;
	const char *headers;		/* packed by outbox_header_pack, NULL: none */
	int32		headers_len;
} OutboxEvent;

/*
 * Packed events follow each other; the first refers to what the row says, the
 * others to the one before.
 */
typedef struct OutboxEventCursor
{
	int64		id;				/* of the event before */
	int64		time_ms;
} OutboxEventCursor;

extern void outbox_event_pack(StringInfo buf, OutboxEventCursor *cur,
							  const OutboxEvent *ev);

/* Upper bound of the packed size. */
extern size_t outbox_event_size(const OutboxEvent *ev);

/*
 * Unpack the event at *pos and advance it; strings point into the data.
 * Raises data_corrupted if it goes beyond "end".
 */
extern void outbox_event_unpack(const char **pos, const char *end,
								OutboxEventCursor *cur, OutboxEvent *ev);

/* Head of a log row's events: count and base time. */
extern void outbox_events_head(StringInfo buf, int nevents, int64 time_ms);
extern int	outbox_events_start(const char **pos, const char *end,
								int64 first_id, OutboxEventCursor *cur);

#define OUTBOX_MAX_HEADERS 50	/* given by users */

/* Headers of an event: name and value, value NULL for none. */
extern void outbox_header_pack(StringInfo buf, const char *name,
							   const char *value, int32 value_len);
extern bool outbox_header_next(const char **pos, const char *end,
							   const char **name, int32 *name_len,
							   const char **value, int32 *value_len);

#endif							/* OUTBOX_EVENT_H */
