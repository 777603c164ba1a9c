/*-------------------------------------------------------------------------
 *
 * emit.c
 *	  outbox.emit: events of the application's own; and the settings that the
 *	  writers' side has.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/capture.h"

#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "capture/copy.h"
#include "common/argument.h"
#include "common/header.h"
#include "kafka/kafka.h"
#include "log/log.h"
#include "log/stamp.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(outbox_emit_text);
PG_FUNCTION_INFO_V1(outbox_emit_jsonb);
PG_FUNCTION_INFO_V1(outbox_emit_bytea);

static bool capture_enabled = true;
static char *default_server = NULL;
static char *traceparent = NULL;
static char *correlation_id = NULL;
static char *causation_id = NULL;

#define MAX_TOPIC_LEN 249		/* Kafka's own limit */

bool
outbox_capture_enabled(void)
{
	return capture_enabled;
}

int64
outbox_statement_time_ms(void)
{
	TimestampTz now = GetCurrentStatementStartTimestamp();

	return (now + ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY) / 1000;
}

/* ---------------- headers ---------------- */

void
outbox_header_add(StringInfo buf, const char *name, const char *value)
{
	name = pg_server_to_any(name, strlen(name), PG_UTF8);
	if (value != NULL)
		value = pg_server_to_any(value, strlen(value), PG_UTF8);
	outbox_header_pack(buf, name, value, value != NULL ? strlen(value) : 0);
}

static void
session_header(StringInfo buf, const char *name, const char *value)
{
	if (value != NULL && value[0] != '\0')
		outbox_header_add(buf, name, value);
}

void
outbox_session_headers(StringInfo buf)
{
	session_header(buf, "traceparent", traceparent);
	session_header(buf, "correlation_id", correlation_id);
	session_header(buf, "causation_id", causation_id);
}

void
outbox_header_name_check(const char *name)
{
	if (strcmp(name, "id") == 0 || strcmp(name, "op") == 0 ||
		strcmp(name, "version") == 0 || strcmp(name, OUTBOX_HEADER_VERBATIM) == 0 ||
		strcmp(name, OUTBOX_HEADER_PARTITION) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("header \"%s\" is set by pg_outbox itself", name)));
}

static void
pack_jsonb_header(StringInfo buf, const char *name, JsonbValue *v)
{
	char	   *value;

	outbox_header_name_check(name);
	switch (v->type)
	{
		case jbvNull:
			value = NULL;
			break;
		case jbvString:
			value = pnstrdup(v->val.string.val, v->val.string.len);
			break;
		case jbvBool:
			value = v->val.boolean ? "true" : "false";
			break;
		case jbvNumeric:
			value = DatumGetCString(DirectFunctionCall1(numeric_out,
														NumericGetDatum(v->val.numeric)));
			break;
		default:
			value = JsonbToCString(NULL, v->val.binary.data, v->val.binary.len);
			break;
	}
	outbox_header_add(buf, name, value);
}

void
outbox_jsonb_headers(StringInfo buf, Jsonb *headers)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;

	if (!JB_ROOT_IS_OBJECT(headers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object"),
				 errhint("For example: '{\"tenant\": \"acme\"}'.")));

	if (JB_ROOT_COUNT(headers) > OUTBOX_MAX_HEADERS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many headers: %u", (unsigned) JB_ROOT_COUNT(headers)),
				 errdetail("An event can have %d, beside those that pg_outbox adds.",
						   OUTBOX_MAX_HEADERS)));

	it = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(v.val.string.val, v.val.string.len);
		(void) JsonbIteratorNext(&it, &v, true);
		pack_jsonb_header(buf, name, &v);
	}
}

/* ---------------- emit ---------------- */

void
outbox_topic_check(const char *topic)
{
	size_t		len = strlen(topic);

	if (len == 0 || len > MAX_TOPIC_LEN || strcmp(topic, ".") == 0 ||
		strcmp(topic, "..") == 0 ||
		strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid topic name \"%s\"", topic),
				 errdetail("A topic has 1 to %d letters, digits, dots, underscores and hyphens.",
						   MAX_TOPIC_LEN)));
}

const char *
outbox_topic_server(const char *server, const char *topic)
{
	Oid			serverid;
	AclResult	acl;

	if (server == NULL)
		server = default_server;
	serverid = outbox_server_oid(server, false);
	acl = object_aclcheck(ForeignServerRelationId, serverid, GetUserId(), ACL_USAGE);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_FOREIGN_SERVER, server);
	if (topic != NULL && !outbox_server_topic_allowed(serverid, topic))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("topic \"%s\" is not allowed on server \"%s\"", topic, server),
				 errhint("The server's option \"topics\" lists what may be published to.")));
	return server;
}

static void
set_utf8(const char **dst, int32 *len, const char *src, int srclen, bool convert)
{
	char	   *converted = convert ? pg_server_to_any(src, srclen, PG_UTF8) : (char *) src;

	*dst = converted;
	*len = (converted == src) ? srclen : (int32) strlen(converted);
}

