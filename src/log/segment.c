/*-------------------------------------------------------------------------
 *
 * segment.c
 *	  The event log's tables: writing a row, and emptying by rotation.
 *
 * The log is OUTBOX_LOG_SEGMENTS tables used in turn, but for those that are
 * not empty when their turn comes: one transaction left open holds one of them.
 * Rows are inserted, read and never touched again; a segment whose events have
 * all been settled is emptied as a whole, so that the log never needs a vacuum.
 *
 * Locks.  A writer holds RowExclusiveLock on the segment it writes to until
 * its transaction ends.  Trimming takes AccessExclusiveLock only if that is
 * free at once, and judges under it whether everything is settled: rows of an
 * open transaction cannot be there then.  Which segment is current is only a
 * hint to writers: one that still writes to the former one does no harm.
 *
 * The rows are written straight through the heap and index access methods,
 * and marked as not of interest to logical decoding: a publication FOR ALL
 * TABLES does not replicate the log.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/log.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "common/catalog.h"
#include "log/log_internal.h"
#include "log/stamp.h"

#define PARKED_BLOCKS 128		/* where emptying the parked log begins to pay */

Oid
outbox_segment_table(int segment)
{
	static const char *const names[OUTBOX_LOG_SEGMENTS] = {"_log_0", "_log_1", "_log_2"};

	return outbox_relation_oid(names[segment]);
}

/*
 * Is it the index on xid, or one that REINDEX CONCURRENTLY builds to take its
 * place?  What else somebody creates on a segment is not kept.
 */
static bool
index_is_ours(Relation index)
{
	return index->rd_rel->relam == BTREE_AM_OID &&
		index->rd_index->indnatts == 1 &&
		index->rd_index->indkey.values[0] == LOG_XID + 1 &&
		RelationGetIndexPredicate(index) == NIL;
}

pg_noreturn static void
index_missing(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("relation \"%s.%s\" has no valid index on column \"xid\"",
					OUTBOX_SCHEMA, RelationGetRelationName(rel)),
			 errhint("Run CREATE INDEX ON %s.%s (xid).",
					 OUTBOX_SCHEMA, RelationGetRelationName(rel))));
}

/*
 * The index to read a segment by.  Not by its name: that moves to another one
 * with REINDEX CONCURRENTLY, of which only the relation's own list is told.
 */
Relation
outbox_segment_open_index(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	Relation	found = NULL;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisvalid && index_is_ours(index))
		{
			found = index;
			break;
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	if (found == NULL)
		index_missing(rel);
	return found;
}

int
outbox_segment_current(void)
{
	return (int) (outbox_counter_read(outbox_relation_oid("_log_current")) %
				  OUTBOX_LOG_SEGMENTS);
}

/*
 * False if the index does not take entries yet, or not any more.
 */
static bool
index_add(Relation rel, Relation index, Datum *values, bool *nulls, HeapTuple tup)
{
	IndexInfo  *info = BuildIndexInfo(index);
	bool		ready = info->ii_ReadyForInserts;

	if (ready)
		index_insert(index, values, nulls, &tup->t_self, rel, UNIQUE_CHECK_NO,
					 false, info);
	pfree(info);
	return ready;
}

/*
 * More than one takes entries while REINDEX CONCURRENTLY builds another.
 */
static void
indexes_add(Relation rel, Datum *values, bool *nulls, HeapTuple tup)
{
	List	   *indexes = RelationGetIndexList(rel);
	bool		added = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);

		if (index_is_ours(index))
			added |= index_add(rel, index, values, nulls, tup);
		index_close(index, NoLock);
	}
	list_free(indexes);
	if (!added)
		index_missing(rel);
}

void
outbox_segment_write(int segment, uint64 xid, int64 id, int64 stamp, bytea *events)
{
	Relation	rel = table_open(outbox_segment_table(segment), RowExclusiveLock);
	Datum		values[LOG_NATTS];
	bool		nulls[LOG_NATTS] = {false};
	HeapTuple	tup;

	values[LOG_XID] = FullTransactionIdGetDatum(FullTransactionIdFromU64(xid));
	values[LOG_ID] = Int64GetDatum(id);
	values[LOG_STAMP] = Int64GetDatum(stamp);
	nulls[LOG_STAMP] = (stamp == 0);
	values[LOG_EVENTS] = PointerGetDatum(events);

	tup = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	outbox_push_toast_snapshot();	/* before a commit there is none any more */
	heap_insert(rel, tup, GetCurrentCommandId(true), HEAP_INSERT_NO_LOGICAL, NULL);
	outbox_pop_toast_snapshot();
	indexes_add(rel, values, nulls, tup);
	pgstat_count_heap_insert(rel, 1);

	heap_freetuple(tup);
	table_close(rel, NoLock);
}

int64
outbox_segment_size(int segment)
{
	return DatumGetInt64(DirectFunctionCall1(pg_total_relation_size,
											 ObjectIdGetDatum(outbox_segment_table(segment))));
}

static bool
segment_is_empty(Relation rel)
{
	return RelationGetNumberOfBlocks(rel) == 0;
}

/*
 * Does the index hold an entry for a row that is committed and not settled?
 * "strategy" and "xid" say where to look.
 */
