# Subscriptions share one worker: a slow handler or replica has its turn cut, so
# that the others have theirs, and what was cut is neither lost nor done twice.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders');
my %topic  = map { $_ => unique_topic($_) } qw(handler replica quick);

topic_create($broker, $_, 1) for values %topic;
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE effects (who text, key int, place bigserial, xid xid8 DEFAULT pg_current_xact_id());
CREATE SEQUENCE called;
CREATE TABLE flags (failing bool);
INSERT INTO flags VALUES (true);
CREATE FUNCTION slow(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM nextval('public.called'), pg_sleep(0.02);
	INSERT INTO public.effects VALUES ('handler', e.value::int);
	IF e.value::int % 100 = 37 AND (SELECT failing FROM public.flags) THEN
		RAISE EXCEPTION 'no';
	END IF;
END \$\$;
CREATE TABLE replica (id int PRIMARY KEY, version bigint NOT NULL);
CREATE FUNCTION slow_row() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM nextval('public.called'), pg_sleep(0.02);
	INSERT INTO public.effects VALUES ('replica', new.id);
	RETURN new;
END \$\$;
CREATE TRIGGER slow BEFORE INSERT ON replica FOR EACH ROW EXECUTE FUNCTION slow_row();
CREATE TABLE quick (id int PRIMARY KEY, version bigint NOT NULL, seen bigint);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	new.seen := (SELECT count(*) FROM public.effects);
	RETURN new;
END \$\$;
CREATE TRIGGER look BEFORE INSERT ON quick FOR EACH ROW EXECUTE FUNCTION look();
SELECT outbox.handle('slow(outbox.event)', topic => '$topic{handler}', name => 'handler');
SELECT outbox.replicate('replica', topic => '$topic{replica}');
SELECT outbox.replicate('quick', topic => '$topic{quick}', columns => '{id}');
END

sub produce
{
	my ($name, @lines) = @_;
	my ($ok, $out, $err) = OutboxTest::_kcat($broker, join('', map { "$_\n" } @lines), '-P', '-t', $topic{$name}, '-p', 0, '-K', "\t", '-Z');

	die $err if !$ok;
	return;
}

# Values FROM to TO, with ten keys.
sub commands
{
	my ($from, $to) = @_;

	return map { sprintf "%d\t%d", $_ % 10, $_ } $from .. $to;
}

# ---------------------------------------------------------------------------
# Others have their turn while one has much to do
# ---------------------------------------------------------------------------

my $n   = 0;
my $row = sub { return qq($_[0]\t{"id": $_[0], "version": 1}) };

is_soon($node, 'shop', q(SELECT count(*) FROM outbox.stat_subscriptions WHERE next_offset = 0), '3', 'all three read');
for my $who (qw(handler replica))
{
	my $called = $node->safe_psql('shop', 'SELECT last_value FROM called');
	my $before = $node->safe_psql('shop', 'SELECT count(*) FROM effects');

	produce($who, $who eq 'handler' ? grep({ !/37$/ } commands(1, 300)) : map { $row->($_) } 1 .. 300);
	wait_for_sql($node, 'shop', "SELECT last_value > $called FROM called");
	produce('quick', $row->(++$n));
	wait_for_sql($node, 'shop', "SELECT count(*) = $n FROM quick");
	my $seen = $node->safe_psql('shop', "SELECT seen - $before FROM quick WHERE id = $n");
	note("$who: after $seen events");
	cmp_ok($seen, '<', 250, "$who: another subscription does not wait for all of it");
	is_soon($node, 'shop', "SELECT count(*), count(DISTINCT key), count(DISTINCT xid) > 8 FROM effects WHERE who = '$who'",
		$who eq 'handler' ? '297|297|t' : '300|300|t', "$who: all of it was done, in several transactions");
}

# ---------------------------------------------------------------------------
# A crash in a turn that was cut
# ---------------------------------------------------------------------------

my %blow = (
	'SIGTERM to the applier' => sub { kill_worker($node, 'shop', 'applier', 'TERM') },
	'SIGKILL to the applier' => sub { kill_worker($node, 'shop', 'applier', 'KILL') },
	'an immediate shutdown' => sub { $node->stop('immediate'); $node->start });
my $offset  = 297;
my $from    = 300;
my $expect  = 297;
my $letters = 0;
for my $what (sort keys %blow)
{
	my $called = $node->safe_psql('shop', 'SELECT last_value FROM called');

	fault($node, 'apply-before-commit=wait');
	produce('handler', commands($from + 1, $from + 100));
	is_soon($node, 'shop', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier'
		AND xact_start < clock_timestamp() - interval '50 ms' AND wait_event_type = 'Extension'), '1', "$what: the applier waits at the end of a turn");
	is($node->safe_psql('shop', "SELECT last_value - $called BETWEEN 1 AND 90 FROM called"), 't', 'which had come to a part of the events');
	is($node->safe_psql('shop', q(SELECT count(*) FROM effects WHERE who = 'handler')), $expect, 'nothing is committed');
	$blow{$what}->();
	wait_for_sql($node, 'shop', 'SELECT true');
	no_faults($node);
	$from += 100;
	$offset += 100;
	# the 37th failed, and seven of its key wait behind it, or all ten if one does already
	$expect += $letters == 0 ? 93 : 90;
	$letters += $letters == 0 ? 7 : 10;
	is_soon($node, 'shop', q(SELECT next_offset, received FROM outbox.stat_subscriptions WHERE name = 'handler'), "$offset|$offset", "$what: the offset has moved");
	is($node->safe_psql('shop', q(SELECT count(*), count(DISTINCT key) FROM effects WHERE who = 'handler')), "$expect|$expect", 'each event took effect once');
	is($node->safe_psql('shop', q(SELECT count(*), count(DISTINCT kafka_offset), count(*) FILTER (WHERE state = 'dead') FROM outbox.dead_letters)),
		"$letters|$letters|1", 'or is a letter');
	is($node->safe_psql('shop', q(SELECT dead, parked FROM outbox.stat_subscriptions WHERE name = 'handler')), '1|' . ($letters - 1), 'counted as such');
}
$node->safe_psql('shop', q(UPDATE flags SET failing = false; SELECT outbox.redrive_all('handler')));
is_soon($node, 'shop', q(SELECT count(*), count(DISTINCT key) FROM effects WHERE who = 'handler'), "$offset|$offset", 'the letters go through');
is($node->safe_psql('shop', q(SELECT count(*) FROM (SELECT key < lag(key) OVER (PARTITION BY key % 10 ORDER BY place) AS late FROM effects WHERE who = 'handler') _ WHERE late)),
	'0', 'each key in order');
$node->stop;

done_testing();
