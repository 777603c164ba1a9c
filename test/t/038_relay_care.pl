# How the relay meets what its surroundings do: settings of its database,
# options of servers, topics paused and resumed, failures that are over.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node   = outbox_node('main');
my $relay  = q(backend_type = 'pg_outbox relay' AND datname =);

sub emit
{
	my ($db, $topic, $value) = @_;
	$node->safe_psql($db, "SELECT outbox.emit('$topic', 'k', '$value')");
	return;
}

sub values_in
{
	my ($topic) = @_;
	return join ' ', map { $_->{value} } topic_read($broker, $topic);
}

# ---------------------------------------------------------------------------
# Failures that are over
# ---------------------------------------------------------------------------

outbox_install($node, 'again', $broker);
emit('again', 'again', 0);
topic_wait($broker, 'again', 1);
for my $round (1 .. 10)
{
	mock_control($broker, 'errors', 'Produce', 'CLUSTER_AUTHORIZATION_FAILED', 1);
	emit('again', 'again', $round);
	ok(wait_for_sql($node, 'again', "SELECT settled_events > $round FROM outbox.stat_servers", 't', 12),
		"a fatal error after a delivery costs little ($round)");
}

$node->stop('fast');
done_testing();
