/*-------------------------------------------------------------------------
 *
 * topic_ask.h
 *	  Questions to brokers about a topic that do not keep the backend waiting.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_TOPIC_ASK_H
#define OUTBOX_KAFKA_TOPIC_ASK_H

#include "kafka/module/client.h"

typedef struct TopicAsk TopicAsk;

typedef struct TopicAnswer
{
	bool		heard;			/* false: nobody answered in time */
	rd_kafka_resp_err_t err;	/* what brokers say of the topic; */
	int32		npartitions;	/* if that is not an error, how many it has */
} TopicAnswer;

/*
 * Ask, of a client that lives until topic_asks_end(); NULL if there is no memory
 * or no thread for it.  The client's event_fd is written at the end.
 */
extern TopicAsk *topic_ask_start(const Client *client, const char *topic);

/* Has it ended?  If so there is the answer, and the question is no more. */
extern bool topic_ask_take(TopicAsk *ask, TopicAnswer *answer);

/*
 * Wait for a list of questions to end, which topic_ask_chain() makes; for
 * client_destroy_later().
 */
extern TopicAsk *topic_ask_chain(TopicAsk *ask, TopicAsk *rest);
extern void topic_asks_end(void *asks);

#endif							/* OUTBOX_KAFKA_TOPIC_ASK_H */
