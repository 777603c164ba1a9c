/*-------------------------------------------------------------------------
 *
 * fields.c
 *	  Does the JSON of a composite value have all fields of its type?
 *
 * json_to_record() takes a field that is missing for null.  An event that
 * lacks one was written with another type, one that has not got the field yet
 * or that names it otherwise; to go on would lose the field's value, and
 * nobody would know.  So it is the same error as a column that is missing.
 * Members that are no fields are ignored, as those that are no columns.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/fields.h"

#include "access/tupdesc.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

bool
outbox_type_has_fields(Oid typid)
{
	Oid			base = getBaseType(typid);
	Oid			elemtype = get_element_type(base);

	if (OidIsValid(elemtype))
		return outbox_type_has_fields(elemtype);
	return type_is_rowtype(base);
}

static int
find_field(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return i;
	}
	return -1;
}

static void
check_object(Oid typid, const OutboxJsonValue *object)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(typid, -1);
	bool	   *seen = palloc0(sizeof(bool) * Max(desc->natts, 1));
	OutboxJsonScan scan;
	OutboxJsonValue name;
	OutboxJsonValue value;

	outbox_json_begin(&scan, "value", object->start, object->len);
	while (outbox_json_next(&scan, &name, &value))
	{
		int			len;
		int			field = find_field(desc, outbox_json_unescape(&name, &len));

		if (field < 0)
			continue;
		seen[field] = true;
		outbox_fields_check(TupleDescAttr(desc, field)->atttypid, &value);
	}
	for (int i = 0; i < desc->natts; i++)
		if (!seen[i] && !TupleDescAttr(desc, i)->attisdropped)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("event lacks field \"%s\" of type %s",
							NameStr(TupleDescAttr(desc, i)->attname), format_type_be(typid)),
					 errhint("Composite types must have the same fields where they are published and where they are replicated.")));
	pfree(seen);
	ReleaseTupleDesc(desc);
}

/*
 * Elements of an array; each may be a further dimension.
 */
static void
check_array(Oid typid, Oid elemtype, const OutboxJsonValue *array)
{
	OutboxJsonScan scan;
	OutboxJsonValue element;

	outbox_json_begin_array(&scan, "value", array->start, array->len);
	while (outbox_json_next_element(&scan, &element))
		outbox_fields_check(element.kind == OUTBOX_JSON_ARRAY ? typid : elemtype, &element);
}

void
outbox_fields_check(Oid typid, const OutboxJsonValue *value)
{
	Oid			base;

	if ((value->kind != OUTBOX_JSON_ARRAY && value->kind != OUTBOX_JSON_OBJECT) ||
		!outbox_type_has_fields(typid))
		return;
	check_stack_depth();
	base = getBaseType(typid);
	if (value->kind == OUTBOX_JSON_ARRAY && OidIsValid(get_element_type(base)))
		check_array(base, get_element_type(base), value);
	else if (value->kind == OUTBOX_JSON_OBJECT && type_is_rowtype(base))
		check_object(base, value);
}
