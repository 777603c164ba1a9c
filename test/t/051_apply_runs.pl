# Events that fail alike because something else is wrong (scenario 26), for a
# handler, over many small batches, several partitions and keys with many events:
# the subscription stops where they began, and nothing is set aside or done twice.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders', conf => 'pg_outbox.apply_batch_size = 7');
my $topic  = unique_topic('jobs');

topic_create($broker, $topic, 3);
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE handled (key text, value text);
CREATE TABLE broken (reason text);
CREATE FUNCTION work(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.handled VALUES (e.key, e.value);
	IF e.value LIKE 'child%' THEN
		RAISE EXCEPTION 'no parent yet' USING errcode = 'foreign_key_violation';
	ELSIF EXISTS (SELECT FROM public.broken) THEN
		RAISE EXCEPTION 'broken';
	END IF;
END \$\$;
SELECT outbox.handle('work(outbox.event)', topic => '$topic');
END

my $produced = 0;

# Events without an id, each another value, for the keys in their order.
sub produce
{
	my ($partition, @keys) = @_;
	my $input = join '', map { sprintf "%s:%d\n", $_, ++$produced } @keys;
	my ($ok, $out, $err) = OutboxTest::_kcat($broker, $input, '-P', '-t', $topic, '-p', $partition, '-K', ':');

	die $err if !$ok;
	return;
}

my $offsets = q(SELECT string_agg(next_offset::text, ' ' ORDER BY partition) FROM outbox.stat_subscriptions);
my $stopped = q(SELECT state, stopped_sqlstate, stopped_reason FROM outbox.subscriptions);
my $letters = q(SELECT string_agg(format('%s %s', state, n), ', ' ORDER BY state) FROM (SELECT state, count(*) AS n FROM outbox.dead_letters GROUP BY 1) l);

produce($_, map { "good$_" } 1 .. 5) for 0 .. 2;
is_soon($node, 'shop', $offsets, '5 5 5', 'at first all is well');

# One event fails for itself: its key waits, and is none of what follows.
$node->safe_psql('shop', q(INSERT INTO broken VALUES ('now')));
produce(0, 'own', 'own');
is_soon($node, 'shop', $letters, 'dead 1, parked 1', 'one event fails, another one of its key waits');
$node->safe_psql('shop', 'DELETE FROM broken');
produce($_, 'between') for 0 .. 2;
is_soon($node, 'shop', $offsets, '8 6 6', 'others do not');

# Then all do.  The key of the first has more events than are looked at alone.
$node->safe_psql('shop', q(INSERT INTO broken VALUES ('again')));
produce(1, 'many', ('many') x 300);
is_soon($node, 'shop', $letters, 'dead 2, parked 301', 'many events of one key wait');
produce($_, map { "bad$_" } 1 .. 20) for 0 .. 2;
is_soon($node, 'shop', $stopped, 'stopped|P0001|10 events in a row failed alike, the last with: broken', 'ten alike: it stops');
is($node->safe_psql('shop', $letters), 'dead 1, parked 1', 'with the letters that there were before them');
like($node->safe_psql('shop', $offsets), qr/^8 6 6$/, 'and the offsets where they began');
is($node->safe_psql('shop', 'SELECT sum(received), sum(applied), sum(dead), sum(parked) FROM outbox.stat_subscriptions'), '20|18|1|1', 'nor are they counted');

$node->safe_psql('shop', q(DELETE FROM broken; SELECT outbox.resume_subscription('work'), outbox.redrive_all('work')));
is_soon($node, 'shop', 'SELECT sum(lag) FROM outbox.stat_subscriptions', '0', 'mended it goes on');
is_soon($node, 'shop', $letters, 'done 2', 'and so does what had waited');
is($node->safe_psql('shop', 'SELECT count(*), count(DISTINCT value) FROM handled'), "$produced|$produced", 'each event was handled once');
$node->stop;

done_testing();
