/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  Exactly once: a flow's events in Kafka transactions.
 *
 * Each transaction takes a page of the flow, and stores with it the place that
 * the flow has come to (place.c).  Whoever comes next, after a crash or a
 * promotion, reads the place and goes on behind it: what was sent in front of
 * it is committed, what was sent behind it is not and never will be, once the
 * name is claimed.  Position and place follow each other; the further one counts.
 *
 * What the place passes without having sent it (parked events, dead letters) is
 * on disk here before the place is committed, and is stored so that the same may
 * be read again if it is not: parked rows by their key, letters by the event's id.
 * Parked events that a transaction sends are named in outbox._drained under a
 * number, which the place repeats.
 *
 * Two servers of one origin can be alive, an old primary and a promoted standby.
 * The place tells whose history it belongs to, so the older one stops instead of
 * claiming the name back.  It looks before it claims, so that it does not disturb
 * the other, and once more when nobody else can change it.
 *
 * A transaction that cannot be committed costs the producer; the next one, by
 * claiming the name, ends what is left of it.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/fault.h"
#include "log/stamp.h"
#include "relay/sql.h"

#define TXN_EVENTS 20000		/* a transaction is closed at so many events, */
#define TXN_BYTES (16 * 1024 * 1024)	/* bytes of them, */
#define TXN_MS 200				/* or after this time */
#define SINGLE_TXNS 100			/* transactions to find a topic's fault in */
#define DOOMED_MS 1000			/* for reports to come in, of one that failed */
#define BLOCKED_MS 30000		/* before another look at who has our name */

/* ---------------- starts of our server ---------------- */

/*
 * A copy of the data directory writes places that cannot be told from ours by
 * timelines, nor by WAL positions once our WAL is as long.  So the starts of the
 * server are kept, in WAL that is on disk before the first place of each, and what
 * any other start wrote is not of our history.
 */
static void
starts_load(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];

	StartTransactionCommand();
	values[0] = CStringGetTextDatum(flow->server);
	outbox_sql_begin();
	outbox_sql_execute("SELECT pg_catalog.unnest(starts) FROM outbox._claim WHERE server = $1",
					   1, types, values, NULL);
	txn->nstarts = (int) Min(SPI_processed, TXN_STARTS);
	for (int i = 0; i < txn->nstarts; i++)
	{
		bool		isnull;

		txn->starts[i] = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[i],
														   SPI_tuptable->tupdesc, 1, &isnull));
	}
	outbox_sql_end();
	CommitTransactionCommand();
}

static bool
start_known(const RelayTxn *txn, TimestampTz start)
{
	for (int i = 0; i < txn->nstarts; i++)
		if (txn->starts[i] == start)
			return true;
	return start == PgStartTime;
}

/*
 * Inside a transaction, which also stores the position, as places of starts that
 * are dropped from the list are not gone by any more.  A standby must have it
 * before it finds a place of ours instead of the former one.
 */
static void
start_store(RelayFlow *flow)
{
	Oid			types[3] = {TEXTOID, TIMESTAMPTZOID, INT4OID};
	Datum		values[3];

	values[0] = CStringGetTextDatum(flow->server);
	values[1] = TimestampTzGetDatum(PgStartTime);
	values[2] = Int32GetDatum(TXN_STARTS);
	outbox_sql_begin();
	outbox_sql_execute("INSERT INTO outbox._claim AS c (server, starts) VALUES ($1, ARRAY[$2])"
					   " ON CONFLICT (server) DO UPDATE SET starts = ($2 || c.starts)[1:$3]"
					   " WHERE c.starts[1] <> $2", 3, types, values, NULL);
	flow->txn.keeping |= SPI_processed > 0;
	outbox_sql_end();
}

/* ---------------- life ---------------- */

static void
txn_unblock(RelayTxn *txn)
{
	if (txn->blocked != NULL)
		pfree(txn->blocked);
	txn->blocked = NULL;
}

