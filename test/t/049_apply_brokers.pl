# Brokers and topics that go, change and come back while the applier reads under
# load: nothing is lost or taken for another, and what can no longer be had is
# reported (scenarios 21 and 22).  With a Kafka of its own, which it may kill.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use File::Temp;
use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = outbox_kafka('--no-auto-create', '--property', 'broker.session.timeout.ms=1500', '--property', 'broker.heartbeat.interval.ms=300');
my $node  = outbox_node('services', conf => 'pg_outbox.metadata_refresh = 1');
my $items = unique_topic('items');

topic_create($kafka, $items, 4);
outbox_install($node, $_, $kafka) for qw(users orders);
$node->safe_psql('users', <<"END");
CREATE TABLE items (id int PRIMARY KEY, n int);
SELECT outbox.publish('items', topic => '$items');
END
$node->safe_psql('orders', <<"END");
CREATE TABLE items (id int PRIMARY KEY, n int, version bigint NOT NULL);
CREATE TABLE handled (id text);
CREATE FUNCTION handler(e outbox.event) RETURNS void LANGUAGE sql AS 'INSERT INTO public.handled VALUES (e.id)';
SELECT outbox.replicate('items', topic => '$items');
SELECT outbox.handle('handler(outbox.event)', topic => '$items');
END

# Changes of two hundred rows, some hundred a second, until they are stopped.
my $script = File::Temp->new(SUFFIX => '.sql');
print $script <<'END';
\set id random(1, 200)
INSERT INTO items VALUES (:id, 0) ON CONFLICT (id) DO UPDATE SET n = items.n + 1;
END
close $script;

sub start_writer
{
	return IPC::Run::start([ 'pgbench', '-n', '-f', "$script", '-c', 1, '-T', 600, '-R', 100, $node->connstr('users') ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
}

sub stop_writer
{
	my ($writer) = @_;

	$writer->kill_kill;
	return;
}

# There is more of something than there is now.
sub grows
{
	my ($db, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $now = $node->safe_psql($db, $sql);

	return is_soon($node, $db, "SELECT ($sql) > $now + 20", 't', $name);
}

my $handled = 'SELECT count(*) FROM handled';
my $written = 'SELECT sum(n) FROM items';

sub kafka_do
{
	my ($what) = @_;
	my $out = '';

	IPC::Run::run([ dirname(__FILE__) . '/../kafka/kafka.sh', $what, $kafka->{dir} ], '>', \$out, '2>&1') or die $out;
	return;
}

# ---------------------------------------------------------------------------
# Brokers that halt, grow, die and come back (22; 21)
# ---------------------------------------------------------------------------

my $writer = start_writer();
grows('orders', $handled, 'events flow');
my $applier = worker_pid($node, 'orders', 'applier');
chomp(my $broker = slurp_file("$kafka->{dir}/1/pid"));

kill 'STOP', $broker;
grows('users', $written, 'a broker that hangs: writers go on');
is_soon($node, 'orders', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier' AND xact_start IS NULL), '1',
	'and the applier waits outside of a transaction');
kill 'CONT', $broker;
grows('orders', $handled, 'and goes on when the broker does');

# (The producer of the relay learns of new partitions after some minutes.)
kafka_admin($kafka, 'partitions', $items, 8);
topic_write($kafka, $items, map { { key => 2000 + $_, value => qq({"id": ${\ (2000 + $_)}, "n": 0}), headers => { id => $_ }, partition => $_ } } 4 .. 7);
is_soon($node, 'orders', q(SELECT name, count(*), min(received) > 0 FROM outbox.stat_subscriptions GROUP BY 1 ORDER BY 1), "handler|8|t\nitems|8|t",
	'four partitions more under load: all are read');

kafka_do('kill');
grows('users', $written, 'a broker that died: writers go on');
kafka_do('start');
grows('orders', $handled, 'and the applier when it is back');
is(worker_pid($node, 'orders', 'applier'), $applier, 'the same one still');

stop_writer($writer);
kafka_do('kill');
$node->restart;
$writer = start_writer();
is_soon($node, 'orders', q(SELECT count(*) FROM outbox.status WHERE kind = 'worker' AND name = 'applier' AND state = 'waiting' AND waiting_for ~ 'items'), '1',
	'no broker at start: the applier says that it waits, and for what');
grows('users', $written, 'writers do not');
kafka_do('start');
grows('orders', $handled, 'and all goes on when there is one');
stop_writer($writer);

$node->safe_psql('users', 'INSERT INTO items VALUES (1000, 0)');
is_soon($node, 'orders', 'SELECT count(*) FROM items WHERE id = 1000', '1', 'the last change arrives');
is_soon($node, 'orders', 'SELECT sum(lag) FROM outbox.stat_subscriptions', '0', 'nothing is left to read');
same_rows([ $node, 'users', 'SELECT id, n FROM items' ], [ $node, 'orders', 'SELECT id, n FROM items WHERE id <= 1000' ], 'the replica equals its source');
my %ids = map { $_->{headers}{id} => 1 } topic_read($kafka, $items);
is($node->safe_psql('orders', 'SELECT count(*), count(DISTINCT id) FROM handled'), join('|', (scalar keys %ids) x 2), 'the handler saw each event once');
is($node->safe_psql('orders', 'SELECT count(*) FROM outbox.dead_letters'), '0', 'no letters');
$node->stop;
done_testing();
