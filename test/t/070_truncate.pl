# TRUNCATE as an event: every partition gets it in its place in the order, and
# replicas and handlers act upon it once.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $topic  = unique_topic('cut');
my $late   = unique_topic('late');
topic_create($broker, $topic, 4);
topic_create($broker, $late,  3);
my $node = outbox_node('services', conf => 'pg_outbox.metadata_refresh = 1');
outbox_install($node, 'users',  $broker);
outbox_install($node, 'orders', $broker);

$node->safe_psql('users', <<"END");
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE late (id int PRIMARY KEY, v text);
SELECT outbox.publish('item', topic => '$topic', on_truncate => 'publish');
SELECT outbox.publish('late', topic => '$late', on_truncate => 'publish');
END
$node->safe_psql('orders', <<"END");
CREATE TABLE item_replica (id int PRIMARY KEY, v text, version bigint NOT NULL);
CREATE TABLE late_replica (id int PRIMARY KEY, v text, version bigint NOT NULL);
CREATE TABLE item_gone (id int);
CREATE FUNCTION item_gone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.item_gone VALUES (old.id); RETURN NULL; END';
CREATE TRIGGER item_gone AFTER DELETE ON item_replica FOR EACH ROW EXECUTE FUNCTION item_gone();
CREATE TABLE heard (id bigint, op text, partition text, n int);
CREATE FUNCTION hear(e outbox.event) RETURNS void LANGUAGE sql
	BEGIN ATOMIC INSERT INTO public.heard VALUES ((e).id::bigint, (e).op, (e).headers ->> 'partition', (e).partition); END;
SELECT outbox.replicate('item_replica', topic => '$topic');
SELECT outbox.replicate('late_replica', topic => '$late');
SELECT outbox.handle('hear(outbox.event)', topic => '$topic');
END

