/*-------------------------------------------------------------------------
 *
 * flow.c
 *	  The flow of events to one server: producer, ring, sending.
 *
 * A flow begins at its stored position.  When its producer has to be made
 * anew (a fatal error, changed settings), everything between position and
 * tail is thrown away and read again: what was acknowledged and not settled
 * is sent twice, in the same order, and nothing is left out.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/fault.h"
#include "worker/worker.h"

#define PRODUCER_RETRY_MIN_MS 100
#define PRODUCER_RETRY_MAX_MS 30000
#define RESTART_PATIENCE_MS 5000	/* for what is in flight when settings
									 * change */
#define TURN_EVENTS 8192		/* read in one turn, about, */
#define TURN_PAGES 64			/* and pages, with others' events too */
#define TURN_TOPICS_MS 20		/* for sending what topics have parked */

/* ---------------- life ---------------- */

/*
 * Begin, or begin again, at the position.
 */
static void
flow_start(RelayFlow *flow)
{
	MemoryContext oldcontext;

	flow->context = AllocSetContextCreate(TopMemoryContext, "pg_outbox flow",
										  ALLOCSET_DEFAULT_SIZES);
	flow->refs_context = AllocSetContextCreate(flow->context, "pg_outbox batch",
											   ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(flow->context);
	flow->ring = MemoryContextAllocHuge(flow->context, sizeof(RelayEntry) * FLOW_RING_SIZE);
	flow->base = outbox_snapshot_copy(flow->position.base);
	if (flow->position.target != NULL)
	{
		flow->ticks = list_make1(outbox_snapshot_copy(flow->position.target));
		flow->tick_stored = true;
		flow->read_stamp = flow->position.stamp;
		flow->read_id = flow->position.id;
	}
	MemoryContextSwitchTo(oldcontext);
}

RelayFlow *
outbox_flow_create(const char *server)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	RelayFlow  *flow = palloc0(sizeof(RelayFlow));
	HASHCTL		ctl;

	flow->server = pstrdup(server);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = TOPIC_NAME_SIZE;
	ctl.entrysize = sizeof(RelayTopic);
	flow->topics = hash_create("pg_outbox topics", 64, &ctl, HASH_ELEM | HASH_STRINGS);

	PushActiveSnapshot(GetTransactionSnapshot());
	if (!outbox_position_load(server, &flow->position))
	{
		flow->position.base = outbox_snapshot_empty();
		flow->position.at = GetCurrentTimestamp();

		/* whoever trims the log must know of us from now on */
		outbox_position_store(server, &flow->position);
	}
	PopActiveSnapshot();
	flow->position_stored = GetCurrentTimestamp();
	MemoryContextSwitchTo(oldcontext);
	flow_start(flow);
	return flow;
}

/*
 * Forget what was read, and read again from the position on.
 */
void
outbox_flow_reread(RelayFlow *flow)
{
	ListCell   *lc;

	foreach(lc, flow->topic_list)
		outbox_topic_reset(lfirst(lc));
	MemoryContextDelete(flow->context);
	flow->head = flow->sent = flow->tail = 0;
	flow->bytes = 0;
	flow->batches = flow->ticks = NIL;
	flow->tick_stored = false;
	flow->refs = NULL;
	flow->page = NULL;
	flow->rows = NULL;
	flow->nrows = flow->row = 0;
	flow->read_stamp = flow->read_id = 0;
	flow_start(flow);
}

void
outbox_flow_reset(RelayFlow *flow)
{
	if (flow->producer != NULL)
		outbox_producer_close(flow->producer, 0);
	flow->producer = NULL;
	flow->producer_broken = false;
	flow->restart_by = 0;
	outbox_txn_reset(flow);
	outbox_flow_reread(flow);
}

/*
 * The server is there or not, and has perhaps other settings than before.
 */
void
outbox_flow_set_server(RelayFlow *flow, Oid serverid, bool altered)
{
	ListCell   *lc;

	if (flow->serverid == serverid && !altered)
		return;
	if (flow->producer != NULL && flow->restart_by == 0)
		flow->restart_by = GetCurrentTimestamp() + RESTART_PATIENCE_MS * 1000L;
	if (!OidIsValid(serverid))
		outbox_flow_reset(flow);
	flow->serverid = serverid;
	flow->producer_retry = 0;
	flow->producer_retry_ms = PRODUCER_RETRY_MIN_MS;
	flow->txn.claimed = false;	/* they may be other brokers */

	/* what a topic was stopped for may have been mended */
	foreach(lc, flow->topic_list)
	{
		RelayTopic *topic = lfirst(lc);

		if (!OidIsValid(serverid))
			outbox_topic_server_gone(topic);
		topic->retry_at = 0;
	}
}

