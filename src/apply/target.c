/*-------------------------------------------------------------------------
 *
 * target.c
 *	  What a replica looks like to the applier: columns, key, version, plans.
 *
 * Descriptors live in a hash table of the backend, each in a memory context
 * of its own.  The callbacks of the caches only clear "valid" of the entry;
 * the next acquire that finds it cleared takes the descriptor out of the table
 * and frees it, or leaves that to the last release if somebody further up the
 * stack (a trigger of the target that applies events to it) is using it.
 *
 * The relation is locked with RowExclusiveLock until the end of the
 * transaction, so a descriptor that was valid at acquire stays right.  Names
 * of schemas and types, which plans contain, are under no lock: a plan is never
 * made anew from an old name except where one changes during a single call.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/target.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "common/argument.h"
#include "common/catalog.h"
#include "common/fault.h"

#define DEFAULT_VERSION_COLUMN "version"

typedef struct CachedTarget
{
	Oid			relid;			/* hash key */
	bool		valid;			/* cleared by invalidation */
	OutboxTarget *target;		/* NULL until it is built */
} CachedTarget;

static HTAB *targets = NULL;

/* ---------------- the cache ---------------- */

static void
targets_invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CachedTarget *entry;

	if (OidIsValid(relid))
	{
		entry = hash_search(targets, &relid, HASH_FIND, NULL);
		if (entry != NULL)
			entry->valid = false;
		return;
	}
	hash_seq_init(&status, targets);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->valid = false;
}

/*
 * A schema has another name, and so have the tables and operators in it; or an
 * operator is in another schema.
 */
static void
targets_invalidate_names(Datum arg, int cacheid, uint32 hashvalue)
{
	targets_invalidate((Datum) 0, InvalidOid);
}

static bool
uses_type(const OutboxTarget *target, uint32 hashvalue)
{
	for (int i = 0; i < target->ncolumns; i++)
		if (target->columns[i].type_hash == hashvalue)
			return true;
	return false;
}

/*
 * A type has changed, perhaps its name.
 */
static void
targets_invalidate_type(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS status;
	CachedTarget *entry;

	hash_seq_init(&status, targets);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (hashvalue == 0 || entry->target == NULL || uses_type(entry->target, hashvalue))
			entry->valid = false;
}

static void
targets_init(void)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(CachedTarget);
	targets = hash_create("pg_outbox targets", 32, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(targets_invalidate, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, targets_invalidate_names, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, targets_invalidate_names, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, targets_invalidate_type, (Datum) 0);
}

static void
free_plan(SPIPlanPtr plan)
{
	if (plan != NULL)
		SPI_freeplan(plan);
}

static void
target_free(OutboxTarget *target)
{
	free_plan(target->upsert_plan);
	free_plan(target->delete_plan);
	free_plan(target->classify_plan);
	free_plan(target->older_plan);
	free_plan(target->sweep_plan);
	for (int i = 0; i < target->ncolumns; i++)
		free_plan(target->columns[i].nested_plan);
	MemoryContextDelete(target->context);
}

/* ---------------- what the subscription says ---------------- */

static List *
names_from_array(Datum array)
{
	Datum	   *elems;
	int			nelems;
	List	   *names = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, NULL, &nelems);
	for (int i = 0; i < nelems; i++)
		names = lappend(names, TextDatumGetCString(elems[i]));
	return names;
}

static List *
result_names(int column)
{
	bool		isnull;
	Datum		array = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
									  column, &isnull);

	return isnull ? NIL : names_from_array(array);
}

/*
 * Options of the target's subscriptions, which all agree (replicate() sees
 * to it); defaults if there is none.  Allocated in "context".
 */
