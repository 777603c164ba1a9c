# A topic that the server's user may not even ask for is stopped like one that
# it may not write to, others flow, and it goes on once the right is given.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $kafka = outbox_kafka('--sasl', 'joe:Geheim');
my $node  = outbox_node('main');
outbox_install($node, 'shop', $kafka->{sasl}, 'security.protocol' => 'sasl_plaintext', 'sasl.mechanism' => 'PLAIN');
$node->safe_psql('shop', q(CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ("sasl.username" 'joe', "sasl.password" 'Geheim')));
topic_create($kafka, $_, 1) for qw(allowed unseen unwritable);
kafka_admin($kafka, qw(allow joe write allowed));
kafka_admin($kafka, qw(allow joe describe unwritable));

sub values_of
{
	return join ' ', map { $_->{value} } @_;
}

$node->safe_psql('shop', <<'END');
SELECT outbox.emit('unseen', 'k', g::text) FROM generate_series(1, 3) g;
SELECT outbox.emit('unwritable', 'k', g::text) FROM generate_series(1, 3) g;
SELECT outbox.emit('allowed', 'k', g::text) FROM generate_series(1, 3) g;
END
is(values_of(topic_wait($kafka, 'allowed', 3)), '1 2 3', 'what is allowed flows');
for my $topic (qw(unwritable unseen))
{
	is_soon($node, 'shop', "SELECT state, reason ~* 'authorization', parked_events FROM outbox.stat_topics WHERE topic = '$topic'",
		'stopped|t|3', "topic $topic is stopped, with the reason");
	kafka_admin($kafka, 'allow', 'joe', 'write', $topic);
	is(values_of(topic_wait($kafka, $topic, 3)), '1 2 3', "topic $topic goes on once it is allowed");
}

$node->stop('fast');
done_testing();
