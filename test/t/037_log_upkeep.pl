# What others do to the log's tables: rewriting them, freezing their rows,
# holding their locks.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node   = outbox_node('main');

# ---------------------------------------------------------------------------
# Rows that move while references to them are held
# ---------------------------------------------------------------------------

outbox_install($node, 'moved', $broker);
$node->safe_psql('moved', "SELECT outbox.emit('moved', 'k', 'first')");
topic_wait($broker, 'moved', 1);

# One batch, of which a part lies behind dead pages.
my $value = q(g || repeat('x', 3000));
$node->safe_psql('moved', "SELECT outbox.pause('relay')");
is_soon($node, 'moved', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay' AND datname = 'moved'), '0', 'the relay is paused');
$node->safe_psql('moved', <<"END");
SELECT outbox.emit('moved', 'k', $value) FROM generate_series(1, 300) g \\g /dev/null
BEGIN;
SET LOCAL pg_outbox.event_buffer = '64kB';
SELECT outbox.emit('moved', 'k', $value) FROM generate_series(1, 300) g \\g /dev/null
ROLLBACK;
SELECT outbox.emit('moved', 'k', $value) FROM generate_series(301, 600) g \\g /dev/null
END
fault($node, 'relay.before_read=once-wait');
$node->safe_psql('moved', "SELECT outbox.resume('relay')");
is_soon($node, 'moved', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay'
	AND datname = 'moved' AND backend_xmin IS NOT NULL AND wait_event_type = 'Extension'), '1', 'it knows where the rows are');