sub equal
{
	my ($table, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $all = "SELECT coalesce(string_agg(format('%s=%s', id, v), ' ' ORDER BY id), 'none') FROM";

	return is_soon($node, 'orders', "$all ${table}_replica", $node->safe_psql('users', "$all $table"), $name);
}

# ---- before and after, in one transaction and around it
$node->safe_psql('users', q(INSERT INTO item SELECT g, 'first' FROM generate_series(1, 200) g));
equal('item', 'the replica is there');
$node->safe_psql('users', <<'END');
BEGIN;
INSERT INTO item VALUES (1000, 'gone at once');
TRUNCATE item;
INSERT INTO item VALUES (7, 'again'), (2000, 'new');
COMMIT;
INSERT INTO item VALUES (8, 'again too');
END
equal('item', 'rows from before the TRUNCATE are gone, those from after it are there');
is($node->safe_psql('orders', 'SELECT count(*) FROM item_gone WHERE id <> 1000'), '200', 'by DELETE, with the triggers of the replica');

# ---- rolled back, then once more in a subtransaction that is not
$node->safe_psql('users', <<'END');
BEGIN;
SAVEPOINT a;
TRUNCATE item;
ROLLBACK TO a;
INSERT INTO item VALUES (9, 'stays');
COMMIT;
END
equal('item', 'a TRUNCATE that was rolled back makes no event');
is($node->safe_psql('users', q(SELECT count(*) FROM outbox.events WHERE op = 't')), '1', 'there is one event so far');

# ---- what is on the wire
my @all = topic_read($broker, $topic);
my @cut = grep { ($_->{headers}{op} // '') eq 't' } @all;
is(join(' ', map { "$_->{partition}:$_->{headers}{partition}" } @cut), '0:0/4 1:1/4 2:2/4 3:3/4', 'each partition has a copy');
is(scalar(keys %{ { map { $_->{headers}{id} => 1 } @cut } }), 1, 'under one id');
is("$cut[0]{key} $cut[0]{value}", 'pg_outbox.truncate {}', 'with a key and a value');
my $id = $cut[0]{headers}{id};
is(scalar(grep { my $r = $_; my $mark = (grep { $_->{partition} == $r->{partition} } @cut)[0];
	($r->{headers}{id} < $id) != ($r->{offset} < $mark->{offset}) && $r->{headers}{id} != $id } @all), 0,
	'in its place in the order of each partition');
is_soon($node, 'orders', q(SELECT count(*) FROM heard WHERE op = 't'), '1', 'a handler has it once');

# ---- late and older events are stale
is($node->safe_psql('orders', <<"END"), "stale\nstale\nduplicate\nstale", 'what is older is stale from then on');
SELECT outbox.apply('item_replica', '5', '{"id":5,"v":"late"}', '{"id":"@{[ $id - 1 ]}","op":"u"}');
SELECT outbox.apply('item_replica', '5', NULL, '{"id":"@{[ $id - 1 ]}","op":"d"}');
SELECT outbox.apply('item_replica', NULL, NULL, '{"id":"$id","op":"t"}');
SELECT outbox.apply('item_replica', NULL, NULL, '{"id":"@{[ $id - 1 ]}","op":"t"}');
END

# ---- a topic that is stopped: the event is parked and drained in its place
$node->safe_psql('users', "SELECT outbox.pause_topic('$late')");
is_soon($node, 'users', "SELECT state FROM outbox.stat_topics WHERE topic = '$late'", 'paused', 'the topic is paused');
$node->safe_psql('users', <<'END');
INSERT INTO late SELECT g, 'first' FROM generate_series(1, 50) g;
TRUNCATE late;
INSERT INTO late SELECT g, 'second' FROM generate_series(3, 5) g;
TRUNCATE late;
INSERT INTO late SELECT g, 'third' FROM generate_series(4, 6) g;
END
is_soon($node, 'users', "SELECT parked_events FROM outbox.stat_topics WHERE topic = '$late'", '58', 'its events are parked');
$node->safe_psql('users', "SELECT outbox.resume_topic('$late')");
equal('late', 'and drained in order');
@all = topic_read($broker, $late);
is(scalar(@all), 56 + 2 * 3, 'each event once, each TRUNCATE once per partition');
for my $partition (0 .. 2)
{
	my @ids = map { $_->{headers}{id} } grep { $_->{partition} == $partition } @all;

	is("@ids", join(' ', sort { $a <=> $b } @ids), "partition $partition is in order");
}

# ---- a broker that is away, a relay that dies in the middle of the copies
my $pid = wait_for_worker($node, 'users', 'relay');
fault($node, 'relay.after_ack=once-kill');
# the crash that follows may reach the session before it has the answer
eval { $node->psql('users', q(BEGIN; TRUNCATE item; INSERT INTO item VALUES (1, 'after the crash'); COMMIT)) };
wait_until(sub { !kill 0, $pid }, 'the end of the relay');
no_faults($node);
ok(wait_for_worker($node, 'users', 'relay', $pid), 'the relay died and is back');
equal('item', 'a relay that dies between the copies sends them again');
is_soon($node, 'orders', q(SELECT count(*) FROM heard WHERE op = 't'), '2', 'which handlers do not notice');

# ---- more partitions than the producer takes messages at once
my $mock = outbox_broker(mock => 1, topics => { wide => 1300 });
$node->safe_psql('users', <<"END");
CREATE SERVER narrow FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$mock->{bootstrap}', "queue.buffering.max.messages" '1000');
CREATE TABLE wide (id int PRIMARY KEY);
SELECT outbox.publish('wide', topic => 'wide', server => 'narrow', on_truncate => 'publish');
TRUNCATE wide;
INSERT INTO wide VALUES (1);
END
# how many partitions have how many copies, once there are so many records
sub copies
{
	my (%of, %with);

	$of{ $_->{partition} }++ for grep { ($_->{headers}{op} // '') eq 't' } topic_wait($mock, 'wide', $_[0], 120);
	$with{$_}++ for values %of;
	return join ', ', map { "$with{$_} have $_" } sort keys %with;
}
is(copies(1301), '1300 have 1', 'a copy for each of many partitions');
# what is sent but not settled when the topic is paused would be parked with the rest
is_soon($node, 'users', q(SELECT backlog_events FROM outbox.stat_servers WHERE server = 'narrow'), '0', 'all of it settled');
$node->safe_psql('users', q(SELECT outbox.pause_topic('wide', 'narrow')));
is_soon($node, 'users', q(SELECT state FROM outbox.stat_topics WHERE topic = 'wide'), 'paused', 'the topic is paused');
$node->safe_psql('users', 'TRUNCATE wide; INSERT INTO wide VALUES (2)');
is_soon($node, 'users', q(SELECT parked_events FROM outbox.stat_topics WHERE topic = 'wide'), '2', 'parked');
$node->safe_psql('users', q(SELECT outbox.resume_topic('wide', 'narrow')));
is(copies(2602), '1300 have 2', 'and drained once each');

# ---- the topic grows
if ($broker->{kind} eq 'kafka')
{
	kafka_admin($broker, 'partitions', $topic, 6);
	# known a second after the last look, at the latest
	my $seen = sub {
		$node->safe_psql('users', q(TRUNCATE item; INSERT INTO item VALUES (2, 'grown')));
		my $newest = $node->safe_psql('users', q(SELECT max(id) FROM outbox.events WHERE op = 't'));
		wait_for_sql($node, 'orders', "SELECT version >= $newest FROM outbox._floor WHERE target = 'item_replica'::regclass") or return 1;
		return join(' ', map { $_->{headers}{partition} } grep { $_->{headers}{id} eq $newest } topic_read($broker, $topic)) eq
		  '0/6 1/6 2/6 3/6 4/6 5/6';
	};
	ok(wait_until($seen, 'six copies'), 'a topic that has grown has a copy in each of its partitions');
	equal('item', 'and the replica is right');
}

# ---- dependencies: rows that others refer to
$node->safe_psql('orders', <<'END');
CREATE TABLE refers (id int REFERENCES item_replica);
INSERT INTO refers SELECT id FROM item_replica LIMIT 1;
END
$node->safe_psql('users', q(TRUNCATE item; INSERT INTO item VALUES (3, 'dependent')));
is_soon($node, 'orders', q(SELECT DISTINCT state, sqlstate FROM outbox.dead_letters), 'parked|23503', 'what cannot be deleted yet is tried again');
is_soon($node, 'orders', q(SELECT count(*) FROM item_replica WHERE id = 3), '1', 'events behind it go on');
$node->safe_psql('orders', 'DELETE FROM refers');
equal('item', 'until it can be');
is_soon($node, 'orders', q(SELECT count(*) FROM outbox.dead_letters WHERE state <> 'done'), '0', 'its letters are done');

# ---- a replica of two topics
$node->safe_psql('orders', "SELECT outbox.replicate('item_replica', topic => '$late', name => 'second')");
is_soon($node, 'orders', q(SELECT count(*) FROM outbox.stat_subscriptions WHERE name = 'second' AND lag = 0), '3', 'it reads two topics') if $broker->{kind} eq 'kafka';
$node->safe_psql('users', 'TRUNCATE item');
is_soon($node, 'orders', q(SELECT count(*) > 0 FROM outbox.dead_letters WHERE state = 'dead' AND message ~ 'replica of several topics'), 't',
	'a TRUNCATE of one of them is set aside');

$node->stop('fast');
done_testing();
