/*-------------------------------------------------------------------------
 *
 * admin.c
 *	  replicate(), handle() and what else changes subscriptions.
 *
 * Whoever owns the replica manages the subscription, or whoever owned the
 * handler when it was subscribed, and so do members of the extension's owner.
 * Changes take a row lock on the subscription and are told to the worker at
 * commit; a worker that goes on with the old row meanwhile is fenced by the
 * offsets, see offset.c.  replicate() and handle() first lock what no row
 * stands for yet, the name and the target: see lock_wanted().
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/apply.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "apply/statement.h"
#include "apply/start.h"
#include "apply/subscription.h"
#include "apply/target.h"
#include "common/argument.h"
#include "kafka/kafka.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(outbox_replicate);
PG_FUNCTION_INFO_V1(outbox_handle);
PG_FUNCTION_INFO_V1(outbox_unsubscribe);
PG_FUNCTION_INFO_V1(outbox_seek);
PG_FUNCTION_INFO_V1(outbox_pause_subscription);
PG_FUNCTION_INFO_V1(outbox_resume_subscription);

/* A subscription as a call says it shall be; arrays as Datum, 0 for null. */
typedef struct Wanted
{
	char	   *name;
	Oid			target;
	char	   *handler;
	Oid			handler_owner;	/* InvalidOid for a replica */
	Oid			caller;			/* not set for a replica */
	char	   *server;
	char	   *topic;
	Datum		key;
	char	   *version_column;
	Datum		columns;
	char	   *start;
	char	   *on_error;
	char	   *on_data_loss;
} Wanted;

/* ---------------- arguments ---------------- */

#define LEAVE_OUT "Leave the argument out for its default."

static void
require_one_of(const char *name, const char *value, const char *a, const char *b, const char *c)
{
	if (strcmp(value, a) == 0 || strcmp(value, b) == 0 || (c != NULL && strcmp(value, c) == 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value \"%s\" for %s", value, name),
			 c ? errhint("It is \"%s\", \"%s\" or \"%s\".", a, b, c) :
			 errhint("It is \"%s\" or \"%s\".", a, b)));
}

static List *
array_names(Datum array)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	List	   *names = NIL;

	if (array == (Datum) 0)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("names of columns must not be null")));
		names = lappend(names, TextDatumGetCString(elems[i]));
	}
	return names;
}

/* The server to use, which the caller must have the right to. */
static char *
usable_server(const char *name)
{
	Oid			serverid;
	AclResult	result;

	if (name == NULL)
		name = GetConfigOption("pg_outbox.default_server", true, false);
	if (name == NULL || name[0] == '\0')
		name = OUTBOX_DEFAULT_SERVER;
	serverid = outbox_server_oid(name, false);
	result = object_aclcheck(ForeignServerRelationId, serverid, GetUserId(), ACL_USAGE);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_SERVER, name);
	return pstrdup(name);
}

static void
common_arguments(Wanted *wanted)
{
	wanted->start = outbox_start_normalize(wanted->start);
	require_one_of("on_error", wanted->on_error, "dead_letter", "stop", "skip");
	require_one_of("on_data_loss", wanted->on_data_loss, "stop", "continue", NULL);
	wanted->server = usable_server(wanted->server);
	if (wanted->topic[0] == '\0' || strlen(wanted->topic) > 249 ||
		strspn(wanted->topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != strlen(wanted->topic))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid name of topic \"%s\"", wanted->topic)));
	if (wanted->name[0] == '\0' || strlen(wanted->name) > 200)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of subscription \"%s\"", wanted->name)));
}

/* ---------------- rights ---------------- */

static bool
manages_everything(Oid role)
{
	return superuser_arg(role) || has_privs_of_role(role, outbox_owner_oid());
}

