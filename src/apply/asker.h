/*-------------------------------------------------------------------------
 *
 * asker.h
 *	  Consumers that only ask: for partitions and offsets of topics.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ASKER_H
#define OUTBOX_ASKER_H

#include "postgres.h"

#include "apply/feed.h"

/*
 * The consumer through which to ask the feed's server.  A broker answers the
 * requests of a connection one after the other, and one that fetches waits for
 * records most of the time; this one never fetches.  Shared by all feeds of a
 * server; not to be kept.
 */
extern OutboxConsumer *outbox_asker_get(OutboxFeed *feed);

/*
 * Tell the status view which servers answer, and end the connections that none
 * of the feeds needs any more.  Returns why a server does not answer, in the
 * current context, or NULL if all do.
 */
extern char *outbox_askers_report(const List *feeds);

#endif							/* OUTBOX_ASKER_H */
