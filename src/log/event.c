/*-------------------------------------------------------------------------
 *
 * event.c
 *	  An event, and its packed form in the log.
 *
 * A log row's "events" is
 *
 *	  format (1 byte), number of events (varint), base time in ms (zigzag varint),
 *	  and then for each event
 *
 *	  flags (1 byte): op in the low three bits, then EVENT_* below
 *	  id - id before (varint)			first: - the row's id
 *	  stream (varint), or 0, server, topic (each with its length)
 *	  time - time before in ms (zigzag varint)	if EVENT_TIME
 *	  id - version (varint)				if EVENT_VERSION
 *	  key, value, headers, each a varint length and bytes, unless absent
 *
 * A thin event of a bigint key takes some 30
 * bytes; the headers id and op are made from these fields by the relay.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/event.h"


#define EVENTS_FORMAT 1

#define EVENT_OP_MASK	0x07
#define EVENT_KEY		0x08
#define EVENT_VALUE		0x10
#define EVENT_HEADERS	0x20
#define EVENT_TIME		0x40
#define EVENT_VERSION	0x80

#define MAX_VARINT 10

char
outbox_op_letter(OutboxOp op)
{
	return "\0cudrte"[op];
}

/* ---------------- integers ---------------- */

static inline void
put_varint(StringInfo buf, uint64 value)
{
	char	   *p;

	enlargeStringInfo(buf, MAX_VARINT);
	p = buf->data + buf->len;
	while (value >= 0x80)
	{
		*p++ = (char) (value | 0x80);
		value >>= 7;
	}
	*p++ = (char) value;
	buf->len = p - buf->data;
}

static void
corrupted(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("packed events of the log are corrupted")));
}

static inline uint64
get_varint(const char **pos, const char *end)
{
	uint64		value = 0;

	for (int shift = 0; shift < 64; shift += 7)
	{
		uint8		byte;

		if (*pos >= end)
			break;
		byte = (uint8) *(*pos)++;
		value |= ((uint64) (byte & 0x7F)) << shift;
		if ((byte & 0x80) == 0)
			return value;
	}
	corrupted();
	return 0;					/* keep compiler quiet */
}

static inline uint64
zigzag(int64 value)
{
	return ((uint64) value << 1) ^ (uint64) (value >> 63);
}

static inline int64
unzigzag(uint64 value)
{
	return (int64) (value >> 1) ^ -(int64) (value & 1);
}

/* One that has to fit into an int32, and is not negative. */
static inline int32
get_count(const char **pos, const char *end)
{
	uint64		value = get_varint(pos, end);

	if (value > PG_INT32_MAX)
		corrupted();
	return (int32) value;
}

/* ---------------- byte strings ---------------- */

static inline void
put_bytes(StringInfo buf, const char *data, int32 len)
{
	put_varint(buf, len);
	appendBinaryStringInfoNT(buf, data, len);
}

static inline const char *
get_bytes(const char **pos, const char *end, int32 *len)
{
	uint64		n = get_varint(pos, end);
	const char *data = *pos;

	if (n > (uint64) (end - *pos))
		corrupted();
	*len = (int32) n;
	*pos += n;
	return data;
}

/* ---------------- events ---------------- */

size_t
outbox_event_size(const OutboxEvent *ev)
{
	return 1 + 8 * MAX_VARINT +
		(ev->stream == 0 ? ev->server_len + ev->topic_len : 0) +
		(ev->key ? ev->key_len : 0) + (ev->value ? ev->value_len : 0) +
		(ev->headers ? ev->headers_len : 0);
}

