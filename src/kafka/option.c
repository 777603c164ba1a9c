/*-------------------------------------------------------------------------
 *
 * option.c
 *	  Which settings a Kafka server and a user mapping may have, and the
 *	  validator of foreign-data wrapper outbox_kafka.
 *
 * Options bear the names of Kafka's client properties.  Only those listed here
 * exist: a Kafka client's configuration can run commands, load libraries and
 * read files with the rights of the server's operating system user, and parts
 * of it are what delivery and order rest on.  librdkafka sees a value only
 * after its name was found here.
 *
 * Files are named on the server alone, never on a user mapping: a server with
 * such an option can be altered by superusers only, so that nobody else can
 * turn what the file holds to a broker of his own.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "kafka/option.h"

#include <ctype.h>

#include "access/reloptions.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#define SERVER	OUTBOX_OPTION_SERVER
#define MAPPING OUTBOX_OPTION_MAPPING
#define SECRET	(OUTBOX_OPTION_MAPPING | OUTBOX_OPTION_SECRET)
#define FILE_	(OUTBOX_OPTION_SERVER | OUTBOX_OPTION_FILE)
#define OWN		OUTBOX_OPTION_OWN
#define FRACTION OUTBOX_OPTION_FRACTION

#define P	OUTBOX_SETTING_PRODUCER
#define C	OUTBOX_SETTING_CONSUMER
#define B	OUTBOX_SETTING_BOTH

#define KB_PER_GB (1024 * 1024)

void		(*outbox_server_altered_hook) (void) = NULL;

/* Bounds keep a worker's memory bounded, and time-outs within reason. */
static const OutboxOption options[] = {
	/* ours */
	{OUTBOX_OPTION_TOPICS, SERVER | OWN, 0},
	{OUTBOX_OPTION_SECRETS_FILE, FILE_ | OWN, 0},
	{OUTBOX_OPTION_EXACTLY_ONCE, SERVER | OWN, 0},

	/* connection */
	{OUTBOX_OPTION_BOOTSTRAP, SERVER, B},
	{"client.id", SERVER, B},
	{"client.rack", SERVER, B},
	{"broker.address.family", SERVER, B},
	{"broker.address.ttl", SERVER, B},
	{"connections.max.idle.ms", SERVER, B},
	{"metadata.max.age.ms", SERVER, B},
	{"topic.metadata.refresh.interval.ms", SERVER, B},
	{"topic.metadata.refresh.fast.interval.ms", SERVER, B},
	{"topic.metadata.propagation.max.ms", SERVER, B, 0, 300000},
	{"reconnect.backoff.ms", SERVER, B, 10, 60000},
	{"reconnect.backoff.max.ms", SERVER, B, 10, 300000},
	{"socket.connection.setup.timeout.ms", SERVER, B},
	{"socket.keepalive.enable", SERVER, B},
	{"socket.nagle.disable", SERVER, B},
	{"socket.receive.buffer.bytes", SERVER, B},
	{"socket.send.buffer.bytes", SERVER, B},
	{"socket.timeout.ms", SERVER, B},

	/* security */
	{"security.protocol", SERVER, B},
	{"enable.ssl.certificate.verification", SERVER, B},
	{"ssl.endpoint.identification.algorithm", SERVER, B},
	{"ssl.cipher.suites", SERVER, B},
	{"ssl.curves.list", SERVER, B},
	{"ssl.sigalgs.list", SERVER, B},
	{"ssl.ca.location", FILE_, B},
	{"ssl.ca.pem", SERVER, B},
	{"ssl.crl.location", FILE_, B},
	{"ssl.certificate.location", FILE_, B},
	{"ssl.certificate.pem", SERVER | MAPPING, B},
	{"ssl.key.location", FILE_, B},
	{"ssl.key.pem", SECRET, B},
	{"ssl.key.password", SECRET, B},
	{"ssl.keystore.location", FILE_, B},
	{"ssl.keystore.password", SECRET, B},
	{"sasl.mechanism", SERVER | MAPPING, B},
	{"sasl.username", SERVER | MAPPING, B},
	{"sasl.password", SECRET, B},
	{"sasl.kerberos.service.name", SERVER, B},
	{"sasl.oauthbearer.token.endpoint.url", SERVER, B},
	{"sasl.oauthbearer.scope", SERVER, B},
	{"sasl.oauthbearer.extensions", SERVER, B},
	{"sasl.oauthbearer.client.id", SERVER | MAPPING, B},
	{"sasl.oauthbearer.client.secret", SECRET, B},

	/* producing */
	{"batch.num.messages", SERVER, P},
	{"batch.size", SERVER, P, 1, 16 * 1024 * 1024},
	{"compression.type", SERVER, P},
	{"compression.level", SERVER, P},
	{"linger.ms", SERVER | FRACTION, P, 0, 1000},
	{"message.max.bytes", SERVER, B, 1000, 64 * 1024 * 1024},
	{"queue.buffering.max.kbytes", SERVER, P, 1024, KB_PER_GB},
	{"queue.buffering.max.messages", SERVER, P, 1000, 10000000},
	{"request.timeout.ms", SERVER, P, 1000, 300000},
	{"retry.backoff.ms", SERVER, P, 1, 60000},
	{"sticky.partitioning.linger.ms", SERVER, P},
	{"transaction.timeout.ms", SERVER, P, 5000, 900000},

	/* consuming */
	{"check.crcs", SERVER, C},
	{"fetch.error.backoff.ms", SERVER, C, 0, 60000},
	{"fetch.max.bytes", SERVER, C, 1024, 512 * 1024 * 1024},
	{"fetch.min.bytes", SERVER, C, 1, 16 * 1024 * 1024},
	{"fetch.wait.max.ms", SERVER, C, 0, 30000},
	{"max.partition.fetch.bytes", SERVER, C, 1024, 256 * 1024 * 1024},
	{"queued.max.messages.kbytes", SERVER, C, 64, KB_PER_GB},
	{"queued.min.messages", SERVER, C, 1, 1000000}
};

