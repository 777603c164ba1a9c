/*-------------------------------------------------------------------------
 *
 * source.c
 *	  Which tables can be published, and what identifies their rows.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/publication.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/catalog.h"
#include "catalog/objectaddress.h"
#include "catalog/partition.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_index.h"
#include "catalog/pg_namespace.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_locale.h"
#include "utils/syscache.h"

#include "common/argument.h"
#include "common/catalog.h"

/* ---------------- the table ---------------- */

/* What is to be said where nothing captures a kind of relation. */
static const char *
relkind_hint(char relkind)
{
	switch (relkind)
	{
		case RELKIND_VIEW:
		case RELKIND_MATVIEW:
			return "Publish the tables that it reads.";
		case RELKIND_FOREIGN_TABLE:
			return "Publish the table where its rows are.";
		default:
			return "Only tables can be published.";
	}
}

static void
refuse(Relation rel, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("cannot publish \"%s\"", RelationGetRelationName(rel)),
			 errdetail_internal("%s", detail),
			 hint ? errhint("%s", hint) : 0));
}

static void
check_kind(Relation rel)
{
	Form_pg_class form = rel->rd_rel;
	char	   *schema = get_namespace_name(form->relnamespace);

	if (IsCatalogRelation(rel) || form->relnamespace == PG_CATALOG_NAMESPACE ||
		strcmp(schema, "information_schema") == 0)
		refuse(rel, "It is a system catalog.", NULL);
	if (form->relkind != RELKIND_RELATION && form->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot publish \"%s\"", RelationGetRelationName(rel)),
				 errdetail_relkind_not_supported(form->relkind),
				 errhint("%s", relkind_hint(form->relkind))));
	if (form->relnamespace == outbox_schema_oid())
		refuse(rel, "It belongs to pg_outbox itself.", NULL);
	if (form->relpersistence == RELPERSISTENCE_TEMP)
		refuse(rel, "Its rows are seen by one session only: it is a temporary table.", NULL);
	if (form->relpersistence == RELPERSISTENCE_UNLOGGED)
		refuse(rel, "An unlogged table is emptied by a crash, which makes no events.",
			   "Run ALTER TABLE ... SET LOGGED first.");
}

/*
 * A table is captured with its partitions, but triggers are not inherited.
 */
static void
check_inheritance(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	List	   *children;
	ListCell   *lc;

	if (rel->rd_rel->relkind == RELKIND_RELATION)
	{
		if (rel->rd_rel->relhassubclass && find_inheritance_children(relid, NoLock) != NIL)
			refuse(rel, "Other tables inherit from it, whose rows would not be captured.",
				   "Use a partitioned table, or publish tables without inheritance.");
		if (!rel->rd_rel->relispartition && has_superclass(relid))
			refuse(rel, "It inherits from another table.",
				   "Use a partitioned table, or publish tables without inheritance.");
		return;
	}

	children = find_all_inheritors(relid, AccessShareLock, NULL);
	foreach(lc, children)
	{
		Oid			child = lfirst_oid(lc);

		if (get_rel_relkind(child) == RELKIND_FOREIGN_TABLE)
			refuse(rel, psprintf("Its partition \"%s\" is a foreign table.", get_rel_name(child)),
				   "Publish the table where its rows are.");
	}
}

void
outbox_source_check_owner(Oid relid)
{
	char		relkind = get_rel_relkind(relid);

	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(relkind), get_rel_name(relid));
}

Relation
outbox_source_open(Oid relid, LOCKMODE lockmode)
{
	Relation	rel;

	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot publish tables of a database with encoding SQL_ASCII"),
				 errdetail("Events are sent in UTF-8, and SQL_ASCII does not say what its bytes mean."),
				 errhint("Move the data to a database with encoding UTF8.")));
	rel = outbox_argument_relation(relid, lockmode);
	check_kind(rel);
	outbox_source_check_owner(relid);
	check_inheritance(rel);
	return rel;
}

/* ---------------- identity ---------------- */

/*
 * Why an index cannot identify rows, NULL if it can.  That its columns may be
 * null is another matter, of them and not of the index: nullable_column().
 */
static const char *
index_problem(Form_pg_index index, HeapTuple tup, Relation rel)
{
	if (!index->indisunique)
		return "It is not unique.";
	if (!index->indisvalid || !index->indislive)
		return "It is not valid.";
	if (!index->indimmediate)
		return "It is deferrable: within a transaction two rows may have the same key.";
	if (!heap_attisnull(tup, Anum_pg_index_indpred, NULL))
		return "It is partial: it does not cover every row.";
	if (!heap_attisnull(tup, Anum_pg_index_indexprs, NULL))
		return "It has expressions instead of columns.";

	for (int i = 0; i < index->indnkeyatts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel),
											  index->indkey.values[i] - 1);
		bool		isnull;
		Datum		d = SysCacheGetAttr(INDEXRELID, tup, Anum_pg_index_indcollation, &isnull);
		Oid			collation = ((oidvector *) DatumGetPointer(d))->values[i];

		if (OidIsValid(collation) && !get_collation_isdeterministic(collation))
			return psprintf("The collation of its column \"%s\" is not deterministic: equal keys may have different texts.",
							NameStr(att->attname));
	}
	return NULL;
}

