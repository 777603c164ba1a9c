-- Replicas that change, or that are not quite like others: outbox.apply().
\set VERBOSITY terse
SET client_min_messages = warning;

-- a schema gets another name, and another table takes the old one
CREATE SCHEMA apply_old;
CREATE TABLE apply_old.r (id int PRIMARY KEY, a text, version bigint NOT NULL);
SELECT outbox.apply('apply_old.r', '1', '{"id": 1, "a": "x"}', '{"id": 1}');
SELECT outbox.apply('apply_old.r', '2', NULL, '{"id": 1}');
ALTER SCHEMA apply_old RENAME TO apply_new;
SELECT outbox.apply('apply_new.r', '1', '{"id": 1, "a": "y"}', '{"id": 2}');
CREATE SCHEMA apply_old;
CREATE TABLE apply_old.r (id int PRIMARY KEY, a text, version bigint NOT NULL);
SELECT outbox.apply('apply_new.r', '1', '{"id": 1, "a": "z"}', '{"id": 3}');
SELECT outbox.apply('apply_new.r', '1', '{"id": 1, "a": "late"}', '{"id": 2}');
SELECT outbox.apply('apply_new.r', '1', '{"id": "x", "a": "z"}', '{"id": 4}');
SELECT * FROM apply_new.r;
SELECT * FROM apply_old.r;
DROP SCHEMA apply_old, apply_new CASCADE;

-- so does a type whose values come as JSON
CREATE SCHEMA apply_test;
SET search_path = apply_test;
CREATE TYPE pair AS (x int, y int);
CREATE DOMAIN pairs AS pair[];
CREATE TABLE r (id int PRIMARY KEY, c pair, a pair[], d pairs, version bigint NOT NULL);
SELECT outbox.apply('r', '1', '{"id": 1, "c": {"x": 1, "y": 2}, "a": [{"x": 3, "y": 4}], "d": [{"x": 5, "y": 6}]}', '{"id": 1}');
ALTER TYPE pair RENAME TO couple;
ALTER DOMAIN pairs RENAME TO couples;
CREATE TYPE pair AS (z int);
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);	-- all plans are made again
SELECT outbox.apply('r', '1', '{"id": 1, "c": {"x": 2, "y": 2}, "a": [{"x": 4, "y": 4}], "d": [{"x": 6, "y": 6}]}', '{"id": 2}');
SELECT * FROM r;
DROP SCHEMA apply_test CASCADE;

-- keys that are equal and do not look alike
CREATE SCHEMA apply_test;
SET search_path = apply_test;
CREATE TABLE kn (id numeric PRIMARY KEY, a text, version bigint NOT NULL);
CREATE TABLE kf (id float8 PRIMARY KEY, a text, version bigint NOT NULL);
CREATE TABLE kd (x numeric, y float4, a text UNIQUE, version bigint NOT NULL, PRIMARY KEY (y, x));
SELECT outbox.apply('kn', '1.0', '{"id": 1.0, "a": "x"}', '{"id": 1}');
SELECT outbox.apply('kn', '1.00', '{"id": 1.00, "a": "y"}', '{"id": 2}');
SELECT outbox.apply('kn', '1', '{"id": 1, "a": "late"}', '{"id": 1}');
SELECT * FROM outbox.apply_batch('kn', NULL,
	ARRAY['{"id": 1.000, "a": "z", "version": 4}', '{"id": 1, "a": "late", "version": 3}', '{"id": 2.0, "a": "two", "version": 1}']);
SELECT * FROM kn;
SELECT outbox.apply('kn', '1.0000', NULL, '{"id": 5}');
SELECT outbox.apply('kn', '1.0', '{"id": 1.0, "a": "late"}', '{"id": 4}');
SELECT outbox.apply('kf', '0', '{"id": 0, "a": "x"}', '{"id": 1}');
SELECT outbox.apply('kf', '-0', '{"id": "-0", "a": "y"}', '{"id": 2}');
SELECT * FROM kf;
SELECT outbox.apply('kd', NULL, '{"x": 1.0, "y": "-0", "a": "x"}', '{"id": 1}');
SELECT outbox.apply('kd', NULL, '{"x": 1, "y": 0, "a": "y"}', '{"id": 2}');
SELECT * FROM kd;
DROP SCHEMA apply_test CASCADE;

-- partitions with unique indexes and triggers of their own: values wander from row to row in the order of the events
CREATE SCHEMA apply_test;
SET search_path = apply_test;
CREATE TABLE p (k int, id int, u text, version bigint NOT NULL, PRIMARY KEY (k, id)) PARTITION BY LIST (k);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE UNIQUE INDEX ON p1 (u);
SELECT * FROM outbox.apply_batch('p', NULL, ARRAY['{"k": 1, "id": 1, "u": "a", "version": 1}', '{"k": 1, "id": 2, "u": "x", "version": 1}']);
SELECT * FROM outbox.apply_batch('p', NULL, ARRAY['{"k": 1, "id": 2, "u": "y", "version": 2}', '{"k": 1, "id": 1, "u": "x", "version": 2}']);
SELECT * FROM p ORDER BY id;
DROP SCHEMA apply_test CASCADE;

