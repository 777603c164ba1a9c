/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  Consumer with manual assignment: records, ends of partitions, faults.
 *
 * There is one queue for everything.  What is fetched ahead is bounded for the
 * consumer as a whole, not by partition, because all partitions forward to it.
 * Where a worker has many consumers, each has a share of what one would have, as
 * of the time when it was made: the sum of 1 + 1/2 + 1/3 + ... grows slowly, so
 * those that are older need not be made anew.
 *
 * A record owns its library event and a Holder, which is palloc'd in the
 * consumer's context; both are freed by consumer_release().  All that are out
 * are in the consumer's list, so that an error of the caller loses none.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/module/consumer.h"

#include "utils/memutils.h"

/* What is shared, and the least that one has. */
#define FETCH_MAX_BYTES (8 * 1024 * 1024)
#define FETCH_LEAST_BYTES (1024 * 1024)
#define QUEUE_MAX_KB (16 * 1024)
#define QUEUE_LEAST_KB 1024

/* What a record points into. */
typedef struct Holder
{
	dlist_node	node;			/* in the consumer's list */
	rd_kafka_event_t *ev;
	rd_kafka_topic_partition_t *place;	/* of an error, else NULL */
	char	   *error;			/* of an error, else NULL */
	OutboxHeader headers[FLEXIBLE_ARRAY_MEMBER];
} Holder;

/* ---------------- life ---------------- */

/*
 * A fetch must be able to hold the largest message.
 */
static void
consumer_configure(OutboxConsumer *cons, const OutboxServerSettings *settings,
				   const char *group_id, int sharers, int event_fd)
{
	char		fetch_bytes[16];
	char		queue_kb[16];
	Property	defaults[] = {
		{"queued.max.messages.kbytes", queue_kb},
		{"queued.min.messages", "50000"},
		{"fetch.max.bytes", fetch_bytes},
		{"max.partition.fetch.bytes", "1048576"},
		{NULL}
	};
	Property	fixed[] = {
		{"group.id", group_id},
		{"enable.auto.commit", "false"},
		{"enable.auto.offset.store", "false"},
		{"auto.offset.reset", "error"},
		{"isolation.level", "read_committed"},
		{"enable.partition.eof", "true"},
		{"allow.auto.create.topics", "false"},
		{NULL}
	};
	int			max_message = atoi(client_setting(settings, "message.max.bytes",
												  "1000000"));

	sharers = Max(sharers, 1);
	snprintf(fetch_bytes, sizeof(fetch_bytes), "%d",
			 Max(Max(FETCH_MAX_BYTES / sharers, FETCH_LEAST_BYTES), max_message));
	snprintf(queue_kb, sizeof(queue_kb), "%d",
			 Max(QUEUE_MAX_KB / sharers, QUEUE_LEAST_KB));
	client_create(&cons->client, RD_KAFKA_CONSUMER, settings, defaults, fixed,
				  RD_KAFKA_EVENT_FETCH | RD_KAFKA_EVENT_OFFSET_COMMIT, event_fd);
}

OutboxConsumer *
consumer_create(const OutboxServerSettings *settings, const char *group_id,
				int sharers, int event_fd)
{
	MemoryContext cxt = client_context("pg_outbox consumer");
	OutboxConsumer *cons = MemoryContextAllocZero(cxt, sizeof(OutboxConsumer));

	cons->client.cxt = cxt;
	dlist_init(&cons->held);
	PG_TRY();
	{
		consumer_configure(cons, settings, group_id, sharers, event_fd);
	}
	PG_CATCH();
	{
		MemoryContextDelete(cxt);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return cons;
}

bool
consumer_connected(OutboxConsumer *cons, const char **reason)
{
	return client_connected(&cons->client, reason);
}

/* ---------------- assignment ---------------- */

rd_kafka_topic_partition_list_t *
consumer_list(const char *topic, const OutboxPartitionOffset *parts, int nparts)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(nparts);

	for (int i = 0; i < nparts; i++)
		rd_kafka_topic_partition_list_add(list, topic, parts[i].partition)->offset =
			parts[i].offset;
	return list;
}

static void
consumer_raise(OutboxConsumer *cons, const char *what, const char *topic,
			   rd_kafka_resp_err_t err)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("could not %s topic \"%s\" of Kafka server \"%s\"",
					what, topic, cons->client.server),
			 errdetail("The Kafka client says: %s", rd_kafka_err2str(err))));
}

void
consumer_assign(OutboxConsumer *cons, const char *topic,
				const OutboxPartitionOffset *parts, int nparts)
{
	rd_kafka_topic_partition_list_t *list = consumer_list(topic, parts, nparts);
	rd_kafka_resp_err_t err = rd_kafka_assign(cons->client.rk, list);

	rd_kafka_topic_partition_list_destroy(list);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		consumer_raise(cons, "start reading", topic, err);
}

