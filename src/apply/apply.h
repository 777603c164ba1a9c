/*-------------------------------------------------------------------------
 *
 * apply.h
 *	  An event on its way into a replica, and what became of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_APPLY_H
#define OUTBOX_APPLY_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "common/header.h"

/* In the order of the labels of outbox.apply_result. */
typedef enum OutboxApplyResult
{
	OUTBOX_APPLY_PENDING = -1,	/* not decided yet */
	OUTBOX_APPLY_APPLIED,		/* the row was inserted or updated */
	OUTBOX_APPLY_DELETED,		/* the row is gone, a tombstone is there */
	OUTBOX_APPLY_STALE,			/* something newer is known of the key */
	OUTBOX_APPLY_DUPLICATE,		/* this very version is there already */
	OUTBOX_APPLY_SUPPRESSED,	/* a trigger of the target refused the row */
	OUTBOX_APPLY_SWEPT,			/* rows older than the event are gone */
	OUTBOX_APPLY_MARKED			/* a resync's end; other partitions' to come */
} OutboxApplyResult;

#define OUTBOX_APPLY_RESULTS 7

/*
 * An event, in the server's encoding.  Nothing here is NUL-terminated and
 * nothing is owned.
 */
typedef struct OutboxApplyEvent
{
	/* the record; NULL is Kafka's null */
	const char *key;
	int			key_len;
	const char *value;
	int			value_len;

	/* headers that matter here */
	char		op;				/* c, u, d, r, t or e; '\0': no such header */
	bool		has_version;
	int64		version;		/* header "version", else header "id" */
	bool		version_explicit;	/* it came from header "version" */
	bool		id_unusable;	/* header "id" is there, but is no integer */
	const char *verbatim;		/* header "json_verbatim", NULL: none */
	int			verbatim_len;
	const char *mark;			/* header "partition", NULL: none */
	int			mark_len;
} OutboxApplyEvent;

/*
 * Take over one header, its value in the server's encoding.  Unknown names are
 * ignored; raises invalid_parameter_value for one that contradicts what is
 * allowed.
 */
extern void outbox_event_header(OutboxApplyEvent *ev, const char *name, int name_len,
								const char *value, int value_len);

/*
 * Take over all headers of a jsonb: an object, or an array of pairs in any of
 * the forms that clients use.
 */
extern void outbox_event_headers_jsonb(OutboxApplyEvent *ev, Jsonb *headers);

/* A decimal integer of at most 64 bits; false if it is none. */
extern bool outbox_parse_version(const char *value, int len, int64 *version);

/* True if the event removes its key. */
extern bool outbox_event_is_delete(const OutboxApplyEvent *ev);

/* True if it speaks of all rows: TRUNCATE, or the end of a resync. */
extern bool outbox_event_is_sweep(const OutboxApplyEvent *ev);

extern void outbox_apply_init(void);

#endif							/* OUTBOX_APPLY_H */
