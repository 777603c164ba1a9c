/*-------------------------------------------------------------------------
 *
 * encode.c
 *	  Values as they go on the wire: JSON for message values, text for keys.
 *
 * The types that make up most tables are written directly.  The others go
 * through their output function, with the settings that it may look at pinned;
 * the caller pins once per row, and only if a column needs it.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/encode.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

/* ---------------- choosing ---------------- */

/*
 * Does the output of a built-in scalar type depend on no setting?
 */
static bool
is_setting_free(Oid typid)
{
	switch (typid)
	{
		case UUIDOID:
		case CHAROID:
		case NAMEOID:
		case OIDOID:
		case INETOID:
		case CIDROID:
		case MACADDROID:
		case MACADDR8OID:
		case BITOID:
		case VARBITOID:
		case PG_LSNOID:
			return true;
		default:
			return get_typtype(typid) == TYPTYPE_ENUM;
	}
}

static OutboxEncoding
choose_encoding(Oid typid)
{
	switch (typid)
	{
		case INT2OID:
			return OUTBOX_ENC_INT2;
		case INT4OID:
			return OUTBOX_ENC_INT4;
		case INT8OID:
			return OUTBOX_ENC_INT8;
		case BOOLOID:
			return OUTBOX_ENC_BOOL;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return OUTBOX_ENC_TEXT;
		case NUMERICOID:
			return OUTBOX_ENC_NUMERIC;
		case FLOAT4OID:
			return OUTBOX_ENC_FLOAT4;
		case FLOAT8OID:
			return OUTBOX_ENC_FLOAT8;
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return OUTBOX_ENC_DATETIME;
		case JSONOID:
		case JSONBOID:
			return OUTBOX_ENC_JSON;
		default:
			if (type_is_array(typid))
				return OUTBOX_ENC_ARRAY;
			return type_is_rowtype(typid) ? OUTBOX_ENC_COMPOSITE : OUTBOX_ENC_OUTPUT;
	}
}

void
outbox_encoder_init(OutboxEncoder *enc, Oid typid, MemoryContext context)
{
	bool		nested;
	Oid			outfunc;
	bool		isvarlena;

	enc->basetype = getBaseType(typid);
	enc->encoding = choose_encoding(enc->basetype);
	nested = enc->encoding == OUTBOX_ENC_ARRAY || enc->encoding == OUTBOX_ENC_COMPOSITE;
	enc->pinned = nested ||
		(enc->encoding == OUTBOX_ENC_OUTPUT && !is_setting_free(enc->basetype));

	getTypeOutputInfo(enc->basetype, &outfunc, &isvarlena);
	fmgr_info_cxt(outfunc, &enc->output, context);
	enc->nested = nested ? outbox_nested_create(enc->basetype, context) : NULL;
}

/* ---------------- settings ---------------- */

