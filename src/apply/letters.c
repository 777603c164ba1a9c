/*-------------------------------------------------------------------------
 *
 * letters.c
 *	  Events of a subscription that were set aside, and trying them again.
 *
 * A parked letter has a time of its next attempt, or none if it waits behind
 * an earlier letter of its key.  For a handler the oldest open letter of a key
 * is the only one that may be tried; the set feed->blocked, of hashes of keys,
 * says in advance which records have to wait.  It may name too many keys, not
 * too few: a letter with nobody before it is due at once.
 *
 * Once the oldest goes through, those behind it follow in the same transaction.
 * While there are more of them than a turn has time for, new records may be
 * parked only half as fast as letters go through (feed->park_limit), so that a
 * key that has many records is done with its letters in the end.
 *
 * A replica needs no order.  Its events are whole rows with versions, so a
 * letter that was overtaken is stale when it is tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/letters.h"

#include <limits.h>

#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "apply/batch.h"
#include "apply/classify.h"
#include "apply/deliver.h"
#include "apply/settings.h"
#include "apply/statement.h"
#include "apply/transaction.h"
#include "common/dead_letter.h"
#include "common/fault.h"

#define RETRY_BATCH 200
#define FIRST_RETRY_MS 200
#define LAST_RETRY_MS 60000
#define HELD_RETRY_MS 1000

/*
 * Of the letters d: those that may be tried as to their order.  $2 says
 * whether the subscription keeps any.
 */
#define NOBODY_BEFORE \
	" AND (NOT $2 OR identity IS NULL OR NOT EXISTS (SELECT 1 FROM outbox._dead_letter e" \
	" WHERE e.subscription = d.subscription AND e.identity = d.identity AND e.direction = 'in'" \
	" AND e.id < d.id AND e.state IN ('parked', 'dead', 'retry')))"

/* ---------------- order ---------------- */

uint64
outbox_letters_hash(const OutboxRecord *rec)
{
	return hash_bytes_extended((const unsigned char *) rec->key, rec->key_len, 0);
}

static void
block_hash(OutboxFeed *feed, uint64 hash)
{
	if (feed->blocked == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(uint64);
		ctl.entrysize = sizeof(uint64);
		ctl.hcxt = feed->context;
		feed->blocked = hash_create("pg_outbox waiting keys", 64, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(feed->blocked, &hash, HASH_ENTER, NULL);
}

bool
outbox_letters_blocked(OutboxFeed *feed, const OutboxRecord *rec)
{
	uint64		hash;

	if (feed->blocked == NULL || rec->key == NULL)
		return false;
	hash = outbox_letters_hash(rec);
	return hash_search(feed->blocked, &hash, HASH_FIND, NULL) != NULL;
}

/*
 * Note when the next letter is due.  One behind another letter of its key is
 * not: it becomes due when that one goes through.
 */
static void
load_due_time(OutboxFeed *feed)
{
	static const char sql[] =
	"SELECT min(CASE WHEN state = 'retry' THEN '-infinity' ELSE coalesce(next_attempt_at, '-infinity') END)"
	" FROM outbox._dead_letter d WHERE subscription = $1 AND direction = 'in' AND state IN ('parked', 'retry')"
	NOBODY_BEFORE;
	OutboxSqlArg args[] = {sql_int8(feed->sub->id), sql_bool(feed->sub->handler != NULL)};
	bool		isnull;
	Datum		due;

	(void) outbox_statement_run(sql, lengthof(args), args);
	due = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	feed->next_letters = isnull ? DT_NOEND : DatumGetTimestampTz(due);
}

/* Look again not later than then. */
static void
letter_is_due(OutboxFeed *feed, TimestampTz when)
{
	feed->next_letters = Min(feed->next_letters, when);
}

void
outbox_letters_load(OutboxFeed *feed)
{
	static const char keys_sql[] =
	"SELECT DISTINCT key FROM outbox._dead_letter WHERE subscription = $1 AND direction = 'in'"
	" AND state IN ('parked', 'retry', 'dead') AND key IS NOT NULL";
	OutboxSqlArg args[] = {sql_int8(feed->sub->id)};
	OutboxOwnerScope scope;
	uint64		n = 0;

	if (feed->blocked != NULL)
		hash_destroy(feed->blocked);
	feed->blocked = NULL;
	outbox_statement_begin(&scope);
	load_due_time(feed);
	if (feed->sub->handler != NULL)
		n = outbox_statement_run(keys_sql, lengthof(args), args);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		bytea	   *key = DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 1, &isnull));

		block_hash(feed, hash_bytes_extended((unsigned char *) VARDATA_ANY(key),
											 VARSIZE_ANY_EXHDR(key), 0));
	}
	outbox_statement_end(&scope);
}

