# Copies of every kind of table: each row once, whatever its key is made of.
# Then tables that are altered and dropped, and servers that die, between two
# chunks.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
# costs by which the planner would rather sort a table than read it by an index
my $node = outbox_node('main', conf => 'random_page_cost = 10000');
outbox_install($node, 'db', $broker);
$node->safe_psql('db', 'CREATE EXTENSION citext SCHEMA public');

sub sql { return $node->safe_psql('db', @_) }

# Events of a copy of publication NAME, as the given columns.
sub read_events
{
	my ($name, $columns) = @_;
	return "SELECT $columns FROM outbox.events WHERE op = 'r' AND topic = '$name'";
}

sub copy_is_done
{
	my ($name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_soon($node, 'db', "SELECT state, error FROM outbox.copies WHERE publication = '$name'",
		'done|', $what // "$name: copied");
}

# ---------------------------------------------------------------------------
# Kinds of key.  2500 rows are three chunks.
# ---------------------------------------------------------------------------

my %keys = (
	# columns, primary key, a row for each g
	integers  => [ 'a int, b int', 'a, b', 'g / 1200, g' ],
	backwards => [ 'a int, b int', 'b, a', 'g, g / 1200' ],
	quoted    => [ '"r" int, "A b" text, "select" int', '"r", "A b"', q(g % 7, 'x' || g, g) ],
	bytes     => [ 'k bytea', 'k', q(decode(md5(g::text), 'hex')) ],
	times     => [ 'k timestamptz', 'k', q(timestamptz '0044-03-15 BC' + g * interval '300 days 1 microsecond') ],
	numbers   => [ 'k numeric', 'k', q((g || '.' || repeat('0', g % 30) || '1')::numeric * (1 - g % 2 * 2)) ],
	floats    => [ 'k float8', 'k', q(CASE g WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE (g - 1250) / 3.0 END) ],
	arrays    => [ 'k int[]', 'k', 'ARRAY[g % 9, g]' ],
	uuids     => [ 'k uuid', 'k', 'md5(g::text)::uuid' ],
	chars     => [ 'k char(8)', 'k', 'g::text' ],
	varchars  => [ 'k varchar(8), l bool', 'k, l', 'g::text, g % 2 = 0' ],
	ranges    => [ 'k int4range', 'k', 'int4range(g % 50, 100 + g)' ],
	# 'a-1' < 'B1' < 'b2' there, in an order that is not that of the bytes
	icu       => [ 'k text COLLATE "en-x-icu"', 'k', q((ARRAY['a-', 'B', 'b', ' C', 'Ä', '_'])[g % 6 + 1] || g) ],
	domains   => [ 'k posix_text COLLATE "en-x-icu"', 'k', q((ARRAY['a-', 'B', 'b', ' C'])[g % 4 + 1] || g) ],
	citexts   => [ 'k citext', 'k', q((ARRAY['a', 'B', 'b', 'C'])[g % 4 + 1] || g) ],
	mixed     => [ 'a int, k citext, b int', 'a, k, b', q(g / 1200, (ARRAY['a', 'B', 'c'])[g % 3 + 1], g) ]);

sql('CREATE DOMAIN posix_text AS text COLLATE "C"');
for my $name (sort keys %keys)
{
	my ($columns, $key, $values) = @{ $keys{$name} };
	sql(<<"END");
CREATE TABLE $name ($columns, PRIMARY KEY ($key));
INSERT INTO $name SELECT $values FROM generate_series(1, 2500) g;
SELECT outbox.publish('$name', topic => '$name');
END
}
for my $name (sort keys %keys)
{
	copy_is_done($name);
	is(sql(read_events($name, 'count(*), count(DISTINCT key)')), '2500|2500', "$name: each row once");
}

# ---------------------------------------------------------------------------
# Kinds of publication
# ---------------------------------------------------------------------------

sql(<<'END');
CREATE TABLE item (id int PRIMARY KEY, owner text, v text);
INSERT INTO item SELECT g, 'o' || g % 5, 'v' || g FROM generate_series(1, 2500) g;
SELECT outbox.publish('item', name => 'thin', topic => 'thin', mode => 'key');
SELECT outbox.publish('item', name => 'some', topic => 'some', filter => 'id % 1000 = 0 OR v = ''v2499''');
SELECT outbox.publish('item', name => 'none', topic => 'none', filter => 'id < 0');
SELECT outbox.publish('item', name => 'names', topic => 'names', columns => '{id AS number, v AS value}');
SELECT outbox.publish('item', name => 'spread', topic => 'spread', partition_by => '{owner}');
CREATE TABLE empty (id int PRIMARY KEY);
SELECT outbox.publish('empty', topic => 'empty');
CREATE TABLE parts (b text, a int, v text, PRIMARY KEY (a, b)) PARTITION BY LIST (b);
CREATE TABLE parts_x PARTITION OF parts FOR VALUES IN ('x');
CREATE TABLE parts_y (gone int, v text, a int NOT NULL, b text NOT NULL);
ALTER TABLE parts_y DROP COLUMN gone;
ALTER TABLE parts ATTACH PARTITION parts_y FOR VALUES IN ('y');
INSERT INTO parts SELECT (ARRAY['x', 'y'])[g % 2 + 1], g, 'v' || g FROM generate_series(1, 2500) g;
SELECT outbox.publish('parts', topic => 'parts');
END
copy_is_done($_) for qw(thin some none names spread empty parts);

my %expected = (
	thin   => q(SELECT id, format('{"id":%s}', id) FROM item),
	some   => q(SELECT id, format('{"id":%s,"owner":"%s","v":"%s"}', id, owner, v) FROM item WHERE id IN (1000, 2000, 2499)),
	none   => q(SELECT 1 WHERE false),
	names  => q(SELECT id, format('{"number":%s,"value":"%s"}', id, v) FROM item),
	spread => q(SELECT owner, format('{"id":%s,"owner":"%s","v":"%s"}', id, owner, v) FROM item),
	empty  => q(SELECT 1 WHERE false),
	parts  => q(SELECT format('{"a":%s,"b":"%s"}', a, b), format('{"b":"%s","a":%s,"v":"%s"}', b, a, v) FROM parts));
for my $name (sort keys %expected)
{
	same_rows([ $node, 'db', $expected{$name} ],
		[ $node, 'db', read_events($name, q(key, convert_from(value, 'UTF8'))) ], "$name: its events");
}
is(sql("SELECT string_agg(publication || ' ' || rows, ', ' ORDER BY publication) FROM outbox.copies WHERE publication IN ('some', 'none', 'empty')"),
	'empty 0, none 0, some 3', 'rows that the filter leaves out are not counted');

# ---------------------------------------------------------------------------
# Plans: each chunk begins where the last one ended, without statistics too
# ---------------------------------------------------------------------------

sql(<<'END');
CREATE TABLE many (a int, k text COLLATE "en-x-icu", b int, PRIMARY KEY (a, k, b)) WITH (autovacuum_enabled = off);
CREATE TABLE single (id int PRIMARY KEY) WITH (autovacuum_enabled = off);
CREATE TABLE many_mixed (a int, k citext, PRIMARY KEY (a, k)) WITH (autovacuum_enabled = off);
INSERT INTO many SELECT g / 70000, 'k' || g % 3, g FROM generate_series(1, 200000) g;
INSERT INTO single SELECT generate_series(1, 200000);
INSERT INTO many_mixed SELECT g / 10, 'k' || g FROM generate_series(1, 20000) g;
SELECT outbox.publish('many', topic => 'many'), outbox.publish('single', topic => 'single', filter => 'id < 0'),
	outbox.publish('many_mixed', topic => 'many_mixed');
END
copy_is_done($_) for qw(many single many_mixed);
is(sql(read_events('many', 'count(*), count(DISTINCT key)')), '200000|200000', 'many: each row once');
is_soon($node, 'db', <<'END', "many|0|t\nmany_mixed|0|t\nsingle|0|t", 'each row is read once, by the index');
SELECT relname, seq_tup_read, idx_tup_fetch BETWEEN n_tup_ins AND n_tup_ins * 1.1
FROM pg_stat_user_tables WHERE relname IN ('many', 'single', 'many_mixed') ORDER BY 1
END
is(sql(q(SELECT count(DISTINCT xid) FROM outbox.events WHERE topic = 'many' AND op = 'r')), '200', 'in chunks of 1000 rows');

# ---------------------------------------------------------------------------
# Large rows: a chunk ends after 4 MB
# ---------------------------------------------------------------------------

sql(<<'END');
CREATE TABLE large (id int PRIMARY KEY, v text);
ALTER TABLE large ALTER v SET STORAGE EXTERNAL;
INSERT INTO large SELECT g, repeat(chr(64 + g), 5000000) FROM generate_series(1, 6) g;
SELECT outbox.publish('large', topic => 'large');
END
copy_is_done('large');
is(sql(read_events('large', 'count(*), count(DISTINCT key), count(DISTINCT xid), min(length(value))')),
	'6|6|6|5000015', 'a row that is larger than a chunk is a chunk');

# ---------------------------------------------------------------------------
# Between two chunks
# ---------------------------------------------------------------------------

# Publish a table and stop the relay when 1000 rows of it are copied.
sub stop_within
{
	my ($name, %opt) = @_;

	fault($node, 'copy.before_commit=wait');
	sql("SELECT outbox.publish('$name', topic => '$name'" . ($opt{publish} // '') . ')');
	is_soon($node, 'db', qq(SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension'
		AND backend_type LIKE 'pg_outbox relay%' AND xact_start IS NOT NULL), '1', "$name: in the first chunk");
	fault($node, 'copy.next=wait');
	is_soon($node, 'db', "SELECT state, rows FROM outbox.copies WHERE publication = '$name'",
		'running|1000', "$name: after the first chunk");
	return;
}

sub make_table
{
	my ($name, $first) = @_;
	$first //= 1;
	sql(<<"END");
CREATE TABLE $name (id int PRIMARY KEY, v text, w text);
INSERT INTO $name SELECT $first - 1 + g, 'v', 'w' FROM generate_series(1, 2500) g;
END
	return;
}

make_table('altered');
stop_within('altered');
sql(<<'END');
ALTER TABLE altered ADD COLUMN x int DEFAULT 5;
ALTER TABLE altered DROP COLUMN v;
ALTER TABLE altered RENAME COLUMN w TO w2;
ALTER TABLE altered RENAME COLUMN id TO number;
INSERT INTO altered VALUES (3000, 'new', 6);
END
no_faults($node);
copy_is_done('altered', 'columns come, go and are renamed');
is(sql(read_events('altered', q(convert_from(value, 'UTF8') ~ 'w2' AS later, count(*))) . ' GROUP BY 1 ORDER BY 1'),
	"f|1000\nt|1501", 'each row as it was when its turn came, new rows after the last key too');
is(sql(read_events('altered', q(convert_from(value, 'UTF8'))) . " AND key = '2500'"),
	'{"number":2500,"w2":"w","x":5}', 'with the new columns');

# The order of the keys is another one now: '10000' to '11400' are before '9900'.
make_table('retyped', 8901);
stop_within('retyped');
sql('ALTER TABLE retyped ALTER COLUMN id TYPE text');
no_faults($node);
copy_is_done('retyped', 'the key gets another type');
is(sql(read_events('retyped', 'count(DISTINCT key)')), '2500', 'no row is passed over');

make_table('dropped');
stop_within('dropped');
sql('DROP TABLE dropped');
no_faults($node);
is_soon($node, 'db', "SELECT count(*) FROM outbox.copies WHERE publication = 'dropped'", '0',
	'a copy goes with its table');

make_table('ended');
stop_within('ended');
sql("SELECT outbox.unpublish('ended')");
sql("SELECT outbox.publish('ended', topic => 'ended', initial => 'none')");
no_faults($node);
sql("INSERT INTO item VALUES (3001)");
is(sql("SELECT count(*) FROM outbox.copies WHERE publication = 'ended'"), '0',
	'a copy goes with its publication, and the next one of that name does not inherit it');

make_table('killed');
stop_within('killed');
my $relay = kill_worker($node, 'db', 'relay');
wait_for_sql($node, 'db', 'SELECT 1', '1');
is(sql("SELECT state, rows, last_key FROM outbox.copies WHERE publication = 'killed'"),
	'running|1000|{1000}', 'a crash leaves what was committed');
no_faults($node);
copy_is_done('killed', 'it goes on');
is(sql(read_events('killed', 'count(*), count(DISTINCT key)')), '2500|2500', 'where it stood');

make_table('cancelled');
stop_within('cancelled');
is(sql("SELECT outbox.cancel_copy('cancelled')"), 't', 'cancelled');
no_faults($node);
make_table('after');
sql("SELECT outbox.publish('after', topic => 'after')");
copy_is_done('after');
is(sql(read_events('cancelled', 'count(*)')), '1000', 'a cancelled copy does not go on');
sql("SELECT outbox.copy('cancelled')");
copy_is_done('cancelled');
is(sql(read_events('cancelled', 'count(*), count(DISTINCT key)')), '3500|2500', 'it begins anew when asked');

# ---------------------------------------------------------------------------
# Locks: what others hold on a table or a copy does not stop the relay
# ---------------------------------------------------------------------------

make_table('locked');
my $other = $node->background_psql('db');
$other->query_safe("SELECT outbox.publish('locked', topic => 'locked', initial => 'none')");
$other->query_safe('BEGIN; LOCK TABLE locked');
sql("SELECT outbox.copy('locked')");
is_soon($node, 'db', "SELECT state, rows, error FROM outbox.copies WHERE publication = 'locked'",
	qr/^running\|0\|.*lock timeout/, 'a table that is locked is tried again later');
sql("SELECT outbox.copy('after')");
is_soon($node, 'db', read_events('after', 'count(*)'), '5000', 'other copies go on');
$other->query_safe('COMMIT');
copy_is_done('locked', 'so does this one when the lock is gone');

# how long a copy waits for a lock is nothing to the rest of the relay
my $reader = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay'");
$other->query_safe('BEGIN; LOCK TABLE outbox._log_0, outbox._log_1, outbox._log_2');
sql('SELECT pg_current_xact_id()');
is_soon($node, 'db', q(SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
	WHERE backend_type = 'pg_outbox relay' AND NOT granted AND clock_timestamp() - waitstart > interval '0.5 s'), $reader, 'reading the log waits for longer than a copy');
$other->query_safe('COMMIT');

make_table('held');
stop_within('held');
$other->query_safe("BEGIN; SELECT outbox.cancel_copy('held')");
no_faults($node);
sql("SELECT outbox.copy('cancelled')");
copy_is_done('cancelled', 'an open transaction that holds a copy holds up no other');
$other->query_safe('ROLLBACK');
copy_is_done('held');
$other->quit;

$node->stop('fast');
done_testing();
