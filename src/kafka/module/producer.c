/*-------------------------------------------------------------------------
 *
 * producer.c
 *	  Idempotent producer: messages in, delivery reports out.
 *
 * Order.  The library is told to give up altogether (gap-less guarantee) when
 * a broker rejects a batch: nothing behind the rejected messages is written
 * before the caller has decided about them, makes a new producer and goes on
 * from there.
 *
 * Batches.  A broker rejects batches, not messages, so the report of a
 * rejected message may tell of its neighbour's fault.  It is passed on as the
 * message's own (FAULT_EVENT) only if the message was alone in its batch.  If
 * not, the report says FAULT_CLUSTER, and the next producer of this process
 * for the server sends smaller batches (too large) or single messages (any
 * other reason) until the culprit has shown itself.  This memory is in
 * "narrowed" below and ends with the process; without it the search starts
 * anew.
 *
 * Transactions.  In a transactional producer a rejected batch dooms its
 * transaction, which does what the gap-less guarantee does otherwise.  Since one
 * missing topic would doom what goes to all others, brokers are asked for a topic
 * before the first message goes there.
 *
 * Topics.  Brokers are asked about a topic without being waited for, a few topics
 * at a time: they may be far away, or silent.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/module/producer.h"

#include "kafka/module/topic_ask.h"
#include "kafka/module/transaction.h"

#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#define TOPIC_NAME_SIZE 250		/* Kafka's limit is 249 characters */
#define ERROR_SIZE 256
#define BATCH_BYTES_DEFAULT "1000000"
#define TOPIC_REFRESH_MS 1000	/* after an answer, until a topic is asked
								 * about again */
#define ASKS_MAX 4				/* topics asked about at a time */
#define ALONE_MESSAGES 5000		/* single messages sent in search of a culprit */

/* What an earlier producer learned of a server; for the process's life. */
typedef struct Narrowed
{
	char		server[NAMEDATALEN];	/* hash key */
	int			batch_bytes;	/* 0: as configured */
	int			alone;			/* so many messages yet to be sent singly */
} Narrowed;

typedef struct TopicEntry
{
	char		name[TOPIC_NAME_SIZE];	/* hash key */
	rd_kafka_topic_t *rkt;
	bool		faulty;			/* refused a message since it last took one */
	rd_kafka_resp_err_t err;	/* what the brokers said of it last */
	TopicAsk   *ask;			/* the brokers are being asked about it */
	TimestampTz refreshed_at;	/* when that last came to an end, */
	int32		npartitions;	/* and what they said; 0: nothing */
} TopicEntry;

struct OutboxProducer
{
	Client		client;
	Txn			txn;
	HTAB	   *topics;			/* TopicEntry by name */
	TopicEntry *last_topic;		/* of the last message sent */
	rd_kafka_event_t *reports;	/* batch of reports being handed out, or NULL */
	int			in_flight;		/* accepted and not yet reported */
	Narrowed   *narrowed;
	size_t		batch_bytes;	/* largest batch of several messages */
	bool		alone;			/* every batch is a single message */
	bool		narrowing;		/* has asked for smaller batches already */
	TopicEntry *asked[ASKS_MAX];	/* those with an ask */
	int			nasked;
	char		error[ERROR_SIZE];	/* of the last send */
};

static HTAB *narrowed_servers = NULL;

/*
 * Without lingering a message leaves at once; under load batches grow by
 * themselves while requests are under way.
 */
static const Property producer_defaults[] = {
	{"linger.ms", "0"},
	{"queue.buffering.max.kbytes", "32768"},
	{"queue.buffering.max.messages", "200000"},
	{NULL}
};

/* ---------------- life ---------------- */

