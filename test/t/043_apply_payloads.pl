# Events that cannot be applied: each kind becomes a dead letter that says all
# that there is to say, in a batch whose other events are applied, and is applied
# once it is mended.  What is remembered of a deleted key lives as long as they.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('orders');
my $topic  = unique_topic('people');

topic_create($broker, $topic, 1);
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE teams (id int PRIMARY KEY);
CREATE TABLE people (id bigint PRIMARY KEY, name varchar(10) NOT NULL, age int CONSTRAINT grown CHECK (age > 0),
	born date, team int REFERENCES teams, version bigint NOT NULL);
SELECT outbox.replicate('people', topic => '$topic');
END

# A person as JSON, with members replaced or (undef) left out.
sub person
{
	my ($id, %other) = @_;
	my %member = (id => $id, name => qq("p$id"), age => 1, born => 'null', team => 'null', %other);

	return '{' . join(', ', map { qq("$_": $member{$_}) } sort grep { defined $member{$_} } keys %member) . '}';
}

# Write all while nobody reads, so that they are one batch.
sub in_one_batch
{
	my @records = @_;

	$node->safe_psql('shop', q(SELECT outbox.pause_subscription('people')));
	wait_until(sub { !defined worker_pid($node, 'shop', 'applier') }, 'the applier to leave');
	topic_write($broker, $topic, @records);
	$node->safe_psql('shop', q(SELECT outbox.resume_subscription('people')));
	return;
}

# ---------------------------------------------------------------------------
# Every kind (scenario 18)
# ---------------------------------------------------------------------------

# what it is, the value, SQLSTATE, message; further the record's key and headers
my @bad = (
	[ 'no JSON', 'no json at all', '22032', qr/not valid JSON/ ],
	[ 'cut off', '{"id": 100, "name": "x', '22032', qr/not valid JSON/ ],
	[ 'with something behind', person(100) . ' }', '22032', qr/not valid JSON/ ],
	[ 'empty', '', '22032', qr/not valid JSON/ ],
	[ 'an array', '[1]', '2203C', qr/not a JSON object/ ],
	[ 'the JSON null, which is not Kafka\'s', 'null', '2203C', qr/not a JSON object/ ],
	[ 'without its key', person(0, id => undef), '22004', qr/no value for key column "id"/, key => undef ],
	[ 'with a null key', person('null'), '22004', qr/no value for key column "id"/ ],
	[ 'without a column', person(100, age => undef), '42703', qr/lacks column "age"/ ],
	[ 'with a member twice', '{"id": 100, "id": 101, "name": "x", "age": 1, "born": null, "team": null}', '22030', qr/member "id" twice/ ],
	[ 'a key out of range', person('99999999999999999999'), '22003', qr/out of range/ ],
	[ 'a value out of range', person(100, age => '3000000000'), '22003', qr/out of range/ ],
	[ 'a date that is none', person(100, born => '"2024-02-30"'), '22008', qr/out of range/ ],
	[ 'a text that is too long', person(100, name => '"12345678901"'), '22001', qr/too long/ ],
	[ 'a number that is a text', person(100, age => '"young"'), '22P02', qr/invalid input syntax/ ],
	[ 'the character 0', person(100, name => '"a\u0000b"'), '22P05', qr/character \\u0000/ ],
	[ 'a lone surrogate', person(100, name => '"a\ud800b"'), '22032', qr/not valid JSON/ ],
	[ 'no UTF-8', person(100, name => qq("\xff\xfe")), '22021', qr/invalid byte sequence/ ],
	[ 'no UTF-8 in a member without column', person(100, more => qq("\xc3")), '22021', qr/invalid byte sequence/ ],
	[ 'nested too deeply', person(100, more => '[' x 100_000 . ']' x 100_000), '22032', qr/nested too deeply/ ],
	[ 'NULL where there must be a value', person(100, name => 'null'), '23502', qr/null value in column "name"/ ],
	[ 'against a check', person(100, age => '-1'), '23514', qr/check constraint "grown"/ ],
	[ 'an unknown operation', person(100), '22023', qr/unsupported operation "x"/, headers => { id => 1, op => 'x' } ],
	[ 'an operation that is no text', person(100), '22021', qr/invalid byte sequence/, headers => { id => 1, op => "\xfe" } ],
	[ 'a long operation, cut between two characters', person(100), '22023', qr/unsupported operation "x(\xc3\xa9){15}"/,
		headers => { id => 1, op => 'x' . "\xc3\xa9" x 20 } ],
	[ 'an impossible version', person(100), '22023', qr/invalid version "one"/, headers => { version => 'one', id => 1 } ],
	[ 'no version', person(100), '22023', qr/no version/, headers => { op => 'c' } ],
	[ 'a write without a value', undef, '22004', qr/operation "u" has no value/, key => '100', headers => { id => 1, op => 'u' } ],
	[ 'a delete of nobody knows what', undef, '22P02', qr/invalid input syntax/, key => 'key', headers => { id => 1, op => 'd' } ]);

