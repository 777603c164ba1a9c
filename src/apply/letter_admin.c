/*-------------------------------------------------------------------------
 *
 * letter_admin.c
 *	  redrive(), edit() and discard() of dead letters.
 *
 * Letters of a subscription belong to whoever manages it, the relay's, and those
 * of a subscription that has ended, to members of the extension's owner.  The applier takes up again what it set
 * aside.  A letter of the relay's is recorded in the event log once more, with
 * the headers it had, its id among them, and is done by that: if the broker
 * refuses it again, that makes another letter.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/apply.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "apply/deliver.h"
#include "apply/statement.h"
#include "apply/subscription.h"
#include "common/argument.h"
#include "log/event.h"
#include "log/log.h"
#include "log/stamp.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(outbox_redrive);
PG_FUNCTION_INFO_V1(outbox_redrive_all);
PG_FUNCTION_INFO_V1(outbox_edit);
PG_FUNCTION_INFO_V1(outbox_discard);

static void
require_owner(const char *what)
{
	if (!superuser() && !has_privs_of_role(GetUserId(), outbox_owner_oid()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for dead letters of %s", what)));
}

/*
 * Raise unless the letter is open and the current user may change it; "again":
 * unless it can be tried again.
 */
static void
require_letter_manager(int64 id, bool again)
{
	static const char sql[] =
	"SELECT s.name, d.state IN ('dead', 'parked', 'retry'), d.subscription IS NOT NULL FROM outbox._dead_letter d"
	" LEFT JOIN outbox._subscription s ON s.id = d.subscription"
	" WHERE d.id = $1";
	OutboxSqlArg args[] = {sql_int8(id)};
	MemoryContext caller = CurrentMemoryContext;
	OutboxOwnerScope scope;
	char	   *name = NULL;
	bool		found;
	bool		open = false;
	bool		incoming = false;

	outbox_statement_begin(&scope);
	found = outbox_statement_run(sql, lengthof(args), args) > 0;
	if (found)
	{
		MemoryContextSwitchTo(caller);
		name = outbox_statement_get_text(0, 1);
		open = outbox_statement_get_bool(0, 2);
		incoming = outbox_statement_get_bool(0, 3);
	}
	outbox_statement_end(&scope);
	if (name != NULL)
		outbox_subscription_require_manager(name);
	else
		require_owner(incoming ? "subscriptions that have ended" : "topics");
	if (!open)
		ereport(ERROR,
				(errcode(found ? ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE : ERRCODE_UNDEFINED_OBJECT),
				 found ? errmsg("dead letter " INT64_FORMAT " is settled already", id) :
				 errmsg("dead letter " INT64_FORMAT " does not exist", id)));
	if (again && incoming && name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the subscription of dead letter " INT64_FORMAT " has ended", id),
				 errhint("Letters of a table belong to it again once it is replicated under the same name.")));
}

static int64
letter_argument(FunctionCallInfo fcinfo)
{
	outbox_argument_require(fcinfo, 0, "letter", "Pass an id of outbox.dead_letters.");
	return PG_GETARG_INT64(0);
}

static uint64
change_letters(const char *sql, int nargs, const OutboxSqlArg *args)
{
	OutboxOwnerScope scope;
	uint64		n;

	outbox_statement_begin(&scope);
	n = outbox_statement_run(sql, nargs, args);
	outbox_statement_end(&scope);
	outbox_worker_poke_at_commit();
	return n;
}

/* ---------------- outgoing letters ---------------- */

static bool
get_bytes(HeapTuple tup, TupleDesc desc, int column, const char **data, int32 *len)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tup, desc, column, &isnull);
	bytea	   *bytes;

	if (isnull)
		return false;
	bytes = DatumGetByteaPP(value);
	*data = VARDATA_ANY(bytes);
	*len = VARSIZE_ANY_EXHDR(bytes);
	return true;
}

/*
 * Pack the headers as they are, except an operation that has the relay send the
 * event to every partition: that is returned.
 */
