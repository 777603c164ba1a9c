/*-------------------------------------------------------------------------
 *
 * settle.c
 *	  A flow's position moves over what is done.
 *
 * In one small transaction: events of stopped topics go to the parked log,
 * those that no broker will take become dead letters, and the position moves
 * behind them.  The commit is asynchronous: what it loses in a crash is sent
 * again.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/dead_letter.h"
#include "common/fault.h"

#define SETTLE_INTERVAL_MS 10
#define SETTLE_EVENTS 8192		/* not later than this many */
#define TURN_PARKED 4096		/* parked at once, some tens of milliseconds */
#define IDLE_INTERVAL_MS 10000	/* a position that only the clock moved */

/*
 * Is the entry done, or can it be done by storing something?
 *
 * A topic's events are parked in order: not before those that were handed to
 * the producer have been reported.  Nor before the topic has a row, which a
 * transaction that somebody leaves open can hold up; then others are sent, but
 * nothing behind it is settled.
 */
static bool
entry_settles(const RelayEntry *entry)
{
	switch (entry->state)
	{
		case ENTRY_DELIVERED:
			return true;
		case ENTRY_DEAD:
			return entry->unreported == 0;
		case ENTRY_PARK:
			return entry->topic->in_flight == 0 && entry->topic->stream != 0;
		default:
			return false;
	}
}

static uint64
settled_end(const RelayFlow *flow)
{
	uint64		n = flow->head;

	while (n < flow->sent && entry_settles(&flow->ring[n % FLOW_RING_SIZE]))
		n++;
	return n;
}

/*
 * As much of it as one turn may take: parking is what costs.
 */
static uint64
turn_end(const RelayFlow *flow, uint64 end)
{
	int			parked = 0;

	for (uint64 n = flow->head; n < end; n++)
		if (flow->ring[n % FLOW_RING_SIZE].state == ENTRY_PARK && ++parked == TURN_PARKED)
			return n + 1;
	return end;
}

void
outbox_settle_dead_letter(RelayTopic *topic, const OutboxEvent *ev, const char *error)
{
	OutboxDeadLetter dl;
	OutboxMessageHeaders headers;

	memset(&dl, 0, sizeof(dl));
	dl.nheaders = outbox_message_headers(ev, &headers);
	dl.headers = headers.header;
	dl.outgoing = true;
	dl.server = topic->flow->server;
	dl.topic = topic->name;
	dl.partition = -1;
	dl.offset = -1;
	dl.key = ev->key;
	dl.key_len = ev->key_len;
	dl.value = ev->value;
	dl.value_len = ev->value_len;
	dl.event_time = SetEpochTimestamp() + ev->time_ms * 1000;
	dl.event_id = ev->id;
	dl.sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
	dl.message = psprintf("event " INT64_FORMAT " cannot be sent to topic \"%s\": %s",
						  ev->id, topic->name, error);
	dl.state = OUTBOX_LETTER_DEAD;
	dl.attempts = 1;
	(void) outbox_dead_letter_store(&dl);
	outbox_stat_dead(topic);
	ereport(WARNING,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("set aside event %lld, which cannot be sent to topic \"%s\"",
					(long long) ev->id, topic->name),
			 errdetail("%s", error)));
}

static void
replace_snapshot(OutboxSnapshot **where, const OutboxSnapshot *snap)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	if (*where != NULL)
		pfree(*where);
	*where = snap ? outbox_snapshot_copy(snap) : NULL;
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Move the position to ring number "end".  Batches that lie before it are
 * done as a whole, also those that held nothing for this server.  Having passed
 * those is worth storing only if they held events of others, which would count
 * as our backlog: what is stored is a transaction, and makes another moment to
 * be passed.
 */
static void
position_move(RelayFlow *flow, uint64 end)
{
	OutboxPosition *pos = &flow->position;
	uint64		batch_start = flow->head;

	if (end > flow->head)
	{
		pos->events += end - flow->head;
		pos->at = GetCurrentTimestamp();
	}
	while (flow->batches != NIL)
	{
		RelayBatch *batch = linitial(flow->batches);

		if (!batch->complete || batch->end > end)
			break;
		replace_snapshot(&pos->base, batch->target);
		replace_snapshot(&pos->target, NULL);
		pos->stamp = pos->id = 0;
		batch_start = batch->end;
		flow->position_moved |= batch->rows;
		flow->txn.caught_up |= batch->fresh;
		flow->batches = list_delete_first(flow->batches);
		pfree(batch->target);
		pfree(batch);
	}
	if (end > batch_start)
	{
		const RelayEntry *last = &flow->ring[(end - 1) % FLOW_RING_SIZE];

		replace_snapshot(&pos->target, ((RelayBatch *) linitial(flow->batches))->target);
		pos->stamp = last->stamp;
		pos->id = last->ev.id;
	}
}

/*
 * Where the position will be when it has moved to ring number "end".  What the
 * place points to is the flow's.  It does not pass a batch without rows at the
 * end: the moment of such a batch has not been waited for at the gate, and a
 * standby may not have come to it.
 */
