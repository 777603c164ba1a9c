/*-------------------------------------------------------------------------
 *
 * client.c
 *	  A librdkafka instance: its configuration, its events, its end.
 *
 * No function here raises while it holds an object of the library that
 * nobody would free: texts are copied out of events first, and what needs
 * memory is allocated before the instance is made.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/module/client.h"

#include <limits.h>
#include <signal.h>
#include <syslog.h>
#include <unistd.h>

#include "port/atomics.h"
#include "utils/memutils.h"

#define PROBE_INTERVAL_MS 500	/* between two looks for a live broker */
#define LOG_WINDOW_MS 60000		/* per window at most LOG_LINES lines */
#define LOG_LINES 10
#define SECRET_PART 4			/* so few bytes of a secret may be seen */

/* For every client; the server's settings may differ. */
static const Property common_defaults[] = {
	{"client.id", "pg_outbox"},
	{"socket.keepalive.enable", "true"},
	{"socket.nagle.disable", "true"},
	{"reconnect.backoff.ms", "100"},
	{"reconnect.backoff.max.ms", "2000"},

	/*
	 * For so long a topic that the brokers do not know may still come into
	 * being by auto-creation, before it is reported as missing.
	 */
	{"topic.metadata.propagation.max.ms", "5000"},
	{NULL}
};

/*
 * For every client, not to be changed.  With GSSAPI the library would run
 * kinit through a shell; that is off, the ticket or keytab comes from the
 * server's environment.
 */
static const Property common_fixed[] = {
	{"log.queue", "true"},
	{"log.thread.name", "false"},
	{"sasl.kerberos.min.time.before.relogin", "0"},
	{NULL}
};

/* ---------------- configuration ---------------- */

const char *
client_setting(const OutboxServerSettings *settings, const char *name,
			   const char *otherwise)
{
	for (int i = 0; i < settings->nitems; i++)
		if (strcmp(settings->items[i].name, name) == 0)
			return settings->items[i].value;
	return otherwise;
}

static bool
conf_put(rd_kafka_conf_t *conf, const char *name, const char *value,
		 char *errstr, size_t size)
{
	return rd_kafka_conf_set(conf, name, value, errstr, size) == RD_KAFKA_CONF_OK;
}

static bool
conf_put_list(rd_kafka_conf_t *conf, const Property *list,
			  char *errstr, size_t size)
{
	for (; list != NULL && list->name != NULL; list++)
		if (!conf_put(conf, list->name, list->value, errstr, size))
			return false;
	return true;
}

static bool
conf_put_settings(rd_kafka_conf_t *conf, const OutboxServerSettings *settings,
				  int clients, char *errstr, size_t size)
{
	for (int i = 0; i < settings->nitems; i++)
	{
		const OutboxSetting *set = &settings->items[i];

		if ((set->clients & clients) == 0)
			continue;
		if (!conf_put(conf, set->name, set->value, errstr, size))
		{
			if (set->secret)
				snprintf(errstr, size, "Invalid value for \"%s\"", set->name);
			return false;
		}
	}
	return true;
}

/*
 * The only way to a token that needs no callback.
 */
static bool
conf_put_token_method(rd_kafka_conf_t *conf, const OutboxServerSettings *settings,
					  char *errstr, size_t size)
{
	if (pg_strcasecmp(client_setting(settings, "sasl.mechanism", ""), "OAUTHBEARER") != 0)
		return true;
	return conf_put(conf, "sasl.oauthbearer.method", "oidc", errstr, size);
}

static rd_kafka_conf_t *
conf_build(rd_kafka_type_t type, const OutboxServerSettings *settings,
		   const Property *defaults, const Property *fixed, int events,
		   char *errstr, size_t size)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	int			clients = type == RD_KAFKA_PRODUCER ?
	OUTBOX_SETTING_PRODUCER : OUTBOX_SETTING_CONSUMER;

	if (!conf_put_list(conf, common_defaults, errstr, size) ||
		!conf_put_list(conf, defaults, errstr, size) ||
		!conf_put_settings(conf, settings, clients, errstr, size) ||
		!conf_put_token_method(conf, settings, errstr, size) ||
		!conf_put_list(conf, common_fixed, errstr, size) ||
		!conf_put_list(conf, fixed, errstr, size))
	{
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_events(conf, events | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
	return conf;
}

/*
 * Does librdkafka accept the setting?  Returns NULL or its reason, which
 * repeats the value.
 */
char *
client_setting_check(const OutboxSetting *setting)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		errstr[CLIENT_REASON_SIZE];
	bool		ok;

	ok = conf_put(conf, setting->name, setting->value, errstr, sizeof(errstr));
	rd_kafka_conf_destroy(conf);
	return ok ? NULL : pstrdup(errstr);
}

