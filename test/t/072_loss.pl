# What the brokers lose: retention that overtook a reader, a topic that was created
# again.  on_data_loss decides whether the subscription stops or goes on; either
# way the range is told, and outbox.resync heals the replica.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my $node  = outbox_node('services', conf => 'pg_outbox.metadata_refresh = 1');
outbox_install($node, 'users',  $kafka);
outbox_install($node, 'orders', $kafka);

my %topic = map { $_ => unique_topic($_) } qw(goes stops);
for my $name (sort keys %topic)
{
	my $on_loss = $name eq 'goes' ? 'continue' : 'stop';

	topic_create($kafka, $topic{$name}, 2);
	$node->safe_psql('users', <<"END");
CREATE TABLE $name (id int PRIMARY KEY, v text);
SELECT outbox.publish('$name', topic => '$topic{$name}');
INSERT INTO $name SELECT g, 'first' FROM generate_series(1, 200) g;
END
	$node->safe_psql('orders', <<"END");
CREATE TABLE ${name}_replica (id int PRIMARY KEY, v text, version bigint NOT NULL);
SELECT outbox.replicate('${name}_replica', topic => '$topic{$name}', on_data_loss => '$on_loss');
END
	is_soon($node, 'orders', "SELECT count(*) FROM ${name}_replica", '200', "$name: the replica is there");
}

# what the view says, without numbers that depend on the partitions
sub next_offset
{
	my ($name, $partition) = @_;

	return $node->safe_psql('orders', "SELECT next_offset FROM outbox.stat_subscriptions WHERE name = '${name}_replica' AND partition = $partition");
}

sub is_healed
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql('users', "SELECT outbox.resync('$name')");
	is_soon($node, 'users', "SELECT state FROM outbox.copies WHERE publication = '$name'", 'done', "$name: the resync is done");
	is_soon($node, 'orders', "SELECT version FROM outbox._floor WHERE target = '${name}_replica'::regclass",
		$node->safe_psql('users', "SELECT floor FROM outbox.copies WHERE publication = '$name'"), "$name: its end has come");
	return same_rows([ $node, 'users', "SELECT id, v FROM $name" ], [ $node, 'orders', "SELECT id, v FROM ${name}_replica" ],
		"$name: the replica is equal, rows deleted meanwhile included");
}

