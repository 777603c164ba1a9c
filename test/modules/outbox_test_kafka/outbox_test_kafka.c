/*-------------------------------------------------------------------------
 *
 * outbox_test_kafka.c
 *	  Drives pg_outbox_kafka from SQL, for the tests of src/kafka.
 *
 * Goes through the library's table, without servers in a catalog: settings
 * are given as an array of name=value.  A session has at most one producer and
 * one consumer.  Waiting is done on the event descriptor alone, so a missing
 * wake-up shows as a time-out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "kafka/api.h"

PG_MODULE_MAGIC;

static const OutboxKafkaApi *api;
static OutboxProducer *producer;
static OutboxConsumer *consumer;
static int	event_fd = -1;

static const char *const fault_names[] = {"ok", "event", "topic", "cluster", "full"};
static const char *const kind_names[] = {
	"none", "event", "eof", "out_of_range", "topic_fault", "cluster_fault"
};

PG_FUNCTION_INFO_V1(test_register_exit);
PG_FUNCTION_INFO_V1(test_producer_open);
PG_FUNCTION_INFO_V1(test_producer_send);
PG_FUNCTION_INFO_V1(test_producer_burst);
PG_FUNCTION_INFO_V1(test_producer_reports);
PG_FUNCTION_INFO_V1(test_producer_bench);
PG_FUNCTION_INFO_V1(test_producer_state);
PG_FUNCTION_INFO_V1(test_producer_refresh);
PG_FUNCTION_INFO_V1(test_producer_partitions);
PG_FUNCTION_INFO_V1(test_producer_close);
PG_FUNCTION_INFO_V1(test_consumer_open);
PG_FUNCTION_INFO_V1(test_consumer_partitions);
PG_FUNCTION_INFO_V1(test_consumer_offsets);
PG_FUNCTION_INFO_V1(test_consumer_assign);
PG_FUNCTION_INFO_V1(test_consumer_control);
PG_FUNCTION_INFO_V1(test_consumer_read);
PG_FUNCTION_INFO_V1(test_consumer_commit);
PG_FUNCTION_INFO_V1(test_consumer_close);

/* ---------------- arguments and results ---------------- */

