/*-------------------------------------------------------------------------
 *
 * position.c
 *	  How far each server's relay has come, kept without updating a row.
 *
 * A position is one more row in outbox._position_0 or _1; the row with the
 * largest seq counts.  When the table in use has grown, the newest rows are
 * written to the other one and it is emptied, so that a relay that settles a
 * thousand times a second leaves no dead row, whatever snapshot others hold.
 *
 * Only the relay writes here (one per database), so no lock is needed beyond
 * the tables' own.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/log.h"

#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "log/log_internal.h"
#include "log/stamp.h"

/* columns of outbox._position_N, from 0 */
#define POS_SEQ 0
#define POS_SERVER 1
#define POS_BASE 2
#define POS_TARGET 3
#define POS_STAMP 4
#define POS_ID 5
#define POS_EVENTS 6
#define POS_AT 7
#define POS_BASE_LSN 8
#define POS_TARGET_LSN 9
#define POS_NATTS 10

#define POSITION_TABLE_BLOCKS 128	/* 1 MB: time to compact */

static Oid
position_table(int which)
{
	return outbox_relation_oid(which == 0 ? "_position_0" : "_position_1");
}

static int	current_table = -1; /* where the next row goes; -1: not known */

static char *
position_server(HeapTuple tup, TupleDesc desc)
{
	bool		isnull;

	return TextDatumGetCString(heap_getattr(tup, POS_SERVER + 1, desc, &isnull));
}

static int64
position_int64(HeapTuple tup, TupleDesc desc, int column)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tup, column + 1, desc, &isnull));
}

/*
 * A copy that outlives the table's contents: a large snapshot may lie in its
 * TOAST table.
 */
static HeapTuple
copy_row(HeapTuple tup, TupleDesc desc)
{
	return HeapTupleHasExternal(tup) ? toast_flatten_tuple(tup, desc) : heap_copytuple(tup);
}

/*
 * Newest row of each server, of both tables: a list of copied tuples.  Also
 * learns which table is in use.
 */
static List *
newest_rows(TupleDesc *desc)
{
	List	   *rows = NIL;
	int64		newest = -1;

	for (int which = 0; which < 2; which++)
	{
		Relation	rel = table_open(position_table(which), AccessShareLock);
		TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
		HeapTuple	tup;

		*desc = CreateTupleDescCopy(RelationGetDescr(rel));
		while ((tup = heap_getnext(scan, ForwardScanDirection)) != NULL)
		{
			int64		seq = position_int64(tup, *desc, POS_SEQ);
			char	   *server = position_server(tup, *desc);
			ListCell   *lc;

			foreach(lc, rows)
			{
				HeapTuple	other = lfirst(lc);

				if (strcmp(position_server(other, *desc), server) != 0)
					continue;
				if (position_int64(other, *desc, POS_SEQ) < seq)
					lfirst(lc) = copy_row(tup, *desc);
				break;
			}
			if (lc == NULL)
				rows = lappend(rows, copy_row(tup, *desc));
			if (seq > newest)
			{
				newest = seq;
				current_table = which;
			}
		}
		table_endscan(scan);
		table_close(rel, AccessShareLock);
	}
	if (current_table < 0)
		current_table = 0;
	return rows;
}

static OutboxSnapshot *
snapshot_from_datum(Datum d)
{
	return outbox_snapshot_in(DatumGetCString(DirectFunctionCall1(pg_snapshot_out, d)));
}

static Datum
snapshot_to_datum(const OutboxSnapshot *snap)
{
	return DirectFunctionCall1(pg_snapshot_in,
							   CStringGetDatum(outbox_snapshot_out(snap)));
}

