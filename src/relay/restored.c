/*-------------------------------------------------------------------------
 *
 * restored.c
 *	  Events that a dump carries: kept apart when they are restored, taken over
 *	  by outbox.resume().
 *
 * pg_dump takes along the rows of the log that some server's relay had not
 * passed, and the positions they are to be judged by, all of one snapshot.
 * Where they are loaded their transaction ids mean nothing: to the reader they
 * would be settled, or never be, as chance has it.  So BEFORE triggers on the
 * segments and the position tables, which only SQL fires (writers and relay
 * insert into the heap themselves), put them into outbox._restored_log and
 * _restored_position instead, and raise the database's stamps above theirs.
 *
 * resume() judges each event against the position of its own server.  What was
 * not settled becomes a parked event of its topic, which is marked as stopped:
 * the relay sends such events first, in the order of their commit stamps, and
 * the topic is live again when none is left.  All of it is in resume()'s
 * transaction.  A copy that was made of files (a template, pg_upgrade) has the
 * log as it was, with transaction ids that still mean something, and nothing
 * here; its relay goes on from its positions.
 *
 * A database that was restored and is dumped again before its resume() has
 * such rows of several origins; the generation keeps apart which position
 * belongs to which.  It grows by one with each restore.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "common/catalog.h"
#include "log/stamp.h"
#include "relay/sql.h"
#include "worker/worker.h"

#define FETCH_ROWS 100

PG_FUNCTION_INFO_V1(outbox_keep_restored);

/* ---------------- at the restore ---------------- */

/* Columns of the tables, in their order, and those that hold stamps. */
typedef struct RestoredKind
{
	const char *insert;
	int			natts;
	Oid			types[8];
	int			stamps[2];
	int			nstamps;
} RestoredKind;

static const RestoredKind log_rows = {
	.insert = "INSERT INTO outbox._restored_log VALUES (-1, $1, $2, $3, $4)",
	.natts = 4,
	.types = {XID8OID, INT8OID, INT8OID, BYTEAOID},
	.stamps = {2, 3},
	.nstamps = 2
};

static const RestoredKind position_rows = {
	.insert = "INSERT INTO outbox._restored_position VALUES (-1, $1, $2, $3, $4, $5, $6)",
	.natts = 6,
	.types = {INT8OID, TEXTOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID},
	.stamps = {1},
	.nstamps = 1
};

static void
keep_row(const RestoredKind *kind, HeapTuple tup, TupleDesc desc)
{
	Oid			types[lengthof(kind->types)];
	Datum		values[lengthof(kind->types)];
	char		nulls[lengthof(kind->types)];
	OutboxOwnerScope scope;

	for (int i = 0; i < kind->natts; i++)
	{
		bool		isnull;

		types[i] = kind->types[i];
		values[i] = heap_getattr(tup, i + 1, desc, &isnull);
		nulls[i] = isnull ? 'n' : ' ';
	}
	outbox_owner_enter(&scope);
	for (int i = 0; i < kind->nstamps; i++)
		if (nulls[kind->stamps[i] - 1] == ' ')
			outbox_stamp_raise(DatumGetInt64(values[kind->stamps[i] - 1]));
	outbox_sql_begin();
	outbox_sql_execute(kind->insert, kind->natts, types, values, nulls);
	outbox_sql_end();
	outbox_owner_leave(&scope);
}

/*
 * A row of the tables kept apart, which this restore or one before put there.
 */
static HeapTuple
next_generation(HeapTuple tup, TupleDesc desc)
{
	int			column = 1;
	bool		isnull;
	Datum		value = heap_getattr(tup, column, desc, &isnull);

	value = Int32GetDatum(isnull ? 0 : DatumGetInt32(value) + 1);
	isnull = false;
	return heap_modify_tuple_by_cols(tup, desc, 1, &column, &value, &isnull);
}

/*
 * Trigger of the segments ('log'), the position tables ('position') and the
 * tables kept apart ('generation').
 */
Datum
outbox_keep_restored(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	const char *what;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) || trigger->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" is a trigger of the event log's tables", "outbox._keep_restored")));
	desc = RelationGetDescr(trigger->tg_relation);
	what = trigger->tg_trigger->tgargs[0];
	if (strcmp(what, "generation") == 0)
		return PointerGetDatum(next_generation(trigger->tg_trigtuple, desc));
	keep_row(strcmp(what, "log") == 0 ? &log_rows : &position_rows,
			 trigger->tg_trigtuple, desc);
	return PointerGetDatum(NULL);
}

/* ---------------- at resume() ---------------- */

