/*-------------------------------------------------------------------------
 *
 * control.c
 *	  SQL functions: pause, resume, wait_until_running, _workers,
 *	  _waiting_servers.
 *
 * What is paused is stored in outbox._paused; workers are told at commit and
 * judge for themselves (duty.c).
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "common/argument.h"
#include "common/catalog.h"
#include "worker/shared.h"

#define WAIT_STEP_MS 1000

#define NO_SLOT "a background worker slot: raise max_worker_processes"
#define NO_LIBRARY "shared_preload_libraries: add pg_outbox and restart the server"
#define NO_LAUNCHER \
	"a background worker slot for the launcher: raise max_worker_processes and restart the server"

PG_FUNCTION_INFO_V1(outbox_pause);
PG_FUNCTION_INFO_V1(outbox_resume);
PG_FUNCTION_INFO_V1(outbox_wait_until_running);
PG_FUNCTION_INFO_V1(outbox_workers);
PG_FUNCTION_INFO_V1(outbox_waiting_servers);

/* ---------------- pause and resume ---------------- */

static void
check_worker_name(const char *name)
{
	for (int kind = 0; kind < OUTBOX_WORKER_KINDS; kind++)
		if (strcmp(name, outbox_slot_name(kind)) == 0)
			return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("there is no worker \"%s\"", name),
			 errhint("Workers are \"relay\" and \"applier\".")));
}

/*
 * Run a statement for one kind (its name is $1, the caller's $2), or for all
 * of them if name is NULL.
 */
static void
execute_for_workers(const char *sql, const char *name, const char *role)
{
	Oid			types[2] = {TEXTOID, TEXTOID};

	for (int kind = 0; kind < OUTBOX_WORKER_KINDS; kind++)
	{
		Datum		values[2];

		if (name != NULL && strcmp(name, outbox_slot_name(kind)) != 0)
			continue;
		values[0] = CStringGetTextDatum(outbox_slot_name(kind));
		values[1] = CStringGetTextDatum(role);
		if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) < 0)
			elog(ERROR, "could not execute \"%s\"", sql);
	}
}

static char *
worker_argument(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		return NULL;
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	check_worker_name(name);
	return name;
}

Datum
outbox_pause(PG_FUNCTION_ARGS)
{
	char	   *name = worker_argument(fcinfo);
	char	   *role = GetUserNameFromId(GetUserId(), false);
	OutboxOwnerScope scope;

	outbox_owner_enter(&scope);
	SPI_connect();
	execute_for_workers("INSERT INTO outbox._paused (worker, by_role) VALUES ($1, $2)"
						" ON CONFLICT (worker) DO NOTHING", name, role);
	SPI_finish();
	outbox_owner_leave(&scope);
	outbox_worker_tell_at_commit();
	PG_RETURN_VOID();
}

/*
 * A copy becomes a database of its own as a whole or not at all.
 */
static void
adopt_if_copy(const char *name)
{
	char		reason[OUTBOX_REASON_LEN];
	OutboxIdentity identity = outbox_identity_judge(reason, sizeof(reason));

	if (identity == OUTBOX_IDENTITY_HOME ||
		(identity == OUTBOX_IDENTITY_NONE && name != NULL))
		return;
	if (name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot resume a single worker of a copied database"),
				 errdetail("The database waits: %s.", reason),
				 errhint("Call outbox.resume() without an argument if this copy shall publish and consume from now on.")));
	outbox_identity_adopt();
}

Datum
outbox_resume(PG_FUNCTION_ARGS)
{
	char	   *name = worker_argument(fcinfo);
	OutboxOwnerScope scope;

	outbox_owner_enter(&scope);
	SPI_connect();
	adopt_if_copy(name);
	execute_for_workers("DELETE FROM outbox._paused"
						" WHERE worker OPERATOR(pg_catalog.=) $1", name, "");
	SPI_finish();
	outbox_owner_leave(&scope);
	outbox_worker_tell_at_commit();
	PG_RETURN_VOID();
}

