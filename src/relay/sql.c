/*-------------------------------------------------------------------------
 *
 * sql.c
 *	  The relay's SQL on its own tables.
 *
 * These statements are rare (topics that stop, settings, copies); what is done
 * for every event goes straight to the tables, in src/log.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/sql.h"

#include "executor/spi.h"
#include "utils/snapmgr.h"

void
outbox_sql_begin(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
outbox_sql_end(void)
{
	PopActiveSnapshot();
	SPI_finish();
}

void
outbox_sql_execute(const char *sql, int nargs, Oid *types, Datum *values,
				   const char *nulls)
{
	int			rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);

	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
}
