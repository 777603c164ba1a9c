/*-------------------------------------------------------------------------
 *
 * server.c
 *	  Kafka clusters as foreign servers: finding them, what to connect to them
 *	  with, which topics their users may publish to.
 *
 * Nothing is cached here; the catalogs have their own caches.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "kafka/option.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "kafka/secrets.h"

Oid
outbox_server_oid(const char *name, bool missing_ok)
{
	ForeignServer *server;
	ForeignDataWrapper *wrapper;

	if (name == NULL)
		name = OUTBOX_DEFAULT_SERVER;
	server = GetForeignServerByName(name, true);
	if (server == NULL)
	{
		if (missing_ok)
			return InvalidOid;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("Kafka server \"%s\" does not exist", name),
				 errhint("Run CREATE SERVER %s FOREIGN DATA WRAPPER %s OPTIONS (\"%s\" 'host:port').",
						 quote_identifier(name), OUTBOX_KAFKA_WRAPPER,
						 OUTBOX_OPTION_BOOTSTRAP)));
	}
	wrapper = GetForeignDataWrapper(server->fdwid);
	if (strcmp(wrapper->fdwname, OUTBOX_KAFKA_WRAPPER) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a Kafka server", name),
				 errdetail("Its foreign-data wrapper is \"%s\", not \"%s\".",
						   wrapper->fdwname, OUTBOX_KAFKA_WRAPPER)));
	return server->serverid;
}

/* ---------------- topics ---------------- */

/*
 * Does the pattern, of which * stands for any characters, match the whole
 * name?  Linear in practice: on a mismatch only the last star is tried again.
 */
static bool
topic_matches(const char *pattern, int patternlen, const char *topic)
{
	const char *end = pattern + patternlen;
	const char *star = NULL;
	const char *star_topic = NULL;

	while (*topic != '\0')
	{
		if (pattern < end && *pattern == '*')
		{
			star = pattern++;
			star_topic = topic;
		}
		else if (pattern < end && *pattern == *topic)
		{
			pattern++;
			topic++;
		}
		else if (star != NULL)
		{
			pattern = star + 1;
			topic = ++star_topic;
		}
		else
			return false;
	}
	while (pattern < end && *pattern == '*')
		pattern++;
	return pattern == end;
}

static bool
topic_in_list(const char *list, const char *topic)
{
	const char *p = list;

	for (;;)
	{
		int			len = strcspn(p, ",");
		const char *entry = p;
		int			entrylen = len;

		while (entrylen > 0 && isspace((unsigned char) *entry))
		{
			entry++;
			entrylen--;
		}
		while (entrylen > 0 && isspace((unsigned char) entry[entrylen - 1]))
			entrylen--;
		if (entrylen > 0 && topic_matches(entry, entrylen, topic))
			return true;
		if (p[len] == '\0')
			return false;
		p += len + 1;
	}
}

PG_FUNCTION_INFO_V1(outbox_server_topic_allowed_sql);

bool
outbox_server_topic_allowed(Oid serverid, const char *topic)
{
	ForeignServer *server = GetForeignServer(serverid);
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (strcmp(def->defname, OUTBOX_OPTION_TOPICS) == 0)
			return topic_in_list(defGetString(def), topic);
	}
	return true;
}

Datum
outbox_server_topic_allowed_sql(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *topic = text_to_cstring(PG_GETARG_TEXT_PP(1));

	PG_RETURN_BOOL(outbox_server_topic_allowed(outbox_server_oid(name, false),
											   topic));
}

/* ---------------- settings ---------------- */

static List *
mapping_options(Oid userid, Oid serverid, bool *found)
{
	HeapTuple	tup = SearchSysCache2(USERMAPPINGUSERSERVER,
									  ObjectIdGetDatum(userid),
									  ObjectIdGetDatum(serverid));
	List	   *opts = NIL;
	Datum		datum;
	bool		isnull;

	*found = HeapTupleIsValid(tup);
	if (!*found)
		return NIL;
	datum = SysCacheGetAttr(USERMAPPINGUSERSERVER, tup,
							Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		opts = untransformRelOptions(datum);
	ReleaseSysCache(tup);
	return opts;
}

/*
 * Add name=value, in the place of an earlier setting of that name: a mapping
 * overrides the server, the secrets file both.
 */
static void
settings_put(OutboxServerSettings *settings, const char *name, const char *value)
{
	const OutboxOption *opt = outbox_option_find(name);
	OutboxSetting *set = NULL;

	if (opt == NULL || (opt->flags & OUTBOX_OPTION_OWN))
		return;
	for (int i = 0; i < settings->nitems && set == NULL; i++)
		if (strcmp(settings->items[i].name, name) == 0)
			set = &settings->items[i];
	if (set == NULL)
	{
		settings->items = repalloc(settings->items,
								   (settings->nitems + 1) * sizeof(OutboxSetting));
		set = &settings->items[settings->nitems++];
	}
	set->name = opt->name;
	set->value = pstrdup(value);
	set->clients = opt->clients;
	set->secret = (opt->flags & OUTBOX_OPTION_SECRET) != 0;
}

static void
settings_put_list(OutboxServerSettings *settings, List *opts)
{
	ListCell   *lc;

	foreach(lc, opts)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		settings_put(settings, def->defname, defGetString(def));
	}
}

