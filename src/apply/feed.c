/*-------------------------------------------------------------------------
 *
 * feed.c
 *	  A subscription at work: its consumer, partitions and pending records.
 *
 * Nothing here waits inside a transaction.  Asking the broker for the list of
 * partitions does wait, for METADATA_TIMEOUT_MS at most, outside of one.
 *
 * After every connect fetching begins at the last record that was applied, not
 * behind it: if it is another record now, the topic was deleted and created
 * again, and offsets that mean something else must not be passed over.  That
 * it happens under a connected consumer is noticed at the next look at the
 * partitions (anchor.c).
 *
 * Kafka's transactions take up offsets that no record comes from.  Behind the last
 * record they are passed when the consumer says that it has come to the end, so
 * that nothing seems left to read, nor to be missing once it is removed.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/feed.h"

#include <limits.h>

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "apply/anchor.h"
#include "apply/asker.h"
#include "apply/batch.h"
#include "apply/letters.h"
#include "apply/offset.h"
#include "apply/settings.h"
#include "apply/start.h"
#include "apply/transaction.h"
#include "worker/worker.h"

#define METADATA_TIMEOUT_MS 2000
#define FIRST_BACKOFF_MS 200
#define LAST_BACKOFF_MS 30000
#define HIGH_INTERVAL_MS 5000

/* Records in the first batch; see outbox_batch_apply() for the others. */
#define FIRST_LIMIT 50

/* Workers that died without applying anything, before we get suspicious. */
#define SUSPICIOUS_STARTS 3

/* ---------------- life ---------------- */

static OutboxSubscription *
copy_subscription(const OutboxSubscription *sub)
{
	OutboxSubscription *copy = palloc(sizeof(OutboxSubscription));

	*copy = *sub;
	copy->name = pstrdup(sub->name);
	copy->handler = sub->handler ? pstrdup(sub->handler) : NULL;
	copy->server = pstrdup(sub->server);
	copy->topic = pstrdup(sub->topic);
	copy->start = pstrdup(sub->start);
	return copy;
}

OutboxFeed *
outbox_feed_create(const OutboxSubscription *sub)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_outbox feed",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	OutboxFeed *feed = palloc0(sizeof(OutboxFeed));

	feed->context = context;
	feed->sub = copy_subscription(sub);
	feed->max_records = outbox_apply_batch_size;
	feed->records = palloc0(sizeof(OutboxRecord) * feed->max_records);
	feed->fates = palloc0(feed->max_records);
	feed->limit = Min(FIRST_LIMIT, feed->max_records);
	feed->next_letters = DT_NOEND;	/* until they are loaded */
	feed->waiting_changed = true;	/* forget an earlier worker's */
	feed->park_limit = INT_MAX;
	MemoryContextSwitchTo(old);
	return feed;
}

static void
release_records(OutboxFeed *feed)
{
	for (int i = 0; i < feed->nrecords; i++)
		outbox_record_release(&feed->records[i]);
	feed->nrecords = 0;
	feed->bytes = 0;
	for (int i = 0; i < feed->nparts; i++)
		feed->parts[i].reached = -1;
}

void
outbox_feed_restart(OutboxFeed *feed)
{
	release_records(feed);
	feed->next_refresh = 0;
}

void
outbox_feed_disconnect(OutboxFeed *feed)
{
	OutboxConsumer *cons = feed->cons;

	if (cons == NULL)
		return;
	release_records(feed);
	feed->cons = NULL;
	outbox_consumer_close(cons);
	if (feed->parts != NULL)
		pfree(feed->parts);
	feed->parts = NULL;
	feed->nparts = 0;
}

void
outbox_feed_destroy(OutboxFeed *feed)
{
	outbox_feed_disconnect(feed);
	MemoryContextDelete(feed->context);
}

OutboxFeedPartition *
outbox_feed_partition(OutboxFeed *feed, int32 partition)
{
	for (int i = 0; i < feed->nparts; i++)
		if (feed->parts[i].partition == partition)
			return &feed->parts[i];
	elog(ERROR, "unknown partition %d of topic \"%s\"", partition, feed->sub->topic);
}

