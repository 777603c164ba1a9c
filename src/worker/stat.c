/*-------------------------------------------------------------------------
 *
 * stat.c
 *	  outbox.stat_reset: counters begin anew.
 *
 * The counters themselves belong to the workers and only grow; to change them
 * here would make a worker wait until our transaction ends.  What is stored is
 * where they stood, which the views subtract.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "common/argument.h"
#include "common/catalog.h"

PG_FUNCTION_INFO_V1(outbox_stat_reset);

/* $1 a name and $2 a server, null: all.  The rows are those reset. */
typedef struct StatKind
{
	const char *kind;
	const char *view;
	const char *sql;
} StatKind;

static const StatKind stat_kinds[] = {
	{"server", "outbox.stat_servers",
		"INSERT INTO outbox._reset_server (server, settled_events, at)"
		" SELECT p.server, p.events, clock_timestamp() FROM outbox._positions() AS p"
		" WHERE ($1 IS NULL OR p.server = $1) AND $2 IS NULL"
	" ON CONFLICT (server) DO UPDATE SET settled_events = excluded.settled_events, at = excluded.at"},
	{"topic", "outbox.stat_topics",
		"INSERT INTO outbox._reset_topic (server, topic, delivered_count, delivered_bytes, parked_count, dead_count, at)"
		" SELECT server, topic, coalesce(t.delivered_count, 0), coalesce(t.delivered_bytes, 0),"
		" coalesce(t.parked_count, 0), coalesce(t.dead_count, 0), clock_timestamp()"
		" FROM outbox._stream AS s FULL JOIN outbox._topic_stat AS t USING (server, topic)"
		" WHERE ($1 IS NULL OR topic = $1) AND ($2 IS NULL OR server = $2)"
		" ON CONFLICT (server, topic) DO UPDATE SET delivered_count = excluded.delivered_count,"
		" delivered_bytes = excluded.delivered_bytes, parked_count = excluded.parked_count,"
	" dead_count = excluded.dead_count, at = excluded.at"},
	{"subscription", "outbox.stat_subscriptions",
		"INSERT INTO outbox._reset_subscription (subscription, partition, received, applied, deleted, stale,"
		" duplicate, suppressed, dead, parked, skipped, lost, at)"
		" SELECT subscription, partition, received, applied, deleted, stale, duplicate, suppressed, dead,"
		" parked, skipped, lost, clock_timestamp() FROM outbox._offset"
		" WHERE ($1 IS NULL OR subscription = $1) AND $2 IS NULL"
		" ON CONFLICT (subscription, partition) DO UPDATE SET received = excluded.received,"
		" applied = excluded.applied, deleted = excluded.deleted, stale = excluded.stale,"
		" duplicate = excluded.duplicate, suppressed = excluded.suppressed, dead = excluded.dead,"
	" parked = excluded.parked, skipped = excluded.skipped, lost = excluded.lost, at = excluded.at"}
};

/* A subscription that was never at work has no counters, but exists. */
static const char subscription_sql[] =
"SELECT FROM outbox._subscription WHERE name = $1 AND $2 IS NULL";

static uint64
execute(const char *sql, const char *name, const char *server)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {(Datum) 0, (Datum) 0};
	char		nulls[2] = {'n', 'n'};

	if (name != NULL)
	{
		values[0] = CStringGetTextDatum(name);
		nulls[0] = ' ';
	}
	if (server != NULL)
	{
		values[1] = CStringGetTextDatum(server);
		nulls[1] = ' ';
	}
	if (SPI_execute_with_args(sql, 2, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	return SPI_processed;
}

static void
reset_kind(const StatKind *kind, const char *name, const char *server)
{
	if (execute(kind->sql, name, server) > 0 || name == NULL)
		return;
	if (strcmp(kind->kind, "subscription") == 0 &&
		execute(subscription_sql, name, server) > 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("there are no counters of %s \"%s\"", kind->kind, name),
			 errhint("See %s.", kind->view)));
}

/*
 * The kind of a name; NULL means all of them.
 */
static const StatKind *
find_kind(const char *kind)
{
	if (kind == NULL)
		return NULL;
	for (int i = 0; i < lengthof(stat_kinds); i++)
		if (strcmp(stat_kinds[i].kind, kind) == 0)
			return &stat_kinds[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("there are no counters of kind \"%s\"", kind),
			 errhint("Kinds are \"server\", \"topic\" and \"subscription\".")));
}

/*
 * stat_reset(kind text, name text, server text)
 */
Datum
outbox_stat_reset(PG_FUNCTION_ARGS)
{
	const StatKind *kind = find_kind(outbox_argument_text_or_null(fcinfo, 0));
	char	   *name = outbox_argument_text_or_null(fcinfo, 1);
	char	   *server = outbox_argument_text_or_null(fcinfo, 2);
	OutboxOwnerScope scope;

	if (name != NULL)
		outbox_argument_require(fcinfo, 0, "kind",
								"Say what has the name: a server, a topic or a subscription.");
	if (server != NULL && (kind == NULL || strcmp(kind->kind, "topic") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only counters of kind \"topic\" can be of a server"),
				 errhint("Those of a server itself are of kind \"server\", with its name.")));

	outbox_owner_enter(&scope);
	SPI_connect();
	for (int i = 0; i < lengthof(stat_kinds); i++)
		if (kind == NULL || kind == &stat_kinds[i])
			reset_kind(&stat_kinds[i], name, server);
	SPI_finish();
	outbox_owner_leave(&scope);
	PG_RETURN_VOID();
}
