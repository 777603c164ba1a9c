# Published rows of every kind arrive as they were: types, changed columns,
# changed keys, partitions; and what cannot be sent is set aside (scenarios 6, 7).

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker();
my $node = outbox_node('services', conf => 'pg_outbox.stop_after_failures = 0');
outbox_install($node, $_, $broker) for qw(users orders);

sub new_topic
{
	my ($name) = @_;
	my $topic = unique_topic($name);

	topic_create($broker, $topic, 1);
	return $topic;
}

# Key, op and whether there is a value, of each record in order.
sub course
{
	return join ' ', map { "$_->{key}:$_->{headers}{op}" . (defined $_->{value} ? '' : ':null') } @_;
}

# ---- every type, odd values included ------------------------------------------

my $types = <<'END';
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS citext;
CREATE TYPE mood AS ENUM ('sad', 'so "so"', 'happy');
CREATE TYPE point3 AS (x int, "the y" text, z numeric[]);
CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
CREATE DOMAIN tags AS text[];
CREATE DOMAIN pair AS point3;
END
my $columns = <<'END';
	id bigint PRIMARY KEY, si smallint, r real, d double precision, n numeric, scaled numeric(12,3), b boolean, t text, c char(5), vc varchar(20),
	"char" "char", na name, u uuid, by bytea, da date, ts timestamp, tz timestamptz, ti time, tt timetz, iv interval, j json, jb jsonb,
	x xml, mo money, bi bit(5), vb bit varying, i inet, ci cidr, ma macaddr, m8 macaddr8, oi oid, ls pg_lsn,
	ia int[], ta text[][], ba bytea[], ja jsonb[], m mood, mm mood[], p point3, pp point3[], pos positive, tg tags, pr pair,
	ir int4range, nr numrange, tr tstzrange, mr nummultirange, dr datemultirange, rr int4range[],
	po point, li lseg, bx box, pa path, pg polygon, ce circle, tv tsvector, tq tsquery, jp jsonpath, hs hstore, cx citext
END
my $generated = 'total numeric GENERATED ALWAYS AS (n * 2) STORED';
my $topic = new_topic('types');

$node->safe_psql($_, $types) for qw(users orders);
$node->safe_psql('users', "CREATE TABLE odd ($columns, $generated); SELECT outbox.publish('odd', topic => '$topic')");
$node->safe_psql('orders', "CREATE TABLE odd ($columns, total numeric, version bigint NOT NULL); SELECT outbox.replicate('odd', topic => '$topic')");

$node->safe_psql('users', <<'END');
INSERT INTO odd (id) VALUES (1);
INSERT INTO odd (id, si, r, d, n, scaled, b, t, c, vc, "char", na, u, by, da, ts, tz, ti, tt, iv, j, jb, x, mo, bi, vb, i, ci, ma, m8, oi, ls,
	ia, ta, ba, ja, m, mm, p, pp, pos, tg, pr, ir, nr, tr, mr, dr, rr, po, li, bx, pa, pg, ce, tv, tq, jp, hs, cx)
VALUES (2, -32768, 'NaN', 'Infinity', 'NaN', 1.5, true, E'quote " \\ tab \t line \n bell \x07 \u20ac \U0001F600', 'ab', '', 'x', 'a name',
	'00000000-0000-0000-0000-000000000001', '\x00ff5c22', 'infinity', '-infinity', 'infinity', '24:00', '23:59:59.999999+14', '-1 year -2 mons +3 days -04:05:06.789',
	'{"b": 1,  "a": [1, 1.10, 1e400], "a": null}', '{"b": 1.10, "a": "\u00e9"}', '<a b="1">&lt;<![CDATA[x]]></a>', '-1234.56', B'10101', B'', '10.0.0.1/8', '10.0.0.0/8',
	'08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', 4294967295, 'FF/FFFFFFFF',
	'{1,NULL,3}', '{{a,"NULL"},{"",NULL}}', '{"\\x00","\\xff"}', ARRAY['{"a": [1]}', '"null"', NULL]::jsonb[], 'so "so"', '{sad,NULL,happy}',
	ROW(1, 'a,"b"\c(', '{1.0,NaN,NULL}'), ARRAY[ROW(NULL, NULL, NULL), ROW(1, '', '{}')]::point3[], 0.10, '{a,NULL}', ROW(2, NULL, NULL),
	'empty', '[1.0,)', '(-infinity,2024-01-01 00:00+00]', '{[1,2),(3.50,]}', '{[2024-01-01,infinity)}', ARRAY['[1,2)', NULL, 'empty']::int4range[],
	'(1,-0)', '[(0,0),(1,1e300)]', '(1,1),(0,0)', '((0,0),(1,1))', '((0,0),(1,1),(2,0))', '<(0,0),NaN>', 'a:1A ''b c'':2', 'a & !(b | c:*)', '$.a[*] ? (@ > 1)',
	'a=>1, "b c"=>NULL, "d\"e"=>"=>"', 'MiXed');
