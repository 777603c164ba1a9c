# A topic that somebody is publishing to for the first time, in a transaction that
# he leaves open, does not hold up the others when its events have to be parked;
# in Kafka transactions what is behind them waits, and nothing is lost.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = outbox_kafka('--no-auto-create');
my $node = outbox_node('main');

sub new_topic
{
	my ($db, $exactly_once) = @_;
	my ($new, $other) = (unique_topic("new-$db"), unique_topic("other-$db"));

	topic_create($kafka, $other, 1);
	outbox_install($node, $db, $kafka, 'topic.metadata.propagation.max.ms' => 500, exactly_once => $exactly_once);
	$node->safe_psql($db, <<"END");
CREATE TABLE users (id bigint PRIMARY KEY);
SELECT outbox.emit('$other', 'k', '1'::text);
END
	topic_wait($kafka, $other, 1);

	# The topic does not exist, so its events will be parked.
	my ($in, $out) = ("BEGIN;\nSELECT outbox.publish('users', topic => '$new');\n", '');
	my $session = IPC::Run::start([ 'psql', '-XqAt', $node->connstr($db) ], '<', \$in, '>', \$out);
	wait_until(sub { $session->pump_nb; return $out =~ /users/ }, 'the publication') or die;
	$node->safe_psql($db, <<"END");
SELECT outbox.emit('$new', 'k', 'a'::text);
SELECT outbox.emit('$other', 'k', '2'::text);
END
	is_soon($node, $db, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay' AND datname = '$db' AND wait_event_type = 'Lock'", '0', 'the relay waits for nobody');
	ok(wait_until(sub { slurp_file($node->logfile) =~ /stopped delivery to topic "$new"/ }), 'the topic was stopped');
	$node->safe_psql($db, "SELECT outbox.emit('$new', 'k', 'b'::text), outbox.emit('$other', 'k', '3'::text)");
	is(join(' ', map { $_->{value} } topic_wait($kafka, $other, 3, 20)), '1 2 3', 'the other topic goes on meanwhile')
	  if $exactly_once eq 'off';
	is($node->safe_psql($db, 'SELECT count(*) FROM outbox._parked'), '0', 'nothing can be parked yet');

	$in .= "ROLLBACK;\n\\q\n";
	$session->finish;
	is_soon($node, $db, "SELECT parked_events, state FROM outbox.stat_topics WHERE topic = '$new'", '2|stopped', 'now it is');
	is_soon($node, $db, 'SELECT backlog_events FROM outbox.stat_servers', '0', 'and nothing is left to be settled');
	is(join(' ', map { $_->{value} } topic_wait($kafka, $other, 3)), '1 2 3', 'the other topic has all of its events, once');
	topic_create($kafka, $new, 1);
	is(join(' ', map { $_->{value} } topic_wait($kafka, $new, 2)), 'a b', 'they arrive in order');
}

for my $exactly_once (qw(off on))
{
	subtest "exactly_once $exactly_once" => sub { new_topic("shop_$exactly_once", $exactly_once) };
}

# Nor does a topic whose row somebody holds: that it is stopped is stored when the
# row is free.  If the relay ends before, its events are sent all the same.
subtest 'a row that is held' => sub {
	my ($db, $held) = ('shop_off', unique_topic('held'));

	$node->safe_psql($db, "SELECT outbox.publish('users', topic => '$held')");
	my ($in, $out) = ("BEGIN;\nSELECT 'held' FROM outbox._stream WHERE topic = '$held' FOR UPDATE;\n", '');
	my $session = IPC::Run::start([ 'psql', '-XqAt', $node->connstr($db) ], '<', \$in, '>', \$out);
	wait_until(sub { $session->pump_nb; return $out =~ /held/ }, 'the row') or die;
	$node->safe_psql($db, "SELECT outbox.emit('$held', 'k', 'a'::text)");
	is_soon($node, $db, 'SELECT count(*) FROM outbox._parked', '1', 'the event is parked');
	kill_worker($node, $db, 'relay', 'TERM');
	topic_create($kafka, $held, 1);
	is(join(' ', map { $_->{value} } topic_wait($kafka, $held, 1)), 'a', 'the next relay sends it');
	$in .= "ROLLBACK;\n\\q\n";
	$session->finish;
	is_soon($node, $db, "SELECT parked_events, state FROM outbox.stat_topics WHERE topic = '$held'", '0|live', 'and the topic is live');
};

$node->stop;
done_testing();
