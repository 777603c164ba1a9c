/*-------------------------------------------------------------------------
 *
 * row.h
 *	  From an event's bytes to the datums of a row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ROW_H
#define OUTBOX_ROW_H

#include "postgres.h"

#include "apply/apply.h"
#include "apply/target.h"

typedef struct OutboxRow
{
	bool		is_delete;
	int64		version;
	Datum	   *values;			/* by target->columns; of a delete keys only */
	bool	   *nulls;
	bool	   *verbatim;		/* columns of json or jsonb to be taken as the
								 * event has them, null and white space
								 * included; NULL: none */
	char	   *identity;		/* the key in one canonical text,
								 * NUL-terminated */
	int			identity_len;
	uint32		hash;			/* of identity */
} OutboxRow;

/*
 * Column being converted, for error context; NULL in between.
 */
extern const OutboxTargetColumn *outbox_row_column;

/*
 * Name of the column in whose conversion the last error of a batch was raised,
 * or "": unlike the above it outlives the target.
 */
extern char outbox_row_failed_column[NAMEDATALEN];

/*
 * Convert into the current memory context; an SPI connection must be open.
 * Raises errors of class 22 for what is wrong with the event,
 * undefined_column where it lacks a column of the target.
 */
extern void outbox_row_from_event(OutboxTarget *target, const OutboxApplyEvent *ev,
								  OutboxRow *row);

#endif							/* OUTBOX_ROW_H */
