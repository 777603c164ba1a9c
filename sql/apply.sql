-- Applying events by hand: outbox.apply(), apply_batch(), first_time().
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA apply_test;
SET search_path = apply_test;
CREATE TABLE r (id bigint PRIMARY KEY, name text, version bigint NOT NULL);

-- the life of a row
SELECT outbox.apply('r', '1', '{"id": 1, "name": "one"}', '{"id": "10", "op": "c"}');
SELECT outbox.apply('r', '1', '{"id": 1, "name": "two"}', '{"id": "12", "op": "u"}');
SELECT outbox.apply('r', '1', '{"id": 1, "name": "two"}', '{"id": "12", "op": "u"}') AS again;
SELECT outbox.apply('r', '1', '{"id": 1, "name": "late"}', '{"id": "11", "op": "u"}') AS late;
SELECT outbox.apply('r', '1', NULL, '{"id": "11", "op": "d"}') AS late_delete;
SELECT * FROM r;
SELECT outbox.apply('r', '1', NULL, '{"id": "14", "op": "d"}');
SELECT outbox.apply('r', '1', NULL, '{"id": "14", "op": "d"}') AS again;
SELECT outbox.apply('r', '1', '{"id": 1, "name": "late"}', '{"id": "13", "op": "u"}') AS late;
SELECT * FROM r;
SELECT outbox.apply('r', '1', '{"id": 1, "name": "back"}', '{"id": "15", "op": "c"}');
SELECT * FROM r;
SELECT key, version FROM outbox._tombstone WHERE target = 'r'::regclass;

-- never seen: update before create, delete before create
SELECT outbox.apply('r', '2', '{"id": 2, "name": "u"}', '{"id": "21", "op": "u"}');
SELECT outbox.apply('r', '2', '{"id": 2, "name": "c"}', '{"id": "20", "op": "c"}');
SELECT outbox.apply('r', '3', NULL, '{"id": "31", "op": "d"}');
SELECT outbox.apply('r', '3', '{"id": 3, "name": "c"}', '{"id": "30", "op": "c"}');
SELECT key, version FROM outbox._tombstone WHERE target = 'r'::regclass;

-- what says the operation and the version
SELECT outbox.apply('r', '4', '{"id": 4, "name": "no op"}', '{"id": "40"}');
SELECT outbox.apply('r', '4', NULL, '{"id": "41"}') AS no_op;
SELECT outbox.apply('r', '4', '{"id": 4, "name": "copy"}', '{"id": "99", "version": "39", "op": "r"}') AS version_wins;
SELECT outbox.apply('r', '5', '{"id": 5, "name": "payload", "version": 50}');
SELECT outbox.apply('r', '5', '{"id": 5, "name": "payload", "version": "9007199254740993"}');
SELECT outbox.apply('r', '5', '{"id": 5, "name": "header", "version": 99}', '{"id": "9007199254740994"}');
SELECT * FROM r WHERE id = 5;
SELECT outbox.apply('r', 'whatever', '{"id": 6}', '{"id": "60", "op": "d"}') AS identity_in_value;
SELECT outbox.apply('r', '{"id": 6}', NULL, '{"id": "59", "op": "d"}') AS key_object;
SELECT outbox.apply('r', '7', '{"name": "key from key"}', '{"id": "70"}');
SELECT outbox.apply('r', '5', '{"id": 5, "name": "x"}', '{"id": "b2a7"}');
SELECT outbox.apply('r', '5', '{"id": 5, "name": "x", "version": null}');
SELECT outbox.apply('r', '5', '{"id": 5, "name": "x"}', '{"version": "1.5"}');
SELECT outbox.apply('r', '5', '{"id": 5, "name": "x"}', '{"version": "9223372036854775808"}');
SELECT outbox.apply('r', '5', '{"id": 5, "name": "x"}', '{"id": "1", "op": "x"}');
SELECT outbox.apply('r', '5', NULL, '{"id": "1", "op": "u"}');
SELECT outbox.apply('r', NULL, NULL, '{"id": "1", "op": "d"}');
SELECT outbox.apply(NULL, '1', NULL, '{"id": "1", "op": "d"}');

