/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Forgetting what is too old to matter.
 *
 * A tombstone must outlive whatever could bring its row back: while a letter
 * of its key is open, or one whose key nobody knows, it stays.
 *
 * Floors stay for as long as their table: an event that is older than one may
 * come at any time.
 *
 * Rows are locked where they are judged, so that one which is renewed
 * meanwhile is judged again, and those that others hold are left for the next
 * time: nobody waits here.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/retention.h"

#include "fmgr.h"

#include "apply/settings.h"
#include "apply/statement.h"

#define AT_ONCE 10000

PG_FUNCTION_INFO_V1(outbox_forget_expired);

int64
outbox_retention_run(void)
{
	static const char tombstones[] =
	"DELETE FROM outbox._tombstone WHERE (target, key) IN ("
	" SELECT target, key FROM outbox._tombstone t"
	" WHERE deleted_at < pg_catalog.now() - $1 * interval '1 min'"
	" AND NOT EXISTS (SELECT 1 FROM outbox._dead_letter d"
	" WHERE d.target = t.target AND (d.identity = t.key OR d.identity IS NULL)"
	" AND d.state IN ('parked', 'dead', 'retry')) LIMIT $2 FOR UPDATE OF t SKIP LOCKED)";
	static const char orphans[] =
	"DELETE FROM outbox._tombstone WHERE (target, key) IN ("
	" SELECT target, key FROM outbox._tombstone t"
	" WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.oid = t.target)"
	" LIMIT $1 FOR UPDATE OF t SKIP LOCKED)";
	static const char floors[] =
	"DELETE FROM outbox._floor f WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.oid = f.target)";
	static const char marks[] =
	"DELETE FROM outbox._mark m WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.oid = m.target)";
	static const char inbox[] =
	"DELETE FROM outbox._inbox WHERE (consumer, is_subscription, source, event_id) IN ("
	" SELECT consumer, is_subscription, source, event_id FROM outbox._inbox"
	" WHERE seen_at < pg_catalog.now() - $1 * interval '1 min' LIMIT $2 FOR UPDATE SKIP LOCKED)";
	static const char letters[] =
	"DELETE FROM outbox._dead_letter WHERE id IN ("
	" SELECT id FROM outbox._dead_letter WHERE state IN ('done', 'discarded')"
	" AND last_at < pg_catalog.now() - $1 * interval '1 min' LIMIT $2 FOR UPDATE SKIP LOCKED)";
	OutboxSqlArg keys_age[] = {sql_int4(outbox_tombstone_retention), sql_int8(AT_ONCE)};
	OutboxSqlArg inbox_age[] = {sql_int4(outbox_inbox_retention), sql_int8(AT_ONCE)};
	OutboxSqlArg at_once[] = {sql_int8(AT_ONCE)};
	OutboxOwnerScope scope;
	int64		gone;

	outbox_statement_begin(&scope);
	gone = outbox_statement_run(tombstones, 2, keys_age);
	gone += outbox_statement_run(orphans, 1, at_once);
	gone += outbox_statement_run(floors, 0, NULL);
	gone += outbox_statement_run(marks, 0, NULL);
	gone += outbox_statement_run(inbox, 2, inbox_age);
	gone += outbox_statement_run(letters, 2, inbox_age);
	outbox_statement_end(&scope);
	return gone;
}

/*
 * forget_expired()
 */
Datum
outbox_forget_expired(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(outbox_retention_run());
}