/*
 * The first column of the index that may be null, NULL if none.
 */
static const char *
nullable_column(Form_pg_index index, Relation rel)
{
	for (int i = 0; i < index->indnkeyatts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel),
											  index->indkey.values[i] - 1);

		if (!att->attnotnull)
			return NameStr(att->attname);
	}
	return NULL;
}

static List *
index_columns(Form_pg_index index, Relation rel)
{
	List	   *names = NIL;

	for (int i = 0; i < index->indnkeyatts; i++)
		names = lappend(names,
						pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel),
													  index->indkey.values[i] - 1)->attname)));
	return names;
}

/*
 * The index that is meant; InvalidOid if the table has no primary key.
 */
static Oid
find_identity_index(Relation rel, const char *index_name)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Oid			indexid = lfirst_oid(lc);
		HeapTuple	tup = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(indexid));
		bool		found;

		if (!HeapTupleIsValid(tup))
			continue;
		if (index_name != NULL)
			found = strcmp(get_rel_name(indexid), index_name) == 0;
		else
			found = ((Form_pg_index) GETSTRUCT(tup))->indisprimary;
		ReleaseSysCache(tup);
		if (found)
			return indexid;
	}
	if (index_name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" has no index \"%s\"",
						RelationGetRelationName(rel), index_name),
				 errhint("Parameter \"identity\" is the name, without schema, of a unique index of the table.")));
	return InvalidOid;
}

List *
outbox_source_identity(Relation rel, const char *index_name)
{
	Oid			indexid = find_identity_index(rel, index_name);
	HeapTuple	tup;
	const char *problem;
	const char *nullable;
	List	   *names = NIL;

	if (!OidIsValid(indexid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errdetail("An event says by its key which row it is about."),
				 errhint("Add a primary key, or name a unique index on NOT NULL columns with parameter \"identity\".")));

	tup = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(indexid));
	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for index %u", indexid);
	problem = index_problem((Form_pg_index) GETSTRUCT(tup), tup, rel);
	nullable = problem ? NULL : nullable_column((Form_pg_index) GETSTRUCT(tup), rel);
	if (nullable != NULL)
		problem = psprintf("Its column \"%s\" may be null.", nullable);
	if (problem == NULL)
		names = index_columns((Form_pg_index) GETSTRUCT(tup), rel);
	ReleaseSysCache(tup);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" cannot identify the rows of table \"%s\"",
						get_rel_name(indexid), RelationGetRelationName(rel)),
				 errdetail_internal("%s", problem),
				 errhint("Name another unique index on NOT NULL columns with parameter \"identity\".")));
	return names;
}

bool
outbox_source_is_identity(Relation rel, List *columns)
{
	List	   *indexes = RelationGetIndexList(rel);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		HeapTuple	tup = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		ListCell   *name;
		List	   *names;

		if (!HeapTupleIsValid(tup))
			continue;
		if (index_problem((Form_pg_index) GETSTRUCT(tup), tup, rel) == NULL)
		{
			names = index_columns((Form_pg_index) GETSTRUCT(tup), rel);
			found |= list_length(names) == list_length(columns);
			foreach(name, names)
				found &= outbox_list_has(columns, lfirst(name));
		}
		ReleaseSysCache(tup);
		if (found)
			return true;
	}
	return false;
}

/* ---------------- names ---------------- */

char *
outbox_source_name(Relation rel)
{
	char	   *schema = get_namespace_name(RelationGetNamespace(rel));

	if (strcmp(schema, "public") == 0)
		return pstrdup(RelationGetRelationName(rel));
	return psprintf("%s.%s", schema, RelationGetRelationName(rel));
}

char *
outbox_source_topic(Relation rel, const char *pattern)
{
	const struct
	{
		const char *name;
		const char *value;
	}			parts[] =
	{
		{"{database}", get_database_name(MyDatabaseId)},
		{"{schema}", get_namespace_name(RelationGetNamespace(rel))},
		{"{table}", RelationGetRelationName(rel)}
	};
	StringInfoData buf;

	initStringInfo(&buf);
	while (*pattern != '\0')
	{
		int			i;

		for (i = 0; i < lengthof(parts); i++)
			if (strncmp(pattern, parts[i].name, strlen(parts[i].name)) == 0)
				break;
		if (i < lengthof(parts))
		{
			appendStringInfoString(&buf, parts[i].value);
			pattern += strlen(parts[i].name);
		}
		else
			appendStringInfoChar(&buf, *pattern++);
	}
	return buf.data;
}