void
outbox_flow_wait_reason(RelayFlow *flow, const char *reason)
{
	if (flow->waiting_for != NULL)
		pfree(flow->waiting_for);
	flow->waiting_for = reason ? MemoryContextStrdup(TopMemoryContext, reason) : NULL;
}

/* ---------------- the producer ---------------- */

void
outbox_flow_producer_failed(RelayFlow *flow, const char *message)
{
	char	   *copy = MemoryContextStrdup(TopMemoryContext, message);

	flow->producer_retry_ms = Max(PRODUCER_RETRY_MIN_MS,
								  Min(flow->producer_retry_ms * 2, PRODUCER_RETRY_MAX_MS));
	flow->producer_retry = GetCurrentTimestamp() + flow->producer_retry_ms * 1000L;
	outbox_worker_report_error(copy);
	outbox_flow_wait_reason(flow, copy);
	ereport(LOG,
			(errmsg("relay cannot publish to server \"%s\" for now", flow->server),
			 errdetail("%s", copy)));
	pfree(copy);
}

/*
 * Make the producer.  What it reports as an error stops this flow only.
 */
static void
producer_open(RelayFlow *flow)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ErrorData  *volatile failure = NULL;

	StartTransactionCommand();
	PG_TRY();
	{
		flow->producer = outbox_producer_create(flow->serverid, outbox_worker_event_fd());
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		failure = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);

	if (failure != NULL)
	{
		outbox_flow_producer_failed(flow, failure->detail ?
									psprintf("%s: %s", failure->message, failure->detail) :
									failure->message);
		FreeErrorData(failure);
	}
	else
		outbox_txn_producer_opened(flow);
}

/*
 * Settings changed: end the producer when nothing is in flight any more, or
 * when that takes too long.
 */
static bool
producer_restarts(RelayFlow *flow)
{
	if (flow->restart_by == 0)
		return false;
	if ((outbox_producer_in_flight(flow->producer) > 0 || flow->txn.state > TXN_IDLE) &&
		GetCurrentTimestamp() < flow->restart_by)
		return true;
	outbox_flow_settle(flow, true);
	outbox_flow_reset(flow);
	flow->txn.claimed = false;	/* as the old one may have claimed meanwhile */
	return false;
}

static bool
producer_ready(RelayFlow *flow)
{
	const char *reason = NULL;

	if (!OidIsValid(flow->serverid))
	{
		outbox_flow_wait_reason(flow, NULL);
		return true;			/* its topics are stopped, events are parked */
	}
	flow->producer_ending = flow->producer == NULL && outbox_producer_ending(flow->server);
	if (flow->producer_ending && flow->txn.blocked == NULL)
		outbox_flow_wait_reason(flow, "the former connections have not ended yet");
	else if (flow->producer == NULL && !flow->producer_ending && GetCurrentTimestamp() >= flow->producer_retry)
		producer_open(flow);
	if (flow->producer == NULL)
		return false;
	if (outbox_producer_connected(flow->producer, &reason))
		reason = NULL;
	if (flow->txn.blocked == NULL)
		outbox_flow_wait_reason(flow, reason);
	return true;
}

/* ---------------- sending ---------------- */

static void
entry_fault(RelayFlow *flow, RelayEntry *entry, OutboxKafkaFault fault, const char *error)
{
	if (entry->state == ENTRY_PARK || entry->state == ENTRY_DEAD)
		return;					/* another copy was reported before */
	if (fault == OUTBOX_KAFKA_FAULT_EVENT)
	{
		entry->state = ENTRY_DEAD;
		entry->error = MemoryContextStrdup(flow->context, error ? error : "");
	}
	else
	{
		entry->state = ENTRY_PARK;
		entry->topic->to_park++;
		outbox_topic_stop(entry->topic, error);
	}
}

/*
 * What brokers have to say before an entry is sent, and before a Kafka
 * transaction begins for it: FULL while they have not.
 */
static OutboxKafkaFault
entry_ask(RelayFlow *flow, RelayEntry *entry)
{
	if (outbox_op_is_broadcast(entry->ev.op))
		return outbox_broadcast_count(entry->topic, &entry->copies);
	if (flow->txn.state != TXN_NONE)
		return outbox_producer_refresh_topic(flow->producer, entry->topic->name);
	return OUTBOX_KAFKA_OK;
}

/*
 * Hand an entry to the producer, or what is left of its copies.
 */
