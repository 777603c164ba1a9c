/*-------------------------------------------------------------------------
 *
 * topic.c
 *	  The delivery of one topic: stopping it, parking its events, going on.
 *
 * A fault of a topic (missing, forbidden, its server dropped) must not hold up
 * the others.  So from then on its events go to outbox._parked, in order, and
 * the flow's position passes them.  After a while the oldest one is tried; if
 * it goes through, the others follow, and when none is left the topic is live
 * again: in between no later event overtakes a parked one.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "relay/sql.h"
#include "worker/worker.h"

#define RETRY_MIN_MS 1000
#define RETRY_MAX_MS 60000
#define ROW_RETRY_MS 500		/* while somebody else has the topic's row */
#define DRAIN_PAGE 2000			/* parked events read at once, */
#define DRAIN_BYTES (4 * 1024 * 1024)	/* and about so much of them */

/* ---------------- state ---------------- */

RelayTopic *
outbox_topic_get(RelayFlow *flow, const char *name, int len)
{
	char		key[TOPIC_NAME_SIZE] = {0};
	RelayTopic *topic;
	bool		found;

	memcpy(key, name, Min(len, TOPIC_NAME_SIZE - 1));
	topic = hash_search(flow->topics, key, HASH_ENTER, &found);
	if (!found)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		memset((char *) topic + TOPIC_NAME_SIZE, 0, sizeof(RelayTopic) - TOPIC_NAME_SIZE);
		topic->flow = flow;
		topic->index = list_length(flow->topic_list);
		flow->topic_list = lappend(flow->topic_list, topic);
		MemoryContextSwitchTo(oldcontext);
	}
	if (!OidIsValid(flow->serverid))
		outbox_topic_server_gone(topic);
	return topic;
}

static void
topic_set_reason(RelayTopic *topic, const char *reason)
{
	char	   *copy = reason ? MemoryContextStrdup(TopMemoryContext, reason) : NULL;

	if (topic->reason != NULL)
		pfree(topic->reason);
	topic->reason = copy;
}

/*
 * Try again later, after longer and longer pauses.
 */
static void
topic_postpone(RelayTopic *topic)
{
	topic->retry_ms = Max(RETRY_MIN_MS, Min(topic->retry_ms * 2, RETRY_MAX_MS));
	topic->retry_at = GetCurrentTimestamp() + topic->retry_ms * 1000L;
}

void
outbox_topic_stop(RelayTopic *topic, const char *reason)
{
	bool		was_live = topic->state == TOPIC_LIVE;

	if (topic->state == TOPIC_PAUSED)
		return;
	if (topic->state == TOPIC_STOPPED)
		return;					/* further reports of what is in flight */

	topic->state = TOPIC_STOPPED;
	topic->changed = true;
	topic_postpone(topic);
	topic_set_reason(topic, reason ? reason : "unknown reason");
	if (topic->flow->producer != NULL)
		outbox_producer_forget_topic(topic->flow->producer, topic->name);
	if (was_live)
		ereport(WARNING,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("stopped delivery to topic \"%s\" of server \"%s\"",
						topic->name, topic->flow->server),
				 errdetail("%s", topic->reason),
				 errhint("Its events are kept and sent when the topic takes events again; other topics go on.")));
}

/*
 * There is nobody to send its events to.
 */
void
outbox_topic_server_gone(RelayTopic *topic)
{
	if (topic->state == TOPIC_LIVE)
		outbox_topic_stop(topic, psprintf("server \"%s\" does not exist", topic->flow->server));
}

static void
topic_go_live(RelayTopic *topic)
{
	topic->state = TOPIC_LIVE;
	topic->changed = true;
	topic->retry_ms = 0;
	topic_set_reason(topic, NULL);
	ereport(LOG,
			(errmsg("delivery to topic \"%s\" of server \"%s\" goes on",
					topic->name, topic->flow->server)));
}

/*
 * The producer is gone, and with it what was in flight.
 */