my (@records, @neighbours);
for my $i (0 .. $#bad)
{
	my ($what, $value, $sqlstate, $message, %record) = @{ $bad[$i] };

	push @records, { key => "k$i", headers => { id => 1000 + $i, op => 'u', more => "\xfe" }, %record, value => $value, partition => 0 };
	push @neighbours, $i + 1;
	push @records, { value => person($i + 1, more => '{"unknown": [1]}'), headers => { id => 1000 }, partition => 0 };
}
in_one_batch(@records);
is_soon($node, 'shop', q(SELECT next_offset, lag FROM outbox.stat_subscriptions), scalar(@records) . '|0', 'the offset has moved over all of them');
is($node->safe_psql('shop', q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM people)), "@neighbours", 'those between them are applied');
is($node->safe_psql('shop', q(SELECT received, applied, dead, parked FROM outbox.stat_subscriptions)),
	join('|', scalar @records, scalar @bad, scalar @bad, 0), 'and all are counted');

sub hex_of { return defined $_[0] ? unpack('H*', $_[0]) : ''; }

for my $i (0 .. $#bad)
{
	my ($what, $value, $sqlstate, $message) = @{ $bad[$i] };
	my $record = $records[ 2 * $i ];
	my $headers = join ', ', map { '["' . $_ . '", "' . ($record->{headers}{$_} =~ s/([\x80-\xff])/sprintf '\\\\%o', ord $1/ger) . '"]' } sort keys %{ $record->{headers} };
	my @letter = split /\n/, $node->safe_psql('shop', "SELECT state || chr(10) || sqlstate || chr(10) || attempts || chr(10)
		|| coalesce(encode(key, 'hex'), '') || chr(10) || coalesce(encode(value, 'hex'), '') || chr(10) || headers || chr(10) || message
		FROM outbox.dead_letters WHERE kafka_offset = 2 * $i");

	is_deeply([ @letter[ 0 .. 5 ] ], [ 'dead', $sqlstate, 1, hex_of($record->{key}), hex_of($value), "[$headers]" ],
		"$what: a dead letter with the reason, and everything as it came");
	like($letter[6], $message, "$what: which is said");
	is($node->safe_psql('shop', "SELECT bool_and(convert_from(convert_to(t, 'SQL_ASCII'), 'UTF8') = t)
		FROM outbox._dead_letter, unnest(ARRAY[message, detail, context]) AS t WHERE kafka_offset = 2 * $i AND t IS NOT NULL"),
		't', "$what: in texts that are texts");
}

# Each is mended in its own way: here by the right value, under a version of its own.
$node->safe_psql('shop', q(SELECT outbox.edit(id, format('{"id": %s, "name": "mended", "age": 1, "born": null, "team": null}', 200 + kafka_offset / 2),
		headers => '{"id": "1"}'), outbox.redrive(id) FROM outbox.dead_letters));
is_soon($node, 'shop', q(SELECT count(*), string_agg(DISTINCT state, ' '), min(attempts), max(attempts) FROM outbox.dead_letters),
	scalar(@bad) . '|done|2|2', 'mended and driven again they are done');
is($node->safe_psql('shop', q(SELECT count(*), min(id), max(id) FROM people WHERE name = 'mended')),
	join('|', scalar @bad, 200, 200 + $#bad), 'and applied');

# ---------------------------------------------------------------------------
# A foreign key: not the event's fault
# ---------------------------------------------------------------------------

in_one_batch(
	{ value => person(300, team => 7), headers => { id => 1 }, partition => 0, key => 'k' },
	{ value => person(301), headers => { id => 1 }, partition => 0 });
is_soon($node, 'shop', q(SELECT count(*) FROM people WHERE id = 301), '1', 'the one behind is applied');
is($node->safe_psql('shop', q(SELECT state, sqlstate, convert_from(value, 'UTF8'), convert_from(key, 'UTF8'), message ~ 'foreign key constraint' FROM outbox.dead_letters WHERE state <> 'done')),
	'parked|23503|' . person(300, team => 7) . '|k|t', 'the one before is parked with what it waits for');
$node->safe_psql('shop', 'INSERT INTO teams VALUES (7)');
is_soon($node, 'shop', 'SELECT count(*) FROM people WHERE id = 300', '1', 'and applied when that is there');

# ---------------------------------------------------------------------------
# A tombstone outlives the letters of its key
# ---------------------------------------------------------------------------

sub deleted
{
	my ($id, $version) = @_;
	return { key => $id, headers => { id => $version, op => 'd' }, partition => 0 };
}

# Let all tombstones be old, and forget what may be forgotten.
sub remembered
{
	$node->safe_psql('shop', q(UPDATE outbox._tombstone SET deleted_at = now() - interval '1 year'));
	$node->safe_psql('shop', 'SELECT outbox.forget_expired()');
	return $node->safe_psql('shop', q(SELECT string_agg(key, ' ' ORDER BY key) FROM outbox._tombstone));
}

fault($node, 'letter-retry=wait');
in_one_batch(
	{ key => 400, value => person(400, age => '"x"'), headers => { id => 10 }, partition => 0 },
	{ value => person(401, team => 8), headers => { id => 10 }, partition => 0 },
	(map { deleted($_, 20) } 400, 401, 402));
is_soon($node, 'shop', 'SELECT count(*) FROM outbox._tombstone', '3', 'three keys are deleted');
is($node->safe_psql('shop', q(SELECT string_agg(state, ' ' ORDER BY id) FROM outbox.dead_letters WHERE state <> 'done')), 'dead parked',
	'of two of them there are older events that could not be applied');
is(remembered(), '400 401', 'those two are not forgotten');
no_faults($node);
is_soon($node, 'shop', q(SELECT count(*) FROM outbox.dead_letters WHERE state = 'parked'), '0', 'the parked one is tried again, and is stale');
is(remembered(), '400', 'then its key is forgotten');

my $letter = $node->safe_psql('shop', q(SELECT id FROM outbox.dead_letters WHERE state = 'dead'));
$node->safe_psql('shop', qq(SELECT outbox.edit($letter, '${\ person(400)}')));
is(remembered(), '400', 'the other one is not while its letter is mended');
$node->safe_psql('shop', "SELECT outbox.redrive($letter)");
is_soon($node, 'shop', "SELECT state FROM outbox.dead_letters WHERE id = $letter", 'done', 'it is driven again');
is(remembered(), '', 'then that key is forgotten, too');
is($node->safe_psql('shop', 'SELECT count(*) FROM people WHERE id >= 400'), '0', 'and the rows have stayed deleted');

topic_write($broker, $topic, { value => 'whose?', headers => { id => 10 }, partition => 0 }, deleted(500, 20));
is_soon($node, 'shop', q(SELECT (SELECT count(*) FROM outbox._tombstone), count(*) FROM outbox.dead_letters WHERE state = 'dead'), '1|1',
	'an event of nobody knows which key');
is(remembered(), '500', 'could be of any: none is forgotten');
$node->safe_psql('shop', q(SELECT outbox.discard(id, 'nobody''s') FROM outbox.dead_letters WHERE state = 'dead'));
is(remembered(), '', 'until it is given up');
$node->stop;

done_testing();
