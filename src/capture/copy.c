/*-------------------------------------------------------------------------
 *
 * copy.c
 *	  Publishing the rows that a table has already, while writers write.
 *
 * A copy is a row of outbox._copy.  The relay does it a chunk at a time, in
 * the order of the identity, each chunk in a short transaction that also
 * stores the last key: after a crash it goes on from there.
 *
 * Versions.  A row that is read must not outrank a change that was stamped
 * before and is not committed yet.  The ids of a chunk are taken before its
 * snapshot.  A row version without an updater at the time it was read can only
 * be changed by a transaction that stamps its change later: its id is its
 * version.  If an updater is there, or came since, it may have stamped before
 * us: the event then carries, in header "version", the stamp at which capture
 * of the publication began, which every captured change exceeds.  So a change
 * in flight always wins, and a replica that has nothing gets the row.
 *
 * Rows that are inserted while the copy runs have events of their own.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/copy.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "capture/capture.h"
#include "capture/publication.h"
#include "common/argument.h"
#include "common/catalog.h"
#include "common/fault.h"
#include "log/log.h"
#include "log/stamp.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(outbox_copy);
PG_FUNCTION_INFO_V1(outbox_cancel_copy);

#define CHUNK_ROWS 1000
#define CHUNK_BYTES (4 * 1024 * 1024)
#define FETCH_ROWS 100
#define LOOK_INTERVAL_MS 500	/* for new copies */

/* One chunk at work. */
typedef struct CopyChunk
{
	int32		pubid;
	char	   *name;
	Oid			source;
	int64		since;
	ArrayType  *last_key;		/* NULL: from the beginning */

	Relation	rel;
	CapturedPublication *pub;
	bool		pinned;
	int64		ids[CHUNK_ROWS];
	int			nrows;
	Size		bytes;
	bool		more;			/* the table may have more rows */
} CopyChunk;

/* ---------------- asking for a copy ---------------- */

static void
execute(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);

	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
}

void
outbox_copy_request(const char *publication, bool heals)
{
	OutboxOwnerScope scope;
	Oid			types[2] = {TEXTOID, BOOLOID};
	Datum		values[2] = {CStringGetTextDatum(publication), BoolGetDatum(heals)};

	outbox_owner_enter(&scope);
	SPI_connect();
	execute("INSERT INTO outbox._copy AS c (publication, heals) VALUES ($1, $2)"
			" ON CONFLICT (publication) DO UPDATE SET state = 'running', last_key = NULL,"
			" heals = excluded.heals OR c.heals AND c.state <> 'done',"
			" rows = 0, error = NULL, attempts = 0, retry_at = NULL,"
			" started_at = pg_catalog.now(), finished_at = NULL", 2, types, values, NULL);
	SPI_finish();
	outbox_owner_leave(&scope);
	outbox_worker_poke_at_commit();
}

/*
 * The table of a publication of tables that the caller owns.
 */
static void
check_publication(const char *name)
{
	OutboxOwnerScope scope;
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	Oid			source = InvalidOid;
	bool		isnull;

	outbox_owner_enter(&scope);
	SPI_connect();
	execute("SELECT source::pg_catalog.oid FROM outbox._publication WHERE name = $1 AND kind = 'table'",
			1, types, values, NULL);
	if (SPI_processed == 1)
		source = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
												SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	outbox_owner_leave(&scope);

	if (!OidIsValid(source))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" of a table does not exist", name),
				 errhint("See outbox.publications.")));
	outbox_source_check_owner(source);
}

static char *
publication_argument(FunctionCallInfo fcinfo)
{
	return outbox_argument_text(fcinfo, 0, "publication",
								"Pass the name of a publication in outbox.publications.");
}

Datum
outbox_copy(PG_FUNCTION_ARGS)
{
	char	   *name = publication_argument(fcinfo);

	check_publication(name);
	outbox_copy_request(name, false);
	PG_RETURN_VOID();
}

