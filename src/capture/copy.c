/*-------------------------------------------------------------------------
 *
 * copy.c
 *	  Publishing the rows that a table has already, while writers write.
 *
 * A copy is a row of outbox._copy.  The relay does it a chunk at a time, in
 * the order of the identity, each chunk in a short transaction that also
 * stores the last key: after a crash it goes on from there.  Rows that a
 * transaction was changing when they were read are stored with their chunk in
 * outbox._copy_pending, looked at again when that transaction has ended, and
 * deleted in the transaction that publishes them.  The copy is done when all
 * is read and nothing is pending.  How rows are read, and with what versions,
 * is in copy_rows.c.
 *
 * Rows that are inserted while the copy runs have events of their own.
 *
 * Resync.  A copy that ends with an event in each partition: replicas delete
 * what is older than its floor.  So every row that it publishes must be at least
 * as new, and every change that it does not see newer.  Its first step takes an
 * id as the floor, which fences the ids (stamp.c) where nobody has since the
 * server started, and with it all that a lost history may have given.  It notes
 * who may have stamped a change before: whoever holds the lock on _stamp.  When
 * they have ended the copy reads, and sees what they did.  Rows that somebody is
 * changing then are published with the floor as their version: that change has a
 * larger one.  The last step records the event when nothing is pending; as steps
 * are transactions of one process it comes behind all rows.
 *
 * Locks.  Row of _copy: whoever changes the copy or its pending rows.  The
 * relay takes it first and passes over one that somebody else has.  It waits
 * for no other lock longer than LOCK_TIMEOUT_MS, as it has other things to do,
 * and whoever drops the table has that and then wants the row.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/copy.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "capture/publication.h"
#include "common/argument.h"
#include "common/catalog.h"
#include "common/fault.h"
#include "log/log.h"
#include "worker/limit.h"
#include "log/stamp.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(outbox_copy);
PG_FUNCTION_INFO_V1(outbox_cancel_copy);
PG_FUNCTION_INFO_V1(outbox_resync);

#define LOOK_INTERVAL_MS 500	/* for new copies and ended transactions */
#define LOCK_TIMEOUT_MS "100"

#define COPY_COLUMNS "p.id, p.name, p.source::pg_catalog.oid, greatest(p.since, c.floor)," \
	" c.floor, c.ordered_by, c.last_key"
#define COPY_IS_DUE \
	"c.state = 'running' AND p.kind = 'table'" \
	" AND (c.retry_at IS NULL OR c.retry_at <= pg_catalog.now())"

/* A resync that is under way stays one, whoever asks for a copy. */
static const char request_sql[] =
"INSERT INTO outbox._copy AS c (publication, heals, kind) VALUES ($1, $2, $3)"
" ON CONFLICT (publication) DO UPDATE SET state = 'running', ordered_by = NULL,"
" kind = CASE WHEN c.state = 'running' AND c.kind = 'resync' THEN 'resync' ELSE excluded.kind END,"
" floor = NULL, waits_for = NULL,"
" heals = excluded.heals OR c.heals AND c.state <> 'done',"
" last_key = NULL, all_read = false, rows = 0, error = NULL, attempts = 0, retry_at = NULL,"
" started_at = pg_catalog.now(), finished_at = NULL";

static const char forget_pending_sql[] =
"DELETE FROM outbox._copy_pending WHERE publication = $1";

/*
 * The step that is next but for pending rows; of a resync, its beginning, and
 * its end when nothing is pending.
 */
static const char next_step_sql[] =
"SELECT " COPY_COLUMNS ","
"       CASE WHEN c.kind = 'resync' AND c.floor IS NULL THEN 'begin'"
"            WHEN c.all_read THEN 'end' ELSE 'read' END"
"  FROM outbox._copy AS c JOIN outbox._publication AS p ON p.name = c.publication"
" WHERE " COPY_IS_DUE
"   AND (NOT c.all_read OR c.kind = 'resync' AND"
"        NOT EXISTS (SELECT FROM outbox._copy_pending AS k WHERE k.publication = c.publication))"
"   AND NOT EXISTS (SELECT FROM pg_catalog.unnest(c.waits_for) AS x"
"                    WHERE NOT pg_catalog.pg_visible_in_snapshot(x, pg_catalog.pg_current_snapshot()))"
" ORDER BY c.started_at LIMIT 1 FOR UPDATE OF c SKIP LOCKED";

