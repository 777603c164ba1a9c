/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The process of a worker: start, waiting, stopping, end.
 *
 * A process takes its slot before it connects to the database and gives it
 * back after it left the array of processes, so whoever sees the slot without
 * a process knows that nothing of ours is connected there.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "common/fault.h"
#include "worker/limit.h"
#include "worker/shared.h"

#define STOP_GRACE_MS 500		/* from "please stop" to FATAL */

static const OutboxWorkerClass *classes[OUTBOX_WORKER_KINDS];
static void (*early_init) (void) = NULL;

/* Who we are; my_db is NULL outside a worker. */
static OutboxWorkerStart my_start;
static OutboxDatabase *my_db = NULL;
static OutboxSlot *my_slot = NULL;

/* Waiting */
static WaitEventSet *wait_set = NULL;
static int	event_fd = -1;
static bool uses_sleeping = false;

/* What we know of the catalogs */
static uint32 pokes_judged = 0; /* seen by judge_duty() */
static uint32 pokes_told = 0;	/* seen by outbox_worker_catalog_changed() */
static bool reloaded = false;

/* How it ends; see worker_detach() */
static bool grace_started = false;
static bool ended_well = false;
static OutboxDuty my_duty = OUTBOX_DUTY_WORK;
static char my_duty_reason[OUTBOX_REASON_LEN];

PGDLLEXPORT void outbox_worker_main(Datum arg);

static const char *const slot_names[OUTBOX_SLOTS] = {
	[OUTBOX_WORKER_RELAY] = "relay",
	[OUTBOX_WORKER_APPLIER] = "applier",
	[OUTBOX_SLOT_PROBE] = "probe",
};

void
outbox_worker_register(OutboxWorkerKind kind, const OutboxWorkerClass *class)
{
	Assert(strcmp(class->name, slot_names[kind]) == 0);
	classes[kind] = class;
}

OutboxSlot *
outbox_worker_slot(void)
{
	return my_slot;
}

const OutboxWorkerClass *
outbox_worker_class(int kind)
{
	return kind < OUTBOX_WORKER_KINDS ? classes[kind] : NULL;
}

const char *
outbox_slot_name(int slot)
{
	return slot_names[slot];
}

void
outbox_worker_set_early_init(void (*fn) (void))
{
	early_init = fn;
}

void
outbox_worker_run_early_init(void)
{
	if (early_init != NULL)
		early_init();
}

/* ---------------- signals and stopping ---------------- */

/*
 * Outside a transaction a worker is asked to stop and has the time to put
 * things in order.  Inside one, or when asked twice, it is told to: the next
 * CHECK_FOR_INTERRUPTS() ends it.
 */
static void
worker_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (ShutdownRequestPending || IsTransactionState())
	{
		InterruptPending = true;
		ProcDiePending = true;
	}
	ShutdownRequestPending = true;
	if (my_slot != NULL)
		pg_atomic_write_u32(&my_slot->stopping, 1);
	SetLatch(MyLatch);
	errno = save_errno;
}

static void
grace_over(void)
{
	InterruptPending = true;
	ProcDiePending = true;
	SetLatch(MyLatch);
}

bool
outbox_worker_stopping(void)
{
	if (!ShutdownRequestPending && my_duty == OUTBOX_DUTY_WORK)
		return false;
	if (ShutdownRequestPending && !grace_started && my_db != NULL)
	{
		grace_started = true;
		enable_timeout_after(USER_TIMEOUT, STOP_GRACE_MS);
	}
	return true;
}

/* ---------------- duty ---------------- */

/*
 * Should this worker exist?  Judged at start and whenever somebody poked.
 */
static void
judge_duty(void)
{
	pokes_judged = pg_atomic_read_u32(&my_db->pokes);

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	my_duty = outbox_duty_find(my_start.slot, my_duty_reason,
							   sizeof(my_duty_reason));
	PopActiveSnapshot();
	CommitTransactionCommand();
}

bool
outbox_worker_catalog_changed(void)
{
	uint32		pokes = pg_atomic_read_u32(&my_db->pokes);
	bool		changed = reloaded || pokes != pokes_told;

	pokes_told = pokes;
	reloaded = false;
	return changed;
}

static void
handle_interrupts(void)
{
	CHECK_FOR_INTERRUPTS();

	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		reloaded = true;
	}
	if (!ShutdownRequestPending && my_duty == OUTBOX_DUTY_WORK &&
		pokes_judged != pg_atomic_read_u32(&my_db->pokes))
		judge_duty();
}

/* ---------------- waiting ---------------- */

int
outbox_worker_event_fd(void)
{
	return event_fd;
}

