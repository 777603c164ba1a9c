/*-------------------------------------------------------------------------
 *
 * anchor.h
 *	  Is a topic still the one that was read?
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ANCHOR_H
#define OUTBOX_ANCHOR_H

#include "apply/feed.h"

/*
 * Remember what is there now, unless that was done; "parts" are all partitions
 * with their watermarks.  Waits for the broker for a while; if that does not
 * answer, or nothing was read yet, nothing is remembered.
 */
extern void outbox_anchor_set(OutboxFeed *feed, const OutboxPartitionOffset *parts, int nparts);

/*
 * Compare with what was remembered.  False, with the number of the partition, if
 * its log began anew since; true also if the broker does not answer.
 */
extern bool outbox_anchor_check(OutboxFeed *feed, const OutboxPartitionOffset *parts,
								int nparts, int32 *partition);

#endif							/* OUTBOX_ANCHOR_H */