/* Names somebody may try, and what to tell him. */
typedef enum Refusal
{
	REFUSED_OURS,				/* the extension sets it */
	REFUSED_UNSAFE,				/* runs code or reads files */
	REFUSED_NAME				/* an alias; "use" is the canonical name */
} Refusal;

typedef struct RefusedOption
{
	const char *name;
	Refusal		why;
	const char *use;
} RefusedOption;

static const RefusedOption refused[] = {
	{"acks", REFUSED_OURS},
	{"request.required.acks", REFUSED_OURS},
	{"allow.auto.create.topics", REFUSED_OURS},
	{"auto.commit.enable", REFUSED_OURS},
	{"auto.commit.interval.ms", REFUSED_OURS},
	{"auto.offset.reset", REFUSED_OURS},
	{"delivery.report.only.error", REFUSED_OURS},
	{"delivery.timeout.ms", REFUSED_OURS},
	{"message.timeout.ms", REFUSED_OURS},
	{"enable.auto.commit", REFUSED_OURS},
	{"enable.auto.offset.store", REFUSED_OURS},
	{"enable.gapless.guarantee", REFUSED_OURS},
	{"enable.idempotence", REFUSED_OURS},
	{"enable.partition.eof", REFUSED_OURS},
	{"enabled_events", REFUSED_OURS},
	{"sasl.oauthbearer.method", REFUSED_OURS},
	{"group.id", REFUSED_OURS},
	{"group.instance.id", REFUSED_OURS},
	{"isolation.level", REFUSED_OURS},
	{"log.queue", REFUSED_OURS},
	{"log_level", REFUSED_OURS},
	{"debug", REFUSED_OURS},
	{"max.in.flight", REFUSED_OURS},
	{"max.in.flight.requests.per.connection", REFUSED_OURS},
	{"message.send.max.retries", REFUSED_OURS},
	{"partitioner", REFUSED_OURS},
	{"queuing.strategy", REFUSED_OURS},
	{"retries", REFUSED_OURS},
	{"session.timeout.ms", REFUSED_OURS},
	{"heartbeat.interval.ms", REFUSED_OURS},
	{"max.poll.interval.ms", REFUSED_OURS},
	{"partition.assignment.strategy", REFUSED_OURS},
	{"statistics.interval.ms", REFUSED_OURS},
	{"transactional.id", REFUSED_OURS},
	{"opaque", REFUSED_OURS},
	{"default_topic_conf", REFUSED_OURS},
	{"error_cb", REFUSED_OURS},
	{"log_cb", REFUSED_OURS},
	{"stats_cb", REFUSED_OURS},
	{"throttle_cb", REFUSED_OURS},
	{"socket_cb", REFUSED_OURS},
	{"open_cb", REFUSED_OURS},
	{"resolve_cb", REFUSED_OURS},
	{"dr_cb", REFUSED_OURS},
	{"dr_msg_cb", REFUSED_OURS},
	{"partitioner_cb", REFUSED_OURS},
	{"consume_cb", REFUSED_OURS},
	{"rebalance_cb", REFUSED_OURS},
	{"offset_commit_cb", REFUSED_OURS},
	{"background_event_cb", REFUSED_OURS},
	{"oauthbearer_token_refresh_cb", REFUSED_OURS},
	{"ssl.certificate.verify_cb", REFUSED_OURS},

	{"interceptors", REFUSED_UNSAFE},
	{"offset.store.path", REFUSED_UNSAFE},
	{"offset.store.method", REFUSED_UNSAFE},
	{"plugin.library.paths", REFUSED_UNSAFE},
	{"sasl.kerberos.keytab", REFUSED_UNSAFE},
	{"sasl.kerberos.kinit.cmd", REFUSED_UNSAFE},
	{"sasl.kerberos.principal", REFUSED_UNSAFE},
	{"sasl.jaas.config", REFUSED_UNSAFE},
	{"ssl.engine.id", REFUSED_UNSAFE},
	{"ssl.engine.location", REFUSED_UNSAFE},
	{"ssl.providers", REFUSED_UNSAFE},
	{"ssl_ca", REFUSED_NAME, "ssl.ca.pem"},
	{"ssl_certificate", REFUSED_NAME, "ssl.certificate.pem"},
	{"ssl_key", REFUSED_NAME, "ssl.key.pem"},

	{"metadata.broker.list", REFUSED_NAME, OUTBOX_OPTION_BOOTSTRAP},
	{"compression.codec", REFUSED_NAME, "compression.type"},
	{"fetch.message.max.bytes", REFUSED_NAME, "max.partition.fetch.bytes"},
	{"queue.buffering.max.ms", REFUSED_NAME, "linger.ms"},
	{"sasl.mechanisms", REFUSED_NAME, "sasl.mechanism"},
	{"ssl.truststore.location", REFUSED_NAME, "ssl.ca.location"}
};