static void
create_wait_set(void)
{
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("out of file descriptors for a pg_outbox worker")));
	event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (event_fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create an event file descriptor: %m")));

	wait_set = outbox_create_wait_event_set(3);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, event_fd, NULL, NULL);
}

static uint32
wait_event_of_kind(void)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = my_start.slot == OUTBOX_WORKER_RELAY ?
			outbox_wait_event("OutboxRelayMain") :
			outbox_wait_event("OutboxApplierMain");
	return wait_event;
}

static int
collect_events(const WaitEvent *events, int nevents)
{
	int			result = nevents == 0 ? OUTBOX_WAKE_TIMEOUT : 0;

	for (int i = 0; i < nevents; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			result |= OUTBOX_WAKE_LATCH;
		}
		if (events[i].events & WL_SOCKET_READABLE)
		{
			uint64		count;

			if (read(event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN &&
				errno != EINTR)
				ereport(ERROR,
						(errcode_for_file_access(),
						 errmsg("could not read an event file descriptor: %m")));
			result |= OUTBOX_WAKE_EVENT;
		}
	}
	return result;
}

int
outbox_worker_wait(long timeout_ms)
{
	WaitEvent	events[3];
	int			nevents;
	int			result;

	Assert(!IsTransactionState());

	handle_interrupts();
	if (outbox_worker_stopping())
		timeout_ms = timeout_ms < 0 ? STOP_GRACE_MS : Min(timeout_ms, STOP_GRACE_MS);
	if (timeout_ms != 0)
	{
		/* Its set-up went well, if it does not say anything else itself. */
		if (strcmp(my_slot->report, "starting") == 0)
			outbox_worker_report("running", NULL);
		pgstat_report_stat(false);
		pgstat_report_activity(STATE_IDLE, NULL);
	}

	nevents = WaitEventSetWait(wait_set, timeout_ms, events, lengthof(events),
							   wait_event_of_kind());
	result = collect_events(events, nevents);

	if (timeout_ms != 0)
		pgstat_report_activity(STATE_RUNNING, NULL);
	if (!uses_sleeping)
	{
		pg_atomic_write_u32(&my_slot->sleeping, 1);
		pg_memory_barrier();
	}
	handle_interrupts();
	return result;
}

/*
 * The barrier is the worker's half of the protocol in wake.c.
 */
bool
outbox_worker_asked(void)
{
	return pg_atomic_read_u32(&my_slot->asked) != 0 &&
		pg_atomic_exchange_u32(&my_slot->asked, 0) != 0;
}

void
outbox_worker_set_sleeping(bool sleeping)
{
	uses_sleeping = true;
	pg_atomic_write_u32(&my_slot->sleeping, sleeping ? 1 : 0);
	pg_memory_barrier();
}

/* ---------------- reporting ---------------- */

void
outbox_worker_report(const char *state, const char *waiting_for)
{
	char		reason[OUTBOX_REASON_LEN];

	if (my_slot == NULL)
		return;
	outbox_copy_clipped(reason, waiting_for ? waiting_for : "", sizeof(reason));
	if (strcmp(my_slot->report, state) == 0 && strcmp(my_slot->waiting_for, reason) == 0)
		return;

	outbox_shared_lock();
	strlcpy(my_slot->report, state, sizeof(my_slot->report));
	strcpy(my_slot->waiting_for, reason);
	outbox_shared_unlock();
	ConditionVariableBroadcast(&outbox_shared->changed);
}

/*
 * The server's entry, or a free one; NULL if there is neither.
 */
static OutboxWaitingServer *
find_waiting(const char *server)
{
	OutboxWaitingServer *vacant = NULL;

	for (int i = 0; i < OUTBOX_WAITING_SERVERS; i++)
	{
		OutboxWaitingServer *entry = &my_slot->waiting[i];

		if (strcmp(entry->server, server) == 0)
			return entry;
		if (vacant == NULL && entry->server[0] == '\0')
			vacant = entry;
	}
	return vacant;
}

/*
 * Nobody else writes here, so we may look without the lock.
 */
void
outbox_worker_report_server(const char *server, OutboxServerTrouble trouble, const char *reason)
{
	OutboxWaitingServer *entry = my_slot != NULL ? find_waiting(server) : NULL;
	bool		known = entry != NULL && entry->server[0] != '\0';
	char		clipped[OUTBOX_ERROR_LEN];

	outbox_copy_clipped(clipped, reason ? reason : "", sizeof(clipped));
	if (entry == NULL || (reason == NULL && !known) ||
		(reason != NULL && known && strcmp(entry->reason, clipped) == 0 &&
		 entry->trouble == trouble))
		return;

	outbox_shared_lock();
	if (reason == NULL)
		memset(entry, 0, sizeof(*entry));
	else
	{
		strlcpy(entry->server, server, sizeof(entry->server));
		strcpy(entry->reason, clipped);
		if (!known || entry->trouble != trouble)
			entry->since = GetCurrentTimestamp();
		entry->trouble = trouble;
	}
	outbox_shared_unlock();
}

