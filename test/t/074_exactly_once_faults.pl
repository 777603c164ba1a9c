# Exactly once to Kafka where something else goes wrong: topics that are missing or
# forbidden, messages that are too large, large transactions, brokers that die.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = outbox_kafka('--no-auto-create', '--sasl', 'joe:secret', '--property', 'allow.everyone.if.no.acl.found=true');
my ($live, $late, $small, $closed) = map { unique_topic($_) } qw(live late small closed);
topic_create($kafka, $live, 1);
topic_create($kafka, $small, 1, 'max.message.bytes' => 20000);
topic_create($kafka, $closed, 1);
kafka_admin($kafka, qw(allow somebody write), $closed);
my $node = outbox_node('main');
outbox_install($node, 'shop', $kafka->{sasl},
	exactly_once                          => 'on',
	'transaction.timeout.ms'              => 5000,
	'security.protocol'                   => 'sasl_plaintext',
	'sasl.mechanism'                      => 'PLAIN',
	'topic.metadata.propagation.max.ms'   => 500);
$node->safe_psql('shop', q(CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ("sasl.username" 'joe', "sasl.password" 'secret')));

my $settled = 'SELECT backlog_events FROM outbox.stat_servers';
my $sent = 0;    # events recorded so far

# Events for each of the topics in turn, numbered throughout.
sub emit
{
	my ($n, @topics) = @_;
	my $from = $sent + 1;
	$sent += $n;
	$node->safe_psql('shop', sprintf q(SELECT count(outbox.emit(('{%s}'::text[])[g %% %d + 1], 'k', g::text)) FROM generate_series(%d, %d) g),
		join(',', @topics), scalar @topics, $from, $sent);
	return $from .. $sent;
}

# The numbers of a topic's committed events, as they are there.
sub numbers
{
	my ($topic) = @_;
	my ($ok, $out, $err) = OutboxTest::_kcat($kafka, '', '-C', '-t', $topic, '-e', '-o', 'beginning', '-f', "%s\n");
	die $err if !$ok;
	return map { /^(\d+)/ } split /\n/, $out;
}

# What is missing, what is there more than once, and whether the rest is in order.
sub verdict
{
	my ($topic, @expected) = @_;
	my @got = numbers($topic);
	my %count;
	$count{$_}++ for @got;
	return sprintf '%d of %d missing, %d repeated, %s', scalar(grep { !$count{$_} } @expected), scalar @expected,
	  scalar(grep { $count{$_} > 1 } keys %count), join(' ', @got) eq join(' ', sort { $a <=> $b } @got) ? 'in order' : 'not in order';
}