static OutboxKafkaFault
send_entry(RelayFlow *flow, RelayEntry *entry, uint64 tag)
{
	OutboxKafkaFault fault;
	int			nsent = 0;

	if (outbox_op_is_broadcast(entry->ev.op))
		fault = outbox_broadcast_send(entry->topic, &entry->ev, tag, &entry->copies, &nsent);
	else
	{
		fault = outbox_send_event(flow, entry->topic->name, &entry->ev, tag);
		nsent = (fault == OUTBOX_KAFKA_OK) ? 1 : 0;
	}
	if (nsent > 0)
		entry->state = ENTRY_IN_FLIGHT;
	entry->unreported += nsent;
	entry->topic->in_flight += nsent;
	return fault;
}

/*
 * Can the entry go on without being sent?  A Kafka transaction must be able to
 * store what is parked in its midst, so it goes no further than to an event
 * whose topic has no row.
 */
static bool
passes_unsent(RelayFlow *flow, RelayEntry *entry)
{
	if (outbox_topic_parks(entry->topic))
	{
		if (flow->txn.state != TXN_NONE && entry->topic->stream == 0)
			return false;
		entry->state = ENTRY_PARK;
		entry->topic->to_park++;
		/* paused amid its copies, none of which may be committed alone */
		flow->producer_broken |= flow->txn.state != TXN_NONE && outbox_entry_begun(entry);
		return true;
	}
	if (outbox_txn_is_letter(flow, entry->ev.id))
	{
		entry->state = ENTRY_DEAD;
		entry->stored = true;
		return true;
	}
	return false;
}

/*
 * The producer has refused an entry.  False if it has to wait for its topic's
 * row, see passes_unsent(), or if copies of it are in a Kafka transaction that
 * must not be committed without the others.
 */
static bool
entry_refused(RelayFlow *flow, RelayEntry *entry, OutboxKafkaFault fault)
{
	const char *error = outbox_producer_error(flow->producer);

	if (flow->txn.state != TXN_NONE && fault != OUTBOX_KAFKA_FAULT_EVENT &&
		entry->topic->stream == 0 && !outbox_entry_begun(entry))
	{
		outbox_topic_stop(entry->topic, error);
		return false;
	}
	entry_fault(flow, entry, fault, error);
	flow->producer_broken |= flow->txn.state != TXN_NONE && outbox_entry_begun(entry);
	return !flow->producer_broken;
}

/*
 * Hand waiting entries to the producer.  False if the producer is unusable.
 */
static bool
send_waiting(RelayFlow *flow)
{
	for (; flow->sent < flow->tail; flow->sent++)
	{
		RelayEntry *entry = &flow->ring[flow->sent % FLOW_RING_SIZE];
		OutboxKafkaFault fault;

		if (entry->state == ENTRY_PARK || entry->state == ENTRY_DEAD)
			continue;			/* reported before all copies were sent */
		if (passes_unsent(flow, entry))
			continue;
		if (outbox_topic_parks(entry->topic))
			return !flow->producer_broken;
		fault = entry_ask(flow, entry);
		if (fault == OUTBOX_KAFKA_OK)
		{
			if (!outbox_entry_begun(entry) && !outbox_txn_admit(flow, entry->topic))
				return !flow->producer_broken;
			OUTBOX_FAULT("relay.before_produce");
			fault = send_entry(flow, entry, flow->sent);
		}
		if (fault == OUTBOX_KAFKA_OK)
		{
			outbox_txn_sent(flow, entry->topic, &entry->ev);
			OUTBOX_FAULT("relay.after_produce");
		}
		else if (fault == OUTBOX_KAFKA_FULL)
			return true;
		else if (fault == OUTBOX_KAFKA_FAULT_CLUSTER)
			return false;
		else if (!entry_refused(flow, entry, fault))
			return !flow->producer_broken;
	}
	return true;
}

/*
 * A message of the entry has arrived: is it done?
 */
static void
entry_reported(RelayFlow *flow, RelayEntry *entry)
{
	if (entry->state == ENTRY_IN_FLIGHT && entry->unreported == 0 &&
		entry->copies.next == entry->copies.npartitions)
		entry->state = flow->txn.state != TXN_NONE ? ENTRY_ACKNOWLEDGED : ENTRY_DELIVERED;
}

/*
 * Take in the delivery reports.  False if the producer is unusable.
 */
