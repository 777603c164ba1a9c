/*-------------------------------------------------------------------------
 *
 * inbox.h
 *	  Which events a consumer has seen already.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_INBOX_H
#define OUTBOX_INBOX_H

#include "postgres.h"

/*
 * Remember the event in the current transaction; false if the consumer has
 * done so before.  Waits for a transaction that is doing it right now.  A
 * subscription is another consumer than one of that name that is none.
 */
extern bool outbox_inbox_first_time(const char *consumer, bool is_subscription,
									const char *source, const char *event_id);

#endif							/* OUTBOX_INBOX_H */
