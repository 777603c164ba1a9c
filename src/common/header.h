/*-------------------------------------------------------------------------
 *
 * header.h
 *	  A record header: what producer, consumer and dead letters share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HEADER_H
#define OUTBOX_HEADER_H

#include "postgres.h"

/*
 * The header that names columns of type json and jsonb which are to be taken as
 * the value has them: null is the JSON value null, white space belongs to it.
 */
#define OUTBOX_HEADER_VERBATIM "json_verbatim"

/*
 * The header of an event that every partition gets: which one of how many this
 * copy is for, as "0/4".
 */
#define OUTBOX_HEADER_PARTITION "partition"

/* A header; value NULL is a header without a value.  Not NUL-terminated. */
typedef struct OutboxHeader
{
	const char *name;			/* NUL-terminated */
	const char *value;
	int32		value_len;
} OutboxHeader;

#endif							/* OUTBOX_HEADER_H */