static const char next_pending_sql[] =
"SELECT " COPY_COLUMNS ", u.updater"
"  FROM outbox._copy_updaters AS u JOIN outbox._copy AS c USING (publication)"
"       JOIN outbox._publication AS p ON p.name = c.publication"
" WHERE " COPY_IS_DUE " AND u.ended"
" ORDER BY c.started_at LIMIT 1 FOR UPDATE OF c SKIP LOCKED";

static const char read_pending_sql[] =
"SELECT version, identity FROM outbox._copy_pending WHERE publication = $1 AND updater = $2"
" ORDER BY version LIMIT $3";

static const char add_pending_sql[] =
"INSERT INTO outbox._copy_pending (publication, updater, version, identity)"
" VALUES ($1, $2, $3, $4)";

static const char remove_pending_sql[] =
"DELETE FROM outbox._copy_pending WHERE publication = $1 AND updater = $2 AND version <= $3";

static const char progress_sql[] =
"UPDATE outbox._copy SET ordered_by = $2, last_key = $3, rows = rows + $4,"
" all_read = all_read OR $5, attempts = 0, error = NULL, retry_at = NULL"
" WHERE publication = $1";

static const char restart_sql[] =
"UPDATE outbox._copy SET ordered_by = NULL, last_key = NULL, all_read = false, rows = 0"
" WHERE publication = $1 AND state = 'running'";

/* What was read, and which transactions are waited for, is another database's. */
static const char forget_all_pending_sql[] =
"DELETE FROM outbox._copy_pending AS k USING outbox._copy AS c"
" WHERE c.publication = k.publication AND c.state = 'running'";

static const char restart_all_sql[] =
"UPDATE outbox._copy SET ordered_by = NULL, last_key = NULL, all_read = false, rows = 0,"
" error = NULL, attempts = 0, retry_at = NULL WHERE state = 'running'";

static const char finish_sql[] =
"UPDATE outbox._copy AS c SET state = 'done', finished_at = pg_catalog.now()"
" WHERE c.publication = $1 AND c.kind = 'copy' AND c.all_read"
"   AND NOT EXISTS (SELECT FROM outbox._copy_pending AS k WHERE k.publication = $1)";

/*
 * Who stamped before the floor and has not ended by now holds the lock.  Each is
 * noted by its first transaction id, as 64 bits.  What the snapshot has in
 * progress is no way to narrow that down: it does not list those behind the
 * last one that has ended.
 */
static const char begin_sql[] =
"WITH l AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks WHERE granted),"
" me AS (SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8 AS xid),"
" writers AS (SELECT pg_catalog.min(me.xid - 2147483648 + (6442450944 - me.xid % 4294967296"
"   + t.transactionid::pg_catalog.text::pg_catalog.int8) % 4294967296) AS xid"
"  FROM me, l JOIN l AS t USING (virtualtransaction)"
"  WHERE l.locktype = 'relation' AND l.relation = 'outbox._stamp'::pg_catalog.regclass"
"    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d"
"                       WHERE d.datname = pg_catalog.current_database())"
"    AND t.locktype = 'transactionid' AND t.mode = 'ExclusiveLock'"
"    AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()"
"  GROUP BY virtualtransaction)"
" UPDATE outbox._copy SET floor = $2, attempts = 0, error = NULL, retry_at = NULL, waits_for ="
"  (SELECT pg_catalog.array_agg(w.xid::pg_catalog.text::pg_catalog.xid8 ORDER BY w.xid) FROM writers AS w)"
" WHERE publication = $1";

static const char end_sql[] =
"UPDATE outbox._copy SET state = 'done', finished_at = pg_catalog.now(), attempts = 0,"
" error = NULL, retry_at = NULL WHERE publication = $1";

static const char failure_sql[] =
"UPDATE outbox._copy SET error = $2, attempts = attempts + 1,"
" retry_at = pg_catalog.now() + least(pg_catalog.power(2, least(attempts, 10)), 300) * interval '1 second'"
" WHERE publication = (SELECT c.publication FROM outbox._copy AS c WHERE c.publication = $1"
"                      FOR UPDATE SKIP LOCKED)";

/* ---------------- asking for a copy ---------------- */

static void
execute(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);

	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
}

