# A paused topic: nothing is sent, nothing is lost, others go on, and the order
# is kept when it goes on.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my ($held, $other) = map { unique_topic($_) } qw(held other);
topic_create($broker, $_, 1) for $held, $other;
my $node = outbox_node('main');
outbox_install($node, 'shop', $broker);

sub emit
{
	my ($topic, $from, $to) = @_;
	$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', g::text) FROM generate_series($from, $to) g");
	return;
}

sub values_in
{
	my ($topic) = @_;
	return join ' ', map { $_->{value} } topic_read($broker, $topic);
}

emit($held, 1, 2);
topic_wait($broker, $held, 2);
$node->safe_psql('shop', "SELECT outbox.pause_topic('$held')");
is($node->safe_psql('shop', "SELECT state, health FROM outbox.status WHERE kind = 'topic' AND name = '$held'"),
	'paused|paused', 'status says so');
emit($held, 3, 100);
emit($other, 1, 3);
topic_wait($broker, $other, 3);
is_soon($node, 'shop', "SELECT parked_events FROM outbox.stat_topics WHERE topic = '$held'", '98', 'its events are kept aside');
is(values_in($held), '1 2', 'and not sent');
is_soon($node, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'the log is not held');

$node->restart;
emit($held, 101, 110);
is_soon($node, 'shop', "SELECT state, parked_events FROM outbox.stat_topics WHERE topic = '$held'", 'paused|108', 'paused across a restart');

$node->safe_psql('shop', "BEGIN; SELECT outbox.resume_topic('$held'); ROLLBACK");
emit($held, 111, 111);
is_soon($node, 'shop', "SELECT state, parked_events FROM outbox.stat_topics WHERE topic = '$held'", 'paused|109', 'a rolled back resume does nothing');
$node->safe_psql('shop', "SELECT outbox.resume_topic('$held'); SELECT outbox.emit('$held', 'k', '112')");
topic_wait($broker, $held, 112);
is(values_in($held), join(' ', 1 .. 112), 'all are sent in order');
is_soon($node, 'shop', "SELECT state, parked_events FROM outbox.stat_topics WHERE topic = '$held'", 'live|0', 'the topic is live again');

# Before it was ever written to, and what cannot be.
my $new = unique_topic('new');
topic_create($broker, $new, 1);
$node->safe_psql('shop', "SELECT outbox.pause_topic('$new'); SELECT outbox.pause_topic('$new'); SELECT outbox.emit('$new', 'k', 'x')");
is_soon($node, 'shop', "SELECT parked_events FROM outbox.stat_topics WHERE topic = '$new'", '1', 'a topic that is new');
my ($rc, $out, $err) = $node->psql('shop', "SELECT outbox.resume_topic('$held')");
like($err, qr/topic "$held" is not paused/, 'what is not paused is not resumed');
($rc, $out, $err) = $node->psql('shop', "SELECT outbox.pause_topic('$held', 'nowhere')");
like($err, qr/Kafka server "nowhere" does not exist/, 'no such server');
($rc, $out, $err) = $node->psql('shop', 'SELECT outbox.pause_topic(NULL)');
like($err, qr/topic must not be null/, 'no topic');

done_testing();
