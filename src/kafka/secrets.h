/*-------------------------------------------------------------------------
 *
 * secrets.h
 *	  The file of credentials named by option "secrets.file".
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_SECRETS_H
#define OUTBOX_KAFKA_SECRETS_H

#include "postgres.h"

typedef void (*OutboxSecretFunc) (void *arg, const char *name, const char *value);

/*
 * Call func for each setting in the file.  Raises if the file cannot be read,
 * is not the server's own and private, or says what it may not.  Strings are
 * valid during the call only.
 */
extern void outbox_secrets_read(const char *path, OutboxSecretFunc func, void *arg);

#endif							/* OUTBOX_KAFKA_SECRETS_H */