# Readers see a transaction soon after its commit.
sub once
{
	my ($topic, $name, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $verdict;

	wait_until(sub { $verdict = verdict($topic, @expected); return $verdict !~ /[1-9]\d* of|repeated, not/ }, 'events');
	is($verdict, sprintf('0 of %d missing, 0 repeated, in order', scalar @expected), $name);
}

sub kills
{
	return scalar(() = slurp_file($node->logfile) =~ /was terminated by signal 9/g);
}

# Have the relay killed at a point whenever it comes there, until no_faults().
# Where it was to die somewhere else before, its first death may still be that.
sub killed_at
{
	my ($point, $times) = @_;
	my $kills = kills();

	fault($node, "$point=kill");
	return ok(wait_until(sub { kills() >= $kills + ($times // 1) }, "the end of the relay at $point"),
		"$point: the relay was killed");
}

# ---------------------------------------------------------------------------
# A topic that is missing for a while
# ---------------------------------------------------------------------------

my (@live, @late);
for my $point (qw(relay.txn_prepared relay.txn_committed))
{
	fault($node, 'relay.before_read=wait');
	push @{ $_ % 2 ? \@late : \@live }, $_ for emit(200, $live, $late);
	killed_at($point);
	no_faults($node);
	is_soon($node, 'shop', $settled, '0', "$point: all is settled again");
	once($live, "$point: the events between those that are parked", @live);
	is($node->safe_psql('shop', 'SELECT count(*) FROM outbox._parked'), scalar @late, "$point: the others are parked");
}
fault($node, 'relay.txn_prepared=kill');
topic_create($kafka, $late, 1);
killed_at($_, 2) for qw(relay.txn_prepared relay.txn_stored relay.txn_committed relay.txn_drained);
no_faults($node);
is_soon($node, 'shop', "SELECT state, parked_events FROM outbox.stat_topics WHERE topic = '$late'", 'live|0', 'the topic is there and takes them');
push @{ $_ % 2 ? \@late : \@live }, $_ for emit(20, $live, $late);
is_soon($node, 'shop', $settled, '0', 'all is settled');
once($late, 'parked events arrive once, in order', @late);
once($live, 'the others as well', @live);
is($node->safe_psql('shop', 'SELECT count(*) FROM outbox._drained'), '0', 'nothing is left of it');

# ---------------------------------------------------------------------------
# A topic that may not be written
# ---------------------------------------------------------------------------

my @closed;
push @{ $_ % 2 ? \@closed : \@live }, $_ for emit(100, $live, $closed);
is_soon($node, 'shop', $settled, '0', 'a forbidden topic does not hold up the others');
is($node->safe_psql('shop', "SELECT state FROM outbox.stat_topics WHERE topic = '$closed'"), 'stopped', 'it is stopped');
once($live, 'the others are there once', @live);
kafka_admin($kafka, qw(allow joe all), $closed);
$node->safe_psql('shop', q(ALTER SERVER kafka OPTIONS (ADD "client.id" 'again')));
is_soon($node, 'shop', "SELECT state, parked_events FROM outbox.stat_topics WHERE topic = '$closed'", 'live|0', 'it takes them when it may');
once($closed, 'once, in order', @closed);

# ---------------------------------------------------------------------------
# A message that is too large
# ---------------------------------------------------------------------------

my @small = emit(10, $small);
my $large = ++$sent;
$node->safe_psql('shop', "SELECT outbox.emit('$small', 'k', '$large ' || repeat('x', 50000))");
push @small, emit(10, $small);
push @live, emit(10, $live);
my $letters = q(SELECT count(*), count(DISTINCT event_id), string_agg(DISTINCT state, ' ') FROM outbox.dead_letters);
is_soon($node, 'shop', $letters, '1|1|dead', 'one event is set aside');
is_soon($node, 'shop', $settled, '0', 'and the others are settled');
once($small, 'those of its topic are there once', @small);
once($live, 'and others', @live);
kafka_admin($kafka, 'config', $small, 'max.message.bytes=1000000');
fault($node, 'relay.before_read=wait');
$node->safe_psql('shop', 'SELECT outbox.redrive(id) FROM outbox.dead_letters');
killed_at('relay.txn_committed');
no_faults($node);
is_soon($node, 'shop', $settled, '0', 'it is driven again');
push @small, $large;
ok(wait_until(sub { join(' ', numbers($small)) eq join(' ', @small) }, 'the event'), 'and arrives once');

# ---------------------------------------------------------------------------
# A transaction that takes several of Kafka's
# ---------------------------------------------------------------------------

fault($node, 'relay.before_read=wait');
push @live, emit(60000, $live);
my $kills = kills();
fault($node, 'relay.txn_stored=kill');
ok(wait_until(sub { kills() > $kills }), 'killed in the midst of a large transaction');
no_faults($node);
is_soon($node, 'shop', $settled, '0', 'all of it is settled');
once($live, 'and there once, in order', @live);

# ---------------------------------------------------------------------------
# The broker dies, and what it knows of us is forgotten
# ---------------------------------------------------------------------------

fault($node, 'relay.txn_stored=wait');
push @live, emit(100, $live);
my $pid = wait_for_worker($node, 'shop', 'relay');
is_soon($node, 'shop', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Extension' AND wait_event = 'Extension'", '1', 'in a transaction');
my $script = dirname(__FILE__) . '/../kafka/kafka.sh';
system($script, 'kill', $kafka->{dir});
no_faults($node);
system("$script start $kafka->{dir} > /dev/null") == 0 or die 'the broker does not start';
push @live, emit(100, $live);
is_soon($node, 'shop', $settled, '0', 'a broker that dies in a transaction');
once($live, 'each event is there once', @live);

kafka_admin($kafka, 'forget', group_name($node, 'shop'));
kill_worker($node, 'shop', 'relay', 'TERM');
push @live, emit(100, $live);
is_soon($node, 'shop', $settled, '0', 'the place is forgotten');
once($live, 'each event is there once', @live);

# ---------------------------------------------------------------------------
# On and off, and the end
# ---------------------------------------------------------------------------

is($node->safe_psql('shop', 'SELECT exactly_once FROM outbox.stat_servers'), 't', 'stat_servers says so');
$node->safe_psql('shop', q(ALTER SERVER kafka OPTIONS (SET exactly_once 'off')));
push @live, emit(10, $live);
is_soon($node, 'shop', "$settled WHERE NOT exactly_once", '0', 'turned off');
$node->safe_psql('shop', q(ALTER SERVER kafka OPTIONS (SET exactly_once 'true')));
push @live, emit(10, $live);
is_soon($node, 'shop', "$settled WHERE exactly_once", '0', 'and on');
once($live, 'each event is there once', @live);

system($script, 'kill', $kafka->{dir});
emit(10, $live);
is_soon($node, 'shop', q(SELECT state FROM outbox.status WHERE kind = 'server'), 'unreachable', 'no broker');
my $begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', 4, 'the server stops all the same');
done_testing();
