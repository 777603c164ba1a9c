# What a session remembers of a replica, and a subscription that changes while
# it is being looked up.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $node = outbox_node('orders');

$node->safe_psql('postgres', <<'END');
CREATE EXTENSION pg_outbox;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
SELECT outbox.pause('applier');
CREATE TABLE r (id int PRIMARY KEY, other int NOT NULL UNIQUE, version bigint NOT NULL);
END

# The subscription appears after the session has asked for one, and before it
# has noted what it found.
my $session = $node->background_psql('postgres', on_error_stop => 0);
fault($node, 'target-options=wait');
$session->query_until(qr/begun/, <<'END');
\echo begun
SELECT outbox.apply('r', '1', '{"id": 1, "other": 10, "version": 1}');
END
is_soon($node, 'postgres', q(SELECT count(*) FROM pg_locks WHERE relation = 'r'::regclass AND mode = 'RowExclusiveLock'), '1',
	'the session looks at the table');
$node->safe_psql('postgres', q(SELECT outbox.replicate('r', topic => 't', key => '{other}')));
no_faults($node);
is($session->query(q(SELECT outbox.apply('r', '10', '{"id": 2, "other": 10, "version": 2}'))), "applied\napplied",
	'the next event is judged by the key of the subscription');
is($node->safe_psql('postgres', 'SELECT id, other FROM r'), '2|10', 'it is another version of the row');
$session->quit;

done_testing();
