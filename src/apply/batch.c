/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Applying the records that a feed has gathered.
 *
 * The first attempt has no savepoints.  If it fails for a reason that may be
 * an event's, the second one halves the batch inside subtransactions until the
 * culprits are found; those are set aside, all others applied, still in one
 * transaction with the offsets.  A handler is called for one event after the
 * other, so there the culprit is known and nothing has to be halved.
 *
 * A batch ends early when the feed's turn is over (feed.h): what was dealt with
 * is committed, the rest stays with the feed.  That is between two events of a
 * handler.  A batch for a replica is applied as a whole, and is cut only where
 * it has been halved; but the size of the next batch follows from how long the
 * last ones took.
 *
 * Failures in a row that are alike are the sign of a fault that is not the
 * events': see OutboxFailureRun.  They are set aside like others at first;
 * when there are too many, their letters are removed, the offsets go back to
 * where they began, and the subscription stops, all in one transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/batch.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "apply/classify.h"
#include "apply/deliver.h"
#include "apply/letters.h"
#include "apply/offset.h"
#include "apply/row.h"
#include "apply/settings.h"
#include "apply/transaction.h"
#include "common/fault.h"
#include "worker/worker.h"

/* Attempts at an event that was announced, before it is the killer. */
#define SUSPECT_ATTEMPTS 2

/* The second, careful attempt. */
typedef struct Attempt
{
	OutboxFeed *feed;
	MemoryContext context;		/* outlives the transaction */
	int			done;			/* records dealt with */
	int			delivered;		/* of the range that was tried last */
	int			first_failure;	/* where a handler failed in the first attempt */
	ErrorData  *edata;			/* of the last failure */

	/* if the subscription has to stop */
	bool		stop;
	bool		rewind;			/* to where the run of failures began */
	char	   *reason;
	int			sqlerrcode;
} Attempt;

static OutboxFaultKind
classify(OutboxFeed *feed, const ErrorData *edata)
{
	if (outbox_deliver_timed_out(feed, edata))
		return OUTBOX_FAULT_DATA;
	return outbox_fault_classify(edata);
}

/* ---------------- the error context ---------------- */

typedef struct Range
{
	OutboxFeed *feed;
	int			lo;
	int			hi;
} Range;

static void
range_context(void *arg)
{
	Range	   *range = arg;
	const OutboxRecord *first = &range->feed->records[range->lo];

	if (range->hi - range->lo == 1)
		errcontext("subscription \"%s\", topic \"%s\", partition %d, offset " INT64_FORMAT,
				   range->feed->sub->name, range->feed->sub->topic,
				   first->partition, first->offset);
	else
		errcontext("subscription \"%s\", topic \"%s\", %d events from partition %d, offset " INT64_FORMAT,
				   range->feed->sub->name, range->feed->sub->topic,
				   range->hi - range->lo, first->partition, first->offset);
}

/*
 * Deliver records from lo on, up to hi if there is time.
 */
static void
deliver_range(Attempt *att, int lo, int hi)
{
	OutboxFeed *feed = att->feed;
	Range		range = {feed, lo, hi};
	ErrorContextCallback callback;

	callback.callback = range_context;
	callback.arg = &range;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	OUTBOX_FAULT("apply-deliver");
	att->delivered = 0;
	outbox_deliver(feed, feed->records + lo, feed->fates + lo, hi - lo, true, &att->delivered);
	error_context_stack = callback.previous;
}

/* ---------------- runs of failures ---------------- */

void
outbox_batch_end_run(OutboxFeed *feed)
{
	feed->run.count = 0;
	feed->run.first_letter = 0;
	feed->run.nplaces = 0;
}

static const char *
what_failed(const ErrorData *edata)
{
	if (edata->column_name != NULL)
		return edata->column_name;
	if (edata->constraint_name != NULL)
		return edata->constraint_name;
	return outbox_row_failed_column;
}

/* The record's partition in the run, with its first offset. */
static int
run_place(OutboxFailureRun *run, const OutboxRecord *rec)
{
	for (int i = 0; i < run->nplaces; i++)
		if (run->places[i].partition == rec->partition)
			return i;
	if (run->nplaces == OUTBOX_RUN_MAX)
		return OUTBOX_RUN_MAX - 1;
	run->places[run->nplaces].partition = rec->partition;
	run->places[run->nplaces].offset = rec->offset;
	run->places[run->nplaces].failed = 0;
	run->places[run->nplaces].parked = 0;
	return run->nplaces++;
}

/*
 * One more failure.  True if there are now too many alike.
 */
