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
#include "miscadmin.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "common/catalog.h"

static HTAB *captured = NULL;

static const char *const publications_query =
"SELECT id, name, source, stream, mode = 'key', columns, identity, partition_by,"
"       filter, event_type, headers, with_headers, skip_unchanged"
"  FROM outbox._publication"
" WHERE source = ANY ($1) AND kind = 'table' AND state <> 'incomplete' ORDER BY id";

enum
{
	Q_ID = 1, Q_NAME, Q_SOURCE, Q_STREAM, Q_THIN, Q_COLUMNS, Q_IDENTITY,
	Q_PARTITION_BY, Q_FILTER, Q_EVENT_TYPE, Q_HEADERS, Q_WITH_HEADERS,
	Q_SKIP_UNCHANGED
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

/*
 * Split "name AS other"; the text was checked when the publication was made.
 */
static void
split_column(const char *entry, char **name, char **label)
{
	const char *as = strstr(entry, " AS ");

	if (as == NULL)
		*name = *label = pstrdup(entry);
	else
	{
		*name = pnstrdup(entry, as - entry);
		*label = pstrdup(as + 4);
	}
}

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
 * Prepare the listed columns; the label of a listed one may come from the
 * publication's renames.
 */
static void
init_listed_columns(CapturedColumns *columns, Relation rel, ArrayType *list,
					ArrayType *renames, CapturedRelation *entry)
{
	Datum	   *elems;
	Datum	   *relems = NULL;
	int			nelems;
	int			nrenames = 0;

	deconstruct_array(list, TEXTOID, -1, false, TYPALIGN_INT, &elems, NULL, &nelems);
	if (renames != NULL)
		deconstruct_array(renames, TEXTOID, -1, false, TYPALIGN_INT, &relems, NULL, &nrenames);

	columns->cols = palloc0(sizeof(CapturedColumn) * Max(nelems, 1));
	columns->ncols = nelems;
	for (int i = 0; i < nelems; i++)
	{
		char	   *name;
		char	   *label;
		AttrNumber	attnum;

		split_column(TextDatumGetCString(elems[i]), &name, &label);
		for (int j = 0; j < nrenames; j++)
		{
			char	   *rname;
			char	   *rlabel;

			split_column(TextDatumGetCString(relems[j]), &rname, &rlabel);
			if (strcmp(rname, name) == 0)
				label = rlabel;
		}
		attnum = get_attnum(RelationGetRelid(rel), name);
		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("published column \"%s\" of relation \"%s\" does not exist",
							name, RelationGetRelationName(rel)),
					 errhint("Call outbox.publish again with the columns that are to be published.")));
		init_column(&columns->cols[i], rel, attnum, label, entry);
	}
}

static void
init_all_columns(CapturedColumns *columns, Relation rel, CapturedRelation *entry)
{
	TupleDesc	desc = RelationGetDescr(rel);

	columns->cols = palloc0(sizeof(CapturedColumn) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped)
			init_column(&columns->cols[columns->ncols++], rel, att->attnum,
						NameStr(att->attname), entry);
	}
}

/*
 * Parse the row filter in the scope of the relation's columns.  Functions and
 * types are looked up in pg_catalog only, or where the text says.
 */
static ExprState *
init_filter(const char *text, Relation rel)
{
	char	   *sql = psprintf("SELECT WHERE %s", text);
	List	   *parsetree = raw_parser(sql, RAW_PARSE_DEFAULT);
	SelectStmt *stmt = castNode(SelectStmt, linitial_node(RawStmt, parsetree)->stmt);
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *nsitem;
	Node	   *clause;

	nsitem = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL,
										   false, true);
	addNSItemToQuery(pstate, nsitem, false, true, true);
	clause = transformWhereClause(pstate, stmt->whereClause, EXPR_KIND_WHERE,
								  "publication filter");
	assign_expr_collations(pstate, clause);
	free_parsestate(pstate);
	return ExecPrepareExpr((Expr *) clause, CreateExecutorState());
}

static int
init_with_headers(ArrayType *list)
{
	Datum	   *elems;
	int			nelems;
	int			flags = 0;

	deconstruct_array(list, TEXTOID, -1, false, TYPALIGN_INT, &elems, NULL, &nelems);
	for (int i = 0; i < nelems; i++)
	{
		char	   *name = TextDatumGetCString(elems[i]);

		if (strcmp(name, "source") == 0)
			flags |= CAPTURE_HEADER_SOURCE;
		else if (strcmp(name, "txid") == 0)
			flags |= CAPTURE_HEADER_TXID;
	}
	return flags;
}

static char *
text_column(HeapTuple tup, TupleDesc desc, int column)
{
	return SPI_getvalue(tup, desc, column);
}

static ArrayType *
array_column(HeapTuple tup, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		d = SPI_getbinval(tup, desc, column, &isnull);

	return isnull ? NULL : DatumGetArrayTypePCopy(d);
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
		outbox_header_pack(&buf, "type", type, strlen(type));
	if (!isnull)
		outbox_jsonb_headers(&buf, DatumGetJsonbP(fixed));
	pub->headers = buf.len > 0 ? buf.data : NULL;
	pub->headers_len = buf.len;
	pub->with_headers = init_with_headers(array_column(tup, desc, Q_WITH_HEADERS));
}

