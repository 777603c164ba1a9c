/*-------------------------------------------------------------------------
 *
 * broadcast.c
 *	  Events that speak of a whole topic: each partition gets a copy.
 *
 * TRUNCATE and the end of a resync have their place in the order of every
 * partition.  The copies are named by partition and handed to the producer
 * one after the other, when everything before the event has been handed over
 * and before anything behind it is; the producer keeps the order of each
 * partition.  The event is done when all copies have been acknowledged.  If one
 * is not, it is parked and all of them are sent again: they bear one id.
 *
 * How many partitions there are is asked with each event, as topics grow.  A
 * topic that grows between question and copy has its newest partition left
 * out, which costs nothing: whoever reads one of the copies knows from then on
 * what is older.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "common/fault.h"

void
outbox_broadcast_reset(RelayBroadcast *copies)
{
	memset(copies, 0, sizeof(*copies));
}

/*
 * Find out how many copies there will be, unless that is known.  Outside a
 * transaction.
 */
OutboxKafkaFault
outbox_broadcast_count(RelayTopic *topic, RelayBroadcast *copies)
{
	if (copies->npartitions > 0)
		return OUTBOX_KAFKA_OK;
	return outbox_producer_partitions(topic->flow->producer, topic->name, &copies->npartitions);
}

/*
 * Hand over the copies that are left.  OK when that was the last one; after
 * FULL it goes on where it stopped.  *nsent grows by what was handed over.
 */
OutboxKafkaFault
outbox_broadcast_send(RelayTopic *topic, const OutboxEvent *ev, uint64 tag,
					  RelayBroadcast *copies, int *nsent)
{
	Assert(copies->npartitions > 0);
	for (; copies->next < copies->npartitions; copies->next++)
	{
		OutboxKafkaFault fault;

		if (copies->next > 0 && OUTBOX_FAULT_REFUSES("relay.copy_refused"))
			return OUTBOX_KAFKA_FAULT_TOPIC;
		if (copies->next > 0 && OUTBOX_FAULT_REFUSES("relay.copy_waits"))
			return OUTBOX_KAFKA_FULL;
		fault = outbox_send_copy(topic->flow, topic->name, ev,
								 copies->next, copies->npartitions, tag);
		if (fault != OUTBOX_KAFKA_OK)
			return fault;
		(*nsent)++;
	}
	return OUTBOX_KAFKA_OK;
}
