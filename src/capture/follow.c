/*-------------------------------------------------------------------------
 *
 * follow.c
 *	  Publications follow their tables: event triggers for DDL.
 *
 * - A column's new name is taken over wherever a publication names it, also
 *	 where it comes from a table above or from the table's type.  On the wire a
 *	 listed column keeps its name.
 * - New partitions get the trigger on TRUNCATE; if they bring rows,
 *	 the publication is copied again.
 * - A dropped table takes its publications with it.
 * - What a filter uses keeps its name, as only that is stored.
 * - What a publication needs of its table is not dropped: listed columns,
 *	 those in its filter and what else that uses, the unique index on its
 *	 identity, its triggers.  (DROP INDEX CONCURRENTLY could not be undone
 *	 here; the view publications shows it.)
 *	 Whoever turned pg_outbox.capture off may do it all the same: to restore
 *	 a dump over an existing database, for one.
 * - A Kafka server that was used keeps its name.
 *
 * Only what is lost is refused.  While a dump is restored publications exist
 * before the indexes and triggers that they need.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/publication.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "capture/capture.h"
#include "capture/copy.h"
#include "capture/filter.h"
#include "common/catalog.h"
#include "kafka/kafka.h"

PG_FUNCTION_INFO_V1(outbox_table_altered);
PG_FUNCTION_INFO_V1(outbox_objects_dropped);
PG_FUNCTION_INFO_V1(outbox_names_altered);
PG_FUNCTION_INFO_V1(outbox_server_altering);

/* A publication, as far as its table's columns are concerned. */
typedef struct Followed
{
	int32		id;
	char	   *name;
	char	   *kind;
	Oid			source;
	List	   *columns;
	List	   *labels;
	List	   *identity;
	List	   *partition_by;
	char	   *filter;
	bool		captures_truncate;	/* or refuses it */
	AttrNumber	renamed;		/* column that has a new name, 0: none */
} Followed;

#define FOLLOWED_COLUMNS "p.id, p.name, p.kind, p.source, p.columns, p.labels, p.identity, p.partition_by," \
	" p.filter, p.on_truncate <> 'ignore'"

/*
 * A column's new name is that of the tables below as well, and of the tables
 * of a type whose attribute it is.
 */
static const char altered_sql[] =
"WITH RECURSIVE altered (relid, attname) AS ("
"  SELECT c.objid, a.attname"
"    FROM pg_event_trigger_ddl_commands() c"
"         LEFT JOIN pg_attribute a ON a.attrelid = c.objid AND a.attnum = c.objsubid AND c.objsubid > 0"
"   WHERE c.classid = 'pg_class'::regclass"
"  UNION"
"  SELECT below.relid, altered.attname"
"    FROM altered CROSS JOIN LATERAL ("
"           SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = altered.relid"
"           UNION ALL"
"           SELECT t.oid FROM pg_class y JOIN pg_class t ON t.reloftype = y.reltype"
"            WHERE y.oid = altered.relid AND y.relkind = 'c') AS below (relid))"
" SELECT " FOLLOWED_COLUMNS ", coalesce(a.attnum, 0)::integer"
"  FROM altered JOIN outbox._publication p ON p.source = altered.relid"
"       LEFT JOIN pg_attribute a ON a.attrelid = altered.relid AND a.attname = altered.attname";

static const char partitioned_sql[] =
"SELECT DISTINCT p.source"
"  FROM pg_event_trigger_ddl_commands() c"
"       CROSS JOIN LATERAL pg_partition_ancestors(c.objid) AS a (relid)"
"       JOIN outbox._publication p ON p.source = a.relid"
" WHERE c.classid = 'pg_class'::regclass AND p.kind = 'table'";

/* Publications of the altered table and those above. */
static const char above_sql[] =
"SELECT p.name FROM outbox._publication p"
" WHERE p.kind = 'table' AND p.source IN"
"       (SELECT a.relid FROM pg_event_trigger_ddl_commands() c"
"               CROSS JOIN LATERAL pg_partition_ancestors(c.objid) AS a (relid)"
"         WHERE c.classid = 'pg_class'::regclass"
"        UNION ALL SELECT c.objid FROM pg_event_trigger_ddl_commands() c"
"         WHERE c.classid = 'pg_class'::regclass)"
" ORDER BY p.name";

