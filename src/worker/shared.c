/*-------------------------------------------------------------------------
 *
 * shared.c
 *	  Shared memory of the workers: allocation, entries, the one function that
 *	  moves a slot from state to state.
 *
 * See shared.h for the locks.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include <signal.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "worker/shared.h"

#define TRANCHE_NAME "pg_outbox"

#define BACKOFF_MIN_MS	100
#define BACKOFF_MAX_MS	60000
#define RAN_WELL_MS		60000	/* a longer run forgets earlier failures */

OutboxShared *outbox_shared = NULL;
int			outbox_scan_interval = 60;

static int	max_databases = 64;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size
shared_size(void)
{
	return add_size(offsetof(OutboxShared, databases),
					mul_size(max_databases, sizeof(OutboxDatabase)));
}

static void
shared_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(TRANCHE_NAME, 1);
}

static void
database_reset(OutboxDatabase *db)
{
	db->holds = 0;
	db->installed = false;
	db->nprepared = 0;
	db->unwanted = false;
	for (int i = 0; i < OUTBOX_SLOTS; i++)
	{
		OutboxSlot *slot = &db->slots[i];
		uint32		generation = slot->generation;

		memset(slot, 0, sizeof(OutboxSlot));
		slot->generation = generation + 1;
		pg_atomic_init_u64(&slot->latch, 0);
		pg_atomic_init_u32(&slot->sleeping, 0);
		pg_atomic_init_u32(&slot->asked, 0);
		pg_atomic_init_u32(&slot->stopping, 0);
	}
}

