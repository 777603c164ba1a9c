# Two services under random load: many writers, every kind of change, workers
# that die, connections to the broker that break; afterwards the replica is the
# source, row for row.
#
# The seed is printed; OUTBOX_SEED=n replays the same statements (how they
# interleave is up to the machine), OUTBOX_ROUNDS=n makes it longer.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use OutboxTest;
use Test::More;
use Time::HiRes ();

my $seed   = $ENV{OUTBOX_SEED}   // int(rand(1_000_000));
my $rounds = $ENV{OUTBOX_ROUNDS} // 4;
my $writers = 6;

note "OUTBOX_SEED=$seed";
srand($seed);

my $broker = outbox_broker();
my $topic  = unique_topic('accounts');
topic_create($broker, $topic, 4);

# Each side has a way of its own to the broker.
my %way = map { ($_ => outbox_proxy($broker)) } qw(users orders);
my %worker = (users => 'relay', orders => 'applier');

my $node = outbox_node('services');
outbox_install($node, $_, $way{$_}) for qw(users orders);

$node->safe_psql('users', <<'END');
CREATE TABLE account (id bigint PRIMARY KEY, name text, n int NOT NULL DEFAULT 0, amount numeric, at timestamptz);
INSERT INTO account SELECT g, 'first ' || g, g FROM generate_series(1, 200, 2) g;

-- triggers of the user's that touch sibling rows, before and after ours
CREATE FUNCTION sibling() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() > 1 OR random() > 0.2 THEN
		RETURN NULL;
	END IF;
	CASE (random() * 3)::int
		WHEN 0 THEN UPDATE account SET n = n + 1 WHERE id IN (coalesce(NEW.id, OLD.id) + 1, coalesce(NEW.id, OLD.id));
		WHEN 1 THEN DELETE FROM account WHERE id = coalesce(NEW.id, OLD.id) + 2;
		WHEN 2 THEN INSERT INTO account VALUES (coalesce(NEW.id, OLD.id), 'again') ON CONFLICT DO NOTHING;
		ELSE UPDATE account SET name = 'sibling ' || id WHERE id = coalesce(NEW.id, OLD.id) + 1;
	END CASE;
	RETURN NULL;
END $$;
CREATE TRIGGER aaa_sibling AFTER INSERT OR UPDATE OR DELETE ON account FOR EACH ROW EXECUTE FUNCTION sibling();
CREATE TRIGGER zzz_sibling AFTER INSERT OR UPDATE OR DELETE ON account FOR EACH ROW EXECUTE FUNCTION sibling();

CREATE PROCEDURE change() LANGUAGE plpgsql AS $$
DECLARE
	k bigint := (random() * 200)::bigint;
BEGIN
	CASE (random() * 7)::int
		WHEN 0 THEN INSERT INTO account VALUES (k, 'new ' || k, 0, random()::numeric, clock_timestamp());
		WHEN 1 THEN UPDATE account SET n = n + 1, amount = random()::numeric * 1e10 WHERE id = k;
		WHEN 2 THEN DELETE FROM account WHERE id = k;
		WHEN 3 THEN UPDATE account SET id = id + 1 WHERE id = k;
		WHEN 4 THEN INSERT INTO account VALUES (k, 'upsert') ON CONFLICT (id) DO UPDATE SET n = account.n + 1;
		WHEN 5 THEN UPDATE account SET n = n + 1 WHERE id BETWEEN k AND k + 5;
		WHEN 6 THEN UPDATE account SET id = -id WHERE id BETWEEN k AND k + 3;
			UPDATE account SET id = -id WHERE id < 0;
		ELSE DELETE FROM account WHERE id = k; INSERT INTO account VALUES (k, 'back');
	END CASE;
END $$;

-- transactions of a few changes, some undone by savepoint, some as a whole
CREATE PROCEDURE chaos(transactions int, seed float8) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM setseed(seed);
	FOR t IN 1 .. transactions LOOP
		FOR c IN 1 .. 1 + (random() * 4)::int LOOP
			BEGIN
				CALL change();
				IF random() < 0.15 THEN
					RAISE EXCEPTION 'undone';
				END IF;
			EXCEPTION WHEN raise_exception OR unique_violation OR deadlock_detected THEN
				NULL;
			END;
		END LOOP;
		IF random() < 0.1 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END $$;
