/*-------------------------------------------------------------------------
 *
 * row.c
 *	  From an event's bytes to the datums of a row.
 *
 * One pass over the value.  A column's text goes to the type's own input
 * function, so that a value is taken exactly as PostgreSQL takes it from
 * COPY; only a few common types have a shorter way.  Events of one topic have
 * their members in the same order, so the nth member is first compared with
 * what the nth member was the last time.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/row.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

#include "apply/fields.h"
#include "apply/json_scan.h"

/* Identities longer than this are kept as a digest; an index has its limits. */
#define MAX_IDENTITY_LENGTH 512

const OutboxTargetColumn *outbox_row_column = NULL;

/* ---------------- which column a member is ---------------- */

static int
search_column(const OutboxTarget *target, const char *name, int len)
{
	for (int i = 0; i < target->ncolumns; i++)
		if (target->columns[i].name_len == len &&
			memcmp(target->columns[i].name, name, len) == 0)
			return i;
	return -1;
}

static int
member_column(OutboxTarget *target, int position, const OutboxJsonValue *member)
{
	const char *name = member->start;
	int			len = member->len;
	OutboxMemberHint *hint = NULL;
	int			column;

	if (member->escaped)
		name = outbox_json_unescape(member, &len);
	if (position < OUTBOX_MAX_HINTS)
	{
		hint = &target->hints[position];
		if (hint->name != NULL && hint->name_len == len && memcmp(hint->name, name, len) == 0)
			return hint->column;
	}

	column = search_column(target, name, len);
	if (hint != NULL && (column >= 0 || hint->name == NULL))
	{
		hint->name = column >= 0 ? target->columns[column].name :
			MemoryContextStrdup(target->context, pnstrdup(name, len));
		hint->name_len = len;
		hint->column = column;
	}
	return column;
}

/* ---------------- text to datum ---------------- */

static char *
value_text(const OutboxJsonValue *value, int *len)
{
	if (value->kind == OUTBOX_JSON_STRING)
		return outbox_json_unescape(value, len);
	*len = value->len;
	return pnstrdup(value->start, value->len);
}

/* The JSON text itself; a string's slice leaves its quotes out. */
static char *
value_json(const OutboxJsonValue *value)
{
	if (value->kind == OUTBOX_JSON_STRING)
		return pnstrdup(value->start - 1, value->len + 2);
	return pnstrdup(value->start, value->len);
}

static Datum
convert_input(OutboxTargetColumn *col, char *str)
{
	return InputFunctionCall(&col->input, str, col->ioparam, col->typmod);
}

/*
 * Integers by hand, without a copy; false if it is not plainly one that fits.
 */
static bool
convert_integer(const OutboxJsonValue *value, int64 min, int64 max, int64 *result)
{
	const char *p = value->start;
	const char *end = p + value->len;
	bool		negative = p < end && *p == '-';
	int64		n = 0;

	if (negative)
		p++;
	if (value->escaped || p >= end || end - p > 18)
		return false;
	for (; p < end; p++)
	{
		if (*p < '0' || *p > '9')
			return false;
		n = n * 10 + (*p - '0');
	}
	if (negative)
		n = -n;
	*result = n;
	return n >= min && n <= max;
}