void
outbox_subscription_require_manager(const char *name)
{
	static const char sql[] =
	"SELECT target::oid::int8, handler_owner::oid::int8 FROM outbox._subscription WHERE name = $1";
	OutboxSqlArg args[] = {sql_text(name)};
	OutboxOwnerScope scope;
	Oid			target = InvalidOid;
	Oid			handler_owner = InvalidOid;
	bool		found;

	outbox_statement_begin(&scope);
	found = outbox_statement_run(sql, lengthof(args), args) > 0;
	if (found)
	{
		target = (Oid) outbox_statement_get_int8(0, 1, InvalidOid);
		handler_owner = (Oid) outbox_statement_get_int8(0, 2, InvalidOid);
	}
	outbox_statement_end(&scope);

	if (manages_everything(GetUserId()) && found)
		return;
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name)));
	if (!OidIsValid(target) ? has_privs_of_role(GetUserId(), handler_owner) :
		(SearchSysCacheExists1(RELOID, ObjectIdGetDatum(target)) &&
		 object_ownercheck(RelationRelationId, target, GetUserId())))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of the target of subscription \"%s\"", name)));
}

/* ---------------- storing ---------------- */

static OutboxSqlArg
sql_names(Datum array)
{
	return sql_datum(TEXTARRAYOID, array, array == (Datum) 0);
}

/*
 * Letters that an earlier subscription of the same table and name has left are
 * its again.  Those of handlers are not: who owns a function of that name now
 * may be somebody else.
 */
static void
insert_subscription(const Wanted *wanted)
{
	static const char sql[] =
	"INSERT INTO outbox._subscription (name, target, handler, server, topic, key_columns,"
	" version_column, columns, start, on_error, on_data_loss, handler_owner)"
	" VALUES ($1, $2::regclass, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::regrole)";
	static const char adopt[] =
	"UPDATE outbox._dead_letter d SET subscription ="
	" (SELECT id FROM outbox._subscription WHERE name = $1)"
	" WHERE d.name = $1 AND d.target = $2 AND d.direction = 'in' AND d.state = 'dead'"
	" AND NOT EXISTS (SELECT 1 FROM outbox._subscription s WHERE s.id = d.subscription)";
	OutboxSqlArg args[] = {
		sql_text(wanted->name), sql_oid(wanted->target), sql_text(wanted->handler),
		sql_text(wanted->server), sql_text(wanted->topic), sql_names(wanted->key),
		sql_text(wanted->version_column), sql_names(wanted->columns), sql_text(wanted->start),
		sql_text(wanted->on_error), sql_text(wanted->on_data_loss), sql_oid(wanted->handler_owner)
	};

	(void) outbox_statement_run(sql, lengthof(args), args);
	if (OidIsValid(wanted->target))
		(void) outbox_statement_run(adopt, 2, args);
}

/*
 * What of the stored row differs from what is wanted, as a list of names, or
 * NULL; also tells whether it reads another topic now.
 */
static char *
differences(const Wanted *wanted, bool *elsewhere)
{
	static const char sql[] =
	"SELECT server IS DISTINCT FROM $2, topic IS DISTINCT FROM $3,"
	" key_columns IS DISTINCT FROM $4, version_column IS DISTINCT FROM $5,"
	" columns IS DISTINCT FROM $6, start IS DISTINCT FROM $7, on_error IS DISTINCT FROM $8,"
	" on_data_loss IS DISTINCT FROM $9, handler_owner IS DISTINCT FROM $10::regrole, state <> 'running'"
	" FROM outbox._subscription WHERE name = $1";
	static const char *const names[] = {
		"server", "topic", "key", "version_column", "columns", "start", "on_error",
		"on_data_loss", "owner", "state"
	};
	OutboxSqlArg args[] = {
		sql_text(wanted->name), sql_text(wanted->server), sql_text(wanted->topic),
		sql_names(wanted->key), sql_text(wanted->version_column), sql_names(wanted->columns),
		sql_text(wanted->start), sql_text(wanted->on_error), sql_text(wanted->on_data_loss),
		sql_oid(wanted->handler_owner)
	};
	StringInfoData buf;

	(void) outbox_statement_run(sql, lengthof(args), args);
	initStringInfo(&buf);
	for (int i = 0; i < lengthof(names); i++)
		if (outbox_statement_get_bool(0, i + 1))
			appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "", names[i]);
	*elsewhere = outbox_statement_get_bool(0, 1) || outbox_statement_get_bool(0, 2);
	return buf.len > 0 ? buf.data : NULL;
}

