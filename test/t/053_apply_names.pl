# Names of subscriptions are public: nobody gets at events of others by using one.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders');

outbox_install($node, 'shop', $broker);
my $topic = unique_topic('orders');
topic_create($broker, $topic, 1);
$node->safe_psql('shop', <<'END');
CREATE ROLE app;
GRANT USAGE ON SCHEMA outbox TO app;
GRANT EXECUTE ON FUNCTION outbox.first_time(text, text, text) TO app;
CREATE TABLE handled (id text);
CREATE FUNCTION handler(e outbox.event) RETURNS void LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
	INSERT INTO handled VALUES (e.id);
END $$;
END

# ---------------------------------------------------------------------------
# The inbox
# ---------------------------------------------------------------------------

is($node->safe_psql('shop', qq(SET ROLE app; SELECT outbox.first_time('handler', '$topic', '1'), outbox.first_time('handler', '$topic', '1'))),
	't|f', 'an application has seen the event');
$node->safe_psql('shop', "SELECT outbox.handle('handler(outbox.event)', topic => '$topic')");
topic_write($broker, $topic, map { { key => 'k', value => 'v', headers => { id => $_ } } } 1, 2, 2);
is_soon($node, 'shop', 'SELECT received, applied, duplicate FROM outbox.stat_subscriptions', '3|2|1', 'the handler of the same name has not');
is($node->safe_psql('shop', q(SELECT string_agg(id, ',' ORDER BY id) FROM handled)), '1,2', 'and gets it once');
is($node->safe_psql('shop', qq(SET ROLE app; SELECT outbox.first_time('handler', '$topic', '2'))), 't', 'nor is it the other way round');

# One that is made anew under the name has seen nothing; one that is called for again has.
$node->safe_psql('shop', "TRUNCATE handled; SELECT outbox.handle('handler(outbox.event)', topic => '$topic')");
topic_write($broker, $topic, { key => 'k', value => 'v', headers => { id => 2 } });
is_soon($node, 'shop', 'SELECT received, duplicate FROM outbox.stat_subscriptions', '4|2', 'a subscription that is called for again goes on');
$node->safe_psql('shop', "SELECT outbox.unsubscribe('handler'); SELECT outbox.handle('handler(outbox.event)', topic => '$topic')");
is_soon($node, 'shop', 'SELECT received, applied, duplicate FROM outbox.stat_subscriptions', '4|2|2', 'one made anew begins anew');
is($node->safe_psql('shop', q(SELECT string_agg(id, ',' ORDER BY id) FROM handled)), '1,2', 'and its handler gets all once');

# ---------------------------------------------------------------------------
# Dead letters of a subscription that has ended
# ---------------------------------------------------------------------------

my $secret = unique_topic('secret');
my $empty = unique_topic('empty');
topic_create($broker, $_, 1) for $secret, $empty;
$node->safe_psql('shop', <<"END");
CREATE ROLE ua;
CREATE ROLE ub;
GRANT USAGE ON SCHEMA outbox TO ua, ub;
GRANT ALL ON ALL FUNCTIONS IN SCHEMA outbox TO ua, ub;
GRANT USAGE ON FOREIGN SERVER kafka TO ua, ub;
CREATE TABLE theirs (id int PRIMARY KEY, name text, version bigint NOT NULL);
CREATE TABLE mine (LIKE theirs INCLUDING ALL);
ALTER TABLE theirs OWNER TO ua;
ALTER TABLE mine OWNER TO ub;
ALTER TABLE theirs ADD CHECK (name <> 'secret');
SET ROLE ua;
SELECT outbox.replicate('theirs', topic => '$secret', name => 'sub');
END
topic_write($broker, $secret, { value => '{"id": 1, "name": "secret", "version": 1}' });
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'sub' AND state = 'dead'), '1', 'a dead letter');
my $letter = $node->safe_psql('shop', q(SELECT id FROM outbox.dead_letters WHERE name = 'sub'));
$node->safe_psql('shop', q(SELECT outbox.pause('applier')));
$node->safe_psql('shop', "SET ROLE ua; SELECT outbox.redrive($letter); SELECT outbox.unsubscribe('sub')");
is($node->safe_psql('shop', "SELECT state FROM outbox.dead_letters WHERE id = $letter"), 'dead', 'that is to be tried again is not when its subscription ends');

sub denied
{
	my ($sql, $pattern, $name) = @_;
	my ($rc, $out, $err) = $node->psql('shop', $sql);

	like($err, $pattern, $name);
	return;
}

$node->safe_psql('shop', qq(SET ROLE ub; SELECT outbox.replicate('mine', topic => '$empty', name => 'sub')));
is($node->safe_psql('shop', q(SET ROLE ub; SELECT outbox.redrive_all('sub'))), '0', 'who takes the name has none');
denied("SET ROLE ub; SELECT outbox.$_", qr/permission denied for dead letters of subscriptions that have ended/, "and no right to $_")
  for "redrive($letter)", "edit($letter, '{}')", "discard($letter, 'x')";
denied("SELECT outbox.redrive($letter)", qr/the subscription of dead letter $letter has ended/, 'nobody can redrive it');
$node->safe_psql('shop', q(SELECT outbox.resume('applier')));
wait_for_worker($node, 'shop', 'applier');
$node->safe_psql('shop', q(SELECT outbox.unsubscribe('sub')));

$node->safe_psql('shop', qq(ALTER TABLE theirs DROP CONSTRAINT theirs_name_check; SET ROLE ua;
	SELECT outbox.replicate('theirs', topic => '$secret', name => 'sub', start => 'latest'), outbox.redrive_all('sub')));
is_soon($node, 'shop', 'SELECT name FROM theirs', 'secret', 'the same table under the same name gets it back');
is($node->safe_psql('shop', 'SELECT count(*) FROM mine'), '0', 'the other table got nothing');

done_testing();
