/*-------------------------------------------------------------------------
 *
 * sweep.c
 *	  Events that speak of a whole topic: TRUNCATE, and the end of a resync.
 *
 * Both say: what is older than this is gone.  Rows and tombstones with older
 * versions are deleted, and the version is kept as the target's floor in
 * outbox._floor, below which every event is stale from then on, whichever
 * partition it comes from and however late.
 *
 * Every partition has a copy of the event.  Of TRUNCATE the first one counts.
 * The end of a resync is acted upon when the copies of all partitions have
 * come, so that no row vanishes while its new version is on the way in another
 * partition; until then outbox._mark notes them.  A mark of a later resync
 * stands for an earlier one, as it comes behind it in its partition.  A topic
 * that got more partitions meanwhile makes no difference: a mark says how many
 * there were when it was sent, and rows of the copy are in no others.
 *
 * Locks.  All stripes of the target exclusively (tombstone.c), so that nobody
 * who has not seen the floor is about to write an older row.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/sweep.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "storage/bufmgr.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "apply/execute.h"
#include "common/catalog.h"
#include "common/fault.h"
#include "worker/limit.h"

#define FLOOR_RELATION "_floor"
#define Anum_floor_version 2

/* ---------------- the floor ---------------- */

static bool
read_floor(Relation rel, Relation index, Oid target, int64 *version)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	IndexScanDesc scan = outbox_index_beginscan(rel, index, snapshot, 1);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ScanKeyData key;
	bool		found;
	bool		seen = true;
	bool		isnull;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(target));
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	if (found)
	{
		*version = DatumGetInt64(slot_getattr(slot, Anum_floor_version, &isnull));
		seen = !IsolationUsesXactSnapshot() ||
			table_tuple_satisfies_snapshot(rel, slot, GetTransactionSnapshot());
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	if (!seen)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent delete"),
				 errdetail("All rows of a replica that were older were deleted after this transaction's snapshot was taken.")));
	return found;
}

int64
outbox_floor_find(Oid target)
{
	Relation	rel = table_open(outbox_relation_oid(FLOOR_RELATION), AccessShareLock);
	int64		version = OUTBOX_NO_FLOOR;

	if (RelationGetNumberOfBlocks(rel) > 0)
	{
		Relation	index;

		(void) RelationGetIndexList(rel);	/* finds rd_pkindex */
		index = index_open(rel->rd_pkindex, AccessShareLock);
		if (!read_floor(rel, index, target, &version))
			version = OUTBOX_NO_FLOOR;
		index_close(index, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
	return version;
}

/* ---------------- our tables ---------------- */

/*
 * Run a statement on our own tables with the rights of their owner, on the
 * newest state: whom the stripes kept waiting may have a snapshot of before.
 */
static void
run_as_owner(const char *sql, int nargs, Oid *argtypes, Datum *args)
{
	OutboxOwnerScope scope;
	SPIPlanPtr	plan;
	int			rc;

	outbox_owner_enter(&scope);
	plan = SPI_prepare(sql, nargs, argtypes);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	rc = SPI_execute_snapshot(plan, args, NULL, GetLatestSnapshot(), InvalidSnapshot,
							  false, true, 0);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
	outbox_owner_leave(&scope);
}

static void
raise_floor(Oid target, int64 version)
{
	Oid			argtypes[] = {REGCLASSOID, INT8OID};
	Datum		args[] = {ObjectIdGetDatum(target), Int64GetDatum(version)};

	run_as_owner("INSERT INTO outbox._floor AS f (target, version) VALUES ($1, $2)"
				 " ON CONFLICT (target) DO UPDATE SET version = excluded.version,"
				 " raised_at = excluded.raised_at WHERE f.version < excluded.version",
				 2, argtypes, args);
	run_as_owner("DELETE FROM outbox._tombstone WHERE target = $1 AND version < $2",
				 2, argtypes, args);
	run_as_owner("DELETE FROM outbox._mark WHERE target = $1 AND version <= $2",
				 2, argtypes, args);
}

/* ---------------- marks ---------------- */

/* A number of digits at *p, which is advanced; false if it is none. */
static bool
parse_number(const char **p, const char *end, int32 *number)
{
	const char *start = *p;
	int64		n = 0;

	for (; *p < end && **p >= '0' && **p <= '9' && *p - start < 10; (*p)++)
		n = n * 10 + (**p - '0');
	*number = (int32) n;
	return *p > start && n <= PG_INT32_MAX;
}

/*
 * "0/4": the first of four.  Without the header the mark stands for all.
 */
static void
parse_mark(const OutboxApplyEvent *ev, int32 *partition, int32 *npartitions)
{
	const char *p = ev->mark;
	const char *end = p + ev->mark_len;

	*partition = 0;
	*npartitions = 1;
	if (p == NULL)
		return;
	if (!parse_number(&p, end, partition) || p >= end || *p++ != '/' ||
		!parse_number(&p, end, npartitions) || p < end || *partition >= *npartitions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid partition \"%s\" of event", pnstrdup(ev->mark, Min(ev->mark_len, 64))),
				 errdetail("Header \"%s\" of an event with operation \"e\" must be which one of how many, as \"0/4\".",
						   OUTBOX_HEADER_PARTITION)));
}