void
outbox_flow_place(const RelayFlow *flow, uint64 end, RelayPlace *place)
{
	const OutboxPosition *pos = &flow->position;
	const RelayBatch *batch = NULL;
	uint64		batch_start = flow->head;
	ListCell   *lc;

	place->base = pos->base;
	place->target = pos->target;
	place->stamp = pos->stamp;
	place->id = pos->id;
	foreach(lc, flow->batches)
	{
		batch = lfirst(lc);
		if (!batch->complete || batch->end > end)
			break;
		if (!batch->rows)
			continue;
		place->base = batch->target;
		place->target = NULL;
		place->stamp = place->id = 0;
		batch_start = batch->end;
	}
	if (end > batch_start)
	{
		const RelayEntry *last = &flow->ring[(end - 1) % FLOW_RING_SIZE];

		place->target = batch->target;
		place->stamp = last->stamp;
		place->id = last->ev.id;
	}
}

/*
 * Have the position be where the place is.  What is in the ring is void then.
 */
void
outbox_flow_move(RelayFlow *flow, const RelayPlace *place)
{
	OutboxPosition *pos = &flow->position;

	replace_snapshot(&pos->base, place->base);
	replace_snapshot(&pos->target, place->target);
	pos->stamp = place->stamp;
	pos->id = place->id;
	flow->position_moved = true;
}

/*
 * Nothing but the end of a batch of others' events moved us.
 */
static bool
only_batches_ended(const RelayFlow *flow)
{
	const RelayBatch *batch;

	if (flow->batches == NIL)
		return false;
	batch = linitial(flow->batches);
	return batch->complete && batch->end <= flow->head;
}

/*
 * Could anything be settled as soon as it is time to?  What is with the
 * producer wakes the relay when it is reported.
 */
bool
outbox_flow_unsettled(const RelayFlow *flow)
{
	return flow->head < flow->sent &&
		entry_settles(&flow->ring[flow->head % FLOW_RING_SIZE]);
}

bool
outbox_flow_settle_due(RelayFlow *flow)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		end;
	ListCell   *lc;

	outbox_topics_make_rows(flow);
	if (only_batches_ended(flow))
		position_move(flow, flow->head);
	foreach(lc, flow->topic_list)
		if (outbox_topic_store_due(lfirst(lc)))
		return true;

	end = settled_end(flow);
	if (end == flow->head)
		return TimestampDifferenceExceeds(flow->position_stored, now, IDLE_INTERVAL_MS) &&
			flow->position_moved;
	return end - flow->head >= SETTLE_EVENTS ||
		TimestampDifferenceExceeds(flow->position_stored, now, SETTLE_INTERVAL_MS);
}

/*
 * Put an event where it will be kept that is not sent.  Inside a transaction.
 */
void
outbox_entry_store(RelayFlow *flow, RelayEntry *entry, ParkBatch *batch)
{
	if (entry->stored)
		return;
	if (entry->state == ENTRY_PARK)
		outbox_topic_park(entry->topic, batch, entry->stamp, &entry->ev);
	else if (entry->state == ENTRY_DEAD)
	{
		outbox_settle_dead_letter(entry->topic, &entry->ev, entry->error);
		outbox_txn_add_letter(flow, entry->ev.id);
	}
	else
		return;
	entry->stored = true;
	flow->txn.keeping = true;
}

static void
settle_entry(RelayFlow *flow, RelayEntry *entry, ParkBatch *batch)
{
	outbox_entry_store(flow, entry, batch);
	if (entry->state == ENTRY_PARK)
	{
		entry->topic->to_park--;
		outbox_stat_parked(entry->topic);
	}
	else if (entry->state == ENTRY_DELIVERED)
		outbox_stat_delivered(entry->topic, 1, entry->ev.key_len + (int64) entry->ev.value_len);
}

static void
settle_entries(RelayFlow *flow, uint64 end)
{
	ParkBatch  *batch = outbox_park_begin();

	for (uint64 n = flow->head; n < end; n++)
		settle_entry(flow, &flow->ring[n % FLOW_RING_SIZE], batch);
	outbox_park_end(batch);
}

static void
entry_release(RelayFlow *flow, RelayEntry *entry)
{
	if (entry->error != NULL)
		pfree(entry->error);
	entry->error = NULL;
	outbox_page_release(flow, entry->page);
}

void
outbox_flow_settle(RelayFlow *flow, bool all)
{
	uint64		end = settled_end(flow);
	ListCell   *lc;

	if (!all)
		end = turn_end(flow, end);
	OUTBOX_FAULT("relay.before_settle");
	flow->settled_at = GetCurrentTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	settle_entries(flow, end);
	foreach(lc, flow->topic_list)
		outbox_topic_store(lfirst(lc));

	position_move(flow, end);
	outbox_position_store(flow->server, &flow->position);
	OUTBOX_FAULT("relay.settling");
	PopActiveSnapshot();
	CommitTransactionCommand();
	outbox_txn_kept(flow);
	OUTBOX_FAULT("relay.after_settle");

	for (; flow->head < end; flow->head++)
		entry_release(flow, &flow->ring[flow->head % FLOW_RING_SIZE]);
	flow->position_moved = false;
	flow->position_stored = GetCurrentTimestamp();
}