static bool
poll_deliveries(RelayFlow *flow, bool *progress)
{
	OutboxDelivery delivery;

	while (outbox_producer_poll(flow->producer, &delivery))
	{
		RelayEntry *entry;

		*progress = true;
		if (delivery.fault == OUTBOX_KAFKA_OK)
			flow->producer_retry_ms = 0;	/* what failed before is over */
		if (delivery.fault == OUTBOX_KAFKA_FAULT_CLUSTER && flow->txn.state != TXN_NONE)
		{
			outbox_txn_doom(flow, delivery.error ? delivery.error : "fatal error");
			continue;
		}
		if (delivery.fault == OUTBOX_KAFKA_FAULT_CLUSTER)
		{
			outbox_flow_producer_failed(flow, delivery.error ? delivery.error : "fatal error");
			return false;
		}
		if (delivery.tag & TAG_PARKED)
		{
			outbox_topic_delivery(list_nth(flow->topic_list,
										   (int) (delivery.tag & ~TAG_PARKED)),
								  &delivery);
			continue;
		}
		OUTBOX_FAULT("relay.after_ack");
		entry = &flow->ring[delivery.tag % FLOW_RING_SIZE];
		Assert(entry->unreported > 0);
		entry->unreported--;
		entry->topic->in_flight--;
		if (delivery.fault == OUTBOX_KAFKA_OK)
			entry_reported(flow, entry);
		else
		{
			entry_fault(flow, entry, delivery.fault, delivery.error);
			flow->producer_broken |= flow->txn.state != TXN_NONE;
		}
	}
	return !flow->producer_broken && !outbox_txn_over(flow);
}

static void
flow_fail(RelayFlow *flow)
{
	if (flow->producer != NULL && flow->txn.state == TXN_NONE &&
		outbox_producer_error(flow->producer) != NULL &&
		flow->producer_retry < GetCurrentTimestamp())
		outbox_flow_producer_failed(flow, outbox_producer_error(flow->producer));
	outbox_flow_settle(flow, true); /* what is known to be done, dead letters
									 * too */
	outbox_txn_fail(flow);
	outbox_flow_reset(flow);
}

/*
 * Topics that are not live take turns, so that many of them do not hold up the
 * others.
 */
static bool
run_topics(RelayFlow *flow)
{
	TimestampTz begun = GetCurrentTimestamp();
	int			ntopics = list_length(flow->topic_list);
	bool		progress = false;

	for (int i = 0; i < ntopics; i++)
	{
		RelayTopic *topic = list_nth(flow->topic_list, flow->topic_turn++ % ntopics);

		if (!outbox_topic_parks(topic))
			continue;
		progress |= outbox_topic_run(topic);
		if (TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), TURN_TOPICS_MS))
			return true;
	}
	return progress;
}

/*
 * Or does it wait for its producer, or for what brokers say?  Then nobody looks
 * at the gate.
 */
bool
outbox_flow_may_send(const RelayFlow *flow)
{
	return (flow->producer != NULL || !OidIsValid(flow->serverid)) && outbox_txn_ready(flow);
}

/*
 * There is no producer, or brokers have not said yet where we stand.  What holds
 * nothing for this server is passed all the same, or one that nobody publishes
 * to, and that cannot be reached, would keep the log from being given back and
 * the copies of others waiting.  Of ours the ring takes what a turn would.
 */
static void
pass_others(RelayFlow *flow)
{
	for (int pages = 0; pages < TURN_PAGES && flow->tail - flow->head < TURN_EVENTS; pages++)
		if (!outbox_flow_read(flow))
			return;
	outbox_flow_tick(flow);
}

/*
 * One turn.  True if there may be more to do at once.
 */
bool
outbox_flow_run(RelayFlow *flow)
{
	bool		progress = false;
	uint64		turn_end;

	if (!producer_ready(flow))
	{
		pass_others(flow);
		return false;
	}
	if (flow->producer != NULL &&
		(!poll_deliveries(flow, &progress) || !outbox_txn_run(flow, &progress)))
	{
		flow_fail(flow);
		return false;
	}
	progress |= flow->restart_by != 0 && outbox_txn_turn_ends(flow);
	if (producer_restarts(flow))
		return progress;
	if (OidIsValid(flow->serverid) && flow->producer == NULL)
		return true;			/* just restarted */
	if (!outbox_txn_ready(flow))
	{
		pass_others(flow);
		return progress;
	}

	if (!outbox_gate_passes(flow))
	{
		outbox_flow_tick(flow);
		/* readers of the topics wait for what was sent before */
		return outbox_txn_turn_ends(flow) || progress;
	}
	progress |= run_topics(flow);
	if (flow->producer_broken)
	{
		flow_fail(flow);
		return false;
	}

	turn_end = flow->tail + TURN_EVENTS;
	for (int pages = 0; pages < TURN_PAGES && flow->tail < turn_end && outbox_gate_passes(flow); pages++)
	{
		if (!send_waiting(flow))
		{
			flow_fail(flow);
			return false;
		}
		if (flow->sent < flow->tail)
		{
			outbox_flow_tick(flow); /* the producer's queue is full */
			break;
		}
		if (!outbox_flow_read(flow))
			break;
		progress = true;
	}
	return outbox_txn_turn_ends(flow) || progress;
}