void
outbox_topic_reset(RelayTopic *topic)
{
	topic->in_flight = 0;
	topic->to_park = 0;
	topic->drain_in_flight = 0;
	topic->drain_in_txn = false;
	topic->drain_fault = OUTBOX_KAFKA_OK;
	topic->drain_counts = false;
	outbox_broadcast_reset(&topic->drain_copies);
	topic->drain_stamp = topic->drain_id = topic->drain_bytes = 0;
	topic->asking = false;
	if (topic->state == TOPIC_PROBING || topic->state == TOPIC_DRAINING)
		topic->state = TOPIC_STOPPED;
}

bool
outbox_topic_parks(const RelayTopic *topic)
{
	return topic->state != TOPIC_LIVE;
}

/* ---------------- storing ---------------- */

static void
row_postpone(RelayTopic *topic)
{
	topic->row_retry = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROW_RETRY_MS);
}

/*
 * Somebody may be publishing to the same new topic in a transaction that he
 * leaves open: whoever inserts the row then waits for him.  We do not; the topic
 * is without a row for that long.
 */
static void
row_try(RelayTopic *topic)
{
	MemoryContext oldcontext = CurrentMemoryContext;

	StartTransactionCommand();
	(void) set_config_option("lock_timeout", "1ms", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	PG_TRY();
	{
		topic->stream = outbox_park_stream(topic->flow->server, topic->name);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(oldcontext);
		FlushErrorState();
		AbortCurrentTransaction();
		topic->stream = 0;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	if (topic->stream == 0)
		row_postpone(topic);
}

/*
 * Give rows to topics that are about to need one, as the events of a stopped
 * one do.  Outside a transaction: what settles must not have to wait.
 */
void
outbox_topics_make_rows(RelayFlow *flow)
{
	ListCell   *lc;

	foreach(lc, flow->topic_list)
	{
		RelayTopic *topic = lfirst(lc);

		if (topic->stream == 0 && (topic->changed || topic->state != TOPIC_LIVE) &&
			GetCurrentTimestamp() >= topic->row_retry)
			row_try(topic);
	}
}

/*
 * Is there something to store, and a row to store it in, which nobody had when
 * that was tried just now?
 */
bool
outbox_topic_store_due(const RelayTopic *topic)
{
	return topic->changed && topic->stream != 0 && GetCurrentTimestamp() >= topic->row_retry;
}

/*
 * Store state and reason, if they changed.  Inside a transaction.
 *
 * Somebody may hold the topic's row, in a transaction left open: it is stored
 * later then, rather than have all topics wait.  A paused one stays so.
 */
void
outbox_topic_store(RelayTopic *topic)
{
	Oid			types[3] = {INT4OID, TEXTOID, TEXTOID};
	Datum		values[3];
	char		nulls[3] = {' ', ' ', ' '};

	if (!topic->changed || topic->stream == 0)
		return;
	values[0] = Int32GetDatum(topic->stream);
	values[1] = CStringGetTextDatum(topic->state == TOPIC_LIVE ? "live" : "stopped");
	values[2] = CStringGetTextDatum(topic->reason ? topic->reason : "");
	nulls[2] = topic->reason ? ' ' : 'n';

	outbox_sql_begin();
	outbox_sql_execute("UPDATE outbox._stream AS s SET state = $2, reason = $3,"
					   " since = CASE WHEN s.state = $2 THEN s.since ELSE pg_catalog.now() END"
					   "  FROM (SELECT id FROM outbox._stream WHERE id = $1"
					   "         AND state <> 'paused' FOR UPDATE SKIP LOCKED) AS l"
					   " WHERE s.id = l.id", 3, types, values, nulls);
	if (SPI_processed == 1)
		topic->changed = false;
	else
		row_postpone(topic);
	outbox_sql_end();
}

/*
 * Inside a transaction.
 */
void
outbox_topic_park(RelayTopic *topic, ParkBatch *batch, int64 stamp, const OutboxEvent *ev)
{
	Assert(topic->stream != 0); /* nobody would ever look for those of 0 */
	outbox_park_add(batch, topic->stream, stamp, ev);
}

/*
 * Copies of a parked event that are in a Kafka transaction must not be committed
 * without the others.
 */
static void
topic_pause(RelayTopic *topic)
{
	RelayFlow  *flow = topic->flow;

	flow->producer_broken |= flow->txn.state != TXN_NONE && outbox_topic_amid_copies(topic);
	topic->state = TOPIC_PAUSED;
	topic->changed = false;
}

/*
 * Take over what the table says: at start, and when somebody paused or
 * resumed a topic.  A relay that ended before it could store that a topic was
 * stopped, see outbox_topic_store(), has left parked events of a live one.  Inside
 * a transaction.
 */
void
outbox_topics_load(RelayFlow *flow)
{
	Oid			types[2] = {TEXTOID, BOOLOID};
	Datum		values[2];

	values[0] = CStringGetTextDatum(flow->server);
	values[1] = BoolGetDatum(!flow->topics_loaded);
	outbox_sql_begin();
	outbox_sql_execute("SELECT s.topic, s.id, CASE WHEN l.left_behind THEN 'stopped' ELSE s.state END,"
					   " CASE WHEN l.left_behind THEN 'events that were parked are sent first' ELSE s.reason END,"
					   " l.left_behind"
					   "  FROM outbox._stream AS s, LATERAL (SELECT $2 AND s.state = 'live' AND"
					   "   EXISTS (SELECT FROM outbox._parked AS k WHERE k.stream = s.id)) AS l (left_behind)"
					   " WHERE s.server = $1", 2, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tup = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *name = SPI_getvalue(tup, desc, 1);
		char	   *state = SPI_getvalue(tup, desc, 3);
		RelayTopic *topic = outbox_topic_get(flow, name, strlen(name));
		bool		isnull;
		bool		first = topic->stream == 0;

		topic->stream = DatumGetInt32(SPI_getbinval(tup, desc, 2, &isnull));
		if (strcmp(state, "paused") == 0)
			topic_pause(topic);
		else if (topic->state == TOPIC_PAUSED ||
				 (strcmp(state, "stopped") == 0 && topic->state == TOPIC_LIVE &&
				  (first || !topic->changed)))
		{
			/* the last: paused and resumed between two looks at the table */
			topic->state = TOPIC_STOPPED;
			topic->changed |= DatumGetBool(SPI_getbinval(tup, desc, 5, &isnull));
			topic->retry_at = 0;
			topic_set_reason(topic, SPI_getvalue(tup, desc, 4));
		}
	}
	outbox_sql_end();
	flow->topics_loaded = true;
}

/* ---------------- sending what is parked ---------------- */

/*
 * Have some partitions got their copies of a parked event, and are others to
 * get theirs?
 */
bool
outbox_topic_amid_copies(const RelayTopic *topic)
{
	return (topic->state == TOPIC_PROBING || topic->state == TOPIC_DRAINING) &&
		topic->drain_copies.next > 0;
}

void
outbox_topic_delivery(RelayTopic *topic, const OutboxDelivery *delivery)
{
	topic->drain_in_flight--;
	if (delivery->fault == OUTBOX_KAFKA_OK)
		return;
	if (delivery->fault > topic->drain_fault)
		topic->drain_fault = delivery->fault;
	if (topic->drain_error != NULL)
		pfree(topic->drain_error);
	topic->drain_error = MemoryContextStrdup(TopMemoryContext,
											 delivery->error ? delivery->error : "unknown reason");
	topic->flow->producer_broken |= topic->drain_in_txn;
}

/*
 * Read the next page, beyond what has been drained: the index entries of that
 * may stay for as long as somebody holds a snapshot, and must not be passed
 * over by each page.  Sizes are known without fetching the events.  Leaves the
 * rows in SPI_tuptable.
 */
static void
drain_read(RelayTopic *topic)
{
	Oid			types[5] = {INT4OID, INT8OID, INT8OID, INT4OID, INT8OID};
	Datum		values[5];

	values[0] = Int32GetDatum(topic->stream);
	values[1] = Int64GetDatum(topic->drained_stamp);
	values[2] = Int64GetDatum(topic->drained_id);
	values[3] = Int32GetDatum(topic->drain_page);
	values[4] = Int64GetDatum(DRAIN_BYTES);
	outbox_sql_execute("SELECT stamp, id, event FROM ("
					   "  SELECT *, pg_catalog.sum(pg_catalog.octet_length(event))"
					   "            OVER (ORDER BY stamp, id) - pg_catalog.octet_length(event) AS before"
					   "    FROM (SELECT stamp, id, event FROM outbox._parked"
					   "           WHERE stream = $1 AND (stamp, id) > ($2, $3)"
					   "           ORDER BY stamp, id LIMIT $4) AS p) AS q"
					   " WHERE before < $5 ORDER BY stamp, id", 5, types, values, NULL);
}

/*
 * Send a parked event.  False if it has to wait: for room in the producer, or,
 * if every partition gets a copy, for the next turn, in which they are counted
 * before the transaction begins.
 */
static bool
drain_event(RelayTopic *topic, const OutboxEvent *ev, OutboxKafkaFault *fault)
{
	uint64		tag = TAG_PARKED | topic->index;
	int			nsent = 0;

	if (outbox_op_is_broadcast(ev->op))
	{
		topic->drain_counts = topic->drain_copies.npartitions == 0;
		if (topic->drain_counts)
			return false;
		*fault = outbox_broadcast_send(topic, ev, tag, &topic->drain_copies, &nsent);
		/* a Kafka transaction has all copies or none */
		topic->flow->producer_broken |= topic->flow->txn.state != TXN_NONE &&
			*fault != OUTBOX_KAFKA_OK && *fault != OUTBOX_KAFKA_FULL && topic->drain_copies.next > 0;
		if (*fault != OUTBOX_KAFKA_FULL)
			outbox_broadcast_reset(&topic->drain_copies);
	}
	else
	{
		*fault = outbox_send_event(topic->flow, topic->name, ev, tag);
		nsent = (*fault == OUTBOX_KAFKA_OK) ? 1 : 0;
	}
	topic->drain_in_flight += nsent;
	return *fault != OUTBOX_KAFKA_FULL;
}

/*
 * Before a page that begins with an event for every partition.  False if they
 * cannot be counted now.
 */
static bool
drain_count(RelayTopic *topic)
{
	OutboxKafkaFault fault;

	if (!topic->drain_counts)
		return true;
	fault = outbox_broadcast_count(topic, &topic->drain_copies);
	topic->drain_counts = fault != OUTBOX_KAFKA_OK;
	if (fault == OUTBOX_KAFKA_FAULT_TOPIC)
	{
		topic->drain_counts = false;
		outbox_topic_stop(topic, outbox_producer_error(topic->flow->producer));
	}
	return fault == OUTBOX_KAFKA_OK;
}

/*
 * Read and send the next page.  Returns how many were read; how many of them
 * went to the producer is topic->ndrain_ids.
 */
static int
drain_send(RelayTopic *topic)
{
	int			nread;

	if (topic->drain_ids == NULL)
		topic->drain_ids = MemoryContextAlloc(TopMemoryContext, sizeof(int64) * DRAIN_PAGE);
	outbox_sql_begin();
	drain_read(topic);
	if (SPI_processed == 0 && topic->drained_stamp != 0)
	{
		/* what was parked meanwhile may have a smaller stamp */
		topic->drained_stamp = topic->drained_id = 0;
		drain_read(topic);
	}
	nread = (int) SPI_processed;
	for (int i = 0; i < nread; i++)
	{
		HeapTuple	tup = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		bytea	   *packed = DatumGetByteaPP(SPI_getbinval(tup, desc, 3, &isnull));
		const char *pos = VARDATA_ANY(packed);
		OutboxEventCursor cur = {0, 0};
		OutboxEvent ev;
		OutboxKafkaFault fault;

		outbox_event_unpack(&pos, pos + VARSIZE_ANY_EXHDR(packed), &cur, &ev);
		if (topic->drain_copies.next == 0 && !outbox_txn_admit(topic->flow, topic))
			break;
		if (!drain_event(topic, &ev, &fault))
			break;
		if (fault == OUTBOX_KAFKA_FAULT_EVENT && i > 0)
			break;				/* it will be the first of a page */
		if (fault == OUTBOX_KAFKA_FAULT_CLUSTER)
		{
			topic->flow->producer_broken = true;
			break;
		}
		topic->drain_stamp = DatumGetInt64(SPI_getbinval(tup, desc, 1, &isnull));
		topic->drain_id = ev.id;
		topic->drain_ids[topic->ndrain_ids++] = ev.id;
		topic->drain_bytes += ev.key_len + (int64) ev.value_len;
		if (fault != OUTBOX_KAFKA_OK)
		{
			OutboxDelivery failed = {0};

			topic->drain_in_flight++;	/* which that report takes back */
			failed.fault = fault;
			failed.error = outbox_producer_error(topic->flow->producer);
			outbox_topic_delivery(topic, &failed);
			break;
		}
		outbox_txn_sent(topic->flow, topic, &ev);
		topic->drain_in_txn = topic->flow->txn.state != TXN_NONE;
	}
	outbox_sql_end();
	return nread;
}

static Datum
drain_ids_array(const RelayTopic *topic)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(topic->ndrain_ids, 1));

	for (int i = 0; i < topic->ndrain_ids; i++)
		elems[i] = Int64GetDatum(topic->drain_ids[i]);
	return PointerGetDatum(construct_array(elems, topic->ndrain_ids, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * All of the page arrived: it is parked no more.  A single event that cannot
 * be sent becomes a dead letter.  Only what was sent goes: since the page was
 * read, events with a smaller stamp may have been parked, of a transaction
 * that took its stamp earlier and committed later.
 */
static void
drain_settle(RelayTopic *topic)
{
	Oid			types[6] = {INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8ARRAYOID};
	Datum		values[6];

	outbox_sql_begin();
	values[0] = Int32GetDatum(topic->stream);
	values[1] = Int64GetDatum(topic->drained_stamp);
	values[2] = Int64GetDatum(topic->drained_id);
	values[3] = Int64GetDatum(topic->drain_stamp);
	values[4] = Int64GetDatum(topic->drain_id);
	values[5] = drain_ids_array(topic);
	outbox_sql_execute("DELETE FROM outbox._parked WHERE stream = $1"
					   " AND (stamp, id) > ($2, $3) AND (stamp, id) <= ($4, $5)"
					   " AND id = ANY ($6) RETURNING event", 6, types, values, NULL);
	if (topic->drain_fault == OUTBOX_KAFKA_OK)
	{
		topic->flow->settled_at = GetCurrentTimestamp();
		outbox_stat_delivered(topic, (int64) SPI_processed, topic->drain_bytes);
	}
	else if (topic->drain_fault == OUTBOX_KAFKA_FAULT_EVENT && SPI_processed == 1)
	{
		bool		isnull;
		bytea	   *packed = DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[0],
														   SPI_tuptable->tupdesc, 1, &isnull));
		const char *pos = VARDATA_ANY(packed);
		OutboxEventCursor cur = {0, 0};
		OutboxEvent ev;

		outbox_event_unpack(&pos, pos + VARSIZE_ANY_EXHDR(packed), &cur, &ev);
		outbox_settle_dead_letter(topic, &ev, topic->drain_error);
	}
	outbox_sql_end();
	topic->drained_stamp = topic->drain_stamp;
	topic->drained_id = topic->drain_id;
}

/*
 * A page came back.  A fault of an event in a larger page: try them one by
 * one.  A fault of the topic: wait again.
 */
static void
drain_page_done(RelayTopic *topic)
{
	OutboxKafkaFault fault = topic->drain_fault;

	if (fault == OUTBOX_KAFKA_OK ||
		(fault == OUTBOX_KAFKA_FAULT_EVENT && topic->ndrain_ids == 1))
	{
		drain_settle(topic);
		topic->drain_page = (fault == OUTBOX_KAFKA_OK) ? DRAIN_PAGE : 1;
		topic->state = TOPIC_DRAINING;
	}
	else if (fault == OUTBOX_KAFKA_FAULT_EVENT)
		topic->drain_page = 1;
	else
		outbox_topic_stop(topic, topic->drain_error);
	topic->drain_fault = OUTBOX_KAFKA_OK;
	topic->drain_stamp = topic->drain_id = topic->drain_bytes = 0;
}

/* ---------------- parked events in Kafka transactions ---------------- */

/*
 * The page goes out with the transaction that is about to be committed: its
 * place will name the number if it is.  Inside a transaction, which is flushed
 * before that.
 */
void
outbox_topic_drain_prepare(RelayTopic *topic, int64 number)
{
	Oid			types[3] = {INT8OID, INT4OID, INT8ARRAYOID};
	Datum		values[3];

	values[0] = Int64GetDatum(number);
	values[1] = Int32GetDatum(topic->stream);
	values[2] = drain_ids_array(topic);
	outbox_sql_begin();
	outbox_sql_execute("INSERT INTO outbox._drained (number, stream, ids) VALUES ($1, $2, $3)"
					   " ON CONFLICT (stream) DO UPDATE SET number = excluded.number, ids = excluded.ids",
					   3, types, values, NULL);
	outbox_sql_end();
}

/*
 * The page's transaction is committed, whatever state the topic has now.  Inside
 * a transaction.
 */
void
outbox_topic_drain_committed(RelayTopic *topic)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1];

	topic->drain_in_txn = false;
	if (topic->state == TOPIC_PROBING || topic->state == TOPIC_DRAINING)
		drain_page_done(topic);
	else
	{
		drain_settle(topic);
		topic->drain_stamp = topic->drain_id = topic->drain_bytes = 0;
	}
	values[0] = Int32GetDatum(topic->stream);
	outbox_sql_begin();
	outbox_sql_execute("DELETE FROM outbox._drained WHERE stream = $1", 1, types, values, NULL);
	outbox_sql_end();
}