static Datum
convert_nested(OutboxTarget *target, OutboxTargetColumn *col, const OutboxJsonValue *value)
{
	SPIPlanPtr	plan = outbox_target_nested_plan(target, col);
	char	   *object = psprintf("{\"c\":%s}", value_json(value));
	Datum		arg = CStringGetTextDatum(object);
	Datum		result;
	bool		isnull;

	if (SPI_execute_plan(plan, &arg, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not convert a nested value");
	result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (isnull)
		elog(ERROR, "nested value became null");
	result = datumCopy(result, false, get_typlen(col->typid));
	SPI_freetuptable(SPI_tuptable);
	return result;
}

static Datum
convert_text(const OutboxJsonValue *value)
{
	int			len;
	char	   *str;

	if (value->kind != OUTBOX_JSON_STRING)
		return PointerGetDatum(cstring_to_text(value_json(value)));
	if (!value->escaped)
		return PointerGetDatum(cstring_to_text_with_len(value->start, value->len));
	str = outbox_json_unescape(value, &len);
	return PointerGetDatum(cstring_to_text_with_len(str, len));
}

static Datum
convert_value(OutboxTarget *target, OutboxTargetColumn *col, const OutboxJsonValue *value)
{
	int64		n;
	int			len;

	switch (col->conversion)
	{
		case OUTBOX_CONV_INT2:
			if (convert_integer(value, PG_INT16_MIN, PG_INT16_MAX, &n))
				return Int16GetDatum((int16) n);
			break;
		case OUTBOX_CONV_INT4:
			if (convert_integer(value, PG_INT32_MIN, PG_INT32_MAX, &n))
				return Int32GetDatum((int32) n);
			break;
		case OUTBOX_CONV_INT8:
			if (convert_integer(value, PG_INT64_MIN, PG_INT64_MAX, &n))
				return Int64GetDatum(n);
			break;
		case OUTBOX_CONV_BOOL:
			if (value->kind == OUTBOX_JSON_TRUE || value->kind == OUTBOX_JSON_FALSE)
				return BoolGetDatum(value->kind == OUTBOX_JSON_TRUE);
			break;
		case OUTBOX_CONV_TEXT:
			return convert_text(value);
		case OUTBOX_CONV_JSON:
			return convert_input(col, value_json(value));
		case OUTBOX_CONV_NESTED:
			if (value->kind == OUTBOX_JSON_ARRAY || value->kind == OUTBOX_JSON_OBJECT)
			{
				outbox_fields_check(col->typid, value);
				return convert_nested(target, col, value);
			}
			break;
		case OUTBOX_CONV_INPUT:
			break;
	}
	return convert_input(col, value_text(value, &len));
}

static void
set_column(OutboxTarget *target, OutboxRow *row, int column, const OutboxJsonValue *value)
{
	OutboxTargetColumn *col = &target->columns[column];
	bool		verbatim = row->verbatim != NULL && row->verbatim[column];

	outbox_row_column = col;
	row->nulls[column] = value->kind == OUTBOX_JSON_NULL && !verbatim;
	if (verbatim)
		row->values[column] = convert_input(col, pnstrdup(value->outer, value->outer_len));
	else if (!row->nulls[column])
		row->values[column] = convert_value(target, col, value);
	else if (col->is_domain)
		(void) convert_input(col, NULL);	/* NOT NULL of the domain */
	outbox_row_column = NULL;
}

/* ---------------- the value ---------------- */

/*
 * Columns that header "json_verbatim" names.  A column that is of another type
 * here has no JSON value null, and takes it for SQL's.
 */
static void
scan_verbatim(OutboxTarget *target, const OutboxApplyEvent *ev, OutboxRow *row)
{
	OutboxJsonScan scan;
	OutboxJsonValue name;

	row->verbatim = palloc0(sizeof(bool) * target->ncolumns);
	outbox_json_begin_array(&scan, "header \"" OUTBOX_HEADER_VERBATIM "\"",
							ev->verbatim, ev->verbatim_len);
	while (outbox_json_next_element(&scan, &name))
	{
		int			len;
		char	   *str;
		int			column;

		if (name.kind != OUTBOX_JSON_STRING)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("header \"%s\" of event is not a list of names", OUTBOX_HEADER_VERBATIM)));
		str = outbox_json_unescape(&name, &len);
		column = search_column(target, str, len);
		if (column >= 0 && target->columns[column].conversion == OUTBOX_CONV_JSON)
			row->verbatim[column] = true;
	}
}

/*
 * Take the version from the payload, where no header has one.
 */
static void
version_from_value(OutboxRow *row, const OutboxJsonValue *value, bool *found)
{
	*found = (value->kind == OUTBOX_JSON_NUMBER || value->kind == OUTBOX_JSON_STRING) &&
		outbox_parse_version(value->start, value->len, &row->version);
}

