# A copy of a database does not publish or consume until somebody says so.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use OutboxWorkerTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = stand_in_node('identity');
my $copies = q{SELECT count(*) FROM outbox._workers()
	WHERE waiting_for ~ '^resume: this database is a copy of another \(system \d+, database \d+\)'};

stand_in_database($node, 'original');
is($node->safe_psql('original', 'SELECT count(*) FROM outbox._identity'), '0', 'nothing is claimed yet');
$node->safe_psql('postgres', 'CREATE DATABASE fresh TEMPLATE original');
give_work($node, 'fresh', 'relay');
has_worker($node, 'fresh', 'relay', 'a template that was never used makes no copies');

give_work($node, 'original', 'relay');
has_worker($node, 'original', 'relay', 'the original works');

# ---- dump and restore -------------------------------------------------------------

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('original') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'restore');
is($node->safe_psql('restored', $copies), '1', 'status says at once that it is a copy');
my ($rc, $out, $err) = $node->psql('restored', 'SELECT outbox.wait_until_running()');
like($err, qr/workers of this database cannot run.*resume: this database is a copy/s, 'it waits for resume');
is($node->safe_psql('restored', $copies), '1', 'status says so still');
like(slurp_file($node->logfile), qr/workers of database "restored" do not start/, 'the log too');

give_work($node, 'restored', 'applier');
is_soon($node, 'restored', $copies, '2', 'new work in the copy does not make it an original');
($rc, $out, $err) = $node->psql('restored', q(SELECT outbox.resume('relay')));
like($err, qr/cannot resume a single worker of a copied database/, 'not by halves');
$node->safe_psql('restored', 'CREATE PUBLICATION everything FOR ALL TABLES');    # deletes need a replica identity then
$node->safe_psql('restored', 'SELECT outbox.resume()');
$node->safe_psql('restored', 'SELECT outbox.wait_until_running()');
has_worker($node, 'restored', 'relay', 'resumed');
has_worker($node, 'original', 'relay', 'the original goes on');
is( $node->safe_psql('restored', 'SELECT count(*), array_length(min(ancestors), 1) FROM outbox._identity'),
	'1|1', 'it has an identity of its own now, and an ancestor');

# ---- over itself ---------------------------------------------------------------------

$node->command_ok([ 'pg_restore', '--exit-on-error', '--clean', '-d', $node->connstr('original'), $dump ],
	'restore over the original');
$node->psql('original', 'SELECT outbox.wait_until_running()');
is_soon($node, 'original', $copies, '1', 'an old state restored over itself is a copy as well');

# ---- published tables, partitioned ones too --------------------------------------------

my $triggers = q{SELECT string_agg(format('%s %s', tgrelid::regclass, tgname), ', ' ORDER BY tgrelid::regclass::text, tgname)
	FROM pg_trigger WHERE tgname LIKE 'outbox%'};
my $partitions = "$dump.partitions";
stand_in_database($node, 'partitions');
$node->safe_psql('partitions', <<'END');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE TABLE visit (day int PRIMARY KEY, who int) PARTITION BY RANGE (day);
CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (1) TO (2) PARTITION BY RANGE (day);
CREATE TABLE visit_1a PARTITION OF visit_1 DEFAULT;
CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM (2) TO (3);
SELECT outbox.publish('visit', initial => 'none');
END
my $published = $node->safe_psql('partitions', $triggers);
$node->command_ok([ 'pg_dump', '-Fc', '-f', $partitions, $node->connstr('partitions') ], 'dump of a partitioned table');
$node->safe_psql('postgres', 'CREATE DATABASE partitions_too');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('partitions_too'), $partitions ],
	'a published partitioned table is restored without an error');
is($node->safe_psql('partitions_too', $triggers), $published, 'with its triggers');
$node->safe_psql('partitions_too', 'CREATE TABLE visit_3 PARTITION OF visit FOR VALUES FROM (3) TO (4)');
($rc, $out, $err) = $node->psql('partitions_too', 'TRUNCATE visit_3');
like($err, qr/cannot truncate table "visit_3"/, 'a partition that comes later is guarded');

# ---- an event claims the database, if there is nothing else ---------------------------

stand_in_database($node, 'emits');
$node->safe_psql('emits', q(INSERT INTO test_work VALUES ('relay', 'run')));
$node->safe_psql('emits', "CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS (\"bootstrap.servers\" '127.0.0.1:1')");
is($node->safe_psql('emits', 'SELECT count(*) FROM outbox._identity'), '0', 'a server, which a restore may make, does not');
$node->safe_psql('emits', q(BEGIN; SAVEPOINT a; SELECT outbox.emit('t', 'k', 'v'); ROLLBACK TO a;
	SELECT outbox.emit('t', 'k', 'v'), outbox.emit('t', 'k', 'v'); COMMIT));
is($node->safe_psql('emits', 'SELECT count(*) FROM outbox._identity'), '1', 'emit does');
has_worker($node, 'emits', 'relay', 'and its relay starts');
$node->safe_psql('emits', q(SELECT outbox.emit('t', 'k', 'v'); DROP EXTENSION pg_outbox CASCADE;
	CREATE EXTENSION pg_outbox;
	CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
	SELECT outbox.emit('t', 'k', 'v')));
is($node->safe_psql('emits', 'SELECT count(*) FROM outbox._identity'), '1', 'also in a session that knew an earlier extension');

# ---- a restore under way: work, and no identity yet ------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE halfway');
stand_in_database($node, 'halfway');
$node->safe_psql('halfway', q(INSERT INTO test_work VALUES ('relay', 'run')));
($rc, $out, $err) = $node->psql('halfway', 'SELECT outbox.wait_until_running()');
like($err, qr/what is stored in this database came from another one/, 'work without an identity waits');
is(worker_pid($node, 'halfway', 'relay'), undef, 'nothing was started');

$node->stop;
done_testing();
