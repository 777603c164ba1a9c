/*-------------------------------------------------------------------------
 *
 * pinned.c
 *	  Settings under which text and values are turned into each other.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "common/pinned.h"

#include "access/xact.h"
#include "utils/guc.h"

static const struct
{
	const char *name;
	const char *value;
}			pinned[] =

{
	{"DateStyle", "ISO, YMD"},
	{"IntervalStyle", "iso_8601"},
	{"TimeZone", "UTC"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"lc_monetary", "C"}
};

int
outbox_pin_settings(void)
{
	int			nest_level;

	/* outside of one there is no memory to keep the old values in */
	Assert(IsTransactionState());
	nest_level = NewGUCNestLevel();
	for (int i = 0; i < lengthof(pinned); i++)
	{
		const char *now = GetConfigOption(pinned[i].name, false, false);

		if (strcmp(now, pinned[i].value) != 0)
			(void) set_config_option(pinned[i].name, pinned[i].value,
									 PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
	}
	return nest_level;
}

void
outbox_unpin_settings(int nest_level)
{
	AtEOXact_GUC(true, nest_level);
}
