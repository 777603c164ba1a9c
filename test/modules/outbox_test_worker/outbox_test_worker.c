/*-------------------------------------------------------------------------
 *
 * outbox_test_worker.c
 *	  A stand-in for relay and applier, for the tests of src/worker.
 *
 * Load it after pg_outbox in shared_preload_libraries: it takes the place of
 * both classes.  A kind has work where table public.test_work has a row with
 * its name; the row's action says what its main function does: "run" waits
 * until it is stopped and counts wake-ups in public.test_wakes, "fail" raises
 * an error, "sleep" runs pg_sleep() in a transaction.
 *
 * test_at_commit() has a statement executed at the end of its transaction, after
 * pg_outbox's own callback if this module is loaded first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "worker/worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

typedef void (*register_fn) (OutboxWorkerKind, const OutboxWorkerClass *);
typedef int (*wait_fn) (long);
typedef bool (*stopping_fn) (void);
typedef void (*wake_fn) (OutboxWorkerKind);
typedef void (*poke_fn) (void);

static register_fn do_register;
static wait_fn do_wait;
static stopping_fn do_stopping;
static wake_fn do_wake;
static poke_fn do_poke;

/* Run a query that returns at most one text value (palloc'd by SPI), or NULL. */
static char *
one_text(const char *query)
{
	if (SPI_execute(query, false, 0) < 0)
		elog(ERROR, "query failed: %s", query);
	if (SPI_tuptable == NULL || SPI_processed == 0)
		return NULL;
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

static bool
has_work(const char *kind)
{
	bool		result = false;

	SPI_connect();
	if (one_text("SELECT to_regclass('public.test_work')::text") != NULL)
		result = one_text(psprintf("SELECT 'yes' FROM public.test_work WHERE kind = '%s'",
								   kind)) != NULL;
	SPI_finish();
	return result;
}

static void
run_query(const char *query, char *result, Size size)
{
	char	   *value;

	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	value = one_text(query);
	if (result != NULL)
		strlcpy(result, value ? value : "", size);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

static void
work(const char *kind)
{
	char		action[32];

	run_query(psprintf("SELECT action FROM public.test_work WHERE kind = '%s'", kind),
			  action, sizeof(action));
	if (strcmp(action, "fail") == 0)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("test worker \"%s\" fails as told", kind)));
	if (strcmp(action, "sleep") == 0)
		run_query("SELECT pg_sleep(600)::text", NULL, 0);
	while (!do_stopping())
	{
		if ((do_wait(-1) & OUTBOX_WAKE_LATCH) && !do_stopping())
			run_query(psprintf("UPDATE public.test_work SET wakes = wakes + 1 WHERE kind = '%s' RETURNING kind",
							   kind), NULL, 0);
	}
}

static bool
relay_has_work(void)
{
	return has_work("relay");
}

static bool
applier_has_work(void)
{
	return has_work("applier");
}

static void
relay_main(void)
{
	work("relay");
}

static void
applier_main(void)
{
	work("applier");
}

PG_FUNCTION_INFO_V1(test_poke);
Datum
test_poke(PG_FUNCTION_ARGS)
{
	do_poke();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(test_wake);
Datum
test_wake(PG_FUNCTION_ARGS)
{
	do_wake(strcmp(text_to_cstring(PG_GETARG_TEXT_PP(0)), "relay") == 0 ?
			OUTBOX_WORKER_RELAY : OUTBOX_WORKER_APPLIER);
	PG_RETURN_VOID();
}

static char at_commit[256];

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT && at_commit[0] != '\0')
	{
		SPI_connect();
		PushActiveSnapshot(GetTransactionSnapshot());
		(void) one_text(at_commit);
		PopActiveSnapshot();
		SPI_finish();
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		at_commit[0] = '\0';
}

PG_FUNCTION_INFO_V1(test_at_commit);
Datum
test_at_commit(PG_FUNCTION_ARGS)
{
	strlcpy(at_commit, text_to_cstring(PG_GETARG_TEXT_PP(0)), sizeof(at_commit));
	PG_RETURN_VOID();
}

#define LOOKUP(name) load_external_function("pg_outbox", name, true, NULL)

void
_PG_init(void)
{
	static const OutboxWorkerClass relay = {"relay", relay_has_work, relay_main};
	static const OutboxWorkerClass applier = {"applier", applier_has_work, applier_main};

	RegisterXactCallback(xact_callback, NULL);
	do_register = (register_fn) LOOKUP("outbox_worker_register");
	do_wait = (wait_fn) LOOKUP("outbox_worker_wait");
	do_stopping = (stopping_fn) LOOKUP("outbox_worker_stopping");
	do_wake = (wake_fn) LOOKUP("outbox_worker_wake");
	do_poke = (poke_fn) LOOKUP("outbox_worker_poke_at_commit");

	do_register(OUTBOX_WORKER_RELAY, &relay);
	do_register(OUTBOX_WORKER_APPLIER, &applier);
}