static void
update_subscription(const Wanted *wanted, bool elsewhere)
{
	static const char sql[] =
	"UPDATE outbox._subscription SET server = $2, topic = $3, key_columns = $4,"
	" version_column = $5, columns = $6, start = $7, on_error = $8, on_data_loss = $9,"
	" handler_owner = $10::regrole, state = 'running', stopped_sqlstate = NULL, stopped_reason = NULL, stopped_at = NULL,"
	" generation = generation + 1, starts = 0, suspect_count = 0 WHERE name = $1";
	static const char forget[] = "DELETE FROM outbox._offset WHERE subscription = $1";
	OutboxSqlArg args[] = {
		sql_text(wanted->name), sql_text(wanted->server), sql_text(wanted->topic),
		sql_names(wanted->key), sql_text(wanted->version_column), sql_names(wanted->columns),
		sql_text(wanted->start), sql_text(wanted->on_error), sql_text(wanted->on_data_loss),
		sql_oid(wanted->handler_owner)
	};

	(void) outbox_statement_run(sql, lengthof(args), args);
	if (elsewhere)
		(void) outbox_statement_run(forget, 1, args);
}

/*
 * Until the end of the transaction nobody else makes a subscription of that
 * name, or one of that target, which must be like ours.  Taken before the
 * snapshot of the statements that rely on it.  Lock tag: LOCKTAG_OBJECT with
 * the class "outbox._subscription", as in tombstone.c.
 */
static void
lock_wanted(const Wanted *wanted)
{
	Oid			classid = outbox_relation_oid("_subscription");
	LOCKTAG		tag;

	if (OidIsValid(wanted->target))
	{
		SET_LOCKTAG_OBJECT(tag, MyDatabaseId, classid, wanted->target, 0);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	}
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, classid,
					   hash_bytes((const unsigned char *) wanted->name, strlen(wanted->name)), 1);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * Who has a function of a name that was another's does not get the other's
 * subscription with it, which has letters and a place in the topic.
 */
static void
check_former_owner(const Wanted *wanted, Oid former)
{
	if (former == wanted->handler_owner || manages_everything(wanted->caller) ||
		has_privs_of_role(wanted->caller, former))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("subscription \"%s\" is for a handler of another role", wanted->name),
			 errdetail("Function %s is not known to have belonged to its present owner when it was subscribed.",
					   wanted->handler),
			 errhint("Ask a superuser to call outbox.handle(), or choose another name with name => '...'.")));
}

/*
 * Does the name belong to another target?  False if it is free.  Locks the
 * row.
 */
static bool
name_is_taken(const Wanted *wanted)
{
	static const char sql[] =
	"SELECT target IS NOT DISTINCT FROM $2::regclass AND handler IS NOT DISTINCT FROM $3,"
	" handler_owner::oid::int8 FROM outbox._subscription WHERE name = $1 FOR UPDATE";
	OutboxSqlArg args[] = {sql_text(wanted->name), sql_oid(wanted->target),
	sql_text(wanted->handler)};

	if (outbox_statement_run(sql, lengthof(args), args) == 0)
		return false;
	if (!outbox_statement_get_bool(0, 1))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" exists for another target", wanted->name),
				 errhint("Choose another name with name => '...'.")));
	if (wanted->handler != NULL)
		check_former_owner(wanted, (Oid) outbox_statement_get_int8(0, 2, InvalidOid));
	return true;
}

/*
 * Several subscriptions may feed one replica, if they see it alike.
 */
static void
check_siblings(const Wanted *wanted)
{
	static const char sql[] =
	"SELECT name FROM outbox._subscription WHERE target = $2::regclass AND name <> $1"
	" AND (key_columns IS DISTINCT FROM $3 OR version_column IS DISTINCT FROM $4"
	" OR columns IS DISTINCT FROM $5) LIMIT 1";
	OutboxSqlArg args[] = {sql_text(wanted->name), sql_oid(wanted->target),
		sql_names(wanted->key), sql_text(wanted->version_column), sql_names(wanted->columns)
	};

	if (OidIsValid(wanted->target) && outbox_statement_run(sql, lengthof(args), args) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" feeds the same table with another key, version column or list of columns",
						outbox_statement_get_text(0, 1))));
}

static void
announce_change(Oid target)
{
	if (OidIsValid(target))
		CacheInvalidateRelcacheByRelid(target);
	outbox_worker_poke_at_commit();
}

/*
 * Make the subscription what is wanted.
 */
