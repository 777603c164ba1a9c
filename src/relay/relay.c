/*-------------------------------------------------------------------------
 *
 * relay.c
 *	  The relay: a worker that sends the log's events to Kafka.
 *
 * One relay per database serves all servers, a flow for each.  It reads what
 * was committed, hands it to the producer, settles what was acknowledged, and
 * gives back segments of the log that no flow needs any more.  It never waits
 * while it holds a transaction: see flow.h for the parts.
 *
 * A writer's commit sets our latch if we said that we sleep; we say so before
 * we look at the log for the last time.  A timer of a second finds what nobody
 * could wake us for, such as COMMIT PREPARED.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/relay.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "common/fault.h"
#include "relay/flow.h"
#include "relay/sql.h"
#include "worker/worker.h"

#define POLL_MS 1000			/* look at the log at least this often */
#define UNSETTLED_MS 10			/* while acknowledged events are not settled */
#define ASKING_MS 50			/* while brokers cannot say yet what is
								 * published */
#define TRIM_INTERVAL_MS 5000
#define FINISH_MS 1000			/* for Kafka transactions that are under way */

static List *flows = NIL;		/* RelayFlow * */
static bool servers_changed = true;
static TimestampTz last_trim = 0;
static bool room_wanted = false;	/* a writer found the log full */
static bool (*task_step) (void) = NULL;
static int	segment_size_mb = 64;

void
outbox_relay_set_task(bool (*step) (void))
{
	task_step = step;
}

/* ---------------- servers ---------------- */

static void
servers_invalidate(Datum arg, int cacheid, uint32 hashvalue)
{
	servers_changed = true;
}

static RelayFlow *
find_flow(const char *server)
{
	ListCell   *lc;

	foreach(lc, flows)
	{
		RelayFlow  *flow = lfirst(lc);

		if (strcmp(flow->server, server) == 0)
			return flow;
	}
	return NULL;
}

/*
 * Inside a transaction.
 */
static RelayFlow *
get_flow(const char *server)
{
	RelayFlow  *flow = find_flow(server);

	if (flow == NULL)
	{
		MemoryContext oldcontext;

		flow = outbox_flow_create(server);
		oldcontext = MemoryContextSwitchTo(TopMemoryContext);
		flows = lappend(flows, flow);
		MemoryContextSwitchTo(oldcontext);
	}
	return flow;
}

/*
 * An event names a server.  One that we have no flow for must get one before
 * anybody's position passes the event, so at once.
 */
void
outbox_relay_discover(const char *server, int len)
{
	char	   *name = pnstrdup(server, len);

	if (find_flow(name) == NULL)
	{
		StartTransactionCommand();
		(void) get_flow(name);
		CommitTransactionCommand();
		servers_changed = true;
	}
	pfree(name);
}

static const char *const servers_query =
"SELECT s.srvname, s.oid, s.xmin"
"  FROM pg_catalog.pg_foreign_server AS s JOIN pg_catalog.pg_foreign_data_wrapper AS w"
"       ON w.oid = s.srvfdw WHERE w.fdwname = 'outbox_kafka'";

typedef struct ServerState
{
	char		server[NAMEDATALEN];	/* hash key */
	Oid			serverid;
	TransactionId xmin;			/* of its row */
	uint64		fingerprint;	/* of what a producer is made from */
	uint32		seen;
} ServerState;

static HTAB *server_states = NULL;
static uint32 server_round = 0;

/*
 * What a producer is made from may have changed; where that cannot be told, as
 * without the secrets file, only an ALTER SERVER counts.
 */
static void
server_found(const char *server, Oid serverid, TransactionId xmin)
{
	uint64		fingerprint;
	char		key[NAMEDATALEN] = {0};
	ServerState *state;
	bool		found;
	bool		altered;

	strlcpy(key, server, NAMEDATALEN);
	state = hash_search(server_states, key, HASH_ENTER, &found);
	if (outbox_server_try_fingerprint(serverid, &fingerprint))
		altered = found && state->fingerprint != fingerprint;
	else
	{
		altered = found && state->xmin != xmin;
		fingerprint = found && !altered ? state->fingerprint : 0;
	}
	state->fingerprint = fingerprint;
	state->xmin = xmin;
	state->serverid = serverid;
	state->seen = server_round;
	outbox_flow_set_server(get_flow(server), serverid, altered);
}

static void
servers_missing(void)
{
	ListCell   *lc;

	foreach(lc, flows)
	{
		RelayFlow  *flow = lfirst(lc);
		ServerState *state;
		char		key[NAMEDATALEN] = {0};

		strlcpy(key, flow->server, NAMEDATALEN);
		state = hash_search(server_states, key, HASH_FIND, NULL);
		if (state == NULL || state->seen != server_round)
			outbox_flow_set_server(flow, InvalidOid, false);
	}
}

/*
 * Bring flows and topics in line with the catalogs.
 */