static void
library_open(void)
{
	OutboxKafkaEntry entry;

	if (api != NULL)
		return;
	entry = (OutboxKafkaEntry) load_external_function(OUTBOX_KAFKA_LIBRARY,
													  OUTBOX_KAFKA_ENTRY,
													  true, NULL);
	api = entry();
	event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static int
array_strings(ArrayType *array, char ***strings)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, &n);
	*strings = palloc0((n + 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			(*strings)[i] = TextDatumGetCString(elems[i]);
	return n;
}

/* A value that contains "secret" is one. */
static void
settings_from_array(ArrayType *array, OutboxServerSettings *settings)
{
	char	  **strings;

	settings->server = "test";
	settings->transactional_id = NULL;
	settings->nitems = array_strings(array, &strings);
	settings->items = palloc0((settings->nitems + 1) * sizeof(OutboxSetting));
	for (int i = 0; i < settings->nitems; i++)
	{
		char	   *equals = strchr(strings[i], '=');

		if (equals == NULL)
			elog(ERROR, "settings are name=value");
		*equals = '\0';
		settings->items[i].name = strings[i];
		settings->items[i].value = equals + 1;
		settings->items[i].clients = OUTBOX_SETTING_BOTH;
		settings->items[i].secret = strstr(equals + 1, "secret") != NULL;
	}
}

/* Wait for the event descriptor; false after the time. */
static bool
event_wait(TimestampTz until)
{
	struct pollfd pfd = {.fd = event_fd,.events = POLLIN};
	uint64		count;

	for (;;)
	{
		long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		CHECK_FOR_INTERRUPTS();
		if (ms <= 0)
			return false;
		if (poll(&pfd, 1, Min(ms, 100)) > 0)
			break;
	}
	if (read(event_fd, &count, sizeof(count)) < 0)
		elog(ERROR, "event descriptor: %m");
	return true;
}

static Datum
bytes_datum(const char *bytes, int len)
{
	return PointerGetDatum(cstring_to_text_with_len(bytes, len));
}

/* What a worker does first of all. */
Datum
test_register_exit(PG_FUNCTION_ARGS)
{
	void		(*register_exit) (void);

	register_exit = (void (*) (void)) load_external_function("$libdir/pg_outbox",
															 "outbox_kafka_register_exit",
															 true, NULL);
	register_exit();
	PG_RETURN_VOID();
}

/* ---------------- producer ---------------- */

Datum
test_producer_open(PG_FUNCTION_ARGS)
{
	OutboxServerSettings settings;

	library_open();
	settings_from_array(PG_GETARG_ARRAYTYPE_P(0), &settings);
	producer = api->producer_create(&settings, event_fd);
	PG_RETURN_VOID();
}

static Datum
send_result(OutboxKafkaFault fault)
{
	if (fault == OUTBOX_KAFKA_OK || fault == OUTBOX_KAFKA_FULL)
		return CStringGetTextDatum(fault_names[fault]);
	return CStringGetTextDatum(psprintf("%s: %s", fault_names[fault],
										api->producer_error(producer)));
}

/* (topic, key, value, headers: name, value, name, ..., tag) */
Datum
test_producer_send(PG_FUNCTION_ARGS)
{
	OutboxMessage msg = {.partition = OUTBOX_PARTITION_BY_KEY};
	OutboxHeader *headers = NULL;
	char	  **strings;

	msg.topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(1))
	{
		msg.key = text_to_cstring(PG_GETARG_TEXT_PP(1));
		msg.key_len = strlen(msg.key);
	}
	if (!PG_ARGISNULL(2))
	{
		msg.value = text_to_cstring(PG_GETARG_TEXT_PP(2));
		msg.value_len = strlen(msg.value);
	}
	if (!PG_ARGISNULL(3))
	{
		msg.nheaders = array_strings(PG_GETARG_ARRAYTYPE_P(3), &strings) / 2;
		headers = palloc0((msg.nheaders + 1) * sizeof(OutboxHeader));
		for (int i = 0; i < msg.nheaders; i++)
		{
			headers[i].name = strings[2 * i];
			headers[i].value = strings[2 * i + 1];
			headers[i].value_len = headers[i].value ? strlen(headers[i].value) : 0;
		}
		msg.headers = headers;
	}
	msg.tag = PG_GETARG_INT64(4);
	msg.timestamp_ms = PG_ARGISNULL(5) ? 0 : PG_GETARG_INT64(5);
	PG_RETURN_DATUM(send_result(api->producer_send(producer, &msg)));
}

/* (topic, key, from, to, value size): tags are the numbers; the last result */
Datum
test_producer_burst(PG_FUNCTION_ARGS)
{
	OutboxMessage msg = {.partition = OUTBOX_PARTITION_BY_KEY};
	OutboxKafkaFault fault = OUTBOX_KAFKA_OK;
	int64		from = PG_GETARG_INT64(2);
	int64		to = PG_GETARG_INT64(3);
	int			size = PG_GETARG_INT32(4);
	char	   *value = palloc(size + 32);

	msg.topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	msg.key = text_to_cstring(PG_GETARG_TEXT_PP(1));
	msg.key_len = strlen(msg.key);
	msg.value = value;
	for (int64 i = from; i <= to && fault == OUTBOX_KAFKA_OK; i++)
	{
		int			len = sprintf(value, INT64_FORMAT " ", i);

		memset(value + len, 'x', Max(size - len, 0));
		msg.value_len = Max(len, size);
		msg.tag = i;
		fault = api->producer_send(producer, &msg);
	}
	PG_RETURN_DATUM(send_result(fault));
}

