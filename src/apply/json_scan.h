/*-------------------------------------------------------------------------
 *
 * json_scan.h
 *	  A strict single-pass scanner over the members of one JSON object, or the
 *	  elements of one JSON array.
 *
 * Members come out as slices of the input, nothing is copied or converted.
 * All of the input is validated, nested values included, by the time the last
 * member was returned.  The input must be valid in the server's encoding.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_JSON_SCAN_H
#define OUTBOX_JSON_SCAN_H

#include "postgres.h"

/* Values nested deeper than this are refused. */
#define OUTBOX_JSON_MAX_DEPTH 1024

typedef enum OutboxJsonKind
{
	OUTBOX_JSON_NULL,
	OUTBOX_JSON_TRUE,
	OUTBOX_JSON_FALSE,
	OUTBOX_JSON_NUMBER,
	OUTBOX_JSON_STRING,
	OUTBOX_JSON_ARRAY,
	OUTBOX_JSON_OBJECT
} OutboxJsonKind;

/*
 * One value.  For a string start and len leave the quotes out, and "escaped"
 * says whether there is anything to unescape; for other kinds they are the
 * value's text.  "outer" is a member's whole text, from the colon up to the
 * comma or brace, with its quotes and the white space around it.
 */
typedef struct OutboxJsonValue
{
	OutboxJsonKind kind;
	bool		escaped;
	const char *start;
	int			len;
	const char *outer;
	int			outer_len;
} OutboxJsonValue;

typedef struct OutboxJsonScan
{
	const char *what;			/* "value", "key" or a header, for messages */
	const char *begin;
	const char *p;
	const char *end;
	bool		first;			/* no member seen yet */
} OutboxJsonScan;

/* Is the first thing in the text an opening brace? */
extern bool outbox_json_is_object(const char *str, int len);

/* Raises invalid_json_text, or sql_json_object_not_found if it is none. */
extern void outbox_json_begin(OutboxJsonScan *scan, const char *what,
							  const char *str, int len);

/* Next member; false, after checking that nothing follows, at the end. */
extern bool outbox_json_next(OutboxJsonScan *scan, OutboxJsonValue *name,
							 OutboxJsonValue *value);

/*
 * The same for the elements of an array; raises invalid_json_text if it is none.
 * Elements have no "outer".
 */
extern void outbox_json_begin_array(OutboxJsonScan *scan, const char *what,
									const char *str, int len);
extern bool outbox_json_next_element(OutboxJsonScan *scan, OutboxJsonValue *value);

/*
 * The string's characters, NUL-terminated, in the current memory context.
 * Raises untranslatable_character for \u0000 and for what the server's
 * encoding cannot hold.
 */
extern char *outbox_json_unescape(const OutboxJsonValue *value, int *len);

#endif							/* OUTBOX_JSON_SCAN_H */
