/*-------------------------------------------------------------------------
 *
 * offset.h
 *	  How far a subscription has come: rows of outbox._offset.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_OFFSET_H
#define OUTBOX_OFFSET_H

#include "postgres.h"

#include "apply/feed.h"

/* Stored partitions into feed->parts, allocated in the feed's context. */
extern void outbox_offset_load(OutboxFeed *feed);

/* Begin with a partition. */
extern void outbox_offset_insert(OutboxFeed *feed, int32 partition, int64 next);

/*
 * Move on past the first n records of the feed, with their fates; stopping at
 * where the run of failures began, if one made us stop.  Raises
 * serialization_failure if a row is not what we read from: somebody else
 * consumes, or moved us.  Updates feed->parts only through
 * outbox_offset_moved(), after commit.
 */
extern void outbox_offset_settle(OutboxFeed *feed, int n, const OutboxFailureRun *rewind);

/* The transaction of settle() has committed. */
extern void outbox_offset_moved(OutboxFeed *feed, int n);

/* Pass over offsets that the broker does not have any more, for that reason. */
extern void outbox_offset_skip_lost(OutboxFeed *feed, const OutboxFeedPartition *part, int64 to,
									const char *reason);

/*
 * The topic is another one: begin at the beginning of its partitions, and forget
 * those that are gone.
 */
extern void outbox_offset_begin_anew(OutboxFeed *feed, const OutboxPartitionOffset *parts,
									 int nparts, const char *reason);

/*
 * Store where the partitions end, and pass what is in front of that without being
 * a record.  Rows that somebody has locked, or moved, are left alone.
 */
extern void outbox_offset_store_end(OutboxFeed *feed);

#endif							/* OUTBOX_OFFSET_H */