static void
request(const char *publication, bool heals, const char *kind)
{
	OutboxOwnerScope scope;
	Oid			types[3] = {TEXTOID, BOOLOID, TEXTOID};
	Datum		values[3] = {CStringGetTextDatum(publication), BoolGetDatum(heals),
	CStringGetTextDatum(kind)};

	outbox_owner_enter(&scope);
	SPI_connect();
	execute(request_sql, 3, types, values, NULL);
	execute(forget_pending_sql, 1, types, values, NULL);
	SPI_finish();
	outbox_owner_leave(&scope);
	outbox_worker_poke_at_commit();
}

void
outbox_copy_request(const char *publication, bool heals)
{
	request(publication, heals, "copy");
}

void
outbox_resync_request(const char *publication)
{
	request(publication, false, "resync");
}

void
outbox_copy_restart(const char *publication)
{
	OutboxOwnerScope scope;
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(publication)};

	outbox_owner_enter(&scope);
	SPI_connect();
	execute(restart_sql, 1, types, values, NULL);
	if (SPI_processed > 0)
		execute(forget_pending_sql, 1, types, values, NULL);
	SPI_finish();
	outbox_owner_leave(&scope);
}

/*
 * Called by resume() in a copy of a database: see forget_all_pending_sql.
 */
static void
restart_all(void)
{
	SPI_connect();
	execute(forget_all_pending_sql, 0, NULL, NULL, NULL);
	execute(restart_all_sql, 0, NULL, NULL, NULL);
	SPI_finish();
}

void
outbox_copy_init(void)
{
	outbox_worker_on_resume(restart_all);
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

/*
 * Raises if somebody else publishes to the topic: replicas would delete those
 * rows as well.  Inside SPI, with the extension's rights.
 */
static void
check_topic(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};

	execute("SELECT p.topic, o.name FROM outbox._publication AS p JOIN outbox._publication AS o"
			" ON o.server = p.server AND o.topic = p.topic AND o.name <> p.name"
			" WHERE p.name = $1 ORDER BY o.name LIMIT 1", 1, types, values, NULL);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot resync publication \"%s\"", name),
				 errdetail("Topic \"%s\" is that of publication \"%s\" as well, whose rows the replicas would delete.",
						   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1),
						   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2)),
				 errhint("Use outbox.copy, or give each publication a topic of its own.")));
}

/*
 * resync(publication text)
 */
Datum
outbox_resync(PG_FUNCTION_ARGS)
{
	char	   *name = publication_argument(fcinfo);
	OutboxOwnerScope scope;

	check_publication(name);
	outbox_owner_enter(&scope);
	SPI_connect();
	check_topic(name);
	SPI_finish();
	outbox_owner_leave(&scope);
	outbox_resync_request(name);
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
	if (cancelled)
		execute(forget_pending_sql, 1, types, values, NULL);
	SPI_finish();
	outbox_owner_leave(&scope);
	PG_RETURN_BOOL(cancelled);
}

/* ---------------- what is next ---------------- */

/*
 * Take over the copy that a query has found and locked.
 */
static void
set_copy(CopyChunk *chunk)
{
	HeapTuple	tup = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	MemoryContext oldcontext = MemoryContextSwitchTo(chunk->context);
	bool		isnull;
	Datum		d;

	chunk->pubid = DatumGetInt32(SPI_getbinval(tup, desc, 1, &isnull));
	chunk->name = pstrdup(SPI_getvalue(tup, desc, 2));
	chunk->source = DatumGetObjectId(SPI_getbinval(tup, desc, 3, &isnull));
	chunk->since = DatumGetInt64(SPI_getbinval(tup, desc, 4, &isnull));
	chunk->floor = DatumGetInt64(SPI_getbinval(tup, desc, 5, &isnull));
	d = SPI_getbinval(tup, desc, 6, &isnull);
	chunk->ordered_by = isnull ? NULL : DatumGetArrayTypePCopy(d);
	d = SPI_getbinval(tup, desc, 7, &isnull);
	chunk->last_key = isnull ? NULL : DatumGetArrayTypePCopy(d);
	MemoryContextSwitchTo(oldcontext);
}

