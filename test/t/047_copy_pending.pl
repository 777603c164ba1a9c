# Rows with a change in flight when a copy reads them: the change wins if it
# commits, and the copy mends the row if it does not.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $topic = unique_topic('pending');
topic_create($broker, $topic, 2);
my $node = outbox_node('services');
outbox_install($node, 'users', $broker);
outbox_install($node, 'orders', $broker);

sub sql { return $node->safe_psql('users', @_) }

# A session with an open transaction that has done this.
sub open_transaction
{
	my (@statements) = @_;
	my $session = $node->background_psql('users');
	$session->query_safe($_) for 'BEGIN', @statements;
	return $session;
}

sub end_transaction
{
	my ($session, $statement) = @_;
	$session->query_safe($statement);
	$session->quit;
	return;
}

sub copies_are
{
	my ($name, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_soon($node, 'users', "SELECT state, rows, pending FROM outbox.copies WHERE publication = '$name'",
		$expected, $what);
}

# Keys of the copies' events: with an older version than their id, or with it.
# The bound is that of the capture: rows are first read with that version.
sub keys_copied
{
	my ($name, $condition) = @_;
	return sql(<<"END");
SELECT string_agg(key, ' ' ORDER BY key::int) FROM outbox.events e JOIN outbox._publication p ON p.topic = e.topic
WHERE p.name = '$name' AND e.op = 'r' AND key::int < 100 AND $condition
END
}

my $same = 'SELECT a, v FROM item_replica';

# ---------------------------------------------------------------------------
# Kinds of writers
# ---------------------------------------------------------------------------

# All rows of the replica are to be mended by the copy.
sql(<<"END");
CREATE TABLE item (a int PRIMARY KEY, v text, note text);
INSERT INTO item SELECT g, 'first' FROM generate_series(1, 2500) g;
SELECT outbox.publish('item', topic => '$topic', columns => '{a, v}', skip_unchanged => true);
END
$node->safe_psql('orders', <<"END");
CREATE TABLE item_replica (a int PRIMARY KEY, v text, version bigint NOT NULL);
SELECT outbox.replicate('item_replica', topic => '$topic');
END
copies_are('item', 'done|2500|0', 'the initial copy');
is_soon($node, 'orders', 'SELECT count(*) FROM item_replica', '2500', 'the replica has all rows');
my $before = sql('SELECT max(id) FROM outbox.events');
sql(q(SET pg_outbox.capture = off; UPDATE item SET v = 'mended'));

my $commits = open_transaction("UPDATE item SET v = 'changed' WHERE a IN (10, 11)");
my $aborts  = open_transaction("UPDATE item SET v = 'aborted' WHERE a IN (20, 21)");
my $deletes = open_transaction('DELETE FROM item WHERE a = 30');
my $keeps   = open_transaction('DELETE FROM item WHERE a = 31');
sql(qq(BEGIN; UPDATE item SET v = 'aborted' WHERE a = 40; PREPARE TRANSACTION '$topic-40'));
sql(qq(BEGIN; UPDATE item SET v = 'changed' WHERE a = 41; PREPARE TRANSACTION '$topic-41'));
my $savepoint = open_transaction('SAVEPOINT s', "UPDATE item SET v = 'aborted' WHERE a = 50");
my $released  = open_transaction('SAVEPOINT s', "UPDATE item SET v = 'changed' WHERE a = 51", 'RELEASE s');
my $undone    = open_transaction('SAVEPOINT s', "UPDATE item SET v = 'aborted' WHERE a = 52", 'ROLLBACK TO s');
my $for_update = open_transaction('SELECT FROM item WHERE a = 60 FOR UPDATE');
my @for_share = map { open_transaction('SELECT FROM item WHERE a IN (61, 62) FOR KEY SHARE') } 1 .. 2;
my $shared    = open_transaction("UPDATE item SET v = 'aborted' WHERE a = 62");
my $locked_first = open_transaction('SELECT FROM item WHERE a = 63 FOR UPDATE', 'SAVEPOINT s',
	"UPDATE item SET v = 'aborted' WHERE a = 63");
my $rekeys   = open_transaction('UPDATE item SET a = 10070 WHERE a = 70');
my $rekeyed  = open_transaction('UPDATE item SET a = 10071 WHERE a = 71');
my $unchanged = open_transaction("UPDATE item SET note = 'x' WHERE a = 80");

sql(q(SELECT outbox.copy('item')));
copies_are('item', 'running|2500|15', 'all is read, but some rows are pending');
is(keys_copied('item', "e.id > $before AND e.version < e.id"), '10 11 20 21 30 31 40 41 50 51 62 63 70 71 80',
	'those with an updater have an older version; a locker is none, nor what was rolled back');
like(sql("SELECT health, waiting_for FROM outbox.status WHERE kind = 'copy'"),
	qr/^waiting\|the end of transactions that were changing 15 rows: \d+(, \d+){12}$/, 'status says what it waits for');

sql('CREATE TABLE other (a int PRIMARY KEY); INSERT INTO other SELECT generate_series(1, 2500)');
sql(qq(SELECT outbox.publish('other', topic => '$topic.other')));
copies_are('other', 'done|2500|0', 'copies of other tables do not wait');

# What ends is looked at, the others stay pending.
end_transaction($aborts, 'ROLLBACK');
is_soon($node, 'orders', "SELECT string_agg(v, ' ') FROM item_replica WHERE a IN (20, 21)", 'mended mended',
	'the copy mends a row when the change is rolled back');
copies_are('item', 'running|2500|13', 'the other rows are still pending');
end_transaction($commits, 'COMMIT');
is_soon($node, 'orders', "SELECT string_agg(v, ' ') FROM item_replica WHERE a IN (10, 11)", 'changed changed',
	'the change wins when it commits');
end_transaction($_, 'COMMIT') for $deletes, $released, $rekeyed, $unchanged;
end_transaction($_, 'ROLLBACK') for $keeps, $savepoint, $undone, $for_update, @for_share, $shared, $locked_first, $rekeys;
copies_are('item', 'running|2500|2', 'prepared transactions are still to end');

$node->restart;
copies_are('item', 'running|2500|2', 'a restart forgets nothing');
sql("ROLLBACK PREPARED '$topic-40'");
copies_are('item', 'running|2500|1', 'one');
sql("COMMIT PREPARED '$topic-41'");
copies_are('item', 'done|2500|0', 'when all have ended the copy is done');
is(sql("SELECT count(*) FROM outbox.status WHERE kind = 'copy'"), '0', 'nothing to wait for');
is_soon($node, 'orders', "SELECT string_agg(a || ' ' || v, ', ' ORDER BY a) FROM item_replica WHERE a IN (30, 31, 40, 41, 50, 51, 52, 60, 61, 62, 63, 70, 71, 80, 10071)",
	'31 mended, 40 mended, 41 changed, 50 mended, 51 changed, 52 mended, 60 mended, 61 mended, 62 mended, 63 mended, 70 mended, 80 mended, 10071 mended',
	'each row is what it is in the table');
same_rows([ $node, 'users', 'SELECT a, v FROM item' ], [ $node, 'orders', $same ], 'so are all others');

# ---------------------------------------------------------------------------
# A row that always has an updater
# ---------------------------------------------------------------------------

my $first = open_transaction("UPDATE item SET v = 'one' WHERE a = 90");
my $second = $node->background_psql('users');
$second->query_safe('BEGIN');
$second->query_until(qr/sent/, "\\echo sent\nUPDATE item SET v = 'two' WHERE a = 90;\n");
is_soon($node, 'users', "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", '1',
	'another writer waits for the row');
sql(q(SELECT outbox.copy('item')));
copies_are('item', 'running|2499|1', 'the row is pending');
end_transaction($first, 'COMMIT');
copies_are('item', 'done|2499|0', 'the next writer is not waited for');
end_transaction($second, 'COMMIT');
is_soon($node, 'orders', 'SELECT v FROM item_replica WHERE a = 90', 'two', 'as its change is newer anyway');

# ---------------------------------------------------------------------------
# Errors, and what ends a copy
# ---------------------------------------------------------------------------

# Publish table NAME, read it with row 10 in flight; returns that transaction.
sub make_pending
{
	my ($name, %opt) = @_;
	sql(<<"END");
CREATE TABLE $name (a int PRIMARY KEY, v text);
INSERT INTO $name SELECT g, 'first' FROM generate_series(1, 100) g;
SELECT outbox.publish('$name', topic => '$topic.$name', initial => 'none', filter => 'v <> ''hidden''');
END
	my $writer = open_transaction("UPDATE $name SET v = '" . ($opt{v} // 'changed') . q(' WHERE a = 10));
	sql("SELECT outbox.copy('$name')");
	copies_are($name, 'running|100|1', "$name: pending");
	return $writer;
}

my $writer = make_pending('failing');
fault($node, 'copy.before_commit=error');
end_transaction($writer, 'ROLLBACK');
is_soon($node, 'users', "SELECT state, pending, error FROM outbox.copies WHERE publication = 'failing'",
	'running|1|fault point "copy.before_commit" was hit', 'an error leaves the row pending');
no_faults($node);
copies_are('failing', 'done|100|0', 'it is tried again');
is(sql("SELECT count(*), count(DISTINCT id) FROM outbox.events WHERE topic = '$topic.failing' AND key = '10'"),
	'2|2', 'and published once more');

$writer = make_pending('leaving', v => 'hidden');
end_transaction($writer, 'COMMIT');
copies_are('leaving', 'done|100|0', 'a row that leaves the filter');
is(sql("SELECT string_agg(op, ' ' ORDER BY id) FROM outbox.events WHERE topic = '$topic.leaving' AND key = '10'"),
	'd r', 'is not published again');

$writer = make_pending('again');
sql("SELECT outbox.copy('again')");
copies_are('again', 'running|100|1', 'a copy that begins anew forgets what was pending');
is(sql("SELECT outbox.cancel_copy('again')"), 't', 'a copy that waits can be cancelled');
copies_are('again', 'cancelled|100|0', 'and has nothing pending then');
end_transaction($writer, 'ROLLBACK');

$writer = make_pending('unpublished');
end_transaction($writer, "SAVEPOINT s");
sql("SELECT outbox.unpublish('unpublished')");
is(sql("SELECT count(*) FROM outbox._copy_pending"), '0', 'nothing is left of an ended publication');

make_pending('dropped')->quit;
$writer = make_pending('dropped2');
$writer->quit;
sql('DROP TABLE dropped, dropped2');
is(sql("SELECT count(*) FROM outbox._copy WHERE publication LIKE 'dropped%'"), '0', 'nor of a table');

# ---------------------------------------------------------------------------
# Rows that move to another partition
# ---------------------------------------------------------------------------

sql(<<"END");
CREATE TABLE parts (a int, b int, v text, PRIMARY KEY (a, b)) PARTITION BY LIST (b);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT g, 1, 'first' FROM generate_series(1, 20) g;
SELECT outbox.publish('parts', topic => '$topic.parts', initial => 'none');
END
my $moves = open_transaction('UPDATE parts SET b = 2 WHERE a = 5');
my $stays = open_transaction('UPDATE parts SET b = 2 WHERE a = 6');
sql("SELECT outbox.copy('parts')");
copies_are('parts', 'running|20|2', 'rows that are on their way to another partition');
end_transaction($moves, 'COMMIT');
end_transaction($stays, 'ROLLBACK');
copies_are('parts', 'done|20|0', 'are there, or not');
is(sql(<<"END"), '{"a":5,"b":1} r, {"a":5,"b":1} d, {"a":5,"b":2} c, {"a":6,"b":1} r, {"a":6,"b":1} r', 'and published so');
SELECT string_agg(key || ' ' || op, ', ' ORDER BY key::jsonb -> 'a', key::jsonb -> 'b', coalesce(version, id), id)
FROM outbox.events WHERE topic = '$topic.parts' AND key ~ '"a":[56],'
END

$node->stop('fast');
done_testing();
