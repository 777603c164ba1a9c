/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  Relay's side of the event log: what became visible between two moments.
 *
 * A batch is what snapshot "target" sees and snapshot "base" does not.  Its
 * rows are those of transactions at or above base's xmax, and of those that
 * base lists as in progress, found by the index on xid; neither a writer that
 * stays open nor a gap in the ids matters.
 *
 * Only references are collected and sorted; the rows are fetched later by their
 * place, a page of them at a time and each time in a transaction of its own.
 * No lock outlives that, and although we never move a row, VACUUM FULL and
 * CLUSTER do: so the row found must be the one that was meant.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/log.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "log/log_internal.h"

/* References while they are collected. */
typedef struct Collector
{
	const OutboxSnapshot *base;
	const OutboxSnapshot *target;
	int64		stamp;			/* position: what is at or below is skipped */
	int64		id;
	int64		limit;
	OutboxLogRef *refs;
	int64		nrefs;
	int64		maxrefs;
	bool		truncated;
	XLogRecPtr	flush_lsn;
	/* rows of the transaction being read, from group_start on */
	uint64		group_xid;
	int64		group_start;
	int			group_open;		/* rows that lack a stamp */
	int			segment;
} Collector;

static int
ref_compare(const void *a, const void *b)
{
	const OutboxLogRef *ra = a;
	const OutboxLogRef *rb = b;

	if (ra->stamp != rb->stamp)
		return ra->stamp < rb->stamp ? -1 : 1;
	return (ra->id > rb->id) - (ra->id < rb->id);
}

/*
 * Keep the first "limit" references.
 */
static void
collector_cut(Collector *col)
{
	qsort(col->refs, col->nrefs, sizeof(OutboxLogRef), ref_compare);
	if (col->nrefs > col->limit)
	{
		col->nrefs = col->limit;
		col->truncated = true;
	}
}

/*
 * Give the rows that were written before the commit stamp was known the stamp
 * of a later row of their transaction.  The smallest stamp beyond a row's id
 * is the one: the ids and the stamps are sorted by turns, as a transaction can
 * have as many rows as memory holds.
 */
static void
collector_complete_stamps(Collector *col)
{
	OutboxLogRef *refs = col->refs + col->group_start;
	int64		nrefs = col->nrefs - col->group_start;
	int64		next;

	/* rows without a stamp come first, by id, then the others by stamp */
	qsort(refs, nrefs, sizeof(OutboxLogRef), ref_compare);
	next = col->group_open;
	for (int64 i = 0; i < col->group_open; i++)
	{
		while (next < nrefs && refs[next].stamp <= refs[i].id)
			next++;
		if (next < nrefs)
			refs[i].stamp = refs[next].stamp;
	}
}

/*
 * Complete the transaction's rows and drop what is already done.
 *
 * A row can be done only in part: its id is that of its first event.  So of a
 * transaction at the very position the last row at or before it stays; its
 * reader skips the events one by one.
 */
static void
collector_end_group(Collector *col)
{
	int64		kept = col->group_start;
	int64		partial = -1;

	if (col->group_open > 0)
		collector_complete_stamps(col);
	for (int64 i = col->group_start; i < col->nrefs; i++)
	{
		OutboxLogRef ref = col->refs[i];

		if (ref.stamp == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("transaction " UINT64_FORMAT " has no commit stamp in the event log",
							col->group_xid)));
		if (ref.stamp < col->stamp)
			continue;
		if (ref.stamp == col->stamp && ref.id <= col->id)
		{
			if (partial >= 0)
			{
				if (col->refs[partial].id < ref.id)
					col->refs[partial] = ref;
				continue;
			}
			partial = kept;
		}
		col->refs[kept++] = ref;
	}
	col->nrefs = kept;
	col->group_start = kept;
	col->group_open = 0;
}

/*
 * What is to be flushed for the transaction's commit to be on disk.
 *
 * Of old transactions the server forgets whether they committed, and asking
 * would be an error: their rows have been frozen, which autovacuum does even
 * where it is turned off.  Such a commit was flushed long ago.
 */
static XLogRecPtr
commit_lsn(uint64 xid)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	FullTransactionId next;
	uint64		oldest;

	LWLockAcquire(XactTruncationLock, LW_SHARED);
	next = ReadNextFullTransactionId();
	oldest = U64FromFullTransactionId(next) -
		(uint32) (XidFromFullTransactionId(next) - TransamVariables->oldestClogXid);
	if (xid >= oldest)
		lsn = TransactionIdGetCommitLSN((TransactionId) xid);
	LWLockRelease(XactTruncationLock);
	return lsn;
}

