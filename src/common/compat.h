/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the supported PostgreSQL versions (15 to 18).
 *
 * This is the only file that looks at PG_VERSION_NUM.  Each entry names the
 * newer spelling and supplies it to the older servers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMPAT_H
#define OUTBOX_COMPAT_H

#include "postgres.h"

#include "catalog/pg_database.h"
#include "utils/acl.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "pg_outbox needs PostgreSQL 15 or later"
#endif

/* 16: macros of variable-length values have left postgres.h; names can fail softly */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#define outbox_qualified_name(text) stringToQualifiedNameList(text, NULL)
#else
#define outbox_qualified_name(text) stringToQualifiedNameList(text)
#endif

/* 16: one ACL check function for every kind of object */
#if PG_VERSION_NUM < 160000
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"

static inline AclResult
object_aclcheck(Oid classid, Oid objectid, Oid roleid, AclMode mode)
{
	switch (classid)
	{
		case ForeignServerRelationId:
			return pg_foreign_server_aclcheck(objectid, roleid, mode);
		case NamespaceRelationId:
			return pg_namespace_aclcheck(objectid, roleid, mode);
		case ProcedureRelationId:
			return pg_proc_aclcheck(objectid, roleid, mode);
		default:
			elog(ERROR, "unsupported object class %u", classid);
	}
}

static inline bool
object_ownercheck(Oid classid, Oid objectid, Oid roleid)
{
	switch (classid)
	{
		case ForeignServerRelationId:
			return pg_foreign_server_ownercheck(objectid, roleid);
		case DatabaseRelationId:
			return pg_database_ownercheck(objectid, roleid);
		case ExtensionRelationId:
			return pg_extension_ownercheck(objectid, roleid);
		case RelationRelationId:
			return pg_class_ownercheck(objectid, roleid);
		case ProcedureRelationId:
			return pg_proc_ownercheck(objectid, roleid);
		default:
			elog(ERROR, "unsupported object class %u", classid);
	}
}
#endif

/* 16: relfilenumber replaces relfilenode; 17: reindex_relation has a statement */
#if PG_VERSION_NUM < 160000
#define RelationSetNewRelfilenumber(rel, persistence) \
	RelationSetNewRelfilenode(rel, persistence)
#endif
#if PG_VERSION_NUM >= 170000
#define outbox_reindex_relation(relid, flags, params) \
	reindex_relation(NULL, relid, flags, params)
#else
#define outbox_reindex_relation(relid, flags, params) \
	reindex_relation(relid, flags, params)
#endif

/* 16: relation locators replace file nodes */
#if PG_VERSION_NUM < 160000
#define outbox_seq_rec_set(xlrec, rel) ((xlrec)->node = (rel)->rd_node)
#define outbox_read_recent_buffer(rel, block, buf) \
	ReadRecentBuffer((rel)->rd_node, MAIN_FORKNUM, block, buf)
#else
#define outbox_seq_rec_set(xlrec, rel) ((xlrec)->locator = (rel)->rd_locator)
#define outbox_read_recent_buffer(rel, block, buf) \
	ReadRecentBuffer((rel)->rd_locator, MAIN_FORKNUM, block, buf)
#endif

/* 17: a wait event set belongs to a resource owner, no longer to a context */
#if PG_VERSION_NUM >= 170000
#define outbox_create_wait_event_set(nevents) \
	CreateWaitEventSet(NULL, nevents)
#else
#define outbox_create_wait_event_set(nevents) \
	CreateWaitEventSet(TopMemoryContext, nevents)
#endif

/* 17: extensions name their own wait events */
#if PG_VERSION_NUM >= 170000
#define outbox_wait_event(name) WaitEventExtensionNew(name)
#else
#define outbox_wait_event(name) PG_WAIT_EXTENSION
#endif

/* late minor releases of 15: a database whose DROP did not complete */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB (-2)
#endif

/* 18: an index scan may be instrumented */
#if PG_VERSION_NUM >= 180000
#define outbox_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define outbox_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* 17: who inserts into a table that has a TOAST table must have a snapshot */
#if PG_VERSION_NUM >= 170000
#define outbox_push_toast_snapshot() PushActiveSnapshot(GetTransactionSnapshot())
#define outbox_pop_toast_snapshot() PopActiveSnapshot()
#else
#define outbox_push_toast_snapshot() ((void) 0)
#define outbox_pop_toast_snapshot() ((void) 0)
#endif

/* 18: a function that does not return is marked in front, everywhere */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 17: LockHeldByMe() may also look for stronger locks */
#if PG_VERSION_NUM >= 170000
#define outbox_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define outbox_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode)
#endif

/* 18: the postmaster's list of background workers is doubly linked */
#if PG_VERSION_NUM >= 180000
#define outbox_registered_iter dlist_iter
#define outbox_foreach_registered(iter) dlist_foreach(iter, &BackgroundWorkerList)
#define outbox_registered_worker(iter) \
	dlist_container(RegisteredBgWorker, rw_lnode, (iter).cur)
#else
#define outbox_registered_iter slist_iter
#define outbox_foreach_registered(iter) slist_foreach(iter, &BackgroundWorkerList)
#define outbox_registered_worker(iter) \
	slist_container(RegisteredBgWorker, rw_lnode, (iter).cur)
#endif

/* 16: the settings come together with their number */
#if PG_VERSION_NUM >= 160000
#define outbox_settings(count) get_guc_variables(count)
#else
#define outbox_settings(count) (*(count) = GetNumConfigOptions(), get_guc_variables())
#endif

/* 17: the shared variables of transaction management have another name */
#if PG_VERSION_NUM < 170000
#define TransamVariables ShmemVariableCache
#endif

/* a hint, where the compiler has it */
#ifdef HAVE__BUILTIN_BSWAP32
#define outbox_prefetch(addr) __builtin_prefetch(addr)
#else
#define outbox_prefetch(addr) ((void) (addr))
#endif

/* 18: the module says its name and version */
#ifdef PG_MODULE_MAGIC_EXT
#define OUTBOX_MODULE_MAGIC(modname) \
	PG_MODULE_MAGIC_EXT(.name = modname, .version = OUTBOX_VERSION)
#else
#define OUTBOX_MODULE_MAGIC(modname) PG_MODULE_MAGIC
#endif

#endif							/* OUTBOX_COMPAT_H */
