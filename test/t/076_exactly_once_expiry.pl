# Exactly once to Kafka where brokers forget all that they keep of a relay that is
# idle for long enough: its place, its name and what it wrote last.  With defaults that
# is a week; here a minute, in which one relay is idle, one server is down, and one
# died between Kafka's commit and its own.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = outbox_kafka(map { ('--property', $_) }
	  'offsets.retention.minutes=1', 'offsets.retention.check.interval.ms=1000',
	'transactional.id.expiration.ms=20000', 'transaction.remove.expired.transaction.cleanup.interval.ms=1000',
	'producer.id.expiration.ms=20000', 'producer.id.expiration.check.interval.ms=1000');
my %node = map { $_ => outbox_node($_) } qw(idle down);
my @flow = ([ 'idle', 'shop' ], [ 'down', 'shop' ], [ 'down', 'dies' ]);
my @plain = ('idle', 'plain');    # at least once, but its producer is forgotten as well
my (%topic, %group, %sent);

for (@flow, \@plain)
{
	my ($node, $db) = @$_;

	outbox_install($node{$node}, $db, $kafka, exactly_once => $db eq 'plain' ? 'false' : 'true');
	$topic{"$node $db"} = unique_topic("${node}_$db");
	topic_create($kafka, $topic{"$node $db"}, 1);
	$group{"$node $db"} = group_name($node{$node}, $db);
}

my $settled = 'SELECT backlog_events FROM outbox.stat_servers';

sub emit
{
	my ($node, $db, $n) = @_;
	my $from = ($sent{"$node $db"} // 0) + 1;

	$sent{"$node $db"} += $n;
	$node{$node}->safe_psql($db, sprintf q(SELECT count(outbox.emit('%s', 'k', g::text)) FROM generate_series(%d, %d) g),
		$topic{"$node $db"}, $from, $sent{"$node $db"});
}

sub arrived
{
	my ($node, $db, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return topic_is($kafka, $topic{"$node $db"}, $expected, $name);
}

# How many of the places are there.
sub places_left
{
	return scalar grep { { places($kafka, $group{"@$_"}) }->{ $topic{"@$_"} } } @flow;
}

sub kills
{
	return scalar(() = slurp_file($node{idle}->logfile) =~ /was terminated by signal 9/g);
}

for (@flow, \@plain)
{
	emit(@$_, 5);
	is_soon($node{ $_->[0] }, $_->[1], $settled, '0', "@$_: events are settled");
}
# a crash may lose the last moment of what is settled, too
$node{down}->safe_psql('shop', 'CHECKPOINT');
fault($node{down}, 'relay.txn_committed=wait');
emit('down', 'dies', 5);
arrived('down', 'dies', join(' ', 1 .. 10), 'committed in Kafka');
is(places_left(), 3, 'each has its place');
$node{down}->stop('immediate');

my $relay = wait_for_worker($node{idle}, 'shop', 'relay');
ok(wait_until(sub { !places_left() }, 'the end of the places', 120), 'brokers have forgotten the places');

for ([ 'idle', 'shop' ], \@plain)
{
	emit(@$_, 5);
	is_soon($node{idle}, $_->[1], $settled, '0', "@$_: goes on");
	arrived(@$_, join(' ', 1 .. 10), 'each event is there once');
	is($node{idle}->safe_psql($_->[1], 'SELECT state, parked_events FROM outbox.stat_topics'), 'live|0', 'and its topic was not to blame');
}
is(worker_pid($node{idle}, 'shop', 'relay'), $relay, 'the idle relay lives');
$node{down}->start;
no_faults($node{down});
for ([ 'down', 'shop' ], [ 'down', 'dies' ])
{
	emit(@$_, 5);
	is_soon($node{down}, $_->[1], $settled, '0', "@$_: goes on");
}
arrived('down', 'shop', join(' ', 1 .. 10), 'each event is there once');
arrived('down', 'dies', join(' ', 1 .. 10, 6 .. 15), 'what it did not know to be committed is repeated, and nothing else');

# The new places count.
fault($node{idle}, 'relay.before_read=wait');
emit('idle', 'shop', 5);
fault($node{idle}, 'relay.txn_committed=kill');
ok(wait_until(sub { kills() > 0 }, 'the end of the relay'), 'the idle one dies');
no_faults($node{idle});
is_soon($node{idle}, 'shop', $settled, '0', 'and goes on');
arrived('idle', 'shop', join(' ', 1 .. 15), 'each event is there once');

$node{$_}->stop for sort keys %node;
done_testing();
