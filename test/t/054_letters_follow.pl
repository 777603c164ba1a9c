# Events that waited behind a letter follow it quickly, so that a key with many
# events does not wait for ever behind one that had failed.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders', conf => 'pg_outbox.apply_batch_size = 20');

outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<'END');
CREATE TABLE handled (name text, key text, n int, place bigserial, xid xid8 DEFAULT pg_current_xact_id());
CREATE TABLE flags (failing bool);
INSERT INTO flags VALUES (true);
CREATE FUNCTION handler(e outbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.handled VALUES (e.subscription, e.key, e.value::int);
	IF e.value = '1' AND (SELECT failing FROM public.flags) THEN
		RAISE EXCEPTION 'no';
	END IF;
END $$;
END

sub subscribe
{
	my ($name) = @_;
	my $topic = unique_topic($name);

	topic_create($broker, $topic, 1);
	$node->safe_psql('shop', "SELECT outbox.handle('handler(outbox.event)', topic => '$topic', name => '$name')");
	return $topic;
}

# Values FROM to TO of one key, and every hundredth of another.
sub produce
{
	my ($topic, $from, $to) = @_;
	my $input = join '', map { sprintf "%s\t%d\n", $_ % 100 == 0 ? 'cold' : 'hot', $_ } $from .. $to;
	my ($ok, $out, $err) = OutboxTest::_kcat($broker, $input, '-P', '-t', $topic, '-p', 0, '-K', "\t");

	die $err if !$ok;
	return;
}

sub first_letter
{
	my ($name) = @_;

	return "SELECT outbox.redrive(min(id)) FROM outbox.dead_letters WHERE name = '$name'";
}

sub in_order
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($node->safe_psql('shop', qq(SELECT count(*), count(DISTINCT n), count(*) FILTER (WHERE late)
		FROM (SELECT n, n < lag(n) OVER (PARTITION BY key ORDER BY place) AS late FROM handled WHERE name = '$name') _)),
		'3000|3000|0', "$name: each once, and the keys in order");
}

# ---------------------------------------------------------------------------
# Many that wait go through together
# ---------------------------------------------------------------------------

my $topic = subscribe('many');
produce($topic, 1, 3000);
is_soon($node, 'shop', q(SELECT next_offset, dead, parked, applied FROM outbox.stat_subscriptions WHERE name = 'many'), '3000|1|2969|30', 'one fails, others of its key wait');
fault($node, 'letters-before-commit=wait');
$node->safe_psql('shop', 'UPDATE flags SET failing = false; ' . first_letter('many'));
is_soon($node, 'shop', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier'
	AND xact_start < clock_timestamp() - interval '50 ms' AND wait_event_type = 'Extension'), '1', 'the applier waits with letters that went through');
is($node->safe_psql('shop', 'SELECT count(*) FROM handled'), 30, 'nothing of it is committed');
kill_worker($node, 'shop', 'applier');
wait_for_sql($node, 'shop', 'SELECT true');
no_faults($node);
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'many' AND state <> 'done'), '0', 'mended all go through');
in_order('many');
my $transactions = $node->safe_psql('shop', q(SELECT count(DISTINCT xid) FROM handled WHERE key = 'hot'));
note("$transactions transactions");
cmp_ok($transactions, '<', 600, 'many letters share a transaction');

# ---------------------------------------------------------------------------
# One that fails again keeps its place
# ---------------------------------------------------------------------------

$node->safe_psql('shop', q(UPDATE flags SET failing = true));
produce($topic, 1, 10);
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE name = 'many' AND state IN ('dead', 'parked')), '10', 'letters again');
$node->safe_psql('shop', first_letter('many') . q( AND state = 'dead'));
is_soon($node, 'shop', q(SELECT attempts, state FROM outbox.dead_letters WHERE name = 'many' AND state <> 'done' ORDER BY id LIMIT 1), '2|dead', 'the first fails again');
is($node->safe_psql('shop', q(SELECT count(*) FROM handled WHERE name = 'many' AND n <= 10)), '10', 'those behind it wait');
$node->safe_psql('shop', q(SELECT outbox.discard(id, 'test') FROM outbox.dead_letters WHERE name = 'many' AND state = 'dead'));
is_soon($node, 'shop', q(SELECT count(*) FROM handled WHERE name = 'many' AND n <= 10), '19', 'and go on without it');

# ---------------------------------------------------------------------------
# While events of the key go on coming
# ---------------------------------------------------------------------------

$topic = subscribe('busy');
produce($topic, 1, 100);
is_soon($node, 'shop', q(SELECT next_offset, parked FROM outbox.stat_subscriptions WHERE name = 'busy'), '100|98', 'a hundred wait behind one');
$node->safe_psql('shop', q(SELECT outbox.pause_subscription('busy')));
produce($topic, 101, 3000);
$node->safe_psql('shop', 'UPDATE flags SET failing = false; ' . first_letter('busy') . q(; SELECT outbox.resume_subscription('busy')));
is_soon($node, 'shop', q(SELECT next_offset, (SELECT count(*) FROM handled WHERE name = 'busy') FROM outbox.stat_subscriptions WHERE name = 'busy'), '3000|3000', 'all are handled');
in_order('busy');
my $parked = $node->safe_psql('shop', q(SELECT parked FROM outbox.stat_subscriptions WHERE name = 'busy'));
note("parked: $parked");
cmp_ok($parked, '<', 600, 'most of them without waiting behind a letter');
$node->stop;

done_testing();
