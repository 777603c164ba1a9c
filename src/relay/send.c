/*-------------------------------------------------------------------------
 *
 * send.c
 *	  An event becomes a Kafka message.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#define DAY_MS (INT64CONST(24) * 60 * 60 * 1000)

/*
 * A broker would expire a message that looks old at once, and refuse one from
 * the future.
 */
static int64
clamp_time(int64 time_ms)
{
	int64		now_ms = (GetCurrentTimestamp() - SetEpochTimestamp()) / 1000;

	return Max(Min(time_ms, now_ms), now_ms - DAY_MS);
}

static int
set_header(OutboxHeader *header, const char *name, const char *value, int len)
{
	header->name = name;
	header->value = value;
	header->value_len = len;
	return 1;
}

int
outbox_message_headers(const OutboxEvent *ev, OutboxMessageHeaders *headers)
{
	const char *pos = ev->headers;
	const char *end = pos + ev->headers_len;
	bool		own_id = false;
	int			n = 0;

	headers->op = outbox_op_letter(ev->op);
	while (pos != NULL && n < MESSAGE_MAX_HEADERS - 4)
	{
		OutboxHeader *h = &headers->header[n];
		int32		name_len;

		if (!outbox_header_next(&pos, end, &h->name, &name_len, &h->value, &h->value_len))
			break;
		own_id |= (strcmp(h->name, "id") == 0);
		n++;
	}
	if (!own_id)
		n += set_header(&headers->header[n], "id", headers->id, pg_lltoa(ev->id, headers->id));
	if (headers->op != '\0')
		n += set_header(&headers->header[n], "op", &headers->op, 1);
	if (ev->version != 0)
		n += set_header(&headers->header[n], "version", headers->version,
						pg_lltoa(ev->version, headers->version));
	return n;
}

static OutboxKafkaFault
send_message(RelayFlow *flow, const char *topic, const OutboxEvent *ev, int32 partition,
			 const OutboxMessageHeaders *headers, int nheaders, uint64 tag)
{
	OutboxMessage msg;

	msg.topic = topic;
	msg.partition = partition;
	msg.key = ev->key;
	msg.key_len = ev->key_len;
	msg.value = ev->value;
	msg.value_len = ev->value_len;
	msg.timestamp_ms = clamp_time(ev->time_ms);
	msg.headers = headers->header;
	msg.nheaders = nheaders;
	msg.tag = tag;
	return outbox_producer_send(flow->producer, &msg);
}

OutboxKafkaFault
outbox_send_event(RelayFlow *flow, const char *topic, const OutboxEvent *ev, uint64 tag)
{
	OutboxMessageHeaders headers;
	int			n = outbox_message_headers(ev, &headers);

	return send_message(flow, topic, ev, OUTBOX_PARTITION_BY_KEY, &headers, n, tag);
}

/*
 * One of the copies of an event that every partition gets.
 */
OutboxKafkaFault
outbox_send_copy(RelayFlow *flow, const char *topic, const OutboxEvent *ev,
				 int32 partition, int32 npartitions, uint64 tag)
{
	OutboxMessageHeaders headers;
	int			n = outbox_message_headers(ev, &headers);

	n += set_header(&headers.header[n], OUTBOX_HEADER_PARTITION, headers.partition,
					snprintf(headers.partition, sizeof(headers.partition), "%d/%d",
							 partition, npartitions));
	return send_message(flow, topic, ev, partition, &headers, n, tag);
}
