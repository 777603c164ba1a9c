# OutboxWorkerTest: the stand-in for relay and applier that the tests of
# src/worker drive (test/modules/outbox_test_worker), and looking at workers.

package OutboxWorkerTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

our @EXPORT = qw(stand_in_node stand_in_database give_work take_work worker_state
  has_worker has_no_worker seconds);

# A node whose workers are the stand-in's.
sub stand_in_node
{
	my ($name, %opt) = @_;
	my $conf = "shared_preload_libraries = 'pg_outbox,outbox_test_worker'\n" . ($opt{conf} // '');

	return outbox_node($name, %opt, preload => 0, conf => $conf);
}

# A database with the extension and what the stand-in needs.
sub stand_in_database
{
	my ($node, $db) = @_;

	$node->safe_psql('postgres', qq(CREATE DATABASE "$db"))
	  if $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_database WHERE datname = '$db'") eq '0';
	$node->safe_psql($db, <<'END');
CREATE EXTENSION pg_outbox;
CREATE TABLE test_work (kind text PRIMARY KEY, action text, wakes int DEFAULT 0);
CREATE FUNCTION test_poke() RETURNS void LANGUAGE c AS 'outbox_test_worker';
CREATE FUNCTION test_wake(text) RETURNS void LANGUAGE c AS 'outbox_test_worker';
END
	return;
}

# give_work(NODE, DB, KIND, ACTION): as publish() or replicate() would, see the
# stand-in for the actions.
sub give_work
{
	my ($node, $db, $kind, $action) = @_;

	$action //= 'run';
	$node->safe_psql($db, "BEGIN;
		INSERT INTO test_work VALUES ('$kind', '$action')
			ON CONFLICT (kind) DO UPDATE SET action = excluded.action;
		SELECT test_poke();
		COMMIT");
	return;
}

sub take_work
{
	my ($node, $db, $kind) = @_;

	$node->safe_psql($db,
		"BEGIN; DELETE FROM test_work WHERE kind = '$kind'; SELECT test_poke(); COMMIT");
	return;
}

# "state|waiting_for" of a worker.
sub worker_state
{
	my ($node, $db, $kind) = @_;

	return $node->safe_psql($db,
		"SELECT state, waiting_for FROM outbox._workers() WHERE worker = '$kind'");
}

sub has_worker
{
	my ($node, $db, $kind, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is_soon($node, 'postgres',
		"SELECT count(*) FROM pg_stat_activity
		 WHERE backend_type = 'pg_outbox $kind' AND datname = '$db'", '1', $name);
}

sub has_no_worker
{
	my ($node, $db, $kind, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is_soon($node, 'postgres',
		"SELECT count(*) FROM pg_stat_activity
		 WHERE backend_type = 'pg_outbox $kind' AND datname = '$db'", '0', $name);
}

# How long a piece of work takes.
sub seconds
{
	my ($code) = @_;
	my $begin = Time::HiRes::time();

	$code->();
	return Time::HiRes::time() - $begin;
}

1;
