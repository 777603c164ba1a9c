-- Publications: making, changing and ending them; what is refused.
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1', topics 'users*,orders,regression*.other.users');
CREATE TABLE users (id bigint PRIMARY KEY, name text, email text, active boolean DEFAULT true);
SELECT coalesce(max(id), 0) AS seen FROM outbox._events() \gset
CREATE VIEW new_events AS    -- without what copies make: they come when the relay comes
SELECT e.id, s.topic, e.op, convert_from(e.key, 'UTF8') AS key, convert_from(e.value, 'UTF8') AS value,
	replace(e.headers::text, current_database(), 'regression')::jsonb AS headers
FROM outbox._events() e LEFT JOIN outbox._stream s ON s.id = e.stream
WHERE e.op IS DISTINCT FROM 'r';
\set show 'SELECT topic, op, key, value, headers FROM new_events WHERE id > :seen ORDER BY id; SELECT coalesce(max(id), :seen) AS seen FROM outbox._events() \\gset'

-- As a first-time user pastes it
SELECT outbox.publish('users', topic => 'users');
INSERT INTO users VALUES (1, 'Ann', 'ann@example.org');
:show
SELECT name, source, kind, server, topic, mode, columns, identity, partition_by, filter, on_truncate, state, problem
FROM outbox.publications;

-- Again: nothing changes, nothing is said
SELECT outbox.publish('users', topic => 'users');

-- It becomes what the call says
SELECT outbox.publish('users', topic => 'users', columns => '{id,name AS full_name,active}',
	filter => 'active', event_type => 'UserChanged', headers => '{"tenant": "acme"}',
	with_headers => '{source}', skip_unchanged => true, on_truncate => 'ignore', initial => 'none');
UPDATE users SET name = 'Anna';
UPDATE users SET email = 'anna@example.org';
UPDATE users SET active = false;
UPDATE users SET active = true;
:show
SELECT outbox.publish('users', topic => 'users');

-- Several publications of one table, with one trigger
SELECT outbox.publish('users', topic => 'users_public', name => 'public', mode => 'key');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass ORDER BY 1;
UPDATE users SET name = 'Ann';
DELETE FROM users;
:show
SELECT outbox.publish('users', topic => 'users_public', name => 'public', mode => 'key', partition_by => '{name}');
INSERT INTO users VALUES (1, 'Ann');
DELETE FROM users;
:show

-- Later settings wait for no writer, a change of what is sent does
SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'users'::regclass;
BEGIN;
SELECT outbox.publish('users', topic => 'users_public', name => 'public', mode => 'key', on_truncate => 'ignore');
SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'users'::regclass AND mode <> 'AccessShareLock';
SELECT outbox.publish('users', topic => 'users_public', name => 'public');
SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'users'::regclass AND mode <> 'AccessShareLock';
ROLLBACK;

-- Names: other tables do not get in each other's way
CREATE SCHEMA other;
CREATE TABLE other.users (id int PRIMARY KEY);
SELECT outbox.publish('other.users', initial => 'none');
SELECT outbox.publish('other.users', topic => 'users', name => 'users');
SELECT name, replace(topic, current_database(), 'regression') AS topic FROM outbox.publications ORDER BY 1;
SELECT outbox.unpublish('other.users');

-- TRUNCATE, also of a partition
TRUNCATE users;
SELECT outbox.publish('users', topic => 'users', on_truncate => 'ignore');
TRUNCATE users;
SELECT outbox.publish('users', topic => 'users_public', name => 'public', mode => 'key', on_truncate => 'ignore');
TRUNCATE users;

-- Defaults of a database
SET pg_outbox.default_topic = 'users.{table}';
SET pg_outbox.default_with_headers = 'source, nonsense';
SET pg_outbox.default_with_headers = 'source';
SELECT outbox.publish('users', name => 'defaults', initial => 'none');
SELECT topic, with_headers FROM outbox.publications WHERE name = 'defaults';
RESET pg_outbox.default_topic;
RESET pg_outbox.default_with_headers;

