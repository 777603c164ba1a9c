# Exactly once to Kafka when a standby is promoted and the old primary lives on:
# the newer one publishes, the older one stops.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = need_kafka();
my ($topic, $quiet) = (unique_topic('once'), unique_topic('quiet'));
topic_create($kafka, $_, 1) for $topic, $quiet;
my $old = outbox_node('old', streaming => 1);
outbox_install($old, 'shop', $kafka, exactly_once => 'true');

my $settled = 'SELECT backlog_events FROM outbox.stat_servers';

sub emit
{
	my ($node, $what, $from, $to) = @_;
	$node->safe_psql('shop', "SELECT count(outbox.emit('$topic', 'k', '$what' || g)) FROM generate_series($from, $to) g");
}

# Readers see a transaction soon after its commit.
my $expected = '';

sub arrived
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($last) = $expected =~ /(\w+)$/;
	my $seen;

	wait_until(sub { $seen = join ' ', map { $_->{value} } topic_read($kafka, $topic); return $seen =~ /\b$last$/ }, "event $last");
	is($seen, $expected, $name);
}

emit($old, 'a', 1, 20);
is_soon($old, 'shop', $settled, '0', 'the primary publishes');
$old->backup('backup');
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init_from_backup($old, 'backup', has_streaming => 1);
$new->start;
emit($old, 'a', 21, 40);
is_soon($old, 'shop', $settled, '0', 'and publishes');
# The standby has the events, and a position from before they were sent: the
# relay stands still between the commits in Kafka and here.
fault($old, 'relay.txn_committed=wait');
emit($old, 'a', 41, 60);
topic_wait($kafka, $topic, 60);
$old->wait_for_catchup($new);
$expected = join ' ', map { "a$_" } 1 .. 60;
arrived('what is committed in Kafka is not settled yet');

$new->promote;
$new->poll_query_until('shop', 'SELECT NOT pg_is_in_recovery()');
emit($new, 'b', 1, 20);
no_faults($new);
is_soon($new, 'shop', $settled, '0', 'the promoted standby publishes');
$expected .= join '', map { " b$_" } 1 .. 20;
arrived('it repeats nothing and leaves nothing out');

# The old one is told by its next transaction.
no_faults($old);
emit($old, 'c', 1, 20);
my $status = q(SELECT last_error FROM outbox.status WHERE kind = 'server' AND name = 'kafka');
is_soon($old, 'shop', $status, qr/a server that was promoted from this one publishes in its place, on timeline 2/, 'the old primary stops');
is($old->safe_psql('shop', q(SELECT state, health, waiting_for FROM outbox.status WHERE kind = 'server')), 'stopped|stopped|another server to stop', 'and says so in its status');
like(slurp_file($old->logfile), qr/WARNING:  stopped publishing to server "kafka"\n.*DETAIL:  a server that was promoted.*\n.*HINT:  Stop this server/, 'and says so in the log');
emit($new, 'b', 21, 40);
is_soon($new, 'shop', $settled, '0', 'the new one goes on');
$expected .= join '', map { " b$_" } 21 .. 40;

# Restarted, it looks before it claims the name: the new one is not disturbed.
my $fenced = () = slurp_file($new->logfile) =~ /relay cannot publish/g;
$old->restart;
is_soon($old, 'shop', $status, qr/a server that was promoted from this one/, 'restarted, the old primary stays so');
emit($old, 'c', 21, 40);
emit($new, 'b', 41, 60);
is_soon($new, 'shop', $settled, '0', 'the new one goes on');
$expected .= join '', map { " b$_" } 41 .. 60;
arrived('nothing of the old one, each of the new one once, in order');
is(() = slurp_file($new->logfile) =~ /relay cannot publish/g, $fenced, 'nobody was fenced off any more');
$old->stop;

# A part of the history is lost: what the lost part published cannot be known.
$new->backup('backup');
my $lagging = PostgreSQL::Test::Cluster->new('lagging');
$lagging->init_from_backup($new, 'backup', has_streaming => 1);
$lagging->append_conf('postgresql.conf', "primary_conninfo = ''");
$lagging->start;
emit($new, 'd', 1, 5);
is_soon($new, 'shop', $settled, '0', 'the primary publishes what no standby has');
$expected .= join '', map { " d$_" } 1 .. 5;
$lagging->promote;
$lagging->poll_query_until('shop', 'SELECT NOT pg_is_in_recovery()');
emit($lagging, 'e', 1, 5);
is_soon($lagging, 'shop', $settled, '0', 'a standby that lacks it is promoted and publishes');
$expected .= join '', map { " e$_" } 1 .. 5;
arrived('what went before is not repeated');
like(slurp_file($lagging->logfile), qr/not all that was published to server "kafka" is known here/, 'it says so');

# Two servers promoted from one: the first that publishes has the name.
emit($new, 'f', 1, 5);
is_soon($new, 'shop', $status, qr/a server that was promoted from this one publishes in its place, on timeline 3/, 'the former primary stops');
arrived('without publishing');
$new->safe_psql('shop', q(ALTER SERVER kafka OPTIONS (SET exactly_once 'false')));
is_soon($new, 'shop', q(SELECT state, health FROM outbox.status WHERE kind = 'server' AND backlog = 0), 'publishing|ok', 'told to do without exactly once, it goes on, and its status says so');

# A standby that lacks what the relay parked, though not the event itself, does not
# go by the place that passes it.
$lagging->safe_psql('shop', "SELECT outbox.emit('$quiet', 'k', 'before')");
is_soon($lagging, 'shop', $settled, '0', 'another topic');
$lagging->safe_psql('shop', "SELECT outbox.pause_topic('$quiet')");
fault($lagging, 'relay.before_read=wait');
$lagging->safe_psql('shop', "SELECT outbox.emit('$quiet', 'k', 'kept'), outbox.emit('$topic', 'k', 'g1')");
ok(wait_until(sub { slurp_file($lagging->logfile) =~ /fault point "relay.before_read"/ }, 'the fault point'), 'the relay has looked at the log');
$lagging->backup('parking');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init_from_backup($lagging, 'parking', has_streaming => 1);
$third->append_conf('postgresql.conf', "primary_conninfo = ''");
$third->start;
no_faults($lagging);
is_soon($lagging, 'shop', $settled, '0', 'it publishes the one and parks the other');
$third->promote;
$third->poll_query_until('shop', 'SELECT NOT pg_is_in_recovery()');
no_faults($third);
$third->safe_psql('shop', "SELECT outbox.resume_topic('$quiet')");
ok(wait_until(sub { (join ' ', map { $_->{value} } topic_read($kafka, $quiet)) =~ /^before kept/ }, 'the parked event'), 'what was parked is not lost');

$_->stop for $new, $lagging, $third;
done_testing();