static void
load_pending(CopyChunk *chunk)
{
	Oid			types[3] = {TEXTOID, XID8OID, INT4OID};
	Datum		values[3] = {CStringGetTextDatum(chunk->name), UInt64GetDatum(chunk->updater),
	Int32GetDatum(COPY_CHUNK_ROWS)};
	MemoryContext oldcontext;

	execute(read_pending_sql, 3, types, values, NULL);
	oldcontext = MemoryContextSwitchTo(chunk->context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		CopyPendingRow *row = palloc(sizeof(CopyPendingRow));
		HeapTuple	tup = SPI_tuptable->vals[i];
		bool		isnull;

		row->updater = chunk->updater;
		row->version = DatumGetInt64(SPI_getbinval(tup, SPI_tuptable->tupdesc, 1, &isnull));
		row->identity = DatumGetArrayTypePCopy(SPI_getbinval(tup, SPI_tuptable->tupdesc, 2, &isnull));
		chunk->retry = lappend(chunk->retry, row);
	}
	MemoryContextSwitchTo(oldcontext);
}

static CopyStep
step_from(const char *name)
{
	if (strcmp(name, "begin") == 0)
		return COPY_BEGIN;
	return strcmp(name, "end") == 0 ? COPY_END : COPY_READ;
}

/*
 * Rows whose updater has ended go first: they are few, and a copy of a large
 * table shall not wait for the next one.
 */
static bool
next_step(CopyChunk *chunk)
{
	bool		isnull;

	execute(next_pending_sql, 0, NULL, NULL, NULL);
	if (SPI_processed > 0)
	{
		set_copy(chunk);
		chunk->step = COPY_RETRY;
		chunk->updater = DatumGetUInt64(SPI_getbinval(SPI_tuptable->vals[0],
													  SPI_tuptable->tupdesc, 8, &isnull));
		load_pending(chunk);
		return true;
	}
	execute(next_step_sql, 0, NULL, NULL, NULL);
	if (SPI_processed == 0)
		return false;
	set_copy(chunk);
	chunk->step = step_from(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 8));
	return true;
}

/* ---------------- what came of it ---------------- */

static void
store_pending(CopyChunk *chunk)
{
	Oid			types[4] = {TEXTOID, XID8OID, INT8OID, TEXTARRAYOID};
	ListCell   *lc;

	foreach(lc, chunk->pending)
	{
		CopyPendingRow *row = lfirst(lc);
		Datum		values[4] = {CStringGetTextDatum(chunk->name), UInt64GetDatum(row->updater),
		Int64GetDatum(row->version), PointerGetDatum(row->identity)};

		execute(add_pending_sql, 4, types, values, NULL);
	}
}

static void
store_chunk(CopyChunk *chunk)
{
	Oid			types[5] = {TEXTOID, OIDARRAYOID, TEXTARRAYOID, INT4OID, BOOLOID};
	Datum		values[5] = {CStringGetTextDatum(chunk->name), PointerGetDatum(chunk->ordered_by),
		PointerGetDatum(chunk->last_key), Int32GetDatum(chunk->npublished),
	BoolGetDatum(!chunk->more)};
	char		nulls[5] = {' ', ' ', chunk->last_key ? ' ' : 'n', ' ', ' '};

	store_pending(chunk);
	execute(progress_sql, 5, types, values, nulls);
}

static void
store_retried(CopyChunk *chunk)
{
	Oid			types[3] = {TEXTOID, XID8OID, INT8OID};
	Datum		values[3] = {CStringGetTextDatum(chunk->name), UInt64GetDatum(chunk->updater),
	Int64GetDatum(chunk->retried)};

	execute(remove_pending_sql, 3, types, values, NULL);
}

static void
store_floor(CopyChunk *chunk)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2] = {CStringGetTextDatum(chunk->name), Int64GetDatum(chunk->floor)};

	execute(begin_sql, 2, types, values, NULL);
}

static void
store_progress(CopyChunk *chunk)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(chunk->name)};

	if (chunk->reordered)
	{
		execute(restart_sql, 1, types, values, NULL);
		execute(forget_pending_sql, 1, types, values, NULL);
		return;
	}
	switch (chunk->step)
	{
		case COPY_BEGIN:
			store_floor(chunk);
			break;
		case COPY_READ:
			store_chunk(chunk);
			break;
		case COPY_RETRY:
			store_retried(chunk);
			break;
		case COPY_END:
			execute(end_sql, 1, types, values, NULL);
			break;
	}
	execute(finish_sql, 1, types, values, NULL);
}

static void
store_failure(const char *name, const char *message)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {CStringGetTextDatum(name), CStringGetTextDatum(message)};

	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	execute(failure_sql, 2, types, values, NULL);
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
}

/*
 * A copy whose filter could not be cancelled has ended the process before us.
 */