-- Ending them; the last one takes the triggers with it
SELECT outbox.unpublish('defaults');
SELECT outbox.unpublish('users');
INSERT INTO users VALUES (3, 'Cid');
:show
SELECT outbox.unpublish('public');
SELECT outbox.unpublish('public');
SELECT outbox.unpublish(NULL);
SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass;
INSERT INTO users VALUES (4, 'Dee');
:show

-- Arguments that make no sense
SELECT outbox.publish(NULL);
SELECT outbox.publish('users', topic => 'users', mode => 'thin');
SELECT outbox.publish('users', topic => 'users', initial => 'maybe');
SELECT outbox.publish('users', topic => 'users', on_truncate => 'panic');
SELECT outbox.publish('users', topic => 'users', name => '');
SELECT outbox.publish('users', topic => 'no such topic');
SELECT outbox.publish('users', topic => 'secret');
SELECT outbox.publish('users', topic => 'users', server => 'nowhere');
SELECT outbox.publish('users', topic => 'users', with_headers => '{source,colour}');
SELECT outbox.publish('users', topic => 'users', with_headers => '{txid,source,txid}');
SELECT outbox.publish('users', topic => 'users', event_type => repeat('x', 1025));
SELECT outbox.publish('users', topic => 'users', headers => '[1]');
SELECT outbox.publish('users', topic => 'users', headers => '{"id": 1}');
SELECT outbox.publish('users', topic => 'users', columns => '{}');
SELECT outbox.publish('users', topic => 'users', columns => '{name,email}');
SELECT outbox.publish('users', topic => 'users', columns => '{id,colour}');
SELECT outbox.publish('users', topic => 'users', columns => '{id,ctid}');
SELECT outbox.publish('users', topic => 'users', columns => '{id,name AS x,email AS x}');
SELECT outbox.publish('users', topic => 'users', columns => '{id,name,name AS x}');
SELECT outbox.publish('users', topic => 'users', columns => '{id,NULL}');
SELECT outbox.publish('users', topic => 'users', columns => '{id,name AS }');
SELECT outbox.publish('users', topic => 'users', partition_by => '{colour}');
SELECT outbox.publish('users', topic => 'users', identity => 'no_such_index');

