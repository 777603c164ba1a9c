/*-------------------------------------------------------------------------
 *
 * adopt.c
 *	  Outbox tables in the common form: an inserted row is an event.
 *
 * The message is the one that Debezium's outbox event router makes by default:
 * the topic contains the aggregate's type, the key is the aggregate's id, the
 * value is the payload as it is, and header "id" is the row's id.  Deletes are
 * housekeeping and make no event; an update has no meaning and gets a warning.
 *
 * A publication of this kind lists the columns that it needs, and as their
 * labels the role of each.  What a backend knows of a table is cached like
 * that of other captured tables: the callbacks only mark an entry.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "capture/publication.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "capture/capture.h"
#include "common/argument.h"
#include "kafka/kafka.h"
#include "log/log.h"
#include "log/stamp.h"

PG_FUNCTION_INFO_V1(outbox_adopt);
PG_FUNCTION_INFO_V1(outbox_capture_adopted);

enum AdoptArg
{
	ARG_SOURCE, ARG_TOPIC, ARG_NAME, ARG_COLUMNS, ARG_HEADERS, ARG_SERVER
};

/* What a column of an outbox table is for. */
typedef enum AdoptedRole
{
	ROLE_ID, ROLE_AGGREGATETYPE, ROLE_AGGREGATEID, ROLE_PAYLOAD, NROLES
} AdoptedRole;

static const char *const role_names[NROLES] = {
	"id", "aggregatetype", "aggregateid", "payload"
};

#define TYPE_PLACEHOLDER "{aggregatetype}"
#define HEADER_LABEL "header:"

typedef struct AdoptedColumn
{
	AttrNumber	attnum;			/* 0: not used */
	const char *header;			/* name, for columns sent as headers */
	OutboxEncoder enc;
} AdoptedColumn;

/* One publication of an outbox table. */
typedef struct Adopted
{
	const char *name;
	const char *server;
	const char *topic;			/* pattern */
	AdoptedColumn roles[NROLES];
	int			nheaders;
	AdoptedColumn *headers;
	char	   *checked_topic;	/* the last one that was found to be allowed */
} Adopted;

typedef struct AdoptedRelation
{
	Oid			relid;			/* hash key */
	bool		valid;
	bool		pinned;			/* some column needs outbox_encode_pin() */
	MemoryContext context;
	int			npubs;
	Adopted    *pubs;
} AdoptedRelation;

static HTAB *adopted = NULL;

static const char adopted_query[] =
"SELECT name, server, topic, columns, labels FROM outbox._publication"
" WHERE source = ANY ($1) AND kind = 'outbox' ORDER BY id";

/* ---------------- adopt() ---------------- */

static int
role_of(const char *label)
{
	for (int i = 0; i < NROLES; i++)
		if (strcmp(label, role_names[i]) == 0)
			return i;
	return -1;
}

/*
 * The column that plays a role: the one that is named for it, else the one
 * that is called so.
 */
static const char *
role_column(Relation rel, AdoptedRole role, List *names, List *labels)
{
	ListCell   *ln;
	ListCell   *ll;

	forboth(ln, names, ll, labels)
		if (strcmp(lfirst(ll), role_names[role]) == 0)
		return lfirst(ln);
	if (get_attnum(RelationGetRelid(rel), role_names[role]) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s\" has no column \"%s\"", RelationGetRelationName(rel),
						role_names[role]),
				 errdetail("An outbox table has columns id, aggregatetype, aggregateid and payload."),
				 errhint("If the column has another name, say columns => '{other_name AS %s}'.",
						 role_names[role])));
	return role_names[role];
}

static void
read_roles(PublicationSpec *spec, Relation rel, FunctionCallInfo fcinfo)
{
	List	   *names = NIL;
	List	   *labels = NIL;
	ListCell   *lc;

	if (!PG_ARGISNULL(ARG_COLUMNS))
		outbox_columns_parse(rel, PG_GETARG_ARRAYTYPE_P(ARG_COLUMNS), "columns", &names, &labels);
	foreach(lc, labels)
		if (role_of(lfirst(lc)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown role \"%s\" in parameter \"columns\"", (char *) lfirst(lc)),
				 errhint("Roles are id, aggregatetype, aggregateid and payload, as in '{event_id AS id}'.")));
	for (int role = 0; role < NROLES; role++)
	{
		if (role == ROLE_AGGREGATETYPE && strstr(spec->topic, TYPE_PLACEHOLDER) == NULL)
			continue;
		spec->columns = lappend(spec->columns,
								unconstify(char *, role_column(rel, role, names, labels)));
		spec->labels = lappend(spec->labels, pstrdup(role_names[role]));
	}
	spec->identity = list_make1(linitial(spec->columns));
}

