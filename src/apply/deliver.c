/*-------------------------------------------------------------------------
 *
 * deliver.c
 *	  Records to their target: a replica or a handler.
 *
 * Both run with the rights of the target's owner, in a security-restricted
 * operation, as maintenance of a table does: triggers and handlers are other
 * people's code and must not get at the worker's rights.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/deliver.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "apply/apply.h"
#include "apply/inbox.h"
#include "apply/letters.h"
#include "apply/replica.h"
#include "apply/row.h"
#include "apply/settings.h"
#include "apply/statement.h"
#include "apply/target.h"
#include "common/fault.h"
#include "worker/limit.h"

static TimestampTz delivery_began = 0;

/* ---------------- rights and time ---------------- */

static Oid
relation_owner(const OutboxFeed *feed)
{
	HeapTuple	tup = SearchSysCache1(RELOID, ObjectIdGetDatum(feed->sub->target));
	Oid			owner;

	if (!HeapTupleIsValid(tup))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the replica of subscription \"%s\" does not exist any more",
						feed->sub->name)));
	owner = ((Form_pg_class) GETSTRUCT(tup))->relowner;
	ReleaseSysCache(tup);
	return owner;
}

static Oid
function_owner(Oid funcid)
{
	HeapTuple	tup = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Oid			owner;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	owner = ((Form_pg_proc) GETSTRUCT(tup))->proowner;
	ReleaseSysCache(tup);
	return owner;
}

/* What the worker was before it took on an owner's rights. */
typedef struct WorkerRights
{
	Oid			userid;
	int			context;
	int			guc_level;
} WorkerRights;

/*
 * An error takes the rights, and settings, back together with the
 * (sub)transaction.
 */
static void
become(Oid owner, WorkerRights *saved)
{
	GetUserIdAndSecContext(&saved->userid, &saved->context);
	SetUserIdAndSecContext(owner, saved->context |
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	saved->guc_level = NewGUCNestLevel();
}

/*
 * What the owner's code has SET does not last: others' code comes next.
 */
static void
become_worker(const WorkerRights *saved)
{
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->userid, saved->context);
}

static void
start_clock(const OutboxFeed *feed)
{
	delivery_began = GetCurrentTimestamp();
	outbox_limit_begin(feed->sub->name);
}

bool
outbox_deliver_timed_out(const OutboxFeed *feed, const ErrorData *edata)
{
	outbox_limit_end();
	return feed->sub->handler != NULL && outbox_handler_timeout > 0 &&
		edata->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		TimestampDifferenceExceeds(delivery_began, GetCurrentTimestamp(), outbox_handler_timeout);
}

/* ---------------- records as text ---------------- */

/*
 * Bytes of a record in the server's encoding; raises if they are no UTF-8.
 * Not NUL-terminated unless it was converted.
 */
static const char *
to_server(const char *bytes, int len, int *server_len)
{
	char	   *converted;

	if (bytes == NULL)
	{
		*server_len = 0;
		return NULL;
	}
	converted = pg_any_to_server(bytes, len, PG_UTF8);
	*server_len = converted == bytes ? len : strlen(converted);
	return converted;
}

static char *
to_server_cstring(const char *bytes, int len)
{
	int			server_len;
	const char *converted = to_server(bytes, len, &server_len);

	return converted ? pnstrdup(converted, server_len) : NULL;
}

/*
 * When the producer made the record.  What it says may be anything, such as
 * nanoseconds: 0 if it is no time.
 */