END
$node->safe_psql('users', "SELECT outbox.publish('account', topic => '$topic')");

$node->safe_psql('orders', <<"END");
CREATE TABLE account_replica (id bigint PRIMARY KEY, name text, n int, amount numeric, at timestamptz, version bigint NOT NULL);
SELECT outbox.replicate('account_replica', topic => '$topic');
END

# What the writers' sessions say is of no interest: they lose connections, run
# into deadlocks, and go on.
sub start_writers
{
	my ($round) = @_;
	return map {
		my $s = rand() * 2 - 1;
		my $h = IPC::Run::start(
			[ 'psql', '-X', '-q', '-d', $node->connstr('users'), '-c',
				"CALL chaos(150, $s)" ],
			'>', '/dev/null', '2>', '/dev/null');
		$h;
	} 1 .. $writers;
}

# In each round three workers die and both sides' connections are cut, at any
# time and in any order; at the very end a worker dies by kill -9.
my %cut = (users => 0, orders => 0);
for my $round (1 .. $rounds)
{
	my @handles = start_writers($round);
	my @blows = ((map { [ kill => rand() < 0.5 ? 'users' : 'orders' ] } 1 .. 3),
		map { [ cut => $_ ] } qw(users orders));

	for my $left (reverse 1 .. @blows)
	{
		my ($what, $db) = @{ splice @blows, int(rand($left)), 1 };

		Time::HiRes::usleep(50_000 + rand(250_000));
		if ($what eq 'cut')
		{
			$cut{$db} += proxy_cut($way{$db});
			next;
		}
		my $pid = worker_pid($node, $db, $worker{$db}) or next;
		kill(($round == $rounds && !grep { $_->[0] eq 'kill' } @blows) ? 'KILL' : 'TERM', $pid);
	}
	$_->finish for @handles;
	wait_until(sub { $node->psql('postgres', 'SELECT 1') == 0 }, 'the server to be back');
}
note "connections cut: $cut{users} of the relay, $cut{orders} of the applier";
cmp_ok($cut{users},  '>', 0, "the relay's connections were cut");
cmp_ok($cut{orders}, '>', 0, "the applier's connections were cut");

# A last change, so that there is something to wait for, then all must be equal.
$node->safe_psql('users', "INSERT INTO account (id, name) VALUES (100000, 'last')");
is_soon($node, 'orders', 'SELECT name FROM account_replica WHERE id = 100000', 'last',
	'the last change arrives');
my $source = 'SELECT id, name, n, amount, at FROM account ORDER BY id';
my $replica = 'SELECT id, name, n, amount, at FROM account_replica ORDER BY id';
wait_until(
	sub {
		return $node->safe_psql('users', "COPY ($source) TO STDOUT") eq
		  $node->safe_psql('orders', "COPY ($replica) TO STDOUT");
	},
	'the replica to be equal', 60);
same_rows([ $node, 'users', $source ], [ $node, 'orders', $replica ],
	"replica equals its source (OUTBOX_SEED=$seed)");

my (%value, %last, %seen);
my ($reused, $disorder, $records) = (0, 0, 0);
for my $r (topic_read($broker, $topic))
{
	my $id = $r->{headers}{id};
	my $what = join '|', $r->{key} // 'NULL', $r->{headers}{op}, $r->{value} // 'NULL';

	$records++;
	$reused++ if exists $value{$id} && $value{$id} ne $what;
	$value{$id} = $what;
	next if $seen{$id}++ || $r->{headers}{op} eq 'r';
	$disorder++ if defined $last{ $r->{key} } && $id < $last{ $r->{key} };
	$last{ $r->{key} } = $id;
}
note scalar(keys %seen), " events in $records records";
cmp_ok(scalar(keys %seen), '>', 1000, 'there was something to see');
my %logged = map { ($_ => 1) } split /\n/, $node->safe_psql('users', 'SELECT id FROM outbox.events');
is(scalar(grep { !$seen{$_} } keys %logged), 0, 'nothing that was committed is missing');
is(scalar(grep { !$logged{$_} } keys %seen), 0, 'nothing is there that was not committed');
is($reused, 0, 'no id was used for two contents');
is($disorder, 0, 'first deliveries of each key in order');
is($node->safe_psql('orders', 'SELECT count(*) FROM outbox._dead_letter'), '0', 'no dead letters');

$node->stop('fast');
done_testing();