static const char *const protocols[] = {
	"plaintext", "ssl", "sasl_plaintext", "sasl_ssl", NULL
};
static const char *const mechanisms[] = {
	"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI", NULL
};

PG_FUNCTION_INFO_V1(outbox_kafka_validator);

const OutboxOption *
outbox_option_find(const char *name)
{
	for (int i = 0; i < lengthof(options); i++)
		if (strcmp(options[i].name, name) == 0)
			return &options[i];
	return NULL;
}

/* ---------------- refusals ---------------- */

/* "in line 3 of the secrets file", as an error's context. */
static int
option_context(const char *source, int line)
{
	if (source != NULL)
		errcontext("line %d of secrets file \"%s\"", line, source);
	return 0;
}

static void
option_refuse_known(const RefusedOption *ref, const char *source, int line)
{
	switch (ref->why)
	{
		case REFUSED_OURS:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" cannot be set", ref->name),
					 errhint("The extension sets it: delivery and order rest on it."),
					 errhidestmt(true), option_context(source, line)));
			break;
		case REFUSED_UNSAFE:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" is not allowed", ref->name),
					 errdetail("It could run code or read files as the server's operating system user."),
					 errhidestmt(true), option_context(source, line)));
			break;
		case REFUSED_NAME:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" is not known by this name", ref->name),
					 errhint("Use \"%s\".", ref->use),
					 errhidestmt(true), option_context(source, line)));
			break;
	}
}