TimestampTz
outbox_deliver_event_time(const OutboxRecord *rec)
{
	int64		time;

	if (rec->timestamp_ms < 0 ||
		pg_mul_s64_overflow(rec->timestamp_ms, 1000, &time) ||
		pg_sub_s64_overflow(time, (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY, &time) ||
		!IS_VALID_TIMESTAMP(time))
		return 0;
	return time;
}

/* ---------------- replicas ---------------- */

static void
event_from_record(OutboxApplyEvent *ev, const OutboxRecord *rec)
{
	memset(ev, 0, sizeof(*ev));
	ev->key = to_server(rec->key, rec->key_len, &ev->key_len);
	ev->value = to_server(rec->value, rec->value_len, &ev->value_len);
	for (int i = 0; i < rec->nheaders; i++)
	{
		const char *name = rec->headers[i].name;
		const char *value = rec->headers[i].value;
		int			len = rec->headers[i].value_len;

		/* of an id that is no number nothing is shown, so it may be any bytes */
		if (strcmp(name, OUTBOX_HEADER_VERBATIM) == 0 || strcmp(name, "op") == 0 ||
			strcmp(name, "version") == 0)
			value = to_server(value, len, &len);
		outbox_event_header(ev, name, strlen(name), value, len);
	}
}

/*
 * An event speaks of all rows of its topic, and a row does not say where it
 * came from.
 */
static void
check_sole_subscription(const OutboxFeed *feed, char op)
{
	static const char sql[] =
	"SELECT name FROM outbox._subscription WHERE target = $1::regclass AND id <> $2 LIMIT 1";
	OutboxSqlArg args[] = {sql_oid(feed->sub->target), sql_int8(feed->sub->id)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	if (outbox_statement_run(sql, lengthof(args), args) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("an event with operation \"%c\" cannot be applied to a replica of several topics", op),
				 errdetail("It says which rows of topic \"%s\" are gone, but subscription \"%s\" feeds the table as well.",
						   feed->sub->topic, outbox_statement_get_text(0, 1)),
				 errhint("Delete the rows that are meant, and discard the dead letter.")));
	outbox_statement_end(&scope);
}

static void
deliver_to_replica(OutboxFeed *feed, const OutboxRecord *records, char *fates, int n)
{
	OutboxApplyEvent *events = palloc(sizeof(OutboxApplyEvent) * n);
	OutboxApplyResult *results = palloc(sizeof(OutboxApplyResult) * n);
	WorkerRights saved;
	char		sweep = '\0';

	for (int i = 0; i < n; i++)
	{
		event_from_record(&events[i], &records[i]);
		if (outbox_event_is_sweep(&events[i]))
			sweep = events[i].op;
	}
	if (sweep != '\0')
		check_sole_subscription(feed, sweep);
	start_clock(feed);
	become(relation_owner(feed), &saved);
	outbox_replica_apply(feed->sub->target, events, n, results, true);
	become_worker(&saved);
	outbox_limit_end();
	for (int i = 0; i < n; i++)
		fates[i] = results[i] <= OUTBOX_APPLY_SUPPRESSED ? (char) results[i] : OUTBOX_APPLY_APPLIED;
}

/* ---------------- handlers ---------------- */

/* For messages; the role may be gone. */
static char *
role_name(Oid role)
{
	char	   *name = GetUserNameFromId(role, true);

	return name ? name : psprintf("%u", role);
}

static void
check_handler_owner(const OutboxSubscription *sub, Oid owner)
{
	if (!OidIsValid(sub->handler_owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("it is not known whose function handler %s was when it was subscribed", sub->handler),
				 errdetail("It belongs to role \"%s\" now.", role_name(owner)),
				 errhint("If that is right, call outbox.handle() again as a superuser.")));
	if (owner != sub->handler_owner)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("handler %s belongs to role \"%s\", not to role \"%s\" as when it was subscribed",
						sub->handler, role_name(owner), role_name(sub->handler_owner)),
				 errdetail("It may be another function, which was not meant to have the events."),
				 errhint("If that is right, call outbox.handle() again as a superuser, or as a member of both roles.")));
}

/*
 * Whose rights the handler has.  It is known by name, and in its schema others
 * may be allowed to create functions: until the transaction ends, which calls
 * it by that name, nobody drops or renames it, or gives it away.
 */
static Oid
lock_handler(const OutboxSubscription *sub)
{
	Oid			argtype = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										  CStringGetDatum("event"),
										  ObjectIdGetDatum(outbox_schema_oid()));
	List	   *names = outbox_qualified_name(sub->handler);
	Oid			locked = InvalidOid;
	Oid			funcid;
	Oid			owner;

	while ((funcid = LookupFuncName(names, 1, &argtype, false)) != locked)
	{
		LockDatabaseObject(ProcedureRelationId, funcid, 0, AccessShareLock);
		locked = funcid;
	}
	owner = function_owner(funcid);
	check_handler_owner(sub, owner);
	return owner;
}