static void
shared_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	outbox_shared = ShmemInitStruct("pg_outbox", shared_size(), &found);
	if (!found)
	{
		memset(outbox_shared, 0, shared_size());
		outbox_shared->lock = &(GetNamedLWLockTranche(TRANCHE_NAME))->lock;
		ConditionVariableInit(&outbox_shared->changed);
		pg_atomic_init_u64(&outbox_shared->launcher_latch, 0);
		pg_atomic_init_u64(&outbox_shared->began, InvalidXLogRecPtr);
		outbox_shared->launcher_refused = outbox_launcher_refused();
		outbox_shared->ndatabases = max_databases;
		for (int i = 0; i < max_databases; i++)
		{
			pg_atomic_init_u32(&outbox_shared->databases[i].dboid, InvalidOid);
			pg_atomic_init_u32(&outbox_shared->databases[i].pokes, 0);
			database_reset(&outbox_shared->databases[i]);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Called while shared_preload_libraries are loaded, and only then.
 */
void
outbox_shared_init(void)
{
	DefineCustomIntVariable("pg_outbox.max_databases",
							"Number of databases of the cluster that can have pg_outbox workers.",
							NULL, &max_databases, 64, 1, 4096,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_outbox.scan_interval",
							"Time between looks at all databases for work that nobody announced.",
							NULL, &outbox_scan_interval, 60, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shared_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shared_startup;
}

bool
outbox_worker_available(void)
{
	return outbox_shared != NULL;
}

XLogRecPtr
outbox_server_began(void)
{
	return outbox_shared ? pg_atomic_read_u64(&outbox_shared->began) : InvalidXLogRecPtr;
}

void
outbox_shared_lock(void)
{
	LWLockAcquire(outbox_shared->lock, LW_EXCLUSIVE);
}

void
outbox_shared_unlock(void)
{
	LWLockRelease(outbox_shared->lock);
}

/*
 * Like strlcpy(), but never leaves a part of a character at the end.
 */
void
outbox_copy_clipped(char *dst, const char *src, Size size)
{
	int			len = pg_mbcliplen(src, strlen(src), size - 1);

	memcpy(dst, src, len);
	dst[len] = '\0';
}

/* ---------------- slots ---------------- */

static const char *const state_names[] = {
	"idle", "due", "starting", "running", "blocked"
};

#define FROM(state) (1 << OUTBOX_SLOT_##state)

/*
 * The only place where a slot's state changes.
 */
void
outbox_slot_set_state(OutboxSlot *slot, OutboxSlotState next)
{
	static const int allowed[] = {
		[OUTBOX_SLOT_IDLE] = FROM(IDLE) | FROM(DUE) | FROM(RUNNING) | FROM(BLOCKED),
		[OUTBOX_SLOT_DUE] = FROM(IDLE) | FROM(DUE) | FROM(STARTING) | FROM(RUNNING) | FROM(BLOCKED),
		[OUTBOX_SLOT_STARTING] = FROM(DUE),
		[OUTBOX_SLOT_RUNNING] = FROM(STARTING),
		[OUTBOX_SLOT_BLOCKED] = FROM(IDLE) | FROM(DUE) | FROM(RUNNING) | FROM(BLOCKED),
	};

	Assert(LWLockHeldByMeInMode(outbox_shared->lock, LW_EXCLUSIVE));
	if ((allowed[next] & (1 << slot->state)) == 0)
	{
		/* Not worth the server's life, but it must never happen. */
		elog(WARNING, "a pg_outbox worker slot went from %s to %s",
			 state_names[slot->state], state_names[next]);
		Assert(false);
	}

	slot->state = next;
	slot->starved &= next == OUTBOX_SLOT_DUE || next == OUTBOX_SLOT_STARTING;
	if (next != OUTBOX_SLOT_RUNNING)
	{
		slot->pid = 0;
		memset(slot->waiting, 0, sizeof(slot->waiting));
		pg_atomic_write_u64(&slot->latch, 0);
		pg_atomic_write_u32(&slot->sleeping, 0);
		pg_atomic_write_u32(&slot->stopping, 0);
	}
	if (next != OUTBOX_SLOT_BLOCKED)
	{
		slot->report[0] = '\0';
		slot->waiting_for[0] = '\0';
	}
	ConditionVariableBroadcast(&outbox_shared->changed);
}

void
outbox_slot_set_due(OutboxSlot *slot, TimestampTz when)
{
	outbox_slot_set_state(slot, OUTBOX_SLOT_DUE);
	slot->next_start = when;
}

void
outbox_slot_set_blocked(OutboxSlot *slot, const char *report,
						const char *waiting_for)
{
	outbox_slot_set_state(slot, OUTBOX_SLOT_BLOCKED);
	strlcpy(slot->report, report, sizeof(slot->report));
	outbox_copy_clipped(slot->waiting_for, waiting_for, sizeof(slot->waiting_for));
}

/*
 * The process ended, or could not be started, although it is needed: try
 * again, after twice the time of the last try.
 */
void
outbox_slot_fail(OutboxSlot *slot, TimestampTz now)
{
	int			delay = BACKOFF_MAX_MS;

	if (slot->state == OUTBOX_SLOT_RUNNING &&
		TimestampDifferenceExceeds(slot->started_at, now, RAN_WELL_MS))
		slot->failures = 0;
	if (slot->state == OUTBOX_SLOT_RUNNING)
		slot->restarts++;
	if (slot->failures < 10)
		delay = Min(BACKOFF_MIN_MS << slot->failures, BACKOFF_MAX_MS);
	slot->failures++;
	outbox_slot_set_due(slot, TimestampTzPlusMilliseconds(now, delay));
}

void
outbox_slot_set_error(OutboxSlot *slot, const char *message, TimestampTz now)
{
	outbox_copy_clipped(slot->last_error, message, sizeof(slot->last_error));
	slot->last_error_at = now;
}

bool
outbox_slot_has_process(const OutboxSlot *slot)
{
	return slot->state == OUTBOX_SLOT_STARTING || slot->state == OUTBOX_SLOT_RUNNING;
}

/* ---------------- databases ---------------- */

OutboxDatabase *
outbox_database_find(Oid dboid)
{
	for (int i = 0; i < outbox_shared->ndatabases; i++)
		if (pg_atomic_read_u32(&outbox_shared->databases[i].dboid) == dboid)
			return &outbox_shared->databases[i];
	return NULL;
}

/*
 * Find or make the entry; NULL if the array is full, which the launcher logs.
 */
OutboxDatabase *
outbox_database_enter(Oid dboid)
{
	OutboxDatabase *db = outbox_database_find(dboid);

	if (db != NULL)
		return db;
	db = outbox_database_find(InvalidOid);
	if (db == NULL)
	{
		outbox_shared->full = true;
		return NULL;
	}
	database_reset(db);
	pg_atomic_write_u32(&db->dboid, dboid);
	return db;
}

/*
 * Tell a database's workers that the catalogs changed, and have it probed if
 * there are kinds without a process; the others judge for themselves, and have
 * it probed if they end without having seen this.  What is in back-off is
 * tried at once: the change may be the cure.
 */
void
outbox_database_poke(OutboxDatabase *db)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		complete = true;

	pg_atomic_fetch_add_u32(&db->pokes, 1);
	for (int i = 0; i < OUTBOX_SLOTS; i++)
	{
		OutboxSlot *slot = &db->slots[i];
		Latch	   *latch = (Latch *) (uintptr_t) pg_atomic_read_u64(&slot->latch);

		if (i != OUTBOX_SLOT_PROBE)
			complete &= outbox_slot_has_process(slot);
		if (slot->state == OUTBOX_SLOT_DUE)
			slot->next_start = now;
		if (latch != NULL)
			SetLatch(latch);
	}
	if (!complete && !outbox_slot_has_process(&db->slots[OUTBOX_SLOT_PROBE]))
		outbox_slot_set_due(&db->slots[OUTBOX_SLOT_PROBE], now);
}

/*
 * Signal every process of the database except ourselves.  The lock keeps a
 * slot's pid valid: a process clears it before it ends.
 */
void
outbox_database_signal(OutboxDatabase *db, int signo)
{
	for (int i = 0; i < OUTBOX_SLOTS; i++)
		if (db->slots[i].pid != 0 && db->slots[i].pid != MyProcPid)
			kill(db->slots[i].pid, signo);
}
