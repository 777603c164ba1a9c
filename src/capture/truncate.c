/*-------------------------------------------------------------------------
 *
 * truncate.c
 *	  The statement trigger of captured tables: TRUNCATE is refused, becomes an
 *	  event, or is ignored, as each publication of the table says.
 *
 * The trigger fires before the table is emptied and after TRUNCATE has taken
 * AccessExclusiveLock, which it keeps to the end of the transaction.  So every
 * event of a row that goes has a smaller id than the event recorded here, by
 * whichever transaction, and every event of a row that comes a larger one.
 *
 * The event speaks of the whole topic, so it cannot say that one partition of
 * the table was emptied.  TRUNCATE of the table fires the triggers of its
 * partitions as well, after its own: those find it in "truncated" and know that
 * all has been said, unless a row of the table was captured since.  The list
 * lives in TopTransactionContext; an entry counts in the subtransaction that
 * made it only, as a rollback brings the rows back.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/capture.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(outbox_capture_truncate);

/* A published table that was truncated, and of which no row came since. */
typedef struct Truncated
{
	Oid			relid;
	SubTransactionId subid;
} Truncated;

List	   *outbox_truncated = NIL; /* of Truncated */

static void
note_truncated(Oid relid)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	Truncated  *entry = palloc(sizeof(Truncated));

	entry->relid = relid;
	entry->subid = GetCurrentSubTransactionId();
	outbox_truncated = lappend(outbox_truncated, entry);
	MemoryContextSwitchTo(oldcontext);
}

void
outbox_truncate_forget(Oid relid)
{
	ListCell   *lc;

	foreach(lc, outbox_truncated)
		if (((Truncated *) lfirst(lc))->relid == relid)
		outbox_truncated = foreach_delete_current(outbox_truncated, lc);
}

static bool
is_truncated(Oid relid)
{
	ListCell   *lc;

	foreach(lc, outbox_truncated)
	{
		Truncated  *entry = lfirst(lc);

		if (entry->relid == relid && entry->subid == GetCurrentSubTransactionId())
			return true;
	}
	return false;
}

static void
refuse(const CapturedPublication *pub, Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot truncate table \"%s\" because it is published",
					RelationGetRelationName(rel)),
			 errdetail("TRUNCATE makes no events: replicas would keep the rows of publication \"%s\".",
					   pub->name),
			 errhint("Use DELETE, or publish the table with on_truncate => 'publish' or 'ignore'.")));
}

static void
refuse_partition(const CapturedPublication *pub, Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot truncate partition \"%s\" because its table is published",
					RelationGetRelationName(rel)),
			 errdetail("The event of a TRUNCATE speaks of all rows of publication \"%s\".",
					   pub->name),
			 errhint("Use DELETE for the partition, or TRUNCATE \"%s\", with its partitions behind it if they are named.",
					 get_rel_name(pub->root))));
}

static void
capture_truncate(CapturedPublication *pub, Relation rel)
{
	switch (pub->on_truncate)
	{
		case CAPTURE_TRUNCATE_REFUSE:
			refuse(pub, rel);
			break;
		case CAPTURE_TRUNCATE_IGNORE:
			break;
		case CAPTURE_TRUNCATE_PUBLISH:
			if (RelationGetRelid(rel) == pub->root)
				outbox_capture_whole(pub, rel, OUTBOX_OP_TRUNCATE, 0);
			else if (!is_truncated(pub->root))
				refuse_partition(pub, rel);
			break;
	}
}

static void
capture_statement(Relation rel)
{
	CapturedRelation *captured = outbox_captured_relation(rel);

	for (int i = 0; i < captured->npubs; i++)
		capture_truncate(&captured->pubs[i], rel);
	if (captured->npubs > 0)
		note_truncated(RelationGetRelid(rel));
}

/*
 * What becomes of TRUNCATE is looked up here: the option changes without a
 * lock on the table, and a detached partition keeps its trigger.
 */
Datum
outbox_capture_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event) ||
		!TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_capture_truncate\" must be fired BEFORE TRUNCATE"),
				 errhint("Use outbox.publish to capture a table.")));
	if (!outbox_capture_enabled())
		return PointerGetDatum(NULL);
	outbox_capture_begin(trigdata->tg_relation);
	PG_TRY();
	{
		capture_statement(trigdata->tg_relation);
	}
	PG_FINALLY();
	{
		outbox_capture_end();
	}
	PG_END_TRY();
	return PointerGetDatum(NULL);
}

static void
truncate_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			outbox_truncated = NIL; /* goes with TopTransactionContext */
			break;
		default:
			break;
	}
}

void
outbox_truncate_init(void)
{
	RegisterXactCallback(truncate_xact_callback, NULL);
}
