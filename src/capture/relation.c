/*-------------------------------------------------------------------------
 *
 * relation.c
 *	  What is published of a relation, cached per backend.
 *
 * An entry is built from outbox._publication at the first captured row and
 * lives until the relation, or a publication of it, changes: whoever changes
 * outbox._publication sends a relcache invalidation of the table.  The
 * callback only marks the entry; it is built anew by the next row, so that
 * one in use stays as it is.
 *
 * The publications are read under a fresh snapshot, not the transaction's: a
 * trigger that fires must find the publication it belongs to, also in a
 * REPEATABLE READ transaction that began earlier.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/capture.h"

#include "access/relation.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "capture/filter.h"
#include "capture/publication.h"
#include "common/catalog.h"
#include "common/fault.h"

static HTAB *captured = NULL;
static CapturedRelation *last_captured = NULL;	/* of the row before, in the
												 * hash; the next is likely to
												 * be its neighbour */

static const char *const publications_query =
"SELECT id, name, source, stream, mode = 'key', columns, labels, identity, partition_by,"
"       filter, event_type, headers, with_headers, skip_unchanged, on_truncate"
"  FROM outbox._publication"
" WHERE source = ANY ($1) AND kind = 'table' ORDER BY id";

enum
{
	Q_ID = 1, Q_NAME, Q_SOURCE, Q_STREAM, Q_THIN, Q_COLUMNS, Q_LABELS, Q_IDENTITY,
	Q_PARTITION_BY, Q_FILTER, Q_EVENT_TYPE, Q_HEADERS, Q_WITH_HEADERS,
	Q_SKIP_UNCHANGED, Q_ON_TRUNCATE
};

/* ---------------- invalidation ---------------- */

static void
captured_invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	CapturedRelation *entry;

	if (captured == NULL)
		return;
	if (OidIsValid(relid))
	{
		entry = hash_search(captured, &relid, HASH_FIND, NULL);
		if (entry != NULL)
			entry->valid = false;
		return;
	}
	hash_seq_init(&seq, captured);
	while ((entry = hash_seq_search(&seq)) != NULL)
		entry->valid = false;
}

/*
 * A function or a type is another one: filters may use it.
 */
static void
filter_invalidate(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS seq;
	CapturedRelation *entry;

	hash_seq_init(&seq, captured);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		/* while it is built, nobody knows which filters there will be */
		if (entry->pubs == NULL)
			entry->valid = false;
		for (int i = 0; entry->valid && i < entry->npubs; i++)
			if (entry->pubs[i].filter_text != NULL)
				entry->valid = false;
	}
}

/*
 * A schema has another name: so have the tables that plans look at.
 */
static void
schema_invalidate(Datum arg, int cacheid, uint32 hashvalue)
{
	captured_invalidate(arg, InvalidOid);
}

void
outbox_capture_invalidate(Oid relid)
{
	List	   *children = find_all_inheritors(relid, NoLock, NULL);
	ListCell   *lc;

	foreach(lc, children)
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(lc))))
		CacheInvalidateRelcacheByRelid(lfirst_oid(lc));
}

/* ---------------- building ---------------- */

static void
init_column(CapturedColumn *col, Relation rel, AttrNumber attnum,
			const char *label, CapturedRelation *entry)
{
	StringInfoData buf;

	initStringInfo(&buf);
	outbox_encode_string(&buf, label, strlen(label));
	appendStringInfoChar(&buf, ':');
	col->attnum = attnum;
	col->label = buf.data;
	col->label_len = buf.len;
	outbox_encoder_init(&col->enc, TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid,
						entry->context);
	entry->pinned |= col->enc.pinned;
}

/*
 * The name on the wire of a column: the publication may rename it.
 */
static const char *
column_label(const char *name, List *columns, List *labels)
{
	ListCell   *lc;
	ListCell   *ll;

	forboth(lc, columns, ll, labels)
		if (strcmp(lfirst(lc), name) == 0)
		return lfirst(ll);
	return name;
}

/*
 * Prepare the columns of "list", named as "columns" and "labels" say.
 */
