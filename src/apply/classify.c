/*-------------------------------------------------------------------------
 *
 * classify.c
 *	  Whose fault an error is, which decides what happens next.
 *
 * There is a fourth kind, schema faults, which no single error shows: an event
 * that lacks a column may be one bad event or the first of all that follow.
 * They are data faults here; the applier counts how many in a row fail alike.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/classify.h"

#include "utils/elog.h"

static bool
is_category(int sqlerrcode, int category)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == category;
}

OutboxFaultKind
outbox_fault_classify(const ErrorData *edata)
{
	static const int transient[] = {
		MAKE_SQLSTATE('0', '8', '0', '0', '0'), /* connection */
		MAKE_SQLSTATE('2', '5', '0', '0', '0'), /* transaction state */
		MAKE_SQLSTATE('4', '0', '0', '0', '0'), /* rollback: serialization,
												 * deadlock */
		MAKE_SQLSTATE('5', '3', '0', '0', '0'), /* resources */
		MAKE_SQLSTATE('5', '7', '0', '0', '0'), /* intervention */
		MAKE_SQLSTATE('5', '8', '0', '0', '0'), /* system */
		MAKE_SQLSTATE('7', '2', '0', '0', '0'), /* snapshot */
		MAKE_SQLSTATE('F', '0', '0', '0', '0')	/* configuration */
	};

	switch (edata->sqlerrcode)
	{
		case ERRCODE_FOREIGN_KEY_VIOLATION:
		case ERRCODE_UNIQUE_VIOLATION:
		case ERRCODE_EXCLUSION_VIOLATION:
			return OUTBOX_FAULT_DEPENDENCY;
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_OBJECT_IN_USE:
		case ERRCODE_DATA_CORRUPTED:
		case ERRCODE_INDEX_CORRUPTED:
			return OUTBOX_FAULT_TRANSIENT;
	}
	for (int i = 0; i < lengthof(transient); i++)
		if (is_category(edata->sqlerrcode, transient[i]))
			return OUTBOX_FAULT_TRANSIENT;
	return OUTBOX_FAULT_DATA;
}
