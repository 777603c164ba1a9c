/*-------------------------------------------------------------------------
 *
 * kafka.h
 *	  What the rest of the extension sees of Kafka: no librdkafka type, no
 *	  callback, nothing that a foreign thread runs.
 *
 * The implementation is a shared library of its own (pg_outbox_kafka), the
 * only one linked with librdkafka, loaded by the first use: an ordinary
 * backend maps nothing of it.  Every function is called from the backend's
 * own thread.  Unless said otherwise functions may raise, and do so only when
 * no librdkafka object would leak.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_H
#define OUTBOX_KAFKA_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "common/header.h"

typedef struct OutboxProducer OutboxProducer;
typedef struct OutboxConsumer OutboxConsumer;

/* Whose fault it is, which decides what happens next. */
typedef enum OutboxKafkaFault
{
	OUTBOX_KAFKA_OK = 0,
	OUTBOX_KAFKA_FAULT_EVENT,	/* this message can never be sent (too large) */
	OUTBOX_KAFKA_FAULT_TOPIC,	/* topic missing, forbidden, invalid */
	OUTBOX_KAFKA_FAULT_CLUSTER, /* fatal: the producer must be made anew */
	OUTBOX_KAFKA_FULL			/* the local queue is full: try again later */
} OutboxKafkaFault;

/* ---------------- producer ---------------- */

#define OUTBOX_PARTITION_BY_KEY (-1)

/* A message to send.  key or value NULL is Kafka's null. */
typedef struct OutboxMessage
{
	const char *topic;			/* NUL-terminated */
	int32		partition;		/* OUTBOX_PARTITION_BY_KEY, or which one */
	const char *key;
	int32		key_len;
	const char *value;
	int32		value_len;
	int64		timestamp_ms;	/* since the Unix epoch */
	const OutboxHeader *headers;
	int			nheaders;
	uint64		tag;			/* comes back in the delivery report */
} OutboxMessage;

/* What became of one message. */
typedef struct OutboxDelivery
{
	uint64		tag;
	OutboxKafkaFault fault;		/* OK, EVENT, TOPIC or CLUSTER */
	int32		partition;
	int64		offset;
	const char *error;			/* valid until the next call; NULL if OK */
} OutboxDelivery;

/*
 * Idempotent producer, acks=all, for the foreign server.  event_fd is written
 * whenever outbox_producer_poll() has something to say.
 * Raises undefined_object, fdw_invalid_option_name, fdw_error.
 */
extern OutboxProducer *outbox_producer_create(Oid serverid, int event_fd);

/* Copies the message (key, value and headers) into the library's queue. */
extern OutboxKafkaFault outbox_producer_send(OutboxProducer *prod,
											 const OutboxMessage *msg);

/*
 * Next delivery report, if there is one; never waits.
 *
 * Once a report or a send says FAULT_CLUSTER, nothing that is not yet reported
 * is sure ever to be: close the producer, make another one and send again what
 * was not reported as OK, in its order.  A broker rejects a whole batch for one
 * message's sake; the report of FAULT_EVENT is given only to the message that
 * is the cause, which can take several such rounds, and is itself followed by
 * FAULT_CLUSTER for what was sent behind it.  So settle what was reported as OK
 * or EVENT before starting anew, or the same message is met again; and make the
 * new producer in the same process, which alone knows how far the search is.
 */
extern bool outbox_producer_poll(OutboxProducer *prod, OutboxDelivery *delivery);

/* Messages accepted and not yet reported. */
extern int	outbox_producer_in_flight(OutboxProducer *prod);

/*
 * Is the cluster reachable?  False with a reason (valid until the next call)
 * while no broker answers.
 */
extern bool outbox_producer_connected(OutboxProducer *prod, const char **reason);

/* The reason of the last send() that was not OK, NULL if there was none. */
extern const char *outbox_producer_error(OutboxProducer *prod);

/*
 * A topic was stopped: look at it afresh when the next message for it comes.
 * Nothing is taken back: its messages are reported as they turn out, those of
 * a missing or forbidden topic with FAULT_TOPIC within seconds.
 */
extern void outbox_producer_forget_topic(OutboxProducer *prod, const char *topic);

/*
 * Take that look now, before messages for the topic are sent: FULL while the
 * brokers' answer is on its way, whose end event_fd tells, then OK, or FAULT_TOPIC
 * with the reason in outbox_producer_error() if it would doom a transaction.  A
 * topic is asked about at most once a second.
 */
extern OutboxKafkaFault outbox_producer_refresh_topic(OutboxProducer *prod, const char *topic);

/*
 * How many partitions the topic has, for messages that name theirs, as known
 * within the last second.  OK, FAULT_TOPIC with the reason in
 * outbox_producer_error(), or FULL while the answer is on its way, or if there is
 * none to be had now: try again when event_fd tells, or later.
 */
