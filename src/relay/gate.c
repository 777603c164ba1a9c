/*-------------------------------------------------------------------------
 *
 * gate.c
 *	  pg_outbox.wait_for_standbys: what is published survives a failover.
 *
 * A standby that is promoted may lack transactions whose events are in Kafka
 * already.  With the gate on, a flow sends nothing of a batch before so many
 * standbys have flushed the WAL up to a bound, which is where WAL was being
 * inserted just after the batch's snapshot was taken: a transaction is visible
 * only after its commit record was inserted, so no commit that the snapshot
 * sees lies behind the bound.  Writers wait for nothing.
 *
 * A standby is a process that streams WAL from here, replays it and says how
 * much of it is on its disk.  The positions are read out of the walsenders'
 * shared memory, each under its spinlock; while a flow waits it looks again
 * after pauses that grow from a millisecond to a tenth of a second, and holds
 * no transaction, snapshot or lock.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xlog.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/spin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define PAUSE_MIN_MS 1
#define PAUSE_MAX_MS 100

static int	wait_for_standbys = 0;

/* ---------------- the standbys ---------------- */

/*
 * Is it a standby?  pg_receivewal and pg_basebackup replay nothing; a
 * subscriber of logical replication is the only one with a database.
 */
static bool
is_standby(pid_t pid, WalSndState state, XLogRecPtr flush, XLogRecPtr apply)
{
	PGPROC	   *proc;

	if (pid == 0 || XLogRecPtrIsInvalid(flush) || XLogRecPtrIsInvalid(apply) ||
		state == WALSNDSTATE_STARTUP || state == WALSNDSTATE_BACKUP)
		return false;
	proc = BackendPidGetProc(pid);
	return proc != NULL && !OidIsValid(proc->databaseId);
}

/*
 * How many standbys have flushed WAL up to "lsn", and how many there are.
 */
static int
count_flushed(XLogRecPtr lsn, int *nstandbys)
{
	int			nflushed = 0;

	*nstandbys = 0;
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *walsnd = &WalSndCtl->walsnds[i];
		pid_t		pid;
		WalSndState state;
		XLogRecPtr	flush;
		XLogRecPtr	apply;

		SpinLockAcquire(&walsnd->mutex);
		pid = walsnd->pid;
		state = walsnd->state;
		flush = walsnd->flush;
		apply = walsnd->apply;
		SpinLockRelease(&walsnd->mutex);

		if (!is_standby(pid, state, flush, apply))
			continue;
		(*nstandbys)++;
		if (flush >= lsn)
			nflushed++;
	}
	return nflushed;
}

/* ---------------- the gate of a flow ---------------- */

static void
gate_close(RelayFlow *flow)
{
	flow->gate_lsn = outbox_place_record_end(GetXLogInsertRecPtr());
	flow->gate_pause_ms = 0;

	/* WAL that only open transactions wrote is flushed by nobody else */
	XLogFlush(flow->gate_lsn);
}

static void
gate_open(RelayFlow *flow)
{
	flow->gate_passed = flow->gate_lsn;
	flow->gate_lsn = InvalidXLogRecPtr;
	if (flow->gate_reason != NULL)
		pfree(flow->gate_reason);
	flow->gate_reason = NULL;
}

/*
 * The flow is going to read events that became visible at the latest now.
 */
void
outbox_gate_close(RelayFlow *flow)
{
	if (wait_for_standbys > 0)
		gate_close(flow);
}

static void
gate_wait(RelayFlow *flow, int nflushed, int nstandbys)
{
	bool		long_since = flow->gate_pause_ms == PAUSE_MAX_MS;

	flow->gate_pause_ms = Min(Max(flow->gate_pause_ms * 2, PAUSE_MIN_MS), PAUSE_MAX_MS);
	flow->gate_look_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), flow->gate_pause_ms);
	if (!long_since)
		return;					/* not worth telling yet */
	if (flow->gate_reason != NULL)
		pfree(flow->gate_reason);
	flow->gate_reason = MemoryContextStrdup(TopMemoryContext,
											psprintf("%d of %d standbys have flushed WAL up to %X/%X, %d are streaming",
													 nflushed, wait_for_standbys,
													 LSN_FORMAT_ARGS(flow->gate_lsn), nstandbys));
}

/*
 * May the flow send what it has read?  What was read while fewer standbys
 * were asked for has to pass as well, parked events included: so raising the
 * number, like the first look, closes the gate at the present end of the WAL.
 */
bool
outbox_gate_passes(RelayFlow *flow)
{
	int			nflushed;
	int			nstandbys;

	if (flow->gate_standbys < wait_for_standbys)
		gate_close(flow);
	flow->gate_standbys = wait_for_standbys;
	if (XLogRecPtrIsInvalid(flow->gate_lsn))
		return true;

	nflushed = count_flushed(flow->gate_lsn, &nstandbys);
	if (nflushed >= wait_for_standbys)
	{
		gate_open(flow);
		return true;
	}
	if (GetCurrentTimestamp() >= flow->gate_look_at)
		gate_wait(flow, nflushed, nstandbys);
	return false;
}

/*
 * Have the standbys WAL up to here?  For what need not wait for all that was read
 * since: where the gate is closed, it is for something later.
 */
bool
outbox_gate_has(RelayFlow *flow, XLogRecPtr lsn)
{
	int			nstandbys;

	if (wait_for_standbys == 0 || lsn <= flow->gate_passed)
		return true;
	if (XLogRecPtrIsInvalid(flow->gate_lsn))
	{
		flow->gate_lsn = lsn;
		flow->gate_pause_ms = 0;
	}
	return outbox_gate_passes(flow) || count_flushed(lsn, &nstandbys) >= wait_for_standbys;
}

/*
 * When to look again; 0: the gate is open.
 */
TimestampTz
outbox_gate_look_at(const RelayFlow *flow)
{
	return XLogRecPtrIsInvalid(flow->gate_lsn) ? 0 : flow->gate_look_at;
}

void
outbox_gate_init(void)
{
	DefineCustomIntVariable("pg_outbox.wait_for_standbys",
							"Number of standbys that must have flushed an event before it is published.",
							"Standbys are those that stream from this server. Writers do not wait.",
							&wait_for_standbys, 0, 0, 1000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}
