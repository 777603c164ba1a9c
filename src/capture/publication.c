/*-------------------------------------------------------------------------
 *
 * publication.c
 *	  The catalog of publications: make one, change one, end one.
 *
 * Locks.  A new publication takes ShareRowExclusiveLock on its table, to the
 * end of the transaction: writers that do not know of it yet have ended then,
 * so that every later change makes an event and every earlier one is seen by
 * a copy.  The same goes for a change of what is sent or where to.  Other
 * changes only touch the publication's row; writers see them with the next
 * row that they capture after the commit.  The publication's row is locked
 * before the table.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/publication.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "capture/capture.h"
#include "common/argument.h"
#include "common/catalog.h"
#include "log/stamp.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(outbox_unpublish);

/* Properties that may change, in the order of the statements below. */
typedef struct Property
{
	const char *name;
	Oid			type;
	bool		locks;			/* a change waits for the table's writers */
} Property;

static const Property properties[] = {
	{"server", TEXTOID, true},
	{"topic", TEXTOID, true},
	{"mode", TEXTOID, true},
	{"columns", TEXTARRAYOID, true},
	{"columns AS", TEXTARRAYOID, true}, /* labels; this is for people */
	{"identity", TEXTARRAYOID, true},
	{"partition_by", TEXTARRAYOID, false},
	{"filter", TEXTOID, true},
	{"event_type", TEXTOID, false},
	{"headers", JSONBOID, false},
	{"with_headers", TEXTARRAYOID, false},
	{"on_truncate", TEXTOID, false},
	{"skip_unchanged", BOOLOID, false}
};

#define NPROPERTIES lengthof(properties)
#define FIRST_PROPERTY 3		/* of the arguments below, from 0 */
#define ARG_STREAM (FIRST_PROPERTY + NPROPERTIES)
#define ARG_SINCE (ARG_STREAM + 1)
#define NARGS (ARG_SINCE + 1)

static const char select_sql[] =
"SELECT source, kind, server, topic, mode, columns, labels, identity,"
"       partition_by, filter, event_type, headers, with_headers, on_truncate, skip_unchanged"
"  FROM outbox._publication WHERE name = $1 FOR UPDATE";

static const char insert_sql[] =
"INSERT INTO outbox._publication (name, source, kind, server, topic, mode, columns, labels,"
"       identity, partition_by, filter, event_type, headers, with_headers, on_truncate,"
"       skip_unchanged, stream, since)"
" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";

static const char update_sql[] =
"UPDATE outbox._publication SET (server, topic, mode, columns, labels, identity,"
"       partition_by, filter, event_type, headers, with_headers, on_truncate,"
"       skip_unchanged, stream)"
" = ($4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
" WHERE name = $1 AND source = $2 AND kind = $3";

static const char stream_sql[] =
"WITH made AS (INSERT INTO outbox._stream (server, topic) VALUES ($1, $2)"
"  ON CONFLICT DO NOTHING RETURNING id)"
" SELECT id FROM made UNION ALL"
" SELECT id FROM outbox._stream WHERE server = $1 AND topic = $2";

/* A publication's properties as a statement's arguments. */
typedef struct PublicationRow
{
	Oid			types[NARGS];
	Datum		values[NARGS];
	char		nulls[NARGS];
} PublicationRow;

/* ---------------- rows ---------------- */

static void
set_arg(PublicationRow *row, int i, Oid type, Datum value, bool isnull)
{
	row->types[i] = type;
	row->values[i] = value;
	row->nulls[i] = isnull ? 'n' : ' ';
}

static void
set_text(PublicationRow *row, int i, const char *value)
{
	set_arg(row, i, TEXTOID, value ? CStringGetTextDatum(value) : (Datum) 0, value == NULL);
}

static void
set_list(PublicationRow *row, int i, List *value, bool isnull)
{
	set_arg(row, i, TEXTARRAYOID, isnull ? (Datum) 0 : outbox_text_array(value), isnull);
}

static void
make_row(PublicationRow *row, const PublicationSpec *spec)
{
	int			i = FIRST_PROPERTY;

	set_text(row, 0, spec->name);
	set_arg(row, 1, REGCLASSOID, ObjectIdGetDatum(spec->source), false);
	set_text(row, 2, spec->kind);
	set_text(row, i++, spec->server);
	set_text(row, i++, spec->topic);
	set_text(row, i++, spec->mode);
	set_list(row, i++, spec->columns, spec->columns == NIL);
	set_list(row, i++, spec->labels, spec->labels == NIL);
	set_list(row, i++, spec->identity, false);
	set_list(row, i++, spec->partition_by, spec->partition_by == NIL);
	set_text(row, i++, spec->filter);
	set_text(row, i++, spec->event_type);
	set_arg(row, i++, JSONBOID, JsonbPGetDatum(spec->headers), spec->headers == NULL);
	set_list(row, i++, spec->with_headers, false);
	set_text(row, i++, spec->on_truncate);
	set_arg(row, i++, BOOLOID, BoolGetDatum(spec->skip_unchanged), false);
	Assert(i == ARG_STREAM);
	set_arg(row, ARG_STREAM, INT4OID, (Datum) 0, true);
	set_arg(row, ARG_SINCE, INT8OID, (Datum) 0, true);
}

