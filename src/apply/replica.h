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
 */
extern void outbox_replica_apply(Oid relid, const OutboxApplyEvent *events, int nevents,
								 OutboxApplyResult *results);

/*
 * The identity and version of one event without applying it.  The identity is
 * allocated in the caller's memory context.  Raises what applying it would.
 */
extern char *outbox_replica_identify(Oid relid, const OutboxApplyEvent *ev, int64 *version);

#endif							/* OUTBOX_REPLICA_H */