/* ---------------- secrets ---------------- */

static void
client_keep_secrets(Client *client, const OutboxServerSettings *settings)
{
	client->secrets = palloc((settings->nitems + 1) * sizeof(char *));
	for (int i = 0; i < settings->nitems; i++)
		if (settings->items[i].secret && settings->items[i].value[0] != '\0')
			client->secrets[client->nsecrets++] = pstrdup(settings->items[i].value);
}

/*
 * A text may have been cut amid a secret.
 */
static void
scrub_end(const char *secret, size_t len, char *line)
{
	size_t		linelen = strlen(line);

	for (size_t n = Min(len - 1, linelen); n >= SECRET_PART; n--)
	{
		if (memcmp(line + linelen - n, secret, n) == 0)
		{
			memset(line + linelen - n, '*', n);
			return;
		}
	}
}

void
client_scrub(const Client *client, char *text)
{
	for (int i = 0; i < client->nsecrets; i++)
	{
		size_t		len = strlen(client->secrets[i]);
		char	   *hit = text;

		while ((hit = strstr(hit, client->secrets[i])) != NULL)
		{
			memset(hit, '*', len);
			hit += len;
		}
		scrub_end(client->secrets[i], len, text);
	}
}

/* ---------------- life ---------------- */

MemoryContext
client_context(const char *name)
{
	return AllocSetContextCreateInternal(TopMemoryContext, name,
										 ALLOCSET_DEFAULT_SIZES);
}

/*
 * Threads inherit the signal mask.  One that took SIGURG or SIGTERM in the
 * backend's place would lose a wake-up, so they start with all blocked.
 */
static rd_kafka_t *
instance_create(rd_kafka_type_t type, rd_kafka_conf_t *conf,
				char *errstr, size_t size)
{
	sigset_t	all,
				saved;
	rd_kafka_t *rk;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	rk = rd_kafka_new(type, conf, errstr, size);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (rk == NULL)
		rd_kafka_conf_destroy(conf);
	return rk;
}

static void
client_start(Client *client, rd_kafka_type_t type, rd_kafka_conf_t *conf,
			 int event_fd, char *errstr, size_t size)
{
	static const uint64 one = 1;

	client->rk = instance_create(type, conf, errstr, size);
	if (client->rk == NULL)
		return;
	rd_kafka_set_log_queue(client->rk, NULL);
	if (type == RD_KAFKA_CONSUMER)
	{
		rd_kafka_poll_set_consumer(client->rk);
		client->queue = rd_kafka_queue_get_consumer(client->rk);
	}
	else
		client->queue = rd_kafka_queue_get_main(client->rk);
	client->event_fd = event_fd;
	if (event_fd >= 0)
		rd_kafka_queue_io_event_enable(client->queue, event_fd, &one, sizeof(one));
}

/*
 * NULL with the reason if the library takes a setting amiss.
 */
static rd_kafka_conf_t *
client_configure(Client *client, rd_kafka_type_t type,
				 const OutboxServerSettings *settings,
				 const Property *defaults, const Property *fixed,
				 int events, char *errstr, size_t size)
{
	MemoryContext old = MemoryContextSwitchTo(client->cxt);

	client->server = pstrdup(settings->server);
	client_keep_secrets(client, settings);
	strlcpy(client->reason, "no broker has answered yet", sizeof(client->reason));
	MemoryContextSwitchTo(old);
	return conf_build(type, settings, defaults, fixed, events, errstr, size);
}

static void
client_raise(Client *client, char *errstr)
{
	client_scrub(client, errstr);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("could not create a Kafka client for server \"%s\"",
					client->server),
			 errdetail("The Kafka client says: %s", errstr)));
}

void
client_create(Client *client, rd_kafka_type_t type,
			  const OutboxServerSettings *settings,
			  const Property *defaults, const Property *fixed,
			  int events, int event_fd)
{
	char		errstr[CLIENT_REASON_SIZE] = "";
	rd_kafka_conf_t *conf;

	conf = client_configure(client, type, settings, defaults, fixed, events,
							errstr, sizeof(errstr));
	if (conf != NULL)
		client_start(client, type, conf, event_fd, errstr, sizeof(errstr));
	if (client->rk == NULL)
		client_raise(client, errstr);
}

