/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Fault points: named places where a test makes something go wrong.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "common/fault.h"

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#ifdef OUTBOX_FAULT_POINTS

#define FAULT_POLL_MS 10		/* how often a waiting point looks again */
#define FAULT_MAX_ONCE 32		/* distinct once- points a process remembers */

static char *fault_setting = NULL;
static char fault_done[FAULT_MAX_ONCE][64];
static int	fault_ndone = 0;

/*
 * Copy the action configured for the point into "action"; false if none is.
 */
static bool
fault_lookup(const char *name, char *action, size_t size)
{
	const char *p = fault_setting;
	size_t		namelen = strlen(name);

	while (p != NULL && *p != '\0')
	{
		size_t		len = strcspn(p, ",");

		if (len > namelen && p[namelen] == '=' && strncmp(p, name, namelen) == 0)
		{
			strlcpy(action, p + namelen + 1, Min(size, len - namelen));
			return true;
		}
		p += len;
		p += strspn(p, ", ");
	}
	return false;
}

static bool
fault_first_hit(const char *name)
{
	for (int i = 0; i < fault_ndone; i++)
		if (strcmp(fault_done[i], name) == 0)
			return false;
	if (fault_ndone < FAULT_MAX_ONCE)
		strlcpy(fault_done[fault_ndone++], name, sizeof(fault_done[0]));
	return true;
}

static void
fault_wait(const char *name)
{
	char		action[32];

	while (fault_lookup(name, action, sizeof(action)) &&
		   strstr(action, "wait") != NULL)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 FAULT_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		/* a session that is committing has its interrupts held */
		if (ShutdownRequestPending || ProcDiePending)
			break;
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

/*
 * A use of memory that is not ours.  The block comes from malloc() because no
 * tool sees the boundaries inside a memory context; what is volatile keeps the
 * compiler from noticing.
 */
static void
fault_overflow(void)
{
	volatile size_t size = 16;
	volatile char *block = malloc(size);

	if (block != NULL)
		block[size] = 'x';
	free((void *) block);
}

/* An operation without a defined result; the process goes on. */
static void
fault_undefined(void)
{
	volatile int bits = 40;
	volatile int value = 1;

	value = value << bits;
}

static void
fault_assign(const char *newval, void *extra)
{
	if (newval == NULL)
		return;
	if (strstr(newval, "now=undefined") != NULL)
		fault_undefined();
	if (strstr(newval, "now=overflow") != NULL)
		fault_overflow();
}

void
outbox_fault_hit(const char *name)
{
	char		action[32];
	const char *what = action;

	if (fault_setting == NULL || fault_setting[0] == '\0')
		return;
	if (!fault_lookup(name, action, sizeof(action)))
		return;
	if (strncmp(what, "once-", 5) == 0)
	{
		what += 5;
		if (!fault_first_hit(name))
			return;
	}

	if (strcmp(what, "error") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("fault point \"%s\" was hit", name)));
	if (strcmp(what, "full") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("fault point \"%s\" was hit: no space left on device", name)));
	ereport(LOG,
			(errmsg("fault point \"%s\" is hit: %s", name, what)));
	if (strcmp(what, "kill") == 0)
		kill(getpid(), SIGKILL);
	else if (strcmp(what, "exit") == 0)
		_exit(1);
	else if (strcmp(what, "wait") == 0)
		fault_wait(name);
	else if (strcmp(what, "overflow") == 0)
		fault_overflow();
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized action \"%s\" of fault point \"%s\"",
						what, name)));
}

bool
outbox_fault_refuses(const char *name)
{
	char		action[32];

	if (fault_setting == NULL || !fault_lookup(name, action, sizeof(action)))
		return false;
	if (strcmp(action, "refuse") != 0 &&
		(strcmp(action, "once-refuse") != 0 || !fault_first_hit(name)))
		return false;
	ereport(LOG,
			(errmsg("fault point \"%s\" is hit: refuse", name)));
	return true;
}

void
outbox_fault_init(void)
{
	DefineCustomStringVariable("pg_outbox.fault",
							   "Fault points to trigger (test builds only).",
							   NULL, &fault_setting, "",
							   PGC_SUSET, GUC_NOT_IN_SAMPLE,
							   NULL, fault_assign, NULL);
}

#else

void
outbox_fault_init(void)
{
}

#endif							/* OUTBOX_FAULT_POINTS */
