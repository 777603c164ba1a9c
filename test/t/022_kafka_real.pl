# The Kafka client against a real Kafka of this test's own: what the mock broker
# does not do.  Rights, limits of topics, retention, new partitions, kill -9.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = outbox_kafka('--no-auto-create', '--sasl', 'joe:Geheim');
my $node  = outbox_node('client', preload => 0);
$node->safe_psql('postgres',
	slurp_file(dirname(__FILE__) . '/../modules/outbox_test_kafka/functions.sql'));
outbox_install($node, 'postgres', $kafka);

sub session
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql) . "\n";
}

sub numbers
{
	my ($topic) = @_;
	return join ' ', map { ($_->{value} =~ /^(\d+)/) } topic_read($kafka, $topic);
}

my $admin = OutboxTest::_program('kafka_admin') . " $kafka->{bootstrap}";
my $open  = "SELECT tk.producer_open('bootstrap.servers=$kafka->{bootstrap}', 'linger.ms=100') \\g /dev/null";
my $close = 'SELECT tk.producer_close() \g /dev/null';

# ---------------------------------------------------------------------------
# Topics that are missing, and come
# ---------------------------------------------------------------------------

topic_create($kafka, 'one', 1);
is( session(<<"END"), <<'END', 'a missing topic fails its own messages only');
SELECT tk.producer_open('bootstrap.servers=$kafka->{bootstrap}', 'topic.metadata.propagation.max.ms=500') \\g /dev/null
SELECT tk.burst('missing', 'k', 1, 10, 100);
SELECT tk.burst('one', 'k', 11, 20, 100);
SELECT tk.summary(20);
\\! $admin create missing 1
SELECT tk.refresh('missing');
SELECT tk.burst('missing', 'k', 21, 30, 100), tk.summary(10);
$close
END
ok
ok
topic 1..10, ok 11..20
ok
ok|ok 21..30
END

# ---------------------------------------------------------------------------
# A topic that takes less than a batch
# ---------------------------------------------------------------------------

topic_create($kafka, 'small', 1, 'max.message.bytes' => 20000);

# What the relay does with the answers: go on behind what is acknowledged, with
# a new producer when the old one gave up, and past a message that is at fault.
$node->safe_psql('postgres', <<'END');
CREATE PROCEDURE tk.deliver(address text, topic text, sizes integer[], pause_after integer DEFAULT 0)
LANGUAGE plpgsql AS $$
DECLARE
	done boolean[] := array_fill(false, ARRAY[cardinality(sizes)]);
	report record;
	rounds integer := 0;
	waiting integer;
BEGIN
	WHILE false = ANY (done) AND rounds < 30 LOOP
		rounds := rounds + 1;
		PERFORM tk.producer_open('bootstrap.servers=' || address, 'linger.ms=20');
		waiting := 0;
		FOR i IN 1 .. cardinality(sizes) LOOP
			IF NOT done[i] THEN
				waiting := waiting + 1;
				PERFORM tk.send(topic, 'k', rpad(i || ' ', sizes[i], 'x'), NULL, i);
				PERFORM pg_sleep(0.3) WHERE i = pause_after;
			END IF;
		END LOOP;
		FOR report IN SELECT * FROM tk.reports(waiting, 1000) LOOP
			IF report.fault = 'event' THEN
				RAISE NOTICE 'event % set aside', report.tag;
			END IF;
			done[report.tag] := report.fault IN ('ok', 'event');
		END LOOP;
		PERFORM tk.producer_close(0);
	END LOOP;
	RAISE NOTICE 'done: %', true = ALL (done);
END $$;
END

my ($rc, $out, $err) = $node->psql('postgres',
	"CALL tk.deliver('$kafka->{bootstrap}', 'small', array_fill(1000, ARRAY[60]))");
like($err, qr/done: t/, 'small messages pass a limit that their batch exceeds');
unlike($err, qr/set aside/, 'none of them is blamed');
is(numbers('small'), join(' ', 1 .. 60), 'in order, once');

topic_create($kafka, 'small2', 1, 'max.message.bytes' => 20000);
($rc, $out, $err) = $node->psql('postgres',
	"CALL tk.deliver('$kafka->{bootstrap}', 'small2', "
	  . 'array_fill(1000, ARRAY[20]) || 50000 || array_fill(1000, ARRAY[20]) || 30000 || array_fill(10, ARRAY[10]))');
like($err, qr/done: t/, 'messages that are too large do not stop the others');
is(join(' ', $err =~ /event (\d+) set aside/g), '21 42', 'exactly they are set aside');
is(numbers('small2'), join(' ', grep { $_ != 21 && $_ != 42 } 1 .. 52), 'the others are there in order, once');

# Messages that a broker would take do not overtake those that it has rejected.
topic_create($kafka, 'small3', 1, 'max.message.bytes' => 20000);
($rc, $out, $err) = $node->psql('postgres',
	"CALL tk.deliver('$kafka->{bootstrap}', 'small3', array_fill(1000, ARRAY[25]) || array_fill(10, ARRAY[5]), 25)");
like($err, qr/done: t/, 'delivered with a pause in between');
is(numbers('small3'), join(' ', 1 .. 30), 'in order, once');

# ---------------------------------------------------------------------------
# Rights
# ---------------------------------------------------------------------------

my $sasl = "'bootstrap.servers=$kafka->{sasl}', 'security.protocol=sasl_plaintext', 'sasl.mechanism=PLAIN'";
# A burst is one batch, so that it is refused as a whole.
my $joe  = "SELECT tk.producer_open($sasl, 'sasl.username=joe', 'sasl.password=Geheim', 'linger.ms=500') \\g /dev/null";
topic_create($kafka, $_, 1) for qw(allowed forbidden);
kafka_admin($kafka, qw(allow joe write allowed));
kafka_admin($kafka, qw(allow joe describe forbidden));

