# The applier calls code of those who own replicas and handlers: checks of
# domains, triggers, defaults, functions.  None of it gets at the server's rights,
# and nothing that it SETs reaches others' code.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $topic  = unique_topic('rights');
my $orders = unique_topic('orders');
topic_create($broker, $topic, 1);
topic_create($broker, $orders, 1);
my $node = outbox_node('main');
outbox_install($node, 'postgres', $broker);

$node->safe_psql('postgres', <<"END");
CREATE ROLE alice;
CREATE ROLE bob;
GRANT USAGE ON FOREIGN SERVER kafka TO alice, bob;
GRANT EXECUTE ON FUNCTION outbox.replicate, outbox.handle TO alice, bob;
CREATE TABLE seen (who text, place text);
GRANT INSERT ON seen TO PUBLIC;
CREATE SCHEMA alice AUTHORIZATION alice;
CREATE SCHEMA bob AUTHORIZATION bob;

SET ROLE alice;
CREATE FUNCTION alice.note(place text) RETURNS bool LANGUAGE sql AS
'INSERT INTO public.seen VALUES (current_user, place) RETURNING true';
CREATE DOMAIN alice.id AS int CHECK (alice.note('check') AND value < 100);
CREATE FUNCTION alice.trigger() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
	PERFORM alice.note('trigger');
	RETURN new;
END \$\$;
CREATE TABLE alice.replica (id alice.id PRIMARY KEY, note text, noted bool DEFAULT alice.note('default'), version bigint NOT NULL);
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON alice.replica FOR EACH ROW EXECUTE FUNCTION alice.trigger();
SELECT outbox.replicate('alice.replica', topic => '$topic', columns => '{id,note}');
END

topic_write($broker, $topic, {key => '1', value => '{"id": 1, "note": "a", "version": 1}'});
topic_write($broker, $topic, {key => '500', value => '{"id": 500, "note": "a", "version": 1}'});
topic_write($broker, $topic, {key => '2', value => '{"id": 2, "version": 1}'});
topic_write($broker, $topic, {key => '3', value => '{"id": 3, "note": "b", "version": 1}'});
is_soon($node, 'postgres', 'SELECT string_agg(id::text, \' \' ORDER BY id) FROM alice.replica', '1 3', 'good events are applied');
is($node->safe_psql('postgres', 'SELECT count(*) FROM outbox.dead_letters'), '2', 'two are wrong');
is($node->safe_psql('postgres', q(SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM seen)), 'check default trigger',
	'code of the owner has run');
is($node->safe_psql('postgres', q(SELECT string_agg(DISTINCT who, ' ') FROM seen)), 'alice', 'as the owner alone');

# Settings end with the call.
$node->safe_psql('postgres', <<"END");
SET ROLE alice;
CREATE FUNCTION alice.handler(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
	PERFORM set_config('search_path', 'alice, pg_catalog', false), set_config('work_mem', '1234kB', false);
	PERFORM public.note_setting();
END \$\$;
RESET ROLE;
CREATE FUNCTION public.note_setting() RETURNS void LANGUAGE sql AS
\$\$INSERT INTO public.seen VALUES (current_user, current_setting('search_path') || ' ' || current_setting('work_mem'))\$\$;
SET ROLE alice;
SELECT outbox.handle('alice.handler(outbox.event)', topic => '$orders', name => 'a');
END
topic_write($broker, $orders, {key => '1', value => '1'});
is_soon($node, 'postgres', q(SELECT count(*) FROM seen WHERE place LIKE '% 1234kB'), '1', 'a handler changes settings');
$node->safe_psql('postgres', <<"END");
SET ROLE bob;
CREATE FUNCTION bob.handler(e outbox.event) RETURNS void LANGUAGE sql AS 'SELECT public.note_setting()';
SELECT outbox.handle('bob.handler(outbox.event)', topic => '$orders', name => 'b');
END
is_soon($node, 'postgres', q(SELECT count(*) FROM seen WHERE who = 'bob'), '1', 'another one comes next');
is($node->safe_psql('postgres', q(SELECT place FROM seen WHERE who = 'bob')), 'pg_catalog, pg_temp 4MB', 'and sees nothing of it');

# Nor do locks stay, whether it succeeds or fails.
$node->safe_psql('postgres', <<"END");
SET ROLE alice;
CREATE OR REPLACE FUNCTION alice.handler(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
	PERFORM pg_advisory_lock(e.value::int), pg_advisory_lock_shared(e.value::int);
	IF e.value = '3' THEN
		RAISE EXCEPTION 'no';
	END IF;
END \$\$;
END
topic_write($broker, $orders, map { {key => $_, value => $_} } 2 .. 4);
is_soon($node, 'postgres', q(SELECT sum(applied) || ' ' || sum(dead) FROM outbox.stat_subscriptions WHERE name = 'a'), '3 1', 'a handler takes locks of the session');
is_soon($node, 'postgres', q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), '0', 'which end with its transaction', 20);

# What lasts longer than a transaction is refused.
my %lasting = (
	'create temp table t ()' => 'temporary table', 'listen x' => 'LISTEN', 'prepare p as select 1' => 'PREPARE',
	'declare c cursor with hold for select 1' => 'cursor');
for my $command (sort keys %lasting)
{
	$node->safe_psql('postgres', <<"END");
SET ROLE alice;
CREATE OR REPLACE FUNCTION alice.handler(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
	EXECUTE '$command';
END \$\$;
END
	topic_write($broker, $orders, {key => $command, value => '1'});
	is_soon($node, 'postgres', qq(SELECT sqlstate || ' ' || message FROM outbox.dead_letters WHERE name = 'a' AND convert_from(key, 'UTF8') = '$command'),
		qr/^42501 .*\Q$lasting{$command}\E.* security-restricted operation|^\S+ .*cursor/, "$command: refused");
}

# Who forgets the search path is told.
my %said = (
	'LANGUAGE sql AS $$SELECT 1$$' => 1,
	'LANGUAGE sql SET search_path = public AS $$SELECT 1$$' => 0,
	'LANGUAGE sql RETURN 1' => 0);
for my $body (sort keys %said)
{
	my ($rc, $out, $err) = $node->psql('postgres', "CREATE OR REPLACE FUNCTION h(e outbox.event) RETURNS int $body;"
		  . " SELECT outbox.handle('h(outbox.event)', topic => '$orders')");
	is($err =~ /handler public\.h has no search_path of its own/ ? 1 : 0, $said{$body}, "notice for $body");
	$node->safe_psql('postgres', "SELECT outbox.unsubscribe('h'); DROP FUNCTION h");
}

done_testing();