static const char rename_sql[] =
"UPDATE outbox._publication"
"   SET columns = $2, labels = $3, identity = $4, partition_by = $5, filter = $6"
" WHERE id = $1";

static const char forget_sql[] =
"DELETE FROM outbox._publication p USING pg_event_trigger_dropped_objects() d"
" WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND p.source = d.objid";

static const char trigger_sql[] =
"SELECT " FOLLOWED_COLUMNS ", 0"
"  FROM outbox._publication p"
" WHERE p.source IN (SELECT to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))"
"                      FROM pg_event_trigger_dropped_objects() d WHERE d.object_type = 'trigger')";

/* Those with a filter, which may use whatever was altered. */
static const char filtered_sql[] =
"SELECT " FOLLOWED_COLUMNS ", 0 FROM outbox._publication p WHERE p.filter IS NOT NULL";

/* Those whose filter may use something that was dropped. */
static const char filter_sql[] =
"SELECT " FOLLOWED_COLUMNS ", 0"
"  FROM outbox._publication p"
" WHERE EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d"
"               WHERE d.object_type IN ('function', 'type', 'operator', 'collation')"
"                 AND strpos(p.filter, d.address_names[array_upper(d.address_names, 1)]) > 0)";

static const char all_sql[] =
"SELECT " FOLLOWED_COLUMNS ", 0 FROM outbox._publication p"
" WHERE EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d"
"               WHERE d.object_type IN ('table column', 'table constraint', 'index'))";

/* ---------------- reading ---------------- */

static void
query(const char *sql)
{
	int			rc = SPI_execute(sql, false, 0);

	if (rc != SPI_OK_SELECT && rc != SPI_OK_DELETE)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
}

static List *
list_value(HeapTuple tup, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		d = SPI_getbinval(tup, desc, column, &isnull);

	return isnull ? NIL : outbox_text_list(DatumGetArrayTypeP(d), "columns");
}

/*
 * Publications that the query finds (List of Followed *).
 */
static List *
read_followed(const char *sql)
{
	List	   *list = NIL;

	query(sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tup = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Followed   *pub = palloc0(sizeof(Followed));
		bool		isnull;

		pub->id = DatumGetInt32(SPI_getbinval(tup, desc, 1, &isnull));
		pub->name = SPI_getvalue(tup, desc, 2);
		pub->kind = SPI_getvalue(tup, desc, 3);
		pub->source = DatumGetObjectId(SPI_getbinval(tup, desc, 4, &isnull));
		pub->columns = list_value(tup, desc, 5);
		pub->labels = list_value(tup, desc, 6);
		pub->identity = list_value(tup, desc, 7);
		pub->partition_by = list_value(tup, desc, 8);
		pub->filter = SPI_getvalue(tup, desc, 9);
		pub->captures_truncate = DatumGetBool(SPI_getbinval(tup, desc, 10, &isnull));
		pub->renamed = (AttrNumber) DatumGetInt32(SPI_getbinval(tup, desc, 11, &isnull));
		list = lappend(list, pub);
	}
	return list;
}

/* ---------------- new names ---------------- */

/*
 * The list with a column that does not exist any more replaced by "now".
 */
static List *
rename_in_list(List *list, Oid relid, const char *now)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, list)
	{
		const char *name = lfirst(lc);

		if (get_attnum(relid, name) == InvalidAttrNumber)
			name = now;
		result = lappend(result, pstrdup(name));
	}
	return result;
}

/*
 * Reading a filter runs code of the table's owner: input functions of types
 * of his, and what they call.  That happens with his rights, never with those
 * of the extension's owner or of whoever alters the table.
 */
static char *
read_filter(Followed *pub, Relation rel)
{
	Oid			save_userid;
	int			save_context;
	char	   *text = pub->filter;

	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   save_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	if (pub->renamed != 0)
		text = outbox_filter_rename(pub->filter, rel, pub->renamed);

	else
		(void) outbox_filter_parse(pub->filter, rel);
	SetUserIdAndSecContext(save_userid, save_context);
	return text;
}

