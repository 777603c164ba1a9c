/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  Kafka's transactions: claiming a name, beginning, committing, and the
 *	  places that are committed with them.
 *
 * librdkafka's calls for this wait for brokers, and not all of them can be
 * resumed.  So each is made by a thread of its own, which the backend's thread
 * starts and which writes the eventfd at its end.  Between start and end only
 * the thread touches the call, but for "stop".
 *
 * The places are asked for by a consumer, which never reads.  A producer must not
 * do it: it has no group, and where a broker answers that it does not
 * coordinate ours, the library (from 2.0 on, and 2.15 still) follows a null pointer to
 * the client's own group.  Each question has a new consumer, since one
 * remembers for ever who coordinated the group when it first asked.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/module/transaction.h"

#include <unistd.h>

#include "port/atomics.h"

#define STEP_MS 500				/* one attempt, after which "stop" is looked
								 * at */
#define STORE_MS 10000			/* this one cannot be resumed */
#define PAUSE_US 20000			/* before another attempt that failed at once */
#define ASK_MS 5000
#define ASK_PAUSE_MS 50
#define PLACE_OFFSET 0			/* an offset is needed, and means nothing */

/* In malloc()ed memory. */
struct TxnCall
{
	OutboxTxnCall what;
	rd_kafka_t *rk;
	char	   *group;
	char	   *topic;
	char	   *place;
	int			event_fd;
	pthread_t	thread;
	pg_atomic_uint32 stop;		/* nobody wants to know any more */
	pg_atomic_uint32 ended;		/* last access of the thread */
	ClientCall	after;			/* at the client's end, or NULL */
	void	   *after_arg;

	/* result */
	rd_kafka_resp_err_t err;
	char		error[CLIENT_REASON_SIZE];
};

/* ---------------- in the thread ---------------- */

static bool
call_again(TxnCall *call, const rd_kafka_error_t *error)
{
	if (error == NULL || !rd_kafka_error_is_retriable(error) ||
		pg_atomic_read_u32(&call->stop) != 0)
		return false;
	if (rd_kafka_error_code(error) != RD_KAFKA_RESP_ERR__TIMED_OUT)
		usleep(PAUSE_US);
	return true;
}

static rd_kafka_error_t *
call_store(TxnCall *call)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata_new(call->group);
	rd_kafka_topic_partition_t *part = rd_kafka_topic_partition_list_add(list, call->topic, 0);
	rd_kafka_error_t *error;

	part->offset = PLACE_OFFSET;
	part->metadata_size = strlen(call->place);
	part->metadata = rd_kafka_mem_malloc(NULL, part->metadata_size + 1);
	memcpy(part->metadata, call->place, part->metadata_size + 1);
	error = rd_kafka_send_offsets_to_transaction(call->rk, list, group, STORE_MS);
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_consumer_group_metadata_destroy(group);
	return error;
}

static rd_kafka_error_t *
call_once(TxnCall *call)
{
	switch (call->what)
	{
		case OUTBOX_TXN_CLAIM:
			return rd_kafka_init_transactions(call->rk, STEP_MS);
		case OUTBOX_TXN_STORE:
			return call_store(call);
		case OUTBOX_TXN_COMMIT:
			return rd_kafka_commit_transaction(call->rk, STEP_MS);
	}
	return NULL;
}

/*
 * @locality a thread of its own
 */
static void *
call_main(void *arg)
{
	TxnCall    *call = arg;
	int			event_fd = call->event_fd;
	rd_kafka_error_t *error = call_once(call);

	while (call_again(call, error))
	{
		rd_kafka_error_destroy(error);
		error = call_once(call);
	}
	if (error != NULL)
	{
		call->err = rd_kafka_error_code(error);
		strlcpy(call->error, rd_kafka_error_string(error), sizeof(call->error));
		rd_kafka_error_destroy(error);
	}
	pg_write_barrier();
	pg_atomic_write_u32(&call->ended, 1);
	client_signal(event_fd);
	return NULL;
}

static void
call_free(TxnCall *call)
{
	free(call->group);
	free(call->topic);
	free(call->place);
	free(call);
}

/*
 * @locality the thread that ends the client
 */
static void
call_end(void *arg)
{
	TxnCall    *call = arg;

	pg_atomic_write_u32(&call->stop, 1);
	pthread_join(call->thread, NULL);
	if (call->after != NULL)
		call->after(call->after_arg);
	call_free(call);
}

/* ---------------- in the backend's thread ---------------- */

static void
note_error(Txn *txn, rd_kafka_resp_err_t err, const char *error)
{
	txn->fault = fault_of_error(err);
	strlcpy(txn->error, error, sizeof(txn->error));
	client_scrub(txn->client, txn->error);
}

