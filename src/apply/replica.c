/*-------------------------------------------------------------------------
 *
 * replica.c
 *	  Applying a batch of events to a replica.
 *
 * Events that speak of the whole topic (sweep.c) cut a batch in parts; with one
 * among them all keys are locked first.  A part goes through these steps, each for all of its events:
 *
 *	  convert	bytes to datums; what is wrong with an event shows here
 *	  reduce	of a key's events only the newest is left
 *	  lock		the stripes of the keys (tombstone.c)
 *	  floor		what is older than the last sweep is out
 *	  probe		keys with a newer tombstone are out
 *	  delete	rows that are older than their delete
 *	  upsert	one INSERT ... ON CONFLICT ... WHERE older
 *	  classify	for what was not written: what is there instead
 *	  tombstones  remember deletes, forget what was outdated
 *
 * The statements read the batch from tuplestores that SPI knows by name, so
 * that values pass as datums of the column's own type, and plans are made
 * once.  Locks are taken before the first of the statements, each of which
 * has a snapshot of its own (READ COMMITTED) or fails when the world moved
 * since the transaction's (REPEATABLE READ and up).
 *
 * Everything is allocated in the context of the SPI connection, which ends
 * with the batch.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/replica.h"

#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "utils/datum.h"
#include "utils/tuplestore.h"

#include "apply/execute.h"
#include "apply/row.h"
#include "apply/sweep.h"
#include "apply/target.h"
#include "apply/tombstone.h"
#include "common/fault.h"
#include "common/pinned.h"

typedef struct ReplicaBatch
{
	OutboxTarget *target;
	int			first;			/* of a larger batch, of which it is a part, */
	int			total;			/* of so many */
	int			n;
	const OutboxApplyEvent *events;
	OutboxRow  *rows;
	bool	   *outdates;		/* an older tombstone of the key exists */
	int		   *repeats;		/* the event of this batch that it repeats, or
								 * -1 */
	OutboxApplyResult *results;
	int			current;		/* event being converted, or -1 */

	/* the upsert: events in the order of writing, and how far it has come */
	int		   *order;
	int			norder;
	int			written;
} ReplicaBatch;

/* DestReceiver for the rows that the upsert has written. */
typedef struct MarkReceiver
{
	DestReceiver pub;
	ReplicaBatch *batch;
} MarkReceiver;

/* ---------------- error context ---------------- */

char		outbox_row_failed_column[NAMEDATALEN];

static void
batch_context(void *arg)
{
	ReplicaBatch *batch = arg;
	const OutboxApplyEvent *ev;

	if (batch->current < 0 || batch->current >= batch->n)
	{
		errcontext("applying %d events to replica %s", batch->n, batch->target->name);
		return;
	}
	ev = &batch->events[batch->current];
	if (outbox_row_column != NULL)
	{
		strlcpy(outbox_row_failed_column, outbox_row_column->name, NAMEDATALEN);
		errcontext("column \"%s\"", outbox_row_column->name);
	}
	errcontext("applying event %d of %d, key \"%.*s\", to replica %s",
			   batch->first + batch->current + 1, batch->total,
			   ev->key ? pg_mbcliplen(ev->key, ev->key_len, 128) : 0, ev->key ? ev->key : "",
			   batch->target->name);
}

/* ---------------- convert, reduce ---------------- */

static void
convert_batch(ReplicaBatch *batch)
{
	int			nest_level = batch->target->pin_settings ? outbox_pin_settings() : 0;

	for (int i = 0; i < batch->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		outbox_row_column = NULL;	/* before anything can raise */
		batch->current = i;
		outbox_row_from_event(batch->target, &batch->events[i], &batch->rows[i]);
		batch->results[i] = OUTBOX_APPLY_PENDING;
	}
	batch->current = -1;
	if (nest_level > 0)
		outbox_unpin_settings(nest_level);
}