-- headers as clients have them
SELECT outbox.apply('r', '8', NULL, '[["id", "80"], ["op", "d"]]');
SELECT outbox.apply('r', '8', NULL, '[{"id": "80"}, {"op": "d"}]');
SELECT outbox.apply('r', '8', NULL, '[{"key": "id", "value": "80"}, {"name": "op", "value": "d"}]');
SELECT outbox.apply('r', '8', NULL, '{"id": {"type": "Buffer", "data": [56, 48]}, "op": {"type": "Buffer", "data": [100]}}');
SELECT outbox.apply('r', '8', NULL, '{"id": 80, "op": "d", "other": null, "flag": true}');
SELECT outbox.apply('r', '8', NULL, '"id"');
SELECT outbox.apply('r', '8', NULL, '[1]');
SELECT outbox.apply('r', '8', NULL, '[["id"]]');
SELECT outbox.apply('r', '8', NULL, '{"id": {"data": "MQ=="}}');

-- payloads that are none
SELECT outbox.apply('r', '9', 'no json', '{"id": "1"}');
SELECT outbox.apply('r', '9', '', '{"id": "1"}');
SELECT outbox.apply('r', '9', '[1]', '{"id": "1"}');
SELECT outbox.apply('r', '9', 'null', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "x"', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "x"} x', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "x",}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 09, "name": "x"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "\x"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "\u00"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "\ud800"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', E'{"id": 9, "name": "\t"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "\u0000"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "x", "skipped": [1, {"a": [}]}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "x", "skipped": ' || repeat('[', 100000) || repeat(']', 100000) || '}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "id": 8, "name": "x"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": null, "name": "x"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 92233720368547758080, "name": "x"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": "nine", "name": "x"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": "x", "skipped": "\u0000", "deep": [[{"a": {}}, []], 1e5, -0.1E-2, "\\\"\/\b\f\n\r\t\u00e9"]}', '{"id": "1"}') AS extra_is_fine;
SELECT * FROM r WHERE id = 9;
\set VERBOSITY default
SELECT outbox.apply('r', '9', '{"id": 9, "name": "x" "y"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": true, "name": "x"}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9}', '{"id": "1"}');
SELECT outbox.apply('r', '9', '{"id": 9, "name": null}', '{"id": "b2a7"}');
\set VERBOSITY terse

-- batches
SELECT * FROM outbox.apply_batch('r',
	ARRAY['100', '101', '100', '100', '101', '102', '100'],
	ARRAY['{"id": 100, "name": "a"}', '{"id": 101, "name": "b"}', '{"id": 100, "name": "c"}', '{"id": 100, "name": "late"}',
		NULL, '{"id": 102, "name": "e"}', '{"id": 100, "name": "c"}'],
	ARRAY['{"id": 1}', '{"id": 2}', '{"id": 4}', '{"id": 3}', '{"id": 5}', '{"id": 6}', '{"id": 4}']::jsonb[]);
SELECT * FROM r WHERE id >= 100 ORDER BY id;
SELECT * FROM outbox.apply_batch('r', '{}', '{}');
SELECT * FROM outbox.apply_batch('r', NULL, ARRAY['{"id": 103, "name": "keyless", "version": 1}']);
SELECT * FROM outbox.apply_batch('r', ARRAY['1', '2'], ARRAY['{}']);
SELECT * FROM outbox.apply_batch('r', ARRAY[['1', '2']], ARRAY[['{}', '{}']]);
\set VERBOSITY default
SELECT * FROM outbox.apply_batch('r', ARRAY['104', '105'],
	ARRAY['{"id": 104, "name": "a", "version": 1}', '{"id": "x", "name": "b", "version": 1}']);
\set VERBOSITY terse
SELECT * FROM r WHERE id > 103;

-- types: what a source writes is what arrives
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN required AS text NOT NULL;
CREATE DOMAIN tags AS text[] CHECK (cardinality(value) < 4);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE point3 AS (x int, y numeric, label text);
CREATE TABLE source (
	id uuid PRIMARY KEY, s2 smallint, s4 int, f4 real, f8 float8, n numeric, n2 numeric(10,2), b boolean, t text, vc varchar(5), bc char(4),
	by bytea, d date, ts timestamp, tz timestamptz, ti time, iv interval, j json, jb jsonb, ia int[], ta text[][], m mood, ma mood[],
	c point3, ca point3[], r int4range, mr nummultirange, inet inet, p positive, q required, tg tags, x xml, bits bit(3), mo money);
