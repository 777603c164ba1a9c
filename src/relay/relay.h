/*-------------------------------------------------------------------------
 *
 * relay.h
 *	  The relay: a worker that sends the log's events to Kafka.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_H
#define OUTBOX_RELAY_H

/*
 * Work of other areas that the relay does between its own, such as copies:
 * called outside a transaction, does a bounded piece (tens of milliseconds)
 * and returns true if there is more to do at once.  Set from _PG_init.
 */
extern void outbox_relay_set_task(bool (*step) (void));

extern void outbox_relay_init(void);

#endif							/* OUTBOX_RELAY_H */
