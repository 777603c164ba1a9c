/*-------------------------------------------------------------------------
 *
 * publication.h
 *	  Making, changing and ending publications; what their parts share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLICATION_H
#define OUTBOX_PUBLICATION_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#define PUBLICATION_TABLE "table"	/* kinds */
#define PUBLICATION_OUTBOX "outbox"

/*
 * What a publication is to be.  Names are C strings, lists hold C strings;
 * NIL and NULL mean what null means in outbox._publication.
 */
typedef struct PublicationSpec
{
	const char *name;
	Oid			source;
	const char *kind;

	/* where to */
	const char *server;
	const char *topic;

	/* what of the row */
	const char *mode;
	List	   *columns;
	List	   *labels;
	List	   *identity;
	List	   *partition_by;
	const char *filter;

	/* beside the row */
	const char *event_type;
	Jsonb	   *headers;
	List	   *with_headers;

	const char *on_truncate;
	bool		skip_unchanged;
} PublicationSpec;

/* ---------------- tables (source.c) ---------------- */

/*
 * Open a table that is to be published; raises if it cannot be, or if the
 * current user does not own it.
 */
extern Relation outbox_source_open(Oid relid, LOCKMODE lockmode);

/* Raises insufficient_privilege unless the current user owns the relation. */
extern void outbox_source_check_owner(Oid relid);

/*
 * Columns that identify a row: those of the primary key, or of the named
 * unique index.  Raises if there is none, or if it will not do.
 */
extern List *outbox_source_identity(Relation rel, const char *index_name);

/* Does a unique index that will do have exactly these columns? */
extern bool outbox_source_is_identity(Relation rel, List *columns);

/* Default name of a table's publication. */
extern char *outbox_source_name(Relation rel);

/*
 * Replace {database}, {schema} and {table} in a pattern; other braces stay.
 */
extern char *outbox_source_topic(Relation rel, const char *pattern);

/* ---------------- columns (columns.c) ---------------- */

/* Split entries "name" and "name AS other"; raises if one will not do. */
extern void outbox_columns_parse(Relation rel, ArrayType *entries, const char *role,
								 List **names, List **labels);

/* Names of columns; "role" says in errors what they are for. */
extern List *outbox_columns_list(Relation rel, ArrayType *array, const char *role);

/* Elements of a text array as C strings; raises if one is null. */
extern List *outbox_text_list(ArrayType *array, const char *role);

/* The reverse, as a text[] datum. */
extern Datum outbox_text_array(List *list);

extern bool outbox_list_has(List *list, const char *name);

/* ---------------- triggers (source_trigger.c) ---------------- */

/* Does the relation have the trigger that captures rows of this kind? */
extern bool outbox_source_is_captured(Relation rel, const char *kind);

/* Does it have the one on TRUNCATE? */
extern bool outbox_source_is_guarded(Relation rel);

/* Create what is missing; needs ShareRowExclusiveLock on the table. */
extern void outbox_source_create_triggers(Oid relid, const char *kind);
extern void outbox_source_drop_triggers(Oid relid, const char *kind);

/* Give the partitions that lack it the trigger on TRUNCATE. */
extern void outbox_source_guard_partitions(Oid relid);

/* ---------------- the catalog (publication.c) ---------------- */

/* What a publication is after it was stored, to those who know its events. */
typedef enum PublicationChange
{
	PUBLICATION_IS_NEW,
	PUBLICATION_MEANS_MORE,		/* other rows, columns, keys or place: present
								 * rows have no events that say so */
	PUBLICATION_MEANS_THE_SAME
} PublicationChange;

/*
 * Make the publication, or make it what the specification says, with a NOTICE
 * for each change.
 */
extern PublicationChange outbox_publication_store(const PublicationSpec *spec);

#endif							/* OUTBOX_PUBLICATION_H */
