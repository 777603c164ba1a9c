/*-------------------------------------------------------------------------
 *
 * execute.h
 *	  Running the plans of a target, with keys or rows as their input.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EXECUTE_H
#define OUTBOX_EXECUTE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "utils/queryenvironment.h"
#include "utils/tuplestore.h"

/*
 * Have the plans of this SPI connection see the store as a relation, until it
 * is unregistered, which ends the store.
 */
extern EphemeralNamedRelation outbox_execute_register(const char *name, TupleDesc desc,
													  Tuplestorestate *store);
extern void outbox_execute_unregister(EphemeralNamedRelation enr);

/*
 * Have the plan made now, by index: it is cached, the table may be small today
 * and large before anybody analyzes it.  The settings are not in force while
 * the plan runs, so that triggers plan as they please.
 */
extern void outbox_execute_plan_by_index(SPIPlanPtr plan);

/*
 * Run a plan on the newest state.  Under REPEATABLE READ and up a row that is
 * to be changed, but that the transaction's snapshot cannot see, is a
 * serialization failure.
 */
extern void outbox_execute_on_latest(SPIPlanPtr plan, Datum *args, bool crosscheck, int expected);

#endif							/* OUTBOX_EXECUTE_H */
