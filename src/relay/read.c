/*-------------------------------------------------------------------------
 *
 * read.c
 *	  From the log into a flow's ring.
 *
 * A batch is what a newer snapshot sees beyond the one read up to.  Its rows
 * are fetched a page at a time, each page in a transaction of its own, and
 * unpacked into ring entries as there is room.  No transaction is open while
 * the broker is waited for.
 *
 * While the flow lags (no room), it notes a snapshot from time to time: the
 * backlog is then read in the batches that these ticks make, and segments of
 * the log are given back one after the other instead of all at the end.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/fault.h"

#define TICK_INTERVAL_MS 1000
#define TICK_MAX 10000			/* then every second one is dropped */

/* ---------------- pages ---------------- */

void
outbox_page_release(RelayFlow *flow, RelayPage *page)
{
	if (--page->users > 0)
		return;
	flow->bytes -= page->bytes;
	MemoryContextDelete(page->context);
}

static void
page_close(RelayFlow *flow)
{
	outbox_page_release(flow, flow->page);
	flow->page = NULL;
	flow->rows = NULL;
	flow->nrows = flow->row = 0;
}

/*
 * Fetch the next rows of the batch.  Inside a transaction with a snapshot.
 * False if the next one is not where it was.
 */
static bool
page_fetch(RelayFlow *flow)
{
	OutboxLogFetch fetch;
	MemoryContext context = AllocSetContextCreate(flow->context, "pg_outbox page",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	RelayPage  *page = palloc0(sizeof(RelayPage));
	int			maxrows = (int) Min(flow->refs->nrefs - flow->next_ref, 4096);

	page->context = context;
	page->users = 1;
	flow->page = page;
	flow->rows = palloc(sizeof(PageRow) * maxrows);
	flow->nrows = flow->row = 0;
	outbox_log_fetch_begin(&fetch);
	while (flow->nrows < maxrows && page->bytes < FLOW_PAGE_BYTES)
	{
		OutboxLogRef *ref = &flow->refs->refs[flow->next_ref];
		bytea	   *events = outbox_log_fetch(&fetch, ref);
		PageRow    *row;

		if (events == NULL)
			break;
		flow->next_ref++;
		row = &flow->rows[flow->nrows++];
		row->stamp = ref->stamp;
		row->pos = VARDATA(events);
		row->end = row->pos + VARSIZE(events) - VARHDRSZ;
		row->remaining = outbox_events_start(&row->pos, row->end, ref->id, &row->cursor);
		page->bytes += VARSIZE(events);
	}
	outbox_log_fetch_end(&fetch);
	flow->bytes += page->bytes;
	MemoryContextSwitchTo(oldcontext);
	if (flow->nrows > 0)
		return true;
	page_close(flow);
	return false;
}

/* ---------------- batches ---------------- */

static RelayBatch *
open_batch(RelayFlow *flow)
{
	return flow->refs != NULL ? llast(flow->batches) : NULL;
}

/*
 * Forget the references of the batch being read.
 */
static void
refs_close(RelayFlow *flow)
{
	MemoryContextReset(flow->refs_context);
	flow->refs = NULL;
	flow->next_ref = 0;
}

/*
 * All of the open batch is in the ring, or is not ours.
 */
static void
batch_close(RelayFlow *flow)
{
	RelayBatch *batch = open_batch(flow);
	MemoryContext oldcontext;

	refs_close(flow);
	batch->complete = true;
	batch->end = flow->tail;
	pfree(flow->base);
	oldcontext = MemoryContextSwitchTo(flow->context);
	flow->base = outbox_snapshot_copy(batch->target);
	MemoryContextSwitchTo(oldcontext);
	flow->read_stamp = flow->read_id = 0;
}

static void
refs_collect(RelayFlow *flow, const OutboxSnapshot *target)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(flow->refs_context);

	flow->refs = outbox_log_collect(flow->base, target, flow->read_stamp,
									flow->read_id, FLOW_BATCH_ROWS);
	flow->next_ref = 0;
	MemoryContextSwitchTo(oldcontext);

	/* a commit that is not on disk yet must not be told to the world */
	if (flow->refs->flush_lsn != InvalidXLogRecPtr)
		XLogFlush(flow->refs->flush_lsn);
}