rd_kafka_conf_t *
client_prepare(Client *client, rd_kafka_type_t type,
			   const OutboxServerSettings *settings,
			   const Property *defaults, const Property *fixed, int events)
{
	char		errstr[CLIENT_REASON_SIZE] = "";
	rd_kafka_conf_t *conf;

	conf = client_configure(client, type, settings, defaults, fixed, events,
							errstr, sizeof(errstr));
	if (conf == NULL)
		client_raise(client, errstr);
	return conf;
}

bool
client_open(Client *client, rd_kafka_type_t type, const rd_kafka_conf_t *conf,
			int event_fd, char *errstr, size_t size)
{
	client_start(client, type, rd_kafka_conf_dup(conf), event_fd, errstr, size);
	return client->rk != NULL;
}

/*
 * The library waits here for its threads: at most for a name lookup that one
 * of them is in, which the system's resolver bounds.
 */
void
client_destroy(Client *client)
{
	if (client->rk == NULL)
		return;
	rd_kafka_queue_io_event_enable(client->queue, -1, NULL, 0);
	rd_kafka_queue_destroy(client->queue);
	rd_kafka_destroy_flags(client->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	client->queue = NULL;
	client->rk = NULL;
}

/*
 * An instance on its way to its end.  In malloc()ed memory: a thread of its own
 * works on it, while nothing else of the server's is touched.
 */
typedef struct Ending
{
	struct Ending *next;		/* in "endings"; the backend's thread only */
	char		server[NAMEDATALEN];
	rd_kafka_t *rk;
	ClientCall	before;			/* or NULL */
	void	   *arg;
	int			event_fd;		/* written at the end, or -1 */
	pg_atomic_uint32 ended;		/* last access of the thread */
} Ending;

static Ending *endings = NULL;

/*
 * Wake whoever waits for the descriptor.
 *
 * @locality any thread
 */
void
client_signal(int event_fd)
{
	static const uint64 one = 1;

	if (event_fd >= 0)
	{
		ssize_t		rc = write(event_fd, &one, sizeof(one));

		(void) rc;				/* if it is full, he is awake */
	}
}

/*
 * @locality a thread of its own
 */
static void *
ending_main(void *arg)
{
	Ending	   *ending = arg;
	int			event_fd = ending->event_fd;

	if (ending->before != NULL)
		ending->before(ending->arg);
	rd_kafka_purge(ending->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
	rd_kafka_destroy_flags(ending->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	pg_write_barrier();
	pg_atomic_write_u32(&ending->ended, 1);
	client_signal(event_fd);
	return NULL;
}

/*
 * Threads inherit the signal mask, see instance_create().
 */
bool
client_thread(pthread_t * thread, ClientThread body, void *arg)
{
	sigset_t	all;
	sigset_t	saved;
	int			rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	rc = pthread_create(thread, NULL, body, arg);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	return rc == 0;
}

/*
 * Like client_destroy(), but somebody else waits.  Fetching from a topic that
 * was deleted makes the library's threads take many seconds to end, a name
 * server that does not answer even longer.
 */
void
client_destroy_later(Client *client, ClientCall before, void *arg)
{
	Ending	   *ending;
	pthread_t	thread;

	if (client->rk == NULL)
		return;
	(void) client_ending(client->server);	/* frees what has ended */
	rd_kafka_queue_io_event_enable(client->queue, -1, NULL, 0);
	rd_kafka_queue_destroy(client->queue);
	ending = calloc(1, sizeof(Ending));
	if (ending != NULL)
	{
		strlcpy(ending->server, client->server, sizeof(ending->server));
		ending->rk = client->rk;
		ending->before = before;
		ending->arg = arg;
		ending->event_fd = client->event_fd;
		pg_atomic_init_u32(&ending->ended, 0);
		ending->next = endings;
		endings = ending;
		if (client_thread(&thread, ending_main, ending))
			pthread_detach(thread);
		else
			(void) ending_main(ending);
	}
	else
	{
		if (before != NULL)
			before(arg);
		rd_kafka_destroy_flags(client->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	}
	client->queue = NULL;
	client->rk = NULL;
}

bool
client_ending(const char *server)
{
	Ending	  **link = &endings;
	bool		found = false;

	while (*link != NULL)
	{
		Ending	   *ending = *link;

		if (pg_atomic_read_u32(&ending->ended))
		{
			pg_read_barrier();
			*link = ending->next;
			free(ending);
			continue;
		}
		found |= strcmp(ending->server, server) == 0;
		link = &ending->next;
	}
	return found;
}

int
client_ms_until(TimestampTz then)
{
	long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), then);

	return (int) Min(ms, INT_MAX);
}

/* ---------------- events ---------------- */

/*
 * One more line in this window?  When a window ends, tell how many lines were
 * left out.
 */
static bool
log_admit(Client *client)
{
	TimestampTz now = GetCurrentTimestamp();

	if (TimestampDifferenceExceeds(client->log_since, now, LOG_WINDOW_MS))
	{
		int			suppressed = client->log_lines - LOG_LINES;

		client->log_since = now;
		client->log_lines = 0;
		if (suppressed > 0)
			ereport(LOG,
					(errmsg("Kafka server \"%s\": %d more messages of the client were suppressed",
							client->server, suppressed)));
	}
	return client->log_lines++ < LOG_LINES;
}

/*
 * Lines of level LOG and above count against the limit.
 */
void
client_log(Client *client, int elevel, const char *fmt,...)
{
	char		line[CLIENT_REASON_SIZE];
	va_list		args;

	if (client->quiet || !message_level_is_interesting(elevel))
		return;
	if (elevel >= LOG && !log_admit(client))
		return;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	client_scrub(client, line);
	ereport(elevel,
			(errcode(ERRCODE_SUCCESSFUL_COMPLETION),
			 errmsg("Kafka server \"%s\": %s", client->server, line)));
}

static void
note_log(Client *client, rd_kafka_event_t *ev)
{
	const char *fac;
	const char *str;
	int			level;

	if (rd_kafka_event_log(ev, &fac, &str, &level) != 0)
		return;
	if (strcmp(fac, "CONFWARN") == 0)
		level = LOG_DEBUG;		/* advice about settings that are meant so */
	if (strcmp(fac, "GETPID") == 0 || strcmp(fac, "TXNERR") == 0)
		level = LOG_DEBUG;		/* it tries again; what fails is reported */
	if (level <= LOG_WARNING)
		client_log(client, LOG, "%s", str);
	else
		client_log(client, DEBUG1, "%s", str);
}

static void
note_error(Client *client, rd_kafka_event_t *ev)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(ev);
	const char *str = rd_kafka_event_error_string(ev);

	if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
	{
		client->up = false;
		client->down = true;
		return;
	}
	if (rd_kafka_event_error_is_fatal(ev))
		client->fatal = true;
	else if (client->fatal)
		return;
	strlcpy(client->reason, str ? str : rd_kafka_err2str(err),
			sizeof(client->reason));
	client_scrub(client, client->reason);
}

void
client_note_event(Client *client, rd_kafka_event_t *ev)
{
	switch (rd_kafka_event_type(ev))
	{
		case RD_KAFKA_EVENT_LOG:
			note_log(client, ev);
			break;
		case RD_KAFKA_EVENT_ERROR:
			note_error(client, ev);
			break;
		default:
			break;
	}
}

/*
 * The library reports when the last broker is lost but not when one is back.
 * An answered message tells; without traffic, a request for metadata that
 * does not wait fails with a certain error if no broker is up.
 */
static void
client_probe(Client *client)
{
	const struct rd_kafka_metadata *md;
	TimestampTz now = GetCurrentTimestamp();
	rd_kafka_resp_err_t err;

	if (!TimestampDifferenceExceeds(client->probed_at, now, PROBE_INTERVAL_MS))
		return;
	client->probed_at = now;
	err = rd_kafka_metadata(client->rk, 0, NULL, &md, 0);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		rd_kafka_metadata_destroy(md);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR ||
		err == RD_KAFKA_RESP_ERR__TIMED_OUT)
		client_note_answer(client);
}

bool
client_connected(Client *client, const char **reason)
{
	if (!client->fatal && !client->up)
		client_probe(client);
	if (client->up && !client->fatal)
		return true;
	if (reason != NULL)
		*reason = client->reason;
	return false;
}

/* ---------------- errors ---------------- */

OutboxKafkaFault
fault_of_error(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return OUTBOX_KAFKA_OK;

		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
			return OUTBOX_KAFKA_FAULT_EVENT;

		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR:
		case RD_KAFKA_RESP_ERR_INVALID_PARTITIONS:
		case RD_KAFKA_RESP_ERR_INVALID_CONFIG:
		case RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE:
			return OUTBOX_KAFKA_FAULT_TOPIC;

		default:
			return OUTBOX_KAFKA_FAULT_CLUSTER;
	}
}
