/*-------------------------------------------------------------------------
 *
 * wake.c
 *	  The writers' side: waking a worker after a commit, and telling workers
 *	  and launcher after a commit that the catalogs changed.
 *
 * No wake-up can be lost.  The worker that is about to sleep first raises
 * "sleeping", then passes a memory barrier, then looks at the log with a new
 * snapshot.  The writer first becomes visible (its callback runs after it left
 * the array of running transactions), then passes a memory barrier, then reads
 * "sleeping".  Whichever barrier comes second sees what was done before the
 * other: either the worker's look finds the rows, or the writer finds the flag
 * and sets the latch.  A latch that is set between look and sleep ends the
 * sleep at once.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/resowner.h"

#include "worker/shared.h"

static bool poke_pending = false;
static bool rescan_pending = false;
static uint32 preparing = 0;	/* hash of the name given to PREPARE
								 * TRANSACTION */

/* The transaction has ended, and what of it is still to be told. */
static bool xact_ended = false;
static bool poke_due = false;
static bool rescan_due = false;
static bool start_due = false;	/* there is work for a worker that has none */

/* Our database's entry, as found last; verified at each use. */
static OutboxDatabase *my_database = NULL;

/*
 * The entry of our database, without a lock.  An entry can be freed and taken
 * by another database at any time; a latch set in vain does no harm.
 */
static OutboxDatabase *
own_database(void)
{
	if (my_database == NULL ||
		pg_atomic_read_u32(&my_database->dboid) != MyDatabaseId)
		my_database = outbox_database_find(MyDatabaseId);
	return my_database;
}

void
outbox_worker_ask(OutboxWorkerKind kind)
{
	OutboxDatabase *db;

	if (outbox_shared == NULL || (db = own_database()) == NULL)
		return;
	pg_atomic_write_u32(&db->slots[kind].asked, 1);
}

/*
 * Set the worker's latch if it sleeps.
 */
static void
wake_slot(OutboxSlot *slot)
{
	Latch	   *latch;

	if (pg_atomic_read_u32(&slot->sleeping) == 0)
		return;

	/* Of many writers one sets the latch; the worker raises the flag again. */
	if (pg_atomic_exchange_u32(&slot->sleeping, 0) == 0)
		return;
	latch = (Latch *) (uintptr_t) pg_atomic_read_u64(&slot->latch);
	if (latch != NULL)
		SetLatch(latch);
}

/*
 * The state is read without the lock: at worst a probe looks in vain.
 */
void
outbox_worker_wake(OutboxWorkerKind kind)
{
	OutboxDatabase *db;

	if (outbox_shared == NULL || (db = own_database()) == NULL)
		return;

	pg_memory_barrier();
	if (db->slots[kind].state == OUTBOX_SLOT_IDLE)
		start_due = true;
	wake_slot(&db->slots[kind]);
}

void
outbox_launcher_wake(void)
{
	Latch	   *latch;

	latch = (Latch *) (uintptr_t) pg_atomic_read_u64(&outbox_shared->launcher_latch);
	if (latch != NULL)
		SetLatch(latch);
}

/*
 * Tell workers and launcher now.  Where the array of databases is full, the
 * launcher looks at all databases again and logs the shortage.
 */
void
outbox_worker_poke_now(void)
{
	OutboxDatabase *db;

	if (outbox_shared == NULL)
		return;

	outbox_shared_lock();
	db = outbox_database_enter(MyDatabaseId);
	if (db != NULL)
		outbox_database_poke(db);
	else
		outbox_shared->rescan = true;
	outbox_shared_unlock();
	outbox_launcher_wake();
}

void
outbox_worker_tell_at_commit(void)
{
	poke_pending = true;
}

void
outbox_worker_poke_at_commit(void)
{
	outbox_worker_claim();
	poke_pending = true;
}

bool
outbox_worker_poke_pending(void)
{
	return poke_pending;
}

/*
 * PREPARE TRANSACTION comes, of a name with this hash.
 */
void
outbox_worker_about_to_prepare(uint32 gid)
{
	preparing = gid;
}

/*
 * The prepared transaction's poke becomes due at COMMIT PREPARED.
 */
static void
remember_prepared_poke(void)
{
	OutboxDatabase *db;

	outbox_shared_lock();
	db = outbox_database_enter(MyDatabaseId);
	if (db != NULL && db->nprepared < OUTBOX_MAX_PREPARED)
		db->prepared[db->nprepared++] = preparing;
	outbox_shared_unlock();
}

static bool
forget_prepared_poke(uint32 gid)
{
	OutboxDatabase *db;
	bool		found = false;

	outbox_shared_lock();
	db = outbox_database_find(MyDatabaseId);
	for (int i = 0; db != NULL && i < db->nprepared && !found; i++)
		if (db->prepared[i] == gid)
		{
			db->prepared[i] = db->prepared[--db->nprepared];
			found = true;
		}
	outbox_shared_unlock();
	return found;
}

/*
 * COMMIT PREPARED or ROLLBACK PREPARED, perhaps of another session's
 * transaction: nobody was woken when it committed.
 */
void
outbox_worker_prepared_ended(uint32 gid, bool committed)
{
	OutboxDatabase *db;
	bool		poke;

	if (outbox_shared == NULL || (db = own_database()) == NULL)
		return;
	poke = forget_prepared_poke(gid);
	if (!committed)
		return;
	pg_memory_barrier();
	for (int kind = 0; kind < OUTBOX_WORKER_KINDS; kind++)
		wake_slot(&db->slots[kind]);
	if (poke)
		outbox_worker_poke_now();
}

void
outbox_worker_rescan_at_commit(void)
{
	rescan_pending = true;
}

static void
wake_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;

	if (poke_pending && event == XACT_EVENT_PREPARE && outbox_shared != NULL)
		remember_prepared_poke();
	poke_due = poke_pending && event == XACT_EVENT_COMMIT;
	rescan_due = rescan_pending && event == XACT_EVENT_COMMIT;
	xact_ended = true;
	poke_pending = false;
	rescan_pending = false;
}

/*
 * Who is told that the catalogs changed must not find them as they were: the
 * messages that empty other processes' caches are sent after the transaction
 * callbacks and before the locks are released, so what is to be told is told
 * here, and so are databases let go.
 */
static void
tell_after_locks(ResourceReleasePhase phase, bool isCommit, bool isTopLevel, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !isTopLevel || !xact_ended)
		return;

	xact_ended = false;
	outbox_ddl_end_of_xact();
	if (poke_due || start_due)
		outbox_worker_poke_now();
	if (rescan_due && outbox_shared != NULL)
	{
		outbox_shared_lock();
		outbox_shared->rescan = true;
		outbox_shared_unlock();
		outbox_launcher_wake();
	}
	poke_due = false;
	rescan_due = false;
	start_due = false;
}

void
outbox_wake_init(void)
{
	RegisterXactCallback(wake_xact_callback, NULL);
	RegisterResourceReleaseCallback(tell_after_locks, NULL);
}