/*
 * The error of the list's only element, and the list's end.
 */
static rd_kafka_resp_err_t
list_finish(rd_kafka_topic_partition_list_t *list, rd_kafka_resp_err_t err)
{
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		err = list->elems[0].err;
	rd_kafka_topic_partition_list_destroy(list);
	return err;
}

static rd_kafka_topic_partition_list_t *
list_of_one(const char *topic, int32 partition, int64 offset)
{
	OutboxPartitionOffset part = {.partition = partition,.offset = offset};

	return consumer_list(topic, &part, 1);
}

void
consumer_pause(OutboxConsumer *cons, const char *topic, int32 partition)
{
	rd_kafka_topic_partition_list_t *list = list_of_one(topic, partition, 0);
	rd_kafka_resp_err_t err = rd_kafka_pause_partitions(cons->client.rk, list);

	err = list_finish(list, err);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		consumer_raise(cons, "pause", topic, err);
}

void
consumer_resume(OutboxConsumer *cons, const char *topic, int32 partition)
{
	rd_kafka_topic_partition_list_t *list = list_of_one(topic, partition, 0);
	rd_kafka_resp_err_t err = rd_kafka_resume_partitions(cons->client.rk, list);

	err = list_finish(list, err);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		consumer_raise(cons, "resume", topic, err);
}

/*
 * The library's own seek does nothing in a partition that has stopped at an
 * error, so the partition is taken out of the assignment and put back.  Does
 * not wait.  Records of it that were fetched before are not returned any more,
 * and it is not paused any more.
 */
void
consumer_seek(OutboxConsumer *cons, const char *topic, int32 partition,
			  int64 offset)
{
	rd_kafka_topic_partition_list_t *list = list_of_one(topic, partition, offset);
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
	rd_kafka_error_t *error;

	error = rd_kafka_incremental_unassign(cons->client.rk, list);
	if (error == NULL)
		error = rd_kafka_incremental_assign(cons->client.rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (error != NULL)
	{
		err = rd_kafka_error_code(error);
		rd_kafka_error_destroy(error);
		consumer_raise(cons, "seek in", topic, err);
	}
}

/* ---------------- records ---------------- */

static Holder *
holder_create(OutboxConsumer *cons, rd_kafka_event_t *ev, int nheaders)
{
	Holder	   *holder;

	holder = MemoryContextAllocExtended(cons->client.cxt,
										offsetof(Holder, headers) +
										nheaders * sizeof(OutboxHeader),
										MCXT_ALLOC_NO_OOM);
	if (holder == NULL)
	{
		rd_kafka_event_destroy(ev);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while taking a record from Kafka server \"%s\".",
						   cons->client.server)));
	}
	holder->ev = ev;
	holder->place = NULL;
	holder->error = NULL;
	dlist_push_tail(&cons->held, &holder->node);
	return holder;
}

static void
holder_free(Holder *holder)
{
	dlist_delete(&holder->node);
	if (holder->place != NULL)
		rd_kafka_topic_partition_destroy(holder->place);
	if (holder->error != NULL)
		pfree(holder->error);
	rd_kafka_event_destroy(holder->ev);
	pfree(holder);
}

void
consumer_release(OutboxRecord *rec)
{
	if (rec->handle != NULL)
		holder_free(rec->handle);
	rec->handle = NULL;
}

/*
 * The library cannot end while events are out.
 */
void
consumer_close(OutboxConsumer *cons)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &cons->held)
		holder_free(dlist_container(Holder, node, iter.cur));
	rd_kafka_assign(cons->client.rk, NULL);
	client_destroy_later(&cons->client, NULL, NULL);
	MemoryContextDelete(cons->client.cxt);
}

static void
record_fill_headers(OutboxRecord *rec, Holder *holder, rd_kafka_headers_t *hdrs)
{
	for (int i = 0; i < rec->nheaders; i++)
	{
		OutboxHeader *h = &holder->headers[i];
		const void *value;
		size_t		size;

		rd_kafka_header_get_all(hdrs, i, &h->name, &value, &size);
		h->value = value;
		h->value_len = value ? size : 0;
	}
	rec->headers = holder->headers;
}

static void
record_from_message(OutboxConsumer *cons, rd_kafka_event_t *ev,
					const rd_kafka_message_t *rkm, OutboxRecord *rec)
{
	rd_kafka_headers_t *hdrs = NULL;
	rd_kafka_timestamp_type_t tstype;
	Holder	   *holder;

	if (rd_kafka_message_headers(rkm, &hdrs) == RD_KAFKA_RESP_ERR_NO_ERROR)
		rec->nheaders = rd_kafka_header_cnt(hdrs);
	holder = holder_create(cons, ev, rec->nheaders);
	rec->kind = OUTBOX_RECORD_EVENT;
	rec->topic = rd_kafka_topic_name(rkm->rkt);
	rec->partition = rkm->partition;
	rec->offset = rkm->offset;
	rec->timestamp_ms = rd_kafka_message_timestamp(rkm, &tstype);
	if (tstype == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE)
		rec->timestamp_ms = -1;
	rec->key = rkm->key;
	rec->key_len = rkm->key_len;
	rec->value = rkm->payload;
	rec->value_len = rkm->len;
	if (rec->nheaders > 0)
		record_fill_headers(rec, holder, hdrs);
	rec->handle = holder;
}