Datum
outbox_cancel_copy(PG_FUNCTION_ARGS)
{
	char	   *name = publication_argument(fcinfo);
	OutboxOwnerScope scope;
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	bool		cancelled;

	check_publication(name);
	outbox_owner_enter(&scope);
	SPI_connect();
	execute("UPDATE outbox._copy SET state = 'cancelled', finished_at = pg_catalog.now()"
			" WHERE publication = $1 AND state = 'running'", 1, types, values, NULL);
	cancelled = SPI_processed > 0;
	SPI_finish();
	outbox_owner_leave(&scope);
	PG_RETURN_BOOL(cancelled);
}

/* ---------------- reading ---------------- */

/*
 * Could a change of this row version have been stamped before our ids?
 */
static bool
has_updater(Oid tableoid, ItemPointer tid)
{
	Relation	rel = table_open(tableoid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		result = true;

	if (TTS_IS_BUFFERTUPLE(slot) &&
		table_tuple_fetch_row_version(rel, tid, SnapshotAny, slot))
	{
		HeapTupleHeader header = ExecFetchSlotHeapTuple(slot, false, NULL)->t_data;

		if ((header->t_infomask & HEAP_XMAX_INVALID) ||
			HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask))
			result = false;
		else
		{
			TransactionId xid = HeapTupleHeaderGetUpdateXid(header);

			result = TransactionIdIsInProgress(xid) || TransactionIdDidCommit(xid);
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * The rows after the last key, in the order of the identity.
 */
static char *
chunk_query(CopyChunk *chunk)
{
	StringInfoData sql;
	StringInfoData keys;
	StringInfoData last;
	CapturedColumns *identity = &chunk->pub->identity;

	initStringInfo(&sql);
	initStringInfo(&keys);
	initStringInfo(&last);
	for (int i = 0; i < identity->ncols; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(chunk->rel),
											  identity->cols[i].attnum - 1);

		appendStringInfo(&keys, "%sr.%s", i ? ", " : "", quote_identifier(NameStr(att->attname)));
		appendStringInfo(&last, "%s($1)[%d]::%s", i ? ", " : "", i + 1,
						 format_type_extended(att->atttypid, att->atttypmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	}
	appendStringInfo(&sql, "SELECT r, r.ctid, r.xmax, r.tableoid FROM %s AS r WHERE ",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(chunk->rel)),
												RelationGetRelationName(chunk->rel)));
	if (chunk->last_key != NULL)
		appendStringInfo(&sql, "ROW(%s) OPERATOR(pg_catalog.>) ROW(%s)", keys.data, last.data);
	else
		appendStringInfoString(&sql, "$1 IS NULL");
	if (chunk->pub->filter_text != NULL)
		appendStringInfo(&sql, " AND (%s)", chunk->pub->filter_text);
	appendStringInfo(&sql, " ORDER BY %s LIMIT %d", keys.data, CHUNK_ROWS);
	return sql.data;
}

/*
 * Remember the row's identity as the place to go on from.
 */
static void
remember_key(CopyChunk *chunk, TupleTableSlot *slot, MemoryContext context)
{
	CapturedColumns *identity = &chunk->pub->identity;
	Datum	   *elems = palloc(sizeof(Datum) * identity->ncols);
	MemoryContext oldcontext;

	for (int i = 0; i < identity->ncols; i++)
	{
		StringInfoData buf;
		bool		isnull;

		initStringInfo(&buf);
		outbox_encode_text(&buf, &identity->cols[i].enc,
						   slot_getattr(slot, identity->cols[i].attnum, &isnull));
		elems[i] = PointerGetDatum(cstring_to_text_with_len(buf.data, buf.len));
	}
	oldcontext = MemoryContextSwitchTo(context);
	chunk->last_key = construct_array(elems, identity->ncols, TEXTOID, -1, false, TYPALIGN_INT);
	MemoryContextSwitchTo(oldcontext);
}

static void
publish_row(CopyChunk *chunk, HeapTuple tup, TupleDesc desc, TupleTableSlot *slot)
{
	bool		isnull;
	HeapTupleHeader row = DatumGetHeapTupleHeader(SPI_getbinval(tup, desc, 1, &isnull));
	ItemPointer tid = (ItemPointer) DatumGetPointer(SPI_getbinval(tup, desc, 2, &isnull));
	TransactionId xmax = DatumGetTransactionId(SPI_getbinval(tup, desc, 3, &isnull));
	Oid			tableoid = DatumGetObjectId(SPI_getbinval(tup, desc, 4, &isnull));
	HeapTupleData data;
	int64		version = 0;

	data.t_data = row;
	data.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&data.t_self);
	data.t_tableOid = InvalidOid;
	ExecForceStoreHeapTuple(&data, slot, false);

	if (TransactionIdIsValid(xmax) && has_updater(tableoid, tid))
		version = chunk->since;
	outbox_capture_read(chunk->pub, chunk->rel, slot, chunk->ids[chunk->nrows++], version);
	chunk->bytes += data.t_len;
}

/*
 * Read and publish, as the table's owner.  A row-level policy that hides rows
 * from the owner is an error, not a smaller copy.
 */
static void
publish_chunk(CopyChunk *chunk, MemoryContext context)
{
	Oid			types[1] = {TEXTARRAYOID};
	Datum		values[1] = {PointerGetDatum(chunk->last_key)};
	char		nulls[1] = {chunk->last_key ? ' ' : 'n'};
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(chunk->rel), &TTSOpsHeapTuple);
	Portal		portal;

	for (int i = 0; i < CHUNK_ROWS; i++)
		chunk->ids[i] = outbox_stamp_next();
	OUTBOX_FAULT("copy.before_snapshot");

	SPI_connect();
	portal = SPI_cursor_open_with_args("pg_outbox copy", chunk_query(chunk), 1, types,
									   values, nulls, false, 0);
	chunk->more = true;
	while (chunk->nrows < CHUNK_ROWS && chunk->bytes < CHUNK_BYTES)
	{
		uint64		n;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		n = SPI_processed;
		for (uint64 i = 0; i < n; i++)
			publish_row(chunk, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, slot);
		if (n > 0)
			remember_key(chunk, slot, context);
		if (n < FETCH_ROWS)
		{
			chunk->more = chunk->nrows >= CHUNK_ROWS;
			break;
		}
	}
	SPI_cursor_close(portal);
	SPI_finish();
	ExecDropSingleTupleTableSlot(slot);
}

