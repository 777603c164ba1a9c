/*-------------------------------------------------------------------------
 *
 * copy_rows.c
 *	  Reading the rows of a copy, and the versions they are published with.
 *
 * Versions.  A row that is read must not outrank a change that was stamped
 * before and is not committed yet.  The ids of a chunk are taken before its
 * snapshot.  A row version without an updater at the time it was read can only
 * be changed by a transaction that stamps its change later: its id is its
 * version.
 *
 * If an updater is there, or came since, it may have stamped before us.  The
 * event then carries, in header "version", the stamp at which capture of the
 * publication began, which every captured change exceeds: the change wins, and
 * a replica that has nothing gets the row.  And the row is pending: when the
 * updater has ended it is looked up by its identity and published once more,
 * as it is then, with the id of the first reading as its version.  That is
 * right whatever happened meanwhile.  The version read was live after that id
 * was taken, so of all changes that follow it only its updater's can have been
 * stamped before the id; who changed the row later has a larger stamp, and an
 * event of his own.  (A resync has waited for whoever stamped before its floor:
 * there the event carries the floor, see copy.c.)  So a row waits for one transaction, once, however often it
 * is changed.
 *
 * Keys are written down as their type's output, and read in the order of the
 * type's default operator class and of the column's collation.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/copy.h"

#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/stratnum.h"
#include "access/subtrans.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "common/fault.h"
#include "log/snapshot.h"
#include "log/stamp.h"

#define CHUNK_BYTES (4 * 1024 * 1024)

/* What is read of a row. */
#define ROW_COLUMNS "(r.*)::%s, r.ctid, r.xmax, r.tableoid"

/* ---------------- keys ---------------- */

static char *
collation_clause(Oid collation)
{
	HeapTuple	tup;
	Form_pg_collation form;
	char	   *clause;

	if (!OidIsValid(collation))
		return "";
	tup = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tup);
	clause = psprintf(" COLLATE %s",
					  quote_qualified_identifier(get_namespace_name(form->collnamespace),
												 NameStr(form->collname)));
	ReleaseSysCache(tup);
	return clause;
}

static Oid
member_operator(TypeCacheEntry *type, StrategyNumber strategy)
{
	Oid			op = get_opfamily_member(type->btree_opf, type->btree_opintype,
										 type->btree_opintype, strategy);

	if (!OidIsValid(op))
		elog(ERROR, "operator class of type %u lacks operator %d", type->type_id, strategy);
	return op;
}

static void
init_key(CopyKey *key, int i, Form_pg_attribute att)
{
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_BTREE_OPFAMILY);
	Oid			outfunc;
	bool		isvarlena;

	if (!OidIsValid(type->btree_opf))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify an ordering operator for type %s",
						format_type_be(att->atttypid)),
				 errdetail("A copy reads rows in the order of their identity.")));
	key->attnum = att->attnum;
	key->type = att->atttypid;
	key->eq_op = member_operator(type, BTEqualStrategyNumber);
	key->ge_op = member_operator(type, BTGreaterEqualStrategyNumber);
	key->gt_op = member_operator(type, BTGreaterStrategyNumber);
	getTypeOutputInfo(att->atttypid, &outfunc, &isvarlena);
	fmgr_info(outfunc, &key->output);
	key->name = psprintf("r.%s", quote_identifier(NameStr(att->attname)));
	key->value = psprintf("(($1)[%d]::%s%s)", i + 1,
						  format_type_extended(att->atttypid, att->atttypmod,
											   FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY),
						  collation_clause(att->attcollation));
}

/*
 * The keys, and what last_key must belong to if it is to be of use.
 */