CREATE TABLE types (LIKE source INCLUDING ALL, version bigint NOT NULL);
SET TimeZone = 'UTC';
SET IntervalStyle = 'iso_8601';
INSERT INTO source VALUES
	('00000000-0000-0000-0000-000000000001', -32768, 2147483647, 0.1, 0.1::float8 + 0.2::float8, 12345678901234567890.123456789012345678900, 1.50, true,
	 E'a"\\b\n\u20ac \U0001F600', 'five5', 'ab', '\x00ff10', '2024-02-29', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56.789012+05:30',
	 '23:59:59.999999', '1 year 2 mons 3 days 04:05:06.789', '{"a": [1, 2.50, null]}', '{"k": "\u00e9", "n": 1.10}', '{1,NULL,3}', '{{a,"b,c"},{NULL,"\"q\""}}',
	 'happy', '{sad,ok}', '(1,2.30,"a, b")', '{"(1,2.30,x)",NULL,"(,,)"}', '[1,5)', '{[1,2),[3,4)}', '10.0.0.1/8', 5, 'r', '{a,b}', '<a b="c"/>', B'101', 12.34),
	('00000000-0000-0000-0000-000000000002', 0, 0, 'NaN', 'Infinity', 'NaN', NULL, false, '', '', '', '', 'infinity', '-infinity', 'infinity',
	 '24:00', '-1 days +02:03:04', '"s"', '"s"', '{}', NULL, NULL, '{}', NULL, NULL, 'empty', NULL, NULL, NULL, '', NULL, NULL, NULL, NULL),
	('00000000-0000-0000-0000-000000000003', 1, -1, '-Infinity', '1e308', repeat('9', 1000)::numeric + 0.5, -99999999.99, NULL, repeat('x', 10000), NULL, NULL,
	 NULL, '4713-01-01 BC', NULL, '0044-03-15 12:00:00+00 BC', NULL, NULL, NULL, 'false', '[-1:1]={1,2,3}', NULL, NULL, NULL, '(,,)', NULL, '(,)', '{}', '::1', NULL, 'x', '{}', NULL, NULL, NULL);
-- encoded with the settings that publications pin, read with others
CREATE TEMP TABLE encoded AS SELECT array_agg(id::text ORDER BY id) AS keys, array_agg(row_to_json(source)::text ORDER BY id) AS payloads FROM source;
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'sql_standard';
SET TimeZone = 'Asia/Kolkata';
SELECT * FROM outbox.apply_batch('types',
	(SELECT keys FROM encoded), (SELECT payloads FROM encoded), ARRAY['{"id": 1}', '{"id": 2}', '{"id": 3}']::jsonb[]);
SHOW DateStyle;
RESET DateStyle;
RESET IntervalStyle;
RESET TimeZone;
-- nothing differs
SELECT s.id, k.key, k.value AS sent, t.row -> k.key AS arrived
FROM (SELECT id, to_jsonb(source) AS row FROM source) s
	JOIN (SELECT id, to_jsonb(types) AS row FROM types) t USING (id)
	CROSS JOIN LATERAL jsonb_each(s.row) k
WHERE k.value IS DISTINCT FROM t.row -> k.key;
SELECT count(*) FROM types, source WHERE types.id = source.id AND row(types.n, types.f4, types.f8, types.by, types.ts, types.tz, types.iv, types.ma, types.c, types.mr)::text
	= row(source.n, source.f4, source.f8, source.by, source.ts, source.tz, source.iv, source.ma, source.c, source.mr)::text;

