# Dump and restore: a working set-up that waits for resume(), and then sends
# exactly what had not been sent when the dump was made.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node   = outbox_node('original');
my $other  = outbox_node('elsewhere');
my $dir    = PostgreSQL::Test::Utils::tempdir();
my %topic  = map { $_ => unique_topic($_) } qw(counter paused loose inward);

topic_create($broker, $_, 1) for values %topic;

# ---- the original ------------------------------------------------------------------

outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE ROLE keeper;
CREATE USER MAPPING FOR keeper SERVER kafka OPTIONS ("sasl.username" 'anna', "sasl.password" 'secret');
ALTER DATABASE shop SET pg_outbox.default_with_headers = 'txid';
CREATE SERVER away FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE TABLE counter (id int PRIMARY KEY, n int);
CREATE TABLE noted (id int PRIMARY KEY);
INSERT INTO counter SELECT g, 0 FROM generate_series(1, 20) g;
SELECT outbox.publish('counter', topic => '$topic{counter}', initial => 'none');
SELECT outbox.publish('noted', topic => '$topic{paused}', initial => 'none');
SELECT outbox.pause_topic('$topic{paused}');
CREATE TABLE replica (id bigint PRIMARY KEY, name text NOT NULL, version bigint NOT NULL);
CREATE TABLE calls (id text PRIMARY KEY);
CREATE FUNCTION call(e outbox.event) RETURNS void LANGUAGE sql SET search_path = public
	AS 'INSERT INTO calls VALUES (e.id)';
SELECT outbox.replicate('replica', topic => '$topic{inward}');
SELECT outbox.handle('call(outbox.event)', topic => '$topic{inward}');
END
topic_write($broker, $topic{inward},
	{ key => '1', value => '{"id": 1, "name": "a"}', headers => { id => 11 } },
	{ key => '2', value => '{"id": 2, "name": "b"}', headers => { id => 12 } },
	{ key => '2', value => undef,                    headers => { id => 13, op => 'd' } },
	{ key => '3', value => '{"id": 3, "name": null}', headers => { id => 14 } });
is_soon($node, 'shop', 'SELECT sum(received) FROM outbox.stat_subscriptions', '8', 'the original consumes');
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE state = 'dead'), '1', 'it has a dead letter');

$node->safe_psql('shop', 'UPDATE counter SET n = n + 1; INSERT INTO noted SELECT generate_series(1, 7)');
is_soon($node, 'shop', q(SELECT backlog_events FROM outbox.stat_servers WHERE server = 'kafka'), '0', 'it publishes');
is_soon($node, 'shop', 'SELECT count(*) FROM outbox._parked', '7', 'and has parked events');
$node->safe_psql('shop', "SELECT outbox.pause()");
is_soon($node, 'postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox (relay|applier)'), '0', 'paused');

# Not sent: two transactions that overlap, one that is written early and large, one
# of another server, and one event that names its topic itself.
my $late = $node->background_psql('shop');
$late->query_safe('BEGIN; UPDATE counter SET n = n + 1 WHERE id = 1');
$node->safe_psql('shop', <<"END");
UPDATE counter SET n = n + 1 WHERE id BETWEEN 2 AND 10;
SET pg_outbox.event_buffer = '64kB';
BEGIN;
SELECT outbox.emit('$topic{loose}', g::text, repeat('x', 900)) FROM generate_series(1, 300) g;
SAVEPOINT s;
SELECT outbox.emit('$topic{loose}', 'never', 'x');
ROLLBACK TO s;
COMMIT;
SELECT outbox.emit('elsewhere', 'k', 'v', server => 'away');
END
$late->query_safe('COMMIT');
$late->quit;
$node->safe_psql('shop', q(INSERT INTO outbox._copy (publication, ordered_by, last_key, all_read)
	VALUES ('counter', '{23,96,521}', '{7}', true)));
$node->safe_psql('shop', <<'END');
CREATE TABLE gone ();
INSERT INTO outbox._floor (target, version) VALUES ('replica', 1), ('gone', 1);
INSERT INTO outbox._mark (target, partition, version) VALUES ('replica', 0, 2), ('gone', 0, 2);
DROP TABLE gone;
END

my $pending = $node->safe_psql('shop', <<"END");
SELECT count(*), min(id) FROM outbox.events
WHERE server = 'kafka' AND topic IN ('$topic{counter}', '$topic{loose}')
	AND id > (SELECT max(id) FROM outbox.events WHERE key = '7' AND topic = '$topic{paused}')
END
like($pending, qr/^310\|/, '310 events of the broker have not been sent');
my %before = map { $_ => (topic_watermarks($broker, $topic{$_}, 0))[1] } keys %topic;
is("$before{counter} $before{loose} $before{paused}", '20 0 0', 'and are not there');

# ---- dumps -------------------------------------------------------------------------

