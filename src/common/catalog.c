/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Where the extension's own objects are, and acting as their owner.
 *
 * The cache is backend-local.  Its invalidation callback only marks it; the
 * next use looks everything up again.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "common/catalog.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

typedef struct RelationOidEntry
{
	char		relname[NAMEDATALEN];	/* hash key */
	Oid			relid;
} RelationOidEntry;

static bool catalog_valid = false;
static uint64 generation = 0;	/* of the cache; grows when it is emptied */
static Oid	schema_oid = InvalidOid;
static Oid	owner_oid = InvalidOid;
static HTAB *relation_oids = NULL;

static void
catalog_invalidate(Datum arg, int cacheid, uint32 hashvalue)
{
	catalog_valid = false;
}

/*
 * Forget the cached OIDs if somebody changed a schema since they were found.
 */
static void
catalog_refresh(void)
{
	HASHCTL		ctl;

	if (catalog_valid)
		return;

	if (relation_oids != NULL)
	{
		HTAB	   *old = relation_oids;

		relation_oids = NULL;	/* should there be no memory for the next one */
		hash_destroy(old);
	}
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = NAMEDATALEN;
	ctl.entrysize = sizeof(RelationOidEntry);
	relation_oids = hash_create("pg_outbox relation OIDs", 32, &ctl,
								HASH_ELEM | HASH_STRINGS);
	schema_oid = InvalidOid;
	owner_oid = InvalidOid;
	generation++;
	catalog_valid = true;
}

bool
outbox_extension_installed(void)
{
	return OidIsValid(get_extension_oid(OUTBOX_EXTENSION, true));
}

Oid
outbox_schema_oid(void)
{
	catalog_refresh();
	if (!OidIsValid(schema_oid))
	{
		Oid			nspid = get_namespace_oid(OUTBOX_SCHEMA, true);

		if (!OidIsValid(nspid))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("extension \"%s\" is not installed in this database",
							OUTBOX_EXTENSION),
					 errhint("Run CREATE EXTENSION %s.", OUTBOX_EXTENSION)));
		(void) outbox_owner_oid();	/* of our version */
		schema_oid = nspid;
	}
	return schema_oid;
}

Oid
outbox_relation_oid(const char *relname)
{
	Oid			nspid = outbox_schema_oid();
	RelationOidEntry *entry;
	bool		found;

	entry = hash_search(relation_oids, relname, HASH_FIND, NULL);
	if (entry == NULL)
	{
		Oid			relid = get_relname_relid(relname, nspid);

		if (!OidIsValid(relid))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation \"%s.%s\" does not exist",
							OUTBOX_SCHEMA, relname),
					 errdetail("The SQL objects of extension \"%s\" do not match its library.",
							   OUTBOX_EXTENSION),
					 errhint("Run ALTER EXTENSION %s UPDATE.", OUTBOX_EXTENSION)));
		entry = hash_search(relation_oids, relname, HASH_ENTER, &found);
		entry->relid = relid;
	}
	return entry->relid;
}

Oid
outbox_relation_ref(OutboxRelationRef *ref)
{
	catalog_refresh();
	if (ref->generation != generation)
	{
		ref->relid = outbox_relation_oid(ref->relname);
		ref->generation = generation;
	}
	return ref->relid;
}

/*
 * Owner of the extension and version of its SQL objects (palloc'd, NULL if it
 * is not installed).  The catalog has no syscache for extensions, so this is
 * an index scan.
 */
static char *
read_extension(Oid *owner)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tup;
	char	   *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(OUTBOX_EXTENSION));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tup = systable_getnext(scan);
	if (HeapTupleIsValid(tup))
	{
		bool		isnull;
		Datum		datum = heap_getattr(tup, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		*owner = ((Form_pg_extension) GETSTRUCT(tup))->extowner;
		version = TextDatumGetCString(datum);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

char *
outbox_extension_version(void)
{
	Oid			owner;

	return read_extension(&owner);
}

static void
check_version(const char *version)
{
	if (version == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database",
						OUTBOX_EXTENSION),
				 errhint("Run CREATE EXTENSION %s.", OUTBOX_EXTENSION)));
	if (strcmp(version, OUTBOX_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" and its library are of different versions",
						OUTBOX_EXTENSION),
				 errdetail("Its objects in this database are of version %s, the library is of version %s.",
						   version, OUTBOX_VERSION),
				 errhint("Run ALTER EXTENSION %s UPDATE, or restart the server if its library is the older one.",
						 OUTBOX_EXTENSION)));
}

/*
 * Whatever touches our objects comes by here first, so this is also where
 * objects of another version are found, once per invalidation.
 */
Oid
outbox_owner_oid(void)
{
	catalog_refresh();
	if (!OidIsValid(owner_oid))
	{
		Oid			owner = InvalidOid;

		check_version(read_extension(&owner));
		owner_oid = owner;
	}
	return owner_oid;
}

void
outbox_owner_enter(OutboxOwnerScope *scope)
{
	Oid			owner = outbox_owner_oid();

	GetUserIdAndSecContext(&scope->saved_userid, &scope->saved_sec_context);
	scope->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(owner,
						   scope->saved_sec_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
outbox_owner_leave(OutboxOwnerScope *scope)
{
	AtEOXact_GUC(true, scope->guc_level);
	SetUserIdAndSecContext(scope->saved_userid, scope->saved_sec_context);
}

void
outbox_catalog_init(void)
{
	CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_invalidate, (Datum) 0);
}
