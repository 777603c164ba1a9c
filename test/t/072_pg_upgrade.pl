# pg_upgrade takes everything along: the upgraded cluster waits for resume(), then
# sends what was not sent and nothing else, consumes from where it stood, and
# its versions go on.
#
# With OUTBOX_UPGRADE_FROM, the bin directory of an older server that has the
# extension as well (make check UPGRADE_FROM=pg_config makes one), from that one;
# else from the version under test to itself.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my %topic  = map { $_ => unique_topic($_) } qw(counter paused inward);
my $old_bin = $ENV{OUTBOX_UPGRADE_FROM};
# The same everywhere, as pg_upgrade wants it: the default is another one from 18 on.
my @initdb = (initdb => ['--data-checksums']);
my $old    = outbox_node('old', @initdb, defined $old_bin ? (install_path => dirname($old_bin)) : ());

topic_create($broker, $_, 1) for values %topic;
outbox_install($old, 'shop', $broker);
$old->safe_psql('shop', <<"END");
CREATE TABLE counter (id int PRIMARY KEY, n int);
CREATE TABLE noted (id int PRIMARY KEY);
INSERT INTO counter SELECT g, 0 FROM generate_series(1, 20) g;
SELECT outbox.publish('counter', topic => '$topic{counter}', initial => 'none', filter => 'n < 1000');
SELECT outbox.publish('noted', topic => '$topic{paused}', initial => 'none');
SELECT outbox.pause_topic('$topic{paused}');
CREATE TABLE replica (id bigint PRIMARY KEY, name text, version bigint NOT NULL);
CREATE TABLE calls (id text PRIMARY KEY);
CREATE FUNCTION call(e outbox.event) RETURNS void LANGUAGE sql SET search_path = public
	AS 'INSERT INTO calls VALUES (e.id)';
SELECT outbox.replicate('replica', topic => '$topic{inward}');
SELECT outbox.handle('call(outbox.event)', topic => '$topic{inward}');
END
topic_write($broker, $topic{inward},
	{ key => '1', value => '{"id": 1, "name": "a"}', headers => { id => 11 } },
	{ key => '2', value => undef, headers => { id => 13, op => 'd' } });
is_soon($old, 'shop', 'SELECT sum(received) FROM outbox.stat_subscriptions', '4', 'the old cluster consumes');
$old->safe_psql('shop', 'UPDATE counter SET n = n + 1; INSERT INTO noted SELECT generate_series(1, 7)');
is_soon($old, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'and publishes');
is_soon($old, 'shop', 'SELECT count(*) FROM outbox._parked', '7', 'some events are parked');
$old->safe_psql('shop', 'SELECT outbox.pause()');
is_soon($old, 'postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox (relay|applier)'), '0', 'paused');
$old->safe_psql('shop', q(UPDATE counter SET n = n + 1 WHERE id <= 5; BEGIN; UPDATE counter SET n = 0; ROLLBACK; SELECT outbox.resume('applier')));
is_soon($old, 'postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier'), '1', 'an applier runs');
my $largest = $old->safe_psql('shop', 'SELECT max(id) FROM outbox.events');
my $state = 'SELECT subscription, partition, next_offset FROM outbox._offset UNION ALL SELECT key, 0, version FROM outbox._tombstone'
	. ' UNION ALL SELECT event_id, 1, 0 FROM outbox._inbox';
my $before = $old->safe_psql('shop', "SELECT * FROM ($state) s ORDER BY 1, 2");
is($old->safe_psql('shop', q(SELECT count(*) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'i') AND a.attnum > 0 AND NOT a.attisdropped
		AND a.atttypid IN ('regcollation'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype, 'regnamespace'::regtype,
			'regoper'::regtype, 'regoperator'::regtype, 'regproc'::regtype, 'regprocedure'::regtype))), '0',
	'no column of a type that pg_upgrade refuses');
$old->stop('fast');

my $new = outbox_node('new', @initdb, start => 0);
diag 'from ' . $old->pg_version . ' to ' . $new->pg_version;
my $bin = $new->config_data('--bindir');
my $dir = PostgreSQL::Test::Utils::tempdir();
chdir $dir or die "chdir: $!";
command_ok(
	[ 'pg_upgrade', '--no-sync', '--link', '-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $old_bin // $bin, '-B', $bin, '-s', $new->host, '-p', $old->port, '-P', $new->port ],
	'pg_upgrade');
Test::More->builder->is_passing or die 'there is no upgraded cluster to look at';
$new->start;

is_soon($new, 'shop', q(SELECT count(*) FROM outbox._workers() WHERE waiting_for ~ '^resume: this database is a copy of another'),
	'2', 'workers wait for resume()');
is((topic_watermarks($broker, $topic{counter}, 0))[1], 20, 'nothing was sent meanwhile');
is($new->safe_psql('shop', "SELECT * FROM ($state) s ORDER BY 1, 2"), $before, 'offsets, tombstones and inbox are there');
is($new->safe_psql('shop', q(SELECT count(*) FROM outbox.publications WHERE problem IS NULL)), '2', 'publications too');
$new->safe_psql('shop', 'UPDATE counter SET n = 100 WHERE id = 1');
$new->safe_psql('shop', 'SELECT outbox.resume()');
is_soon($new, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'after resume() the rest is sent');
my @records = topic_read($broker, $topic{counter});
is(join(' ', map { "$_->{key}:" . ($_->{value} =~ /"n": ?(\d+)/)[0] } @records[ 20 .. $#records ]),
	'1:2 2:2 3:2 4:2 5:2 1:100', 'exactly that, and what came after it');
cmp_ok($records[-1]{headers}{id}, '>', $largest, 'versions go on');
is((topic_watermarks($broker, $topic{paused}, 0))[1], 0, 'a paused topic stays so');
$new->safe_psql('shop', "SELECT outbox.resume_topic('$topic{paused}')");
topic_wait($broker, $topic{paused}, 7);
is((topic_watermarks($broker, $topic{paused}, 0))[1], 7, 'with its parked events');
topic_write($broker, $topic{inward},
	{ key => '2', value => '{"id": 2, "name": "late"}', headers => { id => 12 } },
	{ key => '1', value => '{"id": 1, "name": "new"}', headers => { id => 20 } });
is_soon($new, 'shop', "SELECT string_agg(name, ' ') FROM replica", 'new', 'the replica goes on, deleted rows stay so');
is_soon($new, 'shop', 'SELECT count(*) FROM calls', '4', 'the handler too, once for each event');
is($new->safe_psql('shop', 'SELECT sum(received) FROM outbox._offset'), '8', 'nothing was read twice');

$new->stop('fast');
done_testing();
