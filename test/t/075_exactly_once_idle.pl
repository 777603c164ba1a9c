# A server with exactly_once that cannot be reached, or one without a producer, that
# nobody publishes to, holds up nobody else: neither copies for other servers nor the log.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $topic = unique_topic('idle');
topic_create($broker, $topic, 1);
my $node = outbox_node('main', conf => "pg_outbox.segment_size = '1MB'");
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', q(CREATE SERVER away FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', exactly_once 'true')));
$node->safe_psql('shop', 'CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users SELECT generate_series(1, 100)');
$node->safe_psql('shop', "SELECT outbox.publish('users', topic => '$topic')");
is_soon($node, 'shop', "SELECT state FROM outbox.status WHERE kind = 'server' AND name = 'away'", 'unreachable', 'a server is away');
is_soon($node, 'shop', 'SELECT state FROM outbox.copies', 'done', 'a copy for another goes on');

my $many = "SELECT count(outbox.emit('$topic', 'k', repeat('v', 1000))) FROM generate_series(1, 3000)";
my $settled = q(SELECT backlog_events FROM outbox.stat_servers WHERE server = 'kafka');
$node->safe_psql('shop', $many);
is_soon($node, 'shop', $settled, '0', 'so do events');
is_soon($node, 'shop', 'SELECT rotations > 0 AND bytes < 1024 * 1024 FROM outbox.stat_log', 't', 'and the log is given back');

# What is for it waits.
$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', 'for it', server => 'away')");
$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', 'behind it')");
is_soon($node, 'shop', $settled, '0', 'an event for the one that is away does not hold up the other');
$node->safe_psql('shop', "SELECT outbox.copy('users')");
is_soon($node, 'shop', 'SELECT state FROM outbox.copies', 'done', 'nor does it a copy');
$node->safe_psql('shop', qq{ALTER SERVER away OPTIONS (SET "bootstrap.servers" '$broker->{bootstrap}', SET exactly_once 'false')});
is_soon($node, 'shop', 'SELECT sum(backlog_events) FROM outbox.stat_servers', '0', 'it is sent when there is a way');
is((grep { ($_->{value} // '') eq 'for it' } topic_read($broker, $topic)), 1, 'once');

# One of which no producer can be made.
my $last = $node->safe_psql('shop', 'SELECT rotations FROM outbox.stat_log');
$node->safe_psql('shop', qq{CREATE SERVER shut FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$broker->{bootstrap}', "secrets.file" '/none')});
is_soon($node, 'shop', q(SELECT last_error ~ '/none' FROM outbox.status WHERE kind = 'server' AND name = 'shut'), 't', 'a server without a producer');
$node->safe_psql('shop', $many);
is_soon($node, 'shop', $settled, '0', 'events for others go on');
is_soon($node, 'shop', "SELECT rotations > $last AND bytes < 1024 * 1024 FROM outbox.stat_log", 't', 'the log is given back');
$node->safe_psql('shop', "SELECT outbox.copy('users')");
is_soon($node, 'shop', 'SELECT state FROM outbox.copies', 'done', 'and copies are made');
$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', 'for none', server => 'shut'), outbox.emit('$topic', 'k', 'behind it')");
is_soon($node, 'shop', $settled, '0', 'also if something is for it');
my $pid = wait_for_worker($node, 'shop', 'relay');
$node->safe_psql('shop', 'DROP SERVER shut');
is_soon($node, 'shop', q(SELECT state, parked_events FROM outbox.stat_topics WHERE server = 'shut'), 'stopped|1', 'which is kept when it is dropped');
is(worker_pid($node, 'shop', 'relay'), $pid, 'by the same relay');
$node->safe_psql('shop', qq{CREATE SERVER shut FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$broker->{bootstrap}')});
is_soon($node, 'shop', 'SELECT sum(backlog_events) FROM outbox.stat_servers', '0', 'nothing is left');
is_soon($node, 'shop', q(SELECT state, parked_events FROM outbox.stat_topics WHERE server = 'shut'), 'live|0', 'it is sent when there is such a server again');
is((grep { ($_->{value} // '') eq 'for none' } topic_read($broker, $topic)), 1, 'once');

$node->stop;
done_testing();