static void
store_subscription(const Wanted *wanted)
{
	OutboxOwnerScope scope;
	char	   *changed = NULL;
	bool		elsewhere = false;

	lock_wanted(wanted);
	outbox_statement_begin(&scope);
	check_siblings(wanted);
	if (!name_is_taken(wanted))
		insert_subscription(wanted);
	else if ((changed = differences(wanted, &elsewhere)) != NULL)
		update_subscription(wanted, elsewhere);
	if (changed != NULL)
		ereport(NOTICE,
				(errmsg("subscription \"%s\" changed: %s", wanted->name, changed),
				 elsewhere ? errdetail("It begins anew: offsets of another topic mean nothing.") : 0,
				 !elsewhere && strstr(changed, "start") != NULL ?
				 errhint("What is read already stays read; outbox.seek() moves it.") : 0));
	outbox_statement_end(&scope);
	announce_change(wanted->target);
	if (!outbox_worker_available())
		ereport(NOTICE,
				(errmsg("nothing is consumed yet"),
				 errdetail("The library is not preloaded, so there are no workers."),
				 errhint("Add \"pg_outbox\" to shared_preload_libraries and restart the server.")));
}

/* ---------------- replicate, handle ---------------- */

static void
check_target_owner(Oid target)
{
	outbox_argument_relation_exists(target);
	if (!object_ownercheck(RelationRelationId, target, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(target));
	if (get_rel_persistence(target) == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be a replica", get_rel_name(target)),
				 errdetail("It is unlogged: a crash would empty it, but not what is remembered of it.")));
}

/*
 * replicate(target, topic, name, key, version_column, start, columns, on_error,
 * on_data_loss, server)
 */
Datum
outbox_replicate(PG_FUNCTION_ARGS)
{
	Wanted		wanted;
	OutboxTargetOptions options;

	memset(&wanted, 0, sizeof(wanted));
	outbox_argument_require(fcinfo, 0, "target", "Pass the table that is to be the replica.");
	wanted.target = PG_GETARG_OID(0);
	wanted.topic = outbox_argument_text(fcinfo, 1, "topic", "Pass the topic to read.");
	check_target_owner(wanted.target);
	wanted.name = PG_ARGISNULL(2) ? get_rel_name(wanted.target) : outbox_argument_text_or_null(fcinfo, 2);
	wanted.key = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	wanted.version_column = outbox_argument_text_or_null(fcinfo, 4);
	wanted.start = outbox_argument_text(fcinfo, 5, "start", LEAVE_OUT);
	wanted.columns = PG_ARGISNULL(6) ? (Datum) 0 : PG_GETARG_DATUM(6);
	wanted.on_error = outbox_argument_text(fcinfo, 7, "on_error", LEAVE_OUT);
	wanted.on_data_loss = outbox_argument_text(fcinfo, 8, "on_data_loss", LEAVE_OUT);
	wanted.server = outbox_argument_text_or_null(fcinfo, 9);
	common_arguments(&wanted);

	options.keys = array_names(wanted.key);
	options.version_column = wanted.version_column;
	options.columns = array_names(wanted.columns);
	outbox_target_check(wanted.target, &options);
	store_subscription(&wanted);
	PG_RETURN_TEXT_P(cstring_to_text(wanted.name));
}

static Oid
event_type(void)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("event"),
						   ObjectIdGetDatum(outbox_schema_oid()));
}

/* Does a function's configuration set this? */
static bool
find_setting(ArrayType *config, const char *prefix)
{
	Datum	   *elems;
	int			n;

	deconstruct_array(config, TEXTOID, -1, false, TYPALIGN_INT, &elems, NULL, &n);
	for (int i = 0; i < n; i++)
		if (strncmp(TextDatumGetCString(elems[i]), prefix, strlen(prefix)) == 0)
			return true;
	return false;
}

/*
 * Names in a body that is stored as text are looked up when it runs, and a
 * handler does not run under the search path of those who wrote it.
 */