/*
 * The allowed name nearest to a misspelt one, or NULL if none is near.
 */
static const char *
option_nearest(const char *name, int where)
{
	const char *best = NULL;
	int			best_distance = 6;
	int			len = strlen(name);

	if (len > 64)
		return NULL;
	for (int i = 0; i < lengthof(options); i++)
	{
		int			distance;

		if ((options[i].flags & where) == 0)
			continue;
		distance = varstr_levenshtein_less_equal(name, len, options[i].name,
												 strlen(options[i].name),
												 1, 1, 1, best_distance - 1,
												 false);
		if (distance < best_distance)
		{
			best_distance = distance;
			best = options[i].name;
		}
	}
	return best;
}

static char *
option_list(int where)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < lengthof(options); i++)
		if (options[i].flags & where)
			appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
							 options[i].name);
	return buf.data;
}

static void
option_refuse_unknown(const char *name, int where, const char *source, int line)
{
	const char *nearest;

	for (int i = 0; i < lengthof(refused); i++)
		if (strcmp(refused[i].name, name) == 0)
			option_refuse_known(&refused[i], source, line);

	nearest = option_nearest(name, where);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
	/* in a file of secrets a word nobody knows may be one */
			 source ? errmsg("invalid option") : errmsg("invalid option \"%s\"", name),
			 nearest ?
			 errhint("Perhaps you meant the option \"%s\".", nearest) :
			 errhint("Valid options in this context are: %s",
					 option_list(where)),
			 errhidestmt(true), option_context(source, line)));
}

static void
option_refuse_place(const OutboxOption *opt, const char *source, int line)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 (opt->flags & OUTBOX_OPTION_MAPPING) ?
			 errmsg("option \"%s\" belongs to a user mapping, not to a server",
					opt->name) :
			 errmsg("option \"%s\" belongs to a server, not to a user mapping",
					opt->name),
			 (opt->flags & OUTBOX_OPTION_MAPPING) ?
			 errhint("Set it in CREATE USER MAPPING for the server's owner or for PUBLIC, or in a file named by option \"%s\".",
					 OUTBOX_OPTION_SECRETS_FILE) :
			 errhint("Set it in CREATE SERVER or ALTER SERVER."),
			 errhidestmt(true), option_context(source, line)));
}

static void
option_refuse_value(const OutboxOption *opt, const char *detail,
					const char *source, int line)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\"", opt->name),
			 errdetail_internal("%s", detail),
			 errhidestmt(true), option_context(source, line)));
}

/* ---------------- values ---------------- */

/*
 * NULL if the entry of bootstrap.servers is host, host:port or
 * protocol://host:port, else what is wrong.
 */
static const char *
bootstrap_entry_fault(char *entry)
{
	char	   *host = strstr(entry, "://");
	char	   *colon;
	char	   *end;
	long		port;

	host = host ? host + 3 : entry;
	if (*host == '[')			/* [::1]:9092 */
	{
		end = strchr(host, ']');
		if (end == NULL)
			return _("A bracket is not closed.");
		colon = end[1] == ':' ? end + 1 : NULL;
		if (colon == NULL && end[1] != '\0')
			return _("A colon and a port are expected after the closing bracket.");
	}
	else
		colon = strrchr(host, ':');
	if (*host == '\0' || host == colon || strpbrk(host, " \t\r\n@/") != NULL)
		return _("Each entry must be a host name or address, optionally with a port.");
	if (colon == NULL)
		return NULL;
	port = strtol(colon + 1, &end, 10);
	if (strspn(colon + 1, "0123456789") != end - (colon + 1) || *end != '\0' ||
		port < 1 || port > 65535)
		return _("A port must be a number from 1 to 65535.");
	return NULL;
}

/*
 * Split a comma-separated list in place; the next entry without surrounding
 * blanks, or NULL at the end.
 */