void
outbox_txn_producer_opened(RelayFlow *flow)
{
	if (outbox_producer_transactional_id(flow->producer) == NULL)
	{
		txn_unblock(&flow->txn);	/* the option was turned off */
		return;
	}
	starts_load(flow);
	flow->txn.state = TXN_LOOKING;
	outbox_producer_ask_places(flow->producer, false);
}

/*
 * The producer ended.
 */
void
outbox_txn_reset(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;

	txn->state = TXN_NONE;
	txn->topic = NULL;
	txn->draining = 0;
	txn->caught_up = false;
	if (txn->doomed != NULL)
		pfree(txn->doomed);
	txn->doomed = NULL;
	if (txn->announce != NULL)
		pfree(txn->announce);
	txn->announce = NULL;
	if (txn->place != NULL)
		pfree(txn->place);
	txn->place = NULL;
	if (txn->letters != NULL)
		hash_destroy(txn->letters);
	txn->letters = NULL;
}

/*
 * Whoever has our name: leave it to him, and look again later.
 */
static void
txn_block(RelayFlow *flow, const char *reason, const char *hint)
{
	RelayTxn   *txn = &flow->txn;

	if (txn->blocked == NULL || strcmp(txn->blocked, reason) != 0)
	{
		char	   *copy = MemoryContextStrdup(TopMemoryContext, reason);

		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("stopped publishing to server \"%s\"", flow->server),
				 errdetail_internal("%s.", reason),
				 errhint("%s", hint)));
		txn_unblock(txn);
		txn->blocked = copy;
	}
	flow->producer_retry = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BLOCKED_MS);
	outbox_flow_wait_reason(flow, reason);
}

/* ---------------- dead letters ---------------- */

bool
outbox_txn_is_letter(const RelayFlow *flow, int64 id)
{
	return flow->txn.letters != NULL &&
		hash_search(flow->txn.letters, &id, HASH_FIND, NULL) != NULL;
}

/*
 * One that is read again must neither be sent nor be set aside once more.
 */
void
outbox_txn_add_letter(RelayFlow *flow, int64 id)
{
	if (flow->txn.letters != NULL)
		(void) hash_search(flow->txn.letters, &id, HASH_ENTER, NULL);
}

static void
letters_load(RelayFlow *flow)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = ctl.entrysize = sizeof(int64);
	flow->txn.letters = hash_create("pg_outbox letters", 64, &ctl, HASH_ELEM | HASH_BLOBS);

	values[0] = CStringGetTextDatum(flow->server);
	outbox_sql_begin();
	outbox_sql_execute("SELECT event_id FROM outbox._dead_letter WHERE direction = 'out'"
					   " AND server = $1 AND event_id IS NOT NULL", 1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		outbox_txn_add_letter(flow, DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
																SPI_tuptable->tupdesc, 1, &isnull)));
	}
	outbox_sql_end();
}

/* ---------------- where we stand ---------------- */

/* What the places in the group say, taken together. */
typedef struct Findings
{
	RelayPlace	newest;			/* of all; number 0: there is none */
	char	   *topic;			/* it is stored on */
	RelayPlace	ours;			/* newest that we can go by; likewise */
	bool		lost;			/* some of what was published is not in our
								 * history */
} Findings;

static bool
same_timeline(const RelayPlace *a, const RelayPlace *b)
{
	return a->timelines[0].tli == b->timelines[0].tli &&
		a->timelines[0].begin == b->timelines[0].begin;
}

/*
 * Take a place into account.  False if we must not go on.
 */
