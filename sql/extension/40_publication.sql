-- Publications: which tables are captured, and how their rows become events.

CREATE TABLE outbox._publication (
	id				integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name			text NOT NULL UNIQUE,
	source			regclass NOT NULL,
	kind			text NOT NULL DEFAULT 'table' CHECK (kind IN ('table', 'outbox')),
	server			text NOT NULL,
	topic			text NOT NULL,
	stream			integer,
	mode			text NOT NULL DEFAULT 'full' CHECK (mode IN ('full', 'key')),
	columns			text[],
	labels			text[],
	identity		text[] NOT NULL,
	partition_by	text[],
	filter			text,
	event_type		text,
	headers			jsonb,
	with_headers	text[] NOT NULL DEFAULT '{}',
	on_truncate		text NOT NULL DEFAULT 'error' CHECK (on_truncate IN ('error', 'ignore', 'publish')),
	skip_unchanged	boolean NOT NULL DEFAULT false,
	since			bigint NOT NULL,
	created_at		timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CHECK (cardinality(columns) = cardinality(labels)),
	CHECK (kind = 'outbox' OR stream IS NOT NULL)
);
CREATE INDEX _publication_source_idx ON outbox._publication (source);
COMMENT ON TABLE outbox._publication IS 'publications; columns: names of the published columns, null: all; labels: their names on the wire (kind outbox: the role of each: id, aggregatetype, aggregateid, payload, or header:NAME); identity: columns of the unique key; partition_by: columns of the message key, null: the identity; topic: for kind outbox a pattern, stream null then; since: the stamp at which capture began, below every captured event';
SELECT pg_catalog.pg_extension_config_dump('outbox._publication', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._publication_id_seq', '');

CREATE FUNCTION outbox._capture() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_capture';
COMMENT ON FUNCTION outbox._capture() IS 'trigger of captured tables, made by outbox.publish: records an event per changed row and publication';

CREATE FUNCTION outbox._capture_adopted() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_capture_adopted';
COMMENT ON FUNCTION outbox._capture_adopted() IS 'trigger of adopted outbox tables, made by outbox.adopt: an inserted row is an event';

CREATE FUNCTION outbox._capture_truncate() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_capture_truncate';
COMMENT ON FUNCTION outbox._capture_truncate() IS 'trigger of captured tables: refuses TRUNCATE, or records one event of it per publication, as outbox.publish was told';

-- Keeps publications right when their tables are altered or dropped.
CREATE FUNCTION outbox._table_altered() RETURNS event_trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_table_altered';
COMMENT ON FUNCTION outbox._table_altered() IS 'publications follow a column''s new name; partitions get the trigger on TRUNCATE';
CREATE FUNCTION outbox._objects_dropped() RETURNS event_trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_objects_dropped';
COMMENT ON FUNCTION outbox._objects_dropped() IS 'publications go with their table; what they need of it is not dropped';
CREATE FUNCTION outbox._server_altering() RETURNS event_trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_server_altering';
COMMENT ON FUNCTION outbox._server_altering() IS 'a Kafka server that was used is not renamed';
CREATE EVENT TRIGGER outbox_server_altering ON ddl_command_start
	WHEN TAG IN ('ALTER SERVER')
	EXECUTE FUNCTION outbox._server_altering();
COMMENT ON EVENT TRIGGER outbox_server_altering IS 'pg_outbox: a Kafka server that was used keeps its name';
CREATE FUNCTION outbox._names_altered() RETURNS event_trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_names_altered';
COMMENT ON FUNCTION outbox._names_altered() IS 'what the filter of a publication uses keeps its name';
CREATE EVENT TRIGGER outbox_names_altered ON ddl_command_end
	WHEN TAG IN ('ALTER FUNCTION', 'ALTER ROUTINE', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER OPERATOR', 'ALTER COLLATION', 'ALTER SCHEMA', 'ALTER EXTENSION')
	EXECUTE FUNCTION outbox._names_altered();
COMMENT ON EVENT TRIGGER outbox_names_altered IS 'pg_outbox: what filters of publications use keeps its name';
CREATE EVENT TRIGGER outbox_table_altered ON ddl_command_end
	WHEN TAG IN ('ALTER TABLE', 'ALTER TYPE', 'CREATE TABLE')
	EXECUTE FUNCTION outbox._table_altered();
CREATE EVENT TRIGGER outbox_objects_dropped ON sql_drop
	EXECUTE FUNCTION outbox._objects_dropped();
COMMENT ON EVENT TRIGGER outbox_table_altered IS 'pg_outbox: publications follow changes of their tables';
COMMENT ON EVENT TRIGGER outbox_objects_dropped IS 'pg_outbox: publications go with their tables';

CREATE FUNCTION outbox.publish(source regclass, topic text DEFAULT NULL, name text DEFAULT NULL,
							   columns text[] DEFAULT NULL, mode text DEFAULT 'full',
							   partition_by text[] DEFAULT NULL, filter text DEFAULT NULL,
							   event_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
							   initial text DEFAULT 'copy', server text DEFAULT NULL,
							   identity text DEFAULT NULL, on_truncate text DEFAULT 'error',
							   skip_unchanged boolean DEFAULT false,
							   with_headers text[] DEFAULT NULL)
	RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_publish';
COMMENT ON FUNCTION outbox.publish(regclass, text, text, text[], text, text[], text, text, jsonb, text, text, text, text, boolean, text[]) IS
'publishes every committed change of a table, and by default the rows it has now, to a topic; returns the publication''s name. Calling it again makes the publication what the call says. topic: default pg_outbox.default_topic; name: default the table''s, with its schema unless that is public; columns: published ones, "name" or "name AS other", default all; mode: full (the row) or key (its identity only); partition_by: columns of the message key, default the identity; filter: boolean expression over the row''s columns, a row that leaves it is deleted, one that enters it created; event_type: header type; headers: fixed ones, an object; initial: copy or none, also where a later call changes server, topic, mode, columns, identity or filter; server: default pg_outbox.default_server; identity: name of a unique index, default the primary key; on_truncate: error (TRUNCATE is refused), ignore (replicas keep the rows) or publish (an event with op t, which every partition gets; replicas delete what is older; not of a partition alone, and only where nothing else is published to the topic); skip_unchanged: no event if no published column changed; with_headers: of source, txid; default pg_outbox.default_with_headers. Needs the table''s ownership and USAGE on the server; waits for transactions that are writing to the table (lock_timeout applies) at first, and when server, topic, mode, columns, identity or filter change. Errors: 22004, 42P01, 42501, 42704, 42809, 42703, 55000, 22023, 42602, 0A000, 42P17, 42P20, 42803';

CREATE FUNCTION outbox.adopt(source regclass, topic text DEFAULT 'outbox.event.{aggregatetype}',
							 name text DEFAULT NULL, columns text[] DEFAULT NULL,
							 headers text[] DEFAULT NULL, server text DEFAULT NULL)
	RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_adopt';
COMMENT ON FUNCTION outbox.adopt(regclass, text, text, text[], text[], text) IS
'publishes an outbox table as it is: each inserted row is an event, with the topic, key, value and header id that Debezium''s outbox event router makes of it; returns the publication''s name. Rows that are there already are not published; a row may be deleted at once, also in the same transaction; updates make no event and a warning. topic: {aggregatetype} is replaced by the row''s, {database}, {schema}, {table} once; name: default the table''s; columns: where id, aggregatetype, aggregateid and payload have other names, "event_id AS id"; headers: columns that are sent as headers as well, "type" or "type AS eventType"; server: default pg_outbox.default_server. Calling it again makes the publication what the call says. Needs the table''s ownership and USAGE on the server. Errors: 22004, 42P01, 42501, 42703, 42704, 42809, 42710, 22023, 42602; on INSERT 23502, 42602, 42501 for a topic';

CREATE FUNCTION outbox.unpublish(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_unpublish';
COMMENT ON FUNCTION outbox.unpublish(text) IS 'ends a publication: later changes make no events; those recorded so far are still sent. Needs the table''s ownership. Errors: 42704 if there is no such publication, 42501';

-- Copies: present rows published once more.
CREATE TABLE outbox._copy (
	publication	text PRIMARY KEY REFERENCES outbox._publication (name) ON UPDATE CASCADE ON DELETE CASCADE,
	state		text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'cancelled')),
	ordered_by	oid[],
	last_key	text[],
	all_read	boolean NOT NULL DEFAULT false,
	rows		bigint NOT NULL DEFAULT 0,
	started_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	finished_at	timestamptz,
	attempts	integer NOT NULL DEFAULT 0,
	retry_at	timestamptz,
	error		text,
	heals		boolean NOT NULL DEFAULT false,
	kind		text NOT NULL DEFAULT 'copy' CHECK (kind IN ('copy', 'resync')),
	floor		bigint,
	waits_for	xid8[]
);
COMMENT ON TABLE outbox._copy IS 'copies of publications, the last of each; ordered_by: number, type and collation of each column that the rows are read in the order of; last_key: identity of the last row that was read; all_read: what is left is in _copy_pending; heals: changes, or rows of an attached partition, were not recorded, the publication is incomplete until the copy is done; kind: a resync ends with an event in each partition, by which replicas delete what is older than floor; floor: below the version of every row that it publishes and of every change that it may not have seen, null: the resync has not begun; waits_for: transactions that may have stamped a change before the floor was taken, nothing is read before they have ended';

CREATE TABLE outbox._copy_pending (
	publication	text NOT NULL REFERENCES outbox._copy ON UPDATE CASCADE ON DELETE CASCADE,
	updater		xid8 NOT NULL,
	version		bigint NOT NULL,
	identity	text[] NOT NULL,
	PRIMARY KEY (publication, updater, version)
);
COMMENT ON TABLE outbox._copy_pending IS 'rows that a transaction was changing when a copy read them: looked at again by their identity and published with this version once that transaction has ended';

SELECT pg_catalog.pg_extension_config_dump('outbox._copy', '');

-- Goes from one transaction to the next, however many rows wait for each.
CREATE VIEW outbox._copy_updaters AS
WITH RECURSIVE u (publication, updater) AS (
	(SELECT k.publication, k.updater FROM outbox._copy_pending AS k
	 ORDER BY k.publication, k.updater LIMIT 1)
	UNION ALL
	SELECT n.publication, n.updater
	FROM u CROSS JOIN LATERAL (
		SELECT k.publication, k.updater FROM outbox._copy_pending AS k
		WHERE (k.publication, k.updater) > (u.publication, u.updater)
		ORDER BY k.publication, k.updater LIMIT 1) AS n
)
SELECT u.publication, u.updater,
	pg_catalog.pg_visible_in_snapshot(u.updater, pg_catalog.pg_current_snapshot()) AS ended
FROM u;
COMMENT ON VIEW outbox._copy_updaters IS 'transactions that copies wait for, or waited for: those that have ended';

-- Left by each transaction that changed rows and recorded no event; without
-- index, as it is empty but for such times.
CREATE TABLE outbox._unrecorded (
	publication	integer NOT NULL,
	at			timestamptz NOT NULL
) USING heap;
-- Its rows could not be deleted otherwise where a publication is FOR ALL TABLES.
ALTER TABLE outbox._unrecorded REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('outbox._unrecorded', '');
COMMENT ON TABLE outbox._unrecorded IS 'publications that need a copy because a transaction did not record its changes: the log was full and pg_outbox.max_backlog_action is copy; the relay deletes rows when it asks for the copy';

CREATE VIEW outbox.publications WITH (security_barrier) AS
	SELECT p.name, p.source, p.kind, p.server, p.topic, p.mode,
		(SELECT pg_catalog.array_agg(CASE WHEN u.c = u.l THEN u.c ELSE u.c || ' AS ' || u.l END ORDER BY u.n)
		 FROM ROWS FROM (pg_catalog.unnest(p.columns), pg_catalog.unnest(p.labels)) WITH ORDINALITY AS u (c, l, n)) AS columns,
		p.identity, p.partition_by, p.filter, p.event_type, p.headers, p.with_headers,
		p.on_truncate, p.skip_unchanged,
		CASE
			WHEN EXISTS (SELECT FROM outbox._unrecorded u WHERE u.publication = p.id)
				OR EXISTS (SELECT FROM outbox._copy k WHERE k.publication = p.name AND k.heals AND k.state <> 'done')
			THEN 'incomplete' ELSE 'live'
		END AS state,
		CASE
			WHEN c.oid IS NULL THEN 'the table does not exist'
			WHEN c.relpersistence <> 'p' THEN 'the table is unlogged: a crash empties it and makes no events'
			WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = c.oid)
				THEN 'tables that inherit from it are not captured'
			WHEN t.tgenabled IS NULL THEN 'the trigger that captures changes is missing'
			WHEN t.tgenabled NOT IN ('O', 'A') THEN 'the trigger that captures changes is disabled'
			WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_server s WHERE s.srvname = p.server) THEN 'the server does not exist'
			WHEN p.kind = 'table' AND NOT EXISTS (
				SELECT FROM pg_catalog.pg_index i
				WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
					AND (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attname)
						 FROM pg_catalog.pg_attribute a
						 WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
					= (SELECT pg_catalog.array_agg(n ORDER BY n::name) FROM pg_catalog.unnest(p.identity) n))
				THEN 'no unique index on the identity'
			WHEN c.relkind = 'p' THEN (
				WITH RECURSIVE parts AS (
					SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = c.oid
					UNION ALL
					SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN parts ON parts.inhrelid = i.inhparent)
				SELECT pg_catalog.min(CASE WHEN r.relpersistence <> 'p' THEN 'a partition is unlogged: a crash empties it and makes no events'
					WHEN x.tgenabled NOT IN ('O', 'A') THEN 'the trigger that captures changes is disabled in a partition' END)
				FROM parts JOIN pg_catalog.pg_class AS r ON r.oid = parts.inhrelid
					LEFT JOIN pg_catalog.pg_trigger AS x ON x.tgrelid = r.oid AND x.tgfoid = t.tgfoid)
		END AS problem,
		p.created_at
	FROM outbox._publication p
		LEFT JOIN pg_catalog.pg_class c ON c.oid = p.source
		LEFT JOIN pg_catalog.pg_trigger t ON t.tgrelid = p.source AND t.tgfoid =
			CASE p.kind WHEN 'table' THEN 'outbox._capture'::pg_catalog.regproc ELSE 'outbox._capture_adopted'::pg_catalog.regproc END
	WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
		OR pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW outbox.publications IS 'publications of one''s own tables, all of them for members of pg_monitor. columns: null = all; partition_by: null = the identity; kind: table, or outbox (made by adopt(); topic is a pattern then, columns have their roles as names); state: live, or incomplete (changes were not recorded while the log was full, see pg_outbox.max_backlog_action, or a partition was attached with rows; live again when the copy is done that the relay makes of them, once there is room); problem: why it does not do what it should, null if it does';
