/*-------------------------------------------------------------------------
 *
 * tombstone.c
 *	  What is remembered of keys that were deleted, and the locks on keys.
 *
 * A key of a replica has a row or a tombstone, never a newer one of both.
 * The guarded write cannot see a tombstone that is being written at the same
 * moment, so whoever applies an event first locks the stripe that its key
 * hashes to: deletes exclusively, upserts in share mode, because two upserts
 * are decided by the row itself.  The lock is taken before the snapshot of
 * any statement that relies on it, and held to the end of the transaction.
 *
 * Lock tag: LOCKTAG_OBJECT with the class "outbox._tombstone", a relation of
 * ours and not a system catalog, so that neither advisory locks nor locks on
 * any object can meet it.  OUTBOX_LOCK_STRIPES bounds what one transaction
 * takes of the lock table for one target.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/tombstone.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/target.h"
#include "common/catalog.h"

#define TOMBSTONE_RELATION "_tombstone"
#define Anum_tombstone_version 3

struct OutboxTombstoneScan
{
	Oid			target;
	Relation	rel;
	Relation	index;			/* NULL: the table is empty */
	Snapshot	snapshot;
	IndexScanDesc scan;
	TupleTableSlot *slot;
};

void
outbox_tombstone_lock(Oid target, uint64 shared, uint64 exclusive)
{
	Oid			classid = outbox_relation_oid(TOMBSTONE_RELATION);

	for (int stripe = 0; stripe < OUTBOX_LOCK_STRIPES; stripe++)
	{
		uint64		bit = UINT64CONST(1) << stripe;
		LOCKTAG		tag;

		if (((shared | exclusive) & bit) == 0)
			continue;
		SET_LOCKTAG_OBJECT(tag, MyDatabaseId, classid, target, stripe);
		(void) LockAcquire(&tag, (exclusive & bit) ? ExclusiveLock : ShareLock, false, false);
	}
}

OutboxTombstoneScan *
outbox_tombstone_begin(Oid target)
{
	OutboxTombstoneScan *ts = palloc0(sizeof(OutboxTombstoneScan));

	ts->target = target;
	ts->rel = table_open(outbox_relation_oid(TOMBSTONE_RELATION), AccessShareLock);
	if (RelationGetNumberOfBlocks(ts->rel) == 0)
		return ts;

	(void) RelationGetIndexList(ts->rel);	/* finds rd_pkindex */
	ts->index = index_open(ts->rel->rd_pkindex, AccessShareLock);
	ts->snapshot = RegisterSnapshot(GetLatestSnapshot());
	ts->scan = outbox_index_beginscan(ts->rel, ts->index, ts->snapshot, 2);
	ts->slot = table_slot_create(ts->rel, NULL);
	return ts;
}

bool
outbox_tombstone_find(OutboxTombstoneScan *ts, const char *identity,
					  int identity_len, int64 *version)
{
	ScanKeyData keys[2];
	text	   *key;
	bool		found;
	bool		isnull;

	if (ts->index == NULL)
		return false;
	key = cstring_to_text_with_len(identity, identity_len);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(ts->target));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(key));
	index_rescan(ts->scan, keys, 2, NULL, 0);
	found = index_getnext_slot(ts->scan, ForwardScanDirection, ts->slot);
	if (found)
	{
		*version = DatumGetInt64(slot_getattr(ts->slot, Anum_tombstone_version, &isnull));
		if (IsolationUsesXactSnapshot() &&
			!table_tuple_satisfies_snapshot(ts->rel, ts->slot, GetTransactionSnapshot()))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent delete"),
					 errdetail("The key of an event was deleted from its replica after this transaction's snapshot was taken.")));
	}
	pfree(key);
	return found;
}

void
outbox_tombstone_end(OutboxTombstoneScan *ts)
{
	if (ts->index != NULL)
	{
		index_endscan(ts->scan);
		ExecDropSingleTupleTableSlot(ts->slot);
		UnregisterSnapshot(ts->snapshot);
		index_close(ts->index, AccessShareLock);
	}
	table_close(ts->rel, AccessShareLock);
	pfree(ts);
}

static Datum
text_array(char **strings, int n)
{
	Datum	   *elems = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		elems[i] = CStringGetTextDatum(strings[i]);
	return PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Run a statement on our own table with the rights of its owner. */
static void
run_as_owner(const char *sql, int nargs, Oid *argtypes, Datum *args)
{
	OutboxOwnerScope scope;
	int			rc;

	outbox_owner_enter(&scope);
	rc = SPI_execute_with_args(sql, nargs, argtypes, args, NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "could not change tombstones: %s", SPI_result_code_string(rc));
	outbox_owner_leave(&scope);
}

void
outbox_tombstone_put(Oid target, char **identities, const int64 *versions, int n)
{
	static const char sql[] =
	"INSERT INTO outbox._tombstone AS t (target, key, version)"
	" SELECT $1, k, v FROM unnest($2, $3) AS u(k, v)"
	" ON CONFLICT (target, key) DO UPDATE"
	" SET version = excluded.version, deleted_at = excluded.deleted_at"
	" WHERE t.version < excluded.version";
	Oid			argtypes[] = {REGCLASSOID, TEXTARRAYOID, INT8ARRAYOID};
	Datum		args[3];
	Datum	   *elems = palloc(sizeof(Datum) * n);

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
		elems[i] = Int64GetDatum(versions[i]);
	args[0] = ObjectIdGetDatum(target);
	args[1] = text_array(identities, n);
	args[2] = PointerGetDatum(construct_array(elems, n, INT8OID, sizeof(int64),
											  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	run_as_owner(sql, 3, argtypes, args);
}

void
outbox_tombstone_remove(Oid target, char **identities, int n)
{
	static const char sql[] =
	"DELETE FROM outbox._tombstone WHERE target = $1 AND key = ANY ($2)";
	Oid			argtypes[] = {REGCLASSOID, TEXTARRAYOID};
	Datum		args[2];

	if (n == 0)
		return;
	args[0] = ObjectIdGetDatum(target);
	args[1] = text_array(identities, n);
	run_as_owner(sql, 2, argtypes, args);
}