INSERT INTO odd (id, si, r, d, n, scaled, da, ts, tz, iv, ia, tg, ir, mr, hs, mo, by, t)
VALUES (3, 32767, '-Infinity', '4.9406564584124654e-324', '-Infinity', 'NaN', '-infinity', '294276-12-31 23:59:59.999999', '4713-01-01 00:00+00 BC', '178000000 years', '{}', '{}', '[,]', '{}', '',
	'92233720368547758.07', '', '');
INSERT INTO odd (id, r, d, n, da, iv, t) VALUES (4, '1.17549435e-38', '1.7976931348623157e308', ('-' || repeat('9', 1000) || '.' || repeat('1', 1000))::numeric, '5874897-12-31', '00:00:00.000001', repeat(E'\u00e4"\\', 100000));
INSERT INTO odd (id, n, d, r) VALUES (5, repeat('1', 131072)::numeric, '-0', '-0'), (6, 'Infinity', 0.1, 0.1);
INSERT INTO odd (id, n) VALUES (-9223372036854775808, 1e-1000), (9223372036854775807, 0.000);
-- whatever the session has set
SET datestyle = 'German'; SET intervalstyle = 'sql_standard'; SET bytea_output = 'escape'; SET extra_float_digits = -10; SET timezone = 'Asia/Kathmandu'; SET xmloption = 'document';
UPDATE odd SET id = 12, b = false WHERE id = 2;
UPDATE odd SET tt = '12:00+00', tz = '2024-07-01 12:00' WHERE id = 3;
END
my $all = join ', ', 'id', 'total', 'md5(t)', grep { $_ !~ /^(?:id|t)$/ }
  split /\n/, $node->safe_psql('users', "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = 'odd'::regclass AND attnum > 0 AND attname <> 'total' ORDER BY attnum");
is_soon($node, 'orders', 'SELECT count(*) FROM odd', '8', 'a row of each kind arrives');
is_soon($node, 'orders', 'SELECT count(*) FROM odd WHERE id = 12 AND NOT b OR tt IS NOT NULL', '2', 'so do their changes');
is($node->safe_psql('orders', 'SELECT message FROM outbox.dead_letters'), '', 'none is set aside');
same_rows([ $node, 'users', "SELECT $all FROM odd" ], [ $node, 'orders', "SELECT $all FROM odd" ], 'each value is what it was');

# What prints alike may still differ.
same_rows([ $node, 'users', 'SELECT id, numeric_send(n), float8send(d), float4send(r), timestamptz_send(tz), interval_send(iv), md5(t) FROM odd' ],
	[ $node, 'orders', 'SELECT id, numeric_send(n), float8send(d), float4send(r), timestamptz_send(tz), interval_send(iv), md5(t) FROM odd' ],
	'down to scale, sign of zero and bits');

# ---- what JSON has no word for ---------------------------------------------------