static bool
findings_add(RelayFlow *flow, Findings *found, const OutboxPlace *stored)
{
	const char *group = outbox_producer_transactional_id(flow->producer);
	PlaceRelation relation;
	RelayPlace	place;

	if (!outbox_place_in(stored->text, &place))
	{
		txn_block(flow, psprintf("consumer group \"%s\" holds on topic \"%s\" what this version does not understand",
								 group, stored->topic),
				  "Perhaps a newer version of pg_outbox wrote it; else delete the consumer group.");
		return false;
	}
	relation = outbox_place_judge(&place);
	if (relation == PLACE_SUCCESSOR || relation == PLACE_STRANGER)
	{
		txn_block(flow, psprintf(relation == PLACE_SUCCESSOR ?
								 "a server that was promoted from this one publishes in its place, on timeline %u" :
								 "another server of the same origin publishes in its place, on timeline %u",
								 place.timelines[0].tli),
				  psprintf("Stop this server, or make it a standby of the other. If the other is gone for good, delete consumer group \"%s\" at the brokers.",
						   group));
		return false;
	}
	if (place.number > found->newest.number)
	{
		found->newest = place;
		found->topic = stored->topic;
	}
	if (!start_known(&flow->txn, place.server_start))
		relation = PLACE_LOST;
	found->lost |= relation != PLACE_OURS;
	if (relation == PLACE_BASE_OURS)
	{
		place.target = NULL;
		place.stamp = place.id = 0;
	}
	if (relation != PLACE_LOST && place.number > found->ours.number)
		found->ours = place;
	return true;
}

/*
 * Two servers that cannot be told apart by their history, such as copies of one
 * data directory, can still be told by when they started.  Who had the name and
 * finds that somebody else has used it since leaves it to him.  A place that is not
 * newer than ours says nothing: ours may have gone with the topic it was stored on.
 */
static bool
taken_by_twin(RelayFlow *flow, const RelayPlace *newest)
{
	RelayPlace	own;

	outbox_place_sign(&own);
	return flow->txn.claimed && newest->number > flow->txn.number && same_timeline(newest, &own) &&
		newest->server_start != PgStartTime && newest->server_start != flow->txn.holder;
}

static bool
findings_judge(RelayFlow *flow, const OutboxPlace *places, int nplaces, Findings *found)
{
	memset(found, 0, sizeof(*found));
	for (int i = 0; i < nplaces; i++)
		if (!findings_add(flow, found, &places[i]))
			return false;
	if (found->newest.number > 0 && taken_by_twin(flow, &found->newest))
	{
		txn_block(flow, "a copy of this server publishes in its place",
				  "Stop one of them; restart this one if it is to go on.");
		return false;
	}
	return true;
}

/*
 * The position may be beyond the newest place, over what was stored without
 * being sent: by settlements since then, or by another process before this one,
 * of which only the end of the WAL is known.
 */
static void
keep_what_came_before(RelayFlow *flow, XLogRecPtr place_kept)
{
	RelayTxn   *txn = &flow->txn;

	if (XLogRecPtrIsInvalid(txn->kept_lsn))
		txn->kept_lsn = outbox_place_record_end(GetXLogInsertRecPtr());
	txn->kept_lsn = Max(txn->kept_lsn, place_kept);
}

/*
 * Go on from what was found, which nobody else can change any more.
 */
static void
findings_use(RelayFlow *flow, const Findings *found)
{
	RelayTxn   *txn = &flow->txn;
	RelayPlace	own;
	bool		ahead = found->ours.number > 0 && outbox_place_ahead(&found->ours, &flow->position);

	outbox_place_sign(&own);
	txn->number = found->newest.number;
	txn->drained = found->newest.drained;
	keep_what_came_before(flow, found->ours.kept_lsn);
	txn->holder = found->newest.server_start;
	txn->claimed = true;
	txn_unblock(txn);
	if (found->newest.number > 0 &&
		(found->newest.server_start != PgStartTime || !same_timeline(&found->newest, &own)))
		txn->announce = MemoryContextStrdup(TopMemoryContext, found->topic);

	if (ahead)
		outbox_flow_move(flow, &found->ours);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	outbox_topics_resolve_drained(flow, txn->drained);
	letters_load(flow);
	txn->caught_up = !outbox_topics_have_parked(flow);
	start_store(flow);
	outbox_position_store(flow->server, &flow->position);
	PopActiveSnapshot();
	CommitTransactionCommand();
	outbox_txn_kept(flow);
	flow->position_moved = false;
	flow->position_stored = GetCurrentTimestamp();

	if (found->lost && txn->announce != NULL)
		ereport(LOG,
				(errmsg("not all that was published to server \"%s\" is known here", flow->server),
				 errdetail("A part was lost when this server was promoted or restored, or a copy of it published. Events since then may be published again.")));
	if (ahead)
	{
		ereport(LOG,
				(errmsg("relay goes on behind Kafka transaction %lld of server \"%s\"",
						(long long) found->ours.number, flow->server)));
		outbox_flow_reread(flow);
	}
}