# ---- retention overtakes the reader
$node->safe_psql('orders', q(SELECT outbox.pause('applier')));
ok(wait_until(sub { !defined worker_pid($node, 'orders', 'applier') }, 'the applier to leave'), 'nobody reads');
my %next;
for my $name (sort keys %topic)
{
	$next{$name} = [ map { next_offset($name, $_) } 0, 1 ];
	$node->safe_psql('users', <<"END");
DELETE FROM $name WHERE id % 10 = 1;
UPDATE $name SET v = 'second' WHERE id % 10 = 2;
INSERT INTO $name SELECT g, 'second' FROM generate_series(201, 220) g;
END
	topic_wait($kafka, $topic{$name}, 260);
	for my $partition (0, 1)
	{
		my ($low, $high) = topic_watermarks($kafka, $topic{$name}, $partition);
		kafka_admin($kafka, 'truncate', $topic{$name}, $partition, $high - 1);
		$next{$name}[$partition] = [ $next{$name}[$partition], $high - 2, $high ];
	}
	$node->safe_psql('users', "INSERT INTO $name VALUES (301, 'third'), (302, 'third'), (303, 'third'), (304, 'third')");
	topic_wait($kafka, $topic{$name}, 6);
}
$node->safe_psql('orders', q(SELECT outbox.resume('applier')));
my ($from, $to) = @{ $next{stops}[0] };
my ($from1, $to1) = @{ $next{stops}[1] };
is_soon($node, 'orders', "SELECT state, stopped_sqlstate, stopped_reason ~ 'offsets ($from to $to of partition 0|$from1 to $to1 of partition 1) of topic \"$topic{stops}\" were removed before they were read'
	FROM outbox.subscriptions WHERE name = 'stops_replica'", 'stopped|22000|t', 'stop: with the range');
is($node->safe_psql('orders', q(SELECT count(*) FROM stops_replica WHERE id > 300)), '0', 'and nothing is passed over');
for my $partition (0, 1)
{
	($from, $to) = @{ $next{goes}[$partition] };
	my $lost = $to - $from + 1;

	is_soon($node, 'orders', "SELECT lost, last_loss FROM outbox.stat_subscriptions WHERE name = 'goes_replica' AND partition = $partition",
		"$lost|offsets $from to $to of partition $partition of topic \"$topic{goes}\" were removed before they were read",
		"continue: partition $partition is counted and told");
}
is_soon($node, 'orders', q(SELECT count(*) FROM goes_replica WHERE id > 300), '4', 'what is there is read');
like($node->safe_psql('orders', q(SELECT state, health, last_error FROM outbox.status WHERE kind = 'subscription' AND name = 'goes_replica')),
	qr/^running\|ok\|offsets \d+ to \d+ of partition \d of topic "$topic{goes}" were removed/, 'status tells it as well');
like(slurp_file($node->logfile), qr/subscription "goes_replica" has lost events\n.*DETAIL:  offsets \d+ to \d+ of partition \d/, 'so does the log');
cmp_ok($node->safe_psql('orders', q(SELECT count(*) FROM goes_replica WHERE id <= 200 AND id % 10 = 1)), '>', 0, 'rows that are gone are still in the replica');
is_healed('goes');
$node->safe_psql('orders', q(SELECT outbox.seek('stops_replica', 'earliest')));
is_healed('stops');
$node->safe_psql('orders', q(SELECT outbox.stat_reset()));
is($node->safe_psql('orders', q(SELECT sum(lost), count(last_loss) FROM outbox.stat_subscriptions)), '0|0', 'a reset forgets it');

# ---- a topic that is created again, with records that were not read; fewer
# partitions than before, shorter ones, longer ones
for my $case ([ 1, 3 ], [ 2, 3 ], [ 2, 300 ])
{
	my ($partitions, $n) = @$case;
	my $what = "created again with $partitions partitions, $n records";

	# the end is noted every 5 s: what is known of what was not read
	is_soon($node, 'orders', q(SELECT sum(lag) FROM outbox.stat_subscriptions), '0', "$what: all is read");
	$node->safe_psql('orders', q(SELECT outbox.pause('applier')));
	ok(wait_until(sub { !defined worker_pid($node, 'orders', 'applier') }, 'the applier to leave'), "$what: nobody reads");
	$node->safe_psql('orders', q(UPDATE outbox._offset SET high_watermark = next_offset + 5));
	$node->safe_psql('users', q(SELECT outbox.pause('relay')));
	ok(wait_until(sub { !defined worker_pid($node, 'users', 'relay') }, 'the relay to leave'), "$what: nobody writes");
	for my $name (sort keys %topic)
	{
		kafka_admin($kafka, 'delete', $topic{$name});
		wait_until(sub { eval { topic_create($kafka, $topic{$name}, $partitions); 1 } }, 'the topic to be free again');
		$node->safe_psql('users', <<"END");
DELETE FROM $name WHERE id % 10 = 3 AND id < @{[ 50 * ($n == 300 ? 3 : $partitions) ]};
INSERT INTO $name SELECT 1000 * $partitions + $n + g, 'anew' FROM generate_series(1, $n) g;
END
	}
	$node->safe_psql('users', q(SELECT outbox.resume('relay')));
	topic_wait($kafka, $topic{$_}, $n) for keys %topic;
	$node->safe_psql('orders', q(SELECT outbox.resume('applier')));
	ok( wait_for_sql($node, 'orders', "SELECT stopped_reason FROM outbox.subscriptions WHERE name = 'stops_replica' AND state = 'stopped'",
			qr/partition \d of topic "$topic{stops}" .*the topic (was|may have been) created again; not read before were offsets \d+ to \d+ of partition 0/),
		"$what: stop, with what was not read");
	is_soon($node, 'orders', "SELECT count(*) FROM goes_replica WHERE v = 'anew' AND id > 1000 * $partitions + $n", $n, "$what: continue begins it anew");
	is_soon($node, 'orders', q(SELECT last_loss ~ 'created again; not read before were offsets \d+ to \d+ of partition 0', lost FROM outbox.stat_subscriptions WHERE name = 'goes_replica' AND partition = 0),
		't|5', "$what: and tells and counts it");
	is_healed('goes');
	$node->safe_psql('orders', q(SELECT outbox.seek('stops_replica', 'earliest')));
	is_healed('stops');
	$node->safe_psql('orders', q(SELECT outbox.stat_reset()));
}

# ---- an offset that somebody named is no loss
is_soon($node, 'orders', q(SELECT sum(lag) FROM outbox.stat_subscriptions), '0', 'all is read');
$node->safe_psql('orders', q(SELECT outbox.seek('goes_replica', '100000', 0)));
is_soon($node, 'orders', q(SELECT state, stopped_reason ~ 'ends at offset \d+, before 100000 at which reading should begin' FROM outbox.subscriptions WHERE name = 'goes_replica'),
	'stopped|t', 'an offset beyond the end stops it all the same');

$node->stop('fast');
done_testing();
