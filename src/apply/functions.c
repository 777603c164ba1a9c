/*-------------------------------------------------------------------------
 *
 * functions.c
 *	  apply(), apply_batch() and first_time() for consumers of one's own.
 *
 * They need neither worker nor preloading, and run with the caller's rights;
 * only tombstones and inbox are touched as the extension's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/apply.h"

#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "apply/inbox.h"
#include "apply/replica.h"
#include "common/argument.h"
#include "common/catalog.h"

/* In the order of OutboxApplyResult. */
static const char *const result_labels[OUTBOX_APPLY_RESULTS] = {
	"applied", "deleted", "stale", "duplicate", "suppressed", "swept", "marked"
};

PG_FUNCTION_INFO_V1(outbox_apply);
PG_FUNCTION_INFO_V1(outbox_apply_batch);
PG_FUNCTION_INFO_V1(outbox_first_time);

static void
result_oids(Oid typid, Oid *oids)
{
	for (int i = 0; i < OUTBOX_APPLY_RESULTS; i++)
	{
		oids[i] = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
								  ObjectIdGetDatum(typid),
								  CStringGetDatum(result_labels[i]));
		if (!OidIsValid(oids[i]))
			elog(ERROR, "type %s has no label \"%s\"", format_type_be(typid), result_labels[i]);
	}
}

static void
require_target(FunctionCallInfo fcinfo)
{
	outbox_argument_require(fcinfo, 0, "target", "Pass the replica that the event is for.");
}

static void
set_text(text *t, const char **data, int *len)
{
	*data = VARDATA_ANY(t);
	*len = VARSIZE_ANY_EXHDR(t);
}

/*
 * apply(target regclass, key text, value text, headers jsonb)
 */
Datum
outbox_apply(PG_FUNCTION_ARGS)
{
	OutboxApplyEvent ev;
	OutboxApplyResult result;
	Oid			oids[OUTBOX_APPLY_RESULTS];

	require_target(fcinfo);
	memset(&ev, 0, sizeof(ev));
	if (!PG_ARGISNULL(1))
		set_text(PG_GETARG_TEXT_PP(1), &ev.key, &ev.key_len);
	if (!PG_ARGISNULL(2))
		set_text(PG_GETARG_TEXT_PP(2), &ev.value, &ev.value_len);
	if (!PG_ARGISNULL(3))
		outbox_event_headers_jsonb(&ev, PG_GETARG_JSONB_P(3));

	outbox_replica_apply(PG_GETARG_OID(0), &ev, 1, &result, false);
	result_oids(get_func_rettype(fcinfo->flinfo->fn_oid), oids);
	PG_RETURN_OID(oids[result]);
}

/* ---------------- batches ---------------- */

/* One of the parallel arrays; elements of a null array are all null. */
typedef struct EventArray
{
	int			n;
	Datum	   *elems;
	bool	   *nulls;
} EventArray;

static void
get_event_array(FunctionCallInfo fcinfo, int argno, Oid elemtype, EventArray *array)
{
	ArrayType  *value;

	array->n = -1;
	if (PG_ARGISNULL(argno))
		return;
	value = PG_GETARG_ARRAYTYPE_P(argno);
	if (ARR_NDIM(value) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays of events must have one dimension")));
	deconstruct_array(value, elemtype, -1, false, TYPALIGN_INT,
					  &array->elems, &array->nulls, &array->n);
}

static int
batch_size(const EventArray *keys, const EventArray *values, const EventArray *headers)
{
	int			n = Max(keys->n, Max(values->n, headers->n));

	if ((keys->n >= 0 && keys->n != n) || (values->n >= 0 && values->n != n) ||
		(headers->n >= 0 && headers->n != n))
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays of events must have the same length"),
				 errdetail("There are %d keys, %d payloads and %d headers.",
						   Max(keys->n, 0), Max(values->n, 0), Max(headers->n, 0))));
	return Max(n, 0);
}

static bool
has_element(const EventArray *array, int i)
{
	return array->n > 0 && !array->nulls[i];
}

static OutboxApplyEvent *
batch_events(const EventArray *keys, const EventArray *values, const EventArray *headers, int n)
{
	OutboxApplyEvent *events = palloc0(sizeof(OutboxApplyEvent) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		OutboxApplyEvent *ev = &events[i];

		if (has_element(keys, i))
			set_text(DatumGetTextPP(keys->elems[i]), &ev->key, &ev->key_len);
		if (has_element(values, i))
			set_text(DatumGetTextPP(values->elems[i]), &ev->value, &ev->value_len);
		if (has_element(headers, i))
			outbox_event_headers_jsonb(ev, DatumGetJsonbP(headers->elems[i]));
	}
	return events;
}

/*
 * apply_batch(target regclass, keys text[], payloads text[], headers jsonb[])
 */
Datum
outbox_apply_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EventArray	keys;
	EventArray	payloads;
	EventArray	headers;
	OutboxApplyEvent *events;
	OutboxApplyResult *results;
	Oid			oids[OUTBOX_APPLY_RESULTS];
	int			n;

	require_target(fcinfo);
	if (PG_ARGISNULL(1))
		outbox_argument_require(fcinfo, 2, "payloads", "Without keys the payloads say how many events there are.");
	get_event_array(fcinfo, 1, TEXTOID, &keys);
	get_event_array(fcinfo, 2, TEXTOID, &payloads);
	get_event_array(fcinfo, 3, JSONBOID, &headers);
	n = batch_size(&keys, &payloads, &headers);
	events = batch_events(&keys, &payloads, &headers, n);
	results = palloc(sizeof(OutboxApplyResult) * Max(n, 1));
	outbox_replica_apply(PG_GETARG_OID(0), events, n, results, false);

	InitMaterializedSRF(fcinfo, 0);
	result_oids(TupleDescAttr(rsinfo->setDesc, 1)->atttypid, oids);
	for (int i = 0; i < n; i++)
	{
		Datum		values[2] = {Int32GetDatum(i + 1), ObjectIdGetDatum(oids[results[i]])};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---------------- inbox ---------------- */

/*
 * first_time(consumer text, source text, event_id text)
 */
Datum
outbox_first_time(PG_FUNCTION_ARGS)
{
	char	   *consumer = outbox_argument_text(fcinfo, 0, "consumer",
												"Pass a name that tells this handler from others.");
	char	   *source = outbox_argument_text(fcinfo, 1, "source",
											  "Pass where the event is from, its topic for example.");
	char	   *event_id = outbox_argument_text(fcinfo, 2, "event_id",
												"An event without an id cannot be told from others: pass topic, partition and offset in its place.");

	PG_RETURN_BOOL(outbox_inbox_first_time(consumer, false, source, event_id));
}