-- Filters
SELECT outbox.publish('users', topic => 'users', filter => 'true) OR (true');
SELECT outbox.publish('users', topic => 'users', filter => 'true; DROP TABLE users');
SELECT outbox.publish('users', topic => 'users', filter => 'true UNION SELECT');
SELECT outbox.publish('users', topic => 'users', filter => 'true ORDER BY 1');
SELECT outbox.publish('users', topic => 'users', filter => 'active -- ) OR true');
SELECT filter FROM outbox.publications WHERE name = 'users';
SELECT outbox.unpublish('users');
SELECT outbox.publish('users', topic => 'users', filter => '');
SELECT outbox.publish('users', topic => 'users', filter => 'id');
SELECT outbox.publish('users', topic => 'users', filter => 'colour = 1');
SELECT outbox.publish('users', topic => 'users', filter => 'ctid IS NULL');
SELECT outbox.publish('users', topic => 'users', filter => 'users IS NOT NULL');
SELECT outbox.publish('users', topic => 'users', filter => 'id IN (SELECT 1)');
SELECT outbox.publish('users', topic => 'users', filter => 'count(*) > 1');
SELECT outbox.publish('users', topic => 'users', filter => 'row_number() OVER () > 1');
SELECT outbox.publish('users', topic => 'users', filter => 'generate_series(1, 2) > 1');
SELECT outbox.publish('users', topic => 'users', filter => 'id > $1');
SELECT outbox.publish('users', topic => 'users', filter => 'now() > ''2024-01-01''');
-- a filter means the same whatever the session that writes has set
CREATE FUNCTION is_vip(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$SELECT $1 LIKE 'V%'$$;
ALTER TABLE users ADD born date;
SET DateStyle = 'German';
SELECT outbox.publish('users', topic => 'users', initial => 'none',
	filter => $$is_vip(users.name) AND email <> E'it''s\\' AND born < '02.01.2000'$$);
SET DateStyle = 'ISO, MDY';
SELECT filter FROM outbox.publications WHERE name = 'users';
\c -
SET standard_conforming_strings = off;
SET search_path = pg_catalog;
SET DateStyle = 'SQL, DMY';
INSERT INTO public.users VALUES (10, 'Vic', 'vic', true, '01/01/2000'), (11, 'Vic', 'it''s\\', true, '01/01/2000'), (12, 'Vic', 'vic', true, '02/01/2000'), (13, 'Joe', 'joe', true, '01/01/2000');
RESET search_path;
RESET standard_conforming_strings;
RESET DateStyle;
:show
SELECT outbox.unpublish('users');
DROP FUNCTION is_vip;
ALTER TABLE users DROP born;

-- Tables that cannot be published
CREATE VIEW a_view AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
CREATE FOREIGN DATA WRAPPER a_wrapper;
CREATE SERVER a_server FOREIGN DATA WRAPPER a_wrapper;
CREATE FOREIGN TABLE a_foreign (id int) SERVER a_server;
CREATE TEMP TABLE a_temp (id int PRIMARY KEY);
CREATE UNLOGGED TABLE an_unlogged (id int PRIMARY KEY);
CREATE TABLE a_parent (id int PRIMARY KEY);
CREATE TABLE a_child (PRIMARY KEY (id)) INHERITS (a_parent);
CREATE SEQUENCE a_sequence;
SELECT outbox.publish('a_view', topic => 'users');
SELECT outbox.publish('a_matview', topic => 'users');
SELECT outbox.publish('a_foreign', topic => 'users');
SELECT outbox.publish('a_temp', topic => 'users');
SELECT outbox.publish('an_unlogged', topic => 'users');
SELECT outbox.publish('a_parent', topic => 'users');
SELECT outbox.publish('a_child', topic => 'users');
SELECT outbox.publish('a_sequence', topic => 'users');
SELECT outbox.publish('users_pkey', topic => 'users');
SELECT outbox.publish('pg_class', topic => 'users');
SELECT outbox.publish('information_schema.sql_features', topic => 'users');
SELECT outbox.publish('outbox._stream', topic => 'users');
SELECT outbox.publish('outbox.publications', topic => 'users');

-- Keys that do not do
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE keyed (id int, a int NOT NULL, b text COLLATE nocase NOT NULL, c int, d int NOT NULL,
	CONSTRAINT keyed_deferrable UNIQUE (a) DEFERRABLE, CONSTRAINT keyed_nocase UNIQUE (b),
	CONSTRAINT keyed_null UNIQUE (c), CONSTRAINT keyed_good UNIQUE (d, a));
CREATE UNIQUE INDEX keyed_partial ON keyed (a) WHERE a > 0;
CREATE UNIQUE INDEX keyed_expression ON keyed (abs(a));
CREATE INDEX keyed_plain ON keyed (a);
SELECT outbox.publish('keyed', topic => 'users');
SELECT outbox.publish('keyed', topic => 'users', identity => 'keyed_deferrable');
SELECT outbox.publish('keyed', topic => 'users', identity => 'keyed_nocase');
SELECT outbox.publish('keyed', topic => 'users', identity => 'keyed_null');
SELECT outbox.publish('keyed', topic => 'users', identity => 'keyed_partial');
SELECT outbox.publish('keyed', topic => 'users', identity => 'keyed_expression');
SELECT outbox.publish('keyed', topic => 'users', identity => 'keyed_plain');
ALTER TABLE keyed ADD PRIMARY KEY (id) DEFERRABLE;
SELECT outbox.publish('keyed', topic => 'users');
SELECT outbox.publish('keyed', topic => 'users', identity => 'keyed_good', initial => 'none');
INSERT INTO keyed VALUES (1, 2, 'b', 3, 4);
:show
-- an identity without a primary key is guarded by what captures it
ALTER TABLE keyed ALTER d DROP NOT NULL;
ALTER TABLE keyed ADD unpublished int;
ALTER TABLE keyed DROP unpublished;
INSERT INTO keyed VALUES (2, 3, 'c', 4, NULL);
SELECT name, problem FROM outbox.publications;
DROP TABLE keyed;

-- The table changes
SELECT outbox.publish('users', topic => 'users', name => 'u', columns => '{id,name,email AS mail}',
	filter => 'active', partition_by => '{email}', initial => 'none');
ALTER TABLE users RENAME COLUMN id TO user_id;
ALTER TABLE users RENAME COLUMN name TO "full name";
ALTER TABLE users RENAME COLUMN email TO address;
ALTER TABLE users RENAME COLUMN active TO live;
SELECT columns, identity, partition_by, filter, problem FROM outbox.publications;
ALTER TABLE users RENAME TO members;
CREATE SCHEMA club;
ALTER TABLE members SET SCHEMA club;
ALTER TABLE club.members ADD joined date;
INSERT INTO club.members VALUES (20, 'Eve', 'eve@example.org');
UPDATE club.members SET user_id = 21 WHERE user_id = 20;
ALTER SCHEMA club RENAME TO society;
UPDATE society.members SET user_id = -user_id WHERE user_id = 21;
:show
ALTER TABLE society.members DROP COLUMN "full name";
ALTER TABLE society.members DROP COLUMN live;
ALTER TABLE society.members DROP COLUMN address;
ALTER TABLE society.members DROP CONSTRAINT users_pkey;
DROP TRIGGER outbox_capture ON society.members;
ALTER TABLE society.members DROP COLUMN joined;
ALTER TABLE society.members ALTER live TYPE text;
-- one may replace the index in one step
CREATE UNIQUE INDEX members_key ON society.members (user_id);
ALTER TABLE society.members DROP CONSTRAINT users_pkey, ADD PRIMARY KEY USING INDEX members_key;
-- who turned capture off may go on
BEGIN;
SET LOCAL pg_outbox.capture = off;
DROP TRIGGER outbox_capture ON society.members;
SET LOCAL pg_outbox.capture = on;
SELECT name, problem FROM outbox.publications;
-- and publishing it again mends that
SELECT outbox.publish('society.members', topic => 'users', name => 'u', filter => 'live');
SELECT name, problem FROM outbox.publications;
ROLLBACK;
ALTER TABLE society.members DISABLE TRIGGER outbox_capture;
SELECT name, problem FROM outbox.publications;
DROP SCHEMA society CASCADE;
SELECT name FROM outbox.publications;

-- A new name is sent where all columns are published; a list keeps the names it had
CREATE TABLE orders (shop int, number int, note text, PRIMARY KEY (shop, number));
SELECT outbox.publish('orders', topic => 'users_all', name => 'all', initial => 'none');
SELECT outbox.publish('orders', topic => 'users_keys', name => 'keys', mode => 'key', initial => 'none');
SELECT outbox.publish('orders', topic => 'users_listed', name => 'listed', columns => '{shop,number,note}', initial => 'none');
INSERT INTO orders VALUES (1, 1, 'before');
ALTER TABLE orders RENAME number TO no;
ALTER TABLE orders RENAME note TO remark;
INSERT INTO orders VALUES (1, 2, 'after');
DELETE FROM orders WHERE no = 1;
:show
DROP TABLE orders;

-- Partitioned tables
CREATE TABLE orders (id int, region text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE orders_eu PARTITION OF orders FOR VALUES IN ('eu');
SELECT outbox.publish('orders', topic => 'orders', initial => 'none');
CREATE TABLE orders_us PARTITION OF orders FOR VALUES IN ('us');
CREATE TABLE orders_as (note text, dropped int, region text NOT NULL, id int NOT NULL);
ALTER TABLE orders_as DROP dropped;
ALTER TABLE orders ATTACH PARTITION orders_as FOR VALUES IN ('as');
INSERT INTO orders VALUES (1, 'eu', 'a'), (2, 'us', 'b'), (3, 'as', 'c');
INSERT INTO orders_as VALUES ('d', 'as', 4);
UPDATE orders SET region = 'us' WHERE id = 3;
:show
ALTER TABLE orders RENAME note TO remark;
UPDATE orders SET remark = 'x' WHERE id = 4;
:show
TRUNCATE orders;
TRUNCATE orders_eu;
TRUNCATE orders_us;
TRUNCATE orders_as;
ALTER TABLE orders DETACH PARTITION orders_us;
TRUNCATE orders_us;
INSERT INTO orders_us VALUES (9, 'us', 'after');
SELECT outbox.publish('orders_eu', topic => 'orders');
:show
SELECT outbox.unpublish('orders');
SELECT outbox.publish('orders_eu', topic => 'orders', initial => 'none');
SELECT outbox.publish('orders', topic => 'orders');
DROP TABLE orders;
DROP TABLE orders_us;
SELECT name FROM outbox.publications;

-- A column's new name also comes from a table above, or from the table's type
CREATE TABLE parts (id int, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 (dropped int, note text, id int NOT NULL);
ALTER TABLE parts_1 DROP dropped;
ALTER TABLE parts ATTACH PARTITION parts_1 DEFAULT;
CREATE TYPE shape AS (id int, note text);
CREATE TABLE shapes OF shape (PRIMARY KEY (id));
SELECT outbox.publish('parts_1', topic => 'orders', columns => '{id,note}', filter => $$note <> 'x'$$, initial => 'none');
SELECT outbox.publish('shapes', topic => 'orders', columns => '{id,note}', initial => 'none');
ALTER TABLE parts RENAME note TO remark;
ALTER TYPE shape RENAME ATTRIBUTE note TO remark CASCADE;
SELECT name, columns, filter, problem FROM outbox.publications;
INSERT INTO parts VALUES (1, 'a');
INSERT INTO shapes VALUES (1, 'a');
:show
-- DDL of a partition waits for no writer of another one
SELECT outbox.unpublish('parts_1');
SELECT outbox.publish('parts', topic => 'orders', initial => 'none');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
BEGIN;
ALTER TABLE parts_2 SET (fillfactor = 90);
SELECT relation::regclass, mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation::regclass::text LIKE 'parts%'
	AND mode NOT IN ('AccessShareLock', 'RowExclusiveLock') ORDER BY 1, 2;
ROLLBACK;
DROP TABLE parts, shapes;
DROP TYPE shape;

-- Triggers that have another name, functions that a filter calls
CREATE FUNCTION wanted(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
CREATE TABLE picky (id int PRIMARY KEY, n int);
SELECT outbox.publish('picky', topic => 'orders', filter => 'wanted(n)', initial => 'none');
ALTER TRIGGER outbox_capture ON picky RENAME TO capture_it;
DROP TRIGGER capture_it ON picky;
DROP TRIGGER outbox_truncate ON picky;
DROP FUNCTION wanted;
ALTER FUNCTION wanted RENAME TO unwanted;
CREATE SCHEMA elsewhere;
ALTER FUNCTION wanted SET SCHEMA elsewhere;
DROP SCHEMA elsewhere;
ALTER FUNCTION wanted COST 10;
INSERT INTO picky VALUES (1, 1), (2, -1);
:show
CREATE OR REPLACE FUNCTION wanted(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 < 0';
INSERT INTO picky VALUES (3, 1), (4, -1);
:show
SELECT outbox.unpublish('picky');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'picky'::regclass;
SELECT outbox.publish('picky', topic => 'orders', initial => 'none');
-- later the table becomes what could not be published
ALTER TABLE picky SET UNLOGGED;
SELECT name, problem FROM outbox.publications;
ALTER TABLE picky SET LOGGED;
CREATE TABLE picky_child () INHERITS (picky);
SELECT name, problem FROM outbox.publications;
DROP TABLE picky_child, picky;
DROP FUNCTION wanted;

-- Keys that are equal and look different are two keys
CREATE TABLE amounts (id numeric PRIMARY KEY);
SELECT outbox.publish('amounts', topic => 'orders', initial => 'none');
INSERT INTO amounts VALUES (1.0);
UPDATE amounts SET id = 1.00;
UPDATE amounts SET id = 1.00;
:show
DROP TABLE amounts;

-- Rows that come with a partition are copied, those that go with one are not deleted
CREATE TABLE logs (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE logs_0 PARTITION OF logs FOR VALUES FROM (0) TO (10);
SELECT outbox.publish('logs', topic => 'orders', initial => 'none');
CREATE TABLE logs_1 (id int PRIMARY KEY);
CREATE TABLE logs_2 (id int PRIMARY KEY);
INSERT INTO logs_2 VALUES (20);
ALTER TABLE logs ATTACH PARTITION logs_1 FOR VALUES FROM (10) TO (20);
SELECT publication, state FROM outbox.copies WHERE publication = 'logs';
BEGIN;
ALTER TABLE logs ATTACH PARTITION logs_2 FOR VALUES FROM (20) TO (30);
SELECT publication, state FROM outbox.copies WHERE publication = 'logs';
SELECT state FROM outbox.publications WHERE name = 'logs';
ALTER TABLE logs DETACH PARTITION logs_2;
ROLLBACK;
DROP TABLE logs, logs_1, logs_2;

-- Where the column of the message key is null, the identity is the key
CREATE TABLE grouped (id int PRIMARY KEY, g text);
SELECT outbox.publish('grouped', topic => 'orders', partition_by => '{g}', initial => 'none');
INSERT INTO grouped VALUES (1, 'a'), (2, NULL);
DELETE FROM grouped;
:show
DROP TABLE grouped;

-- More than could ever be sent
SELECT outbox.emit('orders', 'k', repeat('x', 128 * 1024 * 1024));

-- Who may do what
CREATE ROLE regress_outbox_alice;
CREATE ROLE regress_outbox_bob;
CREATE SCHEMA alice AUTHORIZATION regress_outbox_alice;
SET ROLE regress_outbox_alice;
CREATE TABLE alice.things (id int PRIMARY KEY);
GRANT ALL ON SCHEMA alice TO regress_outbox_bob;
GRANT ALL ON alice.things TO regress_outbox_bob;
SELECT outbox.publish('alice.things', topic => 'users');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER kafka TO regress_outbox_alice, regress_outbox_bob;
SET ROLE regress_outbox_bob;
SELECT outbox.publish('alice.things', topic => 'users');
SET ROLE regress_outbox_alice;
SELECT outbox.publish('alice.things', topic => 'secret');
SELECT outbox.publish('alice.things', topic => 'users', name => 'things');
SELECT name FROM outbox.publications;
SELECT FROM outbox._publication;
SET ROLE regress_outbox_bob;
SELECT name FROM outbox.publications;
SELECT outbox.unpublish('things');
-- a writer needs nothing but the table
INSERT INTO alice.things VALUES (1);
-- functions of a filter run as the writer, also when it is prepared
SET ROLE regress_outbox_alice;
CREATE TABLE alice.who (id int PRIMARY KEY);
GRANT ALL ON alice.who TO regress_outbox_bob;
CREATE FUNCTION alice.who(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE NOTICE 'running as %', current_user; RETURN true; END$$;
SELECT outbox.publish('alice.who', topic => 'users', name => 'who', filter => 'alice.who(1)', initial => 'none');
SET ROLE regress_outbox_bob;
INSERT INTO alice.who VALUES (1);
-- a partition may be another one's than its table
SET ROLE regress_outbox_alice;
CREATE TABLE alice.pt (id int PRIMARY KEY) PARTITION BY RANGE (id);
GRANT ALL ON alice.pt TO regress_outbox_bob;
SELECT outbox.publish('alice.pt', topic => 'users', name => 'pt', initial => 'none');
RESET ROLE;
CREATE TABLE alice.pt_1 PARTITION OF alice.pt DEFAULT;
CREATE ROLE regress_outbox_carl;
ALTER TABLE alice.pt_1 OWNER TO regress_outbox_carl;
SET ROLE regress_outbox_bob;
INSERT INTO alice.pt VALUES (1);
UPDATE alice.pt SET id = 2;
RESET ROLE;
DROP TABLE alice.pt;
DROP ROLE regress_outbox_carl;
SET ROLE regress_outbox_bob;
-- and the operators of a writer are not used with the owner's rights
UPDATE alice.who SET id = 2;
RESET ROLE;
:show
SELECT outbox.unpublish('things');
DROP OWNED BY regress_outbox_alice, regress_outbox_bob;
DROP ROLE regress_outbox_alice, regress_outbox_bob;
SELECT name FROM outbox.publications;

-- What JSON cannot carry: text of an array or composite value, and a header
CREATE TYPE odd_point AS (x int[], j jsonb);
CREATE TABLE odd (id int PRIMARY KEY, a int[], ja jsonb[], p odd_point, j json, jb jsonb) PARTITION BY LIST (id);
CREATE TABLE odd_1 (jb jsonb, j json, p odd_point, ja jsonb[], a int[], id int NOT NULL);
ALTER TABLE odd ATTACH PARTITION odd_1 FOR VALUES IN (1, 2, 3);
CREATE TABLE odd_2 PARTITION OF odd FOR VALUES IN (4);
SELECT outbox.publish('odd', topic => 'users_odd', columns => '{id,a,ja,p,j,"jb AS \"the \"\"jb\""}', headers => '{"tenant": "acme"}', filter => 'id > 1', initial => 'none');
INSERT INTO odd VALUES (1, NULL, NULL, NULL, NULL, 'null'), (2, '{1}', '{1}', ROW('{1}', '1'), '1', NULL);
:show
INSERT INTO odd VALUES (3, '[0:0]={1}', ARRAY[NULL, 'null']::jsonb[], ROW('{1}', 'null'), ' null', 'null');
UPDATE odd SET id = 4, ja = ARRAY['[1]']::jsonb[], p = ROW('[0:0]={1}', '1'), j = '1 ' WHERE id = 3;
UPDATE odd SET j = '1', jb = '"null"' WHERE id = 4;
DELETE FROM odd WHERE id = 4;
:show
DROP TABLE odd;
CREATE TABLE odd (a jsonb, b jsonb, PRIMARY KEY (a, b));
SELECT outbox.publish('odd', topic => 'users_odd', mode => 'key', initial => 'none');
INSERT INTO odd VALUES ('null', '1'), ('{"a": null}', 'null');
DELETE FROM odd;
:show
SELECT outbox.publish('odd', topic => 'users_odd', headers => '{"json_verbatim": "[]"}');
DROP TABLE odd;
DROP TYPE odd_point;

-- what a session remembers of tables goes with them
DO $$ BEGIN
	FOR i IN 1 .. 20 LOOP
		EXECUTE format('CREATE TABLE gone_%s (id int PRIMARY KEY)', i);
		PERFORM outbox.publish(format('gone_%s', i)::regclass, topic => 'users', initial => 'none');
		EXECUTE format('INSERT INTO gone_%s VALUES (1)', i);
		EXECUTE format('DROP TABLE gone_%s', i);
	END LOOP;
END $$;
SELECT count(*) < 10 AS few FROM pg_backend_memory_contexts WHERE name = 'pg_outbox captured relation';

-- Escapes are those of to_json(), wherever in a string they stand
BEGIN;
CREATE TABLE odd_text (id bigserial PRIMARY KEY, t text);
SELECT outbox.publish('odd_text', topic => 'orders', initial => 'none');
INSERT INTO odd_text (t)
SELECT repeat('a', before) || chr(code) || repeat('b', after)
FROM generate_series(1, 255) code, generate_series(0, 17) before, generate_series(0, 9, 3) after;
SELECT count(*), count(*) FILTER (WHERE e.value = format('{"id":%s,"t":%s}', t.id, to_json(t.t))) AS as_to_json
FROM odd_text t LEFT JOIN new_events e ON e.key = t.id::text AND e.topic = 'orders' AND e.id > :seen;
ROLLBACK;

-- The ids' sequence is locked once, for the whole transaction
BEGIN;
SAVEPOINT s;
SELECT outbox.emit('orders', 'k', 'v') IS NOT NULL AS emitted;
ROLLBACK TO s;
SELECT mode FROM pg_locks WHERE relation = 'outbox._stamp'::regclass AND pid = pg_backend_pid();
ROLLBACK;

DROP VIEW new_events, a_view;
DROP MATERIALIZED VIEW a_matview;
DROP FOREIGN TABLE a_foreign;
DROP TABLE an_unlogged, a_child, a_parent, other.users;
DROP SEQUENCE a_sequence;
DROP COLLATION nocase;
DROP SCHEMA other;
DROP FOREIGN DATA WRAPPER a_wrapper CASCADE;
DROP SERVER kafka;
