/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  The row trigger of captured tables: a change becomes an event of each
 *	  publication of its table.
 *
 * The event's id, its version, is taken here, in an AFTER ROW trigger: the
 * row is locked by then until the transaction ends, so that of two changes of
 * a row by different transactions the later one has the larger id.
 *
 * Within one transaction triggers do not fire in the order of the changes: a
 * trigger of the user that touches sibling rows of a statement has its
 * changes captured before the rest of that statement is.  So an event never
 * says what a row was when the trigger was queued, but what it is now:
 *
 * - if this transaction has replaced the row version already, the event
 *	 carries the newest one, or says that the row is gone;
 * - a delete is left out if a row of that identity is there again (a key that
 *	 another row of the statement took over, or was inserted again by a
 *	 trigger); that row has an event of its own.
 *
 * A delete can only be overtaken if a command ran after it, or if a key
 * changed; only then the table is looked at.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/capture.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/header.h"
#include "log/log.h"
#include "log/stamp.h"

PG_FUNCTION_INFO_V1(outbox_capture);

#define CACHE_LINE_BYTES 64
#define PREFETCH_BYTES 512

/* Buffers and context of the row at work; reset for each row. */
static StringInfoData key_buf;
static StringInfoData value_buf;
static StringInfoData header_buf;
static StringInfoData verbatim_buf; /* see note_verbatim() */
static MemoryContext row_context = NULL;
static bool capturing = false;	/* they are in use */

/* One row change, as the trigger sees it. */
typedef struct RowChange
{
	Relation	rel;
	TupleTableSlot *old_slot;	/* NULL for INSERT */
	TupleTableSlot *new_slot;	/* NULL for DELETE; newest version otherwise */
	bool		vanished;		/* INSERT, UPDATE: the row is gone again */
	bool		overtaken;		/* DELETE: commands ran since */
} RowChange;

/* ---------------- building messages ---------------- */

/*
 * List a column whose member is not all that its value was: the JSON value
 * null, or white space around a json.  A header names them, so that a replica
 * does not take the null for SQL's.
 */
static void
note_verbatim(const CapturedColumn *col)
{
	appendStringInfoChar(&verbatim_buf, verbatim_buf.len == 0 ? '[' : ',');
	appendBinaryStringInfo(&verbatim_buf, col->label, col->label_len - 1);
}

static void
append_value(StringInfo buf, CapturedColumn *col, Datum value)
{
	int			start = buf->len;

	outbox_encode_json(buf, &col->enc, value);
	if (col->enc.encoding == OUTBOX_ENC_JSON &&
		outbox_json_needs_verbatim(buf->data + start, buf->len - start))
		note_verbatim(col);
}

/*
 * The columns as a JSON object; verbatim_buf then says which are verbatim.
 */
static void
append_object(StringInfo buf, const CapturedColumns *columns, TupleTableSlot *slot)
{
	resetStringInfo(&verbatim_buf);
	slot_getsomeattrs(slot, columns->last);
	appendStringInfoCharMacro(buf, '{');
	for (int i = 0; i < columns->ncols; i++)
	{
		CapturedColumn *col = &columns->cols[i];

		if (i > 0)
			appendStringInfoCharMacro(buf, ',');
		appendBinaryStringInfoNT(buf, col->label, col->label_len);
		if (slot->tts_isnull[col->attnum - 1])
			appendBinaryStringInfoNT(buf, "null", 4);
		else
			append_value(buf, col, slot->tts_values[col->attnum - 1]);
	}
	appendStringInfoCharMacro(buf, '}');
	outbox_encode_to_utf8(buf);
}

/*
 * A message key: a single column's text, several columns as a JSON object.
 * A single column that is null gives none.
 */
static bool
append_key(StringInfo buf, const CapturedColumns *columns, TupleTableSlot *slot)
{
	CapturedColumn *col = &columns->cols[0];
	bool		isnull;
	Datum		value;

	if (columns->ncols > 1)
	{
		append_object(buf, columns, slot);
		return true;
	}
	value = slot_getattr(slot, col->attnum, &isnull);
	if (isnull)
		return false;
	outbox_encode_text(buf, &col->enc, value);
	outbox_encode_to_utf8(buf);
	return true;
}

static void
append_source_header(StringInfo buf, Relation rel)
{
	outbox_header_add(buf, "source",
					  psprintf("%s.%s.%s", get_database_name(MyDatabaseId),
							   get_namespace_name(RelationGetNamespace(rel)),
							   RelationGetRelationName(rel)));
}

