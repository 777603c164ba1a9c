# Who has much to send does not keep others waiting for long: neither one
# transaction of many events, nor the events of a stopped topic.  Counted in events
# of the one that are sent or parked when the other's is there.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

use constant GIANT => 300_000;
use constant HELD => 100_000;

my $broker = outbox_broker(mock => 1);
my ($giant, $small, $held, $live) = map { my $t = unique_topic($_); topic_create($broker, $t, 1); $t } qw(giant small held live);
my $node = outbox_node('main');
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$broker->{bootstrap}');
SELECT outbox.emit('$giant', 'k', 'first') \\g /dev/null
SELECT outbox.emit('$small', 'k', 'first', server => 'other') \\g /dev/null
END
topic_wait($broker, $_, 1) for $giant, $small;

# How many events a topic has.
sub watermark
{
	my ($topic) = @_;
	my (undef, $high) = topic_watermarks($broker, $topic, 0);
	return $high;
}

# ---------------------------------------------------------------------------
# A giant for one server, an event for another
# ---------------------------------------------------------------------------

# Both are there when the relay starts; the giant is first in the log.
$node->safe_psql('shop', "SELECT outbox.pause('relay')");
is_soon($node, 'shop', q(SELECT state FROM outbox._workers() WHERE worker = 'relay'), 'paused', 'the relay is away');
$node->safe_psql('shop', <<"END");
SELECT outbox.emit('$giant', 'k', g::text) FROM generate_series(1, @{[ GIANT ]}) g \\g /dev/null
SELECT outbox.emit('$small', 'k', 'small', server => 'other') \\g /dev/null
SELECT outbox.resume('relay');
END
my $sent;
wait_until(sub { return 0 if watermark($small) < 2; $sent = watermark($giant); return 1 }, 'the small one');
note "$sent events of the giant were sent before the other server's event was seen";
cmp_ok($sent, '<', GIANT, 'an event for another server overtakes the giant');
is_soon($node, 'shop', q(SELECT backlog_events FROM outbox.stat_servers WHERE server = 'kafka'), '0', 'which is sent all the same');
is(watermark($giant), GIANT + 1, 'whole');

# ---------------------------------------------------------------------------
# A stopped topic with much to park
# ---------------------------------------------------------------------------

$node->safe_psql('shop', <<"END");
SELECT outbox.pause_topic('$held', 'kafka');
SELECT outbox.emit('$held', 'k', g::text) FROM generate_series(1, @{[ HELD ]}) g \\g /dev/null
SELECT outbox.emit('$live', 'k', 'live') \\g /dev/null
SELECT outbox.emit('$small', 'k', 'again', server => 'other') \\g /dev/null
END
my $parked;
wait_until(sub {
	return 0 if watermark($small) < 3;
	$parked = $node->safe_psql('shop', 'SELECT count(*) FROM outbox._parked');
	return 1;
}, 'the event for the other server');
note "$parked events were parked before the other server's event was seen";
cmp_ok($parked, '<', HELD / 2, 'an event for another server overtakes those that are parked');
topic_wait($broker, $live, 1);
is(watermark($live), 1, 'another topic of the server follows');
is_soon($node, 'shop', 'SELECT count(*) FROM outbox._parked', HELD, 'all are parked');

# Sent again, a page at a time, between what others have.
$node->safe_psql('shop', <<"END");
SELECT outbox.resume_topic('$held', 'kafka') \\g /dev/null
SELECT outbox.emit('$live', 'k', 'live') \\g /dev/null
END
wait_until(sub { return 0 if watermark($live) < 2; $sent = watermark($held); return 1 }, 'the live topic');
note "$sent parked events were sent before another topic's event was seen";
cmp_ok($sent, '<', HELD / 2, 'an event of another topic overtakes those that were parked');
is_soon($node, 'shop', 'SELECT count(*) FROM outbox._parked', '0', 'they follow');
is_soon($node, 'shop', "SELECT state, parked_events, delivered_count FROM outbox.stat_topics WHERE topic = '$held'", 'live|0|' . HELD,
	'each once');

done_testing();
