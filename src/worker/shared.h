/*-------------------------------------------------------------------------
 *
 * shared.h
 *	  Shared memory of the workers: one entry per database, in it one slot per
 *	  worker.  Private to src/worker.
 *
 * Locks.  All of it is guarded by outbox_shared->lock, an LWLock that is held
 * for a few memory accesses only, except the fields marked "atomic", which a
 * committing writer reads without any lock.
 *
 * A crash of the server (kill -9 of any process attached) makes the
 * postmaster build the memory anew, so no entry survives its processes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WORKER_SHARED_H
#define OUTBOX_WORKER_SHARED_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "worker/worker.h"

/*
 * The last slot of a database is its probe: a process that lives just long
 * enough to see which kinds of worker the database needs.
 */
#define OUTBOX_SLOT_PROBE	OUTBOX_WORKER_KINDS
#define OUTBOX_SLOTS		(OUTBOX_WORKER_KINDS + 1)

#define OUTBOX_WAITING_SERVERS 8

#define OUTBOX_REASON_LEN	192
#define OUTBOX_ERROR_LEN	320
#define OUTBOX_CULPRIT_LEN	208 /* names have up to 200 bytes */

/*
 * So many prepared transactions of a database that changed catalogs are told
 * of at their commit; the launcher's scan finds others.
 */
#define OUTBOX_MAX_PREPARED	16

/*
 * What a slot is in.  Who moves it, and from where:
 *
 *	IDLE		no process, none needed.  From everywhere but STARTING.
 *	DUE			a process is needed; the launcher starts it at next_start, unless
 *				the database is held.  From IDLE and BLOCKED when work shows up,
 *				from STARTING when the start failed, from RUNNING when the
 *				process ended although there is work left.
 *	STARTING	the launcher asked the postmaster for a process.  From DUE.
 *	RUNNING		a process is attached, pid and latch are valid.  From STARTING,
 *				by the process itself, if the generation is still its own.
 *	BLOCKED		no process, because somebody must act first; waiting_for says
 *				what.  From IDLE, DUE and RUNNING.
 */
typedef enum OutboxSlotState
{
	OUTBOX_SLOT_IDLE,
	OUTBOX_SLOT_DUE,
	OUTBOX_SLOT_STARTING,
	OUTBOX_SLOT_RUNNING,
	OUTBOX_SLOT_BLOCKED
} OutboxSlotState;

/*
 * A Kafka server that this worker cannot go on with.  Written by the worker
 * alone.
 */
typedef struct OutboxWaitingServer
{
	char		server[NAMEDATALEN];	/* empty: the entry is free */
	OutboxServerTrouble trouble;
	TimestampTz since;
	char		reason[OUTBOX_ERROR_LEN];
} OutboxWaitingServer;

typedef struct OutboxSlot
{
	/* Life cycle */
	OutboxSlotState state;
	uint32		generation;		/* of the start; a latecomer of another leaves */
	pid_t		pid;			/* valid in RUNNING, else 0 */
	TimestampTz started_at;		/* of the running or last process */
	TimestampTz next_start;		/* valid in DUE */
	bool		starved;		/* DUE, but there was no background worker
								 * slot */
	int			failures;		/* in a row, for the back-off */
	int64		restarts;		/* after a failure, since the server started */

	/* Waking: atomic */
	pg_atomic_uint64 latch;		/* Latch * of the process, 0 if none */
	pg_atomic_uint32 sleeping;	/* 1: a writer must set the latch */
	pg_atomic_uint32 stopping;	/* 1: the process was told to stop */
	pg_atomic_uint32 asked;		/* 1: outbox_worker_ask() was called */

	/* Reported */
	char		report[16];		/* valid in RUNNING and BLOCKED */
	char		waiting_for[OUTBOX_REASON_LEN];
	char		last_error[OUTBOX_ERROR_LEN];
	TimestampTz last_error_at;

	/* whose code ended the process, see limit.c; kept for the next one */
	char		culprit[OUTBOX_CULPRIT_LEN];

	/* valid in RUNNING; more than fit show in waiting_for only */
	OutboxWaitingServer waiting[OUTBOX_WAITING_SERVERS];
} OutboxSlot;

typedef struct OutboxDatabase
{
	pg_atomic_uint32 dboid;		/* atomic; InvalidOid: the entry is free */
	pg_atomic_uint32 pokes;		/* atomic; grows when catalogs changed */
	int			holds;			/* backends that keep workers away */
	bool		installed;		/* the last probe found the extension */
	int			nprepared;		/* prepared transactions that changed
								 * catalogs, */
	uint32		prepared[OUTBOX_MAX_PREPARED];	/* by hash of their names */
	bool		unwanted;		/* dropped, a template, or without connections */
	OutboxSlot	slots[OUTBOX_SLOTS];
} OutboxDatabase;

