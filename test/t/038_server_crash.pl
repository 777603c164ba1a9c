# The server dies under load, in every way it can: what is published is exactly
# what is committed, versions never repeat, no process of the old server is left.

use strict;
use warnings FATAL => 'all';

use File::Temp;
use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker();
my ($journal, $account) = map { unique_topic($_) } qw(journal account);
topic_create($broker, $_, 4) for $journal, $account;

# A walwriter that does little: what commits asynchronously stays in memory.
my $node = outbox_node('main', conf => 'wal_writer_delay = 10s');
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE journal (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
CREATE TABLE account (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO account SELECT g, 0 FROM generate_series(1, 20) g;
SELECT outbox.publish('journal', topic => '$journal', initial => 'none');
SELECT outbox.publish('account', topic => '$account', initial => 'none');
-- the other worker, to be seen ending with the server
CREATE TABLE replica (id uuid PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.replicate('replica', topic => '$journal');
END

# An account's n counts its changes, so they are known without looking at the log.
my $script = File::Temp->new(SUFFIX => '.sql');
print $script <<'END';
\set r random(1, 10)
\set k random(1, 20)
BEGIN;
INSERT INTO journal DEFAULT VALUES;
UPDATE account SET n = n + 1 WHERE id = :k;
\if :r = 1
SAVEPOINT s;
INSERT INTO journal DEFAULT VALUES;
UPDATE account SET n = n + 1000000 WHERE id = :k;
ROLLBACK TO s;
\endif
\if :r = 2
ROLLBACK;
\else
COMMIT;
\endif
END
close $script;

# Half of the writers commit asynchronously.
sub start_load
{
	return map {
		local $ENV{PGOPTIONS} = "-c synchronous_commit=$_";
		local $ENV{PGAPPNAME} = 'writer';
		IPC::Run::start([ 'pgbench', '-n', '-f', "$script", '-c', 4, '-T', 120, $node->connstr('shop') ],
			'<', \'', '>', '/dev/null', '2>', '/dev/null');
	} qw(on off);
}

# Our processes and the backends.
sub processes
{
	return split /\n/, $node->safe_psql('shop',
		q(SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()
		  AND backend_type ~ '^(pg_outbox|client backend)'));
}


# Until the last process has noticed that the postmaster is gone, no other can start.
sub kill_postmaster
{
	my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

	$node->kill9;
	wait_until(sub { !kill 0, $pid }, "the end of process $pid");
	return wait_until(sub { $node->start(fail_ok => 1) }, sub { log_tail($node) });
}

my @load;
my %crash = (
	'kill -9 of the postmaster' => \&kill_postmaster,
	'immediate shutdown'        => sub { $node->stop('immediate'); $node->start; 1 },
	'kill -9 of a writer'       => sub {
		kill 'KILL', $node->safe_psql('shop',
			q(SELECT pid FROM pg_stat_activity WHERE application_name = 'writer' LIMIT 1));
		$_->finish for @load;    # all connections end
		wait_until(sub { $node->psql('shop', 'SELECT 1') == 0 }, 'a connection');
	},
	'restart' => sub { $node->restart; 1 });

my $max_id = 0;
for my $how ('kill -9 of the postmaster', 'immediate shutdown', 'kill -9 of a writer', 'kill -9 of the postmaster', 'restart')
{
	@load = start_load();
	my $begin = $node->safe_psql('shop', 'SELECT count(*) FROM journal');
	wait_for_sql($node, 'shop', "SELECT count(*) > $begin + 300 FROM journal");
	wait_for_sql($node, 'shop', 'SELECT settled_events > 0 FROM outbox.stat_servers');
	my @old = processes();
	cmp_ok(scalar(@old), '>=', 11, "$how: 8 writers and 3 of our processes are there");
	ok($crash{$how}->(), "$how: the server is there again");
	ok(wait_until(sub { !grep { kill 0, $_ } @old }, sub { join ' ', grep { kill 0, $_ } @old }),
		"$how: no process of the old server is left");
	$_->finish for @load;

	$node->safe_psql('shop', 'INSERT INTO journal DEFAULT VALUES');
	my $id = $node->safe_psql('shop', 'SELECT max(id) FROM outbox.events');
	cmp_ok($id, '>', $max_id, "$how: versions go on growing");
	$max_id = $id;
}

# ---------------------------------------------------------------------------
# Published is exactly what is committed
# ---------------------------------------------------------------------------

is_soon($node, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'everything is settled');
my @journal = topic_read($broker, $journal);
my @account = topic_read($broker, $account);
my %row = map { ($_ => 1) } split /\n/, $node->safe_psql('shop', 'SELECT id FROM journal');
my %key = map { ($_->{key} => 1) } @journal;
cmp_ok(scalar(keys %row), '>', 1500, 'there was something to lose: ' . keys %row);
is(scalar(grep { !$key{$_} } keys %row), 0, 'every row that is committed is published');
is(scalar(grep { !$row{$_} } keys %key), 0, 'nothing is published that is not committed');

my (%changes, %last, %seen, %content);
my ($disorder, $reused) = (0, 0);
for my $r (@journal, @account)
{
	my $id   = $r->{headers}{id};
	my $what = "$r->{key} $r->{value}";

	$reused++ if exists $content{$id} && $content{$id} ne $what;
	$content{$id} = $what;
}
for my $r (@account)
{
	my ($n) = $r->{value} =~ /"n": ?(\d+)/;

	next if $seen{ $r->{headers}{id} }++;
	$disorder++ if $n <= ($last{ $r->{key} } // 0);
	$last{ $r->{key} } = $n;
	$changes{ $r->{key} }++;
}
is($reused, 0, 'no version is used twice');
is($disorder, 0, 'the changes of each account first arrive in their order');
is(join(', ', map { "$_ $last{$_} $changes{$_}" } sort { $a <=> $b } keys %last),
	$node->safe_psql('shop', "SELECT string_agg(id || ' ' || n || ' ' || n, ', ' ORDER BY id) FROM account WHERE n > 0"),
	'and are all of them');
is(join(' ', sort { $a <=> $b } keys %content),
	$node->safe_psql('shop', q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM outbox.events)),
	'what is in the log is in Kafka, id for id');

# ---------------------------------------------------------------------------
# Nothing is told to the world that a crash would undo
# ---------------------------------------------------------------------------

# Nobody else commits, which would write it to disk as well: the relay stands
# still once the broker has the event.
$node->safe_psql('shop', "SELECT outbox.pause('applier')");
is_soon($node, 'shop', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier'", '0', 'the applier is away');
fault($node, 'relay.after_ack=wait');
my $asynchronous = '10000000-0000-0000-0000-000000000000';
$node->safe_psql('shop', "SET synchronous_commit = off; INSERT INTO journal VALUES ('$asynchronous')");
ok( wait_until(
		sub { scalar grep { $_->{key} eq $asynchronous } topic_read($broker, $journal) },
		'the event'),
	'an asynchronous commit is published');
$node->stop('immediate');
$node->start;
no_faults($node);
is($node->safe_psql('shop', "SELECT count(*) FROM journal WHERE id = '$asynchronous'"), '1',
	'and has been on disk by then');

$node->stop('fast');
done_testing();
