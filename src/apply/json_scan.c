/*-------------------------------------------------------------------------
 *
 * json_scan.c
 *	  A strict single-pass scanner over the members of one JSON object, or the
 *	  elements of one JSON array.
 *
 * PostgreSQL's own parser builds every string and calls back for every token,
 * which costs several times as much as the whole rest of an event's
 * conversion.  This one follows RFC 8259 to the letter: no comments, no
 * trailing commas, no leading zeros, no control characters in strings.
 * Nested values are checked without recursion, so that depth costs no stack.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/json_scan.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

/* Containers open around the value being skipped, one bit each: object? */
typedef struct JsonNesting
{
	int			depth;
	uint64		is_object[OUTBOX_JSON_MAX_DEPTH / 64];
} JsonNesting;

pg_noreturn static void
json_fail(const OutboxJsonScan *scan, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_JSON_TEXT),
			 errmsg("event %s is not valid JSON", scan->what),
			 errdetail("%s at byte %d.", problem, (int) (scan->p - scan->begin) + 1)));
}

static inline void
skip_space(OutboxJsonScan *scan)
{
	while (scan->p < scan->end &&
		   (*scan->p == ' ' || *scan->p == '\n' || *scan->p == '\r' || *scan->p == '\t'))
		scan->p++;
}

static inline bool
is_digit(const OutboxJsonScan *scan)
{
	return scan->p < scan->end && *scan->p >= '0' && *scan->p <= '9';
}

static inline bool
accept_char(OutboxJsonScan *scan, char c)
{
	if (scan->p >= scan->end || *scan->p != c)
		return false;
	scan->p++;
	return true;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Past the backslash of an escape sequence: check it and step over it. */
static void
scan_escape(OutboxJsonScan *scan)
{
	if (scan->p >= scan->end)
		json_fail(scan, "Unterminated string");
	switch (*scan->p++)
	{
		case '"':
		case '\\':
		case '/':
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't':
			return;
		case 'u':
			for (int i = 0; i < 4; i++, scan->p++)
				if (scan->p >= scan->end || hex_digit(*scan->p) < 0)
					json_fail(scan, "Incomplete \\u escape");
			return;
		default:
			scan->p--;
			json_fail(scan, "Invalid escape sequence");
	}
}

/* At the opening quote. */
static void
scan_string(OutboxJsonScan *scan, OutboxJsonValue *value)
{
	value->kind = OUTBOX_JSON_STRING;
	value->escaped = false;
	value->start = ++scan->p;
	for (;;)
	{
		unsigned char c;

		if (scan->p >= scan->end)
			json_fail(scan, "Unterminated string");
		c = (unsigned char) *scan->p;
		if (c == '"')
			break;
		if (c < 0x20)
			json_fail(scan, "Control character in a string");
		scan->p++;
		if (c == '\\')
		{
			value->escaped = true;
			scan_escape(scan);
		}
	}
	value->len = scan->p - value->start;
	scan->p++;
}

static void
scan_digits(OutboxJsonScan *scan)
{
	if (!is_digit(scan))
		json_fail(scan, "Invalid number");
	while (is_digit(scan))
		scan->p++;
}

static void
scan_number(OutboxJsonScan *scan)
{
	(void) accept_char(scan, '-');
	if (!accept_char(scan, '0'))
		scan_digits(scan);
	if (accept_char(scan, '.'))
		scan_digits(scan);
	if (accept_char(scan, 'e') || accept_char(scan, 'E'))
	{
		if (!accept_char(scan, '+'))
			(void) accept_char(scan, '-');
		scan_digits(scan);
	}
}

static void
scan_word(OutboxJsonScan *scan, const char *word)
{
	size_t		len = strlen(word);

	if (scan->end - scan->p < len || memcmp(scan->p, word, len) != 0)
		json_fail(scan, "Unexpected character");
	scan->p += len;
}

/* A string, number or word; the caller has dealt with containers. */
static void
scan_scalar(OutboxJsonScan *scan, OutboxJsonValue *value)
{
	if (scan->p >= scan->end)
		json_fail(scan, "Unexpected end");
	if (*scan->p == '"')
	{
		scan_string(scan, value);
		return;
	}
	value->escaped = false;
	value->start = scan->p;
	switch (*scan->p)
	{
		case 'n':
			value->kind = OUTBOX_JSON_NULL;
			scan_word(scan, "null");
			break;
		case 't':
			value->kind = OUTBOX_JSON_TRUE;
			scan_word(scan, "true");
			break;
		case 'f':
			value->kind = OUTBOX_JSON_FALSE;
			scan_word(scan, "false");
			break;
		default:
			if (*scan->p != '-' && !is_digit(scan))
				json_fail(scan, "Unexpected character");
			value->kind = OUTBOX_JSON_NUMBER;
			scan_number(scan);
	}
	value->len = scan->p - value->start;
}

static inline bool
in_object(const JsonNesting *nest)
{
	return (nest->is_object[(nest->depth - 1) / 64] >> ((nest->depth - 1) % 64)) & 1;
}

static void
push_container(OutboxJsonScan *scan, JsonNesting *nest)
{
	uint64		bit;

	if (nest->depth >= OUTBOX_JSON_MAX_DEPTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_JSON_TEXT),
				 errmsg("event %s is nested too deeply", scan->what),
				 errdetail("More than %d levels at byte %d.", OUTBOX_JSON_MAX_DEPTH,
						   (int) (scan->p - scan->begin) + 1)));
	bit = UINT64CONST(1) << (nest->depth % 64);
	if (*scan->p == '{')
		nest->is_object[nest->depth / 64] |= bit;
	else
		nest->is_object[nest->depth / 64] &= ~bit;
	nest->depth++;
	scan->p++;
	skip_space(scan);
}

