# A function that a row filter calls changes while a session prepares the filters
# of a table: what it has prepared by then is prepared anew.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $node = outbox_node('orders');

$node->safe_psql('postgres', <<'END');
CREATE EXTENSION pg_outbox;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
SELECT outbox.pause('relay');
CREATE TABLE t (id int PRIMARY KEY);
CREATE FUNCTION wanted(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
SELECT outbox.publish('t', topic => 'filtered', name => 'a', filter => 'public.wanted(id)', initial => 'none');
SELECT outbox.publish('t', topic => 'all', name => 'b', initial => 'none');
END

# The first filter is prepared, the second publication is not.
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid     = $session->query('SELECT pg_backend_pid()');
fault($node, 'capture.publication=wait');
$session->query_until(qr/begun/, "\\echo begun\nINSERT INTO t VALUES (1);\n");
is_soon($node, 'postgres', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid", 'Extension', 'the session has prepared a filter');
$node->safe_psql('postgres', q(CREATE OR REPLACE FUNCTION wanted(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'));
no_faults($node);
$session->query('INSERT INTO t VALUES (2)');
is($node->safe_psql('postgres', q(SELECT string_agg(key, ' ' ORDER BY key) FROM outbox.events WHERE topic = 'filtered' AND key = '2')), '2',
	'the next row is judged by the function as it is now');
$session->quit;

done_testing();