GRANT SELECT ON outbox.publications TO PUBLIC;

CREATE FUNCTION outbox.emit(topic text, key text, payload text,
							event_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
							server text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_emit_text';
CREATE FUNCTION outbox.emit(topic text, key text, payload jsonb,
							event_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
							server text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_emit_jsonb';
CREATE FUNCTION outbox.emit(topic text, key text, payload bytea,
							event_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
							server text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_emit_bytea';
COMMENT ON FUNCTION outbox.emit(text, text, text, text, jsonb, text) IS 'records an event of the application''s own in this transaction and returns its id; payload null is a tombstone; headers: an object, values become text; server: default pg_outbox.default_server';
COMMENT ON FUNCTION outbox.emit(text, text, jsonb, text, jsonb, text) IS 'records an event of the application''s own in this transaction and returns its id; the payload is sent as JSON text; see emit(text, text, text, ...)';
COMMENT ON FUNCTION outbox.emit(text, text, bytea, text, jsonb, text) IS 'records an event of the application''s own in this transaction and returns its id; the payload is sent as it is; see emit(text, text, text, ...)';
REVOKE ALL ON FUNCTION outbox.emit(text, text, text, text, jsonb, text),
	outbox.emit(text, text, jsonb, text, jsonb, text),
	outbox.emit(text, text, bytea, text, jsonb, text) FROM PUBLIC;

CREATE FUNCTION outbox.copy(publication text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_copy';
COMMENT ON FUNCTION outbox.copy(text) IS 'has the relay publish every present row of a published table again, in chunks by key while writers write; begins anew if a copy is under way; see view copies. The events have op r; where a row was being changed when it was read, header version says an older version than id, so that the change wins; such a row is published once more when the transaction that was changing it has ended. Needs the table''s ownership. Errors: 42704 if there is no such publication of a table, 42501';
CREATE FUNCTION outbox.resync(publication text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_resync';
COMMENT ON FUNCTION outbox.resync(text) IS 'has the relay publish every present row of a published table again, as outbox.copy() does, and then an event with op e to each partition of the topic, by which replicas delete every row that is older and is no row of the table: what a lost history left there after a standby was promoted or a backup restored, or what replicas missed because the brokers deleted it. Begins when transactions that are writing have ended; begins anew if one is under way; outbox.cancel_copy() ends it; see view copies. Needs the table''s ownership. Errors: 42704 if there is no such publication of a table, 42501, 55000 if another publication sends to the same topic';
CREATE FUNCTION outbox.cancel_copy(publication text) RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_cancel_copy';
COMMENT ON FUNCTION outbox.cancel_copy(text) IS 'ends a copy or resync that is under way; false if there is none. What was copied so far stays published. Needs the table''s ownership. Errors: 42704, 42501';

CREATE VIEW outbox.copies AS
	SELECT c.publication, c.state, c.rows,
		(SELECT pg_catalog.count(*) FROM outbox._copy_pending AS k WHERE k.publication = c.publication) AS pending,
		p.source, c.last_key, c.started_at, c.finished_at,
		c.attempts, c.retry_at, c.error,
		(WITH RECURSIVE parts AS (
			SELECT p.source::pg_catalog.oid AS relid
			UNION
			SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN parts ON parts.relid = i.inhparent)
		 SELECT CASE WHEN pg_catalog.min(t.reltuples) >= 0 THEN pg_catalog.sum(t.reltuples)::bigint END
		 FROM pg_catalog.pg_class AS t JOIN parts ON t.oid = parts.relid
		 WHERE t.relkind = 'r') AS estimated_rows,
		c.kind, c.floor,
		(SELECT pg_catalog.array_agg(x) FROM pg_catalog.unnest(c.waits_for) AS x
		 WHERE NOT pg_catalog.pg_visible_in_snapshot(x, pg_catalog.pg_current_snapshot())) AS waits_for
	FROM outbox._copy AS c JOIN outbox._publication AS p ON p.name = c.publication;
COMMENT ON VIEW outbox.copies IS 'the last copy of each publication: state running, done or cancelled, rows published so far, those pending because a transaction was changing them (looked at again when it has ended; the copy is not done before), identity of the last row read; attempts, error and retry_at: failures since the last chunk that went through; estimated_rows: rows in the table and its partitions by the planner''s statistics, whatever the filter says (null: one of them was never analyzed); kind: copy, or resync, of which floor is the version that replicas will have nothing older than (null: not begun), and waits_for the transactions that have to end before it reads (null: none)';
GRANT SELECT ON outbox.copies TO pg_monitor;