/*
 * Collect anew what of the open batch is not in the ring yet.
 */
static void
refs_collect_rest(RelayFlow *flow)
{
	refs_close(flow);
	refs_collect(flow, ((RelayBatch *) llast(flow->batches))->target);
}

/*
 * Somebody moved the log's rows: find them again.
 */
static void
refs_find_again(RelayFlow *flow)
{
	int64		left = flow->refs->nrefs - flow->next_ref;

	refs_collect_rest(flow);
	if (flow->refs->nrefs < left)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("rows of the event log have vanished"),
				 errdetail("Of %lld rows still to be read %lld are left.",
						   (long long) left, (long long) flow->refs->nrefs)));
}

static bool
same_moment(const OutboxSnapshot *a, const OutboxSnapshot *b)
{
	return a->xmax == b->xmax && a->nxip == b->nxip &&
		memcmp(a->xip, b->xip, sizeof(uint64) * a->nxip) == 0;
}

/*
 * The next moment to read up to: a tick, or now.
 */
static OutboxSnapshot *
next_target(RelayFlow *flow, bool *fresh)
{
	OutboxSnapshot *target;

	if (flow->ticks != NIL)
	{
		target = linitial(flow->ticks);
		flow->ticks = list_delete_first(flow->ticks);
		*fresh = !flow->tick_stored;
		flow->tick_stored = false;
		return target;
	}
	*fresh = true;
	return outbox_snapshot_from(GetActiveSnapshot());
}

/*
 * Will a place say that the batch is done?  Not known before there is a producer.
 */
static bool
may_need_place(const RelayFlow *flow)
{
	return flow->txn.state != TXN_NONE || (OidIsValid(flow->serverid) && flow->producer == NULL);
}

/*
 * Open a batch.  Inside a transaction with a snapshot; false if nothing is new.
 */
static bool
batch_open(RelayFlow *flow)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(flow->context);
	bool		fresh;
	OutboxSnapshot *target = next_target(flow, &fresh);
	RelayBatch *batch;

	if (same_moment(flow->base, target) ||
		(may_need_place(flow) && !outbox_place_fits(target)))
	{
		flow->txn.caught_up |= flow->batches == NIL && same_moment(flow->base, target);
		pfree(target);
		MemoryContextSwitchTo(oldcontext);
		return false;
	}
	refs_collect(flow, target);
	batch = palloc0(sizeof(RelayBatch));
	batch->target = target;
	batch->rows = flow->refs->nrefs > 0;
	if (batch->rows)
		outbox_gate_close(flow);
	batch->fresh = fresh;
	flow->batches = lappend(flow->batches, batch);
	MemoryContextSwitchTo(oldcontext);
	return true;
}

/*
 * Provide a page to unpack; false if everything committed is read.
 */
