/*-------------------------------------------------------------------------
 *
 * flow.h
 *	  What the files of src/relay share: the flow of events to one server,
 *	  and the state of its topics.
 *
 * A flow reads batches of the log in order, keeps every event of its server
 * in a ring from reading to settlement, and moves its position over what is
 * done.  Everything is owned by the relay process; nothing here is shared.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FLOW_H
#define OUTBOX_FLOW_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"

#include "kafka/kafka.h"
#include "log/log.h"
#include "relay/place.h"

#define FLOW_RING_SIZE 65536	/* events between reading and settlement */
#define FLOW_PAGE_BYTES (512 * 1024)	/* packed events read at once */
#define FLOW_MAX_BYTES (32 * 1024 * 1024)	/* packed events in the ring */
#define FLOW_BATCH_ROWS (512 * 1024)	/* references collected at once */

/* ---------------- topics ---------------- */

#define TOPIC_NAME_SIZE 256		/* Kafka allows 249 bytes */

/*
 * The delivery of one topic.
 *
 *	  LIVE -> STOPPED	a fault of the topic, or its server is gone
 *	  STOPPED -> PROBING	after a while: the oldest parked event is tried
 *	  PROBING -> DRAINING	it went through
 *	  PROBING, DRAINING -> STOPPED	it did not
 *	  DRAINING -> LIVE	nothing is parked any more
 *	  any <-> PAUSED	outbox.pause_topic / resume_topic
 *
 * In every state but LIVE the topic's events are parked.
 */
typedef enum TopicState
{
	TOPIC_LIVE,
	TOPIC_STOPPED,
	TOPIC_PROBING,
	TOPIC_DRAINING,
	TOPIC_PAUSED
} TopicState;

/* What settlement has counted of a topic and stat.c has not stored yet. */
typedef struct RelayTopicCounts
{
	int64		delivered;		/* events that the brokers acknowledged */
	int64		bytes;			/* of their keys and values */
	int64		parked;
	int64		dead;
	TimestampTz last_at;		/* of the last acknowledgement; 0: none */
} RelayTopicCounts;

/*
 * How far an event for every partition has been handed to the producer; all
 * zero: not at all.
 */
typedef struct RelayBroadcast
{
	int32		npartitions;	/* 0: not known yet */
	int32		next;			/* partition whose copy is next */
} RelayBroadcast;

typedef struct RelayTopic
{
	char		name[TOPIC_NAME_SIZE];	/* hash key */
	struct RelayFlow *flow;
	int32		index;			/* in the flow's list; names it in tags */
	int32		stream;			/* outbox._stream.id, 0: no row yet */
	TimestampTz row_retry;		/* not before this: make one, or store in it */
	TopicState	state;
	bool		changed;		/* state must be stored by the next settlement */
	char	   *reason;			/* why it is stopped */
	TimestampTz retry_at;
	int			retry_ms;		/* back-off */
	bool		asking;			/* a retry waits for what brokers say of it */
	int			in_flight;		/* messages of ring entries with the producer */
	int			to_park;		/* ring entries that settlement will park */
	RelayTopicCounts counts;

	/* parked events on their way: drain_ids, up to (drain_stamp, drain_id) */
	int			drain_page;		/* how many are read at once */
	int64	   *drain_ids;		/* room for a page; NULL: never needed yet */
	int			ndrain_ids;
	int			drain_in_flight;
	bool		drain_in_txn;	/* part of the open Kafka transaction */
	int64		drain_stamp;
	int64		drain_id;
	int64		drained_stamp;	/* those up to here are gone; 0: read all */
	int64		drained_id;
	int64		drain_bytes;
	OutboxKafkaFault drain_fault;	/* worst report of this page */
	char	   *drain_error;
	bool		drain_counts;	/* an event for every partition is next, */
	RelayBroadcast drain_copies;	/* and how far it has come */
} RelayTopic;

/* Events for the parked log, collected: see park.c. */
typedef struct ParkBatch ParkBatch;

/* ---------------- the ring ---------------- */

/* Packed events, read together and freed together. */
typedef struct RelayPage
{
	MemoryContext context;
	int64		bytes;
	int			users;			/* ring entries, and the reader */
} RelayPage;

typedef enum EntryState
{
	ENTRY_WAITING,				/* read, not handed to the producer yet */
	ENTRY_IN_FLIGHT,			/* handed over, also if not all copies are */
	ENTRY_ACKNOWLEDGED,			/* in a Kafka transaction that is not
								 * committed */
	ENTRY_DELIVERED,
	ENTRY_PARK,					/* goes to the parked log at settlement */
	ENTRY_DEAD					/* becomes a dead letter at settlement */
} EntryState;