static void
read_header_columns(PublicationSpec *spec, Relation rel, FunctionCallInfo fcinfo)
{
	List	   *names;
	List	   *labels;
	ListCell   *ln;
	ListCell   *ll;

	if (PG_ARGISNULL(ARG_HEADERS))
		return;
	outbox_columns_parse(rel, PG_GETARG_ARRAYTYPE_P(ARG_HEADERS), "headers", &names, &labels);
	if (list_length(names) > OUTBOX_MAX_HEADERS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many headers: %d", list_length(names)),
				 errdetail("An event can have %d, beside those that pg_outbox adds.",
						   OUTBOX_MAX_HEADERS)));
	forboth(ln, names, ll, labels)
	{
		outbox_header_name_check(lfirst(ll));
		spec->columns = lappend(spec->columns, lfirst(ln));
		spec->labels = lappend(spec->labels, psprintf(HEADER_LABEL "%s", (char *) lfirst(ll)));
	}
}

static char *
topic_from(const char *pattern, const char *aggregatetype)
{
	StringInfoData buf;
	const char *place;

	initStringInfo(&buf);
	while ((place = strstr(pattern, TYPE_PLACEHOLDER)) != NULL)
	{
		appendBinaryStringInfo(&buf, pattern, place - pattern);
		appendStringInfoString(&buf, aggregatetype);
		pattern = place + strlen(TYPE_PLACEHOLDER);
	}
	appendStringInfoString(&buf, pattern);
	return buf.data;
}

/*
 * Whether a topic that depends on the row is allowed is seen with the row.
 */
static void
read_adopted_topic(PublicationSpec *spec, Relation rel, FunctionCallInfo fcinfo)
{
	char	   *topic = outbox_argument_text(fcinfo, ARG_TOPIC, "topic",
											 "Leave the argument out for Debezium's default.");
	bool		fixed;

	spec->topic = outbox_source_topic(rel, topic);
	fixed = (strstr(spec->topic, TYPE_PLACEHOLDER) == NULL);
	outbox_topic_check(topic_from(spec->topic, "x"));
	spec->server = outbox_topic_server(outbox_argument_text_or_null(fcinfo, ARG_SERVER), fixed ? spec->topic : NULL);
}

/*
 * adopt(source, topic, name, columns, headers, server)
 */
Datum
outbox_adopt(PG_FUNCTION_ARGS)
{
	PublicationSpec spec;
	Relation	rel;

	outbox_argument_require(fcinfo, ARG_SOURCE, "source", "Pass the outbox table to publish.");
	memset(&spec, 0, sizeof(spec));
	spec.source = PG_GETARG_OID(ARG_SOURCE);
	spec.kind = PUBLICATION_OUTBOX;
	spec.mode = "full";
	spec.on_truncate = "ignore";	/* as deletes are */

	rel = outbox_source_open(spec.source, AccessShareLock);
	spec.name = outbox_argument_text_or_null(fcinfo, ARG_NAME);
	if (spec.name == NULL)
		spec.name = outbox_source_name(rel);
	outbox_publication_name_check(spec.name);
	read_adopted_topic(&spec, rel, fcinfo);
	read_roles(&spec, rel, fcinfo);
	read_header_columns(&spec, rel, fcinfo);
	relation_close(rel, NoLock);

	(void) outbox_publication_store(&spec);
	PG_RETURN_TEXT_P(cstring_to_text(spec.name));
}

/* ---------------- what a backend knows ---------------- */

static void
adopted_invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	AdoptedRelation *entry;

	hash_seq_init(&seq, adopted);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || entry->relid == relid)
			entry->valid = false;
}

/* A server may have other topics now. */
static void
server_invalidate(Datum arg, int cacheid, uint32 hashvalue)
{
	adopted_invalidate(arg, InvalidOid);
}

static void
adopted_init(void)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(AdoptedRelation);
	adopted = hash_create("pg_outbox outbox tables", 8, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(adopted_invalidate, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, server_invalidate, (Datum) 0);
}