static OutboxOp
pack_headers(StringInfo buf, HeapTuple tup, TupleDesc desc, int column)
{
	OutboxOp	op = OUTBOX_OP_NONE;
	Datum	   *names;
	Datum	   *values;
	bool	   *nulls;
	int			nnames;
	int			nvalues;
	bool		isnull;

	deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(tup, desc, column, &isnull)),
					  BYTEAOID, -1, false, TYPALIGN_INT, &names, NULL, &nnames);
	deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(tup, desc, column + 1, &isnull)),
					  BYTEAOID, -1, false, TYPALIGN_INT, &values, &nulls, &nvalues);
	for (int i = 0; i < Min(nnames, nvalues); i++)
	{
		const char *name = TextDatumGetCString(names[i]);	/* of the same layout */

		if (strcmp(name, "op") == 0 && !nulls[i] && VARSIZE_ANY_EXHDR(DatumGetPointer(values[i])) == 1)
		{
			char		letter = *VARDATA_ANY(DatumGetPointer(values[i]));

			if (letter == outbox_op_letter(OUTBOX_OP_TRUNCATE))
				op = OUTBOX_OP_TRUNCATE;
			else if (letter == outbox_op_letter(OUTBOX_OP_END))
				op = OUTBOX_OP_END;
			if (op != OUTBOX_OP_NONE)
				continue;
		}
		if (nulls[i])
			outbox_header_pack(buf, name, NULL, 0);
		else
			outbox_header_pack(buf, name, VARDATA_ANY(DatumGetPointer(values[i])),
							   VARSIZE_ANY_EXHDR(DatumGetPointer(values[i])));
	}
	return op;
}

/*
 * Record the letter's event again.  Columns: server, topic, key, value, names
 * and values of headers, time.
 */
static void
record_again(HeapTuple tup, TupleDesc desc)
{
	OutboxEvent ev;
	StringInfoData headers;
	bool		isnull;

	memset(&ev, 0, sizeof(ev));
	ev.server = SPI_getvalue(tup, desc, 1);
	ev.server_len = strlen(ev.server);
	ev.topic = SPI_getvalue(tup, desc, 2);
	ev.topic_len = strlen(ev.topic);
	(void) get_bytes(tup, desc, 3, &ev.key, &ev.key_len);
	(void) get_bytes(tup, desc, 4, &ev.value, &ev.value_len);
	initStringInfo(&headers);
	ev.op = pack_headers(&headers, tup, desc, 5);
	ev.headers = headers.len > 0 ? headers.data : NULL;
	ev.headers_len = headers.len;
	ev.time_ms = (DatumGetTimestampTz(SPI_getbinval(tup, desc, 7, &isnull)) - SetEpochTimestamp()) / 1000;
	outbox_log_check_room();
	ev.id = outbox_stamp_next();
	outbox_log_append(&ev);
}

/*
 * Send outgoing letters again: one, or all of a topic.
 */