-- policies
CREATE SCHEMA apply_test;
SET search_path = apply_test;
CREATE ROLE outbox_apply_rls;
GRANT USAGE ON SCHEMA apply_test TO outbox_apply_rls;
GRANT EXECUTE ON FUNCTION outbox.apply(regclass, text, text, jsonb) TO outbox_apply_rls;
CREATE TABLE rr (id int PRIMARY KEY, owner text, version bigint NOT NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON rr TO outbox_apply_rls;
CREATE POLICY own ON rr USING (owner = current_user);
SELECT outbox.apply('rr', '2', '{"id": 2, "owner": "somebody"}', '{"id": 1}');
SET ROLE outbox_apply_rls;
SELECT outbox.apply('rr', '1', '{"id": 1, "owner": "outbox_apply_rls"}', '{"id": 1}') AS not_enabled;
RESET ROLE;
ALTER TABLE rr ENABLE ROW LEVEL SECURITY;
SET ROLE outbox_apply_rls;
\set VERBOSITY default
SELECT outbox.apply('rr', '2', NULL, '{"id": 5}') AS hidden;
\set VERBOSITY terse
SET row_security = off;
SELECT outbox.apply('rr', '2', NULL, '{"id": 5}') AS hidden;
RESET row_security;
RESET ROLE;
SELECT outbox.apply('rr', '2', '{"id": 2, "owner": "somebody else"}', '{"id": 4}') AS as_owner;
ALTER ROLE outbox_apply_rls BYPASSRLS;
SET ROLE outbox_apply_rls;
SELECT outbox.apply('rr', '2', NULL, '{"id": 5}') AS above_policies;
RESET ROLE;
ALTER ROLE outbox_apply_rls NOBYPASSRLS;
ALTER TABLE rr OWNER TO outbox_apply_rls;
ALTER TABLE rr FORCE ROW LEVEL SECURITY;
CREATE SERVER apply_test_kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
SELECT outbox.replicate('rr', topic => 'rr', server => 'apply_test_kafka');
DROP SERVER apply_test_kafka;
DELETE FROM outbox._tombstone;
DROP SCHEMA apply_test CASCADE;
DROP OWNED BY outbox_apply_rls;
DROP ROLE outbox_apply_rls;

-- a key of type char(n): what differs in trailing spaces is equal
CREATE SCHEMA apply_test;
SET search_path = apply_test;
CREATE TABLE kc (id char(4) PRIMARY KEY, a text, version bigint NOT NULL);
CREATE TABLE kb (id bpchar, n int, a text, version bigint NOT NULL, PRIMARY KEY (id, n));
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE kci (id char(4) COLLATE ci PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.apply('kc', 'ab  ', '{"id": "ab  ", "a": "x"}', '{"id": 2}');
SELECT outbox.apply('kc', 'ab', '{"id": "ab", "a": "late"}', '{"id": 1}');
SELECT outbox.apply('kc', 'ab', NULL, '{"id": 4}');
SELECT outbox.apply('kc', 'ab  ', '{"id": "ab  ", "a": "late"}', '{"id": 3}');
SELECT key, version FROM outbox._tombstone WHERE target = 'kc'::regclass;
SELECT outbox.apply('kb', NULL, '{"id": "ab", "n": 1, "a": "x"}', '{"id": 2}');
SELECT outbox.apply('kb', NULL, '{"id": "ab ", "n": 1, "a": "y"}', '{"id": 3}');
SELECT outbox.apply('kb', '{"id": "ab   ", "n": 1}', NULL, '{"id": 5}');
SELECT outbox.apply('kb', NULL, '{"id": "ab ", "n": 1, "a": "late"}', '{"id": 4}');
SELECT outbox.apply('kci', 'ab', '{"id": "ab"}', '{"id": 2}');
DELETE FROM outbox._tombstone;
DROP SCHEMA apply_test CASCADE;

-- what a session remembers of tables goes with them
CREATE SCHEMA apply_test;
SET search_path = apply_test;
DO $$ BEGIN
	FOR i IN 1 .. 20 LOOP
		EXECUTE format('CREATE TABLE gone_%s (id int PRIMARY KEY, version bigint NOT NULL)', i);
		PERFORM outbox.apply(format('gone_%s', i)::regclass, '1', '{"id": 1}', '{"id": 1}');
		EXECUTE format('DROP TABLE gone_%s', i);
	END LOOP;
END $$;
SELECT count(*) < 10 AS few FROM pg_backend_memory_contexts WHERE name = 'pg_outbox target';
DROP SCHEMA apply_test CASCADE;

-- what is nested too deeply is a wrong event
CREATE SCHEMA apply_test;
SET search_path = apply_test;
CREATE TABLE r (id int PRIMARY KEY, j jsonb, a int[], version bigint NOT NULL);
\set VERBOSITY sqlstate
SELECT outbox.apply('r', '1', '{"id": 1, "a": null, "j": ' || repeat('[', 1000) || repeat(']', 1000) || '}', '{"id": 1}');
SELECT outbox.apply('r', '1', '{"id": 1, "a": null, "j": ' || repeat('[', 1100) || repeat(']', 1100) || '}', '{"id": 2}');
SELECT outbox.apply('r', '1', '{"id": 1, "a": ' || repeat('[', 1000) || repeat(']', 1000) || ', "j": 1}', '{"id": 2}');
SELECT outbox.apply('r', '1', '{"id": 1, "a": ' || repeat('[', 1100) || repeat(']', 1100) || ', "j": 1}', '{"id": 2}');
SELECT outbox.apply('r', repeat('[', 1100), NULL, '{"id": 2}');
\set VERBOSITY terse
DROP SCHEMA apply_test CASCADE;