static Narrowed *
narrowed_find(const char *server)
{
	Narrowed   *narrowed;
	bool		found;

	if (narrowed_servers == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(Narrowed);
		ctl.hcxt = TopMemoryContext;
		narrowed_servers = hash_create("pg_outbox narrowed producers", 8, &ctl,
									   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	narrowed = hash_search(narrowed_servers, server, HASH_ENTER, &found);
	if (!found)
	{
		narrowed->batch_bytes = 0;
		narrowed->alone = 0;
	}
	return narrowed;
}

static HTAB *
topics_create(MemoryContext cxt)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = TOPIC_NAME_SIZE;
	ctl.entrysize = sizeof(TopicEntry);
	ctl.hcxt = cxt;
	return hash_create("pg_outbox producer topics", 64, &ctl,
					   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

static void
property_add(Property *list, const char *name, const char *value)
{
	while (list->name != NULL)
		list++;
	list->name = name;
	list->value = value;
}

static void
producer_configure(OutboxProducer *prod, const OutboxServerSettings *settings,
				   int event_fd)
{
	char		batch_bytes[16];
	Property	fixed[] = {
		{"enable.idempotence", "true"},
		{"acks", "all"},
		{"partitioner", "murmur2_random"},
		{"delivery.report.only.error", "false"},
		{"batch.size", batch_bytes},
		{NULL},					/* room for more */
		{NULL},
		{NULL},
		{NULL}
	};

	prod->batch_bytes = atoi(client_setting(settings, "batch.size",
											BATCH_BYTES_DEFAULT));
	if (prod->narrowed->batch_bytes > 0)
		prod->batch_bytes = Min(prod->batch_bytes, prod->narrowed->batch_bytes);
	snprintf(batch_bytes, sizeof(batch_bytes), "%zu", prod->batch_bytes);
	prod->alone = prod->narrowed->alone > 0;
	if (prod->alone)
		property_add(fixed, "batch.num.messages", "1");
	if (prod->txn.id != NULL)
		property_add(fixed, "transactional.id", prod->txn.id);
	else
	{
		property_add(fixed, "enable.gapless.guarantee", "true");
		property_add(fixed, "message.timeout.ms", "0");
	}
	client_create(&prod->client, RD_KAFKA_PRODUCER, settings,
				  producer_defaults, fixed, RD_KAFKA_EVENT_DR, event_fd);
}

OutboxProducer *
producer_create(const OutboxServerSettings *settings, int event_fd)
{
	MemoryContext cxt = client_context("pg_outbox producer");
	OutboxProducer *prod = MemoryContextAllocZero(cxt, sizeof(OutboxProducer));

	prod->client.cxt = cxt;
	prod->txn.client = &prod->client;
	PG_TRY();
	{
		prod->topics = topics_create(cxt);
		prod->narrowed = narrowed_find(settings->server);
		if (settings->transactional_id != NULL)
			prod->txn.id = MemoryContextStrdup(cxt, settings->transactional_id);
		producer_configure(prod, settings, event_fd);
		if (prod->txn.id != NULL)
			txn_create(&prod->txn, settings);
	}
	PG_CATCH();
	{
		txn_destroy_later(&prod->txn, NULL, NULL);
		MemoryContextDelete(cxt);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return prod;
}

static void
producer_free(OutboxProducer *prod)
{
	HASH_SEQ_STATUS scan;
	TopicEntry *topic;
	TopicAsk   *asks = NULL;

	if (prod->reports != NULL)
		rd_kafka_event_destroy(prod->reports);
	for (int i = 0; i < prod->nasked; i++)
		asks = topic_ask_chain(prod->asked[i]->ask, asks);
	hash_seq_init(&scan, prod->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		if (topic->rkt != NULL)
			rd_kafka_topic_destroy(topic->rkt);
	txn_destroy_later(&prod->txn, topic_asks_end, asks);
	MemoryContextDelete(prod->client.cxt);
}

/*
 * Take reports off the queue until nothing is in flight or the time is over.
 * Waits in short steps, and only in the library, so that nothing can raise.
 */
static void
producer_drain(OutboxProducer *prod, TimestampTz until)
{
	OutboxDelivery delivery;
	int			left;

	for (;;)
	{
		rd_kafka_event_t *ev;

		while (producer_poll(prod, &delivery))
			 /* not wanted any more */ ;
		left = client_ms_until(until);
		if (prod->in_flight == 0 || left == 0 || InterruptPending)
			return;
		ev = rd_kafka_queue_poll(prod->client.queue, Min(left, 20));
		if (ev != NULL && rd_kafka_event_type(ev) == RD_KAFKA_EVENT_DR)
			prod->reports = ev;
		else if (ev != NULL)
			rd_kafka_event_destroy(ev);
	}
}

/*
 * A purge that waits, and the end of the library's instance, wait for threads
 * of it that may be looking up a name; so both are left to another thread.
 */
void
producer_close(OutboxProducer *prod, int timeout_ms)
{
	prod->client.quiet = true;
	if (timeout_ms > 0)
	{
		rd_kafka_purge(prod->client.rk,
					   RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_NON_BLOCKING);
		producer_drain(prod, TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 timeout_ms));
	}
	producer_free(prod);
}

/* ---------------- topics ---------------- */

/* Kafka's rule for names. */
static bool
topic_name_valid(const char *name)
{
	size_t		len = strlen(name);

	return len > 0 && len < TOPIC_NAME_SIZE &&
		strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

static TopicEntry *
topic_open(OutboxProducer *prod, const char *name)
{
	TopicEntry *topic;
	bool		found;

	topic = hash_search(prod->topics, name, HASH_ENTER, &found);
	if (!found)
	{
		topic->rkt = NULL;
		topic->faulty = prod->txn.id != NULL;
		topic->err = RD_KAFKA_RESP_ERR_NO_ERROR;
		topic->ask = NULL;
		topic->refreshed_at = 0;
		topic->npartitions = 0;
	}
	if (topic->rkt == NULL)
		topic->rkt = rd_kafka_topic_new(prod->client.rk, name, NULL);
	return topic;
}

/*
 * The topic's entry, or NULL if there can be no topic of that name.
 */
static inline TopicEntry *
topic_find(OutboxProducer *prod, const char *name)
{
	TopicEntry *topic = prod->last_topic;

	if (topic == NULL || strcmp(topic->name, name) != 0)
	{
		if (!topic_name_valid(name))
			return NULL;
		topic = topic_open(prod, name);
		if (topic->rkt == NULL)
			return NULL;
		prod->last_topic = topic;
	}
	return topic;
}

/*
 * Take note of an answer; without one the topic stays as it was.
 */
static void
topic_note_answer(OutboxProducer *prod, TopicEntry *topic, const TopicAnswer *answer)
{
	topic->ask = NULL;
	topic->refreshed_at = GetCurrentTimestamp();
	topic->npartitions = 0;
	if (!answer->heard)
		return;
	client_note_answer(&prod->client);
	topic->err = answer->err;
	topic->faulty = answer->err != RD_KAFKA_RESP_ERR_NO_ERROR;
	if (!topic->faulty)
		topic->npartitions = answer->npartitions;
}

static void
topics_take_answers(OutboxProducer *prod)
{
	for (int i = prod->nasked - 1; i >= 0; i--)
	{
		TopicEntry *topic = prod->asked[i];
		TopicAnswer answer;

		if (!topic_ask_take(topic->ask, &answer))
			continue;
		prod->asked[i] = prod->asked[--prod->nasked];
		topic_note_answer(prod, topic, &answer);
	}
}

/*
 * Left alone, the library would ask after a missing topic again only every few
 * minutes.  Ask now, unless that was done a moment ago.  False while the answer
 * is on its way, or others' answers are, which have to come first.
 */
static bool
topic_refresh(OutboxProducer *prod, TopicEntry *topic)
{
	TopicAnswer none = {0};

	topics_take_answers(prod);
	if (topic->ask != NULL)
		return false;
	if (!TimestampDifferenceExceeds(topic->refreshed_at, GetCurrentTimestamp(), TOPIC_REFRESH_MS))
		return true;
	if (prod->nasked == ASKS_MAX)
		return false;
	topic->ask = topic_ask_start(&prod->client, topic->name);
	if (topic->ask == NULL)
	{
		topic_note_answer(prod, topic, &none);
		return true;
	}
	prod->asked[prod->nasked++] = topic;
	return false;
}

/*
 * Do brokers refuse the topic, as far as is known?  Then that is the error.
 */
static bool
topic_refused(OutboxProducer *prod, const TopicEntry *topic)
{
	if (!topic->faulty || fault_of_error(topic->err) != OUTBOX_KAFKA_FAULT_TOPIC)
		return false;
	strlcpy(prod->error, rd_kafka_err2str(topic->err), sizeof(prod->error));
	return true;
}

/*
 * Would a message for the topic doom the transaction that it is sent in?
 */
static bool
topic_dooms(OutboxProducer *prod, const TopicEntry *topic)
{
	return prod->txn.id != NULL && topic_refused(prod, topic);
}

/*
 * The library cannot purge one topic.  Messages of a missing or forbidden topic
 * fail by themselves within topic.metadata.propagation.max.ms; those of
 * a sound one are sent and reported.  What is left to do is to have the next
 * send look at the topic afresh.
 */
void
producer_forget_topic(OutboxProducer *prod, const char *name)
{
	TopicEntry *topic = hash_search(prod->topics, name, HASH_FIND, NULL);

	if (topic != NULL)
		topic->faulty = true;
}

OutboxKafkaFault
producer_refresh_topic(OutboxProducer *prod, const char *name)
{
	TopicEntry *topic = topic_find(prod, name);

	if (topic == NULL || !topic->faulty)
		return OUTBOX_KAFKA_OK;
	if (!topic_refresh(prod, topic))
		return OUTBOX_KAFKA_FULL;
	return topic_dooms(prod, topic) ? OUTBOX_KAFKA_FAULT_TOPIC : OUTBOX_KAFKA_OK;
}

OutboxKafkaFault
producer_partitions(OutboxProducer *prod, const char *name, int32 *npartitions)
{
	TopicEntry *topic = topic_find(prod, name);
	const char *reason;

	if (topic == NULL)
	{
		strlcpy(prod->error, "invalid topic name", sizeof(prod->error));
		return OUTBOX_KAFKA_FAULT_TOPIC;
	}
	if (!producer_connected(prod, &reason))
		return OUTBOX_KAFKA_FULL;
	if (!topic_refresh(prod, topic))
		return OUTBOX_KAFKA_FULL;
	*npartitions = topic->npartitions;
	if (topic->npartitions > 0)
		return OUTBOX_KAFKA_OK;
	return topic_refused(prod, topic) ? OUTBOX_KAFKA_FAULT_TOPIC : OUTBOX_KAFKA_FULL;
}

/* ---------------- sending ---------------- */

static rd_kafka_headers_t *
headers_build(const OutboxMessage *msg)
{
	rd_kafka_headers_t *hdrs;

	if (msg->nheaders == 0)
		return NULL;
	hdrs = rd_kafka_headers_new(msg->nheaders);
	for (int i = 0; i < msg->nheaders; i++)
	{
		const OutboxHeader *h = &msg->headers[i];

		rd_kafka_header_add(hdrs, h->name, -1, h->value,
							h->value ? h->value_len : 0);
	}
	return hdrs;
}

/*
 * Hand the message to the library, which copies it.
 */
static rd_kafka_resp_err_t
message_enqueue(OutboxProducer *prod, TopicEntry *topic, const OutboxMessage *msg)
{
	rd_kafka_headers_t *hdrs = headers_build(msg);
	rd_kafka_resp_err_t err;
	rd_kafka_error_t *error;
	rd_kafka_vu_t vu[8];
	int			n = 0;

	vu[n].vtype = RD_KAFKA_VTYPE_RKT;
	vu[n++].u.rkt = topic->rkt;
	vu[n].vtype = RD_KAFKA_VTYPE_VALUE;
	vu[n].u.mem.ptr = unconstify(char *, msg->value);
	vu[n++].u.mem.size = msg->value ? msg->value_len : 0;
	vu[n].vtype = RD_KAFKA_VTYPE_KEY;
	vu[n].u.mem.ptr = unconstify(char *, msg->key);
	vu[n++].u.mem.size = msg->key ? msg->key_len : 0;
	vu[n].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
	vu[n++].u.i = RD_KAFKA_MSG_F_COPY;
	vu[n].vtype = RD_KAFKA_VTYPE_TIMESTAMP;
	vu[n++].u.i64 = msg->timestamp_ms;
	vu[n].vtype = RD_KAFKA_VTYPE_OPAQUE;
	vu[n++].u.ptr = (void *) (uintptr_t) msg->tag;
	if (msg->partition != OUTBOX_PARTITION_BY_KEY)
	{
		vu[n].vtype = RD_KAFKA_VTYPE_PARTITION;
		vu[n++].u.i32 = msg->partition;
	}
	if (hdrs != NULL)
	{
		vu[n].vtype = RD_KAFKA_VTYPE_HEADERS;
		vu[n++].u.headers = hdrs;
	}

	error = rd_kafka_produceva(prod->client.rk, vu, n);
	if (error == NULL)
		return RD_KAFKA_RESP_ERR_NO_ERROR;
	err = rd_kafka_error_code(error);
	strlcpy(prod->error, rd_kafka_err2str(err), sizeof(prod->error));
	rd_kafka_error_destroy(error);
	if (hdrs != NULL)
		rd_kafka_headers_destroy(hdrs);
	return err;
}

OutboxKafkaFault
producer_send(OutboxProducer *prod, const OutboxMessage *msg)
{
	TopicEntry *topic = topic_find(prod, msg->topic);
	OutboxKafkaFault fault;
	rd_kafka_resp_err_t err;

	if (topic == NULL)
	{
		strlcpy(prod->error, "invalid topic name", sizeof(prod->error));
		return OUTBOX_KAFKA_FAULT_TOPIC;
	}
	if (unlikely(topic->faulty))
	{
		(void) topic_refresh(prod, topic);
		if (topic_dooms(prod, topic))
			return OUTBOX_KAFKA_FAULT_TOPIC;
	}
	err = message_enqueue(prod, topic, msg);
	if (likely(err == RD_KAFKA_RESP_ERR_NO_ERROR))
	{
		prod->in_flight++;
		return OUTBOX_KAFKA_OK;
	}
	if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return OUTBOX_KAFKA_FULL;
	if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
		strlcpy(prod->error, "message is larger than message.max.bytes of the Kafka server's options",
				sizeof(prod->error));
	fault = fault_of_error(err);
	if (fault == OUTBOX_KAFKA_FAULT_TOPIC)
		topic->faulty = true;
	if (fault == OUTBOX_KAFKA_FAULT_CLUSTER && prod->txn.id != NULL)
		txn_note_failure(&prod->txn);
	return fault;
}

const char *
producer_error(OutboxProducer *prod)
{
	return prod->error[0] != '\0' ? prod->error : NULL;
}

/* ---------------- delivery reports ---------------- */

/* A lower bound of what the message takes up in a batch; never 0. */
static size_t
message_bytes(const rd_kafka_message_t *rkm)
{
	return rkm->len + rkm->key_len + 1;
}

/*
 * A broker has rejected the message's batch.  Is the message itself to blame?
 * If that is not sure, have the next producer find out.
 */
static bool
message_is_culprit(OutboxProducer *prod, const rd_kafka_message_t *rkm)
{
	bool		too_large = rkm->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
	rkm->err == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE;
	Narrowed   *narrowed = prod->narrowed;

	if (prod->alone || (too_large && message_bytes(rkm) >= prod->batch_bytes))
	{
		narrowed->alone = 0;
		return true;
	}
	if (prod->narrowing)
		return false;
	prod->narrowing = true;
	if (too_large)
		narrowed->batch_bytes = Max(prod->batch_bytes / 4, 1);
	else
		narrowed->alone = ALONE_MESSAGES;
	return false;
}

static void
report_failure(OutboxProducer *prod, const rd_kafka_message_t *rkm,
			   OutboxDelivery *delivery)
{
	TopicEntry *topic;

	delivery->offset = -1;
	delivery->error = rd_kafka_err2str(rkm->err);
	delivery->fault = fault_of_error(rkm->err);
	if (delivery->fault == OUTBOX_KAFKA_FAULT_EVENT &&
		!message_is_culprit(prod, rkm))
	{
		delivery->fault = OUTBOX_KAFKA_FAULT_CLUSTER;
		delivery->error = "a broker rejected a batch of messages, and it is not known yet which of them is the cause";
	}
	if (delivery->fault == OUTBOX_KAFKA_FAULT_TOPIC)
	{
		topic = hash_search(prod->topics, rd_kafka_topic_name(rkm->rkt),
							HASH_FIND, NULL);
		if (topic != NULL)
			topic->faulty = true;
	}
	if (delivery->fault != OUTBOX_KAFKA_FAULT_CLUSTER || prod->narrowing)
		return;
	if (prod->client.fatal)
		delivery->error = prod->client.reason;
	else if (prod->txn.id != NULL)
	{
		/* it came back because something else has failed */
		txn_note_failure(&prod->txn);
		if (prod->txn.error[0] != '\0')
			delivery->error = prod->txn.error;
	}
}

static void
report_fill(OutboxProducer *prod, const rd_kafka_message_t *rkm,
			OutboxDelivery *delivery)
{
	prod->in_flight--;
	delivery->tag = (uint64) (uintptr_t) rkm->_private;
	delivery->partition = rkm->partition;
	delivery->offset = rkm->offset;
	if (likely(rkm->err == RD_KAFKA_RESP_ERR_NO_ERROR))
	{
		delivery->fault = OUTBOX_KAFKA_OK;
		delivery->error = NULL;
		client_note_answer(&prod->client);
		if (unlikely(prod->alone) && prod->narrowed->alone > 0)
			prod->narrowed->alone--;
		return;
	}
	report_failure(prod, rkm, delivery);
}

/*
 * A batch of reports is kept and handed out one by one; it is freed when
 * it is used up, or with the producer.
 */
bool
producer_poll(OutboxProducer *prod, OutboxDelivery *delivery)
{
	topics_take_answers(prod);
	for (;;)
	{
		rd_kafka_event_t *ev;

		if (prod->reports != NULL)
		{
			const rd_kafka_message_t *rkm = rd_kafka_event_message_next(prod->reports);

			if (rkm != NULL)
			{
				report_fill(prod, rkm, delivery);
				return true;
			}
			rd_kafka_event_destroy(prod->reports);
			prod->reports = NULL;
		}
		ev = rd_kafka_queue_poll(prod->client.queue, 0);
		if (ev == NULL)
		{
			/* what came back unsent after the library gave up stays there */
			if (unlikely(prod->client.fatal) && prod->in_flight > 0)
				rd_kafka_purge(prod->client.rk, RD_KAFKA_PURGE_F_QUEUE |
							   RD_KAFKA_PURGE_F_NON_BLOCKING);
			return false;
		}
		if (rd_kafka_event_type(ev) == RD_KAFKA_EVENT_DR)
			prod->reports = ev;
		else
		{
			client_note_event(&prod->client, ev);
			rd_kafka_event_destroy(ev);
		}
	}
}

int
producer_in_flight(OutboxProducer *prod)
{
	return prod->in_flight;
}

bool
producer_connected(OutboxProducer *prod, const char **reason)
{
	return client_connected(&prod->client, reason);
}

/* ---------------- exactly once ---------------- */

const char *
producer_transactional_id(OutboxProducer *prod)
{
	return prod->txn.id;
}

void
producer_ask_places(OutboxProducer *prod, bool stable)
{
	txn_ask_places(&prod->txn, stable);
}

OutboxTxnResult
producer_places(OutboxProducer *prod, OutboxPlace **places, int *nplaces)
{
	return txn_places(&prod->txn, places, nplaces);
}

OutboxTxnResult
producer_begin(OutboxProducer *prod)
{
	return txn_begin(&prod->txn);
}

OutboxTxnResult
producer_call(OutboxProducer *prod, OutboxTxnCall what, const char *topic, const char *place)
{
	return txn_start_call(&prod->txn, what, topic, place);
}

OutboxTxnResult
producer_call_result(OutboxProducer *prod)
{
	return txn_call_result(&prod->txn);
}

const char *
producer_txn_error(OutboxProducer *prod, OutboxKafkaFault *fault)
{
	*fault = prod->txn.fault;
	return prod->txn.error;
}
