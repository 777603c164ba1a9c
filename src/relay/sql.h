/*-------------------------------------------------------------------------
 *
 * sql.h
 *	  The relay's SQL on its own tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_SQL_H
#define OUTBOX_RELAY_SQL_H

#include "postgres.h"

/* SPI with a fresh snapshot, inside a transaction of the relay. */
extern void outbox_sql_begin(void);
extern void outbox_sql_end(void);

/* Run a statement; raises unless it succeeds.  Results as SPI leaves them. */
extern void outbox_sql_execute(const char *sql, int nargs, Oid *types,
							   Datum *values, const char *nulls);

#endif							/* OUTBOX_RELAY_SQL_H */
