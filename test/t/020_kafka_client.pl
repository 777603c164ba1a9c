# The Kafka client below relay and applier: delivery, faults, reconnection.
# Driven by test/modules/outbox_test_kafka, which waits on the event descriptor
# only, so that a wake-up that is missing makes a test time out.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = outbox_node('client', preload => 0);
$node->safe_psql('postgres',
	slurp_file(dirname(__FILE__) . '/../modules/outbox_test_kafka/functions.sql'));

# One session runs the whole text; the last lines are what its queries return.
sub session
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql) . "\n";
}

my $mock = outbox_broker(mock => 1, topics => { one => 1, four => 4 });

# ---------------------------------------------------------------------------
# What goes in comes out
# ---------------------------------------------------------------------------

is( session(<<"END"), <<'END', 'delivered in order, each reported');
SELECT tk.producer_open('bootstrap.servers=$mock->{bootstrap}') \\g /dev/null
SELECT tk.send('one', 'k', 'v', '{id,1,op,c,op,u,none,NULL,empty,""}', 1, 1700000000000);
SELECT tk.send('one', NULL, 'no key', NULL, 2);
SELECT tk.send('one', 'k', NULL, NULL, 3);
SELECT tk.send('one', '', '', NULL, 4);
SELECT tag, fault, partition, "offset", error FROM tk.reports(4);
SELECT tk.state(true);
SELECT tk.producer_close() \\g /dev/null
END
ok
ok
ok
ok
1|ok|0|0|
2|ok|0|1|
3|ok|0|2|
4|ok|0|3|
connected, 0 in flight, 0 reports dropped
END

is( session(<<"END"), <<'END', 'read back as it was sent');
SELECT tk.consumer_open('{bootstrap.servers=$mock->{bootstrap}}', 'group') \\g /dev/null
SELECT tk.partitions('one');
SELECT tk.assign('one', '{0}') \\g /dev/null
SELECT kind, partition, "offset", timestamp_ms > 1700000000000 AS now, coalesce(key, 'NULL'),
	coalesce(value, 'NULL'), headers
FROM tk.read(5);
SELECT tk.control('watermark', 'one', 0);
SELECT tk.control('2', 'one', 0);
SELECT kind, "offset" FROM tk.read(3);
SELECT tk.control('0', 'one', 0), tk.control('pause', 'one', 0);
SELECT count(*) FROM tk.read(1, 300);
SELECT tk.control('resume', 'one', 0);
SELECT kind, "offset" FROM tk.read(2);
SELECT tk.control('pause', 'one', 0);
SELECT count(*) FROM tk.read(1, 300);
SELECT tk.control('resume', 'one', 0);
SELECT kind, "offset" FROM tk.read(3);
SELECT tk.control('77', 'one', 0);
SELECT kind, partition, "offset", error ~ 'out of range' FROM tk.read(1);
SELECT tk.control('3', 'one', 0);
SELECT kind, "offset" FROM tk.read(2);
SELECT tk.commit('one', '{4}') \\g /dev/null
SELECT tk.consumer_close() \\g /dev/null
END
0-4
event|0|0|f|k|v|id=1 op=c op=u none empty=
event|0|1|t|NULL|no key|
event|0|2|t|k|NULL|
event|0|3|t|||
eof|0|4|f|NULL|NULL|
4
0
event|2
event|3
eof|4
0|0
0
0
event|0
event|1
0
0
0
event|2
event|3
eof|4
0
out_of_range|0|77|t
0
event|3
eof|4
END

# ---------------------------------------------------------------------------
# A broker that goes and comes
# ---------------------------------------------------------------------------

my $control = $mock->{control};
my $tool    = OutboxTest::_program('mock_broker');

