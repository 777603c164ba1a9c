# Faults that are not an event's own: dependencies, a changed schema, handlers
# that raise, hang or kill, tables that change or go.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders');

outbox_install($node, 'shop', $broker);

# A replica and its topic, named alike.
sub subscribe
{
	my ($table, $definition, $options) = @_;
	my $topic = unique_topic($table);

	topic_create($broker, $topic, 1);
	$node->safe_psql('shop', "CREATE TABLE $table ($definition, version bigint NOT NULL)");
	$node->safe_psql('shop', "SELECT outbox.replicate('$table', topic => '$topic'" . ($options // '') . ')');
	return $topic;
}

# Events with their version in the payload, in one go.
sub produce
{
	my ($topic, @values) = @_;
	my ($ok, $out, $err) = OutboxTest::_kcat($broker, join("\n", @values) . "\n", '-P', '-t', $topic, '-p', '0');
	die $err if !$ok;
	return;
}

# ---------------------------------------------------------------------------
# What depends on another event (scenario 24)
# ---------------------------------------------------------------------------

my $orders = subscribe('orders', 'id int PRIMARY KEY, note text');
my $lines  = subscribe('lines', 'id int PRIMARY KEY, order_id int REFERENCES orders DEFERRABLE INITIALLY DEFERRED');
produce($lines, map { qq({"id": $_, "order_id": $_, "version": $_}) } 1 .. 3);
is_soon($node, 'shop', q(SELECT count(*), min(sqlstate) FROM outbox.dead_letters WHERE name = 'lines' AND state = 'parked'),
	'3|23503', 'children wait for their parents');
produce($orders, map { qq({"id": $_, "note": "x", "version": $_}) } 1 .. 3);
is_soon($node, 'shop', 'SELECT count(*) FROM lines', '3', 'and follow them');
is_soon($node, 'shop', q(SELECT string_agg(DISTINCT state, ',') FROM outbox.dead_letters), 'done', 'none is dead');

my $swap = subscribe('swap', 'id int PRIMARY KEY, place text UNIQUE');
produce($swap, '{"id": 1, "place": "a", "version": 1}', '{"id": 2, "place": "b", "version": 2}');
is_soon($node, 'shop', 'SELECT count(*) FROM swap', '2', 'two rows with unique values');
produce($swap, '{"id": 1, "place": "b", "version": 3}', '{"id": 2, "place": "c", "version": 4}', '{"id": 2, "place": "a", "version": 5}');
is_soon($node, 'shop', q(SELECT string_agg(id || place, ' ' ORDER BY id) FROM swap), '1b 2a', 'they exchange them');

$node->safe_psql('postgres', q(ALTER SYSTEM SET pg_outbox.parked_timeout = 0));
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
produce($lines, '{"id": 9, "order_id": 9, "version": 9}');
is_soon($node, 'shop', q(SELECT sqlstate FROM outbox.dead_letters WHERE name = 'lines' AND state = 'dead'), '23503', 'what waits too long is a dead letter');
$node->safe_psql('postgres', q(ALTER SYSTEM RESET pg_outbox.parked_timeout));
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');

# ---------------------------------------------------------------------------
# A thousand events that fail alike (scenario 26)
# ---------------------------------------------------------------------------

my $many = subscribe('many', 'id int PRIMARY KEY, name text');
produce($many, map { qq({"id": $_, "name": "x", "version": $_}) } 1 .. 20);
is_soon($node, 'shop', 'SELECT count(*) FROM many', '20', 'events that fit');
produce($many, '{"id": 20, "title": "one of them", "version": 21}');
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'many'), '1', 'one that does not');
produce($many, map { qq({"id": $_, "title": "x", "version": 100}) } 1 .. 1000);
is_soon($node, 'shop', q(SELECT state, stopped_sqlstate, stopped_reason ~ '10 events in a row.*lacks column "name"' FROM outbox.subscriptions WHERE name = 'many'),
	'stopped|42703|t', 'the subscription stops with the reason');
is($node->safe_psql('shop', q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'many')), '0', 'and none of them is a dead letter');
is($node->safe_psql('shop', q(SELECT next_offset, received, applied, dead FROM outbox.stat_subscriptions WHERE name = 'many')),
	'20|20|20|0', 'it stands where they began');
is($node->safe_psql('shop', q(SELECT health, backlog IS NULL FROM outbox.status WHERE kind = 'subscription' AND name = 'many')), 'stopped|t', 'nobody knows its backlog now');
produce($orders, '{"id": 4, "note": "x", "version": 4}');
is_soon($node, 'shop', 'SELECT count(*) FROM orders WHERE id = 4', '1', 'the others go on');
$node->safe_psql('shop', q(ALTER TABLE many RENAME name TO title; SELECT outbox.resume_subscription('many')));
is_soon($node, 'shop', 'SELECT count(*) FROM many WHERE version = 100', '1000', 'mended it goes on from there');
is_soon($node, 'shop', q(SELECT health, backlog FROM outbox.status WHERE kind = 'subscription' AND name = 'many'), 'ok|0', 'and has none in the end');