/* ---------------- what workers do ---------------- */

/* A slot as users see it, copied under the lock. */
typedef struct WorkerView
{
	OutboxSlot	slot;
	const char *state;
	char		waiting_for[OUTBOX_REASON_LEN];
} WorkerView;

static void
view_says(WorkerView *view, const char *state, const char *waiting_for)
{
	view->state = state;
	strlcpy(view->waiting_for, waiting_for, sizeof(view->waiting_for));
}

/*
 * A process is needed and there is none yet.
 */
static void
describe_due(WorkerView *view, const OutboxDatabase *db)
{
	if (db->holds > 0)
		view_says(view, "waiting", "a command on this database");
	else if (view->slot.starved)
		view_says(view, "waiting", NO_SLOT);
	else if (view->slot.failures > 0)
		view_says(view, "waiting", "restart after an error");
	else
		view_says(view, "starting", "");
}

/*
 * No process is needed, as far as the last probe knows.
 */
static void
describe_idle(WorkerView *view, const OutboxDatabase *db)
{
	const OutboxSlot *probe = &db->slots[OUTBOX_SLOT_PROBE];

	if (probe->starved)
	{
		view_says(view, "waiting", NO_SLOT);
		return;
	}
	if (probe->failures == 0)
	{
		view_says(view, "idle", "");
		return;
	}
	view_says(view, "waiting", "another look at what is to be done, which failed");
	memcpy(view->slot.last_error, probe->last_error, sizeof(probe->last_error));
	view->slot.last_error_at = probe->last_error_at;
}

static void
describe_slot(WorkerView *view, const OutboxDatabase *db)
{
	switch (view->slot.state)
	{
		case OUTBOX_SLOT_IDLE:
			describe_idle(view, db);
			break;
		case OUTBOX_SLOT_DUE:
			describe_due(view, db);
			break;
		case OUTBOX_SLOT_STARTING:
			view_says(view, "starting", "");
			break;
		case OUTBOX_SLOT_RUNNING:
		case OUTBOX_SLOT_BLOCKED:
			view_says(view, view->slot.report, view->slot.waiting_for);
			break;
	}
}

/*
 * Only the launcher can tell whether the state is still right.
 */
static bool
needs_launcher(const OutboxSlot *slot)
{
	return slot->state != OUTBOX_SLOT_RUNNING && slot->state != OUTBOX_SLOT_BLOCKED;
}

/*
 * Why there can be no workers at all, or NULL.
 */
static const char *
no_workers_reason(void)
{
	if (outbox_shared == NULL)
		return NO_LIBRARY;
	if (outbox_shared->launcher_refused)
		return NO_LAUNCHER;
	if (RecoveryInProgress())
		return "promotion: this server is a standby";
	return NULL;
}

/*
 * One kind in this database; the lock is taken here.
 */
static void
look_at_worker(int kind, WorkerView *view)
{
	const char *reason = no_workers_reason();
	OutboxDatabase *db;

	memset(view, 0, sizeof(*view));
	if (reason != NULL)
	{
		/* a promotion may come by itself, the others need a hand */
		view_says(view, outbox_shared == NULL || outbox_shared->launcher_refused ?
				  "stopped" : "waiting", reason);
		return;
	}
	outbox_shared_lock();
	db = outbox_database_find(MyDatabaseId);
	if (db != NULL)
		view->slot = db->slots[kind];
	if (outbox_shared->launcher_pid == 0 && needs_launcher(&view->slot))
		view_says(view, "waiting", "the launcher, which starts again within seconds");
	else if (db != NULL)
		describe_slot(view, db);
	else if (outbox_shared->full)
		view_says(view, "waiting", "an entry for this database: raise pg_outbox.max_databases");
	else
		view_says(view, "idle", "");
	outbox_shared_unlock();
}

