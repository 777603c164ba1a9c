/*-------------------------------------------------------------------------
 *
 * event.c
 *	  What an event's headers say: operation, version, how to read the value.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/apply.h"

#include "common/int.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

/* Compare a counted name with a literal. */
#define is_name(name, len, literal) \
	((len) == sizeof(literal) - 1 && memcmp((name), (literal), sizeof(literal) - 1) == 0)

/* Decimal digits with an optional sign, nothing else. */
bool
outbox_parse_version(const char *value, int len, int64 *version)
{
	int			i = 0;
	bool		negative = false;
	int64		result = 0;

	if (len > 0 && (value[0] == '-' || value[0] == '+'))
		negative = value[i++] == '-';
	if (i >= len || len > 20)
		return false;
	for (; i < len; i++)
	{
		int			digit = value[i] - '0';

		if (digit < 0 || digit > 9)
			return false;
		if (pg_mul_s64_overflow(result, 10, &result) ||
			pg_sub_s64_overflow(result, digit, &result))
			return false;
	}
	if (!negative)
	{
		if (result == PG_INT64_MIN)
			return false;
		result = -result;
	}
	*version = result;
	return true;
}

/*
 * A header's value for a message: no more than "limit" bytes, and no half of a
 * character, as the message may be stored.
 */
static char *
shown_value(const char *value, int len, int limit)
{
	return value ? pnstrdup(value, pg_mbcliplen(value, len, limit)) : "";
}

static void
take_op(OutboxApplyEvent *ev, const char *value, int len)
{
	if (value == NULL || len != 1 || strchr("cudrte", value[0]) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unsupported operation \"%s\" of event",
						shown_value(value, len, 32)),
				 errdetail("Header \"op\" must be \"c\", \"u\", \"d\", \"r\", \"t\" or \"e\".")));
	ev->op = value[0];
}

/*
 * Whether it is a list is seen when the columns are known.
 */
static void
take_verbatim(OutboxApplyEvent *ev, const char *value, int len)
{
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("header \"%s\" of event is not a text", OUTBOX_HEADER_VERBATIM),
				 errdetail("It must be a JSON array of names of columns, as one text.")));
	ev->verbatim = value;
	ev->verbatim_len = len;
}

void
outbox_event_header(OutboxApplyEvent *ev, const char *name, int name_len,
					const char *value, int value_len)
{
	int64		version;

	if (is_name(name, name_len, "op"))
		take_op(ev, value, value_len);
	else if (is_name(name, name_len, "version"))
	{
		if (value == NULL || !outbox_parse_version(value, value_len, &version))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid version \"%s\" of event",
							shown_value(value, value_len, 64)),
					 errdetail("Header \"version\" must be a decimal integer of at most 64 bits.")));
		ev->version = version;
		ev->has_version = true;
		ev->version_explicit = true;
	}
	else if (is_name(name, name_len, "id") && !ev->version_explicit)
	{
		if (value != NULL && outbox_parse_version(value, value_len, &version))
		{
			ev->version = version;
			ev->has_version = true;
		}
		else
			ev->id_unusable = true;
	}
	else if (is_name(name, name_len, OUTBOX_HEADER_VERBATIM))
		take_verbatim(ev, value, value_len);
	else if (is_name(name, name_len, OUTBOX_HEADER_PARTITION))
	{
		/* may be anything, unless the operation asks for it */
		ev->mark = value ? value : "";
		ev->mark_len = value ? value_len : 0;
	}
}

bool
outbox_event_is_delete(const OutboxApplyEvent *ev)
{
	return ev->op == 'd' || (ev->op == '\0' && ev->value == NULL);
}

bool
outbox_event_is_sweep(const OutboxApplyEvent *ev)
{
	return ev->op == 't' || ev->op == 'e';
}

/* ---------------- headers as jsonb ---------------- */

pg_noreturn static void
bad_headers(const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid headers of event"),
			 errdetail("%s", problem),
			 errhint("Hand them over as an object, {\"id\": \"1\", \"op\": \"u\"}, or as an array of such objects or of pairs.")));
}

/*
 * A byte buffer as Node.js prints it, {"type": "Buffer", "data": [49, 50]}.
 */
