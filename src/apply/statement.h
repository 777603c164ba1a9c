/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  Statements on the extension's own tables, with its owner's rights.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_STATEMENT_H
#define OUTBOX_STATEMENT_H

#include "postgres.h"

#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "common/catalog.h"

/* A parameter of a statement. */
typedef struct OutboxSqlArg
{
	Oid			type;
	Datum		value;
	bool		isnull;
} OutboxSqlArg;

/*
 * Between begin and end the owner's rights are in force and SPI is connected;
 * both are undone by an error, too.
 */
extern void outbox_statement_begin(OutboxOwnerScope *scope);
extern void outbox_statement_end(OutboxOwnerScope *scope);

/*
 * Run a statement and return the number of rows that it processed; its result
 * is in SPI_tuptable.  Plans are kept by the address of the text, which must
 * therefore be a constant.
 */
extern uint64 outbox_statement_run(const char *sql, int nargs, const OutboxSqlArg *args);

/* Values of the current result; texts are NULL if the value is. */
extern char *outbox_statement_get_text(uint64 row, int column);
extern int64 outbox_statement_get_int8(uint64 row, int column, int64 if_null);
extern int32 outbox_statement_get_int4(uint64 row, int column, int32 if_null);
extern bool outbox_statement_get_bool(uint64 row, int column);

static inline OutboxSqlArg
sql_text(const char *value)
{
	OutboxSqlArg arg = {TEXTOID, (Datum) 0, value == NULL};

	if (value != NULL)
		arg.value = CStringGetTextDatum(value);
	return arg;
}

static inline OutboxSqlArg
sql_int4(int32 value)
{
	OutboxSqlArg arg = {INT4OID, Int32GetDatum(value), false};

	return arg;
}

static inline OutboxSqlArg
sql_int8(int64 value)
{
	OutboxSqlArg arg = {INT8OID, Int64GetDatum(value), false};

	return arg;
}

static inline OutboxSqlArg
sql_oid(Oid value)
{
	OutboxSqlArg arg = {OIDOID, ObjectIdGetDatum(value), !OidIsValid(value)};

	return arg;
}

static inline OutboxSqlArg
sql_bool(bool value)
{
	OutboxSqlArg arg = {BOOLOID, BoolGetDatum(value), false};

	return arg;
}

static inline OutboxSqlArg
sql_time(TimestampTz value)
{
	OutboxSqlArg arg = {TIMESTAMPTZOID, TimestampTzGetDatum(value), value == 0};

	return arg;
}

static inline OutboxSqlArg
sql_datum(Oid type, Datum value, bool isnull)
{
	OutboxSqlArg arg = {type, value, isnull};

	return arg;
}

#endif							/* OUTBOX_STATEMENT_H */