/* (at least, timeout ms) -> (tag, fault, partition, "offset", error) */
Datum
test_producer_reports(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			wanted = PG_GETARG_INT32(0);
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													PG_GETARG_INT32(1));
	OutboxDelivery d;
	int			count = 0;

	InitMaterializedSRF(fcinfo, 0);
	do
	{
		while (api->producer_poll(producer, &d))
		{
			Datum		values[5] = {0};
			bool		nulls[5] = {0};

			count++;
			values[0] = Int64GetDatum(d.tag);
			values[1] = CStringGetTextDatum(fault_names[d.fault]);
			values[2] = Int32GetDatum(d.partition);
			values[3] = Int64GetDatum(d.offset);
			nulls[4] = d.error == NULL;
			if (d.error != NULL)
				values[4] = CStringGetTextDatum(d.error);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	} while (count < wanted && event_wait(until));
	return (Datum) 0;
}

static int
compare_int64(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

static void
bench_send(const char *topic, int64 i, char *value, int size)
{
	char		key[32];
	char		id[32];
	OutboxHeader headers[2] = {
		{"id", id, snprintf(id, sizeof(id), INT64_FORMAT, INT64CONST(1800000000000000) + i)},
		{"op", "u", 1}
	};
	OutboxMessage msg = {
		.topic = topic,.key = key,.key_len = snprintf(key, sizeof(key), INT64_FORMAT, i * 7919 % 10000),
		.value = value,.value_len = size,.headers = headers,.nheaders = 2,.tag = i
	};

	while (api->producer_send(producer, &msg) == OUTBOX_KAFKA_FULL)
	{
		(void) event_wait(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 10));
		return;					/* counted as not sent */
	}
}

/*
 * (topic, messages, value size, messages a second; 0: as fast as possible) ->
 * rate, and percentiles of the time from send to report in microseconds
 */
Datum
test_producer_bench(PG_FUNCTION_ARGS)
{
	char	   *topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		n = PG_GETARG_INT32(1);
	int			size = PG_GETARG_INT32(2);
	int			per_second = PG_GETARG_INT32(3);
	int64	   *latency = palloc_extended(n * sizeof(int64), MCXT_ALLOC_HUGE);
	char	   *value = palloc0(size + 1);
	TimestampTz start = GetCurrentTimestamp();
	int64		sent = 0,
				reported = 0;
	OutboxDelivery d;

	memset(value, 'x', size);
	while (reported < n)
	{
		TimestampTz now = GetCurrentTimestamp();
		int64		due = per_second ? Min(n, (now - start) * per_second / USECS_PER_SEC + 1) : Min(n, sent + 256);

		for (; sent < due && api->producer_in_flight(producer) < 150000; sent++)
		{
			latency[sent] = now;
			bench_send(topic, sent, value, size);
		}
		while (api->producer_poll(producer, &d))
		{
			latency[d.tag] = GetCurrentTimestamp() - latency[d.tag];
			reported++;
		}
		if (per_second || sent == n)
			(void) event_wait(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1));
		else if (api->producer_in_flight(producer) >= 150000)
			(void) event_wait(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 5));
	}
	qsort(latency, n, sizeof(int64), compare_int64);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%.0f/s p50 %lld p99 %lld max %lld us",
											  n * 1e6 / (GetCurrentTimestamp() - start),
											  (long long) latency[n / 2],
											  (long long) latency[n * 99 / 100],
											  (long long) latency[n - 1])));
}

/* (wanted, timeout ms) -> the state when it is as wanted, or at last */
Datum
test_producer_state(PG_FUNCTION_ARGS)
{
	bool		wanted = PG_GETARG_BOOL(0);
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													PG_GETARG_INT32(1));
	const char *reason;
	bool		connected;
	int			dropped = 0;
	OutboxDelivery d;

	for (;;)
	{
		while (api->producer_poll(producer, &d))
			dropped++;
		connected = api->producer_connected(producer, &reason);
		if (connected == wanted || GetCurrentTimestamp() > until)
			break;
		(void) event_wait(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 50));
	}
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s, %d in flight, %d reports dropped",
											  connected ? "connected" : reason,
											  api->producer_in_flight(producer),
											  dropped)));
}

