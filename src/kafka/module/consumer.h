/*-------------------------------------------------------------------------
 *
 * consumer.h
 *	  The consumer's part of the table in module.c; see kafka.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_CONSUMER_H
#define OUTBOX_KAFKA_CONSUMER_H

#include "kafka/module/client.h"

#include "lib/ilist.h"

struct OutboxConsumer
{
	Client		client;
	dlist_head	held;			/* of records not released yet */
};

extern OutboxConsumer *consumer_create(const OutboxServerSettings *settings,
									   const char *group_id, int sharers,
									   int event_fd);
extern void consumer_assign(OutboxConsumer *cons, const char *topic,
							const OutboxPartitionOffset *parts, int nparts);
extern void consumer_pause(OutboxConsumer *cons, const char *topic,
						   int32 partition);
extern void consumer_resume(OutboxConsumer *cons, const char *topic,
							int32 partition);
extern void consumer_seek(OutboxConsumer *cons, const char *topic,
						  int32 partition, int64 offset);
extern void consumer_poll(OutboxConsumer *cons, OutboxRecord *rec);
extern void consumer_release(OutboxRecord *rec);
extern void consumer_commit(OutboxConsumer *cons, const char *topic,
							const OutboxPartitionOffset *parts, int nparts);
extern int64 consumer_high_watermark(OutboxConsumer *cons, const char *topic,
									 int32 partition);
extern bool consumer_connected(OutboxConsumer *cons, const char **reason);
extern void consumer_close(OutboxConsumer *cons);

/* In offsets.c. */
extern int	consumer_partitions(OutboxConsumer *cons, const char *topic,
								int timeout_ms, OutboxPartitionOffset **parts,
								OutboxKafkaFault *fault, char **error);
extern bool consumer_offsets_for_time(OutboxConsumer *cons, const char *topic,
									  int64 timestamp_ms, int timeout_ms,
									  OutboxPartitionOffset *parts, int nparts,
									  char **error);

/* A list of partitions at their offsets, to be destroyed by the caller. */
extern rd_kafka_topic_partition_list_t *consumer_list(const char *topic, const OutboxPartitionOffset *parts,
													  int nparts);

#endif							/* OUTBOX_KAFKA_CONSUMER_H */
