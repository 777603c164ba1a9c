/*-------------------------------------------------------------------------
 *
 * stamp.c
 *	  Event ids and commit stamps: one growing number per database.
 *
 * The numbers live in the sequence outbox._stamp, whose page is advanced here
 * directly.  nextval() would do it as well, but it would become the session's
 * lastval(), which applications read after their INSERT, and costs a catalog
 * look-up and a permission check per event.  The page's format and its WAL
 * record are the server's own, so replay, backup and standby know them.
 *
 * As nextval() does, a WAL record covers STAMP_PRELOG numbers in advance:
 * after a crash some are skipped, none is given twice.
 *
 * Fence.  A sequence can go back in time: an asynchronous standby is promoted
 * without the last records, a backup is restored, the extension is dropped
 * and created.  At the first stamp of a server start in a database the
 * sequence is raised to the clock (seconds since 1970 with their fraction,
 * times 2^20) if it is behind.  The sequence outbox._stamp_fence remembers for
 * which server start that was done; a promoted standby, a restored cluster and
 * a database made from a template all have another mark.  Stamps stay below
 * 2^53, exact in JSON readers that know only doubles, until the year 2242, and
 * ahead of the clock's value only if a database uses a million of them a
 * second on average.
 *
 * Locks: each counter by the content lock of its page.  The fence takes the
 * lock of _stamp before that of _stamp_fence.  RowExclusiveLock on the
 * relation, kept to the end of the transaction, keeps DROP EXTENSION away.
 *
 * An id is taken for each event, so the way to it is short: the relation's OID
 * and the buffer its page was last in are remembered, and the lock is asked for
 * once per transaction.  Ids cannot be taken in advance: of two changes of a
 * row the later one must have the larger id, whoever makes it.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/stamp.h"

#include <sys/time.h>

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "common/catalog.h"

#define STAMP_PRELOG 32			/* numbers covered by one WAL record */
#define STAMP_CLOCK_SHIFT 20

/* A counter's page, pinned and locked. */
typedef struct CounterPage
{
	Relation	rel;
	Buffer		buf;
	HeapTupleData tup;
	Form_pg_sequence_data data;
} CounterPage;

static OutboxRelationRef stamp_ref = {"_stamp"};
static Oid	fenced_seqid = InvalidOid;	/* sequence this backend saw fenced */

/*
 * "recent", if not NULL, is the buffer that the page was in the last time, and
 * is set to the one it is in.
 */
static void
counter_open(CounterPage *cp, Oid seqid, int lockmode, Buffer *recent)
{
	Page		page;
	ItemId		lp;

	cp->rel = relation_open(seqid, NoLock);
	if (recent != NULL && BufferIsValid(*recent) &&
		outbox_read_recent_buffer(cp->rel, 0, *recent))
		cp->buf = *recent;
	else
		cp->buf = ReadBuffer(cp->rel, 0);
	if (recent != NULL)
		*recent = cp->buf;
	LockBuffer(cp->buf, lockmode);
	page = BufferGetPage(cp->buf);
	lp = PageGetItemId(page, FirstOffsetNumber);
	Assert(ItemIdIsNormal(lp));
	cp->tup.t_data = (HeapTupleHeader) PageGetItem(page, lp);
	cp->tup.t_len = ItemIdGetLength(lp);
	cp->data = (Form_pg_sequence_data) GETSTRUCT(&cp->tup);
}

static void
counter_close(CounterPage *cp)
{
	UnlockReleaseBuffer(cp->buf);
	relation_close(cp->rel, NoLock);
}

/*
 * Set the counter.  If logged_value is not zero, a WAL record says that value
 * (at or beyond "value"); log_cnt is what remains of it.
 */
static void
counter_store(CounterPage *cp, int64 value, int64 logged_value)
{
	START_CRIT_SECTION();
	MarkBufferDirty(cp->buf);
	cp->data->is_called = true;

	if (logged_value != 0 && RelationNeedsWAL(cp->rel))
	{
		Page		page = BufferGetPage(cp->buf);
		xl_seq_rec	xlrec;
		XLogRecPtr	recptr;

		cp->data->last_value = logged_value;
		cp->data->log_cnt = 0;
		outbox_seq_rec_set(&xlrec, cp->rel);

		XLogBeginInsert();
		XLogRegisterBuffer(0, cp->buf, REGBUF_WILL_INIT);
		XLogRegisterData((char *) &xlrec, sizeof(xl_seq_rec));
		XLogRegisterData((char *) cp->tup.t_data, cp->tup.t_len);
		recptr = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
		PageSetLSN(page, recptr);
	}

	cp->data->last_value = value;
	if (logged_value != 0)
		cp->data->log_cnt = logged_value - value;
	else
		cp->data->log_cnt--;
	END_CRIT_SECTION();
}

