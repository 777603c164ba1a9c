/*-------------------------------------------------------------------------
 *
 * inbox.c
 *	  Which events a consumer has seen already.
 *
 * The primary key of outbox._inbox decides; there is no lock besides.
 * Callers of first_time() have names there, subscriptions their ids, kept
 * apart: whoever may call it must not claim the events of others' handlers,
 * and a subscription has not seen what another of its name had.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/inbox.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

#include "common/catalog.h"

/* Together they have to fit into an index entry. */
#define MAX_INBOX_TEXT 512

static void
check_length(const char *what, const char *str)
{
	if (strlen(str) > MAX_INBOX_TEXT)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("%s is too long", what),
				 errdetail("It may have %d bytes at most.", MAX_INBOX_TEXT)));
}

bool
outbox_inbox_first_time(const char *consumer, bool is_subscription,
						const char *source, const char *event_id)
{
	static const char sql[] =
	"INSERT INTO outbox._inbox (consumer, is_subscription, source, event_id) VALUES ($1, $2, $3, $4)"
	" ON CONFLICT DO NOTHING";
	static SPIPlanPtr plan = NULL;
	Oid			argtypes[4] = {TEXTOID, BOOLOID, TEXTOID, TEXTOID};
	Datum		args[4];
	OutboxOwnerScope scope;
	bool		first;

	check_length("consumer", consumer);
	check_length("source", source);
	check_length("event_id", event_id);
	args[0] = CStringGetTextDatum(consumer);
	args[1] = BoolGetDatum(is_subscription);
	args[2] = CStringGetTextDatum(source);
	args[3] = CStringGetTextDatum(event_id);

	outbox_owner_enter(&scope);
	SPI_connect();
	if (plan == NULL)
	{
		plan = SPI_prepare(sql, lengthof(argtypes), argtypes);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the inbox");
	}
	if (SPI_execute_plan(plan, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write the inbox");
	first = SPI_processed > 0;
	SPI_finish();
	outbox_owner_leave(&scope);
	return first;
}
