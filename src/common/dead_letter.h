/*-------------------------------------------------------------------------
 *
 * dead_letter.h
 *	  Setting an event aside, with everything that is known about it.
 *
 * Both directions share one table, outbox._dead_letter: the relay stores what
 * a broker will never take, the applier what a target does not take.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DEAD_LETTER_H
#define OUTBOX_DEAD_LETTER_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "common/header.h"

/* What a letter waits for; see the comment on outbox._dead_letter.state. */
typedef enum OutboxLetterState
{
	OUTBOX_LETTER_DEAD,			/* for a person */
	OUTBOX_LETTER_PARKED		/* for next_attempt, or for an earlier letter */
} OutboxLetterState;

typedef struct OutboxDeadLetter
{
	/* where from, where to */
	bool		outgoing;		/* set aside by the relay */
	const char *name;			/* publication or subscription; NULL: emit() */
	int64		subscription;	/* its id; 0: none */
	const char *server;
	const char *topic;
	int32		partition;		/* -1: unknown */
	int64		offset;			/* -1: unknown */

	/* the record as it was; NULL key or value is Kafka's null */
	const char *key;
	int32		key_len;
	const char *value;
	int32		value_len;
	const OutboxHeader *headers;
	int			nheaders;
	TimestampTz event_time;		/* 0: unknown */

	/* who it is: what must stay in order has the same identity */
	const char *identity;		/* NULL: unknown */
	int64		event_id;		/* header id, or the version; 0: unknown */
	Oid			target;			/* replica, or InvalidOid */

	/* why */
	int			sqlerrcode;		/* as in ErrorData */
	const char *message;		/* no secrets */
	const char *detail;			/* or NULL */
	const char *context;		/* or NULL */

	/* what next */
	OutboxLetterState state;
	int			attempts;
	TimestampTz next_attempt;	/* for PARKED; 0: when the earlier one is gone */
} OutboxDeadLetter;

/*
 * Store the letter in the current transaction, with the rights of the
 * extension's owner.  Returns its id in view outbox.dead_letters.
 */
extern int64 outbox_dead_letter_store(const OutboxDeadLetter *dl);

#endif							/* OUTBOX_DEAD_LETTER_H */
