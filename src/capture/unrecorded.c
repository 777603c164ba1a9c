/*-------------------------------------------------------------------------
 *
 * unrecorded.c
 *	  Changes that are left to a later copy, because the log is full.
 *
 * With pg_outbox.max_backlog_action = copy a writer goes on when the log has
 * reached its limit.  Its creates and updates make no events; instead, its
 * transaction leaves a row in outbox._unrecorded for each publication
 * concerned.  The relay turns such rows into a request for a copy when the log
 * has room again.
 *
 * Nothing is missed: the row commits with the changes, the relay deletes only
 * rows that it sees, and every chunk of the copy it asks for in the same
 * transaction has a later snapshot, so it sees the changes as well.  Rows that
 * become visible afterwards ask for another copy, when that one is done.
 *
 * Each transaction inserts its own row, also where others have done so, and
 * also if the change was in a subtransaction that was rolled back: that costs
 * a few bytes, or a copy too many, and no lock.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/capture.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "capture/copy.h"
#include "common/catalog.h"
#include "log/log.h"

#define WARN_INTERVAL_MS 60000
#define RELAY_LOCK_TIMEOUT "100ms"

/* columns of outbox._unrecorded, from 0 */
#define UNRECORDED_PUBLICATION 0
#define UNRECORDED_AT 1
#define UNRECORDED_NATTS 2

/* Publications noted in this transaction; in TopTransactionContext. */
static List *noted = NIL;
static TimestampTz warned_at = 0;

static void
warn(const CapturedPublication *pub)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(warned_at, now, WARN_INTERVAL_MS))
		return;
	warned_at = now;
	ereport(LOG,
			(errmsg("changes of publication \"%s\" are not recorded because the event log is full",
					pub->name),
			 errdetail("Its table will be copied when there is room."),
			 errhint("See outbox.status for what delivery waits for.")));
}

void
outbox_unrecorded_note(const CapturedPublication *pub)
{
	MemoryContext oldcontext;

	outbox_log_check_open();
	if (list_member_int(noted, pub->pubid))
		return;
	warn(pub);
	(void) GetTopTransactionId();	/* it has to commit something */
	oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	noted = lappend_int(noted, pub->pubid);
	MemoryContextSwitchTo(oldcontext);
}

static void
write_notes(void)
{
	Relation	rel;
	ListCell   *lc;

	if (!outbox_extension_installed())
		return;					/* dropped in this transaction */
	rel = table_open(outbox_relation_oid("_unrecorded"), RowExclusiveLock);
	foreach(lc, noted)
	{
		Datum		values[UNRECORDED_NATTS];
		bool		nulls[UNRECORDED_NATTS] = {false};
		HeapTuple	tup;

		values[UNRECORDED_PUBLICATION] = Int32GetDatum(lfirst_int(lc));
		values[UNRECORDED_AT] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
		tup = heap_form_tuple(RelationGetDescr(rel), values, nulls);
		heap_insert(rel, tup, GetCurrentCommandId(true), HEAP_INSERT_NO_LOGICAL, NULL);
		pgstat_count_heap_insert(rel, 1);
		heap_freetuple(tup);
	}
	table_close(rel, NoLock);
}

static void
unrecorded_xact_callback(XactEvent event, void *arg)
{
	if (noted == NIL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			write_notes();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			noted = NIL;		/* goes with TopTransactionContext */
			break;
		default:
			break;
	}
}

/* ---------------- in the relay ---------------- */

static bool
any_unrecorded(void)
{
	Relation	rel = table_open(outbox_relation_oid("_unrecorded"), AccessShareLock);
	bool		any = RelationGetNumberOfBlocks(rel) > 0;

	table_close(rel, AccessShareLock);
	return any;
}

/*
 * Take the rows of publications that are not being copied, those of
 * publications that are gone among them, and ask for copies.
 */
static void
request_copies(void)
{
	SPI_connect();
	if (SPI_execute("WITH due AS ("
					"  SELECT DISTINCT publication FROM outbox._unrecorded"
					"  EXCEPT"
					"  SELECT p.id FROM outbox._copy AS c JOIN outbox._publication AS p ON p.name = c.publication"
					"   WHERE c.state = 'running'),"
					" taken AS ("
					"  DELETE FROM outbox._unrecorded AS u USING due WHERE u.publication = due.publication)"
					" SELECT p.name FROM due JOIN outbox._publication AS p ON p.id = due.publication",
					false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read outbox._unrecorded: %s", SPI_result_code_string(SPI_result));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		const char *name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);

		outbox_copy_request(name, true);
		ereport(LOG,
				(errmsg("copying publication \"%s\", of which changes were not recorded", name)));
	}
	SPI_finish();
}

/*
 * Somebody may hold the row of a copy that we ask for, in a transaction left
 * open: then we come again later.
 */
void
outbox_unrecorded_step(void)
{
	MemoryContext oldcontext = CurrentMemoryContext;

	PG_TRY();
	{
		StartTransactionCommand();
		(void) set_config_option("lock_timeout", RELAY_LOCK_TIMEOUT, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
		PushActiveSnapshot(GetTransactionSnapshot());
		if (any_unrecorded() && outbox_log_has_room())
			request_copies();
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
}

void
outbox_unrecorded_init(void)
{
	RegisterXactCallback(unrecorded_xact_callback, NULL);
}
