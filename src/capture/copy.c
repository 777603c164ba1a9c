/*-------------------------------------------------------------------------
 *
 * copy.c
 *	  Publishing the rows that a table has already.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/capture.h"

void
outbox_copy_request(const char *publication)
{
}