static void
execute(const char *sql, int nargs, PublicationRow *row, int expected)
{
	if (SPI_execute_with_args(sql, nargs, row->types, row->values, row->nulls,
							  false, 0) != expected)
		elog(ERROR, "could not execute \"%s\"", sql);
}

/*
 * The stream of the publication's topic.  If another session makes it at the
 * same time, the first attempt waits and finds nothing, the second finds it.
 */
static void
set_stream(PublicationRow *row, const PublicationSpec *spec)
{
	bool		isnull;

	if (strcmp(spec->kind, PUBLICATION_OUTBOX) == 0)
		return;
	for (int attempt = 0; attempt < 2; attempt++)
	{
		if (SPI_execute_with_args(stream_sql, 2, row->types + FIRST_PROPERTY,
								  row->values + FIRST_PROPERTY, NULL, false, 1) != SPI_OK_SELECT)
			elog(ERROR, "could not execute \"%s\"", stream_sql);
		if (SPI_processed > 0)
			break;
	}
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
	set_arg(row, ARG_STREAM, INT4OID,
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull), false);
}

/*
 * The event of a TRUNCATE speaks of all rows of a topic, so nobody else's may be
 * there.  The topic's row is locked against somebody who is publishing to it at
 * the same time.
 */
static void
check_topic(const PublicationSpec *spec)
{
	static const char lock_sql[] =
	"SELECT FROM outbox._stream WHERE server = $1 AND topic = $2 FOR NO KEY UPDATE";
	static const char other_sql[] =
	"SELECT name, on_truncate = 'publish' FROM outbox._publication"
	" WHERE server = $1 AND topic = $2 AND name <> $3"
	" AND (on_truncate = 'publish' OR $4) ORDER BY 2 DESC, 1 LIMIT 1";
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, BOOLOID};
	Datum		values[4] = {CStringGetTextDatum(spec->server), CStringGetTextDatum(spec->topic),
		CStringGetTextDatum(spec->name),
	BoolGetDatum(strcmp(spec->on_truncate, "publish") == 0)};

	if (SPI_execute_with_args(lock_sql, 2, types, values, NULL, false, 0) != SPI_OK_SELECT ||
		SPI_execute_with_args(other_sql, 4, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for publications of topic \"%s\"", spec->topic);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" is that of publication \"%s\" as well", spec->topic,
						SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
				 errdetail("With on_truncate => 'publish' a TRUNCATE speaks of all rows of the topic."),
				 errhint("Give each table a topic of its own, or publish none of them with on_truncate => 'publish'.")));
}

/* ---------------- what changed ---------------- */

/*
 * Raises if the name belongs to a publication of something else.
 */
static void
check_same_source(const PublicationSpec *spec)
{
	HeapTuple	tup = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	Oid			source = DatumGetObjectId(SPI_getbinval(tup, desc, 1, &isnull));

	if (source != spec->source)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("publication \"%s\" is of another table", spec->name),
				 errdetail("A publication keeps its table."),
				 errhint("Choose another name with parameter \"name\", or call outbox.unpublish(%s) first.",
						 quote_literal_cstr(spec->name))));
	if (strcmp(SPI_getvalue(tup, desc, 2), spec->kind) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("publication \"%s\" is of another kind", spec->name),
				 errdetail("Rows are published by outbox.publish, events that rows contain by outbox.adopt."),
				 errhint("Choose another name with parameter \"name\", or call outbox.unpublish(%s) first.",
						 quote_literal_cstr(spec->name))));
}

static char *
property_text(const PublicationRow *row, int i)
{
	Oid			outfunc;
	bool		isvarlena;

	if (row->nulls[FIRST_PROPERTY + i] == 'n')
		return NULL;
	getTypeOutputInfo(properties[i].type, &outfunc, &isvarlena);
	return OidOutputFunctionCall(outfunc, row->values[FIRST_PROPERTY + i]);
}

/*
 * Compare the row that the last query returned with the new one, and say what
 * differs.  Returns whether anything does.
 */
static bool
report_changes(const PublicationSpec *spec, const PublicationRow *row, bool *locks)
{
	HeapTuple	tup = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		changed = false;

	*locks = false;
	for (int i = 0; i < NPROPERTIES; i++)
	{
		char	   *before = SPI_getvalue(tup, desc, FIRST_PROPERTY + i);
		char	   *after = property_text(row, i);

		if (before == NULL ? after == NULL : after != NULL && strcmp(before, after) == 0)
			continue;
		ereport(NOTICE,
				(errmsg("publication \"%s\": %s is now %s, was %s", spec->name,
						properties[i].name, after ? after : "not set",
						before ? before : "not set")));
		changed = true;
		*locks |= properties[i].locks;
	}
	return changed;
}