static TimestampTz
in_ms(int64 ms)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

void
outbox_feed_begin_turn(OutboxFeed *feed)
{
	feed->turn_ends = in_ms(OUTBOX_TURN_MS);
}

bool
outbox_feed_turn_over(const OutboxFeed *feed)
{
	return GetCurrentTimestamp() >= feed->turn_ends;
}

static void
set_waiting(OutboxFeed *feed, const char *reason)
{
	if (reason == NULL ? feed->waiting == NULL :
		feed->waiting != NULL && strcmp(feed->waiting, reason) == 0)
		return;
	if (feed->waiting != NULL)
		pfree(feed->waiting);
	feed->waiting = reason ? MemoryContextStrdup(feed->context, reason) : NULL;
	feed->waiting_changed = true;
}

void
outbox_feed_back_off(OutboxFeed *feed, const char *reason)
{
	int64		ms = (int64) FIRST_BACKOFF_MS << Min(feed->failures, 10);
	char	   *report;

	if (reason == NULL)
		reason = "unknown error";
	report = psprintf("subscription \"%s\": %s", feed->sub->name, reason);
	outbox_worker_report("waiting", report);
	pfree(report);
	set_waiting(feed, reason);
	feed->failures++;
	feed->retry_at = in_ms(Min(ms, LAST_BACKOFF_MS));
}

void
outbox_feed_failed(OutboxFeed *feed, const char *reason)
{
	outbox_feed_disconnect(feed);
	outbox_feed_back_off(feed, reason);
}

/* ---------------- stopping ---------------- */

void
outbox_feed_stopped(OutboxFeed *feed, int sqlerrcode, const char *reason)
{
	char	   *message = psprintf("subscription \"%s\" stopped: %s", feed->sub->name, reason);

	ereport(WARNING,
			(errcode(sqlerrcode),
			 errmsg("subscription \"%s\" stopped", feed->sub->name),
			 errdetail_internal("%s", reason),
			 errhint("When the reason is gone, run outbox.resume_subscription(%s).",
					 quote_literal_cstr(feed->sub->name))));
	outbox_worker_report_error(message);
	pfree(message);
	feed->gone = true;
}

void
outbox_feed_stop(OutboxFeed *feed, int sqlerrcode, const char *reason)
{
	MemoryContext context;

	context = outbox_transaction_begin();
	outbox_subscription_stop(feed->sub, sqlerrcode, reason);
	outbox_transaction_commit(context);
	outbox_feed_stopped(feed, sqlerrcode, reason);
}

/* ---------------- connecting ---------------- */

/*
 * Make the consumer, from what is stored.
 */
static void
connect_feed(OutboxFeed *feed)
{
	MemoryContext context;
	Oid			serverid;
	char	   *group;

	context = outbox_transaction_begin();
	serverid = outbox_server_oid(feed->sub->server, false);
	feed->fingerprint = outbox_server_fingerprint(serverid);
	group = psprintf("pg_outbox.%s.%s", outbox_apply_group_prefix(), feed->sub->name);
	feed->cons = outbox_consumer_create(serverid, group, outbox_subscription_count(feed->sub->server),
										outbox_worker_event_fd());
	outbox_offset_load(feed);
	outbox_letters_load(feed);
	if (!feed->counted)
		outbox_subscription_count_start(feed->sub);
	outbox_transaction_commit(context);
	if (!feed->counted)
		feed->suspect = feed->sub->starts > SUSPICIOUS_STARTS;
	feed->counted = true;
	feed->next_refresh = 0;
}

static const OutboxPartitionOffset *
find_known(const OutboxPartitionOffset *parts, int nparts, int32 partition)
{
	for (int i = 0; i < nparts; i++)
		if (parts[i].partition == partition)
			return &parts[i];
	return NULL;
}

/*
 * Store where to begin with partitions that are new to us: those of the first
 * look where the subscription says, others at their beginning.
 */