my $size = $node->safe_psql('moved', "SELECT pg_relation_size('outbox._log_0')");
$node->safe_psql('moved', 'VACUUM FULL outbox._log_0');
cmp_ok($node->safe_psql('moved', "SELECT pg_relation_size('outbox._log_0')"), '<', $size, 'the rows have moved');
no_faults($node);
is_soon($node, 'moved', 'SELECT settled_events FROM outbox.stat_servers', '601', 'all are settled');
my @records = topic_read($broker, 'moved');
is(join(' ', map { $_->{value} =~ s/x+$//r } @records), join(' ', 'first', 1 .. 600), 'each is sent once, in order, with its own value');
my $last = 0;
is(scalar(grep { my $wrong = $_->{headers}{id} <= $last; $last = $_->{headers}{id}; $wrong } @records), 0, 'and its own id');
is($node->safe_psql('moved', q(SELECT last_error FROM outbox._workers() WHERE worker = 'relay')), '', 'without an error');

# ---------------------------------------------------------------------------
# An index that another one takes the place of
# ---------------------------------------------------------------------------

outbox_install($node, 'reindexed', $broker);
my $writer = $node->background_psql('reindexed');
$writer->query_safe("SELECT outbox.emit('reindexed', 'k', 'first')");
topic_wait($broker, 'reindexed', 1);
$node->safe_psql('reindexed', "SELECT outbox.pause('relay')");
is_soon($node, 'reindexed', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay' AND datname = 'reindexed'), '0', 'the relay is paused');

# An old snapshot keeps the new index, which is complete, from taking the place.
my $reader = $node->background_psql('reindexed');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $reindex = $node->background_psql('reindexed');
$reindex->query_until(qr/begins/, "\\echo begins\nREINDEX INDEX CONCURRENTLY outbox._log_0_xid_idx;\n");
is_soon($node, 'reindexed', 'SELECT phase FROM pg_stat_progress_create_index', 'waiting for old snapshots', 'there are two indexes');
$writer->query_safe("SELECT outbox.emit('reindexed', 'k', 'second')");
$reader->query_safe('COMMIT');
$reader->quit;
$reindex->query_safe('SELECT 1');
$reindex->quit;
is($node->safe_psql('reindexed', q(SELECT count(*) FROM pg_index WHERE indrelid = 'outbox._log_0'::regclass)), '1', 'there is one');
$writer->query("SELECT outbox.emit('reindexed', 'k', 'third')");
$writer->quit;
$node->safe_psql('reindexed', "SELECT outbox.resume('relay'); SELECT outbox.emit('reindexed', 'k', 'fourth')");
topic_wait($broker, 'reindexed', 4);
is(join(' ', map { $_->{value} } topic_read($broker, 'reindexed')), 'first second third fourth', 'all of a session that wrote before are sent');

# ---------------------------------------------------------------------------
# Rows so old that the server has forgotten their transactions
# ---------------------------------------------------------------------------

outbox_install($node, 'old', $broker);
$node->safe_psql('old', "SELECT outbox.emit('old', 'k', 'first')");
topic_wait($broker, 'old', 1);
$node->safe_psql('old', "SELECT outbox.pause('relay')");
is_soon($node, 'old', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay' AND datname = 'old'), '0', 'the relay has ended');
$node->safe_psql('old', "SELECT outbox.emit('old', 'k', 'second')");
my $file = sprintf '%04X', $node->safe_psql('old', 'SELECT txid_current() / 1048576');
is($file, '0000', 'a young cluster');

# As if three million transactions had passed.
$node->stop('fast');
for my $name ('0001', '0002')
{
	open my $xact, '>', $node->data_dir . "/pg_xact/$name" or die $!;
	print $xact "\0" x 262144;
	close $xact;
}
system_or_bail('pg_resetwal', '-x', 3000000, '-u', 3, '-D', $node->data_dir);
$node->start;
$node->safe_psql('postgres', 'ALTER DATABASE template0 ALLOW_CONNECTIONS true');
for my $db (('template0', 'template1', 'postgres', 'moved', 'reindexed', 'old') x 2)
{
	$node->safe_psql($db, 'VACUUM FREEZE');
}
$node->safe_psql('postgres', 'CHECKPOINT');
ok(!-e $node->data_dir . '/pg_xact/0000', 'the commit log is truncated');
$node->safe_psql('old', "SELECT outbox.resume('relay')");
topic_wait($broker, 'old', 2);
is(join(' ', map { $_->{value} } topic_read($broker, 'old')), 'first second', 'the old event is sent');

# ---------------------------------------------------------------------------
# A segment that is held
# ---------------------------------------------------------------------------

outbox_install($node, 'held', $broker);
$node->append_conf('postgresql.conf', "pg_outbox.segment_size = '1MB'\n");
$node->reload;
$node->safe_psql('held', "BEGIN; SELECT outbox.emit('held', 'k', 'prepared'); PREPARE TRANSACTION 'holder'");
my $sent = 0;
for my $i (1 .. 4)
{
	$node->safe_psql('held', "SELECT outbox.emit('held', 'k', repeat('x', 500)) FROM generate_series(1, 4000)");
	$sent += 4000;
	is_soon($node, 'held', 'SELECT settled_events FROM outbox.stat_servers', $sent, "settled ($i)");
	is_soon($node, 'held', "SELECT rotations >= $i FROM outbox.stat_log", 't', "writers go on in an empty segment ($i)");
}
is($node->safe_psql('held', 'SELECT held_by FROM outbox.stat_log'), 'prepared transaction "holder"', 'who holds one is told');
is($node->safe_psql('held', q(SELECT waiting_for FROM outbox.status WHERE kind = 'log')), 'prepared transaction "holder"', 'by status as well');
$node->safe_psql('held', "CREATE TABLE other (a int); BEGIN; ALTER TABLE other ADD b int; PREPARE TRANSACTION 'altered'");
is($node->safe_psql('held', q(SET statement_timeout = '10s'; SELECT waiting_for FROM outbox.status WHERE kind = 'log')),
	'prepared transaction "holder"', 'without waiting for other tables that are locked');
$node->safe_psql('held', "COMMIT PREPARED 'altered'");
is_soon($node, 'held', "SELECT sum(pg_relation_size('outbox._log_' || n)) < 8 * 1024 * 1024 FROM generate_series(0, 2) n", 't', 'the log does not grow');
$node->safe_psql('held', "COMMIT PREPARED 'holder'");
is_soon($node, 'held', 'SELECT settled_events FROM outbox.stat_servers', $sent + 1, 'what was prepared is sent');
is_soon($node, 'held', 'SELECT held_by IS NULL AND bytes < 4 * 1024 * 1024 FROM outbox.stat_log', 't', 'and the segment emptied');

# ---------------------------------------------------------------------------
# Memory that runs out while an event is recorded
# ---------------------------------------------------------------------------

outbox_install($node, 'memory', $broker);
my ($rc, $out, $err) = $node->psql('memory', <<'END', on_error_stop => 0);
BEGIN;
SELECT outbox.emit('memory', 'k', 'one');
SAVEPOINT a;
SET LOCAL pg_outbox.fault = 'log.new_chunk=error';
SELECT outbox.emit('memory', 'k', repeat('x', 8000));
ROLLBACK TO a;
SELECT outbox.emit('memory', 'k', 'two');
COMMIT;
END
like($err, qr/fault point "log.new_chunk" was hit/, 'a chunk could not be made');
topic_wait($broker, 'memory', 2);
is(join(' ', map { $_->{value} } topic_read($broker, 'memory')), 'one two', 'the rest of the transaction is sound');

# ---------------------------------------------------------------------------
# A relay that has nothing to do
# ---------------------------------------------------------------------------

# Nothing but what PostgreSQL writes of itself, for as long as the relay needs
# to look twice at everything it looks at.
my $idle = outbox_node('idle', conf => 'autovacuum = off');
outbox_install($idle, 'idle', $broker);
$idle->safe_psql('idle', "SELECT outbox.emit('idle', 'k', 'v')");
topic_wait($broker, 'idle', 1);
is_soon($idle, 'idle', 'SELECT settled_events FROM outbox.stat_servers', '1', 'settled');

sub turns_and_xid
{
	return split /\|/, $idle->safe_psql('idle', <<'END');
SELECT extract(epoch FROM state_change), pg_snapshot_xmax(pg_current_snapshot()), pg_current_wal_insert_lsn()
FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay'
END
}

sub records_between
{
	my ($from, $to) = @_;
	return 0 if $from eq $to;
	my ($stdout, $stderr) = run_command([ 'pg_waldump', '-p', $idle->data_dir . '/pg_wal', '-s', $from, '-e', $to ]);
	return scalar grep { !/rmgr: (?:Standby|XLOG) / || /desc: LOCK/ } split /\n/, $stdout;
}

my ($turn, $xid, $lsn) = turns_and_xid();
ok(wait_until(sub {
		my ($turn_now, $xid_now, $lsn_now) = turns_and_xid();
		if ($xid_now == $xid && records_between($lsn, $lsn_now) == 0)
		{
			return $turn_now - $turn > 12;
		}
		($turn, $xid, $lsn) = ($turn_now, $xid_now, $lsn_now);
		return 0;
	}, 'twelve quiet seconds', 90), 'an idle relay takes no transaction id and writes no WAL');
$idle->stop('fast');

$node->stop('fast');

# ---------------------------------------------------------------------------
# A library that changes data when all has been written
# ---------------------------------------------------------------------------

my $late = outbox_node('late', preload => 0);
outbox_install($late, 'late', $broker);
$late->safe_psql('late', <<'END');
CREATE FUNCTION at_commit(text) RETURNS void AS 'outbox_test_worker', 'test_at_commit' LANGUAGE C;
CREATE TABLE done (what text);
END
for my $before ('', "SELECT outbox.emit('late', 'k', 'in time');")
{
	my ($code, $result, $error) = $late->psql('late', <<"END", on_error_stop => 0);
LOAD 'outbox_test_worker';
BEGIN;
INSERT INTO done VALUES ('late');
$before
SELECT at_commit(\$\$SELECT outbox.emit('late', 'k', 'late')::text\$\$);
COMMIT;
SELECT outbox.emit('late', 'k', 'next');
END
	like($error, qr/cannot record events at the very end of a transaction/, 'an event that would not be written is refused');
}
is($late->safe_psql('late', 'SELECT count(*) FROM done'), '0', 'with its transaction');
is($late->safe_psql('late', "SELECT string_agg(convert_from(value, 'UTF8'), ' ') FROM outbox._events()"), 'next next', 'of which nothing is left, and the next one may');

done_testing();