static void
notice_search_path(HeapTuple tup, const char *name)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(tup);
	bool		isnull;
	Datum		config = SysCacheGetAttr(PROCOID, tup, Anum_pg_proc_proconfig, &isnull);

	if (form->prolang == INTERNALlanguageId || form->prolang == ClanguageId)
		return;
	if (!isnull && find_setting(DatumGetArrayTypeP(config), "search_path="))
		return;
	(void) SysCacheGetAttr(PROCOID, tup, Anum_pg_proc_prosqlbody, &isnull);
	if (!isnull)
		return;
	ereport(NOTICE,
			(errmsg("handler %s has no search_path of its own", name),
			 errdetail("It runs with search_path = pg_catalog, pg_temp: names of other schemas must be qualified."),
			 errhint("ALTER FUNCTION %s(outbox.event) SET search_path = ... gives it one.", name)));
}

/* Schema-qualified name and owner of a handler, once it is known to be one. */
static char *
handler_name(Oid funcid, Oid *owner)
{
	HeapTuple	tup = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc form;
	char	   *name;

	if (!HeapTupleIsValid(tup))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", funcid),
				 errhint("Name the function instead of its OID, or look whether it was dropped.")));
	form = (Form_pg_proc) GETSTRUCT(tup);
	if (!object_ownercheck(ProcedureRelationId, funcid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FUNCTION, NameStr(form->proname));
	if (form->prokind != PROKIND_FUNCTION || form->proretset || form->pronargs != 1 ||
		form->proargtypes.values[0] != event_type())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s cannot be a handler", format_procedure(funcid)),
				 errdetail("A handler is a function with one argument of type outbox.event."),
				 errhint("Define it as %s(event outbox.event) RETURNS void.", NameStr(form->proname))));
	name = quote_qualified_identifier(get_namespace_name(form->pronamespace), NameStr(form->proname));
	notice_search_path(tup, name);
	*owner = form->proowner;
	ReleaseSysCache(tup);
	return name;
}

/*
 * handle(handler, topic, name, start, on_error, on_data_loss, server)
 */
Datum
outbox_handle(PG_FUNCTION_ARGS)
{
	Wanted		wanted;
	Oid			funcid;

	memset(&wanted, 0, sizeof(wanted));
	outbox_argument_require(fcinfo, 0, "handler", "Pass a function that takes one outbox.event.");
	funcid = PG_GETARG_OID(0);
	wanted.topic = outbox_argument_text(fcinfo, 1, "topic", "Pass the topic to read.");
	wanted.handler = handler_name(funcid, &wanted.handler_owner);
	wanted.caller = GetUserId();
	wanted.name = PG_ARGISNULL(2) ? get_func_name(funcid) : outbox_argument_text_or_null(fcinfo, 2);
	wanted.start = outbox_argument_text(fcinfo, 3, "start", LEAVE_OUT);
	wanted.on_error = outbox_argument_text(fcinfo, 4, "on_error", LEAVE_OUT);
	wanted.on_data_loss = outbox_argument_text(fcinfo, 5, "on_data_loss", LEAVE_OUT);
	wanted.server = outbox_argument_text_or_null(fcinfo, 6);
	common_arguments(&wanted);
	store_subscription(&wanted);
	PG_RETURN_TEXT_P(cstring_to_text(wanted.name));
}

/* ---------------- changes ---------------- */

/* The subscription's name, once the caller may change it. */
static char *
managed_name(FunctionCallInfo fcinfo)
{
	char	   *name = outbox_argument_text(fcinfo, 0, "name",
											"Pass the name of a subscription in outbox.subscriptions.");

	outbox_subscription_require_manager(name);
	return name;
}

/* Run a statement on one subscription, $1 its name, and tell the worker. */
static void
change_subscription(const char *sql, const char *name)
{
	OutboxSqlArg args[] = {sql_text(name)};
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(sql, lengthof(args), args);
	outbox_statement_end(&scope);
	outbox_worker_poke_at_commit();
}

/*
 * unsubscribe(name)
 */
Datum
outbox_unsubscribe(PG_FUNCTION_ARGS)
{
	static const char sql[] =
	"DELETE FROM outbox._subscription WHERE name = $1 RETURNING target::oid::int8";
	static const char letters[] =
	"UPDATE outbox._dead_letter SET state = 'dead', next_attempt_at = NULL"
	" WHERE subscription = (SELECT id FROM outbox._subscription WHERE name = $1)"
	" AND state IN ('parked', 'retry')";
	char	   *name = managed_name(fcinfo);
	OutboxSqlArg args[] = {sql_text(name)};
	OutboxOwnerScope scope;
	Oid			target = InvalidOid;

	outbox_statement_begin(&scope);
	(void) outbox_statement_run(letters, lengthof(args), args);
	if (outbox_statement_run(sql, lengthof(args), args) > 0)
		target = (Oid) outbox_statement_get_int8(0, 1, InvalidOid);
	outbox_statement_end(&scope);
	if (OidIsValid(target) && !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(target)))
		target = InvalidOid;
	announce_change(target);
	PG_RETURN_VOID();
}

