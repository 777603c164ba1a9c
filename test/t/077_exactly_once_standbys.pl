# Exactly once to Kafka with pg_outbox.wait_for_standbys: a place waits until standbys
# have what it passes without having sent it, be it stored by the transaction or by a
# settlement before, and the note of parked events that it sends.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my ($live, $quiet) = map { my $t = unique_topic($_); topic_create($kafka, $t, 1); $t } qw(live quiet);
my $node = outbox_node('primary', streaming => 1, conf => 'wal_sender_timeout = 0');
outbox_install($node, 'shop', $kafka, exactly_once => 'true');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'wal_receiver_timeout = 0');
$standby->start;
my $group = group_name($node, 'shop');
my $settled = 'SELECT backlog_events FROM outbox.stat_servers';
my $hits = 0;

sub seen
{
	my ($topic) = @_;
	return join ' ', map { $_->{value} } topic_read($kafka, $topic);
}

sub newest
{
	my %place = places($kafka, $group);
	my @numbers = map { (split / /)[2] } values %place;
	return (sort { $b <=> $a } @numbers)[0];
}

# Have the relay wait at a point that it comes to by that statement.
sub stand_at
{
	my ($point, $sql) = @_;

	fault($node, "$point=wait");
	$node->safe_psql('shop', $sql);
	$hits++;
	return ok(wait_until(sub { (() = slurp_file($node->logfile) =~ /fault point "[\w.]+" is hit/g) >= $hits }, "the relay at $point"),
		"the relay is at $point");
}

# From now on the standby gets nothing, and keeps what it has.
my $receiver;

sub freeze
{
	$node->wait_for_catchup($standby, 'flush', $node->lsn('flush'));
	$receiver = $standby->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
	kill 'STOP', $receiver;
	no_faults($node);
}

sub thaw
{
	kill 'CONT', $receiver;
	undef $receiver;
	return is_soon($node, 'shop', $settled, '0', 'once the standby has it, all is settled');
}

# Nothing is committed while it lacks what was stored since.
sub waits
{
	my ($name, $number) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_soon($node, 'shop', q(SELECT waiting_for FROM outbox.status WHERE kind = 'server'),
		qr/^0 of 1 standbys have flushed WAL up to [0-9A-F]+\/[0-9A-F]+, 1 are streaming$/, "$name: the relay waits for the standby");
	is(newest(), $number, 'the place is not stored');
}

END
{
	kill 'CONT', $receiver if defined $receiver;
}

$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_outbox.wait_for_standbys = 1');
$node->reload;
$node->safe_psql('shop', "SELECT outbox.emit('$live', 'k', 'a'), outbox.emit('$quiet', 'k', 'b')");
is_soon($node, 'shop', $settled, '0', 'events are published');
$node->safe_psql('shop', "SELECT outbox.pause_topic('$quiet')");

# ---------------------------------------------------------------------------
# What the transaction stores
# ---------------------------------------------------------------------------

stand_at('relay.txn_acknowledged', <<"END");
SELECT outbox.emit('$live', 'k', 'c'), outbox.emit('$quiet', 'k', 'd'), outbox.emit('$live', 'k', repeat('x', 2000000));
END
my $number = newest();
is($node->safe_psql('shop', 'SELECT (SELECT count(*) FROM outbox._parked), (SELECT count(*) FROM outbox.dead_letters)'), '0|0', 'nothing is stored yet');
freeze();
is_soon($node, 'shop', 'SELECT (SELECT count(*) FROM outbox._parked), (SELECT count(*) FROM outbox.dead_letters)', '1|1', 'an event is parked, another set aside');
waits('an event parked, another set aside', $number);
is(seen($live), 'a', 'nor is the transaction committed');
thaw();
ok(wait_until(sub { seen($live) eq 'a c' }, sub { seen($live) }), 'and committed');
is(newest(), $number + 1, 'with one place');

# ---------------------------------------------------------------------------
# What a settlement stores, which does not wait for the disk
# ---------------------------------------------------------------------------

stand_at('relay.before_settle', "SELECT outbox.emit('$quiet', 'k', 'e'), outbox.emit('$live', 'k', 'f')");
$number = newest();
is($node->safe_psql('shop', 'SELECT count(*) FROM outbox._parked'), '1', 'nothing is stored yet');
freeze();
is_soon($node, 'shop', 'SELECT count(*) FROM outbox._parked', '2', 'a settlement parks an event');
waits('parked by a settlement', $number);
is(seen($live), 'a c', 'nor is the transaction committed');
thaw();
ok(wait_until(sub { seen($live) eq 'a c f' }, sub { seen($live) }), 'and committed');

# ---------------------------------------------------------------------------
# Parked events that are sent
# ---------------------------------------------------------------------------

stand_at('relay.txn_acknowledged', "SELECT outbox.resume_topic('$quiet')");
$number = newest();
freeze();
is_soon($node, 'shop', 'SELECT count(*) FROM outbox._drained', '1', 'it is noted what the transaction sends');
waits('parked events on their way', $number);
is(seen($quiet), 'b', 'nor is the transaction committed');
thaw();
ok(wait_until(sub { seen($quiet) eq 'b d e' }, sub { seen($quiet) }), 'and committed, in order');

$_->stop for $node, $standby;
done_testing();
