/*-------------------------------------------------------------------------
 *
 * api.h
 *	  The seam between pg_outbox and pg_outbox_kafka.
 *
 * pg_outbox reads the catalogs and decides what may be set; pg_outbox_kafka
 * talks to librdkafka and knows no catalog.  The second library exports one
 * function, which returns this table.  Both must come from one build: raise
 * OUTBOX_KAFKA_ABI with every change of a structure or of a meaning here or in
 * kafka.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_API_H
#define OUTBOX_KAFKA_API_H

#include "kafka/kafka.h"

#define OUTBOX_KAFKA_ABI 2
#define OUTBOX_KAFKA_LIBRARY "$libdir/pg_outbox_kafka"
#define OUTBOX_KAFKA_ENTRY "outbox_kafka_library"

/* Which clients a setting is for. */
#define OUTBOX_SETTING_PRODUCER 0x01
#define OUTBOX_SETTING_CONSUMER 0x02
#define OUTBOX_SETTING_BOTH 0x03

typedef struct OutboxSetting
{
	const char *name;			/* librdkafka's property name */
	const char *value;
	int			clients;		/* OUTBOX_SETTING_... */
	bool		secret;			/* never to be seen in a message */
} OutboxSetting;

/* What to connect with; everything is palloc'd in the caller's context. */
typedef struct OutboxServerSettings
{
	const char *server;			/* the foreign server's name, for messages */
	OutboxSetting *items;
	int			nitems;
	const char *transactional_id;	/* NULL: no transactions; see load.c */
} OutboxServerSettings;

/* What server_check found; strings are palloc'd. */
typedef struct OutboxServerCheck
{
	bool		ok;
	int			nbrokers;
	char	   *brokers;		/* "id=host:port, ..." or NULL */
	char	   *cluster_id;		/* or NULL */
	int32		controller;		/* -1 if unknown */
	char	   *detail;			/* the reason why not, or NULL */
} OutboxServerCheck;

typedef struct OutboxKafkaApi
{
	int			abi;			/* OUTBOX_KAFKA_ABI */
	const char *version;		/* OUTBOX_VERSION */

	/* NULL if librdkafka takes the setting, else its reason (palloc'd) */
	char	   *(*setting_check) (const OutboxSetting *setting);
	void		(*server_check) (const OutboxServerSettings *settings,
								 int timeout_ms, OutboxServerCheck *check);

	OutboxProducer *(*producer_create) (const OutboxServerSettings *settings,
										int event_fd);
	OutboxKafkaFault (*producer_send) (OutboxProducer *prod,
									   const OutboxMessage *msg);
	bool		(*producer_poll) (OutboxProducer *prod, OutboxDelivery *delivery);
	int			(*producer_in_flight) (OutboxProducer *prod);
	bool		(*producer_connected) (OutboxProducer *prod, const char **reason);
	const char *(*producer_error) (OutboxProducer *prod);
	void		(*producer_forget_topic) (OutboxProducer *prod, const char *topic);
	OutboxKafkaFault (*producer_refresh_topic) (OutboxProducer *prod, const char *topic);
	OutboxKafkaFault (*producer_partitions) (OutboxProducer *prod, const char *topic,
											 int32 *npartitions);
	void		(*producer_close) (OutboxProducer *prod, int timeout_ms);
	bool		(*client_ending) (const char *server);
	const char *(*producer_transactional_id) (OutboxProducer *prod);
	void		(*producer_ask_places) (OutboxProducer *prod, bool stable);
	OutboxTxnResult (*producer_places) (OutboxProducer *prod, OutboxPlace **places,
										int *nplaces);
	OutboxTxnResult (*producer_begin) (OutboxProducer *prod);
	OutboxTxnResult (*producer_call) (OutboxProducer *prod, OutboxTxnCall what,
									  const char *topic, const char *place);
	OutboxTxnResult (*producer_call_result) (OutboxProducer *prod);
	const char *(*producer_txn_error) (OutboxProducer *prod, OutboxKafkaFault *fault);

	OutboxConsumer *(*consumer_create) (const OutboxServerSettings *settings,
										const char *group_id, int sharers,
										int event_fd);
	void		(*consumer_assign) (OutboxConsumer *cons, const char *topic,
									const OutboxPartitionOffset *parts, int nparts);
	void		(*consumer_pause) (OutboxConsumer *cons, const char *topic,
								   int32 partition);
	void		(*consumer_resume) (OutboxConsumer *cons, const char *topic,
									int32 partition);
	void		(*consumer_seek) (OutboxConsumer *cons, const char *topic,
								  int32 partition, int64 offset);
	void		(*consumer_poll) (OutboxConsumer *cons, OutboxRecord *rec);
	void		(*record_release) (OutboxRecord *rec);
	int			(*consumer_partitions) (OutboxConsumer *cons, const char *topic,
										int timeout_ms,
										OutboxPartitionOffset **parts,
										OutboxKafkaFault *fault, char **error);
	bool		(*consumer_offsets_for_time) (OutboxConsumer *cons,
											  const char *topic, int64 timestamp_ms,
											  int timeout_ms,
											  OutboxPartitionOffset *parts,
											  int nparts, char **error);
	void		(*consumer_commit) (OutboxConsumer *cons, const char *topic,
									const OutboxPartitionOffset *parts, int nparts);
	int64		(*consumer_high_watermark) (OutboxConsumer *cons,
											const char *topic, int32 partition);
	bool		(*consumer_connected) (OutboxConsumer *cons, const char **reason);
	void		(*consumer_close) (OutboxConsumer *cons);
} OutboxKafkaApi;

typedef const OutboxKafkaApi *(*OutboxKafkaEntry) (void);

/* The table, loading the library if need be. */
extern const OutboxKafkaApi *outbox_kafka_api(void);

/*
 * What a worker connects to the server with: the server's options, those of
 * the mapping of its owner (else of PUBLIC), and its secrets file.
 */
extern void outbox_server_settings(Oid serverid, OutboxServerSettings *settings);

#endif							/* OUTBOX_KAFKA_API_H */