/* A row of the log in a page, and how far it is unpacked. */
typedef struct PageRow
{
	int64		stamp;
	const char *pos;
	const char *end;
	int			remaining;		/* events */
	OutboxEventCursor cursor;
} PageRow;

typedef struct RelayEntry
{
	EntryState	state;
	bool		stored;			/* PARK, DEAD: it is, settlement need not */
	int64		stamp;
	RelayTopic *topic;
	RelayPage  *page;
	char	   *error;			/* DEAD: why, in the flow's context */
	int			unreported;		/* messages with the producer */
	RelayBroadcast copies;		/* where every partition gets one */
	OutboxEvent ev;				/* strings in the page */
} RelayEntry;

/* Have some partitions got their copies, and others not? */
static inline bool
outbox_entry_begun(const RelayEntry *entry)
{
	return entry->copies.next > 0;
}

/* A batch of which events are in the ring or still to be read. */
typedef struct RelayBatch
{
	OutboxSnapshot *target;
	uint64		end;			/* ring number after its last event */
	bool		rows;			/* it holds rows of the log, perhaps others' */
	bool		complete;		/* all of it is read */
	bool		fresh;			/* target was chosen since the flow began */
} RelayBatch;

/* ---------------- Kafka transactions ---------------- */

/*
 * Where the flow is with the transactions of an exactly-once server.
 *
 *	  NONE -> LOOKING		a producer was made
 *	  LOOKING -> CLAIMING	nobody's place forbids it
 *	  CLAIMING -> FINDING	other holders of the name are fenced off
 *	  FINDING -> IDLE		we know what is published
 *	  IDLE -> OPEN			something is to be sent
 *	  OPEN -> CLOSING		it is long enough, or there is nothing more
 *	  CLOSING -> KEEPING	all is acknowledged; what is not sent is stored
 *	  KEEPING -> STORING	and standbys have it, where that is asked for
 *	  STORING -> COMMITTING -> IDLE
 *	  any -> NONE			the producer ended; a transaction with it
 */
typedef enum TxnState
{
	TXN_NONE,
	TXN_LOOKING,
	TXN_CLAIMING,
	TXN_FINDING,
	TXN_IDLE,
	TXN_OPEN,
	TXN_CLOSING,
	TXN_KEEPING,
	TXN_STORING,
	TXN_COMMITTING
} TxnState;

#define TXN_STARTS 16			/* starts of the server that are kept */

typedef struct RelayTxn
{
	TxnState	state;

	/* the open transaction; invalid in IDLE and before */
	TimestampTz opened_at;
	int			events;
	int64		bytes;
	RelayTopic *topic;			/* first one that something was sent to, or
								 * NULL */
	bool		several;		/* something was sent to others as well */
	uint64		end;			/* ring number behind it; valid from CLOSING */
	int64		draining;		/* its number in outbox._drained, 0: none */
	char	   *place;			/* to be stored with it; NULL before KEEPING */
	XLogRecPtr	place_lsn;		/* WAL without which nobody can go by it */
	char	   *doomed;			/* why it cannot be committed, or NULL */
	TimestampTz doomed_at;

	/* what is committed */
	int64		number;			/* of the newest place */
	int64		drained;		/* as in the newest place */
	bool		keeping;		/* something is stored by the database
								 * transaction under way */
	XLogRecPtr	kept_lsn;		/* commit of the last that was stored without
								 * being sent */

	/* who has the name */
	bool		claimed;		/* we had it */
	TimestampTz starts[TXN_STARTS]; /* of our server, when it was claimed */
	int			nstarts;
	TimestampTz holder;			/* start of the server that wrote the newest
								 * place when we last knew */
	char	   *announce;		/* topic to store a place of ours on, or NULL */
	char	   *blocked;		/* why we leave it to another server, or NULL */

	bool		caught_up;		/* what was committed when the flow began is
								 * settled */
	int			single;			/* so many transactions yet with one topic
								 * each */
	HTAB	   *letters;		/* ids of events that are dead letters */
} RelayTxn;

/* ---------------- the flow ---------------- */