static void
init_listed_columns(CapturedColumns *captured_columns, Relation rel, List *list,
					List *columns, List *labels, CapturedRelation *entry)
{
	ListCell   *lc;

	captured_columns->cols = palloc0(sizeof(CapturedColumn) * Max(list_length(list), 1));
	foreach(lc, list)
	{
		const char *name = lfirst(lc);
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);

		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("published column \"%s\" of relation \"%s\" does not exist",
							name, RelationGetRelationName(rel)),
					 errhint("Call outbox.publish again with the columns that are to be published.")));
		init_column(&captured_columns->cols[captured_columns->ncols++], rel, attnum,
					column_label(name, columns, labels), entry);
		captured_columns->last = Max(captured_columns->last, attnum);
	}
}

/*
 * All columns of the published table, in its order, which a partition may not
 * have.
 */
static List *
all_columns(Oid root)
{
	Relation	rel = relation_open(root, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *names = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		/* triggers do not see virtual generated columns */
		if (!att->attisdropped && att->attgenerated != 'v')
			names = lappend(names, pstrdup(NameStr(att->attname)));
	}
	relation_close(rel, AccessShareLock);
	return names;
}

static int
init_with_headers(List *list)
{
	return (outbox_list_has(list, "source") ? CAPTURE_HEADER_SOURCE : 0) |
		(outbox_list_has(list, "txid") ? CAPTURE_HEADER_TXID : 0);
}

static char *
text_column(HeapTuple tup, TupleDesc desc, int column)
{
	return SPI_getvalue(tup, desc, column);
}

static List *
list_column(HeapTuple tup, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		d = SPI_getbinval(tup, desc, column, &isnull);

	return isnull ? NIL : outbox_text_list(DatumGetArrayTypeP(d), "columns");
}

static void
init_headers(CapturedPublication *pub, HeapTuple tup, TupleDesc desc)
{
	char	   *type = text_column(tup, desc, Q_EVENT_TYPE);
	bool		isnull;
	Datum		fixed = SPI_getbinval(tup, desc, Q_HEADERS, &isnull);
	StringInfoData buf;

	initStringInfo(&buf);
	if (type != NULL)
		outbox_header_add(&buf, "type", type);
	if (!isnull)
		outbox_jsonb_headers(&buf, DatumGetJsonbP(fixed));
	pub->headers = buf.len > 0 ? buf.data : NULL;
	pub->headers_len = buf.len;
	pub->with_headers = init_with_headers(list_column(tup, desc, Q_WITH_HEADERS));
}

static void
init_filter(CapturedPublication *pub, Relation rel)
{
	Node	   *expr = outbox_filter_parse(pub->filter_text, rel);

	pub->filter = ExecPrepareQual(make_ands_implicit((Expr *) expr), CreateExecutorState());
	pub->econtext = CreateStandaloneExprContext();
}

static OutboxOnTruncate
on_truncate_from(const char *text)
{
	if (strcmp(text, "publish") == 0)
		return CAPTURE_TRUNCATE_PUBLISH;
	return strcmp(text, "ignore") == 0 ? CAPTURE_TRUNCATE_IGNORE : CAPTURE_TRUNCATE_REFUSE;
}

static void
init_publication(CapturedPublication *pub, Relation rel, CapturedRelation *entry,
				 HeapTuple tup, TupleDesc desc)
{
	List	   *columns = list_column(tup, desc, Q_COLUMNS);
	List	   *labels = list_column(tup, desc, Q_LABELS);
	List	   *partition_by = list_column(tup, desc, Q_PARTITION_BY);
	bool		isnull;

	pub->pubid = DatumGetInt32(SPI_getbinval(tup, desc, Q_ID, &isnull));
	pub->name = text_column(tup, desc, Q_NAME);
	pub->root = DatumGetObjectId(SPI_getbinval(tup, desc, Q_SOURCE, &isnull));
	pub->stream = DatumGetInt32(SPI_getbinval(tup, desc, Q_STREAM, &isnull));
	pub->thin = DatumGetBool(SPI_getbinval(tup, desc, Q_THIN, &isnull));
	pub->skip_unchanged = DatumGetBool(SPI_getbinval(tup, desc, Q_SKIP_UNCHANGED, &isnull));
	pub->on_truncate = on_truncate_from(text_column(tup, desc, Q_ON_TRUNCATE));
	pub->filter_text = text_column(tup, desc, Q_FILTER);

	init_listed_columns(&pub->identity, rel, list_column(tup, desc, Q_IDENTITY),
						columns, labels, entry);
	init_listed_columns(&pub->value, rel, columns ? columns : all_columns(pub->root),
						columns, labels, entry);
	pub->key_is_identity = (partition_by == NIL);
	if (pub->key_is_identity)
		pub->key = pub->identity;
	else
		init_listed_columns(&pub->key, rel, partition_by, columns, labels, entry);
	init_headers(pub, tup, desc);
	if (pub->filter_text != NULL)
		init_filter(pub, rel);
	OUTBOX_FAULT("capture.publication");
}

