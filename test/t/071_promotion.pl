# An asynchronous standby that lacks the last commits is promoted.  Behind the
# gate nothing of them had been published; without it it had, but no version is
# ever used for two contents, and the newer primary's versions win.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $topic  = unique_topic('item');
topic_create($broker, $topic, 2);

my $copy = outbox_node('copy');
outbox_install($copy, 'copy', $broker);
$copy->safe_psql('copy', <<"END");
CREATE TABLE replica (id int PRIMARY KEY, v text, version bigint NOT NULL);
SELECT outbox.replicate('replica', topic => '$topic');
END

sub configure
{
	my ($node, $setting) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting");
	$node->reload;
	return;
}

my %content;    # of each version: key and value
my $max = 0;

# What is published, with the largest version; a version that has two contents
# fails the test.
sub look_at_topic
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $reused = 0;

	for my $record (topic_read($broker, $topic))
	{
		my $version = $record->{headers}{id};
		my $what = join ' ', $record->{key}, $record->{headers}{op}, $record->{value} // 'NULL';

		$reused++ if ($content{$version} //= $what) ne $what;
		$max = $version if $version > $max;
	}
	is($reused, 0, "$name: no version has two contents");
	return;
}

# The standby is up to date, idle, and then hears no more of its primary.
sub start_standby
{
	my ($primary, $name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$primary->backup("for_$name");
	$standby->init_from_backup($primary, "for_$name", has_streaming => 1);
	$standby->start;
	return $standby;
}

sub cut_off
{
	my ($primary, $standby) = @_;

	$primary->wait_for_catchup($standby);
	is($standby->safe_psql('shop', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox (relay|applier)')),
		'0', $standby->name . ' is a standby without workers');
	configure($standby, "primary_conninfo = ''");
	wait_for_sql($primary, 'postgres', 'SELECT count(*) FROM pg_stat_replication', '0');
	return;
}

sub promote
{
	my ($primary, $standby, $name) = @_;

	$primary->stop('immediate');
	$standby->promote;
	$standby->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
	$standby->reload;
	ok(wait_for_worker($standby, 'shop', 'relay'), "$name: the relay starts by itself");
	is_soon($standby, 'shop', q(SELECT state, health FROM outbox.status WHERE kind = 'server'), 'publishing|ok',
		"$name: and publishes");
	return;
}

my $tail = <<'END';
INSERT INTO item SELECT g, 'tail' FROM generate_series(102, 106) g;
UPDATE item SET v = 'tail' WHERE id BETWEEN 1 AND 5;
DELETE FROM item WHERE id BETWEEN 11 AND 15;
END

# ---------------------------------------------------------------------------
# With the gate
# ---------------------------------------------------------------------------

my $first = outbox_node('first', streaming => 1);
outbox_install($first, 'shop', $broker);
$first->safe_psql('shop', <<"END");
CREATE TABLE item (id int PRIMARY KEY, v text);
SELECT outbox.publish('item', topic => '$topic', initial => 'none');
END
my $second = start_standby($first, 'second');
configure($first, 'pg_outbox.wait_for_standbys = 1');
$first->safe_psql('shop', q(INSERT INTO item SELECT g, 'first' FROM generate_series(1, 100) g));
is_soon($copy, 'copy', 'SELECT count(*) FROM replica', '100', 'gate: what the standby has is published');
cut_off($first, $second);
$first->safe_psql('shop', $tail);
is_soon($first, 'shop', q(SELECT health FROM outbox.status WHERE kind = 'server'), 'waiting', 'gate: what it lacks waits');
promote($first, $second, 'gate');
look_at_topic('gate');
is(scalar(keys %content), 100, 'gate: nothing is published that the new primary lacks');
$second->safe_psql('shop', q(UPDATE item SET v = 'second' WHERE id IN (1, 11, 21); INSERT INTO item VALUES (101, 'second')));
is_soon($copy, 'copy', q(SELECT count(*) FROM replica WHERE v = 'second'), '4', 'gate: its changes arrive');
same_rows([ $second, 'shop', 'SELECT id, v FROM item' ], [ $copy, 'copy', 'SELECT id, v FROM replica' ],
	'gate: the replica equals the new primary');

# ---------------------------------------------------------------------------
# Without it
# ---------------------------------------------------------------------------

my $third = start_standby($second, 'third');
cut_off($second, $third);
$second->safe_psql('shop', $tail);
is_soon($copy, 'copy', q(SELECT count(*) FILTER (WHERE v = 'tail'), count(*) FROM replica), '10|101', 'no gate: the tail is published');
look_at_topic('no gate, before');
my $before = $max;
my %before = %content;
promote($second, $third, 'no gate');
is($third->safe_psql('shop', q(SELECT count(*) FROM item WHERE v = 'tail')), '0', 'no gate: the new primary lacks it');
$third->safe_psql('shop', q(UPDATE item SET v = 'third' WHERE id IN (1, 11, 21); INSERT INTO item VALUES (102, 'third')));
is_soon($copy, 'copy', q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM replica WHERE v = 'third'), '1 11 21 102',
	'no gate: its changes win over what was lost');
look_at_topic('no gate, after');
is(scalar(grep { !exists $before{$_} && $_ <= $before } keys %content), 0, 'no gate: its versions are above all that were published');
is(scalar(keys %content) - scalar(keys %before), 4, 'no gate: and are those of its changes alone');

# What was lost is still in the replica; a copy with marks at its end clears it.
is($copy->safe_psql('copy', q(SELECT count(*) FROM replica WHERE v = 'tail')), '8', 'no gate: the rest of the tail is in the replica');
$third->safe_psql('shop', q(SELECT outbox.resync('item')));
is_soon($copy, 'copy', q(SELECT count(*) FROM replica WHERE v = 'tail'), '0', 'resync: it is gone');
same_rows([ $third, 'shop', 'SELECT id, v FROM item' ], [ $copy, 'copy', 'SELECT id, v FROM replica' ],
	'resync: the replica equals the new primary');

done_testing();
