/*-------------------------------------------------------------------------
 *
 * applier.c
 *	  The applier: one worker for all subscriptions of a database.
 *
 * Goes round the subscriptions and gives each a step, so that one that cannot
 * go on holds up none of the others; sleeps when none has anything to do.
 *
 * A step may meet a lock that somebody holds for long: on a replica, on the
 * offsets while seek() is not committed.  No lock is waited for longer than
 * LOCK_TIMEOUT; what then fails is tried again with pauses that grow, in which
 * the others have their turns.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/apply.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "apply/asker.h"
#include "apply/feed.h"
#include "apply/retention.h"
#include "apply/settings.h"
#include "apply/transaction.h"
#include "worker/limit.h"
#include "worker/worker.h"

#define LOCK_TIMEOUT "2s"
#define LONGEST_WAIT_MS 10000
#define SILENT_WAIT_MS 1000		/* nothing tells that a broker is back */
#define RETENTION_INTERVAL_MS (10 * 60 * 1000)
#define RETENTION_RETRY_MS (60 * 1000)

static List *feeds = NIL;		/* OutboxFeed, in TopMemoryContext */
static MemoryContext loop_context;
static TimestampTz next_retention = 0;

/* ---------------- which feeds there are ---------------- */

static OutboxSubscription *
find_subscription(List *subs, const char *name)
{
	ListCell   *lc;

	foreach(lc, subs)
	{
		OutboxSubscription *sub = lfirst(lc);

		if (strcmp(sub->name, name) == 0)
			return sub;
	}
	return NULL;
}

static bool
has_feed(const char *name)
{
	ListCell   *lc;

	foreach(lc, feeds)
		if (strcmp(((OutboxFeed *) lfirst(lc))->sub->name, name) == 0)
		return true;
	return false;
}

/*
 * Is the feed still what the catalogs say?  A server that cannot be looked at
 * is the feed's own trouble when it connects.
 */
static bool
is_current(OutboxFeed *feed, List *subs)
{
	OutboxSubscription *sub = find_subscription(subs, feed->sub->name);
	Oid			serverid;
	uint64		fingerprint;

	if (feed->gone || sub == NULL || sub->id != feed->sub->id ||
		sub->generation != feed->sub->generation)
		return false;
	if (feed->cons == NULL)
		return true;
	serverid = outbox_server_oid(feed->sub->server, true);
	return OidIsValid(serverid) &&
		(!outbox_server_try_fingerprint(serverid, &fingerprint) ||
		 fingerprint == feed->fingerprint);
}

static void
add_feed(const OutboxSubscription *sub)
{
	OutboxFeed *feed = outbox_feed_create(sub);
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	feeds = lappend(feeds, feed);
	MemoryContextSwitchTo(old);
}

static void
drop_feed(OutboxFeed *feed)
{
	feeds = list_delete_ptr(feeds, feed);
	outbox_feed_destroy(feed);
}

static void
sync_feeds(void)
{
	MemoryContext context = outbox_transaction_begin();
	List	   *subs;
	List	   *stale = NIL;
	ListCell   *lc;

	MemoryContextSwitchTo(context);
	subs = outbox_subscription_load();
	outbox_subscription_forget_waiting();
	foreach(lc, feeds)
		if (!is_current(lfirst(lc), subs))
		stale = lappend(stale, lfirst(lc));
	outbox_transaction_commit(context);

	foreach(lc, stale)
		drop_feed(lfirst(lc));
	foreach(lc, subs)
	{
		OutboxSubscription *sub = lfirst(lc);

		if (!has_feed(sub->name))
			add_feed(sub);
	}
	/* letters may have been redriven */
	foreach(lc, feeds)
		((OutboxFeed *) lfirst(lc))->next_letters = DT_NOBEGIN;
}

/* ---------------- the loop ---------------- */

static void
report_failure(OutboxFeed *feed, ErrorData *edata)
{
	outbox_worker_report_error(edata->message);
	ereport(WARNING,
			(errcode(edata->sqlerrcode),
			 errmsg("subscription \"%s\" failed and tries again later", feed->sub->name),
			 errdetail_internal("%s", edata->message ? edata->message : ""),
			 edata->hint ? errhint("%s", edata->hint) : 0));
}

