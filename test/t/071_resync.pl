# A replica that has what its source never had, or has lost: rows of a history
# that was lost with the old primary.  outbox.resync makes it equal to the source
# again, while writers write.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $topic  = unique_topic('item');
topic_create($broker, $topic, 3);
my $node = outbox_node('services', conf => 'pg_outbox.metadata_refresh = 1');
outbox_install($node, 'users',  $broker);
outbox_install($node, 'orders', $broker);

$node->safe_psql('users', <<"END");
CREATE TABLE item (id int PRIMARY KEY, v text);
INSERT INTO item SELECT g, 'first' FROM generate_series(1, 3000) g;
SELECT outbox.publish('item', topic => '$topic');
END
$node->safe_psql('orders', <<"END");
CREATE TABLE item_replica (id int PRIMARY KEY, v text, version bigint NOT NULL);
CREATE TABLE heard (id text, op text);
CREATE FUNCTION hear(e outbox.event) RETURNS void LANGUAGE sql
	BEGIN ATOMIC INSERT INTO public.heard SELECT (e).id, (e).op WHERE (e).op = 'e'; END;
SELECT outbox.replicate('item_replica', topic => '$topic');
SELECT outbox.handle('hear(outbox.event)', topic => '$topic', start => 'latest');
END
is_soon($node, 'orders', 'SELECT count(*) FROM item_replica', '3000', 'the replica is there');

sub equal
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_soon($node, 'users', q(SELECT kind, state, error FROM outbox.copies), 'resync|done|', "$name: the resync is done", 240);
	is_soon($node, 'orders', q(SELECT version FROM outbox._floor WHERE target = 'item_replica'::regclass),
		$node->safe_psql('users', 'SELECT floor FROM outbox.copies'), "$name: its end has come", 240);
	# whatever writers did behind it has come as well
	is_soon($node, 'orders', q(SELECT count(*) FROM item_replica), $node->safe_psql('users', 'SELECT count(*) FROM item'), "$name: as many rows");
	wait_for_sql($node, 'orders', q(SELECT coalesce(string_agg(v, '' ORDER BY id), '') = $1 FROM item_replica) =~ s/\$1/"'" . $node->safe_psql('users', q(SELECT coalesce(string_agg(v, '' ORDER BY id), '') FROM item)) . "'"/er);
	return same_rows([ $node, 'users', 'SELECT id, v FROM item' ], [ $node, 'orders', 'SELECT id, v FROM item_replica' ], "$name: row for row");
}

# Events of a history that the source does not have.  Their ids are above those
# that replicas have seen, and below those that come.
sub lost_history
{
	my (@events) = @_;

	for my $ev (@events)
	{
		my ($op, $id, $v) = @$ev;
		my $version = $node->safe_psql('users', q(SELECT outbox.emit('elsewhere', 'k', 'x'::text)));

		topic_write($broker, $topic, {
			key     => $id,
			value   => $op eq 'd' ? undef : qq({"id":$id,"v":"$v"}),
			headers => [ id => $version, op => $op ] });
	}
	return;
}

lost_history([ 'c', 9001, 'phantom' ], [ 'c', 9002, 'phantom' ], [ 'u', 5, 'phantom' ], [ 'd', 6 ], [ 'd', 7 ], [ 'u', 8, 'phantom' ]);
is_soon($node, 'orders', q(SELECT count(*) FILTER (WHERE v = 'phantom'), count(*) FILTER (WHERE id IN (6, 7)) FROM item_replica), '4|0',
	'the replica has what its source never had');
$node->safe_psql('users', 'DELETE FROM item WHERE id = 8');
is_soon($node, 'orders', q(SELECT count(*) FROM item_replica WHERE id = 8), '0', 'later changes reach it');

# ---- writers that stamped before the resync and commit after it began
my $open = $node->background_psql('users');
$open->query_safe(q(BEGIN));
$open->query_safe(q(INSERT INTO item VALUES (7001, 'late insert')));
$open->query_safe(q(UPDATE item SET v = 'late update' WHERE id = 100));
$open->query_safe(q(DELETE FROM item WHERE id = 101));
$node->safe_psql('users', <<'END');
BEGIN;
SAVEPOINT s;
INSERT INTO item VALUES (7002, 'prepared');
RELEASE s;
PREPARE TRANSACTION 'late';
END
my $aborts = $node->background_psql('users');
$aborts->query_safe(q(BEGIN));
$aborts->query_safe(q(INSERT INTO item VALUES (7003, 'never')));
$aborts->query_safe(q(UPDATE item SET v = 'never' WHERE id = 102));
# one that has nothing to do with it
$node->safe_psql('postgres', q(CREATE TABLE t (i int)));
my $foreign = $node->background_psql('postgres');
$foreign->query_safe(q(BEGIN; INSERT INTO t VALUES (1)));
$node->safe_psql('users', q(SELECT outbox.resync('item')));
is_soon($node, 'users', q(SELECT cardinality(waits_for), rows FROM outbox.copies), '3|0', 'a resync waits for those who stamped before it');
like($node->safe_psql('users', q(SELECT health, waiting_for FROM outbox.status WHERE kind = 'copy')),
	qr/^waiting\|the end of transactions that were writing when it began: \d+, \d+, \d+$/, 'and says so');
