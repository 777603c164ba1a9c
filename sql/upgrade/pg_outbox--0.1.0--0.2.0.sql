-- pg_outbox: from version 0.1.0 to 0.2.0.
--
-- Brings the objects of 0.1.0 to what sql/extension makes; test/t/071_upgrade.pl
-- compares the two.

-- complain if this script is sourced in psql rather than by ALTER EXTENSION
\echo Use "ALTER EXTENSION pg_outbox UPDATE TO '0.2.0'" to load this file. \quit

-- Has every session forget what it knows of our objects.  Each script begins so.
GRANT USAGE ON SCHEMA outbox TO PUBLIC;

-- A dump carries what was not sent (30_log.sql).
-- What pg_dump takes along of the log, all of one snapshot: rows that some
-- server's relay had not passed, and the newest position of each server.  Where
-- they are restored, these triggers, which the library's own inserts do not
-- fire, put them into the tables below; outbox.resume() takes them over.
CREATE TABLE outbox._restored_log (
	generation	integer NOT NULL,
	xid			xid8 NOT NULL,
	id			bigint NOT NULL,
	stamp		bigint,
	events		bytea NOT NULL
);
CREATE INDEX _restored_log_xid_idx ON outbox._restored_log (generation, xid);
COMMENT ON TABLE outbox._restored_log IS 'rows of another database''s event log that a restore has brought, until outbox.resume(); generation: how many restores ago they were loaded';
CREATE TABLE outbox._restored_position (
	generation	integer NOT NULL,
	seq			bigint NOT NULL,
	server		text NOT NULL,
	base		pg_snapshot NOT NULL,
	target		pg_snapshot,
	stamp		bigint NOT NULL,
	id			bigint NOT NULL
);
COMMENT ON TABLE outbox._restored_position IS 'positions of another database''s relay, by which outbox.resume() judges rows of _restored_log of the same generation';
-- Their rows could not be deleted otherwise where a publication is FOR ALL TABLES.
ALTER TABLE outbox._restored_log REPLICA IDENTITY FULL;
ALTER TABLE outbox._restored_position REPLICA IDENTITY FULL;

CREATE FUNCTION outbox._keep_restored() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_keep_restored';
COMMENT ON FUNCTION outbox._keep_restored() IS 'trigger: keeps rows of the log and positions that a restore loads apart';
REVOKE ALL ON FUNCTION outbox._keep_restored() FROM PUBLIC;

DO $$
DECLARE
	segment_rows constant text := 'WHERE coalesce((SELECT pg_catalog.bool_or(NOT pg_catalog.pg_visible_in_snapshot(xid, b.base)) FROM pg_catalog.unnest(ARRAY(SELECT DISTINCT ON (p.server) p.base FROM (SELECT * FROM outbox._position_0 UNION ALL SELECT * FROM outbox._position_1) AS p ORDER BY p.server, p.seq DESC)) AS b (base)), true)';
	position_rows constant text := 'WHERE seq IN (SELECT pg_catalog.max(p.seq) FROM (SELECT * FROM outbox._position_0 UNION ALL SELECT * FROM outbox._position_1) AS p GROUP BY p.server)';
	name text;
BEGIN
	FOREACH name IN ARRAY '{_log_0,_log_1,_log_2,_position_0,_position_1,_restored_log,_restored_position}'::text[] LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER keep_restored BEFORE INSERT ON outbox.%I FOR EACH ROW EXECUTE FUNCTION outbox._keep_restored(%L)',
			name, CASE WHEN name ~ '^_log' THEN 'log' WHEN name ~ '^_position' THEN 'position' ELSE 'generation' END);
		EXECUTE pg_catalog.format('ALTER TABLE outbox.%I ENABLE ALWAYS TRIGGER keep_restored', name);
		PERFORM pg_catalog.pg_extension_config_dump(('outbox.' || name)::pg_catalog.regclass,
			CASE WHEN name ~ '^_log' THEN segment_rows WHEN name ~ '^_position' THEN position_rows ELSE '' END);
	END LOOP;
END
$$;
SELECT pg_catalog.pg_extension_config_dump('outbox._parked', '');

