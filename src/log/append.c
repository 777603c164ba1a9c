/*-------------------------------------------------------------------------
 *
 * append.c
 *	  Writers' side of the event log: a transaction's events on their way.
 *
 * Events are packed into chunks in memory and written as one row per chunk
 * when the transaction is about to commit or to be prepared.  That spares
 * opening the log and its index for every event, lets a bulk statement share
 * a row among hundreds of events, and lets every row carry the commit stamp,
 * which is taken at that moment.
 *
 * Subtransactions.  Where a subtransaction first appends, a mark remembers
 * where the buffer stood; its abort cuts the buffer back to there, its commit
 * hands the mark to the parent.  So a row per savepoint is not needed.
 *
 * Memory.  When more than pg_outbox.event_buffer is held, what the current
 * subtransaction appended is written at once, without a commit stamp; the
 * rows written at the end have it.  Such rows are the subtransaction's own:
 * if it aborts they were never there.  What outer levels hold cannot be
 * written on behalf of an inner one and stays in memory.
 *
 * State is backend-local and lives as long as the top-level transaction.  One
 * pair of callbacks is registered at load; commit and abort both reset it.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/log.h"

#include <limits.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "common/fault.h"
#include "log/log_internal.h"
#include "log/stamp.h"

/*
 * A row's events: what fits on a page with the tuple's header, index-free
 * columns and the head of the packed events.
 */
#define CHUNK_BYTES 8000

#define EVENT_MAX_MB 128

typedef struct Chunk
{
	int64		id;				/* the first event's */
	int64		time_ms;		/* likewise */
	OutboxEventCursor cur;
	int			nevents;
	bool		sealed;			/* nothing may be added */
	StringInfoData body;
} Chunk;

/* Where the buffer stood when a subtransaction first appended. */
typedef struct Mark
{
	SubTransactionId subid;
	int			nchunks;		/* chunks there were */
	int			body_len;		/* of the last one of them */
	int			nevents;
	bool		sealed;
	OutboxEventCursor cur;
} Mark;

/* The current transaction's events; all zero when it has none. */
typedef struct PendingEvents
{
	MemoryContext context;		/* NULL: nothing appended yet */
	Chunk	   *chunks;
	int			nchunks;
	int			maxchunks;
	Mark	   *marks;			/* of open subtransactions, ascending subid */
	int			nmarks;
	int			maxmarks;
	Size		bytes;			/* held in chunks */
	int64		nevents;		/* appended, aborted parts included */
	bool		wrote_early;	/* rows without commit stamp exist */
	int			segment;		/* -1: not chosen yet */
	Oid			stampid;		/* outbox._stamp: the extension they belong to */
} PendingEvents;

static PendingEvents pending;
static bool ending = false;		/* what there was of the transaction's is
								 * written */
static void (*commit_hook) (int64 nevents) = NULL;
static int	event_buffer_kb = 1024;

/* ---------------- the buffer ---------------- */

static void
pending_begin(void)
{
	MemoryContext context;

	outbox_backlog_check(0);
	context = AllocSetContextCreate(TopTransactionContext,
									"pg_outbox pending events",
									ALLOCSET_DEFAULT_SIZES);
	pending.maxchunks = 8;
	pending.chunks = MemoryContextAlloc(context, sizeof(Chunk) * pending.maxchunks);
	pending.maxmarks = 8;
	pending.marks = MemoryContextAlloc(context, sizeof(Mark) * pending.maxmarks);
	pending.segment = -1;
	pending.stampid = outbox_stamp_sequence();
	pending.context = context;	/* from here on it is complete */
}

/*
 * What is pending belongs to an extension that was dropped and created again.
 * Where a rollback to a savepoint may bring it back, nothing is forgotten.
 */
static void
pending_forget(void)
{
	if (pending.nchunks > 0 && GetCurrentTransactionNestLevel() > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot record events after extension pg_outbox was created again in a subtransaction"),
				 errdetail("Events that were recorded before would be lost if the subtransaction were rolled back."),
				 errhint("Create the extension again in a transaction of its own.")));
	memset(&pending, 0, sizeof(pending));
}

