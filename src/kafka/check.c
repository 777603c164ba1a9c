/*-------------------------------------------------------------------------
 *
 * check.c
 *	  SQL function outbox.server_check, and the settings of this area.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "kafka/api.h"

#include "access/htup_details.h"
#include "catalog/pg_foreign_server.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "common/argument.h"

#define SERVER_CHECK_COLUMNS 6

static int	connect_timeout = 5000;

PG_FUNCTION_INFO_V1(outbox_server_check);

static void
check_text(Datum *values, bool *nulls, int column, const char *str)
{
	nulls[column] = str == NULL;
	if (str != NULL)
		values[column] = CStringGetTextDatum(str);
}

static Datum
check_tuple(FunctionCallInfo fcinfo, const OutboxServerCheck *check)
{
	TupleDesc	desc;
	Datum		values[SERVER_CHECK_COLUMNS] = {0};
	bool		nulls[SERVER_CHECK_COLUMNS] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != SERVER_CHECK_COLUMNS)
		elog(ERROR, "unexpected result type of outbox.server_check");
	values[0] = BoolGetDatum(check->ok);
	values[1] = Int32GetDatum(check->nbrokers);
	check_text(values, nulls, 2, check->brokers);
	check_text(values, nulls, 3, check->cluster_id);
	values[4] = Int32GetDatum(check->controller);
	nulls[4] = check->controller < 0;
	check_text(values, nulls, 5, check->detail);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

Datum
outbox_server_check(PG_FUNCTION_ARGS)
{
	char	   *name = outbox_argument_text(fcinfo, 0, "server",
											"Leave the argument out to check server \"kafka\".");
	Oid			serverid = outbox_server_oid(name, false);
	OutboxServerSettings settings;
	OutboxServerCheck check;
	AclResult	acl;

	acl = object_aclcheck(ForeignServerRelationId, serverid, GetUserId(), ACL_USAGE);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_FOREIGN_SERVER, name);
	outbox_server_settings(serverid, &settings);
	outbox_kafka_api()->server_check(&settings, connect_timeout, &check);
	PG_RETURN_DATUM(check_tuple(fcinfo, &check));
}

void
outbox_kafka_init(void)
{
	DefineCustomIntVariable("pg_outbox.connect_timeout",
							"How long outbox.server_check waits for a broker.",
							NULL, &connect_timeout, 5000, 100, 600000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
}
