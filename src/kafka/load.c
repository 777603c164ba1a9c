/*-------------------------------------------------------------------------
 *
 * load.c
 *	  Loads pg_outbox_kafka on first use and forwards kafka.h to it.
 *
 * Nothing but this file's static pointer remembers the library: it stays
 * loaded until the process ends, as every library does.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "kafka/api.h"

#include <unistd.h>

#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"

static const OutboxKafkaApi *loaded_api = NULL;

/* Present only in builds that measure coverage or look for leaks. */
extern void __gcov_dump(void) __attribute__((weak));
extern void __lsan_do_leak_check(void) __attribute__((weak));

static const OutboxKafkaApi *
api_load(void)
{
	OutboxKafkaEntry entry;
	const OutboxKafkaApi *api;

	entry = (OutboxKafkaEntry) load_external_function(OUTBOX_KAFKA_LIBRARY,
													  OUTBOX_KAFKA_ENTRY,
													  true, NULL);
	api = entry();
	if (api->abi != OUTBOX_KAFKA_ABI ||
		strcmp(api->version, OUTBOX_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"pg_outbox_kafka\" does not match library \"pg_outbox\""),
				 errdetail("The one is version %s (interface %d), the other version %s (interface %d).",
						   api->version, api->abi,
						   OUTBOX_VERSION, OUTBOX_KAFKA_ABI),
				 errhint("Install both from one build, then restart the server.")));
	return api;
}

const OutboxKafkaApi *
outbox_kafka_api(void)
{
	if (unlikely(loaded_api == NULL))
		loaded_api = api_load();
	return loaded_api;
}

/* ---------------- leaving the process ---------------- */

static void
leave_at_once(int code, Datum arg)
{
	if (loaded_api == NULL)
		return;
	if (__gcov_dump)
		__gcov_dump();
	if (__lsan_do_leak_check)
		__lsan_do_leak_check();
	fflush(NULL);
	_exit(code);
}

void
outbox_kafka_register_exit(void)
{
	on_proc_exit(leave_at_once, (Datum) 0);
}

/* ---------------- producer ---------------- */

/*
 * One name for the database and the server, whatever node of a replicated
 * cluster it is on: a promoted standby takes it over.
 */
static char *
transactional_id(const char *server)
{
	return psprintf("pg_outbox." UINT64_FORMAT ".%u.%s", GetSystemIdentifier(),
					MyDatabaseId, server);
}

OutboxProducer *
outbox_producer_create(Oid serverid, int event_fd)
{
	const OutboxKafkaApi *api = outbox_kafka_api();
	OutboxServerSettings settings;

	outbox_server_settings(serverid, &settings);
	if (outbox_server_exactly_once(serverid))
		settings.transactional_id = transactional_id(settings.server);
	return api->producer_create(&settings, event_fd);
}

OutboxKafkaFault
outbox_producer_send(OutboxProducer *prod, const OutboxMessage *msg)
{
	return loaded_api->producer_send(prod, msg);
}

bool
outbox_producer_poll(OutboxProducer *prod, OutboxDelivery *delivery)
{
	return loaded_api->producer_poll(prod, delivery);
}

int
outbox_producer_in_flight(OutboxProducer *prod)
{
	return loaded_api->producer_in_flight(prod);
}

bool
outbox_producer_connected(OutboxProducer *prod, const char **reason)
{
	return loaded_api->producer_connected(prod, reason);
}

const char *
outbox_producer_error(OutboxProducer *prod)
{
	return loaded_api->producer_error(prod);
}

void
outbox_producer_forget_topic(OutboxProducer *prod, const char *topic)
{
	loaded_api->producer_forget_topic(prod, topic);
}

OutboxKafkaFault
outbox_producer_refresh_topic(OutboxProducer *prod, const char *topic)
{
	return loaded_api->producer_refresh_topic(prod, topic);
}

OutboxKafkaFault
outbox_producer_partitions(OutboxProducer *prod, const char *topic, int32 *npartitions)
{
	return loaded_api->producer_partitions(prod, topic, npartitions);
}

void
outbox_producer_close(OutboxProducer *prod, int timeout_ms)
{
	loaded_api->producer_close(prod, timeout_ms);
}

