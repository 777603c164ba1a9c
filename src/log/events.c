/*-------------------------------------------------------------------------
 *
 * events.c
 *	  outbox._events(): the log as rows, for people and tests.
 *
 * What the caller's snapshot sees of the log, and what the current
 * transaction still holds in memory.  Waiting for delivery or not makes no
 * difference here: a row is shown until its segment is emptied.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/log.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "log/log_internal.h"

PG_FUNCTION_INFO_V1(outbox_events);
PG_FUNCTION_INFO_V1(outbox_log_rows);
PG_FUNCTION_INFO_V1(outbox_log_space);

#define EVENTS_NATTS 13

typedef struct EventSink
{
	ReturnSetInfo *rsinfo;
	MemoryContext row_context;
	uint64		xid;
	int64		stamp;			/* 0: not known yet */
} EventSink;

static Datum
bytes_datum(const char *data, int32 len)
{
	bytea	   *b = palloc(VARHDRSZ + len);

	SET_VARSIZE(b, VARHDRSZ + len);
	memcpy(VARDATA(b), data, len);
	return PointerGetDatum(b);
}

/*
 * Headers as a JSON object of strings.  The bytes are UTF-8 by construction.
 */
static Datum
headers_datum(const char *headers, int32 len)
{
	JsonbParseState *state = NULL;
	JsonbValue *result;
	const char *end = headers + len;
	const char *name;
	const char *value;
	int32		name_len;
	int32		value_len;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while (outbox_header_next(&headers, end, &name, &name_len, &value, &value_len))
	{
		JsonbValue	v;

		v.type = jbvString;
		v.val.string.val = pg_any_to_server(name, name_len, PG_UTF8);
		v.val.string.len = strlen(v.val.string.val);
		pushJsonbValue(&state, WJB_KEY, &v);
		if (value == NULL)
			v.type = jbvNull;
		else
		{
			char	   *str = pnstrdup(value, value_len);

			v.val.string.val = pg_any_to_server(str, value_len, PG_UTF8);
			v.val.string.len = strlen(v.val.string.val);
		}
		pushJsonbValue(&state, WJB_VALUE, &v);
	}
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(result));
}

static void
put_event(const OutboxEvent *ev, void *arg)
{
	EventSink  *sink = arg;
	MemoryContext oldcontext = MemoryContextSwitchTo(sink->row_context);
	Datum		values[EVENTS_NATTS];
	bool		nulls[EVENTS_NATTS] = {false};
	char		op[2] = {outbox_op_letter(ev->op), '\0'};

	values[0] = Int64GetDatum(ev->id);
	values[1] = Int64GetDatum(sink->stamp);
	nulls[1] = (sink->stamp == 0);
	values[2] = FullTransactionIdGetDatum(FullTransactionIdFromU64(sink->xid));
	values[3] = CStringGetTextDatum(op);
	nulls[3] = (ev->op == OUTBOX_OP_NONE);
	values[4] = Int32GetDatum(ev->stream);
	nulls[4] = (ev->stream == 0);
	nulls[5] = nulls[6] = (ev->stream != 0);
	if (ev->stream == 0)
	{
		values[5] = PointerGetDatum(cstring_to_text_with_len(ev->server, ev->server_len));
		values[6] = PointerGetDatum(cstring_to_text_with_len(ev->topic, ev->topic_len));
	}
	nulls[7] = (ev->key == NULL);
	if (ev->key)
		values[7] = bytes_datum(ev->key, ev->key_len);
	nulls[8] = (ev->value == NULL);
	if (ev->value)
		values[8] = bytes_datum(ev->value, ev->value_len);
	nulls[9] = (ev->headers == NULL);
	if (ev->headers)
		values[9] = headers_datum(ev->headers, ev->headers_len);
	values[10] = Int64GetDatum(ev->version != 0 ? ev->version : ev->id);
	values[11] = TimestampTzGetDatum(time_t_to_timestamptz(0) + ev->time_ms * 1000);
	values[12] = BoolGetDatum(sink->stamp == 0);

	tuplestore_putvalues(sink->rsinfo->setResult, sink->rsinfo->setDesc, values, nulls);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(sink->row_context);
}

