# What the applier does is of the time when it does it, not of that when its
# process began: for handlers, and for what is forgotten after a while.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node   = outbox_node('orders');
my $topic  = unique_topic('now');

topic_create($broker, $topic, 1);
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE noted (what text, at timestamptz DEFAULT now(), clock timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note(e outbox.event) RETURNS void LANGUAGE sql AS
'INSERT INTO public.noted SELECT e.value';
SELECT outbox.handle('note(outbox.event)', topic => '$topic');
END

for my $what (qw(first second))
{
	topic_write($broker, $topic, {key => $what, value => $what, headers => {id => $what}});
	is_soon($node, 'shop', "SELECT count(*) FROM noted WHERE what = '$what'", '1', "$what event is handled");
}
is( $node->safe_psql('shop', q(SELECT b.at > a.clock FROM noted a, noted b WHERE a.what = 'first' AND b.what = 'second')),
	't', 'now() has gone on for a handler');
is( $node->safe_psql('shop', q(SELECT i.seen_at > a.clock FROM noted a, outbox._inbox i WHERE a.what = 'first' AND i.event_id = 'second')),
	't', 'an event was seen when it came, so that it is not forgotten too early');

my $worker = $node->safe_psql('shop', q(SELECT backend_start < (SELECT clock FROM noted WHERE what = 'first') FROM pg_stat_activity WHERE backend_type = 'pg_outbox applier'));
is($worker, 't', 'one worker has done all that');

done_testing();
