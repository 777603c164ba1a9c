/*-------------------------------------------------------------------------
 *
 * stream.c
 *	  Numbers of the log's streams: which server and topic they mean.
 *
 * The mapping only grows, so the relay keeps it and reads the table again
 * when an event has a number that it does not know.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "relay/flow.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "relay/sql.h"

typedef struct StreamEntry
{
	int32		stream;			/* hash key */
	char	   *server;
	char	   *topic;
} StreamEntry;

static HTAB *streams = NULL;

/*
 * Needs a transaction.
 */
void
outbox_streams_reload(void)
{
	if (streams == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(int32);
		ctl.entrysize = sizeof(StreamEntry);
		streams = hash_create("pg_outbox streams", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}

	outbox_sql_begin();
	outbox_sql_execute("SELECT id, server, topic FROM outbox._stream", 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		bool		found;
		int32		id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
													 SPI_tuptable->tupdesc, 1, &isnull));
		StreamEntry *entry = hash_search(streams, &id, HASH_ENTER, &found);

		if (found)
			continue;
		entry->server = MemoryContextStrdup(TopMemoryContext,
											SPI_getvalue(SPI_tuptable->vals[i],
														 SPI_tuptable->tupdesc, 2));
		entry->topic = MemoryContextStrdup(TopMemoryContext,
										   SPI_getvalue(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 3));
	}
	outbox_sql_end();
}

bool
outbox_stream_lookup(int32 stream, const char **server, const char **topic)
{
	StreamEntry *entry = NULL;

	for (int attempt = 0; attempt < 2; attempt++)
	{
		if (streams != NULL)
			entry = hash_search(streams, &stream, HASH_FIND, NULL);
		if (entry != NULL)
		{
			*server = entry->server;
			*topic = entry->topic;
			return true;
		}
		if (attempt == 0)
		{
			StartTransactionCommand();
			outbox_streams_reload();
			CommitTransactionCommand();
		}
	}
	return false;
}
