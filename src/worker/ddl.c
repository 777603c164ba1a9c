/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  Living with DDL: commands that need a database without connections, or
 *	  that take the extension away, first have its workers leave.
 *
 * PostgreSQL does not end background workers for such commands.  So before
 * them this backend takes a hold on the database, which keeps the launcher
 * from starting anything there, stops its workers and waits until they are
 * gone.  The hold ends with the transaction, however it ends, or with the
 * backend; a backend that dies without running its exit callbacks takes the
 * shared memory with it.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include <signal.h>

#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/timestamp.h"

#include "common/catalog.h"
#include "worker/shared.h"

#define HOLD_PRESS_MS	250		/* between two requests to leave */
#define HOLD_PATIENCE_MS 3000	/* then the command has to see for itself */
#define MAX_HOLDS 8				/* per transaction */

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

/* Databases this transaction holds. */
static Oid	held[MAX_HOLDS];
static int	nheld = 0;

/* ---------------- holding ---------------- */

void
outbox_ddl_end_of_xact(void)
{
	if (nheld == 0)
		return;

	outbox_shared_lock();
	while (nheld > 0)
	{
		OutboxDatabase *db = outbox_database_find(held[--nheld]);

		if (db != NULL && db->holds > 0)
			db->holds--;
	}
	ConditionVariableBroadcast(&outbox_shared->changed);
	outbox_shared_unlock();
	outbox_launcher_wake();
}

static void
release_at_exit(int code, Datum arg)
{
	outbox_ddl_end_of_xact();
}

/*
 * Is a process of the database left, other than ourselves?  If "press", ask
 * those again to leave.
 */
static bool
processes_left(Oid dboid, bool press)
{
	OutboxDatabase *db;
	bool		left = false;

	outbox_shared_lock();
	db = outbox_database_find(dboid);
	for (int i = 0; db != NULL && i < OUTBOX_SLOTS; i++)
		left |= db->slots[i].pid != 0 && db->slots[i].pid != MyProcPid;
	if (left && press)
		outbox_database_signal(db, SIGTERM);
	outbox_shared_unlock();
	return left;
}

/*
 * A process that has been started but has not come yet sees the hold and
 * leaves before it connects, so only those with a slot are waited for.
 */
static void
wait_until_gone(Oid dboid)
{
	static uint32 wait_event = 0;
	TimestampTz begin = GetCurrentTimestamp();
	TimestampTz pressed = begin;

	if (wait_event == 0)
		wait_event = outbox_wait_event("OutboxWorkerExit");
	ConditionVariablePrepareToSleep(&outbox_shared->changed);
	if (processes_left(dboid, true))
	{
		while (processes_left(dboid, false))
		{
			TimestampTz now = GetCurrentTimestamp();

			if (TimestampDifferenceExceeds(begin, now, HOLD_PATIENCE_MS))
				break;
			if (TimestampDifferenceExceeds(pressed, now, HOLD_PRESS_MS))
			{
				processes_left(dboid, true);
				pressed = now;
			}
			(void) ConditionVariableTimedSleep(&outbox_shared->changed,
											   HOLD_PRESS_MS, wait_event);
		}
	}
	ConditionVariableCancelSleep();
}

static void
hold_database(Oid dboid)
{
	static bool registered = false;
	OutboxDatabase *db;

	for (int i = 0; i < nheld; i++)
		if (held[i] == dboid)
			return;
	if (nheld == MAX_HOLDS)
		return;
	if (!registered)
	{
		before_shmem_exit(release_at_exit, (Datum) 0);
		registered = true;
	}

	outbox_shared_lock();
	db = outbox_database_enter(dboid);
	if (db != NULL)
	{
		db->holds++;
		held[nheld++] = dboid;
	}
	outbox_shared_unlock();

	/* Without an entry nothing can run there. */
	if (db != NULL)
		wait_until_gone(dboid);
}

/* ---------------- which commands ---------------- */

/*
 * Hold a database for its owner.  Whoever else asks is about to be refused by
 * the command itself and must not disturb the workers; or copies a template,
 * where there are none.
 */
static void
hold_own_database(const char *dbname, bool as_template)
{
	Oid			dboid = get_database_oid(dbname, true);

	/* Only as a template one's own database can be meant in earnest. */
	if (!OidIsValid(dboid) || (dboid == MyDatabaseId && !as_template))
		return;
	if (object_ownercheck(DatabaseRelationId, dboid, GetUserId()))
		hold_database(dboid);
}

static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *defel = lfirst_node(DefElem, lc);

		if (strcmp(defel->defname, name) == 0)
			return defel;
	}
	return NULL;
}

static void
before_create_database(CreatedbStmt *stmt)
{
	DefElem    *template = find_option(stmt->options, "template");

	if (template != NULL && template->arg != NULL)
		hold_own_database(defGetString(template), true);
}

/*
 * Does DROP EXTENSION or DROP SCHEMA name us?
 */
static bool
drops_extension(DropStmt *stmt)
{
	ListCell   *lc;
	const char *name = stmt->removeType == OBJECT_EXTENSION ? OUTBOX_EXTENSION :
	stmt->removeType == OBJECT_SCHEMA ? OUTBOX_SCHEMA : NULL;

	if (name == NULL)
		return false;
	foreach(lc, stmt->objects)
		if (strcmp(strVal(lfirst(lc)), name) == 0)
		return true;
	return false;
}