static void
scan_value(OutboxTarget *target, const OutboxApplyEvent *ev, OutboxRow *row,
		   bool *seen, bool *has_version)
{
	OutboxJsonScan scan;
	OutboxJsonValue name;
	OutboxJsonValue value;

	outbox_json_begin(&scan, "value", ev->value, ev->value_len);
	for (int position = 0; outbox_json_next(&scan, &name, &value); position++)
	{
		int			column = member_column(target, position, &name);

		if (column < 0)
			continue;
		if (seen[column])
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_JSON_OBJECT_KEY_VALUE),
					 errmsg("event value has member \"%s\" twice",
							target->columns[column].name)));
		seen[column] = true;
		if (target->columns[column].is_version)
		{
			if (!*has_version)
				version_from_value(row, &value, has_version);
		}
		else if (!row->is_delete || target->columns[column].is_key)
			set_column(target, row, column, &value);
	}
}

/* ---------------- the key ---------------- */

static void
scan_key_object(OutboxTarget *target, const OutboxApplyEvent *ev, OutboxRow *row, bool *seen)
{
	OutboxJsonScan scan;
	OutboxJsonValue name;
	OutboxJsonValue value;

	outbox_json_begin(&scan, "key", ev->key, ev->key_len);
	while (outbox_json_next(&scan, &name, &value))
	{
		int			len;
		char	   *str = outbox_json_unescape(&name, &len);
		int			column = search_column(target, str, len);

		if (column < 0 || !target->columns[column].is_key || seen[column])
			continue;
		seen[column] = true;
		set_column(target, row, column, &value);
	}
}

static bool
type_is_string(Oid typid)
{
	char		category;
	bool		preferred;

	get_type_category_preferred(typid, &category, &preferred);
	return category == TYPCATEGORY_STRING;
}

/*
 * What the value does not say of the identity, the record's key does: as a
 * JSON object, or as the plain text of the only column.  The text of a string
 * column is never taken for an object, whatever it looks like.
 */
static void
scan_key(OutboxTarget *target, const OutboxApplyEvent *ev, OutboxRow *row, bool *seen)
{
	OutboxJsonValue value;

	if (ev->key == NULL)
		return;
	if (target->nkeys > 1 ||
		(outbox_json_is_object(ev->key, ev->key_len) &&
		 !type_is_string(target->columns[target->keys[0]].typid)))
	{
		scan_key_object(target, ev, row, seen);
		return;
	}
	value.kind = OUTBOX_JSON_STRING;
	value.escaped = false;
	value.start = ev->key;
	value.len = ev->key_len;
	seen[target->keys[0]] = true;
	set_column(target, row, target->keys[0], &value);
}

static void
complete_key(OutboxTarget *target, const OutboxApplyEvent *ev, OutboxRow *row, bool *seen)
{
	bool		complete = true;

	for (int i = 0; i < target->nkeys; i++)
		complete = complete && seen[target->keys[i]];
	if (!complete)
		scan_key(target, ev, row, seen);

	for (int i = 0; i < target->nkeys; i++)
	{
		int			column = target->keys[i];

		if (seen[column] && !row->nulls[column])
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("event has no value for key column \"%s\"",
						target->columns[column].name),
				 errdetail(seen[column] ? "It is null." :
						   "Neither its value nor its key contains the column.")));
	}
}

/* ---------------- identity ---------------- */

/* 1.50 and 1.5 are equal: leave the zeros out. */
static void
strip_trailing_zeros(char *str)
{
	char	   *end = str + strlen(str);

	if (strchr(str, '.') == NULL)
		return;
	while (end[-1] == '0')
		*--end = '\0';
	if (end[-1] == '.')
		end[-1] = '\0';
}

static void
strip_trailing_spaces(char *str)
{
	char	   *end = str + strlen(str);

	while (end > str && end[-1] == ' ')
		*--end = '\0';
}

static char *
key_text(OutboxTargetColumn *col, Datum value)
{
	char	   *str;

	if (col->conversion == OUTBOX_CONV_TEXT)
		return TextDatumGetCString(value);
	str = OutputFunctionCall(&col->output, value);
	if (col->is_numeric)
		strip_trailing_zeros(str);
	else if (col->is_padded)
		strip_trailing_spaces(str);
	else if (col->is_float && strcmp(str, "-0") == 0)
		strcpy(str, "0");
	return str;
}

