/*-------------------------------------------------------------------------
 *
 * publish.c
 *	  outbox.publish: arguments, and whether they make sense.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/publication.h"

#include "access/relation.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "capture/capture.h"
#include "capture/copy.h"
#include "capture/filter.h"
#include "common/argument.h"

PG_FUNCTION_INFO_V1(outbox_publish);

enum PublishArg
{
	ARG_SOURCE, ARG_TOPIC, ARG_NAME, ARG_COLUMNS, ARG_MODE, ARG_PARTITION_BY,
	ARG_FILTER, ARG_EVENT_TYPE, ARG_HEADERS, ARG_INITIAL, ARG_SERVER,
	ARG_IDENTITY, ARG_ON_TRUNCATE, ARG_SKIP_UNCHANGED, ARG_WITH_HEADERS
};

static char *default_topic = NULL;
static char *default_with_headers = NULL;

/* ---------------- arguments ---------------- */

static ArrayType *
array_arg(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : PG_GETARG_ARRAYTYPE_P(arg);
}

char *
outbox_choice_check(char *value, const char *parameter, const char *first,
					const char *second, const char *third)
{
	if (value == NULL)
		return pstrdup(first);
	if (strcmp(value, first) != 0 && strcmp(value, second) != 0 &&
		(third == NULL || strcmp(value, third) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value \"%s\" for parameter \"%s\"", value, parameter),
				 third ? errhint("Valid values are \"%s\", \"%s\" and \"%s\".", first, second, third) :
				 errhint("Valid values are \"%s\" and \"%s\".", first, second)));
	return value;
}

void
outbox_publication_name_check(const char *name)
{
	if (name[0] == '\0' || strlen(name) > 200)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid publication name \"%s\"", name),
				 errdetail("A name has 1 to 200 bytes.")));
}

#define MAX_EVENT_TYPE 1024		/* it goes with each event */

static bool
is_known_header(const char *name)
{
	return strcmp(name, "source") == 0 || strcmp(name, "txid") == 0;
}

static List *
with_headers_arg(ArrayType *array)
{
	List	   *list = NIL;
	ListCell   *lc;

	if (array != NULL)
		list = outbox_text_list(array, "with_headers");
	else
		(void) SplitIdentifierString(pstrdup(default_with_headers), ',', &list);
	foreach(lc, list)
	{
		char	   *name = lfirst(lc);

		if (!is_known_header(name))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown header \"%s\" in parameter \"with_headers\"", name),
					 errhint("Valid values are \"source\" and \"txid\".")));
		if (outbox_list_has(list_copy_tail(list, foreach_current_index(lc) + 1), name))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("header \"%s\" is named twice in parameter \"with_headers\"", name)));
	}
	return list;
}

/* ---------------- the specification ---------------- */

/*
 * Consumers find the row by its identity, so it must be in what they get.
 */
static void
check_identity_published(Relation rel, const PublicationSpec *spec)
{
	ListCell   *lc;

	if (spec->columns == NIL)
		return;
	foreach(lc, spec->identity)
		if (!outbox_list_has(spec->columns, lfirst(lc)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("columns must include \"%s\"", (char *) lfirst(lc)),
				 errdetail("The column belongs to the identity of the rows of table \"%s\".",
						   RelationGetRelationName(rel))));
}

static void
read_columns(PublicationSpec *spec, Relation rel, FunctionCallInfo fcinfo)
{
	spec->identity = outbox_source_identity(rel, outbox_argument_text_or_null(fcinfo, ARG_IDENTITY));
	if (!PG_ARGISNULL(ARG_COLUMNS))
		outbox_columns_parse(rel, array_arg(fcinfo, ARG_COLUMNS), "columns",
							 &spec->columns, &spec->labels);
	check_identity_published(rel, spec);
	if (!PG_ARGISNULL(ARG_PARTITION_BY))
		spec->partition_by = outbox_columns_list(rel, array_arg(fcinfo, ARG_PARTITION_BY),
												 "partition_by");
	if (!PG_ARGISNULL(ARG_FILTER))
		spec->filter = outbox_filter_canonical(outbox_argument_text_or_null(fcinfo, ARG_FILTER), rel);
}