$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", $node->connstr('shop') ], 'pg_dump -Fc');
$node->command_ok([ 'pg_dump', '--inserts', '-f', "$dir/plain", $node->connstr('shop') ], 'pg_dump --inserts');
$node->command_ok([ 'pg_dumpall', '-f', "$dir/all", '-d', $node->connstr('postgres') ], 'pg_dumpall');
my $settled = $node->safe_psql('shop', 'SELECT count(*) FROM outbox.events WHERE NOT uncommitted');

# What arrived in a topic since a high watermark.
sub since
{
	my ($name, $from) = @_;
	return topic_read($broker, $topic{$name}, offset => $from, partition => 0);
}

my $triggers = q{SELECT string_agg(format('%s %s %s', tgrelid::regclass, tgname, tgenabled), ', ' ORDER BY tgrelid::regclass::text, tgname)
	FROM pg_trigger WHERE NOT tgisinternal};
my $tables = join ' UNION ALL ', map { "SELECT '$_', t::text FROM $_ AS t" }
	qw(outbox._publication outbox._subscription outbox._offset outbox._tombstone outbox._inbox outbox._parked
	outbox._stream outbox._dead_letter outbox._identity outbox._paused replica calls);

# A restored database: waits, is complete, and after resume() sends what it must.
sub restored
{
	my ($where, $db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	subtest $name => sub {
		my ($rc, $out, $err);
		my %from = map { $_ => (topic_watermarks($broker, $topic{$_}, 0))[1] } keys %topic;

		same_rows([ $node, 'shop', $tables ], [ $where, $db, $tables ], 'everything is there');
		is($where->safe_psql($db, $triggers), $node->safe_psql('shop', $triggers), 'the triggers too, once each');
		is($where->safe_psql($db, 'SELECT count(*) FROM outbox.events'), '0', 'data that was loaded made no events');
		is( $where->safe_psql($db, q(SELECT d.target = 'replica'::regclass FROM outbox._dead_letter d WHERE d.state = 'dead' AND target IS NOT NULL)),
			't', 'a dead letter knows its table');
		is( $where->safe_psql($db, 'SELECT f.target, m.target, m.version FROM outbox._floor AS f, outbox._mark AS m'),
			'replica|replica|2', 'floor and marks of a replica that exists');
		is_soon($where, $db, q(SELECT count(*) FROM outbox._workers() WHERE waiting_for ~ '^resume: this database is a copy of another'),
			'2', 'it waits for resume()');
		$where->safe_psql($db, 'UPDATE counter SET n = 100 WHERE id = 1');    # before anything is sent
		($rc, $out, $err) = $where->psql($db, 'SELECT outbox.resume()');
		like($err, qr/NOTICE:  311 events that had not been sent when the dump was made are sent now.*DETAIL:  Which of them the original has sent since/s,
			'resume() says what it takes over');
		is_soon($where, $db, q(SELECT coalesce(sum(parked_events), 0) FROM outbox.stat_topics WHERE server = 'kafka' AND topic <> ') . $topic{paused} . q('), '0', 'all is sent');
		is_soon($where, $db, q(SELECT backlog_events FROM outbox.stat_servers WHERE server = 'kafka'), '0', 'also what was written before');
		is_soon($where, $db, q(SELECT state FROM outbox.copies), 'done', 'the copy was made from the beginning');
		my @counter = since('counter', $from{counter});
		my @loose = since('loose', $from{loose});
		is(scalar(grep { $_->{headers}{op} eq 'u' } @counter), 11, 'counter: ten events that were pending and the new one');
		is(scalar(grep { $_->{headers}{op} eq 'r' } @counter), 20, 'and twenty of the copy');
		is(join(' ', map { $_->{value} =~ /"n": ?(\d+)/ } grep { $_->{key} eq '1' && $_->{headers}{op} eq 'u' } @counter), '2 100', 'in their order');
		is(join(' ', map { $_->{key} } @loose), join(' ', 1 .. 300), 'loose: 300 events, in their order');
		is((topic_watermarks($broker, $topic{paused}, 0))[1], 0, 'a paused topic stays so');
		is($where->safe_psql($db, q(SELECT count(*) FROM outbox._parked JOIN outbox._stream s ON s.id = stream WHERE s.server = 'away')),
			'1', 'what no broker takes waits');
		is($where->safe_psql($db, 'SELECT (SELECT count(*) FROM outbox._restored_log) + (SELECT count(*) FROM outbox._restored_position)'),
			'0', 'nothing is kept apart any more');
		# the consuming side goes on where it was
		my $id = 100 + $from{inward};
		topic_write($broker, $topic{inward},
			{ key => '2', value => '{"id": 2, "name": "late"}', headers => { id => 12 } },
			{ key => '1', value => qq({"id": 1, "name": "new"}), headers => { id => $id } });
		is_soon($where, $db, "SELECT name FROM replica WHERE version = $id", 'new', 'the replica goes on');
		is($where->safe_psql($db, 'SELECT count(*) FROM replica WHERE id = 2'), '0', 'a tombstone holds');
		is_soon($where, $db, "SELECT count(*) FROM calls WHERE id = '$id'", '1', 'the handler goes on');
		is($where->safe_psql($db, q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'call')), '0', 'and was called for nothing twice');
		$where->safe_psql($db, 'SELECT outbox.pause()');
		is_soon($where, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox (relay|applier)' AND datname = '$db'", '0', 'paused again');
	};
	return;
}

sub restore
{
	my ($where, $db, @options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$where->safe_psql('postgres', "CREATE DATABASE $db") if !grep { $_ eq '--clean' } @options;
	return $where->command_ok([ 'pg_restore', '--exit-on-error', @options, '-d', $where->connstr($db), "$dir/custom" ],
		"pg_restore @options");
}

$other->command_ok([ 'psql', '-X', '-q', '-o', '/dev/null', '-f', "$dir/all", '-d', $other->connstr('postgres') ], 'pg_dumpall | psql');
is($other->safe_psql('shop', q(SELECT umoptions FROM pg_user_mappings WHERE usename = 'keeper')),
	'{sasl.password=secret,sasl.username=anna}', 'with user mappings');
is($other->safe_psql('shop', 'SHOW pg_outbox.default_with_headers'), 'txid', 'and settings');
restored($other, 'shop', 'a cluster, restored elsewhere');

restore($other, 'jobs', '-j', 2);
restored($other, 'jobs', 'pg_restore -j 2, elsewhere');
{
	local $ENV{PGOPTIONS} = '-c pg_outbox.capture=off';
	restore($other, 'jobs', '--clean', '--if-exists');
}
restored($other, 'jobs', 'pg_restore --clean, over that');

restore($node, 'single', '--single-transaction');
restored($node, 'single', 'pg_restore --single-transaction, beside the original');

$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->command_ok([ 'psql', '-X', '-q', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain", '-d', $node->connstr('plain') ], 'psql');
restored($node, 'plain', 'inserts, beside the original');

# ---- a restore that was not resumed is dumped again -----------------------------------

restore($other, 'first');
$other->safe_psql('first', 'UPDATE counter SET n = 50 WHERE id = 2');
$other->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", $other->connstr('first') ], 'pg_dump of a copy that waits');
restore($other, 'second');
my ($rc, $out, $err) = $other->psql('second', 'SELECT outbox.resume()');
like($err, qr/312 events that had not been sent/, 'its own event comes with those it had');

# ---- the original goes on: the same ids ------------------------------------------------

my @first = topic_read($broker, $topic{loose});
$node->safe_psql('shop', 'SELECT outbox.resume()');
ok(wait_until(sub { (topic_watermarks($broker, $topic{loose}, 0))[1] >= @first + 300 }, 'the events'), 'the original sends them too');
my %ids = map { $_->{headers}{id} => $_->{key} } topic_read($broker, $topic{loose});
is(scalar keys %ids, 300, 'with the ids that the copies have sent');

# ---- amid a large transaction: a position between two of its events ---------------------
# It is larger than what the relay can have in hand, so that the first settlement
# cannot be all of it.

$topic{large} = unique_topic('large');
topic_create($broker, $topic{large}, 1);
outbox_install($node, 'large', $broker);
fault($node, 'relay.after_settle=wait');
$node->safe_psql('large', "SELECT count(outbox.emit('$topic{large}', g::text, 'v')) FROM generate_series(1, 70000) g");
is_soon($node, 'large', 'SELECT settled_events BETWEEN 1 AND 69999 FROM outbox.stat_servers', 't', 'a part is settled');
is($node->safe_psql('large', 'SELECT target IS NOT NULL AND id > 0 FROM outbox._positions()'), 't', 'of a batch');
my $left = 70000 - $node->safe_psql('large', 'SELECT settled_events FROM outbox.stat_servers');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", $node->connstr('large') ], 'dump');
restore($other, 'large');
($rc, $out, $err) = $other->psql('large', 'SELECT outbox.resume()');
like($err, qr/ $left events that had not been sent/, 'what was settled is not sent again');
is_soon($other, 'large', 'SELECT parked_events FROM outbox.stat_topics', '0', 'the rest is sent');
cmp_ok((topic_watermarks($broker, $topic{large}, 0))[1], '>=', 70000, 'and nothing is missing');
no_faults($node);

# ---- versions are above those of the dump, whatever the clock says ----------------------

my $far = 2 ** 52 + 5;
$node->safe_psql('postgres', 'CREATE DATABASE clock');
$node->safe_psql('clock', <<"END");
CREATE EXTENSION pg_outbox;
COPY outbox._position_0 (seq, server, base, target, stamp, id, events, at) FROM stdin;
$far	kafka	10:10:	\\N	0	0	0	2026-01-01
\\.
END
cmp_ok($node->safe_psql('clock', q(SET client_min_messages = error;
	CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
	SELECT outbox.emit('t', 'k', 'v'))),
	'>', $far, 'versions go on above those of the dump where the clock is behind');

$_->stop('fast') for $node, $other;
done_testing();
