/*-------------------------------------------------------------------------
 *
 * execute.c
 *	  Running the plans of a target, with keys or rows as their input.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "apply/execute.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

EphemeralNamedRelation
outbox_execute_register(const char *name, TupleDesc desc, Tuplestorestate *store)
{
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	int			rc;

	enr->md.name = pstrdup(name);
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = tuplestore_tuple_count(store);
	enr->reldata = store;
	rc = SPI_register_relation(enr);
	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register relation \"%s\": %s", name, SPI_result_code_string(rc));
	return enr;
}

void
outbox_execute_unregister(EphemeralNamedRelation enr)
{
	(void) SPI_unregister_relation(enr->md.name);
	tuplestore_end(enr->reldata);
	pfree(enr->md.name);
	pfree(enr);
}

void
outbox_execute_plan_by_index(SPIPlanPtr plan)
{
	static const char *const off[] = {"enable_seqscan", "enable_hashjoin", "enable_mergejoin"};
	int			nest_level = NewGUCNestLevel();
	CachedPlan *cplan;

	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	cplan = SPI_plan_get_cached_plan(plan);
	if (cplan != NULL)
		ReleaseCachedPlan(cplan, CurrentResourceOwner);
	AtEOXact_GUC(true, nest_level);
}

void
outbox_execute_on_latest(SPIPlanPtr plan, Datum *args, bool crosscheck, int expected)
{
	int			rc;

	if (IsolationUsesXactSnapshot())
		rc = SPI_execute_snapshot(plan, args, NULL, GetLatestSnapshot(),
								  crosscheck ? GetTransactionSnapshot() : InvalidSnapshot,
								  false, true, 0);
	else
		rc = SPI_execute_plan(plan, args, NULL, false, 0);
	if (rc != expected)
		elog(ERROR, "unexpected result of a statement: %s", SPI_result_code_string(rc));
}