/*
 * Evaluate an answer.  False if we must not go on.
 */
static bool
find_places(RelayFlow *flow, const OutboxPlace *places, int nplaces)
{
	Findings	found;

	if (!findings_judge(flow, places, nplaces, &found))
		return false;
	if (flow->txn.state == TXN_FINDING)
		findings_use(flow, &found);
	return true;
}

/* ---------------- filling a transaction ---------------- */

bool
outbox_txn_ready(const RelayFlow *flow)
{
	return flow->txn.state == TXN_NONE || flow->txn.state >= TXN_IDLE;
}

static bool
txn_full(const RelayTxn *txn)
{
	return txn->events >= TXN_EVENTS || txn->bytes >= TXN_BYTES;
}

bool
outbox_txn_may_send(const RelayFlow *flow)
{
	const RelayTxn *txn = &flow->txn;

	return txn->state == TXN_NONE ||
		(flow->restart_by == 0 && txn->doomed == NULL &&
		 ((txn->state == TXN_IDLE && txn->announce == NULL) ||
		  (txn->state == TXN_OPEN && !txn_full(txn))));
}

static bool
txn_open(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;

	if (outbox_producer_begin(flow->producer) != OUTBOX_TXN_OK)
	{
		flow->producer_broken = true;
		return false;
	}
	txn->state = TXN_OPEN;
	txn->opened_at = GetCurrentTimestamp();
	txn->events = 0;
	txn->bytes = 0;
	txn->topic = NULL;
	txn->several = false;
	txn->draining = 0;
	OUTBOX_FAULT("relay.txn_begun");
	return true;
}

/*
 * May a message for the topic be sent now?
 */
bool
outbox_txn_admit(RelayFlow *flow, const RelayTopic *topic)
{
	RelayTxn   *txn = &flow->txn;

	if (txn->state == TXN_NONE)
		return true;
	if (!outbox_txn_may_send(flow) ||
		(txn->state == TXN_OPEN && txn->single > 0 && txn->topic != NULL && txn->topic != topic))
		return false;
	return txn->state == TXN_OPEN || txn_open(flow);
}

void
outbox_txn_sent(RelayFlow *flow, RelayTopic *topic, const OutboxEvent *ev)
{
	RelayTxn   *txn = &flow->txn;

	if (txn->state == TXN_NONE)
		return;
	txn->events++;
	txn->bytes += ev->key_len + (int64) ev->value_len;
	if (txn->topic == NULL)
		txn->topic = topic;
	txn->several |= txn->topic != topic;
}

static void
txn_close(RelayFlow *flow)
{
	flow->txn.state = TXN_CLOSING;
	flow->txn.end = flow->sent;
}

/*
 * Has an event gone to some partitions, and must go to the others with the same
 * transaction?
 */
static bool
amid_copies(const RelayFlow *flow)
{
	ListCell   *lc;

	if (flow->sent < flow->tail && outbox_entry_begun(&flow->ring[flow->sent % FLOW_RING_SIZE]))
		return true;
	foreach(lc, flow->topic_list)
		if (outbox_topic_amid_copies(lfirst(lc)))
		return true;
	return false;
}