static void
check_event_type(const char *event_type)
{
	if (event_type != NULL && strlen(event_type) > MAX_EVENT_TYPE)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("event_type is too long"),
				 errdetail("It may have %d bytes at most.", MAX_EVENT_TYPE)));
}

static void
read_headers(PublicationSpec *spec, FunctionCallInfo fcinfo)
{
	spec->event_type = outbox_argument_text_or_null(fcinfo, ARG_EVENT_TYPE);
	check_event_type(spec->event_type);
	spec->with_headers = with_headers_arg(array_arg(fcinfo, ARG_WITH_HEADERS));
	if (!PG_ARGISNULL(ARG_HEADERS))
	{
		StringInfoData buf;

		spec->headers = PG_GETARG_JSONB_P(ARG_HEADERS);
		initStringInfo(&buf);
		outbox_jsonb_headers(&buf, spec->headers);
	}
}

static void
read_destination(PublicationSpec *spec, Relation rel, FunctionCallInfo fcinfo)
{
	char	   *topic = outbox_argument_text_or_null(fcinfo, ARG_TOPIC);

	spec->topic = topic ? topic : outbox_source_topic(rel, default_topic);
	outbox_topic_check(spec->topic);
	spec->server = outbox_topic_server(outbox_argument_text_or_null(fcinfo, ARG_SERVER), spec->topic);
}

Datum
outbox_publish(PG_FUNCTION_ARGS)
{
	PublicationSpec spec;
	PublicationChange change;
	Relation	rel;
	char	   *initial;

	outbox_argument_require(fcinfo, ARG_SOURCE, "source", "Pass the table to publish.");
	memset(&spec, 0, sizeof(spec));
	spec.source = PG_GETARG_OID(ARG_SOURCE);
	spec.kind = PUBLICATION_TABLE;
	spec.mode = outbox_choice_check(outbox_argument_text_or_null(fcinfo, ARG_MODE), "mode", "full", "key", NULL);
	spec.on_truncate = outbox_choice_check(outbox_argument_text_or_null(fcinfo, ARG_ON_TRUNCATE), "on_truncate",
										   "error", "ignore", "publish");
	initial = outbox_choice_check(outbox_argument_text_or_null(fcinfo, ARG_INITIAL), "initial", "copy", "none", NULL);
	spec.skip_unchanged = !PG_ARGISNULL(ARG_SKIP_UNCHANGED) && PG_GETARG_BOOL(ARG_SKIP_UNCHANGED);
	read_headers(&spec, fcinfo);

	rel = outbox_source_open(spec.source, AccessShareLock);
	spec.name = outbox_argument_text_or_null(fcinfo, ARG_NAME);
	if (spec.name == NULL)
		spec.name = outbox_source_name(rel);
	outbox_publication_name_check(spec.name);
	read_columns(&spec, rel, fcinfo);
	read_destination(&spec, rel, fcinfo);
	relation_close(rel, NoLock);

	change = outbox_publication_store(&spec);
	if (change != PUBLICATION_MEANS_THE_SAME && strcmp(initial, "copy") == 0)
		outbox_copy_request(spec.name, false);
	else if (change == PUBLICATION_MEANS_MORE)
		outbox_copy_restart(spec.name);
	PG_RETURN_TEXT_P(cstring_to_text(spec.name));
}

/* ---------------- settings ---------------- */

static bool
check_with_headers(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval ? *newval : "");
	List	   *list;
	ListCell   *lc;

	if (!SplitIdentifierString(copy, ',', &list))
	{
		GUC_check_errdetail("List syntax is invalid.");
		return false;
	}
	foreach(lc, list)
		if (!is_known_header(lfirst(lc)))
	{
		GUC_check_errdetail("Unknown header \"%s\".", (char *) lfirst(lc));
		GUC_check_errhint("Valid values are \"source\" and \"txid\".");
		return false;
	}
	return true;
}

void
outbox_publish_init(void)
{
	DefineCustomStringVariable("pg_outbox.default_topic",
							   "Topic of a publication for which none is named.",
							   "{database}, {schema} and {table} are replaced.",
							   &default_topic, "{database}.{schema}.{table}", PGC_USERSET, 0,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("pg_outbox.default_with_headers",
							   "Optional headers of a publication for which none are named.",
							   "A comma-separated list of source and txid.",
							   &default_with_headers, "", PGC_USERSET, 0,
							   check_with_headers, NULL, NULL);
}