static bool
page_open(RelayFlow *flow)
{
	bool		found = false;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	for (;;)
	{
		if (flow->refs != NULL && flow->next_ref >= flow->refs->nrefs)
		{
			if (flow->refs->truncated)
			{
				refs_collect_rest(flow);
				continue;
			}
			batch_close(flow);
		}
		if (flow->refs == NULL && !batch_open(flow))
			break;
		if (flow->next_ref < flow->refs->nrefs)
		{
			OUTBOX_FAULT("relay.before_read");
			found = page_fetch(flow);
			if (found)
				break;
			refs_find_again(flow);
			continue;
		}
		if (flow->ticks == NIL)
		{
			batch_close(flow);
			break;
		}
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	return found;
}

/*
 * Note the present moment, if we lag and the last one is a while ago.
 */
void
outbox_flow_tick(RelayFlow *flow)
{
	MemoryContext oldcontext;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(flow->last_tick, now, TICK_INTERVAL_MS))
		return;
	flow->last_tick = now;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	oldcontext = MemoryContextSwitchTo(flow->context);
	flow->ticks = lappend(flow->ticks, outbox_snapshot_from(GetActiveSnapshot()));
	if (list_length(flow->ticks) > TICK_MAX)
	{
		for (int i = list_length(flow->ticks) - 2; i >= 0; i -= 2)
		{
			pfree(list_nth(flow->ticks, i));
			flow->ticks = list_delete_nth_cell(flow->ticks, i);
		}
	}
	MemoryContextSwitchTo(oldcontext);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* ---------------- entries ---------------- */

/*
 * The topic of an event, or NULL if it is for another server.
 */
static RelayTopic *
event_topic(RelayFlow *flow, const OutboxEvent *ev)
{
	const char *server;
	const char *topic;

	if (ev->stream == 0)
	{
		if (strlen(flow->server) == ev->server_len &&
			memcmp(flow->server, ev->server, ev->server_len) == 0)
			return outbox_topic_get(flow, ev->topic, ev->topic_len);
		outbox_relay_discover(ev->server, ev->server_len);
		return NULL;
	}

	if (ev->stream < flow->nby_stream && flow->by_stream[ev->stream] != NULL)
		return flow->by_stream[ev->stream];
	if (!outbox_stream_lookup(ev->stream, &server, &topic))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("event %lld is of unknown stream %d",
						(long long) ev->id, ev->stream)));
	if (strcmp(server, flow->server) != 0)
	{
		outbox_relay_discover(server, strlen(server));
		return NULL;
	}
	if (ev->stream >= flow->nby_stream)
	{
		int			n = ev->stream + 64;

		flow->by_stream = flow->by_stream == NULL ?
			MemoryContextAllocZero(TopMemoryContext, sizeof(RelayTopic *) * n) :
			repalloc(flow->by_stream, sizeof(RelayTopic *) * n);
		memset(flow->by_stream + flow->nby_stream, 0,
			   sizeof(RelayTopic *) * (n - flow->nby_stream));
		flow->nby_stream = n;
	}
	flow->by_stream[ev->stream] = outbox_topic_get(flow, topic, strlen(topic));
	return flow->by_stream[ev->stream];
}

static void
entry_add(RelayFlow *flow, int64 stamp, const OutboxEvent *ev)
{
	RelayTopic *topic = event_topic(flow, ev);
	RelayEntry *entry;

	if (topic == NULL)
		return;
	entry = &flow->ring[flow->tail % FLOW_RING_SIZE];
	entry->state = ENTRY_WAITING;
	entry->stored = false;
	entry->stamp = stamp;
	entry->topic = topic;
	entry->page = flow->page;
	entry->error = NULL;
	entry->unreported = 0;
	outbox_broadcast_reset(&entry->copies);
	entry->ev = *ev;
	flow->page->users++;
	flow->tail++;
}

/*
 * Unpack the page into the ring, as far as there is room.
 */
static void
page_unpack(RelayFlow *flow)
{
	while (flow->row < flow->nrows)
	{
		PageRow    *row = &flow->rows[flow->row];

		for (; row->remaining > 0; row->remaining--)
		{
			OutboxEvent ev;

			if (flow->tail - flow->head >= FLOW_RING_SIZE)
				return;
			outbox_event_unpack(&row->pos, row->end, &row->cursor, &ev);
			if (row->stamp < flow->read_stamp ||
				(row->stamp == flow->read_stamp && ev.id <= flow->read_id))
				continue;		/* settled before the relay started */
			entry_add(flow, row->stamp, &ev);
			flow->read_stamp = row->stamp;
			flow->read_id = ev.id;
		}
		flow->row++;
	}
	page_close(flow);
}

bool
outbox_flow_read(RelayFlow *flow)
{
	if (flow->tail - flow->head >= FLOW_RING_SIZE || flow->bytes >= FLOW_MAX_BYTES)
	{
		outbox_flow_tick(flow);
		return false;
	}
	if (flow->page == NULL && !page_open(flow))
		return false;
	page_unpack(flow);
	return true;
}
