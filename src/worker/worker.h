/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Background workers: one launcher per cluster, and per database at most
 *	  one worker of each kind, which exists only while there is work for it.
 *
 * What relay and applier see of their surroundings: who they are, how to
 * wait, when to stop, how to tell their state.  What a writer sees: how to
 * wake a worker after its commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WORKER_H
#define OUTBOX_WORKER_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

typedef enum OutboxWorkerKind
{
	OUTBOX_WORKER_RELAY,		/* event log -> Kafka, copies, rotation */
	OUTBOX_WORKER_APPLIER		/* Kafka -> targets */
} OutboxWorkerKind;

#define OUTBOX_WORKER_KINDS 2

/*
 * What a kind of worker is.  Registered once from _PG_init, so that the
 * launcher need not know the layers above it.
 */
typedef struct OutboxWorkerClass
{
	const char *name;			/* "relay", "applier": process title, views */

	/*
	 * Is there anything to do for this kind in the current database?  Called
	 * inside a transaction with a snapshot, extension known to be installed.
	 * A worker whose has_work() is false ends and is started again when
	 * outbox_worker_poke_at_commit() says that the catalogs changed.
	 */
	bool		(*has_work) (void);

	/*
	 * The worker's life: runs outside a transaction, returns when
	 * outbox_worker_stopping() or when there is nothing left to do.  An error
	 * that escapes is logged, stored as the worker's last error, and the
	 * worker is started again with back-off.
	 */
	void		(*main) (void);
} OutboxWorkerClass;

extern PGDLLEXPORT void outbox_worker_register(OutboxWorkerKind kind,
											   const OutboxWorkerClass *class);

/*
 * A function of another area that the workers call without knowing it; set
 * from _PG_init.
 *
 * early_init runs in every worker process before anything else, so that what
 * it registers with on_proc_exit() runs last of all.
 */
extern void outbox_worker_set_early_init(void (*fn) (void));

/* ---------------- in a worker ---------------- */

/* Why outbox_worker_wait() returned; several may be set. */
#define OUTBOX_WAKE_LATCH	0x01	/* somebody set our latch */
#define OUTBOX_WAKE_EVENT	0x02	/* the event file descriptor was written */
#define OUTBOX_WAKE_TIMEOUT	0x04

/*
 * Wait until something happens, at most timeout_ms (-1: for ever).  Handles
 * interrupts, ProcSignalBarriers, configuration reload and the postmaster's
 * death; clears latch and event descriptor before it returns.  Must be called
 * outside a transaction: nothing is held while waiting.
 *
 * When the catalogs changed it also judges again whether this worker should
 * exist (extension still installed and of our version, not paused, has_work()),
 * in a short transaction of its own; if not, outbox_worker_stopping() turns
 * true.
 */
extern PGDLLEXPORT int outbox_worker_wait(long timeout_ms);

/* Non-blocking eventfd that libraries write to in order to wake the worker. */
extern int	outbox_worker_event_fd(void);

/*
 * True once the worker should return from main() soon: within half a second
 * of the first time it returns true, whatever still runs is then ended by
 * FATAL at the next CHECK_FOR_INTERRUPTS().  A SIGTERM that arrives inside a
 * transaction ends it that way at once.
 */
extern PGDLLEXPORT bool outbox_worker_stopping(void);

/*
 * True if the catalogs of publications, subscriptions or servers may have
 * changed since the last call (a poke, or a reload of the configuration).
 */
extern bool outbox_worker_catalog_changed(void);

/*
 * Say what the worker is doing.  "state" is one short word for the status
 * view ("running", "idle", "waiting", "stopped"), "waiting_for" what it waits
 * for, or NULL.  Both are copied.  A worker that says nothing is "starting"
 * until its first outbox_worker_wait() and "running" from then on.
 */
extern void outbox_worker_report(const char *state, const char *waiting_for);

/* What keeps a worker from going on with a Kafka server. */
typedef enum OutboxServerTrouble
{
	OUTBOX_SERVER_UNREACHABLE,	/* no broker answers */
	OUTBOX_SERVER_WAITING,		/* it waits for others, such as standbys */
	OUTBOX_SERVER_STOPPED		/* it would answer: we have stopped */
} OutboxServerTrouble;

/*
 * Why the worker cannot go on with a Kafka server.  reason NULL: it can, or
 * nothing is wanted of it any more.  The time when that began is kept.  Cheap
 * if nothing changed.
 */
extern void outbox_worker_report_server(const char *server, OutboxServerTrouble trouble,
										const char *reason);

/* Remember the last error (message text without secrets), shown by status. */
extern void outbox_worker_report_error(const char *message);

/*
 * A flag for the writers' side: the relay calls sleeping(true) before it
 * waits and looks at the log once more after that; only then a committing
 * writer needs to set its latch.  The first wake-up clears the flag.  In a
 * worker that never calls this every outbox_worker_wake() arrives.
 */
extern void outbox_worker_set_sleeping(bool sleeping);

/* Has somebody called outbox_worker_ask() since this was asked last? */
extern bool outbox_worker_asked(void);

/* ---------------- in any backend ---------------- */

/*
 * Ask this database's worker to do now what it else does when it is time: the
 * relay, to make room in the log.  Takes no lock, wakes nobody.
 */
extern void outbox_worker_ask(OutboxWorkerKind kind);

/*
 * Wake this database's worker.  Safe in commit callbacks: takes no lock that
 * can wait, cannot fail, does nothing without preloading.  Costs one atomic
 * read if the worker is awake already.
 */
extern PGDLLEXPORT void outbox_worker_wake(OutboxWorkerKind kind);

/*
 * After this transaction's commit tell the workers of this database that the
 * catalogs have changed, and have the launcher start those that have work now.
 * Nothing is told if it aborts.
 */
extern void outbox_worker_tell_at_commit(void);

/*
 * Say that what this transaction stores for the workers is meant for this
 * database and did not come with a restore; see identity.c.  Cheap once the
 * database has its identity.  Rows that arrive without any claim make workers
 * wait for outbox.resume(), so every function that stores a publication, a
 * subscription or an event must call this, and nothing that a restore executes
 * (validators, triggers on our own tables) may.
 */
extern void outbox_worker_claim(void);

/*
 * To be called by resume() where it makes a copy a database of its own: inside
 * its transaction, with the rights of the extension's owner and SPI connected.
 * Set from the init of an area, at most OUTBOX_RESUME_MAX of them.
 */
#define OUTBOX_RESUME_MAX 4
extern void outbox_worker_on_resume(void (*fn) (void));

/* Both of them: what publish() and its like call. */
extern PGDLLEXPORT void outbox_worker_poke_at_commit(void);

/* True if the library was preloaded, so that workers can exist. */
extern bool outbox_worker_available(void);

/*
 * Where WAL ended when this server started, or last recovered from a crash, to
 * within what was written until the launcher looked.
 */
extern XLogRecPtr outbox_server_began(void);

extern void outbox_worker_init(void);

#endif							/* OUTBOX_WORKER_H */
