# Somebody holds a lock that one subscription needs, and goes to lunch: the other
# subscriptions go on, and status says what the one waits for.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders');
my %topic  = map { $_ => unique_topic($_) } 'ra', 'rb';

outbox_install($node, 'shop', $broker);
topic_create($broker, $_, 1) for values %topic;
$node->safe_psql('shop', <<"END");
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE ra (id int PRIMARY KEY, parent int REFERENCES parent, version bigint NOT NULL);
CREATE TABLE rb (id int PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.replicate('ra', topic => '$topic{ra}'), outbox.replicate('rb', topic => '$topic{rb}');
END

my $id = 0;

# An event for each; "rb" gets its own while "ra" waits.
sub events
{
	my ($parent) = @_;

	$id++;
	topic_write($broker, $topic{ra}, { value => qq({"id": $id, "parent": $parent, "version": $id}) });
	topic_write($broker, $topic{rb}, { value => qq({"id": $id, "version": $id}) });
	return;
}

my $rows    = 'SELECT count(*) FROM';
my $waiting = q(SELECT waiting_for FROM outbox.subscriptions WHERE name = 'ra');
my $session = $node->background_psql('shop', on_error_stop => 0);

events('null');
is_soon($node, 'shop', "$rows ra", '1', 'both are at work');

for my $case (
	[ 'seek'                => q(SELECT outbox.seek('ra', 'earliest')) ],
	[ 'pause_subscription'  => q(SELECT outbox.pause_subscription('ra'); SELECT FROM outbox._offset WHERE subscription = 'ra' FOR UPDATE) ],
	[ 'a lock on the table' => 'LOCK TABLE ra' ],
	[ 'a lock on the row'   => 'INSERT INTO ra VALUES (%d, null, 0)' ])
{
	my ($name, $sql) = @$case;

	$session->query_safe('BEGIN; ' . $sql =~ s{%d}{$id + 1}er);
	events('null');
	is_soon($node, 'shop', "$rows rb", $id, "$name: the other subscription goes on");
	is_soon($node, 'shop', $waiting, 'canceling statement due to lock timeout', 'what it waits for is shown');
	events('null');
	is_soon($node, 'shop', "$rows rb", $id, 'the other goes on still');
	is($node->safe_psql('shop', q(SELECT string_agg(DISTINCT health, ',') FROM outbox.status WHERE kind = 'subscription' AND name = 'ra')),
		'waiting', 'in status as well');
	$session->query_safe('ROLLBACK');
	is_soon($node, 'shop', "$rows ra", $id, 'it goes on after the end of the transaction');
	is_soon($node, 'shop', $waiting, '', 'and waits for nothing');
}

# A letter that is due while somebody edits it.
events(7);
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE state = 'parked'), '1', 'an event that waits for another');
$session->query_safe(q(BEGIN; SELECT outbox.edit(id, '{"id": 0, "parent": null, "version": 1}') FROM outbox.dead_letters));
$node->safe_psql('shop', 'INSERT INTO parent VALUES (7)');
events('null');
is_soon($node, 'shop', "$rows rb", $id, 'edit: the other subscription goes on');
is_soon($node, 'shop', "$rows ra", $id - 1, 'and so does its own');
$session->query_safe('ROLLBACK');
is_soon($node, 'shop', "$rows ra", $id, 'the letter goes through afterwards');

# What retention needs.
my $pid = worker_pid($node, 'shop', 'applier');
$session->query_safe('BEGIN; LOCK TABLE outbox._inbox');
$node->safe_psql('shop', q(SELECT outbox.pause('applier')));
wait_until(sub { !worker_pid($node, 'shop', 'applier') }, 'the end of the applier');
$node->safe_psql('shop', q(SELECT outbox.resume('applier')));
$pid = wait_for_worker($node, 'shop', 'applier');
wait_until(sub { log_tail($node, 50) =~ /what has expired could not be forgotten/ }, 'the end of its patience');
events('null');
is_soon($node, 'shop', "$rows ra", $id, 'retention that has to wait');
is(worker_pid($node, 'shop', 'applier'), $pid, 'does not end the worker');
$session->query_safe('ROLLBACK');
$session->quit;

done_testing();
