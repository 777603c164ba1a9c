# A replica whose table changes while events stream into it (scenario 20): it goes
# on, or stops with the reason and goes on once that is mended, and at the end has
# what the source has.  Then replicas and handlers whose code kills the worker.

use strict;
use warnings FATAL => 'all';

use File::Temp;
use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker();
my $topic  = unique_topic('items');
my $node   = outbox_node('services');

topic_create($broker, $topic, 2);
outbox_install($node, $_, $broker) for qw(users orders);
$node->safe_psql('users', <<"END");
CREATE TABLE items (id int PRIMARY KEY, name text, n int, note text);
SELECT outbox.publish('items', topic => '$topic');
END
my $columns = '(id int PRIMARY KEY, name text, n int, note text, version bigint NOT NULL)';
$node->safe_psql('orders', <<"END");
CREATE TABLE items $columns;
SELECT outbox.replicate('items', topic => '$topic');
CREATE SCHEMA other;
END

# Changes of hundred rows, some two hundred a second, until they are stopped.
my $script = File::Temp->new(SUFFIX => '.sql');
print $script <<'END';
\set id random(1, 100)
\set what random(1, 10)
\if :what = 1
DELETE FROM items WHERE id = :id;
\else
INSERT INTO items VALUES (:id, 'first', 0, 'x') ON CONFLICT (id) DO UPDATE SET n = items.n + 1, name = 'changed ' || items.n;
\endif
END
close $script;
chmod 0644, "$script";
my $writer = IPC::Run::start([ 'pgbench', '-n', '-f', "$script", '-c', 1, '-T', 600, '-R', 200, $node->connstr('users') ],
	'<', \undef, '>', '/dev/null', '2>', '/dev/null');

my $count = q((SELECT sum(applied + deleted + stale + duplicate) FROM outbox.stat_subscriptions WHERE name = 'items'));
my $state = q(SELECT state, stopped_sqlstate FROM outbox.subscriptions WHERE name = 'items');

# Run SQL; events go on arriving.
sub goes_on
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql('orders', $sql);
	my $before = $node->safe_psql('orders', "SELECT coalesce($count, 0)");
	is_soon($node, 'orders', "SELECT $count > $before + 20", 't', "$name: it goes on") or diag $node->safe_psql('orders', 'SELECT * FROM outbox.dead_letters LIMIT 3');
	return;
}

