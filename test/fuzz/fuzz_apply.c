/*-------------------------------------------------------------------------
 *
 * fuzz_apply.c
 *	  Targets for the way of a record into a table, and of a value there and
 *	  back.
 *
 * Tables are those of setup.sql.  What a target writes goes with its
 * subtransaction.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "fuzz.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"

#include "apply/deliver.h"
#include "apply/replica.h"
#include "apply/row.h"
#include "apply/target.h"
#include "capture/encode.h"
#include "common/pinned.h"

/* ---------------- queries ---------------- */

typedef struct SavedQuery
{
	const char *sql;
	Oid			argtype;		/* of $1; InvalidOid: none */
	SPIPlanPtr	plan;
} SavedQuery;

/* The one value that the query returns, as text; NULL if null or no row. */
static char *
query_text(SavedQuery *query, Datum arg)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *result = NULL;

	CommandCounterIncrement();
	SPI_connect();
	if (query->plan == NULL)
	{
		query->plan = SPI_prepare(query->sql, OidIsValid(query->argtype) ? 1 : 0, &query->argtype);
		SPI_keepplan(query->plan);
	}
	SPI_execute_plan(query->plan, &arg, NULL, false, 2);
	fuzz_check(SPI_processed <= 1);
	if (SPI_processed == 1)
	{
		char	   *text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		result = text ? MemoryContextStrdup(context, text) : NULL;
	}
	SPI_finish();
	return result;
}

/* ---------------- record: as it comes from Kafka, into a replica ---------------- */

/* Bytes of their own, or NULL for the one byte that stands for Kafka's null. */
static const char *
field_bytes(const FuzzField *field, int32 *len)
{
	bool		is_null = field->len == 1 && field->data[0] == (char) 0xFE;

	*len = is_null ? 0 : field->len;
	return is_null ? NULL : field->data;
}

/* Key, value, and names and values of headers. */
static void
record_from_input(OutboxRecord *rec, const char *data, int len)
{
	int			n;
	FuzzField  *fields = fuzz_split(data, len, &n);

	memset(rec, 0, sizeof(*rec));
	rec->kind = OUTBOX_RECORD_EVENT;
	rec->topic = "fuzz";
	rec->timestamp_ms = 1700000000000;
	rec->headers = palloc0(sizeof(OutboxHeader) * n);
	rec->key = field_bytes(&fields[0], &rec->key_len);
	if (n > 1)
		rec->value = field_bytes(&fields[1], &rec->value_len);
	for (int i = 2; i + 1 < n; i += 2)
	{
		OutboxHeader *header = &rec->headers[rec->nheaders++];

		header->name = fuzz_cstring(&fields[i]);
		header->value = field_bytes(&fields[i + 1], &header->value_len);
	}
}

static bool
has_header(const OutboxRecord *rec, const char *name)
{
	for (int i = 0; i < rec->nheaders; i++)
		if (strcmp(rec->headers[i].name, name) == 0)
			return true;
	return false;
}

/*
 * Does the row say what PostgreSQL itself makes of the value?  Under the same
 * settings, as the extension reads it.
 */
static void
compare_row(void *arg)
{
	static SavedQuery query = {
		"SELECT pg_catalog.record_image_eq(ROW(t.name, t.n, t.ok, t.j, t.tags, t.at),"
		" ROW(p.name, p.n, p.ok, p.j, p.tags, p.at)) AND coalesce(p.id, t.id) = t.id"
		" FROM fuzz_record t, pg_catalog.json_populate_record(NULL::fuzz_record_value, $1) p",
		JSONOID
	};
	const OutboxRecord *rec = arg;
	int			nest_level = outbox_pin_settings();
	char	   *same = query_text(&query, PointerGetDatum(cstring_to_text_with_len(rec->value, rec->value_len)));

	outbox_unpin_settings(nest_level);
	if (same == NULL || strcmp(same, "t") != 0)
		fuzz_finding("the row is not what the value says");
}

static void
check_row(OutboxRecord *rec)
{
	int			sqlerrcode;

	/* numbers that PostgreSQL cannot store may stand where nobody reads them */
	if (!fuzz_is_jsonb(rec->value, rec->value_len, NULL))
		return;
	if (fuzz_raises(compare_row, rec, &sqlerrcode))
		fuzz_finding("PostgreSQL refuses the value with %s", unpack_sql_state(sqlerrcode));
}

