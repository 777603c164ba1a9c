/*-------------------------------------------------------------------------
 *
 * encode.h
 *	  Values as they go on the wire: JSON for message values, text for keys.
 *
 * The encoding never depends on the session: times are ISO 8601 (with time
 * zone: UTC), floats have all their digits, bytea is hex, text is UTF-8.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ENCODE_H
#define OUTBOX_ENCODE_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"

typedef enum OutboxEncoding
{
	OUTBOX_ENC_INT2,
	OUTBOX_ENC_INT4,
	OUTBOX_ENC_INT8,
	OUTBOX_ENC_BOOL,
	OUTBOX_ENC_TEXT,			/* varlena text */
	OUTBOX_ENC_NUMERIC,
	OUTBOX_ENC_FLOAT4,
	OUTBOX_ENC_FLOAT8,
	OUTBOX_ENC_DATETIME,		/* date, time, timetz, timestamp, timestamptz */
	OUTBOX_ENC_JSON,			/* json and jsonb: as they are */
	OUTBOX_ENC_ARRAY,			/* JSON array, or as OUTPUT: see nested.c */
	OUTBOX_ENC_COMPOSITE,		/* JSON object, or as OUTPUT */
	OUTBOX_ENC_OUTPUT			/* type's output function, as a JSON string */
} OutboxEncoding;

typedef struct OutboxNested OutboxNested;

/* How values of one type are encoded. */
typedef struct OutboxEncoder
{
	OutboxEncoding encoding;
	Oid			basetype;		/* domains looked through */
	bool		pinned;			/* output depends on settings */
	FmgrInfo	output;			/* of basetype */
	OutboxNested *nested;		/* ARRAY and COMPOSITE: what is inside */
} OutboxEncoder;

/* Look up how to encode a type; what it needs lives in "context". */
extern void outbox_encoder_init(OutboxEncoder *enc, Oid typid, MemoryContext context);

/* Append the value (not null) as JSON. */
extern void outbox_encode_json(StringInfo buf, OutboxEncoder *enc, Datum value);

/* Append the value (not null) as plain text, for a single-column key. */
extern void outbox_encode_text(StringInfo buf, OutboxEncoder *enc, Datum value);

/*
 * Does the text of a json or jsonb value say more than the member of an object
 * that it becomes?  A member that is null means SQL's null, and the white space
 * around one belongs to the object.
 */
static inline bool
outbox_json_needs_verbatim(const char *json, int len)
{
	return json[0] == 'n' || (unsigned char) json[0] <= ' ' ||
		(unsigned char) json[len - 1] <= ' ';
}

/* ---------------- nested.c, for encode.c ---------------- */

/* What is inside a type that is an array or composite. */
extern OutboxNested *outbox_nested_create(Oid typid, MemoryContext context);

/*
 * Append an array or composite value as JSON; false, with nothing appended, if
 * JSON cannot carry it.
 */
extern bool outbox_nested_append(StringInfo buf, OutboxEncoder *enc, Datum value);

/* ---------------- strings and settings ---------------- */

/* Append a JSON string of the given bytes, which are in the server encoding. */
extern void outbox_encode_string(StringInfo buf, const char *str, int len);

/*
 * Set what output functions look at, if it is not so already; returns a level
 * for outbox_encode_unpin(), or -1 if there was nothing to do.
 */
extern int	outbox_encode_pin(void);
extern void outbox_encode_unpin(int level);

/* From the server encoding to UTF-8; the buffer's content is replaced. */
extern void outbox_encode_to_utf8(StringInfo buf);

#endif							/* OUTBOX_ENCODE_H */
