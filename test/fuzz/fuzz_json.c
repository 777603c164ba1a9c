/*-------------------------------------------------------------------------
 *
 * fuzz_json.c
 *	  Targets for the JSON scanner, what is written as JSON, and headers.
 *
 * PostgreSQL's own parser is the oracle: both must take the same texts and find
 * the same in them.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "fuzz.h"

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "apply/apply.h"
#include "apply/json_scan.h"
#include "apply/start.h"
#include "capture/capture.h"
#include "capture/encode.h"

/* ---------------- json ---------------- */

typedef struct Document
{
	const char *data;
	int			len;
	bool		is_array;
	int			nmembers;
	OutboxJsonValue names[64];
	OutboxJsonValue values[64];
} Document;

static void
check_slice(const Document *doc, const char *start, int len)
{
	fuzz_check(len >= 0 && start >= doc->data && start + len <= doc->data + doc->len);
}

static void
scan_document(void *arg)
{
	Document   *doc = arg;
	OutboxJsonScan scan;
	OutboxJsonValue name;
	OutboxJsonValue value;

	memset(&name, 0, sizeof(name));
	doc->nmembers = 0;
	if (doc->is_array)
		outbox_json_begin_array(&scan, "value", doc->data, doc->len);
	else
		outbox_json_begin(&scan, "value", doc->data, doc->len);
	while (doc->is_array ? outbox_json_next_element(&scan, &value) : outbox_json_next(&scan, &name, &value))
	{
		check_slice(doc, value.start, value.len);
		if (!doc->is_array)
		{
			check_slice(doc, name.start, name.len);
			check_slice(doc, value.outer, value.outer_len);
		}
		if (doc->nmembers < lengthof(doc->names))
		{
			doc->names[doc->nmembers] = name;
			doc->values[doc->nmembers] = value;
		}
		doc->nmembers++;
	}
}

static int
deepest_level(const char *data, int len)
{
	int			depth = 0;
	int			deepest = 0;

	for (int i = 0; i < len; i++)
	{
		if (data[i] == '[' || data[i] == '{')
			depth++;
		else if (data[i] == ']' || data[i] == '}')
			depth--;
		deepest = Max(deepest, depth);
	}
	return deepest;
}

static char *
value_as_text(const OutboxJsonValue *value)
{
	int			len;
	char	   *str;

	if (value->kind != OUTBOX_JSON_STRING)
		return pnstrdup(value->start, value->len);
	str = outbox_json_unescape(value, &len);
	fuzz_check(strlen(str) == len);
	return str;
}

/* The text of the value as "->>" would have it. */
static char *
expected_text(const OutboxJsonValue *value)
{
	char	   *array;

	if (value->kind == OUTBOX_JSON_NULL)
		return NULL;
	if (value->kind == OUTBOX_JSON_STRING)
		return value_as_text(value);
	array = psprintf("[%s]", value_as_text(value));
	return TextDatumGetCString(fuzz_call2(jsonb_array_element_text,
										  DirectFunctionCall1(jsonb_in, CStringGetDatum(array)),
										  Int32GetDatum(0)));
}

static bool
is_last_of_name(const Document *doc, int member, const char *name)
{
	for (int i = member + 1; i < doc->nmembers; i++)
		if (strcmp(value_as_text(&doc->names[i]), name) == 0)
			return false;
	return true;
}

static void
compare_members(const Document *doc, Jsonb *jsonb)
{
	int			distinct = 0;

	for (int i = 0; i < doc->nmembers; i++)
	{
		char	   *name = doc->is_array ? NULL : value_as_text(&doc->names[i]);
		char	   *expected = expected_text(&doc->values[i]);
		Datum		found;

		if (doc->is_array)
			found = fuzz_call2(jsonb_array_element_text, JsonbPGetDatum(jsonb), Int32GetDatum(i));
		else
		{
			fuzz_check(fuzz_is_json(doc->values[i].outer, doc->values[i].outer_len));
			if (!is_last_of_name(doc, i, name))
				continue;
			found = fuzz_call2(jsonb_object_field_text, JsonbPGetDatum(jsonb),
							   CStringGetTextDatum(name));
		}
		distinct++;
		fuzz_check((expected == NULL) == (DatumGetPointer(found) == NULL));
		if (expected != NULL)
			fuzz_check(strcmp(expected, TextDatumGetCString(found)) == 0);
	}
	fuzz_check(distinct == JB_ROOT_COUNT(jsonb));
}

