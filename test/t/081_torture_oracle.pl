# The oracle of "make torture" is to be believed: with a history, a Kafka and
# replicas that agree it finds nothing, and each way of not agreeing is found for
# what it is, and for nothing else.
#
# No broker and no extension here: what would be read from them is made up.

use strict;
use warnings FATAL => 'all';

use File::Temp;
use FindBin;
use lib "$FindBin::RealBin/../torture", "$FindBin::RealBin/../../scripts";
use OutboxRun;
use Test::More;
use Torture::Oracle;
use Torture::Schedule;
use Torture::Service;
use Torture::Verdict;

chomp(my $bindir = `'${\($ENV{PG_CONFIG} // 'pg_config')}' --bindir`);
my $dir = File::Temp->newdir('obtXXXXXX', DIR => '/tmp');
my %world = (work => "$dir", log => "$dir", bindir => $bindir, tree => "$FindBin::RealBin/../..");
my $server = Torture::Service->new('oracle', world => \%world);
my $oracle = Torture::Oracle->new($server);

END { my $status = $?; $server->stop('immediate') if $server; stop_children(); $? = $status }

$server->init->start or BAIL_OUT('the server does not start');
$oracle->begin($world{tree});

# ---------------------------------------------------------------------------
# All is well
# ---------------------------------------------------------------------------

# Ten transactions, each of which writes every one of six keys twice, deletes the
# sixth at last, and emits; what it made of a key in the end is what matters.  In Kafka
# both events of a key say what it was in the end.
$server->must(<<'END');
INSERT INTO history (seq, era, xid, tbl, key, op, rev, n, content)
SELECT x * 100 + k * 2 + i, '1', 500 + x, 'doc', k, CASE WHEN k = 6 AND i = 2 THEN 'd' ELSE 'w' END::"char",
	x * 100 + k * 2 + i, CASE WHEN k = 6 THEN i ELSE (x - 1) * 2 + i END,
	CASE WHEN k <> 6 OR i = 1 THEN jsonb_build_object('id', k, 'body', md5('b' || x - 1 || i) || ' 3',
		'rev', x * 100 + k * 2 + i, 'n', CASE WHEN k = 6 THEN i ELSE (x - 1) * 2 + i END) END
FROM generate_series(1, 10) AS x, generate_series(1, 6) AS k, generate_series(1, 2) AS i
UNION ALL
SELECT x * 100 + 90 + i, '1', 500 + x, 'event', '7', 'w', x * 100 + 90 + i, NULL, jsonb_build_object('id', 7, 'rev', x * 100 + 90 + i)
FROM generate_series(1, 10) AS x, generate_series(1, 2) AS i;

INSERT INTO raw
SELECT h.tbl, h.key::int % 3, h.seq, h.key,
	'id=' || 10000 + h.seq || CASE WHEN h.tbl = 'doc' THEN ',op=' || CASE WHEN h.key = '6' THEN 'd' ELSE 'u' END || ',txid=' || h.xid ELSE '' END
	|| ',correlation_id=1',
	CASE WHEN h.key = '6' THEN -1 ELSE 1 END,
	CASE WHEN h.key <> '6' THEN CASE WHEN h.tbl = 'doc' THEN e.content || jsonb_build_object('body', 'b' || h.xid - 501 || 2) ELSE h.content END::text END
FROM history AS h JOIN expected AS e USING (tbl, key, era, xid);
-- a copy of a row, long after
INSERT INTO raw SELECT tbl, part, 5000, key, 'id=20000,op=r,version=10', len, value FROM raw WHERE key = '2' AND off = 1006;

INSERT INTO image SELECT side, tbl, key, content FROM expected, (VALUES ('source'), ('replica')) AS s (side)
WHERE tbl = 'doc' AND xid = 510 AND op = 'w';
INSERT INTO handled SELECT 10000 + seq, rev FROM history WHERE tbl = 'event';
END

# What the oracle says after a change to all this, which is then undone.
sub figures_after
{
	my ($change) = @_;
	my $select = join q( || ' ' || ), map { "(SELECT CASE WHEN count(*) > 0 THEN '$_ ' || count(*) ELSE '' END FROM $_)" } @Torture::Oracle::FAULTS, 'repeated';
	my $answer = $server->must("BEGIN; $change; CALL digest_records(); SELECT $select; ROLLBACK");

	return join ' ', split ' ', $answer;
}

