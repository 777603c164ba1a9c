/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: one process per cluster, connected to no database, which
 *	  starts probes and workers.
 *
 * At start, when told to, and every pg_outbox.scan_interval it reads
 * pg_database and has each database probed in turn.  Otherwise it does what
 * the slots say: whoever pokes, holds or ends moves a slot and sets our latch.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include <signal.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/bgworker_internals.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "common/fault.h"
#include "worker/shared.h"

#define LAUNCHER_RESTART_S	5
#define MAX_PROBES			3	/* at a time */
#define SHORTAGE_RETRY_MS	1000
#define STOP_PATIENCE_MS	250 /* before workers are told again */

/*
 * Databases still to be probed in this scan.
 */
static List *to_probe = NIL;
static TimestampTz next_scan = 0;

/* Handle of the start under way, per slot; NULL if there is none. */
static BackgroundWorkerHandle **handles = NULL;

/* In the postmaster, which has no memory of ours yet when it registers us. */
static bool refused = false;

static bool shortage_logged = false;
static bool full_logged = false;

PGDLLEXPORT void outbox_launcher_main(Datum arg);

/*
 * Did the postmaster take the launcher?  It only logs that it did not, where
 * max_worker_processes is used up already.
 */
static bool
is_registered(void)
{
	outbox_registered_iter iter;

	outbox_foreach_registered(iter)
	{
		const RegisteredBgWorker *rw = outbox_registered_worker(iter);

		if (strcmp(rw->rw_worker.bgw_function_name, "outbox_launcher_main") == 0)
			return true;
	}
	return false;
}

/*
 * Valid in the postmaster; others look into shared memory.
 */
bool
outbox_launcher_refused(void)
{
	return refused;
}

void
outbox_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_S;
	strlcpy(worker.bgw_library_name, "pg_outbox", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "outbox_launcher_main",
			sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "pg_outbox launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "pg_outbox launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
	refused = !is_registered();
}

/* ---------------- scanning ---------------- */

/*
 * Nobody works in a template, so that it can be copied at any time.
 */
static bool
is_eligible(Form_pg_database form)
{
	return form->datallowconn && !form->datistemplate &&
		form->datconnlimit != DATCONNLIMIT_INVALID_DB;
}

static List *
eligible_databases(void)
{
	List	   *result = NIL;
	MemoryContext context = CurrentMemoryContext;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tup;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tup = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tup);
		MemoryContext old;

		if (!is_eligible(form))
			continue;
		old = MemoryContextSwitchTo(context);
		result = lappend_oid(result, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

static void
database_free(OutboxDatabase *db)
{
	for (int i = 0; i < OUTBOX_SLOTS; i++)
		outbox_slot_set_state(&db->slots[i], OUTBOX_SLOT_IDLE);
	pg_atomic_write_u32(&db->dboid, InvalidOid);
	outbox_shared->full = false;
}

static bool
database_has_process(const OutboxDatabase *db)
{
	for (int i = 0; i < OUTBOX_SLOTS; i++)
		if (outbox_slot_has_process(&db->slots[i]))
			return true;
	return false;
}

/*
 * Mark entries whose database is gone, or no longer one for workers.
 */
static void
mark_other_databases(List *eligible)
{
	outbox_shared_lock();
	for (int i = 0; i < outbox_shared->ndatabases; i++)
	{
		OutboxDatabase *db = &outbox_shared->databases[i];
		Oid			dboid = pg_atomic_read_u32(&db->dboid);

		db->unwanted = OidIsValid(dboid) && !list_member_oid(eligible, dboid);
		if (db->unwanted)
			outbox_database_signal(db, SIGTERM);
	}
	outbox_shared_unlock();
}

static void
scan_if_due(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		asked;

	outbox_shared_lock();
	asked = outbox_shared->rescan;
	outbox_shared->rescan = false;
	outbox_shared_unlock();
	if (!asked && now < next_scan)
		return;

	list_free(to_probe);
	to_probe = eligible_databases();
	mark_other_databases(to_probe);
	next_scan = TimestampTzPlusMilliseconds(now, outbox_scan_interval * INT64CONST(1000));
}

static void
report_full(bool full)
{
	if (full && !full_logged)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("more than %d databases have pg_outbox workers",
						outbox_shared->ndatabases),
				 errdetail("In the other databases nothing is published or applied."),
				 errhint("Raise pg_outbox.max_databases and restart the server.")));
	full_logged = full;
}

/*
 * Have some more databases probed; an entry that turns out to be without the
 * extension is free again soon.
 */