/* A step of one feed; its errors are its own. */
static bool
step(OutboxFeed *feed)
{
	volatile bool busy = false;

	PG_TRY();
	{
		busy = outbox_feed_step(feed);
	}
	PG_CATCH();
	{
		ErrorData  *edata = outbox_transaction_failed(loop_context);

		report_failure(feed, edata);
		outbox_feed_failed(feed, edata->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(loop_context);
	return busy;
}

/*
 * Store why the feed waits, or that it goes on again.  What cannot be stored
 * is in the log.
 */
static void
note_waiting(OutboxFeed *feed)
{
	if (!feed->waiting_changed)
		return;
	feed->waiting_changed = false;
	PG_TRY();
	{
		MemoryContext context = outbox_transaction_begin();

		outbox_subscription_note_waiting(feed->sub, feed->waiting);
		outbox_transaction_commit(context);
	}
	PG_CATCH();
	{
		report_failure(feed, outbox_transaction_failed(loop_context));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(loop_context);
}

static bool
step_all(void)
{
	bool		busy = false;
	List	   *round = list_copy(feeds);
	ListCell   *lc;

	foreach(lc, round)
	{
		OutboxFeed *feed = lfirst(lc);

		if (outbox_worker_stopping())
			break;
		busy |= step(feed);
		note_waiting(feed);
		if (feed->gone)
			drop_feed(feed);
	}
	return busy;
}

static long
time_to_wait(bool all_answer)
{
	TimestampTz now = GetCurrentTimestamp();
	long		wait = all_answer ? LONGEST_WAIT_MS : SILENT_WAIT_MS;
	ListCell   *lc;

	foreach(lc, feeds)
	{
		TimestampTz deadline = outbox_feed_deadline(lfirst(lc));

		wait = Min(wait, deadline <= now ? 1 : TimestampDifferenceMilliseconds(now, deadline) + 1);
	}
	return wait;
}

static bool
any_waiting(void)
{
	ListCell   *lc;

	foreach(lc, feeds)
		if (((OutboxFeed *) lfirst(lc))->retry_at != 0)
		return true;
	return false;
}

static void
retain(void)
{
	if (GetCurrentTimestamp() < next_retention)
		return;
	next_retention = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETENTION_INTERVAL_MS);
	PG_TRY();
	{
		MemoryContext context = outbox_transaction_begin();

		if (outbox_retention_run() >= 1000)
			next_retention = 0;
		outbox_transaction_commit(context);
	}
	PG_CATCH();
	{
		ErrorData  *edata = outbox_transaction_failed(loop_context);

		next_retention = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETENTION_RETRY_MS);
		outbox_worker_report_error(edata->message);
		ereport(WARNING,
				(errcode(edata->sqlerrcode),
				 errmsg("what has expired could not be forgotten, which is tried again later"),
				 errdetail_internal("%s", edata->message ? edata->message : "")));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(loop_context);
}

/*
 * Code that could not be cancelled has ended the process before us: its
 * subscription does not get another chance to keep all the others waiting.
 */
static void
stop_culprit(void)
{
	char	   *name = outbox_limit_culprit();
	ListCell   *lc;

	if (name == NULL)
		return;
	foreach(lc, feeds)
	{
		OutboxFeed *feed = lfirst(lc);

		if (strcmp(feed->sub->name, name) == 0)
		{
			outbox_feed_stop(feed, ERRCODE_QUERY_CANCELED, OUTBOX_LIMIT_REASON);
			drop_feed(feed);
			return;
		}
	}
}

static void
applier_main(void)
{
	loop_context = AllocSetContextCreate(TopMemoryContext, "pg_outbox applier",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(loop_context);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	(void) outbox_worker_catalog_changed();
	sync_feeds();
	stop_culprit();
	while (!outbox_worker_stopping())
	{
		bool		busy;
		char	   *silent;

		CHECK_FOR_INTERRUPTS();
		if (outbox_worker_catalog_changed())
			sync_feeds();
		if (feeds == NIL)
			return;
		busy = step_all();
		if (!busy)
			retain();
		silent = outbox_askers_report(feeds);
		if (silent != NULL)
			outbox_worker_report("waiting", silent);
		else if (!any_waiting())
			outbox_worker_report("running", NULL);
		(void) outbox_worker_wait(busy ? 0 : time_to_wait(silent == NULL));
		MemoryContextReset(loop_context);
	}
}

static bool
applier_has_work(void)
{
	return outbox_subscription_exists();
}

void
outbox_apply_init(void)
{
	static const OutboxWorkerClass applier = {"applier", applier_has_work, applier_main};

	outbox_settings_init();
	outbox_worker_register(OUTBOX_WORKER_APPLIER, &applier);
}