/*
 * The page's transaction cannot be committed.  Inside a transaction.
 */
void
outbox_topic_drain_failed(RelayTopic *topic)
{
	if (topic->drain_fault == OUTBOX_KAFKA_FAULT_EVENT && topic->ndrain_ids == 1)
		drain_settle(topic);
	else if (topic->drain_fault == OUTBOX_KAFKA_FAULT_TOPIC)
		outbox_topic_stop(topic, topic->drain_error);
	topic->drain_in_txn = false;
}

/*
 * At start: what transaction "number" sent is parked no more; what others were
 * about to send was not sent.  Inside a transaction.
 */
void
outbox_topics_resolve_drained(RelayFlow *flow, int64 number)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2];

	values[0] = CStringGetTextDatum(flow->server);
	values[1] = Int64GetDatum(number);
	outbox_sql_begin();
	outbox_sql_execute("WITH d AS (DELETE FROM outbox._drained AS d USING outbox._stream AS s"
					   "            WHERE s.id = d.stream AND s.server = $1 RETURNING d.*)"
					   " DELETE FROM outbox._parked AS p USING d"
					   "  WHERE d.number = $2 AND p.stream = d.stream AND p.id = ANY (d.ids)",
					   2, types, values, NULL);
	outbox_sql_end();
}

