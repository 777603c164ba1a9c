# Nasty texts on the wire: keys, values, headers, event types and the names of
# subscriptions go to a broker and come back as they were, by relay, applier and a
# handler; what the workers log of them forges no line of the log.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my ($rows, $events) = map { unique_topic($_) } qw(rows events);
topic_create($broker, $_, 1) for $rows, $events;
my $node = outbox_node('main');
outbox_install($node, 'postgres', $broker);

$node->safe_psql('postgres', <<"END");
CREATE TABLE nasty (n int PRIMARY KEY, s text);
INSERT INTO nasty SELECT n, s FROM unnest(ARRAY['''', '"', '\\', '\\''', E'a\\nb', E'\\r\\n\\t\\x01\\x1f\\x7f', '\$\$', '\$q\$', '; DROP TABLE nasty; --', '''); DROP TABLE nasty; --',
	'%s%n%d%m%', '%', '\${x}`id`\$(id)', 'ünïcödé', U&'\\+01F600', U&'\\202Etxt', '{', '}', '*', ' ', ' a ', 'a,b', 'NULL', 'null', 'true', '0', '"a"', '\\u0041', '\\N',
	'-- ', '/*', '[]', '[1]', repeat('é', 1000), E'\\\\x41', ':a', '?', 'a=b', E'\\ufeff', 'A', 'a']) WITH ORDINALITY AS t (s, n);
CREATE TABLE source (k text PRIMARY KEY, v text, "; DROP TABLE nasty; --" text, "%s'\\""" text);
CREATE TABLE replica (LIKE source INCLUDING ALL, version bigint NOT NULL);
CREATE TABLE got (key text, value text, type text, headers jsonb);
CREATE FUNCTION "h'""; --%s"(e outbox.event) RETURNS void LANGUAGE sql AS 'INSERT INTO public.got VALUES (e.key, e.value, e.type, e.headers)';
SELECT outbox.publish('source', topic => '$rows', initial => 'none');
SELECT outbox.replicate('replica', topic => '$rows', name => E'x''"\\\\%s\\n2026-01-01 00:00:00.000 UTC [1] FATAL:  forged');
SELECT outbox.handle('"h''""; --%s"(outbox.event)', topic => '$events', name => 'h');
INSERT INTO source SELECT s, s, s, s FROM nasty;
SELECT outbox.emit('$events', s, s, event_type => s, headers => jsonb_build_object('h' || s, s)) FROM nasty;
END
is_soon($node, 'postgres', 'SELECT count(*) FROM replica', 41, 'rows arrive');
is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT * FROM source EXCEPT SELECT k, v, "; DROP TABLE nasty; --", "%s\'\\""" FROM replica) t'), '0', 'as they were');
is_soon($node, 'postgres', 'SELECT count(*) FROM got', 41, 'events arrive');
is($node->safe_psql('postgres', q(SELECT string_agg(n::text, ' ') FROM nasty WHERE NOT EXISTS (SELECT FROM got WHERE key = s AND value = s AND type = s AND headers ->> ('h' || s) = s))),
	'', 'as they were');
is(join(' ', sort map { $_->{key} eq $_->{value} ? () : $_->{key} } topic_read($broker, $events)), '', 'other readers see the same');

# Deletes, by their keys alone.
$node->safe_psql('postgres', 'DELETE FROM source');
is_soon($node, 'postgres', 'SELECT count(*) FROM replica', 0, 'rows go');

# What stops a subscription is logged with its name, what an event says with it.
topic_write($broker, $rows, { key => 'x', value => '{"k": "a\nb FATAL:  forged %s%n"}' });
$node->safe_psql('postgres', "SELECT outbox.replicate('replica', topic => '$rows', on_error => 'stop', name => name) FROM outbox.subscriptions WHERE name <> 'h'");
topic_write($broker, $rows, { key => 'y', value => "{\n2026-01-01 00:00:00.000 UTC [1] FATAL:  forged %s%n" });
is_soon($node, 'postgres', q(SELECT state FROM outbox.subscriptions WHERE name <> 'h'), 'stopped', 'a subscription stops');
is_soon($node, 'postgres', q(SELECT count(*) FROM outbox.status WHERE kind = 'subscription' AND last_error <> ''), '1', 'and says why');
my @forged = grep { /^\S.*forged/ && !/WARNING|STATEMENT|ERROR/ } split /\n/, slurp_file($node->logfile);
is("@forged", '', 'no line of the log is forged');
like(slurp_file($node->logfile), qr/^\t2026-01-01.*forged/m, 'the text is in the log, on lines that go on');

$node->stop;
done_testing();
