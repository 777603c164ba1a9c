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
#include "utils/memutils.h"
#include "utils/snapmgr.h"

MemoryContext
outbox_transaction_begin(void)
{
	MemoryContext context = CurrentMemoryContext;
	ConstraintsSetStmt *stmt;

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
	MemoryContextSwitchTo(context);
	return edata;
}