/*
 * Arguments: topic, key, payload, event_type, headers, server.  "payload" is
 * in UTF-8 or raw bytes already; NULL for a tombstone.
 */
static int64
emit_event(FunctionCallInfo fcinfo, const char *payload, int payload_len)
{
	OutboxEvent ev;
	StringInfoData headers;

	memset(&ev, 0, sizeof(ev));
	ev.topic = outbox_argument_text(fcinfo, 0, "topic", "Pass the topic that the event is for.");
	outbox_topic_check(ev.topic);
	ev.topic_len = strlen(ev.topic);
	ev.server = outbox_topic_server(outbox_argument_text_or_null(fcinfo, 5), ev.topic);
	ev.server_len = strlen(ev.server);
	if (!PG_ARGISNULL(1))
	{
		text	   *key = PG_GETARG_TEXT_PP(1);

		set_utf8(&ev.key, &ev.key_len, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), true);
	}
	ev.value = payload;
	ev.value_len = payload_len;

	initStringInfo(&headers);
	if (!PG_ARGISNULL(3))
		outbox_header_add(&headers, "type", text_to_cstring(PG_GETARG_TEXT_PP(3)));
	if (!PG_ARGISNULL(4))
		outbox_jsonb_headers(&headers, PG_GETARG_JSONB_P(4));
	outbox_session_headers(&headers);
	if (headers.len > 0)
	{
		ev.headers = headers.data;
		ev.headers_len = headers.len;
	}

	ev.op = OUTBOX_OP_NONE;
	ev.time_ms = outbox_statement_time_ms();
	outbox_worker_claim();
	outbox_log_check_room();
	ev.id = outbox_stamp_next();
	outbox_log_append(&ev);
	return ev.id;
}

Datum
outbox_emit_text(PG_FUNCTION_ARGS)
{
	const char *payload = NULL;
	int32		len = 0;

	if (!PG_ARGISNULL(2))
	{
		text	   *t = PG_GETARG_TEXT_PP(2);

		set_utf8(&payload, &len, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t), true);
	}
	PG_RETURN_INT64(emit_event(fcinfo, payload, len));
}

Datum
outbox_emit_jsonb(PG_FUNCTION_ARGS)
{
	const char *payload = NULL;
	int32		len = 0;

	if (!PG_ARGISNULL(2))
	{
		Jsonb	   *jb = PG_GETARG_JSONB_P(2);
		char	   *str = JsonbToCString(NULL, &jb->root, VARSIZE(jb));

		set_utf8(&payload, &len, str, strlen(str), true);
	}
	PG_RETURN_INT64(emit_event(fcinfo, payload, len));
}

Datum
outbox_emit_bytea(PG_FUNCTION_ARGS)
{
	const char *payload = NULL;
	int32		len = 0;

	if (!PG_ARGISNULL(2))
	{
		bytea	   *b = PG_GETARG_BYTEA_PP(2);

		set_utf8(&payload, &len, VARDATA_ANY(b), VARSIZE_ANY_EXHDR(b), false);
	}
	PG_RETURN_INT64(emit_event(fcinfo, payload, len));
}

/* ---------------- settings ---------------- */

static bool
check_header_value(char **newval, void **extra, GucSource source)
{
	if (*newval != NULL && strlen(*newval) > 1024)
	{
		GUC_check_errdetail("The value must not be longer than 1024 bytes.");
		return false;
	}
	return true;
}

static void
assign_capture(bool newval, void *extra)
{
	if (!newval && capture_enabled && IsTransactionState())
		ereport(LOG,
				(errmsg("user with OID %u turned off capture of changes in database with OID %u",
						GetUserId(), MyDatabaseId),
				 errdetail("Changes made until it is on again make no events.")));
}

static void
define_header_setting(const char *name, const char *desc, char **variable)
{
	DefineCustomStringVariable(name, desc,
							   "Meant to be set with SET LOCAL by the application; empty: no header.",
							   variable, "", PGC_USERSET, 0,
							   check_header_value, NULL, NULL);
}

void
outbox_capture_init(void)
{
	outbox_copy_init();
	DefineCustomBoolVariable("pg_outbox.capture",
							 "Whether changes of published tables make events.",
							 "Turn it off with SET LOCAL for mass migrations, and call outbox.copy afterwards.",
							 &capture_enabled, true, PGC_SUSET, 0,
							 NULL, assign_capture, NULL);
	DefineCustomStringVariable("pg_outbox.default_server",
							   "Foreign server that is meant where none is named.",
							   NULL, &default_server, "kafka", PGC_USERSET, 0,
							   NULL, NULL, NULL);
	define_header_setting("pg_outbox.traceparent",
						  "W3C trace context sent with each event as header \"traceparent\".",
						  &traceparent);
	define_header_setting("pg_outbox.correlation_id",
						  "Sent with each event as header \"correlation_id\".",
						  &correlation_id);
	define_header_setting("pg_outbox.causation_id",
						  "Sent with each event as header \"causation_id\".",
						  &causation_id);
	outbox_publish_init();
	outbox_unrecorded_init();
	outbox_truncate_init();
}