static void
feed_probes(void)
{
	int			running = 0;
	bool		full;

	outbox_shared_lock();
	for (int i = 0; i < outbox_shared->ndatabases; i++)
	{
		OutboxSlot *probe = &outbox_shared->databases[i].slots[OUTBOX_SLOT_PROBE];

		if (outbox_slot_has_process(probe) || probe->state == OUTBOX_SLOT_DUE)
			running++;
	}
	while (to_probe != NIL && running < MAX_PROBES)
	{
		OutboxDatabase *db = outbox_database_enter(linitial_oid(to_probe));

		to_probe = list_delete_first(to_probe);
		if (db == NULL ||
			db->slots[OUTBOX_SLOT_PROBE].state != OUTBOX_SLOT_IDLE)
			continue;
		outbox_slot_set_due(&db->slots[OUTBOX_SLOT_PROBE], GetCurrentTimestamp());
		running++;
	}
	full = outbox_shared->full;
	outbox_shared_unlock();
	report_full(full);
}

/*
 * Free the entries that are not wanted, and those of databases without the
 * extension, as their last probe found.
 */
static void
free_databases(void)
{
	outbox_shared_lock();
	for (int i = 0; i < outbox_shared->ndatabases; i++)
	{
		OutboxDatabase *db = &outbox_shared->databases[i];
		bool		idle = !db->installed;

		for (int j = 0; j < OUTBOX_SLOTS; j++)
			idle &= db->slots[j].state == OUTBOX_SLOT_IDLE;
		if (OidIsValid(pg_atomic_read_u32(&db->dboid)) && db->holds == 0 &&
			(idle || (db->unwanted && !database_has_process(db))))
			database_free(db);
	}
	outbox_shared_unlock();
}

/* ---------------- starting ---------------- */

/*
 * Name of a database if workers may run in it, else NULL.
 */
static char *
database_name(Oid dboid)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *name = NULL;
	HeapTuple	tup;

	StartTransactionCommand();
	tup = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	if (HeapTupleIsValid(tup))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tup);

		if (is_eligible(form))
			name = MemoryContextStrdup(context, NameStr(form->datname));
		ReleaseSysCache(tup);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return name;
}

static BackgroundWorkerHandle *
register_process(const OutboxWorkerStart *start, const char *dbname)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle = NULL;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "pg_outbox", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "outbox_worker_main",
			sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "pg_outbox %s",
			 outbox_slot_name(start->slot));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "pg_outbox %s %s",
			 outbox_slot_name(start->slot), dbname);
	memcpy(worker.bgw_extra, start, sizeof(*start));
	StaticAssertStmt(sizeof(*start) <= BGW_EXTRALEN, "too much for bgw_extra");

	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return NULL;
	return handle;
}

/*
 * Log once that slots wait for a background worker, until none does.
 */
static void
report_shortage(void)
{
	bool		shortage = false;

	outbox_shared_lock();
	for (int i = 0; i < outbox_shared->ndatabases; i++)
		for (int j = 0; j < OUTBOX_SLOTS; j++)
			shortage |= outbox_shared->databases[i].slots[j].starved;
	outbox_shared_unlock();
	if (shortage && !shortage_logged)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("out of background worker slots for pg_outbox"),
				 errdetail("Workers that are needed wait until others end."),
				 errhint("Raise max_worker_processes and restart the server.")));
	shortage_logged = shortage;
}

/*
 * Ask the postmaster for the process of a slot that is STARTING.
 */
static void
start_process(const OutboxWorkerStart *start)
{
	OutboxDatabase *db = &outbox_shared->databases[start->database];
	OutboxSlot *slot = &db->slots[start->slot];
	BackgroundWorkerHandle **handle =
	&handles[start->database * OUTBOX_SLOTS + start->slot];
	char	   *dbname = database_name(start->dboid);
	TimestampTz now = GetCurrentTimestamp();

	if (*handle != NULL)
		pfree(*handle);
	*handle = dbname == NULL ? NULL : register_process(start, dbname);
	if (*handle != NULL)
	{
		pfree(dbname);
		return;
	}

	outbox_shared_lock();
	outbox_slot_set_due(slot, TimestampTzPlusMilliseconds(now, SHORTAGE_RETRY_MS));
	slot->starved = dbname != NULL;
	if (dbname == NULL)
		outbox_shared->rescan = true;	/* the scan lets the entry go */
	outbox_shared_unlock();
}

/*
 * Pick the next slot whose time has come and mark it STARTING.  Otherwise
 * *next becomes the earliest time at which there will be one, if sooner.
 */
static bool
next_due(OutboxWorkerStart *start, TimestampTz *next)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		found = false;

	outbox_shared_lock();
	for (int i = 0; i < outbox_shared->ndatabases && !found; i++)
	{
		OutboxDatabase *db = &outbox_shared->databases[i];
		Oid			dboid = pg_atomic_read_u32(&db->dboid);

		if (!OidIsValid(dboid) || db->holds > 0 || db->unwanted)
			continue;
		for (int j = 0; j < OUTBOX_SLOTS; j++)
		{
			OutboxSlot *slot = &db->slots[j];

			if (slot->state != OUTBOX_SLOT_DUE)
				continue;
			if (slot->next_start > now)
			{
				*next = Min(*next, slot->next_start);
				continue;
			}
			outbox_slot_set_state(slot, OUTBOX_SLOT_STARTING);
			start->dboid = dboid;
			start->database = i;
			start->slot = j;
			start->generation = ++slot->generation;
			found = true;
			break;
		}
	}
	outbox_shared_unlock();
	return found;
}