static void
build_headers(CapturedPublication *pub, Relation rel)
{
	resetStringInfo(&header_buf);
	if (pub->headers != NULL)
		appendBinaryStringInfoNT(&header_buf, pub->headers, pub->headers_len);
	if (pub->with_headers & CAPTURE_HEADER_SOURCE)
		append_source_header(&header_buf, rel);
	if (pub->with_headers & CAPTURE_HEADER_TXID)
	{
		char		txid[32];

		snprintf(txid, sizeof(txid), UINT64_FORMAT,
				 U64FromFullTransactionId(GetTopFullTransactionId()));
		outbox_header_add(&header_buf, "txid", txid);
	}
	if (verbatim_buf.len > 0)
	{
		appendStringInfoChar(&verbatim_buf, ']');
		outbox_header_add(&header_buf, OUTBOX_HEADER_VERBATIM, verbatim_buf.data);
	}
	outbox_session_headers(&header_buf);
}

/*
 * A primary key's columns are never null; those of another unique index may
 * have lost their constraint.
 */
static void
check_identity(CapturedPublication *pub, Relation rel, TupleTableSlot *slot)
{
	for (int i = 0; i < pub->identity.ncols; i++)
	{
		AttrNumber	attnum = pub->identity.cols[i].attnum;

		if (slot_attisnull(slot, attnum))
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("null value in column \"%s\" of table \"%s\", which identifies rows of publication \"%s\"",
							NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname),
							RelationGetRelationName(rel), pub->name),
					 errhint("Set the column NOT NULL again, or publish the table with another identity.")));
	}
}

/*
 * Record one event about the row in the slot.  "id" and "version" are zero
 * unless the event gives them.
 */
static void
record_event_as(CapturedPublication *pub, Relation rel, OutboxOp op,
				TupleTableSlot *slot, int64 id, int64 version)
{
	OutboxEvent ev;

	check_identity(pub, rel, slot);
	memset(&ev, 0, sizeof(ev));
	ev.op = op;
	ev.version = version;
	ev.stream = pub->stream;
	ev.time_ms = outbox_statement_time_ms();

	resetStringInfo(&verbatim_buf);
	/* without a key a row's events would go to any partition, in no order */
	resetStringInfo(&key_buf);
	if (!append_key(&key_buf, &pub->key, slot))
		(void) append_key(&key_buf, &pub->identity, slot);
	ev.key = key_buf.data;
	ev.key_len = key_buf.len;
	if (op != OUTBOX_OP_DELETE || !pub->key_is_identity)
	{
		bool		identity_only = pub->thin || op == OUTBOX_OP_DELETE;

		resetStringInfo(&value_buf);
		append_object(&value_buf, identity_only ? &pub->identity : &pub->value, slot);
		ev.value = value_buf.data;
		ev.value_len = value_buf.len;
	}
	build_headers(pub, rel);
	if (header_buf.len > 0)
	{
		ev.headers = header_buf.data;
		ev.headers_len = header_buf.len;
	}
	ev.id = (id != 0) ? id : outbox_stamp_next();
	outbox_log_append(&ev);
	if (unlikely(outbox_truncated != NIL))
		outbox_truncate_forget(pub->root);
}

/*
 * Record an event about all that the publication's topic says.  Its key is not
 * null and it has a value, as compacted topics ask for the one and forget what
 * lacks the other.
 */
void
outbox_capture_whole(CapturedPublication *pub, Relation rel, OutboxOp op, int64 version)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(row_context);
	OutboxEvent ev;

	Assert(capturing);
	memset(&ev, 0, sizeof(ev));
	ev.op = op;
	ev.version = version;
	ev.stream = pub->stream;
	ev.time_ms = outbox_statement_time_ms();
	ev.key = (op == OUTBOX_OP_TRUNCATE) ? "pg_outbox.truncate" : "pg_outbox.resync";
	ev.key_len = strlen(ev.key);
	ev.value = "{}";
	ev.value_len = strlen(ev.value);
	resetStringInfo(&verbatim_buf);
	build_headers(pub, rel);
	if (header_buf.len > 0)
	{
		ev.headers = header_buf.data;
		ev.headers_len = header_buf.len;
	}
	ev.id = outbox_stamp_next();
	outbox_log_append(&ev);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Where the log is full, a copy may bring what a row is now; it cannot bring
 * that one is gone.
 */
static void
record_event(CapturedPublication *pub, Relation rel, OutboxOp op, TupleTableSlot *slot)
{
	if (op != OUTBOX_OP_DELETE && outbox_log_leaves_to_copy())
		outbox_unrecorded_note(pub);
	else
		record_event_as(pub, rel, op, slot, 0, 0);
}

/* ---------------- what happened to the row ---------------- */

/*
 * Read the head of the slot's row version.  Others may lock the row meanwhile,
 * which changes it in several steps: hence the buffer's lock.  It is spared
 * where nobody has changed the row: what our transaction did stays to be seen.
 */