my $answer = session(<<"END");
SELECT tk.producer_open('bootstrap.servers=$mock->{bootstrap}', 'reconnect.backoff.max.ms=200') \\g /dev/null
SELECT tk.state(true);
\\! $tool --send $control down all >/dev/null
SELECT tk.burst('one', 'k', 1, 1000, 100);
SELECT tk.state(false);
\\! $tool --send $control up all >/dev/null
SELECT tk.summary(1000);
SELECT tk.state(true);
\\! $tool --send $control down all >/dev/null
SELECT tk.state(false);
\\! $tool --send $control up all >/dev/null
SELECT tk.state(true);
SELECT tk.producer_close() \\g /dev/null
END
my @lines = split /\n/, $answer;
is($lines[0], 'connected, 0 in flight, 0 reports dropped', 'connected');
is($lines[1], 'ok', 'messages are accepted while no broker is there');
like($lines[2], qr/^127\.0\.0\.1.*1000 in flight/, 'not connected, with the reason');
is($lines[3], 'ok 1..1000', 'delivered when it is back');
is($lines[4], 'connected, 0 in flight, 0 reports dropped', 'connected again');
like($lines[5], qr/^127\.0\.0\.1.*0 in flight/, 'an outage is seen without traffic');
is($lines[6], 'connected, 0 in flight, 0 reports dropped', 'and its end');

