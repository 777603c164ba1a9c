/*-------------------------------------------------------------------------
 *
 * topic_ask.c
 *	  Questions to brokers about a topic that do not keep the backend waiting.
 *
 * librdkafka's call waits for the answer, and the time it is given has to cover
 * the way to brokers that may be far.  So each question is asked by a thread of its
 * own, which the backend's thread starts and which writes the eventfd at its end.
 * Between start and end only the thread touches the question.
 *
 * Nothing ends a question before its time, and the client cannot end before its
 * questions.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/module/topic_ask.h"

#include "port/atomics.h"

#define ANSWER_MS 3000			/* longer than any way there and back */

/* In malloc()ed memory. */
struct TopicAsk
{
	TopicAsk   *next;
	rd_kafka_t *rk;
	int			event_fd;
	pthread_t	thread;
	pg_atomic_uint32 ended;		/* last access of the thread */
	TopicAnswer answer;
	char		topic[FLEXIBLE_ARRAY_MEMBER];
};

/* ---------------- in the thread ---------------- */

static void
ask_brokers(TopicAsk *ask, rd_kafka_topic_t *rkt)
{
	TopicAnswer *answer = &ask->answer;
	const struct rd_kafka_metadata *md;

	if (rd_kafka_metadata(ask->rk, 0, rkt, &md, ANSWER_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	answer->heard = true;
	answer->err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	if (md->topic_cnt == 1)
	{
		answer->err = md->topics[0].err;
		answer->npartitions = md->topics[0].partition_cnt;
	}
	rd_kafka_metadata_destroy(md);
}

/*
 * @locality a thread of its own
 */
static void *
ask_main(void *arg)
{
	TopicAsk   *self = arg;
	int			event_fd = self->event_fd;
	rd_kafka_topic_t *rkt = rd_kafka_topic_new(self->rk, self->topic, NULL);

	if (rkt != NULL)
	{
		ask_brokers(self, rkt);
		rd_kafka_topic_destroy(rkt);
	}
	pg_write_barrier();
	pg_atomic_write_u32(&self->ended, 1);
	client_signal(event_fd);
	return NULL;
}

/* ---------------- in the backend's thread ---------------- */

TopicAsk *
topic_ask_start(const Client *client, const char *topic)
{
	TopicAsk   *ask = calloc(1, offsetof(TopicAsk, topic) + strlen(topic) + 1);

	if (ask == NULL)
		return NULL;
	ask->rk = client->rk;
	ask->event_fd = client->event_fd;
	strcpy(ask->topic, topic);
	pg_atomic_init_u32(&ask->ended, 0);
	if (!client_thread(&ask->thread, ask_main, ask))
	{
		free(ask);
		return NULL;
	}
	return ask;
}

bool
topic_ask_take(TopicAsk *ask, TopicAnswer *answer)
{
	if (!pg_atomic_read_u32(&ask->ended))
		return false;
	pg_read_barrier();
	pthread_join(ask->thread, NULL);
	*answer = ask->answer;
	free(ask);
	return true;
}

TopicAsk *
topic_ask_chain(TopicAsk *ask, TopicAsk *rest)
{
	ask->next = rest;
	return ask;
}

/*
 * @locality the thread that ends the client
 */
void
topic_asks_end(void *asks)
{
	TopicAsk   *ask = asks;

	while (ask != NULL)
	{
		TopicAsk   *next = ask->next;

		pthread_join(ask->thread, NULL);
		free(ask);
		ask = next;
	}
}
