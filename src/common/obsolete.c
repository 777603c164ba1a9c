/*-------------------------------------------------------------------------
 *
 * obsolete.c
 *	  C functions of earlier versions' SQL objects.
 *
 * A library is asked for them where objects of an earlier version are made
 * anew, by pg_upgrade or CREATE EXTENSION ... VERSION, before ALTER EXTENSION
 * UPDATE has dropped them.  Whoever calls one is told to run that.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include "fmgr.h"

#include "common/catalog.h"

/* 0.1.0 */
PG_FUNCTION_INFO_V1(outbox_refuse_truncate);
PG_FUNCTION_INFO_V1(outbox_silent_servers);

static Datum
obsolete(void)
{
	(void) outbox_owner_oid();	/* raises if the objects are of another
								 * version */
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("this function belongs to an earlier version of the extension")));
	return (Datum) 0;
}

Datum
outbox_refuse_truncate(PG_FUNCTION_ARGS)
{
	return obsolete();
}

Datum
outbox_silent_servers(PG_FUNCTION_ARGS)
{
	return obsolete();
}
