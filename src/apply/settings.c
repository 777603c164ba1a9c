/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  Settings of the applier.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/settings.h"

#include <limits.h>

#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "apply/feed.h"

int			outbox_apply_batch_size = 1000;
int			outbox_apply_batch_bytes = 8192;
int			outbox_parked_timeout = 3600;
int			outbox_stop_after_failures = 10;
int			outbox_metadata_refresh = 30;
int			outbox_tombstone_retention = 30 * 24 * 60;
int			outbox_inbox_retention = 30 * 24 * 60;

const char *
outbox_apply_group_prefix(void)
{
	return get_database_name(MyDatabaseId);
}

static void
define_batch_settings(void)
{
	DefineCustomIntVariable("pg_outbox.apply_batch_size",
							"Events that are applied in one transaction at most.",
							"A worker takes what has arrived, so that transactions are small while little arrives. New subscriptions of a worker use a changed value.",
							&outbox_apply_batch_size, 1000, 1, 100000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_outbox.apply_batch_bytes",
							"Size of the keys and values of the events that are applied in one transaction.",
							"The event that reaches the limit is still taken.",
							&outbox_apply_batch_bytes, 8192, 1, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_outbox.metadata_refresh",
							"Time between looks at the partitions of subscribed topics.",
							NULL,
							&outbox_metadata_refresh, 30, 1, 3600,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

static void
define_fault_settings(void)
{
	DefineCustomIntVariable("pg_outbox.parked_timeout",
							"Time after which an event that waits for another becomes a dead letter.",
							NULL,
							&outbox_parked_timeout, 3600, 0, INT_MAX / 1000,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_outbox.stop_after_failures",
							"Events in a row that fail alike before a subscription stops.",
							"None of them becomes a dead letter then. Zero means that it never stops for this.",
							&outbox_stop_after_failures, 10, 0, OUTBOX_RUN_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
define_retention_settings(void)
{
	DefineCustomIntVariable("pg_outbox.tombstone_retention",
							"Time for which deleted keys of replicas are remembered.",
							"A late event of a deleted key that arrives after this time brings the row back. Keys with an open dead letter are remembered longer.",
							&outbox_tombstone_retention, 30 * 24 * 60, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_outbox.inbox_retention",
							"Time for which events that were handled are remembered.",
							"A repetition that arrives after this time is taken for a first time.",
							&outbox_inbox_retention, 30 * 24 * 60, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
}

void
outbox_settings_init(void)
{
	define_batch_settings();
	define_fault_settings();
	define_retention_settings();
}
