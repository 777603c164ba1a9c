/*-------------------------------------------------------------------------
 *
 * pause.c
 *	  outbox.pause_topic and resume_topic.
 *
 * The state of a topic stands in outbox._stream, where the relay takes it
 * over when it is told to look at its catalogs.  A topic that goes on is
 * handled as one that was stopped: what was parked meanwhile is sent first.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "common/argument.h"
#include "common/catalog.h"
#include "kafka/kafka.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(outbox_pause_topic);
PG_FUNCTION_INFO_V1(outbox_resume_topic);

/*
 * Execute a statement with server and topic of the arguments (topic, server).
 * Returns the number of rows.
 */
static uint64
change_topic(FunctionCallInfo fcinfo, const char *sql)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	OutboxOwnerScope scope;
	const char *server;
	uint64		nrows;

	outbox_argument_require(fcinfo, 0, "topic", "Pass the name of one topic.");
	server = PG_ARGISNULL(1) ? GetConfigOption("pg_outbox.default_server", false, false) :
		text_to_cstring(PG_GETARG_TEXT_PP(1));
	(void) outbox_server_oid(server, false);
	values[0] = CStringGetTextDatum(server);
	values[1] = PG_GETARG_DATUM(0);

	outbox_owner_enter(&scope);
	SPI_connect();
	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	nrows = SPI_processed;
	SPI_finish();
	outbox_owner_leave(&scope);
	outbox_worker_poke_at_commit();
	return nrows;
}

/*
 * pause_topic(topic text, server text)
 */
Datum
outbox_pause_topic(PG_FUNCTION_ARGS)
{
	(void) change_topic(fcinfo,
						"WITH known AS (UPDATE outbox._stream SET state = 'paused', reason = NULL, since = now()"
						" WHERE server = $1 AND topic = $2 AND state <> 'paused')"
						" INSERT INTO outbox._stream AS s (server, topic, state, since)"
						" SELECT $1, $2, 'paused', now()"
						" WHERE NOT EXISTS (SELECT FROM outbox._stream WHERE server = $1 AND topic = $2)"
						" ON CONFLICT (server, topic) DO UPDATE SET state = 'paused', reason = NULL,"
						" since = now() WHERE s.state <> 'paused'");
	PG_RETURN_VOID();
}

/*
 * resume_topic(topic text, server text)
 */
Datum
outbox_resume_topic(PG_FUNCTION_ARGS)
{
	if (change_topic(fcinfo,
					 "UPDATE outbox._stream SET state = 'stopped', reason = 'resumed', since = now()"
					 " WHERE server = $1 AND topic = $2 AND state = 'paused'") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" is not paused", text_to_cstring(PG_GETARG_TEXT_PP(0)))));
	PG_RETURN_VOID();
}