like(session(<<"END"), qr/^Authentication failed|Authentication failed: Invalid username or password/, 'wrong password');
SELECT tk.producer_open($sasl, 'sasl.username=joe', 'sasl.password=Falsch') \\g /dev/null
SELECT tk.state(true, 3000);
$close
END
is(session(<<"END"), <<'END', 'a topic that may not be written fails its own messages');
$joe
SELECT tk.burst('allowed', 'k', 1, 5, 10);
SELECT tk.summary(5);
SELECT tk.burst('one', 'k', 6, 10, 10);
SELECT tk.summary(5);
SELECT tk.burst('allowed', 'k', 11, 15, 10);
SELECT tk.summary(5);
SELECT tk.burst('forbidden', 'k', 16, 20, 10);
SELECT tk.summary(5);
$close
$joe
SELECT tk.burst('allowed', 'k', 21, 25, 10);
SELECT tk.summary(5);
$close
END
ok
ok 1..5
ok
topic 6..10
ok
ok 11..15
ok
topic 16..20
ok
ok 21..25
END

$node->safe_psql('postgres', <<"END");
ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '$kafka->{sasl}',
	ADD "security.protocol" 'sasl_plaintext', ADD "sasl.mechanism" 'PLAIN');
CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ("sasl.username" 'joe', "sasl.password" 'Falsch');
END
like($node->safe_psql('postgres', 'SELECT ok, detail FROM outbox.server_check()'),
	qr/^f\|.*Authentication failed/, 'server_check: wrong password');
$node->safe_psql('postgres',
	q(ALTER USER MAPPING FOR PUBLIC SERVER kafka OPTIONS (SET "sasl.password" 'Geheim')));
like($node->safe_psql('postgres', 'SELECT * FROM outbox.server_check()'),
	qr/^t\|1\|1=127\.0\.0\.1:\d+\|[-\w]{22}\|1\|$/, 'server_check: right password');
unlike(slurp_file($node->logfile), qr/(?:LOG|WARNING|DETAIL):.*(?:Falsch|Geheim)/, 'no password in the log');

# ---------------------------------------------------------------------------
# Consuming: retention, time, new partitions, no such topic
# ---------------------------------------------------------------------------

topic_create($kafka, 'old', 1);
topic_write($kafka, 'old', map { { key => 'k', value => $_ } } 1 .. 6);
kafka_admin($kafka, qw(truncate old 0 3));
my ($middle) = map { $_->{timestamp} } grep { $_->{offset} == 4 } topic_read($kafka, 'old');
is( session(<<"END"), <<'END', 'offsets that are gone are reported, not passed over');
SELECT tk.consumer_open('{bootstrap.servers=$kafka->{bootstrap}}', 'group') \\g /dev/null
SELECT tk.partitions('old');
SELECT tk.partitions('no_such_topic', 3000);
SELECT tk.offsets('old', 1, $middle), tk.offsets('old', 1, 9999999999999), tk.offsets('old', 1, 0);
SELECT tk.assign('old', '{1}') \\g /dev/null
SELECT kind, partition, "offset" FROM tk.read(1);
SELECT tk.control('-2', 'old', 0);
SELECT kind, "offset", value FROM tk.read(4);
SELECT tk.control('99', 'old', 0);
SELECT kind, partition, "offset" FROM tk.read(1);
SELECT tk.assign('old', '{-1}') \\g /dev/null
SELECT kind, "offset" FROM tk.read(1);
\\! $admin partitions old 3
SELECT tk.partitions('old');
SELECT tk.commit('old', '{6}') \\g /dev/null
SELECT tk.assign('no_such_topic', '{0}') \\g /dev/null
SELECT kind, error ~* 'unknown topic' FROM tk.read(1, 40000);
SELECT tk.consumer_close() \\g /dev/null
END
3-6
topic: Broker: Unknown topic or partition
4|-1|3
out_of_range|0|1
0
event|3|4
event|4|5
event|5|6
eof|6|
0
out_of_range|0|99
eof|6
3-6 0-0 0-0
topic_fault|t
END

# ---------------------------------------------------------------------------
# kill -9
# ---------------------------------------------------------------------------

topic_create($kafka, 'load', 4);
my $script = dirname(__FILE__) . '/../kafka/kafka.sh';
is( session(<<"END"), <<'END', 'everything is delivered across a crash of the broker');
$open
SELECT tk.burst('load', 'a', 1, 10000, 1000), tk.burst('load', 'b', 1, 10000, 100);
\\! $script kill $kafka->{dir} >/dev/null
SELECT tk.state(false) ~ '^127';
\\! $script start $kafka->{dir} >/dev/null
SELECT tk.await('^connected, 0 in flight') IS NOT NULL;
SELECT tk.burst('load', 'a', 10001, 10001, 10), tk.summary(1);
SELECT tk.producer_close(20000) \\g /dev/null
END
ok|ok
t
t
ok|ok 10001..10001
END
my %last;
my $wrong = 0;
for my $record (topic_read($kafka, 'load'))
{
	my ($n) = $record->{value} =~ /^(\d+)/;

	$wrong++ if $n != ($last{ $record->{key} } // 0) + 1;
	$last{ $record->{key} } = $n;
}
is("$wrong $last{a} $last{b}", '0 10001 10000', 'each once, in the order of its key');

$node->stop;
done_testing();