bool
outbox_position_load(const char *server, OutboxPosition *pos)
{
	TupleDesc	desc;
	ListCell   *lc;

	foreach(lc, newest_rows(&desc))
	{
		HeapTuple	tup = lfirst(lc);
		bool		isnull;
		Datum		d;

		if (strcmp(position_server(tup, desc), server) != 0)
			continue;
		d = heap_getattr(tup, POS_BASE + 1, desc, &isnull);
		pos->base = snapshot_from_datum(d);
		d = heap_getattr(tup, POS_TARGET + 1, desc, &isnull);
		pos->target = isnull ? NULL : snapshot_from_datum(d);
		pos->base->lsn = (XLogRecPtr) position_int64(tup, desc, POS_BASE_LSN);
		if (pos->target != NULL)
			pos->target->lsn = (XLogRecPtr) position_int64(tup, desc, POS_TARGET_LSN);
		pos->stamp = position_int64(tup, desc, POS_STAMP);
		pos->id = position_int64(tup, desc, POS_ID);
		pos->events = position_int64(tup, desc, POS_EVENTS);
		pos->at = position_int64(tup, desc, POS_AT);
		return true;
	}
	return false;
}

List *
outbox_position_servers(void)
{
	List	   *servers = NIL;
	TupleDesc	desc;
	ListCell   *lc;

	foreach(lc, newest_rows(&desc))
		servers = lappend(servers, position_server(lfirst(lc), desc));
	return servers;
}

void
outbox_position_store(const char *server, const OutboxPosition *pos)
{
	Datum		values[POS_NATTS];
	bool		nulls[POS_NATTS] = {false};
	TupleDesc	desc;
	Relation	rel;

	if (current_table < 0)
		(void) newest_rows(&desc);

	values[POS_SEQ] = Int64GetDatum(outbox_stamp_next());
	values[POS_SERVER] = CStringGetTextDatum(server);
	values[POS_BASE] = snapshot_to_datum(pos->base);
	nulls[POS_TARGET] = (pos->target == NULL);
	nulls[POS_TARGET_LSN] = (pos->target == NULL);
	values[POS_BASE_LSN] = LSNGetDatum(pos->base->lsn);
	if (pos->target != NULL)
	{
		values[POS_TARGET] = snapshot_to_datum(pos->target);
		values[POS_TARGET_LSN] = LSNGetDatum(pos->target->lsn);
	}
	values[POS_STAMP] = Int64GetDatum(pos->stamp);
	values[POS_ID] = Int64GetDatum(pos->id);
	values[POS_EVENTS] = Int64GetDatum(pos->events);
	values[POS_AT] = TimestampTzGetDatum(pos->at);

	rel = table_open(position_table(current_table), RowExclusiveLock);
	heap_insert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls),
				GetCurrentCommandId(true), HEAP_INSERT_NO_LOGICAL, NULL);
	table_close(rel, NoLock);
}

/*
 * The rows move with the transaction that empties the old table: a crash
 * leaves either state, never both or neither.
 */
void
outbox_position_compact(void)
{
	TupleDesc	desc;
	List	   *rows;
	ListCell   *lc;
	Relation	from;
	Relation	to;

	if (current_table < 0)
		(void) newest_rows(&desc);
	if (!outbox_table_has_blocks(position_table(current_table), POSITION_TABLE_BLOCKS) ||
		!ConditionalLockRelationOid(position_table(current_table), AccessExclusiveLock))
		return;
	from = table_open(position_table(current_table), NoLock);
	if (!ConditionalLockRelationOid(position_table(1 - current_table), AccessExclusiveLock))
	{
		table_close(from, AccessExclusiveLock);
		return;
	}
	to = table_open(position_table(1 - current_table), NoLock);
	rows = newest_rows(&desc);
	outbox_table_empty(to);
	foreach(lc, rows)
		heap_insert(to, lfirst(lc), GetCurrentCommandId(true),
					HEAP_INSERT_NO_LOGICAL, NULL);
	outbox_table_empty(from);
	current_table = -1;			/* to be learned again, also if this is undone */
	table_close(to, NoLock);
	table_close(from, NoLock);
}
