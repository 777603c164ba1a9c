/*-------------------------------------------------------------------------
 *
 * park.c
 *	  Putting events of stopped topics into the parked log, many at a time.
 *
 * One settlement may park thousands of events, which others wait for: those of
 * the same server for room in the ring, those of other servers for their turn.
 * So they are collected and inserted by one statement for each PARK_ROWS of
 * them.  What is collected lives in a memory context of the settlement's
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "relay/sql.h"

#define PARK_ROWS 1000
#define PARK_BYTES (1024 * 1024)

struct ParkBatch
{
	MemoryContext context;
	int			n;
	Size		bytes;
	Datum		streams[PARK_ROWS];
	Datum		stamps[PARK_ROWS];
	Datum		ids[PARK_ROWS];
	Datum		events[PARK_ROWS];
};

ParkBatch *
outbox_park_begin(void)
{
	ParkBatch  *batch = palloc(sizeof(ParkBatch));

	batch->context = AllocSetContextCreate(CurrentMemoryContext, "pg_outbox parking",
										   ALLOCSET_DEFAULT_SIZES);
	batch->n = 0;
	batch->bytes = 0;
	return batch;
}

/*
 * One that was parked before a crash and is read again is not parked twice.
 */
static void
batch_insert(ParkBatch *batch)
{
	Oid			types[4] = {INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, BYTEAARRAYOID};
	Datum		values[4];
	MemoryContext oldcontext = MemoryContextSwitchTo(batch->context);

	values[0] = PointerGetDatum(construct_array(batch->streams, batch->n, INT4OID,
												sizeof(int32), true, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(batch->stamps, batch->n, INT8OID,
												sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(construct_array(batch->ids, batch->n, INT8OID,
												sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[3] = PointerGetDatum(construct_array(batch->events, batch->n, BYTEAOID,
												-1, false, TYPALIGN_INT));
	outbox_sql_begin();
	outbox_sql_execute("INSERT INTO outbox._parked (stream, stamp, id, event)"
					   " SELECT * FROM unnest($1, $2, $3, $4)"
					   " ON CONFLICT DO NOTHING", 4, types, values, NULL);
	outbox_sql_end();
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(batch->context);
	batch->n = 0;
	batch->bytes = 0;
}

static bytea *
packed_event(const OutboxEvent *ev)
{
	StringInfoData buf;
	OutboxEventCursor cur = {0, 0};

	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	outbox_event_pack(&buf, &cur, ev);
	SET_VARSIZE(buf.data, buf.len);
	return (bytea *) buf.data;
}

/*
 * Put an event behind those that wait already.  Inside the settlement's
 * transaction; "stream" is the number of its topic's row.
 */
void
outbox_park_add(ParkBatch *batch, int32 stream, int64 stamp, const OutboxEvent *ev)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(batch->context);
	bytea	   *event = packed_event(ev);

	batch->streams[batch->n] = Int32GetDatum(stream);
	batch->stamps[batch->n] = Int64GetDatum(stamp);
	batch->ids[batch->n] = Int64GetDatum(ev->id);
	batch->events[batch->n] = PointerGetDatum(event);
	batch->n++;
	batch->bytes += VARSIZE(event);
	MemoryContextSwitchTo(oldcontext);
	if (batch->n == PARK_ROWS || batch->bytes >= PARK_BYTES)
		batch_insert(batch);
}

void
outbox_park_end(ParkBatch *batch)
{
	if (batch->n > 0)
		batch_insert(batch);
	MemoryContextDelete(batch->context);
	pfree(batch);
}

/*
 * The number of a topic's row, which is made if there is none; 0 if there is one
 * that the transaction's snapshot does not see.  Inside a transaction.
 */
int32
outbox_park_stream(const char *server, const char *topic)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	bool		isnull;
	int32		stream = 0;

	values[0] = CStringGetTextDatum(server);
	values[1] = CStringGetTextDatum(topic);
	outbox_sql_begin();
	outbox_sql_execute("INSERT INTO outbox._stream (server, topic) SELECT $1, $2"
					   " WHERE NOT EXISTS (SELECT FROM outbox._stream WHERE server = $1 AND topic = $2)"
					   " ON CONFLICT DO NOTHING", 2, types, values, NULL);
	outbox_sql_execute("SELECT id FROM outbox._stream WHERE server = $1 AND topic = $2",
					   2, types, values, NULL);
	if (SPI_processed == 1)
		stream = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	outbox_sql_end();
	return stream;
}