static char *
composite_identity(OutboxTarget *target, const OutboxRow *row)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < target->nkeys; i++)
	{
		int			column = target->keys[i];

		if (i > 0)
			appendStringInfoChar(&buf, ',');
		for (char *p = key_text(&target->columns[column], row->values[column]); *p; p++)
		{
			if (*p == ',' || *p == '\\')
				appendStringInfoChar(&buf, '\\');
			appendStringInfoCharMacro(&buf, *p);
		}
	}
	return buf.data;
}

static char *
identity_digest(const char *identity, int len)
{
	Datum		bytes = PointerGetDatum(cstring_to_text_with_len(identity, len));
	bytea	   *digest = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, bytes));
	char	   *str = palloc(sizeof("sha256:") + 64);

	strcpy(str, "sha256:");
	(void) hex_encode(VARDATA_ANY(digest), VARSIZE_ANY_EXHDR(digest), str + 7);
	str[7 + 64] = '\0';
	return str;
}

static void
set_identity(OutboxTarget *target, OutboxRow *row)
{
	if (target->nkeys == 1)
		row->identity = key_text(&target->columns[target->keys[0]],
								 row->values[target->keys[0]]);
	else
		row->identity = composite_identity(target, row);
	row->identity_len = strlen(row->identity);
	if (row->identity_len > MAX_IDENTITY_LENGTH)
	{
		row->identity = identity_digest(row->identity, row->identity_len);
		row->identity_len = strlen(row->identity);
	}
	row->hash = hash_bytes((unsigned char *) row->identity, row->identity_len);
}

/* ---------------- the row ---------------- */

static void
check_complete(const OutboxTarget *target, const bool *seen)
{
	for (int i = 0; i < target->ncolumns; i++)
		if (!seen[i])
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("event lacks column \"%s\" of replica %s",
							target->columns[i].name, target->name),
					 errdetail("An event is the whole row; a column that it leaves out would keep a value that may be wrong."),
					 errhint("Drop the column, publish it, or name the columns that are replicated in outbox.replicate(..., columns => ...).")));
}

static void
set_version(OutboxTarget *target, const OutboxApplyEvent *ev, OutboxRow *row,
			bool *seen, bool has_version)
{
	if (!has_version)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event has no version"),
				 ev->id_unusable ?
				 errdetail("Its header \"id\" is not an integer, it has no header \"version\" and no member \"%s\".",
						   target->columns[target->version_column].name) :
				 errdetail("It has neither a header \"version\" or \"id\" nor a member \"%s\" that is an integer.",
						   target->columns[target->version_column].name),
				 errhint("Without a version that grows with each change of a row a late event cannot be told from a new one.")));
	row->values[target->version_column] = Int64GetDatum(row->version);
	row->nulls[target->version_column] = false;
	seen[target->version_column] = true;
}

void
outbox_row_from_event(OutboxTarget *target, const OutboxApplyEvent *ev, OutboxRow *row)
{
	bool	   *seen = palloc0(sizeof(bool) * target->ncolumns);
	bool		has_version = ev->has_version;

	outbox_row_column = NULL;
	row->is_delete = outbox_event_is_delete(ev);
	row->version = ev->version;
	row->values = palloc0(sizeof(Datum) * target->ncolumns);
	row->nulls = palloc(sizeof(bool) * target->ncolumns);
	memset(row->nulls, true, sizeof(bool) * target->ncolumns);

	row->verbatim = NULL;
	if (ev->verbatim != NULL)
		scan_verbatim(target, ev, row);
	if (ev->value != NULL)
		scan_value(target, ev, row, seen, &has_version);
	else if (!row->is_delete)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("event with operation \"%c\" has no value", ev->op),
				 errdetail("Only a delete may be without one.")));
	complete_key(target, ev, row, seen);
	set_version(target, ev, row, seen, has_version);
	if (!row->is_delete)
		check_complete(target, seen);
	set_identity(target, row);
	pfree(seen);
}