# ---------------------------------------------------------------------------
# Tables that change or go (scenario 20)
# ---------------------------------------------------------------------------

$node->safe_psql('shop', 'ALTER TABLE many ADD COLUMN extra int');
$node->safe_psql('shop', 'ALTER TABLE many ALTER COLUMN id TYPE bigint');
produce($many, '{"id": 5000000000, "title": "big", "extra": 5, "version": 101}');
is_soon($node, 'shop', 'SELECT title, extra FROM many WHERE id > 1000', 'big|5', 'an altered table is seen as it is');
$node->safe_psql('shop', 'DROP TABLE many');
produce($many, '{"id": 1, "title": "x", "extra": 5, "version": 102}');
is_soon($node, 'shop', q(SELECT state, stopped_sqlstate FROM outbox.subscriptions WHERE name = 'many'), 'stopped|42P01', 'without the table it stops');
my $denied = subscribe('denied', 'id int PRIMARY KEY');
$node->safe_psql('shop', 'CREATE ROLE owner; ALTER TABLE denied OWNER TO owner; REVOKE ALL ON denied FROM owner');
produce($denied, '{"id": 1, "version": 1}');
is_soon($node, 'shop', q(SELECT state, stopped_sqlstate FROM outbox.subscriptions WHERE name = 'denied'), 'stopped|42501', 'without rights as well');
$node->safe_psql('shop', q(GRANT ALL ON denied TO owner; SELECT outbox.resume_subscription('denied')));
is_soon($node, 'shop', 'SELECT count(*) FROM denied', '1', 'and goes on with them');

# ---------------------------------------------------------------------------
# on_error
# ---------------------------------------------------------------------------

my $stops = subscribe('stops', 'id int PRIMARY KEY', q(, on_error => 'stop'));
produce($stops, '{"id": 1, "version": 1}', 'bad', '{"id": 2, "version": 2}');
is_soon($node, 'shop', q(SELECT state, stopped_reason FROM outbox.subscriptions WHERE name = 'stops'), 'stopped|event value is not valid JSON', 'stop: at the first');
is($node->safe_psql('shop', q(SELECT (SELECT string_agg(id::text, ',') FROM stops), next_offset FROM outbox.stat_subscriptions WHERE name = 'stops')), '1|1', 'with all before it applied');
$node->safe_psql('shop', q(SELECT outbox.seek('stops', '2', 0)));
is_soon($node, 'shop', q(SELECT string_agg(id::text, ',' ORDER BY id) FROM stops), '1,2', 'seek steps over it');
for my $partition (1, 2000000000)
{
	my ($rc, $out, $err) = $node->psql('shop', "\\set VERBOSITY verbose\nSELECT outbox.seek('stops', '3', $partition)");
	like($err, qr/22023.*"stops" does not read a partition $partition.*It reads partitions 0 to 0/s, "seek refuses partition $partition");
}
is($node->safe_psql('shop', q(SELECT state FROM outbox.subscriptions WHERE name = 'stops')), 'running', 'which leaves the subscription as it was');
$node->safe_psql('shop', q(SELECT outbox.seek('stops', '99', 0)));
is_soon($node, 'shop', q(SELECT state, stopped_reason ~ 'ends at offset 3, before 99 at which reading should begin' FROM outbox.subscriptions WHERE name = 'stops'),
	'stopped|t', 'an offset that is not there yet: it stops with the reason');
$node->safe_psql('shop', q(SELECT outbox.seek('stops', '3', 0)));
produce($stops, '{"id": 3, "version": 3}');
is_soon($node, 'shop', q(SELECT string_agg(id::text, ',' ORDER BY id) FROM stops), '1,2,3', 'and goes on from another');
my $skips = subscribe('skips', 'id int PRIMARY KEY', q(, on_error => 'skip'));
produce($skips, '{"id": 1, "version": 1}', 'bad', '{"id": 2, "version": 2}');
is_soon($node, 'shop', q(SELECT string_agg(id::text, ',' ORDER BY id) FROM skips), '1,2', 'skip: passes over it');
like(log_tail($node, 40), qr/event at offset 1 of partition 0 of topic "\w+" was skipped/, 'with a line in the log');