static void
servers_load(void)
{
	List	   *names;
	ListCell   *lc;

	if (server_states == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(ServerState);
		server_states = hash_create("pg_outbox servers", 16, &ctl, HASH_ELEM | HASH_STRINGS);
	}
	servers_changed = false;
	server_round++;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	names = outbox_position_servers();
	PopActiveSnapshot();
	foreach(lc, names)
		(void) get_flow(lfirst(lc));

	outbox_sql_begin();
	outbox_sql_execute(servers_query, 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tup = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		server_found(SPI_getvalue(tup, desc, 1),
					 DatumGetObjectId(SPI_getbinval(tup, desc, 2, &isnull)),
					 DatumGetTransactionId(SPI_getbinval(tup, desc, 3, &isnull)));
	}
	outbox_sql_end();
	servers_missing();
	outbox_streams_reload();
	foreach(lc, flows)
		outbox_topics_load(lfirst(lc));
	CommitTransactionCommand();
}

/* ---------------- giving back the log ---------------- */

/*
 * Size at which the log goes on in the next segment: small enough that settled
 * events alone never reach the log's limit.
 */
static int64
rotation_size(void)
{
	int64		size = (int64) segment_size_mb * 1024 * 1024;
	int64		limit = outbox_log_limit(outbox_log_size());

	return (limit >= 0) ? Min(size, limit / 4) : size;
}

/*
 * Is it time to go on in the next segment?  Also where a writer found the log
 * full and all of it is settled: his limit may be lower than ours, as his
 * database, his role or he himself has another pg_outbox.max_backlog.
 */
static bool
rotation_due(int current, OutboxSnapshot *const *bases, int nbases)
{
	return outbox_segment_size(current) >= rotation_size() ||
		(room_wanted && nbases > 0 && outbox_segment_settled(current, bases, nbases));
}

/*
 * Is nothing parked, as far as the flows know?
 */
static bool
all_topics_live(void)
{
	ListCell   *lc;
	ListCell   *lt;

	foreach(lc, flows)
		foreach(lt, ((RelayFlow *) lfirst(lc))->topic_list)
		if (((RelayTopic *) lfirst(lt))->state != TOPIC_LIVE)
		return false;
	return true;
}

/*
 * Move on to the next segment when the current one is large, and empty those
 * that are settled.
 */
static void
trim_log(void)
{
	OutboxSnapshot **bases = palloc(sizeof(OutboxSnapshot *) * Max(list_length(flows), 1));
	int			nbases = 0;
	int			current;
	ListCell   *lc;

	foreach(lc, flows)
		bases[nbases++] = ((RelayFlow *) lfirst(lc))->position.base;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	current = outbox_segment_current();
	if (rotation_due(current, bases, nbases))
		(void) outbox_segment_advance();
	room_wanted = false;		/* he asks again */
	for (int segment = 0; segment < OUTBOX_LOG_SEGMENTS && nbases > 0; segment++)
		if (segment != outbox_segment_current())
			(void) outbox_segment_trim(segment, bases, nbases);
	if (all_topics_live())
		outbox_parked_trim();
	outbox_position_compact();
	OUTBOX_FAULT("relay.trimming");
	PopActiveSnapshot();
	CommitTransactionCommand();
	pfree(bases);
}

static void
trim_if_due(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(last_trim, now, TRIM_INTERVAL_MS))
		return;
	last_trim = now;
	trim_log();
}

/* ---------------- the loop ---------------- */

/*
 * What kind of reason a flow has, if it has one.
 */
static OutboxServerTrouble
flow_trouble(const RelayFlow *flow)
{
	if (flow->waiting_for == NULL)
		return OUTBOX_SERVER_WAITING;
	return flow->txn.blocked != NULL ? OUTBOX_SERVER_STOPPED : OUTBOX_SERVER_UNREACHABLE;
}

static void
report(void)
{
	StringInfoData reasons;
	ListCell   *lc;

	initStringInfo(&reasons);
	foreach(lc, flows)
	{
		RelayFlow  *flow = lfirst(lc);
		const char *reason = flow->waiting_for ? flow->waiting_for : flow->gate_reason;

		outbox_worker_report_server(flow->server, flow_trouble(flow), reason);
		if (reason != NULL)
			appendStringInfo(&reasons, "%sserver \"%s\": %s", reasons.len ? "; " : "",
							 flow->server, reason);
	}
	if (reasons.len > 0)
		outbox_worker_report("waiting", reasons.data);
	else
		outbox_worker_report("running", NULL);
	pfree(reasons.data);
}

static long
wait_timeout(void)
{
	long		timeout = POLL_MS;
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, flows)
	{
		RelayFlow  *flow = lfirst(lc);
		TimestampTz gate = outbox_flow_may_send(flow) ? outbox_gate_look_at(flow) : 0;
		TimestampTz retry = gate != 0 ? gate : outbox_topics_next_retry(flow);

		if (outbox_flow_unsettled(flow))
			timeout = Min(timeout, UNSETTLED_MS);
		if (flow->txn.state == TXN_LOOKING || flow->txn.state == TXN_FINDING)
			timeout = Min(timeout, ASKING_MS);
		if (flow->producer == NULL && !flow->producer_ending && OidIsValid(flow->serverid))
			timeout = Min(timeout, TimestampDifferenceMilliseconds(now, flow->producer_retry) + 1);
		if (retry != 0)
			timeout = Min(timeout, TimestampDifferenceMilliseconds(now, retry) + 1);
	}
	return Max(timeout, 1);
}

