# Writers that stay open while others commit: in memory, written early, prepared.
# Everybody's events are published once, a key's in the order of the commits, and
# an open transaction costs the others nothing, however large it is.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

# The log rows of the large open transaction: clearly more than the others' events.
use constant OPEN_EVENTS => 6000;
use constant OTHERS      => 100;

my $broker = outbox_broker();
my $node   = outbox_node('main', conf => "pg_outbox.segment_size = '1MB'");
outbox_install($node, 'shop', $broker);
my $topic = unique_topic('item');
topic_create($broker, $topic, 1);
$node->safe_psql('shop', <<"END");
CREATE TABLE item (id int PRIMARY KEY, grp text NOT NULL, v text);
INSERT INTO item SELECT g, 'g' || g % 2, 'old' FROM generate_series(1, 9) g;
SELECT outbox.publish('item', topic => '$topic', initial => 'none', partition_by => '{grp}');
END

sub session
{
	my $s = $node->background_psql('shop');
	$s->query_safe('BEGIN');
	return $s;
}

sub commit
{
	my ($s) = @_;
	$s->query_safe('COMMIT');
	$s->quit;
	return;
}

# "key:value" of each record from "from" on; of a row's image its v.
sub published
{
	my ($from, @records) = @_;
	return join ' ', map {
		my ($v) = $_->{value} =~ /"v": ?"([^"]*)"/;
		"$_->{key}:" . ($v // $_->{value});
	} @records[ $from .. $#records ];
}

# ---------------------------------------------------------------------------
# A stamps, B stamps and commits, A commits
# ---------------------------------------------------------------------------

# Rows 2 and 4 share a key, row 1 has another one.
my $first = session();
$first->query_safe("UPDATE item SET v = 'A row' WHERE id = 2");
$first->query_safe("SELECT outbox.emit('$topic', 'g0', 'A emit')");
$node->safe_psql('shop', <<"END");
BEGIN;
UPDATE item SET v = 'B row' WHERE id = 4;
UPDATE item SET v = 'B other' WHERE id = 1;
SELECT outbox.emit('$topic', 'g0', 'B emit');
COMMIT;
END
my @records = topic_wait($broker, $topic, 3);
is(published(0, @records), 'g0:B row g1:B other g0:B emit', 'who commits is published, although another has stamped before');
$node->safe_psql('shop', "UPDATE item SET v = 'C row' WHERE id = 6");
topic_wait($broker, $topic, 4);
commit($first);
@records = topic_wait($broker, $topic, 6);
is(published(3, @records), 'g0:C row g0:A row g0:A emit', 'and the other one when it commits, after them');
my %id = map { ($_->{value} => $_->{headers}{id}) } @records;
is(scalar(keys %id), 6, 'each of them once');
my @ids = map { $_->{headers}{id} } @records;
cmp_ok($ids[4], '<', $ids[0], "A's row has been stamped first");