static void
init_column(AdoptedColumn *col, Relation rel, const char *column, const char *pubname,
			AdoptedRelation *entry)
{
	col->attnum = get_attnum(RelationGetRelid(rel), column);
	if (col->attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of outbox table \"%s\" does not exist",
						column, RelationGetRelationName(rel)),
				 errdetail("Publication \"%s\" needs it.", pubname),
				 errhint("Call outbox.adopt again with the columns that the table has.")));
	outbox_encoder_init(&col->enc, TupleDescAttr(RelationGetDescr(rel), col->attnum - 1)->atttypid,
						entry->context);
	entry->pinned |= col->enc.pinned;
}

static void
init_adopted(Adopted *pub, Relation rel, HeapTuple tup, TupleDesc desc, AdoptedRelation *entry)
{
	bool		isnull;
	List	   *columns = outbox_text_list(DatumGetArrayTypeP(SPI_getbinval(tup, desc, 4, &isnull)), "columns");
	List	   *labels = outbox_text_list(DatumGetArrayTypeP(SPI_getbinval(tup, desc, 5, &isnull)), "labels");
	ListCell   *lc;
	ListCell   *ll;

	pub->name = SPI_getvalue(tup, desc, 1);
	pub->server = SPI_getvalue(tup, desc, 2);
	pub->topic = SPI_getvalue(tup, desc, 3);
	pub->headers = palloc0(sizeof(AdoptedColumn) * list_length(columns));
	forboth(lc, columns, ll, labels)
	{
		const char *label = lfirst(ll);
		int			role = role_of(label);
		AdoptedColumn *col = (role >= 0) ? &pub->roles[role] : &pub->headers[pub->nheaders++];

		if (role < 0)
			col->header = label + strlen(HEADER_LABEL);
		init_column(col, rel, lfirst(lc), pub->name, entry);
	}
}

static void
adopted_build(AdoptedRelation *entry, Relation rel)
{
	MemoryContext spicontext;

	entry->npubs = 0;
	entry->pinned = false;
	if (entry->context != NULL)
		MemoryContextDelete(entry->context);
	entry->context = AllocSetContextCreate(CacheMemoryContext, "pg_outbox outbox table",
										   ALLOCSET_SMALL_SIZES);
	SPI_connect();
	outbox_capture_query(rel, adopted_query);
	spicontext = MemoryContextSwitchTo(entry->context);
	entry->pubs = palloc0(sizeof(Adopted) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
		init_adopted(&entry->pubs[i], rel, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, entry);
	entry->npubs = (int) SPI_processed;
	MemoryContextSwitchTo(spicontext);
	SPI_finish();
}

static AdoptedRelation *
adopted_relation(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	AdoptedRelation *entry;
	bool		found;

	if (adopted == NULL)
		adopted_init();
	entry = hash_search(adopted, &relid, HASH_ENTER, &found);
	if (!found)
		memset((char *) entry + sizeof(Oid), 0, sizeof(AdoptedRelation) - sizeof(Oid));
	if (!entry->valid)
	{
		/* valid first: an invalidation while we build must not get lost */
		entry->valid = true;
		PG_TRY();
		{
			adopted_build(entry, rel);
		}
		PG_CATCH();
		{
			entry->valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	return entry;
}

/* ---------------- from rows to events ---------------- */

/* The column as UTF-8, or as raw bytes if they are; false if it is null. */
static bool
column_bytes(StringInfo buf, AdoptedColumn *col, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, col->attnum, &isnull);

	initStringInfo(buf);
	if (isnull)
		return false;
	if (col->enc.basetype == BYTEAOID)
	{
		bytea	   *bytes = DatumGetByteaPP(value);

		appendBinaryStringInfo(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		return true;
	}
	outbox_encode_text(buf, &col->enc, value);
	outbox_encode_to_utf8(buf);
	return true;
}

static void
required_bytes(StringInfo buf, Adopted *pub, AdoptedRole role, Relation rel, TupleTableSlot *slot)
{
	AdoptedColumn *col = &pub->roles[role];

	if (column_bytes(buf, col, slot))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("null value in column \"%s\" of outbox table \"%s\"",
					NameStr(TupleDescAttr(RelationGetDescr(rel), col->attnum - 1)->attname),
					RelationGetRelationName(rel)),
			 errdetail("Publication \"%s\" needs it: it is the %s of the event.",
					   pub->name, role_names[role])));
}

/*
 * What a column says in UTF-8, as a string in the server's encoding.  The bytes
 * of a bytea column may be no text, which raises, also where a zero is in them.
 */
static char *
server_text(const StringInfo utf8)
{
	char	   *text = pg_any_to_server(utf8->data, utf8->len, PG_UTF8);

	return text == utf8->data ? pnstrdup(text, utf8->len) : text;
}

/*
 * The event's topic.  Its name comes from the row, so it is checked here; who
 * writes the row need not have any right on the server.
 */
static char *
row_topic(Adopted *pub, Relation rel, TupleTableSlot *slot, AdoptedRelation *entry)
{
	StringInfoData type;
	char	   *topic;
	Oid			serverid;

	if (pub->roles[ROLE_AGGREGATETYPE].attnum == 0)
		return unconstify(char *, pub->topic);
	required_bytes(&type, pub, ROLE_AGGREGATETYPE, rel, slot);
	topic = topic_from(pub->topic, server_text(&type));
	if (pub->checked_topic != NULL && strcmp(pub->checked_topic, topic) == 0)
		return topic;

	outbox_topic_check(topic);
	serverid = outbox_server_oid(pub->server, true);
	if (OidIsValid(serverid) && !outbox_server_topic_allowed(serverid, topic))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("topic \"%s\" is not allowed on server \"%s\"", topic, pub->server),
				 errdetail("A row of outbox table \"%s\" is to be sent there.",
						   RelationGetRelationName(rel)),
				 errhint("The server's option \"topics\" lists what may be published to.")));
	if (pub->checked_topic != NULL)
		pfree(pub->checked_topic);
	pub->checked_topic = MemoryContextStrdup(entry->context, topic);
	return topic;
}

