/*-------------------------------------------------------------------------
 *
 * replica.h
 *	  Applying a batch of events to a replica.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REPLICA_H
#define OUTBOX_REPLICA_H

#include "postgres.h"

#include "apply/apply.h"

/*
 * Apply the events, in the order given, with the current user's rights and in
 * the current transaction; what became of the nth is in results[n].  Either
 * all of them are dealt with, or an error is raised and none is.
 *
 * "paced" if the caller is within a limit of its own (worker/limit.h), which
 * then begins anew as events about all rows get on: see sweep.h.
 */
extern void outbox_replica_apply(Oid relid, const OutboxApplyEvent *events, int nevents,
								 OutboxApplyResult *results, bool paced);

/*
 * The identity and version of one event without applying it.  The identity is
 * allocated in the caller's memory context.  Raises what applying it would.
 */
extern char *outbox_replica_identify(Oid relid, const OutboxApplyEvent *ev, int64 *version);

#endif							/* OUTBOX_REPLICA_H */