Datum
test_producer_refresh(PG_FUNCTION_ARGS)
{
	const char *topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													PG_GETARG_INT32(1));
	OutboxKafkaFault fault;

	while ((fault = api->producer_refresh_topic(producer, topic)) == OUTBOX_KAFKA_FULL &&
		   event_wait(until))
		 /* until the event_fd says that there is an answer */ ;
	PG_RETURN_TEXT_P(cstring_to_text(fault_names[fault]));
}

Datum
test_producer_partitions(PG_FUNCTION_ARGS)
{
	int32		npartitions;
	OutboxKafkaFault fault = api->producer_partitions(producer, text_to_cstring(PG_GETARG_TEXT_PP(0)),
													  &npartitions);

	if (fault == OUTBOX_KAFKA_OK)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d", npartitions)));
	PG_RETURN_TEXT_P(cstring_to_text(fault_names[fault]));
}

Datum
test_producer_close(PG_FUNCTION_ARGS)
{
	api->producer_close(producer, PG_GETARG_INT32(0));
	producer = NULL;
	PG_RETURN_VOID();
}

/* ---------------- consumer ---------------- */

Datum
test_consumer_open(PG_FUNCTION_ARGS)
{
	OutboxServerSettings settings;

	library_open();
	settings_from_array(PG_GETARG_ARRAYTYPE_P(0), &settings);
	consumer = api->consumer_create(&settings, text_to_cstring(PG_GETARG_TEXT_PP(1)), 1,
									event_fd);
	PG_RETURN_VOID();
}

/* (topic, timeout) -> "low-high low-high ..." or the fault */
Datum
test_consumer_partitions(PG_FUNCTION_ARGS)
{
	StringInfoData buf;
	OutboxPartitionOffset *parts;
	OutboxKafkaFault fault;
	char	   *error;
	int			n;

	initStringInfo(&buf);
	n = api->consumer_partitions(consumer, text_to_cstring(PG_GETARG_TEXT_PP(0)),
								 PG_GETARG_INT32(1), &parts, &fault, &error);
	if (n < 0)
		appendStringInfo(&buf, "%s: %s", fault_names[fault], error);
	for (int i = 0; i < n; i++)
		appendStringInfo(&buf, "%s%lld-%lld", i ? " " : "",
						 (long long) parts[i].low, (long long) parts[i].high);
	PG_RETURN_TEXT_P(cstring_to_text(buf.data));
}

/* (topic, partitions, time in ms) */
Datum
test_consumer_offsets(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(1);
	OutboxPartitionOffset *parts = palloc0(n * sizeof(OutboxPartitionOffset));
	StringInfoData buf;
	char	   *error;

	initStringInfo(&buf);
	for (int i = 0; i < n; i++)
		parts[i].partition = i;
	if (!api->consumer_offsets_for_time(consumer, text_to_cstring(PG_GETARG_TEXT_PP(0)),
										PG_GETARG_INT64(2), 5000, parts, n, &error))
		PG_RETURN_TEXT_P(cstring_to_text(error));
	for (int i = 0; i < n; i++)
		appendStringInfo(&buf, "%s%lld", i ? " " : "", (long long) parts[i].offset);
	PG_RETURN_TEXT_P(cstring_to_text(buf.data));
}

static OutboxPartitionOffset *
parts_from_array(ArrayType *array, int *n)
{
	char	  **strings;
	OutboxPartitionOffset *parts;

	*n = array_strings(array, &strings);
	parts = palloc0((*n + 1) * sizeof(OutboxPartitionOffset));
	for (int i = 0; i < *n; i++)
	{
		parts[i].partition = i;
		parts[i].offset = atoll(strings[i]);
	}
	return parts;
}

