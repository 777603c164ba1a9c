/*-------------------------------------------------------------------------
 *
 * source_trigger.c
 *	  The triggers of published tables.
 *
 * A table has one row trigger for all its publications; PostgreSQL gives its
 * partitions copies of it.  A statement trigger on the table and on each of
 * its partitions sees TRUNCATE; whether it refuses or records it is decided when
 * it fires, so that the option changes without a lock on the table.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/publication.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "common/catalog.h"

#define TRUNCATE_TRIGGER "outbox_truncate"
#define TRUNCATE_FUNCTION "_capture_truncate"

static const char *
capture_function(const char *kind)
{
	return strcmp(kind, PUBLICATION_OUTBOX) == 0 ? "_capture_adopted" : "_capture";
}

static const char *
capture_trigger(const char *kind)
{
	return strcmp(kind, PUBLICATION_OUTBOX) == 0 ? "outbox_adopted" : "outbox_capture";
}

static Oid
trigger_function_oid(const char *name)
{
	return LookupFuncName(list_make2(makeString(OUTBOX_SCHEMA), makeString(pstrdup(name))),
						  0, NULL, false);
}

/*
 * The trigger that calls the function, whatever it is called; NULL: none.
 */
static const char *
find_trigger(Relation rel, const char *function)
{
	Oid			funcid = trigger_function_oid(function);
	TriggerDesc *desc = rel->trigdesc;

	for (int i = 0; desc != NULL && i < desc->numtriggers; i++)
		if (desc->triggers[i].tgfoid == funcid)
			return desc->triggers[i].tgname;
	return NULL;
}

static bool
has_trigger(Relation rel, const char *function)
{
	return find_trigger(rel, function) != NULL;
}

bool
outbox_source_is_captured(Relation rel, const char *kind)
{
	return has_trigger(rel, capture_function(kind));
}

bool
outbox_source_is_guarded(Relation rel)
{
	return has_trigger(rel, TRUNCATE_FUNCTION);
}

/*
 * By the catalog, so that the table need not be locked.
 */
static bool
table_has_trigger(Oid relid, const char *function)
{
	Oid			funcid = trigger_function_oid(function);
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tup;
	bool		found = false;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (!found && HeapTupleIsValid(tup = systable_getnext(scan)))
		found = ((Form_pg_trigger) GETSTRUCT(tup))->tgfoid == funcid;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static void
run_utility(const char *sql)
{
	SPI_connect();
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
}

static const char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/*
 * A partition whose partitioned table is published has a copy of its trigger,
 * which goes when it is detached.
 */
static void
check_not_in_published(Relation rel, const char *kind)
{
	Oid			funcid = trigger_function_oid(capture_function(kind));
	TriggerDesc *desc = rel->trigdesc;

	for (int i = 0; desc != NULL && i < desc->numtriggers; i++)
		if (desc->triggers[i].tgfoid == funcid && desc->triggers[i].tgisclone)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot publish partition \"%s\"", RelationGetRelationName(rel)),
					 errdetail("The partitioned table that it belongs to is published."),
					 errhint("Publish the partitioned table a second time, with a filter.")));
}

/*
 * A partition of the table that is published itself has the trigger already;
 * then PostgreSQL could not copy the table's.
 */
static void
check_partitions(Oid relid, const char *kind)
{
	List	   *oids = find_all_inheritors(relid, AccessShareLock, NULL);
	ListCell   *lc;

	foreach(lc, oids)
		if (lfirst_oid(lc) != relid &&
			table_has_trigger(lfirst_oid(lc), capture_function(kind)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot publish partitioned table \"%s\"", get_rel_name(relid)),
				 errdetail("Its partition \"%s\" is published itself.",
						   get_rel_name(lfirst_oid(lc))),
				 errhint("Unpublish the partition first.")));
}

void
outbox_source_create_triggers(Oid relid, const char *kind)
{
	Relation	rel = relation_open(relid, NoLock);

	check_not_in_published(rel, kind);
	relation_close(rel, NoLock);
	if (!table_has_trigger(relid, capture_function(kind)))
	{
		check_partitions(relid, kind);
		run_utility(psprintf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s"
							 " FOR EACH ROW EXECUTE FUNCTION outbox.%s()",
							 capture_trigger(kind), qualified_name(relid),
							 capture_function(kind)));
	}
	if (strcmp(kind, PUBLICATION_TABLE) == 0)
		outbox_source_guard_partitions(relid);
}

/*
 * With the rights of the extension's owner: partitions may be somebody else's.
 * Only those that lack the trigger are locked, by CREATE TRIGGER, until the
 * transaction ends.  A table whose changes are not captured has nothing to guard, yet: while a dump
 * is restored publications come before triggers, and both are in the dump.
 */
void
outbox_source_guard_partitions(Oid relid)
{
	List	   *oids = find_all_inheritors(relid, AccessShareLock, NULL);
	OutboxOwnerScope scope;
	ListCell   *lc;

	outbox_owner_enter(&scope);
	foreach(lc, oids)
		if (table_has_trigger(lfirst_oid(lc), capture_function(PUBLICATION_TABLE)) &&
			!table_has_trigger(lfirst_oid(lc), TRUNCATE_FUNCTION))
		run_utility(psprintf("CREATE TRIGGER " TRUNCATE_TRIGGER " BEFORE TRUNCATE ON %s"
							 " FOR EACH STATEMENT EXECUTE FUNCTION outbox."
							 TRUNCATE_FUNCTION "()",
							 qualified_name(lfirst_oid(lc))));
	outbox_owner_leave(&scope);
}

static void
drop_trigger(Oid relid, const char *function)
{
	Relation	rel = relation_open(relid, NoLock);
	const char *name = find_trigger(rel, function);

	name = name ? quote_identifier(pstrdup(name)) : NULL;
	relation_close(rel, NoLock);
	if (name != NULL)
		run_utility(psprintf("DROP TRIGGER %s ON %s", name, qualified_name(relid)));
}

void
outbox_source_drop_triggers(Oid relid, const char *kind)
{
	List	   *oids;
	OutboxOwnerScope scope;
	ListCell   *lc;

	LockRelationOid(relid, AccessExclusiveLock);	/* that of DROP TRIGGER */
	if (get_rel_name(relid) == NULL)
		return;					/* dropped while we waited */
	oids = find_all_inheritors(relid, AccessExclusiveLock, NULL);
	drop_trigger(relid, capture_function(kind));
	if (strcmp(kind, PUBLICATION_TABLE) != 0)
		return;

	outbox_owner_enter(&scope);
	foreach(lc, oids)
		drop_trigger(lfirst_oid(lc), TRUNCATE_FUNCTION);
	outbox_owner_leave(&scope);
}
