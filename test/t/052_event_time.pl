# Timestamps of records are the producer's: whatever they say, events are applied,
# letters can be read, and the views answer for all subscriptions.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);    # a real one may refuse such records
my $node   = outbox_node('orders');

outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', slurp_file(dirname(__FILE__) . '/../modules/outbox_test_kafka/functions.sql'));
topic_create($broker, 'timed', 1);
$node->safe_psql('shop', <<'END');
CREATE TABLE r (id int PRIMARY KEY, version bigint NOT NULL);
CREATE TABLE times (id int, time timestamptz);
CREATE FUNCTION note(e outbox.event) RETURNS void LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
	INSERT INTO times SELECT (e.value::jsonb ->> 'id')::int, e.event_time;
END $$;
SELECT outbox.replicate('r', topic => 'timed');
SELECT outbox.handle('note(outbox.event)', topic => 'timed');
END

# Send a record for each time, its id counting from the first one given.
sub send_at
{
	my ($first, $value, @times) = @_;
	my $sql = "SELECT tk.producer_open('bootstrap.servers=$broker->{bootstrap}') \\g /dev/null\n";

	for my $i (0 .. $#times)
	{
		my $text = sprintf $value, $first + $i;
		$sql .= "SELECT tk.send('timed', '@{[$first + $i]}', '$text', NULL, $i, $times[$i]);\n";
	}
	$node->safe_psql('shop', $sql . "SELECT * FROM tk.reports(@{[scalar @times]});\nSELECT tk.producer_close();");
	return;
}

# 2024 in ms, in ns; the first millisecond behind the end of time; the largest number
my @times = ('1704067200000', '1704067200000000000', '9224318016000000', '9223372036854775807');

send_at(1, '{"id": %d, "version": 1}', @times);
is_soon($node, 'shop', 'SELECT count(*) FROM r', '4', 'a replica takes them all');
is_soon($node, 'shop', q(SELECT string_agg(id || ' ' || coalesce((time AT TIME ZONE 'UTC')::text, '-'), ', ' ORDER BY id) FROM times),
	'1 2024-01-01 00:00:00, 2 -, 3 -, 4 -', 'a handler is told of those that are times');
is($node->safe_psql('shop', 'SELECT name, applied, last_event_time FROM outbox.stat_subscriptions ORDER BY name'),
	"note|4|\nr|4|", 'figures of all subscriptions can be read');

send_at(5, '{"id": "x%d", "version": 1}', @times);
is_soon($node, 'shop', q(SELECT count(*), count(event_time) FROM outbox.dead_letters WHERE name = 'r'), '4|1', 'and letters');
is($node->safe_psql('shop', q(SELECT min(event_time) AT TIME ZONE 'UTC', max(event_time) AT TIME ZONE 'UTC' FROM outbox.dead_letters)),
	'2024-01-01 00:00:00|2024-01-01 00:00:00', 'with the time if there is one');
$node->safe_psql('shop', q(SELECT outbox.edit(id, replace(encode(value, 'escape'), 'x', ''), NULL) FROM outbox.dead_letters WHERE name = 'r';
SELECT outbox.redrive_all('r')));
is_soon($node, 'shop', 'SELECT count(*) FROM r', '8', 'which go through once they are mended');

send_at(9, '{"id": %d, "version": 1}', $times[0]);
is_soon($node, 'shop', q(SELECT last_event_time AT TIME ZONE 'UTC' FROM outbox.stat_subscriptions WHERE name = 'r'), '2024-01-01 00:00:00',
	'a time is shown again');

done_testing();