static bool
same_identity(const OutboxRow *a, const OutboxRow *b)
{
	return a->hash == b->hash && a->identity_len == b->identity_len &&
		memcmp(a->identity, b->identity, a->identity_len) == 0;
}

/*
 * Leave only the newest event of each key pending.  Open addressing, at most
 * half full.
 */
static void
reduce_batch(ReplicaBatch *batch)
{
	uint32		size = pg_nextpower2_32(Max(batch->n, 1) * 2);
	int		   *slots = palloc(sizeof(int) * size);

	memset(batch->repeats, -1, sizeof(int) * batch->n);
	memset(slots, -1, sizeof(int) * size);
	for (int i = 0; i < batch->n; i++)
	{
		OutboxRow  *row = &batch->rows[i];
		uint32		s = row->hash & (size - 1);
		int			other;

		while (slots[s] >= 0 && !same_identity(row, &batch->rows[slots[s]]))
			s = (s + 1) & (size - 1);
		other = slots[s];
		if (other >= 0 && row->version <= batch->rows[other].version)
		{
			bool		repeats = row->version == batch->rows[other].version;

			batch->results[i] = repeats ? OUTBOX_APPLY_DUPLICATE : OUTBOX_APPLY_STALE;
			if (repeats)
				batch->repeats[i] = other;
			continue;
		}
		if (other >= 0)
			batch->results[other] = OUTBOX_APPLY_STALE;
		slots[s] = i;
	}
	pfree(slots);
}

/* ---------------- lock, probe ---------------- */

static void
lock_keys(ReplicaBatch *batch)
{
	uint64		shared = 0;
	uint64		exclusive = 0;

	for (int i = 0; i < batch->n; i++)
	{
		uint64		bit = UINT64CONST(1) << (batch->rows[i].hash % OUTBOX_LOCK_STRIPES);

		if (batch->results[i] != OUTBOX_APPLY_PENDING)
			continue;
		if (batch->rows[i].is_delete)
			exclusive |= bit;
		else
			shared |= bit;
	}
	outbox_tombstone_lock(batch->target->relid, shared, exclusive);
}

static void
probe_floor(ReplicaBatch *batch)
{
	int64		floor = outbox_floor_find(batch->target->relid);

	for (int i = 0; i < batch->n; i++)
		if (batch->results[i] == OUTBOX_APPLY_PENDING && batch->rows[i].version < floor)
			batch->results[i] = OUTBOX_APPLY_STALE;
}

static void
probe_tombstones(ReplicaBatch *batch)
{
	OutboxTombstoneScan *scan = outbox_tombstone_begin(batch->target->relid);

	for (int i = 0; i < batch->n; i++)
	{
		OutboxRow  *row = &batch->rows[i];
		int64		deleted;

		if (batch->results[i] != OUTBOX_APPLY_PENDING ||
			!outbox_tombstone_find(scan, row->identity, row->identity_len, &deleted))
			continue;
		if (deleted < row->version)
			batch->outdates[i] = true;
		else
			batch->results[i] = deleted == row->version ?
				OUTBOX_APPLY_DUPLICATE : OUTBOX_APPLY_STALE;
	}
	outbox_tombstone_end(scan);
}

/* ---------------- batches as relations ---------------- */

static int
compare_keys(const void *a, const void *b, void *arg)
{
	ReplicaBatch *batch = arg;
	OutboxTarget *target = batch->target;
	const OutboxRow *left = &batch->rows[*(const int *) a];
	const OutboxRow *right = &batch->rows[*(const int *) b];

	for (int k = 0; k < target->nkeys; k++)
	{
		int			column = target->keys[k];
		int			cmp = ApplySortComparator(left->values[column], false,
											  right->values[column], false,
											  &target->key_order[k]);

		if (cmp != 0)
			return cmp;
	}
	return 0;
}