static void
init_feed(OutboxFeed *feed, OutboxSubscription *sub)
{
	memset(sub, 0, sizeof(*sub));
	memset(feed, 0, sizeof(*feed));
	feed->sub = sub;
	sub->name = "fuzz";
}

/* Into the table that holds nothing yet; true if the record's value is there now. */
static bool
deliver_record(OutboxFeed *feed, const OutboxRecord *rec)
{
	char		fate = -1;
	int			delivered;

	feed->sub->target = RelnameGetRelid("fuzz_record");
	outbox_deliver(feed, rec, &fate, 1, true, &delivered);
	fuzz_check(delivered == 1 && (fate == OUTBOX_APPLY_APPLIED || fate == OUTBOX_APPLY_DELETED));
	return fate == OUTBOX_APPLY_APPLIED;
}

static void
fuzz_record(const char *data, int len)
{
	OutboxSubscription sub;
	OutboxFeed	feed;
	OutboxRecord rec;
	int64		version;

	record_from_input(&rec, data, len);
	init_feed(&feed, &sub);
	sub.target = RelnameGetRelid("fuzz_record");
	(void) outbox_deliver_identity(&feed, &rec, &version);
	(void) outbox_deliver_key_identity(&rec);
	if (deliver_record(&feed, &rec) && !has_header(&rec, OUTBOX_HEADER_VERBATIM))
		check_row(&rec);
}

/* ---------------- row: the members of a value, each a text of its own ---------------- */

static void
fuzz_row(const char *data, int len)
{
	static const char *const names[] = {"id", "name", "n", "ok", "j", "tags", "at"};
	static OutboxHeader id = {"id", "5", 1};
	OutboxSubscription sub;
	OutboxFeed	feed;
	OutboxRecord rec;
	StringInfoData buf;
	int			n;
	FuzzField  *fields = fuzz_split(data, len, &n);

	if (n < lengthof(names))
		return;
	initStringInfo(&buf);
	for (int i = 0; i < lengthof(names); i++)
	{
		appendStringInfo(&buf, "%s\"%s\":", i == 0 ? "{" : ",", names[i]);
		appendBinaryStringInfo(&buf, fields[i].data, fields[i].len);
	}
	appendStringInfoChar(&buf, '}');
	memset(&rec, 0, sizeof(rec));
	rec.topic = "fuzz";
	rec.value = buf.data;
	rec.value_len = buf.len;
	rec.headers = &id;
	rec.nheaders = 1;
	init_feed(&feed, &sub);
	if (deliver_record(&feed, &rec))
		check_row(&rec);
}

/* ---------------- handler: the same for a function ---------------- */

static void
fuzz_handler(const char *data, int len)
{
	OutboxSubscription sub;
	OutboxFeed	feed;
	OutboxRecord rec;
	char		fate = -1;
	int			delivered;
	int64		version;
	char	   *identity;

	record_from_input(&rec, data, len);
	init_feed(&feed, &sub);
	sub.handler = "public.fuzz_handler";
	sub.handler_owner = GetUserId();
	identity = outbox_deliver_identity(&feed, &rec, &version);
	if (identity != NULL)
		fuzz_check(fuzz_is_text(identity, strlen(identity)));
	outbox_deliver(&feed, &rec, &fate, 1, false, &delivered);
	fuzz_check(delivered == 1 && fate == OUTBOX_APPLY_APPLIED);
}

/* ---------------- value: out as the capture writes it, and in again ---------------- */

/* Tables fuzz_value_0 and so on have a column of one type each. */
#define VALUE_TABLES 32

typedef struct ValueCall
{
	Oid			relid;
	OutboxApplyEvent ev;
	OutboxRow	row;
	char	   *text;			/* of the value, as it came back */
} ValueCall;

static void
value_from_event(void *arg)
{
	ValueCall  *call = arg;
	MemoryContext context = CurrentMemoryContext;
	OutboxTarget *target = outbox_target_acquire(call->relid);
	int			nest_level = outbox_pin_settings();

	SPI_connect();
	outbox_row_from_event(target, &call->ev, &call->row);
	for (int i = 0; i < target->ncolumns; i++)
		if (strcmp(target->columns[i].name, "v") == 0)
		{
			Oid			output;
			bool		is_varlena;

			fuzz_check(!call->row.nulls[i]);
			getTypeOutputInfo(target->columns[i].typid, &output, &is_varlena);
			call->text = MemoryContextStrdup(context,
											 OidOutputFunctionCall(output, call->row.values[i]));
		}
	SPI_finish();
	outbox_unpin_settings(nest_level);
	outbox_target_release(target);
}