static void
take_buffer(OutboxApplyEvent *ev, const JsonbValue *name, JsonbContainer *buffer)
{
	JsonbValue	datav;
	JsonbValue *data = getKeyJsonValueFromContainer(buffer, "data", 4, &datav);
	StringInfoData bytes;
	char	   *str;

	if (data == NULL || data->type != jbvBinary ||
		!JsonContainerIsArray(data->val.binary.data))
		bad_headers("A header's value is an object, but no buffer with an array \"data\".");
	initStringInfo(&bytes);
	for (uint32 i = 0; i < JsonContainerSize(data->val.binary.data); i++)
	{
		JsonbValue *byte = getIthJsonbValueFromContainer(data->val.binary.data, i);
		int32		code;

		if (byte->type != jbvNumeric)
			bad_headers("A buffer's data must be numbers.");
		code = DatumGetInt32(DirectFunctionCall1(numeric_int4,
												 NumericGetDatum(byte->val.numeric)));
		if (code < 0 || code > 255)
			bad_headers("A buffer's data must be numbers from 0 to 255.");
		appendStringInfoChar(&bytes, (char) code);
	}
	str = pg_any_to_server(bytes.data, bytes.len, PG_UTF8);
	outbox_event_header(ev, name->val.string.val, name->val.string.len,
						str, str == bytes.data ? bytes.len : strlen(str));
}

/*
 * Values that are neither texts nor numbers mean nothing to the guard; but what
 * says how the value is to be read must not be passed over.
 */
static void
take_other_header(OutboxApplyEvent *ev, const JsonbValue *name)
{
	if (is_name(name->val.string.val, name->val.string.len, OUTBOX_HEADER_VERBATIM))
		take_verbatim(ev, NULL, 0);
}

static void
take_json_header(OutboxApplyEvent *ev, const JsonbValue *name, const JsonbValue *value)
{
	const char *str;

	switch (value->type)
	{
		case jbvNull:
			outbox_event_header(ev, name->val.string.val, name->val.string.len, NULL, 0);
			break;
		case jbvString:
			outbox_event_header(ev, name->val.string.val, name->val.string.len,
								value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			str = DatumGetCString(DirectFunctionCall1(numeric_out,
													  NumericGetDatum(value->val.numeric)));
			outbox_event_header(ev, name->val.string.val, name->val.string.len,
								str, strlen(str));
			break;
		case jbvBinary:
			if (JsonContainerIsObject(value->val.binary.data))
				take_buffer(ev, name, value->val.binary.data);
			else
				take_other_header(ev, name);
			break;
		default:
			take_other_header(ev, name);
			break;
	}
}

static void
take_json_object(OutboxApplyEvent *ev, JsonbContainer *object)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbValue	name;
	JsonbValue	value;
	JsonbIteratorToken token;

	(void) JsonbIteratorNext(&it, &name, true); /* WJB_BEGIN_OBJECT */
	while ((token = JsonbIteratorNext(&it, &name, true)) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &value, true);
		take_json_header(ev, &name, &value);
	}
}

/* ["id", "1"], {"key": "id", "value": "1"}, {"name": …} or {"id": "1"} */
static void
take_json_pair(OutboxApplyEvent *ev, JsonbContainer *pair)
{
	JsonbValue	namev;
	JsonbValue	valuev;
	JsonbValue *name;
	JsonbValue *value;

	if (JsonContainerIsArray(pair))
	{
		if (JsonContainerSize(pair) != 2)
			bad_headers("A pair must have two elements.");
		name = getIthJsonbValueFromContainer(pair, 0);
		value = getIthJsonbValueFromContainer(pair, 1);
	}
	else
	{
		name = getKeyJsonValueFromContainer(pair, "key", 3, &namev);
		if (name == NULL)
			name = getKeyJsonValueFromContainer(pair, "name", 4, &namev);
		value = getKeyJsonValueFromContainer(pair, "value", 5, &valuev);
		if (name == NULL || value == NULL)
		{
			take_json_object(ev, pair);
			return;
		}
	}
	if (name->type != jbvString)
		bad_headers("A header's name must be a string.");
	take_json_header(ev, name, value);
}

void
outbox_event_headers_jsonb(OutboxApplyEvent *ev, Jsonb *headers)
{
	JsonbContainer *root = &headers->root;

	if (JB_ROOT_IS_OBJECT(headers))
	{
		take_json_object(ev, root);
		return;
	}
	if (JB_ROOT_IS_SCALAR(headers))
		bad_headers("They are neither an object nor an array.");
	for (uint32 i = 0; i < JB_ROOT_COUNT(headers); i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(root, i);

		if (element->type != jbvBinary)
			bad_headers("An element of the array is neither an object nor a pair.");
		take_json_pair(ev, element->val.binary.data);
	}
}
