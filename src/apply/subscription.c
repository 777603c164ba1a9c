/*-------------------------------------------------------------------------
 *
 * subscription.c
 *	  What is subscribed to, and how it is to be treated.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/subscription.h"

#include "executor/spi.h"
#include "utils/elog.h"

#include "apply/statement.h"

static OutboxOnError
on_error_from_text(const char *str)
{
	if (strcmp(str, "stop") == 0)
		return OUTBOX_ON_ERROR_STOP;
	if (strcmp(str, "skip") == 0)
		return OUTBOX_ON_ERROR_SKIP;
	return OUTBOX_ON_ERROR_DEAD_LETTER;
}

static OutboxSubscription *
subscription_from_row(uint64 row)
{
	OutboxSubscription *sub = palloc0(sizeof(OutboxSubscription));

	sub->name = outbox_statement_get_text(row, 1);
	sub->target = (Oid) outbox_statement_get_int8(row, 2, InvalidOid);
	sub->handler = outbox_statement_get_text(row, 3);
	sub->server = outbox_statement_get_text(row, 4);
	sub->topic = outbox_statement_get_text(row, 5);
	sub->start = outbox_statement_get_text(row, 6);
	sub->on_error = on_error_from_text(outbox_statement_get_text(row, 7));
	sub->continue_on_loss = outbox_statement_get_bool(row, 8);
	sub->generation = outbox_statement_get_int8(row, 9, 0);
	sub->starts = outbox_statement_get_int4(row, 10, 0);
	sub->id = outbox_statement_get_int8(row, 11, 0);
	sub->handler_owner = (Oid) outbox_statement_get_int8(row, 12, InvalidOid);
	return sub;
}

List *
outbox_subscription_load(void)
{
	static const char sql[] =
	"SELECT name, target::oid::int8, handler, server, topic, start, on_error,"
	" on_data_loss = 'continue', generation, starts, id, handler_owner::oid::int8"
	" FROM outbox._subscription WHERE state = 'running' ORDER BY name";
	MemoryContext caller = CurrentMemoryContext;
	OutboxOwnerScope scope;
	List	   *subs = NIL;
	uint64		n;

	outbox_statement_begin(&scope);
	n = outbox_statement_run(sql, 0, NULL);
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < n; i++)
		subs = lappend(subs, subscription_from_row(i));
	outbox_statement_end(&scope);
	return subs;
}

bool
outbox_subscription_exists(void)
{
	static const char sql[] =
	"SELECT 1 FROM outbox._subscription WHERE state = 'running' LIMIT 1";
	OutboxOwnerScope scope;
	bool		result;

	outbox_statement_begin(&scope);
	result = outbox_statement_run(sql, 0, NULL) > 0;
	outbox_statement_end(&scope);
	return result;
}

int
outbox_subscription_count(const char *server)
{
	static const char sql[] =
	"SELECT count(*) FROM outbox._subscription WHERE state = 'running' AND server = $1";
	OutboxSqlArg args[] = {sql_text(server)};
	OutboxOwnerScope scope;
	int			count;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(sql, lengthof(args), args);
	count = (int) outbox_statement_get_int8(0, 1, 0);
	outbox_statement_end(&scope);
	return count;
}

void
outbox_subscription_stop(const OutboxSubscription *sub, int sqlerrcode, const char *reason)
{
	static const char sql[] =
	"UPDATE outbox._subscription SET state = 'stopped', stopped_sqlstate = $2,"
	" stopped_reason = $3, stopped_at = pg_catalog.clock_timestamp()"
	" WHERE id = $1 AND state = 'running' AND generation = $4";
	OutboxSqlArg args[] = {sql_int8(sub->id), sql_text(unpack_sql_state(sqlerrcode)),
	sql_text(reason), sql_int8(sub->generation)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(sql, lengthof(args), args);
	outbox_statement_end(&scope);
}

void
outbox_subscription_count_start(OutboxSubscription *sub)
{
	static const char sql[] =
	"UPDATE outbox._subscription SET starts = starts + 1 WHERE id = $1 RETURNING starts";
	OutboxSqlArg args[] = {sql_int8(sub->id)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	if (outbox_statement_run(sql, lengthof(args), args) > 0)
		sub->starts = outbox_statement_get_int4(0, 1, 0);
	outbox_statement_end(&scope);
}

void
outbox_subscription_reset_starts(OutboxSubscription *sub)
{
	static const char sql[] =
	"UPDATE outbox._subscription SET starts = 0, suspect_partition = NULL,"
	" suspect_offset = NULL, suspect_count = 0 WHERE id = $1";
	OutboxSqlArg args[] = {sql_int8(sub->id)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(sql, lengthof(args), args);
	outbox_statement_end(&scope);
	sub->starts = 0;
}

int
outbox_subscription_suspect(const OutboxSubscription *sub, int32 partition, int64 offset)
{
	static const char sql[] =
	"UPDATE outbox._subscription SET suspect_partition = $2, suspect_offset = $3,"
	" suspect_count = CASE WHEN suspect_partition = $2 AND suspect_offset = $3"
	" THEN suspect_count + 1 ELSE 1 END"
	" WHERE id = $1 RETURNING suspect_count";
	OutboxSqlArg args[] = {sql_int8(sub->id), sql_int4(partition), sql_int8(offset)};
	OutboxOwnerScope scope;
	int			count = 0;

	outbox_statement_begin(&scope);
	if (outbox_statement_run(sql, lengthof(args), args) > 0)
		count = outbox_statement_get_int4(0, 1, 0);
	outbox_statement_end(&scope);
	return count;
}

void
outbox_subscription_note_waiting(const OutboxSubscription *sub, const char *reason)
{
	static const char waits[] =
	"INSERT INTO outbox._waiting (subscription, reason) VALUES ($1, $2)"
	" ON CONFLICT (subscription) DO UPDATE SET reason = excluded.reason";
	static const char goes_on[] = "DELETE FROM outbox._waiting WHERE subscription = $1";
	OutboxSqlArg args[] = {sql_text(sub->name), sql_text(reason)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	if (reason != NULL)
		(void) outbox_statement_run(waits, 2, args);
	else
		(void) outbox_statement_run(goes_on, 1, args);
	outbox_statement_end(&scope);
}

void
outbox_subscription_forget_waiting(void)
{
	static const char sql[] =
	"DELETE FROM outbox._waiting WHERE subscription NOT IN"
	" (SELECT name FROM outbox._subscription WHERE state = 'running')";
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(sql, 0, NULL);
	outbox_statement_end(&scope);
}
