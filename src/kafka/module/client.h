/*-------------------------------------------------------------------------
 *
 * client.h
 *	  What producer, consumer and server check have in common: a librdkafka
 *	  instance, its event queue, what is known of the connection.
 *
 * librdkafka runs threads of its own.  None of them ever runs our code: there
 * are no callbacks, everything they have to say is taken off the queue by the
 * backend's thread.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_CLIENT_H
#define OUTBOX_KAFKA_CLIENT_H

#include "common/compat.h"
#include "kafka/api.h"

#include <librdkafka/rdkafka.h>
#include <pthread.h>

#include "utils/timestamp.h"

#define CLIENT_REASON_SIZE 512

typedef struct Client
{
	MemoryContext cxt;			/* all of the client's memory */
	char	   *server;			/* name of the foreign server */
	char	  **secrets;		/* values that no message may show */
	int			nsecrets;

	/* library */
	rd_kafka_t *rk;				/* NULL once ended */
	rd_kafka_queue_t *queue;	/* everything arrives here */
	int			event_fd;		/* -1: none */

	/* connection */
	bool		up;				/* a broker has answered since the last outage */
	bool		down;			/* the last report was: all brokers down */
	bool		fatal;			/* the library has given up */
	TimestampTz probed_at;		/* last look whether a broker is up */
	char		reason[CLIENT_REASON_SIZE]; /* why it is not up */

	/* log */
	bool		quiet;			/* nothing to the server log */
	TimestampTz log_since;		/* beginning of the current window */
	int			log_lines;		/* lines written and suppressed in it */
} Client;

/* A setting of our own. */
typedef struct Property
{
	const char *name;
	const char *value;
} Property;

/*
 * Make a client: our defaults, then the server's settings, then what is not
 * to be changed; lists end with a NULL name.  event_fd is written when
 * the queue becomes non-empty (-1: never).  Raises fdw_error.
 */
extern void client_create(Client *client, rd_kafka_type_t type,
						  const OutboxServerSettings *settings,
						  const Property *defaults, const Property *fixed,
						  int events, int event_fd);

/*
 * The same in two parts, for clients that come and go: the configuration, which
 * is the caller's to destroy and may raise fdw_error, and an instance that has
 * a copy of it, which does not raise.
 */
extern rd_kafka_conf_t *client_prepare(Client *client, rd_kafka_type_t type,
									   const OutboxServerSettings *settings,
									   const Property *defaults,
									   const Property *fixed, int events);
extern bool client_open(Client *client, rd_kafka_type_t type,
						const rd_kafka_conf_t *conf, int event_fd,
						char *errstr, size_t size);

/* The context that a client and its memory live in. */
extern MemoryContext client_context(const char *name);

/* End the library's instance; waits for its threads. */
extern void client_destroy(Client *client);

/*
 * The same in a thread of its own, which first calls "before", if there is one:
 * it may touch nothing but what "arg" gives it, and librdkafka.
 */
typedef void (*ClientCall) (void *arg);
extern void client_destroy_later(Client *client, ClientCall before, void *arg);

/* Has a client of that server been left to such a thread and not ended yet? */
extern bool client_ending(const char *server);

/* Write to an eventfd; any thread may. */
extern void client_signal(int event_fd);

/* Start a thread that takes no signals. */
typedef void *(*ClientThread) (void *arg);
extern bool client_thread(pthread_t * thread, ClientThread body, void *arg);

/* Take note of an error or log event.  Does not destroy it. */
extern void client_note_event(Client *client, rd_kafka_event_t *ev);

/* Some broker has answered. */
static inline void
client_note_answer(Client *client)
{
	client->up = true;
	client->down = false;
}

extern bool client_connected(Client *client, const char **reason);

/* One line to the server log, if there have not been too many. */
extern void client_log(Client *client, int elevel, const char *fmt,...) pg_attribute_printf(3, 4);

/* Overwrite all secret values in the text, in place. */
extern void client_scrub(const Client *client, char *text);

/* A setting's value, or the default. */
extern const char *client_setting(const OutboxServerSettings *settings,
								  const char *name, const char *otherwise);

/* Milliseconds from now until then, not negative. */
extern int	client_ms_until(TimestampTz then);

/* Whose fault an error of librdkafka's is. */
extern OutboxKafkaFault fault_of_error(rd_kafka_resp_err_t err);

/* The parts of the table in module.c. */
extern char *client_setting_check(const OutboxSetting *setting);
extern void client_server_check(const OutboxServerSettings *settings,
								int timeout_ms, OutboxServerCheck *check);

#endif							/* OUTBOX_KAFKA_CLIENT_H */
