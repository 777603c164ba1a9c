-- pg_outbox: objects of schema outbox, assembled from sql/extension.

-- complain if this script is sourced in psql rather than by CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_outbox" to load this file. \quit

-- A schema of that name that was there already: its owner could put functions
-- before ours, and drop what is ours.
DO $$
BEGIN
	PERFORM FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
		WHERE n.nspname OPERATOR(pg_catalog.=) 'outbox' AND NOT r.rolsuper;
	IF FOUND THEN
		RAISE EXCEPTION 'schema "outbox" exists and does not belong to a superuser'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Rename the schema, or give it to a superuser, and repeat CREATE EXTENSION.';
	END IF;
END
$$;

COMMENT ON SCHEMA outbox IS 'pg_outbox: publish committed changes to Kafka, apply events to version-guarded replicas';
GRANT USAGE ON SCHEMA outbox TO PUBLIC;

-- Kafka clusters as foreign servers

CREATE FUNCTION outbox._kafka_validator(options text[], catalog oid) RETURNS void
AS 'MODULE_PATHNAME', 'outbox_kafka_validator'
LANGUAGE C STRICT;
REVOKE ALL ON FUNCTION outbox._kafka_validator(text[], oid) FROM PUBLIC;

COMMENT ON FUNCTION outbox._kafka_validator(text[], oid) IS
'Validator of foreign-data wrapper outbox_kafka, called by CREATE and ALTER of servers and user mappings. Raises fdw_invalid_option_name (HV00D), fdw_invalid_attribute_value, fdw_option_name_not_found (HV00J), or insufficient_privilege for options that name files.';

CREATE FOREIGN DATA WRAPPER outbox_kafka NO HANDLER VALIDATOR outbox._kafka_validator;

COMMENT ON FOREIGN DATA WRAPPER outbox_kafka IS
'Kafka clusters. CREATE SERVER takes the connection properties of a Kafka client under their own names ("bootstrap.servers", required, "security.protocol", "compression.type", ...), and "topics", a comma-separated list of topics or patterns with * that its users may publish to. CREATE USER MAPPING takes credentials ("sasl.username", "sasl.password", "ssl.key.pem", ...); the workers use the mapping of the server''s owner, else that of PUBLIC. "secrets.file" names a private file of such credentials (superusers only).';

CREATE FUNCTION outbox.server_check(
	server text DEFAULT 'kafka',
	OUT ok boolean,
	OUT broker_count integer,
	OUT brokers text,
	OUT cluster_id text,
	OUT controller integer,
	OUT detail text)
AS 'MODULE_PATHNAME', 'outbox_server_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION outbox.server_check(text) IS
'Connects to a Kafka server as the workers do and says what is there: whether a broker answered, how many brokers there are, the list "id=host:port, ...", the cluster''s id, the broker that is its controller, or, if none answered, the reason. Waits at most pg_outbox.connect_timeout (milliseconds, default 5000) and can be cancelled. Needs USAGE on the server. Raises undefined_object (42704), wrong_object_type (42809), insufficient_privilege (42501), fdw_error (HV000).';

CREATE FUNCTION outbox._server_topic_allowed(server text, topic text) RETURNS boolean
AS 'MODULE_PATHNAME', 'outbox_server_topic_allowed_sql'
LANGUAGE C STRICT STABLE;
REVOKE ALL ON FUNCTION outbox._server_topic_allowed(text, text) FROM PUBLIC;

COMMENT ON FUNCTION outbox._server_topic_allowed(text, text) IS
'Whether option "topics" of the Kafka server lets its users publish to the topic.';
-- Workers: the database's identity, pause and resume, what workers do now.

