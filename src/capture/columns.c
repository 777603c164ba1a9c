/*-------------------------------------------------------------------------
 *
 * columns.c
 *	  Lists of columns as the SQL functions take them.
 *
 * A name is the column's exact name, without folding to lower case; it may be
 * put in double quotes, as it must be where it contains " AS " itself.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/publication.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

bool
outbox_list_has(List *list, const char *name)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

List *
outbox_text_list(ArrayType *array, const char *role)
{
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;
	List	   *list = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, &nelems);
	for (int i = 0; i < nelems; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("parameter \"%s\" must not contain nulls", role)));
		list = lappend(list, TextDatumGetCString(elems[i]));
	}
	return list;
}

Datum
outbox_text_array(List *list)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(list_length(list), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, list)
		elems[n++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Raises unless this is a column that can be published.
 */
static void
check_column(Relation rel, const char *name, const char *role)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);
	Form_pg_attribute att;

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" does not exist",
						name, RelationGetRelationName(rel)),
				 errdetail("It is listed in parameter \"%s\".", role)));
	if (attnum < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("system column \"%s\" cannot be published", name),
				 errdetail("It is listed in parameter \"%s\".", role)));
	att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	if (att->attgenerated == 'v')
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("virtual generated column \"%s\" cannot be published", name),
				 errdetail("Its value is not in the row that triggers see."),
				 errhint("Make it a stored generated column.")));
}

static void
add_unique(List **list, char *name, const char *role)
{
	if (outbox_list_has(*list, name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_COLUMN),
				 errmsg("name \"%s\" appears more than once in parameter \"%s\"", name, role)));
	*list = lappend(*list, name);
}

/*
 * Remove blanks around a name and the quotes that it may have.
 */
static char *
clean_name(const char *from, const char *to)
{
	StringInfoData buf;

	while (from < to && *from == ' ')
		from++;
	while (to > from && to[-1] == ' ')
		to--;
	if (to - from < 2 || *from != '"' || to[-1] != '"')
		return pnstrdup(from, to - from);

	initStringInfo(&buf);
	for (from++, to--; from < to; from++)
	{
		if (from[0] == '"' && from + 1 < to && from[1] == '"')
			from++;
		appendStringInfoChar(&buf, *from);
	}
	return buf.data;
}

/*
 * Where " AS " stands outside of quotes, NULL if nowhere.
 */
static const char *
find_as(const char *entry)
{
	bool		quoted = false;

	for (const char *p = entry; *p != '\0'; p++)
	{
		if (*p == '"')
			quoted = !quoted;
		if (!quoted && pg_strncasecmp(p, " as ", 4) == 0)
			return p;
	}
	return NULL;
}

void
outbox_columns_parse(Relation rel, ArrayType *entries, const char *role,
					 List **names, List **labels)
{
	List	   *list = outbox_text_list(entries, role);
	ListCell   *lc;

	*names = *labels = NIL;
	if (list == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be empty", role),
				 errhint("Leave it out instead.")));
	foreach(lc, list)
	{
		const char *entry = lfirst(lc);
		const char *end = entry + strlen(entry);
		const char *as = find_as(entry);
		char	   *name;
		char	   *label;

		if (as == NULL || get_attnum(RelationGetRelid(rel), entry) != InvalidAttrNumber)
			name = label = clean_name(entry, end);
		else
		{
			name = clean_name(entry, as);
			label = clean_name(as + 4, end);
		}
		check_column(rel, name, role);
		if (label[0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("column \"%s\" has an empty name after AS", name)));
		add_unique(names, name, role);
		add_unique(labels, label, role);
	}
}

List *
outbox_columns_list(Relation rel, ArrayType *array, const char *role)
{
	List	   *list = outbox_text_list(array, role);
	List	   *names = NIL;
	ListCell   *lc;

	if (list == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be empty", role)));
	foreach(lc, list)
	{
		const char *entry = lfirst(lc);
		char	   *name = clean_name(entry, entry + strlen(entry));

		check_column(rel, name, role);
		add_unique(&names, name, role);
	}
	return names;
}