/* The last header of that name, in the server's encoding, or NULL. */
static char *
header_text(const OutboxRecord *rec, const char *name)
{
	for (int i = rec->nheaders - 1; i >= 0; i--)
		if (strcmp(rec->headers[i].name, name) == 0)
			return to_server_cstring(rec->headers[i].value, rec->headers[i].value_len);
	return NULL;
}

/*
 * All headers as one object.  One whose bytes are no text is null; of several
 * of a name the last counts, as jsonb has it.
 */
static Datum
headers_jsonb(const OutboxRecord *rec)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int i = 0; i < rec->nheaders; i++)
	{
		const OutboxHeader *header = &rec->headers[i];

		if (i > 0)
			appendStringInfoChar(&buf, ',');
		escape_json(&buf, to_server_cstring(header->name, strlen(header->name)));
		appendStringInfoChar(&buf, ':');
		if (header->value == NULL ||
			!pg_verify_mbstr(PG_UTF8, header->value, header->value_len, true))
			appendStringInfoString(&buf, "null");
		else
			escape_json(&buf, to_server_cstring(header->value, header->value_len));
	}
	appendStringInfoChar(&buf, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}

#define HANDLER_ARGS 12

static void
call_handler(OutboxFeed *feed, const OutboxRecord *rec)
{
	OutboxSqlArg args[HANDLER_ARGS] = {
		sql_text(feed->sub->name), sql_text(rec->topic), sql_int4(rec->partition),
		sql_int8(rec->offset), sql_time(outbox_deliver_event_time(rec)), sql_text(header_text(rec, "id")),
		sql_text(header_text(rec, "source")), sql_text(header_text(rec, "op")),
		sql_text(header_text(rec, "type")),
		sql_text(to_server_cstring(rec->key, rec->key_len)),
		sql_text(to_server_cstring(rec->value, rec->value_len)),
		sql_datum(JSONBOID, headers_jsonb(rec), false)
	};
	Oid			types[HANDLER_ARGS];
	Datum		values[HANDLER_ARGS];
	char		nulls[HANDLER_ARGS];
	char	   *sql = psprintf("SELECT %s(ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)::outbox.event)",
							   feed->sub->handler);

	for (int i = 0; i < HANDLER_ARGS; i++)
	{
		types[i] = args[i].type;
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}
	if (SPI_execute_with_args(sql, HANDLER_ARGS, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not call handler %s", feed->sub->handler);
}

/*
 * The inbox knows events by their id; one without is known by its offset, and
 * that moves in this transaction.
 */
static bool
is_first_time(OutboxFeed *feed, const OutboxRecord *rec)
{
	char	   *id = header_text(rec, "id");
	char	   *source = header_text(rec, "source");

	return id == NULL ||
		outbox_inbox_first_time(psprintf(INT64_FORMAT, feed->sub->id), true,
								source ? source : rec->topic, id);
}

static void
deliver_to_handler(OutboxFeed *feed, const OutboxRecord *rec, char *fate)
{
	WorkerRights saved;
	Oid			owner;

	if (!is_first_time(feed, rec))
	{
		*fate = OUTBOX_APPLY_DUPLICATE;
		return;
	}
	owner = lock_handler(feed->sub);
	OUTBOX_FAULT("handler-locked");
	become(owner, &saved);
	SPI_connect();
	start_clock(feed);
	call_handler(feed, rec);
	outbox_limit_end();
	SPI_finish();
	become_worker(&saved);
	*fate = OUTBOX_APPLY_APPLIED;
}

/* ---------------- either ---------------- */

void
outbox_deliver(OutboxFeed *feed, const OutboxRecord *records, char *fates, int n,
			   bool in_order, int *delivered)
{
	int			parked = 0;

	outbox_row_failed_column[0] = '\0';
	*delivered = 0;
	if (feed->sub->handler == NULL)
	{
		deliver_to_replica(feed, records, fates, n);
		*delivered = n;
		return;
	}
	for (int i = 0; i < n; *delivered = ++i)
	{
		if (i > 0 && (parked >= feed->park_limit || outbox_feed_turn_over(feed)))
			break;
		if (in_order && outbox_letters_blocked(feed, &records[i]))
		{
			parked++;
			outbox_letters_park_behind(feed, &records[i]);
			fates[i] = OUTBOX_FATE_PARKED;
		}
		else
			deliver_to_handler(feed, &records[i], &fates[i]);
	}
}

void
outbox_deliver_check(const OutboxFeed *feed)
{
	WorkerRights saved;

	if (feed->sub->handler != NULL)
	{
		(void) lock_handler(feed->sub);
		return;
	}
	become(relation_owner(feed), &saved);
	outbox_target_release(outbox_target_acquire(feed->sub->target));
	become_worker(&saved);
}

/* ---------------- identity ---------------- */

/*
 * Ask the replica; a record that cannot be converted may still say whom it is
 * about in its key.  Each attempt in a subtransaction, since it may raise.
 */
static char *
replica_identity(OutboxFeed *feed, const OutboxRecord *rec, bool key_only, int64 *version)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile identity = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		OutboxApplyEvent ev;
		OutboxRecord copy = *rec;
		WorkerRights saved;

		if (key_only)
		{
			copy.value = NULL;
			copy.nheaders = 0;
		}
		event_from_record(&ev, &copy);
		if (key_only)
		{
			ev.op = 'd';
			ev.has_version = true;
		}
		/* a domain's check is other people's code */
		become(relation_owner(feed), &saved);
		outbox_limit_begin(feed->sub->name);
		identity = outbox_replica_identify(feed->sub->target, &ev, version);
		outbox_limit_end();
		become_worker(&saved);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		outbox_limit_end();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return identity;
}

/*
 * Does the record speak of all rows, and so of no key?
 */
static bool
is_sweep(const OutboxRecord *rec, int64 *version)
{
	bool		sweep = false;
	bool		explicit = false;

	for (int i = 0; i < rec->nheaders; i++)
	{
		const OutboxHeader *header = &rec->headers[i];

		if (header->value == NULL)
			continue;
		if (strcmp(header->name, "op") == 0)
			sweep = header->value_len == 1 && (header->value[0] == 't' || header->value[0] == 'e');
		else if (strcmp(header->name, "version") == 0)
			explicit |= outbox_parse_version(header->value, header->value_len, version);
		else if (strcmp(header->name, "id") == 0 && !explicit)
			(void) outbox_parse_version(header->value, header->value_len, version);
	}
	return sweep;
}

char *
outbox_deliver_key_identity(const OutboxRecord *rec)
{
	char	   *hex;

	if (rec->key == NULL)
		return NULL;
	if (pg_verify_mbstr(PG_UTF8, rec->key, rec->key_len, true) && rec->key_len <= 512 &&
		GetDatabaseEncoding() == PG_UTF8)
		return pnstrdup(rec->key, rec->key_len);
	if (rec->key_len > 250)
		return psprintf("hash:" UINT64_FORMAT, outbox_letters_hash(rec));
	hex = palloc(rec->key_len * 2 + 3);
	strcpy(hex, "\\x");
	hex[2 + hex_encode(rec->key, rec->key_len, hex + 2)] = '\0';
	return hex;
}

char *
outbox_deliver_identity(OutboxFeed *feed, const OutboxRecord *rec, int64 *version)
{
	char	   *identity;
	char	   *id;

	*version = 0;
	if (feed->sub->handler == NULL && is_sweep(rec, version))
		return NULL;
	if (feed->sub->handler == NULL)
	{
		identity = replica_identity(feed, rec, false, version);
		return identity ? identity : replica_identity(feed, rec, true, version);
	}
	for (int i = 0; i < rec->nheaders; i++)
	{
		id = unconstify(char *, rec->headers[i].value);
		if (strcmp(rec->headers[i].name, "id") == 0 && id != NULL)
			(void) outbox_parse_version(id, rec->headers[i].value_len, version);
	}
	return outbox_deliver_key_identity(rec);
}
