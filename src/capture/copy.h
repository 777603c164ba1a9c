/*-------------------------------------------------------------------------
 *
 * copy.h
 *	  Publishing the rows that a table has already.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COPY_H
#define OUTBOX_COPY_H

/*
 * Have the relay copy a publication, from the beginning.  "heals": because
 * changes of it were not recorded; it is incomplete until the copy is done.
 */
extern void outbox_copy_request(const char *publication, bool heals);

/*
 * One chunk of a copy, in the relay and outside a transaction.  True if there
 * may be more to do.
 */
extern bool outbox_copy_step(void);

#endif							/* OUTBOX_COPY_H */