/*
 * At the end of a turn: is the transaction to be closed?
 */
bool
outbox_txn_turn_ends(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;

	if (txn->state != TXN_OPEN)
		return false;

	if (amid_copies(flow))
		return false;
	if (!txn_full(txn) && flow->sent < flow->tail && flow->restart_by == 0 && txn->single == 0 &&
		!TimestampDifferenceExceeds(txn->opened_at, GetCurrentTimestamp(), TXN_MS))
		return false;
	txn_close(flow);
	return true;
}

/* ---------------- ending a transaction ---------------- */

/*
 * A database transaction of the flow has ended.
 */
void
outbox_txn_kept(RelayFlow *flow)
{
	if (flow->txn.keeping)
		flow->txn.kept_lsn = XactLastCommitEnd;
	flow->txn.keeping = false;
}

static bool
anything_to_store(const RelayFlow *flow)
{
	ListCell   *lc;

	for (uint64 n = flow->head; n < flow->txn.end; n++)
	{
		const RelayEntry *entry = &flow->ring[n % FLOW_RING_SIZE];

		if ((entry->state == ENTRY_PARK || entry->state == ENTRY_DEAD) && !entry->stored)
			return true;
	}
	foreach(lc, flow->topic_list)
		if (((RelayTopic *) lfirst(lc))->drain_in_txn)
		return true;
	return false;
}

/*
 * Have on disk what the place will pass without having sent it, and which parked
 * events the transaction sends.
 */
static void
txn_prepare(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;
	ParkBatch  *batch;
	ListCell   *lc;

	if (!anything_to_store(flow))
		return;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());	/* for dead letters */
	batch = outbox_park_begin();
	for (uint64 n = flow->head; n < txn->end; n++)
		outbox_entry_store(flow, &flow->ring[n % FLOW_RING_SIZE], batch);
	outbox_park_end(batch);
	foreach(lc, flow->topic_list)
	{
		RelayTopic *topic = lfirst(lc);

		outbox_topic_store(topic);
		if (!topic->drain_in_txn)
			continue;
		if (txn->draining == 0)
			txn->draining = outbox_stamp_next();
		outbox_topic_drain_prepare(topic, txn->draining);
	}
	txn->keeping = true;
	PopActiveSnapshot();
	CommitTransactionCommand();
	outbox_txn_kept(flow);
}

/*
 * Write down the place, when what it passes without having sent it is on disk: what
 * this transaction stored, and what settlements did, which do not wait.  They go
 * on while the place waits for standbys, and what they park meanwhile is behind it.
 */
static bool
txn_write_place(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;
	RelayPlace	place;
	char	   *text;

	memset(&place, 0, sizeof(place));
	outbox_flow_place(flow, txn->end, &place);
	outbox_place_sign(&place);
	place.number = txn->number + 1;
	place.drained = txn->draining != 0 ? txn->draining : txn->drained;
	place.kept_lsn = txn->kept_lsn;
	outbox_place_flush(&place);
	XLogFlush(place.kept_lsn);
	txn->place_lsn = Max(outbox_place_record_end((place.target ? place.target : place.base)->lsn),
						 place.kept_lsn);
	text = outbox_place_out(&place);

	if (strlen(text) > OUTBOX_PLACE_MAX)
	{
		outbox_flow_producer_failed(flow, "too many transactions are in progress for a Kafka transaction to say which are published");
		return false;
	}
	txn->place = MemoryContextStrdup(TopMemoryContext, text);
	pfree(text);
	return true;
}

static bool
txn_store(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;
	const char *topic = txn->topic ? txn->topic->name : txn->announce;
	bool		ok = outbox_producer_call(flow->producer, OUTBOX_TXN_STORE, topic,
										  txn->place) != OUTBOX_TXN_FAILED;

	pfree(txn->place);
	txn->place = NULL;
	return ok;
}