/* Where the original's relay stood for a server. */
typedef struct RestoredPosition
{
	int			generation;
	char	   *server;
	OutboxSnapshot *base;
	OutboxSnapshot *target;		/* NULL: none */
	int64		stamp;
	int64		id;
} RestoredPosition;

typedef struct RestoredStream
{
	int32		id;				/* hash key */
	char	   *server;
	char	   *topic;
} RestoredStream;

typedef struct TakeOver
{
	MemoryContext context;		/* what lives as long as it */
	MemoryContext row_context;	/* reset for each row of the log */
	List	   *positions;		/* RestoredPosition * */
	HTAB	   *streams;
	ParkBatch  *batch;			/* what is parked */
	char	   *named_server;	/* of the last event that named its topic, */
	char	   *named_topic;
	int32		named_stream;	/* and the topic's number */
	int64		taken;
	int64		settled;
} TakeOver;

static OutboxSnapshot *
snapshot_value(HeapTuple tup, TupleDesc desc, int column)
{
	char	   *str = SPI_getvalue(tup, desc, column);

	return str ? outbox_snapshot_in(str) : NULL;
}

static int64
int64_value(HeapTuple tup, TupleDesc desc, int column)
{
	bool		isnull;

	return DatumGetInt64(SPI_getbinval(tup, desc, column, &isnull));
}

/*
 * Of each origin and server the newest position.
 */
static void
load_positions(TakeOver *take)
{
	outbox_sql_begin();
	outbox_sql_execute("SELECT DISTINCT ON (generation, server)"
					   " generation::bigint, server, base, target, stamp, id"
					   "  FROM outbox._restored_position ORDER BY generation, server, seq DESC",
					   0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tup = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext oldcontext = MemoryContextSwitchTo(take->context);
		RestoredPosition *pos = palloc(sizeof(RestoredPosition));

		pos->generation = (int) int64_value(tup, desc, 1);
		pos->server = pstrdup(SPI_getvalue(tup, desc, 2));
		pos->base = snapshot_value(tup, desc, 3);
		pos->target = snapshot_value(tup, desc, 4);
		pos->stamp = int64_value(tup, desc, 5);
		pos->id = int64_value(tup, desc, 6);
		take->positions = lappend(take->positions, pos);
		MemoryContextSwitchTo(oldcontext);
	}
	outbox_sql_end();
}

static void
load_streams(TakeOver *take)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(RestoredStream);
	ctl.hcxt = take->context;
	take->streams = hash_create("pg_outbox restored streams", 64, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	outbox_sql_begin();
	outbox_sql_execute("SELECT id::bigint, server, topic FROM outbox._stream", 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tup = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		int32		id = (int32) int64_value(tup, desc, 1);
		RestoredStream *stream = hash_search(take->streams, &id, HASH_ENTER, NULL);

		stream->server = MemoryContextStrdup(take->context, SPI_getvalue(tup, desc, 2));
		stream->topic = MemoryContextStrdup(take->context, SPI_getvalue(tup, desc, 3));
	}
	outbox_sql_end();
}

/*
 * Had the original's relay settled the event?  As the view of its backlog
 * judges, see outbox._backlog().
 */
static bool
event_settled(const TakeOver *take, int generation, const char *server,
			  uint64 xid, int64 stamp, int64 id)
{
	ListCell   *lc;

	foreach(lc, take->positions)
	{
		const RestoredPosition *pos = lfirst(lc);

		if (pos->generation != generation || strcmp(pos->server, server) != 0)
			continue;
		if (outbox_snapshot_ended(pos->base, xid))
			return true;
		return pos->target != NULL && outbox_snapshot_ended(pos->target, xid) &&
			(stamp < pos->stamp || (stamp == pos->stamp && id <= pos->id));
	}
	return false;
}

/*
 * Server and topic of an event.
 */
static void
event_destination(const TakeOver *take, const OutboxEvent *ev,
				  const char **server, const char **topic)
{
	RestoredStream *stream;

	if (ev->stream == 0)
	{
		*server = pnstrdup(ev->server, ev->server_len);
		*topic = pnstrdup(ev->topic, ev->topic_len);
		return;
	}
	stream = hash_search(take->streams, &ev->stream, HASH_FIND, NULL);
	if (stream == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("restored event %lld is of unknown stream %d",
						(long long) ev->id, ev->stream)));
	*server = stream->server;
	*topic = stream->topic;
}

/*
 * The number of the event's topic.  One that names its topic may be the first
 * that makes a row of it.
 */
