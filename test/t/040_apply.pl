# From Kafka into a replica and a handler: repeated, late, early and broken
# events, dead letters, and a crash between applying and committing.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders', conf => 'pg_outbox.stop_after_failures = 0');
my ($users, $commands) = (unique_topic('users'), unique_topic('commands'));

topic_create($broker, $_, 2) for $users, $commands;
outbox_install($node, 'shop', $broker);
my $pid = $node->safe_psql('shop', <<"END");
CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, age int CHECK (age > 0), version bigint NOT NULL);
SELECT outbox.replicate('users', topic => '$users');
END
is($pid, 'users', 'a subscription is named after its table');

sub rows
{
	return "SELECT string_agg(id || ':' || name || ':' || version, ' ' ORDER BY id) FROM users";
}

sub user
{
	my ($id, $name, $version, $op) = @_;
	return {
		key       => $id,
		value     => defined $name ? qq({"id": $id, "name": "$name", "age": 1, "more": [1]}) : undef,
		headers   => { id => $version, op => $op // 'u' },
		partition => $id % 2 };
}

# ---------------------------------------------------------------------------
# Repeated, late, early (scenarios 15 to 17)
# ---------------------------------------------------------------------------

topic_write($broker, $users,
	user(1, 'one', 1, 'c'), user(1, 'one', 1, 'c'),    # twice
	user(2, 'late', 7), user(2, 'early', 6),           # out of order
	user(3, 'never created', 5),
	user(4, 'four', 1, 'c'), user(4, undef, 8, 'd'), user(4, 'late', 7),
	user(5, 'five', 1, 'c'), user(5, undef, 8, 'd'), user(5, 'back', 9, 'c'));
is_soon($node, 'shop', rows(), '1:one:1 2:late:7 3:never created:5 5:back:9', 'each key is at its newest version');
is_soon($node, 'shop', 'SELECT sum(received), sum(lag) FROM outbox.stat_subscriptions', '11|0', 'all was received');
topic_write($broker, $users, user(1, 'one', 1, 'c'), user(4, 'late', 7), user(3, 'three', 6));
is_soon($node, 'shop', rows(), '1:one:1 2:late:7 3:three:6 5:back:9', 'later repetitions change nothing');
is($node->safe_psql('shop', 'SELECT sum(received) = sum(applied + deleted + stale + duplicate) FROM outbox.stat_subscriptions'),
	't', 'the counters add up');

# ---------------------------------------------------------------------------
# Payloads that can never be applied (scenario 18)
# ---------------------------------------------------------------------------

my %bad = (
	'no json at all'                                                => '22032',
	'[1]'                                                           => '2203C',
	'{"name": "keyless", "age": 1}'                                 => '22004',
	'{"id": 99999999999999999999, "name": "x", "age": 1}'           => '22003',
	'{"id": 10, "name": "a\u0000b", "age": 1}'                      => '22P05',
	"{\"id\": 10, \"name\": \"\xff\xfe\", \"age\": 1}"              => '22021',
	'{"id": 10, "name": "x", "age": 1, "deep": ' . ('[' x 100_000)  => '22032',
	'{"id": 10, "name": null, "age": 1}'                            => '23502',
	'{"id": 10, "name": "x", "age": 0}'                             => '23514',
	'{"id": 10, "name": "no age"}'                                  => '42703');
topic_write($broker, $users,
	(map { { value => $_, headers => { id => 20 }, partition => 0 } } sort keys %bad),
	user(6, 'behind them', 1));
is_soon($node, 'shop', 'SELECT name FROM users WHERE id = 6', 'behind them', 'the event behind broken ones is applied');
is($node->safe_psql('shop', q(SELECT string_agg(sqlstate, ' ' ORDER BY sqlstate) FROM outbox.dead_letters WHERE state = 'dead')),
	join(' ', sort values %bad), 'each broken event is a dead letter with its reason');
is($node->safe_psql('shop', q(SELECT encode(value, 'hex') FROM outbox.dead_letters WHERE sqlstate = '22021')),
	unpack('H*', "{\"id\": 10, \"name\": \"\xff\xfe\", \"age\": 1}"), 'with the bytes as they came');
is($node->safe_psql('shop', q(SELECT headers, direction, topic, partition, attempts FROM outbox.dead_letters WHERE sqlstate = '23514')),
	qq([["id", "20"]]|in|$users|0|1), 'and what else is known of it');

# Mended, driven again, given up.
my $letter = $node->safe_psql('shop', q(SELECT id FROM outbox.dead_letters WHERE sqlstate = '23514'));
$node->safe_psql('shop', <<"END");
SELECT outbox.redrive($letter);
END
is_soon($node, 'shop', "SELECT state, attempts FROM outbox.dead_letters WHERE id = $letter", 'dead|2', 'driven again in vain');
$node->safe_psql('shop', <<"END");
SELECT outbox.edit($letter, '{"id": 10, "name": "mended", "age": 1}');
SELECT outbox.redrive($letter);
SELECT outbox.discard(id, 'not ours') FROM outbox.dead_letters WHERE sqlstate = '2203C';
END
is_soon($node, 'shop', 'SELECT name, version FROM users WHERE id = 10', 'mended|20', 'mended and driven again it is applied');
is_soon($node, 'shop', q(SELECT string_agg(state || coalesce(' ' || reason, ''), ' ' ORDER BY state) FROM outbox.dead_letters WHERE state <> 'dead'),
	'discarded not ours done', 'what became of the letters');
my ($rc, $out, $err) = $node->psql('shop', "SELECT outbox.redrive($letter)");
like($err, qr/is settled already/, 'a settled letter is not driven again');

# ---------------------------------------------------------------------------
# Handlers: in order by key, in one transaction with the inbox
# ---------------------------------------------------------------------------

$node->safe_psql('shop', <<"END");
CREATE TABLE handled (n serial, key text, value text, id text, type text, topic text);
CREATE FUNCTION handle_command(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.handled (key, value, id, type, topic) VALUES (e.key, e.value, e.id, e.type, e.topic);
	IF e.value = 'bad' THEN
		RAISE EXCEPTION 'cannot handle this';
	END IF;
END \$\$;
SELECT outbox.handle('handle_command(outbox.event)', topic => '$commands', name => 'commands');
END
sub command
{
	my ($key, $value, $id) = @_;
	return { key => $key, value => $value, headers => { id => $id, type => 'Order' }, partition => 0 };
}
topic_write($broker, $commands, command('a', 'first', 'e1'), command('a', 'first', 'e1'),
	command('b', 'bad', 'e2'), command('b', 'second', 'e3'), command('a', 'third', 'e4'));
is_soon($node, 'shop', q(SELECT string_agg(key || ' ' || value, ', ' ORDER BY n) FROM handled), 'a first, a third',
	'a handler sees each event once; those behind a failed one of their key wait');
is_soon($node, 'shop', q(SELECT string_agg(state || ' ' || encode(value, 'escape'), ', ' ORDER BY id) FROM outbox.dead_letters WHERE name = 'commands'),
	'dead bad, parked second', 'both are set aside');
is($node->safe_psql('shop', q(SELECT DISTINCT id, type, topic FROM handled WHERE value = 'third')), "e4|Order|$commands", 'the handler sees headers and topic');
$node->safe_psql('shop', q(SELECT outbox.edit(id, 'good'), outbox.redrive(id) FROM outbox.dead_letters WHERE name = 'commands' AND state = 'dead'));
is_soon($node, 'shop', q(SELECT string_agg(key || ' ' || value, ', ' ORDER BY n) FROM handled WHERE key = 'b'), 'b good, b second',
	'mended and driven again, in order');
topic_write($broker, $commands, command('b', 'fourth', 'e5'));
is_soon($node, 'shop', q(SELECT count(*) FROM handled WHERE value = 'fourth'), '1', 'and the key is free again');

# ---------------------------------------------------------------------------
# A crash between applying and committing (scenario 19)
# ---------------------------------------------------------------------------

fault($node, 'apply-before-commit=once-kill');
my $worker = wait_for_worker($node, 'shop', 'applier');
$node->psql('postgres', 'SELECT pg_reload_conf()');
topic_write($broker, $commands, command('c', 'crash', 'e6'), command('c', 'after', 'e7'));
ok(wait_until(sub { !kill 0, $worker }, 'the worker to die'), 'the worker died before its commit');
wait_for_worker($node, 'shop', 'applier', $worker);
wait_for_sql($node, 'shop', 'SELECT true');
no_faults($node);
is_soon($node, 'shop', q(SELECT string_agg(value, ', ' ORDER BY n) FROM handled WHERE key = 'c'), 'crash, after', 'applied once after all');

# ---------------------------------------------------------------------------
# Rights
# ---------------------------------------------------------------------------

$node->safe_psql('shop', <<'END');
CREATE ROLE joe LOGIN;
CREATE TABLE joes (id int PRIMARY KEY, version bigint NOT NULL);
ALTER TABLE joes OWNER TO joe;
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.who := current_user; RETURN new; END $$;
ALTER TABLE joes ADD who text;
CREATE TRIGGER spy BEFORE INSERT ON joes FOR EACH ROW EXECUTE FUNCTION spy();
END
($rc, $out, $err) = $node->psql('shop', "SET ROLE joe; SELECT outbox.replicate('joes', topic => 't')");
like($err, qr/permission denied for function replicate/, 'not everybody may subscribe');
$node->safe_psql('shop', <<'END');
GRANT EXECUTE ON FUNCTION outbox.replicate, outbox.unsubscribe, outbox.seek TO joe;
END
($rc, $out, $err) = $node->psql('shop', "SET ROLE joe; SELECT outbox.replicate('joes', topic => 't')");
like($err, qr/permission denied for foreign server kafka/, 'nor use the server');
$node->safe_psql('shop', 'GRANT USAGE ON FOREIGN SERVER kafka TO joe');
($rc, $out, $err) = $node->psql('shop', "SET ROLE joe; SELECT outbox.replicate('users', topic => 't')");
like($err, qr/must be owner of table users/, 'nor write to the tables of others');
($rc, $out, $err) = $node->psql('shop', "SET ROLE joe; SELECT outbox.unsubscribe('users')");
like($err, qr/must be owner of the target of subscription "users"/, 'nor end their subscriptions');
my $joes = unique_topic('joes');
topic_create($broker, $joes, 1);
$node->safe_psql('shop', "SET ROLE joe; SELECT outbox.replicate('joes', topic => '$joes', columns => ARRAY['id'])");
topic_write($broker, $joes, { value => '{"id": 1}', headers => { id => 1 } });
is_soon($node, 'shop', 'SELECT who FROM joes', 'joe', 'events are applied as the owner of the table');
$node->safe_psql('shop', "SET ROLE joe; SELECT outbox.unsubscribe('joes')");
is($node->safe_psql('shop', "SELECT count(*) FROM outbox.stat_subscriptions WHERE name = 'joes'"), '0', 'nothing is left of an ended subscription');

# ---------------------------------------------------------------------------
# Starting elsewhere
# ---------------------------------------------------------------------------

$node->safe_psql('shop', <<"END");
CREATE TABLE again (LIKE users INCLUDING ALL);
SELECT outbox.replicate('again', topic => '$users', start => 'latest');
END
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.stat_subscriptions WHERE name = 'again' AND next_offset = high_watermark), '2', 'latest begins at the end');
is($node->safe_psql('shop', 'SELECT count(*) FROM again'), '0', 'and has nothing of what was there');
$node->safe_psql('shop', q(SELECT outbox.seek('again', 'earliest')));
is_soon($node, 'shop', q(SELECT count(*) FROM again WHERE id < 10), '5', 'seek brings it');