typedef struct RelayFlow
{
	char	   *server;			/* name */
	Oid			serverid;		/* InvalidOid: there is no such server (now) */
	MemoryContext context;		/* all that a reset throws away */

	OutboxProducer *producer;	/* NULL: to be made at producer_retry */
	bool		producer_broken;	/* it takes nothing more: make another */
	bool		producer_ending;	/* the former one has to end first */
	TimestampTz producer_retry;
	int			producer_retry_ms;	/* back-off; 0: none since a delivery */
	TimestampTz restart_by;		/* settings changed: producer ends by then; 0:
								 * no */
	char	   *waiting_for;	/* for status, NULL: nothing */
	RelayTxn	txn;

	/* the gate, see gate.c */
	XLogRecPtr	gate_lsn;		/* what standbys have to flush before anything
								 * is sent; invalid: the gate is open */
	XLogRecPtr	gate_passed;	/* what they had when it was opened last */
	int			gate_standbys;	/* how many were asked for when that was set */
	int			gate_pause_ms;	/* back-off */
	TimestampTz gate_look_at;
	char	   *gate_reason;	/* for status, NULL: open or only just closed */

	HTAB	   *topics;
	List	   *topic_list;		/* RelayTopic *, by index */
	bool		topics_loaded;	/* the table was looked at */
	uint32		topic_turn;		/* index of the one that is next to send what
								 * it has parked */
	RelayTopic **by_stream;		/* topic of a stream number, NULL: unknown yet */
	int			nby_stream;

	/*
	 * the ring: entries [head, sent) are with the producer or done, [sent,
	 * tail) wait
	 */
	RelayEntry *ring;
	uint64		head;
	uint64		sent;
	uint64		tail;
	int64		bytes;			/* of all pages */

	/* reading */
	OutboxSnapshot *base;		/* read up to here, before the open batch */
	List	   *batches;		/* RelayBatch *, oldest first; the last one is
								 * read */
	List	   *ticks;			/* OutboxSnapshot *, taken while we lag */
	bool		tick_stored;	/* the first one is the position's target */
	TimestampTz last_tick;
	OutboxLogBatch *refs;		/* of the batch being read; NULL: none open */
	MemoryContext refs_context;
	int64		next_ref;
	int64		read_stamp;		/* last event read in this batch */
	int64		read_id;
	RelayPage  *page;			/* page being unpacked, NULL: none */
	PageRow    *rows;			/* in the page */
	int			nrows;
	int			row;			/* being unpacked */

	/* settlement */
	OutboxPosition position;	/* as stored, or to be stored */
	bool		position_moved; /* by batches of others' events */
	TimestampTz position_stored;
	TimestampTz settled_at;		/* the settlement under way, or the last one */

	/* statistics */
	bool		counted;		/* some topic's counts are not stored */
	TimestampTz stat_stored;
} RelayFlow;

/* flow.c */
extern RelayFlow *outbox_flow_create(const char *server);
extern void outbox_flow_reset(RelayFlow *flow);
extern void outbox_flow_reread(RelayFlow *flow);
extern void outbox_flow_producer_failed(RelayFlow *flow, const char *message);
extern void outbox_flow_set_server(RelayFlow *flow, Oid serverid, bool altered);
extern bool outbox_flow_run(RelayFlow *flow);
extern bool outbox_flow_may_send(const RelayFlow *flow);
extern void outbox_flow_wait_reason(RelayFlow *flow, const char *reason);

/* read.c: fill the ring; false if there is nothing to read or no room */
extern bool outbox_flow_read(RelayFlow *flow);
extern void outbox_flow_tick(RelayFlow *flow);
extern void outbox_page_release(RelayFlow *flow, RelayPage *page);

/* gate.c: nothing is sent before enough standbys have it */
extern void outbox_gate_close(RelayFlow *flow);
extern bool outbox_gate_passes(RelayFlow *flow);
extern bool outbox_gate_has(RelayFlow *flow, XLogRecPtr lsn);
extern TimestampTz outbox_gate_look_at(const RelayFlow *flow);
extern void outbox_gate_init(void);

/* settle.c: all that can be settled, or as much as a turn may take */
extern void outbox_flow_settle(RelayFlow *flow, bool all);
extern bool outbox_flow_settle_due(RelayFlow *flow);
extern bool outbox_flow_unsettled(const RelayFlow *flow);
extern void outbox_flow_place(const RelayFlow *flow, uint64 end, RelayPlace *place);
extern void outbox_flow_move(RelayFlow *flow, const RelayPlace *place);
extern void outbox_entry_store(RelayFlow *flow, RelayEntry *entry, ParkBatch *batch);
extern void outbox_settle_dead_letter(RelayTopic *topic, const OutboxEvent *ev,
									  const char *error);

/* park.c: events for the parked log, collected in a settlement */
extern ParkBatch *outbox_park_begin(void);
extern void outbox_park_add(ParkBatch *batch, int32 stream, int64 stamp,
							const OutboxEvent *ev);
extern void outbox_park_end(ParkBatch *batch);
extern int32 outbox_park_stream(const char *server, const char *topic);