void
outbox_worker_report_error(const char *message)
{
	if (my_slot == NULL)
		return;
	outbox_shared_lock();
	outbox_slot_set_error(my_slot, message, GetCurrentTimestamp());
	outbox_shared_unlock();
}

/* ---------------- start ---------------- */

/*
 * Give the slot back and say what should become of it.  Runs after this
 * process left the array of processes and before it gives up its PGPROC.
 */
static void
worker_detach(int code, Datum arg)
{
	TimestampTz now = GetCurrentTimestamp();
	OutboxSlot *probe = &my_db->slots[OUTBOX_SLOT_PROBE];

	outbox_shared_lock();
	if (ended_well)
		outbox_duty_apply(my_slot, my_duty, my_duty_reason, now);
	else if (ShutdownRequestPending)
		outbox_slot_set_due(my_slot, now);
	else
		outbox_slot_fail(my_slot, now);

	/* Somebody poked after we had judged: let a probe judge again. */
	if (pokes_judged != pg_atomic_read_u32(&my_db->pokes) &&
		!outbox_slot_has_process(probe))
		outbox_slot_set_due(probe, now);
	my_slot = NULL;
	outbox_shared_unlock();
	outbox_launcher_wake();
}

/*
 * Take the slot we were started for; false if we are no longer wanted.
 */
static bool
worker_attach(void)
{
	OutboxDatabase *db;
	OutboxSlot *slot;
	bool		wanted;

	memcpy(&my_start, MyBgworkerEntry->bgw_extra, sizeof(my_start));
	db = &outbox_shared->databases[my_start.database];
	slot = &db->slots[my_start.slot];

	outbox_shared_lock();
	wanted = slot->state == OUTBOX_SLOT_STARTING &&
		slot->generation == my_start.generation &&
		pg_atomic_read_u32(&db->dboid) == my_start.dboid;
	if (wanted && db->holds > 0)
	{
		outbox_slot_set_due(slot, GetCurrentTimestamp());
		wanted = false;
	}
	if (wanted)
	{
		my_db = db;
		my_slot = slot;
		pokes_judged = pokes_told = pg_atomic_read_u32(&db->pokes);
		outbox_slot_set_state(slot, OUTBOX_SLOT_RUNNING);
		slot->pid = MyProcPid;
		slot->started_at = GetCurrentTimestamp();
		strlcpy(slot->report, "starting", sizeof(slot->report));
		pg_atomic_write_u32(&slot->sleeping, 1);
		pg_atomic_write_u64(&slot->latch, (uint64) (uintptr_t) MyLatch);
	}
	outbox_shared_unlock();

	if (wanted)
		on_shmem_exit(worker_detach, (Datum) 0);
	return wanted;
}

/*
 * The database's own settings (ALTER DATABASE ... SET) apply to a worker as
 * to any session; these would break it: by taking its rights, by ending its
 * transactions, or by giving its statements another meaning.  Not every
 * version of PostgreSQL has all of them.
 */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"role", "none"},
		{"restrict_nonsystem_relation_kind", ""},
		{"row_security", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"transaction_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"search_path", "pg_catalog, pg_temp"},
		{"session_replication_role", "origin"},
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
		{"array_nulls", "on"},
		{"exit_on_error", "off"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);	/* as we connected */
	SetConfigOption("application_name", MyBgworkerEntry->bgw_type,
					PGC_USERSET, PGC_S_OVERRIDE);
}

static emit_log_hook_type prev_emit_log_hook = NULL;

/*
 * A FATAL error passes no handler; catch its text for the status view here.
 * A stop that was asked for is none.
 */
static void
remember_fatal(ErrorData *edata)
{
	if (edata->elevel == FATAL && outbox_limit_passed() && edata->detail == NULL)
		edata->detail = psprintf("%s", OUTBOX_LIMIT_DETAIL);
	if (edata->elevel == FATAL && !ShutdownRequestPending && my_slot != NULL &&
		edata->message != NULL && !LWLockHeldByMe(outbox_shared->lock))
		outbox_worker_report_error(outbox_limit_passed() ? OUTBOX_LIMIT_DETAIL : edata->message);
	if (prev_emit_log_hook)
		prev_emit_log_hook(edata);
}