static void
scan_member_name(OutboxJsonScan *scan, OutboxJsonValue *name)
{
	skip_space(scan);
	if (scan->p >= scan->end || *scan->p != '"')
		json_fail(scan, "Expected a member name");
	scan_string(scan, name);
	skip_space(scan);
	if (!accept_char(scan, ':'))
		json_fail(scan, "Expected \":\"");
	skip_space(scan);
}

/* After a nested value: leave the containers that end here. */
static void
close_containers(OutboxJsonScan *scan, JsonNesting *nest)
{
	OutboxJsonValue name;

	while (nest->depth > 0)
	{
		skip_space(scan);
		if (accept_char(scan, ','))
		{
			if (in_object(nest))
				scan_member_name(scan, &name);
			else
				skip_space(scan);
			return;
		}
		if (!accept_char(scan, in_object(nest) ? '}' : ']'))
			json_fail(scan, in_object(nest) ? "Expected \",\" or \"}\"" : "Expected \",\" or \"]\"");
		nest->depth--;
	}
}

static void
scan_container(OutboxJsonScan *scan, OutboxJsonValue *value)
{
	JsonNesting nest;
	OutboxJsonValue inner;

	value->kind = *scan->p == '{' ? OUTBOX_JSON_OBJECT : OUTBOX_JSON_ARRAY;
	value->escaped = false;
	value->start = scan->p;
	nest.depth = 0;
	do
	{
		if (scan->p < scan->end && (*scan->p == '{' || *scan->p == '['))
		{
			push_container(scan, &nest);
			if (accept_char(scan, in_object(&nest) ? '}' : ']'))
				nest.depth--;
			else
			{
				if (in_object(&nest))
					scan_member_name(scan, &inner);
				continue;
			}
		}
		else
			scan_scalar(scan, &inner);
		close_containers(scan, &nest);
	} while (nest.depth > 0);
	value->len = scan->p - value->start;
}

bool
outbox_json_is_object(const char *str, int len)
{
	OutboxJsonScan scan = {"", str, str, str + len, true};

	skip_space(&scan);
	return scan.p < scan.end && *scan.p == '{';
}

void
outbox_json_begin(OutboxJsonScan *scan, const char *what, const char *str, int len)
{
	scan->what = what;
	scan->begin = scan->p = str;
	scan->end = str + len;
	scan->first = true;

	skip_space(scan);
	if (scan->p >= scan->end)
		json_fail(scan, "Unexpected end");
	if (!accept_char(scan, '{'))
	{
		OutboxJsonValue value;

		/* tell a value of another kind from what is no JSON at all */
		if (*scan->p == '[')
			scan_container(scan, &value);
		else
			scan_scalar(scan, &value);
		ereport(ERROR,
				(errcode(ERRCODE_SQL_JSON_OBJECT_NOT_FOUND),
				 errmsg("event %s is not a JSON object", scan->what),
				 errhint("The value of an event is the row as a JSON object, or null for a delete; the key is one where the identity has several columns.")));
	}
}

