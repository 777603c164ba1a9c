/*-------------------------------------------------------------------------
 *
 * limit.c
 *	  Limits on other people's code that a worker runs: handlers, triggers of
 *	  replicas, filters.
 *
 * It has the rights of its owner, in a security-restricted operation.  What it
 * may cost the others who share the worker is a time, after which it is
 * cancelled.  It may catch the cancellation, so a second time-out ends the
 * worker; the slot in shared memory keeps whose code that was, for the next
 * process to leave it out.  Only this process writes there while it runs.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "worker/limit.h"

#include <limits.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc_tables.h"
#include "utils/timeout.h"

#include "worker/shared.h"
#include "worker/worker.h"

/* From the cancellation to the end, at most; time enough to roll back. */
#define LAST_RESORT_MS 5000

int			outbox_handler_timeout = 60000;

static TimeoutId last_resort = MAX_TIMEOUTS;	/* none: not in a worker */
static const char *running = NULL;	/* whose code; the caller's memory */
static volatile sig_atomic_t passed = false;

/*
 * In a signal handler.
 */
static void
end_worker(void)
{
	OutboxSlot *slot = outbox_worker_slot();

	if (running == NULL || slot == NULL)
		return;
	strlcpy(slot->culprit, running, sizeof(slot->culprit));
	passed = true;
	InterruptPending = true;
	ProcDiePending = true;
	SetLatch(MyLatch);
}

bool
outbox_limit_passed(void)
{
	return passed;
}

static void
start_timeouts(int64 times)
{
	int			ms = (int) Min(times * outbox_handler_timeout, INT_MAX - LAST_RESORT_MS);

	enable_timeout_after(STATEMENT_TIMEOUT, ms);
	enable_timeout_after(last_resort, ms + Min(outbox_handler_timeout, LAST_RESORT_MS));
}

void
outbox_limit_begin(const char *whose)
{
	if (outbox_handler_timeout <= 0 || last_resort == MAX_TIMEOUTS)
		return;
	running = whose;
	start_timeouts(1);
}

/*
 * A cancellation that came meanwhile is for the code that has just run.
 */
void
outbox_limit_hold(void)
{
	if (running == NULL)
		return;
	disable_timeout(last_resort, false);
	disable_timeout(STATEMENT_TIMEOUT, true);
	CHECK_FOR_INTERRUPTS();
}

void
outbox_limit_renew(int64 times)
{
	outbox_limit_hold();
	if (running != NULL)
		start_timeouts(times);
}

/*
 * A cancellation that came too late to be noticed is not for what comes next.
 */
void
outbox_limit_end(void)
{
	if (running == NULL)
		return;
	disable_timeout(last_resort, false);
	disable_timeout(STATEMENT_TIMEOUT, true);
	if (get_timeout_indicator(STATEMENT_TIMEOUT, true))
		QueryCancelPending = false;
	running = NULL;
}

char *
outbox_limit_culprit(void)
{
	OutboxSlot *slot = outbox_worker_slot();
	char	   *name;

	if (slot == NULL || slot->culprit[0] == '\0')
		return NULL;
	name = pstrdup(slot->culprit);
	slot->culprit[0] = '\0';
	return name;
}

/*
 * Settings that anyone may make, and by which an error, or a time of one's own
 * choosing, would end the worker.
 */
static void
forbid_settings(void)
{
	int			count;
	struct config_generic **settings = outbox_settings(&count);

	for (int i = 0; i < count; i++)
		if (strcmp(settings[i]->name, "exit_on_error") == 0 ||
			strcmp(settings[i]->name, "transaction_timeout") == 0)
			settings[i]->flags |= GUC_NOT_WHILE_SEC_REST;
}

void
outbox_limit_set_up(void)
{
	last_resort = RegisterTimeout(USER_TIMEOUT, end_worker);
	forbid_settings();
}

void
outbox_limit_init(void)
{
	DefineCustomIntVariable("pg_outbox.handler_timeout",
							"Time after which a handler, a batch for a replica, or a step of a copy is cancelled.",
							"Zero means never. A handler that was cancelled has failed for the event; a batch for a replica, or a step of a copy, is tried again.",
							&outbox_handler_timeout, 60000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}
