# Exactly once to Kafka, of events that every partition gets: all copies are in one
# transaction, or none is committed.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my $topic = unique_topic('copies');
my $width = 12;
topic_create($kafka, $topic, $width);
my $node = outbox_node('main');
outbox_install($node, 'shop', $kafka, exactly_once => 'true');
$node->safe_psql('shop', <<"END");
CREATE TABLE t (id int PRIMARY KEY);
SELECT outbox.publish('t', topic => '$topic', on_truncate => 'publish', initial => 'none');
INSERT INTO t VALUES (1);
END

my $topics = "SELECT state, parked_events FROM outbox.stat_topics WHERE topic = '$topic'";
my $records = 1;

# How many partitions have how many copies of the newest TRUNCATE, once all records
# that are to be there are.
sub copies
{
	my (%of, %with);

	$records += $width;
	my @all = grep { ($_->{headers}{op} // '') eq 't' } topic_wait($kafka, $topic, $records);
	my $newest = $node->safe_psql('shop', q(SELECT max(id) FROM outbox.events WHERE op = 't'));
	$of{ $_->{partition} }++ for grep { $_->{headers}{id} eq $newest } @all;
	$with{$_}++ for values %of;
	return join ', ', map { "$with{$_} have $_" } sort keys %with;
}

# How often a copy was not sent, as the relay was told.
sub hits
{
	return scalar(() = slurp_file($node->logfile) =~ /fault point "relay.copy_\w+" is hit/g);
}

# Have the topic paused while some copies are sent and some are not, and go on.
sub pause_amid
{
	my ($what, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $hits = hits();

	fault($node, 'relay.copy_waits=refuse');
	$node->safe_psql('shop', $sql);
	ok(wait_until(sub { hits() > $hits }, 'a copy that waits'), "$what: the relay waits amid the copies");
	$node->safe_psql('shop', "SELECT outbox.pause_topic('$topic')");
	is_soon($node, 'shop', $topics, 'paused|1', "$what: the topic is paused");
	no_faults($node);
	$node->safe_psql('shop', "SELECT outbox.resume_topic('$topic')");
	is_soon($node, 'shop', $topics, 'live|0', "$what: and goes on");
	return is(copies(), "$width have 1", "$what: each partition has one copy");
}

topic_wait($kafka, $topic, 1);
$node->safe_psql('shop', 'TRUNCATE t');
is(copies(), "$width have 1", 'a copy for each partition');

pause_amid('paused', 'TRUNCATE t');

$node->safe_psql('shop', "SELECT outbox.pause_topic('$topic')");
is_soon($node, 'shop', $topics, 'paused|0', 'paused before');
$node->safe_psql('shop', 'TRUNCATE t');
is_soon($node, 'shop', $topics, 'paused|1', 'an event is parked');
pause_amid('paused once more', "SELECT outbox.resume_topic('$topic')");

# A copy is refused when others are sent already, of an event on its way and of one
# that is parked.
fault($node, 'relay.copy_refused=once-refuse');
$node->safe_psql('shop', 'TRUNCATE t');
is(copies(), "$width have 1", 'a copy is refused: each partition has one in the end');
is_soon($node, 'shop', $topics, 'live|0', 'the topic goes on');
no_faults($node);
my $pid = kill_worker($node, 'shop', 'relay', 'TERM');
ok(wait_for_worker($node, 'shop', 'relay', $pid), 'a relay that may be refused once more');
$node->safe_psql('shop', "SELECT outbox.pause_topic('$topic')");
is_soon($node, 'shop', $topics, 'paused|0', 'paused before');
$node->safe_psql('shop', 'TRUNCATE t');
is_soon($node, 'shop', $topics, 'paused|1', 'an event is parked');
fault($node, 'relay.copy_refused=once-refuse');
$node->safe_psql('shop', "SELECT outbox.resume_topic('$topic')");
is(copies(), "$width have 1", 'a copy of it is refused: each partition has one in the end');
is_soon($node, 'shop', $topics, 'live|0', 'the topic goes on');
is($node->safe_psql('shop', 'SELECT count(*) FROM outbox.dead_letters'), '0', 'nothing is set aside');
is(scalar(() = topic_read($kafka, $topic)), $records, 'and nothing else is there');

$node->stop('fast');
done_testing();
