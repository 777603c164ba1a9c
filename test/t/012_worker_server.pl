# The server's limits, its shutdown, a standby, and life without preloading.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use OutboxWorkerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# ---- shutdown -------------------------------------------------------------------

my $node = stand_in_node('server', streaming => 1);
stand_in_database($node, 'postgres');
give_work($node, 'postgres', 'relay',   'run');
give_work($node, 'postgres', 'applier', 'sleep');
for my $mode (qw(fast immediate))
{
	has_worker($node, 'postgres', 'relay', "$mode: relay there");
	is_soon($node, 'postgres',
		q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier' AND wait_event = 'PgSleep'),
		'1', "$mode: applier in a long transaction");
	my $took = seconds(sub { $node->stop($mode) });
	cmp_ok($took, '<', 2, "$mode shutdown is not delayed ($took s)");
	$node->start;
}
give_work($node, 'postgres', 'applier', 'run');

# ---- standby ----------------------------------------------------------------------

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is( $standby->safe_psql('postgres', 'SELECT worker, state, waiting_for FROM outbox._workers() ORDER BY 1'),
	"applier|waiting|promotion: this server is a standby\nrelay|waiting|promotion: this server is a standby",
	'a standby has no workers and says why');
is(worker_pid($standby, 'postgres', 'launcher'), undef, 'and no launcher');
my ($rc, $out, $err) = $standby->psql('postgres', 'SELECT outbox.wait_until_running()');
like($err, qr/there are no pg_outbox workers on this server.*promotion/s, 'waiting is no use');
$node->stop('immediate');
$standby->promote;
has_worker($standby, 'postgres', 'relay', 'after promotion there are: it is no copy');
$standby->stop;

# ---- limits -------------------------------------------------------------------------

# One slot goes to the logical replication launcher, one to our own.
$node->append_conf('postgresql.conf', "max_worker_processes = 3\npg_outbox.max_databases = 2\n");
$node->start;
is_soon($node, 'postgres',
	q(SELECT count(*) FROM outbox._workers()
	  WHERE state = 'waiting' AND waiting_for ~ 'max_worker_processes'), '1', 'status tells of the shortage');
is(() = slurp_file($node->logfile) =~ /out of background worker slots for pg_outbox/g,
	1, 'the log does so once');

# Only the launcher has a slot: what it would start to look for work has not.
my $status = q(SELECT name, state, health, waiting_for FROM outbox.status WHERE kind = 'worker' ORDER BY name);
my $slot   = 'a background worker slot: raise max_worker_processes';
$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
$node->restart;
is_soon($node, 'postgres', $status, "applier|waiting|waiting|$slot\nrelay|waiting|waiting|$slot", 'no slot for the search');

# Not even the launcher has one.
$slot = 'a background worker slot for the launcher: raise max_worker_processes and restart the server';
$node->append_conf('postgresql.conf', "max_worker_processes = 1\n");
$node->restart;
is($node->safe_psql('postgres', $status), "applier|stopped|stopped|$slot\nrelay|stopped|stopped|$slot", 'no slot for the launcher');
$node->safe_psql('postgres', 'SELECT test_poke()');
is($node->safe_psql('postgres', $status), "applier|stopped|stopped|$slot\nrelay|stopped|stopped|$slot", 'also once work was announced');
($rc, $out, $err) = $node->psql('postgres', 'SELECT outbox.wait_until_running()');
like($err, qr/there are no pg_outbox workers.*HINT:  Raise max_worker_processes/s, 'nobody waits for them');
$node->append_conf('postgresql.conf', "max_worker_processes = 12\n");
$node->restart;
has_worker($node, 'postgres', 'applier', 'enough of them');

stand_in_database($node, 'second');
stand_in_database($node, 'third');
give_work($node, 'second', 'relay');
has_worker($node, 'second', 'relay', 'the second database has an entry');
give_work($node, 'third', 'relay');
ok( wait_until(
		sub { slurp_file($node->logfile) =~ /more than 2 databases have pg_outbox workers/ },
		'the warning'),
	'the log tells of too many databases');
like(worker_state($node, 'third', 'relay'), qr/^waiting\|.*pg_outbox\.max_databases/, 'status too');
$node->safe_psql('postgres', 'DROP DATABASE second');
$node->safe_psql('third', 'SELECT outbox.wait_until_running()');
has_worker($node, 'third', 'relay', 'an entry that is given back is used');

# ---- work that nobody announced ---------------------------------------------------------

$node->safe_psql('third', q(INSERT INTO test_work VALUES ('applier', 'run')));
$node->safe_psql('postgres', q(ALTER SYSTEM SET pg_outbox.scan_interval = '1 s'; SELECT pg_reload_conf()));
has_worker($node, 'third', 'applier', 'found by the scan');

# ---- library and objects of different versions -------------------------------------------

$node->safe_psql('third',
	q(BEGIN; SELECT test_poke(); UPDATE pg_extension SET extversion = '0.0' WHERE extname = 'pg_outbox'; COMMIT));
has_no_worker($node, 'third', 'relay', 'another version: stopped');
is_soon($node, 'third',
	q(SELECT state || ' ' || waiting_for FROM outbox._workers() WHERE worker = 'relay'),
	qr/^stopped ALTER EXTENSION pg_outbox UPDATE: its objects are of version 0\.0, the library of/,
	'it says so');
like(slurp_file($node->logfile), qr/workers of database "third" are stopped/, 'the log too');
$node->safe_psql('third',
	q(UPDATE pg_extension SET extversion = (SELECT default_version FROM pg_available_extensions WHERE name = 'pg_outbox')
	  WHERE extname = 'pg_outbox'; SELECT test_poke()));
has_worker($node, 'third', 'relay', 'the same version again');

# ---- binary upgrade ----------------------------------------------------------------------

# As pg_upgrade starts the server: -b.
$node->stop;
$node->start;
has_worker($node, 'third', 'relay', 'an ordinary start has workers');
$node->stop;
command_ok([ 'pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o', '-b', 'start' ], 'start with -b');
is( $node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox')),
	'0', 'no workers while the server is being upgraded');
command_ok([ 'pg_ctl', '-w', '-D', $node->data_dir, '-m', 'fast', 'stop' ], 'stop');
$node->start;

# ---- without preloading ---------------------------------------------------------------------

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
is( $node->safe_psql('postgres', $status),
	join("\n", map { "$_|stopped|stopped|shared_preload_libraries: add pg_outbox and restart the server" } qw(applier relay)),
	'status says what is missing');
($rc, $out, $err) = $node->psql('postgres', 'SELECT outbox.wait_until_running()');
like($err, qr/HINT:  Add pg_outbox to shared_preload_libraries/, 'so does waiting');
is($node->safe_psql('postgres', q(SELECT outbox.pause('relay'))), '', 'pause works all the same');
$node->safe_psql('postgres', 'DROP EXTENSION pg_outbox');
$node->stop;
done_testing();