static uint64
send_again(const char *condition, OutboxSqlArg arg)
{
	char	   *sql = psprintf("WITH l AS (UPDATE outbox._dead_letter SET state = 'done', reason = 'recorded again',"
							   " last_at = pg_catalog.clock_timestamp()"
							   " WHERE direction = 'out' AND state IN ('dead', 'retry') AND %s"
							   " RETURNING *)"
							   " SELECT server, topic, key, value, header_names, header_values, event_time"
							   " FROM l ORDER BY id", condition);
	Datum		values[1] = {arg.value};
	OutboxOwnerScope scope;
	uint64		n;

	outbox_worker_claim();
	outbox_statement_begin(&scope);
	if (SPI_execute_with_args(sql, 1, &arg.type, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		record_again(SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
	}
	outbox_statement_end(&scope);
	return n;
}

/* ---------------- redrive ---------------- */

/*
 * redrive(letter bigint)
 */
Datum
outbox_redrive(PG_FUNCTION_ARGS)
{
	static const char sql[] =
	"UPDATE outbox._dead_letter SET state = 'retry', next_attempt_at = pg_catalog.now()"
	" WHERE id = $1 AND direction = 'in' AND state IN ('dead', 'parked', 'retry')";
	OutboxSqlArg args[] = {sql_int8(letter_argument(fcinfo))};

	require_letter_manager(PG_GETARG_INT64(0), true);
	if (change_letters(sql, lengthof(args), args) == 0)
		(void) send_again("id = $1", args[0]);
	PG_RETURN_VOID();
}

static bool
is_subscription(const char *name)
{
	static const char sql[] = "SELECT 1 FROM outbox._subscription WHERE name = $1";
	OutboxSqlArg args[] = {sql_text(name)};
	OutboxOwnerScope scope;
	bool		result;

	outbox_statement_begin(&scope);
	result = outbox_statement_run(sql, lengthof(args), args) > 0;
	outbox_statement_end(&scope);
	return result;
}

/*
 * redrive_all(name text)
 */
Datum
outbox_redrive_all(PG_FUNCTION_ARGS)
{
	static const char sql[] =
	"UPDATE outbox._dead_letter SET state = 'retry', next_attempt_at = pg_catalog.now()"
	" WHERE subscription = (SELECT id FROM outbox._subscription WHERE name = $1)"
	" AND direction = 'in' AND state IN ('dead', 'parked')";
	char	   *name = outbox_argument_text(fcinfo, 0, "name",
											"Pass the name of a subscription, or of a topic.");
	OutboxSqlArg args[] = {sql_text(name)};

	if (!is_subscription(name))
	{
		require_owner("topics");
		PG_RETURN_INT64(send_again("topic = $1", args[0]));
	}
	outbox_subscription_require_manager(name);
	PG_RETURN_INT64(change_letters(sql, lengthof(args), args));
}

/* Text as the bytes that go over the wire. */
static OutboxSqlArg
sql_wire_bytes(FunctionCallInfo fcinfo, int argno)
{
	char	   *str;
	char	   *utf8;

	if (PG_ARGISNULL(argno))
		return sql_datum(BYTEAOID, (Datum) 0, true);
	str = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	utf8 = pg_server_to_any(str, strlen(str), PG_UTF8);
	return sql_datum(BYTEAOID, PointerGetDatum(cstring_to_text(utf8)), false);
}

/* The identity of a handler's event with that key. */
static OutboxSqlArg
sql_identity(const OutboxSqlArg *key)
{
	OutboxRecord rec;

	if (key->isnull)
		return sql_text(NULL);
	memset(&rec, 0, sizeof(rec));
	rec.key = VARDATA_ANY(DatumGetPointer(key->value));
	rec.key_len = VARSIZE_ANY_EXHDR(DatumGetPointer(key->value));
	return sql_text(outbox_deliver_key_identity(&rec));
}

/*
 * edit(letter bigint, value text, key text, headers jsonb)
 *
 * Whom a replica's event is about is in its value and unknown until that is
 * tried; a handler's event waits for those with its key.
 */
Datum
outbox_edit(PG_FUNCTION_ARGS)
{
	static const char sql[] =
	"UPDATE outbox._dead_letter SET value = $2, key = coalesce($3, key),"
	" header_names = CASE WHEN $4 IS NULL THEN header_names ELSE"
	" (SELECT coalesce(pg_catalog.array_agg(pg_catalog.convert_to(k, 'UTF8') ORDER BY k), '{}') FROM pg_catalog.jsonb_each_text($4) AS h(k, v)) END,"
	" header_values = CASE WHEN $4 IS NULL THEN header_values ELSE"
	" (SELECT coalesce(pg_catalog.array_agg(pg_catalog.convert_to(v, 'UTF8') ORDER BY k), '{}')"
	" FROM pg_catalog.jsonb_each_text($4) AS h(k, v)) END,"
	" identity = CASE WHEN target IS NULL THEN coalesce($5, identity) END,"
	" state = 'dead', last_at = pg_catalog.clock_timestamp()"
	" WHERE id = $1 AND state IN ('dead', 'parked', 'retry')";
	OutboxSqlArg args[5];

	args[0] = sql_int8(letter_argument(fcinfo));
	require_letter_manager(PG_GETARG_INT64(0), false);
	args[1] = sql_wire_bytes(fcinfo, 1);
	args[2] = sql_wire_bytes(fcinfo, 2);
	args[3] = PG_ARGISNULL(3) ? sql_datum(JSONBOID, (Datum) 0, true) :
		sql_datum(JSONBOID, PG_GETARG_DATUM(3), false);
	if (!args[3].isnull && !JB_ROOT_IS_OBJECT(DatumGetJsonbP(args[3].value)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be an object")));
	args[4] = sql_identity(&args[2]);
	(void) change_letters(sql, lengthof(args), args);
	PG_RETURN_VOID();
}

/*
 * discard(letter bigint, reason text)
 */
Datum
outbox_discard(PG_FUNCTION_ARGS)
{
	static const char sql[] =
	"UPDATE outbox._dead_letter SET state = 'discarded', reason = $2, next_attempt_at = NULL,"
	" last_at = pg_catalog.clock_timestamp()"
	" WHERE id = $1 AND state IN ('dead', 'parked', 'retry')";
	OutboxSqlArg args[2];

	args[0] = sql_int8(letter_argument(fcinfo));
	args[1] = sql_text(outbox_argument_text(fcinfo, 1, "reason",
											"Say why, for those who will ask for the event."));

	require_letter_manager(PG_GETARG_INT64(0), false);
	(void) change_letters(sql, lengthof(args), args);
	PG_RETURN_VOID();
}