static Datum
value_from_text(Oid relid, const char *str, Oid *typid)
{
	int32		typmod;
	Oid			collation;
	Oid			input;
	Oid			ioparam;

	get_atttypetypmodcoll(relid, get_attnum(relid, "v"), typid, &typmod, &collation);
	getTypeInputInfo(*typid, &input, &ioparam);
	return OidInputFunctionCall(input, pstrdup(str), ioparam, typmod);
}

typedef struct TextCall
{
	Oid			relid;
	char	   *text;
} TextCall;

static void
read_text(void *arg)
{
	TextCall   *call = arg;
	Oid			typid;

	(void) value_from_text(call->relid, call->text, &typid);
}

/*
 * Some values that the input functions take they do not take from the output
 * functions: a time with a zone 99 hours away.
 */
static bool
is_readable(Oid relid, char *text)
{
	TextCall	call;
	int			sqlerrcode;

	call.relid = relid;
	call.text = text;

	return !fuzz_raises(read_text, &call, &sqlerrcode);
}

static void
fuzz_value(const char *data, int len)
{
	ValueCall  *call = palloc0(sizeof(ValueCall));
	OutboxEncoder enc;
	StringInfoData buf;
	Oid			typid;
	Oid			output;
	bool		is_varlena;
	Datum		value;
	int			start;
	int			nest_level;
	int			sqlerrcode;
	bool		raised;

	if (len < 1 || !fuzz_is_text(data + 1, len - 1))
		return;
	call->relid = RelnameGetRelid(psprintf("fuzz_value_%d", data[0] & (VALUE_TABLES - 1)));
	if (!OidIsValid(call->relid))
		return;
	nest_level = outbox_pin_settings();
	value = value_from_text(call->relid, pnstrdup(data + 1, len - 1), &typid);
	getTypeOutputInfo(typid, &output, &is_varlena);
	if (!is_readable(call->relid, OidOutputFunctionCall(output, value)))
		return;

	outbox_encoder_init(&enc, typid, CurrentMemoryContext);
	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"id\":1,\"v\":");
	start = buf.len;
	outbox_encode_json(&buf, &enc, value);
	if (enc.encoding == OUTBOX_ENC_JSON && outbox_json_needs_verbatim(buf.data + start, buf.len - start))
	{
		call->ev.verbatim = "[\"v\"]";
		call->ev.verbatim_len = strlen(call->ev.verbatim);
	}
	fuzz_check(fuzz_is_json(buf.data + start, buf.len - start));
	appendStringInfoChar(&buf, '}');
	call->ev.value = buf.data;
	call->ev.value_len = buf.len;
	call->ev.has_version = true;
	call->ev.op = 'c';
	raised = fuzz_raises(value_from_event, call, &sqlerrcode);
	if (raised)
		fuzz_finding("SQLSTATE %s for %s", unpack_sql_state(sqlerrcode), buf.data);
	fuzz_check(call->text !=NULL);
	if (strcmp(call->text, OidOutputFunctionCall(output, value)) != 0)
		fuzz_finding("%s became %s", OidOutputFunctionCall(output, value), call->text);
	outbox_unpin_settings(nest_level);
}

/* ---------------- batch: the same as one by one ---------------- */

#define MAX_EVENTS 12

typedef struct BatchEvents
{
	Oid			relid;
	int			n;
	int			first;			/* of those to apply */
	int			count;
	OutboxApplyEvent events[MAX_EVENTS];
	OutboxApplyResult results[MAX_EVENTS];
} BatchEvents;

/* Three bytes say what an event is. */
static void
event_from_bytes(OutboxApplyEvent *ev, const unsigned char *bytes)
{
	static const char *const broken[] = {
		"{\"id\":%d}", "{\"id\":%d,\"n\":\"x\",\"t\":\"\"}", "{\"id\":%d,\"n\":1,\"t\":2,\"t\":3}", "[%d]", "{\"id\":%d"
	};
	int			key = bytes[0] & 3;
	bool		is_broken = bytes[2] >= 250;

	memset(ev, 0, sizeof(*ev));
	ev->op = "cudr"[(bytes[0] >> 2) & 3];
	ev->has_version = true;
	ev->version = bytes[1] & 15;
	ev->key = psprintf("%d", key);
	ev->key_len = strlen(ev->key);
	if (ev->op == 'd' && !is_broken)
		return;
	ev->value = is_broken ? psprintf(broken[bytes[2] - 250 < lengthof(broken) ? bytes[2] - 250 : 0], key) :
		psprintf("{\"t\":\"%02x\",\"n\":%d,\"id\":%d,\"x\":[{}]}", bytes[2], bytes[2], key);
	ev->value_len = strlen(ev->value);
}