/*
 * Inside a transaction.
 */
bool
outbox_topics_have_parked(RelayFlow *flow)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	bool		found;

	values[0] = CStringGetTextDatum(flow->server);
	outbox_sql_begin();
	outbox_sql_execute("SELECT FROM outbox._stream AS s WHERE s.server = $1"
					   " AND EXISTS (SELECT FROM outbox._parked AS p WHERE p.stream = s.id) LIMIT 1",
					   1, types, values, NULL);
	found = SPI_processed > 0;
	outbox_sql_end();
	return found;
}

/* ---------------- turns ---------------- */

/*
 * May parked events be sent?  In a Kafka transaction not before the ring has
 * come to where the flow began: a transaction that failed may have parked events
 * that are read again, and must meet them in their place.
 */
static bool
may_drain(const RelayFlow *flow)
{
	return flow->producer != NULL && flow->restart_by == 0 &&
		(flow->txn.state == TXN_NONE || (flow->txn.caught_up && outbox_txn_may_send(flow)));
}

static bool
drain_due(const RelayTopic *topic)
{
	if (topic->stream == 0 || topic->drain_in_txn || !may_drain(topic->flow))
		return false;
	switch (topic->state)
	{
		case TOPIC_STOPPED:
			return topic->in_flight == 0 && topic->drain_in_flight == 0 &&
				GetCurrentTimestamp() >= topic->retry_at;
		case TOPIC_PROBING:
		case TOPIC_DRAINING:
			return topic->drain_in_flight == 0;
		default:
			return false;
	}
}

