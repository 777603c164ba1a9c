/*-------------------------------------------------------------------------
 *
 * letter_admin.c
 *	  redrive(), edit() and discard() of dead letters.
 *
 * Letters of a subscription belong to whoever manages it, the relay's to
 * members of the extension's owner.  The worker that set a letter aside takes
 * it up again; nothing is applied or sent here.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/apply.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "apply/statement.h"
#include "apply/subscription.h"
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

static void
require_letter_manager(int64 id)
{
	static const char sql[] =
	"SELECT s.name, d.state IN ('dead', 'parked', 'retry') FROM outbox._dead_letter d"
	" LEFT JOIN outbox._subscription s ON d.direction = 'in' AND s.name = d.name"
	" WHERE d.id = $1";
	OutboxSqlArg args[] = {sql_int8(id)};
	MemoryContext caller = CurrentMemoryContext;
	OutboxOwnerScope scope;
	char	   *name = NULL;
	bool		found;
	bool		open = false;

	outbox_statement_begin(&scope);
	found = outbox_statement_run(sql, lengthof(args), args) > 0;
	if (found)
	{
		MemoryContextSwitchTo(caller);
		name = outbox_statement_get_text(0, 1);
		open = outbox_statement_get_bool(0, 2);
	}
	outbox_statement_end(&scope);
	if (name != NULL)
		outbox_subscription_require_manager(name);
	else
		require_owner("publications");
	if (!open)
		ereport(ERROR,
				(errcode(found ? ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE : ERRCODE_UNDEFINED_OBJECT),
				 found ? errmsg("dead letter " INT64_FORMAT " is settled already", id) :
				 errmsg("dead letter " INT64_FORMAT " does not exist", id)));
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

/*
 * redrive(letter bigint)
 */
Datum
outbox_redrive(PG_FUNCTION_ARGS)
{
	static const char sql[] =
	"UPDATE outbox._dead_letter SET state = 'retry', next_attempt_at = pg_catalog.now()"
	" WHERE id = $1 AND state IN ('dead', 'parked', 'retry')";
	OutboxSqlArg args[] = {sql_int8(PG_GETARG_INT64(0))};

	require_letter_manager(PG_GETARG_INT64(0));
	(void) change_letters(sql, lengthof(args), args);
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
	" WHERE name = $1 AND direction = $2 AND state IN ('dead', 'parked')";
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		incoming = is_subscription(name);
	OutboxSqlArg args[] = {sql_text(name), sql_text(incoming ? "in" : "out")};

	if (incoming)
		outbox_subscription_require_manager(name);
	else
		require_owner("publications");
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

/*
 * edit(letter bigint, value text, key text, headers jsonb)
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
	" identity = CASE WHEN target IS NULL THEN identity END,"
	" state = 'dead', last_at = pg_catalog.clock_timestamp()"
	" WHERE id = $1 AND state IN ('dead', 'parked', 'retry')";
	OutboxSqlArg args[4];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("letter must not be null")));
	require_letter_manager(PG_GETARG_INT64(0));
	args[0] = sql_int8(PG_GETARG_INT64(0));
	args[1] = sql_wire_bytes(fcinfo, 1);
	args[2] = sql_wire_bytes(fcinfo, 2);
	args[3] = PG_ARGISNULL(3) ? sql_datum(JSONBOID, (Datum) 0, true) :
		sql_datum(JSONBOID, PG_GETARG_DATUM(3), false);
	if (!args[3].isnull && !JB_ROOT_IS_OBJECT(DatumGetJsonbP(args[3].value)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be an object")));
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
	OutboxSqlArg args[] = {sql_int8(PG_GETARG_INT64(0)),
	sql_text(text_to_cstring(PG_GETARG_TEXT_PP(1)))};

	require_letter_manager(PG_GETARG_INT64(0));
	(void) change_letters(sql, lengthof(args), args);
	PG_RETURN_VOID();
}