Datum
outbox_pause_subscription(PG_FUNCTION_ARGS)
{
	change_subscription("UPDATE outbox._subscription SET state = 'paused',"
						" generation = generation + 1 WHERE name = $1 AND state <> 'paused'",
						managed_name(fcinfo));
	PG_RETURN_VOID();
}

#define RUN_AGAIN \
	"state = 'running', stopped_sqlstate = NULL, stopped_reason = NULL, stopped_at = NULL," \
	" generation = generation + 1, starts = 0, suspect_count = 0"

Datum
outbox_resume_subscription(PG_FUNCTION_ARGS)
{
	change_subscription("UPDATE outbox._subscription SET " RUN_AGAIN
						" WHERE name = $1 AND state <> 'running'",
						managed_name(fcinfo));
	PG_RETURN_VOID();
}

/*
 * Raise unless the partition is one of those that the subscription reads: with
 * any other it would take the topic for another one, and stop.
 */
static void
require_partition(const char *name, int32 partition)
{
	static const char sql[] =
	"SELECT count(*) FILTER (WHERE partition = $2), min(partition), max(partition)"
	" FROM outbox._offset WHERE subscription = $1";
	OutboxSqlArg args[] = {sql_text(name), sql_int4(partition)};
	int			first;
	int			last;

	if (partition < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition must not be negative")));
	(void) outbox_statement_run(sql, lengthof(args), args);
	if (outbox_statement_get_int8(0, 1, 0) > 0)
		return;
	first = outbox_statement_get_int4(0, 2, -1);
	last = outbox_statement_get_int4(0, 3, -1);
	if (first < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" has not begun to read", name),
				 errhint("Pass no partition, and as start a JSON object of partitions and offsets.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("subscription \"%s\" does not read a partition %d", name, partition),
			 errdetail("It reads partitions %d to %d.", first, last)));
}

/*
 * Where one partition shall go on, or where all begin anew.
 */
static void
move_offsets(const char *name, const char *start, bool one, int32 partition)
{
	static const char all[] = "DELETE FROM outbox._offset WHERE subscription = $1";
	static const char single[] =
	"UPDATE outbox._offset SET next_offset = $3, last_offset = NULL, last_time_ms = NULL,"
	" last_id = NULL WHERE subscription = $1 AND partition = $2";
	static const char begin_at[] =
	"UPDATE outbox._subscription SET start = $2 WHERE name = $1";
	int64		offset;
	OutboxSqlArg args[3] = {sql_text(name)};

	if (!one)
	{
		(void) outbox_statement_run(all, 1, args);
		args[1] = sql_text(outbox_start_normalize(start));
		(void) outbox_statement_run(begin_at, 2, args);
		return;
	}
	if (!outbox_parse_version(start, strlen(start), &offset) || offset < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid offset \"%s\"", start),
				 errdetail("With a partition, start must be the decimal number of an offset.")));
	require_partition(name, partition);
	args[1] = sql_int4(partition);
	args[2] = sql_int8(offset);
	(void) outbox_statement_run(single, 3, args);
}

/*
 * seek(name, start, partition)
 */
Datum
outbox_seek(PG_FUNCTION_ARGS)
{
	static const char sql[] =
	"UPDATE outbox._subscription SET " RUN_AGAIN " WHERE name = $1";
	char	   *name = managed_name(fcinfo);
	char	   *start = outbox_argument_text(fcinfo, 1, "start",
											 "Pass \"earliest\", \"latest\", a time or an offset.");
	OutboxOwnerScope scope;

	outbox_statement_begin(&scope);
	move_offsets(name, start, !PG_ARGISNULL(2), PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2));
	outbox_statement_end(&scope);
	change_subscription(sql, name);
	PG_RETURN_VOID();
}