/*
 * A process can end before it took its slot: the fork failed, or a library
 * could not be loaded.
 */
static void
notice_failed_starts(void)
{
	for (int i = 0; i < outbox_shared->ndatabases * OUTBOX_SLOTS; i++)
	{
		OutboxSlot *slot = &outbox_shared->databases[i / OUTBOX_SLOTS].slots[i % OUTBOX_SLOTS];
		pid_t		pid;

		if (handles[i] == NULL ||
			GetBackgroundWorkerPid(handles[i], &pid) != BGWH_STOPPED)
			continue;
		outbox_shared_lock();
		if (slot->state == OUTBOX_SLOT_STARTING)
		{
			TimestampTz now = GetCurrentTimestamp();

			outbox_slot_fail(slot, now);
			outbox_slot_set_error(slot, "the worker process could not be started", now);
		}
		outbox_shared_unlock();
		pfree(handles[i]);
		handles[i] = NULL;
	}
}

/* ---------------- life ---------------- */

static void
launcher_detach(int code, Datum arg)
{
	pg_atomic_write_u64(&outbox_shared->launcher_latch, 0);
	outbox_shared_lock();
	outbox_shared->launcher_pid = 0;
	outbox_shared_unlock();
}

/*
 * What a launcher before us was starting: forget it, the generation makes a
 * latecomer leave.  Running workers stay.
 */
static void
launcher_attach(void)
{
	TimestampTz now = GetCurrentTimestamp();

	on_shmem_exit(launcher_detach, (Datum) 0);
	outbox_shared_lock();
	for (int i = 0; i < outbox_shared->ndatabases; i++)
		for (int j = 0; j < OUTBOX_SLOTS; j++)
		{
			OutboxSlot *slot = &outbox_shared->databases[i].slots[j];

			if (slot->state == OUTBOX_SLOT_STARTING)
			{
				slot->generation++;
				outbox_slot_set_due(slot, now);
			}
		}
	outbox_shared->launcher_pid = MyProcPid;
	if (pg_atomic_read_u64(&outbox_shared->began) == InvalidXLogRecPtr)
		pg_atomic_write_u64(&outbox_shared->began, GetXLogInsertRecPtr());
	outbox_shared_unlock();
	pg_atomic_write_u64(&outbox_shared->launcher_latch, (uint64) (uintptr_t) MyLatch);
}

/*
 * One round; returns when something is to be done next at the latest.
 */
static TimestampTz
launcher_round(void)
{
	OutboxWorkerStart start;
	TimestampTz next;
	bool		rescan;

	notice_failed_starts();
	scan_if_due();
	free_databases();
	feed_probes();
	next = next_scan;
	while (next_due(&start, &next))
		start_process(&start);
	report_shortage();
	outbox_shared_lock();
	rescan = outbox_shared->rescan;
	outbox_shared_unlock();
	return rescan ? GetCurrentTimestamp() : next;
}

static void
launcher_sleep(long timeout_ms)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = outbox_wait_event("OutboxLauncherMain");
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		next_scan = 0;
	}
}

/*
 * Are there workers that were told to stop and have not?  Tell them again if
 * "press".
 */
static bool
any_stopping(bool press)
{
	bool		found = false;

	outbox_shared_lock();
	for (int i = 0; i < outbox_shared->ndatabases; i++)
		for (int j = 0; j < OUTBOX_SLOTS; j++)
		{
			OutboxSlot *slot = &outbox_shared->databases[i].slots[j];

			if (slot->pid == 0 || pg_atomic_read_u32(&slot->stopping) == 0)
				continue;
			found = true;
			if (press)
				kill(slot->pid, SIGTERM);
		}
	outbox_shared_unlock();
	return found;
}

/*
 * At shutdown the postmaster tells every worker once.  One that was about to
 * begin a long transaction at that moment needs to be told again.
 */
static void
press_workers(void)
{
	for (int i = 0; i < 8 && any_stopping(i > 1); i++)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STOP_PATIENCE_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
outbox_launcher_main(Datum arg)
{
	MemoryContext context;

	outbox_worker_run_early_init();
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	ConfigReloadPending = true; /* until here a reload was ignored */
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	if (outbox_shared == NULL)
		proc_exit(0);
	launcher_attach();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	SetConfigOption("application_name", "pg_outbox launcher",
					PGC_USERSET, PGC_S_OVERRIDE);

	context = AllocSetContextCreate(TopMemoryContext, "pg_outbox launcher",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	handles = palloc0(sizeof(BackgroundWorkerHandle *) *
					  outbox_shared->ndatabases * OUTBOX_SLOTS);

	while (!ShutdownRequestPending)
	{
		TimestampTz next = launcher_round();

		launcher_sleep(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next));
	}
	press_workers();

	/* The postmaster would never again start one that ends with 0. */
	proc_exit(1);
}