static char *
list_next(char **rest)
{
	char	   *entry = *rest;
	char	   *end;

	if (entry == NULL)
		return NULL;
	end = strchr(entry, ',');
	*rest = end ? end + 1 : NULL;
	if (end == NULL)
		end = entry + strlen(entry);
	while (end > entry && isspace((unsigned char) end[-1]))
		end--;
	*end = '\0';
	while (isspace((unsigned char) *entry))
		entry++;
	return entry;
}

static const char *
bootstrap_fault(const char *value)
{
	char	   *rest = pstrdup(value);
	char	   *entry;

	while ((entry = list_next(&rest)) != NULL)
	{
		const char *fault;

		if (*entry == '\0')
			return _("An entry of the list is empty.");
		fault = bootstrap_entry_fault(entry);
		if (fault != NULL)
			return fault;
	}
	return NULL;
}

/* Topic names are letters, digits, dot, underscore, hyphen; here also *. */
static const char *
topics_fault(const char *value)
{
	char	   *rest = pstrdup(value);
	char	   *entry;

	while ((entry = list_next(&rest)) != NULL)
	{
		if (*entry == '\0')
			return _("An entry of the list is empty.");
		if (strspn(entry, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-*") != strlen(entry))
			return _("A pattern may consist of letters, digits, \".\", \"_\", \"-\" and \"*\".");
		if (strlen(entry) > 249)
			return _("A topic's name has at most 249 characters.");
	}
	return NULL;
}

/*
 * librdkafka would also take hexadecimal and octal numbers, and of others what
 * comes before a letter; we read some of them ourselves.  What all understand
 * alike are decimal digits that begin with no zero.
 */
static const char *
bounds_fault(const OutboxOption *opt, const char *value)
{
	bool		fraction = (opt->flags & OUTBOX_OPTION_FRACTION) != 0;
	size_t		len = strlen(value);
	char	   *end;
	double		number = strtod(value, &end);

	if (strspn(value, fraction ? "0123456789." : "0123456789") != len || *end != '\0' ||
		(value[0] == '0' && isdigit((unsigned char) value[1])))
		return fraction ? _("It must be a number, written in decimal digits.") :
			_("It must be a whole number, written in decimal digits.");
	if (!(number >= opt->min && number <= opt->max))
		return psprintf(_("It must be between %lld and %lld."),
						(long long) opt->min, (long long) opt->max);
	return NULL;
}

/*
 * What is not one of the words means something else to the client, or may come
 * to: rights depend on these, see check_kerberos() in server.c.
 */
static const char *
choice_fault(const char *value, const char *const *words, bool any_case)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; words[i] != NULL; i++)
	{
		if ((any_case ? pg_strcasecmp : strcmp) (value, words[i]) == 0)
			return NULL;
		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "", words[i]);
	}
	return psprintf(_("It must be one of %s."), buf.data);
}

static bool
is_pem(const OutboxOption *opt)
{
	size_t		len = strlen(opt->name);

	return strcmp(opt->name + len - 4, ".pem") == 0;
}

/* libcurl knows more kinds of addresses, those of local files among them. */
static const char *
url_fault(const char *value)
{
	if (pg_strncasecmp(value, "https://", 8) != 0 &&
		pg_strncasecmp(value, "http://", 7) != 0)
		return _("It must begin with \"https://\" or \"http://\".");
	return NULL;
}

static const char *
path_fault(const char *value)
{
	if (!is_absolute_path(value))
		return _("It must be an absolute path.");
	return NULL;
}

/*
 * What librdkafka says to the value.  It repeats values in its messages, so
 * of a private one nothing but the fact is told.
 */
static const char *
library_fault(const OutboxOption *opt, const char *value, bool private)
{
	OutboxSetting setting;
	char	   *reason;

	setting.name = opt->name;
	setting.value = value;
	setting.clients = opt->clients;
	setting.secret = (opt->flags & OUTBOX_OPTION_SECRET) != 0;
	reason = outbox_kafka_api()->setting_check(&setting);
	if (reason == NULL)
		return NULL;
	if (setting.secret || private)
		return _("The Kafka client does not accept it.");
	return psprintf(_("The Kafka client says: %s"), reason);
}

