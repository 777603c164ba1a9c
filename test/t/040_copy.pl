# Databases that already have rows: the initial copy goes on while writers
# write, after a crash where it stood, and never outranks a change in flight.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $topic = unique_topic('copy');
topic_create($broker, $topic, 2);
my $node = outbox_node('services');
outbox_install($node, 'users', $broker);
outbox_install($node, 'orders', $broker);

$node->safe_psql('users', <<'END');
CREATE TABLE item (a int, b text, v text, PRIMARY KEY (a, b));
INSERT INTO item SELECT g, 'b' || g % 3, 'first' FROM generate_series(1, 12000) g;
END
$node->safe_psql('orders', <<"END");
CREATE TABLE item_replica (a int, b text, v text, version bigint NOT NULL, PRIMARY KEY (a, b));
SELECT outbox.replicate('item_replica', topic => '$topic');
END

# The chunk in which the writers' rows are waits until they have changed them.
fault($node, 'copy.before_snapshot=wait');
$node->safe_psql('users', "SELECT outbox.publish('item', topic => '$topic')");
is_soon($node, 'users', "SELECT state, rows FROM outbox.copies", 'running|0', 'the copy is under way');

my $commits = $node->background_psql('users');
$commits->query_safe("BEGIN");
$commits->query_safe("UPDATE item SET v = 'committed later' WHERE a = 10");
my $aborts = $node->background_psql('users');
$aborts->query_safe("BEGIN");
$aborts->query_safe("UPDATE item SET v = 'aborted later' WHERE a = 20");
my $deletes = $node->background_psql('users');
$deletes->query_safe("BEGIN");
$deletes->query_safe("DELETE FROM item WHERE a = 30");
$node->safe_psql('users', "BEGIN; SELECT FROM item WHERE a = 40 FOR UPDATE; COMMIT");

# It dies in the middle, once.
fault($node, 'copy.before_commit=once-error');
is_soon($node, 'users', "SELECT state, rows, pending FROM outbox.copies", 'running|12000|3',
	'a copy reads on past writers, and after an error');
no_faults($node);
is_soon($node, 'orders', 'SELECT count(*) FROM item_replica', '12000', 'all rows are copied');
is($node->safe_psql('orders', "SELECT string_agg(DISTINCT v, ' ') FROM item_replica"), 'first',
	'as they were committed');

$commits->query_safe("COMMIT");
$aborts->query_safe("ROLLBACK");
$deletes->query_safe("COMMIT");
is_soon($node, 'orders', 'SELECT v FROM item_replica WHERE a = 10', 'committed later',
	'a change that was stamped before the copy and committed after it wins');
is_soon($node, 'orders', 'SELECT count(*) FROM item_replica WHERE a = 30', '0',
	'so does a delete');
$_->quit for $commits, $aborts, $deletes;
is_soon($node, 'users', "SELECT state, rows, pending FROM outbox.copies", 'done|12000|0',
	'it is done when the writers have ended');
same_rows([ $node, 'users', 'SELECT a, b, v FROM item' ],
	[ $node, 'orders', 'SELECT a, b, v FROM item_replica' ], 'the replica is equal');

my @older = grep { exists $_->{headers}{version} } topic_read($broker, $topic);
cmp_ok(scalar(@older), '>=', 3, 'rows with a change in flight carry an older version');
is(scalar(grep { $_->{headers}{version} >= $_->{headers}{id} } @older), 0, 'below their id');
is(scalar(grep { $_->{headers}{op} ne 'r' } @older), 0, 'only copies do');

# Again, after changes that were not captured
$node->safe_psql('users', <<"END");
SET pg_outbox.capture = off;
UPDATE item SET v = 'uncaptured' WHERE a % 100 = 0;
RESET pg_outbox.capture;
SELECT outbox.copy('item');
END
is_soon($node, 'orders', "SELECT count(*) FROM item_replica WHERE v = 'uncaptured'", '120',
	'a copy brings what was not captured');
same_rows([ $node, 'users', 'SELECT a, b, v FROM item' ],
	[ $node, 'orders', 'SELECT a, b, v FROM item_replica' ], 'the replica is equal again');

$node->stop('fast');
done_testing();
