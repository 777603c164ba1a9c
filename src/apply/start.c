/*-------------------------------------------------------------------------
 *
 * start.c
 *	  Where a subscription begins to read.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/start.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "apply/asker.h"
#include "apply/json_scan.h"
#include "apply/transaction.h"
#include "common/pinned.h"
#include "worker/worker.h"

#define START_TIMEOUT_MS 5000

static bool
parse_member(const OutboxJsonValue *name, const OutboxJsonValue *value,
			 int64 *partition, int64 *offset)
{
	return outbox_parse_version(name->start, name->len, partition) &&
		*partition >= 0 && *partition <= PG_INT32_MAX &&
		value->kind == OUTBOX_JSON_NUMBER &&
		outbox_parse_version(value->start, value->len, offset) && *offset >= 0;
}

static void
check_offsets(const char *start)
{
	OutboxJsonScan scan;
	OutboxJsonValue name;
	OutboxJsonValue value;
	int64		partition;
	int64		offset;

	/* whose error does not speak of an event */
	(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(start));
	outbox_json_begin(&scan, "start", start, strlen(start));
	while (outbox_json_next(&scan, &name, &value))
		if (!parse_member(&name, &value, &partition, &offset))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid offsets \"%s\"", start),
					 errdetail("Names are numbers of partitions, values are offsets.")));
}

char *
outbox_start_normalize(const char *start)
{
	Datum		time;
	int			nest_level;
	char	   *result;

	if (strcmp(start, "earliest") == 0 || strcmp(start, "latest") == 0)
		return pstrdup(start);
	if (outbox_json_is_object(start, strlen(start)))
	{
		check_offsets(start);
		return pstrdup(start);
	}
	time = DirectFunctionCall3(timestamptz_in, CStringGetDatum(start),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	if (TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(time)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid start \"%s\"", start),
				 errhint("It is \"earliest\", \"latest\", a time, or a JSON object of partitions and offsets.")));
	nest_level = outbox_pin_settings();
	result = DatumGetCString(DirectFunctionCall1(timestamptz_out, time));
	outbox_unpin_settings(nest_level);
	return result;
}

int64
outbox_start_offset(const char *start, int32 partition)
{
	OutboxJsonScan scan;
	OutboxJsonValue name;
	OutboxJsonValue value;
	int64		number;
	int64		offset;
	int64		result = -1;

	outbox_json_begin(&scan, "start", start, strlen(start));
	while (outbox_json_next(&scan, &name, &value))
		if (parse_member(&name, &value, &number, &offset) && number == partition)
			result = offset;
	return result;
}

/*
 * The text is in the form that outbox_start_normalize() gives it.  Settings can
 * be pinned in a transaction only, and the caller has none.
 */
static int64
start_time_ms(const char *start)
{
	MemoryContext context = outbox_transaction_begin();
	int			nest_level = outbox_pin_settings();
	TimestampTz time = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
															   CStringGetDatum(start),
															   ObjectIdGetDatum(InvalidOid),
															   Int32GetDatum(-1)));

	outbox_unpin_settings(nest_level);
	outbox_transaction_commit(context);
	/* in microseconds since 1970 the last years do not fit */
	return time / 1000 + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (USECS_PER_DAY / 1000);
}

bool
outbox_start_resolve(OutboxFeed *feed, OutboxPartitionOffset *parts, int nparts)
{
	const char *start = feed->sub->start;
	char	   *error;

	if (outbox_json_is_object(start, strlen(start)))
	{
		for (int i = 0; i < nparts; i++)
			parts[i].offset = outbox_start_offset(start, parts[i].partition);
	}
	else if (strcmp(start, "latest") == 0)
	{
		for (int i = 0; i < nparts; i++)
			parts[i].offset = parts[i].high;
	}
	else if (strcmp(start, "earliest") != 0)
	{
		if (!outbox_consumer_offsets_for_time(outbox_asker_get(feed), feed->sub->topic, start_time_ms(start),
											  START_TIMEOUT_MS, parts, nparts, &error))
		{
			outbox_feed_back_off(feed, error);
			return false;
		}
		for (int i = 0; i < nparts; i++)
			if (parts[i].offset < 0)
				parts[i].offset = parts[i].high;
	}
	for (int i = 0; i < nparts; i++)
		if (parts[i].offset < 0)
			parts[i].offset = parts[i].low;
	return true;
}
