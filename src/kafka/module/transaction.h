/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  What makes a producer transactional; see kafka.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_TRANSACTION_H
#define OUTBOX_KAFKA_TRANSACTION_H

#include "kafka/module/client.h"

typedef struct TxnCall TxnCall;

typedef struct Txn
{
	Client	   *client;			/* of the producer */
	char	   *id;				/* transactional.id and consumer group; NULL:
								 * none, and nothing below is used */
	TxnCall    *call;			/* under way, or NULL */
	Client		asker;			/* runs from question to answer */
	rd_kafka_conf_t *asker_conf;	/* what it is made of */
	bool		stable;			/* what is asked for */
	TimestampTz ask_at;			/* do not ask again before */
	rd_kafka_event_t *answer;	/* where the group stands, or NULL */
	OutboxKafkaFault fault;		/* of the last failure */
	char		error[CLIENT_REASON_SIZE];
} Txn;

/*
 * After the client itself, in whose memory it lives.  Raises fdw_error.
 */
extern void txn_create(Txn *txn, const OutboxServerSettings *settings);

extern void txn_ask_places(Txn *txn, bool stable);
extern OutboxTxnResult txn_places(Txn *txn, OutboxPlace **places, int *nplaces);

extern OutboxTxnResult txn_begin(Txn *txn);
extern OutboxTxnResult txn_start_call(Txn *txn, OutboxTxnCall what,
									  const char *topic, const char *place);
extern OutboxTxnResult txn_call_result(Txn *txn);

/*
 * Learn from the library what made the transaction fail.
 */
extern void txn_note_failure(Txn *txn);

/*
 * End the clients, that of the producer after the call that is under way, and
 * after "before", see client_destroy_later().
 */
extern void txn_destroy_later(Txn *txn, ClientCall before, void *arg);

#endif							/* OUTBOX_KAFKA_TRANSACTION_H */
