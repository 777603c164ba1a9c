# What is counted of topics, servers and subscriptions, and that counters begin
# anew without a worker waiting for whoever asks for that.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my ($emitted, $other, $users) = map { unique_topic($_) } qw(emitted other users);
topic_create($broker, $_, 1) for $emitted, $other, $users;
my $node = outbox_node('main');
outbox_install($node, 'shop', $broker, 'message.max.bytes' => 2000);

sub emit
{
	my ($topic, $from, $to) = @_;
	$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'key', lpad(g::text, 7, '0')) FROM generate_series($from, $to) g");
	return;
}

sub counters
{
	my ($topic) = @_;
	return "SELECT state, delivered_count, delivered_bytes, parked_events, parked_count, dead_count, last_delivered_at IS NOT NULL, stats_reset IS NOT NULL"
	  . " FROM outbox.stat_topics WHERE topic = '$topic'";
}

# Every event is delivered, parked or dead, once.
my $sums = q(SELECT s.settled_events, t.sum FROM outbox.stat_servers s,
	(SELECT sum(delivered_count + parked_count + dead_count) FROM outbox.stat_topics) t);

emit($emitted, 1, 10);
is_soon($node, 'shop', counters($emitted), 'live|10|100|0|0|0|t|f', 'a topic that only emit knows');
$node->safe_psql('shop', "SELECT outbox.emit('$emitted', 'key', repeat('x', 3000))");
is_soon($node, 'shop', counters($emitted), 'live|10|100|0|0|1|t|f', 'a dead letter');
$node->safe_psql('shop', "SELECT outbox.pause_topic('$other')");
emit($other, 1, 4);
is_soon($node, 'shop', counters($other), 'paused|0|0|4|4|0|f|f', 'parked events');
is_soon($node, 'shop', $sums, '15|15', 'the sum is what the server settled');
$node->safe_psql('shop', "SELECT outbox.resume_topic('$other')");
is_soon($node, 'shop', counters($other), 'live|4|40|0|4|0|t|f', 'that were delivered then');

# A reset that is not committed yet.
my $session = $node->background_psql('shop');
$session->query_safe('BEGIN; SELECT outbox.stat_reset()');
emit($emitted, 1, 5);
emit($other, 1, 5);
is_soon($node, 'shop', counters($emitted), 'live|15|150|0|0|1|t|f', 'the relay does not wait for an open reset');
is_soon($node, 'shop', counters($other), 'live|9|90|0|4|0|t|f', 'of no topic');
$session->query_safe('ROLLBACK');
$session->quit;

# One topic, then the server, then what comes after.
my $before = $node->safe_psql('shop', 'SELECT clock_timestamp()');
$node->safe_psql('shop', "SELECT outbox.stat_reset('topic', '$emitted')");
is($node->safe_psql('shop', counters($emitted)), 'live|0|0|0|0|0|t|t', 'one topic begins anew');
is($node->safe_psql('shop', counters($other)), 'live|9|90|0|4|0|t|f', 'others do not');
is($node->safe_psql('shop', "SELECT stats_reset BETWEEN '$before' AND clock_timestamp() FROM outbox.stat_topics WHERE topic = '$emitted'"),
	't', 'it says when');
is($node->safe_psql('shop', 'SELECT settled_events, stats_reset IS NULL FROM outbox.stat_servers'), '25|t', 'nor does the server');
$node->safe_psql('shop', "SELECT outbox.stat_reset('server', 'kafka')");
emit($emitted, 1, 3);
is_soon($node, 'shop', counters($emitted), 'live|3|30|0|0|0|t|t', 'it counts on');
is_soon($node, 'shop', 'SELECT settled_events, stats_reset IS NOT NULL FROM outbox.stat_servers', '3|t', 'so does the server');

# The subscription's; a live applier updates the rows that are looked at.
$node->safe_psql('shop', <<"END");
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE replica (id bigint PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.publish('users', topic => '$users', initial => 'none');
SELECT outbox.replicate('replica', topic => '$users');
INSERT INTO users SELECT generate_series(1, 6);
END
my $received = q(SELECT received, applied, stats_reset IS NOT NULL FROM outbox.stat_subscriptions WHERE name = 'replica');
is_soon($node, 'shop', $received, '6|6|f', 'a subscription counts');
$session = $node->background_psql('shop');
$session->query_safe("BEGIN; SELECT outbox.stat_reset('subscription')");
$node->safe_psql('shop', 'INSERT INTO users VALUES (7)');
is_soon($node, 'shop', $received, '7|7|f', 'the applier does not wait for an open reset');
$session->query_safe('COMMIT');
$session->quit;
is($node->safe_psql('shop', $received), '1|1|t', 'what came since it began');
$node->safe_psql('shop', q(SELECT outbox.seek('replica', 'earliest')));
is_soon($node, 'shop', $received, '7|0|f', 'counters of new offsets begin anew by themselves');

# A restart forgets nothing; the table is updated in place.
emit($emitted, 1, 2);
topic_wait($broker, $emitted, 20);
$node->restart;
is_soon($node, 'shop', counters($emitted), 'live|5|50|0|0|0|t|t', 'what was counted last is stored before the relay ends');
emit($emitted, 1, 1);
is_soon($node, 'shop', counters($emitted), 'live|6|60|0|0|0|t|t', 'and it counts on');
is( $node->safe_psql('shop', q(SELECT pg_stat_force_next_flush(); SELECT n_tup_upd - n_tup_hot_upd FROM pg_stat_all_tables WHERE relname = '_topic_stat')),
	"\n0", 'no index is touched');

$node->stop;
done_testing();