# who comes now is not waited for, and outlives it
my $later = $node->background_psql('users');
$later->query_safe(q(BEGIN));
$later->query_safe(q(INSERT INTO item VALUES (7004, 'later')));
$later->query_safe(q(UPDATE item SET v = 'later' WHERE id = 103));
$open->query_safe('COMMIT');
$aborts->query_safe('ROLLBACK');
$node->safe_psql('users', q(COMMIT PREPARED 'late'));
is_soon($node, 'users', q(SELECT rows, pending FROM outbox.copies), '3000|1', 'then it reads, and looks again at what is being changed');
is_soon($node, 'orders', q(SELECT v FROM item_replica WHERE id = 5), 'first', 'its rows arrive');
is($node->safe_psql('orders', q(SELECT count(*) FROM item_replica WHERE id IN (9001, 9002))), '2', 'nothing is deleted before its end');
$later->query_safe('COMMIT');
equal('late writers');
is($node->safe_psql('orders', q(SELECT string_agg(v, ' ' ORDER BY id) FROM item_replica WHERE id IN (7001, 7002, 7004, 103))), 'later late insert prepared later', 'no late writer lost a row');
is_soon($node, 'orders', q(SELECT count(*) FROM heard), '1', 'a handler has the end once');
$_->quit for $open, $aborts, $later, $foreign;

my @marks = grep { ($_->{headers}{op} // '') eq 'e' } topic_read($broker, $topic);
is(join(' ', map { "$_->{partition}:$_->{headers}{partition}" } @marks), '0:0/3 1:1/3 2:2/3', 'each partition has the end');
is(scalar(grep { $_->{headers}{op} eq 'r' && ($_->{headers}{version} // $_->{headers}{id}) < $marks[0]{headers}{version} && $_->{headers}{id} > $marks[0]{headers}{version} } topic_read($broker, $topic)), 0,
	'no row of the resync is older than its floor');
is($node->safe_psql('orders', "SELECT outbox.apply('item_replica', '9001', '{\"id\":9001,\"v\":\"again\"}', '{\"id\":\"@{[ $marks[0]{headers}{version} - 1 ]}\"}')"), 'stale',
	'what comes of the lost history now is stale');
is($node->safe_psql('orders', q(SELECT count(*) FROM outbox._mark)), '0', 'no mark is left');

# ---- a writer whose transaction is the newest, as none behind it has ended
fault($node, 'copy.next=wait');
$node->wait_for_log(qr/fault point "copy.next" is hit/);
$node->safe_psql('users', q(SELECT outbox.resync('item')));
my $newest = $node->background_psql('users');
$newest->query_safe(q(BEGIN));
my $xid = $newest->query_safe(q(DELETE FROM item WHERE id IN (100, 101, 102) RETURNING pg_current_xact_id())) =~ s/\n.*//sr;
no_faults($node);
is_soon($node, 'users', q(SELECT waits_for FROM outbox._copy), "{$xid}", 'the newest transaction is waited for as well');
$newest->query_safe('COMMIT');
$newest->quit;
equal('the newest writer');

# ---- an empty table
$node->safe_psql('users', <<'END');
CREATE TABLE aside AS SELECT * FROM item;
SET pg_outbox.capture = off;
TRUNCATE item;
RESET pg_outbox.capture;
SELECT outbox.resync('item');
END
equal('an empty table');

# ---- kills of the relay and of the applier at each step, under load
$node->safe_psql('users', <<'END');
INSERT INTO item SELECT * FROM aside;
END
lost_history([ 'c', 9003, 'phantom' ], [ 'u', 15, 'phantom' ], [ 'd', 16 ]);
is_soon($node, 'orders', q(SELECT count(*) FILTER (WHERE v = 'phantom'), count(*) FILTER (WHERE id = 16) FROM item_replica), '2|0', 'phantoms once more');
$node->safe_psql('users', q(SELECT outbox.resync('item')));

for my $point ('copy.floor=once-kill', 'copy.before_commit=once-kill', 'relay.after_ack=once-kill', 'apply-before-commit=once-kill', 'copy.before_commit=once-kill')
{
	my ($kind) = $point =~ /^apply/ ? 'applier' : 'relay';
	my $db     = $kind eq 'relay' ? 'users' : 'orders';

	wait_for_sql($node, 'users', q(SELECT true));
	my $pid = eval { wait_for_worker($node, $db, $kind) };
	fault($node, $point);
	# the server may go down under it
	eval { $node->psql('users', q(SELECT outbox.resync('item') WHERE EXISTS (SELECT FROM outbox.copies WHERE state <> 'running'))) };
	eval { run_pgbench($node, 'users', <<'END', clients => 4, transactions => 60, fail_ok => 1) };
\set id random(1, 3500)
\set what random(1, 10)
BEGIN;
\if :what < 3
DELETE FROM item WHERE id = :id;
\elif :what < 4
UPDATE item SET id = id + 10000 WHERE id = :id AND NOT EXISTS (SELECT FROM item WHERE id = :id + 10000);
\else
INSERT INTO item VALUES (:id, 'w' || :what) ON CONFLICT (id) DO UPDATE SET v = item.v || 'x';
\endif
COMMIT;
END
	wait_until(sub { !defined $pid || !kill 0, $pid }, "a $kind to die at $point") or fail("$point was not reached");
	no_faults($node);
}
wait_for_sql($node, 'users', q(SELECT true));
equal('kills and writers');

# ---- the topic grows
if ($broker->{kind} eq 'kafka')
{
	lost_history([ 'c', 9004, 'phantom' ]);
	is_soon($node, 'orders', q(SELECT count(*) FROM item_replica WHERE id = 9004), '1', 'a phantom before the topic grows');
	kafka_admin($broker, 'partitions', $topic, 5);
	$node->safe_psql('users', q(SELECT outbox.resync('item')));
	equal('a topic that has grown');
}

$node->stop('fast');
done_testing();