static void
put_secret(void *arg, const char *name, const char *value)
{
	settings_put((OutboxServerSettings *) arg, name, value);
}

static const char *
settings_value(const OutboxServerSettings *settings, const char *name)
{
	for (int i = 0; i < settings->nitems; i++)
		if (strcmp(settings->items[i].name, name) == 0)
			return settings->items[i].value;
	return NULL;
}

/*
 * With Kerberos, which is the default mechanism, the client shows the brokers
 * whatever ticket or keytab the operating system user has.  Those are not for
 * everybody who may create a server, whose brokers could pass them on.
 *
 * What is neither known to do without SASL nor to use another mechanism counts
 * as Kerberos: the client reads words less strictly than we do.
 */
static void
check_kerberos(const OutboxServerSettings *settings, Oid owner)
{
	const char *protocol = settings_value(settings, "security.protocol");
	const char *mechanism = settings_value(settings, "sasl.mechanism");

	if (protocol == NULL || pg_strcasecmp(protocol, "plaintext") == 0 ||
		pg_strcasecmp(protocol, "ssl") == 0 ||
		(mechanism != NULL &&
		 (strcmp(mechanism, "PLAIN") == 0 || strcmp(mechanism, "OAUTHBEARER") == 0 ||
		  strncmp(mechanism, "SCRAM-SHA-", 10) == 0)) ||
		superuser_arg(owner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("Kafka server \"%s\" may not use SASL mechanism GSSAPI",
					settings->server),
			 errdetail("It would authenticate as the server's operating system user, for which it has to be owned by a superuser."),
			 errhint("Set \"sasl.mechanism\", which is GSSAPI by default, to another one.")));
}

void
outbox_server_settings(Oid serverid, OutboxServerSettings *settings)
{
	ForeignServer *server = GetForeignServer(serverid);
	bool		found;
	List	   *mapping;
	ListCell   *lc;

	settings->server = server->servername;
	settings->items = palloc(sizeof(OutboxSetting));
	settings->nitems = 0;
	settings->transactional_id = NULL;
	settings_put_list(settings, server->options);

	mapping = mapping_options(server->owner, serverid, &found);
	if (!found)
		mapping = mapping_options(InvalidOid, serverid, &found);
	settings_put_list(settings, mapping);

	foreach(lc, server->options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (strcmp(def->defname, OUTBOX_OPTION_SECRETS_FILE) == 0)
			outbox_secrets_read(defGetString(def), put_secret, settings);
	}
	check_kerberos(settings, server->owner);
}

bool
outbox_server_exactly_once(Oid serverid)
{
	bool		wanted = false;
	ListCell   *lc;

	foreach(lc, GetForeignServer(serverid)->options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (strcmp(def->defname, OUTBOX_OPTION_EXACTLY_ONCE) == 0)
			(void) parse_bool(defGetString(def), &wanted);
	}
	return wanted;
}

uint64
outbox_server_fingerprint(Oid serverid)
{
	OutboxServerSettings settings;
	uint64		hash = hash_combine64(serverid, outbox_server_exactly_once(serverid));

	outbox_server_settings(serverid, &settings);
	for (int i = 0; i < settings.nitems; i++)
	{
		const OutboxSetting *set = &settings.items[i];

		hash = hash_bytes_extended((const unsigned char *) set->name,
								   strlen(set->name), hash);
		hash = hash_bytes_extended((const unsigned char *) set->value,
								   strlen(set->value), hash);
	}
	return hash;
}

bool
outbox_server_try_fingerprint(Oid serverid, uint64 *fingerprint)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	volatile bool ok = true;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		*fingerprint = outbox_server_fingerprint(serverid);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;
	return ok;
}