# An error of a column, and one of the same code that is no column's, are not alike.
$node->safe_psql('shop', <<'END');
CREATE FUNCTION no_text(v text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING ERRCODE = '22021'; END $$;
CREATE DOMAIN picky AS text CHECK (public.no_text(value));
END
my $unlike = subscribe('unlike', 'id int PRIMARY KEY, name picky', q(, on_error => 'skip'));
produce($unlike, (qq({"id": 1, "name": "x", "version": 1}), qq({"id": 1, "name": "\xff", "version": 1})) x 10);
is_soon($node, 'shop', q(SELECT state, received, skipped, applied FROM outbox.stat_subscriptions WHERE name = 'unlike'), 'running|20|20|0',
	'failures in turn are not failures alike');

# ---------------------------------------------------------------------------
# Handlers that fail, hang, kill (scenario 20)
# ---------------------------------------------------------------------------

my $commands = unique_topic('commands');
topic_create($broker, $commands, 1);
$node->safe_psql('postgres', q(ALTER SYSTEM SET pg_outbox.handler_timeout = '1s'));
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
$node->safe_psql('shop', <<"END");
CREATE TABLE handled (value text);
CREATE SEQUENCE tries;
CREATE FUNCTION handler(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.handled VALUES (e.value);
	CASE e.value
		WHEN 'raise' THEN RAISE EXCEPTION 'no';
		WHEN 'serialize' THEN
			IF nextval('public.tries') < 3 THEN
				RAISE EXCEPTION 'again' USING errcode = '40001';
			END IF;
		WHEN 'sleep' THEN PERFORM pg_sleep(600);
		WHEN 'die' THEN PERFORM pg_terminate_backend(pg_backend_pid());
		ELSE NULL;
	END CASE;
END \$\$;
SELECT outbox.handle('handler(outbox.event)', topic => '$commands');
END
produce($commands, 'one', 'raise', 'serialize', 'sleep', 'last');
is_soon($node, 'shop', q(SELECT string_agg(value, ',') FROM handled), 'one,serialize,last', 'one after the other, each fault by its kind');
is_soon($node, 'shop', q(SELECT string_agg(encode(value, 'escape') || ' ' || sqlstate, ', ' ORDER BY id) FROM outbox.dead_letters WHERE name = 'handler'),
	'raise P0001, sleep 57014', 'an error and a time-out are dead letters, a serialization failure is none');
produce($commands, 'before', 'die', 'after');
is_soon($node, 'shop', q(SELECT string_agg(value, ',') FROM handled WHERE value IN ('before', 'die', 'after')), 'before,after',
	'an event that kills its worker does not do so for ever', 240);
is_soon($node, 'shop', q(SELECT encode(value, 'escape'), message ~ 'died' FROM outbox.dead_letters WHERE name = 'handler' AND sqlstate = 'XX000'),
	'die|t', 'it is a dead letter');

# ---------------------------------------------------------------------------
# A letter that is given the key of others
# ---------------------------------------------------------------------------

my $keyed = unique_topic('keyed');
topic_create($broker, $keyed, 1);
$node->safe_psql('shop', <<"END");
CREATE TABLE in_order (value text, n serial);
CREATE FUNCTION keyed(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF e.value = 'bad' THEN
		RAISE EXCEPTION 'no';
	END IF;
	INSERT INTO public.in_order VALUES (e.key || ' ' || e.value);
END \$\$;
SELECT outbox.handle('keyed(outbox.event)', topic => '$keyed');
END
topic_write($broker, $keyed, map { { key => $_, value => 'bad' } } 'a', 'b');
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'keyed'), '2', 'letters of two keys');
my ($of_a, $of_b) = split /,/, $node->safe_psql('shop', q(SELECT string_agg(id::text, ',' ORDER BY id) FROM outbox.dead_letters WHERE name = 'keyed'));
$node->safe_psql('shop', "SELECT outbox.edit($of_b, 'second', 'a'), outbox.redrive($of_b)");
topic_write($broker, $keyed, { key => 'a', value => 'third' }, { key => 'b', value => 'free' });
is_soon($node, 'shop', q(SELECT string_agg(value, ',' ORDER BY n) FROM in_order), 'b free', 'one that gets the key of the other waits for it');
$node->safe_psql('shop', "SELECT outbox.edit($of_a, 'first'), outbox.redrive($of_a)");
is_soon($node, 'shop', q(SELECT string_agg(value, ',' ORDER BY n) FROM in_order), 'b free,a first,a second,a third', 'and follows it');

# ---------------------------------------------------------------------------
# Between two attempts at a letter nothing looks for letters
# ---------------------------------------------------------------------------

my $lonely = subscribe('lonely', 'id int PRIMARY KEY, order_id int REFERENCES orders');
my $looks  = q(SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_all_tables WHERE relid = 'outbox._dead_letter'::regclass);
my $tries  = q(SELECT n_tup_upd FROM pg_stat_all_tables WHERE relid = 'outbox._dead_letter'::regclass);
my $before = $node->safe_psql('shop', $tries);
produce($lonely, '{"id": 1, "order_id": 77, "version": 1}');
is_soon($node, 'shop', "SELECT ($tries) >= $before + 4", 't', 'a letter is tried again, after longer and longer pauses');
my $first = $node->safe_psql('shop', $looks);
is_soon($node, 'shop', "SELECT ($tries) >= $before + 5", 't', 'the next attempt follows by itself');
my $seen = $node->safe_psql('shop', $looks) - $first;
note("looked $seen times");
cmp_ok($seen, '<', 15, 'nobody looks for letters in between');
produce($orders, '{"id": 77, "note": "x", "version": 77}');
is_soon($node, 'shop', 'SELECT count(*) FROM lonely', '1', 'and an attempt that is due is made');
$node->stop;

done_testing();
