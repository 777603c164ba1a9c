# A broker that is not there yet, freezes, dies and comes back, all under load:
# writers go on as if nothing were, and afterwards everything has arrived, each
# key in its order.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use File::Temp;
use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

# (A broker that was killed is let in again when its session is over.)
my $kafka  = outbox_kafka(map { ('--property', $_) } 'broker.session.timeout.ms=2000', 'broker.heartbeat.interval.ms=500');
my $topic  = unique_topic('counter');
my $script = dirname(__FILE__) . '/../kafka/kafka.sh';
topic_create($kafka, $topic, 4);

sub broker
{
	my ($what) = @_;
	my $err = '';

	return kill $what, slurp_file("$kafka->{dir}/1/pid") if $what =~ /^(?:STOP|CONT)$/;
	IPC::Run::run([ $script, $what, $kafka->{dir} ], '>', '/dev/null', '2>', \$err) or die "kafka.sh $what: $err";
	return;
}

broker('kill');
my $node = outbox_node('main');
outbox_install($node, 'shop', $kafka);
$node->safe_psql('shop', <<"END");
CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO counter SELECT g, 0 FROM generate_series(1, 20) g;
SELECT outbox.publish('counter', topic => '$topic', initial => 'none');
END

my $load = File::Temp->new(SUFFIX => '.sql');
print $load "\\set k random(1, 20)\nUPDATE counter SET n = n + 1 WHERE id = :k;\n";
close $load;

# Writers that begin and end now; each change within a time that has nothing to
# do with a broker.
sub writers_go_on
{
	my ($name) = @_;
	local $ENV{PGOPTIONS} = '-c statement_timeout=10s';
	my $out = '';

	my $ok = IPC::Run::run([ 'pgbench', '-n', '-f', "$load", '-c', 4, '-t', 250, $node->connstr('shop') ],
		'<', \'', '>&', \$out);
	ok($ok && $out =~ m{actually processed: 1000/1000}, "$name: writers go on") or diag $out;
	return;
}

# Writers that write until they are told to end.
sub start_writers
{
	return IPC::Run::start([ 'pgbench', '-n', '-f', "$load", '-c', 4, '-R', 100, '-T', 300, $node->connstr('shop') ],
		'<', \'', '>', '/dev/null', '2>', '/dev/null');
}

my $settled = 'SELECT settled_events FROM outbox.stat_servers';
my $waiting = q(SELECT state || ' ' || waiting_for FROM outbox.status WHERE kind = 'worker' AND name = 'relay');

sub flows
{
	my ($name) = @_;
	my $before = $node->safe_psql('shop', $settled);
	is_soon($node, 'shop', "SELECT ($settled) > $before + 100", 't', "$name: events flow");
	return;
}

sub stands_still
{
	my ($name) = @_;
	my $backlog = $node->safe_psql('shop', 'SELECT backlog_events FROM outbox.stat_servers');
	cmp_ok($backlog, '>=', 1000, "$name: $backlog events wait");
	return;
}

# ---------------------------------------------------------------------------

my $relay = wait_for_worker($node, 'shop', 'relay');
writers_go_on('not there yet');
stands_still('not there yet');
is_soon($node, 'shop', $waiting, qr/^waiting server "kafka": ./, 'not there yet: the relay says what it waits for');

my $writers = start_writers();
broker('start');
flows('there at last');

broker('STOP');
writers_go_on('frozen');
stands_still('frozen');
broker('CONT');
flows('thawed');

broker('kill');
writers_go_on('killed');
stands_still('killed');
is_soon($node, 'shop', $waiting, qr/^waiting server "kafka": ./, 'killed: the relay says what it waits for');
broker('start');
flows('there again');
is(worker_pid($node, 'shop', 'relay'), $relay, 'the relay has lived through all of it');

$writers->signal('TERM');
$writers->finish;
is_soon($node, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'everything is delivered');

# Every change of a counter, each once, in order, up to the last.
sub complete
{
	my ($name, $once) = @_;
	my (%last, %seen);
	my ($disorder, $twice) = (0, 0);

	for my $r (topic_read($kafka, $topic))
	{
		my ($n) = $r->{value} =~ /"n": ?(\d+)/;

		if ($seen{ $r->{headers}{id} }++)
		{
			$twice++;
			next;
		}
		$disorder++ if $n != ($last{ $r->{key} } // 0) + 1;
		$last{ $r->{key} } = $n;
	}
	is($disorder, 0, "$name: every change of a key in order, none missing");
	is(join(' ', map { $last{$_} // 0 } 1 .. 20),
		$node->safe_psql('shop', q(SELECT string_agg(n::text, ' ' ORDER BY id) FROM counter)),
		"$name: up to the last one");
	is($twice, 0, "$name: none twice") if $once;
	return;
}
complete('afterwards', 1);

# ---------------------------------------------------------------------------
# The server stops and starts while the broker is frozen
# ---------------------------------------------------------------------------

$writers = start_writers();
flows('before it freezes again');
broker('STOP');
writers_go_on('frozen again');
my $begin = Time::HiRes::time();
$node->restart;
cmp_ok(Time::HiRes::time() - $begin, '<', 10, 'a restart of the server does not wait for the broker');
$writers->finish;    # it has lost its connections
writers_go_on('frozen, after the restart');
broker('CONT');
is_soon($node, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'everything is delivered');
complete('after the restart');

$node->stop('fast');
done_testing();