/*
 * All names were right before the command, so the one that is unknown now is
 * the renamed column's.
 */
static void
follow_rename(Followed *pub, Relation rel)
{
	const char *now = get_attname(pub->source, pub->renamed, false);
	Oid			types[6] = {INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID};
	Datum		values[6];
	char		nulls[] = "      ";

	values[0] = Int32GetDatum(pub->id);
	values[1] = outbox_text_array(rename_in_list(pub->columns, pub->source, now));
	values[2] = outbox_text_array(pub->labels);
	values[3] = outbox_text_array(rename_in_list(pub->identity, pub->source, now));
	values[4] = outbox_text_array(rename_in_list(pub->partition_by, pub->source, now));
	if (pub->filter != NULL)
		values[5] = CStringGetTextDatum(read_filter(pub, rel));
	if (pub->columns == NIL)
		nulls[1] = nulls[2] = 'n';
	if (pub->partition_by == NIL)
		nulls[4] = 'n';
	if (pub->filter == NULL)
		nulls[5] = 'n';
	if (SPI_execute_with_args(rename_sql, 6, types, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not execute \"%s\"", rename_sql);
}

static void
check_filter(Followed *pub, Relation rel)
{
	if (pub->filter != NULL)
		(void) read_filter(pub, rel);
}

static void
guard_partitions(void)
{
	List	   *sources = NIL;
	ListCell   *lc;

	query(partitioned_sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		sources = lappend_oid(sources, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
																	  SPI_tuptable->tupdesc, 1, &isnull)));
	}
	foreach(lc, sources)
		outbox_source_guard_partitions(lfirst_oid(lc));
}

/* ---------------- partitions that come and go ---------------- */

/*
 * Rows that come with a partition are no change of a row: a copy brings them.
 * Those that go with one stay in the replicas.
 */
static void
copy_published(const char *sql)
{
	List	   *names = NIL;
	ListCell   *lc;

	query(sql);
	for (uint64 i = 0; i < SPI_processed; i++)
		names = lappend(names, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	foreach(lc, names)
	{
		ereport(NOTICE,
				(errmsg("publication \"%s\" is copied again because of the rows of the new partition",
						(char *) lfirst(lc))));
		outbox_copy_request(lfirst(lc), true);
	}
}

static void
warn_detached(const char *sql)
{
	query(sql);
	for (uint64 i = 0; i < SPI_processed; i++)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("rows of the detached partition stay in the replicas of publication \"%s\"",
						SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1)),
				 errdetail("Detaching a partition makes no events."),
				 errhint("To remove them everywhere, DELETE them before.")));
}

static bool
has_rows(RangeVar *name)
{
	Relation	rel = relation_openrv(name, AccessShareLock);
	List	   *oids = find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL);
	bool		found = false;
	ListCell   *lc;

	relation_close(rel, NoLock);
	foreach(lc, oids)
	{
		rel = relation_open(lfirst_oid(lc), NoLock);
		if (rel->rd_rel->relkind == RELKIND_RELATION)
			found |= RelationGetNumberOfBlocks(rel) > 0;
		relation_close(rel, NoLock);
	}
	return found;
}

/*
 * The names are those of the command: looked up under its search path.
 */
static void
find_partition_command(FunctionCallInfo fcinfo, bool *attached, bool *detached)
{
	Node	   *stmt = ((EventTriggerData *) fcinfo->context)->parsetree;
	ListCell   *lc;

	*attached = *detached = false;
	if (!IsA(stmt, AlterTableStmt))
		return;
	foreach(lc, ((AlterTableStmt *) stmt)->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_AttachPartition)
			*attached |= has_rows(((PartitionCmd *) cmd->def)->name);
		else if (cmd->subtype == AT_DetachPartition)
			*detached = true;
	}
}

static void
check_called(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function must be called as an event trigger")));
}

/*
 * What our own install and update scripts do concerns no publication, and the
 * tables may not be those that the library knows yet.
 */
