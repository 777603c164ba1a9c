/*-------------------------------------------------------------------------
 *
 * offsets.c
 *	  What a consumer asks the brokers for: partitions, their first and last
 *	  offsets, offsets by time.
 *
 * The library has no way to ask without waiting, nor to end a wait.  So it is
 * asked in steps, with interrupts processed between them and none of its objects
 * held meanwhile; a worker that is to stop does not begin another one.  The step
 * is what DROP DATABASE may have to wait for, and the longest time that an answer
 * may take.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/module/consumer.h"

#include "miscadmin.h"
#include "postmaster/interrupt.h"

#define ASK_STEP_MS 500

/* Timestamps of a ListOffsets request that mean the ends of the log. */
#define TIMESTAMP_LATEST (-1)
#define TIMESTAMP_EARLIEST (-2)

/* Is it worth asking again before the time is over? */
static bool
error_is_transient(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
		case RD_KAFKA_RESP_ERR__WAIT_CACHE:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
		case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
		case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
			return true;
		default:
			return false;
	}
}

/*
 * Before the next attempt: process interrupts, and do not ask faster than the
 * broker's state changes.  False if the time is over.
 */
static bool
ask_again(TimestampTz until, rd_kafka_resp_err_t err)
{
	if (!error_is_transient(err) || client_ms_until(until) == 0)
		return false;
	CHECK_FOR_INTERRUPTS();
	if (ShutdownRequestPending)
		return false;
	if (err != RD_KAFKA_RESP_ERR__TIMED_OUT)
		pg_usleep(20 * 1000L);
	return true;
}

static char *
ask_failure(OutboxConsumer *cons, rd_kafka_resp_err_t err)
{
	const char *reason;

	if (error_is_transient(err) && !client_connected(&cons->client, &reason))
		return psprintf("%s: %s", rd_kafka_err2str(err), reason);
	return pstrdup(rd_kafka_err2str(err));
}

/* ---------------- partitions ---------------- */

/*
 * One attempt; the number of partitions, or 0 with the error in *err.
 */
static int
ask_partition_count(OutboxConsumer *cons, const char *topic, int timeout_ms,
					rd_kafka_resp_err_t *err)
{
	rd_kafka_topic_t *rkt = rd_kafka_topic_new(cons->client.rk, topic, NULL);
	const struct rd_kafka_metadata *md;
	int			count = 0;

	if (rkt == NULL)
	{
		*err = RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
		return 0;
	}
	*err = rd_kafka_metadata(cons->client.rk, 0, rkt, &md, timeout_ms);
	rd_kafka_topic_destroy(rkt);
	if (*err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return 0;
	client_note_answer(&cons->client);
	*err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	if (md->topic_cnt == 1)
	{
		count = md->topics[0].partition_cnt;
		if (md->topics[0].err != RD_KAFKA_RESP_ERR_NO_ERROR || count > 0)
			*err = md->topics[0].err;
	}
	rd_kafka_metadata_destroy(md);
	return *err == RD_KAFKA_RESP_ERR_NO_ERROR ? count : 0;
}

/*
 * One attempt to turn timestamps into offsets, for all partitions at once:
 * parts[].offset is read as the time and becomes the offset.
 */
static rd_kafka_resp_err_t
ask_offsets_once(OutboxConsumer *cons, const char *topic, int64 timestamp,
				 int timeout_ms, OutboxPartitionOffset *parts, int nparts)
{
	rd_kafka_topic_partition_list_t *list = consumer_list(topic, parts, nparts);
	rd_kafka_resp_err_t err;

	for (int i = 0; i < list->cnt; i++)
		list->elems[i].offset = timestamp;
	err = rd_kafka_offsets_for_times(cons->client.rk, list, timeout_ms);
	for (int i = 0; i < list->cnt && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		err = list->elems[i].err;
	for (int i = 0; i < nparts && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		parts[i].offset =
			rd_kafka_topic_partition_list_find(list, topic,
											   parts[i].partition)->offset;
	rd_kafka_topic_partition_list_destroy(list);
	return err;
}

static rd_kafka_resp_err_t
ask_offsets(OutboxConsumer *cons, const char *topic, int64 timestamp,
			TimestampTz until, OutboxPartitionOffset *parts, int nparts)
{
	rd_kafka_resp_err_t err;

	do
	{
		int			step = Min(client_ms_until(until), ASK_STEP_MS);

		err = ask_offsets_once(cons, topic, timestamp, step, parts, nparts);
	} while (err != RD_KAFKA_RESP_ERR_NO_ERROR && ask_again(until, err));
	return err;
}

static rd_kafka_resp_err_t
ask_watermarks(OutboxConsumer *cons, const char *topic, TimestampTz until,
			   OutboxPartitionOffset *parts, int nparts)
{
	rd_kafka_resp_err_t err;

	err = ask_offsets(cons, topic, TIMESTAMP_EARLIEST, until, parts, nparts);
	for (int i = 0; i < nparts; i++)
		parts[i].low = parts[i].offset;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		err = ask_offsets(cons, topic, TIMESTAMP_LATEST, until, parts, nparts);
	for (int i = 0; i < nparts; i++)
	{
		parts[i].high = parts[i].offset;
		parts[i].offset = parts[i].low;
	}
	return err;
}

int
consumer_partitions(OutboxConsumer *cons, const char *topic, int timeout_ms,
					OutboxPartitionOffset **parts, OutboxKafkaFault *fault,
					char **error)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													timeout_ms);
	rd_kafka_resp_err_t err;
	int			count;

	do
	{
		int			step = Min(client_ms_until(until), ASK_STEP_MS);

		count = ask_partition_count(cons, topic, step, &err);
	} while (err != RD_KAFKA_RESP_ERR_NO_ERROR && ask_again(until, err));

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		*parts = palloc0(count * sizeof(OutboxPartitionOffset));
		for (int i = 0; i < count; i++)
			(*parts)[i].partition = i;
		err = ask_watermarks(cons, topic, until, *parts, count);
	}
	*fault = fault_of_error(err);
	*error = NULL;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return count;
	*error = ask_failure(cons, err);
	return -1;
}

/*
 * Where nothing is as young as that, the answer is the end of the partition.
 */
bool
consumer_offsets_for_time(OutboxConsumer *cons, const char *topic,
						  int64 timestamp_ms, int timeout_ms,
						  OutboxPartitionOffset *parts, int nparts, char **error)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													timeout_ms);
	rd_kafka_resp_err_t err;

	*error = NULL;
	if (nparts == 0)
		return true;
	err = ask_offsets(cons, topic, Max(timestamp_ms, 0), until, parts, nparts);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		for (int i = 0; i < nparts; i++)
			if (parts[i].offset < 0)
				parts[i].offset = OUTBOX_OFFSET_LATEST;
		return true;
	}
	*error = ask_failure(cons, err);
	return false;
}
