# What happens to topics and brokers while they are consumed: new partitions,
# topics created again, records removed before they were read, brokers away.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my $node = outbox_node('orders', conf => 'pg_outbox.metadata_refresh = 1');

outbox_install($node, 'shop', $kafka);

sub subscribe
{
	my ($table, $topic, $options) = @_;

	$node->safe_psql('shop', "CREATE TABLE $table (id int PRIMARY KEY, version bigint NOT NULL)");
	$node->safe_psql('shop', "SELECT outbox.replicate('$table', topic => '$topic'" . ($options // '') . ')');
	return;
}

sub produce
{
	my ($broker, $topic, $partition, @ids) = @_;
	my ($ok, $out, $err) = OutboxTest::_kcat($broker, join('', map { qq({"id": $_, "version": 1}\n) } @ids),
		'-P', '-t', $topic, '-p', $partition);
	die $err if !$ok;
	return;
}

# ---------------------------------------------------------------------------
# A topic that comes later, and grows (scenario 21)
# ---------------------------------------------------------------------------

my $grows = unique_topic('grows');
subscribe('grows', $grows);
topic_create($kafka, $grows, 4);
produce($kafka, $grows, $_, $_) for 0 .. 3;
is_soon($node, 'shop', 'SELECT count(*) FROM grows', '4', 'a topic that comes after its subscription is consumed');
kafka_admin($kafka, 'partitions', $grows, 8);
produce($kafka, $grows, $_, $_) for 4 .. 7;
is_soon($node, 'shop', 'SELECT count(*) FROM grows', '8', 'new partitions are picked up from their beginning');

# ---------------------------------------------------------------------------
# Records removed before they were read
# ---------------------------------------------------------------------------

my $short = unique_topic('short');
topic_create($kafka, $short, 1);
subscribe('short', $short);
produce($kafka, $short, 0, 1 .. 10);
is_soon($node, 'shop', 'SELECT count(*) FROM short', '10', 'read so far');
kafka_admin($kafka, 'truncate', $short, 0, 10);
produce($kafka, $short, 0, 11);
is_soon($node, 'shop', 'SELECT count(*) FROM short', '11', 'removing what was read is no loss');
$node->safe_psql('shop', q(SELECT outbox.pause_subscription('short')));
is_soon($node, 'shop', q(SELECT state FROM outbox.subscriptions WHERE name = 'short'), 'paused', 'paused');
produce($kafka, $short, 0, 12 .. 20);
kafka_admin($kafka, 'truncate', $short, 0, 15);
$node->safe_psql('shop', q(SELECT outbox.resume_subscription('short')));
is_soon($node, 'shop', q(SELECT state, stopped_reason ~ 'offsets 11 to 14 of partition 0 of topic .* were removed' FROM outbox.subscriptions WHERE name = 'short'),
	'stopped|t', 'a loss stops the subscription, with its range');
is($node->safe_psql('shop', 'SELECT count(*) FROM short'), '11', 'and nothing is passed over');
$node->safe_psql('shop', "SELECT outbox.replicate('short', topic => '$short', on_data_loss => 'continue')");
is_soon($node, 'shop', q(SELECT (SELECT count(*) FROM short), lost FROM outbox.stat_subscriptions WHERE name = 'short'), '16|4', 'unless it shall go on, and it counts');

# ---------------------------------------------------------------------------
# A topic deleted and created again
# ---------------------------------------------------------------------------

for my $case ([ 'fewer', 3, qr/created again/ ], [ 'as many', 10, qr/created again/ ], [ 'more', 30, qr/created again/ ])
{
	my ($what, $n, $reason) = @$case;
	my $topic = unique_topic('anew');
	my $table = "anew_$n";

	topic_create($kafka, $topic, 1);
	subscribe($table, $topic);
	produce($kafka, $topic, 0, 1 .. 10);
	is_soon($node, 'shop', "SELECT count(*) FROM $table", '10', 'read so far');
	$node->safe_psql('shop', qq(SELECT outbox.pause_subscription('$table')));
	kafka_admin($kafka, 'delete', $topic);
	wait_until(sub { eval { topic_create($kafka, $topic, 1); 1 } }, 'the topic to be free again');
	produce($kafka, $topic, 0, 101 .. 100 + $n);
	$node->safe_psql('shop', qq(SELECT outbox.resume_subscription('$table')));
	ok( wait_for_sql($node, 'shop', "SELECT stopped_reason FROM outbox.subscriptions WHERE name = '$table' AND state = 'stopped'", $reason),
		"a topic that was created again, with $what records, is noticed");
	$node->safe_psql('shop', qq(SELECT outbox.seek('$table', 'earliest')));
	is_soon($node, 'shop', "SELECT count(*) FROM $table WHERE id > 100", $n, 'seek begins it anew');
}

# The same while it is read: it is longer than before by the time of the next fetch.
for my $n (11, 30)
{
	my $topic = unique_topic('under');
	my $table = "under_$n";

	topic_create($kafka, $topic, 1);
	subscribe($table, $topic);
	produce($kafka, $topic, 0, 1 .. 10);
	is_soon($node, 'shop', "SELECT count(*) FROM $table", '10', 'read so far');
	# what a worker has seen of a topic it knows from its start, or a second later
	$node->safe_psql('shop', qq(SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier'));
	produce($kafka, $topic, 0, 11);
	is_soon($node, 'shop', "SELECT count(*) FROM $table", '11', 'and by the next worker');
	kafka_admin($kafka, 'delete', $topic);
	wait_until(sub { eval { topic_create($kafka, $topic, 1); 1 } }, 'the topic to be free again');
	produce($kafka, $topic, 0, 101 .. 100 + $n);
	ok( wait_for_sql($node, 'shop', "SELECT stopped_reason FROM outbox.subscriptions WHERE name = '$table' AND state = 'stopped'", qr/created again/),
		"a topic that was created again under a reader, with $n records, is noticed");
	$node->safe_psql('shop', qq(SELECT outbox.seek('$table', 'earliest')));
	is_soon($node, 'shop', "SELECT count(*) FROM $table WHERE id > 100", $n, 'seek begins it anew');
}

# ---------------------------------------------------------------------------
# A topic deleted for good
# ---------------------------------------------------------------------------

my $gone = unique_topic('gone');
topic_create($kafka, $gone, 1);
subscribe('gone', $gone);
produce($kafka, $gone, 0, 1 .. 3);
is_soon($node, 'shop', 'SELECT count(*) FROM gone', '3', 'read so far');
kafka_admin($kafka, 'delete', $gone);
is_soon($node, 'shop', q(SELECT state, waiting_for ~ 'topic "gone_.*Unknown topic' FROM outbox.status WHERE kind = 'worker' AND name = 'applier'), 'waiting|t',
	'a topic that is deleted: the applier waits for it, and says so');
is($node->safe_psql('shop', q(SELECT state FROM outbox.subscriptions WHERE name = 'gone')), 'running', 'the subscription is not ended for that');
produce($kafka, $grows, 0, 100);
is_soon($node, 'shop', 'SELECT count(*) FROM grows WHERE id = 100', '1', 'the others go on');
$node->safe_psql('shop', q(SELECT outbox.unsubscribe('gone')));
is_soon($node, 'shop', q(SELECT state FROM outbox.status WHERE kind = 'worker' AND name = 'applier'), 'running', 'unsubscribed nobody waits any more');

# One that is there again after a while, with many partitions: each has an error of
# its own to tell, and none of them costs a pause.
my $back = unique_topic('back');
topic_create($kafka, $back, 12);
subscribe('back', $back, q(, on_data_loss => 'continue'));
produce($kafka, $back, $_, $_) for 0 .. 11;
is_soon($node, 'shop', 'SELECT count(*) FROM back', '12', 'read so far');
kafka_admin($kafka, 'delete', $back);
is_soon($node, 'shop', q(SELECT waiting_for ~ 'Unknown topic' FROM outbox.subscriptions WHERE name = 'back'), 't', 'a topic of twelve partitions is deleted');
wait_until(sub { eval { topic_create($kafka, $back, 12); 1 } }, 'the topic to be free again');
produce($kafka, $back, $_, 100 + $_) for 0 .. 11;
is_soon($node, 'shop', 'SELECT count(*) FROM back WHERE id >= 100', '12', 'and is read within a minute of being there again', 60);
$node->safe_psql('shop', q(SELECT outbox.unsubscribe('back')));

# Removed to the end, and then created again, before anything was read of what came since
for my $n (3, 30)
{
	my $topic = unique_topic('emptied');
	my $table = "emptied_$n";

	topic_create($kafka, $topic, 1);
	subscribe($table, $topic, q(, on_data_loss => 'continue'));
	produce($kafka, $topic, 0, 1 .. 5);
	is_soon($node, 'shop', "SELECT count(*) FROM $table", '5', 'read so far');
	$node->safe_psql('shop', qq(SELECT outbox.pause_subscription('$table')));
	produce($kafka, $topic, 0, 6 .. 10);
	kafka_admin($kafka, 'truncate', $topic, 0, 10);
	$node->safe_psql('shop', qq(SELECT outbox.resume_subscription('$table')));
	is_soon($node, 'shop', "SELECT lost FROM outbox.stat_subscriptions WHERE name = '$table'", '5', 'what was removed to the end is lost');
	$node->safe_psql('shop', qq(SELECT outbox.pause_subscription('$table')));
	kafka_admin($kafka, 'delete', $topic);
	wait_until(sub { eval { topic_create($kafka, $topic, 1); 1 } }, 'the topic to be free again');
	produce($kafka, $topic, 0, 101 .. 100 + $n);
	$node->safe_psql('shop', qq(SELECT outbox.resume_subscription('$table')));
	is_soon($node, 'shop', "SELECT count(*) FROM $table WHERE id > 100", $n, "the topic that was created again, with $n records, is begun anew", 60);
	$node->safe_psql('shop', qq(SELECT outbox.unsubscribe('$table')));
}

# ---------------------------------------------------------------------------
# Records of several partitions removed, all of one
# ---------------------------------------------------------------------------

my $loss = unique_topic('loss');
topic_create($kafka, $loss, 3);
subscribe('loss', $loss, q(, on_data_loss => 'continue'));
produce($kafka, $loss, $_, 100 * $_ + 1) for 0 .. 2;
is_soon($node, 'shop', 'SELECT count(*) FROM loss', '3', 'one of each partition is read');
$node->safe_psql('shop', q(SELECT outbox.pause('applier')));
ok(wait_until(sub { !defined worker_pid($node, 'shop', 'applier') }, 'the applier to leave'), 'nobody reads');
for my $partition (0, 1)
{
	produce($kafka, $loss, $partition, map { 100 * $partition + $_ } 2 .. 6);
}
kafka_admin($kafka, 'truncate', $loss, 0, 4);
kafka_admin($kafka, 'truncate', $loss, 1, 6);
kafka_admin($kafka, 'truncate', $loss, 2, 1);
$node->safe_psql('shop', q(SELECT outbox.resume('applier')));
is_soon($node, 'shop', q(SELECT string_agg(format('%s+%s', next_offset, lost), ' ' ORDER BY partition) FROM outbox.stat_subscriptions WHERE name = 'loss'),
	'6+3 6+5 1+0', 'each loss is counted');
like(slurp_file($node->logfile), qr/subscription "loss" has lost events\n.*DETAIL:  offsets $_ of partition \d of topic "$loss" were removed before they were read/, 'and reported, with its range')
  for '1 to 3', '1 to 5';
produce($kafka, $loss, $_, 100 * $_ + 7) for 0 .. 2;
is_soon($node, 'shop', q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM loss), '1 5 6 7 101 107 201 207', 'what was there is read');

# ---------------------------------------------------------------------------
# Brokers away (scenario 22), on mocks, which can be told to go
# ---------------------------------------------------------------------------

my $port = OutboxTest::free_tcp_port();
my $mock = outbox_broker(mock => 1);
$node->safe_psql('shop', "CREATE SERVER nowhere FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '127.0.0.1:$port')");
subscribe('away', 'away', q(, server => 'nowhere'));
my $other = unique_topic('other');
topic_create($kafka, $other, 1);
subscribe('other', $other);
produce($kafka, $other, 0, 1);
is_soon($node, 'shop', 'SELECT count(*) FROM other', '1', 'a broker that is not there holds up no other');
topic_create($mock, 'away', 1);
produce($mock, 'away', 0, 1);
$node->safe_psql('shop', "ALTER SERVER nowhere OPTIONS (SET \"bootstrap.servers\" '$mock->{bootstrap}')");
is_soon($node, 'shop', 'SELECT count(*) FROM away', '1', 'ALTER SERVER takes effect without a restart');
mock_control($mock, 'down', 1);
my $pid = worker_pid($node, 'shop', 'applier');
produce($kafka, $other, 0, 2);
is_soon($node, 'shop', 'SELECT count(*) FROM other', '2', 'others go on while it is away');
mock_control($mock, 'up', 1);
produce($mock, 'away', 0, 2);
is_soon($node, 'shop', 'SELECT count(*) FROM away', '2', 'and so does it when it comes back');
is(worker_pid($node, 'shop', 'applier'), $pid, 'in the same worker');
$node->stop;

done_testing();
