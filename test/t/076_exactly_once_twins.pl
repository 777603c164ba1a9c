# Exactly once to Kafka where a copy of a data directory runs beside its original: the
# one that is fenced off stops and says so, and goes on after a restart from where it
# was, whatever the other has published meanwhile.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my $topic = unique_topic('twins');
topic_create($kafka, $topic, 1);
my $one = outbox_node('one', streaming => 1);
outbox_install($one, 'shop', $kafka, exactly_once => 'true');

my $settled = 'SELECT backlog_events FROM outbox.stat_servers';
my $status = q(SELECT state, health, last_error FROM outbox.status WHERE kind = 'server');
my $stopped = 'stopped|stopped|a copy of this server publishes in its place';
my @expected;

sub emit
{
	my ($node, $what, $from, $to) = @_;
	$node->safe_psql('shop', "SELECT count(outbox.emit('$topic', 'k', '$what' || g)) FROM generate_series($from, $to) g");
	return map { "$what$_" } $from .. $to;
}

# Events as "a1..10 b1..10".
sub runs
{
	my @runs;

	for (@_)
	{
		my ($what, $n) = /^(\D+)(\d+)$/;

		if (@runs && $runs[-1][0] eq $what && $n == $runs[-1][2] + 1) { $runs[-1][2] = $n }
		else { push @runs, [ $what, $n, $n ] }
	}
	return join ' ', map { "$_->[0]$_->[1]..$_->[2]" } @runs;
}

# Readers see a transaction soon after its commit.
sub arrived
{
	my ($name, @events) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @seen;

	push @expected, @events;
	wait_until(sub { @seen = map { $_->{value} } topic_read($kafka, $topic); return @seen && $seen[-1] eq $events[-1] }, "event $events[-1]");
	is(runs(@seen), runs(@expected), $name);
}

my @events = emit($one, 'a', 1, 10);
is_soon($one, 'shop', $settled, '0', 'the original publishes');
arrived('once', @events);
$one->stop;
PostgreSQL::Test::RecursiveCopy::copypath($one->data_dir, $one->backup_dir . '/copy');
my $two = PostgreSQL::Test::Cluster->new('two');
$two->init_from_backup($one, 'copy');

# The one that starts later has the name, until the other is restarted, and so on.
$one->start;
@events = emit($one, 'b', 1, 10);
is_soon($one, 'shop', $settled, '0', 'the original goes on');
arrived('once', @events);
$two->start;
@events = emit($two, 'c', 1, 10);
is_soon($two, 'shop', $settled, '0', 'the copy publishes');
arrived('what only it has, once', @events);

my @waiting = emit($one, 'd', 1, 10);
is_soon($one, 'shop', $status, $stopped, 'the original finds that it is fenced off, and stops');
is($one->safe_psql('shop', q(SELECT waiting_for FROM outbox.status WHERE kind = 'server')), 'another server to stop', 'its status says what for');
like(slurp_file($one->logfile), qr/WARNING:  stopped publishing to server "kafka"\n.*DETAIL:  a copy of this server publishes in its place\.\n.*HINT:  Stop one of them; restart this one/, 'and the log what to do');
@events = emit($two, 'e', 1, 200);
is_soon($two, 'shop', $settled, '0', 'the copy goes on undisturbed');
arrived('nothing of the original', @events);
push @waiting, emit($one, 'd', 11, 300);

# The copy's place is not of the original's history, although the original has more
# WAL by now.
$two->stop;
$one->restart;
is_soon($one, 'shop', $settled, '0', 'the copy is stopped, the original restarted');
arrived('what waited is there once, nothing of before is repeated', @waiting);
@events = emit($one, 'f', 1, 10);
is_soon($one, 'shop', $settled, '0', 'it goes on');
arrived('once', @events);

# And back, while the other runs.
$two->start;
@events = emit($two, 'g', 1, 10);
is_soon($two, 'shop', $settled, '0', 'the copy is started again');
arrived('what only it has, once', @events);
@waiting = emit($one, 'h', 1, 10);
is_soon($one, 'shop', $status, $stopped, 'the original stops');
$one->restart;
is_soon($one, 'shop', $settled, '0', 'restarted beside the copy, it takes the name');
arrived('once', @waiting);
emit($two, 'i', 1, 10);
is_soon($two, 'shop', $status, $stopped, 'the copy stops');
$two->restart;
is_soon($two, 'shop', $settled, '0', 'and so for the copy');
arrived('each event is there once', map { "i$_" } 1 .. 10);

$_->stop for $one, $two;
done_testing();
