/*-------------------------------------------------------------------------
 *
 * offset.c
 *	  How far a subscription has come: rows of outbox._offset.
 *
 * A row is only moved by whoever knows where it stands, which makes it the
 * fence between two appliers of one subscription: the second to commit finds
 * no row to move and rolls back what it did.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/offset.h"

#include "executor/spi.h"

#include "apply/apply.h"
#include "apply/statement.h"

/* What the records of one partition amount to. */
typedef struct Progress
{
	const OutboxRecord *last;
	int64		next;
	int64		received;
	int64		fates[OUTBOX_FATES];
} Progress;

void
outbox_offset_load(OutboxFeed *feed)
{
	static const char sql[] =
	"SELECT partition, next_offset, last_offset, last_time_ms, last_id, high_watermark"
	" FROM outbox._offset WHERE subscription = $1 ORDER BY partition";
	OutboxSqlArg args[] = {sql_text(feed->sub->name)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	feed->nparts = (int) outbox_statement_run(sql, lengthof(args), args);
	feed->parts = MemoryContextAllocZero(feed->context,
										 sizeof(OutboxFeedPartition) * (feed->nparts + 1));
	feed->anchor_ms = -1;
	for (int i = 0; i < feed->nparts; i++)
	{
		OutboxFeedPartition *part = &feed->parts[i];
		char	   *id = outbox_statement_get_text(i, 5);

		part->partition = outbox_statement_get_int4(i, 1, 0);
		part->next = outbox_statement_get_int8(i, 2, 0);
		part->last = outbox_statement_get_int8(i, 3, -1);
		part->last_time_ms = outbox_statement_get_int8(i, 4, -1);
		strlcpy(part->last_id, id ? id : "", OUTBOX_ID_LENGTH);
		part->high = outbox_statement_get_int8(i, 6, -1);
		part->reached = -1;
	}
	outbox_statement_end(&scope);
}

void
outbox_offset_insert(OutboxFeed *feed, int32 partition, int64 next)
{
	static const char sql[] =
	"INSERT INTO outbox._offset (subscription, partition, next_offset)"
	" SELECT name, $2, $3 FROM outbox._subscription WHERE id = $1";
	OutboxSqlArg args[] = {sql_int8(feed->sub->id), sql_int4(partition), sql_int8(next)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(sql, lengthof(args), args);
	outbox_statement_end(&scope);
}

/* Header id of a record, cut off, for recognizing it later. */
static void
record_id(const OutboxRecord *rec, char *id)
{
	id[0] = '\0';
	for (int i = 0; i < rec->nheaders; i++)
	{
		const OutboxHeader *header = &rec->headers[i];
		int			len = Min(header->value_len, OUTBOX_ID_LENGTH - 1);

		if (strcmp(header->name, "id") != 0 || header->value == NULL)
			continue;
		/* only what can be stored whatever the encoding */
		for (int k = 0; k < len; k++)
			id[k] = (header->value[k] >= 0x20 && header->value[k] < 0x7f) ? header->value[k] : '?';
		id[len] = '\0';
	}
}

static void
sum_up(OutboxFeed *feed, int n, Progress *progress)
{
	for (int i = 0; i < n; i++)
	{
		const OutboxRecord *rec = &feed->records[i];
		OutboxFeedPartition *part = outbox_feed_partition(feed, rec->partition);
		Progress   *mine = &progress[part - feed->parts];

		mine->last = rec;
		mine->next = rec->offset + 1;
		mine->received++;
		mine->fates[(int) feed->fates[i]]++;
	}
}

/*
 * Take back what belongs to a run of failures that made us stop.
 */
static void
take_back(OutboxFeed *feed, const OutboxFailureRun *run, Progress *progress)
{
	for (int i = 0; i < run->nplaces; i++)
	{
		OutboxFeedPartition *part = outbox_feed_partition(feed, run->places[i].partition);
		Progress   *mine = &progress[part - feed->parts];
		int			fate = feed->sub->on_error == OUTBOX_ON_ERROR_SKIP ?
		OUTBOX_FATE_SKIPPED : OUTBOX_FATE_DEAD;

		mine->next = run->places[i].offset;
		mine->received -= run->places[i].failed + run->places[i].parked;
		mine->fates[fate] -= run->places[i].failed;
		mine->fates[OUTBOX_FATE_PARKED] -= run->places[i].parked;
	}
}

static void
settle_partition(OutboxFeed *feed, OutboxFeedPartition *part, const Progress *progress)
{
	static const char sql[] =
	"UPDATE outbox._offset SET next_offset = $4, last_offset = coalesce($5, last_offset),"
	" last_time_ms = coalesce($6, last_time_ms), last_id = coalesce($7, last_id),"
	" high_watermark = $8, received = received + $9, applied = applied + $10,"
	" deleted = deleted + $11, stale = stale + $12, duplicate = duplicate + $13,"
	" suppressed = suppressed + $14, dead = dead + $15, parked = parked + $16,"
	" skipped = skipped + $17, last_at = pg_catalog.clock_timestamp()"
	" WHERE subscription = $1 AND partition = $2 AND next_offset = $3";
	const OutboxRecord *last = progress->last;
	int64		high = outbox_consumer_high_watermark(feed->cons, feed->sub->topic, part->partition);
	char		id[OUTBOX_ID_LENGTH];
	OutboxSqlArg args[9 + OUTBOX_FATES];

	if (last != NULL)
		record_id(last, id);
	args[0] = sql_text(feed->sub->name);
	args[1] = sql_int4(part->partition);
	args[2] = sql_int8(part->next);
	args[3] = sql_int8(progress->next);
	args[4] = sql_datum(INT8OID, Int64GetDatum(last ? last->offset : 0), last == NULL);
	args[5] = sql_datum(INT8OID, Int64GetDatum(last ? last->timestamp_ms : 0), last == NULL);
	args[6] = sql_text(last ? id : NULL);
	args[7] = sql_datum(INT8OID, Int64GetDatum(high), high < 0);
	args[8] = sql_int8(progress->received);
	for (int i = 0; i < OUTBOX_FATES; i++)
		args[9 + i] = sql_int8(progress->fates[i]);
	if (outbox_statement_run(sql, lengthof(args), args) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("offset of partition %d of subscription \"%s\" is not " INT64_FORMAT " any more",
						part->partition, feed->sub->name, part->next),
				 errdetail("Another worker, or outbox.seek(), has moved it.")));
}

void
outbox_offset_settle(OutboxFeed *feed, int n, const OutboxFailureRun *rewind)
{
	Progress   *progress = palloc0(sizeof(Progress) * (feed->nparts + 1));
	OutboxOwnerScope scope;

	for (int i = 0; i < feed->nparts; i++)
		progress[i].next = feed->parts[i].next;
	sum_up(feed, n, progress);
	if (rewind != NULL)
		take_back(feed, rewind, progress);
	outbox_statement_begin(&scope);
	for (int i = 0; i < feed->nparts; i++)
		if (progress[i].received != 0 || progress[i].next != feed->parts[i].next)
			settle_partition(feed, &feed->parts[i], &progress[i]);
	outbox_statement_end(&scope);
	pfree(progress);
}

void
outbox_offset_moved(OutboxFeed *feed, int n)
{
	for (int i = 0; i < n; i++)
	{
		const OutboxRecord *rec = &feed->records[i];
		OutboxFeedPartition *part = outbox_feed_partition(feed, rec->partition);

		part->next = rec->offset + 1;
		part->last = rec->offset;
		part->last_time_ms = rec->timestamp_ms;
		record_id(rec, part->last_id);
	}
}

/*
 * What was not read below "end" is lost.  "last" is what is known of before: -1,
 * nothing; else the offset of a record that nobody has seen.
 */
static void
skip_to(OutboxFeed *feed, const OutboxFeedPartition *part, int64 to, int64 end, int64 last,
		const char *reason)
{
	static const char sql[] =
	"UPDATE outbox._offset SET next_offset = $4, last_offset = $7, last_time_ms = NULL,"
	" last_id = NULL, high_watermark = NULL, lost = lost + $5, last_loss = $6,"
	" last_loss_at = pg_catalog.clock_timestamp()"
	" WHERE subscription = $1 AND partition = $2 AND next_offset = $3";
	OutboxSqlArg args[] = {sql_text(feed->sub->name), sql_int4(part->partition),
		sql_int8(part->next), sql_int8(to), sql_int8(Max(end - part->next, 0)), sql_text(reason),
	sql_datum(INT8OID, Int64GetDatum(last), last < 0)};

	(void) outbox_statement_run(sql, lengthof(args), args);
}

/*
 * The record before the first one that there is counts as read: that the
 * partition has been there up to it is what tells another topic of the name.
 */
void
outbox_offset_skip_lost(OutboxFeed *feed, const OutboxFeedPartition *part, int64 to,
						const char *reason)
{
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	skip_to(feed, part, to, to, to - 1, reason);
	outbox_statement_end(&scope);
}

void
outbox_offset_begin_anew(OutboxFeed *feed, const OutboxPartitionOffset *parts, int nparts,
						 const char *reason)
{
	static const char forget[] =
	"DELETE FROM outbox._offset WHERE subscription = $1 AND partition >= $2";
	OutboxSqlArg args[] = {sql_text(feed->sub->name), sql_int4(nparts)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	for (int i = 0; i < feed->nparts; i++)
		if (feed->parts[i].partition < nparts)
			skip_to(feed, &feed->parts[i], parts[feed->parts[i].partition].low,
					feed->parts[i].high, -1, reason);
	(void) outbox_statement_run(forget, lengthof(args), args);
	outbox_statement_end(&scope);
}

/*
 * What was gathered has to be dealt with first.
 */
static int64
settled_up_to(const OutboxFeed *feed, const OutboxFeedPartition *part)
{
	return feed->nrecords > 0 ? part->next : Max(part->next, part->reached);
}

void
outbox_offset_store_end(OutboxFeed *feed)
{
	static const char sql[] =
	"UPDATE outbox._offset SET high_watermark = $3, next_offset = $5"
	" WHERE (subscription, partition) IN ("
	" SELECT subscription, partition FROM outbox._offset"
	" WHERE subscription = $1 AND partition = $2 AND next_offset = $4"
	" AND (high_watermark, next_offset) IS DISTINCT FROM ($3, $5)"
	" FOR NO KEY UPDATE SKIP LOCKED)";
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	for (int i = 0; i < feed->nparts; i++)
	{
		OutboxFeedPartition *part = &feed->parts[i];
		int64		high = outbox_consumer_high_watermark(feed->cons, feed->sub->topic, part->partition);
		int64		next = settled_up_to(feed, part);
		OutboxSqlArg args[] = {sql_text(feed->sub->name), sql_int4(part->partition), sql_int8(high),
		sql_int8(part->next), sql_int8(next)};

		if (high < 0)
			continue;
		if (outbox_statement_run(sql, lengthof(args), args) == 1)
			part->next = next;
		part->high = high;
	}
	outbox_statement_end(&scope);
}
