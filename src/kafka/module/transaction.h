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
	bool		stable;			/* what was asked for */
	TimestampTz ask_at;			/* ask (again) then; 0: not before told to */
	rd_kafka_event_t *answer;	/* where the group stands, or NULL */
	OutboxKafkaFault fault;		/* of the last failure */
	char		error[CLIENT_REASON_SIZE];
} Txn;

extern void txn_ask_places(Txn *txn, bool stable);
extern OutboxTxnResult txn_places(Txn *txn, OutboxPlace **places, int *nplaces);

/* Takes over an answer that came out of the client's queue. */
extern void txn_take_answer(Txn *txn, rd_kafka_event_t *ev);

extern OutboxTxnResult txn_begin(Txn *txn);
extern OutboxTxnResult txn_start_call(Txn *txn, OutboxTxnCall what,
									  const char *topic, const char *place);
extern OutboxTxnResult txn_call_result(Txn *txn);

/*
 * Learn from the library what made the transaction fail.
 */
extern void txn_note_failure(Txn *txn);

/* End the client, after the call that is under way. */
extern void txn_destroy_later(Txn *txn);

#endif							/* OUTBOX_KAFKA_TRANSACTION_H */
