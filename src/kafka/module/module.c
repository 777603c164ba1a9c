/*-------------------------------------------------------------------------
 *
 * module.c
 *	  Entry of pg_outbox_kafka: the table of its functions.
 *
 * Everything else in this library is hidden from the dynamic linker (see the
 * Makefile), so that short names cannot meet those of other libraries.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/module/client.h"

#include "fmgr.h"

#include "kafka/module/consumer.h"
#include "kafka/module/producer.h"

#pragma GCC visibility push(default)

OUTBOX_MODULE_MAGIC("pg_outbox_kafka");

extern const OutboxKafkaApi *outbox_kafka_library(void);

#pragma GCC visibility pop

static const OutboxKafkaApi api = {
	.abi = OUTBOX_KAFKA_ABI,
	.version = OUTBOX_VERSION,

	.setting_check = client_setting_check,
	.server_check = client_server_check,

	.producer_create = producer_create,
	.producer_send = producer_send,
	.producer_poll = producer_poll,
	.producer_in_flight = producer_in_flight,
	.producer_connected = producer_connected,
	.producer_error = producer_error,
	.producer_forget_topic = producer_forget_topic,
	.producer_refresh_topic = producer_refresh_topic,
	.producer_partitions = producer_partitions,
	.producer_close = producer_close,
	.client_ending = client_ending,
	.producer_transactional_id = producer_transactional_id,
	.producer_ask_places = producer_ask_places,
	.producer_places = producer_places,
	.producer_begin = producer_begin,
	.producer_call = producer_call,
	.producer_call_result = producer_call_result,
	.producer_txn_error = producer_txn_error,

	.consumer_create = consumer_create,
	.consumer_assign = consumer_assign,
	.consumer_pause = consumer_pause,
	.consumer_resume = consumer_resume,
	.consumer_seek = consumer_seek,
	.consumer_poll = consumer_poll,
	.record_release = consumer_release,
	.consumer_partitions = consumer_partitions,
	.consumer_offsets_for_time = consumer_offsets_for_time,
	.consumer_commit = consumer_commit,
	.consumer_high_watermark = consumer_high_watermark,
	.consumer_connected = consumer_connected,
	.consumer_close = consumer_close,
};

const OutboxKafkaApi *
outbox_kafka_library(void)
{
	return &api;
}