static bool
extend_run(OutboxFeed *feed, const OutboxRecord *rec, const ErrorData *edata)
{
	OutboxFailureRun *run = &feed->run;
	const char *what = what_failed(edata);
	int			place;

	if (outbox_stop_after_failures == 0)
		return false;
	if (run->count > 0 && (run->sqlerrcode != edata->sqlerrcode ||
						   strncmp(run->what, what, NAMEDATALEN - 1) != 0))
		outbox_batch_end_run(feed);
	run->sqlerrcode = edata->sqlerrcode;
	strlcpy(run->what, what, NAMEDATALEN);
	place = run_place(run, rec);
	if (++run->count >= outbox_stop_after_failures)
		return true;
	run->places[place].failed++;
	return false;
}

/*
 * A part of the batch went through.  That is the end of a run, unless all of it
 * waits behind what failed: then it belongs to it, and is gone back to where its
 * partition has a place in it.
 */
static void
continue_run(OutboxFeed *feed, int lo, int hi)
{
	OutboxFailureRun *run = &feed->run;

	for (int i = lo; i < hi; i++)
		if (feed->fates[i] != OUTBOX_FATE_PARKED)
		{
			outbox_batch_end_run(feed);
			return;
		}
	for (int i = lo; i < hi; i++)
		for (int k = 0; k < run->nplaces; k++)
			if (run->places[k].partition == feed->records[i].partition)
				run->places[k].parked++;
}

/* ---------------- one event that failed ---------------- */

static void
stop_at(Attempt *att, const ErrorData *edata, bool rewind)
{
	MemoryContext old = MemoryContextSwitchTo(att->context);

	att->stop = true;
	att->rewind = rewind;
	att->sqlerrcode = edata->sqlerrcode;
	att->reason = rewind ?
		psprintf("%d events in a row failed alike, the last with: %s", att->feed->run.count, edata->message) :
		pstrdup(edata->message);
	MemoryContextSwitchTo(old);
}

static void
skip_event(OutboxFeed *feed, const OutboxRecord *rec, const ErrorData *edata)
{
	ereport(WARNING,
			(errcode(edata->sqlerrcode),
			 errmsg("event at offset " INT64_FORMAT " of partition %d of topic \"%s\" was skipped",
					rec->offset, rec->partition, feed->sub->topic),
			 errdetail_internal("%s", edata->message)));
}

/*
 * Deal with a single event that cannot be applied.  False if the subscription
 * has to stop here.
 */
static bool
fail_event(Attempt *att, int i, const ErrorData *edata)
{
	OutboxFeed *feed = att->feed;
	const OutboxRecord *rec = &feed->records[i];
	int64		letter;

	if (classify(feed, edata) == OUTBOX_FAULT_DEPENDENCY)
	{
		outbox_batch_end_run(feed);
		(void) outbox_letters_store(feed, rec, edata, true);
		feed->fates[i] = OUTBOX_FATE_PARKED;
		return true;
	}
	if (feed->sub->on_error == OUTBOX_ON_ERROR_STOP)
	{
		stop_at(att, edata, false);
		return false;
	}
	if (extend_run(feed, rec, edata))
	{
		stop_at(att, edata, true);
		return false;
	}
	if (feed->sub->on_error == OUTBOX_ON_ERROR_SKIP)
	{
		skip_event(feed, rec, edata);
		feed->fates[i] = OUTBOX_FATE_SKIPPED;
		return true;
	}
	letter = outbox_letters_store(feed, rec, edata, false);
	if (feed->run.first_letter == 0)
		feed->run.first_letter = letter;
	feed->fates[i] = OUTBOX_FATE_DEAD;
	return true;
}

/* ---------------- narrowing ---------------- */

/*
 * Deliver a part of the batch in a subtransaction; false, with the error in
 * att->edata, if that failed.
 */
static bool
try_range(Attempt *att, int lo, int hi)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		deliver_range(att, lo, hi);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		att->edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return ok;
}

/*
 * Deal with a part of the batch.  False if it ends within, because the
 * subscription has to stop or the turn is over; see att->done.
 */
static bool
narrow(Attempt *att, int lo, int hi)
{
	while (lo < hi)
	{
		int			mid;

		CHECK_FOR_INTERRUPTS();
		if (att->done > 0 && outbox_feed_turn_over(att->feed))
			return false;
		if (try_range(att, lo, hi))
		{
			att->done = lo + att->delivered;
			continue_run(att->feed, lo, att->done);
			return att->done == hi;
		}
		if (classify(att->feed, att->edata) == OUTBOX_FAULT_TRANSIENT)
			ReThrowError(att->edata);
		if (att->feed->sub->handler != NULL)
			mid = lo + att->delivered;
		else
			mid = lo + (hi - lo) / 2;
		if (mid == lo)
		{
			if (!fail_event(att, lo, att->edata))
				return false;
			att->done = ++lo;
			continue;
		}
		if (!narrow(att, lo, mid))
			return false;
		lo = mid;
	}
	return true;
}

