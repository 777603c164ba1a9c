/*-------------------------------------------------------------------------
 *
 * start.h
 *	  Where a subscription begins to read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_START_H
#define OUTBOX_START_H

#include "postgres.h"

#include "apply/feed.h"

/*
 * Check what a user wrote and bring it into a form that means the same under
 * all settings; raises invalid_parameter_value.
 */
extern char *outbox_start_normalize(const char *start);

/*
 * Find the offsets in parts[].offset, which come with their watermarks.  False
 * if the broker did not answer: the feed has backed off.
 */
extern bool outbox_start_resolve(OutboxFeed *feed, OutboxPartitionOffset *parts, int nparts);

/* Offsets of a normalized JSON form: that of one partition, -1 if none. */
extern int64 outbox_start_offset(const char *start, int32 partition);

#endif							/* OUTBOX_START_H */
