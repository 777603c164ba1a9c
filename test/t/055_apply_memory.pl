# Many subscriptions share the memory of the applier.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

use constant SUBSCRIPTIONS => 16;
use constant MAX_KB => 200 * 1024;

my $broker = outbox_broker();
my $node   = outbox_node('orders');
my $topic  = unique_topic('wide');

topic_create($broker, $topic, 1);
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<'END');
CREATE FUNCTION slow(e outbox.event) RETURNS void LANGUAGE sql AS $$SELECT pg_sleep(0.2)$$;
END
my ($ok, $out, $err) = OutboxTest::_kcat($broker, join('', map { "$_:" . 'x' x 10_000 . "\n" } 1 .. 4000), '-P', '-t', $topic, '-p', 0, '-K', ':');
die $err if !$ok;

sub memory
{
	my $pid = worker_pid($node, 'shop', 'applier') or return 0;
	open my $status, '<', "/proc/$pid/status" or return 0;
	my ($kb) = map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$status>;
	return $kb // 0;
}

$node->safe_psql('shop', join ';', map { "SELECT outbox.handle('slow(outbox.event)', topic => '$topic', name => 'h$_')" } 1 .. SUBSCRIPTIONS);
is_soon($node, 'shop', 'SELECT count(*) FROM outbox.stat_subscriptions WHERE next_offset > 2', SUBSCRIPTIONS, 'all subscriptions read');
my $kb = memory();
note "the applier has $kb kB";
ok($kb > 0, 'memory of the applier can be read');
SKIP:
{
	skip 'a memory checker has memory of its own', 1 if $ENV{OUTBOX_UNDER};
	cmp_ok($kb, '<', MAX_KB, 'and is bounded for all together');
}
$node->stop;

done_testing();
