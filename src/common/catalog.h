/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  Where the extension's own objects are, and acting as their owner.
 *
 * OIDs are looked up once and kept until the schema "outbox" changes
 * (CREATE, DROP or ALTER EXTENSION in any session of the database).
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATALOG_H
#define OUTBOX_CATALOG_H

#include "postgres.h"

#define OUTBOX_SCHEMA "outbox"
#define OUTBOX_EXTENSION "pg_outbox"

/* True if the extension is installed in this database; needs a transaction. */
extern bool outbox_extension_installed(void);

/* Version of its SQL objects, palloc'd; NULL if it is not installed. */
extern char *outbox_extension_version(void);

/*
 * OID of schema outbox; raises undefined_object with a hint if there is none.
 * This and what follows raises object_not_in_prerequisite_state if the objects
 * are not of the library's version: their tables may have other columns.
 */
extern Oid	outbox_schema_oid(void);

/* OID of the relation outbox.<relname>; raises if it is missing. */
extern Oid	outbox_relation_oid(const char *relname);

/*
 * The same for where it is needed once per event: a static variable of the
 * caller's, with the name set, remembers the OID.
 */
typedef struct OutboxRelationRef
{
	const char *relname;
	Oid			relid;
	uint64		generation;		/* of the cache that it is from; 0: none */
} OutboxRelationRef;

extern Oid	outbox_relation_ref(OutboxRelationRef *ref);

/* Owner of the extension, whose rights the internal tables are used with. */
extern Oid	outbox_owner_oid(void);

/*
 * Acting as the extension's owner, with search_path = pg_catalog, pg_temp and
 * in a security-restricted operation, for SQL on the internal tables.  The
 * scope is a plain struct on the caller's stack; leave it in the same
 * function.  An error ends it together with the (sub)transaction.
 */
typedef struct OutboxOwnerScope
{
	Oid			saved_userid;
	int			saved_sec_context;
	int			guc_level;
} OutboxOwnerScope;

extern void outbox_owner_enter(OutboxOwnerScope *scope);
extern void outbox_owner_leave(OutboxOwnerScope *scope);

extern void outbox_catalog_init(void);

#endif							/* OUTBOX_CATALOG_H */
