# One transaction of a million changes: all of them are sent, in order, and the
# relay's memory stays flat.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

use constant ROWS => 1_000_000;
use constant MAX_KB => 128 * 1024;

need_kafka();
my $broker = outbox_broker();
my $topic  = unique_topic('giant');
topic_create($broker, $topic, 1);
my $node = outbox_node('main');
outbox_install($node, 'shop', $broker);

# Memory of its own, not the pages of shared buffers that it touched.
sub relay_memory
{
	my $pid = worker_pid($node, 'shop', 'relay') or return 0;
	open my $status, '<', "/proc/$pid/status" or return 0;
	my ($kb) = map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$status>;
	return $kb // 0;
}

$node->safe_psql('shop', <<"END");
CREATE TABLE item (id int PRIMARY KEY, v text);
SELECT outbox.publish('item', topic => '$topic', initial => 'none');
SELECT outbox.emit('$topic', 'first', 'x');
END
topic_wait($broker, $topic, 1);
my $before = relay_memory();
ok($before > 0, 'memory of the relay can be read');

$node->safe_psql('shop', 'INSERT INTO item SELECT g, repeat(md5(g::text), 4) FROM generate_series(1, ' . ROWS . ') g');
my $peak = 0;
wait_until(sub {
	my $now = relay_memory();
	$peak = $now if $now > $peak;
	return $node->safe_psql('shop', 'SELECT settled_events >= ' . (ROWS + 1) . ' FROM outbox.stat_servers') eq 't';
}, 'all events are settled');
note "the relay had $before kB before, at most $peak kB while it sent";
SKIP:
{
	skip 'a memory checker has memory of its own', 1 if $ENV{OUTBOX_UNDER};
	cmp_ok($peak, '<', MAX_KB, 'memory of the relay is bounded');
}

my ($ok, $out, $err) = OutboxTest::_kcat($broker, '', '-C', '-t', $topic, '-e', '-q', '-f', '%k\n');
die $err if !$ok;
my @keys = split /\n/, $out;
is(scalar @keys, ROWS + 1, 'each event is sent once');
my $wrong = grep { $keys[$_] ne $_ } 1 .. $#keys;
is($wrong, 0, 'in order');

done_testing();
