/*-------------------------------------------------------------------------
 *
 * letters.h
 *	  Events of a subscription that were set aside, and trying them again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LETTERS_H
#define OUTBOX_LETTERS_H

#include "postgres.h"

#include "apply/feed.h"

/* What is open, from the table; needs a transaction. */
extern void outbox_letters_load(OutboxFeed *feed);

/*
 * Set the record aside in the current transaction, because of the error.
 * Parked letters are tried again soon.  Returns the letter's id.
 */
extern int64 outbox_letters_store(OutboxFeed *feed, const OutboxRecord *rec,
								  const ErrorData *edata, bool parked);

/*
 * Handlers get events of a key in order: does an earlier one wait?  If so the
 * record waits behind it.
 */
extern bool outbox_letters_blocked(OutboxFeed *feed, const OutboxRecord *rec);
extern void outbox_letters_park_behind(OutboxFeed *feed, const OutboxRecord *rec);
extern uint64 outbox_letters_hash(const OutboxRecord *rec);

/*
 * Forget the letters of the feed's run of failures from where its places begin,
 * as if they had never been stored: those records are read again.
 */
extern void outbox_letters_remove_run(const OutboxFeed *feed);

/* Try what is due, as long as a turn lasts. */
extern void outbox_letters_retry(OutboxFeed *feed);

#endif							/* OUTBOX_LETTERS_H */
