/*-------------------------------------------------------------------------
 *
 * log.h
 *	  The event log: append; read; settle; trim.
 *
 * Writers append events to their transaction.  The relay reads what has been
 * committed since a position, in the order of commit stamps, settles how far
 * it has come, and trims segments that nobody needs any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LOG_H
#define OUTBOX_LOG_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

#include "log/event.h"
#include "log/snapshot.h"

#define OUTBOX_LOG_SEGMENTS 3

/* ---------------- append ---------------- */

/*
 * Add an event to the current transaction.  ev->id must come from
 * outbox_stamp_next(); everything is copied.  The events become visible to
 * the relay if and when the transaction commits.
 */
extern void outbox_log_append(const OutboxEvent *ev);

/* Raises when it is too late to append in this transaction. */
extern void outbox_log_check_open(void);

/*
 * When the log has reached pg_outbox.max_backlog (backlog.c).  Changes of
 * published tables ask outbox_log_leaves_to_copy() whether to be left out for
 * a later copy; what no copy can bring calls outbox_log_check_room(), which
 * raises, before it appends.  outbox_log_has_room() is for the copy: is there
 * room again, and some to spare?
 */
extern bool outbox_log_leaves_to_copy(void);
extern void outbox_log_check_room(void);
extern bool outbox_log_has_room(void);

/*
 * Called after the commit of a transaction that appended events; must not
 * fail.  Set once, from _PG_init.
 */
extern void outbox_log_set_commit_hook(void (*hook) (int64 nevents));

/* Called whenever a backend finds the log full; likewise. */
extern void outbox_log_set_full_hook(void (*hook) (void));

/* Visit the events of this transaction that are still in memory. */
typedef void (*OutboxEventVisitor) (const OutboxEvent *ev, void *arg);
extern void outbox_log_visit_pending(OutboxEventVisitor visit, void *arg);

/* ---------------- read ---------------- */

/* A row of the log, and where it was when it was collected. */
typedef struct OutboxLogRef
{
	int64		stamp;			/* commit stamp of its transaction */
	int64		id;				/* of its first event; no other row has it */
	ItemPointerData tid;
	uint16		segment;
} OutboxLogRef;

typedef struct OutboxLogBatch
{
	OutboxLogRef *refs;			/* in order of (stamp, id) */
	int64		nrefs;
	bool		truncated;		/* more follow after the last one */
	XLogRecPtr	flush_lsn;		/* WAL of asynchronous commits among them */
} OutboxLogBatch;

/*
 * Collect the rows that "target" sees and "base" does not, beyond position
 * (stamp, id), at most "limit" of them (the first ones in order).  Needs an
 * active snapshot at least as new as "target".  Whoever shows the events to
 * others must see to it that WAL is flushed up to flush_lsn first.
 */
extern OutboxLogBatch *outbox_log_collect(const OutboxSnapshot *base,
										  const OutboxSnapshot *target,
										  int64 stamp, int64 id, int64 limit);

/*
 * Fetching rows one after the other, in one transaction with an active
 * snapshot.  outbox_log_fetch() returns the row's packed events, detoasted, in
 * the current memory context; or NULL if another row or none is in the place
 * remembered, as after VACUUM FULL: whoever holds references has to collect
 * them again then.
 */
typedef struct OutboxLogFetch
{
	int			segment;		/* open one; fields below invalid when -1 */
	Relation	rel;
	struct TupleTableSlot *slot;
	BlockNumber nblocks;
} OutboxLogFetch;

extern void outbox_log_fetch_begin(OutboxLogFetch *fetch);
extern bytea *outbox_log_fetch(OutboxLogFetch *fetch, const OutboxLogRef *ref);
extern void outbox_log_fetch_end(OutboxLogFetch *fetch);

/* ---------------- settle ---------------- */

/*
 * How far a server's relay has come: all that base sees; and, if there is a
 * target, of what it sees beyond base everything up to (stamp, id).
 */
typedef struct OutboxPosition
{
	OutboxSnapshot *base;
	OutboxSnapshot *target;		/* NULL: none chosen yet */
	int64		stamp;
	int64		id;
	int64		events;			/* settled in the server's whole life */
	TimestampTz at;
} OutboxPosition;

/* Record a position in the current transaction. */
extern void outbox_position_store(const char *server, const OutboxPosition *pos);

/* Newest position of a server; false if there is none. */
extern bool outbox_position_load(const char *server, OutboxPosition *pos);

/* Names of all servers with a position (List of char *). */
extern List *outbox_position_servers(void);

/* Write the newest positions to the other table and empty this one. */
extern void outbox_position_compact(void);

/* ---------------- trim ---------------- */

/*
 * Is everything in the segment settled for each of the positions?
 */
extern bool outbox_segment_settled(int segment, OutboxSnapshot *const *bases, int nbases);

/*
 * Empty a segment, if nobody is writing to it and everything in it is
 * settled; writers are never waited for.  Needs a transaction with a snapshot.
 */
typedef enum OutboxTrimResult
{
	OUTBOX_TRIM_DONE,
	OUTBOX_TRIM_EMPTY,			/* nothing to do */
	OUTBOX_TRIM_BUSY,			/* somebody holds a lock on it */
	OUTBOX_TRIM_NEEDED			/* holds events that are not settled */
} OutboxTrimResult;

extern OutboxTrimResult outbox_segment_trim(int segment,
											OutboxSnapshot *const *bases, int nbases);

/* Give back the space of parked events, if there are none any more. */
extern void outbox_parked_trim(void);

/*
 * Bytes of all segments and of the parked events, and how many there may be
 * (-1: no limit).
 */
extern int64 outbox_log_size(void);
extern int64 outbox_log_limit(int64 size);

extern int	outbox_segment_current(void);
extern int64 outbox_segment_size(int segment);	/* bytes, with index and TOAST */
extern int64 outbox_parked_size(void);	/* likewise */

/* Have writers go on in the next empty segment; false if there is none. */
extern bool outbox_segment_advance(void);

/* For append.c: write one row. */
extern void outbox_segment_write(int segment, uint64 xid, int64 id, int64 stamp,
								 bytea *events);

extern void outbox_log_init(void);

#endif							/* OUTBOX_LOG_H */