static void
init_keys(CopyChunk *chunk)
{
	CapturedColumns *identity = &chunk->pub->identity;
	Datum	   *order = palloc(sizeof(Datum) * identity->ncols * 3);
	ArrayType  *ordered_by;

	chunk->nkeys = identity->ncols;
	chunk->keys = palloc(sizeof(CopyKey) * chunk->nkeys);
	for (int i = 0; i < chunk->nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(chunk->rel),
											  identity->cols[i].attnum - 1);

		init_key(&chunk->keys[i], i, att);
		order[i * 3] = ObjectIdGetDatum(att->attnum);
		order[i * 3 + 1] = ObjectIdGetDatum(att->atttypid);
		order[i * 3 + 2] = ObjectIdGetDatum(att->attcollation);
	}
	ordered_by = construct_array(order, chunk->nkeys * 3, OIDOID, sizeof(Oid), true, TYPALIGN_INT);
	chunk->reordered = chunk->ordered_by != NULL &&
		!datumIsEqual(PointerGetDatum(ordered_by), PointerGetDatum(chunk->ordered_by), false, -1);
	chunk->ordered_by = ordered_by;
}

/*
 * The identity of the row in the slot, in the chunk's context.
 */
static ArrayType *
row_key(CopyChunk *chunk)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(chunk->context);
	Datum	   *elems = palloc(sizeof(Datum) * chunk->nkeys);
	ArrayType  *key;

	for (int i = 0; i < chunk->nkeys; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(chunk->slot, chunk->keys[i].attnum, &isnull);

		/* nulls are refused where the event is made */
		elems[i] = CStringGetTextDatum(OutputFunctionCall(&chunk->keys[i].output, value));
	}
	key = construct_array(elems, chunk->nkeys, TEXTOID, -1, false, TYPALIGN_INT);
	MemoryContextSwitchTo(oldcontext);
	return key;
}

/* ---------------- queries ---------------- */

static char *
operator_text(Oid opno)
{
	HeapTuple	tup = SearchSysCache1(OPEROID, ObjectIdGetDatum(opno));
	Form_pg_operator form;
	char	   *text;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for operator %u", opno);
	form = (Form_pg_operator) GETSTRUCT(tup);
	text = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));

	ReleaseSysCache(tup);
	return text;
}

static void
compare(StringInfo sql, CopyKey *key, Oid opno)
{
	generate_operator_clause(sql, key->name, key->type, opno, key->value, key->type);
}

/*
 * Rows after the last key.  A comparison of rows is what an index on several
 * columns can begin at; it needs operators of one name.  Where a type of
 * somebody's schema makes them differ, the index begins at the first column.
 */
static void
append_after(StringInfo sql, CopyChunk *chunk)
{
	char	   *operator = operator_text(chunk->keys[0].gt_op);
	bool		alike = true;
	int			last = chunk->nkeys - 1;

	for (int i = 1; i < chunk->nkeys; i++)
		alike &= strcmp(operator_text(chunk->keys[i].gt_op), operator) == 0;
	if (alike)
	{
		appendStringInfoString(sql, "ROW(");
		for (int i = 0; i < chunk->nkeys; i++)
			appendStringInfo(sql, "%s%s", i ? ", " : "", chunk->keys[i].name);
		appendStringInfo(sql, ") %s ROW(", operator);
		for (int i = 0; i < chunk->nkeys; i++)
			appendStringInfo(sql, "%s%s", i ? ", " : "", chunk->keys[i].value);
		appendStringInfoChar(sql, ')');
		return;
	}

	compare(sql, &chunk->keys[0], chunk->keys[0].ge_op);
	for (int i = 0; i < last; i++)
	{
		appendStringInfoString(sql, " AND (");
		compare(sql, &chunk->keys[i], chunk->keys[i].gt_op);
		appendStringInfoString(sql, " OR ");
		compare(sql, &chunk->keys[i], chunk->keys[i].eq_op);
	}
	appendStringInfoString(sql, " AND ");
	compare(sql, &chunk->keys[last], chunk->keys[last].gt_op);
	for (int i = 0; i < last; i++)
		appendStringInfoChar(sql, ')');
}

static char *
table_name(CopyChunk *chunk)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(chunk->rel)),
									  RelationGetRelationName(chunk->rel));
}

/*
 * The rows after the last key, in the order of the identity.
 */