static const char *
value_fault(const OutboxOption *opt, const char *value, bool private)
{
	const char *fault = NULL;

	if (*value == '\0')
		return _("It must not be empty.");
	/* the client would leave them out, and we have compared what it has not */
	if (isspace((unsigned char) *value) && !is_pem(opt))
		return _("It must not begin with a blank.");
	if (strcmp(opt->name, OUTBOX_OPTION_BOOTSTRAP) == 0)
		fault = bootstrap_fault(value);
	else if (strcmp(opt->name, OUTBOX_OPTION_TOPICS) == 0)
		fault = topics_fault(value);
	else if (strcmp(opt->name, OUTBOX_OPTION_EXACTLY_ONCE) == 0)
		fault = parse_bool(value, NULL) ? NULL : _("It must be true or false.");
	else if (opt->flags & OUTBOX_OPTION_FILE)
		fault = path_fault(value);
	else if (opt->max > 0)
		fault = bounds_fault(opt, value);
	else if (strcmp(opt->name, "sasl.mechanism") == 0 && strchr(value, ',') != NULL)
		fault = _("Exactly one mechanism is expected.");
	else if (strcmp(opt->name, "sasl.mechanism") == 0)
		fault = choice_fault(value, mechanisms, false);
	else if (strcmp(opt->name, "security.protocol") == 0)
		fault = choice_fault(value, protocols, true);
	else if (strcmp(opt->name, "sasl.oauthbearer.token.endpoint.url") == 0)
		fault = url_fault(value);

	if (fault == NULL && (opt->flags & OUTBOX_OPTION_OWN) == 0)
		fault = library_fault(opt, value, private);
	return fault;
}

void
outbox_option_check(const char *name, const char *value, int where,
					const char *source, int line)
{
	const OutboxOption *opt = outbox_option_find(name);
	const char *fault;

	if (opt == NULL)
		option_refuse_unknown(name, where, source, line);
	if ((opt->flags & where) == 0)
		option_refuse_place(opt, source, line);
	if ((opt->flags & OUTBOX_OPTION_FILE) && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", name),
				 errdetail("Only superusers may name files of the server, or alter a server that has such an option."),
				 errhidestmt(true)));
	/* nothing of the secrets file is repeated: its lines may be mixed up */
	fault = value_fault(opt, value, source != NULL);
	if (fault != NULL)
		option_refuse_value(opt, fault, source, line);
}

/* ---------------- the validator ---------------- */

static void
validator_check_bootstrap(List *opts)
{
	ListCell   *lc;

	foreach(lc, opts)
	{
		if (strcmp(((DefElem *) lfirst(lc))->defname, OUTBOX_OPTION_BOOTSTRAP) == 0)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
			 errmsg("option \"%s\" is required", OUTBOX_OPTION_BOOTSTRAP),
			 errhint("For example: OPTIONS (\"%s\" 'localhost:9092').",
					 OUTBOX_OPTION_BOOTSTRAP)));
}

/*
 * Called with all options that the object would have after the command, as a
 * text array of name=value, and the catalog the object lives in.
 */
Datum
outbox_kafka_validator(PG_FUNCTION_ARGS)
{
	List	   *opts = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	int			where = 0;
	ListCell   *lc;

	if (catalog == ForeignServerRelationId)
		where = OUTBOX_OPTION_SERVER;
	else if (catalog == UserMappingRelationId)
		where = OUTBOX_OPTION_MAPPING;
	else if (opts != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 catalog == ForeignDataWrapperRelationId ?
				 errmsg("foreign-data wrapper \"%s\" has no options of its own",
						OUTBOX_KAFKA_WRAPPER) :
				 errmsg("foreign-data wrapper \"%s\" has no foreign tables",
						OUTBOX_KAFKA_WRAPPER),
				 errhint("Options belong to servers and user mappings.")));

	foreach(lc, opts)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		outbox_option_check(def->defname, defGetString(def), where, NULL, 0);
	}
	if (where == OUTBOX_OPTION_SERVER)
		validator_check_bootstrap(opts);
	if (where != 0 && outbox_server_altered_hook != NULL)
		outbox_server_altered_hook();
	PG_RETURN_VOID();
}