/* ---------------- one step ---------------- */

/*
 * The copy whose turn it is.  Locked until the transaction ends.
 */
static bool
next_chunk(CopyChunk *chunk, MemoryContext context)
{
	HeapTuple	tup;
	TupleDesc	desc;
	bool		isnull;
	Datum		d;
	MemoryContext oldcontext;

	execute("SELECT p.id, p.name, p.source::pg_catalog.oid, p.since, c.last_key"
			"  FROM outbox._copy AS c JOIN outbox._publication AS p ON p.name = c.publication"
			" WHERE c.state = 'running' AND p.kind = 'table'"
			"   AND (c.retry_at IS NULL OR c.retry_at <= pg_catalog.now())"
			" ORDER BY c.started_at LIMIT 1 FOR UPDATE OF c", 0, NULL, NULL, NULL);
	if (SPI_processed == 0)
		return false;
	tup = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	oldcontext = MemoryContextSwitchTo(context);
	chunk->pubid = DatumGetInt32(SPI_getbinval(tup, desc, 1, &isnull));
	chunk->name = pstrdup(SPI_getvalue(tup, desc, 2));
	chunk->source = DatumGetObjectId(SPI_getbinval(tup, desc, 3, &isnull));
	chunk->since = DatumGetInt64(SPI_getbinval(tup, desc, 4, &isnull));
	d = SPI_getbinval(tup, desc, 5, &isnull);
	chunk->last_key = isnull ? NULL : DatumGetArrayTypePCopy(d);
	MemoryContextSwitchTo(oldcontext);
	return true;
}

static void
store_progress(CopyChunk *chunk)
{
	Oid			types[4] = {TEXTOID, TEXTARRAYOID, INT4OID, BOOLOID};
	Datum		values[4];
	char		nulls[4] = {' ', ' ', ' ', ' '};

	values[0] = CStringGetTextDatum(chunk->name);
	values[1] = PointerGetDatum(chunk->last_key);
	nulls[1] = chunk->last_key ? ' ' : 'n';
	values[2] = Int32GetDatum(chunk->nrows);
	values[3] = BoolGetDatum(chunk->more);
	execute("UPDATE outbox._copy SET last_key = $2, rows = rows + $3, attempts = 0, error = NULL,"
			" state = CASE WHEN $4 THEN 'running' ELSE 'done' END,"
			" finished_at = CASE WHEN $4 THEN NULL ELSE pg_catalog.now() END"
			" WHERE publication = $1", 4, types, values, nulls);
}

