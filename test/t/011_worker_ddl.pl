# Commands that need a database without connections work as if there were no
# workers, and quickly.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use OutboxWorkerTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = stand_in_node('ddl');

# A database with both workers, one of them in a transaction that goes on and on.
sub busy_database
{
	my ($db) = @_;

	stand_in_database($node, $db);
	give_work($node, $db, 'relay',   'run');
	give_work($node, $db, 'applier', 'sleep');
	wait_for_worker($node, $db, 'relay');
	is_soon($node, $db,
		q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier'
		  AND datname = current_database() AND wait_event = 'PgSleep'), '1', "$db: busy");
	return;
}

# ---- DROP DATABASE --------------------------------------------------------------

for my $how ('', ' WITH (FORCE)')
{
	busy_database('dropped');
	my $took = seconds(sub { $node->safe_psql('postgres', "DROP DATABASE dropped$how") });
	cmp_ok($took, '<', 1.5, "DROP DATABASE$how is not delayed ($took s)");
	is( $node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox (relay|applier)')),
		'0', 'no worker left');
}

# ---- commands that fail let go ----------------------------------------------------

busy_database('one');
my $session = $node->background_psql('one', on_error_stop => 0);
$session->query_safe('SELECT 1');
$node->safe_psql('postgres', q(ALTER SYSTEM SET log_min_messages = 'debug1'; SELECT pg_reload_conf()));
my ($rc, $out, $err) = $node->psql('postgres', 'ALTER DATABASE one RENAME TO two');
like($err, qr/being accessed by other users/, 'RENAME fails while somebody is connected');
$session->quit;
has_worker($node, 'one', 'relay', 'the relay is back');
has_worker($node, 'one', 'applier', 'the applier is back');

# ---- those who may not must not disturb ---------------------------------------------

$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');
my $pid = wait_for_worker($node, 'one', 'relay');
for my $command ('DROP DATABASE one', 'ALTER DATABASE one RENAME TO two',
	'CREATE DATABASE two TEMPLATE one')
{
	($rc, $out, $err) = $node->psql('postgres', "SET ROLE nobody; $command");
	like($err, qr/must be owner|permission denied/, "refused: $command");
}
is(worker_pid($node, 'one', 'relay'), $pid, 'the relay never noticed');

# ---- RENAME, SET TABLESPACE, TEMPLATE -------------------------------------------------

my $took = seconds(sub { $node->safe_psql('postgres', 'ALTER DATABASE one RENAME TO two') });
cmp_ok($took, '<', 2, "RENAME is not delayed ($took s)");
has_worker($node, 'two', 'relay', 'there again under the new name');
like(`ps -o args= -p @{[ wait_for_worker($node, 'two', 'relay') ]}`, qr/pg_outbox relay two/, 'title');

my $where = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$where'");
$node->safe_psql('postgres', 'ALTER DATABASE two SET TABLESPACE elsewhere');
has_worker($node, 'two', 'relay', 'there again after SET TABLESPACE');

$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE two');
has_worker($node, 'two', 'relay', 'the original goes on');
is_soon($node, 'copy', q(SELECT count(*) FROM outbox._workers()
	WHERE state = 'waiting' AND waiting_for ~ '^resume: this database is a copy of another'),
	'2', 'the copy waits');
$node->safe_psql('two', 'CREATE DATABASE copy2 TEMPLATE two');
has_worker($node, 'two', 'relay', 'also when made from a session in the original');

# ---- templates have no workers ----------------------------------------------------------

$node->safe_psql('postgres', 'ALTER DATABASE two IS_TEMPLATE true');
has_no_worker($node, 'two', 'relay', 'a database that becomes a template');
$node->safe_psql('two', 'SELECT test_poke()');
$node->safe_psql('postgres', 'ALTER DATABASE two IS_TEMPLATE false');
has_worker($node, 'two', 'relay', 'and no longer is one');

# ---- DROP EXTENSION in a transaction -------------------------------------------------------

$session = $node->background_psql('two', on_error_stop => 0);
$session->query_safe('BEGIN');
$took = seconds(sub { $session->query_safe('DROP EXTENSION pg_outbox') });
cmp_ok($took, '<', 1.5, "DROP EXTENSION is not delayed ($took s)");
is(worker_pid($node, 'two', 'relay'), undef, 'workers stay away until it is decided');
$session->query_safe('ROLLBACK');
has_worker($node, 'two', 'relay', 'back after ROLLBACK');

$session->query_safe('BEGIN');
$session->query_safe('DROP EXTENSION pg_outbox');
my $backend = $session->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($backend)");
has_worker($node, 'two', 'relay', 'back after the end of the session');
eval { $session->quit };

$node->stop('fast');
done_testing();