static void
apply_events(void *arg)
{
	BatchEvents *batch = arg;

	outbox_replica_apply(batch->relid, batch->events + batch->first, batch->count,
						 batch->results + batch->first, false);
}

/* In a subtransaction, which stays if nothing is raised and "keep" says so. */
static bool
try_events(BatchEvents *batch, int first, int count)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			sqlerrcode;
	bool		raised;

	batch->first = first;
	batch->count = count;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	raised = fuzz_raises(apply_events, batch, &sqlerrcode);
	if (raised)
		RollbackAndReleaseCurrentSubTransaction();
	else
		ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return !raised;
}

static char *
stored_state(Oid relid)
{
	static SavedQuery query = {
		"SELECT pg_catalog.concat((SELECT pg_catalog.string_agg(t::text, ' ' ORDER BY id) FROM fuzz_batch t), '|',"
		" (SELECT pg_catalog.string_agg(key || '@' || version, ' ' ORDER BY key) FROM outbox._tombstone WHERE target = $1))",
		REGCLASSOID
	};

	return query_text(&query, ObjectIdGetDatum(relid));
}

static char *
state_after_batch(BatchEvents *batch, int prepared, bool *applied)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *state;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	*applied = try_events(batch, prepared, batch->n - prepared);
	state = stored_state(batch->relid);
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return state;
}

/*
 * Of several events of a key a batch writes the newest only, and calls the
 * others stale.
 */
static OutboxApplyResult
batch_result(const BatchEvents *batch, int first, int i)
{
	for (int j = first; j < batch->n; j++)
		if (batch->events[j].key[0] == batch->events[i].key[0] &&
			batch->events[j].version > batch->events[i].version &&
			(batch->results[j] == OUTBOX_APPLY_APPLIED || batch->results[j] == OUTBOX_APPLY_DELETED))
			return OUTBOX_APPLY_STALE;
	return batch->results[i];
}

static void
fuzz_batch(const char *data, int len)
{
	BatchEvents *batch = palloc0(sizeof(BatchEvents));
	OutboxApplyResult results[MAX_EVENTS];
	bool		batch_applied;
	bool		all_applied = true;
	int			prepared;
	char	   *before;
	char	   *state;

	batch->relid = RelnameGetRelid("fuzz_batch");
	batch->n = Min((len - 1) / 3, MAX_EVENTS);
	if (batch->n < 1)
		return;
	for (int i = 0; i < batch->n; i++)
		event_from_bytes(&batch->events[i], (const unsigned char *) data + 1 + i * 3);
	prepared = (unsigned char) data[0] % batch->n;
	for (int i = 0; i < prepared; i++)
		(void) try_events(batch, i, 1);
	before = stored_state(batch->relid);

	state = state_after_batch(batch, prepared, &batch_applied);
	memcpy(results, batch->results, sizeof(results));
	for (int i = prepared; i < batch->n; i++)
		all_applied = try_events(batch, i, 1) && all_applied;

	fuzz_check(batch_applied == all_applied);
	if (!batch_applied)
	{
		fuzz_check(strcmp(state, before) == 0);
		return;
	}
	if (strcmp(state, stored_state(batch->relid)) != 0)
		fuzz_finding("as a batch: %s, one by one: %s", state, stored_state(batch->relid));
	for (int i = prepared; i < batch->n; i++)
		if (results[i] != batch_result(batch, prepared, i))
			fuzz_finding("event %d of %d is %d in a batch, %d alone", i, batch->n, results[i], batch->results[i]);
}

const FuzzTarget fuzz_apply_targets[] = {
	{"record", fuzz_record, true, "22 42703 "},
	{"row", fuzz_row, true, "22 42703 "},
	{"handler", fuzz_handler, true, "22 "},
	{"value", fuzz_value, true, "22 23 54 0A000 42601 42704 "},
	{"batch", fuzz_batch, true, ""},
	{NULL}
};
