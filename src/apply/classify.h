/*-------------------------------------------------------------------------
 *
 * classify.h
 *	  Whose fault an error is, which decides what happens next.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CLASSIFY_H
#define OUTBOX_CLASSIFY_H

#include "postgres.h"

typedef enum OutboxFaultKind
{
	/* Nobody's: the same would work another time.  Retried, never set aside. */
	OUTBOX_FAULT_TRANSIENT,

	/* Another event has to come first.  The key is parked and retried. */
	OUTBOX_FAULT_DEPENDENCY,

	/* This event's.  Set aside, unless too many in a row fail alike. */
	OUTBOX_FAULT_DATA
} OutboxFaultKind;

extern OutboxFaultKind outbox_fault_classify(const ErrorData *edata);

#endif							/* OUTBOX_CLASSIFY_H */