/*
 * The clock as a stamp.  Its fraction of a second counts: an extension that is
 * dropped and created again within one must not begin where it began before.
 */
static int64
stamp_clock(void)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	return ((int64) now.tv_sec << STAMP_CLOCK_SHIFT) +
		((int64) now.tv_usec << STAMP_CLOCK_SHIFT) / 1000000;
}

/*
 * Raise the sequence above the clock, once per server start and database.
 */
static void
stamp_fence(Oid stampid)
{
	Oid			fenceid = outbox_relation_oid("_stamp_fence");
	CounterPage stamp;
	CounterPage fence;
	uint64		mark;

	mark = (uint64) PgStartTime ^
		((uint64) MyDatabaseId * UINT64CONST(0x9E3779B97F4A7C15));
	mark &= (uint64) PG_INT64_MAX;

	LockRelationOid(fenceid, RowExclusiveLock);
	counter_open(&stamp, stampid, BUFFER_LOCK_EXCLUSIVE, NULL);
	counter_open(&fence, fenceid, BUFFER_LOCK_EXCLUSIVE, NULL);
	if ((uint64) fence.data->last_value != mark)
	{
		int64		value = Max(stamp.data->last_value + 1, stamp_clock());

		counter_store(&stamp, value, value + STAMP_PRELOG);
		counter_store(&fence, (int64) mark, (int64) mark);
	}
	counter_close(&fence);
	counter_close(&stamp);
	fenced_seqid = stampid;
}

/*
 * Lock the sequence to the end of the transaction.  The lock is the top-level
 * transaction's, so that no subtransaction's abort releases it.
 */
static void
stamp_lock(Oid stampid)
{
	static Oid	locked = InvalidOid;
	static FullTransactionId locked_in;

	/* the xid makes the commit flush what is logged in the sequence */
	FullTransactionId xid = GetTopFullTransactionId();
	ResourceOwner oldowner = CurrentResourceOwner;

	if (locked == stampid && FullTransactionIdEquals(locked_in, xid))
		return;
	CurrentResourceOwner = TopTransactionResourceOwner;
	LockRelationOid(stampid, RowExclusiveLock);
	CurrentResourceOwner = oldowner;
	locked = stampid;
	locked_in = xid;
}

int64
outbox_stamp_next(void)
{
	static Buffer recent = InvalidBuffer;
	Oid			stampid = outbox_relation_ref(&stamp_ref);
	CounterPage cp;
	int64		value;
	int64		logged = 0;

	PreventCommandIfReadOnly("recording events");
	PreventCommandIfParallelMode("recording events");

	stamp_lock(stampid);
	if (fenced_seqid != stampid)
		stamp_fence(stampid);

	counter_open(&cp, stampid, BUFFER_LOCK_EXCLUSIVE, &recent);
	value = cp.data->last_value + 1;
	if (cp.data->log_cnt <= 0 ||
		PageGetLSN(BufferGetPage(cp.buf)) <= GetRedoRecPtr())
		logged = value + STAMP_PRELOG;
	counter_store(&cp, value, logged);
	counter_close(&cp);
	return value;
}

/*
 * For what a restore loads: the clock that the fence goes by may be behind the
 * one of the server that the numbers are from.
 */
void
outbox_stamp_raise(int64 value)
{
	Oid			stampid = outbox_relation_ref(&stamp_ref);
	CounterPage cp;

	stamp_lock(stampid);
	if (fenced_seqid != stampid)
		stamp_fence(stampid);
	counter_open(&cp, stampid, BUFFER_LOCK_EXCLUSIVE, NULL);
	if (cp.data->last_value < value)
		counter_store(&cp, value, value + STAMP_PRELOG);
	counter_close(&cp);
}

Oid
outbox_stamp_sequence(void)
{
	return fenced_seqid;
}

int64
outbox_stamp_last(void)
{
	return outbox_counter_read(outbox_relation_oid("_stamp"));
}

int64
outbox_counter_read(Oid seqid)
{
	CounterPage cp;
	int64		value;

	LockRelationOid(seqid, AccessShareLock);
	counter_open(&cp, seqid, BUFFER_LOCK_SHARE, NULL);
	value = cp.data->last_value;
	counter_close(&cp);
	return value;
}

void
outbox_counter_set(Oid seqid, int64 value)
{
	CounterPage cp;

	(void) GetTopTransactionId();
	LockRelationOid(seqid, RowExclusiveLock);
	counter_open(&cp, seqid, BUFFER_LOCK_EXCLUSIVE, NULL);
	counter_store(&cp, value, value);
	counter_close(&cp);
}