static void
unescape_all(void *arg)
{
	Document   *doc = arg;

	for (int i = 0; i < doc->nmembers; i++)
	{
		if (!doc->is_array)
			(void) value_as_text(&doc->names[i]);
		(void) value_as_text(&doc->values[i]);
	}
}

static void
fuzz_json(const char *data, int len)
{
	Document   *doc = palloc0(sizeof(Document));
	bool		refused;
	int			sqlerrcode;
	Jsonb	   *jsonb;

	if (!fuzz_is_text(data, len))
		return;
	doc->data = data;
	doc->len = len;
	doc->is_array = len > 0 && data[0] == '[';
	refused = fuzz_raises(scan_document, doc, &sqlerrcode);
	if (deepest_level(data, len) > OUTBOX_JSON_MAX_DEPTH)
		return;
	if (refused && sqlerrcode == ERRCODE_SQL_JSON_OBJECT_NOT_FOUND)
	{
		fuzz_check(!outbox_json_is_object(data, len));
		return;
	}
	fuzz_check(refused != fuzz_is_json(data, len));
	if (refused || doc->nmembers > lengthof(doc->names))
		return;
	if (!fuzz_is_jsonb(data, len, &jsonb))
		return;
	fuzz_check(!fuzz_raises(unescape_all, doc, &sqlerrcode));
	compare_members(doc, jsonb);
}

/* ---------------- text: any string becomes JSON that means it ---------------- */

static void
fuzz_text(const char *data, int len)
{
	StringInfoData buf;
	Document   *doc;

	if (!fuzz_is_text(data, len))
		return;
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	outbox_encode_string(&buf, data, len);
	appendStringInfoChar(&buf, ']');

	fuzz_check(fuzz_is_jsonb(buf.data, buf.len, NULL));
	doc = palloc0(sizeof(Document));
	doc->data = buf.data;
	doc->len = buf.len;
	doc->is_array = true;
	scan_document(doc);
	fuzz_check(doc->nmembers == 1 && doc->values[0].kind == OUTBOX_JSON_STRING);
	fuzz_check(strcmp(value_as_text(&doc->values[0]), pnstrdup(data, len)) == 0);
	compare_members(doc, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data))));
}

/* ---------------- headers: as jsonb, in any of their forms ---------------- */

typedef struct HeadersCall
{
	Jsonb	   *headers;
	OutboxApplyEvent ev;
} HeadersCall;

static void
take_headers(void *arg)
{
	HeadersCall *call = arg;

	memset(&call->ev, 0, sizeof(call->ev));
	outbox_event_headers_jsonb(&call->ev, call->headers);
}

static bool
same_event(const OutboxApplyEvent *a, const OutboxApplyEvent *b)
{
	return a->op == b->op && a->has_version == b->has_version && a->version == b->version &&
		a->version_explicit == b->version_explicit && a->id_unusable == b->id_unusable &&
		(a->verbatim == NULL) == (b->verbatim == NULL) && a->verbatim_len == b->verbatim_len &&
		(a->verbatim == NULL || memcmp(a->verbatim, b->verbatim, a->verbatim_len) == 0);
}

/*
 * The object's members as an array of pairs.  Objects are left out whose
 * members a pair would not hold: of two with one name the object has the last.
 */
static char *
as_pairs(Jsonb *object, const char *format)
{
	StringInfoData buf;
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	const char *separator = "";

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		Jsonb	   *name;
		Jsonb	   *value;

		if (token != WJB_KEY)
			continue;
		name = JsonbValueToJsonb(&v);
		(void) JsonbIteratorNext(&it, &v, true);
		value = JsonbValueToJsonb(&v);
		appendStringInfoString(&buf, separator);
		separator = ",";
		appendStringInfo(&buf, format, JsonbToCString(NULL, &name->root, VARSIZE(name)),
						 JsonbToCString(NULL, &value->root, VARSIZE(value)));
	}
	appendStringInfoChar(&buf, ']');
	return buf.data;
}