static char *
chunk_query(CopyChunk *chunk)
{
	StringInfoData sql;
	char	   *table = table_name(chunk);

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT " ROW_COLUMNS " FROM %s AS r WHERE ", table, table);
	if (chunk->last_key != NULL)
		append_after(&sql, chunk);
	else
		appendStringInfoString(&sql, "$1 IS NULL");
	appendStringInfoString(&sql, " ORDER BY ");
	for (int i = 0; i < chunk->nkeys; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "", chunk->keys[i].name);
	appendStringInfo(&sql, " LIMIT %d", COPY_CHUNK_ROWS);
	return sql.data;
}

/*
 * The row of an identity.
 */
static char *
retry_query(CopyChunk *chunk)
{
	StringInfoData sql;
	char	   *table = table_name(chunk);

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT " ROW_COLUMNS " FROM %s AS r WHERE ", table, table);
	for (int i = 0; i < chunk->nkeys; i++)
	{
		if (i > 0)
			appendStringInfoString(&sql, " AND ");
		compare(&sql, &chunk->keys[i], chunk->keys[i].eq_op);
	}
	return sql.data;
}

/*
 * The planner knows nothing of a table that was never analyzed, and a sort for
 * each chunk would be quadratic: it is to take the order of the index if there
 * is a way.  Undone with the caller's settings.
 */