static void
load_options(Oid relid, MemoryContext context, OutboxTargetOptions *options)
{
	static const char sql[] =
	"SELECT key_columns, version_column, columns FROM outbox._subscription"
	" WHERE target = $1 LIMIT 1";
	OutboxOwnerScope scope;
	Oid			argtypes[1] = {REGCLASSOID};
	Datum		args[1] = {ObjectIdGetDatum(relid)};

	memset(options, 0, sizeof(*options));
	outbox_owner_enter(&scope);
	SPI_connect();
	if (SPI_execute_with_args(sql, 1, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read subscriptions");
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		options->keys = result_names(1);
		options->version_column = SPI_getvalue(SPI_tuptable->vals[0],
											   SPI_tuptable->tupdesc, 2);
		if (options->version_column != NULL)
			options->version_column = MemoryContextStrdup(context, options->version_column);
		options->columns = result_names(3);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	outbox_owner_leave(&scope);
}

/* ---------------- checks ---------------- */

static void
check_relation(Relation rel)
{
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be a replica", RelationGetRelationName(rel)),
				 errdetail("Only ordinary and partitioned tables can be.")));
	if (IsCatalogRelation(rel) || RelationGetNamespace(rel) == outbox_schema_oid())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"%s\" cannot be a replica", RelationGetRelationName(rel)),
				 errdetail("It is a table of the system or of extension \"%s\".",
						   OUTBOX_EXTENSION)));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be a replica", RelationGetRelationName(rel)),
				 errdetail("It is a temporary table; what is remembered of deleted keys outlives it.")));
}

static void
check_rights(Relation rel)
{
	AclMode		needed = ACL_SELECT | ACL_INSERT | ACL_UPDATE | ACL_DELETE;

	if (pg_class_aclmask(RelationGetRelid(rel), GetUserId(), needed, ACLMASK_ALL) == needed)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for table %s", RelationGetRelationName(rel)),
			 errdetail("Applying events needs SELECT, INSERT, UPDATE and DELETE on the table.")));
}

/*
 * A row that a policy hides cannot be told from one that is not there: its
 * delete would leave a tombstone beside it.  InvalidOid: the current user.
 */
static void
check_policies(Relation rel, Oid role)
{
	if (check_enable_rls(RelationGetRelid(rel), role, true) != RLS_ENABLED)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot apply events to \"%s\" under its row-level security policies",
					RelationGetRelationName(rel)),
			 errdetail("A row that they hide from role \"%s\" would be taken for one that does not exist.",
					   GetUserNameFromId(OidIsValid(role) ? role : GetUserId(), false)),
			 errhint("Apply events as the table's owner, without FORCE ROW LEVEL SECURITY, or as a role with BYPASSRLS.")));
}

static AttrNumber
find_column(Relation rel, const char *name)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(rel))));
	return attnum;
}

static AttrNumber
find_version_column(Relation rel, const char *name)
{
	const char *wanted = name ? name : DEFAULT_VERSION_COLUMN;
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), wanted);
	Form_pg_attribute att;

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("relation \"%s\" has no version column \"%s\"",
						RelationGetRelationName(rel), wanted),
				 errhint("A replica needs a column of type bigint for the version of each row: ALTER TABLE %s ADD COLUMN %s bigint.",
						 RelationGetRelationName(rel), quote_identifier(wanted))));
	att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	if (att->atttypid != INT8OID || att->attgenerated != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("version column \"%s\" of relation \"%s\" must be an ordinary column of type bigint",
						wanted, RelationGetRelationName(rel))));
	return attnum;
}

/* ---------------- the key ---------------- */

/*
 * Can the index decide ON CONFLICT for exactly these columns?
 */
static bool
index_is_arbiter(Relation index, const List *attnums)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisunique || !form->indisvalid || !form->indimmediate ||
		form->indisexclusion ||
		form->indnkeyatts != list_length(attnums) ||
		index->rd_rel->relam != BTREE_AM_OID ||
		RelationGetIndexPredicate(index) != NIL ||
		RelationGetIndexExpressions(index) != NIL)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
		if (!list_member_int(attnums, form->indkey.values[i]))
			return false;
	return true;
}

