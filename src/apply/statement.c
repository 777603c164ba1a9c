/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  Statements on the extension's own tables, with its owner's rights.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/statement.h"

#include "executor/spi.h"
#include "utils/hsearch.h"

#define MAX_ARGS 24

typedef struct KeptPlan
{
	const char *sql;			/* hash key: the address */
	SPIPlanPtr	plan;
} KeptPlan;

static HTAB *plans = NULL;

void
outbox_statement_begin(OutboxOwnerScope *scope)
{
	outbox_owner_enter(scope);
	SPI_connect();
}

void
outbox_statement_end(OutboxOwnerScope *scope)
{
	SPI_finish();
	outbox_owner_leave(scope);
}

static SPIPlanPtr
plan_for(const char *sql, int nargs, const OutboxSqlArg *args)
{
	KeptPlan   *kept;
	SPIPlanPtr	plan;
	Oid			types[MAX_ARGS];

	if (plans == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(const char *);
		ctl.entrysize = sizeof(KeptPlan);
		plans = hash_create("pg_outbox statements", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	kept = hash_search(plans, &sql, HASH_FIND, NULL);
	if (kept != NULL)
		return kept->plan;

	for (int i = 0; i < nargs; i++)
		types[i] = args[i].type;
	plan = SPI_prepare(sql, nargs, types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\"", sql);
	kept = hash_search(plans, &sql, HASH_ENTER, NULL);
	kept->plan = plan;
	return plan;
}

uint64
outbox_statement_run(const char *sql, int nargs, const OutboxSqlArg *args)
{
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS];
	int			rc;

	Assert(nargs <= MAX_ARGS);
	for (int i = 0; i < nargs; i++)
	{
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}
	rc = SPI_execute_plan(plan_for(sql, nargs, args), values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(rc));
	return SPI_processed;
}

static Datum
get_datum(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

char *
outbox_statement_get_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

int64
outbox_statement_get_int8(uint64 row, int column, int64 if_null)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);

	return isnull ? if_null : DatumGetInt64(value);
}

int32
outbox_statement_get_int4(uint64 row, int column, int32 if_null)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);

	return isnull ? if_null : DatumGetInt32(value);
}

bool
outbox_statement_get_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}