/*
 * The last probe may be older than what there is to do now: nothing announces
 * what a restore brings, so it shows only at the next scan.  Look ourselves.
 */
static void
look_for_work(int kind, WorkerView *view)
{
	char		reason[OUTBOX_REASON_LEN];
	OutboxOwnerScope scope;
	OutboxDuty	duty;

	if (strcmp(view->state, "idle") != 0)
		return;
	duty = outbox_duty_version(reason, sizeof(reason));
	if (duty == OUTBOX_DUTY_WORK)
	{
		outbox_owner_enter(&scope);
		duty = outbox_duty_find(kind, reason, sizeof(reason));
		outbox_owner_leave(&scope);
	}
	switch (duty)
	{
		case OUTBOX_DUTY_NONE:
		case OUTBOX_DUTY_NOT_INSTALLED:
			break;
		case OUTBOX_DUTY_WORK:
			view_says(view, "starting", "");
			break;
		case OUTBOX_DUTY_PAUSED:
			view_says(view, "paused", reason);
			break;
		case OUTBOX_DUTY_VERSION:
			view_says(view, "stopped", reason);
			break;
		case OUTBOX_DUTY_COPY:
			view_says(view, "waiting", reason);
			break;
	}
}

static void
put_worker_row(ReturnSetInfo *rsinfo, int kind)
{
	WorkerView	view;
	Datum		values[9];
	bool		nulls[9] = {0};

	look_at_worker(kind, &view);
	look_for_work(kind, &view);
	values[0] = CStringGetTextDatum(outbox_slot_name(kind));
	values[1] = Int32GetDatum(view.slot.pid);
	nulls[1] = view.slot.pid == 0;
	values[2] = CStringGetTextDatum(view.state);
	values[3] = CStringGetTextDatum(view.waiting_for);
	nulls[3] = view.waiting_for[0] == '\0';
	values[4] = TimestampTzGetDatum(view.slot.started_at);
	nulls[4] = view.slot.started_at == 0;
	values[5] = Int64GetDatum(view.slot.restarts);
	values[6] = CStringGetTextDatum(view.slot.last_error);
	nulls[6] = view.slot.last_error[0] == '\0';
	values[7] = TimestampTzGetDatum(view.slot.last_error_at);
	nulls[7] = nulls[6];
	values[8] = TimestampTzGetDatum(view.slot.next_start);
	nulls[8] = view.slot.state != OUTBOX_SLOT_DUE || view.slot.next_start == 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
outbox_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int kind = 0; kind < OUTBOX_WORKER_KINDS; kind++)
		put_worker_row(rsinfo, kind);
	return (Datum) 0;
}

static const char *const trouble_names[] = {
	[OUTBOX_SERVER_UNREACHABLE] = "unreachable",
	[OUTBOX_SERVER_WAITING] = "waiting",
	[OUTBOX_SERVER_STOPPED] = "stopped"
};

/*
 * Servers that a worker of this database cannot go on with.
 */