extern OutboxKafkaFault outbox_producer_partitions(OutboxProducer *prod, const char *topic,
												   int32 *npartitions);

/*
 * End the producer: purge what is queued, wait at most timeout_ms for what is
 * on the wire.  For a process that goes on; one that exits just leaves.
 */
extern void outbox_producer_close(OutboxProducer *prod, int timeout_ms);

/*
 * Its connections end in the background, which takes long where a name server
 * does not answer.  Is one of that server's producers still ending?  What it had
 * on the wire may then still arrive: do not make another one before.  event_fd
 * is written at its end.
 */
extern bool outbox_producer_ending(const char *server);

/* ---------------- exactly once ---------------- */

/*
 * A producer of a server with option exactly_once is transactional.  Its name
 * (transactional.id) is that of the database and the server, so there is one
 * that counts at a time: whoever claims the name ends the transactions of
 * earlier holders, who can do nothing any more.  With each transaction a place
 * is stored, a text in the offsets of the consumer group of the same name, on
 * partition 0 of a topic; both are committed or neither.
 *
 *	  ask_places ... places		where former transactions stand
 *	  call(CLAIM) ... result
 *	  begin, send ..., reports of all that was sent
 *	  call(STORE) ... result, call(COMMIT) ... result
 *
 * What waits for brokers is done in the background: WAIT says that it is under
 * way, and event_fd is written at its end.  After FAILED close the producer;
 * whether a commit that failed took place shows in the places.  Readers have to
 * read committed messages only.
 */
typedef enum OutboxTxnResult
{
	OUTBOX_TXN_WAIT,
	OUTBOX_TXN_OK,
	OUTBOX_TXN_FAILED			/* outbox_producer_txn_error() says why */
} OutboxTxnResult;

typedef enum OutboxTxnCall
{
	OUTBOX_TXN_CLAIM,
	OUTBOX_TXN_STORE,			/* of a place, on a topic */
	OUTBOX_TXN_COMMIT
} OutboxTxnCall;

typedef struct OutboxPlace
{
	char	   *topic;
	char	   *text;
} OutboxPlace;

#define OUTBOX_PLACE_MAX 4000	/* brokers take 4096 bytes
								 * (offset.metadata.max.bytes) */

/* The name, or NULL if the producer is not transactional. */
extern const char *outbox_producer_transactional_id(OutboxProducer *prod);

/*
 * Ask for the places, without waiting for transactions that are under way, or
 * having waited.  The result is palloc'd.
 */
extern void outbox_producer_ask_places(OutboxProducer *prod, bool stable);
extern OutboxTxnResult outbox_producer_places(OutboxProducer *prod,
											  OutboxPlace **places, int *nplaces);

/* Does not wait. */
extern OutboxTxnResult outbox_producer_begin(OutboxProducer *prod);

/* One call at a time; topic and place are for STORE. */
extern OutboxTxnResult outbox_producer_call(OutboxProducer *prod, OutboxTxnCall what,
											const char *topic, const char *place);
extern OutboxTxnResult outbox_producer_call_result(OutboxProducer *prod);

/*
 * What failed last.  FAULT_TOPIC: one of the transaction's topics is the cause.
 */
extern const char *outbox_producer_txn_error(OutboxProducer *prod, OutboxKafkaFault *fault);

/* ---------------- consumer ---------------- */

typedef enum OutboxRecordKind
{
	OUTBOX_RECORD_NONE,			/* nothing there now */
	OUTBOX_RECORD_EVENT,
	OUTBOX_RECORD_EOF,			/* end of partition reached, offset says where */
	OUTBOX_RECORD_OUT_OF_RANGE, /* broker no longer (or not yet) has offset */
	OUTBOX_RECORD_TOPIC_FAULT,	/* topic missing or forbidden */
	OUTBOX_RECORD_CLUSTER_FAULT
} OutboxRecordKind;

typedef struct OutboxRecord
{
	OutboxRecordKind kind;
	const char *topic;
	int32		partition;
	int64		offset;
	int64		timestamp_ms;	/* -1 if none */
	const char *key;			/* NULL: null */
	int32		key_len;
	const char *value;
	int32		value_len;
	OutboxHeader *headers;
	int			nheaders;
	const char *error;			/* for faults */
	void	   *handle;			/* the library's message */
} OutboxRecord;

typedef struct OutboxPartitionOffset
{
	int32		partition;
	int64		offset;			/* or one of the two below */
	int64		low,
				high;			/* the broker's watermarks, where asked for */
} OutboxPartitionOffset;

#define OUTBOX_OFFSET_EARLIEST (-2)
#define OUTBOX_OFFSET_LATEST (-1)

