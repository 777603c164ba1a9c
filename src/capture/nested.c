/*-------------------------------------------------------------------------
 *
 * nested.c
 *	  Arrays and composite values as JSON arrays and objects.
 *
 * A replica reads them with json_to_record(), and must get the value that
 * was there.  JSON cannot carry every one of them: an array may begin at
 * another subscript than 1; null stands for SQL's null, so an element or field
 * cannot be the JSON value null; and an element that is written as a JSON array
 * looks like a further dimension.  Such an array or composite value, the
 * innermost that holds the trouble, is written as PostgreSQL's own text of it,
 * in a JSON string.  json_to_record() gives a string to the type's input
 * function wherever it wants an array or a composite value, at any depth, and
 * nothing else of such a type is ever written as a string.
 *
 * to_json() would do none of this, and besides it asks casts to json, whose
 * result the type's input function need not understand.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/encode.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* An element type, or a field of a composite type. */
typedef struct NestedPart
{
	const char *label;			/* "name": of a field; NULL if it was dropped */
	int			label_len;
	OutboxEncoder enc;
} NestedPart;

/*
 * What a type consists of.  Composite types can get, lose and rename fields at
 * any time: their parts are made anew when the descriptor is another one.
 */
struct OutboxNested
{
	MemoryContext context;		/* of the parts */
	uint64		descriptor;		/* identifier of the composite type's, or 0 */
	int			nparts;
	NestedPart *parts;

	/* storage of an array's elements */
	int16		typlen;
	bool		typbyval;
	char		typalign;
};

/* An array on its way out. */
typedef struct ArrayCursor
{
	int			ndim;
	const int  *dims;
	const Datum *elems;
	const bool *nulls;
	int			next;			/* index of the next element */
} ArrayCursor;

static void
init_element(OutboxNested *nested, Oid elemtype)
{
	get_typlenbyvalalign(elemtype, &nested->typlen, &nested->typbyval, &nested->typalign);
	nested->nparts = 1;
	nested->parts = MemoryContextAllocZero(nested->context, sizeof(NestedPart));
	outbox_encoder_init(&nested->parts[0].enc, elemtype, nested->context);
}

OutboxNested *
outbox_nested_create(Oid typid, MemoryContext context)
{
	OutboxNested *nested = MemoryContextAllocZero(context, sizeof(OutboxNested));
	Oid			elemtype = get_element_type(typid);

	nested->context = AllocSetContextCreate(context, "pg_outbox nested type",
											ALLOCSET_SMALL_SIZES);
	if (OidIsValid(elemtype))
		init_element(nested, elemtype);
	return nested;
}

/*
 * Prepare the fields, unless they are those of this descriptor already.
 */
static void
prepare_fields(OutboxNested *nested, TupleDesc desc)
{
	uint64		descriptor = assign_record_type_identifier(desc->tdtypeid, desc->tdtypmod);
	MemoryContext oldcontext;

	if (nested->descriptor == descriptor)
		return;
	nested->descriptor = 0;
	MemoryContextReset(nested->context);
	oldcontext = MemoryContextSwitchTo(nested->context);
	nested->nparts = desc->natts;
	nested->parts = palloc0(sizeof(NestedPart) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		NestedPart *part = &nested->parts[i];
		StringInfoData label;

		if (att->attisdropped)
			continue;
		initStringInfo(&label);
		outbox_encode_string(&label, NameStr(att->attname), strlen(NameStr(att->attname)));
		appendStringInfoChar(&label, ':');
		part->label = label.data;
		part->label_len = label.len;
		outbox_encoder_init(&part->enc, att->atttypid, nested->context);
	}
	MemoryContextSwitchTo(oldcontext);
	nested->descriptor = descriptor;
}

/*
 * Does a json or jsonb value inside another one come back as it is?  Of json,
 * which is text, strings are unescaped and escaped again on the way.
 */
static bool
json_is_kept(const OutboxEncoder *enc, const char *json, int len)
{
	if (outbox_json_needs_verbatim(json, len))
		return false;
	return enc->basetype == JSONBOID || memchr(json, '\\', len) == NULL;
}

/*
 * Append an element or a field; false if a reader would take it for something
 * else.
 */
static bool
append_part(StringInfo buf, OutboxEncoder *enc, Datum value, bool isnull, bool in_array)
{
	int			start = buf->len;

	if (isnull)
	{
		appendBinaryStringInfoNT(buf, "null", 4);
		return true;
	}
	outbox_encode_json(buf, enc, value);
	if (in_array && buf->data[start] == '[')
		return false;
	return enc->encoding != OUTBOX_ENC_JSON ||
		json_is_kept(enc, buf->data + start, buf->len - start);
}

/* ---------------- arrays ---------------- */

static bool
append_dimension(StringInfo buf, OutboxNested *nested, ArrayCursor *cur, int dim)
{
	appendStringInfoCharMacro(buf, '[');
	for (int i = 0; i < cur->dims[dim]; i++)
	{
		bool		kept;

		CHECK_FOR_INTERRUPTS();
		if (i > 0)
			appendStringInfoCharMacro(buf, ',');
		if (dim + 1 < cur->ndim)
			kept = append_dimension(buf, nested, cur, dim + 1);
		else
		{
			kept = append_part(buf, &nested->parts[0].enc, cur->elems[cur->next],
							   cur->nulls[cur->next], true);
			cur->next++;
		}
		if (!kept)
			return false;
	}
	appendStringInfoCharMacro(buf, ']');
	return true;
}

static bool
append_array(StringInfo buf, OutboxNested *nested, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	ArrayCursor cur = {ARR_NDIM(array), ARR_DIMS(array)};
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;

	if (cur.ndim == 0)
	{
		appendBinaryStringInfoNT(buf, "[]", 2);
		return true;
	}
	for (int i = 0; i < cur.ndim; i++)
		if (ARR_LBOUND(array)[i] != 1)
			return false;
	deconstruct_array(array, ARR_ELEMTYPE(array), nested->typlen, nested->typbyval,
					  nested->typalign, &elems, &nulls, &nelems);
	cur.elems = elems;
	cur.nulls = nulls;
	return append_dimension(buf, nested, &cur, 0);
}

/* ---------------- composite values ---------------- */

static bool
append_fields(StringInfo buf, OutboxNested *nested, const Datum *values, const bool *nulls)
{
	bool		first = true;

	appendStringInfoCharMacro(buf, '{');
	for (int i = 0; i < nested->nparts; i++)
	{
		NestedPart *part = &nested->parts[i];

		if (part->label == NULL)
			continue;
		if (!first)
			appendStringInfoCharMacro(buf, ',');
		first = false;
		appendBinaryStringInfoNT(buf, part->label, part->label_len);
		if (!append_part(buf, &part->enc, values[i], nulls[i], false))
			return false;
	}
	appendStringInfoCharMacro(buf, '}');
	return true;
}

static bool
append_composite(StringInfo buf, OutboxNested *nested, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	Datum	   *values = palloc(sizeof(Datum) * Max(desc->natts, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(desc->natts, 1));
	HeapTupleData tuple;

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);
	prepare_fields(nested, desc);
	ReleaseTupleDesc(desc);
	return append_fields(buf, nested, values, nulls);
}

bool
outbox_nested_append(StringInfo buf, OutboxEncoder *enc, Datum value)
{
	int			start = buf->len;
	bool		kept;

	check_stack_depth();
	if (enc->encoding == OUTBOX_ENC_ARRAY)
		kept = append_array(buf, enc->nested, value);
	else
		kept = append_composite(buf, enc->nested, value);
	if (!kept)
		buf->len = start;
	return kept;
}
