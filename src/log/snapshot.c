/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *	  Snapshots as values: which transactions had ended at some moment.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/snapshot.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "lib/stringinfo.h"

#define SNAPSHOT_SIZE(n) (offsetof(OutboxSnapshot, xip) + sizeof(uint64) * (n))

static int
xid_compare(const void *a, const void *b)
{
	uint64		xa = *(const uint64 *) a;
	uint64		xb = *(const uint64 *) b;

	return (xa > xb) - (xa < xb);
}

/*
 * A transaction of a snapshot is of the epoch of "next" or of the one before;
 * "next" must have been read after the snapshot was taken.
 */
static uint64
widen_xid(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xid));
}

uint64
outbox_xid_widen(TransactionId xid)
{
	return widen_xid(xid, ReadNextFullTransactionId());
}

OutboxSnapshot *
outbox_snapshot_from(Snapshot snapshot)
{
	FullTransactionId next = ReadNextFullTransactionId();
	OutboxSnapshot *snap = palloc(SNAPSHOT_SIZE(snapshot->xcnt));

	Assert(!snapshot->takenDuringRecovery);
	snap->lsn = GetXLogInsertRecPtr();
	snap->xmin = widen_xid(snapshot->xmin, next);
	snap->xmax = widen_xid(snapshot->xmax, next);
	snap->nxip = snapshot->xcnt;
	for (int i = 0; i < snap->nxip; i++)
		snap->xip[i] = widen_xid(snapshot->xip[i], next);
	qsort(snap->xip, snap->nxip, sizeof(uint64), xid_compare);
	return snap;
}

OutboxSnapshot *
outbox_snapshot_empty(void)
{
	OutboxSnapshot *snap = palloc(SNAPSHOT_SIZE(0));

	snap->lsn = InvalidXLogRecPtr;
	snap->xmin = snap->xmax = FirstNormalTransactionId;
	snap->nxip = 0;
	return snap;
}

OutboxSnapshot *
outbox_snapshot_copy(const OutboxSnapshot *snap)
{
	OutboxSnapshot *copy = palloc(SNAPSHOT_SIZE(snap->nxip));

	memcpy(copy, snap, SNAPSHOT_SIZE(snap->nxip));
	return copy;
}

bool
outbox_snapshot_ended(const OutboxSnapshot *snap, uint64 xid)
{
	if (xid < snap->xmin)
		return true;
	if (xid >= snap->xmax)
		return false;
	return bsearch(&xid, snap->xip, snap->nxip, sizeof(uint64), xid_compare) == NULL;
}

char *
outbox_snapshot_out(const OutboxSnapshot *snap)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, UINT64_FORMAT ":" UINT64_FORMAT ":", snap->xmin, snap->xmax);
	for (int i = 0; i < snap->nxip; i++)
		appendStringInfo(&buf, "%s" UINT64_FORMAT, i > 0 ? "," : "", snap->xip[i]);
	return buf.data;
}

/*
 * The string comes from a pg_snapshot column, whose input function checked it.
 */
OutboxSnapshot *
outbox_snapshot_in(const char *str)
{
	OutboxSnapshot *snap;
	char	   *p;
	int			n = 1;

	for (const char *c = str; *c != '\0'; c++)
		n += (*c == ',');
	snap = palloc(SNAPSHOT_SIZE(n));
	snap->lsn = InvalidXLogRecPtr;
	snap->xmin = strtou64(str, &p, 10);
	snap->xmax = strtou64(p + 1, &p, 10);
	snap->nxip = 0;
	while (*p != '\0' && p[1] != '\0')
		snap->xip[snap->nxip++] = strtou64(p + 1, &p, 10);
	return snap;
}