/* ---------------- storing ---------------- */

static void
letter_from_record(OutboxFeed *feed, const OutboxRecord *rec, OutboxDeadLetter *dl)
{
	memset(dl, 0, sizeof(*dl));
	dl->name = feed->sub->name;
	dl->subscription = feed->sub->id;
	dl->server = feed->sub->server;
	dl->topic = rec->topic;
	dl->partition = rec->partition;
	dl->offset = rec->offset;
	dl->key = rec->key;
	dl->key_len = rec->key_len;
	dl->value = rec->value;
	dl->value_len = rec->value_len;
	dl->headers = rec->headers;
	dl->nheaders = rec->nheaders;
	dl->event_time = outbox_deliver_event_time(rec);
	dl->identity = outbox_deliver_identity(feed, rec, &dl->event_id);
	dl->target = feed->sub->target;
}

int64
outbox_letters_store(OutboxFeed *feed, const OutboxRecord *rec, const ErrorData *edata,
					 bool parked)
{
	OutboxDeadLetter dl;

	letter_from_record(feed, rec, &dl);
	dl.sqlerrcode = edata->sqlerrcode;
	dl.message = edata->message ? edata->message : "unknown error";
	dl.detail = edata->detail;
	dl.context = edata->context;
	dl.attempts = 1;
	dl.state = parked ? OUTBOX_LETTER_PARKED : OUTBOX_LETTER_DEAD;
	if (parked)
	{
		dl.next_attempt = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_RETRY_MS);
		letter_is_due(feed, dl.next_attempt);
	}
	if (feed->sub->handler != NULL && rec->key != NULL)
		block_hash(feed, outbox_letters_hash(rec));
	return outbox_dead_letter_store(&dl);
}

static bool
has_letters(OutboxFeed *feed, const char *identity)
{
	static const char sql[] =
	"SELECT 1 FROM outbox._dead_letter WHERE subscription = $1 AND identity = $2 AND direction = 'in'"
	" AND state IN ('parked', 'dead', 'retry') LIMIT 1";
	OutboxSqlArg args[] = {sql_int8(feed->sub->id), sql_text(identity)};
	OutboxOwnerScope scope;
	bool		result;

	outbox_statement_begin(&scope);
	result = outbox_statement_run(sql, lengthof(args), args) > 0;
	outbox_statement_end(&scope);
	return result;
}

void
outbox_letters_park_behind(OutboxFeed *feed, const OutboxRecord *rec)
{
	OutboxDeadLetter dl;

	letter_from_record(feed, rec, &dl);
	dl.sqlerrcode = ERRCODE_SUCCESSFUL_COMPLETION;
	dl.message = "waits for an earlier event with the same key";
	dl.state = OUTBOX_LETTER_PARKED;
	if (!has_letters(feed, dl.identity))
		letter_is_due(feed, DT_NOBEGIN);
	(void) outbox_dead_letter_store(&dl);
}

void
outbox_letters_remove_run(const OutboxFeed *feed)
{
	static const char sql[] =
	"DELETE FROM outbox._dead_letter WHERE subscription = $1 AND direction = 'in' AND topic = $2"
	" AND partition = $3 AND kafka_offset >= $4 AND id >= $5 AND state IN ('parked', 'dead', 'retry')";
	const OutboxFailureRun *run = &feed->run;
	OutboxOwnerScope scope;

	if (run->first_letter == 0)
		return;
	outbox_statement_begin(&scope);
	for (int i = 0; i < run->nplaces; i++)
	{
		OutboxSqlArg args[] = {sql_int8(feed->sub->id), sql_text(feed->sub->topic),
			sql_int4(run->places[i].partition), sql_int8(run->places[i].offset),
		sql_int8(run->first_letter)};

		(void) outbox_statement_run(sql, lengthof(args), args);
	}
	outbox_statement_end(&scope);
}