static void
init_publication(CapturedPublication *pub, Relation rel, CapturedRelation *entry,
				 HeapTuple tup, TupleDesc desc)
{
	ArrayType  *columns = array_column(tup, desc, Q_COLUMNS);
	ArrayType  *identity = array_column(tup, desc, Q_IDENTITY);
	ArrayType  *partition_by = array_column(tup, desc, Q_PARTITION_BY);
	bool		isnull;

	pub->pubid = DatumGetInt32(SPI_getbinval(tup, desc, Q_ID, &isnull));
	pub->name = text_column(tup, desc, Q_NAME);
	pub->root = DatumGetObjectId(SPI_getbinval(tup, desc, Q_SOURCE, &isnull));
	pub->stream = DatumGetInt32(SPI_getbinval(tup, desc, Q_STREAM, &isnull));
	pub->thin = DatumGetBool(SPI_getbinval(tup, desc, Q_THIN, &isnull));
	pub->skip_unchanged = DatumGetBool(SPI_getbinval(tup, desc, Q_SKIP_UNCHANGED, &isnull));
	pub->filter_text = text_column(tup, desc, Q_FILTER);

	init_listed_columns(&pub->identity, rel, identity, columns, entry);
	if (columns == NULL)
		init_all_columns(&pub->value, rel, entry);
	else
		init_listed_columns(&pub->value, rel, columns, NULL, entry);
	pub->key_is_identity = (partition_by == NULL);
	if (pub->key_is_identity)
		pub->key = pub->identity;
	else
		init_listed_columns(&pub->key, rel, partition_by, columns, entry);
	init_headers(pub, tup, desc);
	if (pub->filter_text != NULL)
	{
		pub->filter = init_filter(pub->filter_text, rel);
		pub->econtext = CreateStandaloneExprContext();
	}
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

/*
 * Read the publications and prepare them.  An error leaves the entry invalid.
 */
static void
captured_build(CapturedRelation *entry, Relation rel)
{
	OutboxOwnerScope scope;
	Oid			argtypes[1] = {REGCLASSARRAYOID};
	Datum		args[1];
	SPIPlanPtr	plan;
	MemoryContext spicontext;

	for (int i = 0; i < entry->npubs; i++)
		if (entry->pubs[i].probe_plan != NULL)
			SPI_freeplan(entry->pubs[i].probe_plan);
	entry->npubs = 0;
	if (entry->context != NULL)
		MemoryContextDelete(entry->context);
	entry->pinned = false;
	entry->context = AllocSetContextCreate(CacheMemoryContext,
										   "pg_outbox captured relation",
										   ALLOCSET_SMALL_SIZES);

	outbox_owner_enter(&scope);
	SPI_connect();
	args[0] = publication_sources(rel);
	plan = SPI_prepare(publications_query, 1, argtypes);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, args, NULL, GetLatestSnapshot(),
							 InvalidSnapshot, true, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read publications: %s", SPI_result_code_string(SPI_result));

	spicontext = MemoryContextSwitchTo(entry->context);
	entry->pubs = palloc0(sizeof(CapturedPublication) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
		init_publication(&entry->pubs[i], rel, entry, SPI_tuptable->vals[i],
						 SPI_tuptable->tupdesc);
	entry->npubs = (int) SPI_processed;
	MemoryContextSwitchTo(spicontext);
	SPI_finish();
	outbox_owner_leave(&scope);
}

CapturedRelation *
outbox_captured_relation(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	CapturedRelation *entry;
	bool		found;

	if (captured == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(CapturedRelation);
		captured = hash_create("pg_outbox captured relations", 32, &ctl,
							   HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(captured_invalidate, (Datum) 0);
	}

	entry = hash_search(captured, &relid, HASH_ENTER, &found);
	if (!found)
		memset((char *) entry + sizeof(Oid), 0, sizeof(CapturedRelation) - sizeof(Oid));
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
	return entry;
}

/* ---------------- looking for a row ---------------- */

static SPIPlanPtr
probe_prepare(CapturedPublication *pub, Relation rel)
{
	StringInfoData sql;
	Oid			argtypes[INDEX_MAX_KEYS];
	SPIPlanPtr	plan;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM %s AS r WHERE ",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(pub->root)),
												get_rel_name(pub->root)));
	for (int i = 0; i < pub->identity.ncols; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel),
											  pub->identity.cols[i].attnum - 1);

		appendStringInfo(&sql, "%sr.%s = $%d", i > 0 ? " AND " : "",
						 quote_identifier(NameStr(att->attname)), i + 1);
		argtypes[i] = att->atttypid;
	}
	if (pub->filter_text != NULL)
		appendStringInfo(&sql, " AND (%s)", pub->filter_text);

	plan = SPI_prepare(sql.data, pub->identity.ncols, argtypes);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql.data,
			 SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	return plan;
}

/*
 * Runs with the rights of the table's owner, as a foreign key's check does.
 */
bool
outbox_capture_probe(CapturedPublication *pub, Relation rel, TupleTableSlot *slot)
{
	Datum		args[INDEX_MAX_KEYS];
	Oid			save_userid;
	int			save_context;
	bool		found;

	for (int i = 0; i < pub->identity.ncols; i++)
	{
		bool		isnull;

		args[i] = slot_getattr(slot, pub->identity.cols[i].attnum, &isnull);
		if (isnull)
			return false;
	}

	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   save_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
	if (pub->probe_plan == NULL)
		pub->probe_plan = probe_prepare(pub, rel);
	if (SPI_execute_plan(pub->probe_plan, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a row of \"%s\"", RelationGetRelationName(rel));
	found = SPI_processed > 0;
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_context);
	return found;
}
