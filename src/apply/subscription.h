/*-------------------------------------------------------------------------
 *
 * subscription.h
 *	  What is subscribed to, and how it is to be treated.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUBSCRIPTION_H
#define OUTBOX_SUBSCRIPTION_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* What becomes of an event that can never be applied. */
typedef enum OutboxOnError
{
	OUTBOX_ON_ERROR_DEAD_LETTER,
	OUTBOX_ON_ERROR_STOP,
	OUTBOX_ON_ERROR_SKIP		/* passed over with a line in the log */
} OutboxOnError;

/* A row of outbox._subscription; all in one memory context. */
typedef struct OutboxSubscription
{
	char	   *name;
	int64		id;				/* of its letters */
	Oid			target;			/* replica; InvalidOid for a handler */
	char	   *handler;		/* "schema.function"; NULL for a replica */
	Oid			handler_owner;	/* when it was subscribed; InvalidOid if not
								 * known */
	char	   *server;
	char	   *topic;
	char	   *start;			/* as replicate() took it */
	OutboxOnError on_error;
	bool		continue_on_loss;
	int64		generation;		/* grows with each change of the row */
	int			starts;			/* of workers since the last event was applied */
} OutboxSubscription;

/*
 * Running subscriptions, as OutboxSubscription, in the current context.
 * Needs a transaction.
 */
extern List *outbox_subscription_load(void);

/* Is there a running one?  Needs a transaction. */
extern bool outbox_subscription_exists(void);

/* How many run that read from the server?  Needs a transaction. */
extern int	outbox_subscription_count(const char *server);

/*
 * Stop it in the current transaction, with the reason.  A subscription that is
 * not running any more is left as it is.
 */
extern void outbox_subscription_stop(const OutboxSubscription *sub, int sqlerrcode,
									 const char *reason);

/* A worker is about to consume it: count, and return how often it did so. */
extern void outbox_subscription_count_start(OutboxSubscription *sub);
extern void outbox_subscription_reset_starts(OutboxSubscription *sub);

/*
 * An event is about to be tried that may be what killed the worker.  Returns
 * how often it has been announced.
 */
extern int	outbox_subscription_suspect(const OutboxSubscription *sub, int32 partition,
										int64 offset);

/* In the current transaction, say why it cannot go on for now; NULL: it can. */
extern void outbox_subscription_note_waiting(const OutboxSubscription *sub, const char *reason);

/* The same of all that do not run any more. */
extern void outbox_subscription_forget_waiting(void);

/* Raise unless it exists and the current user may change it. */
extern void outbox_subscription_require_manager(const char *name);

#endif							/* OUTBOX_SUBSCRIPTION_H */
