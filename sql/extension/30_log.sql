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
	at		timestamptz NOT NULL,
	base_lsn pg_lsn NOT NULL,
	target_lsn pg_lsn
) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE outbox._position_1 (LIKE outbox._position_0)
	USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
COMMENT ON TABLE outbox._position_0 IS 'positions of the relay per server: everything visible in base is done; of what target sees beyond base, everything up to (stamp, id) is done; the WAL before base_lsn and target_lsn holds the ends of all transactions that they see';
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