static OutboxTxnResult
note_error_object(Txn *txn, rd_kafka_error_t *error)
{
	note_error(txn, rd_kafka_error_code(error), rd_kafka_error_string(error));
	rd_kafka_error_destroy(error);
	return OUTBOX_TXN_FAILED;
}

static char *
copy_text(const char *str)
{
	return str ? strdup(str) : NULL;
}

OutboxTxnResult
txn_start_call(Txn *txn, OutboxTxnCall what, const char *topic, const char *place)
{
	TxnCall    *call = calloc(1, sizeof(TxnCall));

	Assert(txn->call == NULL);
	if (call != NULL)
	{
		call->what = what;
		call->rk = txn->client->rk;
		call->group = copy_text(txn->id);
		call->topic = copy_text(topic);
		call->place = copy_text(place);
		call->event_fd = txn->client->event_fd;
		pg_atomic_init_u32(&call->stop, 0);
		pg_atomic_init_u32(&call->ended, 0);
	}
	if (call == NULL || call->group == NULL || (topic && !call->topic) ||
		(place && !call->place) || !client_thread(&call->thread, call_main, call))
	{
		if (call != NULL)
			call_free(call);
		note_error(txn, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE, "out of memory or threads");
		return OUTBOX_TXN_FAILED;
	}
	txn->call = call;
	return OUTBOX_TXN_WAIT;
}

OutboxTxnResult
txn_call_result(Txn *txn)
{
	TxnCall    *call = txn->call;
	OutboxTxnResult result = OUTBOX_TXN_OK;

	if (call == NULL || !pg_atomic_read_u32(&call->ended))
		return OUTBOX_TXN_WAIT;
	pg_read_barrier();
	pthread_join(call->thread, NULL);
	if (call->err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		note_error(txn, call->err, call->error);
		result = OUTBOX_TXN_FAILED;
	}
	else
		client_note_answer(txn->client);
	txn->call = NULL;
	call_free(call);
	return result;
}

/*
 * Does not wait for a broker.
 */
OutboxTxnResult
txn_begin(Txn *txn)
{
	rd_kafka_error_t *error = rd_kafka_begin_transaction(txn->client->rk);

	return error == NULL ? OUTBOX_TXN_OK : note_error_object(txn, error);
}

/*
 * A transaction that has failed refuses to begin again and says why.
 */
void
txn_note_failure(Txn *txn)
{
	if (txn->call == NULL)
		(void) txn_begin(txn);
}

/* ---------------- places ---------------- */

void
txn_create(Txn *txn, const OutboxServerSettings *settings)
{
	Property	fixed[] = {
		{"group.id", txn->id},
		{"enable.auto.commit", "false"},
		{"enable.auto.offset.store", "false"},
		{"allow.auto.create.topics", "false"},
		{NULL}
	};

	txn->asker.cxt = txn->client->cxt;
	txn->asker_conf = client_prepare(&txn->asker, RD_KAFKA_CONSUMER, settings, NULL, fixed, 0);
}

static void
ask_end(Txn *txn)
{
	if (txn->answer != NULL)
		rd_kafka_event_destroy(txn->answer);
	txn->answer = NULL;
	client_destroy_later(&txn->asker, NULL, NULL);
}

/*
 * False if there is no client to ask with.
 */
static bool
ask_now(Txn *txn)
{
	rd_kafka_AdminOptions_t *options;
	rd_kafka_ListConsumerGroupOffsets_t *request;
	rd_kafka_error_t *error;
	char		errstr[CLIENT_REASON_SIZE];

	if (!client_open(&txn->asker, RD_KAFKA_CONSUMER, txn->asker_conf, txn->client->event_fd,
					 errstr, sizeof(errstr)))
	{
		note_error(txn, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE, errstr);
		return false;
	}
	options = rd_kafka_AdminOptions_new(txn->asker.rk, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS);
	(void) rd_kafka_AdminOptions_set_request_timeout(options, ASK_MS, errstr, sizeof(errstr));
	error = rd_kafka_AdminOptions_set_require_stable_offsets(options, txn->stable);
	if (error != NULL)
		rd_kafka_error_destroy(error);
	request = rd_kafka_ListConsumerGroupOffsets_new(txn->id, NULL);
	rd_kafka_ListConsumerGroupOffsets(txn->asker.rk, &request, 1, options, txn->asker.queue);
	rd_kafka_ListConsumerGroupOffsets_destroy(request);
	rd_kafka_AdminOptions_destroy(options);
	return true;
}

