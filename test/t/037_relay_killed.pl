# kill -9 of the relay between its steps: nothing is lost, a key's order is kept,
# and sent again is what was in flight, never what was settled.

use strict;
use warnings FATAL => 'all';

use File::Temp;
use IPC::Run ();
use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $topic  = unique_topic('killed');
topic_create($broker, $topic, 1);
my $node = outbox_node('main');
outbox_install($node, 'shop', $broker);

my $settled = 'SELECT settled_events FROM outbox.stat_servers';

sub emit
{
	my ($n) = @_;
	$node->safe_psql('shop', "SELECT outbox.emit('$topic', (g % 7)::text, g::text) FROM generate_series(1, $n) g \\g /dev/null");
	return;
}

sub all_settled
{
	return wait_for_sql($node, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0');
}

sub records_in_kafka
{
	my ($low, $high) = topic_watermarks($broker, $topic, 0);
	return $high;
}

# Number of each event of the log, from 1, in the order in which they are
# published; "settled_events" of them are settled.
sub numbers
{
	my $n = 0;
	return map { ($_ => ++$n) } split /\n/,
	  $node->safe_psql('shop', 'SELECT id FROM outbox.events ORDER BY commit_stamp, id');
}

# How many first deliveries come behind that of a later event of their key;
# N(record) tells where it stands among them.
sub disorder
{
	my ($n, @records) = @_;
	my (%seen, %last);
	my $bad = 0;

	for my $r (@records)
	{
		next if $seen{ $r->{headers}{id} }++;
		$bad++ if $n->($r) <= ($last{ $r->{key} } // 0);
		$last{ $r->{key} } = $n->($r);
	}
	return $bad;
}

# ---------------------------------------------------------------------------
# At each step
# ---------------------------------------------------------------------------

# How many of 200 events have arrived when the relay stands at the point.
my @points = (
	[ 'relay.before_read',   'read and produce',         0 ],
	[ 'relay.after_produce', 'produce and produce',      1 ],
	[ 'relay.after_ack',     'ack and settle',           200 ],
	[ 'relay.before_settle', 'the last ack and settle',  200 ],
	[ 'relay.after_settle',  'settle and what follows',  200 ]);

emit(50);
topic_wait($broker, $topic, 50);
for (@points)
{
	my ($point, $where, $arrived) = @$_;

	all_settled() or die 'nothing is settled';
	my $before = $node->safe_psql('shop', $settled);
	my $from = records_in_kafka();
	my $pid = wait_for_worker($node, 'shop', 'relay');
	fault($node, "$point=wait");
	emit(200);
	ok( wait_until(
			sub { records_in_kafka() == $from + $arrived },
			sub { "$arrived records at $point, there are " . (records_in_kafka() - $from) }),
		"$point: $arrived events have arrived");

	# It stands still, so this is its position; the checkpoint makes the
	# asynchronous commits durable.
	is_soon($node, 'shop',
		"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Extension' AND wait_event = 'Extension'",
		'1', "$point: the relay stands there");
	my $position = $node->safe_psql('shop', $settled);
	$node->safe_psql('shop', 'CHECKPOINT');
	$node->safe_psql('shop', 'ALTER SYSTEM RESET pg_outbox.fault');
	kill 'KILL', $pid;
	wait_until(sub { !kill 0, $pid }, "the end of process $pid");
	ok(wait_until(sub { $node->psql('shop', 'SELECT pg_reload_conf()') == 0 }, 'a connection'), "$point: the server answers");
	all_settled();

	my %number = numbers();
	my @records = grep { $_->{offset} >= $from } topic_read($broker, $topic);
	my %times;
	$times{ $number{ $_->{headers}{id} } // 'unknown' }++ for @records;
	my @in_flight = grep { $_ <= $before + $arrived } $position + 1 .. $before + 200;

	is(join(' ', grep { !$times{$_} } $before + 1 .. $before + 200), '', "killed between $where: nothing is lost");
	is(disorder(sub { $number{ $_[0]{headers}{id} } }, @records), 0, "killed between $where: keys in order");
	is(join(' ', sort { $a <=> $b } grep { $times{$_} > 1 } keys %times), join(' ', @in_flight),
		"killed between $where: sent again is what was in flight (" . @in_flight . ' events)');
	is(scalar(@records), 200 + @in_flight, "killed between $where: once again, and nothing else");
}

# ---------------------------------------------------------------------------
# Under load
# ---------------------------------------------------------------------------

# Each change of a counter waits for the one before it, so their order is known.
$node->safe_psql('shop', <<"END");
CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO counter SELECT g, 0 FROM generate_series(101, 120) g;
SELECT outbox.publish('counter', topic => '$topic', initial => 'none');
END
my $script = File::Temp->new(SUFFIX => '.sql');
print $script "\\set k random(101, 120)\nUPDATE counter SET n = n + 1 WHERE id = :k;\n";
close $script;

my $from = records_in_kafka();
my $base = $node->safe_psql('shop', $settled);
my @kills;    # [ events settled before it, records in Kafka then ]
for my $round (1 .. 3)
{
	my $load = IPC::Run::start([ 'pgbench', '-n', '-f', "$script", '-c', 4, '-T', 60, $node->connstr('shop') ],
		'<', \'', '>', '/dev/null', '2>', '/dev/null');
	my $begin = $node->safe_psql('shop', $settled);
	wait_for_sql($node, 'shop', "SELECT ($settled) > $begin + 300");
	my $position = $node->safe_psql('shop', $settled) - $base;
	push @kills, [ $position, records_in_kafka() ];
	$node->safe_psql('shop', 'CHECKPOINT');
	kill_worker($node, 'shop', 'relay');
	$load->finish;    # the crash ends its connections
	wait_until(sub { $node->psql('shop', 'SELECT 1') == 0 }, 'a connection');
}
all_settled();

# In one partition events first arrive in the order in which they are settled.
my @records = grep { $_->{offset} >= $from } topic_read($broker, $topic);
my (%arrival, %last);
for my $r (@records)
{
	$arrival{ $r->{headers}{id} } //= keys(%arrival) + 1;
	$r->{n} = $r->{value} =~ /"n": ?(\d+)/ ? $1 : die "no counter: $r->{value}";
	$last{ $r->{key} } = $r->{n} if $r->{n} > ($last{ $r->{key} } // 0);
}
is(disorder(sub { $_[0]{n} }, @records), 0, 'under load: keys in order');
is(join(' ', map { $last{$_} // 0 } 101 .. 120),
	$node->safe_psql('shop', q(SELECT string_agg(n::text, ' ' ORDER BY id) FROM counter)),
	'under load: up to the last change');
is(scalar(keys %arrival), $node->safe_psql('shop', 'SELECT sum(n) FROM counter'), 'under load: nothing is lost, nothing invented');
for my $kill (@kills)
{
	my ($position, $end) = @$kill;
	is(scalar(grep { $_->{offset} >= $end && $arrival{ $_->{headers}{id} } <= $position } @records), 0,
		"under load: none of the $position settled events is sent again");
}
note @records - keys %arrival, ' events were sent twice';

$node->stop('fast');
done_testing();