static void
prefer_index(void)
{
	static const char *const off[] = {"enable_seqscan", "enable_bitmapscan", "enable_sort"};

	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* ---------------- updaters ---------------- */

/*
 * What the row version says of its end, read under the buffer's lock: the
 * fields belong together.
 */
static void
read_header(TupleTableSlot *slot, HeapTupleHeader header)
{
	HeapTuple	tup = ExecFetchSlotHeapTuple(slot, false, NULL);
	Buffer		buffer = ((BufferHeapTupleTableSlot *) slot)->buffer;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(header, tup->t_data, SizeofHeapTupleHeader);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
}

/*
 * Could a change of this row version have been stamped before our ids?  Then
 * "updater" is the transaction that made it, or 0 if nobody can say: only heap
 * tables tell.
 *
 * Our snapshot sees the version as live, so an updater that has not aborted was
 * running then, and its parents are still known.  One that rolled back to a
 * savepoint before its change is none, nor is one that only locks the row.
 */
static bool
has_updater(Oid tableoid, ItemPointer tid, uint64 *updater)
{
	Relation	rel = table_open(tableoid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	HeapTupleHeaderData header;
	bool		result = true;

	*updater = 0;
	if (TTS_IS_BUFFERTUPLE(slot) &&
		table_tuple_fetch_row_version(rel, tid, SnapshotAny, slot))
	{
		read_header(slot, &header);
		if ((header.t_infomask & HEAP_XMAX_INVALID) ||
			HEAP_XMAX_IS_LOCKED_ONLY(header.t_infomask))
			result = false;
		else
		{
			TransactionId xid = HeapTupleHeaderGetUpdateXid(&header);

			result = TransactionIdIsInProgress(xid) || TransactionIdDidCommit(xid);
			if (result)
				*updater = outbox_xid_widen(SubTransGetTopmostTransaction(xid));
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return result;
}

static void
remember_pending(CopyChunk *chunk, uint64 updater, int64 version)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(chunk->context);
	CopyPendingRow *row = palloc(sizeof(CopyPendingRow));

	row->updater = updater;
	row->version = version;
	row->identity = row_key(chunk);
	chunk->pending = lappend(chunk->pending, row);
	MemoryContextSwitchTo(oldcontext);
}

/* ---------------- rows ---------------- */

/*
 * Put the row that a query returned into the slot.  It stays in the result.
 */
static void
store_row(CopyChunk *chunk)
{
	HeapTuple	tup = &chunk->tuple;
	bool		isnull;

	tup->t_data = DatumGetHeapTupleHeader(SPI_getbinval(SPI_tuptable->vals[0],
														SPI_tuptable->tupdesc, 1, &isnull));
	tup->t_len = HeapTupleHeaderGetDatumLength(tup->t_data);
	ItemPointerSetInvalid(&tup->t_self);
	tup->t_tableOid = InvalidOid;
	ExecForceStoreHeapTuple(tup, chunk->slot, false);
	chunk->bytes += tup->t_len;
}

/*
 * Publish the row that the cursor returned.  "id" was taken before.
 */
static void
publish_row(CopyChunk *chunk, int64 id)
{
	HeapTuple	tup = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	ItemPointer tid = (ItemPointer) DatumGetPointer(SPI_getbinval(tup, desc, 2, &isnull));
	TransactionId xmax = DatumGetTransactionId(SPI_getbinval(tup, desc, 3, &isnull));
	Oid			tableoid = DatumGetObjectId(SPI_getbinval(tup, desc, 4, &isnull));
	uint64		updater = 0;
	int64		version = 0;

	store_row(chunk);
	if (TransactionIdIsValid(xmax) && has_updater(tableoid, tid, &updater))
		version = chunk->since;
	if (outbox_capture_read(chunk->pub, chunk->rel, chunk->slot, id, version))
		chunk->npublished++;
	if (updater != 0)
		remember_pending(chunk, updater, id);
}

/*
 * One row at a time: a hundred may be a hundred large ones.
 */
static void
read_chunk(CopyChunk *chunk)
{
	Oid			types[1] = {TEXTARRAYOID};
	Datum		values[1] = {PointerGetDatum(chunk->last_key)};
	char		nulls[1] = {chunk->last_key ? ' ' : 'n'};
	int64		ids[COPY_CHUNK_ROWS];
	Portal		portal;
	SPITupleTable *last = NULL; /* the row in the slot */

	for (int i = 0; i < COPY_CHUNK_ROWS; i++)
		ids[i] = outbox_stamp_next();
	OUTBOX_FAULT("copy.before_snapshot");

	portal = SPI_cursor_open_with_args("pg_outbox copy", chunk_query(chunk), 1, types,
									   values, nulls, false, 0);
	chunk->more = true;
	while (chunk->nread < COPY_CHUNK_ROWS && chunk->bytes < CHUNK_BYTES)
	{
		SPI_cursor_fetch(portal, true, 1);
		if (SPI_processed == 0)
		{
			chunk->more = false;
			break;
		}
		publish_row(chunk, ids[chunk->nread++]);
		SPI_freetuptable(last);
		last = SPI_tuptable;
	}
	if (chunk->nread > 0)
		chunk->last_key = row_key(chunk);
	SPI_cursor_close(portal);
}

/*
 * Rows whose updater has ended.  One that is gone, or that the filter leaves
 * out now, has an event that says so.
 */
static void
read_pending(CopyChunk *chunk)
{
	Oid			types[1] = {TEXTARRAYOID};
	SPIPlanPtr	plan = SPI_prepare(retry_query(chunk), 1, types);
	ListCell   *lc;

	if (plan == NULL)
		elog(ERROR, "could not prepare a query of a copy: %s", SPI_result_code_string(SPI_result));
	foreach(lc, chunk->retry)
	{
		CopyPendingRow *row = lfirst(lc);
		Datum		values[1] = {PointerGetDatum(row->identity)};

		if (chunk->bytes >= CHUNK_BYTES)
			break;
		if (SPI_execute_plan(plan, values, NULL, false, 1) != SPI_OK_SELECT)
			elog(ERROR, "could not look for a row of \"%s\"", RelationGetRelationName(chunk->rel));
		if (SPI_processed > 0)
		{
			store_row(chunk);
			(void) outbox_capture_read(chunk->pub, chunk->rel, chunk->slot,
									   outbox_stamp_next(), row->version);
		}
		SPI_freetuptable(SPI_tuptable);
		chunk->retried = row->version;
	}
}

void
outbox_copy_read(CopyChunk *chunk)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(chunk->context);

	init_keys(chunk);
	MemoryContextSwitchTo(oldcontext);
	if (chunk->reordered)
		return;

	SPI_connect();
	chunk->slot = MakeSingleTupleTableSlot(RelationGetDescr(chunk->rel), &TTSOpsHeapTuple);
	prefer_index();
	if (chunk->step == COPY_RETRY)
		read_pending(chunk);
	else
		read_chunk(chunk);
	ExecDropSingleTupleTableSlot(chunk->slot);
	SPI_finish();
}