/* ---------------- attempts ---------------- */

static void
drop_records(OutboxFeed *feed, int n)
{
	for (int i = 0; i < n; i++)
	{
		feed->bytes -= feed->records[i].key_len + feed->records[i].value_len;
		outbox_record_release(&feed->records[i]);
	}
	feed->nrecords -= n;
	memmove(feed->records, feed->records + n, sizeof(OutboxRecord) * feed->nrecords);
}

/*
 * The first n records are dealt with.
 */
static void
after_commit(OutboxFeed *feed, int n)
{
	OutboxPartitionOffset *parts;

	OUTBOX_FAULT("apply-after-commit");
	outbox_offset_moved(feed, n);
	parts = palloc0(sizeof(OutboxPartitionOffset) * (feed->nparts + 1));
	for (int i = 0; i < feed->nparts; i++)
	{
		parts[i].partition = feed->parts[i].partition;
		parts[i].offset = feed->parts[i].next;
	}
	outbox_consumer_commit(feed->cons, feed->sub->topic, parts, feed->nparts);
	pfree(parts);
	drop_records(feed, n);
}

/*
 * A transaction of an attempt; returns its error, or NULL.  The body runs in
 * it and commits it.
 */
static ErrorData *
run_attempt(void (*body) (Attempt *att, int n), Attempt *att, int n, MemoryContext context)
{
	ErrorData  *volatile edata = NULL;

	PG_TRY();
	{
		(void) outbox_transaction_begin();
		body(att, n);
		outbox_transaction_commit(context);
	}
	PG_CATCH();
	{
		edata = outbox_transaction_failed(context);
	}
	PG_END_TRY();
	return edata;
}

static void
fast_body(Attempt *att, int n)
{
	OutboxFeed *feed = att->feed;

	deliver_range(att, 0, n);
	att->done = att->delivered;
	outbox_offset_settle(feed, att->done, NULL);
	if (feed->sub->starts > 0)
		outbox_subscription_reset_starts(feed->sub);
	OUTBOX_FAULT("apply-before-commit");
}

static void
careful_body(Attempt *att, int n)
{
	OutboxFeed *feed = att->feed;

	outbox_feed_begin_turn(feed);	/* the first attempt was for nothing */
	if (narrow(att, 0, att->first_failure))
		(void) narrow(att, att->first_failure, n);
	if (att->rewind)
		outbox_letters_remove_run(feed);
	outbox_offset_settle(feed, att->done, att->rewind ? &feed->run : NULL);
	if (att->stop)
		outbox_subscription_stop(feed->sub, att->sqlerrcode, att->reason);
	else if (feed->sub->starts > 0)
		outbox_subscription_reset_starts(feed->sub);
	OUTBOX_FAULT("apply-before-commit");
}

static void
check_body(Attempt *att, int n)
{
	outbox_deliver_check(att->feed);
}

static void
reload_letters_body(Attempt *att, int n)
{
	outbox_letters_load(att->feed);
}

static void
report_transient(OutboxFeed *feed, ErrorData *edata)
{
	outbox_worker_report_error(edata->message);
	ereport(LOG,
			(errmsg("subscription \"%s\" tries again later", feed->sub->name),
			 errdetail_internal("%s", edata->message ? edata->message : ""),
			 edata->context ? errcontext("%s", edata->context) : 0));
}

/* What the offsets are not is not worth another attempt: start anew. */
static bool
give_up_for_now(OutboxFeed *feed, ErrorData *edata)
{
	report_transient(feed, edata);
	outbox_feed_back_off(feed, edata->message);
	if (edata->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE)
		outbox_feed_restart(feed);
	return false;
}

static bool
careful_attempt(OutboxFeed *feed, int n, int first_failure, MemoryContext context)
{
	Attempt		att = {.feed = feed,.context = context,.first_failure = first_failure};
	OutboxFailureRun run = feed->run;
	ErrorData  *edata = run_attempt(careful_body, &att, n, context);

	if (edata != NULL)
	{
		feed->run = run;
		(void) run_attempt(reload_letters_body, &att, n, context);
		return give_up_for_now(feed, edata);
	}
	if (att.stop)
		outbox_feed_stopped(feed, att.sqlerrcode, att.reason);
	else
		after_commit(feed, att.done);
	return true;
}

/*
 * The first attempt has failed.
 */