/* ---------------- trying again ---------------- */

/*
 * The record of a letter, in the current context; false if the letter is not
 * open any more, or somebody is changing it.  Locks its row.
 */
static bool
load_letter(int64 id, OutboxRecord *rec)
{
	static const char sql[] =
	"SELECT topic, coalesce(partition, -1), coalesce(kafka_offset, -1),"
	" coalesce((extract(epoch FROM event_time) * 1000)::int8, -1),"
	" key, value, header_names, header_values FROM outbox._dead_letter"
	" WHERE id = $1 AND state IN ('parked', 'retry') FOR UPDATE SKIP LOCKED";
	OutboxSqlArg args[] = {sql_int8(id)};
	MemoryContext caller = CurrentMemoryContext;
	OutboxOwnerScope scope;
	bool		found;

	memset(rec, 0, sizeof(*rec));
	outbox_statement_begin(&scope);
	found = outbox_statement_run(sql, lengthof(args), args) > 0;
	if (found)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);
		HeapTuple	tup = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		value;
		Datum	   *names;
		Datum	   *values;
		bool	   *nulls;
		int			n;

		rec->kind = OUTBOX_RECORD_EVENT;
		rec->topic = outbox_statement_get_text(0, 1);
		rec->partition = outbox_statement_get_int4(0, 2, -1);
		rec->offset = outbox_statement_get_int8(0, 3, -1);
		rec->timestamp_ms = outbox_statement_get_int8(0, 4, -1);
		value = SPI_getbinval(tup, desc, 5, &isnull);
		if (!isnull)
		{
			bytea	   *bytes = DatumGetByteaPCopy(value);

			rec->key = VARDATA(bytes);
			rec->key_len = VARSIZE(bytes) - VARHDRSZ;
		}
		value = SPI_getbinval(tup, desc, 6, &isnull);
		if (!isnull)
		{
			bytea	   *bytes = DatumGetByteaPCopy(value);

			rec->value = VARDATA(bytes);
			rec->value_len = VARSIZE(bytes) - VARHDRSZ;
		}
		deconstruct_array(DatumGetArrayTypePCopy(SPI_getbinval(tup, desc, 7, &isnull)),
						  BYTEAOID, -1, false, TYPALIGN_INT, &names, NULL, &n);
		deconstruct_array(DatumGetArrayTypePCopy(SPI_getbinval(tup, desc, 8, &isnull)),
						  BYTEAOID, -1, false, TYPALIGN_INT, &values, &nulls, &rec->nheaders);
		rec->nheaders = Min(rec->nheaders, n);
		rec->headers = palloc0(sizeof(OutboxHeader) * (n + 1));
		for (int i = 0; i < rec->nheaders; i++)
		{
			rec->headers[i].name = TextDatumGetCString(names[i]);
			if (nulls[i])
				continue;
			rec->headers[i].value = VARDATA_ANY(DatumGetPointer(values[i]));
			rec->headers[i].value_len = VARSIZE_ANY_EXHDR(DatumGetPointer(values[i]));
		}
		MemoryContextSwitchTo(old);
	}
	outbox_statement_end(&scope);
	return found;
}