static void
fuzz_headers(const char *data, int len)
{
	static const char *const forms[] = {"[%s,%s]", "{\"key\":%s,\"value\":%s}", "{\"name\":%s,\"value\":%s}"};
	HeadersCall call;
	bool		refused;
	int			sqlerrcode;

	if (!fuzz_is_text(data, len) || !fuzz_is_jsonb(data, len, &call.headers))
		return;
	refused = fuzz_raises(take_headers, &call, &sqlerrcode);
	if (JB_ROOT_IS_OBJECT(call.headers))
		for (int i = 0; i < lengthof(forms); i++)
		{
			HeadersCall other;
			int			other_code;
			char	   *pairs = as_pairs(call.headers, forms[i]);

			other.headers = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pairs)));
			fuzz_check(fuzz_raises(take_headers, &other, &other_code) == refused);
			fuzz_check(other_code == sqlerrcode);
			if (!refused)
				fuzz_check(same_event(&call.ev, &other.ev));
		}
	if (refused)
		take_headers(&call);
}

/* ---------------- emit: the headers of emit() ---------------- */

static void
fuzz_emit(const char *data, int len)
{
	StringInfoData buf;
	Jsonb	   *headers;
	const char *pos;
	const char *name;
	const char *value;
	int32		name_len;
	int32		value_len;
	int			n = 0;

	if (!fuzz_is_text(data, len) || !fuzz_is_jsonb(data, len, &headers))
		return;
	initStringInfo(&buf);
	outbox_jsonb_headers(&buf, headers);
	pos = buf.data;
	while (outbox_header_next(&pos, buf.data + buf.len, &name, &name_len, &value, &value_len))
	{
		Datum		expected = fuzz_call2(jsonb_object_field_text, JsonbPGetDatum(headers),
										  PointerGetDatum(cstring_to_text_with_len(name, name_len)));

		n++;
		fuzz_check((value == NULL) == (DatumGetPointer(expected) == NULL));
		if (value != NULL)
			fuzz_check(strcmp(pnstrdup(value, value_len), TextDatumGetCString(expected)) == 0);
	}
	fuzz_check(n == JB_ROOT_COUNT(headers));
}

/* ---------------- start: where a subscription begins ---------------- */

/*
 * The offset of a partition that exactly one member names; others write its
 * number in another way.
 */
static bool
only_offset(Jsonb *offsets, int partition, int64 *offset)
{
	JsonbIterator *it = JsonbIteratorInit(&offsets->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	int			n = 0;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_KEY ||
			strtol(pnstrdup(v.val.string.val, v.val.string.len), NULL, 10) != partition)
			continue;
		n++;
		(void) JsonbIteratorNext(&it, &v, true);
		*offset = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(v.val.numeric)));
	}
	return n == 1;
}

static void
fuzz_start(const char *data, int len)
{
	FuzzField	field = {unconstify(char *, data), len};
	char	   *start;
	char	   *normal;
	Jsonb	   *offsets;
	int64		offset;

	if (!fuzz_is_text(data, len))
		return;
	start = fuzz_cstring(&field);
	normal = outbox_start_normalize(start);
	fuzz_check(strcmp(outbox_start_normalize(normal), normal) == 0);
	if (!outbox_json_is_object(normal, strlen(normal)))
		return;
	fuzz_check(fuzz_is_jsonb(start, len, &offsets));
	for (int partition = 0; partition < 12; partition++)
		if (only_offset(offsets, partition, &offset))
			fuzz_check(outbox_start_offset(normal, partition) == offset);
}

const FuzzTarget fuzz_json_targets[] = {
	{"json", fuzz_json, false, ""},
	{"text", fuzz_text, false, ""},
	{"headers", fuzz_headers, false, "22 "},
	{"emit", fuzz_emit, false, "22 54000 "},
	{"start", fuzz_start, true, "22 "},
	{NULL}
};