static int
add_partitions(OutboxFeed *feed, OutboxPartitionOffset *parts, int nparts)
{
	MemoryContext context;
	bool		first = feed->nparts == 0;
	int			nnew = 0;

	for (int i = 0; i < nparts; i++)
	{
		bool		known = false;

		for (int k = 0; k < feed->nparts; k++)
			known = known || feed->parts[k].partition == parts[i].partition;
		parts[i].offset = known ? -1 : parts[i].low;
		nnew += !known;
	}
	if (nnew == 0)
		return 0;
	if (first && !outbox_start_resolve(feed, parts, nparts))
		return -1;

	context = outbox_transaction_begin();
	for (int i = 0; i < nparts; i++)
		if (parts[i].offset >= 0)
			outbox_offset_insert(feed, parts[i].partition, parts[i].offset);
	outbox_transaction_commit(context);
	if (!first)
		ereport(LOG,
				(errmsg("topic \"%s\" of subscription \"%s\" has %d new partitions",
						feed->sub->topic, feed->sub->name, nnew)));
	return nnew;
}

static void
reload_partitions(OutboxFeed *feed)
{
	MemoryContext context;

	if (feed->parts != NULL)
		pfree(feed->parts);
	context = outbox_transaction_begin();
	outbox_offset_load(feed);
	outbox_transaction_commit(context);
}

static void
assign_partitions(OutboxFeed *feed)
{
	OutboxPartitionOffset *parts = palloc0(sizeof(OutboxPartitionOffset) * (feed->nparts + 1));

	for (int i = 0; i < feed->nparts; i++)
	{
		OutboxFeedPartition *part = &feed->parts[i];

		part->verifying = part->last >= 0 && part->last < part->next;
		parts[i].partition = part->partition;
		parts[i].offset = part->verifying ? part->last : part->next;
	}
	outbox_consumer_assign(feed->cons, feed->sub->topic, parts, feed->nparts);
	pfree(parts);
}

/* ---------------- what is lost ---------------- */

static void
report_loss(OutboxFeed *feed, const char *reason)
{
	char	   *message = psprintf("subscription \"%s\" has lost events: %s", feed->sub->name, reason);

	ereport(WARNING,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("subscription \"%s\" has lost events", feed->sub->name),
			 errdetail_internal("%s", reason),
			 errhint("If the topic is published by pg_outbox, outbox.resync there makes replicas right again.")));
	outbox_worker_report_error(message);
	pfree(message);
}

/*
 * What had been seen of the topic and was not read, as far as anybody knows.
 */
static char *
unread_ranges(const OutboxFeed *feed)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < feed->nparts; i++)
	{
		const OutboxFeedPartition *part = &feed->parts[i];

		if (part->high > part->next)
			appendStringInfo(&buf, "%s" INT64_FORMAT " to " INT64_FORMAT " of partition %d",
							 buf.len > 0 ? ", " : "not read before were offsets ",
							 part->next, part->high - 1, part->partition);
	}
	return buf.len > 0 ? buf.data : "all that had been seen of it was read";
}

/*
 * The topic is another one than was read, or has lost what was read of it.
 * Offsets mean nothing any more: stop, or begin anew, as the subscription says.
 */
static void
topic_replaced(OutboxFeed *feed, const OutboxPartitionOffset *parts, int nparts, const char *what)
{
	char	   *reason = psprintf("%s; %s", what, unread_ranges(feed));
	MemoryContext context;

	if (!feed->sub->continue_on_loss)
	{
		outbox_feed_stop(feed, ERRCODE_DATA_EXCEPTION, reason);
		return;
	}
	report_loss(feed, reason);
	context = outbox_transaction_begin();
	outbox_offset_begin_anew(feed, parts, nparts, reason);
	outbox_transaction_commit(context);
	outbox_feed_restart(feed);
	reload_partitions(feed);
}

/*
 * Why the partition cannot be read on from where it stands, which is behind
 * its end.  If nothing was read before, somebody named the offset.
 */