SELECT pg_catalog.pg_extension_config_dump('outbox._copy', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._unrecorded', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._tombstone', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = target)');
ALTER TABLE outbox._dead_letter ALTER COLUMN target TYPE regclass;

-- What else is new.

-- What workers wait for, of each server.
CREATE FUNCTION outbox._waiting_servers(
	OUT worker text,
	OUT server text,
	OUT state text,
	OUT reason text,
	OUT since timestamptz)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'outbox_waiting_servers';
COMMENT ON FUNCTION outbox._waiting_servers() IS
'Kafka servers that a worker of this database cannot go on with; state: unreachable, no broker answers, and reason is what the client says of it; waiting, for what reason says; stopped, the worker sends nothing there for that reason.';
REVOKE ALL ON FUNCTION outbox._waiting_servers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._waiting_servers() TO pg_monitor;

CREATE OR REPLACE VIEW outbox.stat_servers AS
SELECT p.server, p.events - coalesce(r.settled_events, 0) AS settled_events, p.at AS last_settled_at,
	b.events AS backlog_events, b.oldest AS oldest_event_at,
	extract(epoch FROM pg_catalog.clock_timestamp() - b.oldest)::float8 AS lag_seconds,
	r.at AS stats_reset,
	CASE WHEN NOT EXISTS (
		SELECT FROM pg_catalog.pg_foreign_server AS s JOIN pg_catalog.pg_foreign_data_wrapper AS w ON w.oid = s.srvfdw
		WHERE s.srvname = p.server AND w.fdwname = 'outbox_kafka') THEN 'the server does not exist' END AS problem,
	EXISTS (SELECT FROM pg_catalog.pg_foreign_server AS s CROSS JOIN LATERAL pg_catalog.pg_options_to_table(s.srvoptions) AS o
		WHERE s.srvname = p.server AND o.option_name = 'exactly_once' AND o.option_value::boolean) AS exactly_once
FROM outbox._positions() AS p JOIN outbox._backlog() AS b USING (server)
	LEFT JOIN outbox._reset_server AS r USING (server);
COMMENT ON VIEW outbox.stat_servers IS 'one row per server that events were published to: events settled (acknowledged, parked or dead) since the server was first used or outbox.stat_reset(), events in the log not settled yet, the age in seconds of the oldest of them (null: none), and whether the server has option exactly_once; problem says that the server was dropped: its events are parked until there is one of its name again';