static void
store_failure(const char *name, const char *message)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {CStringGetTextDatum(name), CStringGetTextDatum(message)};

	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	execute("UPDATE outbox._copy SET error = $2, attempts = attempts + 1,"
			" retry_at = pg_catalog.now() + least(pg_catalog.power(2, attempts), 300) * interval '1 second'"
			" WHERE publication = $1", 2, types, values, NULL);
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
}

static CapturedPublication *
find_publication(CapturedRelation *captured, int32 pubid)
{
	for (int i = 0; i < captured->npubs; i++)
		if (captured->pubs[i].pubid == pubid)
			return &captured->pubs[i];
	return NULL;
}

/*
 * Publish a chunk with the rights of the table's owner: already when the
 * filter is prepared, functions of it may run.
 */
static void
copy_chunk(CopyChunk *chunk, MemoryContext context)
{
	Oid			save_userid;
	int			save_context;
	int			level;

	chunk->rel = table_open(chunk->source, AccessShareLock);
	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(chunk->rel->rd_rel->relowner,
						   save_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) outbox_encode_pin();
	outbox_capture_begin(chunk->rel);
	PG_TRY();
	{
		chunk->pub = find_publication(outbox_captured_relation(chunk->rel), chunk->pubid);
		if (chunk->pub == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("publication \"%s\" cannot be copied now", chunk->name)));
		publish_chunk(chunk, context);
	}
	PG_FINALLY();
	{
		outbox_capture_end();
	}
	PG_END_TRY();
	/* nor does what functions of the filter have SET last */
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(save_userid, save_context);
	table_close(chunk->rel, NoLock);
}

/*
 * Do one chunk in a transaction.  True if there was one.
 */
static bool
copy_step(CopyChunk *chunk, MemoryContext context)
{
	bool		found;

	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	found = next_chunk(chunk, context);
	PopActiveSnapshot();
	SPI_finish();
	if (found)
	{
		outbox_log_check_room();
		PushActiveSnapshot(GetTransactionSnapshot());
		copy_chunk(chunk, context);
		PopActiveSnapshot();
		SPI_connect();
		PushActiveSnapshot(GetTransactionSnapshot());
		store_progress(chunk);
		PopActiveSnapshot();
		SPI_finish();
		OUTBOX_FAULT("copy.before_commit");
	}
	CommitTransactionCommand();
	return found;
}

/*
 * A chunk of a copy, if one is due.  Called by the relay, outside a
 * transaction; what fails is tried again later and holds up nothing else.
 */
bool
outbox_copy_step(void)
{
	static TimestampTz looked_at = 0;
	static bool busy = false;
	MemoryContext context;
	MemoryContext oldcontext = CurrentMemoryContext;
	CopyChunk  *chunk;
	ErrorData  *volatile failure = NULL;

	if (TimestampDifferenceExceeds(looked_at, GetCurrentTimestamp(), LOOK_INTERVAL_MS))
	{
		looked_at = GetCurrentTimestamp();
		outbox_unrecorded_step();
	}
	else if (!busy)
		return false;

	context = AllocSetContextCreate(TopMemoryContext, "pg_outbox copy", ALLOCSET_DEFAULT_SIZES);
	chunk = MemoryContextAllocZero(context, sizeof(CopyChunk));
	PG_TRY();
	{
		busy = copy_step(chunk, context);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		failure = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		busy = false;
	}
	PG_END_TRY();

	if (failure != NULL && chunk->name == NULL)
		ReThrowError(failure);
	if (failure != NULL)
	{
		ereport(WARNING,
				(errcode(failure->sqlerrcode),
				 errmsg("could not copy publication \"%s\" for now", chunk->name),
				 errdetail("%s", failure->message)));
		store_failure(chunk->name, failure->message);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	return busy;
}