-- values that do not fit
CREATE TABLE narrow (id int PRIMARY KEY, p positive, q required, v varchar(3), m mood, n numeric(4,2), a int[], c point3, version bigint NOT NULL);
CREATE FUNCTION try(members text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE context text; message text;
BEGIN
	RETURN outbox.apply('narrow', '1', '{"id": 1, ' || members || '}', '{"id": "1"}');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT, message = MESSAGE_TEXT;
	RETURN sqlstate || ' ' || message || ' | ' || split_part(context, E'\n', 1);
END $$;
SELECT try('"p": 0, "q": "", "v": "abc", "m": "ok", "n": 1, "a": null, "c": null');
SELECT try('"p": 1, "q": null, "v": "abc", "m": "ok", "n": 1, "a": null, "c": null');
SELECT try('"p": 1, "q": "", "v": "abcd", "m": "ok", "n": 1, "a": null, "c": null');
SELECT try('"p": 1, "q": "", "v": "abc", "m": "meh", "n": 1, "a": null, "c": null');
SELECT try('"p": 1, "q": "", "v": "abc", "m": "ok", "n": 100, "a": null, "c": null');
SELECT try('"p": 1, "q": "", "v": "abc", "m": "ok", "n": 1, "a": [1, "x"], "c": null');
SELECT try('"p": 1, "q": "", "v": "abc", "m": "ok", "n": 1, "a": {}, "c": null');
SELECT try('"p": 1, "q": "", "v": "abc", "m": "ok", "n": 1, "a": null, "c": {"x": 1, "y": "x", "label": null}');
SELECT try('"p": 1, "q": "", "v": "abc", "m": "ok", "n": 1, "a": null, "c": {"x": 1, "z": 2, "label": null}');
SELECT try('"p": 1.5, "q": "", "v": "abc", "m": "ok", "n": 1, "a": null, "c": null');
SELECT try('"p": 1, "q": "", "v": "abc", "m": "ok", "n": "1", "a": "{1,2}", "c": "(1,2,x)"');
SELECT * FROM narrow;

-- what JSON cannot carry: text of an array or composite value, at any depth
CREATE TYPE outer3 AS (p point3, pp point3[], j jsonb[]);
CREATE TABLE texts (id int PRIMARY KEY, a int[], o outer3, version bigint NOT NULL);
SELECT outbox.apply('texts', NULL, '{"id": 1, "a": "[0:1]={1,2}", "o": {"p": "(1,,\"a,b\")", "pp": ["(2,,)", {"x": 3, "y": null, "label": "l", "other": {}}, null], "j": "[2:3]={null,NULL}"}}', '{"id": 1}');
SELECT outbox.apply('texts', NULL, '{"id": 2, "a": [], "o": "(,\"[0:0]={\"\"(4,,)\"\"}\",)"}', '{"id": 1}');
SELECT outbox.apply('texts', NULL, '{"id": 3, "a": "[1]", "o": null}', '{"id": 1}');
SELECT outbox.apply('texts', NULL, '{"id": 3, "a": null, "o": {"p": "{\"x\": 1}", "pp": null, "j": null}}', '{"id": 1}');
SELECT * FROM texts;

-- a field that is missing, at any depth
SELECT outbox.apply('texts', NULL, '{"id": 3, "a": null, "o": {"p": {"x": 1, "y": 2}, "pp": null, "j": null}}', '{"id": 1}');
SELECT outbox.apply('texts', NULL, '{"id": 3, "a": null, "o": {"p": null, "pp": [[{"x": 1, "y": 2, "label": ""}], [{"x": 1, "y": 2}]], "j": null}}', '{"id": 1}');
SELECT outbox.apply('texts', NULL, '{"id": 3, "a": null, "o": {"p": null, "pp": [], "j": {}}}', '{"id": 1}');
SELECT outbox.apply('texts', NULL, '{"id": 3, "a": null, "o": {}}', '{"id": 1}');
CREATE TYPE fields AS (x int, y numeric, label text);
CREATE DOMAIN inside AS fields;
CREATE TABLE domains (id int PRIMARY KEY, d inside[], version bigint NOT NULL);
SELECT outbox.apply('domains', NULL, '{"id": 1, "d": [null, {"x": 1, "\u0079": 2, "label": ""}]}', '{"id": 1}');
SELECT outbox.apply('domains', NULL, '{"id": 1, "d": [null, {"x": 1, "label": ""}]}', '{"id": 2}');
ALTER TYPE fields DROP ATTRIBUTE y;
SELECT outbox.apply('domains', NULL, '{"id": 1, "d": [null, {"x": 1, "label": ""}]}', '{"id": 2}') AS dropped;
ALTER TYPE fields ADD ATTRIBUTE y numeric;
SELECT outbox.apply('domains', NULL, '{"id": 1, "d": [null, {"x": 1, "label": ""}]}', '{"id": 3}') AS added;

-- null as a JSON value, and white space around one
CREATE DOMAIN jdomain AS json;
CREATE TABLE verbatim (id int PRIMARY KEY, j json, jb jsonb, dj jdomain, t text, version bigint NOT NULL);
SELECT outbox.apply('verbatim', '1', '{"id": 1, "j": null, "jb": null, "dj": null, "t": null}', '{"id": 1}') AS without;
SELECT outbox.apply('verbatim', '2', '{"id": 2, "j": null, "jb": null, "dj": null, "t": null}', '{"id": 1, "json_verbatim": "[\"jb\"]"}') AS one;
SELECT outbox.apply('verbatim', '3', '{"id": 3, "j": null, "jb" : null , "dj":null , "t": null}', '[["id", "1"], ["json_verbatim", "[\"jb\", \"j\", \"\\u0064j\", \"t\", \"id\", \"nothing\"]"]]') AS all;
SELECT outbox.apply('verbatim', '4', E'{"id": 4, "j":\t{ "a" : 1 }\n, "jb":"null", "dj": "x" , "t": null}',
	'{"id": 1, "json_verbatim": {"type": "Buffer", "data": [91, 34, 106, 34, 44, 34, 106, 98, 34, 44, 34, 100, 106, 34, 93]}}') AS buffer;
SELECT * FROM outbox.apply_batch('verbatim', '{5,6}', ARRAY['{"id": 5, "j": null, "jb": null, "dj": "", "t": ""}', '{"id": 6, "j": null, "jb": null, "dj": "", "t": ""}'],
	ARRAY['{"id": 1, "json_verbatim": "[\"j\"]"}', '{"id": 1, "json_verbatim": "[]"}']::jsonb[]);
SELECT id, '<' || j || '>' AS j, jb, '<' || dj || '>' AS dj, t FROM verbatim;
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": null}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": ["jb"]}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": true}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": 1}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": ""}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": "jb"}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": "{\"jb\": 1}"}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": "[\"jb\",]"}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": "[\"jb\""}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": "[\"jb\"] x"}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": "[null]"}');
SELECT outbox.apply('verbatim', '7', '{"id": 7}', '{"id": 1, "json_verbatim": "[\"\\u0000\"]"}');
SELECT outbox.apply('verbatim', '7', NULL, '{"id": 1, "op": "d", "json_verbatim": "[1]"}');
SELECT outbox.apply('verbatim', '7', '{"id": 7, "j": null', '{"id": 1, "json_verbatim": "[\"j\"]"}');

