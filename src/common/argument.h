/*-------------------------------------------------------------------------
 *
 * argument.h
 *	  Arguments of SQL functions that must not be null, and those that name a
 *	  relation.
 *
 * No public function is declared STRICT: PostgreSQL would answer NULL without
 * calling it, which a caller may take for an answer, or for work that was done.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ARGUMENT_H
#define OUTBOX_ARGUMENT_H

#include "postgres.h"

#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

/* Raises null_value_not_allowed; the hint says what to pass (NULL: none). */
extern void outbox_argument_require(FunctionCallInfo fcinfo, int argno,
									const char *name, const char *hint);

/* The argument's text, palloc'd; the first raises for null. */
extern char *outbox_argument_text(FunctionCallInfo fcinfo, int argno,
								  const char *name, const char *hint);
extern char *outbox_argument_text_or_null(FunctionCallInfo fcinfo, int argno);

/*
 * Open the relation that a caller named by a regclass, which need not exist:
 * a number becomes one too.  Raises undefined_table then.
 */
extern Relation outbox_argument_relation(Oid relid, LOCKMODE lockmode);

/* Raises the same if there is no such relation, without opening it. */
extern void outbox_argument_relation_exists(Oid relid);

#endif							/* OUTBOX_ARGUMENT_H */
