/*-------------------------------------------------------------------------
 *
 * argument.c
 *	  Arguments of SQL functions that must not be null.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "common/argument.h"

#include "utils/builtins.h"

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