/*
 * The relation and the partitioned tables above it, as an array of regclass.
 */
static Datum
publication_sources(Relation rel)
{
	List	   *oids = list_make1_oid(RelationGetRelid(rel));
	Datum	   *elems;
	int			n = 0;
	ListCell   *lc;

	if (rel->rd_rel->relispartition)
		oids = list_concat(oids, get_partition_ancestors(RelationGetRelid(rel)));
	elems = palloc(sizeof(Datum) * list_length(oids));
	foreach(lc, oids)
		elems[n++] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(elems, n, REGCLASSOID, sizeof(Oid),
										   true, TYPALIGN_INT));
}

static void
captured_reset(CapturedRelation *entry)
{
	for (int i = 0; i < entry->npubs; i++)
		if (entry->pubs[i].probe_plan != NULL)
			SPI_freeplan(entry->pubs[i].probe_plan);
	entry->npubs = 0;
	entry->pubs = NULL;
	if (entry->context != NULL)
		MemoryContextDelete(entry->context);
	entry->pinned = false;
	entry->context = AllocSetContextCreate(CacheMemoryContext,
										   "pg_outbox captured relation",
										   ALLOCSET_SMALL_SIZES);
}

/*
 * Leaves the rows in SPI_tuptable.  Only this needs the extension's rights;
 * preparing a filter may run functions, and that never happens with them.
 */
void
outbox_capture_query(Relation rel, const char *sql)
{
	OutboxOwnerScope scope;
	Oid			argtypes[1] = {REGCLASSARRAYOID};
	Datum		args[1] = {publication_sources(rel)};
	SPIPlanPtr	plan;

	outbox_owner_enter(&scope);
	plan = SPI_prepare(sql, 1, argtypes);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, args, NULL, GetLatestSnapshot(),
							 InvalidSnapshot, true, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read publications: %s", SPI_result_code_string(SPI_result));
	outbox_owner_leave(&scope);
}

/*
 * Read the publications and prepare them.  An error leaves the entry invalid.
 */
