# An outbox table that is there already, from the application's INSERT to the
# message that Debezium's outbox event router would send, and to a handler.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $type   = unique_topic('order');
topic_create($broker, "outbox.event.$type", 1);
my $node = outbox_node('main');
outbox_install($node, 'shop', $broker);

my @id = map { sprintf '%08d-0000-4000-8000-000000000000', $_ } 0 .. 3;
$node->safe_psql('shop', <<"END");
CREATE TABLE outboxevent (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb);
SELECT outbox.adopt('outboxevent', headers => '{type}');
BEGIN;
INSERT INTO outboxevent VALUES ('$id[0]', '$type', '42', 'OrderPaid', '{"a": 1}');
INSERT INTO outboxevent VALUES ('$id[1]', '$type', '42', 'OrderSent', NULL);
DELETE FROM outboxevent;
COMMIT;
BEGIN;
INSERT INTO outboxevent VALUES ('$id[2]', '$type', '43', 'Never', '{}');
ROLLBACK;
CREATE TABLE handled (n int GENERATED ALWAYS AS IDENTITY, id text, type text, key text, value text);
CREATE FUNCTION on_order(e outbox.event) RETURNS void LANGUAGE sql AS
'INSERT INTO public.handled (id, type, key, value) VALUES (e.id, e.type, e.key, e.value)';
SELECT outbox.handle('on_order(outbox.event)', topic => 'outbox.event.$type');
END

is_soon($node, 'shop', q(SELECT string_agg(concat_ws('|', id, type, key, coalesce(value, 'null')), ' ' ORDER BY n) FROM handled),
	"$id[0]|OrderPaid|42|{\"a\": 1} $id[1]|OrderSent|42|null", 'a handler gets them in order');
my @events = topic_read($broker, "outbox.event.$type");
is(scalar @events, 2, 'what rolled back is not sent');
is_deeply($events[0]{header_list}, [id => $id[0], type => 'OrderPaid'], 'headers are the id of the row, and what was asked for');
is($events[0]{key}, '42', 'the key is the id of the aggregate');
is($events[0]{value}, '{"a": 1}', 'the value is the payload');
is($events[1]{value}, undef, 'no payload is no value');

# The same event, sent again: the inbox knows the row's id.
topic_write($broker, "outbox.event.$type", {key => '42', value => '{"a": 1}', headers => [id => $id[0], type => 'OrderPaid']});
$node->safe_psql('shop', "INSERT INTO outboxevent VALUES ('$id[3]', '$type', '42', 'Last', '{}')");
is_soon($node, 'shop', q(SELECT string_agg(type, ' ' ORDER BY n) FROM handled), 'OrderPaid OrderSent Last', 'a repetition is not handled again');

done_testing();
