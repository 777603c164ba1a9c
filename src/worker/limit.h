/*-------------------------------------------------------------------------
 *
 * limit.h
 *	  Limits on other people's code that a worker runs: handlers, triggers of
 *	  replicas, filters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LIMIT_H
#define OUTBOX_LIMIT_H

#include "postgres.h"

/* pg_outbox.handler_timeout in ms; 0: no limit */
extern int	outbox_handler_timeout;

/*
 * From here on the code of "whose" (a subscription or publication) runs, which
 * is cancelled after pg_outbox.handler_timeout.  Code that catches that and goes
 * on ends the worker some seconds later.  An error does not end the limit:
 * whoever handles it calls outbox_limit_end() as well.
 */
extern void outbox_limit_begin(const char *whose);
extern void outbox_limit_end(void);

/*
 * Within a limit that has begun, if it has: the time stands still from hold on,
 * where no code of others runs, and renew gives that code as many times
 * pg_outbox.handler_timeout from here on.
 */
extern void outbox_limit_hold(void);
extern void outbox_limit_renew(int64 times);

/*
 * Whose code ended this kind of worker when it ran last, as a palloc'd name;
 * NULL if nobody's did, or if it was asked before.
 */
extern char *outbox_limit_culprit(void);

/* What to tell of it: while it happens, and to its owner. */
#define OUTBOX_LIMIT_DETAIL \
	"Code of a handler, replica or filter went on after it had been cancelled."
#define OUTBOX_LIMIT_REASON \
	"its code went on after pg_outbox.handler_timeout had cancelled it, until the worker was ended"

/* In a worker that is starting, within worker/. */
extern void outbox_limit_set_up(void);
extern bool outbox_limit_passed(void);
extern void outbox_limit_init(void);

#endif							/* OUTBOX_LIMIT_H */