static void
pack_headers(StringInfo buf, Adopted *pub, Relation rel, TupleTableSlot *slot)
{
	StringInfoData value;

	initStringInfo(buf);
	required_bytes(&value, pub, ROLE_ID, rel, slot);
	outbox_header_pack(buf, "id", value.data, value.len);
	for (int i = 0; i < pub->nheaders; i++)
	{
		const char *name = pub->headers[i].header;

		name = pg_server_to_any(name, strlen(name), PG_UTF8);
		if (column_bytes(&value, &pub->headers[i], slot))
			outbox_header_pack(buf, name, value.data, value.len);
	}
	outbox_session_headers(buf);
}

static void
record_row(Adopted *pub, Relation rel, TupleTableSlot *slot, AdoptedRelation *entry)
{
	OutboxEvent ev;
	StringInfoData key;
	StringInfoData value;
	StringInfoData headers;

	memset(&ev, 0, sizeof(ev));
	ev.op = OUTBOX_OP_NONE;
	ev.topic = row_topic(pub, rel, slot, entry);
	ev.topic_len = strlen(ev.topic);
	ev.server = pub->server;
	ev.server_len = strlen(ev.server);
	ev.time_ms = outbox_statement_time_ms();
	if (column_bytes(&key, &pub->roles[ROLE_AGGREGATEID], slot))
	{
		ev.key = key.data;
		ev.key_len = key.len;
	}
	if (column_bytes(&value, &pub->roles[ROLE_PAYLOAD], slot))
	{
		ev.value = value.data;
		ev.value_len = value.len;
	}
	pack_headers(&headers, pub, rel, slot);
	ev.headers = headers.data;
	ev.headers_len = headers.len;
	outbox_log_check_room();
	ev.id = outbox_stamp_next();
	outbox_log_append(&ev);
}

static void
capture_insert(TriggerData *trigdata)
{
	AdoptedRelation *entry = adopted_relation(trigdata->tg_relation);
	int			pin_level = -1;

	if (entry->pinned)
		pin_level = outbox_encode_pin();
	for (int i = 0; i < entry->npubs; i++)
		record_row(&entry->pubs[i], trigdata->tg_relation, trigdata->tg_trigslot, entry);
	outbox_encode_unpin(pin_level);
}

/*
 * Memory is the executor's per-tuple context for triggers.
 */
Datum
outbox_capture_adopted(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_capture_adopted\" must be fired AFTER ROW"),
				 errhint("Use outbox.adopt for an outbox table.")));
	if (!outbox_capture_enabled())
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		capture_insert(trigdata);
	else if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("update of outbox table \"%s\" makes no event",
						RelationGetRelationName(trigdata->tg_relation)),
				 errhint("Insert another row.")));
	return PointerGetDatum(NULL);
}
