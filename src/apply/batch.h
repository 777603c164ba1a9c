/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Applying the records that a feed has gathered.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BATCH_H
#define OUTBOX_BATCH_H

#include "postgres.h"

#include "apply/feed.h"

/*
 * Deal with records of the feed, together with their offsets, in one
 * transaction if all goes well, as long as the feed's turn lasts.  True if some
 * are dealt with, and gone from the feed, or if the feed has stopped; false if
 * it should be tried again later.  Runs outside of a transaction and does not
 * raise for what targets do.
 */
extern bool outbox_batch_apply(OutboxFeed *feed);

/*
 * Something was delivered, or failed in another way: what failed before stays
 * set aside, and what fails from now on counts anew.
 */
extern void outbox_batch_end_run(OutboxFeed *feed);

#endif							/* OUTBOX_BATCH_H */