static void
captured_build(CapturedRelation *entry, Relation rel)
{
	MemoryContext spicontext;
	CapturedPublication *pubs;

	captured_reset(entry);
	SPI_connect();
	outbox_capture_query(rel, publications_query);

	spicontext = MemoryContextSwitchTo(entry->context);
	pubs = palloc0(sizeof(CapturedPublication) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
		init_publication(&pubs[i], rel, entry, SPI_tuptable->vals[i],
						 SPI_tuptable->tupdesc);
	entry->pubs = pubs;
	entry->npubs = (int) SPI_processed;
	MemoryContextSwitchTo(spicontext);
	SPI_finish();
}

/*
 * Let go of what is cached of relations that are gone.  None of it is in use:
 * that would have kept the relation.
 */
static void
captured_sweep(void)
{
	HASH_SEQ_STATUS seq;
	CapturedRelation *entry;

	hash_seq_init(&seq, captured);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		Oid			relid = entry->relid;

		if (entry->valid || entry->context == NULL ||
			SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
			continue;
		if (entry == last_captured)
			last_captured = NULL;
		captured_reset(entry);
		MemoryContextDelete(entry->context);
		hash_search(captured, &relid, HASH_REMOVE, NULL);
	}
}

CapturedRelation *
outbox_captured_relation(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	CapturedRelation *entry;
	bool		found;

	if (last_captured != NULL && last_captured->relid == relid && last_captured->valid)
		return last_captured;
	if (captured == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(CapturedRelation);
		captured = hash_create("pg_outbox captured relations", 32, &ctl,
							   HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(captured_invalidate, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, schema_invalidate, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, filter_invalidate, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, filter_invalidate, (Datum) 0);
	}

	entry = hash_search(captured, &relid, HASH_FIND, &found);
	if (!found)
	{
		captured_sweep();
		entry = hash_search(captured, &relid, HASH_ENTER, NULL);
		memset((char *) entry + sizeof(Oid), 0, sizeof(CapturedRelation) - sizeof(Oid));
	}
	if (!entry->valid)
	{
		/* valid first: an invalidation while we build must not get lost */
		entry->valid = true;
		PG_TRY();
		{
			captured_build(entry, rel);
		}
		PG_CATCH();
		{
			entry->valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	last_captured = entry;
	return entry;
}

/* ---------------- looking for a row ---------------- */

/*
 * Operators are named with their schema: the search path is the writer's, the
 * rights are the table owner's.
 */
static SPIPlanPtr
probe_prepare(CapturedPublication *pub, Relation rel)
{
	StringInfoData sql;
	Oid			argtypes[INDEX_MAX_KEYS];
	SPIPlanPtr	plan;

	StringInfoData where;

	initStringInfo(&sql);
	initStringInfo(&where);
	for (int i = 0; i < pub->identity.ncols; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel),
											  pub->identity.cols[i].attnum - 1);
		TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR);
		char	   *column = psprintf("r.%s", quote_identifier(NameStr(att->attname)));

		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "SELECT ", column);
		appendStringInfoString(&where, i > 0 ? " AND " : " WHERE ");
		argtypes[i] = att->atttypid;
		generate_operator_clause(&where, column, att->atttypid, type->eq_opr,
								 psprintf("$%d", i + 1), att->atttypid);
	}
	appendStringInfo(&sql, " FROM %s AS r%s",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(pub->root)),
												get_rel_name(pub->root)), where.data);
	if (pub->filter_text != NULL)
		appendStringInfo(&sql, " AND (%s)", pub->filter_text);

	plan = outbox_filter_prepare(sql.data, pub->identity.ncols, argtypes);
	SPI_keepplan(plan);
	return plan;
}

static Oid
table_owner(Oid relid)
{
	HeapTuple	tup = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tup))->relowner;
	ReleaseSysCache(tup);
	return owner;
}

/*
 * Equal keys may be written differently, as numeric 1.0 and 1.00: on the wire
 * these are two.
 */
static bool
same_key_text(CapturedPublication *pub, const Datum *key, HeapTuple found, TupleDesc desc)
{
	for (int i = 0; i < pub->identity.ncols; i++)
	{
		OutboxEncoder *enc = &pub->identity.cols[i].enc;
		StringInfoData a;
		StringInfoData b;
		bool		isnull;

		initStringInfo(&a);
		initStringInfo(&b);
		outbox_encode_text(&a, enc, key[i]);
		outbox_encode_text(&b, enc, SPI_getbinval(found, desc, i + 1, &isnull));
		if (strcmp(a.data, b.data) != 0)
			return false;
	}
	return true;
}

/*
 * Runs with the rights of the published table's owner, as a foreign key's
 * check does; a partition may be somebody else's.
 */
bool
outbox_capture_probe(CapturedPublication *pub, Relation rel, TupleTableSlot *slot)
{
	Datum		args[INDEX_MAX_KEYS];
	Oid			save_userid;
	int			save_context;
	bool		found = false;

	for (int i = 0; i < pub->identity.ncols; i++)
	{
		bool		isnull;

		args[i] = slot_getattr(slot, pub->identity.cols[i].attnum, &isnull);
		if (isnull)
			return false;
	}

	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(table_owner(pub->root),
						   save_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
	SPI_connect();
	if (pub->probe_plan == NULL)
		pub->probe_plan = probe_prepare(pub, rel);
	if (SPI_execute_plan(pub->probe_plan, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a row of \"%s\"", RelationGetRelationName(rel));
	if (SPI_processed > 0)
		found = same_key_text(pub, args, SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_context);
	return found;
}
