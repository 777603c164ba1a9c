/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  Which database is this?  A copy must not publish in the original's name.
 *
 * Table outbox._identity names the database that its schema's contents belong
 * to: system identifier, database and extension.  It is empty until one of our
 * functions stores something that workers act on (outbox_worker_poke_at_commit);
 * then it gets its row, in the same transaction.  pg_dump carries the row, and
 * CREATE EXTENSION writes none, so:
 *
 *	a row of our own				at home (also after promotion of a standby)
 *	any row of another database		a copy: dumped, cloned, made from a template,
 *									or data loaded over ours
 *	no row							new; if there is something to do all the same,
 *									a restore is under way and its row still to come
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "common/catalog.h"
#include "worker/shared.h"

static void (*resume_hooks[OUTBOX_RESUME_MAX]) (void);
static int	nresume_hooks = 0;

static bool claimed = false;	/* a committed row was seen in this database */

/* Our own transaction that inserted one last ... */
static TransactionId inserting_xid = InvalidTransactionId;

/* ... where no rollback to a savepoint can undo it. */
static TransactionId claiming_xid = InvalidTransactionId;

/*
 * Run a statement with our identity as $1 (system identifier), $2 (database)
 * and $3 (extension).
 */
static void
execute_with_identity(const char *sql, int expected)
{
	Oid			types[3] = {INT8OID, OIDOID, OIDOID};
	Datum		values[3];
	int			rc;

	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = ObjectIdGetDatum(get_extension_oid(OUTBOX_EXTENSION, false));
	rc = SPI_execute_with_args(sql, 3, types, values, NULL, false, 0);
	if (rc != expected)
		elog(ERROR, "unexpected result of \"%s\": %s", sql,
			 SPI_result_code_string(rc));
}

/*
 * Judge the rows.  SPI is connected.  For a copy, say of what.
 */
static OutboxIdentity
judge_rows(char *reason, Size size)
{
	char	   *system;
	char	   *database;
	bool		isnull;

	execute_with_identity("SELECT system_identifier::pg_catalog.text, database_oid::pg_catalog.text,"
						  " (system_identifier, database_oid, extension_oid) OPERATOR(pg_catalog.=) ($1, $2, $3)"
						  " FROM outbox._identity ORDER BY 3", SPI_OK_SELECT);
	if (SPI_processed == 0)
		return OUTBOX_IDENTITY_NONE;
	if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								   3, &isnull)))
		return OUTBOX_IDENTITY_HOME;

	system = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	database = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	if (reason != NULL)
		snprintf(reason, size,
				 "resume: this database is a copy of another (system %s, database %s)",
				 system, database);
	return OUTBOX_IDENTITY_FOREIGN;
}

/*
 * Needs a transaction with a snapshot, and rights on the table.
 */
OutboxIdentity
outbox_identity_judge(char *reason, Size size)
{
	OutboxIdentity result;

	SPI_connect();
	result = judge_rows(reason, size);
	SPI_finish();
	return result;
}

static void
forget_claim(Datum arg, int cacheid, uint32 hashvalue)
{
	claimed = false;
	claiming_xid = InvalidTransactionId;
}

/*
 * Insert the row where there is none.  Two first users at a time insert two
 * equal ones, which does no harm: nobody is to wait for the other's commit.
 */
static void
insert_claim(void)
{
	execute_with_identity("INSERT INTO outbox._identity"
						  " (system_identifier, database_oid, extension_oid, lineage)"
						  " VALUES ($1, $2, $3, pg_catalog.gen_random_uuid())",
						  SPI_OK_INSERT);
	outbox_worker_tell_at_commit();
}

/*
 * What we know is forgotten when a schema changes, as DROP EXTENSION does; a
 * row that only this transaction has inserted is looked for again.
 */
void
outbox_worker_claim(void)
{
	static bool registered = false;
	OutboxOwnerScope scope;

	if (claimed || (TransactionIdIsValid(claiming_xid) &&
					claiming_xid == GetTopTransactionIdIfAny()))
		return;
	if (!registered)
		CacheRegisterSyscacheCallback(NAMESPACEOID, forget_claim, (Datum) 0);
	registered = true;

	outbox_owner_enter(&scope);
	SPI_connect();
	if (judge_rows(NULL, 0) == OUTBOX_IDENTITY_NONE)
	{
		insert_claim();
		if (GetCurrentTransactionNestLevel() == 1)
			claiming_xid = GetTopTransactionId();
		inserting_xid = GetTopTransactionId();
	}
	else
		claimed = GetTopTransactionIdIfAny() != inserting_xid ||
			!TransactionIdIsValid(inserting_xid);
	SPI_finish();
	outbox_owner_leave(&scope);
}

void
outbox_worker_on_resume(void (*fn) (void))
{
	Assert(nresume_hooks < OUTBOX_RESUME_MAX);
	resume_hooks[nresume_hooks++] = fn;
}

/*
 * Make the copy we are in a database of its own.  Called with the owner's
 * rights and SPI connected.
 */
void
outbox_identity_adopt(void)
{
	execute_with_identity("WITH old AS (DELETE FROM outbox._identity RETURNING lineage, ancestors, adopted_at)"
						  " INSERT INTO outbox._identity"
						  " (system_identifier, database_oid, extension_oid, lineage, ancestors)"
						  " SELECT $1, $2, $3, pg_catalog.gen_random_uuid(),"
						  "  ARRAY(SELECT DISTINCT a FROM old CROSS JOIN LATERAL"
						  "   pg_catalog.unnest(pg_catalog.array_append(ancestors, lineage)) a)",
						  SPI_OK_INSERT);
	for (int i = 0; i < nresume_hooks; i++)
		resume_hooks[i] ();
}
