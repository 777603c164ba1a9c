/*-------------------------------------------------------------------------
 *
 * asker.c
 *	  Consumers that only ask: for partitions and offsets of topics.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/asker.h"

#include "utils/memutils.h"

#include "apply/settings.h"
#include "apply/transaction.h"
#include "worker/worker.h"

typedef struct Asker
{
	char	   *server;
	uint64		fingerprint;	/* of the settings it was made with */
	OutboxConsumer *cons;
} Asker;

static List *askers = NIL;		/* in TopMemoryContext */

/* What the library has to say of a connection that nobody polls else. */
static void
drain(OutboxConsumer *cons)
{
	OutboxRecord rec;

	do
	{
		outbox_consumer_poll(cons, &rec);
		outbox_record_release(&rec);
	} while (rec.kind != OUTBOX_RECORD_NONE);
}

static Asker *
find_asker(const char *server)
{
	ListCell   *lc;

	foreach(lc, askers)
		if (strcmp(((Asker *) lfirst(lc))->server, server) == 0)
		return lfirst(lc);
	return NULL;
}

static Asker *
add_asker(const char *server)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Asker	   *asker = palloc0(sizeof(Asker));

	asker->server = pstrdup(server);
	askers = lappend(askers, asker);
	MemoryContextSwitchTo(old);
	return asker;
}

static bool
is_used(const Asker *asker, const List *feeds)
{
	ListCell   *lc;

	foreach(lc, feeds)
		if (strcmp(((OutboxFeed *) lfirst(lc))->sub->server, asker->server) == 0)
		return true;
	return false;
}

static void
close_asker(Asker *asker)
{
	if (asker->cons != NULL)
		outbox_consumer_close(asker->cons);
	asker->cons = NULL;
	outbox_worker_report_server(asker->server, OUTBOX_SERVER_UNREACHABLE, NULL);
}

char *
outbox_askers_report(const List *feeds)
{
	char	   *waiting = NULL;
	ListCell   *lc;

	foreach(lc, askers)
	{
		Asker	   *asker = lfirst(lc);
		const char *reason = NULL;

		if (asker->cons != NULL && !is_used(asker, feeds))
			close_asker(asker);
		if (asker->cons == NULL)
			continue;
		drain(asker->cons);
		if (outbox_consumer_connected(asker->cons, &reason))
			reason = NULL;
		outbox_worker_report_server(asker->server, OUTBOX_SERVER_UNREACHABLE, reason);
		if (reason != NULL && waiting == NULL)
			waiting = psprintf("server \"%s\": %s", asker->server, reason);
	}
	return waiting;
}

OutboxConsumer *
outbox_asker_get(OutboxFeed *feed)
{
	Asker	   *asker = find_asker(feed->sub->server);

	if (asker == NULL)
		asker = add_asker(feed->sub->server);
	if (asker->cons != NULL && asker->fingerprint != feed->fingerprint)
	{
		outbox_consumer_close(asker->cons);
		asker->cons = NULL;
	}
	if (asker->cons == NULL)
	{
		MemoryContext context = outbox_transaction_begin();
		char	   *group = psprintf("pg_outbox.%s", outbox_apply_group_prefix());

		asker->cons = outbox_consumer_create(outbox_server_oid(feed->sub->server, false), group, 1, -1);
		asker->fingerprint = feed->fingerprint;
		outbox_transaction_commit(context);
	}
	drain(asker->cons);
	return asker->cons;
}