static Relation
find_arbiter(Relation rel, const List *attnums)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index_is_arbiter(index, attnums))
			return index;
		index_close(index, AccessShareLock);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("relation \"%s\" has no usable unique index on its key",
					RelationGetRelationName(rel)),
			 errdetail("It must be valid, not deferrable, not partial and without expressions.")));
}

/*
 * In the order of the table.  A deferrable key is one, too: before 18 the
 * relation cache does not count it.
 */
static List *
primary_key_columns(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	Bitmapset  *attrs = NULL;
	List	   *attnums = NIL;
	ListCell   *lc;
	int			x = -1;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		for (int i = 0; form->indisprimary && i < form->indnkeyatts; i++)
			attrs = bms_add_member(attrs, form->indkey.values[i]);
		index_close(index, AccessShareLock);
	}
	while ((x = bms_next_member(attrs, x)) >= 0)
		attnums = lappend_int(attnums, x);
	if (attnums == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("relation \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errhint("Add one, or name the columns of a unique index in outbox.replicate(..., key => ...).")));
	return attnums;
}

static List *
key_columns(Relation rel, const OutboxTargetOptions *options)
{
	List	   *attnums = NIL;
	ListCell   *lc;

	if (options->keys == NIL)
		return primary_key_columns(rel);
	foreach(lc, options->keys)
	{
		AttrNumber	attnum = find_column(rel, lfirst(lc));

		if (!TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attnotnull)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("key column \"%s\" of relation \"%s\" is not marked NOT NULL",
							(char *) lfirst(lc), RelationGetRelationName(rel))));
		if (list_member_int(attnums, attnum))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("key column \"%s\" is named twice", (char *) lfirst(lc))));
		attnums = lappend_int(attnums, attnum);
	}
	return attnums;
}

/*
 * Keys are compared by their text outside of the index: equal must mean the
 * same text.  True of nearly every type; numeric, float and char(n) are made so.
 */
static void
check_key_column(Relation rel, const OutboxTargetColumn *col, Oid opfamily, Oid opcintype)
{
	Oid			proc = get_opfamily_proc(opfamily, opcintype, opcintype, BTEQUALIMAGE_PROC);

	if (OidIsValid(proc) &&
		DatumGetBool(OidFunctionCall1Coll(proc, col->collation, ObjectIdGetDatum(opcintype))))
		return;
	if (opcintype == NUMERICOID || opcintype == FLOAT4OID || opcintype == FLOAT8OID)
		return;
	if (opcintype == BPCHAROID && get_collation_isdeterministic(col->collation))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("column \"%s\" of relation \"%s\" cannot be part of a replica's key",
					col->name, RelationGetRelationName(rel)),
			 errdetail("Different texts of type %s can be equal under its collation.",
					   format_type_be(col->typid))));
}

static char *
qualified_operator(Oid oproid)
{
	HeapTuple	tup = SearchSysCache1(OPEROID, ObjectIdGetDatum(oproid));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for operator %u", oproid);
	form = (Form_pg_operator) GETSTRUCT(tup);
	result = psprintf("OPERATOR(%s.%s)",
					  quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tup);
	return result;
}

static int
column_index(const OutboxTarget *target, Relation rel, AttrNumber attnum)
{
	const char *name = NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname);

	for (int i = 0; i < target->ncolumns; i++)
		if (strcmp(target->columns[i].name, name) == 0)
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("column \"%s\" of relation \"%s\" cannot be written",
					name, RelationGetRelationName(rel)),
			 errdetail("It is a generated column.")));
}

/*
 * Writing rows in the order of the key is easier on its index.  It must not be
 * done where the order shows: to triggers, and to other unique columns, whose
 * values may wander from row to row in the order of the events.  Partitions may
 * have either, unlike their parent, and get them without a message to it.
 */
static bool
order_is_free(Relation rel, Oid arbiter)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	bool		result = true;

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return false;
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		if (!rel->trigdesc->triggers[i].tgisinternal)
			return false;
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (RelationGetRelid(index) != arbiter &&
			(index->rd_index->indisunique || index->rd_index->indisexclusion))
			result = false;
		index_close(index, AccessShareLock);
	}
	return result;
}

