# pg_outbox.wait_for_standbys: what is not on enough standbys' disks is not
# published, nobody but the relay waits for that, and status says so.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node = outbox_node('primary', streaming => 1, conf => "wal_level = logical\nwal_sender_timeout = 0");
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', qq(CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$broker->{bootstrap}')));
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $conninfo = $standby->safe_psql('postgres', 'SHOW primary_conninfo') =~ s/'/''/gr;

my ($topic, $second, $paused) = map { my $t = unique_topic($_); topic_create($broker, $t, 1); $t } qw(one two paused);

sub configure
{
	my ($n, $setting) = @_;
	$n->safe_psql('postgres', "ALTER SYSTEM SET $setting");
	$n->reload;
	return;
}

sub disconnect
{
	configure($standby, "primary_conninfo = ''");
	wait_for_sql($node, 'postgres', q(SELECT count(*) FROM pg_stat_replication WHERE application_name = 'standby'), '0');
	return;
}

sub connect
{
	configure($standby, "primary_conninfo = '$conninfo'");
	return;
}

sub values_of
{
	my ($t) = @_;
	return join ' ', map { $_->{value} } topic_read($broker, $t);
}

# What the relay said when it looked the last time: that is certainly later than
# now once it says another number of standbys.
sub waits_for
{
	my ($n, $streaming, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	configure($node, "pg_outbox.wait_for_standbys = $n");
	return is_soon($node, 'shop', q(SELECT state, health, waiting_for FROM outbox.status WHERE kind = 'server' AND name = 'kafka'),
		qr/^waiting\|waiting\|0 of $n standbys have flushed WAL up to [0-9A-F]+\/[0-9A-F]+, $streaming are streaming$/, $name);
}

# ---------------------------------------------------------------------------
# Open, closed
# ---------------------------------------------------------------------------

configure($node, 'pg_outbox.wait_for_standbys = 1');
$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', 'a')");
is(join(' ', map { $_->{value} } topic_wait($broker, $topic, 1)), 'a', 'published while a standby streams');

# Flushed is enough: it need not have replayed.
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
wait_for_sql($standby, 'postgres', 'SELECT pg_get_wal_replay_pause_state()', 'paused');
$node->safe_psql('shop', "SET synchronous_commit = off; SELECT outbox.emit('$topic', 'k', g::text) FROM generate_series(1, 3) g");
is(join(' ', map { $_->{value} } topic_wait($broker, $topic, 4)), 'a 1 2 3', 'also while its replay is paused');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');

# Where WAL ends at the end of a page, what begins the next page is not there
# yet, neither to be flushed nor to be waited for.  One in a thousand commits
# ends so.
my $many = unique_topic('many');
topic_create($broker, $many, 1);
run_pgbench($node, 'shop', "\\set n random(1, 900)\nSELECT outbox.emit('$many', 'k', repeat('x', :n)), pg_sleep(0.002);\n",
	clients => 1, transactions => 2500);
is_soon($node, 'shop', q(SELECT backlog_events FROM outbox.stat_servers WHERE server = 'kafka'), '0', 'events are published one by one');
unlike(slurp_file($node->logfile), qr/not satisfied|past end of generated WAL/, 'no flush is asked for beyond the end of WAL');

disconnect();
$node->safe_psql('shop', <<"END");
SELECT outbox.emit('$topic', 'k', 'b');
SELECT outbox.emit('$second', 'k', 'c', server => 'other');
END
pass('writers do not wait');
waits_for(2, 0, 'status says what the server waits for');
waits_for(1, 0, 'and follows the setting');
is_soon($node, 'shop', q(SELECT state, waiting_for ~ 'server "kafka": 0 of 1 standbys .*server "other": 0 of 1 standbys' FROM outbox.status WHERE kind = 'worker' AND name = 'relay'),
	'waiting|t', 'of every server');
is(values_of($topic) . values_of($second), 'a 1 2 3', 'nothing is published that no standby has');
is($node->safe_psql('shop', 'SELECT server, backlog_events >= 2 FROM outbox.stat_servers ORDER BY 1'), "kafka|t\nother|t", 'it waits in the log');

# ---------------------------------------------------------------------------
# Who is no standby
# ---------------------------------------------------------------------------

# One that archives, and says that it has flushed.
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('archive')");
my $dir = PostgreSQL::Test::Utils::tempdir();
my $receiver = IPC::Run::start([ 'pg_receivewal', '-D', $dir, '-S', 'archive', '--synchronous', '-d', $node->connstr('postgres') ],
	'<', \'', '>', '/dev/null', '2>', "$dir.log");

# A subscriber of logical replication, which replays as well.
$node->safe_psql('postgres', <<'END');
CREATE DATABASE other;
SELECT pg_create_logical_replication_slot('sub', 'pgoutput');
CREATE PUBLICATION pub FOR ALL TABLES;
END
$node->safe_psql('other', sprintf q(CREATE SUBSCRIPTION sub CONNECTION '%s' PUBLICATION pub WITH (create_slot = false, copy_data = false)),
	$node->connstr('postgres') =~ s/'/''/gr);
is_soon($node, 'postgres',
	q(SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn >= (
		SELECT pg_current_wal_flush_lsn() FROM pg_database WHERE datname = 'shop')),
	'2', 'both have flushed everything');
waits_for(2, 0, 'neither a pg_receivewal nor a subscriber counts');
waits_for(1, 0, 'whatever it has flushed');
is(values_of($topic) . values_of($second), 'a 1 2 3', 'nothing is published for their sake');

# ---------------------------------------------------------------------------
# Open again
# ---------------------------------------------------------------------------

&connect();
is(join(' ', map { $_->{value} } topic_wait($broker, $topic, 5)), 'a 1 2 3 b', 'published once the standby has it');
topic_wait($broker, $second, 1);
is(values_of($second), 'c', 'to the other server as well');
is_soon($node, 'shop', q(SELECT state, health, waiting_for FROM outbox.status WHERE kind = 'server' AND name = 'kafka'), 'publishing|ok|',
	'status is content');

# What was parked without a gate does not pass one by being parked.
disconnect();
configure($node, 'pg_outbox.wait_for_standbys = 0');
$node->safe_psql('shop', qq(SELECT outbox.pause_topic('$paused', 'kafka'); SELECT outbox.emit('$paused', 'k', 'd')));
is_soon($node, 'shop', 'SELECT count(*) FROM outbox._parked', '1', 'an event is parked, without a gate');
waits_for(1, 0, 'the gate closes at once when it is asked for');
$node->safe_psql('shop', "SELECT outbox.resume_topic('$paused', 'kafka')");
waits_for(2, 0, 'the topic goes on');
is(values_of($paused), '', 'but what it had parked waits');
$node->restart;
waits_for(1, 0, 'also after a restart');
is(values_of($paused), '', 'of the server');
&connect();
topic_wait($broker, $paused, 1);
is(values_of($paused), 'd', 'until the standby has it');

# A copy, and a letter that is driven again, come out of the log.
$node->safe_psql('shop', <<"END");
CREATE TABLE item (id int PRIMARY KEY);
SELECT outbox.publish('item', topic => '$second', initial => 'none', server => 'other');
SELECT outbox.emit('$topic', 'k', repeat('x', 2000000)) \\g /dev/null
END
is_soon($node, 'shop', "SELECT count(*) FROM outbox.dead_letters", '1', 'a letter');
disconnect();
$node->safe_psql('shop', <<'END');
SET pg_outbox.capture = off;
INSERT INTO item VALUES (1);
SELECT outbox.copy('item');
SELECT outbox.edit(id, 'e') FROM outbox.dead_letters;
SELECT outbox.redrive(id) FROM outbox.dead_letters;
END
waits_for(2, 0, 'an event driven again waits');
is_soon($node, 'shop', q(SELECT count(*) > 0 FROM outbox.events WHERE convert_from(value, 'UTF8') = 'e'), 't', 'it is in the log');
is(values_of($topic) . values_of($second), 'a 1 2 3 bc', 'and not published');
waits_for(1, 0, 'one standby will do');
&connect();
topic_wait($broker, $_, { $topic => 6, $second => 2 }->{$_}) for $topic, $second;
is(values_of($topic) . ' ' . values_of($second), 'a 1 2 3 b e c {"id":1}', 'both follow');

# ---------------------------------------------------------------------------
# Nobody is in the way while it waits
# ---------------------------------------------------------------------------

disconnect();
outbox_install($node, 'gone', $broker);
$node->safe_psql('gone', "SELECT outbox.emit('$topic', 'k', 'never')");
is_soon($node, 'gone', q(SELECT health FROM outbox.status WHERE kind = 'server'), 'waiting', 'a second database waits');
$node->safe_psql('postgres', 'DROP DATABASE gone');
pass('and is dropped all the same');
$node->safe_psql('other', 'ALTER SUBSCRIPTION sub DISABLE; ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub');
$receiver->kill_kill;
$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', 'f')");
my $begun = time;
$node->stop('fast');
cmp_ok(time - $begun, '<', 10, 'the server stops');
unlike(values_of($topic), qr/never|f/, 'without having published');

done_testing();