/* Which events are to be upserted, and in what order. */
static void
order_upserts(ReplicaBatch *batch)
{
	batch->order = palloc(sizeof(int) * Max(batch->n, 1));
	batch->norder = 0;
	batch->written = 0;
	for (int i = 0; i < batch->n; i++)
		if (batch->results[i] == OUTBOX_APPLY_PENDING && !batch->rows[i].is_delete)
			batch->order[batch->norder++] = i;
	if (batch->target->key_order != NULL)
		qsort_arg(batch->order, batch->norder, sizeof(int), compare_keys, batch);
}

/* Pending upserts, as relation "outbox_rows". */
static EphemeralNamedRelation
collect_rows(ReplicaBatch *batch)
{
	OutboxTarget *target = batch->target;
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);

	order_upserts(batch);
	for (int i = 0; i < batch->norder; i++)
	{
		OutboxRow  *row = &batch->rows[batch->order[i]];

		tuplestore_putvalues(store, target->rows_desc, row->values, row->nulls);
	}
	return outbox_execute_register(OUTBOX_ROWS_RELATION, target->rows_desc, store);
}

/* Keys of what is still pending, as relation "outbox_keys". */
static EphemeralNamedRelation
collect_keys(ReplicaBatch *batch, bool deletes_only, int *nrows)
{
	OutboxTarget *target = batch->target;
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);
	Datum	   *values = palloc(sizeof(Datum) * (target->nkeys + 2));
	bool	   *nulls = palloc0(sizeof(bool) * (target->nkeys + 2));

	*nrows = 0;
	for (int i = 0; i < batch->n; i++)
	{
		OutboxRow  *row = &batch->rows[i];

		if (batch->results[i] != OUTBOX_APPLY_PENDING || (deletes_only && !row->is_delete))
			continue;
		values[0] = Int32GetDatum(i);
		values[1] = Int64GetDatum(row->version);
		for (int k = 0; k < target->nkeys; k++)
			values[k + 2] = row->values[target->keys[k]];
		tuplestore_putvalues(store, target->keys_desc, values, nulls);
		(*nrows)++;
	}
	return outbox_execute_register(OUTBOX_KEYS_RELATION, target->keys_desc, store);
}