static bool
in_own_script(void)
{
	return creating_extension &&
		CurrentExtensionObject == get_extension_oid(OUTBOX_EXTENSION, true);
}

/*
 * A table that is no part of another is nobody's business but its owner's.
 */
static bool
creates_plain_table(FunctionCallInfo fcinfo)
{
	Node	   *stmt = ((EventTriggerData *) fcinfo->context)->parsetree;

	return IsA(stmt, CreateStmt) && castNode(CreateStmt, stmt)->inhRelations == NIL;
}

Datum
outbox_table_altered(PG_FUNCTION_ARGS)
{
	OutboxOwnerScope scope;
	List	   *pubs;
	ListCell   *lc;
	bool		attached;
	bool		detached;

	check_called(fcinfo);
	if (in_own_script() || creates_plain_table(fcinfo))
		PG_RETURN_NULL();
	find_partition_command(fcinfo, &attached, &detached);
	SPI_connect();
	outbox_owner_enter(&scope);
	pubs = read_followed(altered_sql);
	foreach(lc, pubs)
	{
		Followed   *pub = lfirst(lc);
		Relation	rel = relation_open(pub->source, AccessShareLock);

		if (pub->renamed != 0)
			follow_rename(pub, rel);
		else
			check_filter(pub, rel);
		relation_close(rel, NoLock);
		outbox_capture_invalidate(pub->source);
	}
	guard_partitions();
	if (attached && outbox_capture_enabled())
		copy_published(above_sql);
	if (detached)
		warn_detached(above_sql);
	outbox_owner_leave(&scope);
	SPI_finish();
	PG_RETURN_NULL();
}

/* ---------------- what is dropped ---------------- */

static void
refuse_drop(Followed *pub, const char *what, const char *role)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot drop %s because publication \"%s\" needs it", what, pub->name),
			 errdetail("It is %s.", role),
			 errhint("Call outbox.%s without it, or outbox.unpublish(%s), first.",
					 strcmp(pub->kind, PUBLICATION_TABLE) == 0 ? "publish" : "adopt",
					 quote_literal_cstr(pub->name))));
}

static void
check_columns(Followed *pub, List *columns, const char *role)
{
	ListCell   *lc;

	foreach(lc, columns)
		if (get_attnum(pub->source, lfirst(lc)) == InvalidAttrNumber)
		refuse_drop(pub, psprintf("column \"%s\" of table \"%s\"",
								  (char *) lfirst(lc), get_rel_name(pub->source)), role);
}

/*
 * Only a table on which we hold the lock that dropping takes can have lost
 * anything; others are not touched.
 */
static void
check_needs(Followed *pub)
{
	LOCKTAG		tag;
	Relation	rel;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, pub->source);
	if (!outbox_lock_held_by_me(&tag, AccessExclusiveLock))
		return;

	check_columns(pub, pub->identity, "a column of the identity of its rows");
	check_columns(pub, pub->columns, "a published column");
	check_columns(pub, pub->partition_by, "a column of the message key");
	rel = relation_open(pub->source, NoLock);
	check_filter(pub, rel);
	if (strcmp(pub->kind, PUBLICATION_TABLE) == 0 &&
		!outbox_source_is_identity(rel, pub->identity))
		refuse_drop(pub, psprintf("unique index of table \"%s\"", RelationGetRelationName(rel)),
					"the last one on the identity of its rows");
	relation_close(rel, NoLock);
}

/*
 * A trigger of the table was dropped, whatever it was called: is one of ours
 * missing now?
 */
static void
check_trigger(Followed *pub)
{
	Relation	rel = relation_open(pub->source, NoLock);
	const char *detail = NULL;

	if (!outbox_source_is_captured(rel, pub->kind))
		detail = "It captures the changes of the table.";
	else if (strcmp(pub->kind, PUBLICATION_TABLE) == 0 && pub->captures_truncate &&
			 !outbox_source_is_guarded(rel))
		detail = "It refuses or publishes TRUNCATE, which makes no events otherwise.";
	if (detail != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop a trigger of table \"%s\" because publication \"%s\" needs it",
						RelationGetRelationName(rel), pub->name),
				 errdetail_internal("%s", detail),
				 errhint("Call outbox.unpublish(%s), which drops it.",
						 quote_literal_cstr(pub->name))));
	relation_close(rel, NoLock);
}