/*
 * Consumer with manual assignment; group_id only names the offsets that are
 * committed to the broker for lag tools.  read_committed, no auto commit, no
 * auto offset reset: what is not there is reported as OUT_OF_RANGE.  It is one
 * of as many as "sharers" says, which share the default bounds on memory.
 */
extern OutboxConsumer *outbox_consumer_create(Oid serverid, const char *group_id,
											  int sharers, int event_fd);

/* Replaces the assignment; partitions start at the given offsets. */
extern void outbox_consumer_assign(OutboxConsumer *cons, const char *topic,
								   const OutboxPartitionOffset *parts, int nparts);

/*
 * Stop or go on fetching one partition, or move within it; all take effect for
 * the next poll.  A partition that was reported with a fault or as out of range
 * stays silent until seek() moves it.  seek() ends a pause.
 */
extern void outbox_consumer_pause(OutboxConsumer *cons, const char *topic, int32 partition);
extern void outbox_consumer_resume(OutboxConsumer *cons, const char *topic, int32 partition);
extern void outbox_consumer_seek(OutboxConsumer *cons, const char *topic,
								 int32 partition, int64 offset);

/*
 * Next record, without waiting.  Its pointers live until
 * outbox_record_release(); several records may be held at once.
 */
extern void outbox_consumer_poll(OutboxConsumer *cons, OutboxRecord *rec);
extern void outbox_record_release(OutboxRecord *rec);

/*
 * Partitions of a topic with their watermarks; waits at most timeout_ms.
 * Returns the number of partitions (palloc'd array in *parts), or -1 with the
 * reason in *error (palloc'd) and the kind of fault in *fault.
 */
extern int	outbox_consumer_partitions(OutboxConsumer *cons, const char *topic,
									   int timeout_ms,
									   OutboxPartitionOffset **parts,
									   OutboxKafkaFault *fault, char **error);

/*
 * Offsets of the first messages at or after timestamp_ms, into parts[].offset.
 * False with *error set if the broker did not answer in time.
 */
extern bool outbox_consumer_offsets_for_time(OutboxConsumer *cons, const char *topic,
											 int64 timestamp_ms, int timeout_ms,
											 OutboxPartitionOffset *parts, int nparts,
											 char **error);

/* Tell the broker's group how far we are; does not wait, errors are logged. */
extern void outbox_consumer_commit(OutboxConsumer *cons, const char *topic,
								   const OutboxPartitionOffset *parts, int nparts);

/* Cached high watermark of a partition, -1 if unknown; for lag. */
extern int64 outbox_consumer_high_watermark(OutboxConsumer *cons, const char *topic,
											int32 partition);

extern bool outbox_consumer_connected(OutboxConsumer *cons, const char **reason);

/* Ends the consumer; releases records that are still held. */
extern void outbox_consumer_close(OutboxConsumer *cons);

/* ---------------- servers ---------------- */

/* Name of the foreign-data wrapper, and of the server used by default. */
#define OUTBOX_KAFKA_WRAPPER "outbox_kafka"
#define OUTBOX_DEFAULT_SERVER "kafka"

/*
 * OID of a foreign server of wrapper outbox_kafka, by name (NULL: "kafka").
 * Raises undefined_object with a hint, or wrong_object_type.
 */
extern Oid	outbox_server_oid(const char *name, bool missing_ok);

/*
 * May the server's users publish to this topic?  Checked against its option
 * "topics" (comma-separated patterns, absent: every topic).
 */
extern bool outbox_server_topic_allowed(Oid serverid, const char *topic);

/* Does the server want Kafka transactions (option "exactly_once")? */
extern bool outbox_server_exactly_once(Oid serverid);

/*
 * A number that changes when what a worker would connect with changes: the
 * server's options, the mapping it uses, the contents of its secrets file.
 * Raises like outbox_producer_create().  Needs a transaction.
 */
extern uint64 outbox_server_fingerprint(Oid serverid);

/*
 * The same for whoever only wants to know whether it changed: false, and the
 * error is forgotten, where it cannot be told now, as without the secrets file.
 * That is no reason to give up a client that works; the next one that is made
 * reports it.
 */
extern bool outbox_server_try_fingerprint(Oid serverid, uint64 *fingerprint);

/*
 * Called by the validator, in the transaction that creates or alters a server
 * or a user mapping.  Whoever has to tell the workers sets it.
 */
extern void (*outbox_server_altered_hook) (void);

/* ---------------- process ---------------- */

/* Settings; called from _PG_init. */
extern void outbox_kafka_init(void);

/*
 * Make this process leave through _exit() if it has used the library by then:
 * exit() would run the TLS library's clean-up under the feet of threads that
 * still use it, and the crash of one worker restarts the whole cluster.  To be
 * called before any other on_proc_exit() of the process, so that it runs last.
 * Does not load the library.
 */
extern PGDLLEXPORT void outbox_kafka_register_exit(void);

#endif							/* OUTBOX_KAFKA_H */