static int
result_ordinal(uint64 row)
{
	bool		isnull;

	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[row],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/* ---------------- delete ---------------- */

static void
delete_rows(ReplicaBatch *batch)
{
	int			nrows;
	EphemeralNamedRelation enr = collect_keys(batch, true, &nrows);

	if (nrows > 0)
	{
		SPIPlanPtr	plan = outbox_target_delete_plan(batch->target);

		outbox_execute_plan_by_index(plan);
		outbox_execute_on_latest(plan, NULL, true, SPI_OK_DELETE_RETURNING);
		for (uint64 r = 0; r < SPI_processed; r++)
			batch->results[result_ordinal(r)] = OUTBOX_APPLY_DELETED;
		SPI_freetuptable(SPI_tuptable);
	}
	outbox_execute_unregister(enr);
}

/* ---------------- upsert ---------------- */

/*
 * Are two values of a key column the same to its index?  The stored one stays
 * when an equal one is written, as 1.0 does for 1.00.
 */
static bool
same_key(OutboxTargetColumn *col, Datum a, Datum b)
{
	return datum_image_eq(a, b, col->typbyval, col->typlen) ||
		DatumGetBool(FunctionCall2Coll(&col->equal, col->key_collation, a, b));
}

/* Is the slot, of version and key, this row? */
static bool
is_row(const OutboxTarget *target, const OutboxRow *row, TupleTableSlot *slot)
{
	bool		isnull;

	if (DatumGetInt64(slot_getattr(slot, 1, &isnull)) != row->version || isnull)
		return false;
	for (int k = 0; k < target->nkeys; k++)
	{
		int			column = target->keys[k];
		Datum		value = slot_getattr(slot, k + 2, &isnull);

		if (isnull || !same_key(&target->columns[column], value, row->values[column]))
			return false;
	}
	return true;
}

/*
 * A row was written.  Those before it in the order, and after the last one
 * that was written, were not.
 */
static bool
mark_receive(TupleTableSlot *slot, DestReceiver *self)
{
	ReplicaBatch *batch = ((MarkReceiver *) self)->batch;

	while (batch->written < batch->norder)
	{
		int			i = batch->order[batch->written++];

		if (is_row(batch->target, &batch->rows[i], slot))
		{
			batch->results[i] = OUTBOX_APPLY_APPLIED;
			return true;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("a trigger changed key or version of a row of replica %s",
					batch->target->name),
			 errdetail("Both must stay as the event has them, or the next event of the row cannot be judged.")));
}

static void
mark_startup(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
mark_nothing(DestReceiver *self)
{
}

static void
upsert_rows(ReplicaBatch *batch)
{
	MarkReceiver receiver = {{mark_receive, mark_startup, mark_nothing, mark_nothing,
	DestTuplestore}, batch};
	EphemeralNamedRelation enr = collect_rows(batch);

	if (batch->norder > 0)
	{
		SPIExecuteOptions options;
		int			rc;

		memset(&options, 0, sizeof(options));
		options.dest = &receiver.pub;
		rc = SPI_execute_plan_extended(outbox_target_upsert_plan(batch->target), &options);
		if (rc != SPI_OK_INSERT_RETURNING)
			elog(ERROR, "unexpected result of an upsert: %s", SPI_result_code_string(rc));
	}
	outbox_execute_unregister(enr);
}

/* ---------------- classify, tombstones ---------------- */

/*
 * What was not written met something else: a newer row, the same version, or
 * a trigger of the target that said no.  A delete that met nothing counts as
 * done: its tombstone is what has to be left.
 */
static void
classify_rest(ReplicaBatch *batch)
{
	int			nrows;
	EphemeralNamedRelation enr = collect_keys(batch, false, &nrows);

	if (nrows > 0)
	{
		SPIPlanPtr	plan = outbox_target_classify_plan(batch->target);

		outbox_execute_plan_by_index(plan);
		outbox_execute_on_latest(plan, NULL, false, SPI_OK_SELECT);
		for (uint64 r = 0; r < SPI_processed; r++)
		{
			int			i = result_ordinal(r);
			bool		isnull;
			int64		stored = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[r],
															 SPI_tuptable->tupdesc, 2, &isnull));

			if (isnull || stored < batch->rows[i].version)
				batch->results[i] = OUTBOX_APPLY_SUPPRESSED;
			else
				batch->results[i] = stored == batch->rows[i].version ?
					OUTBOX_APPLY_DUPLICATE : OUTBOX_APPLY_STALE;
		}
		SPI_freetuptable(SPI_tuptable);
	}
	outbox_execute_unregister(enr);

	for (int i = 0; i < batch->n; i++)
		if (batch->results[i] == OUTBOX_APPLY_PENDING)
			batch->results[i] = batch->rows[i].is_delete ?
				OUTBOX_APPLY_DELETED : OUTBOX_APPLY_SUPPRESSED;

	/* what repeats a stale event is stale itself */
	for (int i = 0; i < batch->n; i++)
		if (batch->repeats[i] >= 0 && batch->results[batch->repeats[i]] == OUTBOX_APPLY_STALE)
			batch->results[i] = OUTBOX_APPLY_STALE;
}

static void
settle_tombstones(ReplicaBatch *batch)
{
	char	  **put = palloc(sizeof(char *) * batch->n);
	char	  **remove = palloc(sizeof(char *) * batch->n);
	int64	   *versions = palloc(sizeof(int64) * batch->n);
	int			nput = 0;
	int			nremove = 0;

	for (int i = 0; i < batch->n; i++)
	{
		if (batch->results[i] == OUTBOX_APPLY_DELETED)
		{
			put[nput] = batch->rows[i].identity;
			versions[nput++] = batch->rows[i].version;
		}
		else if (batch->results[i] == OUTBOX_APPLY_APPLIED && batch->outdates[i])
			remove[nremove++] = batch->rows[i].identity;
	}
	outbox_tombstone_put(batch->target->relid, put, versions, nput);
	outbox_tombstone_remove(batch->target->relid, remove, nremove);
}

