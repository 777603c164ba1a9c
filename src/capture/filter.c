/*-------------------------------------------------------------------------
 *
 * filter.c
 *	  Row filters: a boolean expression over a row's columns.
 *
 * The text that the user gives is analysed once, under the user's search
 * path, and stored as PostgreSQL deparses it: names outside pg_catalog have
 * their schema, so that it means the same in every session.
 *
 * The text is parsed as the WHERE clause of a query that consists of nothing
 * else, and the parse tree must say so: what would close a parenthesis, end
 * the statement or add a clause is refused by that.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/filter.h"

#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "capture/encode.h"

/* What the column hook needs to know. */
typedef struct FilterScope
{
	Relation	rel;
	AttrNumber	renamed;		/* unknown names mean this column, if not 0 */
} FilterScope;

/* ---------------- settings ---------------- */

/*
 * Settings under which stored filters are written and read.  Whoever ends
 * them rolls back to them, so that what functions of the filter SET is gone as
 * well: our caller may be acting as somebody else.
 */
static int
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
		{"quote_all_identifiers", "off"},
	};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) outbox_encode_pin();
	return level;
}

/* ---------------- parsing ---------------- */

#define QUERY_HEAD "SELECT WHERE "

/* For errors: what is analysed. */
typedef struct FilterError
{
	Relation	rel;
	const char *text;
} FilterError;

/*
 * Positions in errors are those in the filter, not in the user's query.
 */
static void
filter_error_callback(void *arg)
{
	FilterError *err = arg;
	int			pos = geterrposition();

	if (pos > 0)
	{
		errposition(0);
		internalerrposition(Max(pos - (int) strlen(QUERY_HEAD), 1));
		internalerrquery(err->text);
	}
	errcontext("filter of a publication of table \"%s\"",
			   RelationGetRelationName(err->rel));
}

static Node *
raw_expression(const char *text)
{
	List	   *parsetree = raw_parser(psprintf(QUERY_HEAD "%s", text), RAW_PARSE_DEFAULT);
	SelectStmt *stmt;

	if (list_length(parsetree) == 1)
	{
		stmt = (SelectStmt *) linitial_node(RawStmt, parsetree)->stmt;
		if (IsA(stmt, SelectStmt) && stmt->whereClause != NULL &&
			stmt->op == SETOP_NONE && stmt->targetList == NIL &&
			stmt->fromClause == NIL && stmt->groupClause == NIL &&
			stmt->havingClause == NULL && stmt->windowClause == NIL &&
			stmt->sortClause == NIL && stmt->limitOffset == NULL &&
			stmt->limitCount == NULL && stmt->lockingClause == NIL &&
			stmt->intoClause == NULL && stmt->withClause == NULL)
			return stmt->whereClause;
	}
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("filter must be a single expression"),
			 errhint("For example: 'country = ''de'' AND NOT internal'.")));
}

/*
 * The columns of the row, by name or as table.name.
 */
static Node *
resolve_column(ParseState *pstate, ColumnRef *cref, Node *var)
{
	FilterScope *scope = pstate->p_ref_hook_state;
	Oid			relid = RelationGetRelid(scope->rel);
	Node	   *field = llast(cref->fields);
	AttrNumber	attnum;
	Form_pg_attribute att;

	if (list_length(cref->fields) > 2 || !IsA(field, String) ||
		(list_length(cref->fields) == 2 &&
		 strcmp(strVal(linitial(cref->fields)), RelationGetRelationName(scope->rel)) != 0))
		return NULL;

	attnum = get_attnum(relid, strVal(field));
	if (attnum == InvalidAttrNumber && scope->renamed != 0)
		attnum = scope->renamed;
	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" does not exist",
						strVal(field), RelationGetRelationName(scope->rel))));
	if (attnum < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("system column \"%s\" cannot be used in a filter", strVal(field))));

	att = TupleDescAttr(RelationGetDescr(scope->rel), attnum - 1);
	if (att->attgenerated == 'v')
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("virtual generated column \"%s\" cannot be used in a filter",
						strVal(field))));
	return (Node *) makeVar(1, attnum, att->atttypid, att->atttypmod, att->attcollation, 0);
}

static Node *
analyse(const char *text, Relation rel, AttrNumber renamed)
{
	ErrorContextCallback errcallback;
	FilterError err;
	FilterScope scope;
	ParseState *pstate = make_parsestate(NULL);
	Node	   *expr;

	err.rel = rel;
	err.text = text;

	scope.rel = rel;
	scope.renamed = renamed;

	errcallback.callback = filter_error_callback;
	errcallback.arg = &err;
	errcallback.previous = error_context_stack;
	error_context_stack = &errcallback;

	pstate->p_sourcetext = psprintf(QUERY_HEAD "%s", text);
	pstate->p_ref_hook_state = &scope;
	pstate->p_post_columnref_hook = resolve_column;
	expr = transformWhereClause(pstate, raw_expression(text), EXPR_KIND_WHERE, "filter");
	if (pstate->p_hasSubLinks)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("filter must not contain a subquery"),
				 errdetail("It decides by the row alone, when the row changes.")));
	assign_expr_collations(pstate, expr);
	free_parsestate(pstate);

	error_context_stack = errcallback.previous;
	return expr;
}

Node *
outbox_filter_parse(const char *text, Relation rel)
{
	int			level = pin_settings();
	Node	   *expr = analyse(text, rel, 0);

	AtEOXact_GUC(false, level);
	return expr;
}

static char *
deparse(Node *expr, Relation rel)
{
	int			level = pin_settings();
	char	   *text;

	text = deparse_expression(expr,
							  deparse_context_for(RelationGetRelationName(rel),
												  RelationGetRelid(rel)),
							  false, false);

	AtEOXact_GUC(false, level);
	return text;
}

char *
outbox_filter_canonical(const char *text, Relation rel)
{
	Node	   *expr = analyse(text, rel, 0);

	if (contain_mutable_functions((Node *) expression_planner((Expr *) copyObject(expr))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("functions in a filter must be immutable"),
				 errdetail("Whether a row is published may only change when the row does."),
				 errhint("Compare with constants of the column's own type, for example timestamptz '2024-01-01 00:00+00'.")));
	return deparse(expr, rel);
}

char *
outbox_filter_rename(const char *text, Relation rel, AttrNumber renamed)
{
	int			level = pin_settings();
	Node	   *expr = analyse(text, rel, renamed);

	AtEOXact_GUC(false, level);
	return deparse(expr, rel);
}

SPIPlanPtr
outbox_filter_prepare(const char *sql, int nargs, Oid *argtypes)
{
	int			level = pin_settings();
	SPIPlanPtr	plan = SPI_prepare(sql, nargs, argtypes);

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	AtEOXact_GUC(false, level);
	return plan;
}
