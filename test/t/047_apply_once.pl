# Applied once: whatever happens between applying events and moving the offset,
# a replica's triggers and a handler see each event's effect a single time.
# Events have no id here, so that no inbox and no guard helps: the offset alone.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders', conf => 'pg_outbox.apply_batch_size = 20');
my %topic  = map { $_ => unique_topic($_) } qw(replica handler);

topic_create($broker, $_, 1) for values %topic;
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE effects (who text, key int);
CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.effects VALUES ('replica', new.id);
	RETURN NULL;
END \$\$;
CREATE FUNCTION note_event(e outbox.event) RETURNS void LANGUAGE sql AS
	\$\$INSERT INTO public.effects VALUES ('handler', (e.value::jsonb ->> 'id')::int)\$\$;
CREATE TABLE replica (id int PRIMARY KEY, version bigint NOT NULL);
CREATE TRIGGER note AFTER INSERT OR UPDATE ON replica FOR EACH ROW EXECUTE FUNCTION note_row();
SELECT outbox.replicate('replica', topic => '$topic{replica}');
SELECT outbox.handle('note_event(outbox.event)', topic => '$topic{handler}', name => 'handler');
END

my %produced = (replica => 0, handler => 0);

# N more events for one of the two.
sub produce
{
	my ($name, $n) = @_;
	my $input = join '', map { sprintf qq({"id": %d, "version": 1}\n), $produced{$name} + $_ } 1 .. $n;
	my ($ok, $out, $err) = OutboxTest::_kcat($broker, $input, '-P', '-t', $topic{$name}, '-p', 0);

	die $err if !$ok;
	$produced{$name} += $n;
	return;
}

# Each event so far has taken effect once, and the offset says so.
sub applied_once
{
	my ($name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $n = $produced{$name};

	is_soon($node, 'shop', "SELECT next_offset FROM outbox.stat_subscriptions WHERE name = '$name'", $n, "$name, $what: the offset has moved");
	is($node->safe_psql('shop', "SELECT count(*), count(DISTINCT key) FROM effects WHERE who = '$name'"), "$n|$n",
		"$name, $what: each event has taken effect once");
	return;
}

# Two more events, and the applier waits at a fault point in their transaction.
sub held_at
{
	my ($point, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	fault($node, "$point=wait");
	produce($name, 2);
	is_soon($node, 'shop', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier'
		AND xact_start < clock_timestamp() - interval '50 ms' AND wait_event_type = 'Extension'), '1', "$name: the applier waits at $point");
	return;
}

# What another applier would do with those two: effects and offset in one statement.
sub twin
{
	my ($name) = @_;
	my ($from, $to) = ($produced{$name} - 2, $produced{$name});

	return <<"END";
WITH moved AS (
	UPDATE outbox._offset SET next_offset = $to, last_offset = NULL, last_time_ms = NULL, last_id = NULL
	WHERE subscription = '$name' AND next_offset = $from RETURNING next_offset)
INSERT INTO effects SELECT '$name', next_offset - n FROM moved, generate_series(0, 1) n
END
}

# The other processes end when they notice; before that no server can start.
sub kill_postmaster
{
	my @pids = split /\n/, $node->safe_psql('shop', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');

	$node->kill9;
	wait_until(sub { !grep { kill 0, $_ } @pids }, "the end of processes @pids");
	return;
}

for my $name (qw(replica handler))
{
	produce($name, 2);
	applied_once($name, 'at first');

	# -----------------------------------------------------------------------
	# Two workers at one offset (scenario 15)
	# -----------------------------------------------------------------------

	held_at('apply-deliver', $name);
	my $from = $produced{$name} - 2;
	$node->safe_psql('shop', twin($name));
	no_faults($node);
	ok(wait_until(sub { log_tail($node, 20) =~ /offset of partition 0 of subscription "$name" is not $from any more/ }, 'the log'),
		"$name: an applier that finds its offset moved rolls back");
	produce($name, 1);
	applied_once($name, 'after a faster twin');

	held_at('apply-before-commit', $name);
	my ($out, $err) = ('', '');
	my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop'), '-c', twin($name) ], '>', \$out, '2>', \$err);
	is_soon($node, 'shop', q(SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%outbox._offset%'), '1',
		"$name: a twin has to wait for it");
	no_faults($node);
	ok($session->finish, "$name: and is let go on") or diag $err;
	applied_once($name, 'after a slower twin');

	# -----------------------------------------------------------------------
	# A crash between applying and committing (scenario 19)
	# -----------------------------------------------------------------------

	my %blow = (
		'SIGTERM to the applier' => sub { kill_worker($node, 'shop', 'applier', 'TERM') },
		'SIGKILL to the applier' => sub { kill_worker($node, 'shop', 'applier', 'KILL') },
		'an immediate shutdown' => sub { $node->stop('immediate') },
		'SIGKILL to the postmaster' => \&kill_postmaster);
	for my $what (sort keys %blow)
	{
		held_at('apply-before-commit', $name);
		is($node->safe_psql('shop', "SELECT max(key) FROM effects WHERE who = '$name'"), $produced{$name} - 2, "$name, $what: nothing is committed");
		$blow{$what}->();
		$node->start if $what =~ /shutdown|postmaster/;
		wait_for_sql($node, 'shop', 'SELECT true');
		no_faults($node);
		applied_once($name, "after $what");
	}
}
is($node->safe_psql('shop', 'SELECT count(*) FROM outbox.dead_letters'), '0', 'nobody took the events for killers');

# ---------------------------------------------------------------------------
# Blows in the middle of a load, wherever they hit
# ---------------------------------------------------------------------------

$node->safe_psql('shop', q(SELECT outbox.pause_subscription(name) FROM outbox.subscriptions));
produce($_, 3000) for qw(replica handler);
$node->safe_psql('shop', q(SELECT outbox.resume_subscription(name) FROM outbox.subscriptions));
for my $n (1 .. 4)
{
	my $least = $n * 400;

	wait_for_sql($node, 'shop', "SELECT count(*) >= $least FROM effects");
	my $pid = worker_pid($node, 'shop', 'applier') or next;
	kill $n == 2 ? 'KILL' : 'TERM', $pid;
}
applied_once($_, 'under load') for qw(replica handler);
is($node->safe_psql('shop', 'SELECT count(*) FROM outbox.dead_letters'), '0', 'and there are no letters');
$node->stop;

done_testing();