/* ---------------- entry points ---------------- */

static void
apply_batch(ReplicaBatch *batch)
{
	ErrorContextCallback callback;

	callback.callback = batch_context;
	callback.arg = batch;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	convert_batch(batch);
	reduce_batch(batch);
	lock_keys(batch);
	OUTBOX_FAULT("apply-locked");
	probe_floor(batch);
	probe_tombstones(batch);
	delete_rows(batch);
	upsert_rows(batch);
	classify_rest(batch);
	settle_tombstones(batch);

	error_context_stack = callback.previous;
}

static void
sweep_context(void *arg)
{
	ReplicaBatch *batch = arg;

	errcontext("applying event %d of %d, operation \"%c\", to replica %s",
			   batch->first + 1, batch->total, batch->events[0].op, batch->target->name);
}

static void
apply_sweep(ReplicaBatch *batch, bool paced)
{
	ErrorContextCallback callback;

	callback.callback = sweep_context;
	callback.arg = batch;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	batch->results[0] = outbox_sweep(batch->target, batch->events, paced);
	error_context_stack = callback.previous;
}

/*
 * The number of events up to the next one that speaks of the whole topic.
 */
static int
count_rows(const OutboxApplyEvent *events, int nevents)
{
	int			n = 0;

	while (n < nevents && !outbox_event_is_sweep(&events[n]))
		n++;
	return n;
}

/*
 * All locks at once: who has some in share mode and wants them all may meet
 * another one who does.
 */
static void
apply_parts(OutboxTarget *target, const OutboxApplyEvent *events, int nevents,
			OutboxApplyResult *results, bool paced)
{
	if (count_rows(events, nevents) < nevents)
		outbox_tombstone_lock(target->relid, 0, PG_UINT64_MAX);
	for (int first = 0; first < nevents;)
	{
		ReplicaBatch batch = {target, first, nevents, count_rows(events + first, nevents - first)};

		batch.events = events + first;
		batch.results = results + first;
		if (batch.n == 0)
		{
			apply_sweep(&batch, paced);
			first++;
			continue;
		}
		batch.rows = palloc0(sizeof(OutboxRow) * batch.n);
		batch.outdates = palloc0(sizeof(bool) * batch.n);
		batch.repeats = palloc(sizeof(int) * batch.n);
		batch.current = -1;
		apply_batch(&batch);
		first += batch.n;
	}
}

void
outbox_replica_apply(Oid relid, const OutboxApplyEvent *events, int nevents,
					 OutboxApplyResult *results, bool paced)
{
	OutboxTarget *target = outbox_target_acquire(relid);

	PG_TRY();
	{
		SPI_connect();
		apply_parts(target, events, nevents, results, paced);
		SPI_finish();
	}
	PG_FINALLY();
	{
		outbox_target_release(target);
	}
	PG_END_TRY();
}

char *
outbox_replica_identify(Oid relid, const OutboxApplyEvent *ev, int64 *version)
{
	MemoryContext caller = CurrentMemoryContext;
	OutboxTarget *target = outbox_target_acquire(relid);
	char	   *identity = NULL;

	PG_TRY();
	{
		OutboxRow	row;
		int			nest_level = target->pin_settings ? outbox_pin_settings() : 0;

		SPI_connect();
		outbox_row_from_event(target, ev, &row);
		identity = MemoryContextStrdup(caller, row.identity);
		*version = row.version;
		SPI_finish();
		if (nest_level > 0)
			outbox_unpin_settings(nest_level);
	}
	PG_FINALLY();
	{
		outbox_target_release(target);
	}
	PG_END_TRY();
	return identity;
}
