/*-------------------------------------------------------------------------
 *
 * sweep.h
 *	  Events that speak of a whole topic: TRUNCATE, and the end of a resync.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SWEEP_H
#define OUTBOX_SWEEP_H

#include "postgres.h"

#include "apply/apply.h"
#include "apply/target.h"

#define OUTBOX_NO_FLOOR PG_INT64_MIN

/* Rows that are deleted within one pg_outbox.handler_timeout. */
#define OUTBOX_SWEEP_BATCH 100

/*
 * The version below which events of the target are stale, as the newest
 * committed state and this transaction's own changes have it, whatever the
 * isolation level; OUTBOX_NO_FLOOR if there is none.  The caller has locked
 * some stripe of the target.  Raises serialization_failure for a floor that the
 * transaction's snapshot cannot see.
 */
extern int64 outbox_floor_find(Oid target);

/*
 * Act upon the event, inside an SPI connection, with all stripes of the target
 * locked exclusively.  Raises errors of class 22 for what is wrong with it, and
 * what deleting rows of the target raises.
 *
 * If "paced" the rows go OUTBOX_SWEEP_BATCH at a time, and the limit that the
 * caller has begun begins anew for each time, and for what comes after.
 */
extern OutboxApplyResult outbox_sweep(OutboxTarget *target, const OutboxApplyEvent *ev,
									  bool paced);

#endif							/* OUTBOX_SWEEP_H */
