/*-------------------------------------------------------------------------
 *
 * pinned.h
 *	  Settings under which text and values are turned into each other.
 *
 * An event means the same whatever the session that reads it has set: ISO
 * dates, UTC, shortest exact floats, hexadecimal bytea.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PINNED_H
#define OUTBOX_PINNED_H

#include "postgres.h"

/*
 * Pin the settings, in a transaction; the result is for outbox_unpin_settings()
 * in the same function.  An error undoes it together with the (sub)transaction.
 */
extern int	outbox_pin_settings(void);
extern void outbox_unpin_settings(int nest_level);

#endif							/* OUTBOX_PINNED_H */
