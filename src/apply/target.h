/*-------------------------------------------------------------------------
 *
 * target.h
 *	  What a replica looks like to the applier: columns, key, version, plans.
 *
 * Descriptors are cached per backend by relation and made anew when the
 * relation, a type of its columns or any schema changes; a change of its
 * subscription sends the same message as one of the relation.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TARGET_H
#define OUTBOX_TARGET_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/sortsupport.h"

/* Width of our lock on keys: see replica.c */
#define OUTBOX_LOCK_STRIPES 64

/* How a JSON value becomes a datum. */
typedef enum OutboxConversion
{
	OUTBOX_CONV_INPUT,			/* text of a scalar through the input function */
	OUTBOX_CONV_INT2,
	OUTBOX_CONV_INT4,
	OUTBOX_CONV_INT8,
	OUTBOX_CONV_BOOL,
	OUTBOX_CONV_TEXT,
	OUTBOX_CONV_JSON,			/* the value as it stands */
	OUTBOX_CONV_NESTED			/* arrays, composites: see nested_plan */
} OutboxConversion;

/* A column that events are written to. */
typedef struct OutboxTargetColumn
{
	char		name[NAMEDATALEN];
	int			name_len;
	Oid			typid;
	uint32		type_hash;		/* under which the type cache speaks of it */
	int32		typmod;
	Oid			collation;
	int16		typlen;
	bool		typbyval;
	bool		is_key;
	bool		is_version;

	/* text to datum */
	OutboxConversion conversion;
	bool		is_domain;		/* nulls have to be checked too */
	FmgrInfo	input;
	Oid			ioparam;
	SPIPlanPtr	nested_plan;	/* NULL until first used */

	/* for keys: equality as the index has it, and datum to text */
	FmgrInfo	equal;
	Oid			key_collation;
	FmgrInfo	output;
	bool		is_float;		/* float4, float8: -0 equals 0 */
	bool		is_numeric;		/* 1.0 equals 1.00 */
	bool		is_padded;		/* char(n): trailing spaces mean nothing */
} OutboxTargetColumn;

/* Which column the nth member of the last payload was; see row.c */
typedef struct OutboxMemberHint
{
	const char *name;			/* of a column, or copied if it is unknown */
	int			name_len;
	int			column;			/* -1: not one of ours */
} OutboxMemberHint;

#define OUTBOX_MAX_HINTS 256

typedef struct OutboxTarget
{
	Oid			relid;			/* hash key */
	int			in_use;			/* scopes that hold it */
	MemoryContext context;		/* everything below lives here */
	char	   *name;			/* qualified and quoted */

	/* columns that are written, in the order of the table */
	int			ncolumns;
	OutboxTargetColumn *columns;
	int			nkeys;
	int		   *keys;			/* indexes into columns, in the key's order */
	char	  **key_operators;	/* qualified equality operator of each */
	SortSupport key_order;		/* of each, or NULL: keep the events' order */
	int			version_column;
	bool		pin_settings;	/* conversion depends on the session's
								 * settings */
	bool		overriding;		/* an identity column is among them */

	/* event batches as relations: columns / ord, version, keys */
	TupleDesc	rows_desc;
	TupleDesc	keys_desc;

	/* made on first use */
	SPIPlanPtr	upsert_plan;
	SPIPlanPtr	delete_plan;
	SPIPlanPtr	classify_plan;
	SPIPlanPtr	older_plan;
	SPIPlanPtr	sweep_plan;

	int			nhints;
	OutboxMemberHint hints[OUTBOX_MAX_HINTS];
} OutboxTarget;

/* Names under which a batch's relations are known to the plans. */
#define OUTBOX_ROWS_RELATION "outbox_rows"
#define OUTBOX_KEYS_RELATION "outbox_keys"

/*
 * Find or make the descriptor, with RowExclusiveLock taken on the relation
 * until the end of the transaction and the caller's rights checked.  Must be
 * released.  Raises wrong_object_type, insufficient_privilege,
 * feature_not_supported where policies apply to the caller, and
 * invalid_table_definition where key or version are unusable.
 */
extern OutboxTarget *outbox_target_acquire(Oid relid);
extern void outbox_target_release(OutboxTarget *target);

/*
 * What a subscription may say about its target; column names as char *.
 * NIL and NULL stand for the defaults: primary key, "version", all columns.
 */
typedef struct OutboxTargetOptions
{
	List	   *keys;
	char	   *version_column;
	List	   *columns;
} OutboxTargetOptions;

/* Raise if the relation could not be a target, of its owner, with these options. */
extern void outbox_target_check(Oid relid, const OutboxTargetOptions *options);

/* Plans; both relations must be registered with the current SPI connection. */
extern SPIPlanPtr outbox_target_upsert_plan(OutboxTarget *target);
extern SPIPlanPtr outbox_target_delete_plan(OutboxTarget *target);
extern SPIPlanPtr outbox_target_classify_plan(OutboxTarget *target);

/*
 * Rows older than $1: their keys in the shape of the relation of keys, or
 * deleting them.  Both need no relation.
 */
extern SPIPlanPtr outbox_target_older_plan(OutboxTarget *target);
extern SPIPlanPtr outbox_target_sweep_plan(OutboxTarget *target);
extern SPIPlanPtr outbox_target_nested_plan(OutboxTarget *target, OutboxTargetColumn *col);

#endif							/* OUTBOX_TARGET_H */
