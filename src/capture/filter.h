/*-------------------------------------------------------------------------
 *
 * filter.h
 *	  Row filters: a boolean expression over a row's columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FILTER_H
#define OUTBOX_FILTER_H

#include "postgres.h"

#include "access/attnum.h"
#include "executor/spi.h"
#include "nodes/nodes.h"
#include "utils/rel.h"

/* Check what a user gave; returns the text that is stored. */
extern char *outbox_filter_canonical(const char *text, Relation rel);

/*
 * Expression for a stored text: columns are Vars of range table entry 1.
 * Functions of the expression may run (constants are folded when it is
 * prepared): never do it with more rights than the writer's.
 */
extern Node *outbox_filter_parse(const char *text, Relation rel);

/* Prepare a query that contains a stored text. */
extern SPIPlanPtr outbox_filter_prepare(const char *sql, int nargs, Oid *argtypes);

/* The stored text once the column has its new name. */
extern char *outbox_filter_rename(const char *text, Relation rel, AttrNumber renamed);

#endif							/* OUTBOX_FILTER_H */