my @records = grep { ($_->{value} // '') =~ /^\d+ / } topic_read($mock, 'one');
is(join(' ', map { ($_->{value} =~ /^(\d+)/) } @records), join(' ', 1 .. 1000), 'all there, in order');

# ---------------------------------------------------------------------------
# Errors that pass, and errors that do not
# ---------------------------------------------------------------------------

is( session(<<"END"), <<'END', 'whose fault it is');
SELECT tk.producer_open('bootstrap.servers=$mock->{bootstrap}', 'queue.buffering.max.messages=100',
	'message.max.bytes=2000', 'retry.backoff.ms=10',
	'topic.metadata.propagation.max.ms=100') \\g /dev/null
SELECT tk.send('no topic', 'k', 'v');
SELECT tk.send('', 'k', 'v');
SELECT tk.send(repeat('x', 250), 'k', 'v');
SELECT tk.send('one', 'k', repeat('x', 3000), NULL, 1);
\\! $tool --send $control errors Produce NOT_LEADER_FOR_PARTITION 1 >/dev/null
\\! $tool --send $control errors Produce NOT_ENOUGH_REPLICAS 2 >/dev/null
SELECT tk.burst('one', 'k', 1, 10, 10);
SELECT tk.summary(10);
SELECT tk.burst('one', 'k', 1, 1000, 10);
SELECT tk.summary(100);
\\! $tool --send $control topic-error four UNKNOWN_TOPIC_OR_PART >/dev/null
SELECT tk.burst('four', 'k', 1, 5, 10), tk.burst('one', 'k', 6, 9, 10);
SELECT tk.summary(9);
\\! $tool --send $control topic-error four NO_ERROR >/dev/null
SELECT tk.refresh('four');
SELECT tk.burst('four', 'k', 1, 5, 10);
SELECT tk.summary(5);
SELECT tk.state(true);
SELECT tk.producer_close() \\g /dev/null
END
topic: invalid topic name
topic: invalid topic name
topic: invalid topic name
event: message is larger than message.max.bytes of the Kafka server's options
ok
ok 1..10
full
ok 1..100
ok|ok
topic 1..5, ok 6..9
ok
ok
ok 1..5
connected, 0 in flight, 0 reports dropped
END

# A rejected batch: first nobody is blamed, then the culprit alone.
is( session(<<"END"), <<'END', 'the message at fault is told from its neighbours');
SELECT tk.producer_open('bootstrap.servers=$mock->{bootstrap}', 'linger.ms=200') \\g /dev/null
\\! $tool --send $control errors Produce INVALID_RECORD 1 >/dev/null
SELECT tk.burst('one', 'k', 1, 10, 10);
SELECT tk.summary(10);
SELECT tk.producer_close() \\g /dev/null
SELECT tk.producer_open('bootstrap.servers=$mock->{bootstrap}') \\g /dev/null
\\! $tool --send $control errors Produce INVALID_RECORD 1 >/dev/null
SELECT tk.send('one', 'k', '1', NULL, 1);
SELECT tk.summary(1);
SELECT tk.producer_close() \\g /dev/null
SELECT tk.producer_open('bootstrap.servers=$mock->{bootstrap}', 'linger.ms=200') \\g /dev/null
SELECT tk.burst('one', 'k', 2, 10, 10);
SELECT tk.summary(9);
SELECT tk.producer_close() \\g /dev/null
END
ok
cluster 1..10
ok
event 1..1
ok
ok 2..10
END

is( session(<<"END"), <<'END', 'a producer that is fenced off says so');
\\! $tool --send $control errors InitProducerId CLUSTER_AUTHORIZATION_FAILED 1 >/dev/null
SELECT tk.producer_open('bootstrap.servers=$mock->{bootstrap}') \\g /dev/null
SELECT tk.await('Cluster authorization failed') IS NOT NULL;
SELECT tk.burst('one', 'k', 1, 3, 10);
SELECT tk.producer_close() \\g /dev/null
END
t
cluster: Broker: Cluster authorization failed
END

# ---------------------------------------------------------------------------
# Secrets, and the end of a session
# ---------------------------------------------------------------------------

$answer = session(<<"END");
SELECT tk.producer_open('bootstrap.servers=127.0.0.1:1', 'security.protocol=sasl_plaintext',
	'sasl.mechanism=PLAIN', 'sasl.username=joe', 'sasl.password=127.0.0.1:1') \\g /dev/null
SELECT tk.state(true, 500);
SELECT tk.producer_close() \\g /dev/null
SELECT tk.producer_open('bootstrap.servers=secret.invalid..:1', 'sasl.password=secret.invalid') \\g /dev/null
SELECT tk.state(true, 500);
SELECT tk.producer_close() \\g /dev/null
END
unlike($answer, qr/secret/, 'a secret is not shown in a reason');
like($answer, qr/\*\*\*\*/, 'but struck out');
unlike(slurp_file($node->logfile), qr/LOG:.*secret\.invalid/, 'nor in the log');

# Brokers that say nothing are not waited for.
my $silent = outbox_broker(mock => 1, topics => { one => 1, three => 3 });
@lines = split /\n/, session(<<"END");
SELECT tk.producer_open('bootstrap.servers=$silent->{bootstrap}') \\g /dev/null
SELECT tk.state(true);
SELECT tk.send('one', 'k', 'v', NULL, 1);
SELECT tk.summary(1);
\\! kill -STOP $silent->{pid}
SELECT clock_timestamp() AS begun \\gset
SELECT string_agg(DISTINCT tk.copies('t' || g), ' ') FROM generate_series(1, 40) g;
SELECT extract(epoch FROM clock_timestamp() - :'begun');
\\! kill -CONT $silent->{pid}
DO 'BEGIN WHILE tk.copies(''three'') <> ''3'' LOOP PERFORM pg_sleep(0.02); END LOOP; END';
SELECT tk.copies('three');
SELECT tk.producer_close() \\g /dev/null
END
is(join(' ', @lines[ 1 .. 3 ]), 'ok ok 1..1 full', 'partitions cannot be told while brokers say nothing');
cmp_ok($lines[4], '<', 0.5, 'which is not waited for');
is($lines[5], '3', 'and are told when brokers answer again');

# Backends that leave with a producer and a consumer alive do not take the
# server with them.
for my $round (1 .. 5)
{
	session(<<"END");
SELECT tk.producer_open('bootstrap.servers=$mock->{bootstrap}') \\g /dev/null
SELECT tk.consumer_open('{bootstrap.servers=$mock->{bootstrap}}', 'group') \\g /dev/null
SELECT tk.assign('one', '{0}') \\g /dev/null
SELECT tk.burst('one', 'k', 1, 100, 10) \\g /dev/null
END
}
unlike(slurp_file($node->logfile), qr/was terminated by signal/, 'sessions end in peace');

$node->stop;
done_testing();