static char *
beyond_end(const OutboxFeed *feed, const OutboxFeedPartition *part, int64 high)
{
	if (part->last < 0)
		return psprintf("partition %d of topic \"%s\" ends at offset " INT64_FORMAT ", before " INT64_FORMAT
						" at which reading should begin", part->partition, feed->sub->topic, high, part->next);
	return psprintf("partition %d of topic \"%s\" ends at offset " INT64_FORMAT ", before " INT64_FORMAT
					" up to which it was read; the topic may have been created again",
					part->partition, feed->sub->topic, high, part->next);
}

/*
 * A partition that was there and is not any more, or is shorter than what was
 * read of it: the topic is another one.
 */
static bool
check_known(OutboxFeed *feed, const OutboxPartitionOffset *parts, int nparts)
{
	for (int i = 0; i < feed->nparts; i++)
	{
		const OutboxFeedPartition *part = &feed->parts[i];
		const OutboxPartitionOffset *now = find_known(parts, nparts, part->partition);
		char	   *reason;

		if (now != NULL && (now->high < 0 || now->high >= part->next))
			continue;
		if (now != NULL && part->last < 0)
		{
			/* somebody's mistake, and no loss */
			outbox_feed_stop(feed, ERRCODE_DATA_EXCEPTION, beyond_end(feed, part, now->high));
			return false;
		}
		if (now == NULL)
			reason = psprintf("partition %d of topic \"%s\" is gone; the topic may have been created again",
							  part->partition, feed->sub->topic);
		else
			reason = beyond_end(feed, part, now->high);
		topic_replaced(feed, parts, nparts, reason);
		return false;
	}
	return true;
}

static bool
check_anchor(OutboxFeed *feed, const OutboxPartitionOffset *parts, int nparts)
{
	int32		partition;

	if (outbox_anchor_check(feed, parts, nparts, &partition))
		return true;
	topic_replaced(feed, parts, nparts,
				   psprintf("partition %d of topic \"%s\" begins with records that are newer than what was read of it; the topic was created again",
							partition, feed->sub->topic));
	return false;
}

/*
 * Look at the topic's partitions; assign them if that is new to us.  False if
 * it could not be done now.
 */
static bool
refresh_partitions(OutboxFeed *feed)
{
	bool		first = feed->next_refresh == 0;
	OutboxPartitionOffset *parts;
	OutboxKafkaFault fault;
	char	   *error;
	int			added;
	int			nparts = outbox_consumer_partitions(outbox_asker_get(feed), feed->sub->topic,
													METADATA_TIMEOUT_MS, &parts, &fault, &error);

	if (nparts < 0)
	{
		if (feed->failures % 8 == 0)
			ereport(LOG,
					(errmsg("subscription \"%s\" waits for topic \"%s\"",
							feed->sub->name, feed->sub->topic),
					 errdetail_internal("%s", error)));
		outbox_feed_back_off(feed, psprintf("topic \"%s\": %s", feed->sub->topic, error));
		return false;
	}
	if (!check_known(feed, parts, nparts) || !check_anchor(feed, parts, nparts))
		return false;
	added = add_partitions(feed, parts, nparts);
	if (added < 0)
		return false;			/* which has backed off */
	if (added > 0 || first)
	{
		release_records(feed);
		reload_partitions(feed);
		assign_partitions(feed);
	}
	outbox_anchor_set(feed, parts, nparts);
	feed->next_refresh = in_ms((int64) outbox_metadata_refresh * 1000);
	return true;
}

/* ---------------- records that are none ---------------- */

/*
 * The broker does not have the offset that we want.
 */