void
txn_ask_places(Txn *txn, bool stable)
{
	ask_end(txn);
	txn->stable = stable;
	txn->ask_at = 0;
	(void) ask_now(txn);
}

/*
 * What else the consumer has to say, of brokers that are away, the producer says
 * as well.
 */
static bool
ask_answered(Txn *txn)
{
	rd_kafka_event_t *ev;

	while (txn->answer == NULL && (ev = rd_kafka_queue_poll(txn->asker.queue, 0)) != NULL)
	{
		if (rd_kafka_event_type(ev) == RD_KAFKA_EVENT_LISTCONSUMERGROUPOFFSETS_RESULT)
			txn->answer = ev;
		else
			rd_kafka_event_destroy(ev);
	}
	return txn->answer != NULL;
}

/*
 * Is it worth asking again?
 */
static bool
ask_error_passes(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
		case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
		case RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT:
			return true;
		default:
			return false;
	}
}

/*
 * The offsets in the answer; NULL with the error if there are none to be had.
 */
static const rd_kafka_topic_partition_list_t *
answer_list(Txn *txn, rd_kafka_resp_err_t *err, const char **errstr)
{
	const rd_kafka_ListConsumerGroupOffsets_result_t *result =
	rd_kafka_event_ListConsumerGroupOffsets_result(txn->answer);
	const rd_kafka_group_result_t **groups;
	const rd_kafka_topic_partition_list_t *list;
	size_t		n = 0;

	*err = rd_kafka_event_error(txn->answer);
	*errstr = rd_kafka_event_error_string(txn->answer);
	if (*err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return NULL;
	groups = rd_kafka_ListConsumerGroupOffsets_result_groups(result, &n);
	if (n != 1)
	{
		*err = RD_KAFKA_RESP_ERR__BAD_MSG;
		*errstr = rd_kafka_err2str(*err);
		return NULL;
	}
	if (rd_kafka_group_result_error(groups[0]) != NULL)
	{
		*err = rd_kafka_error_code(rd_kafka_group_result_error(groups[0]));
		*errstr = rd_kafka_error_string(rd_kafka_group_result_error(groups[0]));
		return NULL;
	}
	list = rd_kafka_group_result_partitions(groups[0]);
	for (int i = 0; list != NULL && i < list->cnt; i++)
		if (list->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			*err = list->elems[i].err;
			*errstr = rd_kafka_err2str(*err);
			return NULL;
		}
	return list;
}

/*
 * Copies the texts.  The answer stays the transaction's until that is done, as
 * memory may run out.
 */
static int
copy_places(const rd_kafka_topic_partition_list_t *list, OutboxPlace **places)
{
	int			n = 0;

	*places = palloc(sizeof(OutboxPlace) * Max(list ? list->cnt : 0, 1));
	for (int i = 0; list != NULL && i < list->cnt; i++)
	{
		const rd_kafka_topic_partition_t *part = &list->elems[i];

		if (part->offset < 0 || part->metadata == NULL || part->metadata_size == 0)
			continue;
		(*places)[n].topic = pstrdup(part->topic);
		(*places)[n].text = pnstrdup(part->metadata, part->metadata_size);
		n++;
	}
	return n;
}

OutboxTxnResult
txn_places(Txn *txn, OutboxPlace **places, int *nplaces)
{
	const rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;
	const char *errstr;

	if (txn->asker.rk == NULL)
	{
		if (GetCurrentTimestamp() < txn->ask_at)
			return OUTBOX_TXN_WAIT;
		return ask_now(txn) ? OUTBOX_TXN_WAIT : OUTBOX_TXN_FAILED;
	}
	if (!ask_answered(txn))
		return OUTBOX_TXN_WAIT;
	list = answer_list(txn, &err, &errstr);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		*nplaces = copy_places(list, places);
	else
		note_error(txn, err, errstr ? errstr : rd_kafka_err2str(err));
	ask_end(txn);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return OUTBOX_TXN_OK;
	if (!ask_error_passes(err))
		return OUTBOX_TXN_FAILED;
	txn->ask_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ASK_PAUSE_MS);
	return OUTBOX_TXN_WAIT;
}

/* ---------------- the end ---------------- */

void
txn_destroy_later(Txn *txn, ClientCall before, void *arg)
{
	ask_end(txn);
	if (txn->asker_conf != NULL)
		rd_kafka_conf_destroy(txn->asker_conf);
	txn->asker_conf = NULL;
	if (txn->call != NULL)
	{
		txn->call->after = before;
		txn->call->after_arg = arg;
		client_destroy_later(txn->client, call_end, txn->call);
	}
	else
		client_destroy_later(txn->client, before, arg);
	txn->call = NULL;
}
