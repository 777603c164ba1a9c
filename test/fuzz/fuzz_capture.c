/*-------------------------------------------------------------------------
 *
 * fuzz_capture.c
 *	  Targets for lists of columns, topics, and the packed form of events.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "fuzz.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "capture/capture.h"
#include "capture/publication.h"
#include "log/event.h"

static Relation
open_table(const char *name)
{
	return table_open(RelnameGetRelid(name), AccessShareLock);
}

/* ---------------- columns: entries "name" and "name AS other" ---------------- */

static ArrayType *
text_array(const FuzzField *fields, int n)
{
	Datum	   *elems = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		elems[i] = PointerGetDatum(cstring_to_text_with_len(fields[i].data, fields[i].len));
	return construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT);
}

static void
append_quoted(StringInfo buf, const char *name)
{
	appendStringInfoChar(buf, '"');
	for (; *name != '\0'; name++)
	{
		if (*name == '"')
			appendStringInfoChar(buf, '"');
		appendStringInfoChar(buf, *name);
	}
	appendStringInfoChar(buf, '"');
}

/* What was parsed says the same when it is written with quotes. */
static ArrayType *
quoted_entries(List *names, List *labels)
{
	List	   *entries = NIL;
	ListCell   *ln;
	ListCell   *ll;

	forboth(ln, names, ll, labels)
	{
		StringInfoData buf;

		initStringInfo(&buf);
		append_quoted(&buf, lfirst(ln));
		appendStringInfoString(&buf, " AS ");
		append_quoted(&buf, lfirst(ll));
		entries = lappend(entries, buf.data);
	}
	return DatumGetArrayTypeP(outbox_text_array(entries));
}

static void
check_names(Relation rel, List *names, List *labels)
{
	ListCell   *ln;
	ListCell   *ll;

	fuzz_check(list_length(names) == list_length(labels));
	forboth(ln, names, ll, labels)
	{
		fuzz_check(get_attnum(RelationGetRelid(rel), lfirst(ln)) > 0);
		fuzz_check(((char *) lfirst(ll))[0] != '\0');
	}
}

static bool
same_list(List *a, List *b)
{
	ListCell   *la;
	ListCell   *lb;

	forboth(la, a, lb, b)
	{
		if (strcmp(lfirst(la), lfirst(lb)) != 0)
			return false;
	}
	return list_length(a) == list_length(b);
}

static void
fuzz_columns(const char *data, int len)
{
	Relation	rel;
	int			n;
	FuzzField  *fields;
	ArrayType  *entries;
	List	   *names;
	List	   *labels;
	List	   *again;
	List	   *labels_again;

	fields = fuzz_split(data, len, &n);
	for (int i = 0; i < n; i++)
		if (!fuzz_is_text(fields[i].data, fields[i].len))
			return;
	rel = open_table("fuzz_columns");
	entries = text_array(fields, n);
	outbox_columns_parse(rel, entries, "columns", &names, &labels);
	check_names(rel, names, labels);
	outbox_columns_parse(rel, quoted_entries(names, labels), "columns", &again, &labels_again);
	fuzz_check(same_list(names, again) && same_list(labels, labels_again));
	(void) outbox_columns_list(rel, entries, "identity");
	table_close(rel, AccessShareLock);
}

/* ---------------- topic: names, and patterns with the table's name ---------------- */

static bool
is_topic(const char *name)
{
	size_t		len = strlen(name);

	for (const char *p = name; *p != '\0'; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
			  *p == '.' || *p == '_' || *p == '-'))
			return false;
	return len >= 1 && len <= 249 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static void
fuzz_topic(const char *data, int len)
{
	FuzzField	field = {unconstify(char *, data), len};
	Relation	rel;
	char	   *topic;

	if (!fuzz_is_text(data, len))
		return;
	rel = open_table("fuzz_columns");
	topic = outbox_source_topic(rel, fuzz_cstring(&field));
	table_close(rel, AccessShareLock);
	if (memchr(data, '{', len) == NULL)
		fuzz_check(strlen(topic) == len && memcmp(topic, data, len) == 0);
	outbox_topic_check(topic);
	fuzz_check(is_topic(topic));
}

/* ---------------- packed: rows of the log, sound or not ---------------- */

static bool
same_bytes(const char *a, int a_len, const char *b, int b_len)
{
	return (a == NULL) == (b == NULL) && a_len == b_len &&
		(a == NULL || memcmp(a, b, a_len) == 0);
}