static void
handle_out_of_range(OutboxFeed *feed, int32 partition)
{
	MemoryContext context;
	OutboxFeedPartition *part = outbox_feed_partition(feed, partition);
	OutboxPartitionOffset *parts;
	const OutboxPartitionOffset *now;
	OutboxKafkaFault fault;
	char	   *error;
	char	   *reason;
	int			nparts = outbox_consumer_partitions(outbox_asker_get(feed), feed->sub->topic,
													METADATA_TIMEOUT_MS, &parts, &fault, &error);

	now = nparts < 0 ? NULL : find_known(parts, nparts, partition);
	if (now == NULL)
	{
		outbox_feed_restart(feed);	/* look again when it answers */
		outbox_feed_back_off(feed, psprintf("topic \"%s\": %s", feed->sub->topic,
											nparts < 0 ? error : "a partition is missing"));
		return;
	}
	if (now->low <= part->next && part->next <= now->high)
	{
		/* only the record before was wanted for comparison */
		part->verifying = false;
		outbox_consumer_seek(feed->cons, feed->sub->topic, partition, part->next);
		return;
	}
	if (part->next > now->high)
	{
		(void) check_known(feed, parts, nparts);
		return;
	}
	reason = psprintf("offsets " INT64_FORMAT " to " INT64_FORMAT " of partition %d of topic \"%s\" were removed before they were read",
					  part->next, now->low - 1, partition, feed->sub->topic);
	if (!feed->sub->continue_on_loss)
	{
		outbox_feed_stop(feed, ERRCODE_DATA_EXCEPTION, reason);
		return;
	}
	report_loss(feed, reason);
	context = outbox_transaction_begin();
	outbox_offset_skip_lost(feed, part, now->low, reason);
	outbox_transaction_commit(context);
	outbox_feed_restart(feed);
}

/*
 * Not at its place is the last record that was applied.  Ask for the partitions
 * that there are now; if that cannot be done the look is taken again later.
 */
static void
handle_other_record(OutboxFeed *feed, int32 partition, int64 offset)
{
	OutboxPartitionOffset *parts;
	OutboxKafkaFault fault;
	char	   *error;
	int			nparts = outbox_consumer_partitions(outbox_asker_get(feed), feed->sub->topic,
													METADATA_TIMEOUT_MS, &parts, &fault, &error);

	if (nparts < 0)
	{
		outbox_feed_restart(feed);
		outbox_feed_back_off(feed, psprintf("topic \"%s\": %s", feed->sub->topic, error));
		return;
	}
	topic_replaced(feed, parts, nparts,
				   psprintf("offset " INT64_FORMAT " of partition %d of topic \"%s\" holds another event than the one that was applied; the topic was created again",
							offset, partition, feed->sub->topic));
}

/*
 * Is this, at the offset of the last record that was applied, still that one?
 */
static bool
verify_record(OutboxFeedPartition *part, const OutboxRecord *rec)
{
	const char *id = "";
	int			id_len = 0;

	part->verifying = false;
	if (rec->offset != part->last)
		return true;			/* compacted away */
	for (int i = 0; i < rec->nheaders; i++)
		if (strcmp(rec->headers[i].name, "id") == 0 && rec->headers[i].value != NULL)
		{
			id = rec->headers[i].value;
			id_len = Min(rec->headers[i].value_len, OUTBOX_ID_LENGTH - 1);
		}
	if (rec->timestamp_ms == part->last_time_ms && strlen(part->last_id) == id_len &&
		(memcmp(id, part->last_id, id_len) == 0 || memchr(part->last_id, '?', id_len) != NULL))
		return true;
	return false;
}

/*
 * Take the record that was just polled, or deal with what it says instead.
 * False if gathering must end.
 */