Datum
outbox_waiting_servers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int kind = 0; kind < OUTBOX_WORKER_KINDS; kind++)
	{
		WorkerView	view;

		look_at_worker(kind, &view);
		for (int i = 0; i < OUTBOX_WAITING_SERVERS; i++)
		{
			const OutboxWaitingServer *entry = &view.slot.waiting[i];
			Datum		values[5];
			bool		nulls[5] = {0};

			if (entry->server[0] == '\0')
				continue;
			values[0] = CStringGetTextDatum(outbox_slot_name(kind));
			values[1] = CStringGetTextDatum(entry->server);
			values[2] = CStringGetTextDatum(trouble_names[entry->trouble]);
			values[3] = CStringGetTextDatum(entry->reason);
			values[4] = TimestampTzGetDatum(entry->since);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}

/* ---------------- wait_until_running ---------------- */

typedef enum Readiness
{
	READY,
	NOT_YET,
	NEVER						/* before somebody acts */
} Readiness;

/*
 * One that waits for its broker runs.
 */
static Readiness
judge_view(const WorkerView *view)
{
	if (view->slot.state == OUTBOX_SLOT_RUNNING)
		return strcmp(view->state, "starting") == 0 ? NOT_YET : READY;
	if (view->slot.state == OUTBOX_SLOT_BLOCKED)
		return strcmp(view->state, "paused") == 0 ? READY : NEVER;
	return strcmp(view->state, "idle") == 0 ? READY : NOT_YET;
}

static void
append_reasons(StringInfo detail, const WorkerView *view)
{
	if (view->waiting_for[0] != '\0')
		appendStringInfo(detail, " (%s)", view->waiting_for);
	if (view->slot.last_error[0] != '\0')
		appendStringInfo(detail, ", its last error was: %s", view->slot.last_error);
	appendStringInfoChar(detail, '.');
}

/*
 * Judge all kinds; what is missing is described in detail.
 */
static Readiness
judge_database(StringInfo detail)
{
	Readiness	result = READY;
	WorkerView	view;

	resetStringInfo(detail);
	look_at_worker(OUTBOX_SLOT_PROBE, &view);
	if (view.slot.state != OUTBOX_SLOT_IDLE)
	{
		appendStringInfo(detail, "The search for the workers that are needed is %s", view.state);
		append_reasons(detail, &view);
		return NOT_YET;
	}
	for (int kind = 0; kind < OUTBOX_WORKER_KINDS; kind++)
	{
		Readiness	one;

		look_at_worker(kind, &view);
		one = judge_view(&view);
		if (one == READY)
			continue;
		result = Max(result, one);
		appendStringInfo(detail, "%sThe %s is %s",
						 detail->len > 0 ? " " : "", outbox_slot_name(kind), view.state);
		append_reasons(detail, &view);
	}
	return result;
}

static int
no_workers_hint(void)
{
	if (outbox_shared == NULL)
		return errhint("Add pg_outbox to shared_preload_libraries and restart the server.");
	if (outbox_shared->launcher_refused)
		return errhint("Raise max_worker_processes and restart the server.");
	return 0;
}

static void
check_can_wait(void)
{
	const char *reason = no_workers_reason();

	/* Raises if the extension is not there to have workers. */
	(void) outbox_schema_oid();
	if (reason != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there are no pg_outbox workers on this server"),
				 errdetail("They wait for %s.", reason),
				 no_workers_hint()));
	if (outbox_worker_poke_pending())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for workers in the transaction that changed what they do"),
				 errdetail("They see the change when it is committed."),
				 errhint("Commit first, then call outbox.wait_until_running().")));
}

/*
 * Has a probe look anew first: what a restore loaded nobody has announced.
 */
Datum
outbox_wait_until_running(PG_FUNCTION_ARGS)
{
	static uint32 wait_event = 0;
	StringInfoData detail;
	TimestampTz until;
	Readiness	readiness;

	outbox_argument_require(fcinfo, 0, "timeout", "Leave the argument out for its default.");
	check_can_wait();
	if (wait_event == 0)
		wait_event = outbox_wait_event("OutboxWaitUntilRunning");
	until = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													TimestampTzGetDatum(GetCurrentTimestamp()),
													PG_GETARG_DATUM(0)));
	initStringInfo(&detail);
	outbox_worker_poke_now();

	ConditionVariablePrepareToSleep(&outbox_shared->changed);
	while ((readiness = judge_database(&detail)) == NOT_YET)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&outbox_shared->changed,
										   Min(left, WAIT_STEP_MS), wait_event);
	}
	ConditionVariableCancelSleep();

	if (readiness != READY)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 readiness == NEVER ?
				 errmsg("workers of this database cannot run") :
				 errmsg("workers of this database did not run in time"),
				 errdetail_internal("%s", detail.data)));
	PG_RETURN_BOOL(true);
}