static void
build_key_order(OutboxTarget *target, Relation index)
{
	target->key_order = palloc0(sizeof(SortSupportData) * target->nkeys);
	for (int i = 0; i < target->nkeys; i++)
	{
		SortSupport order = &target->key_order[i];
		Oid			opcintype = index->rd_opcintype[i];

		order->ssup_cxt = target->context;
		order->ssup_collation = index->rd_indcollation[i];
		order->ssup_attno = i + 1;
		PrepareSortSupportFromOrderingOp(get_opfamily_member(index->rd_opfamily[i],
															 opcintype, opcintype,
															 BTLessStrategyNumber),
										 order);
	}
}

static void
build_key(OutboxTarget *target, Relation rel, const List *attnums)
{
	Relation	index = find_arbiter(rel, attnums);

	target->nkeys = index->rd_index->indnkeyatts;
	target->keys = palloc(sizeof(int) * target->nkeys);
	target->key_operators = palloc(sizeof(char *) * target->nkeys);
	for (int i = 0; i < target->nkeys; i++)
	{
		int			c = column_index(target, rel, index->rd_index->indkey.values[i]);
		OutboxTargetColumn *col = &target->columns[c];
		Oid			opfamily = index->rd_opfamily[i];
		Oid			opcintype = index->rd_opcintype[i];
		Oid			equal = get_opfamily_member(opfamily, opcintype, opcintype,
												BTEqualStrategyNumber);
		Oid			out;
		bool		isvarlena;

		check_key_column(rel, col, opfamily, opcintype);
		getTypeOutputInfo(col->typid, &out, &isvarlena);
		fmgr_info_cxt(out, &col->output, target->context);
		fmgr_info_cxt(get_opcode(equal), &col->equal, target->context);
		col->key_collation = index->rd_indcollation[i];
		col->is_key = true;
		col->is_numeric = opcintype == NUMERICOID;
		col->is_float = opcintype == FLOAT4OID || opcintype == FLOAT8OID;
		col->is_padded = opcintype == BPCHAROID;
		target->keys[i] = c;
		target->key_operators[i] = qualified_operator(equal);
	}
	if (order_is_free(rel, RelationGetRelid(index)))
		build_key_order(target, index);
	index_close(index, AccessShareLock);
}

/* ---------------- columns ---------------- */

/*
 * Types whose text form does not depend on any setting.
 */
static bool
type_is_plain(Oid typid)
{
	switch (typid)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case UUIDOID:
		case NUMERICOID:
		case JSONOID:
		case JSONBOID:
			return true;
		default:
			return false;
	}
}

static OutboxConversion
conversion_of(const OutboxTargetColumn *col)
{
	Oid			base = getBaseType(col->typid);

	switch (col->typid)
	{
		case INT2OID:
			return OUTBOX_CONV_INT2;
		case INT4OID:
			return OUTBOX_CONV_INT4;
		case INT8OID:
			return OUTBOX_CONV_INT8;
		case BOOLOID:
			return OUTBOX_CONV_BOOL;
		case TEXTOID:
			return OUTBOX_CONV_TEXT;
		case VARCHAROID:
			return col->typmod < 0 ? OUTBOX_CONV_TEXT : OUTBOX_CONV_INPUT;
		case JSONOID:
		case JSONBOID:
			return OUTBOX_CONV_JSON;
	}
	if (base == JSONOID || base == JSONBOID)
		return OUTBOX_CONV_JSON;
	if (OidIsValid(get_element_type(base)) || type_is_rowtype(base))
		return OUTBOX_CONV_NESTED;
	return OUTBOX_CONV_INPUT;
}