# Run SQL; the subscription stops for that reason, and goes on after other SQL.
# Deletes go through where nothing else does, and end a run of failures: there may
# be letters of shorter runs before it.
sub stops
{
	my ($sql, $sqlstate, $reason, $mend, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql('orders', $sql);
	is_soon($node, 'orders', $state, "stopped|$sqlstate", "$name: it stops");
	like($node->safe_psql('orders', q(SELECT stopped_reason FROM outbox.subscriptions WHERE name = 'items')), $reason, "$name: and says why");
	goes_on($mend, "$name, mended");
	return;
}

my $resume = q(SELECT outbox.resume_subscription('items'));

goes_on('SELECT', 'as it was made');
stops('ALTER TABLE items ADD COLUMN extra int DEFAULT 1', '42703', qr/lacks column "extra"/,
	"SELECT outbox.replicate('items', topic => '$topic', columns => '{name, n, note}')", 'a column that events lack');
goes_on(q(ALTER TABLE items ADD COLUMN more text DEFAULT 'more'), 'a column that is not the subscription\'s');
is($node->safe_psql('orders', 'SELECT DISTINCT extra, more FROM items'), '1|more', 'columns that events do not have keep their defaults');
stops('ALTER TABLE items DROP COLUMN note', '42703', qr/column "note" of relation "items" does not exist/,
	"SELECT outbox.replicate('items', topic => '$topic', columns => '{name, n}')", 'a column less');
stops('ALTER TABLE items RENAME COLUMN name TO title', '42703', qr/column "name" of relation "items" does not exist/,
	"ALTER TABLE items RENAME COLUMN title TO name; $resume", 'a column renamed');
goes_on('ALTER TABLE items ALTER COLUMN n TYPE bigint', 'another type');
goes_on('ALTER TABLE items ALTER COLUMN n TYPE text, ALTER COLUMN id TYPE numeric', 'and another, of the key as well');
goes_on('ALTER TABLE items ALTER COLUMN n TYPE int USING n::int, ALTER COLUMN id TYPE int', 'and back');
stops('ALTER TABLE items ADD CONSTRAINT never CHECK (id < 0) NOT VALID', '23514', qr/10 events in a row failed alike.*constraint "never"/,
	"ALTER TABLE items DROP CONSTRAINT never; $resume", 'a constraint');
stops('ALTER TABLE items ALTER COLUMN more SET NOT NULL, ALTER COLUMN more DROP DEFAULT', '23502', qr/null value in column "more"/,
	"ALTER TABLE items ALTER COLUMN more SET DEFAULT 'more'; $resume", 'a column that must be filled');
stops('ALTER TABLE items DROP CONSTRAINT items_pkey', '42P16', qr/no primary key/,
	"ALTER TABLE items ADD PRIMARY KEY (id); $resume", 'no key');
goes_on('CREATE UNIQUE INDEX by_key ON items (id); ALTER TABLE items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY USING INDEX by_key', 'another key');
stops('ALTER TABLE items ALTER COLUMN version TYPE numeric', '42P16', qr/version column "version".*bigint/,
	"ALTER TABLE items ALTER COLUMN version TYPE bigint; $resume", 'a version of another type');
goes_on('ALTER TABLE items RENAME TO things', 'the table renamed');
goes_on('ALTER TABLE things SET SCHEMA other', 'in another schema');
goes_on('ALTER SCHEMA other RENAME TO another', 'the schema renamed');
goes_on('CREATE SCHEMA other; CREATE TABLE other.things (LIKE another.things INCLUDING ALL)', 'a schema and table of the old name');
is($node->safe_psql('orders', 'SELECT count(*) FROM other.things'), '0', 'which is not ours');
goes_on('CLUSTER another.things USING by_key; VACUUM FULL another.things; REINDEX TABLE another.things; ANALYZE another.things', 'the table rewritten');

# Somebody holds the table for longer than a batch may take.
$node->safe_psql('postgres', q(ALTER SYSTEM SET pg_outbox.handler_timeout = '300ms'));
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
my ($in, $out) = ("BEGIN; LOCK another.things; \\echo locked\n", '');
my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('orders') ], '<', \$in, '>', \$out);
wait_until(sub { $session->pump_nb; $out =~ /locked/ }, 'the lock');
ok(wait_until(sub { log_tail($node, 20) =~ /subscription "items" tries again later/ }, 'the log'), 'a table that is locked: the batch is tried again');
$in .= "COMMIT; \\q\n";
$session->finish;
$node->safe_psql('postgres', 'ALTER SYSTEM RESET pg_outbox.handler_timeout');
goes_on('SELECT pg_reload_conf()', 'the lock gone');