# Source and replica are in one database: its types have one oid, so that values
# can be compared by their bytes.
my $exact = new_topic('exact');
my $exact_columns = <<'END';
	ia int[], ta text[], tza timestamptz[], fa float8[], ja jsonb[], jta json[], jb jsonb, j json, dj dom_json, djb dom_jsonb, dja dom_json[], djba dom_jsonb[],
	n inner_t, na inner_t[], o outer_t, oa outer_t[], dn dom_inner, dna dom_inner[], tga tags[], hsa hstore[], cxa citext[], ma mood[], w worn,
	ar arrayrange, arm arraymultirange, ara arrayrange[], cr innerrange, iv int2vector, iva int2vector[], ov oidvector, xa xml[], moa money[]
END
my @exact_names = map { /(\w+)/ } split /,/, $exact_columns;
$node->safe_psql('users', <<"END");
CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE sql AS 'SELECT ''{"mood": true}''::json';
CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
CREATE DOMAIN dom_json AS json;
CREATE DOMAIN dom_jsonb AS jsonb CHECK (VALUE IS NULL OR VALUE <> '0');
CREATE TYPE inner_t AS (a int[], "j ""b" jsonb, j json, h hstore, d date, f float8);
CREATE DOMAIN dom_inner AS inner_t CHECK (VALUE IS NULL OR (VALUE).f IS DISTINCT FROM 0.5);
CREATE TYPE outer_t AS (i inner_t, ia inner_t[], t text, m mood, ja jsonb[]);
CREATE TYPE worn AS (gone int, kept int[]);
ALTER TYPE worn DROP ATTRIBUTE gone;
CREATE TYPE arrayrange AS RANGE (subtype = int[], multirange_type_name = arraymultirange);
CREATE TYPE bound AS (a int[], j int);
CREATE TYPE innerrange AS RANGE (subtype = bound);
CREATE TABLE exact (id int PRIMARY KEY, $exact_columns);
CREATE TABLE exact_replica (id int PRIMARY KEY, $exact_columns, version bigint NOT NULL);
INSERT INTO exact (id, jb, dj) VALUES (0, 'null', 'null');
SELECT outbox.publish('exact', topic => '$exact'), outbox.replicate('exact_replica', topic => '$exact');
END
$node->safe_psql('users', <<'END');
-- plain ones
INSERT INTO exact (id, ia, ta, tza, fa, ja, jta, n, na, o, hsa, cxa, ma, w) VALUES
	(1, '{1,NULL,3}', '{{a,"NULL"},{"",NULL}}', '{infinity,2024-07-01 12:00+05:45,NULL}', '{NaN,-Infinity,-0,0.1,1e300}',
	ARRAY['{"a": [1, null]}', '"null"', NULL, '1.10', 'true']::jsonb[], ARRAY['{"b": 1,  "a": null, "b": 2}', '"x"', NULL, '1e400']::json[],
	ROW('{}', '[null]', '[ null ]', 'a=>NULL', '-infinity', '-0'), ARRAY[ROW(NULL, NULL, NULL, NULL, NULL, NULL), NULL]::inner_t[],
	ROW(ROW('{{1},{2}}', '{}', '{}', '', NULL, 'NaN'), '{}', 'e"\,(', 'so "so"', '{}'), ARRAY['a=>1, "b c"=>NULL', NULL, '']::hstore[],
	'{MiXed,NULL}', '{sad,NULL,"so \"so\""}', ROW('{1}'::int[])),
	(2, '{}', '{}', '{}', '{}', '{}', '{}', NULL, '{}', NULL, '{}', '{}', '{}', ROW(NULL)),
	(3, '{{{1,2},{3,4}},{{5,6},{7,NULL}}}', '{{{a}}}', NULL, NULL, ARRAY[['1', '2'], ['{}', NULL]]::jsonb[], NULL, NULL,
	ARRAY[[ROW('{1}', '1', '1', NULL, NULL, 1)], [NULL]]::inner_t[], NULL, NULL, NULL, NULL, NULL);
