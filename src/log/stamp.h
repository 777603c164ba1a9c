/*-------------------------------------------------------------------------
 *
 * stamp.h
 *	  Event ids and commit stamps: one growing number per database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_STAMP_H
#define OUTBOX_STAMP_H

#include "postgres.h"

/*
 * The next stamp.  Assigns the transaction an xid.  Larger than every stamp
 * taken before in this database, also by its earlier lives: see stamp.c.
 */
extern int64 outbox_stamp_next(void);

/* All further stamps are larger than this one, which came from elsewhere. */
extern void outbox_stamp_raise(int64 value);

/*
 * The sequence that this backend's last stamp is from; another one after DROP
 * and CREATE EXTENSION.
 */
extern Oid	outbox_stamp_sequence(void);

/* Last stamp taken, without taking one. */
extern int64 outbox_stamp_last(void);

/* Value of one of our counter sequences, and advancing it. */
extern int64 outbox_counter_read(Oid seqid);
extern void outbox_counter_set(Oid seqid, int64 value);

#endif							/* OUTBOX_STAMP_H */