static void
worker_set_up(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	ConfigReloadPending = true; /* until here a reload was ignored */
	pqsignal(SIGTERM, worker_sigterm);
	BackgroundWorkerUnblockSignals();
	RegisterTimeout(USER_TIMEOUT, grace_over);
	outbox_limit_set_up();
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = remember_fatal;

	BackgroundWorkerInitializeConnectionByOid(my_start.dboid, InvalidOid, 0);
	pin_settings();
	create_wait_set();
}

/* ---------------- life ---------------- */

/*
 * An error while DROP EXTENSION took the tables away is not worth reporting,
 * so look first whether they are still there.
 */
static bool
extension_is_gone(void)
{
	volatile bool gone = false;
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		gone = !outbox_duty_installed();
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		AbortOutOfAnyTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return gone;
}

/*
 * Log an error that was caught, as it would have been, and store it.
 */
static void
report_caught_error(ErrorData *edata)
{
	PG_TRY();
	{
		ReThrowError(edata);
	}
	PG_CATCH();
	{
		EmitErrorReport();
		FlushErrorState();
	}
	PG_END_TRY();
	outbox_worker_report_error(edata->message ? edata->message : "unknown error");
}

/*
 * In a handler: end what is left of the transaction, then judge the error.
 * True if it can be passed over.
 */
static bool
handle_escaped_error(MemoryContext context)
{
	ErrorData  *edata;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	edata = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();

	if (extension_is_gone())
	{
		my_duty = OUTBOX_DUTY_NOT_INSTALLED;
		return true;
	}
	report_caught_error(edata);
	return false;
}

/*
 * Run fn; false if an error escaped from it that matters.
 */
static bool
run_guarded(void (*fn) (void))
{
	volatile bool ok = true;
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		fn();
	}
	PG_CATCH();
	{
		ok = handle_escaped_error(context);
	}
	PG_END_TRY();
	return ok;
}

static void
work(void)
{
	OUTBOX_FAULT("worker-start");
	judge_duty();
	if (my_duty != OUTBOX_DUTY_WORK)
		return;
	classes[my_start.slot]->main();

	/* It left by itself: is there really nothing left to do? */
	if (!outbox_worker_stopping())
		judge_duty();
}

static void
worker_life(void)
{
	bool		ok = run_guarded(work);

	if (ok)
		outbox_duty_log(my_slot, my_duty, my_duty_reason);

	/* Leaving although there is work counts as a failure, for the back-off. */
	ended_well = ok && my_duty != OUTBOX_DUTY_WORK;
	if (!ok)
		proc_exit(1);
}

/*
 * Judge one kind in a transaction of its own; an error is that kind's.
 */
static int	probed_kind;

static void
probe_kind(void)
{
	OutboxDuty	duty;
	char		reason[OUTBOX_REASON_LEN];
	OutboxSlot *slot = &my_db->slots[probed_kind];

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	duty = outbox_duty_find(probed_kind, reason, sizeof(reason));
	PopActiveSnapshot();
	CommitTransactionCommand();
	outbox_duty_log(slot, duty, reason);

	outbox_shared_lock();
	my_db->installed = duty != OUTBOX_DUTY_NOT_INSTALLED;
	if (!outbox_slot_has_process(slot))
		outbox_duty_apply(slot, duty, reason, GetCurrentTimestamp());
	outbox_shared_unlock();
}

static void
probe_life(void)
{
	bool		ok = true;

	SetConfigOption("lock_timeout", "2s", PGC_SUSET, PGC_S_OVERRIDE);
	for (probed_kind = 0; probed_kind < OUTBOX_WORKER_KINDS; probed_kind++)
		if (classes[probed_kind] != NULL && !ShutdownRequestPending)
			ok &= run_guarded(probe_kind);
	ended_well = ok && !ShutdownRequestPending;
	my_duty = OUTBOX_DUTY_NONE;
	if (!ok)
		proc_exit(1);
}

void
outbox_worker_main(Datum arg)
{
	outbox_worker_run_early_init();
	if (outbox_shared == NULL || !worker_attach())
		proc_exit(0);

	worker_set_up();
	if (my_start.slot == OUTBOX_SLOT_PROBE)
		probe_life();
	else
		worker_life();
	proc_exit(0);
}

void
outbox_worker_init(void)
{
	outbox_limit_init();
	if (!process_shared_preload_libraries_in_progress)
		return;

	outbox_shared_init();
	outbox_wake_init();
	outbox_ddl_init();
	if (!IsBinaryUpgrade)
		outbox_launcher_register();
}