/*
 * What the transaction sent is delivered.
 */
static void
txn_committed(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;
	ListCell   *lc;

	for (uint64 n = flow->head; n < txn->end; n++)
	{
		RelayEntry *entry = &flow->ring[n % FLOW_RING_SIZE];

		if (entry->state == ENTRY_ACKNOWLEDGED)
			entry->state = ENTRY_DELIVERED;
	}
	if (txn->topic != NULL || txn->announce != NULL)
	{
		txn->number++;
		txn->holder = PgStartTime;
	}
	if (txn->announce != NULL)
		pfree(txn->announce);
	txn->announce = NULL;
	if (txn->single > 0)
		txn->single--;
	txn->state = TXN_IDLE;
	OUTBOX_FAULT("relay.txn_committed");
	if (txn->draining == 0)
		return;

	txn->drained = txn->draining;
	txn->draining = 0;
	StartTransactionCommand();
	foreach(lc, flow->topic_list)
		if (((RelayTopic *) lfirst(lc))->drain_in_txn)
		outbox_topic_drain_committed(lfirst(lc));
	CommitTransactionCommand();
	OUTBOX_FAULT("relay.txn_drained");
}

/* ---------------- the steps ---------------- */

/*
 * Handle a result that is due.  False if the producer is unusable.
 */
static bool
step_asked(RelayFlow *flow)
{
	OutboxPlace *places;
	int			nplaces;
	OutboxTxnResult result = outbox_producer_places(flow->producer, &places, &nplaces);

	if (result == OUTBOX_TXN_WAIT)
		return true;
	if (result == OUTBOX_TXN_FAILED || !find_places(flow, places, nplaces))
		return false;
	if (flow->txn.state == TXN_FINDING)
	{
		flow->txn.state = TXN_IDLE;
		return true;
	}
	flow->txn.state = TXN_CLAIMING;
	return outbox_producer_call(flow->producer, OUTBOX_TXN_CLAIM, NULL, NULL) != OUTBOX_TXN_FAILED;
}

static bool
step_called(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;
	OutboxTxnResult result = outbox_producer_call_result(flow->producer);

	if (result != OUTBOX_TXN_OK)
		return result == OUTBOX_TXN_WAIT;
	switch (txn->state)
	{
		case TXN_CLAIMING:
			OUTBOX_FAULT("relay.txn_claimed");
			outbox_producer_ask_places(flow->producer, true);
			txn->state = TXN_FINDING;
			return true;
		case TXN_STORING:
			OUTBOX_FAULT("relay.txn_stored");
			txn->state = TXN_COMMITTING;
			return outbox_producer_call(flow->producer, OUTBOX_TXN_COMMIT, NULL, NULL) != OUTBOX_TXN_FAILED;
		default:
			Assert(txn->state == TXN_COMMITTING);
			txn_committed(flow);
			return true;
	}
}

/*
 * A transaction in which nothing went out is committed without a place.
 */
static bool
step_closing(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;

	if (outbox_producer_in_flight(flow->producer) > 0)
		return true;
	OUTBOX_FAULT("relay.txn_acknowledged");
	if (txn->topic == NULL && txn->announce == NULL)
	{
		txn->state = TXN_COMMITTING;
		return outbox_producer_call(flow->producer, OUTBOX_TXN_COMMIT, NULL, NULL) != OUTBOX_TXN_FAILED;
	}
	txn_prepare(flow);
	if (!txn_write_place(flow))
		return false;
	OUTBOX_FAULT("relay.txn_prepared");
	txn->state = TXN_KEEPING;
	return true;
}

/*
 * A server that is promoted must not go by the place without what it passes.
 */
static bool
step_keeping(RelayFlow *flow)
{
	if (!outbox_gate_has(flow, flow->txn.place_lsn))
		return true;
	flow->txn.state = TXN_STORING;
	return txn_store(flow);
}

