# The log is full and pg_outbox.max_backlog_action is copy: writers go on, and
# what was not recorded reaches the replica by a copy when there is room.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node = outbox_node('services', conf => <<'END');
pg_outbox.max_backlog = '3MB'
pg_outbox.max_backlog_action = 'copy'
END
outbox_install($node, 'users', $broker);
outbox_install($node, 'orders', $broker);
my $topic = unique_topic('item');
my $wide = unique_topic('wide');
my $other = unique_topic('other');

$node->safe_psql('users', <<"END");
CREATE TABLE item (id int PRIMARY KEY, v text);
INSERT INTO item SELECT g, 'first' FROM generate_series(1, 500) g;
SELECT outbox.publish('item', topic => '$topic');
CREATE TABLE wide (id text PRIMARY KEY);
SELECT outbox.publish('wide', topic => '$wide');
CREATE TABLE evt (id int, aggregatetype text, aggregateid text, type text, payload text);
SELECT outbox.adopt('evt', topic => '$other');
-- what the relay deletes and updates must have a replica identity then
CREATE PUBLICATION everything FOR ALL TABLES;
END
$node->safe_psql('orders', <<"END");
CREATE TABLE item_replica (id int PRIMARY KEY, v text, version bigint NOT NULL);
SELECT outbox.replicate('item_replica', topic => '$topic');
END
is_soon($node, 'orders', 'SELECT count(*) FROM item_replica', '500', 'the replica is there');

# ---- the log fills
mock_control($broker, 'down', 'all');
$node->safe_psql('users', "SELECT outbox.emit('$other', 'k', repeat('x', 1000)) FROM generate_series(1, 3200)");
is($node->safe_psql('users', "SELECT health FROM outbox.status WHERE kind = 'log'"), 'full', 'the log is full');
my $bytes = $node->safe_psql('users', 'SELECT bytes FROM outbox.stat_log');

my ($rc, $out, $err) = $node->psql('users',
	"\\set VERBOSITY verbose\nSELECT outbox.emit('$other', 'k', 'one too many')");
like($err, qr/53400: +the event log is full/, 'events of the application are refused');
($rc, $out, $err) = $node->psql('users',
	"\\set VERBOSITY verbose\nINSERT INTO evt VALUES (1, 'a', 'b', 'c', 'd')");
like($err, qr/53400: +the event log is full/, 'so are those of outbox tables');

# ---- writers go on
my $first = $node->safe_psql('users', 'SELECT max(id) FROM outbox.events');
$node->safe_psql('users', <<'END');
UPDATE item SET v = 'second' WHERE id BETWEEN 100 AND 199;
DELETE FROM item WHERE id BETWEEN 200 AND 209;
INSERT INTO item SELECT g, 'second' FROM generate_series(501, 600) g;
UPDATE item SET id = id + 10000 WHERE id BETWEEN 210 AND 219;
DELETE FROM item WHERE id = 220;
INSERT INTO item VALUES (220, 'back');
BEGIN;
SAVEPOINT a;
UPDATE item SET v = 'never' WHERE id = 1;
ROLLBACK TO a;
UPDATE item SET v = 'third' WHERE id = 2;
COMMIT;
BEGIN;
UPDATE item SET v = 'never' WHERE id = 3;
ROLLBACK;
BEGIN;
UPDATE item SET v = 'prepared' WHERE id = 4;
PREPARE TRANSACTION 'item4';
END
my $open = $node->background_psql('users');
$open->query_safe('BEGIN');
$open->query_safe("UPDATE item SET v = 'open' WHERE id = 5");

is($node->safe_psql('users',
		"SELECT op, count(*) FROM outbox.events WHERE id > $first AND topic = '$topic' GROUP BY op"),
	'd|21', 'only deletes are recorded');
is($node->safe_psql('users', "SELECT string_agg(name || ' ' || state, ', ' ORDER BY name) FROM outbox.publications"),
	'evt live, item incomplete, wide live', 'the publication is incomplete');
is($node->safe_psql('users', "SELECT state, health, waiting_for IS NOT NULL FROM outbox.status WHERE kind = 'publication' AND name = 'item'"),
	'incomplete|incomplete|t', 'status says so');
like(log_tail($node, 200), qr/changes of publication "item" are not recorded because the event log is full/,
	'and the log');

# ---- up to where deletes are refused as well
$node->safe_psql('users', "INSERT INTO wide SELECT repeat('k', 490) || g FROM generate_series(1, 10000) g");
($rc, $out, $err) = $node->psql('users', <<'END');
\set VERBOSITY verbose
SET pg_outbox.event_buffer = '64kB';
DELETE FROM wide;
END
like($err, qr/53400: +the event log is full/, 'deletes are refused where they would take half as much again');
is($node->safe_psql('users', 'SELECT count(*) FROM wide'), '10000', 'with their transaction');
cmp_ok($node->safe_psql('users', 'SELECT bytes FROM outbox.stat_log'), '<', 2 * $bytes, 'the log stays bounded');

# ---- a transaction that drops the extension has nothing to note
outbox_install($node, 'gone', $broker);
$node->safe_psql('gone', <<'END');
CREATE TABLE item (id int PRIMARY KEY);
SELECT outbox.publish('item', topic => 'gone', initial => 'none');
SELECT outbox.emit('gone', 'k', repeat('x', 1000)) FROM generate_series(1, 3200);
BEGIN;
INSERT INTO item VALUES (1);
DROP EXTENSION pg_outbox CASCADE;
COMMIT;
END
is($node->safe_psql('gone', 'SELECT count(*) FROM item'), '1', 'the extension can be dropped after a change that was not recorded');

# ---- the broker is back
mock_control($broker, 'up', 'all');
is_soon($node, 'users', "SELECT state, rows, pending FROM outbox.copies WHERE publication = 'item'", 'running|590|2',
	'the table is copied when there is room');
is_soon($node, 'orders', 'SELECT count(*) FROM item_replica WHERE v IN ($$second$$, $$third$$, $$back$$)', '202',
	'the replica has what was not recorded');
same_rows([ $node, 'users', 'SELECT id, v FROM item' ],
	[ $node, 'orders', 'SELECT id, v FROM item_replica' ], 'the replica is equal');
is($node->safe_psql('users', "SELECT state FROM outbox.publications WHERE name = 'item'"), 'incomplete',
	'the publication is incomplete while transactions are open that wrote meanwhile');

# Who wrote while the log was full and commits after that copy asks for another.
$open->query_safe('COMMIT');
$open->quit;
$node->safe_psql('users', "COMMIT PREPARED 'item4'");
is_soon($node, 'orders', 'SELECT string_agg(v, $$ $$ ORDER BY id) FROM item_replica WHERE id IN (4, 5)',
	'prepared open', 'late commits reach the replica');
same_rows([ $node, 'users', 'SELECT id, v FROM item' ],
	[ $node, 'orders', 'SELECT id, v FROM item_replica' ], 'the replica is equal');
is_soon($node, 'users',
	"SELECT (SELECT count(*) FROM outbox._unrecorded), (SELECT string_agg(DISTINCT state, ', ') FROM outbox.publications)",
	'0|live', 'nothing is left behind');

$node->safe_psql('users', "UPDATE item SET v = 'recorded' WHERE id = 6");
is_soon($node, 'orders', 'SELECT v FROM item_replica WHERE id = 6', 'recorded', 'changes are recorded again');
$node->stop('fast');
done_testing();
