/*-------------------------------------------------------------------------
 *
 * check.c
 *	  Connects to a server, to say what is there or why nothing is.
 *
 * Runs in ordinary backends, inside a transaction, so it waits in short steps
 * and heeds interrupts, and leaves no thread behind.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/module/client.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#define CHECK_STEP_MS 100

/*
 * Take everything off the queue; the client remembers the errors.
 */
static void
check_events(Client *client)
{
	rd_kafka_event_t *ev;

	while ((ev = rd_kafka_queue_poll(client->queue, 0)) != NULL)
	{
		client_note_event(client, ev);
		rd_kafka_event_destroy(ev);
	}
}

/*
 * Ask for the brokers until they answer, all are known to be away, or the time
 * is over.  NULL if there was no answer.
 */
static const struct rd_kafka_metadata *
check_metadata(Client *client, TimestampTz until)
{
	const struct rd_kafka_metadata *md;
	int			left;

	while ((left = client_ms_until(until)) > 0)
	{
		if (rd_kafka_metadata(client->rk, 0, NULL, &md,
							  Min(left, CHECK_STEP_MS)) == RD_KAFKA_RESP_ERR_NO_ERROR)
			return md;
		check_events(client);
		if (client->down || client->fatal)
			break;
		CHECK_FOR_INTERRUPTS();
	}
	return NULL;
}

/*
 * Raises out of memory only, for which the caller is prepared.
 */
static void
check_report(Client *client, const struct rd_kafka_metadata *md,
			 OutboxServerCheck *check)
{
	StringInfoData buf;
	char	   *cluster_id = rd_kafka_clusterid(client->rk, CHECK_STEP_MS);

	if (cluster_id != NULL)
	{
		check->cluster_id = pstrdup(cluster_id);
		rd_kafka_mem_free(client->rk, cluster_id);
	}
	check->controller = rd_kafka_controllerid(client->rk, CHECK_STEP_MS);

	initStringInfo(&buf);
	for (int i = 0; i < md->broker_cnt; i++)
		appendStringInfo(&buf, "%s%d=%s:%d", i > 0 ? ", " : "",
						 (int) md->brokers[i].id, md->brokers[i].host,
						 md->brokers[i].port);
	check->ok = true;
	check->nbrokers = md->broker_cnt;
	check->brokers = buf.data;
}

static void
check_run(Client *client, int timeout_ms, OutboxServerCheck *check)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													timeout_ms);
	const struct rd_kafka_metadata *md = check_metadata(client, until);

	if (md != NULL)
	{
		check_report(client, md, check);
		rd_kafka_metadata_destroy(md);
	}
	else
		check->detail = psprintf("%s", client->reason);
}

static void
check_cleanup(int code, Datum arg)
{
	client_destroy((Client *) DatumGetPointer(arg));
}

/*
 * The instance must not outlive this function, not even in a backend that is
 * told to end while it waits here: see outbox_kafka_register_exit().
 */
void
client_server_check(const OutboxServerSettings *settings, int timeout_ms,
					OutboxServerCheck *check)
{
	Client	   *client = palloc0(sizeof(Client));

	memset(check, 0, sizeof(*check));
	check->controller = -1;
	client->cxt = CurrentMemoryContext;
	client->quiet = true;
	client_create(client, RD_KAFKA_PRODUCER, settings, NULL, NULL, 0, -1);
	PG_ENSURE_ERROR_CLEANUP(check_cleanup, PointerGetDatum(client));
	{
		check_run(client, timeout_ms, check);
	}
	PG_END_ENSURE_ERROR_CLEANUP(check_cleanup, PointerGetDatum(client));
	client_destroy(client);
}