static bool
txn_step(RelayFlow *flow)
{
	switch (flow->txn.state)
	{
		case TXN_LOOKING:
		case TXN_FINDING:
			return step_asked(flow);
		case TXN_CLAIMING:
		case TXN_STORING:
		case TXN_COMMITTING:
			return step_called(flow);
		case TXN_IDLE:
			if (flow->txn.announce == NULL || flow->restart_by != 0)
				return true;
			if (!txn_open(flow))
				return false;
			txn_close(flow);
			return true;
		case TXN_CLOSING:
			return step_closing(flow);
		case TXN_KEEPING:
			return step_keeping(flow);
		default:
			return true;
	}
}

/*
 * Do what is due.  False if the producer is unusable.
 */
bool
outbox_txn_run(RelayFlow *flow, bool *progress)
{
	TxnState	before;

	if (flow->txn.doomed != NULL)
		return true;
	do
	{
		before = flow->txn.state;
		if (!txn_step(flow))
			return false;
		*progress |= flow->txn.state != before;
	} while (flow->txn.state != before);
	return true;
}

/* ---------------- failure ---------------- */

/*
 * A message came back that is not to blame itself.  The one that is may still be
 * reported, and is what there is to learn from it.
 */
void
outbox_txn_doom(RelayFlow *flow, const char *reason)
{
	if (flow->txn.doomed != NULL)
		return;
	flow->txn.doomed = MemoryContextStrdup(TopMemoryContext, reason);
	flow->txn.doomed_at = GetCurrentTimestamp();
}

/*
 * Is there nothing more to wait for in a doomed transaction?
 */
bool
outbox_txn_over(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;

	if (txn->doomed == NULL ||
		(outbox_producer_in_flight(flow->producer) > 0 &&
		 !TimestampDifferenceExceeds(txn->doomed_at, GetCurrentTimestamp(), DOOMED_MS)))
		return false;
	outbox_flow_producer_failed(flow, txn->doomed);
	return true;
}

/*
 * Brokers may refuse a topic without refusing a message.  Where several could be
 * meant, find out with transactions of one topic each.
 */
static void
blame_topic(RelayFlow *flow, const char *error)
{
	RelayTxn   *txn = &flow->txn;

	if (txn->topic == NULL)
		return;
	if (txn->several)
		txn->single = SINGLE_TXNS;
	else
	{
		txn->single = 0;
		outbox_topic_stop(txn->topic, error);
	}
}

/*
 * The producer is about to be closed.  Keep what was learned: which topic or
 * event it was.
 */
void
outbox_txn_fail(RelayFlow *flow)
{
	RelayTxn   *txn = &flow->txn;
	OutboxKafkaFault fault;
	const char *error;
	ListCell   *lc;

	if (txn->state == TXN_NONE || flow->producer == NULL)
		return;
	error = outbox_producer_txn_error(flow->producer, &fault);
	if (error[0] != '\0')
	{
		if (flow->producer_retry <= GetCurrentTimestamp())
			outbox_flow_producer_failed(flow, error);
		if (txn->state >= TXN_OPEN && fault == OUTBOX_KAFKA_FAULT_TOPIC && !flow->producer_broken)
			blame_topic(flow, error);
	}
	if (txn->state < TXN_OPEN)
		return;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());	/* for dead letters */
	for (uint64 n = flow->head; n < flow->sent; n++)
	{
		RelayEntry *entry = &flow->ring[n % FLOW_RING_SIZE];

		if (entry->state == ENTRY_DEAD)
			outbox_entry_store(flow, entry, NULL);
	}
	foreach(lc, flow->topic_list)
		if (((RelayTopic *) lfirst(lc))->drain_in_txn)
		outbox_topic_drain_failed(lfirst(lc));
	PopActiveSnapshot();
	CommitTransactionCommand();
	outbox_txn_kept(flow);
}
