# What is done about each error that a broker can answer, as docs/faults.md has
# it: what passes is tried again, and of the rest it is known whose fault it is.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1, topics => { one => 1 });
my $tool   = OutboxTest::_program('mock_broker');
my $node   = outbox_node('main');
$node->safe_psql('postgres',
	slurp_file(dirname(__FILE__) . '/../modules/outbox_test_kafka/functions.sql'));

# ---------------------------------------------------------------------------
# The client's own list of errors
# ---------------------------------------------------------------------------

my %expected = (
	ok => [
		qw(UNKNOWN_TOPIC_OR_PART LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION REQUEST_TIMED_OUT BROKER_NOT_AVAILABLE
		  REPLICA_NOT_AVAILABLE COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR NOT_ENOUGH_REPLICAS
		  NOT_ENOUGH_REPLICAS_AFTER_APPEND DUPLICATE_SEQUENCE_NUMBER KAFKA_STORAGE_ERROR UNKNOWN_PRODUCER_ID)
	],
	event => [
		qw(INVALID_MSG INVALID_MSG_SIZE MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE INVALID_TIMESTAMP
		  UNSUPPORTED_FOR_MESSAGE_FORMAT INVALID_RECORD)
	],
	topic => [
		qw(TOPIC_EXCEPTION INVALID_REQUIRED_ACKS TOPIC_AUTHORIZATION_FAILED INVALID_PARTITIONS INVALID_REPLICATION_FACTOR
		  INVALID_CONFIG POLICY_VIOLATION UNSUPPORTED_COMPRESSION_TYPE)
	]);

# One message on its own, answered once with the error.  Whether it is to blame
# for being rejected is sure only when it is known to be alone, the second time.
my @errors = split /\n/, qx($tool --list-errors);
my %is_event = map { ($_ => 1) } @{ $expected{event} };
my $sql = '';
for my $error (map { $is_event{$_} ? ($_, $_) : $_ } @errors)
{
	$sql .= <<"END";
SELECT tk.producer_open('bootstrap.servers=$broker->{bootstrap}', 'batch.size=1', 'retry.backoff.ms=10',
	'topic.metadata.refresh.fast.interval.ms=10') \\g /dev/null
\\! $tool --send $broker->{control} errors Produce $error 1 >/dev/null
SELECT tk.send('one', 'k', 'v', NULL, 1) \\g /dev/null
SELECT '$error', fault FROM tk.reports(1);
SELECT tk.producer_close(0) \\g /dev/null
\\! $tool --send $broker->{control} clear Produce >/dev/null
END
}
my %fault = map { split /\|/ } split /\n/, $node->safe_psql('postgres', $sql);
my %found;
push @{ $found{ $fault{$_} // 'no report' } }, $_ for @errors;
cmp_ok(scalar @errors, '>', 80, 'all errors of the client are tried');
is(join(' ', sort @{ $found{$_} // [] }), join(' ', sort @{ $expected{$_} }), "errors that are: $_") for sort keys %expected;
is(scalar @{ $found{cluster} }, @errors - 14 - 7 - 8, 'any other one is the server\'s');

# ---------------------------------------------------------------------------
# What the relay makes of them
# ---------------------------------------------------------------------------

my $second = outbox_broker(mock => 1);
my %topic = map { my $t = unique_topic($_); topic_create($broker, $t, 1); ($_ => $t) } qw(passes event topic live server);
my $elsewhere = unique_topic('elsewhere');
topic_create($second, $elsewhere, 1);
outbox_install($node, 'shop', $broker, 'retry.backoff.ms' => 10, 'topic.metadata.propagation.max.ms' => 100);
$node->safe_psql('shop', qq(CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$second->{bootstrap}')));

my $sent = 0;

sub emit
{
	my ($topic, $n) = @_;
	$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', g::text) FROM generate_series(1, $n) g \\g /dev/null");
	return;
}

# Values in their order, those sent twice once.
sub values_of
{
	my ($topic) = @_;
	my %seen;
	return join ' ', map { $_->{value} } grep { !$seen{ $_->{headers}{id} }++ } topic_read($broker, $topic);
}

sub arrives
{
	my ($topic, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_until(sub { values_of($topic) eq $expected }, sub { "$expected in $topic, there is " . values_of($topic) }), $name);
}

# An event for the other server goes through.
sub other_flows
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->safe_psql('shop', "SELECT outbox.emit('$elsewhere', 'k', 'v', server => 'other')");
	return is(scalar(topic_wait($second, $elsewhere, ++$sent)), $sent, $name);
}

for my $error (qw(KAFKA_STORAGE_ERROR NOT_ENOUGH_REPLICAS UNKNOWN_PRODUCER_ID OUT_OF_ORDER_SEQUENCE_NUMBER INVALID_PRODUCER_EPOCH NETWORK_EXCEPTION))
{
	mock_control($broker, 'errors', 'Produce', $error, 2);
	emit($topic{passes}, 5);
	arrives($topic{passes}, '1 2 3 4 5', "$error: all arrive in order");
	topic_create($broker, $topic{passes} = unique_topic('passes'), 1);
}
is($node->safe_psql('shop', 'SELECT (SELECT count(*) FROM outbox.dead_letters), (SELECT count(*) FROM outbox._stream WHERE state <> \'live\')'),
	'0|0', 'nothing is set aside for it, no topic is stopped');

# The batch is refused, then its first event alone.
mock_control($broker, 'errors', 'Produce', 'INVALID_RECORD', 2);
emit($topic{event}, 5);
arrives($topic{event}, '2 3 4 5', 'event: the others arrive');
is_soon($node, 'shop', q(SELECT direction, state, convert_from(value, 'UTF8') FROM outbox.dead_letters), 'out|dead|1', 'event: it is set aside');
is($node->safe_psql('shop', "SELECT count(*) FROM outbox._stream WHERE state <> 'live'"), '0', 'event: its topic is not stopped');

# Rights are tested in 075, sizes and missing topics in 022 and 031.
mock_control($broker, 'topic-error', $topic{topic}, 'UNKNOWN_TOPIC_OR_PART');
emit($topic{topic}, 5);
is_soon($node, 'shop', "SELECT state, reason ~* 'unknown topic', parked_events FROM outbox.stat_topics WHERE topic = '$topic{topic}'",
	'stopped|t|5', 'topic: it is stopped, with the reason');
emit($topic{live}, 3);
arrives($topic{live}, '1 2 3', 'topic: another one flows');
other_flows('topic: another server flows');
mock_control($broker, 'topic-error', $topic{topic}, 'NO_ERROR');
arrives($topic{topic}, '1 2 3 4 5', 'topic: its events follow by themselves');

mock_control($broker, 'errors', 'InitProducerId', 'CLUSTER_AUTHORIZATION_FAILED', 1000);
$node->safe_psql('shop', q(ALTER SERVER kafka OPTIONS (ADD "client.id" 'another')));
emit($topic{server}, 3);
is_soon($node, 'shop', q(SELECT last_error ~* 'authorization' FROM outbox.status WHERE kind = 'worker' AND name = 'relay'), 't',
	'server: the reason is told');
is(values_of($topic{server}), '', 'server: nothing goes out');
other_flows('server: another one flows');
mock_control($broker, 'clear', 'InitProducerId');
arrives($topic{server}, '1 2 3', 'server: it goes on by itself');

$node->stop('fast');
done_testing();