/*
 * Reading the filter says what it lacks now.
 */
static void
check_filter_needs(Followed *pub)
{
	Relation	rel = relation_open(pub->source, AccessShareLock);
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		check_filter(pub, rel);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot take away what the filter of publication \"%s\" uses", pub->name),
				 errdetail("Reading it would fail: %s.", edata->message),
				 errhint("Call outbox.publish with another filter, or outbox.unpublish(%s), first.",
						 quote_literal_cstr(pub->name))));
	}
	PG_END_TRY();
	relation_close(rel, NoLock);
}

static void
check_each(const char *sql, void (*check) (Followed *pub))
{
	List	   *pubs = read_followed(sql);
	ListCell   *lc;

	foreach(lc, pubs)
		check(lfirst(lc));
}

Datum
outbox_objects_dropped(PG_FUNCTION_ARGS)
{
	OutboxOwnerScope scope;

	check_called(fcinfo);
	if (in_own_script())
		PG_RETURN_NULL();
	SPI_connect();
	outbox_owner_enter(&scope);
	query(forget_sql);
	if (outbox_capture_enabled())
	{
		check_each(trigger_sql, check_trigger);
		check_each(all_sql, check_needs);
		check_each(filter_sql, check_filter_needs);
	}
	outbox_owner_leave(&scope);
	SPI_finish();
	PG_RETURN_NULL();
}

/*
 * After ALTER of what a filter may name: a function, a type, their schema.
 */
Datum
outbox_names_altered(PG_FUNCTION_ARGS)
{
	OutboxOwnerScope scope;

	check_called(fcinfo);
	if (in_own_script())
		PG_RETURN_NULL();
	if (!outbox_capture_enabled())
		PG_RETURN_NULL();
	SPI_connect();
	outbox_owner_enter(&scope);
	check_each(filtered_sql, check_filter_needs);
	outbox_owner_leave(&scope);
	SPI_finish();
	PG_RETURN_NULL();
}

/* ---------------- servers ---------------- */

/*
 * Does anything in our tables go by the server's name?
 */
static bool
server_name_used(const char *name)
{
	OutboxOwnerScope scope;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	bool		used;

	values[0] = CStringGetTextDatum(name);
	SPI_connect();
	outbox_owner_enter(&scope);
	if (SPI_execute_with_args("SELECT FROM outbox._publication WHERE server = $1"
							  " UNION ALL SELECT FROM outbox._stream WHERE server = $1"
							  " UNION ALL SELECT FROM outbox._subscription WHERE server = $1"
							  " UNION ALL SELECT FROM outbox._positions() AS p WHERE p.server = $1 AND p.events > 0"
							  " UNION ALL SELECT FROM outbox._events() AS e WHERE e.server = $1"
							  " LIMIT 1", 1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read where server \"%s\" is used", name);
	used = SPI_processed > 0;
	outbox_owner_leave(&scope);
	SPI_finish();
	return used;
}

/*
 * Before ALTER SERVER.  Events in the log name their server, and cannot be
 * changed; so do positions, letters and streams: under another name all of
 * them would wait for a server that does not exist.
 */
Datum
outbox_server_altering(PG_FUNCTION_ARGS)
{
	RenameStmt *stmt;
	ForeignServer *server;

	check_called(fcinfo);
	stmt = (RenameStmt *) ((EventTriggerData *) fcinfo->context)->parsetree;
	if (!IsA(stmt, RenameStmt) || stmt->renameType != OBJECT_FOREIGN_SERVER)
		PG_RETURN_NULL();
	server = GetForeignServerByName(strVal(stmt->object), true);
	if (server != NULL &&
		strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, OUTBOX_KAFKA_WRAPPER) == 0 &&
		server_name_used(server->servername))
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot rename Kafka server \"%s\" because events refer to it by name",
						server->servername),
				 errhint("Publications and subscriptions can be given another server; brokers are changed with ALTER SERVER ... OPTIONS.")));
	PG_RETURN_NULL();
}