static bool
same_event(const OutboxEvent *a, const OutboxEvent *b)
{
	return a->id == b->id && a->version == b->version && a->op == b->op &&
		a->stream == b->stream && a->time_ms == b->time_ms &&
		same_bytes(a->server, a->server_len, b->server, b->server_len) &&
		same_bytes(a->topic, a->topic_len, b->topic, b->topic_len) &&
		same_bytes(a->key, a->key_len, b->key, b->key_len) &&
		same_bytes(a->value, a->value_len, b->value, b->value_len) &&
		same_bytes(a->headers, a->headers_len, b->headers, b->headers_len);
}

static void
read_headers(const OutboxEvent *ev)
{
	const char *pos = ev->headers;
	const char *end = ev->headers + ev->headers_len;
	const char *name;
	const char *value;
	int32		name_len;
	int32		value_len;
	unsigned	sum = 0;

	while (pos != NULL && outbox_header_next(&pos, end, &name, &name_len, &value, &value_len))
	{
		fuzz_check(pos <= end && name[name_len] == '\0' && value_len >= 0);
		for (int i = 0; i < value_len; i++)
			sum += (unsigned char) value[i];
	}
	fuzz_check(sum != UINT_MAX);
}

/* An event that could be read, packed again, is the same event. */
static void
pack_again(const OutboxEvent *ev, const OutboxEventCursor *before)
{
	OutboxEventCursor cur = *before;
	OutboxEvent again;
	StringInfoData buf;
	const char *pos;

	initStringInfo(&buf);
	outbox_event_pack(&buf, &cur, ev);
	fuzz_check(buf.len <= outbox_event_size(ev));
	pos = buf.data;
	cur = *before;
	outbox_event_unpack(&pos, buf.data + buf.len, &cur, &again);
	fuzz_check(pos == buf.data + buf.len);
	fuzz_check(same_event(ev, &again));
}

static void
fuzz_packed(const char *data, int len)
{
	const char *pos = data;
	const char *end = data + len;
	OutboxEventCursor cur;
	int			nevents = outbox_events_start(&pos, end, 1000, &cur);

	fuzz_check(nevents >= 0);
	while (nevents-- > 0)
	{
		OutboxEventCursor before = cur;
		OutboxEvent ev;

		outbox_event_unpack(&pos, end, &cur, &ev);
		fuzz_check(pos <= end);
		(void) outbox_op_letter(ev.op);
		read_headers(&ev);
		pack_again(&ev, &before);
	}
}

/* ---------------- pack: any event comes back ---------------- */

static int64
number_of(const FuzzField *field)
{
	int64		number = 0;

	memcpy(&number, field->data, Min(field->len, sizeof(number)));
	return number;
}

static void
fuzz_pack(const char *data, int len)
{
	int			n;
	FuzzField  *fields = fuzz_split(data, len, &n);
	OutboxEventCursor before = {1000, 0};
	OutboxEvent ev;
	StringInfoData headers;

	if (n < 8)
		return;
	memset(&ev, 0, sizeof(ev));
	ev.id = number_of(&fields[0]);
	ev.version = number_of(&fields[1]);
	ev.time_ms = number_of(&fields[2]);
	ev.stream = (int32) number_of(&fields[3]) & PG_INT32_MAX;
	ev.op = (OutboxOp) ((uint64) number_of(&fields[1]) % (OUTBOX_OP_READ + 1));
	if (ev.stream == 0)
	{
		ev.server = fields[4].data;
		ev.server_len = fields[4].len;
		ev.topic = fields[5].data;
		ev.topic_len = fields[5].len;
	}
	if (fields[6].len > 0)
	{
		ev.key = fields[6].data;
		ev.key_len = fields[6].len;
	}
	ev.value = fields[7].data;
	ev.value_len = fields[7].len;
	initStringInfo(&headers);
	for (int i = 8; i + 1 < n; i += 2)
		outbox_header_pack(&headers, fuzz_cstring(&fields[i]), fields[i + 1].data, fields[i + 1].len);
	ev.headers = headers.len > 0 ? headers.data : NULL;
	ev.headers_len = headers.len;
	read_headers(&ev);
	pack_again(&ev, &before);
}

const FuzzTarget fuzz_capture_targets[] = {
	{"columns", fuzz_columns, true, "22 42 0A000 "},
	{"topic", fuzz_topic, true, "42602 "},
	{"packed", fuzz_packed, false, "XX001 "},
	{"pack", fuzz_pack, false, ""},
	{NULL}
};