/*
 * The command will lock tables that workers read; they could be in each
 * other's way until one of them is shot as a deadlock's victim.
 */
static void
hold_for_extension(void)
{
	Oid			extoid = get_extension_oid(OUTBOX_EXTENSION, true);

	if (OidIsValid(extoid) &&
		object_ownercheck(ExtensionRelationId, extoid, GetUserId()))
		hold_database(MyDatabaseId);
}

static void
before_command(Node *parsetree)
{
	switch (nodeTag(parsetree))
	{
		case T_DropdbStmt:
			hold_own_database(castNode(DropdbStmt, parsetree)->dbname, false);
			break;
		case T_CreatedbStmt:
			before_create_database(castNode(CreatedbStmt, parsetree));
			break;
		case T_AlterDatabaseStmt:
			if (find_option(castNode(AlterDatabaseStmt, parsetree)->options, "tablespace"))
				hold_own_database(castNode(AlterDatabaseStmt, parsetree)->dbname, false);
			break;
		case T_RenameStmt:
			if (castNode(RenameStmt, parsetree)->renameType == OBJECT_DATABASE)
				hold_own_database(castNode(RenameStmt, parsetree)->subname, false);
			break;
		case T_DropStmt:
			if (drops_extension(castNode(DropStmt, parsetree)))
				hold_for_extension();
			break;
		case T_AlterExtensionStmt:
			if (strcmp(castNode(AlterExtensionStmt, parsetree)->extname, OUTBOX_EXTENSION) == 0)
				hold_for_extension();
			break;
		default:
			break;
	}
}

/*
 * What is to be told once the command went well.  Found out before it, as the
 * parse tree may be gone afterwards: ROLLBACK, for one, can free the plan that
 * it belongs to.
 */
typedef enum CommandEffect
{
	EFFECT_NONE,
	EFFECT_DATABASES,			/* there may be another one for workers */
	EFFECT_EXTENSION,			/* ours came or changed */
	EFFECT_PREPARE,				/* PREPARE TRANSACTION */
	EFFECT_COMMIT_PREPARED,
	EFFECT_ROLLBACK_PREPARED
} CommandEffect;

static CommandEffect
transaction_effect(TransactionStmt *stmt, uint32 *gid)
{
	*gid = stmt->gid != NULL ? hash_bytes((const unsigned char *) stmt->gid, strlen(stmt->gid)) : 0;
	switch (stmt->kind)
	{
		case TRANS_STMT_PREPARE:
			return EFFECT_PREPARE;
		case TRANS_STMT_COMMIT_PREPARED:
			return EFFECT_COMMIT_PREPARED;
		case TRANS_STMT_ROLLBACK_PREPARED:
			return EFFECT_ROLLBACK_PREPARED;
		default:
			return EFFECT_NONE;
	}
}

static CommandEffect
command_effect(Node *parsetree, uint32 *gid)
{
	const char *extension = NULL;

	switch (nodeTag(parsetree))
	{
		case T_CreatedbStmt:
		case T_AlterDatabaseStmt:
			return EFFECT_DATABASES;
		case T_CreateExtensionStmt:
			extension = castNode(CreateExtensionStmt, parsetree)->extname;
			break;
		case T_AlterExtensionStmt:
			extension = castNode(AlterExtensionStmt, parsetree)->extname;
			break;
		case T_TransactionStmt:
			return transaction_effect(castNode(TransactionStmt, parsetree), gid);
		default:
			break;
	}
	return extension != NULL && strcmp(extension, OUTBOX_EXTENSION) == 0 ?
		EFFECT_EXTENSION : EFFECT_NONE;
}

static void
after_command(CommandEffect effect, uint32 gid)
{
	switch (effect)
	{
		case EFFECT_DATABASES:
			outbox_worker_rescan_at_commit();
			break;
		case EFFECT_EXTENSION:
			outbox_worker_tell_at_commit();
			break;
		case EFFECT_COMMIT_PREPARED:
		case EFFECT_ROLLBACK_PREPARED:
			outbox_worker_prepared_ended(gid, effect == EFFECT_COMMIT_PREPARED);
			break;
		case EFFECT_PREPARE:
		case EFFECT_NONE:
			break;
	}
}

static void
ddl_process_utility(PlannedStmt *pstmt, const char *queryString,
					bool readOnlyTree, ProcessUtilityContext context,
					ParamListInfo params, QueryEnvironment *queryEnv,
					DestReceiver *dest, QueryCompletion *qc)
{
	uint32		gid = 0;
	CommandEffect effect = command_effect(pstmt->utilityStmt, &gid);

	if (effect == EFFECT_PREPARE)
		outbox_worker_about_to_prepare(gid);
	before_command(pstmt->utilityStmt);

	if (prev_process_utility)
		prev_process_utility(pstmt, queryString, readOnlyTree, context,
							 params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);

	after_command(effect, gid);
}

/*
 * However the extension is dropped (DROP OWNED, DROP SCHEMA ... CASCADE), its
 * workers are told at commit.
 */
static void
ddl_object_access(ObjectAccessType access, Oid classId, Oid objectId,
				  int subId, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, classId, objectId, subId, arg);

	if (access == OAT_DROP && classId == ExtensionRelationId)
	{
		char	   *name = get_extension_name(objectId);

		if (name != NULL && strcmp(name, OUTBOX_EXTENSION) == 0)
			outbox_worker_tell_at_commit();
	}
}

void
outbox_ddl_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = ddl_process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = ddl_object_access;
}