/* (topic, start offsets of partitions 0, 1, ...) */
Datum
test_consumer_assign(PG_FUNCTION_ARGS)
{
	int			n;
	OutboxPartitionOffset *parts = parts_from_array(PG_GETARG_ARRAYTYPE_P(1), &n);

	api->consumer_assign(consumer, text_to_cstring(PG_GETARG_TEXT_PP(0)), parts, n);
	PG_RETURN_VOID();
}

Datum
test_consumer_control(PG_FUNCTION_ARGS)
{
	char	   *what = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int32		partition = PG_GETARG_INT32(2);

	if (strcmp(what, "pause") == 0)
		api->consumer_pause(consumer, topic, partition);
	else if (strcmp(what, "resume") == 0)
		api->consumer_resume(consumer, topic, partition);
	else if (strcmp(what, "watermark") == 0)
		PG_RETURN_INT64(api->consumer_high_watermark(consumer, topic, partition));
	else
		api->consumer_seek(consumer, topic, partition, atoll(what));
	PG_RETURN_INT64(0);
}

static char *
headers_text(const OutboxRecord *rec)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < rec->nheaders; i++)
	{
		const OutboxHeader *h = &rec->headers[i];

		appendStringInfo(&buf, "%s%s", i ? " " : "", h->name);
		if (h->value != NULL)
			appendStringInfo(&buf, "=%.*s", h->value_len, h->value);
	}
	return buf.data;
}

static void
record_put(ReturnSetInfo *rsinfo, const OutboxRecord *rec)
{
	Datum		values[8] = {0};
	bool		nulls[8] = {0};

	values[0] = CStringGetTextDatum(kind_names[rec->kind]);
	values[1] = Int32GetDatum(rec->partition);
	values[2] = Int64GetDatum(rec->offset);
	values[3] = Int64GetDatum(rec->timestamp_ms);
	nulls[4] = rec->key == NULL;
	if (rec->key != NULL)
		values[4] = bytes_datum(rec->key, rec->key_len);
	nulls[5] = rec->value == NULL;
	if (rec->value != NULL)
		values[5] = bytes_datum(rec->value, rec->value_len);
	nulls[6] = rec->nheaders == 0;
	if (rec->nheaders > 0)
		values[6] = CStringGetTextDatum(headers_text(rec));
	nulls[7] = rec->error == NULL;
	if (rec->error != NULL)
		values[7] = CStringGetTextDatum(rec->error);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * (records, timeout ms): so many records of any kind, or fewer after the time.
 * All are held at once, and released at the end.
 */
Datum
test_consumer_read(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			wanted = PG_GETARG_INT32(0);
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													PG_GETARG_INT32(1));
	OutboxRecord *recs = palloc_extended(wanted * sizeof(OutboxRecord),
										 MCXT_ALLOC_HUGE);
	int			count = 0;

	InitMaterializedSRF(fcinfo, 0);
	while (count < wanted)
	{
		api->consumer_poll(consumer, &recs[count]);
		if (recs[count].kind != OUTBOX_RECORD_NONE)
			count++;
		else if (!event_wait(until))
			break;
	}
	for (int i = 0; i < count; i++)
	{
		record_put(rsinfo, &recs[i]);
		api->record_release(&recs[i]);
	}
	return (Datum) 0;
}

Datum
test_consumer_commit(PG_FUNCTION_ARGS)
{
	int			n;
	OutboxPartitionOffset *parts = parts_from_array(PG_GETARG_ARRAYTYPE_P(1), &n);

	api->consumer_commit(consumer, text_to_cstring(PG_GETARG_TEXT_PP(0)), parts, n);
	PG_RETURN_VOID();
}

Datum
test_consumer_close(PG_FUNCTION_ARGS)
{
	api->consumer_close(consumer);
	consumer = NULL;
	PG_RETURN_VOID();
}