static Chunk *
last_chunk(void)
{
	return pending.nchunks > 0 ? &pending.chunks[pending.nchunks - 1] : NULL;
}

/*
 * A chunk counts only when it is complete: memory may run out on the way, and
 * the abort of a subtransaction then frees what there is.
 */
static Chunk *
new_chunk(const OutboxEvent *ev)
{
	Chunk	   *chunk;

	if (pending.nchunks == pending.maxchunks)
	{
		pending.chunks = repalloc_huge(pending.chunks,
									   sizeof(Chunk) * pending.maxchunks * 2);
		pending.maxchunks *= 2;
	}
	chunk = &pending.chunks[pending.nchunks];
	memset(chunk, 0, sizeof(*chunk));
	chunk->id = ev->id;
	chunk->time_ms = ev->time_ms;
	chunk->cur.id = ev->id;
	chunk->cur.time_ms = ev->time_ms;
	OUTBOX_FAULT("log.new_chunk");
	initStringInfo(&chunk->body);
	/* a transaction that fills one chunk will fill this one too */
	if (pending.nchunks > 0)
		enlargeStringInfo(&chunk->body, CHUNK_BYTES);
	pending.nchunks++;
	return chunk;
}

/*
 * Remember where we stood, if this is the subtransaction's first event.
 */
static void
mark_subtransaction(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	Mark	   *mark;
	Chunk	   *chunk = last_chunk();

	if (subid == TopSubTransactionId)
		return;
	if (pending.nmarks > 0 && pending.marks[pending.nmarks - 1].subid == subid)
		return;

	if (pending.nmarks == pending.maxmarks)
	{
		pending.marks = repalloc(pending.marks, sizeof(Mark) * pending.maxmarks * 2);
		pending.maxmarks *= 2;
	}
	mark = &pending.marks[pending.nmarks++];
	memset(mark, 0, sizeof(*mark));
	mark->subid = subid;
	mark->nchunks = pending.nchunks;
	if (chunk != NULL)
	{
		mark->body_len = chunk->body.len;
		mark->nevents = chunk->nevents;
		mark->sealed = chunk->sealed;
		mark->cur = chunk->cur;
	}
}

/*
 * Cut the buffer back to a mark.
 */
static void
cut_back(const Mark *mark)
{
	Chunk	   *chunk;

	while (pending.nchunks > mark->nchunks)
	{
		chunk = &pending.chunks[--pending.nchunks];
		pending.bytes -= chunk->body.len;
		pfree(chunk->body.data);
	}
	chunk = last_chunk();
	if (chunk != NULL)
	{
		pending.bytes -= chunk->body.len - mark->body_len;
		chunk->body.len = mark->body_len;
		chunk->nevents = mark->nevents;
		chunk->sealed = mark->sealed;
		chunk->cur = mark->cur;
	}
}

/* ---------------- writing ---------------- */

/*
 * Write packed events as a row.  "id" and "time_ms" are those of the first.
 */
static void
write_events(const char *body, int len, int nevents, int64 id, int64 time_ms,
			 int64 stamp)
{
	StringInfoData buf;

	if (pending.segment < 0)
		pending.segment = outbox_segment_current();

	initStringInfo(&buf);
	enlargeStringInfo(&buf, VARHDRSZ + 32 + len);
	buf.len = VARHDRSZ;
	outbox_events_head(&buf, nevents, time_ms);
	appendBinaryStringInfoNT(&buf, body, len);
	SET_VARSIZE(buf.data, buf.len);

	outbox_segment_write(pending.segment,
						 U64FromFullTransactionId(GetTopFullTransactionId()),
						 id, stamp, (bytea *) buf.data);
	pfree(buf.data);
}

/*
 * Write the events of a chunk that follow the mark.  They are packed anew, as
 * the first one refers to an event that stays behind.
 */
