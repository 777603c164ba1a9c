# Exactly once while brokers do not know who coordinates the relay's group, as soon
# after their start: it asks again, and does not die.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $topic  = unique_topic('events');
topic_create($broker, $topic, 1);
my $node = outbox_node('main');
my @errors = qw(NOT_COORDINATOR COORDINATOR_NOT_AVAILABLE COORDINATOR_LOAD_IN_PROGRESS);

# How many threads, sockets and pipes a process has.
sub holds
{
	my ($pid) = @_;
	my @fds = grep { (readlink($_) // '') =~ /^(?:socket|pipe):/ } glob "/proc/$pid/fd/*";
	return (() = glob "/proc/$pid/task/*") + @fds;
}

mock_control($broker, 'errors', 'OffsetFetch', $_, 2) for @errors;
outbox_install($node, 'shop', $broker, exactly_once => 'on');
$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', 'one'::text)");
is(join(' ', map { $_->{value} } topic_wait($broker, $topic, 1)), 'one', 'no coordinator at first');

# The broker that is asked has the client look for the coordinator first.
mock_control($broker, 'errors', 'FindCoordinator', $_, 1) for @errors;
mock_control($broker, 'errors', 'OffsetFetch',     $_, 1) for @errors;
my $holds = holds(wait_for_worker($node, 'shop', 'relay'));
kill_worker($node, 'shop', 'relay', 'TERM');
$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', 'two'::text)");
is(join(' ', map { $_->{value} } topic_wait($broker, $topic, 2)), 'one two', 'nor when the relay comes back');
my $pid = wait_for_worker($node, 'shop', 'relay');
# one connection more or less is the library's; another client has at least five of these
ok(wait_until(sub { holds($pid) <= $holds + 1 }, sub { "it had $holds, then " . holds($pid) }), 'whom it asked is gone');
unlike(slurp_file($node->logfile), qr/terminated by signal 11/, 'nothing has crashed');

# What cannot pass is said.
mock_control($broker, 'errors', 'OffsetFetch', 'GROUP_AUTHORIZATION_FAILED', 1000);
kill_worker($node, 'shop', 'relay', 'TERM');
is_soon($node, 'shop', q(SELECT last_error FROM outbox.status WHERE kind = 'server'), qr/authorization failed/i, 'a group that it may not see');
mock_control($broker, 'clear', 'OffsetFetch');
$node->safe_psql('shop', "SELECT outbox.emit('$topic', 'k', 'three'::text)");
is(join(' ', map { $_->{value} } topic_wait($broker, $topic, 3)), 'one two three', 'until it may');

my $begin = time;
mock_control($broker, 'errors', 'OffsetFetch', 'NOT_COORDINATOR', 1000);
kill_worker($node, 'shop', 'relay', 'TERM');
wait_for_worker($node, 'shop', 'relay');
$node->stop('fast');
cmp_ok(time - $begin, '<', 5, 'the server stops while it asks');
done_testing();
