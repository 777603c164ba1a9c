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