-- bounds
INSERT INTO exact (id, ia, ta, tza, fa, ja, ma, w, n) VALUES
	(10, '[0:1]={1,2}', '[-3:-2]={a,NULL}', '[2:2]={2024-07-01 12:00+05:45}', '[7:8]={0.1,-0}', '[0:0]={null}', '[5:5]={"so \"so\""}', ROW('[0:0]={1}'::int[]),
	ROW('[9:9]={1}', NULL, NULL, NULL, NULL, NULL)),
	(11, '[1:2][0:1]={{1,2},{3,4}}', '[0:0][1:1]={{"a,\"b\\"}}', NULL, NULL, NULL, NULL, NULL, NULL),
	(12, '[1:1][1:1][2:3]={{{1,2}}}', '[-2147483648:-2147483648]={x}', NULL, NULL, NULL, NULL, NULL, NULL),
	(13, '[2147483646:2147483646]={1}', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
-- null as JSON, arrays in arrays, texts that a reader of JSON would change
INSERT INTO exact (id, ja, jta, dja, djba) VALUES
	(20, ARRAY['null', NULL]::jsonb[], ARRAY[NULL, 'null', ' null ']::json[], ARRAY['null', NULL]::dom_json[], ARRAY[NULL, 'null']::dom_jsonb[]),
	(21, ARRAY['[1]', '[2]']::jsonb[], ARRAY['[1]', '2']::json[], ARRAY['[]']::dom_json[], ARRAY['[]', '[]']::dom_jsonb[]),
	(22, ARRAY['{"\u0001\\": "\"\u00e9"}', '"\\"']::jsonb[], ARRAY['"\u0041\/"', '{"a": "\u0000"}']::json[], NULL, NULL),
	(23, ARRAY[['1', 'null']]::jsonb[], ARRAY[E' {"a": 1}\n', '1 ']::json[], ARRAY[' 1']::dom_json[], NULL),
	(24, NULL, ARRAY['"\u0041\/"']::json[], ARRAY['{"a": "\u0000"}']::dom_json[], NULL), (25, NULL, ARRAY['1 ']::json[], ARRAY['null']::dom_json[], NULL);
INSERT INTO exact (id, jb, j, dj, djb) VALUES (30, 'null', 'null', 'null', 'null'), (31, NULL, E'\t null\n', ' null', NULL), (32, 'null', NULL, NULL, 'null'),
	(33, '"null"', '"null"', E'\n{ "a" : null }\r\n', '[null]'), (34, '""', ' "\u0000 \ud800" ', ' 1', '{"null": null}');
-- composite values, domains and ranges with such inside
INSERT INTO exact (id, n, na, o, oa, dn, dna) VALUES
	(40, ROW('{1}', 'null', NULL, 'a=>1', NULL, 1), ARRAY[ROW(NULL, 'null', NULL, NULL, NULL, NULL), ROW('{1}', NULL, NULL, NULL, NULL, NULL)]::inner_t[],
	ROW(ROW('[0:0]={1}', 'null', 'null', '"q\"q"=>"\\"', '4713-01-01 BC', '-0'), ARRAY[ROW('[3:3]={1}', NULL, NULL, NULL, NULL, NULL), NULL]::inner_t[], '', 'so "so"',
		ARRAY['null', NULL]::jsonb[]),
	ARRAY[ROW(ROW(NULL, 'null', NULL, NULL, NULL, NULL), ARRAY[ROW(NULL, 'null', NULL, NULL, NULL, NULL)]::inner_t[], 't', NULL, ARRAY['[1]']::jsonb[]), NULL,
		ROW(NULL, NULL, NULL, NULL, NULL)]::outer_t[],
	ROW('[0:0]={1}', 'null', ' null', NULL, NULL, NULL), ARRAY[ROW(NULL, NULL, 'null', NULL, NULL, NULL), NULL]::dom_inner[]),
	(41, ROW(NULL, NULL, ' {"a": 1}', NULL, NULL, NULL), '[0:1]={"(,,,,,)",NULL}', ROW(NULL, '[0:0]={"(,null,,,,)"}', NULL, NULL, NULL), '[2:2][3:3]={{"(,,,,)"}}',
	ROW(NULL, NULL, '"\u0041"', NULL, NULL, NULL), '[0:0]={"(,,,,,)"}');
INSERT INTO exact (id, tga, hsa, ar, arm, ara, cr, iv, iva, ov, xa, moa) VALUES
	(50, ARRAY['{a}', '{b,NULL}', NULL]::tags[], '[0:0]={"\"a\"=>NULL"}', arrayrange('[0:0]={1}', '[0:0]={2}'), arraymultirange(arrayrange('{1}', '[0:1]={5,6}')), ARRAY['[{1},{2})', 'empty', NULL]::arrayrange[],
	innerrange(ROW('[0:0]={1}', NULL), NULL), '1 2', ARRAY['1 2', '', NULL]::int2vector[], '0 4294967295', ARRAY['<a/>', 'x', NULL]::xml[], '{-1234.56,NULL}'),
	(51, ARRAY['[0:0]={a}', '{}']::tags[], NULL, '(,)', '{}', '[0:0]={empty}', 'empty', '', '{}', '', '{}', '[0:0]={1.00}');
-- other settings, changed keys
SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'; SET extra_float_digits = -10; SET bytea_output = 'escape'; SET intervalstyle = 'iso_8601';
INSERT INTO exact (id, tza, fa, n) VALUES (60, '[0:0]={4713-01-01 00:00+00 BC}', '[0:0]={0.30000000000000004}', ROW(NULL, 'null', NULL, NULL, '01.02.2024', 0.30000000000000004));
UPDATE exact SET id = 70 WHERE id = 30;
UPDATE exact SET id = 71 WHERE id = 40;
UPDATE exact SET jb = NULL, ia = '[0:0]={1}' WHERE id = 32;
END
my $exact_state = 'SELECT count(*) = (SELECT count(*) FROM exact), max(ia::text) FILTER (WHERE id = 32), max(w::text) FILTER (WHERE id = 62) FROM exact_replica';
is_soon($node, 'users', $exact_state, 't|[0:0]={1}|', 'what JSON has no word for arrives');

# A type gets a field, in a session that has its fields in mind.
my $session = $node->background_psql('users');
$session->query_safe(q(INSERT INTO exact (id, w) VALUES (61, ROW('{1}'::int[]))));
is_soon($node, 'users', $exact_state, 't|[0:0]={1}|', 'to the last row');
$node->safe_psql('users', 'ALTER TYPE worn ADD ATTRIBUTE "a d d" timestamptz[]');
$session->query_safe(q(INSERT INTO exact (id, w) VALUES (62, ROW('[0:0]={1}', '[0:0]={2024-07-01 12:00+02}'))));
$session->quit;
is_soon($node, 'users', $exact_state, 't|[0:0]={1}|([0:0]={1},"[0:0]={""2024-07-01 10:00:00+00""}")', 'and fields that types get');
is($node->safe_psql('users', 'SELECT message FROM outbox.dead_letters'), '', 'none of it is set aside');
my $differing = join ', ', map { "CASE WHEN record_image_ne(ROW(s.$_), ROW(r.$_)) THEN '$_' END" } @exact_names;
is($node->safe_psql('users', "SELECT id, names FROM (SELECT id, concat_ws(' ', $differing) AS names FROM exact s FULL JOIN exact_replica r USING (id)) d WHERE names <> ''"),
	'', 'and each value has the bytes that it had');
my $exact_rows = 'SELECT id, ' . join ', ', @exact_names;
same_rows([ $node, 'users', "$exact_rows FROM exact" ], [ $node, 'users', "$exact_rows FROM exact_replica" ], 'and reads as it did');

# Header json_verbatim, which says so, keeps with an event: through columns that are
# renamed, rows that were there before, partitions, filters and dead letters.
my $verbatim = new_topic('verbatim');
$node->safe_psql('orders', "CREATE TABLE verbatim (id int PRIMARY KEY, n int CHECK (n > 0), b jsonb, k jsonb, version bigint NOT NULL); SELECT outbox.replicate('verbatim', topic => '$verbatim')");
$node->safe_psql('users', <<"END");
CREATE TABLE verbatim (id int PRIMARY KEY, n int, a jsonb, k jsonb, unpublished jsonb) PARTITION BY RANGE (id);
CREATE TABLE verbatim_1 PARTITION OF verbatim FOR VALUES FROM (0) TO (10);
CREATE TABLE verbatim_2 (k jsonb, a jsonb, n int, id int NOT NULL, unpublished jsonb);
ALTER TABLE verbatim ATTACH PARTITION verbatim_2 FOR VALUES FROM (10) TO (100);
INSERT INTO verbatim VALUES (1, 1, 'null', NULL, 'null'), (11, 1, NULL, 'null', 'null'), (2, 1, 'null', 'null', NULL), (3, -1, 'null', NULL, NULL);
SELECT outbox.publish('verbatim', topic => '$verbatim', columns => '{id,n,a AS b,k}', filter => 'id <> 5');
END
my $verbatim_rows = q(SELECT string_agg(concat_ws(':', id, coalesce(b::text, '-'), coalesce(k::text, '-')), ' ' ORDER BY id) FROM verbatim);
is_soon($node, 'orders', $verbatim_rows, '1:null:- 2:null:null 11:-:null', 'a copy has them');
my $letters = q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'verbatim' AND state = 'dead');
is_soon($node, 'orders', $letters, '1', 'so has what was set aside');
$node->safe_psql('users', <<'END');
UPDATE verbatim SET id = 12 WHERE id = 2;
INSERT INTO verbatim VALUES (5, 1, 'null', NULL), (4, -2, NULL, 'null');
UPDATE verbatim SET id = 6 WHERE id = 5;
ALTER TABLE verbatim RENAME a TO c;
UPDATE verbatim SET c = NULL, k = 'null' WHERE id = 1;
END
is_soon($node, 'orders', $letters, '2', 'also of a later change');
$node->safe_psql('orders', q(SELECT outbox.edit(id, '{"id":4,"n":4,"b":null,"k":null}') FROM outbox.dead_letters WHERE name = 'verbatim' AND state = 'dead' AND key = '4'));
$node->safe_psql('orders', q(ALTER TABLE verbatim DROP CONSTRAINT verbatim_n_check; SELECT outbox.redrive_all('verbatim')));
is_soon($node, 'orders', $verbatim_rows, '1:-:null 3:null:- 4:-:null 6:null:- 11:-:null 12:null:null', 'driven again, moved and renamed they are what they were');
is(join(' ', map { $_->{headers}{json_verbatim} // 'none' } grep { $_->{key} =~ /^(?:2|12|6)$/ } topic_wait($broker, $verbatim, 9)),
	'["b","k"] none ["b","k"] ["b"]', 'and a header names their columns, where there are any');

# ---- the key changes (scenario 6) ------------------------------------------------

my $keys = new_topic('keys');
$node->safe_psql('users', <<"END");
CREATE TABLE moved (id int PRIMARY KEY, v text);
SELECT outbox.publish('moved', topic => '$keys', initial => 'none');
INSERT INTO moved VALUES (1, 'a'), (3, 'c');
UPDATE moved SET id = 2 WHERE id = 1;
BEGIN;
UPDATE moved SET id = 4 WHERE id = 3;
UPDATE moved SET id = 3, v = 'd' WHERE id = 4;
COMMIT;
UPDATE moved SET id = -id;
END
is(course(topic_wait($broker, $keys, 12)),
	'1:c 3:c 1:d:null 2:c 3:d:null 4:c 4:d:null 3:c 2:d:null -2:c 3:d:null -3:c',
	'a changed key is a tombstone for the old and a row for the new, in that order');

# ---- columns and tables come and go (scenario 7) -------------------------------------

my $altered = new_topic('altered');
$node->safe_psql('users', <<"END");
CREATE TABLE altered (id int PRIMARY KEY, a text, b text);
SELECT outbox.publish('altered', topic => '$altered', initial => 'none');
SELECT outbox.pause('relay');
INSERT INTO altered VALUES (1, 'a', 'b');
ALTER TABLE altered ADD c int NOT NULL DEFAULT 7;
INSERT INTO altered VALUES (2, 'a', 'b');
ALTER TABLE altered RENAME b TO "b""b";
INSERT INTO altered VALUES (3, 'a', 'b');
ALTER TABLE altered DROP a;
INSERT INTO altered VALUES (4, 'b');
BEGIN;
INSERT INTO altered VALUES (5, 'b');
ALTER TABLE altered ALTER c TYPE text;
INSERT INTO altered VALUES (6, 'b', 'six');
SAVEPOINT s;
ALTER TABLE altered ADD d int;
INSERT INTO altered VALUES (0, 'b', 'six', 1);
ROLLBACK TO s;
INSERT INTO altered VALUES (7, 'b', 'seven');
COMMIT;
DROP TABLE altered;
SELECT outbox.resume('relay');
END
is(join("\n", map { $_->{value} } topic_wait($broker, $altered, 7)), <<'END' =~ s/\n\z//r, 'each event has the columns of its moment, and outlives its table');
{"id":1,"a":"a","b":"b"}
{"id":2,"a":"a","b":"b","c":7}
{"id":3,"a":"a","b\"b":"b","c":7}
{"id":4,"b\"b":"b","c":7}
{"id":5,"b\"b":"b","c":7}
{"id":6,"b\"b":"b","c":"six"}
{"id":7,"b\"b":"b","c":"seven"}
END

# Rows wander between partitions whose columns stand in another order.
my $parts = new_topic('parts');
$node->safe_psql('users', <<"END");
CREATE TABLE parts (id int PRIMARY KEY, v text, twice int GENERATED ALWAYS AS (id * 2) STORED) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
SELECT outbox.publish('parts', topic => '$parts');
CREATE TABLE parts_2 (gone int, v text, id int NOT NULL, twice int GENERATED ALWAYS AS (id * 2) STORED);
ALTER TABLE parts_2 DROP gone;
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20);
INSERT INTO parts (id, v) VALUES (1, 'one'), (11, 'eleven'), (2, 'two'), (12, 'twelve');
UPDATE parts SET id = id + 10 WHERE id = 2 AND false OR id = 1 AND v = 'none';
DELETE FROM parts WHERE id = 11;
UPDATE parts SET id = 11 WHERE id = 1;
UPDATE parts_2 SET v = 'TWELVE' WHERE id = 12;
END
$node->safe_psql('orders', <<"END");
CREATE TABLE parts (id int PRIMARY KEY, v text, twice int, version bigint NOT NULL);
SELECT outbox.replicate('parts', topic => '$parts');
END
is_soon($node, 'orders', q(SELECT string_agg(concat_ws(':', id, v, twice), ' ' ORDER BY id) FROM parts), '2:two:4 11:one:22 12:TWELVE:24', 'partitions are one table');

# ---- too long to be sent (scenario 7) ----------------------------------------------

sub private_kb
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;

	return $kb;
}

my $huge = new_topic('huge');
$node->safe_psql('users', "CREATE TABLE huge (id int PRIMARY KEY, t text); SELECT outbox.publish('huge', topic => '$huge', initial => 'none'); INSERT INTO huge VALUES (1, 'before')");
topic_wait($broker, $huge, 1);
my $relay = wait_for_worker($node, 'users', 'relay');
my $before = private_kb($relay);
$node->safe_psql('users', "INSERT INTO huge VALUES (2, repeat('x', 100 * 1024 * 1024)); INSERT INTO huge VALUES (3, 'after')");
is(join(' ', map { $_->{key} } topic_wait($broker, $huge, 2)), '1 3', '100 MB hold nobody up');
is_soon($node, 'users', "SELECT length(value), message ~ 'larger than message.max.bytes' FROM outbox.dead_letters WHERE topic = '$huge'",
	length('{"id":2,"t":""}') + 100 * 1024 * 1024 . '|t', 'and are set aside, whole, with the reason');
is(worker_pid($node, 'users', 'relay'), $relay, 'by a relay that survives');
SKIP:
{
	skip 'a memory checker has memory of its own', 1 if $ENV{OUTBOX_UNDER};
	ok(wait_until(sub { private_kb($relay) < $before + 32 * 1024 }, sub { "$before kB before, now " . private_kb($relay) }),
		'and gives the memory back');
}

$node->stop('fast');
done_testing();