static void
pin(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * lc_monetary is left alone: it changes how money looks, but the setting is
 * the database's and costs a locale switch; the documentation says so.
 */
int
outbox_encode_pin(void)
{
	bool		utc = strcmp(pg_get_timezone_name(session_timezone), "UTC") == 0;
	int			level;

	if (utc && DateStyle == USE_ISO_DATES && IntervalStyle == INTSTYLE_POSTGRES &&
		bytea_output == BYTEA_OUTPUT_HEX && extra_float_digits > 0)
		return -1;

	level = NewGUCNestLevel();
	if (!utc)
		pin("TimeZone", "UTC");
	if (DateStyle != USE_ISO_DATES)
		pin("DateStyle", "ISO, YMD");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		pin("IntervalStyle", "postgres");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		pin("bytea_output", "hex");
	if (extra_float_digits <= 0)
		pin("extra_float_digits", "1");
	return level;
}

void
outbox_encode_unpin(int level)
{
	if (level >= 0)
		AtEOXact_GUC(true, level);
}

/* ---------------- strings ---------------- */

static void
append_escape(StringInfo buf, unsigned char c)
{
	switch (c)
	{
		case '"':
			appendBinaryStringInfoNT(buf, "\\\"", 2);
			break;
		case '\\':
			appendBinaryStringInfoNT(buf, "\\\\", 2);
			break;
		case '\b':
			appendBinaryStringInfoNT(buf, "\\b", 2);
			break;
		case '\f':
			appendBinaryStringInfoNT(buf, "\\f", 2);
			break;
		case '\n':
			appendBinaryStringInfoNT(buf, "\\n", 2);
			break;
		case '\r':
			appendBinaryStringInfoNT(buf, "\\r", 2);
			break;
		case '\t':
			appendBinaryStringInfoNT(buf, "\\t", 2);
			break;
		default:
			appendStringInfo(buf, "\\u%04x", c);
			break;
	}
}

#define EACH_BYTE(b) (UINT64CONST(0x0101010101010101) * (b))

static inline bool
needs_escape(unsigned char c)
{
	return c < 0x20 || c == '"' || c == '\\';
}

/*
 * Does any of the eight bytes need an escape?  A subtraction borrows into a
 * byte's high bit if the byte is too small; that a borrow may go on into the
 * next byte does not matter, as then one was too small already.
 */
static inline bool
word_needs_escape(uint64 word)
{
	uint64		quote = word ^ EACH_BYTE('"');
	uint64		backslash = word ^ EACH_BYTE('\\');

	return (((word - EACH_BYTE(0x20)) & ~word) |
			((quote - EACH_BYTE(1)) & ~quote) |
			((backslash - EACH_BYTE(1)) & ~backslash)) & EACH_BYTE(0x80);
}

/*
 * The first byte that needs an escape, or the end.
 */
static const char *
skip_plain(const char *p, const char *end)
{
	for (; end - p >= sizeof(uint64); p += sizeof(uint64))
	{
		uint64		word;

		memcpy(&word, p, sizeof(word));
		if (word_needs_escape(word))
			break;
	}
	while (p < end && !needs_escape((unsigned char) *p))
		p++;
	return p;
}

void
outbox_encode_string(StringInfo buf, const char *str, int len)
{
	const char *end = str + len;

	enlargeStringInfo(buf, len + 2);
	buf->data[buf->len++] = '"';
	for (;;)
	{
		const char *stop = skip_plain(str, end);

		appendBinaryStringInfoNT(buf, str, stop - str);
		if (stop == end)
			break;
		append_escape(buf, (unsigned char) *stop);
		str = stop + 1;
	}
	appendStringInfoCharMacro(buf, '"');
}

void
outbox_encode_to_utf8(StringInfo buf)
{
	char	   *converted;

	if (GetDatabaseEncoding() == PG_UTF8)
		return;
	appendStringInfoCharMacro(buf, '\0');
	buf->len--;
	converted = pg_server_to_any(buf->data, buf->len, PG_UTF8);
	if (converted != buf->data)
	{
		resetStringInfo(buf);
		appendStringInfoString(buf, converted);
		pfree(converted);
	}
}

/* ---------------- values ---------------- */

static void
append_int8(StringInfo buf, int64 value)
{
	enlargeStringInfo(buf, MAXINT8LEN + 1);
	buf->len += pg_lltoa(value, buf->data + buf->len);
}

/*
 * JSON has no number for these; a string is what to_json() makes of them too.
 */
static bool
append_special_float(StringInfo buf, double value)
{
	if (isnan(value))
		appendStringInfoString(buf, "NaN");
	else if (isinf(value))
		appendStringInfoString(buf, value > 0 ? "Infinity" : "-Infinity");
	else
		return false;
	return true;
}

static void
append_float(StringInfo buf, OutboxEncoder *enc, Datum value)
{
	enlargeStringInfo(buf, DOUBLE_SHORTEST_DECIMAL_LEN);
	if (enc->encoding == OUTBOX_ENC_FLOAT4)
		buf->len += float_to_shortest_decimal_bufn(DatumGetFloat4(value),
												   buf->data + buf->len);
	else
		buf->len += double_to_shortest_decimal_bufn(DatumGetFloat8(value),
													buf->data + buf->len);
}

static double
float_value(OutboxEncoder *enc, Datum value)
{
	return enc->encoding == OUTBOX_ENC_FLOAT4 ?
		(double) DatumGetFloat4(value) : DatumGetFloat8(value);
}

static void
append_datetime(StringInfo buf, OutboxEncoder *enc, Datum value)
{
	const int	utc = 0;
	char		str[MAXDATELEN + 1];

	JsonEncodeDateTime(str, value, enc->basetype,
					   enc->basetype == TIMESTAMPTZOID ? &utc : NULL);
	appendStringInfoString(buf, str);
}

static void
append_numeric(StringInfo buf, OutboxEncoder *enc, Datum value, bool json)
{
	char	   *str = OutputFunctionCall(&enc->output, value);
	bool		number = (*str == '-' ? str[1] : *str) <= '9';

	if (json && !number)
		outbox_encode_string(buf, str, strlen(str));
	else
		appendStringInfoString(buf, str);
	pfree(str);
}

static void
append_varlena(StringInfo buf, Datum value, bool json)
{
	struct varlena *v = PG_DETOAST_DATUM_PACKED(value);

	if (json)
		outbox_encode_string(buf, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
	else
		appendBinaryStringInfoNT(buf, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
	if ((Pointer) v != DatumGetPointer(value))
		pfree(v);
}

static void
append_output(StringInfo buf, OutboxEncoder *enc, Datum value, bool quote)
{
	char	   *str = OutputFunctionCall(&enc->output, value);

	if (quote)
		outbox_encode_string(buf, str, strlen(str));
	else
		appendStringInfoString(buf, str);
	pfree(str);
}

void
outbox_encode_json(StringInfo buf, OutboxEncoder *enc, Datum value)
{
	switch (enc->encoding)
	{
		case OUTBOX_ENC_INT2:
			append_int8(buf, DatumGetInt16(value));
			break;
		case OUTBOX_ENC_INT4:
			append_int8(buf, DatumGetInt32(value));
			break;
		case OUTBOX_ENC_INT8:
			append_int8(buf, DatumGetInt64(value));
			break;
		case OUTBOX_ENC_BOOL:
			appendStringInfoString(buf, DatumGetBool(value) ? "true" : "false");
			break;
		case OUTBOX_ENC_TEXT:
			append_varlena(buf, value, true);
			break;
		case OUTBOX_ENC_NUMERIC:
			append_numeric(buf, enc, value, true);
			break;
		case OUTBOX_ENC_FLOAT4:
		case OUTBOX_ENC_FLOAT8:
			{
				double		d = float_value(enc, value);
				bool		special = isnan(d) || isinf(d);

				if (special)
				{
					appendStringInfoCharMacro(buf, '"');
					append_special_float(buf, d);
					appendStringInfoCharMacro(buf, '"');
				}
				else
					append_float(buf, enc, value);
			}
			break;
		case OUTBOX_ENC_DATETIME:
			appendStringInfoCharMacro(buf, '"');
			append_datetime(buf, enc, value);
			appendStringInfoCharMacro(buf, '"');
			break;
		case OUTBOX_ENC_JSON:
			append_output(buf, enc, value, false);
			break;
		case OUTBOX_ENC_OUTPUT:
			append_output(buf, enc, value, true);
			break;
		case OUTBOX_ENC_ARRAY:
		case OUTBOX_ENC_COMPOSITE:
			if (!outbox_nested_append(buf, enc, value))
				append_output(buf, enc, value, true);
			break;
	}
}

void
outbox_encode_text(StringInfo buf, OutboxEncoder *enc, Datum value)
{
	switch (enc->encoding)
	{
		case OUTBOX_ENC_TEXT:
			append_varlena(buf, value, false);
			break;
		case OUTBOX_ENC_NUMERIC:
			append_numeric(buf, enc, value, false);
			break;
		case OUTBOX_ENC_FLOAT4:
		case OUTBOX_ENC_FLOAT8:
			if (!append_special_float(buf, float_value(enc, value)))
				append_float(buf, enc, value);
			break;
		case OUTBOX_ENC_DATETIME:
			append_datetime(buf, enc, value);
			break;
		case OUTBOX_ENC_JSON:
		case OUTBOX_ENC_OUTPUT:
		case OUTBOX_ENC_ARRAY:
		case OUTBOX_ENC_COMPOSITE:
			append_output(buf, enc, value, false);
			break;
		default:
			outbox_encode_json(buf, enc, value);
			break;
	}
}
