/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  Settings of the applier; see settings.c for their units.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SETTINGS_H
#define OUTBOX_SETTINGS_H

#include "postgres.h"

extern int	outbox_apply_batch_size;	/* records */
extern int	outbox_apply_batch_bytes;	/* kB */
extern int	outbox_parked_timeout;	/* s */
extern int	outbox_stop_after_failures; /* events in a row; 0: never */
extern int	outbox_metadata_refresh;	/* s */
extern int	outbox_tombstone_retention; /* min */
extern int	outbox_inbox_retention; /* min */

/* Name that all consumer groups of this database start with, after pg_outbox. */
extern const char *outbox_apply_group_prefix(void);

extern void outbox_settings_init(void);

#endif							/* OUTBOX_SETTINGS_H */