static bool
second_attempt(OutboxFeed *feed, int n, int first_failure, ErrorData *edata, MemoryContext context)
{
	Attempt		att = {feed, context};

	if (classify(feed, edata) == OUTBOX_FAULT_TRANSIENT)
		return give_up_for_now(feed, edata);
	edata = run_attempt(check_body, &att, n, context);
	if (edata == NULL)
		return careful_attempt(feed, n, first_failure, context);
	if (classify(feed, edata) == OUTBOX_FAULT_TRANSIENT)
		return give_up_for_now(feed, edata);
	outbox_feed_stop(feed, edata->sqlerrcode, edata->message);
	return true;
}

static bool
attempt(OutboxFeed *feed, int n, MemoryContext context)
{
	Attempt		att = {feed, context};
	ErrorData  *edata = run_attempt(fast_body, &att, n, context);

	if (edata != NULL)
		return second_attempt(feed, n, att.delivered, edata, context);
	continue_run(feed, 0, att.done);
	after_commit(feed, att.done);
	return true;
}

/* ---------------- when workers die ---------------- */

static void
killer_body(Attempt *att, int n)
{
	ErrorData	edata;

	memset(&edata, 0, sizeof(edata));
	edata.sqlerrcode = ERRCODE_INTERNAL_ERROR;
	edata.message = psprintf("the worker died %d times while it applied this event", SUSPECT_ATTEMPTS);
	if (fail_event(att, 0, &edata))
		att->done = 1;
	outbox_offset_settle(att->feed, att->done, NULL);
	if (att->stop)
		outbox_subscription_stop(att->feed->sub, att->sqlerrcode, att->reason);
}

static int	announced;

static void
announce_body(Attempt *att, int n)
{
	const OutboxRecord *rec = &att->feed->records[0];

	announced = outbox_subscription_suspect(att->feed->sub, rec->partition, rec->offset);
}

/* It failed, but nobody died of it. */
static void
alive_body(Attempt *att, int n)
{
	outbox_subscription_reset_starts(att->feed->sub);
}

/*
 * The first record alone, after saying so in a transaction of its own, which
 * a death does not take back.
 */
static bool
suspect_attempt(OutboxFeed *feed, MemoryContext context)
{
	Attempt		att = {feed, context};
	ErrorData  *edata = run_attempt(announce_body, &att, 1, context);

	if (edata == NULL && announced > SUSPECT_ATTEMPTS)
	{
		edata = run_attempt(killer_body, &att, 1, context);
		if (edata == NULL && att.stop)
			outbox_feed_stopped(feed, att.sqlerrcode, att.reason);
		else if (edata == NULL)
			after_commit(feed, 1);
		return edata == NULL || give_up_for_now(feed, edata);
	}
	if (edata != NULL)
		return give_up_for_now(feed, edata);
	if (attempt(feed, 1, context))
		return true;
	(void) run_attempt(alive_body, &att, 1, context);
	return false;
}

static bool
apply_one_by_one(OutboxFeed *feed, MemoryContext context)
{
	int			starts = feed->sub->starts;

	while (feed->nrecords > 0 && !feed->gone)
	{
		/* only the whole of it proves that nobody dies any more */
		feed->sub->starts = 0;
		if (!suspect_attempt(feed, context))
		{
			feed->sub->starts = starts;
			return false;
		}
		if (outbox_worker_stopping() || outbox_feed_turn_over(feed))
			break;
	}
	feed->sub->starts = starts;
	feed->suspect = feed->nrecords > 0;
	return true;
}

/*
 * How many records to take next time, after dealing with some.  Also after a
 * failure: it may be that there is no time for so many.
 */
static void
adapt_limit(OutboxFeed *feed, int tried, int done, TimestampTz began)
{
	long		ms = TimestampDifferenceMilliseconds(began, GetCurrentTimestamp());

	if (done > 0 && done < tried)
		feed->limit = done;
	else if (ms > OUTBOX_TURN_MS)
		feed->limit = Max(1, tried * (double) OUTBOX_TURN_MS / ms);
	else if (tried >= feed->limit && ms < OUTBOX_TURN_MS / 2)
		feed->limit = Min(feed->max_records, feed->limit * 2);
}

bool
outbox_batch_apply(OutboxFeed *feed)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_outbox batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TimestampTz began = GetCurrentTimestamp();
	int			before = feed->nrecords;
	int			tried = Min(before, feed->limit);
	bool		result;

	OUTBOX_FAULT("apply-fetched");
	outbox_feed_begin_turn(feed);
	if (feed->suspect)
		result = apply_one_by_one(feed, context);
	else
	{
		result = attempt(feed, tried, context);
		adapt_limit(feed, tried, before - feed->nrecords, began);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}