static void
write_tail(const Chunk *chunk, const Mark *mark)
{
	const char *pos = chunk->body.data + mark->body_len;
	const char *end = chunk->body.data + chunk->body.len;
	OutboxEventCursor from = mark->cur;
	OutboxEventCursor to;
	OutboxEvent ev;
	StringInfoData body;
	int64		id = 0;
	int64		time_ms = 0;

	if (pos == end)
		return;
	initStringInfo(&body);
	for (int i = 0; pos < end; i++)
	{
		outbox_event_unpack(&pos, end, &from, &ev);
		if (i == 0)
		{
			to.id = id = ev.id;
			to.time_ms = time_ms = ev.time_ms;
		}
		outbox_event_pack(&body, &to, &ev);
	}
	write_events(body.data, body.len, chunk->nevents - mark->nevents,
				 id, time_ms, 0);
	pfree(body.data);
}

/*
 * Write what the current subtransaction has appended and forget it.
 */
static void
write_early(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	Mark		start;

	memset(&start, 0, sizeof(start));
	if (subid != TopSubTransactionId)
	{
		if (pending.nmarks == 0 || pending.marks[pending.nmarks - 1].subid != subid)
			return;				/* all of it belongs to outer levels */
		start = pending.marks[pending.nmarks - 1];
	}

	outbox_backlog_check(pending.bytes);
	if (start.nchunks > 0)
		write_tail(&pending.chunks[start.nchunks - 1], &start);
	for (int i = start.nchunks; i < pending.nchunks; i++)
	{
		Chunk	   *chunk = &pending.chunks[i];

		write_events(chunk->body.data, chunk->body.len, chunk->nevents,
					 chunk->id, chunk->time_ms, 0);
	}
	cut_back(&start);

	/* ids of what remains must not span the ids just written */
	if (last_chunk() != NULL)
		last_chunk()->sealed = true;
	if (pending.nmarks > 0)
		pending.marks[pending.nmarks - 1].sealed = true;
	pending.wrote_early = true;
}

/*
 * Write everything, with the commit stamp.
 */
static void
write_all(void)
{
	int64		stamp;

	if (pending.nchunks == 0 && !pending.wrote_early)
		return;
	Assert(pending.nmarks == 0);

	/* DROP EXTENSION in this transaction took the log along */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(pending.stampid)))
		return;

	stamp = outbox_stamp_next();
	OUTBOX_FAULT("log.before_write");
	for (int i = 0; i < pending.nchunks; i++)
	{
		Chunk	   *chunk = &pending.chunks[i];

		if (chunk->nevents > 0)
			write_events(chunk->body.data, chunk->body.len, chunk->nevents,
						 chunk->id, chunk->time_ms, stamp);
	}
	/* rows written early find the stamp in a row of their transaction */
	if (pending.wrote_early)
		write_events("", 0, 0, stamp, 0, stamp);

	pending.nchunks = 0;
	pending.bytes = 0;
	pending.wrote_early = false;
	OUTBOX_FAULT("log.after_write");
}

/*
 * The relay holds an event in memory, several times for moments.  No server
 * takes messages that come near this size (see option message.max.bytes).
 */
static void
check_size(const OutboxEvent *ev)
{
	int64		size = (int64) ev->key_len + ev->value_len + ev->headers_len;

	if (size > EVENT_MAX_MB * INT64CONST(1024) * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("event is too large"),
				 errdetail("It has %lld MB; the limit is %d MB, and messages of more than 64 MB cannot be sent at all.",
						   (long long) size / (1024 * 1024), EVENT_MAX_MB),
				 errhint("Publish the table without its large columns, or with mode => 'key'.")));
}

/*
 * Another library may change tables in its own callback at the end of the
 * transaction, and that may come behind ours.
 */
void
outbox_log_check_open(void)
{
	if (ending)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot record events at the very end of a transaction"),
				 errdetail("Another library changes published data there, after the transaction's events were written."),
				 errhint("Load library \"pg_outbox\" before that one, by the order in shared_preload_libraries.")));
}