static int32
event_stream(TakeOver *take, const OutboxEvent *ev, const char *server, const char *topic)
{
	if (ev->stream != 0)
		return ev->stream;
	if (take->named_topic == NULL || strcmp(take->named_topic, topic) != 0 ||
		strcmp(take->named_server, server) != 0)
	{
		take->named_server = MemoryContextStrdup(take->context, server);
		take->named_topic = MemoryContextStrdup(take->context, topic);
		take->named_stream = outbox_park_stream(server, topic);
		if (take->named_stream == 0)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("topic \"%s\" of server \"%s\" was stored by a concurrent transaction",
							topic, server)));
	}
	return take->named_stream;
}

static void
take_event(TakeOver *take, int generation, uint64 xid, int64 stamp, const OutboxEvent *ev)
{
	const char *server;
	const char *topic;

	event_destination(take, ev, &server, &topic);
	if (event_settled(take, generation, server, xid, stamp, ev->id))
	{
		take->settled++;
		return;
	}
	outbox_park_add(take->batch, event_stream(take, ev, server, topic), stamp, ev);
	take->taken++;
}

static void
take_row(TakeOver *take, HeapTuple tup, TupleDesc desc)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(take->row_context);
	bool		isnull;
	int			generation = (int) int64_value(tup, desc, 1);
	uint64		xid = U64FromFullTransactionId(DatumGetFullTransactionId(SPI_getbinval(tup, desc, 2, &isnull)));
	int64		stamp = int64_value(tup, desc, 4);
	bytea	   *events = DatumGetByteaPP(SPI_getbinval(tup, desc, 5, &isnull));
	const char *pos = VARDATA_ANY(events);
	const char *end = pos + VARSIZE_ANY_EXHDR(events);
	OutboxEventCursor cursor;
	int			n = outbox_events_start(&pos, end, int64_value(tup, desc, 3), &cursor);

	for (int i = 0; i < n; i++)
	{
		OutboxEvent ev;

		outbox_event_unpack(&pos, end, &cursor, &ev);
		take_event(take, generation, xid, stamp, &ev);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(take->row_context);
}

/*
 * A row that was written before its commit stamp was known has that of a later
 * row of its transaction, the smallest beyond its id.
 */
static void
take_rows(TakeOver *take)
{
	Portal		portal;
	SPIPlanPtr	plan;

	outbox_sql_begin();
	plan = SPI_prepare("SELECT l.generation::bigint, l.xid, l.id, coalesce(l.stamp,"
					   " (SELECT pg_catalog.min(s.stamp) FROM outbox._restored_log AS s"
					   "   WHERE s.generation = l.generation AND s.xid = l.xid AND s.stamp > l.id), l.id), l.events"
					   "  FROM outbox._restored_log AS l", 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare the reading of restored events");
	take->batch = outbox_park_begin();
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	for (;;)
	{
		SPITupleTable *rows;
		uint64		nrows;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		rows = SPI_tuptable;
		nrows = SPI_processed;
		if (nrows == 0)
			break;
		for (uint64 i = 0; i < nrows; i++)
		{
			CHECK_FOR_INTERRUPTS();
			take_row(take, rows->vals[i], rows->tupdesc);
		}
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(portal);
	outbox_park_end(take->batch);
	outbox_sql_end();
}

static void
finish_restored(const TakeOver *take)
{
	outbox_sql_begin();
	outbox_sql_execute("UPDATE outbox._stream AS s SET state = 'stopped', since = pg_catalog.now(),"
					   " reason = 'events that were restored are sent first'"
					   " WHERE s.state = 'live' AND EXISTS (SELECT FROM outbox._parked AS k WHERE k.stream = s.id)",
					   0, NULL, NULL, NULL);
	outbox_sql_execute("DELETE FROM outbox._restored_log", 0, NULL, NULL, NULL);
	outbox_sql_execute("DELETE FROM outbox._restored_position", 0, NULL, NULL, NULL);
	outbox_sql_end();
	if (take->taken > 0)
		ereport(NOTICE,
				(errmsg("%lld events that had not been sent when the dump was made are sent now",
						(long long) take->taken),
				 errdetail("Which of them the original has sent since then is not known here; they have the same ids.")));
}

/*
 * Called by resume(), in its transaction and with the owner's rights, where
 * this database becomes one of its own.
 */
static void
take_over_restored(void)
{
	TakeOver	take = {0};

	take.context = AllocSetContextCreate(CurrentMemoryContext, "pg_outbox restored events",
										 ALLOCSET_DEFAULT_SIZES);
	take.row_context = AllocSetContextCreate(take.context, "pg_outbox restored row",
											 ALLOCSET_DEFAULT_SIZES);
	load_positions(&take);
	load_streams(&take);
	take_rows(&take);
	finish_restored(&take);
	MemoryContextDelete(take.context);
}

void
outbox_restored_init(void)
{
	outbox_worker_on_resume(take_over_restored);
}
