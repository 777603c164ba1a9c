# Marks of Kafka transactions, and what was aborted, are nothing that is left to
# read, nor that was lost when the broker removes it.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my $node  = outbox_node('services', conf => 'pg_outbox.metadata_refresh = 1');
my $topic = unique_topic('item');
topic_create($kafka, $topic, 2);
outbox_install($node, 'users', $kafka, exactly_once => 'on');
outbox_install($node, 'orders', $kafka);
$node->safe_psql('users', <<"END");
CREATE TABLE item (id int PRIMARY KEY, v int);
SELECT outbox.publish('item', topic => '$topic', initial => 'none');
INSERT INTO item SELECT g, 0 FROM generate_series(1, 100) g;
END
my $replicate = <<"END";
CREATE TABLE replica (id int PRIMARY KEY, v int, version bigint NOT NULL);
SELECT outbox.replicate('replica', topic => '$topic');
END
$node->safe_psql('orders', $replicate);
my $name = $node->safe_psql('orders', 'SELECT name FROM outbox.subscriptions');

my $sum = 'SELECT count(*), sum(v) FROM';
my $lag = "SELECT sum(received), sum(lag), count(last_loss), min(state) FROM outbox.stat_subscriptions";
my $backlog = q(SELECT backlog, health FROM outbox.status WHERE kind = 'subscription');

sub nothing_left
{
	my ($received, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_soon($node, 'orders', $lag, "$received|0|0|running", "$what: nothing is left to read, nothing lost");
	is_soon($node, 'orders', $backlog, '0|ok', "$what: nor in status");
}

nothing_left(100, 'an idle topic');

# ---------------------------------------------------------------------------
# Retention takes all there is, marks included
# ---------------------------------------------------------------------------

kill_worker($node, 'orders', 'applier', 'TERM');
wait_for_worker($node, 'orders', 'applier');
nothing_left(100, 'read on from behind the marks');
my %end = map { split /\|/ } split /\n/, $node->safe_psql('orders', 'SELECT partition, high_watermark FROM outbox.stat_subscriptions');
kafka_admin($kafka, 'truncate', $topic, $_, $end{$_}) for keys %end;
kill_worker($node, 'orders', 'applier', 'TERM');
$node->safe_psql('users', 'UPDATE item SET v = 1');
is_soon($node, 'orders', "$sum replica", '100|100', 'retention has removed what was read');
nothing_left(200, 'after that');

# ---------------------------------------------------------------------------
# Transactions that were aborted
# ---------------------------------------------------------------------------

fault($node, 'relay.txn_stored=kill');
my $kills = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g;
$node->safe_psql('users', 'UPDATE item SET v = 2');
ok(wait_until(sub { (() = slurp_file($node->logfile) =~ /was terminated by signal 9/g) > $kills + 1 }), 'the relay is killed in transactions');
no_faults($node);
is_soon($node, 'orders', "$sum replica", '100|200', 'in front of a committed one');
nothing_left(300, 'aborted ones');

# ---------------------------------------------------------------------------
# Only what comes from now on
# ---------------------------------------------------------------------------

$node->safe_psql('orders', <<"END");
SELECT outbox.unsubscribe('$name');
TRUNCATE replica;
SELECT outbox.replicate('replica', topic => '$topic', start => 'latest');
END
is_soon($node, 'orders', 'SELECT count(*), sum(lag) FROM outbox.stat_subscriptions', '2|0', 'beginning at the end, behind a mark');
$node->safe_psql('users', 'UPDATE item SET v = 3 WHERE id <= 10');
is_soon($node, 'orders', "$sum replica", '10|30', 'only what came since');
nothing_left(10, 'begun at the end');

$node->stop('fast');
done_testing();
