/*-------------------------------------------------------------------------
 *
 * deliver.h
 *	  Records to their target: a replica or a handler.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DELIVER_H
#define OUTBOX_DELIVER_H

#include "postgres.h"

#include "apply/feed.h"

/*
 * Deliver the records in the current transaction, with the rights of the
 * target's owner, and say what became of each.  Raises whatever the target
 * raises; nothing is half done after the caller's (sub)transaction rolled
 * back.  With "in_order" records whose key waits for a letter are parked
 * behind it instead.
 *
 * For a handler, *delivered counts while it goes on: after an error it is the
 * place of the record that raised, and it is less than n, though not zero, if
 * the feed's turn was over, or as many parked as may be, before all were
 * delivered.
 */
extern void outbox_deliver(OutboxFeed *feed, const OutboxRecord *records, char *fates,
						   int n, bool in_order, int *delivered);

/* Raise if the target is unusable for any event. */
extern void outbox_deliver_check(const OutboxFeed *feed);

/*
 * Identity that orders the record among others, and its version or id; both
 * as far as can be told.  May be called where delivering it has failed.
 */
extern char *outbox_deliver_identity(OutboxFeed *feed, const OutboxRecord *rec, int64 *version);

/* That of a handler's record, which is in its key; NULL if it has none. */
extern char *outbox_deliver_key_identity(const OutboxRecord *rec);

/* End of a delivery that raised: was it cancelled for taking too long? */
extern bool outbox_deliver_timed_out(const OutboxFeed *feed, const ErrorData *edata);

/* The record's time, or 0 if its producer gave it none that could be one. */
extern TimestampTz outbox_deliver_event_time(const OutboxRecord *rec);

#endif							/* OUTBOX_DELIVER_H */
