/*-------------------------------------------------------------------------
 *
 * retention.h
 *	  Forgetting what is too old to matter.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RETENTION_H
#define OUTBOX_RETENTION_H

#include "postgres.h"

/*
 * Delete a bounded number of expired tombstones, inbox entries and settled
 * letters; returns how many went.  Needs a transaction.
 */
extern int64 outbox_retention_run(void);

#endif							/* OUTBOX_RETENTION_H */
