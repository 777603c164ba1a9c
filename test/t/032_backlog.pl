# A broker that is away costs disk up to a limit, and nothing else.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node = outbox_node('users');
outbox_install($node, 'postgres', $broker);
my $topic = unique_topic('backlog');

$node->safe_psql('postgres', "SELECT outbox.emit('$topic', 'k', 'first')");
topic_wait($broker, $topic, 1);
mock_control($broker, 'down', 'all');

$node->safe_psql('postgres',
	"SELECT outbox.emit('$topic', 'k', repeat('x', 1000)) FROM generate_series(1, 4000)");
is_soon($node, 'postgres',
	"SELECT backlog_events, lag_seconds IS NOT NULL FROM outbox.stat_servers", '4000|t',
	'the backlog is counted');
is_soon($node, 'postgres',
	"SELECT waiting_for IS NOT NULL FROM outbox.status WHERE kind = 'worker' AND name = 'relay'",
	't', 'status says what the relay waits for');

my ($rc, $out, $err) = $node->psql('postgres', <<"END");
SET pg_outbox.max_backlog = '3MB';
\\set VERBOSITY verbose
SELECT outbox.emit('$topic', 'k', 'one too many');
END
isnt($rc, 0, 'a full log refuses events');
like($err, qr/53400: +the event log is full/, 'with its own SQLSTATE');
like($err, qr/limit is 3 MB/, 'and the figures');
is( $node->safe_psql('postgres',
		"SET pg_outbox.max_backlog = '3MB'; SELECT health FROM outbox.status WHERE kind = 'log'"),
	'full', 'status says that it is full');

# Over 4 MB, so that the next whole megabyte is at most a quarter more.  (The
# mock broker keeps 5 MB of a topic.)
my $mb = 1 + $node->safe_psql('postgres', 'SELECT bytes / 1048576 FROM outbox.stat_log');
cmp_ok($mb, '>=', 5, 'the log is large enough to come near a limit in megabytes');
is( $node->safe_psql('postgres',
		"SET pg_outbox.max_backlog = '${mb}MB'; SELECT health FROM outbox.status WHERE kind = 'log'"),
	'nearly full', 'and warns from 80 % on');
$mb *= 2;
is( $node->safe_psql('postgres',
		"SET pg_outbox.max_backlog = '${mb}MB'; SELECT health FROM outbox.status WHERE kind = 'log'"),
	'ok', 'but not before');

# Restarted, the relay has forgotten that somebody found the log full: it does not
# make room before that is tried below.
$node->restart;
mock_control($broker, 'up', 'all');
is_soon($node, 'postgres', 'SELECT backlog_events FROM outbox.stat_servers', '0',
	'the backlog is delivered when the broker is back');
my @records = topic_read($broker, $topic);
my %id = map { ($_->{headers}{id} => 1) } @records;
is(scalar(keys %id), 4001, 'all of it');

# Delivered events are no reason to refuse new ones: under a limit that only
# sessions know of, and under the relay's own.
$node->safe_psql('postgres', "ALTER DATABASE postgres SET pg_outbox.max_backlog = '3MB'");
($rc, $out, $err) = $node->psql('postgres', "SELECT outbox.emit('$topic', 'k', 'in vain')");
like($err, qr/the event log is full/, 'settled events fill the log of a session with a lower limit than the relay\'s');
is_soon($node, 'postgres', "SELECT health FROM outbox.status WHERE kind = 'log'", 'ok', 'not for long');
$node->safe_psql('postgres', "ALTER DATABASE postgres RESET pg_outbox.max_backlog; SELECT outbox.emit('$topic', 'k', repeat('x', 1000)) FROM generate_series(1, 4000)");
is_soon($node, 'postgres', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'more is delivered');
$node->append_conf('postgresql.conf', "pg_outbox.max_backlog = '3MB'\n");
$node->reload;
is_soon($node, 'postgres', "SELECT health FROM outbox.status WHERE kind = 'log'", 'ok',
	'settled events make room under a small limit');
$node->safe_psql('postgres', "SELECT outbox.emit('$topic', 'k', 'last')");
is_soon($node, 'postgres', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'and new ones are taken');

$node->stop('fast');
done_testing();
