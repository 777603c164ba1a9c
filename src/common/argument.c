/*-------------------------------------------------------------------------
 *
 * argument.c
 *	  Arguments of SQL functions that must not be null, and those that name a
 *	  relation.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "common/argument.h"

#include "access/relation.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/syscache.h"

void
outbox_argument_require(FunctionCallInfo fcinfo, int argno, const char *name,
						const char *hint)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name),
				 hint ? errhint("%s", hint) : 0));
}

char *
outbox_argument_text(FunctionCallInfo fcinfo, int argno, const char *name,
					 const char *hint)
{
	outbox_argument_require(fcinfo, argno, name, hint);
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

char *
outbox_argument_text_or_null(FunctionCallInfo fcinfo, int argno)
{
	return PG_ARGISNULL(argno) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

pg_noreturn static void
no_such_relation(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("relation with OID %u does not exist", relid),
			 errhint("Name the table instead of its OID, or look whether it was dropped.")));
}

Relation
outbox_argument_relation(Oid relid, LOCKMODE lockmode)
{
	Relation	rel = try_relation_open(relid, lockmode);

	if (rel == NULL)
		no_such_relation(relid);
	return rel;
}

void
outbox_argument_relation_exists(Oid relid)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		no_such_relation(relid);
}
