/*-------------------------------------------------------------------------
 *
 * copy.h
 *	  Publishing the rows that a table has already.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COPY_H
#define OUTBOX_COPY_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/rel.h"

#include "capture/capture.h"

#define COPY_CHUNK_ROWS 1000

/* A row that a transaction was changing when it was read. */
typedef struct CopyPendingRow
{
	uint64		updater;		/* that transaction's top-level xid, with
								 * epoch */
	int64		version;		/* what the row will be published with */
	ArrayType  *identity;		/* text[] */
} CopyPendingRow;

/* A column that the rows are read in the order of. */
typedef struct CopyKey
{
	AttrNumber	attnum;
	FmgrInfo	output;
	char	   *name;			/* r.column, quoted */
	char	   *value;			/* $1[n] as a value to compare it with */
	Oid			type;
	Oid			eq_op;
	Oid			ge_op;
	Oid			gt_op;
} CopyKey;

/* What a step of a copy does. */
typedef enum CopyStep
{
	COPY_BEGIN,					/* of a resync: take the floor */
	COPY_READ,					/* a chunk of rows */
	COPY_RETRY,					/* rows that were pending */
	COPY_END					/* of a resync: tell all partitions */
} CopyStep;

/*
 * One step of a copy: a chunk of rows in the order of their identity, or rows
 * that were pending.  Lives for the step's transaction.
 */
typedef struct CopyChunk
{
	/* which copy, and where it stands */
	MemoryContext context;		/* everything pointed to from here is in it */
	int32		pubid;
	char	   *name;			/* NULL: none found yet */
	Oid			source;
	int64		since;			/* version of a row with an updater */
	int64		floor;			/* of a resync */
	CopyStep	step;
	ArrayType  *ordered_by;		/* what last_key belongs to; NULL: nothing */
	ArrayType  *last_key;		/* NULL: from the beginning */
	List	   *retry;			/* CopyPendingRow *, whose updater has ended */
	uint64		updater;		/* that one */

	/* while the table is open */
	Relation	rel;
	CapturedPublication *pub;
	TupleTableSlot *slot;		/* the row at work, */
	HeapTupleData tuple;		/* which is this one */
	int			nkeys;
	CopyKey    *keys;

	/* what came of it */
	bool		reordered;		/* the keys are not those of last_key */
	bool		more;			/* the table may have more rows */
	int			nread;
	int			npublished;
	Size		bytes;
	List	   *pending;		/* CopyPendingRow *, found by this chunk */
	int64		retried;		/* last version of "retry" that was looked at */
} CopyChunk;

/* ---------------- copy_rows.c ---------------- */

/*
 * Read rows and publish them, as the table's owner.  The rel and the
 * publication of the chunk are set.
 */
extern void outbox_copy_read(CopyChunk *chunk);

/* ---------------- copy.c ---------------- */

/*
 * Have the relay copy a publication, from the beginning.  "heals": because
 * changes, or rows of a new partition, were not recorded; it is incomplete
 * until the copy is done.
 */
extern void outbox_copy_request(const char *publication, bool heals);

/* The same, to end with an event by which replicas delete what is older. */
extern void outbox_resync_request(const char *publication);

/* If a copy of the publication is under way, it begins anew. */
extern void outbox_copy_restart(const char *publication);

/*
 * One step of a copy, in the relay and outside a transaction.  True if there
 * may be more to do.
 */
extern bool outbox_copy_step(void);

extern void outbox_copy_init(void);

#endif							/* OUTBOX_COPY_H */
