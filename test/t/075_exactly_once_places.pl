# Exactly once to Kafka where the places that are found there are not what the relay
# expects: of other brokers, of a topic that was deleted, of a state that is lost.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my $other = outbox_kafka();
my ($topic, $newest) = (unique_topic('places'), unique_topic('newest'));
topic_create($kafka, $newest, 1);
topic_create($_,     $topic,  1) for $kafka, $other;
my $node = outbox_node('main');
outbox_install($node, 'shop', $other, exactly_once => 'true', 'transaction.timeout.ms' => 5000);

my $settled = 'SELECT backlog_events FROM outbox.stat_servers';
my $sent = 0;

sub emit
{
	my ($to, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$sent++;
	$node->safe_psql('shop', "SELECT outbox.emit('$to', 'k', '$sent')");
	return !defined $name || is_soon($node, 'shop', $settled, '0', $name);
}

sub move_to
{
	my ($broker) = @_;
	return $node->safe_psql('shop', qq(ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '$broker->{bootstrap}')));
}

# ---------------------------------------------------------------------------
# Other brokers, and back
# ---------------------------------------------------------------------------

emit($topic, 'one Kafka');
move_to($kafka);
emit($topic, 'another');
$node->restart;
emit($topic, 'after a restart');
move_to($other);
emit($topic, 'the first one again, where a server that has ended has stored the newest place');
topic_is($other, $topic, '1 4', 'each event is there once');
move_to($kafka);
emit($topic, 'and back');
topic_is($kafka, $topic, '2 3 5', 'each event is there once');

# ---------------------------------------------------------------------------
# The topic of the newest place is deleted
# ---------------------------------------------------------------------------

emit($newest, 'a newer place on another topic');
$node->restart;
emit($newest, 'the restarted server has its places there');
kafka_admin($kafka, 'delete', $newest);
ok(wait_until(sub { !topic_read($kafka, $newest) }), 'the topic is gone');
# costs the producer, and the next one finds the older place only; the brokers make it anew
emit($newest, 'an event for a topic that is gone') for 1 .. 3;
emit($topic, 'one for another');
topic_is($kafka, $topic, '2 3 5 11', 'each event is there once');
topic_is($kafka, $newest, '8 9 10', 'those of the new topic as well');

# ---------------------------------------------------------------------------
# The data directory is set back, on its timeline
# ---------------------------------------------------------------------------

$node->safe_psql('shop', "SELECT outbox.pause('relay')");
$node->stop;
my $data = $node->data_dir;
PostgreSQL::Test::RecursiveCopy::copypath($data, "$data.snapshot");
$node->start;
$node->safe_psql('shop', "SELECT outbox.resume('relay')");
emit($topic) for 1 .. 5;
is_soon($node, 'shop', $settled, '0', 'what will be lost is published');
$node->stop('immediate');
File::Path::remove_tree($data);
rename "$data.snapshot", $data or die;
chmod 0700, $data;
$node->start;
emit($topic) for 1 .. 5;
# as much WAL and as many transactions as the lost ones
$node->safe_psql('shop', 'SELECT pg_switch_wal(); CREATE TABLE wal AS SELECT generate_series(1, 100)');
emit($topic) for 1 .. 5;
$node->safe_psql('shop', "SELECT outbox.resume('relay')");
is_soon($node, 'shop', $settled, '0', 'the server that was set back publishes');
topic_is($kafka, $topic, join(' ', 2, 3, 5, 11 .. 26), 'all of its events, although a place passes them');
unlike(slurp_file($node->logfile), qr/stopped publishing/, 'it never took itself for a copy');

$node->stop;
done_testing();
