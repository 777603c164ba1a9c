# A topic that is missing, a server that is gone: their events wait, others' do
# not.  Needs a Kafka that makes no topics by itself.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_kafka('--no-auto-create');
my $node = outbox_node('users');
outbox_install($node, 'postgres', $broker);

sub values_of
{
	return join ' ', map { $_->{value} // 'NULL' } @_;
}

my $missing = unique_topic('missing');
my $fine = unique_topic('fine');
topic_create($broker, $fine, 1);

$node->safe_psql('postgres', "SELECT outbox.emit('$missing', 'k', g::text) FROM generate_series(1, 5) g");
is_soon($node, 'postgres', "SELECT state FROM outbox._stream WHERE topic = '$missing'",
	'stopped', 'a topic that is missing stops');
$node->safe_psql('postgres', "SELECT outbox.emit('$fine', 'k', 'fine')");
is(values_of(topic_wait($broker, $fine, 1)), 'fine', 'others go on');
$node->safe_psql('postgres', "SELECT outbox.emit('$missing', 'k', g::text) FROM generate_series(6, 10) g");
is_soon($node, 'postgres',
	"SELECT count(*) FROM outbox._parked", '10', 'its events are parked');
$node->restart;
topic_create($broker, $missing, 1);
is(values_of(topic_wait($broker, $missing, 10, 120)), join(' ', 1 .. 10),
	'what waited arrives in order when the topic is there');
is_soon($node, 'postgres', "SELECT state FROM outbox._stream WHERE topic = '$missing'",
	'live', 'and the topic is live again');
$node->safe_psql('postgres', "SELECT outbox.emit('$missing', 'k', '11')");
is(values_of(topic_wait($broker, $missing, 11)), join(' ', 1 .. 11), 'later events follow');

# The same for an event that every partition gets: how many there are is not known.
my $cut = unique_topic('cut');
$node->safe_psql('postgres', "CREATE TABLE cut (id int PRIMARY KEY); SELECT outbox.publish('cut', topic => '$cut', on_truncate => 'publish', initial => 'none')");
$node->safe_psql('postgres', 'TRUNCATE cut; INSERT INTO cut VALUES (1); TRUNCATE cut');
is_soon($node, 'postgres', "SELECT state, parked_events, reason ~ 'Unknown topic' FROM outbox.stat_topics WHERE topic = '$cut'", 'stopped|3|t',
	'a TRUNCATE stops a topic that is missing');
$node->safe_psql('postgres', "SELECT outbox.emit('$fine', 'k', 'still')");
is(values_of(topic_wait($broker, $fine, 2)), 'fine still', 'others go on');
topic_create($broker, $cut, 3);
is(join(' ', sort map { "$_->{headers}{op}$_->{headers}{partition}" } grep { $_->{headers}{op} eq 't' } topic_wait($broker, $cut, 7, 120)),
	't0/3 t0/3 t1/3 t1/3 t2/3 t2/3', 'and has its copies when the topic is there');

# A server that is dropped: its events wait for it.
my $gone = unique_topic('gone');
topic_create($broker, $gone, 1);
my $bootstrap = $broker->{bootstrap};
$node->safe_psql('postgres', <<"END");
SELECT outbox.pause('relay');
CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap');
BEGIN;
SELECT outbox.emit('$gone', 'k', 'waited', server => 'other');
DROP SERVER other;
COMMIT;
SELECT outbox.resume('relay');
END
is_soon($node, 'postgres', "SELECT state FROM outbox._stream WHERE topic = '$gone'",
	'stopped', 'events of a dropped server are parked');
my $status = q(SELECT state, health, waiting_for, last_error FROM outbox.status WHERE kind = 'server' AND name = 'other');
is_soon($node, 'postgres', $status, 'dropped|stopped|CREATE SERVER|the server does not exist', 'status says why');
is($node->safe_psql('postgres', 'SELECT server, problem FROM outbox.stat_servers ORDER BY 1'),
	"kafka|\nother|the server does not exist", 'and so does stat_servers');
$node->safe_psql('postgres',
	qq(CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap')));
is(values_of(topic_wait($broker, $gone, 1, 90)), 'waited', 'and sent when it is there again');
is_soon($node, 'postgres', $status, 'publishing|ok||', 'and status says nothing against it');
$node->safe_psql('postgres', 'DROP SERVER other');
is($node->safe_psql('postgres', $status), 'dropped|ok|CREATE SERVER|the server does not exist', 'one that is dropped with nothing to send does no harm');

$node->stop('fast');
done_testing();
