# Copies of a data directory that go on from the same moment: a restore to a point
# in time, and two restores of one backup, both written to.  No version of one
# is a version of another with another content.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('original', streaming => 1, start => 0);
my %topic  = map { ($_ => unique_topic($_)) } qw(original past one two);
$node->enable_archiving;
$node->start;

outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE item (id int PRIMARY KEY, v text);
SELECT outbox.publish('item', topic => '$topic{original}', initial => 'none');
INSERT INTO item SELECT g, 'original' FROM generate_series(1, 100) g;
END
topic_wait($broker, $topic{original}, 100);
$node->backup('base');
$node->safe_psql('shop', q(UPDATE item SET v = 'kept'));
$node->safe_psql('shop', q(SELECT pg_create_restore_point('then')));
$node->safe_psql('shop', q(UPDATE item SET v = 'lost' WHERE id % 2 = 0));
is(scalar(topic_wait($broker, $topic{original}, 250)), 250, 'everything is published before the restore');
$node->safe_psql('shop', 'SELECT pg_switch_wal()');
$node->stop;

# Where each stands is told by its own topic; the copies are told to use one.
sub restore
{
	my ($name, %opt) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);

	$copy->init_from_backup($node, 'base', %opt);
	$copy->append_conf('postgresql.conf', "archive_mode = off\n");
	$copy->append_conf('postgresql.conf', "recovery_target_name = 'then'\nrecovery_target_action = promote\n") if %opt;
	$copy->start;
	wait_for_sql($copy, 'shop', 'SELECT pg_is_in_recovery()', 'f');
	ok(wait_for_worker($copy, 'shop', 'relay'), "$name: the relay starts by itself");
	$copy->safe_psql('shop', "SELECT outbox.publish('item', topic => '$topic{$name}', initial => 'none')");
	return $copy;
}

# As a topic has it: content by version.
sub contents
{
	my ($name) = @_;
	return map { ($_->{headers}{id} => "$_->{key} $_->{value}") } topic_read($broker, $topic{$name});
}

my $past = restore('past', has_restoring => 1, standby => 0);
is($past->safe_psql('shop', 'SELECT DISTINCT v FROM item'), 'kept', 'past: restored to the moment');
my ($one, $two) = map { restore($_) } qw(one two);
is($one->safe_psql('shop', 'SELECT DISTINCT v FROM item'), 'original', 'one: restored to the backup');

# By turns and at once.
for my $round (1 .. 3)
{
	for my $copy ($past, $one, $two)
	{
		$copy->safe_psql('shop', sprintf q(UPDATE item SET v = '%s %d'), $copy->name, $round);
	}
}
topic_wait($broker, $topic{$_}, 300) for qw(past one two);
my %original = contents('original');
my ($largest) = sort { $b <=> $a } keys %original;
my %seen = %original;
for my $name (qw(past one two))
{
	my %content = contents($name);

	is(scalar(keys %content), 300, "$name: has published its changes");
	is(scalar(grep { $_ <= $largest } keys %content), 0, "$name: its versions are above the original's");
	is(scalar(grep { exists $seen{$_} } keys %content), 0, "$name: and nobody else's");
	%seen = (%seen, %content);
}
is($_->safe_psql('shop', q(SELECT count(*) FROM outbox.status WHERE health NOT IN ('ok', 'stopped'))), '0', $_->name . ': is well')
  for $past, $one, $two;

# What the original published and the copy has not settled is sent again, as it was.
my %again = contents('original');
is(scalar(grep { ($original{$_} // '') ne $again{$_} } keys %again), 0, 'what was sent again is what was sent before');

done_testing();
