/*-------------------------------------------------------------------------
 *
 * log_internal.h
 *	  What the files of src/log share among themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LOG_INTERNAL_H
#define OUTBOX_LOG_INTERNAL_H

#include "postgres.h"

#include "storage/block.h"
#include "utils/relcache.h"

/* columns of outbox._log_N, from 0 */
#define LOG_XID 0
#define LOG_ID 1
#define LOG_STAMP 2
#define LOG_EVENTS 3
#define LOG_NATTS 4

extern Oid	outbox_segment_table(int segment);
extern Relation outbox_segment_open_index(Relation rel);
extern void outbox_table_empty(Relation rel);
extern bool outbox_table_has_blocks(Oid relid, BlockNumber nblocks);

/* backlog.c */
extern void outbox_backlog_check(int64 bytes);
extern void outbox_backlog_init(void);

#endif							/* OUTBOX_LOG_INTERNAL_H */
