# How the relay meets what its surroundings do: settings of its database,
# options of servers, topics paused and resumed, failures that are over.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node   = outbox_node('main');
my $relay  = q(backend_type = 'pg_outbox relay' AND datname =);

sub emit
{
	my ($db, $topic, $value) = @_;
	$node->safe_psql($db, "SELECT outbox.emit('$topic', 'k', '$value')");
	return;
}

sub values_in
{
	my ($topic) = @_;
	return join ' ', map { $_->{value} } topic_read($broker, $topic);
}

# ---------------------------------------------------------------------------
# Settings of the database are not the relay's
# ---------------------------------------------------------------------------

outbox_install($node, 'settings', $broker);
$node->safe_psql('settings', <<'END');
CREATE ROLE nobody_special;
ALTER DATABASE settings SET role = 'nobody_special';
ALTER DATABASE settings SET session_authorization = 'nobody_special';
ALTER DATABASE settings SET statement_timeout = '1ms';
ALTER DATABASE settings SET lock_timeout = '1ms';
ALTER DATABASE settings SET default_transaction_read_only = on;
ALTER DATABASE settings SET default_transaction_isolation = 'serializable';
ALTER DATABASE settings SET standard_conforming_strings = off;
ALTER DATABASE settings SET transform_null_equals = on;
ALTER DATABASE settings SET search_path = 'public';
END
if ($node->pg_version >= 17)
{
	$node->safe_psql('postgres', <<'END');
ALTER DATABASE settings SET transaction_timeout = '1ms';
ALTER DATABASE settings SET restrict_nonsystem_relation_kind = 'view';
END
	$ENV{PGOPTIONS} = '-c transaction_timeout=0';    # of ours
}
$node->safe_psql('settings', "SET session_authorization = default; SET role = none; SET default_transaction_read_only = off; SET statement_timeout = 0; SELECT outbox.emit('settings', 'k', 'v')");
topic_wait($broker, 'settings', 1);
is(values_in('settings'), 'v', 'no setting of its database stops the relay');
delete $ENV{PGOPTIONS};

# ---------------------------------------------------------------------------
# A secrets file that changes
# ---------------------------------------------------------------------------

my $dir  = PostgreSQL::Test::Utils::tempdir();
my $file = "$dir/secrets";

sub secrets
{
	my ($text) = @_;
	unlink $file;
	append_to_file($file, $text);
	chmod 0600, $file;
	return;
}

# The producer's threads, which say whether it is still the same one.
sub threads
{
	my $pid = worker_pid($node, 'secrets', 'relay');
	return join ' ', sort grep { $_ ne $pid } map { m{(\d+)$} } glob "/proc/$pid/task/*";
}

secrets("sasl.username = one\n");
outbox_install($node, 'secrets', $broker, 'secrets.file' => $file);
emit('secrets', 'secrets', 1);
topic_wait($broker, 'secrets', 1);
my %before = map { $_ => 1 } split ' ', threads();
ok(%before > 0, 'there is a producer');
secrets("sasl.username = two\n");
$node->reload;
ok(wait_until(sub { my @now = split ' ', threads(); return @now > 0 && !grep { $before{$_} } @now }, 'other threads'),
	'the relay notices that the file has other contents');