-- Which database the rows of this schema belong to: empty until something is
-- published or subscribed to for the first time.  Where a row names another
-- database, this one is a copy of it, and its workers wait for resume().
CREATE TABLE outbox._identity (
	system_identifier bigint NOT NULL,
	database_oid oid NOT NULL,
	extension_oid oid NOT NULL,
	lineage uuid NOT NULL,
	ancestors uuid[] NOT NULL DEFAULT '{}',
	adopted_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
-- Its rows could not be deleted otherwise where a publication is FOR ALL TABLES.
ALTER TABLE outbox._identity REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('outbox._identity', '');

CREATE TABLE outbox._paused (
	worker text PRIMARY KEY,
	since timestamptz NOT NULL DEFAULT pg_catalog.now(),
	by_role text NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('outbox._paused', '');

CREATE FUNCTION outbox.pause(worker text DEFAULT NULL) RETURNS void
LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_pause';
COMMENT ON FUNCTION outbox.pause(text) IS
'Stop a worker of this database until resume(): ''relay'' (nothing is sent), ''applier'' (nothing is applied), or both if NULL. Changes are captured all the same. Takes effect at commit and outlasts restarts. Raises invalid_parameter_value for another name.';
REVOKE ALL ON FUNCTION outbox.pause(text) FROM PUBLIC;

CREATE FUNCTION outbox.resume(worker text DEFAULT NULL) RETURNS void
LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_resume';
COMMENT ON FUNCTION outbox.resume(text) IS
'Let paused workers of this database go on: ''relay'', ''applier'', or both if NULL. In a copy of a database (restored, cloned, made from a template) resume() without an argument also says that the copy shall publish and consume from now on; only do this where the original no longer does, or in agreement with it. Takes effect at commit. Raises invalid_parameter_value for another name, object_not_in_prerequisite_state for a single worker of a copy.';
REVOKE ALL ON FUNCTION outbox.resume(text) FROM PUBLIC;

CREATE FUNCTION outbox.wait_until_running(timeout interval DEFAULT '30 s') RETURNS boolean
LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_wait_until_running';
COMMENT ON FUNCTION outbox.wait_until_running(interval) IS
'Wait until every worker that this database needs runs; one that is paused is not needed. Whether brokers answer is another question, see outbox.status. True, or raises object_not_in_prerequisite_state with the reason in its detail: after the timeout, at once if a worker cannot run before somebody acts, and in a transaction whose own changes the workers cannot see yet.';
REVOKE ALL ON FUNCTION outbox.wait_until_running(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox.wait_until_running(interval) TO pg_monitor;

CREATE FUNCTION outbox._workers(
	OUT worker text,
	OUT pid integer,
	OUT state text,
	OUT waiting_for text,
	OUT started_at timestamptz,
	OUT restarts bigint,
	OUT last_error text,
	OUT last_error_at timestamptz,
	OUT next_start timestamptz)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED ROWS 2 AS 'MODULE_PATHNAME', 'outbox_workers';
COMMENT ON FUNCTION outbox._workers() IS
'One row per kind of worker in this database, also where it has no process.';
REVOKE ALL ON FUNCTION outbox._workers() FROM PUBLIC;

CREATE FUNCTION outbox._silent_servers(
	OUT worker text,
	OUT server text,
	OUT reason text,
	OUT since timestamptz)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'outbox_silent_servers';
COMMENT ON FUNCTION outbox._silent_servers() IS
'Kafka servers of which no broker answers a worker of this database, with what the client says of it.';
REVOKE ALL ON FUNCTION outbox._silent_servers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._silent_servers() TO pg_monitor;
GRANT EXECUTE ON FUNCTION outbox._workers() TO pg_monitor;
-- The event log: stamps, segments, positions, streams.

-- Every event id and every commit stamp comes from this one sequence.  The
-- library advances it itself (the session's lastval() is not touched).
CREATE SEQUENCE outbox._stamp AS bigint CACHE 1;
COMMENT ON SEQUENCE outbox._stamp IS 'source of event ids, which are the versions, and of commit stamps; only the library advances it';

-- Which server start the fence of _stamp was last raised for.
CREATE SEQUENCE outbox._stamp_fence AS bigint MINVALUE 0 START 0 CACHE 1;
COMMENT ON SEQUENCE outbox._stamp_fence IS 'mark of the server start for which _stamp was last raised above the clock';

-- Segment that writers append to, modulo the number of segments; grows by two
-- where a segment that is not empty is passed over.
CREATE SEQUENCE outbox._log_current AS bigint MINVALUE 0 START 0 CACHE 1;
COMMENT ON SEQUENCE outbox._log_current IS 'number of log rotations, segments passed over included; modulo 3 the segment that writers append to';

-- One row holds the events of one transaction, or a part of them (about 8 kB).
CREATE TABLE outbox._log_0 (
	xid		xid8 NOT NULL,
	id		bigint NOT NULL,
	stamp	bigint,
	events	bytea NOT NULL
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
ALTER TABLE outbox._log_0 ALTER COLUMN events SET STORAGE EXTERNAL;
CREATE INDEX _log_0_xid_idx ON outbox._log_0 USING btree (xid);

CREATE TABLE outbox._log_1 (LIKE outbox._log_0 INCLUDING STORAGE)
	USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX _log_1_xid_idx ON outbox._log_1 USING btree (xid);

CREATE TABLE outbox._log_2 (LIKE outbox._log_0 INCLUDING STORAGE)
	USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX _log_2_xid_idx ON outbox._log_2 USING btree (xid);

COMMENT ON TABLE outbox._log_0 IS 'event log segment: xid = top-level transaction, id = its first event''s, stamp = commit stamp (null: written before it was known, a later row of the transaction has it), events = packed events; no row is ever updated or deleted, segments are emptied by rotation';
COMMENT ON TABLE outbox._log_1 IS 'event log segment, see _log_0';
COMMENT ON TABLE outbox._log_2 IS 'event log segment, see _log_0';

-- Where each server's relay stands: append-only, the newest row of a server
-- counts.  Two tables take turns.
CREATE TABLE outbox._position_0 (
	seq		bigint NOT NULL,
	server	text NOT NULL,
	base	pg_snapshot NOT NULL,
	target	pg_snapshot,
	stamp	bigint NOT NULL,
	id		bigint NOT NULL,
	events	bigint NOT NULL,
	at		timestamptz NOT NULL
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE outbox._position_1 (LIKE outbox._position_0)
	USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
COMMENT ON TABLE outbox._position_0 IS 'positions of the relay per server: everything visible in base is done; of what target sees beyond base, everything up to (stamp, id) is done';
COMMENT ON TABLE outbox._position_1 IS 'positions of the relay, see _position_0';

-- Topics that publications write to; the log refers to them by number.
CREATE TABLE outbox._stream (
	id		integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	server	text NOT NULL,
	topic	text NOT NULL,
	state	text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'stopped', 'paused')),
	reason	text,
	since	timestamptz,
	UNIQUE (server, topic)
);
COMMENT ON TABLE outbox._stream IS 'topics written to, with the state of their delivery';
SELECT pg_catalog.pg_extension_config_dump('outbox._stream', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._stream_id_seq', '');

CREATE FUNCTION outbox.pause_topic(topic text, server text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_pause_topic';
COMMENT ON FUNCTION outbox.pause_topic(text, text) IS 'send nothing more to a topic until outbox.resume_topic(), whoever publishes to it; takes effect after the commit and outlasts restarts. Its events are captured all the same and kept beside the log; other topics go on. server: by default that of pg_outbox.default_server. Errors: 42704 if there is no such server';
CREATE FUNCTION outbox.resume_topic(topic text, server text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_resume_topic';
COMMENT ON FUNCTION outbox.resume_topic(text, text) IS 'go on with a paused topic: its events are sent in order, before anything newer. Errors: 55000 if it is not paused, 42704 if there is no such server';
REVOKE ALL ON FUNCTION outbox.pause_topic(text, text), outbox.resume_topic(text, text) FROM PUBLIC;

-- Events of stopped and paused topics, in the order in which they are sent
-- once the topic goes on.
CREATE TABLE outbox._parked (
	stream	integer NOT NULL,
	stamp	bigint NOT NULL,
	id		bigint NOT NULL,
	event	bytea NOT NULL,
	PRIMARY KEY (stream, stamp, id)
);
COMMENT ON TABLE outbox._parked IS 'events that wait for their topic to go on';

-- What the relay has counted of each topic.  Updated about once a second while
-- something is delivered, without touching an index.
CREATE TABLE outbox._topic_stat (
	server text NOT NULL,
	topic text NOT NULL,
	delivered_count bigint NOT NULL,
	delivered_bytes bigint NOT NULL,
	parked_count bigint NOT NULL,
	dead_count bigint NOT NULL,
	last_delivered_at timestamptz,
	PRIMARY KEY (server, topic)
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE outbox._topic_stat IS 'counters of topics, written by the relay alone, see view outbox.stat_topics';

-- The log as rows.  What a reader may see of it is decided by the view events.
CREATE FUNCTION outbox._events(OUT id bigint, OUT commit_stamp bigint, OUT xid xid8, OUT op text,
							   OUT stream integer, OUT server text, OUT topic text,
							   OUT key bytea, OUT value bytea, OUT headers jsonb,
							   OUT version bigint, OUT occurred_at timestamptz, OUT uncommitted boolean)
	RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_events';
COMMENT ON FUNCTION outbox._events() IS 'events in the log: those the snapshot sees, and those that this transaction still holds in memory';
REVOKE ALL ON FUNCTION outbox._events() FROM PUBLIC;

CREATE FUNCTION outbox._log_rows(OUT xid xid8, OUT commit_stamp bigint, OUT id bigint,
								 OUT events integer, OUT occurred_at timestamptz)
	RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_log_rows';
COMMENT ON FUNCTION outbox._log_rows() IS 'rows of the log with the number of events in each, without the events';
REVOKE ALL ON FUNCTION outbox._log_rows() FROM PUBLIC;

CREATE FUNCTION outbox._log_space(OUT bytes bigint, OUT limit_bytes bigint)
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_log_space';
COMMENT ON FUNCTION outbox._log_space() IS 'bytes that the event log takes, and at which new events are refused (null: never)';
REVOKE ALL ON FUNCTION outbox._log_space() FROM PUBLIC;
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
	on_truncate		text NOT NULL DEFAULT 'error' CHECK (on_truncate IN ('error', 'ignore')),
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

CREATE FUNCTION outbox._refuse_truncate() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_refuse_truncate';
COMMENT ON FUNCTION outbox._refuse_truncate() IS 'trigger of captured tables: TRUNCATE would leave the replicas as they are';

-- Keeps publications right when their tables are altered or dropped.
CREATE FUNCTION outbox._table_altered() RETURNS event_trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_table_altered';
COMMENT ON FUNCTION outbox._table_altered() IS 'publications follow a column''s new name; partitions get the trigger that refuses TRUNCATE';
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
'publishes every committed change of a table, and by default the rows it has now, to a topic; returns the publication''s name. Calling it again makes the publication what the call says. topic: default pg_outbox.default_topic; name: default the table''s, with its schema unless that is public; columns: published ones, "name" or "name AS other", default all; mode: full (the row) or key (its identity only); partition_by: columns of the message key, default the identity; filter: boolean expression over the row''s columns, a row that leaves it is deleted, one that enters it created; event_type: header type; headers: fixed ones, an object; initial: copy or none, also where a later call changes server, topic, mode, columns, identity or filter; server: default pg_outbox.default_server; identity: name of a unique index, default the primary key; on_truncate: error or ignore; skip_unchanged: no event if no published column changed; with_headers: of source, txid; default pg_outbox.default_with_headers. Needs the table''s ownership and USAGE on the server; waits for transactions that are writing to the table (lock_timeout applies) at first, and when server, topic, mode, columns, identity or filter change. Errors: 22004, 42P01, 42501, 42704, 42809, 42703, 55000, 22023, 42602, 0A000, 42P17, 42P20, 42803';

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
	heals		boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE outbox._copy IS 'copies of publications, the last of each; ordered_by: number, type and collation of each column that the rows are read in the order of; last_key: identity of the last row that was read; all_read: what is left is in _copy_pending; heals: changes, or rows of an attached partition, were not recorded, the publication is incomplete until the copy is done';

CREATE TABLE outbox._copy_pending (
	publication	text NOT NULL REFERENCES outbox._copy ON UPDATE CASCADE ON DELETE CASCADE,
	updater		xid8 NOT NULL,
	version		bigint NOT NULL,
	identity	text[] NOT NULL,
	PRIMARY KEY (publication, updater, version)
);
COMMENT ON TABLE outbox._copy_pending IS 'rows that a transaction was changing when a copy read them: looked at again by their identity and published with this version once that transaction has ended';

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
CREATE FUNCTION outbox.cancel_copy(publication text) RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_cancel_copy';
COMMENT ON FUNCTION outbox.cancel_copy(text) IS 'ends a copy that is under way; false if there is none. What was copied so far stays published. Needs the table''s ownership. Errors: 42704, 42501';

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
		 WHERE t.relkind = 'r') AS estimated_rows
	FROM outbox._copy AS c JOIN outbox._publication AS p ON p.name = c.publication;
COMMENT ON VIEW outbox.copies IS 'the last copy of each publication: state running, done or cancelled, rows published so far, those pending because a transaction was changing them (looked at again when it has ended; the copy is not done before), identity of the last row read; attempts, error and retry_at: failures since the last chunk that went through; estimated_rows: rows in the table and its partitions by the planner''s statistics, whatever the filter says (null: one of them was never analyzed)';
GRANT SELECT ON outbox.copies TO pg_monitor;
-- Applying events without a worker: the guard as functions.

CREATE TYPE outbox.apply_result AS ENUM ('applied', 'deleted', 'stale', 'duplicate', 'suppressed');
COMMENT ON TYPE outbox.apply_result IS
'what became of an event: applied = the row was inserted or updated; deleted = the row is gone, or was never there, and later events of the key that are older will be stale; stale = a newer version of the key, or its newer delete, was there already, or came in the same batch; duplicate = this very version was there already; suppressed = a BEFORE trigger of the target refused the row';

CREATE TABLE outbox._tombstone (
	target regclass NOT NULL,
	key text COLLATE "C" NOT NULL,
	version bigint NOT NULL,
	deleted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (target, key)
);
CREATE INDEX _tombstone_deleted_at_idx ON outbox._tombstone (deleted_at);
COMMENT ON TABLE outbox._tombstone IS 'versions at which keys of replicas were deleted; internal';
SELECT pg_catalog.pg_extension_config_dump('outbox._tombstone', '');

CREATE TABLE outbox._inbox (
	consumer text COLLATE "C" NOT NULL,
	is_subscription boolean NOT NULL,
	source text COLLATE "C" NOT NULL,
	event_id text COLLATE "C" NOT NULL,
	seen_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (consumer, is_subscription, source, event_id)
);
CREATE INDEX _inbox_seen_at_idx ON outbox._inbox (seen_at);
COMMENT ON TABLE outbox._inbox IS 'events that consumers have seen; internal, see outbox.first_time()';
COMMENT ON COLUMN outbox._inbox.is_subscription IS 'the consumer is the id of a subscription, written by the applier; false: a name that a caller of outbox.first_time() chose, which says nothing about subscriptions';
SELECT pg_catalog.pg_extension_config_dump('outbox._inbox', '');

CREATE FUNCTION outbox.apply(target regclass, key text, value text, headers jsonb DEFAULT '{}')
	RETURNS outbox.apply_result
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_apply';
COMMENT ON FUNCTION outbox.apply(regclass, text, text, jsonb) IS
'apply one event, as a consumer received it, to a replica: a row only moves forward. value: the row as a JSON object, null for a delete. headers: an object, or an array of pairs; "op" is c, u, r (upsert) or d (delete), without it a null value is a delete; the version is header "version", else header "id", else the version column in the value; header "json_verbatim", a JSON array of names, says which columns of type json and jsonb are taken as they stand, null being JSON''s null then. Needs SELECT, INSERT, UPDATE and DELETE on the target. Errors: class 22 for a bad event, 54000 for a value beyond a limit of its type, 42703 if it lacks a column of the target or a field of its composite type, 0A000 if row-level security policies of the target apply to the caller, 40001 under REPEATABLE READ and up if the key changed meanwhile, and whatever the target''s constraints and triggers raise';

CREATE FUNCTION outbox.apply_batch(target regclass, keys text[], payloads text[], headers jsonb[] DEFAULT NULL,
	OUT ordinal int, OUT result outbox.apply_result) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000
	AS 'MODULE_PATHNAME', 'outbox_apply_batch';
COMMENT ON FUNCTION outbox.apply_batch(regclass, text[], text[], jsonb[]) IS
'apply many events in one statement; the nth elements of the arrays are the nth event, see outbox.apply(). Returns what became of each. Of several events of a key only the newest is written, the others are stale. If one event fails none is applied; the error''s context names it';

CREATE FUNCTION outbox.first_time(consumer text, source text, event_id text)
	RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_first_time';
COMMENT ON FUNCTION outbox.first_time(text, text, text) IS
'inbox test for a consumer''s own handler: true if the consumer has not seen the event of that source before, and remembers it in the current transaction; waits for another transaction that is about to remember the same. Each text may have 512 bytes; null raises null_value_not_allowed (22004). Forgotten after pg_outbox.inbox_retention';

REVOKE ALL ON FUNCTION outbox.apply(regclass, text, text, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.apply_batch(regclass, text[], text[], jsonb[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.first_time(text, text, text) FROM PUBLIC;

CREATE FUNCTION outbox.forget_expired() RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_forget_expired';
COMMENT ON FUNCTION outbox.forget_expired() IS
'delete a part of what is older than pg_outbox.tombstone_retention and pg_outbox.inbox_retention, and return how many rows went; to be repeated while that is many. The applier does it by itself; a database without subscriptions needs it once in a while';
REVOKE ALL ON FUNCTION outbox.forget_expired() FROM PUBLIC;
-- Subscriptions: topics that the applier consumes, and where to.

CREATE TABLE outbox._subscription (
	name text COLLATE "C" PRIMARY KEY,
	id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
	target regclass,
	handler text,
	server text NOT NULL,
	topic text NOT NULL,
	key_columns text[],
	version_column text,
	columns text[],
	start text NOT NULL,
	on_error text NOT NULL CHECK (on_error IN ('dead_letter', 'stop', 'skip')),
	on_data_loss text NOT NULL CHECK (on_data_loss IN ('stop', 'continue')),
	state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'stopped')),
	stopped_sqlstate text,
	stopped_reason text,
	stopped_at timestamptz,
	generation bigint NOT NULL DEFAULT 1,
	starts int NOT NULL DEFAULT 0,
	suspect_partition int,
	suspect_offset bigint,
	suspect_count int NOT NULL DEFAULT 0,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CHECK ((target IS NULL) <> (handler IS NULL))
);
CREATE INDEX _subscription_target_idx ON outbox._subscription (target);
COMMENT ON TABLE outbox._subscription IS 'subscriptions; internal, see view outbox.subscriptions';
COMMENT ON COLUMN outbox._subscription.starts IS 'how often a worker began with it since an event was last applied: many mean that an event kills the worker';
COMMENT ON COLUMN outbox._subscription.id IS 'which subscription it is, for the worker and for dead letters: another one may have had the name before';
SELECT pg_catalog.pg_extension_config_dump('outbox._subscription', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._subscription_id_seq', '');

CREATE TABLE outbox._offset (
	subscription text COLLATE "C" NOT NULL REFERENCES outbox._subscription ON UPDATE CASCADE ON DELETE CASCADE,
	partition int NOT NULL,
	next_offset bigint NOT NULL,
	last_offset bigint,
	last_time_ms bigint,
	last_id text,
	high_watermark bigint,
	received bigint NOT NULL DEFAULT 0,
	applied bigint NOT NULL DEFAULT 0,
	deleted bigint NOT NULL DEFAULT 0,
	stale bigint NOT NULL DEFAULT 0,
	duplicate bigint NOT NULL DEFAULT 0,
	suppressed bigint NOT NULL DEFAULT 0,
	dead bigint NOT NULL DEFAULT 0,
	parked bigint NOT NULL DEFAULT 0,
	skipped bigint NOT NULL DEFAULT 0,
	lost bigint NOT NULL DEFAULT 0,
	last_at timestamptz,
	PRIMARY KEY (subscription, partition)
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE outbox._offset IS 'how far each partition was consumed, moved in the transaction that applies the events; internal';
SELECT pg_catalog.pg_extension_config_dump('outbox._offset', '');

-- Written by the applier alone, so that it never waits for somebody who holds a
-- subscription's row; not dumped.
CREATE TABLE outbox._waiting (
	subscription text COLLATE "C" PRIMARY KEY,
	reason text NOT NULL,
	since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE outbox._waiting IS 'subscriptions that cannot go on for now, and why; internal, see view outbox.subscriptions';

CREATE TYPE outbox.event AS (
	subscription text,
	topic text,
	partition int,
	kafka_offset bigint,
	event_time timestamptz,
	id text,
	source text,
	op text,
	type text,
	key text,
	value text,
	headers jsonb
);
COMMENT ON TYPE outbox.event IS
'a record as a handler receives it: where it was (subscription, topic, partition, kafka_offset), its timestamp (null if its producer gave none that is a time), the headers id, source, op and type, key and value as text (null: Kafka''s null; cast them to what they are), and all headers as an object';

CREATE FUNCTION outbox.replicate(target regclass, topic text, name text DEFAULT NULL, key text[] DEFAULT NULL,
		version_column text DEFAULT NULL, start text DEFAULT 'earliest', columns text[] DEFAULT NULL,
		on_error text DEFAULT 'dead_letter', on_data_loss text DEFAULT 'stop', server text DEFAULT NULL)
	RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_replicate';
COMMENT ON FUNCTION outbox.replicate(regclass, text, text, text[], text, text, text[], text, text, text) IS
'keep a table as a replica of what a topic''s events say, and return the subscription''s name. name: by default the table''s. key: columns of a unique index, by default the primary key. version_column: of type bigint, by default "version". start: "earliest", "latest", a time, or a JSON object of partition and offset; partitions that are added later start at their beginning. columns: those that events have, by default all. on_error: "dead_letter", "stop" or "skip" what can never be applied. on_data_loss: "stop" or "continue" when the broker no longer has what was not yet read. server: by default that of pg_outbox.default_server. Called again it makes the subscription what the call says, and runs it if it had stopped. The caller must own the table and may use the server; events are applied with the rights of the table''s owner';

CREATE FUNCTION outbox.handle(handler regprocedure, topic text, name text DEFAULT NULL, start text DEFAULT 'earliest',
		on_error text DEFAULT 'dead_letter', on_data_loss text DEFAULT 'stop', server text DEFAULT NULL)
	RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_handle';
COMMENT ON FUNCTION outbox.handle(regprocedure, text, text, text, text, text, text) IS
'call a function for each event of a topic, in one transaction with the event''s offset and its entry in the inbox, and return the subscription''s name. The function takes one outbox.event; what it returns is ignored; it runs with its owner''s rights, for at most pg_outbox.handler_timeout. An event that fails is set aside, and later events with the same key wait for it. Parameters as of outbox.replicate(); the default of name is the function''s';

CREATE FUNCTION outbox.unsubscribe(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_unsubscribe';
COMMENT ON FUNCTION outbox.unsubscribe(text) IS 'end a subscription and forget its offsets; the target stays as it is, and so do its dead letters: they are tried no more, those of a table come back when it is replicated under the same name again, the others are the extension owner''s to look at and discard';

CREATE FUNCTION outbox.seek(name text, start text, partition int DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_seek';
COMMENT ON FUNCTION outbox.seek(text, text, int) IS
'go on reading elsewhere: start as of outbox.replicate(), or the decimal number of an offset if a partition, which must be one that is read already, is named. Runs the subscription if it had stopped. A replica ignores what it has seen already';

CREATE FUNCTION outbox.pause_subscription(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_pause_subscription';
COMMENT ON FUNCTION outbox.pause_subscription(text) IS 'stop consuming for one subscription until outbox.resume_subscription()';

CREATE FUNCTION outbox.resume_subscription(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_resume_subscription';
COMMENT ON FUNCTION outbox.resume_subscription(text) IS 'go on with a subscription that was paused, or that stopped and whose reason is gone, where it stood';

CREATE VIEW outbox.subscriptions AS
SELECT s.name, s.target, s.handler, s.server, s.topic, s.key_columns AS key, coalesce(s.version_column, 'version') AS version_column,
	s.columns, s.start, s.on_error, s.on_data_loss, s.state, s.stopped_sqlstate, s.stopped_reason, s.stopped_at, s.created_at,
	CASE WHEN s.state = 'running' THEN w.reason END AS waiting_for
FROM outbox._subscription s LEFT JOIN outbox._waiting w ON w.subscription = s.name;
COMMENT ON VIEW outbox.subscriptions IS 'subscriptions and their settings, see outbox.replicate() and outbox.handle(); state: running, paused (by a person) or stopped (with the reason); waiting_for: why one that runs cannot go on for now, such as a lock that is held, or a topic that is missing; it tries again by itself';

REVOKE ALL ON FUNCTION outbox.replicate(regclass, text, text, text[], text, text, text[], text, text, text),
	outbox.handle(regprocedure, text, text, text, text, text, text),
	outbox.unsubscribe(text), outbox.seek(text, text, int),
	outbox.pause_subscription(text), outbox.resume_subscription(text) FROM PUBLIC;
GRANT SELECT ON outbox.subscriptions TO pg_monitor;
-- Events set aside, in either direction.

CREATE TABLE outbox._dead_letter (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	direction text NOT NULL CHECK (direction IN ('in', 'out')),
	name text,
	subscription bigint,
	server text,
	topic text NOT NULL,
	partition int,
	kafka_offset bigint,
	key bytea,
	value bytea,
	header_names bytea[] NOT NULL,
	header_values bytea[] NOT NULL,
	event_time timestamptz,
	identity text COLLATE "C",
	event_id bigint,
	target oid,
	sqlstate text NOT NULL,
	message text NOT NULL,
	detail text,
	context text,
	state text NOT NULL CHECK (state IN ('parked', 'dead', 'retry', 'done', 'discarded')),
	attempts int NOT NULL DEFAULT 0,
	first_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	last_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	next_attempt_at timestamptz,
	reason text
);
CREATE INDEX _dead_letter_open_idx ON outbox._dead_letter (subscription, identity, id)
	WHERE state IN ('parked', 'dead', 'retry');
COMMENT ON TABLE outbox._dead_letter IS 'events set aside; internal, see view outbox.dead_letters';
COMMENT ON COLUMN outbox._dead_letter.subscription IS 'id of the subscription that set it aside, which may have ended; null: direction out';
COMMENT ON COLUMN outbox._dead_letter.state IS 'parked: tried again by itself; dead: waits for a person; retry: a person asked for it to be driven again; done: it went through since; discarded: given up, with a reason';
SELECT pg_catalog.pg_extension_config_dump('outbox._dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._dead_letter_id_seq', '');

CREATE VIEW outbox.dead_letters AS
SELECT id, direction, name, state, topic, partition, kafka_offset, key, value,
	(SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(pg_catalog.encode(h.name, 'escape'), pg_catalog.encode(h.value, 'escape')) ORDER BY h.n), '[]')
		FROM ROWS FROM (pg_catalog.unnest(header_names), pg_catalog.unnest(header_values)) WITH ORDINALITY AS h(name, value, n)) AS headers,
	event_time, event_id, server, sqlstate, message, detail, context, attempts, first_at, last_at, next_attempt_at, reason
FROM outbox._dead_letter;
COMMENT ON VIEW outbox.dead_letters IS
'events that were set aside, with key and value as they came and the error. direction: in (a subscription could not apply it) or out (the broker will not take it); name: of the subscription or publication; headers: pairs, bytes that are no ASCII escaped; state: parked = waits for another event and is tried again by itself, dead = waits for a person, retry = is about to be tried again, done = went through since, discarded = given up. See outbox.redrive(), edit() and discard()';

CREATE FUNCTION outbox.redrive(letter bigint) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_redrive';
COMMENT ON FUNCTION outbox.redrive(bigint) IS 'try a dead or parked letter again; what becomes of it shows in outbox.dead_letters. A replica ignores it if something newer is known of the key. An outgoing one is recorded in the event log again, with the headers it had, and is done by that; if the broker refuses it again that makes another letter';

CREATE FUNCTION outbox.redrive_all(name text) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_redrive_all';
COMMENT ON FUNCTION outbox.redrive_all(text) IS 'try all dead and parked letters of a subscription, or of a topic that events could not be sent to, again, and return how many there are';

CREATE FUNCTION outbox.edit(letter bigint, value text, key text DEFAULT NULL, headers jsonb DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_edit';
COMMENT ON FUNCTION outbox.edit(bigint, text, text, jsonb) IS 'mend a dead or parked letter: value replaces the value (null: Kafka''s null), key and headers (an object of texts) replace theirs unless null. It is not tried again before outbox.redrive()';

CREATE FUNCTION outbox.discard(letter bigint, reason text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_discard';
COMMENT ON FUNCTION outbox.discard(bigint, text) IS 'give a dead or parked letter up, for a reason that is kept; events that waited for it go on';

REVOKE ALL ON FUNCTION outbox.redrive(bigint), outbox.redrive_all(text), outbox.edit(bigint, text, text, jsonb),
	outbox.discard(bigint, text) FROM PUBLIC;
-- What is going on: status, the log, figures.

CREATE FUNCTION outbox._positions(OUT server text, OUT base pg_snapshot, OUT target pg_snapshot,
								  OUT stamp bigint, OUT id bigint, OUT events bigint, OUT at timestamptz)
	RETURNS SETOF record
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
SELECT DISTINCT ON (p.server) p.server, p.base, p.target, p.stamp, p.id, p.events, p.at
FROM (SELECT * FROM outbox._position_0 UNION ALL SELECT * FROM outbox._position_1) AS p
ORDER BY p.server, p.seq DESC
$$;
COMMENT ON FUNCTION outbox._positions() IS 'where the relay stands for each server';
REVOKE ALL ON FUNCTION outbox._positions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._positions() TO pg_monitor;

-- A row of the log counts for every server that has not passed it: with
-- several servers the backlog of each is an upper bound.
CREATE FUNCTION outbox._backlog(OUT server text, OUT events bigint, OUT oldest timestamptz)
	RETURNS SETOF record
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
WITH r AS MATERIALIZED (SELECT * FROM outbox._log_rows() WHERE events > 0)
SELECT p.server, coalesce(pg_catalog.sum(r.events), 0)::bigint, pg_catalog.min(r.occurred_at)
FROM outbox._positions() AS p LEFT JOIN r
	ON NOT pg_catalog.pg_visible_in_snapshot(r.xid, p.base)
	AND (p.target IS NULL OR NOT pg_catalog.pg_visible_in_snapshot(r.xid, p.target)
		OR coalesce(r.commit_stamp, r.id) >= p.stamp)
	AND (p.id = 0 OR r.commit_stamp IS DISTINCT FROM p.stamp OR r.id > p.id)
GROUP BY p.server
$$;
COMMENT ON FUNCTION outbox._backlog() IS 'events in the log that each server''s relay has not settled; reads the heads of the log''s rows, so it takes about a second for a million transactions';
REVOKE ALL ON FUNCTION outbox._backlog() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._backlog() TO pg_monitor;

-- A segment is emptied only while nobody has a lock on it.  Who writes to the
-- current one is in nobody's way.  Segments come first: to ask for the size of
-- any other table that is locked would be to wait for it.
CREATE FUNCTION outbox._log_usage(OUT bytes bigint, OUT limit_bytes bigint, OUT held_by text)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
WITH s AS MATERIALIZED (
	SELECT t.relid FROM outbox._log_current AS c CROSS JOIN generate_series(0, 2) AS n
		CROSS JOIN LATERAL to_regclass('outbox._log_' || n) AS t (relid)
	WHERE n <> c.last_value % 3 AND pg_relation_size(t.relid) > 0)
SELECT u.bytes, u.limit_bytes, (
	SELECT string_agg(DISTINCT coalesce('process ' || l.pid, format('prepared transaction "%s"', x.gid)), ', ')
	FROM s JOIN pg_locks AS l ON l.relation = s.relid
		LEFT JOIN (pg_locks AS t JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid)
			ON l.pid IS NULL AND t.pid IS NULL AND t.virtualtransaction = l.virtualtransaction
	WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
		AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
		AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = l.pid AND a.backend_type ^@ 'pg_outbox'))
FROM outbox._log_space() AS u
$$;
COMMENT ON FUNCTION outbox._log_usage() IS 'bytes that the event log takes, and at which new events are refused; who has locks on segments that writers have left';
REVOKE ALL ON FUNCTION outbox._log_usage() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._log_usage() TO pg_monitor;

-- Where counters stood when stat_reset() was called.
CREATE TABLE outbox._reset_server (
	server text PRIMARY KEY,
	settled_events bigint NOT NULL,
	at timestamptz NOT NULL
);
COMMENT ON TABLE outbox._reset_server IS 'what outbox.stat_servers subtracts';
CREATE TABLE outbox._reset_topic (
	server text NOT NULL,
	topic text NOT NULL,
	delivered_count bigint NOT NULL,
	delivered_bytes bigint NOT NULL,
	parked_count bigint NOT NULL,
	dead_count bigint NOT NULL,
	at timestamptz NOT NULL,
	PRIMARY KEY (server, topic)
);
COMMENT ON TABLE outbox._reset_topic IS 'what outbox.stat_topics subtracts';
-- Goes with the offsets, whose counters begin anew where they are deleted.
CREATE TABLE outbox._reset_subscription (
	subscription text COLLATE "C" NOT NULL,
	partition int NOT NULL,
	received bigint NOT NULL,
	applied bigint NOT NULL,
	deleted bigint NOT NULL,
	stale bigint NOT NULL,
	duplicate bigint NOT NULL,
	suppressed bigint NOT NULL,
	dead bigint NOT NULL,
	parked bigint NOT NULL,
	skipped bigint NOT NULL,
	lost bigint NOT NULL,
	at timestamptz NOT NULL,
	PRIMARY KEY (subscription, partition),
	FOREIGN KEY (subscription, partition) REFERENCES outbox._offset ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE outbox._reset_subscription IS 'what outbox.stat_subscriptions subtracts';
SELECT pg_catalog.pg_extension_config_dump('outbox._reset_subscription', '');

CREATE FUNCTION outbox.stat_reset(kind text DEFAULT NULL, name text DEFAULT NULL, server text DEFAULT NULL)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_stat_reset';
COMMENT ON FUNCTION outbox.stat_reset(text, text, text) IS
'have counters begin anew at 0 in outbox.stat_servers, stat_topics and stat_subscriptions, whose stats_reset says when: of one kind (server, topic or subscription), of one by its name, of a topic on one server; by default all. Like any change it can be rolled back, and no worker waits for it. Errors: 22004 for a name without kind, 22023 for another kind or a server with one that is not topic, 42704 if nothing of that name is counted';
REVOKE ALL ON FUNCTION outbox.stat_reset(text, text, text) FROM PUBLIC;

CREATE VIEW outbox.stat_servers AS
SELECT p.server, p.events - coalesce(r.settled_events, 0) AS settled_events, p.at AS last_settled_at,
	b.events AS backlog_events, b.oldest AS oldest_event_at,
	extract(epoch FROM pg_catalog.clock_timestamp() - b.oldest)::float8 AS lag_seconds,
	r.at AS stats_reset
FROM outbox._positions() AS p JOIN outbox._backlog() AS b USING (server)
	LEFT JOIN outbox._reset_server AS r USING (server);
COMMENT ON VIEW outbox.stat_servers IS 'one row per server that events were published to: events settled (acknowledged, parked or dead) since the server was first used or outbox.stat_reset(), events in the log not settled yet, and the age in seconds of the oldest of them (null: none)';

CREATE VIEW outbox.stat_topics AS
SELECT server, topic, coalesce(s.state, 'live') AS state, s.reason, s.since,
	(SELECT pg_catalog.count(*) FROM outbox._parked AS k WHERE k.stream = s.id) AS parked_events,
	coalesce(t.delivered_count, 0) - coalesce(r.delivered_count, 0) AS delivered_count,
	coalesce(t.delivered_bytes, 0) - coalesce(r.delivered_bytes, 0) AS delivered_bytes,
	coalesce(t.parked_count, 0) - coalesce(r.parked_count, 0) AS parked_count,
	coalesce(t.dead_count, 0) - coalesce(r.dead_count, 0) AS dead_count,
	t.last_delivered_at, r.at AS stats_reset
FROM outbox._stream AS s FULL JOIN outbox._topic_stat AS t USING (server, topic)
	LEFT JOIN outbox._reset_topic AS r USING (server, topic);
COMMENT ON VIEW outbox.stat_topics IS 'one row per topic of a publication, and per topic that something was sent to: its state live, stopped (with the reason; its events are parked and sent when it goes on) or paused; parked_events: how many are parked now; then counters, up to a second late and after a crash short of the last second: events that brokers acknowledged, bytes of their keys and values before compression, events that were parked (and delivered later, or not), and those that became dead letters';

CREATE VIEW outbox.stat_subscriptions AS
SELECT s.name, s.topic, o.partition, s.state, o.next_offset, o.high_watermark,
	CASE WHEN o.high_watermark IS NOT NULL THEN greatest(o.high_watermark - o.next_offset, 0) END AS lag,
	o.received - coalesce(r.received, 0) AS received,
	o.applied - coalesce(r.applied, 0) AS applied,
	o.deleted - coalesce(r.deleted, 0) AS deleted,
	o.stale - coalesce(r.stale, 0) AS stale,
	o.duplicate - coalesce(r.duplicate, 0) AS duplicate,
	o.suppressed - coalesce(r.suppressed, 0) AS suppressed,
	o.dead - coalesce(r.dead, 0) AS dead,
	o.parked - coalesce(r.parked, 0) AS parked,
	o.skipped - coalesce(r.skipped, 0) AS skipped,
	o.lost - coalesce(r.lost, 0) AS lost,
	CASE WHEN o.last_time_ms BETWEEN 0 AND 9224318015999999 THEN to_timestamp(o.last_time_ms / 1000.0) END AS last_event_time, o.last_at AS last_applied_at, r.at AS stats_reset
FROM outbox._subscription s LEFT JOIN outbox._offset o ON o.subscription = s.name
	LEFT JOIN outbox._reset_subscription r ON r.subscription = o.subscription AND r.partition = o.partition;
COMMENT ON VIEW outbox.stat_subscriptions IS
'one row per subscription and partition: the next offset to read, the end of the partition when it was last seen (null: never), lag in records behind that, and, since the offsets were first stored or outbox.stat_reset(), how many events were received and what became of them (as in outbox.apply_result; handlers count as applied; dead and parked: set aside at first, see outbox.dead_letters; lost: offsets that the broker no longer had)';

CREATE VIEW outbox.stat_log AS
SELECT u.bytes, u.limit_bytes, (SELECT last_value FROM outbox._log_current) AS rotations, u.held_by
FROM outbox._log_usage() AS u;
COMMENT ON VIEW outbox.stat_log IS 'the event log: bytes it takes, bytes at which new events are refused (pg_outbox.max_backlog; null: never), how many segments it went on by, and whose locks keep segments that writers have left from being emptied (null: nobody''s)';

CREATE VIEW outbox.status AS
WITH w AS MATERIALIZED (SELECT * FROM outbox._workers())
SELECT 'worker' AS kind, w.worker AS name, w.state,
	CASE WHEN w.state IN ('running', 'idle') THEN 'ok'
		 WHEN w.state IN ('paused', 'stopped') THEN w.state
		 WHEN w.last_error IS NOT NULL AND w.pid IS NULL THEN 'failing' ELSE 'waiting' END AS health,
	w.waiting_for, NULL::bigint AS backlog, NULL::float8 AS lag_seconds,
	w.last_error, w.last_error_at
FROM w
UNION ALL
SELECT 'server', v.server,
	CASE WHEN q.server IS NOT NULL THEN 'unreachable' WHEN w.pid IS NULL THEN w.state ELSE 'publishing' END,
	CASE WHEN q.server IS NOT NULL THEN 'unreachable' WHEN w.pid IS NULL AND w.state NOT IN ('starting', 'idle') THEN w.state
		 WHEN v.lag_seconds > 60 THEN 'late' ELSE 'ok' END,
	CASE WHEN q.server IS NOT NULL THEN 'a broker that answers' WHEN w.pid IS NULL THEN 'the relay' END,
	v.backlog_events, v.lag_seconds, q.reason, q.since
FROM outbox.stat_servers AS v JOIN w ON w.worker = 'relay'
	LEFT JOIN outbox._silent_servers() AS q ON q.worker = 'relay' AND q.server = v.server
UNION ALL
SELECT 'publication', p.name, p.state,
	CASE WHEN p.problem IS NOT NULL THEN 'broken' WHEN p.state = 'live' THEN 'ok' ELSE p.state END,
	CASE WHEN p.state = 'incomplete' THEN 'a copy that ends, of changes that were not recorded' END,
	NULL, NULL, p.problem, NULL
FROM outbox.publications AS p
UNION ALL
SELECT 'topic', t.topic, t.state, CASE t.state WHEN 'live' THEN 'ok' WHEN 'paused' THEN 'paused' ELSE 'stopped' END,
	NULL, t.parked_events, NULL, t.reason, t.since
FROM outbox.stat_topics AS t
UNION ALL
SELECT 'copy', c.publication, c.state,
	CASE WHEN c.error IS NOT NULL THEN 'failing'
		 WHEN k.all_read AND c.pending > 0 THEN 'waiting' ELSE 'ok' END,
	CASE WHEN c.retry_at IS NOT NULL AND c.error IS NOT NULL THEN 'the next attempt at ' || c.retry_at
		 WHEN k.all_read AND c.pending > 0 THEN coalesce(
			'the end of transactions that were changing ' || c.pending || ' rows: '
			|| (SELECT pg_catalog.string_agg(u.updater::text, ', ' ORDER BY u.updater)
				FROM outbox._copy_updaters AS u WHERE u.publication = c.publication AND NOT u.ended),
			'the relay; ' || c.pending || ' rows are pending')
		 ELSE 'the relay; ' || c.rows || ' rows so far' END,
	CASE WHEN c.estimated_rows IS NOT NULL THEN greatest(c.estimated_rows - c.rows, 0) END, NULL, c.error, NULL
FROM outbox.copies AS c JOIN outbox._copy AS k USING (publication)
WHERE c.state = 'running'
UNION ALL
SELECT 'subscription', s.name,
	CASE WHEN s.state <> 'running' THEN s.state WHEN q.server IS NOT NULL THEN 'unreachable'
		 WHEN w.pid IS NULL THEN w.state ELSE s.state END,
	CASE WHEN s.state <> 'running' THEN s.state WHEN q.server IS NOT NULL THEN 'unreachable'
		 WHEN w.pid IS NULL AND w.state NOT IN ('starting', 'idle') THEN w.state
		 WHEN s.waiting_for IS NOT NULL THEN 'waiting' ELSE 'ok' END,
	CASE WHEN s.state <> 'running' THEN NULL WHEN q.server IS NOT NULL THEN 'a broker that answers'
		 WHEN w.pid IS NULL THEN 'the applier' ELSE s.waiting_for END,
	(SELECT pg_catalog.sum(greatest(o.high_watermark - o.next_offset, 0))::bigint
	 FROM outbox._offset AS o WHERE o.subscription = s.name AND s.state = 'running' AND w.pid IS NOT NULL AND q.server IS NULL
	 HAVING pg_catalog.bool_and(o.high_watermark IS NOT NULL)), NULL,
	CASE WHEN s.state <> 'running' THEN s.stopped_reason ELSE q.reason END,
	CASE WHEN s.state <> 'running' THEN s.stopped_at ELSE q.since END
FROM outbox.subscriptions AS s JOIN w ON w.worker = 'applier'
	LEFT JOIN outbox._silent_servers() AS q ON q.worker = 'applier' AND q.server = s.server
UNION ALL
SELECT 'dead letters', d.direction, 'waiting', 'attention', NULL, pg_catalog.count(*), NULL,
	(pg_catalog.array_agg(d.message ORDER BY d.id DESC))[1], pg_catalog.max(d.last_at)
FROM outbox._dead_letter AS d WHERE d.state = 'dead' GROUP BY d.direction
UNION ALL
SELECT 'log', 'event log', 'open',
	CASE WHEN l.limit_bytes IS NULL OR l.bytes < 0.8 * l.limit_bytes THEN 'ok'
		 WHEN l.bytes < l.limit_bytes THEN 'nearly full' ELSE 'full' END,
	l.held_by, l.bytes, NULL, NULL, NULL
FROM outbox.stat_log AS l;
COMMENT ON VIEW outbox.status IS 'one row per worker, server, publication, topic, running copy, subscription, kind of dead letter, and one for the log; health is ok, waiting, late (over a minute), unreachable (no broker of the server answers, since last_error_at), failing, broken (a publication that cannot do what it should), stopped, paused, incomplete, attention, nearly full or full; backlog is in events (null: not known, as of a subscription that does not read; log: bytes; copy: rows left, estimated, 0 if there are more than estimated), lag in seconds';

CREATE VIEW outbox.events AS
SELECT e.id, e.version, e.op, coalesce(e.server, s.server) AS server, coalesce(e.topic, s.topic) AS topic,
	pg_catalog.convert_from(e.key, 'UTF8') AS key, e.value, e.headers, e.occurred_at,
	e.xid, e.commit_stamp, e.uncommitted
FROM outbox._events() AS e LEFT JOIN outbox._stream AS s ON s.id = e.stream;
COMMENT ON VIEW outbox.events IS 'events in the log, the uncommitted ones of this session included: op (c, u, d, r as Debezium''s; null: emit), key as text, value as the bytes that are sent (null: tombstone), headers without those the relay adds (id, op, version); delivered events remain until their segment is emptied. Who may read it needs EXECUTE on outbox._events() as well';

GRANT SELECT ON outbox.stat_servers, outbox.stat_topics, outbox.stat_subscriptions, outbox.stat_log, outbox.status TO pg_monitor;