static void
put_row(HeapTuple tup, TupleDesc desc, EventSink *sink)
{
	bool		isnull;
	Datum		d = heap_getattr(tup, LOG_EVENTS + 1, desc, &isnull);
	bytea	   *events = DatumGetByteaPCopy(d);
	const char *pos = VARDATA(events);
	const char *end = pos + VARSIZE(events) - VARHDRSZ;
	OutboxEventCursor cur;
	OutboxEvent ev;
	int			n;

	d = heap_getattr(tup, LOG_XID + 1, desc, &isnull);
	sink->xid = U64FromFullTransactionId(DatumGetFullTransactionId(d));
	d = heap_getattr(tup, LOG_STAMP + 1, desc, &isnull);
	sink->stamp = isnull ? 0 : DatumGetInt64(d);
	n = outbox_events_start(&pos, end,
							DatumGetInt64(heap_getattr(tup, LOG_ID + 1, desc, &isnull)), &cur);
	while (n-- > 0)
	{
		outbox_event_unpack(&pos, end, &cur, &ev);
		put_event(&ev, sink);
	}
	pfree(events);
}

static void
put_segment(int segment, EventSink *sink)
{
	Relation	rel = table_open(outbox_segment_table(segment), AccessShareLock);
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	HeapTuple	tup;

	while ((tup = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		put_row(tup, RelationGetDescr(rel), sink);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

Datum
outbox_events(PG_FUNCTION_ARGS)
{
	EventSink	sink;

	memset(&sink, 0, sizeof(sink));
	InitMaterializedSRF(fcinfo, 0);
	sink.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	sink.row_context = AllocSetContextCreate(CurrentMemoryContext, "pg_outbox event",
											 ALLOCSET_DEFAULT_SIZES);

	for (int segment = 0; segment < OUTBOX_LOG_SEGMENTS; segment++)
		put_segment(segment, &sink);
	sink.xid = U64FromFullTransactionId(GetTopFullTransactionIdIfAny());
	sink.stamp = 0;
	outbox_log_visit_pending(put_event, &sink);
	return (Datum) 0;
}

/* ---------------- for monitoring ---------------- */

#define ROWS_NATTS 5
#define ROW_HEAD_BYTES 32		/* enough for what outbox_events_start() reads */

/*
 * Describe one row of the log by its head alone.
 */
static void
put_log_row(HeapTuple tup, TupleDesc desc, ReturnSetInfo *rsinfo)
{
	Datum		values[ROWS_NATTS];
	bool		nulls[ROWS_NATTS] = {false};
	bool		isnull;
	Datum		d = heap_getattr(tup, LOG_EVENTS + 1, desc, &isnull);
	bytea	   *head = DatumGetByteaPSlice(d, 0, ROW_HEAD_BYTES);
	const char *pos = VARDATA_ANY(head);
	OutboxEventCursor cur;

	values[0] = heap_getattr(tup, LOG_XID + 1, desc, &isnull);
	values[1] = heap_getattr(tup, LOG_STAMP + 1, desc, &nulls[1]);
	values[2] = heap_getattr(tup, LOG_ID + 1, desc, &isnull);
	values[3] = Int32GetDatum(outbox_events_start(&pos, pos + VARSIZE_ANY_EXHDR(head),
												  DatumGetInt64(values[2]), &cur));
	values[4] = TimestampTzGetDatum(time_t_to_timestamptz(0) + cur.time_ms * 1000);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	pfree(head);
}

Datum
outbox_log_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int segment = 0; segment < OUTBOX_LOG_SEGMENTS; segment++)
	{
		Relation	rel = table_open(outbox_segment_table(segment), AccessShareLock);
		TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
		HeapTuple	tup;

		while ((tup = heap_getnext(scan, ForwardScanDirection)) != NULL)
		{
			CHECK_FOR_INTERRUPTS();
			put_log_row(tup, RelationGetDescr(rel), rsinfo);
		}
		table_endscan(scan);
		table_close(rel, AccessShareLock);
	}
	return (Datum) 0;
}

/*
 * Bytes that the log takes, and that it may take (null: no limit).
 */
Datum
outbox_log_space(PG_FUNCTION_ARGS)
{
	Datum		values[2];
	bool		nulls[2] = {false};
	TupleDesc	desc;
	int64		size = outbox_log_size();
	int64		limit = outbox_log_limit(size);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(size);
	values[1] = Int64GetDatum(limit);
	nulls[1] = limit < 0;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
