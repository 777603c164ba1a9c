# A subscription that ends and another of its name, in one transaction: the worker
# goes on with the other, its topic, its target and its letters.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node   = outbox_node('orders');
my ($old, $new) = map { unique_topic($_) } qw(old new);

topic_create($broker, $_, 1) for $old, $new;
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE first (id int PRIMARY KEY, version bigint NOT NULL);
CREATE TABLE second (id int PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.replicate('first', topic => '$old', name => 's');
END

sub row
{
	my ($id) = @_;
	return {key => "$id", value => qq({"id": $id, "version": 1})};
}

topic_write($broker, $old, row(1), row(2), row(3));
is_soon($node, 'shop', 'SELECT count(*) FROM first', '3', 'one subscription is at work');
topic_write($broker, $new, row(11), row(12));
$node->safe_psql('shop', "BEGIN; SELECT outbox.unsubscribe('s'); SELECT outbox.replicate('second', topic => '$new', name => 's'); COMMIT");
topic_write($broker, $old, row(4));
topic_write($broker, $new, row(13), {key => '14', value => '{"id": "x", "version": 1}'});
is_soon($node, 'shop', q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM second), '11 12 13', 'the other one reads its topic, from the beginning');
is_soon($node, 'shop', q(SELECT count(*) FROM outbox._dead_letter d JOIN outbox._subscription s ON s.id = d.subscription WHERE s.name = 's'),
	'1', 'and has its letters');
is($node->safe_psql('shop', 'SELECT count(*) FROM first'), '3', 'the former one has ended');

# What one that has ended waited for is forgotten.
$node->safe_psql('shop', <<"END");
CREATE SERVER silent FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE TABLE third (id int PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.replicate('third', topic => '$new', server => 'silent');
END
is_soon($node, 'shop', 'SELECT string_agg(subscription, \',\') FROM outbox._waiting', 'third', 'one waits for its server');
$node->safe_psql('shop', "SELECT outbox.unsubscribe('third')");
is_soon($node, 'shop', 'SELECT count(*) FROM outbox._waiting', '0', 'nothing is left of its waiting');

done_testing();