/*
 * Note the mark.  True if those of all partitions have come.
 */
static bool
complete_marks(Oid target, const OutboxApplyEvent *ev)
{
	Oid			argtypes[] = {REGCLASSOID, INT4OID, INT8OID};
	Datum		args[3] = {ObjectIdGetDatum(target), (Datum) 0, Int64GetDatum(ev->version)};
	int32		partition;
	int32		npartitions;
	bool		isnull;

	parse_mark(ev, &partition, &npartitions);
	args[1] = Int32GetDatum(partition);
	run_as_owner("INSERT INTO outbox._mark AS m (target, partition, version) VALUES ($1, $2, $3)"
				 " ON CONFLICT (target, partition) DO UPDATE SET version = excluded.version,"
				 " noted_at = excluded.noted_at WHERE m.version < excluded.version",
				 3, argtypes, args);
	args[1] = Int32GetDatum(npartitions);
	run_as_owner("SELECT count(*) FROM outbox._mark WHERE target = $1 AND partition < $2 AND version >= $3",
				 3, argtypes, args);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) == npartitions;
}

/* ---------------- sweeping ---------------- */

static void
check_version(const OutboxApplyEvent *ev)
{
	if (ev->op == 'e' && !ev->version_explicit)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event has no version"),
				 errdetail("An event with operation \"e\" says in header \"version\" what is older than the resync that it ends.")));
	if (!ev->has_version)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event has no version"),
				 errdetail("An event with operation \"t\" says in header \"version\" or \"id\", an integer, what is older.")));
}

/*
 * Keys of the rows that are to go.  Nobody else's code runs, so there is no
 * limit on how long it takes to look through the table.
 */
static Tuplestorestate *
collect_older(OutboxTarget *target, int64 version)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	DestReceiver *dest = CreateDestReceiver(DestTuplestore);
	ParamListInfo params = makeParamList(1);
	SPIExecuteOptions options;
	int			rc;

	SetTuplestoreDestReceiverParams(dest, store, CurrentMemoryContext, true, NULL, NULL);
	params->params[0].value = Int64GetDatum(version);
	params->params[0].isnull = false;
	params->params[0].pflags = PARAM_FLAG_CONST;
	params->params[0].ptype = INT8OID;
	memset(&options, 0, sizeof(options));
	options.params = params;
	options.dest = dest;
	rc = SPI_execute_plan_extended(outbox_target_older_plan(target), &options);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of a statement: %s", SPI_result_code_string(rc));
	return store;
}

