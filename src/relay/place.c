/*-------------------------------------------------------------------------
 *
 * place.c
 *	  A place: what is committed with each Kafka transaction.
 *
 * It says which transactions of this database are published, by the two
 * snapshots of a position, and so needs nothing that is stored here.  Snapshots
 * mean something in one history of the database only.  So each has the WAL
 * position at which it was taken, and the place says which timelines it was
 * written under: WAL up to there, on these timelines, has the ends of all
 * transactions that the snapshot calls ended.  Whoever has that WAL too, and what
 * was kept of events that were not sent, can go by the place; a server that was
 * promoted, or restored, from less cannot, nor could it know the events.  A copy of
 * the data directory writes on the same timelines; whose the place is then is for
 * the caller to know (transaction.c).
 *
 * The text is a list of fields in a fixed order; the first one names the form.
 * It comes from the brokers, so nothing is believed of it.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/place.h"

#include "access/timeline.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "kafka/kafka.h"
#include "worker/worker.h"

#define PLACE_FORM "pg_outbox1"
#define SNAPSHOT_MAX ((OUTBOX_PLACE_MAX - 700) / 2) /* bytes of each */

/* ---------------- snapshots ---------------- */

/*
 * Transactions in progress are many where many write at once, and close to each
 * other then: the differences are written in digits of 5 bits, the lowest first,
 * all but the last of a number marked by a sixth.
 */
static const char digits[] =
"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void
put_number(StringInfo buf, uint64 number)
{
	for (; number >= 32; number >>= 5)
		appendStringInfoChar(buf, digits[32 | (number & 31)]);
	appendStringInfoChar(buf, digits[number]);
}

static bool
get_number(const char **pos, uint64 *number)
{
	int			shift = 0;

	*number = 0;
	for (;;)
	{
		const char *digit = **pos != '\0' ? strchr(digits, **pos) : NULL;
		uint64		value;

		if (digit == NULL || shift > 60)
			return false;
		(*pos)++;
		value = digit - digits;
		*number |= (value & 31) << shift;
		if (value < 32)
			return true;
		shift += 5;
	}
}

static void
put_snapshot(StringInfo buf, const OutboxSnapshot *snap)
{
	uint64		last = snap->xmin;

	appendStringInfo(buf, " " UINT64_FORMAT ":" UINT64_FORMAT ":" UINT64_FORMAT ":",
					 (uint64) snap->lsn, snap->xmin, snap->xmax);
	for (int i = 0; i < snap->nxip; i++)
	{
		put_number(buf, snap->xip[i] - last);
		last = snap->xip[i];
	}
}

bool
outbox_place_fits(const OutboxSnapshot *snap)
{
	StringInfoData buf;
	bool		fits;

	if (snap->nxip < SNAPSHOT_MAX / 16)
		return true;
	initStringInfo(&buf);
	put_snapshot(&buf, snap);
	fits = buf.len <= SNAPSHOT_MAX;
	pfree(buf.data);
	return fits;
}

static bool
get_u64(const char **pos, char end, uint64 *value)
{
	char	   *stop;

	if (**pos < '0' || **pos > '9')
		return false;
	errno = 0;
	*value = strtou64(*pos, &stop, 10);
	if (errno != 0 || *stop != end)
		return false;
	*pos = stop + (end != '\0');
	return true;
}

static bool
get_i64(const char **pos, char end, int64 *value)
{
	uint64		number;

	if (!get_u64(pos, end, &number) || number > PG_INT64_MAX)
		return false;
	*value = (int64) number;
	return true;
}

/*
 * NULL if there is no sound one.
 */
static OutboxSnapshot *
get_snapshot(const char **pos)
{
	OutboxSnapshot *snap = palloc(offsetof(OutboxSnapshot, xip) +
								  sizeof(uint64) * (strcspn(*pos, " ") + 1));
	uint64		lsn;
	uint64		last;

	if (!get_u64(pos, ':', &lsn) || !get_u64(pos, ':', &snap->xmin) ||
		!get_u64(pos, ':', &snap->xmax) || snap->xmin > snap->xmax)
		return NULL;
	snap->lsn = lsn;
	snap->nxip = 0;
	last = snap->xmin;
	while (**pos != ' ' && **pos != '\0')
	{
		uint64		step;

		if (!get_number(pos, &step) || (step == 0 && snap->nxip > 0) ||
			step >= snap->xmax - last)
			return NULL;
		last += step;
		snap->xip[snap->nxip++] = last;
	}
	if (**pos == ' ')
		(*pos)++;
	return snap;
}

/* ---------------- the text ---------------- */

char *
outbox_place_out(const RelayPlace *place)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "%s " INT64_FORMAT " " INT64_FORMAT " " INT64_FORMAT " " UINT64_FORMAT " ",
					 PLACE_FORM, (int64) place->server_start, place->number, place->drained,
					 (uint64) place->kept_lsn);
	for (int i = 0; i < place->ntimelines; i++)
		appendStringInfo(&buf, "%s%u@" UINT64_FORMAT, i > 0 ? "," : "",
						 place->timelines[i].tli, (uint64) place->timelines[i].begin);
	appendStringInfo(&buf, " " INT64_FORMAT " " INT64_FORMAT, place->stamp, place->id);
	put_snapshot(&buf, place->base);
	if (place->target != NULL)
		put_snapshot(&buf, place->target);
	return buf.data;
}