static void
letter_went_through(int64 id)
{
	static const char sql[] =
	"UPDATE outbox._dead_letter SET state = 'done', attempts = attempts + 1,"
	" last_at = pg_catalog.clock_timestamp(), next_attempt_at = NULL WHERE id = $1";
	OutboxSqlArg args[] = {sql_int8(id)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(sql, lengthof(args), args);
	outbox_statement_end(&scope);
}

/*
 * Once more in vain.  A letter that depends on another waits, each time twice
 * as long, until it is too old; one that was asked for by a person and has a
 * fault of its own is dead again.
 */
static void
letter_failed(int64 id, const ErrorData *edata, OutboxFaultKind kind)
{
	static const char sql[] =
	"UPDATE outbox._dead_letter SET attempts = attempts + 1, last_at = pg_catalog.clock_timestamp(),"
	" sqlstate = $2, message = $3, detail = $4, context = $5,"
	" state = CASE WHEN $6 OR ($7 AND first_at < pg_catalog.clock_timestamp() - $8 * interval '1 s')"
	" THEN 'dead' ELSE 'parked' END,"
	" next_attempt_at = CASE WHEN $6 THEN NULL ELSE pg_catalog.clock_timestamp()"
	" + least($9 * 2.0 ^ least(attempts, 20), $10)::float8 * interval '1 ms' END"
	" WHERE id = $1 AND state IN ('parked', 'retry')";
	OutboxSqlArg args[] = {
		sql_int8(id), sql_text(unpack_sql_state(edata->sqlerrcode)),
		sql_text(edata->message ? edata->message : "unknown error"),
		sql_text(edata->detail), sql_text(edata->context),
		sql_bool(kind == OUTBOX_FAULT_DATA), sql_bool(kind == OUTBOX_FAULT_DEPENDENCY),
		sql_int4(outbox_parked_timeout), sql_int4(FIRST_RETRY_MS), sql_int4(LAST_RETRY_MS)
	};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(sql, lengthof(args), args);
	outbox_statement_end(&scope);
}

/* What came of trying letters. */
typedef struct LetterRound
{
	int			driven;			/* went through */
	bool		skipped;		/* some are due still, but in somebody's hands */
	bool		backed_off;		/* the feed has, for a reason of its own */
} LetterRound;

/*
 * Deliver the letter and note that it went through, in a subtransaction.
 * Returns the error if that failed.  False in *found if it is not there to be
 * tried.  Context is reset by the caller.
 */
static ErrorData *
try_letter(OutboxFeed *feed, int64 id, MemoryContext context, bool *found)
{
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile edata = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		OutboxRecord rec;
		char		fate;
		int			delivered;

		*found = load_letter(id, &rec);
		if (*found)
		{
			OUTBOX_FAULT("letter-retry");
			outbox_deliver(feed, &rec, &fate, 1, false, &delivered);
			letter_went_through(id);
		}
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return edata;
}

/*
 * If the reason is not the letter's the feed backs off: no other is worth
 * trying now.
 */
static void
note_failure(OutboxFeed *feed, LetterRound *round, int64 id, const ErrorData *edata)
{
	OutboxFaultKind kind = outbox_deliver_timed_out(feed, edata) ? OUTBOX_FAULT_DATA :
	outbox_fault_classify(edata);

	letter_failed(id, edata, kind);
	if (kind != OUTBOX_FAULT_TRANSIENT)
		return;
	outbox_feed_back_off(feed, edata->message);
	round->backed_off = true;
}

/*
 * The letter and those that wait behind it, up to the first that is not due;
 * at most "max".
 */
static int
letters_from(OutboxFeed *feed, int64 head, int64 *ids, int max)
{
	static const char sql[] =
	"SELECT id, state = 'retry' OR state = 'parked'"
	" AND (next_attempt_at IS NULL OR next_attempt_at <= pg_catalog.clock_timestamp())"
	" FROM outbox._dead_letter WHERE subscription = $1 AND direction = 'in' AND id > $2"
	" AND identity = (SELECT identity FROM outbox._dead_letter WHERE id = $2)"
	" AND state IN ('parked', 'dead', 'retry') ORDER BY id LIMIT $3";
	OutboxSqlArg args[] = {sql_int8(feed->sub->id), sql_int8(head), sql_int8(max - 1)};
	OutboxOwnerScope scope;
	int			found;
	int			n = 0;

	ids[n++] = head;
	if (feed->sub->handler == NULL || max == 1)
		return n;				/* nothing waits for it */
	outbox_statement_begin(&scope);
	found = (int) outbox_statement_run(sql, lengthof(args), args);
	for (int i = 0; i < found && outbox_statement_get_bool(i, 2); i++)
		ids[n++] = outbox_statement_get_int8(i, 1, 0);
	outbox_statement_end(&scope);
	return n;
}

/*
 * Try a letter, and if it goes through those behind it, as long as the turn
 * lasts, in one transaction.  Returns the error if all of it was for nothing.
 */
static ErrorData *
retry_from(OutboxFeed *feed, int64 head, int max, MemoryContext context, LetterRound *round)
{
	MemoryContext letter_context = AllocSetContextCreate(context, "pg_outbox letter",
														 ALLOCSET_DEFAULT_SIZES);
	ErrorData  *volatile error = NULL;
	volatile int through = 0;

	PG_TRY();
	{
		int64		ids[RETRY_BATCH];
		int			n;

		(void) outbox_transaction_begin();
		n = letters_from(feed, head, ids, max);
		for (int i = 0; i < n && (i == 0 || !outbox_feed_turn_over(feed)); i++)
		{
			bool		found;
			ErrorData  *edata = try_letter(feed, ids[i], letter_context, &found);

			if (edata != NULL)
				note_failure(feed, round, ids[i], edata);
			else if (!found)
				round->skipped = true;
			if (edata != NULL || !found)
				break;
			through++;
			MemoryContextReset(letter_context);
		}
		OUTBOX_FAULT("letters-before-commit");
		outbox_transaction_commit(context);
	}
	PG_CATCH();
	{
		error = outbox_transaction_failed(context);
		through = 0;
	}
	PG_END_TRY();
	MemoryContextDelete(letter_context);
	if (through > 0)
		outbox_batch_end_run(feed);
	round->driven += through;
	return error;
}

/*
 * What fails only when it is committed is tried with the first letter alone,
 * to see whether it is that one's fault.
 */
static void
retry_letter(OutboxFeed *feed, int64 head, MemoryContext context, LetterRound *round)
{
	ErrorData  *edata = retry_from(feed, head, RETRY_BATCH, context, round);

	if (edata != NULL)
		edata = retry_from(feed, head, 1, context, round);
	if (edata == NULL)
		return;
	(void) outbox_transaction_begin();
	note_failure(feed, round, head, edata);
	outbox_transaction_commit(context);
}

/* Ids of letters that are due, oldest first. */
static int
due_letters(OutboxFeed *feed, int64 *ids)
{
	static const char sql[] =
	"SELECT id FROM outbox._dead_letter d WHERE subscription = $1 AND direction = 'in'"
	" AND (state = 'retry' OR state = 'parked'"
	" AND (next_attempt_at IS NULL OR next_attempt_at <= pg_catalog.clock_timestamp()))"
	NOBODY_BEFORE " ORDER BY id LIMIT $3";
	OutboxSqlArg args[] = {sql_int8(feed->sub->id), sql_bool(feed->sub->handler != NULL),
	sql_int8(RETRY_BATCH)};
	OutboxOwnerScope scope;
	int			n;

	outbox_statement_begin(&scope);
	n = (int) outbox_statement_run(sql, lengthof(args), args);
	for (int i = 0; i < n; i++)
		ids[i] = outbox_statement_get_int8(i, 1, 0);
	outbox_statement_end(&scope);
	return n;
}

void
outbox_letters_retry(OutboxFeed *feed)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "pg_outbox letters",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	int64		ids[RETRY_BATCH];
	int			n;
	LetterRound round = {0};

	outbox_feed_begin_turn(feed);
	(void) outbox_transaction_begin();
	n = due_letters(feed, ids);
	outbox_transaction_commit(scratch);
	for (int i = 0; i < n && !round.backed_off && (i == 0 || !outbox_feed_turn_over(feed)); i++)
		retry_letter(feed, ids[i], scratch, &round);

	(void) outbox_transaction_begin();
	outbox_letters_load(feed);
	outbox_transaction_commit(scratch);
	feed->park_limit = feed->next_letters > GetCurrentTimestamp() ? INT_MAX : Max(1, round.driven / 2);
	if (round.skipped)
		feed->next_letters = Max(feed->next_letters,
								 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HELD_RETRY_MS));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
}