static void
scan_end(OutboxJsonScan *scan, const char *problem)
{
	skip_space(scan);
	if (scan->p < scan->end)
		json_fail(scan, problem);
}

static void
scan_any(OutboxJsonScan *scan, OutboxJsonValue *value)
{
	if (scan->p < scan->end && (*scan->p == '{' || *scan->p == '['))
		scan_container(scan, value);
	else
		scan_scalar(scan, value);
}

/* Step over a member's name; its value begins behind the colon. */
static void
scan_member(OutboxJsonScan *scan, OutboxJsonValue *name, OutboxJsonValue *value)
{
	scan_member_name(scan, name);
	value->outer = scan->p;
	while (value->outer[-1] != ':')
		value->outer--;
	scan_any(scan, value);
	skip_space(scan);
	value->outer_len = scan->p - value->outer;
}

bool
outbox_json_next(OutboxJsonScan *scan, OutboxJsonValue *name, OutboxJsonValue *value)
{
	skip_space(scan);
	if (accept_char(scan, '}'))
	{
		scan_end(scan, "Unexpected character after the object");
		return false;
	}
	if (!scan->first && !accept_char(scan, ','))
		json_fail(scan, "Expected \",\" or \"}\"");
	scan->first = false;
	scan_member(scan, name, value);
	return true;
}

/* ---------------- arrays ---------------- */

void
outbox_json_begin_array(OutboxJsonScan *scan, const char *what, const char *str, int len)
{
	scan->what = what;
	scan->begin = scan->p = str;
	scan->end = str + len;
	scan->first = true;

	skip_space(scan);
	if (!accept_char(scan, '['))
		json_fail(scan, "Expected \"[\"");
}

bool
outbox_json_next_element(OutboxJsonScan *scan, OutboxJsonValue *value)
{
	skip_space(scan);
	if (accept_char(scan, ']'))
	{
		scan_end(scan, "Unexpected character after the array");
		return false;
	}
	if (!scan->first && !accept_char(scan, ','))
		json_fail(scan, "Expected \",\" or \"]\"");
	scan->first = false;
	skip_space(scan);
	scan_any(scan, value);
	return true;
}

/* ---------------- strings ---------------- */

static uint32
unescape_hex4(const char *p)
{
	return (hex_digit(p[0]) << 12) | (hex_digit(p[1]) << 8) |
		(hex_digit(p[2]) << 4) | hex_digit(p[3]);
}

/* Step over the four digits at *p, and over a low surrogate behind a high one. */
static void
unescape_unicode(StringInfo buf, const char **p, const char *end)
{
	uint32		c = unescape_hex4(*p);
	unsigned char utf8[MAX_UNICODE_EQUIVALENT_STRING + 1];

	*p += 4;
	if (c == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
				 errmsg("event contains the character \\u0000"),
				 errdetail("PostgreSQL cannot store it in a text.")));
	if (is_utf16_surrogate_first(c) && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u')
	{
		uint32		low = unescape_hex4(*p + 2);

		if (is_utf16_surrogate_second(low))
		{
			c = surrogate_pair_to_codepoint(c, low);
			*p += 6;
		}
	}
	if (is_utf16_surrogate_first(c) || is_utf16_surrogate_second(c))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_JSON_TEXT),
				 errmsg("event is not valid JSON"),
				 errdetail("A \\u escape is half of a surrogate pair.")));
	pg_unicode_to_server(c, utf8);
	appendStringInfoString(buf, (char *) utf8);
}

char *
outbox_json_unescape(const OutboxJsonValue *value, int *len)
{
	static const char from[] = "bfnrt";
	static const char to[] = "\b\f\n\r\t";
	const char *p = value->start;
	const char *end = p + value->len;
	StringInfoData buf;

	if (!value->escaped)
	{
		*len = value->len;
		return pnstrdup(value->start, value->len);
	}

	initStringInfo(&buf);
	enlargeStringInfo(&buf, value->len);
	while (p < end)
	{
		const char *letter;

		if (*p != '\\')
		{
			appendStringInfoCharMacro(&buf, *p);
			p++;
			continue;
		}
		p += 2;
		if (p[-1] == 'u')
			unescape_unicode(&buf, &p, end);
		else if ((letter = strchr(from, p[-1])) != NULL)
			appendStringInfoChar(&buf, to[letter - from]);
		else
			appendStringInfoChar(&buf, p[-1]);
	}
	*len = buf.len;
	return buf.data;
}
