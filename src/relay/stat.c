/*-------------------------------------------------------------------------
 *
 * stat.c
 *	  What the relay counts of each topic: stat_topics.
 *
 * Settlement counts in the relay's memory.  About once a second one statement
 * adds what was counted to outbox._topic_stat, in a transaction of its own.
 * Nobody else writes there, so the relay waits for nobody.  A crash loses what
 * was not added yet.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "relay/sql.h"

#define STORE_INTERVAL_MS 1000

static const char store_sql[] =
"INSERT INTO outbox._topic_stat AS t (server, topic, delivered_count, delivered_bytes,"
" parked_count, dead_count, last_delivered_at)"
" SELECT $1, c.topic, c.delivered, c.bytes, c.parked, c.dead, c.last_at"
" FROM unnest($2, $3, $4, $5, $6, $7) AS c (topic, delivered, bytes, parked, dead, last_at)"
" ON CONFLICT (server, topic) DO UPDATE SET"
" delivered_count = t.delivered_count + excluded.delivered_count,"
" delivered_bytes = t.delivered_bytes + excluded.delivered_bytes,"
" parked_count = t.parked_count + excluded.parked_count,"
" dead_count = t.dead_count + excluded.dead_count,"
" last_delivered_at = greatest(t.last_delivered_at, excluded.last_delivered_at)";

/* The arrays of the statement: names, four counts, times. */
#define NCOLUMNS 6

void
outbox_stat_delivered(RelayTopic *topic, int64 events, int64 bytes)
{
	topic->counts.delivered += events;
	topic->counts.bytes += bytes;
	topic->counts.last_at = topic->flow->settled_at;
	topic->flow->counted = true;
}

void
outbox_stat_parked(RelayTopic *topic)
{
	topic->counts.parked++;
	topic->flow->counted = true;
}

void
outbox_stat_dead(RelayTopic *topic)
{
	topic->counts.dead++;
	topic->flow->counted = true;
}

bool
outbox_stat_due(const RelayFlow *flow)
{
	return flow->counted &&
		TimestampDifferenceExceeds(flow->stat_stored, GetCurrentTimestamp(), STORE_INTERVAL_MS);
}

static bool
is_counted(const RelayTopic *topic)
{
	return topic->counts.delivered != 0 || topic->counts.parked != 0 ||
		topic->counts.dead != 0;
}

static Datum
build_array(Datum *elems, bool *nulls, int n, Oid type)
{
	int			dims[1] = {n};
	int			lbs[1] = {1};
	bool		is_text = type == TEXTOID;

	return PointerGetDatum(construct_md_array(elems, nulls, 1, dims, lbs, type,
											  is_text ? -1 : 8,
											  !is_text && FLOAT8PASSBYVAL,
											  is_text ? TYPALIGN_INT : TYPALIGN_DOUBLE));
}

/*
 * Counts of all topics that have any, as parameters 2 to 7.
 */
static void
build_columns(const RelayFlow *flow, Datum *values)
{
	static const Oid types[NCOLUMNS] = {
		TEXTOID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID
	};
	int			max = list_length(flow->topic_list);
	Datum	   *elems[NCOLUMNS];
	bool	   *nulls = palloc0(sizeof(bool) * max);
	bool	   *no_nulls = palloc0(sizeof(bool) * max);
	int			n = 0;
	ListCell   *lc;

	for (int i = 0; i < NCOLUMNS; i++)
		elems[i] = palloc(sizeof(Datum) * max);
	foreach(lc, flow->topic_list)
	{
		const RelayTopic *topic = lfirst(lc);

		if (!is_counted(topic))
			continue;
		elems[0][n] = CStringGetTextDatum(topic->name);
		elems[1][n] = Int64GetDatum(topic->counts.delivered);
		elems[2][n] = Int64GetDatum(topic->counts.bytes);
		elems[3][n] = Int64GetDatum(topic->counts.parked);
		elems[4][n] = Int64GetDatum(topic->counts.dead);
		elems[5][n] = TimestampTzGetDatum(topic->counts.last_at);
		nulls[n] = topic->counts.last_at == 0;
		n++;
	}
	for (int i = 0; i < NCOLUMNS; i++)
		values[i] = build_array(elems[i], i == NCOLUMNS - 1 ? nulls : no_nulls, n, types[i]);
}

/*
 * Outside a transaction.
 */
void
outbox_stat_store(RelayFlow *flow)
{
	Oid			types[1 + NCOLUMNS] = {
		TEXTOID, TEXTARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
		TIMESTAMPTZARRAYOID
	};
	Datum		values[1 + NCOLUMNS];
	ListCell   *lc;

	if (!flow->counted)
		return;
	StartTransactionCommand();
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	values[0] = CStringGetTextDatum(flow->server);
	build_columns(flow, &values[1]);
	outbox_sql_begin();
	outbox_sql_execute(store_sql, lengthof(types), types, values, NULL);
	outbox_sql_end();
	CommitTransactionCommand();

	foreach(lc, flow->topic_list)
		memset(&((RelayTopic *) lfirst(lc))->counts, 0, sizeof(RelayTopicCounts));
	flow->counted = false;
	flow->stat_stored = GetCurrentTimestamp();
}