typedef struct OutboxShared
{
	LWLock	   *lock;
	ConditionVariable changed;	/* broadcast when a slot changes */
	pg_atomic_uint64 launcher_latch;	/* atomic; Latch *, 0 if none */
	pid_t		launcher_pid;	/* 0: it does not run */
	bool		launcher_refused;	/* there was no slot for it; never changes */
	pg_atomic_uint64 began;		/* atomic; outbox_server_began() */
	bool		rescan;			/* launcher: look at pg_database again */
	bool		full;			/* a database found no entry */
	int			ndatabases;
	OutboxDatabase databases[FLEXIBLE_ARRAY_MEMBER];
} OutboxShared;

extern OutboxShared *outbox_shared; /* NULL unless preloaded */
extern int	outbox_scan_interval;	/* seconds */

/* What the launcher hands to a process it starts, in bgw_extra. */
typedef struct OutboxWorkerStart
{
	Oid			dboid;
	int			database;		/* index of the entry */
	int			slot;
	uint32		generation;
} OutboxWorkerStart;

/* ---------------- shared.c ---------------- */

extern void outbox_shared_init(void);
extern void outbox_shared_lock(void);
extern void outbox_shared_unlock(void);
extern void outbox_copy_clipped(char *dst, const char *src, Size size);

extern void outbox_slot_set_state(OutboxSlot *slot, OutboxSlotState next);
extern void outbox_slot_set_due(OutboxSlot *slot, TimestampTz when);
extern void outbox_slot_set_blocked(OutboxSlot *slot, const char *report,
									const char *waiting_for);
extern void outbox_slot_fail(OutboxSlot *slot, TimestampTz now);
extern void outbox_slot_set_error(OutboxSlot *slot, const char *message,
								  TimestampTz now);
extern bool outbox_slot_has_process(const OutboxSlot *slot);

/* Entry of a database, or NULL; callers hold the lock. */
extern OutboxDatabase *outbox_database_find(Oid dboid);
extern OutboxDatabase *outbox_database_enter(Oid dboid);
extern void outbox_database_poke(OutboxDatabase *db);
extern void outbox_database_signal(OutboxDatabase *db, int signo);

/* ---------------- others ---------------- */

extern const OutboxWorkerClass *outbox_worker_class(int kind);
extern const char *outbox_slot_name(int slot);
extern void outbox_launcher_register(void);
extern bool outbox_launcher_refused(void);
extern void outbox_launcher_wake(void);
extern void outbox_worker_run_early_init(void);
extern void outbox_wake_init(void);
extern void outbox_worker_rescan_at_commit(void);
extern void outbox_worker_poke_now(void);
extern bool outbox_worker_poke_pending(void);
extern void outbox_worker_about_to_prepare(uint32 gid);
extern void outbox_worker_prepared_ended(uint32 gid, bool committed);
extern void outbox_ddl_init(void);
extern void outbox_ddl_end_of_xact(void);

/* ---------------- duty.c ---------------- */

/* Should a kind of worker exist in the current database?  Why not? */
typedef enum OutboxDuty
{
	OUTBOX_DUTY_WORK,
	OUTBOX_DUTY_NONE,			/* nothing to do */
	OUTBOX_DUTY_NOT_INSTALLED,	/* no extension in this database */
	OUTBOX_DUTY_PAUSED,
	OUTBOX_DUTY_VERSION,		/* library and SQL objects differ */
	OUTBOX_DUTY_COPY			/* the database is a copy of another */
} OutboxDuty;

extern OutboxDuty outbox_duty_find(OutboxWorkerKind kind, char *reason, Size size);
extern OutboxDuty outbox_duty_version(char *reason, Size size);
extern void outbox_duty_log(const OutboxSlot *slot, OutboxDuty duty, const char *reason);
extern void outbox_duty_apply(OutboxSlot *slot, OutboxDuty duty,
							  const char *reason, TimestampTz now);
extern bool outbox_duty_installed(void);

/* ---------------- identity.c ---------------- */

typedef enum OutboxIdentity
{
	OUTBOX_IDENTITY_HOME,
	OUTBOX_IDENTITY_NONE,		/* nothing was ever stored here */
	OUTBOX_IDENTITY_FOREIGN		/* a copy of another database */
} OutboxIdentity;

extern OutboxIdentity outbox_identity_judge(char *reason, Size size);
extern void outbox_identity_adopt(void);

/* This process's slot, NULL if it is no worker. */
extern OutboxSlot *outbox_worker_slot(void);

#endif							/* OUTBOX_WORKER_SHARED_H */
