/*-------------------------------------------------------------------------
 *
 * pg_outbox.c
 *	  Module entry: calls each area's init, nothing else.
 *
 * The areas, from the bottom up: common; worker, kafka, log; capture, relay,
 * apply.  Includes point downwards only.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "apply/apply.h"
#include "capture/capture.h"
#include "capture/copy.h"
#include "common/catalog.h"
#include "common/fault.h"
#include "kafka/kafka.h"
#include "log/log.h"
#include "relay/relay.h"
#include "worker/worker.h"

OUTBOX_MODULE_MAGIC("pg_outbox");

void		_PG_init(void);

/*
 * The log tells nobody about workers, nor they about it: this is the link.
 */
static void
wake_relay(int64 nevents)
{
	outbox_worker_wake(OUTBOX_WORKER_RELAY);
}

static void
ask_relay_for_room(void)
{
	outbox_worker_ask(OUTBOX_WORKER_RELAY);
}

void
_PG_init(void)
{
	outbox_catalog_init();
	outbox_fault_init();
	outbox_worker_init();
	outbox_kafka_init();

	/* the workers' exit, and what they have to know of, are other areas' */
	outbox_worker_set_early_init(outbox_kafka_register_exit);
	outbox_server_altered_hook = outbox_worker_tell_at_commit;
	outbox_log_init();
	outbox_log_set_commit_hook(wake_relay);
	outbox_log_set_full_hook(ask_relay_for_room);
	outbox_capture_init();
	outbox_relay_init();
	outbox_relay_set_task(outbox_copy_step);
	outbox_apply_init();

	MarkGUCPrefixReserved("pg_outbox");
}
