# Events that the brokers refused are dead letters; redrive sends them again, as
# they were or as they were edited.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

need_kafka();
my $broker = outbox_broker();
my $topic  = unique_topic('letters');
topic_create($broker, $topic, 1);
kafka_admin($broker, 'config', $topic, 'max.message.bytes=2000');
my $node = outbox_node('main');
outbox_install($node, 'shop', $broker);

$node->safe_psql('shop', <<"END");
CREATE TABLE doc (id int PRIMARY KEY, body text);
SELECT outbox.publish('doc', topic => '$topic', event_type => 'Doc', initial => 'none');
-- random, so that it does not get smaller on the way
CREATE FUNCTION noise(n int) RETURNS text LANGUAGE sql AS \$\$SELECT string_agg(md5(random()::text), '') FROM generate_series(1, n / 32)\$\$;
INSERT INTO doc VALUES (1, 'small');
INSERT INTO doc SELECT i, noise(3200) FROM generate_series(2, 4) i;
INSERT INTO doc VALUES (5, 'small');
END
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE direction = 'out' AND state = 'dead'), '3', 'three are refused');
my @records = topic_wait($broker, $topic, 2);
is(join(' ', map { $_->{key} } @records), '1 5', 'others are sent');
is($node->safe_psql('shop', q(SELECT string_agg((SELECT string_agg(h ->> 0, ',' ORDER BY n) FROM jsonb_array_elements(headers) WITH ORDINALITY AS x(h, n)), ' ') FROM outbox.dead_letters)),
	'type,id,op type,id,op type,id,op', 'a letter has all its headers');
my %id = map { split /\|/ } split /\n/, $node->safe_psql('shop', q(SELECT convert_from(key, 'UTF8'), event_id FROM outbox.dead_letters));

# Again, as it is: refused again, which makes another letter.
my ($first) = split /\n/, $node->safe_psql('shop', 'SELECT min(id) FROM outbox.dead_letters');
$node->safe_psql('shop', "BEGIN; SELECT outbox.redrive($first); ROLLBACK");
is($node->safe_psql('shop', "SELECT state FROM outbox.dead_letters WHERE id = $first"), 'dead', 'what rolls back is not driven');
$node->safe_psql('shop', "SELECT outbox.redrive($first)");
is_soon($node, 'shop', q(SELECT string_agg(state, ' ' ORDER BY id) FROM outbox.dead_letters), 'done dead dead dead', 'refused again');
my ($rc, $out, $err) = $node->psql('shop', "SELECT outbox.redrive($first)");
like($err, qr/dead letter $first is settled already/, 'a settled letter is not driven');

# Edited, or with a larger limit
$node->safe_psql('shop', q(SELECT outbox.edit(max(id), '{"id":2,"body":"cut"}'), outbox.redrive(max(id)) FROM outbox.dead_letters));
@records = topic_wait($broker, $topic, 3);
is("$records[2]{key} $records[2]{value}", '2 {"id":2,"body":"cut"}', 'an edited letter is sent');
is_deeply($records[2]{headers}, {id => $id{2}, op => 'c', type => 'Doc'}, 'with its own headers');
kafka_admin($broker, 'config', $topic, 'max.message.bytes=100000');
is($node->safe_psql('shop', "SELECT outbox.redrive_all('$topic')"), '2', 'all letters of the topic');
@records = topic_wait($broker, $topic, 5);
is(join(' ', map { $_->{key} } @records), '1 5 2 3 4', 'are sent in order');
is("$records[3]{headers}{id} $records[4]{headers}{id}", "$id{3} $id{4}", 'with the ids they had');
is($node->safe_psql('shop', q(SELECT count(*) FROM outbox.dead_letters WHERE state <> 'done')), '0', 'none is left');

# Rights
$node->safe_psql('shop', 'CREATE ROLE carol; GRANT EXECUTE ON FUNCTION outbox.redrive_all, outbox.redrive TO carol');
($rc, $out, $err) = $node->psql('shop', "SET ROLE carol; SELECT outbox.redrive_all('$topic')");
like($err, qr/permission denied for dead letters of topics/, 'only the owner drives letters of topics');

done_testing();
