# Brokers that are far away, with a round trip of 300 ms: how many partitions a
# topic has, and whether there is one, is learned however long the answer takes, and
# other servers' events do not wait for it.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

use constant WAY_MS => 150;

my $kafka = outbox_kafka('--no-auto-create');
my $proxy = outbox_proxy($kafka);
my $node  = outbox_node('main', conf => 'pg_outbox.metadata_refresh = 1');
proxy_delay($proxy, WAY_MS);

my $near = unique_topic('near');
topic_create($kafka, $near, 1);

sub values_of
{
	return join ' ', map { $_->{value} } @_;
}

for my $once (0, 1)
{
	my $db   = $once ? 'once'         : 'plain';
	my $name = $once ? 'exactly once' : 'at least once';
	my ($item, $held, $missing, $sound) = map { unique_topic("$_$once") } qw(item held missing sound);

	topic_create($kafka, $_, 3) for $item, $held;
	topic_create($kafka, $sound, 1);
	outbox_install($node, $db, $proxy, $once ? (exactly_once => 'true') : ());
	outbox_install($node, "r$db", $kafka);
	$node->safe_psql($db, <<"END");
CREATE SERVER near FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$kafka->{bootstrap}');
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE held (id int PRIMARY KEY, v text);
SELECT outbox.publish('item', topic => '$item', on_truncate => 'publish');
SELECT outbox.publish('held', topic => '$held', on_truncate => 'publish');
END
	$node->safe_psql("r$db", <<"END");
CREATE TABLE item_replica (id int PRIMARY KEY, v text, version bigint NOT NULL);
SELECT outbox.replicate('item_replica', topic => '$item');
END

	# ---- TRUNCATE
	$node->safe_psql($db, q(INSERT INTO item SELECT g, 'first' FROM generate_series(1, 20) g));
	is_soon($node, "r$db", 'SELECT count(*) FROM item_replica', '20', "$name: rows arrive");
	$node->safe_psql($db, q(BEGIN; TRUNCATE item; INSERT INTO item VALUES (1, 'second'); COMMIT));
	is_soon($node, "r$db", q(SELECT string_agg(v, ' ') FROM item_replica), 'second', "$name: a TRUNCATE arrives");

	# ---- the end of a resync
	$node->safe_psql($db, q(SET pg_outbox.capture = off; INSERT INTO item VALUES (2, 'unseen')));
	$node->safe_psql($db, q(SELECT outbox.resync('item')));
	is_soon($node, $db, q(SELECT state, error FROM outbox.copies WHERE kind = 'resync'), 'done|', "$name: a resync is done");
	is_soon($node, "r$db", q(SELECT version FROM outbox._floor WHERE target = 'item_replica'::regclass),
		$node->safe_psql($db, q(SELECT floor FROM outbox.copies WHERE kind = 'resync')), "$name: its end arrives");

	# ---- a TRUNCATE that was parked
	$node->safe_psql($db, "SELECT outbox.pause_topic('$held')");
	is_soon($node, $db, "SELECT state FROM outbox.stat_topics WHERE topic = '$held'", 'paused', "$name: a topic is paused");
	$node->safe_psql($db, q(TRUNCATE held; INSERT INTO held VALUES (1, 'v')));
	is_soon($node, $db, "SELECT parked_events FROM outbox.stat_topics WHERE topic = '$held'", '2', "$name: its TRUNCATE is parked");
	$node->safe_psql($db, "SELECT outbox.resume_topic('$held')");
	is(join(' ', map { $_->{headers}{op} } sort { $a->{headers}{id} <=> $b->{headers}{id} } topic_wait($kafka, $held, 4)), 't t t c', "$name: and sent");

	# ---- a topic that is missing, and is found when it is there
	$node->safe_psql($db, <<"END");
BEGIN;
SELECT outbox.emit('$sound', 'k', 'sound');
SELECT outbox.emit('$missing', 'k', 'missing');
COMMIT;
END
	is_soon($node, $db, "SELECT state, parked_events FROM outbox.stat_topics WHERE topic = '$missing'", 'stopped|1', "$name: a missing topic is stopped");
	is(values_of(topic_wait($kafka, $sound, 1)), 'sound', "$name: others flow");
	is_soon($node, $db, 'SELECT backlog_events FROM outbox.stat_servers', "0\n0", "$name: and are settled");
	# an event, and the end of its transaction
	is((topic_watermarks($kafka, $sound, 0))[1], $once ? 2 : 1, "$name: and were sent once");
	topic_create($kafka, $missing, 1);
	is(values_of(topic_wait($kafka, $missing, 1)), 'missing', "$name: it goes on when it is there");

	# ---- others do not wait for an answer
	proxy_delay($proxy, 6000);
	$node->safe_psql($db, <<"END");
TRUNCATE item;
SELECT outbox.emit('$near', 'k', '$db 1', server => 'near');
END
	my $n = $once * 2;
	topic_wait($kafka, $near, $n + 1);
	$node->safe_psql($db, "SELECT outbox.emit('$near', 'k', '$db 2', server => 'near')");
	my @seen = topic_wait($kafka, $near, $n + 2);
	is(values_of(@seen[ -2, -1 ]), "$db 1 $db 2", "$name: events for another server go on");
	is($node->safe_psql($db, q(SELECT backlog_events > 0 FROM outbox.stat_servers WHERE server = 'kafka')), 't', "$name: while the answer is on its way");
	proxy_delay($proxy, WAY_MS);
	is_soon($node, "r$db", q(SELECT count(*) FROM item_replica), '0', "$name: which is heard at last");
}

$node->stop('fast');
done_testing();