void
outbox_log_append(const OutboxEvent *ev)
{
	MemoryContext oldcontext;
	Chunk	   *chunk;
	int			len;

	outbox_log_check_open();
	check_size(ev);
	if (pending.context != NULL && pending.stampid != outbox_stamp_sequence())
		pending_forget();
	if (pending.context == NULL)
		pending_begin();
	oldcontext = MemoryContextSwitchTo(pending.context);

	mark_subtransaction();
	chunk = last_chunk();
	if (chunk == NULL || chunk->sealed ||
		chunk->body.len + outbox_event_size(ev) > CHUNK_BYTES)
		chunk = new_chunk(ev);

	len = chunk->body.len;
	outbox_event_pack(&chunk->body, &chunk->cur, ev);
	chunk->nevents++;
	pending.bytes += chunk->body.len - len;
	pending.nevents++;

	if (pending.bytes > (Size) event_buffer_kb * 1024)
		write_early();
	MemoryContextSwitchTo(oldcontext);
}

void
outbox_log_visit_pending(OutboxEventVisitor visit, void *arg)
{
	for (int i = 0; i < pending.nchunks; i++)
	{
		Chunk	   *chunk = &pending.chunks[i];
		const char *pos = chunk->body.data;
		const char *end = pos + chunk->body.len;
		OutboxEventCursor cur = {chunk->id, chunk->time_ms};
		OutboxEvent ev;

		while (pos < end)
		{
			outbox_event_unpack(&pos, end, &cur, &ev);
			visit(&ev, arg);
		}
	}
}

/* ---------------- transaction callbacks ---------------- */

static void
log_xact_callback(XactEvent event, void *arg)
{
	int64		nevents;

	ending = event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE;
	if (pending.context == NULL)
		return;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			write_all();
			break;
		case XACT_EVENT_COMMIT:
			nevents = pending.nevents;
			memset(&pending, 0, sizeof(pending));
			OUTBOX_FAULT("log.before_wake");
			if (commit_hook != NULL)
				commit_hook(nevents);
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			/* the context goes with TopTransactionContext */
			memset(&pending, 0, sizeof(pending));
			break;
		default:
			break;
	}
}

static void
log_subxact_abort(SubTransactionId subid)
{
	int			first = pending.nmarks;

	while (first > 0 && pending.marks[first - 1].subid >= subid)
		first--;
	if (first < pending.nmarks)
	{
		cut_back(&pending.marks[first]);
		pending.nmarks = first;
	}
}

/*
 * The subtransaction's events become its parent's: so does the mark, unless
 * the parent has one of its own or is the transaction itself.
 */
static void
log_subxact_commit(SubTransactionId subid, SubTransactionId parent)
{
	Mark	   *mark;

	if (pending.nmarks == 0 || pending.marks[pending.nmarks - 1].subid != subid)
		return;
	mark = &pending.marks[pending.nmarks - 1];
	if (parent == TopSubTransactionId ||
		(pending.nmarks > 1 && mark[-1].subid == parent))
		pending.nmarks--;
	else
		mark->subid = parent;
}

static void
log_subxact_callback(SubXactEvent event, SubTransactionId subid,
					 SubTransactionId parent, void *arg)
{
	if (pending.context == NULL)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		log_subxact_abort(subid);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		log_subxact_commit(subid, parent);
}

void
outbox_log_set_commit_hook(void (*hook) (int64 nevents))
{
	commit_hook = hook;
}

void
outbox_log_init(void)
{
	DefineCustomIntVariable("pg_outbox.event_buffer",
							"Memory in which a transaction holds its events before it writes them to the log.",
							"A transaction with more events writes them in parts.",
							&event_buffer_kb, 1024, 64, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	outbox_backlog_init();
	RegisterXactCallback(log_xact_callback, NULL);
	RegisterSubXactCallback(log_subxact_callback, NULL);
}