static bool
take_record(OutboxFeed *feed, OutboxRecord *rec)
{
	OutboxFeedPartition *part;

	switch (rec->kind)
	{
		case OUTBOX_RECORD_NONE:
			feed->partial = false;
			return false;
		case OUTBOX_RECORD_EVENT:
			part = outbox_feed_partition(feed, rec->partition);
			if (part->verifying && !verify_record(part, rec))
			{
				int64		offset = rec->offset;

				outbox_record_release(rec);
				handle_other_record(feed, part->partition, offset);
				return false;
			}
			if (rec->offset < part->next)
				break;
			feed->bytes += rec->key_len + rec->value_len;
			feed->nrecords++;
			return true;
		case OUTBOX_RECORD_EOF:
			outbox_feed_partition(feed, rec->partition)->reached = rec->offset;
			break;
		case OUTBOX_RECORD_OUT_OF_RANGE:
			if (feed->nrecords > 0)
				break;			/* comes again, as silence: see below */
			handle_out_of_range(feed, rec->partition);
			return false;
		case OUTBOX_RECORD_TOPIC_FAULT:
		case OUTBOX_RECORD_CLUSTER_FAULT:
			ereport(LOG,
					(errmsg("subscription \"%s\" reconnects", feed->sub->name),
					 errdetail_internal("%s", rec->error ? rec->error : "Its consumer failed.")));
			outbox_feed_back_off(feed, rec->error ? rec->error : "its consumer failed");
			outbox_record_release(rec);
			outbox_feed_restart(feed);
			/* what it says of other partitions would each cost a pause */
			outbox_feed_disconnect(feed);
			return false;
	}
	outbox_record_release(rec);
	return true;
}

static void
gather_records(OutboxFeed *feed)
{
	feed->partial = true;
	while (feed->nrecords < feed->limit &&
		   feed->bytes < (Size) outbox_apply_batch_bytes * 1024)
	{
		OutboxRecord *rec = &feed->records[feed->nrecords];
		bool		out_of_range;

		outbox_consumer_poll(feed->cons, rec);
		out_of_range = rec->kind == OUTBOX_RECORD_OUT_OF_RANGE;
		if (!take_record(feed, rec))
			return;
		if (out_of_range)
		{
			/* deal with what came before, then ask anew */
			feed->next_refresh = 0;
			return;
		}
	}
}

/* ---------------- a step ---------------- */

static bool
apply_records(OutboxFeed *feed)
{
	if (feed->nrecords == 0)
		return false;
	if (!outbox_batch_apply(feed))
		return false;			/* which has backed off */
	feed->failures = 0;
	return true;
}

static void
store_end(OutboxFeed *feed)
{
	MemoryContext context;

	if (GetCurrentTimestamp() < feed->next_high)
		return;
	context = outbox_transaction_begin();
	outbox_offset_store_end(feed);
	outbox_transaction_commit(context);
	feed->next_high = in_ms(HIGH_INTERVAL_MS);
}

static void
retry_letters(OutboxFeed *feed)
{
	if (GetCurrentTimestamp() >= feed->next_letters)
		outbox_letters_retry(feed);
}

/*
 * Must what was gathered be dealt with before there is more?  It must if the
 * partitions are to be looked at, which may end in an assignment, and as long
 * as one of these records may kill the worker.
 */
static bool
must_drain(const OutboxFeed *feed)
{
	return feed->nrecords > 0 &&
		(feed->suspect || GetCurrentTimestamp() >= feed->next_refresh);
}

bool
outbox_feed_step(OutboxFeed *feed)
{
	bool		applied;

	if (feed->gone || (feed->retry_at != 0 && GetCurrentTimestamp() < feed->retry_at))
		return false;
	feed->retry_at = 0;
	if (feed->cons == NULL)
		connect_feed(feed);
	if (GetCurrentTimestamp() >= feed->next_refresh && feed->nrecords == 0 &&
		!refresh_partitions(feed))
		return false;
	if (!must_drain(feed))
		gather_records(feed);
	if (feed->gone || feed->cons == NULL)
		return true;
	applied = apply_records(feed);
	if (feed->gone || feed->retry_at != 0)
		return false;
	retry_letters(feed);
	if (feed->gone || feed->retry_at != 0)
		return false;
	store_end(feed);
	set_waiting(feed, NULL);
	return applied || feed->partial;
}

TimestampTz
outbox_feed_deadline(const OutboxFeed *feed)
{
	TimestampTz deadline = Min(feed->next_refresh, feed->next_high);

	if (feed->retry_at != 0)
		return feed->retry_at;
	return Min(deadline, feed->next_letters);
}
