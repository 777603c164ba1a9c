/*-------------------------------------------------------------------------
 *
 * option.h
 *	  Which settings a Kafka server and a user mapping may have.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_OPTION_H
#define OUTBOX_KAFKA_OPTION_H

#include "postgres.h"

#include "kafka/api.h"

/* Where an option may stand, and what it is. */
#define OUTBOX_OPTION_SERVER	0x01	/* in CREATE SERVER */
#define OUTBOX_OPTION_MAPPING	0x02	/* in a mapping, a secrets file */
#define OUTBOX_OPTION_SECRET	0x04	/* its value is never shown */
#define OUTBOX_OPTION_FILE		0x08	/* names a file: superusers only */
#define OUTBOX_OPTION_OWN		0x10	/* ours, librdkafka does not know it */
#define OUTBOX_OPTION_FRACTION	0x20	/* a number that need not be whole */

#define OUTBOX_OPTION_TOPICS "topics"
#define OUTBOX_OPTION_SECRETS_FILE "secrets.file"
#define OUTBOX_OPTION_EXACTLY_ONCE "exactly_once"
#define OUTBOX_OPTION_BOOTSTRAP "bootstrap.servers"

typedef struct OutboxOption
{
	const char *name;
	int			flags;			/* OUTBOX_OPTION_... */
	int			clients;		/* OUTBOX_SETTING_... */
	int64		min;			/* bounds narrower than librdkafka's; both 0: */
	int64		max;			/* none */
} OutboxOption;

/* The allowed option of that name, or NULL. */
extern const OutboxOption *outbox_option_find(const char *name);

/*
 * Raise unless the option may stand where "where" (one of SERVER, MAPPING)
 * says and its value is one that librdkafka takes.  "source" is the secrets
 * file and "line" the place in it, or NULL if the option comes from SQL.
 */
extern void outbox_option_check(const char *name, const char *value, int where,
								const char *source, int line);

#endif							/* OUTBOX_KAFKA_OPTION_H */
