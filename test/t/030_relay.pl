# The way out: what is committed reaches Kafka, once unless something dies, in
# order of commit; what is not committed never does; one topic's fault is its
# own.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker();
my $node = outbox_node('users');
outbox_install($node, 'postgres', $broker);

# Kafka may be told to make topics, or not; we make ours.
sub new_topic
{
	my ($name, $partitions) = @_;
	my $topic = unique_topic($name);
	topic_create($broker, $topic, $partitions // 1);
	return $topic;
}

sub values_of
{
	return join ' ', map { $_->{value} // 'NULL' } @_;
}

# Ids in the order in which they first arrived, per key, must grow: later
# commits of one session have later ids.
sub disorder
{
	my (%seen, %last);
	my $bad = 0;

	for my $r (@_)
	{
		my $id = $r->{headers}{id};
		next if $seen{$id}++;
		$bad++ if defined $last{ $r->{key} } && $id < $last{ $r->{key} };
		$last{ $r->{key} } = $id;
	}
	return $bad;
}

# ---------------------------------------------------------------------------
# Committed or not
# ---------------------------------------------------------------------------

my $topic = new_topic('plain');
$node->safe_psql('postgres', <<"END");
BEGIN;
SELECT outbox.emit('$topic', 'k', 'rolled back');
ROLLBACK;
BEGIN;
SELECT outbox.emit('$topic', 'k', '1');
SAVEPOINT a;
SELECT outbox.emit('$topic', 'k', 'savepoint rolled back');
SAVEPOINT b;
SELECT outbox.emit('$topic', 'k', 'inner savepoint rolled back');
RELEASE b;
ROLLBACK TO a;
SELECT outbox.emit('$topic', 'k', '2');
SAVEPOINT c;
SELECT outbox.emit('$topic', 'k', '3');
RELEASE c;
SELECT outbox.emit('$topic', NULL, NULL, event_type => 'gone', headers => '{"n": 1, "none": null}');
COMMIT;
END
my @records = topic_wait($broker, $topic, 4);
is(values_of(@records), '1 2 3 NULL', 'what committed is there, in order, and nothing else');
is($records[3]{key}, undef, 'no key is a null key');
is($records[3]{headers}{type}, 'gone', 'event type is a header');
is($records[3]{headers}{n}, '1', 'a header of the caller');
ok(exists $records[3]{headers}{id}, 'id is a header');

# ---------------------------------------------------------------------------
# Events held in memory and written early
# ---------------------------------------------------------------------------

# A buffer that overflows inside and outside of savepoints
my $big = new_topic('big');
$node->safe_psql('postgres', <<"END");
SET pg_outbox.event_buffer = '64kB';
BEGIN;
SELECT outbox.emit('$big', 'k', 'a' || g) FROM generate_series(1, 3000) g \\g /dev/null
SAVEPOINT s;
SELECT outbox.emit('$big', 'k', repeat('lost', 10)) FROM generate_series(1, 3000) g \\g /dev/null
ROLLBACK TO s;
SAVEPOINT t;
SELECT outbox.emit('$big', 'k', 'b' || g) FROM generate_series(1, 3000) g \\g /dev/null
RELEASE t;
SELECT outbox.emit('$big', 'k', 'c' || g) FROM generate_series(1, 3000) g \\g /dev/null
COMMIT;
END
@records = topic_wait($broker, $big, 9000);
is( values_of(@records),
	join(' ', map { my $l = $_; map { "$l$_" } 1 .. 3000 } qw(a b c)),
	'a transaction larger than its buffer arrives whole and in order');

# ---------------------------------------------------------------------------
# Late committers
# ---------------------------------------------------------------------------

my $late = new_topic('late');
my $writer = $node->background_psql('postgres');
$writer->query_safe("BEGIN");
$writer->query_safe("SELECT outbox.emit('$late', 'a', 'early stamp')");
$node->safe_psql('postgres', "SELECT outbox.emit('$late', 'b', 'late stamp')");
@records = topic_wait($broker, $late, 1);
is(values_of(@records), 'late stamp', 'an open transaction holds nobody up');
$writer->query_safe("COMMIT");
$writer->quit;
@records = topic_wait($broker, $late, 2);
is(values_of(@records), 'late stamp early stamp', 'and is published when it commits');

# ---------------------------------------------------------------------------
# Prepared transactions
# ---------------------------------------------------------------------------

my $prepared = new_topic('prepared');
$node->safe_psql('postgres', <<"END");
BEGIN;
SELECT outbox.emit('$prepared', 'k', 'prepared');
PREPARE TRANSACTION 'p';
BEGIN;
SELECT outbox.emit('$prepared', 'k', 'never');
PREPARE TRANSACTION 'q';
END
$node->restart;
@records = topic_read($broker, $prepared);
is(scalar(@records), 0, 'prepared is not committed');
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
$node->safe_psql('postgres', "ROLLBACK PREPARED 'q'");
@records = topic_wait($broker, $prepared, 1);
is(values_of(@records), 'prepared', 'published after COMMIT PREPARED by another session');

# ---------------------------------------------------------------------------
# The relay dies at every step
# ---------------------------------------------------------------------------

# The log is the truth: a session may be cut off before it hears of its commit.
sub committed_ids
{
	my ($t) = @_;
	my $ids;

	wait_until(
		sub {
			my ($rc, $out) = $node->psql('postgres',
				"SELECT id FROM outbox._events() WHERE topic = '$t' ORDER BY id");
			$ids = $out;
			return $rc == 0;
		},
		'the server to accept queries');
	return split /\n/, $ids;
}

# An error ends the relay alone; a kill makes PostgreSQL restart all processes.
for my $action (qw(error kill))
{
	for my $point (qw(relay.before_read relay.after_produce relay.after_ack
		relay.before_settle relay.after_settle))
	{
		my $t = new_topic('die');
		my $restarts = () = slurp_file($node->logfile) =~ /pg_outbox relay.*(?:exited|terminated)/g;

		fault($node, "$point=$action");
		for my $from (0, 500)
		{
			$node->psql('postgres',
				"SELECT outbox.emit('$t', (g % 7)::text, g::text) FROM generate_series($from + 1, $from + 500) g");
		}
		ok( wait_until(
				sub {
					my $n = () = slurp_file($node->logfile) =~ /pg_outbox relay.*(?:exited|terminated)/g;
					return $n > $restarts;
				},
				"the end of the relay at $point"),
			"$point=$action: relay died");
		ok(wait_until(sub { $node->psql('postgres', 'ALTER SYSTEM RESET pg_outbox.fault') == 0 },
				'a connection'), "$point=$action: server answers");
		wait_until(sub { $node->psql('postgres', 'SELECT pg_reload_conf()') == 0 }, 'a connection');

		my @expected = committed_ids($t);
		my @records;
		ok( wait_until(
				sub {
					@records = topic_read($broker, $t);
					my %id = map { ($_->{headers}{id} => 1) } @records;
					return (grep { !$id{$_} } @expected) == 0;
				},
				scalar(@expected) . " events"),
			"$point=$action: nothing lost of " . scalar(@expected));
		my %committed = map { ($_ => 1) } @expected;
		is(scalar(grep { !$committed{ $_->{headers}{id} } } @records), 0,
			"$point=$action: nothing that was not committed");
		is(disorder(@records), 0, "$point=$action: keys in order");
	}
}

# ---------------------------------------------------------------------------
# Faults of one event, faults of one topic
# ---------------------------------------------------------------------------

my $sized = unique_topic('sized');
topic_create($broker, $sized, 1);
$node->safe_psql('postgres', <<"END");
SELECT outbox.emit('$sized', 'k', 'before');
SELECT outbox.emit('$sized', 'k', repeat('x', 12 * 1024 * 1024)) \\g /dev/null
SELECT outbox.emit('$sized', 'k', 'after');
END
@records = topic_wait($broker, $sized, 2);
is(values_of(@records), 'before after', 'an event that is too large holds nobody up');
is_soon($node, 'postgres',
	"SELECT count(*), min(length(value)) FROM outbox._dead_letter WHERE topic = '$sized'",
	'1|12582912', 'and is set aside with its bytes');

# ---------------------------------------------------------------------------
# Server restarts, the log's room
# ---------------------------------------------------------------------------

my $crash = new_topic('crash');
$node->safe_psql('postgres', "SELECT outbox.emit('$crash', 'k', g::text) FROM generate_series(1, 1000) g");
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', "SELECT outbox.emit('$crash', 'k', g::text) FROM generate_series(1001, 2000) g");
ok( wait_until(
		sub {
			my %id = map { ($_->{headers}{id} => 1) } topic_read($broker, $crash);
			return keys %id == 2000;
		},
		'2000 events after a crash'),
	'nothing lost by a crash of the server');
is(disorder(topic_read($broker, $crash)), 0, 'keys in order, ids grow across the crash');

$node->append_conf('postgresql.conf', "pg_outbox.segment_size = '1MB'\n");
$node->reload;
my $room = new_topic('room');
for my $i (1 .. 4)
{
	$node->safe_psql('postgres',
		"SELECT outbox.emit('$room', 'k', repeat('x', 500)) FROM generate_series(1, 4000) g");
	is_soon($node, 'postgres',
		'SELECT last_value >= ' . $i . ' FROM outbox._log_current', 't', "segment is changed ($i)");
}
is_soon($node, 'postgres',
	"SELECT sum(pg_relation_size(c.oid)) < 4 * 1024 * 1024 FROM pg_class c
	 JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'outbox' AND c.relname ~ '^_log_[012]\$'",
	't', 'settled segments are emptied');
is($node->safe_psql('postgres',
		"SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables
		 WHERE schemaname = 'outbox' AND relname ~ '^_(log|position)_'"),
	'0', 'log and positions have no dead rows');

# The application's lastval() is its own.
is($node->safe_psql('postgres', <<"END"), "42", 'lastval() is not touched');
CREATE SEQUENCE s START 42;
SELECT nextval('s') \\g /dev/null
SELECT outbox.emit('$room', 'k', 'v') \\g /dev/null
SELECT lastval();
END

$node->stop('fast');
done_testing();