is(figures_after('SELECT 1 WHERE false'), '', 'where all agree nothing is wrong');

# ---------------------------------------------------------------------------
# Something is not
# ---------------------------------------------------------------------------

my $in_kafka = q(tbl = 'doc' AND key = '3');
for my $case (
	[ 'both events of a change are missing', "DELETE FROM raw WHERE $in_kafka AND off IN (507, 508)", 'lost 1' ],
	[ 'one of two events of one change is missing', "DELETE FROM raw WHERE $in_kafka AND off = 507", '' ],
	[ 'an emitted event is missing', q(DELETE FROM raw WHERE tbl = 'event' AND off = 591; DELETE FROM handled WHERE rev = 591), 'lost 1' ],
	[ 'a delete is missing', q(DELETE FROM raw WHERE key = '6' AND off BETWEEN 500 AND 599), 'lost 1' ],
	[ 'everything of a transaction is missing', q(DELETE FROM raw WHERE off BETWEEN 500 AND 599; DELETE FROM handled WHERE rev BETWEEN 500 AND 599), 'lost 8' ],
	[ 'a transaction was never committed', q(DELETE FROM history WHERE xid = 505), 'phantom 14 account_wrong 5' ],
	[ 'a row has contents that nobody wrote', qq(UPDATE raw SET value = replace(value, 'b42', 'b4x') WHERE $in_kafka AND off = 507), 'phantom 1' ],
	[ 'a row was deleted by nobody', q(INSERT INTO raw VALUES ('doc', 0, 6000, '3', 'id=30000,op=d,txid=510,correlation_id=1', -1)), 'phantom 1 wrong 1' ],
	[ 'a copy brought a row that nobody wrote', q(UPDATE raw SET value = replace(value, 'b92', 'c92') WHERE off = 5000), 'phantom 1' ],
	[ 'an event of another era', qq(UPDATE raw SET headers = replace(headers, 'correlation_id=1', 'correlation_id=2') WHERE $in_kafka AND off = 507), 'phantom 1' ],
	[ 'the last event of a change is not its last state',
		qq(UPDATE raw SET value = (SELECT value::jsonb || jsonb_build_object('rev', 507, 'n', 9, 'body', 'b41') FROM raw WHERE $in_kafka AND off = 508) WHERE $in_kafka AND off = 508), 'wrong 1' ],
	[ 'two changes of a key come in the other order',
		qq(UPDATE raw SET value = o.value, headers = regexp_replace(raw.headers, 'txid=[0-9]+', substring(o.headers FROM 'txid=[0-9]+'))
			FROM raw AS o WHERE raw.tbl = 'doc' AND raw.key = '3' AND raw.off IN (507, 508, 607, 608) AND o.tbl = 'doc' AND o.key = '3'
			AND o.off = CASE WHEN raw.off < 600 THEN raw.off + 100 ELSE raw.off - 100 END), 'disorder 1' ],
	[ 'a change comes later than the next one', qq(UPDATE raw SET off = 650 WHERE $in_kafka AND off = 507), 'disorder 2' ],
	[ 'a version below that of the change before', qq(UPDATE raw SET headers = replace(headers, 'id=10507', 'id=10401') WHERE $in_kafka AND off = 507), 'disorder 1' ],
	[ 'a stretch is there again', qq(INSERT INTO raw SELECT tbl, part, off + 3000, key, headers, len, value FROM raw WHERE $in_kafka AND off > 800), 'repeated 6' ],
	[ 'an id has two contents', qq(INSERT INTO raw SELECT tbl, part, off + 3000, key, headers, len, replace(value, 'b42', 'b41') FROM raw WHERE $in_kafka AND off = 508), 'reused 1 repeated 1' ],
	[ 'two keys have one id', qq(INSERT INTO raw SELECT tbl, part, off + 3000, '4', headers, len, value FROM raw WHERE $in_kafka AND off = 508), 'reused 1 repeated 1' ],
	[ 'a replica lacks a row', q(DELETE FROM image WHERE side = 'replica' AND key = '3'), 'stale 1' ],
	[ 'a replica has a row too many', q(INSERT INTO image VALUES ('replica', 'doc', '9', '{"id": 9}')), 'stale 1' ],
	[ 'a replica has an older row', q(UPDATE image SET content = (SELECT content FROM expected WHERE key = '3' AND xid = 509) WHERE side = 'replica' AND key = '3'), 'stale 1' ],
	[ 'an event was handled twice', q(INSERT INTO handled SELECT * FROM handled LIMIT 1), 'handler 1' ],
	[ 'an event was not handled', q(DELETE FROM handled WHERE rev = 591), 'handler 1' ],
	[ 'what is not in Kafka was handled', q(INSERT INTO handled VALUES (1, 1)), 'handler 1' ],
	[ 'the source has what its account does not say', q(UPDATE image SET content = content || '{"n": 0}' WHERE key = '3'), 'account_wrong 1' ],
	[ 'the account misses a change', q(DELETE FROM history WHERE key = '3' AND rev = 507), 'account_wrong 1' ],
	[ 'lost history is none of Kafka\'s', q(UPDATE history SET lost = true WHERE xid = 510; DELETE FROM raw WHERE off BETWEEN 1000 AND 1050; DELETE FROM image), 'account_wrong 5' ],
	[ 'a part of lost history is in Kafka', qq(UPDATE history SET lost = true WHERE xid = 510; DELETE FROM image;
		UPDATE raw SET value = (SELECT value::jsonb || jsonb_build_object('rev', 1007, 'n', 19, 'body', 'b91') FROM raw WHERE $in_kafka AND off = 1008) WHERE $in_kafka AND off = 1008), 'account_wrong 5' ])
{
	my ($what, $change, $found) = @$case;

	is(figures_after($change), $found, $what);
}

