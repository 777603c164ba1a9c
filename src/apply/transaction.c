/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  The applier's own transactions.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/transaction.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * Locks of the session outlive its transactions, failed ones included.  What
 * takes them is code of a target's owner, who has no session here: the next to
 * run may be somebody else's.  All else that lasts, such as temporary tables,
 * prepared statements and LISTEN, is refused in a security-restricted operation.
 */
static void
release_session(void)
{
	LockReleaseSession(USER_LOCKMETHOD);
}

MemoryContext
outbox_transaction_begin(void)
{
	MemoryContext context = CurrentMemoryContext;
	ConstraintsSetStmt *stmt;

	SetCurrentStatementStartTimestamp();	/* what now() is */
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	stmt = makeNode(ConstraintsSetStmt);
	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
	return context;
}

void
outbox_transaction_commit(MemoryContext context)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	release_session();
	MemoryContextSwitchTo(context);
}

ErrorData *
outbox_transaction_failed(MemoryContext context)
{
	ErrorData  *edata;

	MemoryContextSwitchTo(context);
	edata = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	release_session();
	MemoryContextSwitchTo(context);
	return edata;
}