# Read together, when the relay has been away: by commit, not by first stamp.
my $behind = session();
$node->safe_psql('shop', "SELECT outbox.pause('relay')");
is_soon($node, 'shop', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay'", '0', 'no relay');
$behind->query_safe("UPDATE item SET v = 'D1' WHERE id = 2");
$node->safe_psql('shop', "UPDATE item SET v = 'E' WHERE id = 4");
$behind->query_safe("UPDATE item SET v = 'D2' WHERE id = 6");
commit($behind);
$node->safe_psql('shop', "SELECT outbox.resume('relay')");
@records = topic_wait($broker, $topic, 9);
is(published(6, @records), 'g0:E g0:D1 g0:D2', 'what is read together is in the order of the commits as well');

# On one row the second one waits, so its change is the newer one.
my $a = session();
my $b = session();
$a->query_safe("UPDATE item SET v = 'A' WHERE id = 8");
$b->query_safe("SELECT outbox.emit('$topic', 'g0', 'B before')");
my $b_pid = $b->query_safe('SELECT pg_backend_pid()');
$b->query_until(qr/sent/, "\\echo sent\nUPDATE item SET v = 'B' WHERE id = 8;\n");
is_soon($node, 'shop', "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $b_pid", 'Lock', 'B waits for A');
commit($a);
commit($b);
@records = topic_wait($broker, $topic, 12);
is(published(9, @records), 'g0:A g0:B before g0:B', 'of one row in the order of the commits, with what was emitted before');
cmp_ok($records[11]{headers}{id}, '>', $records[9]{headers}{id}, 'and with growing versions');

# ---------------------------------------------------------------------------
# Prepared, restart, committed by another session
# ---------------------------------------------------------------------------

$node->safe_psql('shop', <<"END");
BEGIN;
UPDATE item SET v = 'prepared' WHERE id = 2;
PREPARE TRANSACTION 'small';
SET pg_outbox.event_buffer = '64kB';
BEGIN;
INSERT INTO item SELECT g, 'p', 'large ' || g || repeat('x', 100) FROM generate_series(1001, 3000) g;
PREPARE TRANSACTION 'large';
BEGIN;
UPDATE item SET v = 'never' WHERE id = 6;
PREPARE TRANSACTION 'undone';
UPDATE item SET v = 'meanwhile' WHERE id = 4;
END
@records = topic_wait($broker, $topic, 13);
is(published(12, @records), 'g0:meanwhile', 'prepared transactions hold nobody up');
$node->restart;
$node->safe_psql('shop', "UPDATE item SET v = 'restarted' WHERE id = 4");
@records = topic_wait($broker, $topic, 14);
is(published(13, @records), 'g0:restarted', 'nor after a restart');
$node->safe_psql('shop', "COMMIT PREPARED 'small'");
@records = topic_wait($broker, $topic, 15);
is(published(14, @records), 'g0:prepared', 'published when it is committed by another session');
$node->safe_psql('shop', "ROLLBACK PREPARED 'undone'");
$node->safe_psql('shop', "COMMIT PREPARED 'large'");
@records = topic_wait($broker, $topic, 2015);
is(join(' ', map { $_->{value} =~ /large (\d+)/ ? $1 : $_->{value} } @records[ 15 .. $#records ]),
	join(' ', 1001 .. 3000), 'also one that had been written early: once, in order');

# ---------------------------------------------------------------------------
# A large open transaction
# ---------------------------------------------------------------------------

my $others = unique_topic('others');
my $large = unique_topic('large');
topic_create($broker, $_, 1) for $others, $large;

sub others
{
	my ($n) = @_;
	$node->safe_psql('shop', "SELECT outbox.emit('$others', 'k', 'x') \\g /dev/null\n" x $n);
	return;
}

# Entries of the log's index that anybody has looked at (the relay is the only one).
my $looked = q(SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname ~ '^_log_[0-2]$');

# Counters arrive late, together with those of what was done before; so wait for
# two reports that follow.
sub looked_at
{
	for (1 .. 2)
	{
		my $so_far = $node->safe_psql('shop', $looked);
		others(1);
		wait_for_sql($node, 'shop', "SELECT ($looked) > $so_far") or die 'the relay reads nothing';
	}
	return $node->safe_psql('shop', $looked);
}

# How many the relay looks at for OTHERS events of others.
sub work_for_others
{
	my $before = looked_at();

	others(OTHERS);
	is_soon($node, 'shop', "SELECT ($looked) >= $before + " . OTHERS, 't', 'others are read');
	return looked_at() - $before;
}

my $alone = work_for_others();
my $writer = $node->background_psql('shop');
$writer->query_safe(q(SET pg_outbox.event_buffer = '64kB'));
$writer->query_safe('BEGIN');
$writer->query_safe("SELECT outbox.emit('$large', 'k', g || ' ' || repeat(md5(g::text), 12)) FROM generate_series(1, "
	  . OPEN_EVENTS . ') g \g /dev/null');
my $written = $node->safe_psql('shop',
	q(SELECT max(pg_relation_size(c.oid)) / 8192 FROM pg_class c WHERE c.relname ~ '^_log_[0-2]$'));
cmp_ok($written, '>', 2 * OTHERS, "it has been written to the log early ($written pages)");
others(1);
is_soon($node, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'others are published');
my $beside = work_for_others();
note "index entries looked at for @{[ OTHERS ]} events: $alone alone, $beside beside the open transaction";
cmp_ok($beside, '<=', 2.5 * OTHERS, 'the relay does not look at what is open, event for event');

# The log goes round it.
my $rotations = 'SELECT rotations FROM outbox.stat_log';
for my $round (1 .. 3)
{
	my $before = $node->safe_psql('shop', $rotations);
	$node->safe_psql('shop',
		"SELECT outbox.emit('$others', 'k', repeat('x', 500)) FROM generate_series(1, 2500) g \\g /dev/null");
	is_soon($node, 'shop', "SELECT ($rotations) > $before", 't', "the log goes on round it ($round)");
}
@records = topic_read($broker, $large);
is(scalar(@records), 0, 'nothing of it is published before it commits');
$writer->query_safe("SELECT outbox.emit('$large', 'k', 'last')");
commit($writer);
@records = topic_wait($broker, $large, OPEN_EVENTS + 1);
is( join(' ', map { $_->{value} =~ /^(\S+)/ } @records),
	join(' ', 1 .. OPEN_EVENTS, 'last'),
	'all of it afterwards: once, in order');
is_soon($node, 'shop',
	q(SELECT sum(pg_relation_size(c.oid)) < 3 * 1024 * 1024 FROM pg_class c WHERE c.relname ~ '^_log_[0-2]$'),
	't', 'and its segment is emptied');

$node->stop('fast');
done_testing();