static void
drain_begin(RelayTopic *topic)
{
	/* reports of a page that was on its way when it was paused are void */
	topic->state = TOPIC_PROBING;
	topic->drain_page = 1;
	topic->drain_fault = OUTBOX_KAFKA_OK;
	topic->drain_stamp = topic->drain_id = topic->drain_bytes = 0;
	topic->drained_stamp = topic->drained_id = 0;
}

/*
 * Ask for a topic that is to be tried again.  False if it cannot be tried now:
 * while brokers have not answered, or if they still refuse it.
 */
static bool
retry_asked(RelayTopic *topic)
{
	OutboxKafkaFault fault = outbox_producer_refresh_topic(topic->flow->producer, topic->name);

	topic->asking = fault == OUTBOX_KAFKA_FULL;
	if (fault == OUTBOX_KAFKA_FAULT_TOPIC)
		topic_postpone(topic);
	return fault == OUTBOX_KAFKA_OK;
}

/*
 * One turn of a topic that is not live.  True if there may be more to do at
 * once: not if it waits for room in the producer, for what brokers say of it, or
 * for a settlement to park what is in the ring; those wake the relay.
 */
bool
outbox_topic_run(RelayTopic *topic)
{
	TopicState	before = topic->state;
	int			nread = 0;

	if (!drain_due(topic))
		return false;
	if (topic->state == TOPIC_STOPPED)
	{
		if (!retry_asked(topic))
			return false;
		outbox_broadcast_reset(&topic->drain_copies);
	}
	/* a page that has come back is settled first */
	if (topic->drain_id == 0 && !drain_count(topic))
		return false;

	StartTransactionCommand();
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	if (topic->state == TOPIC_STOPPED)
		drain_begin(topic);
	else if (topic->drain_id != 0)
		drain_page_done(topic);
	topic->ndrain_ids = 0;
	if (topic->state != TOPIC_STOPPED)
		nread = drain_send(topic);
	CommitTransactionCommand();

	if (topic->state != TOPIC_STOPPED && nread == 0 && topic->to_park == 0)
		topic_go_live(topic);
	return topic->ndrain_ids > 0 || topic->drain_counts || topic->state != before;
}

/*
 * Is there a topic that may have waited for what has been settled now?
 */
bool
outbox_topics_may_run(RelayFlow *flow)
{
	ListCell   *lc;

	foreach(lc, flow->topic_list)
	{
		RelayTopic *topic = lfirst(lc);

		if (topic->state != TOPIC_STOPPED && drain_due(topic))
			return true;
	}
	return false;
}

/*
 * When the next stopped topic is to be tried; 0: none waits.  One that waits
 * for the producer's reports, or brokers' answers, is woken by them, and without a producer there is
 * none before it is made.
 */
TimestampTz
outbox_topics_next_retry(RelayFlow *flow)
{
	TimestampTz next = 0;
	ListCell   *lc;

	if (!may_drain(flow))
		return 0;
	foreach(lc, flow->topic_list)
	{
		RelayTopic *topic = lfirst(lc);

		if (topic->state == TOPIC_STOPPED && topic->stream != 0 && !topic->asking &&
			topic->in_flight == 0 && topic->drain_in_flight == 0 &&
			(next == 0 || topic->retry_at < next))
			next = topic->retry_at;
	}
	return next;
}