# Another table of its name is not it.
stops('ALTER TABLE another.things SET SCHEMA public; ALTER TABLE things RENAME TO items; DROP TABLE items', '42P01', qr/does not exist any more/,
	"CREATE TABLE items $columns; SELECT outbox.unsubscribe('items');
	SELECT outbox.discard(id, 'of the table that is gone') FROM outbox.dead_letters WHERE state = 'dead';
	SELECT outbox.replicate('items', topic => '$topic')", 'dropped');
$node->safe_psql('orders', <<"END");
CREATE TABLE parts (id int PRIMARY KEY, name text, n int, note text, version bigint NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (50);
CREATE TABLE parts_2 (n int, gone int, note text, name text, version bigint NOT NULL, id int NOT NULL);
ALTER TABLE parts_2 DROP COLUMN gone;
CREATE TABLE parts_3 (LIKE parts INCLUDING ALL);
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (50) TO (90);
SELECT outbox.replicate('parts', topic => '$topic');
END
is_soon($node, 'orders', q(SELECT (SELECT count(*) FROM parts_1) > 20, (SELECT count(*) FROM parts_2) > 20, count(*) > 5, min(sqlstate), max(sqlstate)
	FROM outbox.dead_letters WHERE name = 'parts' AND state = 'dead'), 't|t|t|23514|23514', 'a replica with partitions, one of which is missing');
# In one transaction: a row that is deleted while its partition is away comes back with it.
$node->safe_psql('orders', 'BEGIN; ALTER TABLE parts DETACH PARTITION parts_1; ALTER TABLE parts_1 ADD CHECK (id > 0);
	ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (1) TO (50);
	ALTER TABLE parts ATTACH PARTITION parts_3 FOR VALUES FROM (90) TO (1000); COMMIT');

$writer->kill_kill;
$node->safe_psql('orders', q(SELECT outbox.resume_subscription('parts'), outbox.redrive_all(name) FROM outbox.subscriptions));
is_soon($node, 'orders', q(SELECT (SELECT sum(lag) FROM outbox.stat_subscriptions), (SELECT string_agg(DISTINCT state, ' ') FROM outbox.dead_letters WHERE state <> 'discarded')), '0|done', 'all is applied');
for my $table (qw(items parts))
{
	wait_until(sub { $node->safe_psql('users', 'SELECT max(n), count(*) FROM items') eq $node->safe_psql('orders', "SELECT max(n), count(*) FROM $table") }, "$table to be equal");
	same_rows([ $node, 'users', 'SELECT id, name, n, note FROM items' ], [ $node, 'orders', "SELECT id, name, n, note FROM $table" ],
		"$table: the replica equals its source");
}

# ---------------------------------------------------------------------------
# Code that kills the worker by force, and with it all sessions of the server
# ---------------------------------------------------------------------------

my %deadly = map { $_ => unique_topic($_) } qw(fragile suicidal innocent);
topic_create($broker, $_, 1) for values %deadly;
$node->safe_psql('orders', <<"END");
SELECT outbox.unsubscribe('items'), outbox.unsubscribe('parts');
CREATE FUNCTION die() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	EXECUTE format('COPY (SELECT) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
	PERFORM pg_sleep(60);
END \$\$;
CREATE TABLE fragile (id int PRIMARY KEY, version bigint NOT NULL);
CREATE FUNCTION die_of_3() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	IF new.id = 3 THEN
		PERFORM public.die();
	END IF;
	RETURN new;
END \$\$;
CREATE TRIGGER die BEFORE INSERT ON fragile FOR EACH ROW EXECUTE FUNCTION die_of_3();
CREATE TABLE handled (name text, value text);
CREATE FUNCTION handler(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.handled VALUES (e.subscription, e.value);
	IF e.value = '3' THEN
		PERFORM public.die();
	END IF;
END \$\$;
SELECT outbox.replicate('fragile', topic => '$deadly{fragile}');
SELECT outbox.handle('handler(outbox.event)', topic => '$deadly{suicidal}', name => 'suicidal');
SELECT outbox.handle('handler(outbox.event)', topic => '$deadly{innocent}', name => 'innocent');
END

sub produce
{
	my ($name, @values) = @_;
	my ($ok, $text, $err) = OutboxTest::_kcat($broker, join("\n", @values) . "\n", '-P', '-t', $deadly{$name}, '-p', 0);

	die $err if !$ok;
	return;
}

my %done = (
	fragile  => q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM fragile),
	suicidal => q(SELECT string_agg(value, ' ' ORDER BY value) FROM handled WHERE name = 'suicidal'));
for my $name (qw(fragile suicidal))
{
	produce($name, map { $name eq 'fragile' ? qq({"id": $_, "version": 1}) : $_ } 1 .. 5);
	produce('innocent', $name);
	is_soon($node, 'orders', $done{$name}, '1 2 4 5', "$name: the others are applied");
	is($node->safe_psql('orders', qq(SELECT string_agg(sqlstate || ' ' || kafka_offset || ' ' || state || ' ' || message, ', ')
		FROM outbox.dead_letters WHERE name = '$name')), 'XX000 2 dead the worker died 2 times while it applied this event', "$name: the killer is a dead letter");
}
is_soon($node, 'orders', q(SELECT string_agg(value, ' ' ORDER BY value) FROM handled WHERE name = 'innocent'), 'fragile suicidal', 'events of others are handled');
is($node->safe_psql('orders', q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'innocent')), '0', 'and taken for no killers');
my $deaths = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g;
note "$deaths deaths";
cmp_ok($deaths, '>=', 5, 'the server has survived it');
$node->stop;

done_testing();
