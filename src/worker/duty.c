/*-------------------------------------------------------------------------
 *
 * duty.c
 *	  Should a kind of worker exist in the current database, and if not, why?
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "common/catalog.h"
#include "worker/shared.h"

bool
outbox_duty_installed(void)
{
	return outbox_extension_version() != NULL;
}

static bool
is_paused(OutboxWorkerKind kind, char *reason, Size size)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	bool		result;

	SPI_connect();
	values[0] = CStringGetTextDatum(outbox_slot_name(kind));
	if (SPI_execute_with_args("SELECT by_role FROM outbox._paused"
							  " WHERE worker OPERATOR(pg_catalog.=) $1",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read outbox._paused");
	result = SPI_processed > 0;
	if (result)
		snprintf(reason, size, "resume: paused by %s",
				 SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	return result;
}

/*
 * OUTBOX_DUTY_WORK if the extension is there and of the library's version.
 * Needs no rights.
 */
OutboxDuty
outbox_duty_version(char *reason, Size size)
{
	char	   *version = outbox_extension_version();

	reason[0] = '\0';
	if (version == NULL)
		return OUTBOX_DUTY_NOT_INSTALLED;
	if (strcmp(version, OUTBOX_VERSION) == 0)
		return OUTBOX_DUTY_WORK;
	snprintf(reason, size,
			 "ALTER EXTENSION pg_outbox UPDATE: its objects are of version %s, the library of %s",
			 version, OUTBOX_VERSION);
	return OUTBOX_DUTY_VERSION;
}

/*
 * Needs a transaction with a snapshot.  The reason is one for the status view,
 * empty where there is nothing to say.
 */
OutboxDuty
outbox_duty_find(OutboxWorkerKind kind, char *reason, Size size)
{
	const OutboxWorkerClass *class = outbox_worker_class(kind);
	OutboxDuty	duty = outbox_duty_version(reason, size);

	if (duty != OUTBOX_DUTY_WORK)
		return duty;
	if (class == NULL || !class->has_work())
		return OUTBOX_DUTY_NONE;

	switch (outbox_identity_judge(reason, size))
	{
		case OUTBOX_IDENTITY_HOME:
			break;
		case OUTBOX_IDENTITY_NONE:
			strlcpy(reason, "resume: what is stored in this database came from another one", size);
			return OUTBOX_DUTY_COPY;
		case OUTBOX_IDENTITY_FOREIGN:
			return OUTBOX_DUTY_COPY;
	}
	return is_paused(kind, reason, size) ? OUTBOX_DUTY_PAUSED : OUTBOX_DUTY_WORK;
}

/*
 * Log what needs somebody's hand, once until it changes.  Called outside a
 * transaction.
 */
void
outbox_duty_log(const OutboxSlot *slot, OutboxDuty duty, const char *reason)
{
	static bool logged = false; /* of two kinds probed one is enough */
	bool		known;

	if (logged || (duty != OUTBOX_DUTY_VERSION && duty != OUTBOX_DUTY_COPY))
		return;
	logged = true;
	outbox_shared_lock();
	known = slot->state == OUTBOX_SLOT_BLOCKED && strcmp(slot->waiting_for, reason) == 0;
	outbox_shared_unlock();
	if (known)
		return;

	StartTransactionCommand();
	if (duty == OUTBOX_DUTY_VERSION)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_outbox workers of database \"%s\" are stopped",
						get_database_name(MyDatabaseId)),
				 errdetail("They wait for %s.", reason),
				 errhint("Run ALTER EXTENSION pg_outbox UPDATE, or restart the server if its library is the older one.")));
	else
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_outbox workers of database \"%s\" do not start",
						get_database_name(MyDatabaseId)),
				 errdetail("They wait for %s.", reason),
				 errhint("Call outbox.resume() if this database shall publish and consume from now on.")));
	CommitTransactionCommand();
}

/*
 * Move a slot to where the duty puts it.  The lock is held, and the slot has
 * no process or is our own at its end.
 */
void
outbox_duty_apply(OutboxSlot *slot, OutboxDuty duty, const char *reason,
				  TimestampTz now)
{
	switch (duty)
	{
		case OUTBOX_DUTY_WORK:
			if (slot->state != OUTBOX_SLOT_DUE)
				outbox_slot_set_due(slot, now);
			break;
		case OUTBOX_DUTY_NONE:
		case OUTBOX_DUTY_NOT_INSTALLED:
			slot->failures = 0;
			outbox_slot_set_state(slot, OUTBOX_SLOT_IDLE);
			break;
		case OUTBOX_DUTY_PAUSED:
			outbox_slot_set_blocked(slot, "paused", reason);
			break;
		case OUTBOX_DUTY_VERSION:
			outbox_slot_set_blocked(slot, "stopped", reason);
			break;
		case OUTBOX_DUTY_COPY:
			outbox_slot_set_blocked(slot, "waiting", reason);
			break;
	}
}
