/*-------------------------------------------------------------------------
 *
 * snapshot.h
 *	  Snapshots as values: which transactions had ended at some moment.
 *
 * Like the SQL type pg_snapshot, but in C, so that "visible in S2 and not in
 * S1" can be computed for the top-level transaction that a log row names.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SNAPSHOT_H
#define OUTBOX_SNAPSHOT_H

#include "postgres.h"

#include "access/transam.h"
#include "access/xlogdefs.h"
#include "utils/snapshot.h"

typedef struct OutboxSnapshot
{
	XLogRecPtr	lsn;			/* the ends of all that had ended are in the
								 * WAL before this; 0: not known */
	uint64		xmin;			/* all below have ended */
	uint64		xmax;			/* none at or above has */
	int			nxip;			/* in progress between the two, sorted */
	uint64		xip[FLEXIBLE_ARRAY_MEMBER];
} OutboxSnapshot;

/* The moment of an MVCC snapshot held by the caller; palloc'd. */
extern OutboxSnapshot *outbox_snapshot_from(Snapshot snapshot);

/* The moment before every transaction; palloc'd. */
extern OutboxSnapshot *outbox_snapshot_empty(void);

extern OutboxSnapshot *outbox_snapshot_copy(const OutboxSnapshot *snap);

/* Had the top-level transaction ended by then? */
extern bool outbox_snapshot_ended(const OutboxSnapshot *snap, uint64 xid);

/* With its epoch, an xid that was in use lately. */
extern uint64 outbox_xid_widen(TransactionId xid);

/* To and from the text form of pg_snapshot, which does not carry lsn. */
extern char *outbox_snapshot_out(const OutboxSnapshot *snap);
extern OutboxSnapshot *outbox_snapshot_in(const char *str);

#endif							/* OUTBOX_SNAPSHOT_H */