/* topic.c */
extern RelayTopic *outbox_topic_get(RelayFlow *flow, const char *name, int len);
extern void outbox_topic_stop(RelayTopic *topic, const char *reason);
extern void outbox_topic_server_gone(RelayTopic *topic);
extern void outbox_topic_reset(RelayTopic *topic);
extern bool outbox_topic_run(RelayTopic *topic);
extern bool outbox_topics_may_run(RelayFlow *flow);
extern void outbox_topic_delivery(RelayTopic *topic, const OutboxDelivery *delivery);
extern bool outbox_topic_parks(const RelayTopic *topic);
extern bool outbox_topic_amid_copies(const RelayTopic *topic);
extern void outbox_topic_park(RelayTopic *topic, ParkBatch *batch, int64 stamp,
							  const OutboxEvent *ev);
extern void outbox_topics_make_rows(RelayFlow *flow);
extern bool outbox_topic_store_due(const RelayTopic *topic);
extern void outbox_topic_store(RelayTopic *topic);
extern void outbox_topics_load(RelayFlow *flow);
extern TimestampTz outbox_topics_next_retry(RelayFlow *flow);

extern void outbox_topic_drain_prepare(RelayTopic *topic, int64 number);
extern void outbox_topic_drain_committed(RelayTopic *topic);
extern void outbox_topic_drain_failed(RelayTopic *topic);
extern void outbox_topics_resolve_drained(RelayFlow *flow, int64 number);
extern bool outbox_topics_have_parked(RelayFlow *flow);

/* transaction.c */
extern void outbox_txn_producer_opened(RelayFlow *flow);
extern void outbox_txn_reset(RelayFlow *flow);
extern bool outbox_txn_run(RelayFlow *flow, bool *progress);
extern bool outbox_txn_turn_ends(RelayFlow *flow);
extern void outbox_txn_doom(RelayFlow *flow, const char *reason);
extern bool outbox_txn_over(RelayFlow *flow);
extern void outbox_txn_fail(RelayFlow *flow);
extern bool outbox_txn_ready(const RelayFlow *flow);
extern bool outbox_txn_may_send(const RelayFlow *flow);
extern bool outbox_txn_admit(RelayFlow *flow, const RelayTopic *topic);
extern void outbox_txn_sent(RelayFlow *flow, RelayTopic *topic, const OutboxEvent *ev);
extern void outbox_txn_kept(RelayFlow *flow);
extern bool outbox_txn_is_letter(const RelayFlow *flow, int64 id);
extern void outbox_txn_add_letter(RelayFlow *flow, int64 id);

/* stat.c */
extern void outbox_stat_delivered(RelayTopic *topic, int64 events, int64 bytes);
extern void outbox_stat_parked(RelayTopic *topic);
extern void outbox_stat_dead(RelayTopic *topic);
extern bool outbox_stat_due(const RelayFlow *flow);
extern void outbox_stat_store(RelayFlow *flow);

/* stream.c */
extern void outbox_streams_reload(void);
extern bool outbox_stream_lookup(int32 stream, const char **server, const char **topic);

/* send.c */
#define MESSAGE_MAX_HEADERS (OUTBOX_MAX_HEADERS + 15)

/* Headers as they are sent; some point into the struct, some into the event. */
typedef struct OutboxMessageHeaders
{
	OutboxHeader header[MESSAGE_MAX_HEADERS];
	char		id[MAXINT8LEN + 1];
	char		version[MAXINT8LEN + 1];
	char		op;
	char		partition[2 * MAXINT8LEN + 2];
} OutboxMessageHeaders;

/* Fill in the event's own and those that the relay adds; returns how many. */
extern int	outbox_message_headers(const OutboxEvent *ev, OutboxMessageHeaders *headers);
extern OutboxKafkaFault outbox_send_event(RelayFlow *flow, const char *topic,
										  const OutboxEvent *ev, uint64 tag);

extern OutboxKafkaFault outbox_send_copy(RelayFlow *flow, const char *topic,
										 const OutboxEvent *ev, int32 partition,
										 int32 npartitions, uint64 tag);

/* broadcast.c */
extern void outbox_broadcast_reset(RelayBroadcast *copies);
extern OutboxKafkaFault outbox_broadcast_count(RelayTopic *topic, RelayBroadcast *copies);
extern OutboxKafkaFault outbox_broadcast_send(RelayTopic *topic, const OutboxEvent *ev,
											  uint64 tag, RelayBroadcast *copies, int *nsent);

/* relay.c: a server that an event names and that no flow may serve yet */
extern void outbox_relay_discover(const char *server, int len);

/* Tags of parked events: the topic's index; of others: their ring number. */
#define TAG_PARKED UINT64CONST(0x8000000000000000)

/* ---------------- restored.c ---------------- */

extern void outbox_restored_init(void);

#endif							/* OUTBOX_FLOW_H */