/*
 * Does the target refer to itself, by way of other tables perhaps?
 */
static bool
refers_to_itself(Oid target)
{
	static const char sql[] =
	"WITH RECURSIVE referred (relid) AS ("
	" SELECT confrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid = $1"
	" UNION SELECT c.confrelid FROM referred AS r JOIN pg_catalog.pg_constraint AS c"
	" ON c.conrelid = r.relid AND c.contype = 'f')"
	" SELECT FROM referred WHERE relid = $1";
	Oid			argtypes[] = {OIDOID};
	Datum		args[] = {ObjectIdGetDatum(target)};

	run_as_owner(sql, 1, argtypes, args);
	return SPI_processed > 0;
}

/*
 * Delete the next of the rows by key.  False if there are none.
 */
static bool
delete_some(OutboxTarget *target, Tuplestorestate *keys, TupleTableSlot *slot)
{
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);
	EphemeralNamedRelation enr;
	int			n = 0;

	while (n < OUTBOX_SWEEP_BATCH && tuplestore_gettupleslot(keys, true, false, slot))
	{
		tuplestore_puttupleslot(store, slot);
		n++;
	}
	ExecClearTuple(slot);
	enr = outbox_execute_register(OUTBOX_KEYS_RELATION, target->keys_desc, store);
	if (n > 0)
	{
		SPIPlanPtr	plan = outbox_target_delete_plan(target);

		outbox_execute_plan_by_index(plan);
		outbox_limit_renew(1);
		outbox_execute_on_latest(plan, NULL, true, SPI_OK_DELETE_RETURNING);
		outbox_limit_hold();
		SPI_freetuptable(SPI_tuptable);
	}
	outbox_execute_unregister(enr);
	return n > 0;
}

/*
 * An ordinary DELETE, with the target's triggers and foreign keys.
 */
static void
delete_at_once(OutboxTarget *target, int64 version)
{
	Datum		args[] = {Int64GetDatum(version)};

	outbox_execute_on_latest(outbox_target_sweep_plan(target), args, true, SPI_OK_DELETE);
}

/*
 * The same in small steps, each with the limit to itself: the whole takes as
 * long as it takes.  A row that waits for its turn may be what another one
 * refers to, so that rows that can refer to each other go at once, in as much
 * time as they would have had.
 */
static void
delete_paced(OutboxTarget *target, int64 version)
{
	Tuplestorestate *keys;
	int64		n;

	outbox_limit_hold();
	keys = collect_older(target, version);
	n = tuplestore_tuple_count(keys);
	if (n > OUTBOX_SWEEP_BATCH && refers_to_itself(target->relid))
	{
		outbox_limit_renew((n + OUTBOX_SWEEP_BATCH - 1) / OUTBOX_SWEEP_BATCH);
		delete_at_once(target, version);
		outbox_limit_hold();
	}
	else
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(target->keys_desc, &TTSOpsMinimalTuple);

		while (delete_some(target, keys, slot))
			;
		ExecDropSingleTupleTableSlot(slot);
	}
	tuplestore_end(keys);
}

OutboxApplyResult
outbox_sweep(OutboxTarget *target, const OutboxApplyEvent *ev, bool paced)
{
	int64		floor;

	check_version(ev);
	floor = outbox_floor_find(target->relid);
	if (ev->version <= floor)
		return ev->version == floor ? OUTBOX_APPLY_DUPLICATE : OUTBOX_APPLY_STALE;
	if (ev->op == 'e' && !complete_marks(target->relid, ev))
		return OUTBOX_APPLY_MARKED;
	OUTBOX_FAULT("apply-sweep");
	if (paced)
		delete_paced(target, ev->version);
	else
		delete_at_once(target, ev->version);
	raise_floor(target->relid, ev->version);
	if (paced)
		outbox_limit_renew(1);
	return OUTBOX_APPLY_SWEPT;
}
