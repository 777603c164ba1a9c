/*-------------------------------------------------------------------------
 *
 * adopt.c
 *	  Outbox tables in the common form: an inserted row is an event.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/publication.h"

#include "fmgr.h"

PG_FUNCTION_INFO_V1(outbox_capture_adopted);

Datum
outbox_capture_adopted(PG_FUNCTION_ARGS)
{
	PG_RETURN_NULL();
}