static void
build_column(OutboxTarget *target, OutboxTargetColumn *col, Form_pg_attribute att)
{
	Oid			input;

	strlcpy(col->name, NameStr(att->attname), NAMEDATALEN);
	col->name_len = strlen(col->name);
	col->typid = att->atttypid;
	col->type_hash = GetSysCacheHashValue1(TYPEOID, ObjectIdGetDatum(att->atttypid));
	col->typmod = att->atttypmod;
	col->collation = att->attcollation;
	get_typlenbyval(att->atttypid, &col->typlen, &col->typbyval);
	col->is_domain = get_typtype(att->atttypid) == TYPTYPE_DOMAIN;
	col->conversion = conversion_of(col);
	getTypeInputInfo(att->atttypid, &input, &col->ioparam);
	fmgr_info_cxt(input, &col->input, target->context);
	if (!type_is_plain(getBaseType(att->atttypid)))
		target->pin_settings = true;
}

static bool
names_contain(const List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
		return true;
	return false;
}

/*
 * The columns that events are written to: all of them, or those the
 * subscription names and the key and the version.  A generated column has its
 * expression, a GENERATED ALWAYS identity outside the key its own sequence.
 */
static void
build_columns(OutboxTarget *target, Relation rel, const OutboxTargetOptions *options,
			  const List *keys, AttrNumber version)
{
	TupleDesc	desc = RelationGetDescr(rel);
	ListCell   *lc;

	foreach(lc, options->columns)
		(void) find_column(rel, lfirst(lc));

	target->columns = palloc0(sizeof(OutboxTargetColumn) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		needed = list_member_int(keys, att->attnum) || att->attnum == version;

		if (att->attisdropped || att->attgenerated != '\0')
			continue;
		if (att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS && !needed)
			continue;
		if (!needed && options->columns != NIL &&
			!names_contain(options->columns, NameStr(att->attname)))
			continue;
		if (att->attidentity != '\0')
			target->overriding = true;
		build_column(target, &target->columns[target->ncolumns++], att);
	}
}

static void
describe_column(TupleDesc desc, int attnum, int number, const OutboxTargetColumn *col)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "c%d", number);
	TupleDescInitEntry(desc, attnum, name, col->typid, col->typmod, 0);
	TupleDescInitEntryCollation(desc, attnum, col->collation);
}

/*
 * Shapes of the batch relations: "rows" has c1 .. cn for the columns, "keys"
 * has ord, version, c2 .. cn for the key columns.
 */
static void
build_descriptors(OutboxTarget *target)
{
	target->rows_desc = CreateTemplateTupleDesc(target->ncolumns);
	for (int i = 0; i < target->ncolumns; i++)
		describe_column(target->rows_desc, i + 1, i + 1, &target->columns[i]);

	target->keys_desc = CreateTemplateTupleDesc(target->nkeys + 2);
	TupleDescInitEntry(target->keys_desc, 1, "ord", INT4OID, -1, 0);
	TupleDescInitEntry(target->keys_desc, 2, "version", INT8OID, -1, 0);
	for (int i = 0; i < target->nkeys; i++)
		describe_column(target->keys_desc, i + 3, i + 2, &target->columns[target->keys[i]]);
}

static OutboxTarget *
target_build(Relation rel, const OutboxTargetOptions *options)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_outbox target",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	OutboxTarget *target = palloc0(sizeof(OutboxTarget));
	List	   *keys;
	AttrNumber	version;

	check_relation(rel);
	target->relid = RelationGetRelid(rel);
	target->context = context;
	target->name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											  RelationGetRelationName(rel));
	keys = key_columns(rel, options);
	version = find_version_column(rel, options->version_column);
	if (list_member_int(keys, version))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("version column of relation \"%s\" is part of its key",
						RelationGetRelationName(rel))));
	build_columns(target, rel, options, keys, version);
	target->version_column = column_index(target, rel, version);
	target->columns[target->version_column].is_version = true;
	build_key(target, rel, keys);
	build_descriptors(target);
	MemoryContextSwitchTo(old);
	return target;
}

void
outbox_target_check(Oid relid, const OutboxTargetOptions *options)
{
	Relation	rel = outbox_argument_relation(relid, RowExclusiveLock);
	OutboxTarget *target = target_build(rel, options);

	target_free(target);
	check_policies(rel, rel->rd_rel->relowner);
	table_close(rel, NoLock);
}

