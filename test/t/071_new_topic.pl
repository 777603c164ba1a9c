# A topic that somebody is publishing to for the first time, in a transaction that
# he leaves open, does not hold up the others when its events have to be parked.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = outbox_kafka('--no-auto-create');
my ($new, $other) = (unique_topic('new'), unique_topic('other'));
topic_create($kafka, $other, 1);
my $node = outbox_node('main');
outbox_install($node, 'shop', $kafka, 'topic.metadata.propagation.max.ms' => 500);
$node->safe_psql('shop', <<"END");
CREATE TABLE users (id bigint PRIMARY KEY);
SELECT outbox.emit('$other', 'k', '1'::text);
END
topic_wait($kafka, $other, 1);

# The topic does not exist, so its events will be parked.
my ($in, $out) = ("BEGIN;\nSELECT outbox.publish('users', topic => '$new');\n", '');
my $session = IPC::Run::start([ 'psql', '-XqAt', $node->connstr('shop') ], '<', \$in, '>', \$out);
wait_until(sub { $session->pump_nb; return $out =~ /users/ }, 'the publication') or die;
$node->safe_psql('shop', <<"END");
SELECT outbox.emit('$new', 'k', 'a'::text);
SELECT outbox.emit('$other', 'k', '2'::text);
END
is_soon($node, 'shop', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay' AND datname = 'shop' AND wait_event_type = 'Lock'", '0', 'the relay waits for nobody');
ok(wait_until(sub { slurp_file($node->logfile) =~ /stopped delivery to topic "$new"/ }), 'the topic was stopped');
$node->safe_psql('shop', "SELECT outbox.emit('$new', 'k', 'b'::text), outbox.emit('$other', 'k', '3'::text)");
is(join(' ', map { $_->{value} } topic_wait($kafka, $other, 3, 20)), '1 2 3', 'the other topic goes on meanwhile');
is($node->safe_psql('shop', 'SELECT count(*) FROM outbox._parked'), '0', 'nothing can be parked yet');

$in .= "ROLLBACK;\n\\q\n";
$session->finish;
is_soon($node, 'shop', "SELECT parked_events, state FROM outbox.stat_topics WHERE topic = '$new'", '2|stopped', 'now it is');
is_soon($node, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'and nothing is left to be settled');
topic_create($kafka, $new, 1);
is(join(' ', map { $_->{value} } topic_wait($kafka, $new, 2)), 'a b', 'they arrive in order');

$node->stop;
done_testing();
