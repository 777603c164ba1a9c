# Names of subscriptions are public: nobody gets at events of others by using one.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders');

outbox_install($node, 'shop', $broker);
my $topic = unique_topic('orders');
topic_create($broker, $topic, 1);
$node->safe_psql('shop', <<'END');
CREATE ROLE app;
GRANT USAGE ON SCHEMA outbox TO app;
GRANT EXECUTE ON FUNCTION outbox.first_time(text, text, text) TO app;
CREATE TABLE handled (id text);
CREATE FUNCTION handler(e outbox.event) RETURNS void LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
	INSERT INTO handled VALUES (e.id);
END $$;
END

# ---------------------------------------------------------------------------
# The inbox
# ---------------------------------------------------------------------------

is($node->safe_psql('shop', qq(SET ROLE app; SELECT outbox.first_time('handler', '$topic', '1'), outbox.first_time('handler', '$topic', '1'))),
	't|f', 'an application has seen the event');
$node->safe_psql('shop', "SELECT outbox.handle('handler(outbox.event)', topic => '$topic')");
topic_write($broker, $topic, map { { key => 'k', value => 'v', headers => { id => $_ } } } 1, 2, 2);
is_soon($node, 'shop', 'SELECT received, applied, duplicate FROM outbox.stat_subscriptions', '3|2|1', 'the handler of the same name has not');
is($node->safe_psql('shop', q(SELECT string_agg(id, ',' ORDER BY id) FROM handled)), '1,2', 'and gets it once');
is($node->safe_psql('shop', qq(SET ROLE app; SELECT outbox.first_time('handler', '$topic', '2'))), 't', 'nor is it the other way round');

done_testing();
