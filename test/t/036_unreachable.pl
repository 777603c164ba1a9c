# A broker that does not answer shows in status, as long as that lasts.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $topic  = unique_topic('users');
topic_create($broker, $topic, 1);
my $node = outbox_node('main');
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE users (id bigint PRIMARY KEY, name text);
CREATE TABLE replica (id bigint PRIMARY KEY, name text, version bigint NOT NULL);
SELECT outbox.publish('users', topic => '$topic');
SELECT outbox.replicate('replica', topic => '$topic');
INSERT INTO users VALUES (1, 'a');
END

my $status = q(SELECT kind, state, health, waiting_for, last_error IS NOT NULL AS error, last_error_at IS NOT NULL AS since
	FROM outbox.status WHERE (kind, name) IN (('server', 'kafka'), ('subscription', 'replica')) ORDER BY kind);
my $well = "server|publishing|ok||f|f\nsubscription|running|ok||f|f";
my $ill  = join "\n", map { "$_|unreachable|unreachable|a broker that answers|t|t" } qw(server subscription);

is_soon($node, 'shop', 'SELECT name FROM replica', 'a', 'what is published arrives');
is_soon($node, 'shop', $status, $well, 'all is well');

for my $outage (1, 2)
{
	mock_control($broker, 'down', 'all');
	is_soon($node, 'shop', $status, $ill, "outage $outage: the rows of server and subscription say so");
	my $since = $node->safe_psql('shop', "SELECT last_error_at FROM outbox.status WHERE kind = 'server' AND name = 'kafka'");
	is_soon($node, 'shop', q(SELECT last_error FROM outbox.status WHERE kind = 'server' AND name = 'kafka'),
		qr/Connect.*(refused|failed)|Connection refused|[Dd]isconnected/, 'what the client says of it');
	is( $node->safe_psql('shop', "SELECT last_error_at FROM outbox.status WHERE kind = 'server' AND name = 'kafka'"),
		$since, 'it began when it began');
	is_soon($node, 'shop', q(SELECT count(*) FROM outbox.status WHERE kind = 'worker' AND state = 'waiting' AND waiting_for ~ '^server "kafka": '),
		'2', 'so do the workers');
	is($node->safe_psql('shop', 'SELECT outbox.wait_until_running()'), 't', 'they run all the same');
	$node->safe_psql('shop', "INSERT INTO users VALUES ($outage + 1, 'b')");

	mock_control($broker, 'up', 'all');
	is_soon($node, 'shop', $status, $well, 'the broker is back');
	is_soon($node, 'shop', 'SELECT count(*) FROM replica', $outage + 1, 'and what happened meanwhile arrives');
}

# A server that nothing is wanted of any more is no trouble.
mock_control($broker, 'down', 'all');
is_soon($node, 'shop', $status, $ill, 'down again');
$node->safe_psql('shop', q(CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1');
	CREATE TABLE other (id bigint PRIMARY KEY, version bigint NOT NULL);
	SELECT outbox.replicate('other', topic => 'x', server => 'other')));
is_soon($node, 'shop', q(SELECT server FROM outbox._waiting_servers() WHERE worker = 'applier' ORDER BY 1), "kafka\nother", 'two servers that do not answer the applier');
$node->safe_psql('shop', q(SELECT outbox.unsubscribe('other'); DROP SERVER other));
is_soon($node, 'shop', q(SELECT worker, server FROM outbox._waiting_servers() ORDER BY 1), "applier|kafka\nrelay|kafka", 'one is not wanted any more');

# Without a worker nobody knows.
$node->safe_psql('shop', 'SELECT outbox.pause()');
is_soon($node, 'shop', $status, "server|paused|paused|the relay|f|f\nsubscription|paused|paused|the applier|f|f", 'paused workers');
$node->safe_psql('shop', 'SELECT outbox.resume()');
is_soon($node, 'shop', $status, $ill, 'and again');

$node->stop;
done_testing();