/*
 * Let go of what the entry has; whoever is still using it frees it.
 */
static void
retire(CachedTarget *entry)
{
	OutboxTarget *target = entry->target;

	entry->target = NULL;
	if (target != NULL && target->in_use == 0)
		target_free(target);
}

/*
 * Let go of what is not valid any more: of relations that are gone nobody will
 * ask for it.
 */
static void
sweep_targets(void)
{
	HASH_SEQ_STATUS status;
	CachedTarget *entry;

	hash_seq_init(&status, targets);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (!entry->valid && entry->target != NULL && entry->target->in_use == 0)
		{
			retire(entry);
			hash_search(targets, &entry->relid, HASH_REMOVE, NULL);
		}
}

static void
build_entry(CachedTarget *entry, Relation rel)
{
	OutboxTargetOptions options;
	OutboxTarget *target;

	retire(entry);
	sweep_targets();
	/* first: an invalidation while we build must not get lost */
	entry->valid = true;
	load_options(entry->relid, CurrentMemoryContext, &options);
	OUTBOX_FAULT("target-options");
	target = target_build(rel, &options);
	MemoryContextSetParent(target->context, CacheMemoryContext);
	entry->target = target;
}

OutboxTarget *
outbox_target_acquire(Oid relid)
{
	Relation	rel = outbox_argument_relation(relid, RowExclusiveLock);
	CachedTarget *entry;
	bool		found;

	if (targets == NULL)
		targets_init();
	check_rights(rel);
	check_policies(rel, InvalidOid);

	entry = hash_search(targets, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->target = NULL;
		entry->valid = false;
	}
	if (entry->target == NULL || !entry->valid)
		build_entry(entry, rel);
	table_close(rel, NoLock);
	entry->target->in_use++;
	return entry->target;
}

void
outbox_target_release(OutboxTarget *target)
{
	CachedTarget *entry;

	if (--target->in_use > 0)
		return;
	entry = hash_search(targets, &target->relid, HASH_FIND, NULL);
	if (entry == NULL || entry->target != target)
		target_free(target);	/* retired meanwhile */
}

/* ---------------- plans ---------------- */

static SPIPlanPtr
prepare(const char *sql, int nargs, Oid *argtypes)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, argtypes, CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep plan");
	return plan;
}

static void
append_update_list(StringInfo sql, const OutboxTarget *target)
{
	const char *separator = "";

	for (int i = 0; i < target->ncolumns; i++)
	{
		const char *name;

		if (target->columns[i].is_key)
			continue;
		name = quote_identifier(target->columns[i].name);
		appendStringInfo(sql, "%s%s = excluded.%s", separator, name, name);
		separator = ", ";
	}
}

/*
 * Rows are written one by one in the order in which they are read, and what
 * was written comes back as version and key: see replica.c.
 */