static bool
segment_holds(Relation rel, Relation index, StrategyNumber strategy, uint64 xid,
			  const OutboxSnapshot *base)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tup;
	bool		found = false;

	ScanKeyInit(&key, LOG_XID + 1, strategy,
				strategy == BTEqualStrategyNumber ? F_XID8EQ : F_XID8GE,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
	scan = systable_beginscan_ordered(rel, index, GetActiveSnapshot(), 1, &key);
	while (!found && (tup = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		Datum		d = heap_getattr(tup, LOG_XID + 1, RelationGetDescr(rel), &isnull);

		found = !outbox_snapshot_ended(base, U64FromFullTransactionId(DatumGetFullTransactionId(d)));
	}
	systable_endscan_ordered(scan);
	return found;
}

/*
 * Of transactions that are still open nothing can be seen; they may have many
 * rows, which are not looked at.
 */
static bool
segment_settled(Relation rel, Relation index, const OutboxSnapshot *base,
				const OutboxSnapshot *now)
{
	if (segment_holds(rel, index, BTGreaterEqualStrategyNumber, base->xmax, base))
		return false;
	for (int i = 0; i < base->nxip; i++)
		if (outbox_snapshot_ended(now, base->xip[i]) &&
			segment_holds(rel, index, BTEqualStrategyNumber, base->xip[i], base))
			return false;
	return true;
}

bool
outbox_segment_settled(int segment, OutboxSnapshot *const *bases, int nbases)
{
	Relation	rel = table_open(outbox_segment_table(segment), AccessShareLock);
	Relation	index = outbox_segment_open_index(rel);
	OutboxSnapshot *now = outbox_snapshot_from(GetActiveSnapshot());
	bool		settled = true;

	for (int i = 0; i < nbases && settled; i++)
		settled = segment_settled(rel, index, bases[i], now);
	pfree(now);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return settled;
}

/*
 * Give the table new, empty files.  Unlike TRUNCATE this is no event for
 * logical replication.
 */
void
outbox_table_empty(Relation rel)
{
	ReindexParams params = {0};
	Oid			toastid = rel->rd_rel->reltoastrelid;

	RelationSetNewRelfilenumber(rel, rel->rd_rel->relpersistence);
	if (OidIsValid(toastid))
	{
		Relation	toast = table_open(toastid, AccessExclusiveLock);

		RelationSetNewRelfilenumber(toast, toast->rd_rel->relpersistence);
		table_close(toast, NoLock);
	}
	outbox_reindex_relation(RelationGetRelid(rel), REINDEX_REL_PROCESS_TOAST, &params);
	pgstat_count_truncate(rel);
}

/*
 * What would come of trimming; OUTBOX_TRIM_DONE: it can be emptied.
 */
static OutboxTrimResult
segment_judge(int segment, Relation rel, OutboxSnapshot *const *bases, int nbases)
{
	OutboxTrimResult result = OUTBOX_TRIM_DONE;

	PushActiveSnapshot(GetLatestSnapshot());
	if (segment_is_empty(rel))
		result = OUTBOX_TRIM_EMPTY;
	else if (!outbox_segment_settled(segment, bases, nbases))
		result = OUTBOX_TRIM_NEEDED;
	PopActiveSnapshot();
	return result;
}

/*
 * The strong lock takes a transaction id and a WAL record, and standbys replay
 * it: it is not asked for before there is something to do.
 */
OutboxTrimResult
outbox_segment_trim(int segment, OutboxSnapshot *const *bases, int nbases)
{
	Oid			relid = outbox_segment_table(segment);
	Relation	rel = table_open(relid, AccessShareLock);
	OutboxTrimResult result = segment_judge(segment, rel, bases, nbases);

	table_close(rel, AccessShareLock);
	if (result != OUTBOX_TRIM_DONE)
		return result;
	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return OUTBOX_TRIM_BUSY;

	rel = table_open(relid, NoLock);
	result = segment_judge(segment, rel, bases, nbases);
	if (result == OUTBOX_TRIM_DONE)
		outbox_table_empty(rel);
	table_close(rel, NoLock);
	return result;
}

/*
 * Has the table at least so many blocks?
 */
bool
outbox_table_has_blocks(Oid relid, BlockNumber nblocks)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		result = RelationGetNumberOfBlocks(rel) >= nblocks;

	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Parked events are rows that are deleted one by one; what they leave is given
 * back at once when all are gone, not when vacuum comes.
 */
void
outbox_parked_trim(void)
{
	Oid			relid = outbox_relation_oid("_parked");
	Relation	rel;
	TableScanDesc scan;
	bool		empty;

	if (!outbox_table_has_blocks(relid, PARKED_BLOCKS) ||
		!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return;
	rel = table_open(relid, NoLock);
	PushActiveSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	empty = heap_getnext(scan, ForwardScanDirection) == NULL;
	table_endscan(scan);
	if (empty)
		outbox_table_empty(rel);
	PopActiveSnapshot();
	table_close(rel, NoLock);
}

int64
outbox_parked_size(void)
{
	return DatumGetInt64(DirectFunctionCall1(pg_total_relation_size,
											 ObjectIdGetDatum(outbox_relation_oid("_parked"))));
}

/*
 * The segment whose turn it is may be held by a transaction that stays open;
 * then the log goes on in the one after it.
 */
bool
outbox_segment_advance(void)
{
	Oid			counter = outbox_relation_oid("_log_current");
	int64		current = outbox_counter_read(counter);

	for (int64 next = current + 1; next < current + OUTBOX_LOG_SEGMENTS; next++)
	{
		Relation	rel = table_open(outbox_segment_table(next % OUTBOX_LOG_SEGMENTS),
									 AccessShareLock);
		bool		empty = segment_is_empty(rel);

		table_close(rel, AccessShareLock);
		if (empty)
		{
			outbox_counter_set(counter, next);
			return true;
		}
	}
	return false;
}
