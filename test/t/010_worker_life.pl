# Workers come when there is work, go when there is none, and come back after
# whatever ended them.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use OutboxWorkerTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = stand_in_node('life');
stand_in_database($node, 'postgres');

my $states = q(SELECT worker || ' ' || state FROM outbox._workers() ORDER BY 1);

# ---- coming and going -----------------------------------------------------

$node->safe_psql('postgres', 'SELECT outbox.wait_until_running()');
is($node->safe_psql('postgres', $states), "applier idle\nrelay idle", 'no work, no workers');

$node->safe_psql('postgres',
	"BEGIN; INSERT INTO test_work VALUES ('relay', 'run'); SELECT test_poke(); ROLLBACK");
$node->safe_psql('postgres', 'SELECT outbox.wait_until_running()');
is(worker_pid($node, 'postgres', 'relay'), undef, 'a change that is rolled back starts nothing');

give_work($node, 'postgres', 'relay');
is($node->safe_psql('postgres', 'SELECT outbox.wait_until_running()'), 't', 'wait_until_running');
is($node->safe_psql('postgres', $states), "applier idle\nrelay running", 'one kind has work');
is( $node->safe_psql('postgres',
		q(SELECT datname, backend_type, application_name FROM pg_stat_activity WHERE backend_type ~ 'relay')),
	'postgres|pg_outbox relay|pg_outbox relay', 'who it is');
like(
	`ps -o args= -p @{[ worker_pid($node, 'postgres', 'relay') ]}`,
	qr/pg_outbox relay postgres/, 'process title');

give_work($node, 'postgres', 'applier');
has_worker($node, 'postgres', 'applier', 'the other kind comes');
is( $node->safe_psql('postgres', 'SELECT count(*) FROM outbox._workers() WHERE pid IS NOT NULL AND started_at <= now()'),
	'2', 'both have a process');

# ---- waking ---------------------------------------------------------------

my $wakes = q(SELECT wakes FROM test_work WHERE kind = 'relay');
my $before = $node->safe_psql('postgres', $wakes);
$node->safe_psql('postgres', q(SELECT test_wake('relay')));
is_soon($node, 'postgres', "SELECT ($wakes) > $before", 't', 'a wake-up arrives');
run_pgbench($node, 'postgres', q(SELECT test_wake('relay');), clients => 4, transactions => 200);
$before = $node->safe_psql('postgres', $wakes);
$node->safe_psql('postgres', q(SELECT test_wake('relay')));
is_soon($node, 'postgres', "SELECT ($wakes) > $before", 't', 'also after many at a time');

# ---- ending for want of work ------------------------------------------------

take_work($node, 'postgres', 'applier');
has_no_worker($node, 'postgres', 'applier', 'it leaves when its work is gone');
has_worker($node, 'postgres', 'relay', 'the other one stays');

for my $drop ('DROP EXTENSION pg_outbox', 'DROP SCHEMA outbox CASCADE',
	'BEGIN; SAVEPOINT a; DROP EXTENSION pg_outbox; COMMIT')
{
	my $pid = wait_for_worker($node, 'postgres', 'relay');

	$node->safe_psql('postgres', $drop);
	has_no_worker($node, 'postgres', 'relay', "no worker after $drop");
	ok(!kill(0, $pid), 'its process has ended');
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_outbox; SELECT test_poke()');
	has_worker($node, 'postgres', 'relay', 'a worker after CREATE EXTENSION');
}
my $old = wait_for_worker($node, 'postgres', 'relay');
$node->safe_psql('postgres', 'DROP EXTENSION pg_outbox; CREATE EXTENSION pg_outbox; SELECT test_poke()');
ok(wait_for_worker($node, 'postgres', 'relay', $old), 'DROP and CREATE in one go');

$node->safe_psql('postgres', 'CREATE ROLE owner_of_all SUPERUSER');
$node->safe_psql('postgres',
	'DROP EXTENSION pg_outbox; SET ROLE owner_of_all; CREATE EXTENSION pg_outbox; SELECT test_poke()');