/*
 * What an error tells the applier, NONE if it is no record's business.
 */
static OutboxRecordKind
kind_of_error(const Client *client, rd_kafka_resp_err_t err, bool placed)
{
	if (err == RD_KAFKA_RESP_ERR__FATAL || client->fatal)
		return OUTBOX_RECORD_CLUSTER_FAULT;
	if (!placed)
		return OUTBOX_RECORD_NONE;
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			return OUTBOX_RECORD_EOF;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			return OUTBOX_RECORD_OUT_OF_RANGE;
		default:				/* a bad batch, too, must not be passed over */
			return OUTBOX_RECORD_TOPIC_FAULT;
	}
}

/*
 * Takes the event over if it makes a record of it.
 */
static bool
record_from_error(OutboxConsumer *cons, rd_kafka_event_t *ev, OutboxRecord *rec)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(ev);
	rd_kafka_topic_partition_t *place = rd_kafka_event_topic_partition(ev);
	Holder	   *holder;

	rec->kind = kind_of_error(&cons->client, err, place != NULL);
	if (rec->kind == OUTBOX_RECORD_NONE)
		return false;
	holder = holder_create(cons, ev, 0);
	holder->place = place;
	rec->handle = holder;
	rec->topic = place ? place->topic : NULL;
	rec->partition = place ? place->partition : -1;
	rec->offset = place ? place->offset : -1;
	if (rec->kind == OUTBOX_RECORD_EOF)
	{
		client_note_answer(&cons->client);
		return true;
	}
	holder->error = MemoryContextStrdup(cons->client.cxt,
										rd_kafka_event_error_string(ev));
	client_scrub(&cons->client, holder->error);
	rec->error = holder->error;
	return true;
}

static void
note_commit(OutboxConsumer *cons, rd_kafka_event_t *ev)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(ev);

	if (err != RD_KAFKA_RESP_ERR_NO_ERROR && err != RD_KAFKA_RESP_ERR__NO_OFFSET)
		client_log(&cons->client, LOG,
				   "could not commit offsets to the consumer group: %s",
				   rd_kafka_err2str(err));
}

/*
 * Make a record of the event, which is then the record's; if there is none in
 * it, destroy it.
 */
static bool
record_from_event(OutboxConsumer *cons, rd_kafka_event_t *ev, OutboxRecord *rec)
{
	const rd_kafka_message_t *rkm;

	switch (rd_kafka_event_type(ev))
	{
		case RD_KAFKA_EVENT_FETCH:
			rkm = rd_kafka_event_message_next(ev);
			if (rkm != NULL)
			{
				client_note_answer(&cons->client);
				record_from_message(cons, ev, rkm, rec);
				return true;
			}
			break;
		case RD_KAFKA_EVENT_ERROR:
			if (rd_kafka_event_error(ev) != RD_KAFKA_RESP_ERR__PARTITION_EOF)
				client_note_event(&cons->client, ev);
			if (record_from_error(cons, ev, rec))
				return true;
			break;
		case RD_KAFKA_EVENT_OFFSET_COMMIT:
			note_commit(cons, ev);
			break;
		default:
			client_note_event(&cons->client, ev);
			break;
	}
	rd_kafka_event_destroy(ev);
	return false;
}

void
consumer_poll(OutboxConsumer *cons, OutboxRecord *rec)
{
	rd_kafka_event_t *ev;

	memset(rec, 0, sizeof(*rec));
	while ((ev = rd_kafka_queue_poll(cons->client.queue, 0)) != NULL)
		if (record_from_event(cons, ev, rec))
			return;
	rec->kind = OUTBOX_RECORD_NONE;
}

/* ---------------- progress ---------------- */

void
consumer_commit(OutboxConsumer *cons, const char *topic,
				const OutboxPartitionOffset *parts, int nparts)
{
	rd_kafka_topic_partition_list_t *list;

	if (nparts == 0)
		return;
	list = consumer_list(topic, parts, nparts);
	(void) rd_kafka_commit(cons->client.rk, list, 1);
	rd_kafka_topic_partition_list_destroy(list);
}

int64
consumer_high_watermark(OutboxConsumer *cons, const char *topic, int32 partition)
{
	int64_t		low,
				high;

	if (rd_kafka_get_watermark_offsets(cons->client.rk, topic, partition,
									   &low, &high) != RD_KAFKA_RESP_ERR_NO_ERROR ||
		high < 0)
		return -1;
	return high;
}
