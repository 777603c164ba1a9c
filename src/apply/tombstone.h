/*-------------------------------------------------------------------------
 *
 * tombstone.h
 *	  What is remembered of keys that were deleted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TOMBSTONE_H
#define OUTBOX_TOMBSTONE_H

#include "postgres.h"

typedef struct OutboxTombstoneScan OutboxTombstoneScan;

/*
 * Look tombstones of a target up, as the newest committed state and this
 * transaction's own changes have them, whatever the isolation level.
 */
extern OutboxTombstoneScan *outbox_tombstone_begin(Oid target);

/*
 * Version at which the key was deleted, if it was.  Raises
 * serialization_failure for one that the transaction's snapshot cannot see.
 */
extern bool outbox_tombstone_find(OutboxTombstoneScan *scan, const char *identity,
								  int identity_len, int64 *version);
extern void outbox_tombstone_end(OutboxTombstoneScan *scan);

/* Inside an SPI connection: remember and forget keys of a target. */
extern void outbox_tombstone_put(Oid target, char **identities, const int64 *versions, int n);
extern void outbox_tombstone_remove(Oid target, char **identities, int n);

/* Heavyweight locks on stripes of a target's keys, until transaction end. */
extern void outbox_tombstone_lock(Oid target, uint64 shared, uint64 exclusive);

#endif							/* OUTBOX_TOMBSTONE_H */