static bool
get_timelines(const char **pos, RelayPlace *place)
{
	for (place->ntimelines = 0; place->ntimelines < PLACE_TIMELINES;)
	{
		PlaceTimeline *timeline = &place->timelines[place->ntimelines++];
		size_t		len = strcspn(*pos, ", ");
		char		end = (*pos)[len];
		uint64		tli;
		uint64		begin;

		if (!get_u64(pos, '@', &tli) || tli > PG_UINT32_MAX || !get_u64(pos, end, &begin))
			return false;
		timeline->tli = (TimeLineID) tli;
		timeline->begin = begin;
		if (end != ',')
			return end == ' ';
	}
	return false;
}

bool
outbox_place_in(const char *text, RelayPlace *place)
{
	const char *pos = text +strlen(PLACE_FORM " ");

	memset(place, 0, sizeof(*place));
	if (strncmp(text, PLACE_FORM " ", strlen(PLACE_FORM " ")) != 0 ||
		!get_i64(&pos, ' ', &place->server_start) ||
		!get_i64(&pos, ' ', &place->number) ||
		!get_i64(&pos, ' ', &place->drained) || !get_u64(&pos, ' ', &place->kept_lsn) ||
		!get_timelines(&pos, place) ||
		!get_i64(&pos, ' ', &place->stamp) || !get_i64(&pos, ' ', &place->id))
		return false;
	place->base = get_snapshot(&pos);
	if (place->base == NULL)
		return false;
	if (*pos == '\0')
		return true;
	place->target = get_snapshot(&pos);
	return place->target != NULL && *pos == '\0';
}

/* ---------------- timelines ---------------- */

/*
 * Our timelines (TimeLineHistoryEntry *), newest first.  They stay what they are
 * while a server that is no standby runs.
 */
static List *
own_history(void)
{
	static List *history = NIL;

	if (history == NIL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		history = readTimeLineHistory(GetWALInsertionTimeLine());
		MemoryContextSwitchTo(oldcontext);
	}
	return history;
}

void
outbox_place_sign(RelayPlace *place)
{
	ListCell   *lc;

	place->server_start = PgStartTime;
	place->ntimelines = 0;
	foreach(lc, own_history())
	{
		TimeLineHistoryEntry *entry = lfirst(lc);

		if (place->ntimelines == PLACE_TIMELINES)
			break;
		place->timelines[place->ntimelines].tli = entry->tli;
		place->timelines[place->ntimelines++].begin = entry->begin;
	}
}

/*
 * How much WAL of our own timeline the place's server had in common with us.
 * What was written before we started, at most: data that was set back to an older
 * state, as by a disk's snapshot, goes on in the same timeline.
 */
static XLogRecPtr
current_end(const RelayPlace *place)
{
	return place->server_start == PgStartTime ? GetXLogInsertRecPtr() : outbox_server_began();
}

/*
 * Where our history leaves that of the place: how much WAL of it is ours too.  0
 * if none is.
 */
static XLogRecPtr
common_end(const RelayPlace *place)
{
	const PlaceTimeline *timeline = &place->timelines[0];
	XLogRecPtr	end = InvalidXLogRecPtr;
	ListCell   *lc;

	foreach(lc, own_history())
	{
		TimeLineHistoryEntry *entry = lfirst(lc);

		if (entry->tli == timeline->tli && entry->begin == timeline->begin)
			end = XLogRecPtrIsInvalid(entry->end) ? current_end(place) : entry->end;
	}
	return end;
}

/*
 * Is our own timeline one of those that led to the place?
 */
static bool
descends_from_us(const RelayPlace *place)
{
	RelayPlace	own;

	outbox_place_sign(&own);
	for (int i = 1; i < place->ntimelines; i++)
		if (place->timelines[i].tli == own.timelines[0].tli &&
			place->timelines[i].begin == own.timelines[0].begin)
			return true;
	return false;
}

PlaceRelation
outbox_place_judge(const RelayPlace *place)
{
	XLogRecPtr	end = common_end(place);

	if (XLogRecPtrIsInvalid(end))
		return descends_from_us(place) ? PLACE_SUCCESSOR : PLACE_STRANGER;
	if (place->base->lsn > end || place->kept_lsn > end)
		return PLACE_LOST;
	if (place->target != NULL && place->target->lsn > end)
		return PLACE_BASE_OURS;
	return PLACE_OURS;
}

/* ---------------- comparing ---------------- */

/*
 * Moments of one history are in the order of their WAL positions.
 */
bool
outbox_place_ahead(const RelayPlace *place, const OutboxPosition *pos)
{
	XLogRecPtr	there = place->target ? place->target->lsn : place->base->lsn;
	XLogRecPtr	here = pos->target ? pos->target->lsn : pos->base->lsn;

	if (there != here)
		return there > here;
	if (place->target == NULL || pos->target == NULL)
		return place->target == NULL && pos->target != NULL;
	return place->stamp > pos->stamp ||
		(place->stamp == pos->stamp && place->id > pos->id);
}

/*
 * Where the record before a position ends.  What the server returns as the end of
 * the WAL is where the next record begins: at a page's end, behind the header of a
 * page that has nothing else yet.  XLogFlush() would not find that, nor need a
 * standby ever get to see it.
 */
XLogRecPtr
outbox_place_record_end(XLogRecPtr lsn)
{
	uint32		header = XLogSegmentOffset(lsn, wal_segment_size) < XLOG_BLCKSZ ?
	SizeOfXLogLongPHD : SizeOfXLogShortPHD;

	return lsn % XLOG_BLCKSZ == header ? lsn - header : lsn;
}

void
outbox_place_flush(const RelayPlace *place)
{
	XLogFlush(outbox_place_record_end(place->target ? place->target->lsn : place->base->lsn));
}
