/*-------------------------------------------------------------------------
 *
 * anchor.c
 *	  Is a topic still the one that was read?
 *
 * A topic that is deleted and created again while its records are fetched, and
 * is at least as long as before by the time of the next fetch, cannot be told
 * from the old one by offsets: reading would go on in the midst of it.
 *
 * What cannot become less in one log is the offset of the first record that is
 * not older than a given time: the records before it are older and stay what
 * they are, new ones come behind, and removing some makes it greater.  In a log
 * that began later than that time it is the beginning.  So the time just after
 * the newest record that was applied is the anchor; brokers are asked for its
 * offsets at each look at the partitions, and these may only grow.
 *
 * The anchor is this worker's.  After a start, the comparison with the last
 * record that was applied says the same of the time before (feed.c).
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/anchor.h"

#include "apply/asker.h"

#define ANCHOR_TIMEOUT_MS 2000

/* Just after the newest record of any partition, or -1. */
static int64
choose_time(const OutboxFeed *feed)
{
	int64		newest = -1;

	for (int i = 0; i < feed->nparts; i++)
		if (feed->parts[i].last >= 0)
			newest = Max(newest, feed->parts[i].last_time_ms);
	return newest < 0 ? -1 : newest + 1;
}

/*
 * The partitions' first offsets that are not older than the anchor: their ends,
 * where there are none yet.  NULL if the broker does not answer.
 */
static OutboxPartitionOffset *
ask_offsets(OutboxFeed *feed, const OutboxPartitionOffset *parts, int nparts)
{
	OutboxPartitionOffset *now = palloc(sizeof(OutboxPartitionOffset) * nparts);
	char	   *error;

	memcpy(now, parts, sizeof(OutboxPartitionOffset) * nparts);
	if (!outbox_consumer_offsets_for_time(outbox_asker_get(feed), feed->sub->topic, feed->anchor_ms,
										  ANCHOR_TIMEOUT_MS, now, nparts, &error))
		return NULL;
	for (int i = 0; i < nparts; i++)
		if (now[i].offset < 0)
			now[i].offset = parts[i].high;
	return now;
}

/* Of that partition; "now" has all of them, in the order of their numbers. */
static int64
find_offset(const OutboxPartitionOffset *now, int nparts, int32 partition)
{
	return partition < nparts ? now[partition].offset : 0;
}

void
outbox_anchor_set(OutboxFeed *feed, const OutboxPartitionOffset *parts, int nparts)
{
	OutboxPartitionOffset *now;
	bool		useful = false;

	if (feed->anchor_ms >= 0)
		return;
	feed->anchor_ms = choose_time(feed);
	now = feed->anchor_ms < 0 ? NULL : ask_offsets(feed, parts, nparts);
	for (int i = 0; now != NULL && i < feed->nparts; i++)
	{
		OutboxFeedPartition *part = &feed->parts[i];

		part->anchor = find_offset(now, nparts, part->partition);
		useful = useful || part->anchor > 0;
	}
	/* one that is the beginning everywhere would never show anything */
	if (!useful)
		feed->anchor_ms = -1;
}

bool
outbox_anchor_check(OutboxFeed *feed, const OutboxPartitionOffset *parts, int nparts,
					int32 *partition)
{
	OutboxPartitionOffset *now;

	if (feed->anchor_ms < 0)
		return true;
	now = ask_offsets(feed, parts, nparts);
	for (int i = 0; now != NULL && i < feed->nparts; i++)
	{
		OutboxFeedPartition *part = &feed->parts[i];
		int64		offset = find_offset(now, nparts, part->partition);

		*partition = part->partition;
		if (offset < part->anchor)
			return false;
		part->anchor = offset;
	}
	return true;
}
