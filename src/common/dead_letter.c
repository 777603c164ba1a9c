/*-------------------------------------------------------------------------
 *
 * dead_letter.c
 *	  Setting an event aside, with everything that is known about it.
 *
 * Takes no locks beyond those of an INSERT into outbox._dead_letter.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "common/dead_letter.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/timestamp.h"

#include "common/catalog.h"

#define LETTER_NCOLS 22

static const char letter_sql[] =
"INSERT INTO outbox._dead_letter (direction, name, server, topic, partition,"
" kafka_offset, key, value, header_names, header_values, event_time, identity,"
" event_id, target, sqlstate, message, detail, context, state, attempts,"
" next_attempt_at, subscription)"
" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
" $16, $17, $18, $19, $20, $21, $22)"
" RETURNING id";

static Oid	letter_types[LETTER_NCOLS] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID,
	INT8OID, BYTEAOID, BYTEAOID, BYTEAARRAYOID, BYTEAARRAYOID, TIMESTAMPTZOID, TEXTOID,
	INT8OID, OIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID,
	TIMESTAMPTZOID, INT8OID
};

/* Parameters under construction; each call appends one. */
typedef struct LetterParams
{
	int			n;
	Datum		values[LETTER_NCOLS];
	char		nulls[LETTER_NCOLS];
} LetterParams;

static void
add_datum(LetterParams *params, Datum value, bool isnull)
{
	Assert(params->n < LETTER_NCOLS);
	params->values[params->n] = value;
	params->nulls[params->n] = isnull ? 'n' : ' ';
	params->n++;
}

static void
add_text(LetterParams *params, const char *str)
{
	add_datum(params, str ? CStringGetTextDatum(str) : (Datum) 0, str == NULL);
}

static Datum
bytes_datum(const char *data, int len)
{
	return PointerGetDatum(cstring_to_text_with_len(data, len));
}

static void
add_bytes(LetterParams *params, const char *data, int len)
{
	add_datum(params, data ? bytes_datum(data, len) : (Datum) 0, data == NULL);
}

/*
 * Names and values as two parallel arrays of bytes, as they came; a header
 * without a value stays one.
 */
static void
add_headers(LetterParams *params, const OutboxDeadLetter *dl)
{
	int			n = dl->nheaders;
	Datum	   *names = palloc(sizeof(Datum) * (n + 1));
	Datum	   *values = palloc(sizeof(Datum) * (n + 1));
	bool	   *nulls = palloc(sizeof(bool) * (n + 1));
	int			lbound = 1;

	for (int i = 0; i < n; i++)
	{
		const OutboxHeader *header = &dl->headers[i];

		names[i] = bytes_datum(header->name, strlen(header->name));
		nulls[i] = header->value == NULL;
		values[i] = nulls[i] ? (Datum) 0 : bytes_datum(header->value, header->value_len);
	}
	add_datum(params,
			  PointerGetDatum(construct_array(names, n, BYTEAOID, -1, false, TYPALIGN_INT)),
			  false);
	add_datum(params,
			  PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lbound,
												 BYTEAOID, -1, false, TYPALIGN_INT)),
			  false);
}

static void
letter_params(LetterParams *params, const OutboxDeadLetter *dl)
{
	params->n = 0;
	add_text(params, dl->outgoing ? "out" : "in");
	add_text(params, dl->name);
	add_text(params, dl->server);
	add_text(params, dl->topic);
	add_datum(params, Int32GetDatum(dl->partition), dl->partition < 0);
	add_datum(params, Int64GetDatum(dl->offset), dl->offset < 0);
	add_bytes(params, dl->key, dl->key_len);
	add_bytes(params, dl->value, dl->value_len);
	add_headers(params, dl);
	add_datum(params, TimestampTzGetDatum(dl->event_time), dl->event_time == 0);
	add_text(params, dl->identity);
	add_datum(params, Int64GetDatum(dl->event_id), dl->event_id == 0);
	add_datum(params, ObjectIdGetDatum(dl->target), !OidIsValid(dl->target));
	add_text(params, unpack_sql_state(dl->sqlerrcode));
	add_text(params, dl->message);
	add_text(params, dl->detail);
	add_text(params, dl->context);
	add_text(params, dl->state == OUTBOX_LETTER_DEAD ? "dead" : "parked");
	add_datum(params, Int32GetDatum(dl->attempts), false);
	add_datum(params, TimestampTzGetDatum(dl->next_attempt), dl->next_attempt == 0);
	add_datum(params, Int64GetDatum(dl->subscription), dl->subscription == 0);
	Assert(params->n == LETTER_NCOLS);
}

int64
outbox_dead_letter_store(const OutboxDeadLetter *dl)
{
	OutboxOwnerScope scope;
	LetterParams params;
	int64		id;
	bool		isnull;

	outbox_owner_enter(&scope);
	SPI_connect();
	letter_params(&params, dl);
	if (SPI_execute_with_args(letter_sql, LETTER_NCOLS, letter_types,
							  params.values, params.nulls, false, 1) != SPI_OK_INSERT_RETURNING)
		elog(ERROR, "could not store dead letter");
	id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									 SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	outbox_owner_leave(&scope);
	return id;
}
