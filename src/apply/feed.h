/*-------------------------------------------------------------------------
 *
 * feed.h
 *	  A subscription at work: its consumer, partitions and pending records.
 *
 * Exists only in the applier, which goes round its feeds and gives each a
 * step.  Nothing is shared; what must survive is in outbox._offset.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FEED_H
#define OUTBOX_FEED_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/hsearch.h"

#include "apply/subscription.h"
#include "kafka/kafka.h"

#define OUTBOX_ID_LENGTH 64

typedef struct OutboxFeedPartition
{
	int32		partition;
	int64		next;			/* as stored: the first offset not yet dealt
								 * with */
	int64		high;			/* where the partition ended when that was
								 * last stored, or -1 */
	int64		reached;		/* the end that fetching has come to, or -1:
								 * what is in front of it and not a record
								 * here is a mark of a transaction, or was
								 * aborted */
	int64		last;			/* offset of the last record dealt with, or of
								 * one that was removed before; -1: none */
	int64		last_time_ms;
	char		last_id[OUTBOX_ID_LENGTH];	/* its header id, cut off */

	/*
	 * Fetching began at "last", to see whether it is still the record that it
	 * was; cleared by the first record that comes.
	 */
	bool		verifying;

	int64		anchor;			/* see anchor.c; only with feed->anchor_ms */
} OutboxFeedPartition;

/*
 * What became of a record, for the counters: the first of OutboxApplyResult, and
 * these.  What speaks of all rows counts as applied.
 */
typedef enum OutboxFate
{
	OUTBOX_FATE_DEAD = 5,
	OUTBOX_FATE_PARKED,
	OUTBOX_FATE_SKIPPED,
	OUTBOX_FATES
} OutboxFate;

/*
 * Failures in a row that are alike.  Nothing was delivered since the first, only
 * parked behind those that failed.  "places" are the partitions they were in,
 * with the first offset that failed there, so that it can be gone back to, and
 * how many records since then failed or were parked.
 */
#define OUTBOX_RUN_MAX 100

typedef struct OutboxFailureRun
{
	int			count;
	int			sqlerrcode;
	char		what[NAMEDATALEN];	/* column or constraint */
	int64		first_letter;	/* id of its first letter; 0: none yet */
	int			nplaces;
	struct
	{
		int32		partition;
		int64		offset;
		int64		failed;
		int64		parked;
	}			places[OUTBOX_RUN_MAX];
} OutboxFailureRun;

typedef struct OutboxFeed
{
	MemoryContext context;		/* of all of this */
	OutboxSubscription *sub;

	/* consumer; NULL while there is none */
	OutboxConsumer *cons;
	uint64		fingerprint;	/* of the server's settings it was made with */
	int			nparts;
	OutboxFeedPartition *parts;
	int64		anchor_ms;		/* see anchor.c; -1: none yet */
	TimestampTz next_refresh;	/* of the list of partitions */
	TimestampTz next_high;		/* storing of the ends */

	/* records that are not dealt with yet, and their fates */
	int			nrecords;
	OutboxRecord *records;		/* room for max_records */
	char	   *fates;
	int			max_records;
	Size		bytes;
	bool		partial;		/* there may be more in the library's queue */
	int			limit;			/* of them, so that they take about a turn */
	TimestampTz turn_ends;		/* see outbox_feed_begin_turn() */

	/* when things go wrong */
	bool		gone;			/* stopped: to be taken away */
	bool		counted;		/* this worker's start, in sub->starts */
	bool		suspect;		/* workers died of it: one by one */
	int			failures;		/* in a row, for the back-off */
	TimestampTz retry_at;		/* 0: now */
	char	   *waiting;		/* why it cannot go on for now; NULL: it can */
	bool		waiting_changed;	/* since that was stored */
	OutboxFailureRun run;

	/* letters */
	TimestampTz next_letters;	/* when one is due; DT_NOEND if none waits */
	HTAB	   *blocked;		/* hashes of keys that wait; handlers only */
	int			park_limit;		/* records to park in a turn, see letters.c */
} OutboxFeed;

extern OutboxFeed *outbox_feed_create(const OutboxSubscription *sub);
extern void outbox_feed_destroy(OutboxFeed *feed);

/*
 * Do what there is to do, outside of any transaction.  True if it did
 * something, so that there may be more.  Errors are those of this feed alone.
 */
extern bool outbox_feed_step(OutboxFeed *feed);

/*
 * The others have their steps only when this one's ends.  What takes long, one
 * record after the other, is left for the next step once the turn is over, but
 * always does something in each.
 */
#define OUTBOX_TURN_MS 250
extern void outbox_feed_begin_turn(OutboxFeed *feed);
extern bool outbox_feed_turn_over(const OutboxFeed *feed);

/* An error escaped from a step: back off. */
extern void outbox_feed_failed(OutboxFeed *feed, const char *reason);

/* It cannot go on for now, for a reason that people may read. */
extern void outbox_feed_back_off(OutboxFeed *feed, const char *reason);

/* When the feed wants its next step; DT_NOEND if only records will tell. */
extern TimestampTz outbox_feed_deadline(const OutboxFeed *feed);

/*
 * Forget consumer and records; the next step starts from what is stored.
 */
extern void outbox_feed_disconnect(OutboxFeed *feed);

/* The same, with the consumer that there is. */
extern void outbox_feed_restart(OutboxFeed *feed);

extern OutboxFeedPartition *outbox_feed_partition(OutboxFeed *feed, int32 partition);

/* Stop the subscription, in a transaction of its own. */
extern void outbox_feed_stop(OutboxFeed *feed, int sqlerrcode, const char *reason);

/* Write the log line about a subscription that has stopped; feed goes away. */
extern void outbox_feed_stopped(OutboxFeed *feed, int sqlerrcode, const char *reason);

#endif							/* OUTBOX_FEED_H */