has_worker($node, 'postgres', 'relay');
my $errors = () = slurp_file($node->logfile) =~ /ERROR/g;
$node->safe_psql('postgres', 'DROP OWNED BY owner_of_all CASCADE');
has_no_worker($node, 'postgres', 'relay', 'DROP OWNED takes it away too');
is(() = slurp_file($node->logfile) =~ /ERROR/g, $errors, 'which is no error');
$node->safe_psql('postgres', 'CREATE EXTENSION pg_outbox; SELECT test_poke()');
has_worker($node, 'postgres', 'relay');

# ---- errors -----------------------------------------------------------------

give_work($node, 'postgres', 'applier', 'fail');
is_soon($node, 'postgres', q(SELECT restarts >= 3 FROM outbox._workers() WHERE worker = 'applier'),
	't', 'a failing worker is started again');
is_soon($node, 'postgres',
	q(SELECT state, waiting_for, last_error, last_error_at <= now(), next_start - last_error_at > '0.3 s'
	  FROM outbox._workers() WHERE worker = 'applier' AND pid IS NULL),
	'waiting|restart after an error|test worker "applier" fails as told|t|t',
	'it waits longer each time and its error is shown');
has_worker($node, 'postgres', 'relay', 'the other kind does not mind');
my ($rc, $out, $err) = $node->psql('postgres', q(SELECT outbox.wait_until_running('0.1 s')));
like($err, qr/did not run in time.*The applier is \w+.*its last error was: test worker "applier" fails as told/s,
	'wait_until_running says why');

# In long back-off by now; the cure is noticed at once.
is_soon($node, 'postgres', q(SELECT next_start > clock_timestamp() + '1 s' FROM outbox._workers() WHERE worker = 'applier'), 't');
give_work($node, 'postgres', 'applier', 'run');
cmp_ok(seconds(sub { $node->safe_psql('postgres', 'SELECT outbox.wait_until_running()') }),
	'<', 1, 'a change of the catalogs ends the back-off');