# A time.  The session's and the worker's DateStyle are not the form in which it is kept.
my $applier = q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier');
$pid = $node->safe_psql('shop', $applier);
$node->safe_psql('shop', <<"END");
SET DateStyle = 'SQL, DMY';
SET TimeZone = 'Asia/Kolkata';
CREATE TABLE later (LIKE users INCLUDING ALL);
SELECT outbox.replicate('later', topic => '$users', start => '31/12/2100 12:00');
CREATE TABLE latest (LIKE users INCLUDING ALL);
SELECT outbox.replicate('latest', topic => '$users', start => '31/12/294276 12:00');
END
is($node->safe_psql('shop', q(SELECT start FROM outbox.subscriptions WHERE name = 'later')), '2100-12-31 06:30:00+00', 'a time is kept in UTC');
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.stat_subscriptions WHERE name = 'later' AND next_offset = high_watermark), '2', 'a time to come begins at the end');
is($node->safe_psql('shop', 'SELECT count(*) FROM later'), '0', 'and has nothing of what was there');
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.stat_subscriptions WHERE name = 'latest' AND next_offset = high_watermark), '2', 'so does the last time there is');
is($node->safe_psql('shop', 'SELECT count(*) FROM latest'), '0', 'with nothing of what was there');
is($node->safe_psql('shop', $applier), $pid, 'the applier has lived through it');
$node->stop;

done_testing();
