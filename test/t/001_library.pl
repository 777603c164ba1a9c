# The library with and without shared_preload_libraries, and what the other
# tests rely on in OutboxTest.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $node = outbox_node('preloaded');
outbox_install($node, 'shop');
is($node->safe_psql('shop', q(SELECT extname FROM pg_extension WHERE extname = 'pg_outbox')),
	'pg_outbox', 'installed in a database of its own');

# Faults reach a session that is open already.
fault($node, 'no-such-point=error');
is_soon($node, 'shop', 'SHOW pg_outbox.fault', 'no-such-point=error', 'fault points are set');
no_faults($node);
is_soon($node, 'shop', 'SHOW pg_outbox.fault', '', 'and reset');

$node->safe_psql('shop', 'CREATE TABLE a AS SELECT i, i::text AS t FROM generate_series(1, 100) i');
$node->safe_psql('shop', 'CREATE TABLE b AS SELECT * FROM a ORDER BY t');
same_rows([ $node, 'shop', 'SELECT * FROM a' ], [ $node, 'shop', 'SELECT * FROM b' ], 'same rows');
like(run_pgbench($node, 'shop', "SELECT 1;\n", clients => 2, transactions => 5),
	qr/actually processed: 10\/10/, 'pgbench runs');
$node->stop;

my $plain = outbox_node('plain', preload => 0);
outbox_install($plain, 'shop');
is($plain->safe_psql('shop', 'SELECT count(*) FROM pg_namespace WHERE nspname = \'outbox\''),
	'1', 'the extension can be created without preloading');
$plain->stop;

done_testing();