-- TRUNCATE as an event, and the ends of resyncs.
ALTER TABLE outbox._publication DROP CONSTRAINT _publication_on_truncate_check;
ALTER TABLE outbox._publication ADD CONSTRAINT _publication_on_truncate_check CHECK (on_truncate IN ('error', 'ignore', 'publish'));
ALTER FUNCTION outbox._refuse_truncate() RENAME TO _capture_truncate;
CREATE OR REPLACE FUNCTION outbox._capture_truncate() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_capture_truncate';
COMMENT ON FUNCTION outbox._capture_truncate() IS 'trigger of captured tables: refuses TRUNCATE, or records one event of it per publication, as outbox.publish was told';
COMMENT ON FUNCTION outbox._table_altered() IS 'publications follow a column''s new name; partitions get the trigger on TRUNCATE';
COMMENT ON FUNCTION outbox.publish(regclass, text, text, text[], text, text[], text, text, jsonb, text, text, text, text, boolean, text[]) IS
'publishes every committed change of a table, and by default the rows it has now, to a topic; returns the publication''s name. Calling it again makes the publication what the call says. topic: default pg_outbox.default_topic; name: default the table''s, with its schema unless that is public; columns: published ones, "name" or "name AS other", default all; mode: full (the row) or key (its identity only); partition_by: columns of the message key, default the identity; filter: boolean expression over the row''s columns, a row that leaves it is deleted, one that enters it created; event_type: header type; headers: fixed ones, an object; initial: copy or none, also where a later call changes server, topic, mode, columns, identity or filter; server: default pg_outbox.default_server; identity: name of a unique index, default the primary key; on_truncate: error (TRUNCATE is refused), ignore (replicas keep the rows) or publish (an event with op t, which every partition gets; replicas delete what is older; not of a partition alone, and only where nothing else is published to the topic); skip_unchanged: no event if no published column changed; with_headers: of source, txid; default pg_outbox.default_with_headers. Needs the table''s ownership and USAGE on the server; waits for transactions that are writing to the table (lock_timeout applies) at first, and when server, topic, mode, columns, identity or filter change. Errors: 22004, 42P01, 42501, 42704, 42809, 42703, 55000, 22023, 42602, 0A000, 42P17, 42P20, 42803';
ALTER TYPE outbox.apply_result ADD VALUE 'swept';
ALTER TYPE outbox.apply_result ADD VALUE 'marked';
COMMENT ON TYPE outbox.apply_result IS
'what became of an event: applied = the row was inserted or updated; deleted = the row is gone, or was never there, and later events of the key that are older will be stale; stale = a newer version of the key, or its newer delete, was there already, or came in the same batch; duplicate = this very version was there already; suppressed = a BEFORE trigger of the target refused the row; swept = all rows older than the event were deleted, and older events will be stale (op t, or the last mark of a resync); marked = the end of a resync in one partition was noted, those of others are still to come';
COMMENT ON FUNCTION outbox.apply(regclass, text, text, jsonb) IS
'apply one event, as a consumer received it, to a replica: a row only moves forward. value: the row as a JSON object, null for a delete. headers: an object, or an array of pairs; "op" is c, u, r (upsert), d (delete), t (all rows older than the version are deleted) or e (the same, once it has come for all partitions that header "partition", as 0/4, tells of), without it a null value is a delete; the version is header "version", else header "id", else the version column in the value; header "json_verbatim", a JSON array of names, says which columns of type json and jsonb are taken as they stand, null being JSON''s null then. Needs SELECT, INSERT, UPDATE and DELETE on the target. Errors: class 22 for a bad event, 54000 for a value beyond a limit of its type, 42703 if it lacks a column of the target or a field of its composite type, 0A000 if row-level security policies of the target apply to the caller, 40001 under REPEATABLE READ and up if the key changed meanwhile, and whatever the target''s constraints and triggers raise';