void
outbox_event_pack(StringInfo buf, OutboxEventCursor *cur, const OutboxEvent *ev)
{
	uint8		flags = (uint8) ev->op;

	flags |= ev->key ? EVENT_KEY : 0;
	flags |= ev->value ? EVENT_VALUE : 0;
	flags |= ev->headers ? EVENT_HEADERS : 0;
	flags |= (ev->time_ms != cur->time_ms) ? EVENT_TIME : 0;
	flags |= (ev->version != 0) ? EVENT_VERSION : 0;

	enlargeStringInfo(buf, outbox_event_size(ev));
	appendStringInfoCharMacro(buf, (char) flags);
	put_varint(buf, ev->id - cur->id);
	put_varint(buf, ev->stream);
	if (ev->stream == 0)
	{
		put_bytes(buf, ev->server, ev->server_len);
		put_bytes(buf, ev->topic, ev->topic_len);
	}
	if (flags & EVENT_TIME)
		put_varint(buf, zigzag(ev->time_ms - cur->time_ms));
	if (flags & EVENT_VERSION)
		put_varint(buf, ev->id - ev->version);
	if (ev->key)
		put_bytes(buf, ev->key, ev->key_len);
	if (ev->value)
		put_bytes(buf, ev->value, ev->value_len);
	if (ev->headers)
		put_bytes(buf, ev->headers, ev->headers_len);

	cur->id = ev->id;
	cur->time_ms = ev->time_ms;
}

void
outbox_event_unpack(const char **pos, const char *end, OutboxEventCursor *cur,
					OutboxEvent *ev)
{
	uint8		flags;

	if (*pos >= end)
		corrupted();
	memset(ev, 0, sizeof(*ev));
	flags = (uint8) *(*pos)++;
	ev->op = (OutboxOp) (flags & EVENT_OP_MASK);
	if (ev->op > OUTBOX_OP_END)
		corrupted();
	ev->id = cur->id + get_varint(pos, end);
	ev->stream = get_count(pos, end);
	if (ev->stream == 0)
	{
		ev->server = get_bytes(pos, end, &ev->server_len);
		ev->topic = get_bytes(pos, end, &ev->topic_len);
	}
	ev->time_ms = cur->time_ms;
	if (flags & EVENT_TIME)
		ev->time_ms += unzigzag(get_varint(pos, end));
	if (flags & EVENT_VERSION)
		ev->version = ev->id - get_varint(pos, end);
	if (flags & EVENT_KEY)
		ev->key = get_bytes(pos, end, &ev->key_len);
	if (flags & EVENT_VALUE)
		ev->value = get_bytes(pos, end, &ev->value_len);
	if (flags & EVENT_HEADERS)
		ev->headers = get_bytes(pos, end, &ev->headers_len);

	cur->id = ev->id;
	cur->time_ms = ev->time_ms;
}

void
outbox_events_head(StringInfo buf, int nevents, int64 time_ms)
{
	appendStringInfoChar(buf, EVENTS_FORMAT);
	put_varint(buf, nevents);
	put_varint(buf, zigzag(time_ms));
}

int
outbox_events_start(const char **pos, const char *end, int64 first_id,
					OutboxEventCursor *cur)
{
	int			nevents;

	if (*pos >= end || *(*pos)++ != EVENTS_FORMAT)
		corrupted();
	nevents = get_count(pos, end);
	cur->id = first_id;
	cur->time_ms = unzigzag(get_varint(pos, end));
	return nevents;
}

/* ---------------- headers ---------------- */

void
outbox_header_pack(StringInfo buf, const char *name, const char *value,
				   int32 value_len)
{
	put_bytes(buf, name, strlen(name) + 1);
	if (value == NULL)
		put_varint(buf, 0);
	else
	{
		put_varint(buf, value_len + 1);
		appendBinaryStringInfoNT(buf, value, value_len);
	}
}

/*
 * The name is NUL-terminated in the data.
 */
bool
outbox_header_next(const char **pos, const char *end, const char **name,
				   int32 *name_len, const char **value, int32 *value_len)
{
	uint64		n;

	if (*pos >= end)
		return false;
	*name = get_bytes(pos, end, name_len);
	if (*name_len < 1 || (*name)[*name_len - 1] != '\0')
		corrupted();
	(*name_len)--;

	n = get_varint(pos, end);
	if (n > (uint64) (end - *pos) + 1)
		corrupted();
	*value = (n == 0) ? NULL : *pos;
	*value_len = (n == 0) ? 0 : (int32) (n - 1);
	*pos += *value_len;
	return true;
}
