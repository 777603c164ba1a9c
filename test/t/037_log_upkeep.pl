# What others do to the log's tables: rewriting them, freezing their rows,
# holding their locks.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node   = outbox_node('main');

# ---------------------------------------------------------------------------
# Rows that move while references to them are held
# ---------------------------------------------------------------------------

outbox_install($node, 'moved', $broker);
$node->safe_psql('moved', "SELECT outbox.emit('moved', 'k', 'first')");
topic_wait($broker, 'moved', 1);

# One batch, of which a part lies behind dead pages.
my $value = q(g || repeat('x', 3000));
$node->safe_psql('moved', "SELECT outbox.pause('relay')");
is_soon($node, 'moved', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay' AND datname = 'moved'), '0', 'the relay is paused');
$node->safe_psql('moved', <<"END");
SELECT outbox.emit('moved', 'k', $value) FROM generate_series(1, 300) g \\g /dev/null
BEGIN;
SET LOCAL pg_outbox.event_buffer = '64kB';
SELECT outbox.emit('moved', 'k', $value) FROM generate_series(1, 300) g \\g /dev/null
ROLLBACK;
SELECT outbox.emit('moved', 'k', $value) FROM generate_series(301, 600) g \\g /dev/null
END
fault($node, 'relay.before_read=once-wait');
$node->safe_psql('moved', "SELECT outbox.resume('relay')");
is_soon($node, 'moved', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay'
	AND datname = 'moved' AND backend_xmin IS NOT NULL AND wait_event_type = 'Extension'), '1', 'it knows where the rows are');
my $size = $node->safe_psql('moved', "SELECT pg_relation_size('outbox._log_0')");
$node->safe_psql('moved', 'VACUUM FULL outbox._log_0');
cmp_ok($node->safe_psql('moved', "SELECT pg_relation_size('outbox._log_0')"), '<', $size, 'the rows have moved');
no_faults($node);
is_soon($node, 'moved', 'SELECT settled_events FROM outbox.stat_servers', '601', 'all are settled');
my @records = topic_read($broker, 'moved');
is(join(' ', map { $_->{value} =~ s/x+$//r } @records), join(' ', 'first', 1 .. 600), 'each is sent once, in order, with its own value');
my $last = 0;
is(scalar(grep { my $wrong = $_->{headers}{id} <= $last; $last = $_->{headers}{id}; $wrong } @records), 0, 'and its own id');
is($node->safe_psql('moved', q(SELECT last_error FROM outbox._workers() WHERE worker = 'relay')), '', 'without an error');

$node->stop('fast');
done_testing();
