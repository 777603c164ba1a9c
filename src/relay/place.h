/*-------------------------------------------------------------------------
 *
 * place.h
 *	  A place: what is committed with each Kafka transaction, so that whoever
 *	  comes next knows how far the log was published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PLACE_H
#define OUTBOX_PLACE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#include "log/log.h"

#define PLACE_TIMELINES 16		/* the newest ones count */

/* A timeline of the WAL, and where it began. */
typedef struct PlaceTimeline
{
	TimeLineID	tli;
	XLogRecPtr	begin;
} PlaceTimeline;

typedef struct RelayPlace
{
	/* who wrote it */
	TimestampTz server_start;
	int			ntimelines;
	PlaceTimeline timelines[PLACE_TIMELINES];	/* newest first */

	/* which transaction */
	int64		number;			/* grows */
	int64		drained;		/* newest number in outbox._drained that is
								 * done */

	/* what the place passed without having sent it is in the WAL before this */
	XLogRecPtr	kept_lsn;

	/* how far: as in OutboxPosition */
	OutboxSnapshot *base;
	OutboxSnapshot *target;		/* or NULL */
	int64		stamp;
	int64		id;
} RelayPlace;

/* What a place means to this server. */
typedef enum PlaceRelation
{
	PLACE_OURS,					/* of our history */
	PLACE_BASE_OURS,			/* its base is, the rest was lost */
	PLACE_LOST,					/* of a part of history that was lost when
								 * this server was promoted or restored */
	PLACE_SUCCESSOR,			/* of a server promoted from our history */
	PLACE_STRANGER				/* of one that shares a part of our history */
} PlaceRelation;

/* As text and back; in_place is false if it is none of our places. */
extern char *outbox_place_out(const RelayPlace *place);
extern bool outbox_place_in(const char *text, RelayPlace *place);

/* Can a place with this snapshot be stored? */
extern bool outbox_place_fits(const OutboxSnapshot *snap);

/* Fill in who we are. */
extern void outbox_place_sign(RelayPlace *place);

extern PlaceRelation outbox_place_judge(const RelayPlace *place);

/* Is the place further than the position? */
extern bool outbox_place_ahead(const RelayPlace *place, const OutboxPosition *pos);

/* The end of the record before a position in the WAL. */
extern XLogRecPtr outbox_place_record_end(XLogRecPtr lsn);

/* Have WAL on disk up to what the place says of transactions. */
extern void outbox_place_flush(const RelayPlace *place);

#endif							/* OUTBOX_PLACE_H */