# What is to be done cannot even be seen: also an error, and shown.
take_work($node, 'postgres', 'applier');
has_no_worker($node, 'postgres', 'applier');
$node->safe_psql('postgres', 'ALTER TABLE test_work RENAME TO real_work;
	CREATE VIEW test_work AS SELECT kind, action, wakes FROM real_work WHERE 1 / (wakes - wakes) = 0;
	SELECT test_poke()');
is_soon($node, 'postgres',
	q(SELECT state, last_error FROM outbox._workers() WHERE worker = 'applier'),
	'waiting|division by zero', 'a probe that fails is shown');
is_soon($node, 'postgres',
	q(SELECT state, last_error, restarts > 0 FROM outbox._workers() WHERE worker = 'relay'),
	'waiting|division by zero|t', 'so is a worker that cannot judge any more');
$node->safe_psql('postgres', 'DROP VIEW test_work; ALTER TABLE real_work RENAME TO test_work');
give_work($node, 'postgres', 'applier');
has_worker($node, 'postgres', 'relay', 'cured');
has_worker($node, 'postgres', 'applier', 'both of them');

# ---- ended from outside -------------------------------------------------------

$old = wait_for_worker($node, 'postgres', 'relay');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($old)");
ok(wait_for_worker($node, 'postgres', 'relay', $old), 'comes back after pg_terminate_backend');

$old = worker_pid($node, 'postgres', 'launcher');
my $relay = worker_pid($node, 'postgres', 'relay');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($old)");
ok(wait_for_worker($node, 'postgres', 'launcher', $old), 'the launcher comes back');
is(worker_pid($node, 'postgres', 'relay'), $relay, 'workers do not mind');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($relay)");
ok(wait_for_worker($node, 'postgres', 'relay', $relay), 'the new launcher starts workers');

$old = kill_worker($node, 'postgres', 'relay');
ok(wait_for_worker($node, 'postgres', 'relay', $old), 'comes back after kill -9');
has_worker($node, 'postgres', 'applier', 'all come back');
$old = kill_worker($node, 'postgres', 'launcher');
has_worker($node, 'postgres', 'relay', 'after kill -9 of the launcher as well');

# ---- pausing ------------------------------------------------------------------

$node->safe_psql('postgres', q(SELECT outbox.pause('relay')));
has_no_worker($node, 'postgres', 'relay', 'paused');
is_soon($node, 'postgres', q(SELECT state || ' ' || waiting_for FROM outbox._workers() WHERE worker = 'relay'),
	qr/^paused resume: paused by \w+$/, 'it says so');
has_worker($node, 'postgres', 'applier', 'the other one is not');
is($node->safe_psql('postgres', 'SELECT outbox.wait_until_running()'), 't', 'a paused one is not waited for');
$node->restart;
has_worker($node, 'postgres', 'applier', 'after a restart');
like(worker_state($node, 'postgres', 'relay'), qr/^paused/, 'a pause outlasts a restart');
$node->safe_psql('postgres', 'SELECT outbox.pause()');
has_no_worker($node, 'postgres', 'applier', 'both paused');
$node->safe_psql('postgres', 'SELECT outbox.resume()');
has_worker($node, 'postgres', 'relay', 'resumed');
has_worker($node, 'postgres', 'applier', 'both resumed');

# ---- prepared transactions ------------------------------------------------------

take_work($node, 'postgres', 'applier');
has_no_worker($node, 'postgres', 'applier');
$node->safe_psql('postgres', q(BEGIN; INSERT INTO test_work VALUES ('applier', 'run');
	SELECT test_poke(); PREPARE TRANSACTION 'p'));
$before = $node->safe_psql('postgres', $wakes);
$node->safe_psql('postgres', q(COMMIT PREPARED 'p'));
has_worker($node, 'postgres', 'applier', 'COMMIT PREPARED tells the workers');
is_soon($node, 'postgres', "SELECT ($wakes) > $before", 't', 'and wakes them');

# Others tell nobody: no probe is started but that of each wait_until_running().
take_work($node, 'postgres', 'applier');
has_no_worker($node, 'postgres', 'applier');
$node->safe_psql('postgres', q(BEGIN; INSERT INTO test_work VALUES ('applier', 'run');
	SELECT test_poke(); PREPARE TRANSACTION 'p'));
$node->append_conf('postgresql.conf', "log_min_messages = debug1\npg_outbox.scan_interval = 3600\n");
my $first = -s $node->logfile;
$node->reload;
ok(wait_until(sub { return slurp_file($node->logfile, $first) =~ /starting background worker process "pg_outbox probe/ }, 'a scan'), 'a look at all databases');
$node->safe_psql('postgres', 'SELECT outbox.wait_until_running()');
my $logged = -s $node->logfile;
for my $i (1 .. 5)
{
	$node->safe_psql('postgres', "BEGIN; CREATE TABLE other_$i (); PREPARE TRANSACTION 'other'");
	$node->safe_psql('postgres', "COMMIT PREPARED 'other'");
	$node->safe_psql('postgres', 'SELECT outbox.wait_until_running()');
}
is(() = slurp_file($node->logfile, $logged) =~ /starting background worker process "pg_outbox probe/g, 5, 'other prepared transactions tell nothing');
$node->safe_psql('postgres', q(COMMIT PREPARED 'p'));
has_worker($node, 'postgres', 'applier', 'that one still does');
$node->safe_psql('postgres', q(BEGIN; DELETE FROM test_work WHERE kind = 'applier'; SELECT test_poke(); PREPARE TRANSACTION 'p'));
$node->safe_psql('postgres', q(ROLLBACK PREPARED 'p'));
has_worker($node, 'postgres', 'applier', 'and not after ROLLBACK PREPARED');

# ---- what can be said wrong -----------------------------------------------------

($rc, $out, $err) = $node->psql('postgres', q(SELECT outbox.pause('ralay')));
like($err, qr/there is no worker "ralay"/, 'no such worker');
($rc, $out, $err) = $node->psql('postgres', q(BEGIN; SELECT test_poke(); SELECT outbox.wait_until_running()));
like($err, qr/cannot wait for workers in the transaction that changed what they do/, 'too early');

$node->stop;
done_testing();
