/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  The applier's own transactions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TRANSACTION_H
#define OUTBOX_TRANSACTION_H

#include "postgres.h"

/*
 * Begin with a snapshot, with now() being this moment, and with constraints
 * checked at once: deferred ones would fail at commit, where the event that
 * violates one cannot be told, and with the wrong rights.  What is allocated
 * meanwhile goes with the transaction.  Returns the memory context for
 * outbox_transaction_commit(), which makes it current again.
 */
extern MemoryContext outbox_transaction_begin(void);
extern void outbox_transaction_commit(MemoryContext context);

/* In a PG_CATCH: take the error over into the context, and abort. */
extern ErrorData *outbox_transaction_failed(MemoryContext context);

#endif							/* OUTBOX_TRANSACTION_H */