SPIPlanPtr
outbox_target_upsert_plan(OutboxTarget *target)
{
	StringInfoData sql;
	const char *version = quote_identifier(target->columns[target->version_column].name);

	if (target->upsert_plan != NULL)
		return target->upsert_plan;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s AS t (", target->name);
	for (int i = 0; i < target->ncolumns; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "", quote_identifier(target->columns[i].name));
	appendStringInfo(&sql, ")%s SELECT ", target->overriding ? " OVERRIDING SYSTEM VALUE" : "");
	for (int i = 0; i < target->ncolumns; i++)
		appendStringInfo(&sql, "%sb.c%d", i ? ", " : "", i + 1);
	appendStringInfoString(&sql, " FROM " OUTBOX_ROWS_RELATION
						   " b ON CONFLICT (");
	for (int i = 0; i < target->nkeys; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "",
						 quote_identifier(target->columns[target->keys[i]].name));
	appendStringInfoString(&sql, ") DO UPDATE SET ");
	append_update_list(&sql, target);
	appendStringInfo(&sql, " WHERE (t.%s OPERATOR(pg_catalog.<) excluded.%s) IS NOT FALSE"
					 " RETURNING t.%s", version, version, version);
	for (int i = 0; i < target->nkeys; i++)
		appendStringInfo(&sql, ", t.%s", quote_identifier(target->columns[target->keys[i]].name));
	target->upsert_plan = prepare(sql.data, 0, NULL);
	return target->upsert_plan;
}

static void
append_key_condition(StringInfo sql, const OutboxTarget *target)
{
	for (int i = 0; i < target->nkeys; i++)
		appendStringInfo(sql, "%st.%s %s b.c%d", i ? " AND " : "",
						 quote_identifier(target->columns[target->keys[i]].name),
						 target->key_operators[i], i + 2);
}

SPIPlanPtr
outbox_target_delete_plan(OutboxTarget *target)
{
	StringInfoData sql;
	const char *version = quote_identifier(target->columns[target->version_column].name);

	if (target->delete_plan != NULL)
		return target->delete_plan;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s t USING " OUTBOX_KEYS_RELATION " b WHERE ",
					 target->name);
	append_key_condition(&sql, target);
	appendStringInfo(&sql, " AND (t.%s OPERATOR(pg_catalog.<) b.version) IS NOT FALSE"
					 " RETURNING b.ord", version);
	target->delete_plan = prepare(sql.data, 0, NULL);
	return target->delete_plan;
}

SPIPlanPtr
outbox_target_classify_plan(OutboxTarget *target)
{
	StringInfoData sql;

	if (target->classify_plan != NULL)
		return target->classify_plan;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT b.ord, t.%s FROM " OUTBOX_KEYS_RELATION " b, %s t WHERE ",
					 quote_identifier(target->columns[target->version_column].name),
					 target->name);
	append_key_condition(&sql, target);
	target->classify_plan = prepare(sql.data, 0, NULL);
	return target->classify_plan;
}

SPIPlanPtr
outbox_target_older_plan(OutboxTarget *target)
{
	Oid			argtypes[1] = {INT8OID};
	StringInfoData sql;

	if (target->older_plan != NULL)
		return target->older_plan;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT 0, $1");
	for (int i = 0; i < target->nkeys; i++)
		appendStringInfo(&sql, ", t.%s", quote_identifier(target->columns[target->keys[i]].name));
	appendStringInfo(&sql, " FROM %s t WHERE (t.%s OPERATOR(pg_catalog.<) $1) IS NOT FALSE", target->name,
					 quote_identifier(target->columns[target->version_column].name));
	target->older_plan = prepare(sql.data, 1, argtypes);
	return target->older_plan;
}

SPIPlanPtr
outbox_target_sweep_plan(OutboxTarget *target)
{
	Oid			argtypes[1] = {INT8OID};
	const char *version = quote_identifier(target->columns[target->version_column].name);

	if (target->sweep_plan == NULL)
		target->sweep_plan = prepare(psprintf("DELETE FROM %s t WHERE (t.%s OPERATOR(pg_catalog.<) $1) IS NOT FALSE",
											  target->name, version), 1, argtypes);
	return target->sweep_plan;
}

/*
 * PostgreSQL's own conversion of nested JSON, for one column.
 */
SPIPlanPtr
outbox_target_nested_plan(OutboxTarget *target, OutboxTargetColumn *col)
{
	Oid			argtype = JSONOID;
	char	   *sql;

	if (col->nested_plan != NULL)
		return col->nested_plan;

	sql = psprintf("SELECT r.c FROM pg_catalog.json_to_record($1) AS r(c %s)",
				   format_type_extended(col->typid, col->typmod,
										FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	col->nested_plan = SPI_prepare(sql, 1, &argtype);
	if (col->nested_plan == NULL || SPI_keepplan(col->nested_plan) != 0)
		elog(ERROR, "could not prepare \"%s\"", sql);
	return col->nested_plan;
}