# ---------------------------------------------------------------------------
# The verdict
# ---------------------------------------------------------------------------

my %clean = map { ($_->[0] => 0) } @Torture::Verdict::MUST_BE_ZERO;

for my $figure (sort keys %clean)
{
	my $verdict = Torture::Verdict->new(mode => 'at_least_once', brokers => 1, seed => 1);

	$verdict->add({ number => 1, faults => {}, missed => 0, converged => 1, figures => { %clean, $figure => 1 } });
	is($verdict->{bad}, 1, "a round with $figure is bad");
}
for my $mode (qw(at_least_once exactly_once))
{
	my $verdict = Torture::Verdict->new(mode => $mode, brokers => 1, seed => 1);
	my %round = (number => 1, faults => { 'kill:relay' => 2, 'point:a.b=kill' => 1 }, missed => 0, converged => 1, figures => { %clean, events => 10, repeated => 3 });

	is(join(' ', $verdict->faulty(\%round)), $mode eq 'exactly_once' ? 'repeated' : '', "repeated events, $mode");
	like($verdict->round_line(\%round), qr/^round 1: faults 3 \(kill:relay 2, point=kill 1\), events 10, lost 0, .* repeated 3, .*converged in 1\.0 s$/, 'the line');
	delete $round{converged};
	like(join(' ', $verdict->faulty(\%round)), qr/converge/, 'a round that does not converge is bad');
	like($verdict->round_line(\%round), qr/NOT CONVERGED$/, 'and says so');
}

# ---------------------------------------------------------------------------
# The schedule
# ---------------------------------------------------------------------------

my %plan = (
	rounds => 20, seconds => [ 20, 40 ], per_round => [ 8, 14 ], writers => 3, life => 4,
	faults => [ map { { name => "f$_", ends => $_ > 27 ? 1 : 0 } } 1 .. 30 ], load => { 'load:x' => 0.5 });
my ($one, $same, $other) = map { [ Torture::Schedule::plan(seed => $_, %plan) ] } 7, 7, 8;

is_deeply($one, $same, 'a seed makes the same schedule again');
isnt(join(' ', map { $_->{name} } map { @{ $_->{events} } } @$one), join(' ', map { $_->{name} } map { @{ $_->{events} } } @$other), 'another one another');
is(join(' ', map { $_->{number} } grep { $_->{begins} } @$one), '1 5 9 13 17', 'services are made anew every so many rounds');
my %dealt;
$dealt{ $_->{name} }++ for map { @{ $_->{events} } } @$one;
is(scalar(grep { !$dealt{"f$_"} } 1 .. 30), 0, 'every fault has its turn');
is(scalar(grep { (grep { $_->{name} =~ /^f(28|29|30)$/ } @{ $_->{events} }) > 1 } @$one), 0, 'histories end one at a time');

done_testing();
