-- TRUNCATE as an event, and what replicas make of events about all rows.
-- Events are looked at in the transaction that makes them.
\set VERBOSITY default
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
SET client_min_messages = warning;

CREATE TABLE a (id int PRIMARY KEY, v text);
CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
CREATE TABLE p (id int, r text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu');
CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us') PARTITION BY LIST (r);
CREATE TABLE p_us_1 PARTITION OF p_us FOR VALUES IN ('us');
CREATE VIEW made AS
	SELECT topic, op, key, value, headers FROM outbox.events WHERE uncommitted ORDER BY id;

-- Each publication says what becomes of it
SELECT outbox.publish('a', topic => 'a', on_truncate => 'publish', initial => 'none');
SELECT outbox.publish('a', topic => 'a_thin', name => 'thin', mode => 'key', filter => 'id > 5', event_type => 'A',
	on_truncate => 'publish', initial => 'none');
SELECT outbox.publish('a', topic => 'a_quiet', name => 'quiet', on_truncate => 'ignore', initial => 'none');
SELECT outbox.publish('b', topic => 'b', on_truncate => 'publish', initial => 'none');
SELECT outbox.publish('p', topic => 'p', on_truncate => 'publish', initial => 'none');

BEGIN;
INSERT INTO a VALUES (1, 'before');
TRUNCATE a, b RESTART IDENTITY;
INSERT INTO a VALUES (2, 'after');
SELECT * FROM made;
ROLLBACK;
-- CASCADE; a savepoint; capture turned off
BEGIN;
TRUNCATE a CASCADE;
SELECT * FROM made;
SAVEPOINT s;
TRUNCATE b;
ROLLBACK TO s;
SELECT set_config('pg_outbox.capture', 'off', true);
TRUNCATE a CASCADE;
SELECT count(*) FROM made;
ROLLBACK;

-- Of a partitioned table: all of it, in any company, or nothing
BEGIN;
TRUNCATE a, p, b;
SELECT topic, op FROM made;
-- there is nothing left in it
TRUNCATE p_eu;
SELECT count(*) FROM made WHERE topic = 'p';
INSERT INTO p VALUES (1, 'eu');
SAVEPOINT s;
TRUNCATE p_eu;
ROLLBACK TO s;
TRUNCATE p_us;
ROLLBACK;
INSERT INTO p VALUES (1, 'eu');
BEGIN;
SAVEPOINT s;
TRUNCATE p;
ROLLBACK TO s;
TRUNCATE p_eu;
ROLLBACK;
TRUNCATE p_us_1;
-- together with the table, in the order that the hint says
TRUNCATE p_us_1, p;
BEGIN;
TRUNCATE p, p_us_1;
SELECT DISTINCT topic, op FROM made WHERE topic = 'p';
ROLLBACK;
-- partitions that come later
CREATE TABLE p_as PARTITION OF p FOR VALUES IN ('as');
TRUNCATE p_as;
ALTER TABLE p DETACH PARTITION p_as;
TRUNCATE p_as;
-- one that refuses counts for all
SELECT outbox.publish('p', topic => 'p_too', name => 'strict', initial => 'none');
TRUNCATE p;
SELECT outbox.unpublish('strict');

-- A topic of its own
SELECT outbox.publish('b', topic => 'a', name => 'second', initial => 'none');
SELECT outbox.publish('b', topic => 'a_quiet', name => 'second', initial => 'none');
SELECT outbox.publish('a', topic => 'a_quiet', name => 'quiet', on_truncate => 'publish', initial => 'none');
SELECT outbox.publish('a', topic => 'b', initial => 'none');
SELECT outbox.unpublish('second');
SELECT outbox.publish('a', topic => 'a_quiet', name => 'quiet', on_truncate => 'publish', initial => 'none');
SELECT name, topic, on_truncate FROM outbox.publications ORDER BY name;

-- The trigger is needed
DROP TRIGGER outbox_truncate ON b;
CREATE TRIGGER wrong AFTER INSERT ON a EXECUTE FUNCTION outbox._capture_truncate();
INSERT INTO a VALUES (3, 'wrong');
DROP TABLE a, b, p, p_as CASCADE;

-- ---- replicas
CREATE TABLE r (id text PRIMARY KEY, v text, version bigint);
CREATE VIEW known AS
	SELECT string_agg(format('%s=%s@%s', id, v, version), ' ' ORDER BY id) AS rows,
		(SELECT string_agg(format('%s@%s', key, version), ' ' ORDER BY key) FROM outbox._tombstone WHERE target = 'r'::regclass) AS tombstones,
		(SELECT version FROM outbox._floor WHERE target = 'r'::regclass) AS floor,
		(SELECT string_agg(format('%s@%s', partition, version), ' ' ORDER BY partition) FROM outbox._mark WHERE target = 'r'::regclass) AS marks
	FROM r;
CREATE FUNCTION put(key text, version bigint) RETURNS outbox.apply_result LANGUAGE sql
	AS $$ SELECT outbox.apply('r', key, format('{"id":"%s","v":"v"}', key), jsonb_build_object('id', version::text, 'op', 'u')) $$;
INSERT INTO r VALUES ('null', 'v', NULL);
SELECT put('a', 10), put('b', 11), put('c', 30), outbox.apply('r', 'd', NULL, '{"id":"12"}'), outbox.apply('r', 'e', NULL, '{"id":"31"}');
SELECT * FROM known;
SELECT outbox.apply('r', 'pg_outbox.truncate', '{}', '{"id":"20","op":"t","partition":"0/2"}');
SELECT * FROM known;
SELECT put('a', 19), put('b', 20), put('d', 21), put('e', 22), outbox.apply('r', 'x', NULL, '{"id":"3"}');
-- once; Debezium's has no key
SELECT outbox.apply('r', NULL, NULL, '{"id":"20","op":"t"}'), outbox.apply('r', NULL, NULL, '{"id":"19","op":"t"}'),
	outbox.apply('r', NULL, NULL, '{"id":"x","op":"t","version":"18"}');
SELECT * FROM known;
-- in a batch, in its place
SELECT * FROM outbox.apply_batch('r', '{f,g,t,f,g}', ARRAY['{"id":"f","v":"v"}', '{"id":"g","v":"v"}', NULL, '{"id":"f","v":"w"}', '{"id":"g","v":"w"}'],
	ARRAY['{"id":"40"}', '{"id":"43"}', '{"id":"42","op":"t"}', '{"id":"41"}', '{"id":"44"}']::jsonb[]);
SELECT * FROM known;
SELECT * FROM outbox.apply_batch('r', '{t,t}', NULL, '{"{\"id\":\"50\",\"op\":\"t\"}","{\"id\":\"51\",\"op\":\"t\"}"}');

-- The end of a resync: the marks of all partitions
SELECT put('a', 60), put('b', 71), outbox.apply('r', 'd', NULL, '{"id":"61"}');
SELECT outbox.apply('r', 'pg_outbox.resync', '{}', '{"id":"80","op":"e","version":"70","partition":"1/3"}'),
	outbox.apply('r', 'pg_outbox.resync', '{}', '{"id":"80","op":"e","version":"70","partition":"1/3"}'),
	outbox.apply('r', 'pg_outbox.resync', '{}', '{"id":"80","op":"e","version":"70","partition":"0/3"}');
SELECT * FROM known;
-- what comes meanwhile is not older than the others
SELECT put('c', 62);
SELECT outbox.apply('r', 'pg_outbox.resync', '{}', '{"id":"80","op":"e","version":"70","partition":"2/3"}');
SELECT * FROM known;
SELECT outbox.apply('r', 'pg_outbox.resync', '{}', '{"id":"80","op":"e","version":"70","partition":"2/3"}'), put('c', 69), put('c', 70);
-- a later one's stand for an earlier one's; more partitions than before; a TRUNCATE makes it superfluous
SELECT outbox.apply('r', NULL, NULL, '{"id":"91","op":"e","version":"90","partition":"0/2"}'),
	outbox.apply('r', NULL, NULL, '{"id":"101","op":"e","version":"100","partition":"0/3"}'),
	outbox.apply('r', NULL, NULL, '{"id":"91","op":"e","version":"90","partition":"1/2"}');
SELECT * FROM known;
SELECT outbox.apply('r', NULL, NULL, '{"id":"101","op":"e","version":"100","partition":"1/3"}'),
	outbox.apply('r', NULL, NULL, '{"id":"102","op":"t"}'),
	outbox.apply('r', NULL, NULL, '{"id":"101","op":"e","version":"100","partition":"2/3"}');
SELECT * FROM known;
-- alone
SELECT outbox.apply('r', NULL, NULL, '{"id":"111","op":"e","version":"110"}');

-- What is wrong with an event
SELECT outbox.apply('r', NULL, NULL, '{"op":"t"}');
SELECT outbox.apply('r', NULL, NULL, '{"id":"x","op":"t"}');
SELECT outbox.apply('r', NULL, NULL, '{"id":"200","op":"e"}');
SELECT outbox.apply('r', NULL, NULL, '{"id":"200","op":"e","version":"190","partition":"2/2"}');
SELECT outbox.apply('r', NULL, NULL, '{"id":"200","op":"e","version":"190","partition":"0"}');
SELECT outbox.apply('r', NULL, NULL, '{"id":"200","op":"e","version":"190","partition":"0/2/"}');
SELECT outbox.apply('r', NULL, NULL, '{"id":"200","op":"e","version":"190","partition":"99999999999/2"}');
SELECT outbox.apply('r', 'k', '{"id":"k","v":"v"}', '{"id":"200","op":"x"}');
-- another's header of that name is nobody's business
SELECT outbox.apply('r', 'k', '{"id":"k","v":"v"}', '{"id":"200","op":"u","partition":"north"}');
SELECT outbox.emit('t', 'k', 'v'::text, headers => '{"partition": "north"}');

-- An outgoing letter that was for every partition is so again
BEGIN;
INSERT INTO outbox._dead_letter (direction, server, topic, key, value, header_names, header_values, event_time, sqlstate, message, state)
VALUES ('out', 'kafka', 't', 'pg_outbox.resync', '{}', '{id,op,version}', '{5,e,3}', now(), '54000', 'refused', 'dead') RETURNING id AS letter \gset
SELECT outbox.redrive(:letter);
SELECT topic, op, key, headers FROM outbox.events WHERE uncommitted;
ROLLBACK;

-- pg_dump takes them along
SELECT c::regclass FROM pg_extension, unnest(extconfig) AS c WHERE c::regclass::text ~ '_(floor|mark)$' ORDER BY 1;

-- Floors outlast retention, and go with their table
SELECT outbox.forget_expired() >= 0 AS ran;
SELECT floor FROM known;
DROP TABLE r CASCADE;
SELECT outbox.forget_expired() > 0 AS some;
SELECT count(*) FROM outbox._floor;
DROP FUNCTION put;
DROP VIEW made;
RESET client_min_messages;
DROP SERVER kafka;