static void
collector_add(Collector *col, HeapTuple tup, TupleDesc desc, uint64 xid)
{
	OutboxLogRef *ref;
	bool		isnull;
	Datum		d;

	if (xid != col->group_xid)
	{
		collector_end_group(col);
		if (col->nrefs >= 2 * col->limit)
		{
			collector_cut(col);
			col->group_start = col->nrefs;
		}
		col->group_xid = xid;
		col->flush_lsn = Max(col->flush_lsn, commit_lsn(xid));
	}
	if (col->nrefs == col->maxrefs)
	{
		col->maxrefs = Max(1024, col->maxrefs * 2);
		col->refs = col->refs == NULL ?
			palloc(sizeof(OutboxLogRef) * col->maxrefs) :
			repalloc_huge(col->refs, sizeof(OutboxLogRef) * col->maxrefs);
	}
	ref = &col->refs[col->nrefs++];
	ref->id = DatumGetInt64(heap_getattr(tup, LOG_ID + 1, desc, &isnull));
	d = heap_getattr(tup, LOG_STAMP + 1, desc, &isnull);
	ref->stamp = isnull ? 0 : DatumGetInt64(d);
	if (ref->stamp == 0)
		col->group_open++;
	ref->tid = tup->t_self;
	ref->segment = col->segment;
}

/*
 * Collect the rows of one transaction (BTEqual) or of all from one on.
 */
static void
collect_range(Collector *col, Relation rel, Relation index,
			  StrategyNumber strategy, uint64 xid)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tup;
	TupleDesc	desc = RelationGetDescr(rel);

	ScanKeyInit(&key, LOG_XID + 1, strategy,
				strategy == BTEqualStrategyNumber ? F_XID8EQ : F_XID8GE,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
	scan = systable_beginscan_ordered(rel, index, GetActiveSnapshot(), 1, &key);
	while ((tup = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		Datum		d = heap_getattr(tup, LOG_XID + 1, desc, &isnull);
		uint64		rowxid = U64FromFullTransactionId(DatumGetFullTransactionId(d));

		CHECK_FOR_INTERRUPTS();
		if (outbox_snapshot_ended(col->target, rowxid))
			collector_add(col, tup, desc, rowxid);
	}
	systable_endscan_ordered(scan);
	collector_end_group(col);
	col->group_xid = 0;
}

static void
collect_segment(Collector *col, int segment)
{
	Relation	rel = table_open(outbox_segment_table(segment), AccessShareLock);
	Relation	index = outbox_segment_open_index(rel);

	col->segment = segment;
	if (RelationGetNumberOfBlocks(rel) > 0)
	{
		for (int i = 0; i < col->base->nxip; i++)
			if (outbox_snapshot_ended(col->target, col->base->xip[i]))
				collect_range(col, rel, index, BTEqualStrategyNumber, col->base->xip[i]);
		if (col->base->xmax < col->target->xmax)
			collect_range(col, rel, index, BTGreaterEqualStrategyNumber, col->base->xmax);
	}
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

OutboxLogBatch *
outbox_log_collect(const OutboxSnapshot *base, const OutboxSnapshot *target,
				   int64 stamp, int64 id, int64 limit)
{
	Collector	col;
	OutboxLogBatch *batch = palloc0(sizeof(OutboxLogBatch));

	memset(&col, 0, sizeof(col));
	col.base = base;
	col.target = target;
	col.stamp = stamp;
	col.id = id;
	col.limit = limit;
	for (int segment = 0; segment < OUTBOX_LOG_SEGMENTS; segment++)
		collect_segment(&col, segment);
	collector_cut(&col);

	batch->refs = col.refs;
	batch->nrefs = col.nrefs;
	batch->truncated = col.truncated;
	batch->flush_lsn = col.flush_lsn;
	return batch;
}

/* ---------------- fetching ---------------- */

void
outbox_log_fetch_begin(OutboxLogFetch *fetch)
{
	fetch->segment = -1;
}

void
outbox_log_fetch_end(OutboxLogFetch *fetch)
{
	if (fetch->segment < 0)
		return;
	ExecDropSingleTupleTableSlot(fetch->slot);
	table_close(fetch->rel, AccessShareLock);
	fetch->segment = -1;
}

/*
 * Have the segment open.  Its lock is held until the next one is opened, so
 * that rows cannot move, nor its size shrink, in between.
 */
static void
fetch_open(OutboxLogFetch *fetch, int segment)
{
	if (fetch->segment == segment)
		return;
	outbox_log_fetch_end(fetch);
	fetch->rel = table_open(outbox_segment_table(segment), AccessShareLock);
	fetch->slot = table_slot_create(fetch->rel, NULL);
	fetch->nblocks = RelationGetNumberOfBlocks(fetch->rel);
	fetch->segment = segment;
}

/*
 * A row that was written early has no stamp of its own; the id alone tells
 * rows apart.
 */
bytea *
outbox_log_fetch(OutboxLogFetch *fetch, const OutboxLogRef *ref)
{
	ItemPointerData tid = ref->tid;
	bytea	   *events = NULL;
	bool		isnull;

	fetch_open(fetch, ref->segment);
	if (ItemPointerGetBlockNumber(&tid) >= fetch->nblocks ||
		!table_tuple_fetch_row_version(fetch->rel, &tid, GetActiveSnapshot(), fetch->slot))
		return NULL;
	if (DatumGetInt64(slot_getattr(fetch->slot, LOG_ID + 1, &isnull)) == ref->id)
		events = DatumGetByteaPCopy(slot_getattr(fetch->slot, LOG_EVENTS + 1, &isnull));
	ExecClearTuple(fetch->slot);
	return events;
}