/* ---------------- store ---------------- */

static void
make_publication(const PublicationSpec *spec, PublicationRow *row)
{
	set_stream(row, spec);
	check_topic(spec);
	set_arg(row, ARG_SINCE, INT8OID, Int64GetDatum(outbox_stamp_next()), false);
	execute(insert_sql, NARGS, row, SPI_OK_INSERT);
}

/*
 * If there is such a publication, make it what the specification says.
 */
static PublicationChange
change_publication(const PublicationSpec *spec, PublicationRow *row)
{
	bool		locks;

	execute(select_sql, 1, row, SPI_OK_SELECT);
	if (SPI_processed == 0)
		return PUBLICATION_IS_NEW;
	check_same_source(spec);
	if (!report_changes(spec, row, &locks))
		return PUBLICATION_MEANS_THE_SAME;
	if (locks)
		LockRelationOid(spec->source, ShareRowExclusiveLock);
	set_stream(row, spec);
	check_topic(spec);
	execute(update_sql, ARG_STREAM + 1, row, SPI_OK_UPDATE);
	return locks ? PUBLICATION_MEANS_MORE : PUBLICATION_MEANS_THE_SAME;
}

static bool
is_captured(const PublicationSpec *spec)
{
	Relation	rel = relation_open(spec->source, NoLock);
	bool		captured = outbox_source_is_captured(rel, spec->kind);

	relation_close(rel, NoLock);
	return captured;
}

PublicationChange
outbox_publication_store(const PublicationSpec *spec)
{
	OutboxOwnerScope scope;
	PublicationRow row;
	PublicationChange change;

	make_row(&row, spec);
	SPI_connect();
	outbox_owner_enter(&scope);
	change = change_publication(spec, &row);
	if (change == PUBLICATION_IS_NEW)
	{
		/* somebody else may have made it while we waited for the lock */
		LockRelationOid(spec->source, ShareRowExclusiveLock);
		change = change_publication(spec, &row);
		if (change == PUBLICATION_IS_NEW)
			make_publication(spec, &row);
	}
	outbox_owner_leave(&scope);
	SPI_finish();

	/* also where somebody dropped the trigger */
	if (change == PUBLICATION_IS_NEW || !is_captured(spec))
	{
		LockRelationOid(spec->source, ShareRowExclusiveLock);
		outbox_source_create_triggers(spec->source, spec->kind);
	}
	outbox_capture_invalidate(spec->source);
	outbox_worker_poke_at_commit();
	return change;
}

/* ---------------- end ---------------- */

/*
 * Table and kind of a publication, whose row is locked; the table's ownership
 * is checked as the caller, "scope" is left for that.
 */
static Oid
lock_publication(const char *name, char **kind, OutboxOwnerScope *scope)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	bool		isnull;
	Oid			source;

	if (SPI_execute_with_args(select_sql, 1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", select_sql);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" does not exist", name),
				 errhint("The view outbox.publications shows those of your tables.")));
	source = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
											SPI_tuptable->tupdesc, 1, &isnull));
	*kind = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);

	outbox_owner_leave(scope);
	if (get_rel_name(source) != NULL)
		outbox_source_check_owner(source);
	outbox_owner_enter(scope);
	return source;
}

/*
 * Delete the row; returns how many publications of the table and kind remain.
 */
static int
delete_publication(const char *name, Oid source, const char *kind)
{
	static const char delete_sql[] =
	"DELETE FROM outbox._publication WHERE name = $1";
	static const char rest_sql[] =
	"SELECT FROM outbox._publication WHERE source = $2 AND kind = $3 AND name <> $1";
	Oid			types[3] = {TEXTOID, REGCLASSOID, TEXTOID};
	Datum		values[3] = {CStringGetTextDatum(name), ObjectIdGetDatum(source),
	CStringGetTextDatum(kind)};

	if (SPI_execute_with_args(delete_sql, 1, types, values, NULL, false, 0) != SPI_OK_DELETE ||
		SPI_execute_with_args(rest_sql, 3, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not delete publication \"%s\"", name);
	return (int) SPI_processed;
}

Datum
outbox_unpublish(PG_FUNCTION_ARGS)
{
	OutboxOwnerScope scope;
	char	   *name;
	char	   *kind;
	Oid			source;
	int			rest;

	name = outbox_argument_text(fcinfo, 0, "name",
								"Pass the name of a publication in outbox.publications.");

	SPI_connect();
	outbox_owner_enter(&scope);
	source = lock_publication(name, &kind, &scope);
	rest = delete_publication(name, source, kind);
	outbox_owner_leave(&scope);
	if (get_rel_name(source) != NULL)
	{
		if (rest == 0)
			outbox_source_drop_triggers(source, kind);
		outbox_capture_invalidate(source);
	}
	SPI_finish();
	outbox_worker_poke_at_commit();
	PG_RETURN_VOID();
}