static bool
run_flows(void)
{
	MemoryContext context = CurrentMemoryContext;
	bool		progress = false;
	ListCell   *lc;

	foreach(lc, flows)
	{
		RelayFlow  *flow = lfirst(lc);

		/* a transaction leaves another one behind, which nobody resets */
		MemoryContextSwitchTo(context);
		progress |= outbox_flow_run(flow);
		if (outbox_flow_settle_due(flow))
		{
			outbox_flow_settle(flow, false);
			progress |= outbox_topics_may_run(flow) || outbox_flow_unsettled(flow);
		}
		if (outbox_stat_due(flow))
			outbox_stat_store(flow);
	}
	return progress;
}

/*
 * Do the flows keep up?  Copies must not fill the log faster than it drains.
 */
static bool
flows_keep_up(void)
{
	ListCell   *lc;

	foreach(lc, flows)
	{
		RelayFlow  *flow = lfirst(lc);

		if (flow->ticks != NIL || flow->tail - flow->head > FLOW_RING_SIZE / 4)
			return false;
	}
	return true;
}

/*
 * Let Kafka transactions end that are under way, if brokers answer: until the
 * next relay ends them in our place they hold up those who read the topics.
 */
static void
finish_transactions(void)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FINISH_MS);
	bool		waiting = true;

	while (waiting && GetCurrentTimestamp() < until)
	{
		ListCell   *lc;

		waiting = false;
		foreach(lc, flows)
		{
			RelayFlow  *flow = lfirst(lc);

			if (flow->txn.state <= TXN_IDLE || !outbox_producer_connected(flow->producer, NULL))
				continue;
			flow->restart_by = until;
			(void) outbox_flow_run(flow);
			waiting = true;
		}
		if (waiting)
			pg_usleep(2000);
	}
}

static void
finish_flows(bool in_transactions)
{
	ListCell   *lc;

	foreach(lc, flows)
	{
		RelayFlow  *flow = lfirst(lc);

		if ((flow->txn.state != TXN_NONE) != in_transactions)
			continue;
		if (flow->producer != NULL && !in_transactions)
			(void) outbox_flow_run(flow);
		outbox_flow_settle(flow, true);
		outbox_stat_store(flow);
	}
}

/*
 * What can still be settled is; what is in flight is sent again by the next
 * relay.  Kafka transactions come last: they may take longer than we have.
 */
static void
finish(void)
{
	finish_flows(false);
	finish_transactions();
	finish_flows(true);
}

static void
relay_main(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_outbox relay",
												  ALLOCSET_DEFAULT_SIZES);

	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, servers_invalidate, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, servers_invalidate, (Datum) 0);
	outbox_worker_report("running", NULL);

	while (!outbox_worker_stopping())
	{
		bool		progress;

		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		SetCurrentStatementStartTimestamp();	/* what now() is in this turn */
		outbox_worker_set_sleeping(true);
		if (outbox_worker_catalog_changed() || servers_changed)
			servers_load();
		progress = run_flows();
		if (task_step != NULL && flows_keep_up())
			progress |= task_step();
		room_wanted |= outbox_worker_asked();
		trim_if_due();
		report();
		(void) outbox_worker_wait(progress ? 0 : wait_timeout());
	}
	finish();
}

/*
 * There is work as soon as something was published once.
 */
static bool
relay_has_work(void)
{
	bool		found;

	outbox_sql_begin();
	outbox_sql_execute("SELECT WHERE EXISTS (SELECT FROM outbox._publication)"
					   " OR EXISTS (SELECT FROM outbox._stream)"
					   " OR EXISTS (SELECT FROM outbox._position_0)"
					   " OR EXISTS (SELECT FROM outbox._position_1)"
					   " OR EXISTS (SELECT FROM outbox._log_0)"
					   " OR EXISTS (SELECT FROM outbox._log_1)"
					   " OR EXISTS (SELECT FROM outbox._log_2)", 0, NULL, NULL, NULL);
	found = SPI_processed > 0;
	outbox_sql_end();
	return found;
}

static const OutboxWorkerClass relay_class = {
	.name = "relay",
	.has_work = relay_has_work,
	.main = relay_main
};

void
outbox_relay_init(void)
{
	DefineCustomIntVariable("pg_outbox.segment_size",
							"Size at which the event log goes on in its next segment.",
							"A segment is emptied when all of its events have been settled.",
							&segment_size_mb, 64, 1, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	outbox_gate_init();
	outbox_worker_register(OUTBOX_WORKER_RELAY, &relay_class);
	outbox_restored_init();
}