emit('secrets', 'secrets', 2);
topic_wait($broker, 'secrets', 2);
$node->safe_psql('secrets', qq(CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$broker->{bootstrap}')));
unlink $file;
$node->reload;
emit('secrets', 'secrets', 3);
$node->safe_psql('secrets', "SELECT outbox.emit('secrets_other', 'k', 'v', server => 'other')");
topic_wait($broker, 'secrets', 3);
topic_wait($broker, 'secrets_other', 1);
is(values_in('secrets') . ' ' . values_in('secrets_other'), '1 2 3 v', 'one that is gone stops no producer that works');

# ---------------------------------------------------------------------------
# Long reports
# ---------------------------------------------------------------------------

outbox_install($node, 'long', $broker);
emit('long', 'long', 1);
topic_wait($broker, 'long', 1);
$node->safe_psql('long', q(ALTER SERVER kafka OPTIONS (ADD "secrets.file" '/none')));
for my $name ('a', 'bb', 'ccc')
{
	$node->safe_psql('long', qq(DO \$\$ BEGIN EXECUTE format('ALTER SERVER kafka OPTIONS (SET "secrets.file" %L)', '/$name' || repeat(U&'\\20AC', 200)); END \$\$));
	is_soon($node, 'long', "SELECT waiting_for ~ '/$name' AND last_error ~ '/$name' FROM outbox._workers() WHERE worker = 'relay'", 't', "$name is reported");
	is($node->safe_psql('long', "SELECT convert_from(convert_to(waiting_for || last_error, 'LATIN9'), 'LATIN9') = waiting_for || last_error
		FROM outbox._workers() WHERE worker = 'relay'"), 't', 'and cut between two characters');
}

# ---------------------------------------------------------------------------
# A topic that is due while there is no producer
# ---------------------------------------------------------------------------

sub switches
{
	my $pid = worker_pid($node, 'due', 'relay');
	return slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die;
}

outbox_install($node, 'due', $broker);
mock_control($broker, 'topic-error', 'due', 'UNKNOWN_TOPIC_OR_PART');
emit('due', 'due', 1);
is_soon($node, 'due', "SELECT state FROM outbox.stat_topics WHERE topic = 'due'", 'stopped', 'a topic is stopped');
my $from = -s $node->logfile;
mock_control($broker, 'errors', 'Produce', 'CLUSTER_AUTHORIZATION_FAILED', 1000);
emit('due', 'other', 1);
my $switches = switches();
ok(wait_until(sub {
	my @tries = slurp_file($node->logfile, $from) =~ /relay cannot publish to server "kafka" for now/g;
	return @tries >= 7;
}, 'seven attempts'), 'and its server refuses everything');
cmp_ok(switches() - $switches, '<', 1000, 'the relay sleeps in between');
mock_control($broker, 'clear', 'Produce');
mock_control($broker, 'topic-error', 'due', 'NO_ERROR');
topic_wait($broker, 'due', 1);
is_soon($node, 'due', "SELECT state FROM outbox.stat_topics WHERE topic = 'due'", 'live', 'the topic goes on');

# ---------------------------------------------------------------------------
# Paused and resumed before the relay looked
# ---------------------------------------------------------------------------

outbox_install($node, 'calm', $broker);
emit('calm', 'calm', 1);
topic_wait($broker, 'calm', 1);
for my $time ('first', 'second')
{
	$node->safe_psql('calm', "BEGIN; SELECT outbox.pause_topic('calm'); SELECT outbox.resume_topic('calm'); COMMIT");
	is_soon($node, 'calm', "SELECT state, reason FROM outbox.stat_topics WHERE topic = 'calm'", 'live|', "a topic paused and resumed at once is live ($time time)");
}
emit('calm', 'calm', 2);
topic_wait($broker, 'calm', 2);

# ---------------------------------------------------------------------------
# A topic that waits for another one's settlement
# ---------------------------------------------------------------------------

emit('calm', 'loud', 1);
topic_wait($broker, 'loud', 1);
$node->safe_psql('calm', "SELECT outbox.pause_topic('calm')");
emit('calm', 'calm', 3);
is_soon($node, 'calm', "SELECT parked_events FROM outbox.stat_topics WHERE topic = 'calm'", '1', 'a topic is paused');
$node->safe_psql('calm', "DELETE FROM outbox._parked");
mock_control($broker, 'down', 'all');
emit('calm', 'loud', 2);
emit('calm', 'calm', 4);
$node->safe_psql('calm', "SELECT outbox.resume_topic('calm')");
is_soon($node, 'calm', "SELECT count(*) FROM pg_stat_activity WHERE $relay 'calm' AND state = 'idle'
	AND state_change > (SELECT since + interval '2 s' FROM outbox.stat_topics WHERE topic = 'calm')", '1', 'the relay sleeps meanwhile');
mock_control($broker, 'up', 'all');
topic_wait($broker, 'loud', 2);
topic_wait($broker, 'calm', 3);
is(values_in('calm'), '1 2 4', 'and goes on with both');
is_soon($node, 'calm', "SELECT state FROM outbox.stat_topics WHERE topic = 'calm'", 'live', 'the topic is live');

# ---------------------------------------------------------------------------
# A server's name
# ---------------------------------------------------------------------------

my ($rc, $out, $err) = $node->psql('calm', 'ALTER SERVER kafka RENAME TO other');
like($err, qr/cannot rename Kafka server "kafka" because events refer to it by name/, 'a server that was used is not renamed');
$node->safe_psql('calm', <<"END");
CREATE SERVER fresh FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$broker->{bootstrap}');
ALTER SERVER fresh RENAME TO other;
ALTER SERVER other OPTIONS (ADD "client.id" 'x');
ALTER SERVER other RENAME TO fresh;
CREATE FOREIGN DATA WRAPPER foreign_wrapper;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER foreign_wrapper;
ALTER SERVER elsewhere RENAME TO elsewhere_2;
END
is($node->safe_psql('calm', 'SELECT string_agg(srvname, q ORDER BY srvname) FROM pg_foreign_server, (VALUES (chr(32))) v (q)'), 'elsewhere_2 fresh kafka', 'others are');

# ---------------------------------------------------------------------------
# Failures that are over
# ---------------------------------------------------------------------------

outbox_install($node, 'again', $broker);
emit('again', 'again', 0);
topic_wait($broker, 'again', 1);
for my $round (1 .. 10)
{
	mock_control($broker, 'errors', 'Produce', 'CLUSTER_AUTHORIZATION_FAILED', 1);
	emit('again', 'again', $round);
	ok(wait_for_sql($node, 'again', "SELECT settled_events > $round FROM outbox.stat_servers", 't', 12),
		"a fatal error after a delivery costs little ($round)");
}

$node->stop('fast');
done_testing();