bool
outbox_producer_ending(const char *server)
{
	return loaded_api != NULL && loaded_api->client_ending(server);
}

/* ---------------- exactly once ---------------- */

const char *
outbox_producer_transactional_id(OutboxProducer *prod)
{
	return loaded_api->producer_transactional_id(prod);
}

void
outbox_producer_ask_places(OutboxProducer *prod, bool stable)
{
	loaded_api->producer_ask_places(prod, stable);
}

OutboxTxnResult
outbox_producer_places(OutboxProducer *prod, OutboxPlace **places, int *nplaces)
{
	return loaded_api->producer_places(prod, places, nplaces);
}

OutboxTxnResult
outbox_producer_begin(OutboxProducer *prod)
{
	return loaded_api->producer_begin(prod);
}

OutboxTxnResult
outbox_producer_call(OutboxProducer *prod, OutboxTxnCall what, const char *topic,
					 const char *place)
{
	return loaded_api->producer_call(prod, what, topic, place);
}

OutboxTxnResult
outbox_producer_call_result(OutboxProducer *prod)
{
	return loaded_api->producer_call_result(prod);
}

const char *
outbox_producer_txn_error(OutboxProducer *prod, OutboxKafkaFault *fault)
{
	return loaded_api->producer_txn_error(prod, fault);
}

/* ---------------- consumer ---------------- */

OutboxConsumer *
outbox_consumer_create(Oid serverid, const char *group_id, int sharers, int event_fd)
{
	const OutboxKafkaApi *api = outbox_kafka_api();
	OutboxServerSettings settings;

	outbox_server_settings(serverid, &settings);
	return api->consumer_create(&settings, group_id, sharers, event_fd);
}

void
outbox_consumer_assign(OutboxConsumer *cons, const char *topic,
					   const OutboxPartitionOffset *parts, int nparts)
{
	loaded_api->consumer_assign(cons, topic, parts, nparts);
}

void
outbox_consumer_pause(OutboxConsumer *cons, const char *topic, int32 partition)
{
	loaded_api->consumer_pause(cons, topic, partition);
}

void
outbox_consumer_resume(OutboxConsumer *cons, const char *topic, int32 partition)
{
	loaded_api->consumer_resume(cons, topic, partition);
}

void
outbox_consumer_seek(OutboxConsumer *cons, const char *topic,
					 int32 partition, int64 offset)
{
	loaded_api->consumer_seek(cons, topic, partition, offset);
}

void
outbox_consumer_poll(OutboxConsumer *cons, OutboxRecord *rec)
{
	loaded_api->consumer_poll(cons, rec);
}

void
outbox_record_release(OutboxRecord *rec)
{
	loaded_api->record_release(rec);
}

int
outbox_consumer_partitions(OutboxConsumer *cons, const char *topic,
						   int timeout_ms, OutboxPartitionOffset **parts,
						   OutboxKafkaFault *fault, char **error)
{
	return loaded_api->consumer_partitions(cons, topic, timeout_ms,
										   parts, fault, error);
}

bool
outbox_consumer_offsets_for_time(OutboxConsumer *cons, const char *topic,
								 int64 timestamp_ms, int timeout_ms,
								 OutboxPartitionOffset *parts, int nparts,
								 char **error)
{
	return loaded_api->consumer_offsets_for_time(cons, topic, timestamp_ms,
												 timeout_ms, parts, nparts,
												 error);
}

void
outbox_consumer_commit(OutboxConsumer *cons, const char *topic,
					   const OutboxPartitionOffset *parts, int nparts)
{
	loaded_api->consumer_commit(cons, topic, parts, nparts);
}

int64
outbox_consumer_high_watermark(OutboxConsumer *cons, const char *topic,
							   int32 partition)
{
	return loaded_api->consumer_high_watermark(cons, topic, partition);
}

bool
outbox_consumer_connected(OutboxConsumer *cons, const char **reason)
{
	return loaded_api->consumer_connected(cons, reason);
}

void
outbox_consumer_close(OutboxConsumer *cons)
{
	loaded_api->consumer_close(cons);
}
