# Exactly once to Kafka: what a reader of committed messages sees, whenever the
# relay dies.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my $topic = unique_topic('once');
topic_create($kafka, $topic, 1);
my $node = outbox_node('main');
outbox_install($node, 'shop', $kafka, exactly_once => 'true');

my $settled = 'SELECT backlog_events FROM outbox.stat_servers';
my $sent = 0;    # events recorded so far

sub emit
{
	my ($n, $to) = @_;
	my $from = $sent + 1;
	$sent += $n;
	$node->safe_psql('shop', sprintf q(SELECT count(outbox.emit('%s', 'k', g::text)) FROM generate_series(%d, %d) g),
		$to // $topic, $from, $sent);
}

# What committed messages a topic has, as "1..5 7".
sub seen
{
	my ($name) = @_;
	my @n = map { $_->{value} } topic_read($kafka, $name // $topic);
	my @runs;
	for (@n)
	{
		if (@runs && $_ == $runs[-1][1] + 1) { $runs[-1][1] = $_ }
		else { push @runs, [ $_, $_ ] }
	}
	return join ' ', map { $_->[0] == $_->[1] ? $_->[0] : "$_->[0]..$_->[1]" } @runs;
}

# Readers see a transaction soon after its commit.
sub arrived
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $seen;

	wait_until(sub { $seen = seen(); return $seen =~ /\b$sent$/ }, "event $sent");
	is($seen, "1..$sent", $name);
}

emit(10);
arrived('events arrive');
is_soon($node, 'shop', $settled, '0', 'and are settled');

# ---------------------------------------------------------------------------
# At each step
# ---------------------------------------------------------------------------

# How often a process of the server was killed.
sub kills
{
	return scalar(() = slurp_file($node->logfile) =~ /was terminated by signal 9/g);
}

# Events are recorded while the relay waits; it goes on to the point, and dies.
for my $point (qw(relay.before_read relay.txn_begun relay.after_produce relay.after_ack
	relay.txn_acknowledged relay.txn_prepared relay.txn_stored relay.txn_committed
	relay.before_settle relay.after_settle relay.txn_claimed))
{
	my $pid = wait_for_worker($node, 'shop', 'relay');
	my $kills = kills();
	fault($node, 'relay.before_read=wait');
	emit(50);
	is_soon($node, 'shop', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event = 'Extension' AND wait_event_type = 'Extension'", '1', "$point: the relay waits") if $point eq 'relay.before_read';
	fault($node, "$point=kill") if $point ne 'relay.before_read';
	kill 'KILL', $pid if $point =~ /before_read|claimed/;
	ok(wait_until(sub { kills() >= $kills + ($point =~ /claimed/ ? 2 : 1) }, 'the end of a process'), "$point: the relay was killed");
	no_faults($node);
	is_soon($node, 'shop', $settled, '0', "$point: all is settled again");
	arrived("$point: each event is there once, in order");
}

$node->stop;
done_testing();
