/*-------------------------------------------------------------------------
 *
 * backlog.c
 *	  A bound for the disk space that undelivered events take.
 *
 * When Kafka is away for long, the log grows.  Before it fills the disk and
 * stops the whole server, pg_outbox.max_backlog_action says what happens:
 *
 * - refuse: new events are refused, with an error that says why; the
 *	 application's transaction fails rather than its event being lost;
 * - copy: changes of published tables are not recorded, and their publication
 *	 is copied anew later (capture/unrecorded.c).  What no copy can bring is
 *	 treated otherwise: deletes are recorded all the same, beyond the limit up
 *	 to a hard one, and events of the application's own are refused.
 *
 * A backend looks at the log's size when a transaction appends its first
 * event, and whenever the transaction's buffer is full, if it has not looked for
 * a second or has since written a good part of the room that it saw; so a limit
 * can be overrun by what all write within a second, and by one buffer.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "log/log.h"

#include <limits.h>
#include <sys/statvfs.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "log/log_internal.h"

#define LOOK_INTERVAL_MS 1000
#define WARN_INTERVAL_MS 60000
#define LOOK_ROOM_PART 64		/* written since: look again */
#define WARN_SHARE 0.8			/* nearly full */
#define HARD_SHARE 1.5			/* where deletes are refused as well */

typedef enum BacklogAction
{
	BACKLOG_REFUSE,
	BACKLOG_COPY
} BacklogAction;

static const struct config_enum_entry backlog_actions[] = {
	{"refuse", BACKLOG_REFUSE, false},
	{"copy", BACKLOG_COPY, false},
	{NULL, 0, false}
};

static int	max_backlog_mb = -1;
static int	max_backlog_action = BACKLOG_REFUSE;
static TimestampTz looked_at = 0;
static TimestampTz warned_at = 0;
static bool full = false;
static int64 size_seen;
static int64 limit_seen;
static int64 written;			/* by us since we looked */
static void (*full_hook) (void) = NULL;

void
outbox_log_set_full_hook(void (*hook) (void))
{
	full_hook = hook;
}

int64
outbox_log_size(void)
{
	int64		size = outbox_parked_size();

	for (int i = 0; i < OUTBOX_LOG_SEGMENTS; i++)
		size += outbox_segment_size(i);
	return size;
}

/*
 * The limit in bytes; -1: none.  By default the log may take half of the
 * space that is free without it on the data directory's file system.
 */
int64
outbox_log_limit(int64 size)
{
	struct statvfs fs;

	if (max_backlog_mb == 0)
		return -1;
	if (max_backlog_mb > 0)
		return (int64) max_backlog_mb * 1024 * 1024;
	if (statvfs(DataDir, &fs) != 0)
		return -1;
	return (size + (int64) fs.f_bavail * (int64) fs.f_frsize) / 2;
}

static void
look(TimestampTz now)
{
	looked_at = now;
	written = 0;
	size_seen = outbox_log_size();
	limit_seen = outbox_log_limit(size_seen);
	full = limit_seen >= 0 && size_seen >= limit_seen;
	if (full && full_hook != NULL)
		full_hook();
	if (full || limit_seen < 0 || size_seen < WARN_SHARE * limit_seen)
		return;
	if (!TimestampDifferenceExceeds(warned_at, now, WARN_INTERVAL_MS))
		return;
	warned_at = now;
	ereport(LOG,
			(errmsg("the event log has reached %lld MB of the %lld MB it may take",
					(long long) size_seen / (1024 * 1024),
					(long long) limit_seen / (1024 * 1024)),
			 errhint("See outbox.status for what its delivery waits for.")));
}

static void
look_if_due(TimestampTz now)
{
	if (TimestampDifferenceExceeds(looked_at, now, LOOK_INTERVAL_MS))
		look(now);
}

static void
refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the event log is full"),
			 errdetail("It takes %lld MB, delivered events included that cannot be removed yet; the limit is %lld MB.",
					   (long long) size_seen / (1024 * 1024),
					   (long long) limit_seen / (1024 * 1024)),
			 errhint("See outbox.status for what delivery waits for, or raise pg_outbox.max_backlog.")));
}

void
outbox_log_check_room(void)
{
	look_if_due(GetCurrentStatementStartTimestamp());
	if (full)
		look(GetCurrentTimestamp());	/* it may have been emptied */
	if (full)
		refuse();
}

bool
outbox_log_leaves_to_copy(void)
{
	if (max_backlog_action != BACKLOG_COPY)
		return false;
	look_if_due(GetCurrentStatementStartTimestamp());
	return full;
}

bool
outbox_log_has_room(void)
{
	look(GetCurrentTimestamp());
	return limit_seen < 0 || size_seen < WARN_SHARE * limit_seen;
}

/*
 * Refuse events of whatever kind, where there is no room for any.  "bytes" are
 * about to be written; 0: a first event is appended.
 */
void
outbox_backlog_check(int64 bytes)
{
	TimestampTz now = bytes > 0 ? GetCurrentTimestamp() : GetCurrentStatementStartTimestamp();

	written += bytes;
	if (limit_seen >= 0 && written > (limit_seen - size_seen) / LOOK_ROOM_PART)
		look(now);
	else
		look_if_due(now);
	if (full && max_backlog_action == BACKLOG_REFUSE)
		look(GetCurrentTimestamp());	/* it may have been emptied */
	if (full && (max_backlog_action == BACKLOG_REFUSE ||
				 size_seen >= HARD_SHARE * limit_seen))
		refuse();
}

/*
 * Another limit: look again at once.
 */
static void
assign_max_backlog(int newval, void *extra)
{
	looked_at = 0;
}

void
outbox_backlog_init(void)
{
	DefineCustomIntVariable("pg_outbox.max_backlog",
							"Size of the event log at which pg_outbox.max_backlog_action applies.",
							"-1: half of the disk space that would be free without the log; 0: no limit.",
							&max_backlog_mb, -1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MB, NULL, assign_max_backlog, NULL);
	DefineCustomEnumVariable("pg_outbox.max_backlog_action",
							 "What happens to new events when the event log has reached its limit.",
							 "refuse: their statements fail; copy: changes of published tables are not recorded, and the tables are copied anew later.",
							 &max_backlog_action, BACKLOG_REFUSE, backlog_actions,
							 PGC_SUSET, 0, NULL, NULL, NULL);
}
