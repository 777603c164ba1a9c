/*-------------------------------------------------------------------------
 *
 * fields.h
 *	  Does the JSON of a composite value have all fields of its type?
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FIELDS_H
#define OUTBOX_FIELDS_H

#include "postgres.h"

#include "apply/json_scan.h"

/* A composite type, or an array or domain of one? */
extern bool outbox_type_has_fields(Oid typid);

/*
 * Raises undefined_column for a JSON object, at any depth, that lacks a field of
 * the composite type it is to become.
 */
extern void outbox_fields_check(Oid typid, const OutboxJsonValue *value);

#endif							/* OUTBOX_FIELDS_H */