-- keys: several columns, numbers that are equal, long ones
CREATE TABLE k2 (a int, b text, v text, version bigint NOT NULL, PRIMARY KEY (b, a));
SELECT outbox.apply('k2', '{"a": 1, "b": "x,\\y"}', '{"a": 1, "b": "x,\\y", "v": "1"}', '{"id": "1"}');
SELECT outbox.apply('k2', '{"b": "x,\\y", "a": 1}', NULL, '{"id": "3"}');
SELECT outbox.apply('k2', NULL, '{"a": 1, "b": "x,\\y", "v": "late"}', '{"id": "2"}');
SELECT outbox.apply('k2', '1', NULL, '{"id": "3"}');
SELECT outbox.apply('k2', '{"a": 1}', NULL, '{"id": "3"}');
CREATE TABLE kn (id numeric PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.apply('kn', '1.50', NULL, '{"id": "2"}');
SELECT outbox.apply('kn', NULL, '{"id": 1.5}', '{"id": "1"}');
SELECT outbox.apply('kn', NULL, '{"id": 100}', '{"id": "1"}');
SELECT * FROM kn;
CREATE TABLE kt (id text PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.apply('kt', repeat('k', 2000), NULL, '{"id": "2"}');
SELECT outbox.apply('kt', repeat('k', 2000), '{}', '{"id": "1"}');
SELECT outbox.apply('kt', '{"id": "x"}', '{}', '{"id": "1"}') AS a_text_is_a_text;
SELECT * FROM kt;

-- columns with a life of their own
CREATE TABLE own (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, seq int GENERATED ALWAYS AS IDENTITY,
	gone text, version bigint NOT NULL);
ALTER TABLE own DROP COLUMN gone;
SELECT outbox.apply('own', '1', '{"id": 1, "n": 21}', '{"id": "1"}');
SELECT outbox.apply('own', '1', '{"id": 1, "n": 22}', '{"id": "2"}');
SELECT * FROM own;
CREATE TABLE ident (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, version bigint);
SELECT outbox.apply('ident', '5', '{"id": 5}', '{"id": "1"}');
INSERT INTO ident (version) VALUES (NULL);
SELECT outbox.apply('ident', '1', '{"id": 1}', '{"id": "1"}') AS null_is_older;
SELECT * FROM ident;

-- the table changes between events
ALTER TABLE r ADD COLUMN extra int;
SELECT outbox.apply('r', '1', '{"id": 1, "name": "x"}', '{"id": "1000"}');
SELECT outbox.apply('r', '1', '{"id": 1, "name": "x", "extra": 5}', '{"id": "1000"}');
ALTER TABLE r ALTER COLUMN extra TYPE text USING 'was ' || extra;
SELECT outbox.apply('r', '1', '{"id": 1, "name": "x", "extra": 6}', '{"id": "1001"}');
ALTER TABLE r RENAME COLUMN extra TO other;
SELECT outbox.apply('r', '1', '{"id": 1, "name": "x", "other": "y"}', '{"id": "1002"}');
SELECT * FROM r WHERE id = 1;

-- partitioned
CREATE TABLE part (id int, region text, v text, version bigint NOT NULL, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
CREATE TABLE part_us (version bigint NOT NULL, v text, region text NOT NULL, id int NOT NULL);
ALTER TABLE part ATTACH PARTITION part_us FOR VALUES IN ('us');
SELECT * FROM outbox.apply_batch('part', NULL,
	ARRAY['{"id": 1, "region": "us", "v": "a", "version": 1}', '{"id": 1, "region": "eu", "v": "b", "version": 2}', '{"id": 1, "region": "us", "v": "c", "version": 3}']);
SELECT outbox.apply('part', '{"id": 1, "region": "eu"}', NULL, '{"id": "5"}');
SELECT tableoid::regclass, * FROM part;
SELECT outbox.apply('part', NULL, '{"id": 1, "region": "mars", "v": "a", "version": 1}');

-- triggers and policies of the target
CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		RETURN CASE WHEN old.name = 'keep' THEN NULL ELSE old END;
	END IF;
	IF new.name = 'refused' THEN
		RETURN NULL;
	ELSIF new.name = 'bumped' THEN
		new.version := new.version + 1;
	END IF;
	RETURN new;
END $$;
CREATE TABLE trig (id int PRIMARY KEY, name text, version bigint NOT NULL);
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON trig FOR EACH ROW EXECUTE FUNCTION guard();
SELECT outbox.apply('trig', '1', '{"id": 1, "name": "refused"}', '{"id": "1"}');
SELECT outbox.apply('trig', '1', '{"id": 1, "name": "keep"}', '{"id": "2"}');
SELECT outbox.apply('trig', '1', '{"id": 1, "name": "refused"}', '{"id": "3"}');
SELECT outbox.apply('trig', '1', NULL, '{"id": "4"}');
SELECT outbox.apply('trig', '1', '{"id": 1, "name": "bumped"}', '{"id": "5"}');
SELECT * FROM outbox.apply_batch('trig', NULL,
	ARRAY['{"id": 5, "name": "refused", "version": 1}', '{"id": 4, "name": "ok", "version": 1}', '{"id": 3, "name": "refused", "version": 1}', '{"id": 2, "name": "ok", "version": 1}']);
SELECT * FROM trig ORDER BY id;

-- what cannot be a target
CREATE TABLE nokey (id int, version bigint);
CREATE TABLE noversion (id int PRIMARY KEY);
CREATE TABLE badversion (id int PRIMARY KEY, version int);
CREATE TABLE keyversion (version bigint PRIMARY KEY);
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, version bigint);
CREATE TEMP TABLE temporary (id int PRIMARY KEY, version bigint);
CREATE VIEW v AS SELECT * FROM r;
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE nondeterministic (id text COLLATE ci PRIMARY KEY, version bigint);
SELECT outbox.apply('nokey', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('noversion', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('badversion', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('keyversion', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('deferred', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('temporary', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('v', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('nondeterministic', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('pg_class', '1', NULL, '{"id": "1"}');
SELECT outbox.apply('outbox._tombstone', '1', NULL, '{"id": "1"}');

-- rights: the caller's on the target, nobody's on our tables
CREATE ROLE outbox_apply_test;
GRANT USAGE ON SCHEMA apply_test TO outbox_apply_test;
SET ROLE outbox_apply_test;
SELECT outbox.apply('kt', 'a', '{}', '{"id": "1"}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION outbox.apply(regclass, text, text, jsonb) TO outbox_apply_test;
GRANT SELECT, INSERT, UPDATE ON kt TO outbox_apply_test;
SET ROLE outbox_apply_test;
SELECT outbox.apply('kt', 'a', '{}', '{"id": "1"}');
RESET ROLE;
GRANT DELETE ON kt TO outbox_apply_test;
SET ROLE outbox_apply_test;
SELECT outbox.apply('kt', 'a', '{}', '{"id": "1"}');
SELECT outbox.apply('kt', 'a', NULL, '{"id": "3"}');
SELECT outbox.apply('kt', 'a', '{}', '{"id": "2"}');
SELECT * FROM outbox._tombstone;
SELECT outbox.first_time('c', 's', '1');
RESET ROLE;
ALTER TABLE kt ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON kt TO outbox_apply_test USING (id LIKE 'mine%');
SET ROLE outbox_apply_test;
SELECT outbox.apply('kt', 'mine 1', '{}', '{"id": "1"}');
SELECT outbox.apply('kt', 'yours 1', '{}', '{"id": "1"}');
RESET ROLE;

-- rollback takes back all of it
BEGIN;
SELECT outbox.apply('r', '200', NULL, '{"id": "5"}');
SAVEPOINT s;
SELECT outbox.apply('r', '201', NULL, '{"id": "5"}');
ROLLBACK TO s;
SELECT outbox.apply('r', '201', '{"id": 201, "name": "a", "other": null}', '{"id": "4"}');
ROLLBACK;
SELECT outbox.apply('r', '200', '{"id": 200, "name": "a", "other": null}', '{"id": "4"}');

-- the replica's schema is renamed, and another one takes its name
CREATE SCHEMA wander;
CREATE TABLE wander.r (id int PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.apply('wander.r', '1', '{"id": 1, "version": 1}');
ALTER SCHEMA wander RENAME TO wandered;
CREATE SCHEMA wander;
CREATE TABLE wander.r (LIKE wandered.r INCLUDING ALL);
SELECT outbox.apply('wandered.r', '2', '{"id": 2, "version": 1}');
SELECT array_agg(id ORDER BY id) AS ids, (SELECT count(*) FROM wander.r) AS not_ours FROM wandered.r;
DROP SCHEMA wander, wandered CASCADE;

-- the inbox
SELECT outbox.first_time('billing', 'orders', '1'), outbox.first_time('billing', 'orders', '1'),
	outbox.first_time('shipping', 'orders', '1'), outbox.first_time('billing', 'users', '1');
BEGIN;
SELECT outbox.first_time('billing', 'orders', '2');
ROLLBACK;
SELECT outbox.first_time('billing', 'orders', '2');
SELECT outbox.first_time('billing', 'orders', NULL);
SELECT outbox.first_time('billing', 'orders', repeat('x', 513));

DELETE FROM outbox._inbox;
DELETE FROM outbox._tombstone;
DROP OWNED BY outbox_apply_test;
DROP ROLE outbox_apply_test;
DROP SCHEMA apply_test CASCADE;
