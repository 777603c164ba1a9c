/*-------------------------------------------------------------------------
 *
 * producer.h
 *	  The producer's part of the table in module.c; see kafka.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_PRODUCER_H
#define OUTBOX_KAFKA_PRODUCER_H

#include "kafka/module/client.h"

extern OutboxProducer *producer_create(const OutboxServerSettings *settings,
									   int event_fd);
extern OutboxKafkaFault producer_send(OutboxProducer *prod,
									  const OutboxMessage *msg);
extern bool producer_poll(OutboxProducer *prod, OutboxDelivery *delivery);
extern int	producer_in_flight(OutboxProducer *prod);
extern bool producer_connected(OutboxProducer *prod, const char **reason);
extern const char *producer_error(OutboxProducer *prod);
extern void producer_forget_topic(OutboxProducer *prod, const char *name);
extern OutboxKafkaFault producer_refresh_topic(OutboxProducer *prod, const char *name);
extern OutboxKafkaFault producer_partitions(OutboxProducer *prod, const char *name,
											int32 *npartitions);
extern void producer_close(OutboxProducer *prod, int timeout_ms);

extern const char *producer_transactional_id(OutboxProducer *prod);
extern void producer_ask_places(OutboxProducer *prod, bool stable);
extern OutboxTxnResult producer_places(OutboxProducer *prod, OutboxPlace **places,
									   int *nplaces);
extern OutboxTxnResult producer_begin(OutboxProducer *prod);
extern OutboxTxnResult producer_call(OutboxProducer *prod, OutboxTxnCall what,
									 const char *topic, const char *place);
extern OutboxTxnResult producer_call_result(OutboxProducer *prod);
extern const char *producer_txn_error(OutboxProducer *prod, OutboxKafkaFault *fault);

#endif							/* OUTBOX_KAFKA_PRODUCER_H */