static void
read_head(TupleTableSlot *slot, HeapTupleHeader head)
{
	HeapTuple	tup = ExecFetchSlotHeapTuple(slot, false, NULL);
	Buffer		buf = ((BufferHeapTupleTableSlot *) slot)->buffer;
	bool		lock = BufferIsValid(buf) && (tup->t_data->t_infomask & HEAP_XMAX_INVALID) == 0;

	if (lock)
		LockBuffer(buf, BUFFER_LOCK_SHARE);
	memcpy(head, tup->t_data, SizeofHeapTupleHeader);
	if (lock)
		LockBuffer(buf, BUFFER_LOCK_UNLOCK);
}

/*
 * A bulk statement has changed many other rows since this one, so its content
 * is no longer in the processor's caches: have it on its way while the head is
 * looked at.
 */
static void
prefetch_row(TupleTableSlot *slot)
{
	HeapTuple	tup;

	if (!TTS_IS_BUFFERTUPLE(slot))
		return;
	tup = ((BufferHeapTupleTableSlot *) slot)->base.tuple;
	for (uint32 off = 0; off < Min(tup->t_len, PREFETCH_BYTES); off += CACHE_LINE_BYTES)
		outbox_prefetch((char *) tup->t_data + off);
}

/*
 * Has this transaction replaced or deleted the row version?
 */
static bool
is_superseded(HeapTupleHeader head)
{
	if ((head->t_infomask & HEAP_XMAX_INVALID) ||
		HEAP_XMAX_IS_LOCKED_ONLY(head->t_infomask))
		return false;
	return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(head));
}

/*
 * Follow the row to its newest version in this transaction, which replaces
 * the slot's content; false if the row is gone.  Only heap tables keep the
 * chain; with other access methods the version at hand is taken.
 */
static bool
follow_row(Relation rel, TupleTableSlot *slot)
{
	while (TTS_IS_BUFFERTUPLE(slot))
	{
		HeapTupleHeaderData head;
		ItemPointerData next;

		read_head(slot, &head);
		next = head.t_ctid;
		if (!is_superseded(&head))
			return true;
		if (HeapTupleHeaderIndicatesMovedPartitions(&head) ||
			ItemPointerEquals(&next, &slot->tts_tid))
			return false;
		if (!table_tuple_fetch_row_version(rel, &next, SnapshotAny, slot))
			return false;
	}
	return true;
}

/*
 * Did a command run after the one that deleted the row?
 */
static bool
commands_since_delete(TupleTableSlot *slot)
{
	HeapTupleHeaderData head;

	if (!TTS_IS_BUFFERTUPLE(slot))
		return true;
	read_head(slot, &head);
	if (!is_superseded(&head))
		return true;
	return HeapTupleHeaderGetCmax(&head) != GetCurrentCommandId(false);
}

static bool
columns_differ(const CapturedColumns *columns, Relation rel,
			   TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < columns->ncols; i++)
	{
		AttrNumber	attnum = columns->cols[i].attnum;
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
		bool		anull;
		bool		bnull;
		Datum		aval = slot_getattr(a, attnum, &anull);
		Datum		bval = slot_getattr(b, attnum, &bnull);

		if (anull != bnull)
			return true;
		if (!anull && !datum_image_eq(aval, bval, att->attbyval, att->attlen))
			return true;
	}
	return false;
}

static bool
passes_filter(CapturedPublication *pub, TupleTableSlot *slot)
{
	bool		passes;

	if (pub->filter == NULL)
		return true;
	ResetExprContext(pub->econtext);
	pub->econtext->ecxt_scantuple = slot;
	passes = ExecQual(pub->filter, pub->econtext);
	return passes;
}

/* ---------------- from changes to events ---------------- */

/*
 * The row of this identity goes, unless another one has taken its place.
 */
static void
record_delete(CapturedPublication *pub, const RowChange *change,
			  TupleTableSlot *slot, bool may_be_replaced)
{
	if (may_be_replaced && outbox_capture_probe(pub, change->rel, slot))
		return;
	record_event(pub, change->rel, OUTBOX_OP_DELETE, slot);
}

static void
capture_update(CapturedPublication *pub, const RowChange *change)
{
	bool		was_in = passes_filter(pub, change->old_slot);
	bool		is_in = !change->vanished && passes_filter(pub, change->new_slot);
	bool		rekeyed = columns_differ(&pub->identity, change->rel,
										 change->old_slot, change->new_slot);

	if (was_in && (rekeyed || !is_in))
		record_delete(pub, change, change->old_slot, true);
	if (!is_in)
		return;
	if (was_in && !rekeyed)
	{
		if (pub->skip_unchanged &&
			!columns_differ(&pub->value, change->rel, change->old_slot, change->new_slot))
			return;
		record_event(pub, change->rel, OUTBOX_OP_UPDATE, change->new_slot);
	}
	else
		record_event(pub, change->rel, OUTBOX_OP_CREATE, change->new_slot);
}