-- Kept for as long as the target, unlike tombstones: one row stands for all.
CREATE TABLE outbox._floor (
	target regclass PRIMARY KEY,
	version bigint NOT NULL,
	raised_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE outbox._floor IS 'versions below which every event of a replica is stale, since a TRUNCATE or a resync of its source; internal';
SELECT pg_catalog.pg_extension_config_dump('outbox._floor', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = target)');

CREATE TABLE outbox._mark (
	target regclass NOT NULL,
	partition int NOT NULL,
	version bigint NOT NULL,
	noted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (target, partition)
);
COMMENT ON TABLE outbox._mark IS 'ends of a resync that have come, by partition of the topic, until all have; version: what is older is to go then; internal';
SELECT pg_catalog.pg_extension_config_dump('outbox._mark', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = target)');

-- Partitions whose changes are not captured.
CREATE OR REPLACE VIEW outbox.publications WITH (security_barrier) AS
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

-- Exactly once.
DO $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY '{_position_0,_position_1}'::text[] LOOP
		EXECUTE pg_catalog.format('ALTER TABLE outbox.%I ADD COLUMN base_lsn pg_lsn NOT NULL DEFAULT ''0/0'', ADD COLUMN target_lsn pg_lsn', name);
		EXECUTE pg_catalog.format('ALTER TABLE outbox.%I ALTER COLUMN base_lsn DROP DEFAULT', name);
	END LOOP;
END
$$;
COMMENT ON TABLE outbox._position_0 IS 'positions of the relay per server: everything visible in base is done; of what target sees beyond base, everything up to (stamp, id) is done; the WAL before base_lsn and target_lsn holds the ends of all transactions that they see';
-- Parked events that the Kafka transaction of that number sends: its place says
-- whether it was committed, and with it whether they are parked any more.
CREATE TABLE outbox._drained (
	number	bigint NOT NULL,
	stream	integer PRIMARY KEY,
	ids		bigint[] NOT NULL
);
COMMENT ON TABLE outbox._drained IS 'parked events that are being sent to servers with option exactly_once, by the number of the Kafka transaction';

-- Starts of the server under which the relay had the name of a server with option
-- exactly_once, newest first: by them it knows places of this history from those of
-- copies of it.
CREATE TABLE outbox._claim (
	server	text PRIMARY KEY,
	starts	timestamptz[] NOT NULL
);
COMMENT ON TABLE outbox._claim IS 'starts of the database server under which the relay published to a server with option exactly_once, newest first';

-- Copies and resyncs.
ALTER TABLE outbox._copy ADD COLUMN kind text NOT NULL DEFAULT 'copy' CHECK (kind IN ('copy', 'resync')),
	ADD COLUMN floor bigint, ADD COLUMN waits_for xid8[];
COMMENT ON TABLE outbox._copy IS 'copies of publications, the last of each; ordered_by: number, type and collation of each column that the rows are read in the order of; last_key: identity of the last row that was read; all_read: what is left is in _copy_pending; heals: changes, or rows of an attached partition, were not recorded, the publication is incomplete until the copy is done; kind: a resync ends with an event in each partition, by which replicas delete what is older than floor; floor: below the version of every row that it publishes and of every change that it may not have seen, null: the resync has not begun; waits_for: transactions that may have stamped a change before the floor was taken, nothing is read before they have ended';
CREATE FUNCTION outbox.resync(publication text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_resync';
COMMENT ON FUNCTION outbox.resync(text) IS 'has the relay publish every present row of a published table again, as outbox.copy() does, and then an event with op e to each partition of the topic, by which replicas delete every row that is older and is no row of the table: what a lost history left there after a standby was promoted or a backup restored, or what replicas missed because the brokers deleted it. Begins when transactions that are writing have ended; begins anew if one is under way; outbox.cancel_copy() ends it; see view copies. Needs the table''s ownership. Errors: 42704 if there is no such publication of a table, 42501, 55000 if another publication sends to the same topic';
COMMENT ON FUNCTION outbox.cancel_copy(text) IS 'ends a copy or resync that is under way; false if there is none. What was copied so far stays published. Needs the table''s ownership. Errors: 42704, 42501';
CREATE OR REPLACE VIEW outbox.copies AS
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

-- Whose function a handler was.
ALTER TABLE outbox._subscription ADD COLUMN handler_owner regrole;
COMMENT ON COLUMN outbox._subscription.handler_owner IS 'who owned the handler when it was subscribed: a function of that name that belongs to another role is not called; null for a replica, or if it is not known';
UPDATE outbox._subscription AS s SET handler_owner = p.proowner
	FROM pg_catalog.pg_proc AS p
	WHERE p.oid = pg_catalog.to_regprocedure(s.handler || '(outbox.event)');
COMMENT ON FUNCTION outbox.handle(regprocedure, text, text, text, text, text, text) IS
'call a function for each event of a topic, in one transaction with the event''s offset and its entry in the inbox, and return the subscription''s name. The function takes one outbox.event; what it returns is ignored; it runs with its owner''s rights, for at most pg_outbox.handler_timeout. An event that fails is set aside, and later events with the same key wait for it. A function of that name that belongs to another role than when it was subscribed is not called: the subscription stops, until a superuser or a member of both roles calls outbox.handle() again. Parameters as of outbox.replicate(); the default of name is the function''s';

-- What a subscription has lost.
ALTER TABLE outbox._offset ADD COLUMN last_loss text, ADD COLUMN last_loss_at timestamptz;
CREATE OR REPLACE VIEW outbox.stat_subscriptions AS
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
	CASE WHEN o.last_time_ms BETWEEN 0 AND 9224318015999999 THEN to_timestamp(o.last_time_ms / 1000.0) END AS last_event_time, o.last_at AS last_applied_at, r.at AS stats_reset,
	CASE WHEN o.last_loss_at <= r.at THEN NULL ELSE o.last_loss END AS last_loss,
	CASE WHEN o.last_loss_at <= r.at THEN NULL ELSE o.last_loss_at END AS last_loss_at
FROM outbox._subscription s LEFT JOIN outbox._offset o ON o.subscription = s.name
	LEFT JOIN outbox._reset_subscription r ON r.subscription = o.subscription AND r.partition = o.partition;
COMMENT ON VIEW outbox.stat_subscriptions IS
'one row per subscription and partition: the next offset to read, the end of the partition when it was last seen (null: never), lag in records behind that, and, since the offsets were first stored or outbox.stat_reset(), how many events were received and what became of them (as in outbox.apply_result; handlers, and events about all rows, count as applied; dead and parked: set aside at first, see outbox.dead_letters; lost: offsets that the broker no longer had, of a topic that was created again those that had been seen); last_loss: what was lost the last time, with the range, and when, since outbox.stat_reset()';

CREATE OR REPLACE VIEW outbox.status AS
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
	CASE WHEN v.problem IS NOT NULL THEN 'dropped' WHEN q.server IS NOT NULL THEN q.state WHEN w.pid IS NULL THEN w.state ELSE 'publishing' END,
	CASE WHEN v.problem IS NOT NULL THEN CASE WHEN v.backlog_events > 0 OR EXISTS (
			SELECT FROM outbox._stream AS t JOIN outbox._parked AS k ON k.stream = t.id WHERE t.server = v.server) THEN 'stopped' ELSE 'ok' END
		 WHEN q.server IS NOT NULL THEN q.state
		 WHEN w.pid IS NULL AND w.state NOT IN ('starting', 'idle') THEN w.state
		 WHEN v.lag_seconds > 60 THEN 'late' ELSE 'ok' END,
	CASE WHEN v.problem IS NOT NULL THEN 'CREATE SERVER'
		 WHEN q.server IS NOT NULL THEN CASE q.state WHEN 'unreachable' THEN 'a broker that answers' WHEN 'stopped' THEN 'another server to stop' ELSE q.reason END
		 WHEN w.pid IS NULL THEN 'the relay' END,
	v.backlog_events, v.lag_seconds, coalesce(v.problem, CASE WHEN q.state <> 'waiting' THEN q.reason END), CASE WHEN q.state <> 'waiting' THEN q.since END
FROM outbox.stat_servers AS v JOIN w ON w.worker = 'relay'
	LEFT JOIN outbox._waiting_servers() AS q ON q.worker = 'relay' AND q.server = v.server
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
		 WHEN k.all_read AND c.pending > 0 OR c.waits_for IS NOT NULL THEN 'waiting' ELSE 'ok' END,
	CASE WHEN c.retry_at IS NOT NULL AND c.error IS NOT NULL THEN 'the next attempt at ' || c.retry_at
		 WHEN c.waits_for IS NOT NULL THEN 'the end of transactions that were writing when it began: '
			|| pg_catalog.array_to_string(c.waits_for, ', ')
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
	CASE WHEN s.state <> 'running' THEN s.stopped_reason WHEN q.server IS NOT NULL THEN q.reason ELSE l.last_loss END,
	CASE WHEN s.state <> 'running' THEN s.stopped_at WHEN q.server IS NOT NULL THEN q.since ELSE l.last_loss_at END
FROM outbox.subscriptions AS s JOIN w ON w.worker = 'applier'
	LEFT JOIN outbox._waiting_servers() AS q ON q.worker = 'applier' AND q.server = s.server
	LEFT JOIN LATERAL (SELECT v.last_loss, v.last_loss_at FROM outbox.stat_subscriptions AS v
		WHERE v.name = s.name AND v.last_loss IS NOT NULL ORDER BY v.last_loss_at DESC LIMIT 1) AS l ON true
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
COMMENT ON VIEW outbox.status IS 'one row per worker, server, publication, topic, running copy, subscription, kind of dead letter, and one for the log; health is ok, waiting (waiting_for says what for), late (over a minute), unreachable (no broker of the server answers, since last_error_at), failing, broken (a publication that cannot do what it should), stopped, paused, incomplete, attention, nearly full or full; backlog is in events (null: not known, as of a subscription that does not read; log: bytes; copy: rows left, estimated, 0 if there are more than estimated), lag in seconds';
DROP FUNCTION outbox._silent_servers();