static void
cancel_culprit(void)
{
	static const char sql[] =
	"UPDATE outbox._copy SET state = 'cancelled', finished_at = pg_catalog.now(), error = $2"
	" WHERE publication = $1 AND state = 'running'";
	char	   *name = outbox_limit_culprit();
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];

	if (name == NULL)
		return;
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(OUTBOX_LIMIT_REASON);
	execute(sql, 2, types, values, NULL);
	if (SPI_processed > 0)
	{
		execute(forget_pending_sql, 1, types, values, NULL);
		ereport(WARNING,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("copy of publication \"%s\" was cancelled", name),
				 errdetail_internal("%s", OUTBOX_LIMIT_REASON),
				 errhint("When the filter is mended, run outbox.copy(%s).",
						 quote_literal_cstr(name))));
	}
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
}

/* ---------------- one step ---------------- */

static CapturedPublication *
find_publication(CapturedRelation *captured, int32 pubid)
{
	for (int i = 0; i < captured->npubs; i++)
		if (captured->pubs[i].pubid == pubid)
			return &captured->pubs[i];
	return NULL;
}

/*
 * With the rights of the table's owner: already when the filter is prepared,
 * functions of it may run.  A row-level policy that hides rows from the owner
 * is an error, not a smaller copy.
 */
static void
copy_as_owner(CopyChunk *chunk)
{
	Oid			save_userid;
	int			save_context;
	int			level;

	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(chunk->rel->rd_rel->relowner,
						   save_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) outbox_encode_pin();
	outbox_capture_begin(chunk->rel);
	outbox_limit_begin(chunk->name);
	PG_TRY();
	{
		chunk->pub = find_publication(outbox_captured_relation(chunk->rel), chunk->pubid);
		if (chunk->pub == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("publication \"%s\" cannot be copied now", chunk->name)));
		if (chunk->step == COPY_END)
			outbox_capture_whole(chunk->pub, chunk->rel, OUTBOX_OP_END, chunk->floor);
		else
			outbox_copy_read(chunk);
	}
	PG_FINALLY();
	{
		outbox_limit_end();
		outbox_capture_end();
	}
	PG_END_TRY();
	/* nor does what functions of the filter have SET last */
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(save_userid, save_context);
}

static void
do_step(CopyChunk *chunk)
{
	if (chunk->step == COPY_BEGIN)
	{
		chunk->floor = outbox_stamp_next();
		OUTBOX_FAULT("copy.floor");
		return;
	}
	chunk->rel = try_relation_open(chunk->source, AccessShareLock);
	if (chunk->rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of publication \"%s\" does not exist", chunk->name)));
	copy_as_owner(chunk);
	relation_close(chunk->rel, NoLock);
}

/*
 * Do one step in a transaction.  True if there was one.
 */
static bool
copy_step(CopyChunk *chunk)
{
	bool		found;

	OUTBOX_FAULT("copy.next");
	StartTransactionCommand();
	(void) set_config_option("lock_timeout", LOCK_TIMEOUT_MS, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	found = next_step(chunk);
	if (found && (chunk->step == COPY_BEGIN || chunk->step == COPY_END))
		check_topic(chunk->name);
	PopActiveSnapshot();
	SPI_finish();
	if (found)
	{
		outbox_log_check_room();
		PushActiveSnapshot(GetTransactionSnapshot());
		do_step(chunk);
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

static CopyChunk *
make_chunk(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_outbox copy",
												  ALLOCSET_DEFAULT_SIZES);
	CopyChunk  *chunk = MemoryContextAllocZero(context, sizeof(CopyChunk));

	chunk->context = context;
	return chunk;
}

/*
 * What fails is tried again later and holds up nothing else.
 */
bool
outbox_copy_step(void)
{
	static TimestampTz looked_at = 0;
	static bool busy = false;
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

	chunk = make_chunk();
	PG_TRY();
	{
		cancel_culprit();
		busy = copy_step(chunk);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(chunk->context);
		failure = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		busy = false;
	}
	PG_END_TRY();

	if (failure != NULL && chunk->name == NULL &&
		failure->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(failure);
	if (failure != NULL && chunk->name != NULL)
	{
		ereport(WARNING,
				(errcode(failure->sqlerrcode),
				 errmsg("could not copy publication \"%s\" for now", chunk->name),
				 errdetail("%s", failure->message)));
		store_failure(chunk->name, failure->message);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(chunk->context);
	return busy;
}