static void
capture_change(CapturedPublication *pub, const RowChange *change)
{
	if (change->old_slot == NULL)
	{
		if (!passes_filter(pub, change->new_slot))
			return;
		if (change->vanished)
			record_delete(pub, change, change->new_slot, true);
		else
			record_event(pub, change->rel, OUTBOX_OP_CREATE, change->new_slot);
	}
	else if (change->new_slot == NULL)
	{
		if (passes_filter(pub, change->old_slot))
			record_delete(pub, change, change->old_slot, change->overtaken);
	}
	else
		capture_update(pub, change);
}

static void
describe_change(RowChange *change, TriggerData *trigdata)
{
	memset(change, 0, sizeof(*change));
	change->rel = trigdata->tg_relation;
	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		change->new_slot = trigdata->tg_trigslot;
	else if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		change->old_slot = trigdata->tg_trigslot;
	else
	{
		change->old_slot = trigdata->tg_trigslot;
		change->new_slot = trigdata->tg_newslot;
	}

	prefetch_row(change->new_slot != NULL ? change->new_slot : change->old_slot);
	if (change->new_slot != NULL)
		change->vanished = !follow_row(change->rel, change->new_slot);
	else
		change->overtaken = commands_since_delete(change->old_slot);
}

/*
 * Capturing runs code of users: row filters.  If that changed a published
 * table, buffers and cache would be used by two at once.
 */
void
outbox_capture_begin(Relation rel)
{
	if (capturing)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("cannot change published table \"%s\" while another change is being captured",
						RelationGetRelationName(rel)),
				 errhint("Functions that row filters call must not change published tables.")));
	if (row_context == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		row_context = AllocSetContextCreate(TopMemoryContext, "pg_outbox row",
											ALLOCSET_DEFAULT_SIZES);
		initStringInfo(&key_buf);
		initStringInfo(&value_buf);
		initStringInfo(&header_buf);
		initStringInfo(&verbatim_buf);
		MemoryContextSwitchTo(oldcontext);
	}
	capturing = true;
}

/*
 * A huge row must not stay in memory for the rest of the session.
 */
static void
row_forget(void)
{
	StringInfo	bufs[] = {&key_buf, &value_buf, &header_buf, &verbatim_buf};

	MemoryContextReset(row_context);
	for (int i = 0; i < lengthof(bufs); i++)
		if (bufs[i]->maxlen > 1024 * 1024)
		{
			MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

			pfree(bufs[i]->data);
			initStringInfo(bufs[i]);
			MemoryContextSwitchTo(oldcontext);
		}
}

/*
 * Also after an error.
 */
void
outbox_capture_end(void)
{
	row_forget();
	capturing = false;
}

bool
outbox_capture_read(CapturedPublication *pub, Relation rel, TupleTableSlot *slot,
					int64 id, int64 version)
{
	MemoryContext oldcontext;
	bool		shown;

	Assert(capturing);
	oldcontext = MemoryContextSwitchTo(row_context);
	shown = passes_filter(pub, slot);
	if (shown)
		record_event_as(pub, rel, OUTBOX_OP_READ, slot, id, version);
	MemoryContextSwitchTo(oldcontext);
	row_forget();
	return shown;
}

static void
capture_row(TriggerData *trigdata)
{
	CapturedRelation *captured = outbox_captured_relation(trigdata->tg_relation);
	RowChange	change;
	MemoryContext oldcontext;
	int			pin_level = -1;

	if (captured->npubs == 0)
		return;
	oldcontext = MemoryContextSwitchTo(row_context);
	if (captured->pinned)
		pin_level = outbox_encode_pin();
	describe_change(&change, trigdata);
	for (int i = 0; i < captured->npubs; i++)
		capture_change(&captured->pubs[i], &change);
	outbox_encode_unpin(pin_level);
	MemoryContextSwitchTo(oldcontext);
}

Datum
outbox_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_capture\" must be fired AFTER ROW"),
				 errhint("Use outbox.publish to capture a table.")));
	if (!outbox_capture_enabled())
		return PointerGetDatum(NULL);

	outbox_capture_begin(trigdata->tg_relation);
	PG_TRY();
	{
		capture_row(trigdata);
	}
	PG_FINALLY();
	{
		outbox_capture_end();
	}
	PG_END_TRY();
	return PointerGetDatum(NULL);
}
