# OutboxTest: what the TAP tests of pg_outbox share.
#
# A test looks like this:
#
#	use OutboxTest;
#	my $broker = outbox_broker();				# Kafka if there is one, else the mock
#	my $node   = outbox_node('users');			# running, library preloaded
#	outbox_install($node, 'postgres', $broker);
#	my $topic  = unique_topic('users');
#	...
#	is_soon($node, 'postgres', 'SELECT count(*) FROM t', '10', 'all rows came');
#	my @records = topic_read($broker, $topic);
#	done_testing();
#
# Nothing here sleeps for a fixed time: whatever waits, polls for a state, and
# says what the state was when it gave up.

package OutboxTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use File::Basename;
use File::Temp;
use IO::Socket::INET;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

our @EXPORT = qw(
  outbox_node outbox_install
  outbox_broker need_kafka outbox_kafka outbox_proxy proxy_cut proxy_delay mock_control kafka_admin unique_topic
  group_name places
  topic_create topic_read topic_write topic_wait topic_is topic_watermarks
  wait_until wait_for_sql is_soon
  worker_pid kill_worker wait_for_worker
  fault no_faults
  same_rows run_pgbench log_tail
);

my $tree = dirname(__FILE__) . '/../..';

# PostgreSQL's own tests have a time limit that slow machines can raise.
sub timeout
{
	return $PostgreSQL::Test::Utils::timeout_default;
}

# ---------------------------------------------------------------------------
# Servers
# ---------------------------------------------------------------------------

my @nodes;

# outbox_node(NAME, conf => TEXT, preload => 0, streaming => 1, start => 0,
#	initdb => [OPTION...], install_path => DIRECTORY)
#
# A new cluster, running unless start => 0.  It restarts after a crash, so that
# workers can be killed, and restarts workers without much delay.
sub outbox_node
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name,
		defined $opt{install_path} ? (install_path => $opt{install_path}) : ());

	$node->init(
		allows_streaming => $opt{streaming} // 0,
		extra            => ['--no-locale', '-E', 'UTF8', @{ $opt{initdb} // [] }]);
	$node->append_conf('postgresql.conf', <<"END");
restart_after_crash = on
log_statement = 'none'
wal_level = replica
max_wal_senders = 10
max_worker_processes = 24
max_prepared_transactions = 10
max_connections = 60
shared_buffers = 64MB
END
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_outbox'\n")
	  if $opt{preload} // 1;
	$node->append_conf('postgresql.conf', "$opt{conf}\n") if defined $opt{conf};
	push @nodes, $node;
	$node->start if $opt{start} // 1;
	return $node;
}

# Crash recovery would hide it.
END
{
	my $status = $?;

	for my $node (@nodes)
	{
		my $log = -e $node->logfile ? PostgreSQL::Test::Utils::slurp_file($node->logfile) : '';
		next if $log !~ /^.*was terminated by signal (?:6|8|11)\b.*$/m;
		Test::More::diag("a process of " . $node->name . " has crashed: $&");
		$status ||= 1;
	}
	$? = $status;
}

# outbox_install(NODE, DB, BROKER, NAME => VALUE...)
#
# The extension, and if a broker is given the server "kafka" with further
# options.  DB is created if it does not exist.
sub outbox_install
{
	my ($node, $db, $broker, %option) = @_;

	$node->safe_psql('postgres', qq(CREATE DATABASE "$db"))
	  if $node->safe_psql('postgres',
		qq(SELECT count(*) FROM pg_database WHERE datname = '$db')) eq '0';
	$node->safe_psql($db, 'CREATE EXTENSION IF NOT EXISTS pg_outbox');
	return if !defined $broker;
	$option{'bootstrap.servers'} //= ref $broker ? $broker->{bootstrap} : $broker;
	my $options = join ', ', map { qq("$_" '$option{$_}') } sort keys %option;
	$node->safe_psql($db,
		"CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ($options)");
	return;
}

# Last lines of a node's log.
sub log_tail
{
	my ($node, $lines) = @_;
	my @all = split /\n/, slurp_file($node->logfile);

	$lines //= 30;
	splice @all, 0, -$lines if @all > $lines;
	return join "\n", @all;
}

# ---------------------------------------------------------------------------
# Waiting
# ---------------------------------------------------------------------------

# wait_until(CODE, WHAT, SECONDS): poll until CODE returns true.  False, with
# WHAT (text, or code that returns text) as a diagnostic, if it never does.
sub wait_until
{
	my ($code, $what, $seconds) = @_;
	my $until = Time::HiRes::time() + ($seconds // timeout());

	until ($code->())
	{
		if (Time::HiRes::time() > $until)
		{
			diag 'gave up waiting: ', ref $what ? $what->() : $what // 'no reason given';
			return 0;
		}
		Time::HiRes::usleep(50_000);
	}
	return 1;
}

# What the server says of itself, for the report of a wait that failed.
sub _diagnosis
{
	my ($node, $db) = @_;
	my ($rc, $out, $err) = $node->psql($db, 'SELECT * FROM outbox.status',
		extra_params => ['-x', '-P', 'format=aligned']);
	my $status = $rc == 0 ? $out : $err;
	($rc, $out, $err) = $node->psql($db,
		q(SELECT pid, backend_type, datname, state, wait_event_type, wait_event, left(query, 80)
		  FROM pg_stat_activity WHERE backend_type !~ 'writer|checkpointer|autovacuum'));
	return join "\n", 'outbox.status:', $status, 'pg_stat_activity:', $out // '',
	  'server log:', log_tail($node, 25);
}

# wait_for_sql(NODE, DB, SQL, EXPECTED): poll until the query returns EXPECTED
# ('t' by default; a regular expression matches).  Errors of the query count as
# another answer, as while the server restarts.
sub wait_for_sql
{
	my ($node, $db, $sql, $expected, $seconds) = @_;
	my $answer;

	$expected //= 't';
	return wait_until(
		sub {
			my ($rc, $out, $err) = eval { $node->psql($db, $sql) };
			# a server that is starting refuses psql before it has taken the query
			($rc, $err) = (2, $@) if !defined $rc;
			$answer = $rc == 0 ? $out : $err;
			return $rc == 0
			  && (ref $expected ? $answer =~ $expected : $answer eq $expected);
		},
		sub {
			"$sql\nexpected: $expected\nlast answer: " . ($answer // '') . "\n"
			  . _diagnosis($node, $db);
		},
		$seconds);
}

# As a test: passes once the query returns what is expected.
sub is_soon
{
	my ($node, $db, $sql, $expected, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(wait_for_sql($node, $db, $sql, $expected, $seconds), $name // $sql);
}

# ---------------------------------------------------------------------------
# Brokers
# ---------------------------------------------------------------------------

# A program of test/kafka: as "make check" or "make test-programs" built it, else
# compiled here.
my $compiled;

sub _program
{
	my ($name) = @_;
	my $source = "$tree/test/kafka/$name.c";

	for my $file ("$tree/build/check/src/build/$name", "$tree/build/$name")
	{
		return $file if -x $file && -M $file <= -M $source;
	}
	$compiled //= File::Temp->newdir;
	if (!-x "$compiled/$name")
	{
		system('cc', '-o', "$compiled/$name", $source, '-lrdkafka') == 0
		  or die "could not compile $source";
	}
	return "$compiled/$name";
}

# A mock broker ends with its standard input, so that none outlives its test.
my @mocks;    # IPC::Run handles of the mock brokers of this test

sub _start_mock
{
	my (%opt) = @_;
	my ($in, $out) = ('', '');
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my @command = (_program('mock_broker'), '--stdin', '--control', "$dir/control",
		'--brokers', $opt{brokers} // 1);

	push @command, map { ('--topic', "$_:$opt{topics}{$_}") } sort keys %{ $opt{topics} // {} };
	my $harness = IPC::Run::start(\@command, '<', \$in, '>', \$out);
	push @mocks, { harness => $harness, in => \$in, out => \$out, dir => $dir };
	wait_until(
		sub { $harness->pump_nb; return $out =~ /^bootstrap\.servers=(\S+)$/m },
		"the mock broker's address") or die 'the mock broker did not start';
	$out =~ /^bootstrap\.servers=(\S+)$/m;
	return { bootstrap => $1, kind => 'mock', control => "$dir/control", pid => $harness->{KIDS}[0]{PID} };
}

# mock_control(BROKER, COMMAND, ARGUMENT...): tell a mock broker to misbehave; see
# test/kafka/mock_broker.c for the commands.
sub mock_control
{
	my ($broker, @words) = @_;
	my $out = '';

	IPC::Run::run([ _program('mock_broker'), '--send', $broker->{control}, @words ], '>', \$out)
	  or die "mock broker, @words: $out";
	return;
}

# kafka_admin(BROKER, COMMAND, ARGUMENT...): topics, partitions, retention and
# rights of a real Kafka; see test/kafka/kafka_admin.c.  Returns what it prints.
sub kafka_admin
{
	my ($broker, @words) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ _program('kafka_admin'), _bootstrap($broker), @words ], '>', \$out, '2>', \$err)
	  or die $err;
	return $out;
}

# places(BROKER, GROUP): topic => place, of what an exactly-once server has stored in
# its consumer group.
sub places
{
	my ($broker, $group) = @_;

	return map { my ($topic, undef, $place) = split /\t/; $topic => $place }
	  split /\n/, kafka_admin($broker, 'offsets', $group);
}

# The name of an exactly-once server's producer and group.
sub group_name
{
	my ($node, $db, $server) = @_;

	return $node->safe_psql($db, sprintf q(SELECT format('pg_outbox.%%s.%%s.%%s', system_identifier,
		(SELECT oid FROM pg_database WHERE datname = current_database()), '%s') FROM pg_control_system()),
		$server // 'kafka');
}

# outbox_kafka(OPTION...): a real Kafka of the test's own, started with options of
# test/kafka/kafka.sh and ended with the test; for what cannot be done to the
# one that all share.  Skips the test file if there is no real Kafka at all.
my %kafkas;    # directory -> 1

sub outbox_kafka
{
	my (@options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir() . '/kafka';
	my ($out, $err) = ('', '');

	need_kafka();
	$kafkas{$dir} = 1;
	IPC::Run::run([ "$tree/test/kafka/kafka.sh", 'start', $dir, @options ], '>', \$out, '2>', \$err)
	  or die "could not start Kafka: $err";
	my ($bootstrap) = $out =~ /^bootstrap\.servers=(\S+)$/m;
	my ($sasl) = $out =~ /^sasl\.bootstrap\.servers=(\S+)$/m;
	return { bootstrap => $bootstrap, sasl => $sasl, kind => 'kafka', dir => $dir };
}

# outbox_proxy(BROKER): a way to a broker that can be cut and be slow, to be given to a server
# instead of it; see test/kafka/proxy.pl.
my @proxies;

sub outbox_proxy
{
	my ($broker) = @_;
	my ($in, $out) = ('', '');
	my $harness = IPC::Run::start([ $^X, "$tree/test/kafka/proxy.pl", _bootstrap($broker) ],
		'<', \$in, '>', \$out);
	my $proxy = { kind => $broker->{kind}, harness => $harness, in => \$in, out => \$out };

	push @proxies, $proxy;
	wait_until(
		sub { $harness->pump_nb; return $out =~ s/^bootstrap\.servers=(\S+)\n// && ($proxy->{bootstrap} = $1) },
		"the proxy's address") or die 'the proxy did not start';
	return $proxy;
}

# Cut all connections that go through it; returns how many there were.
sub proxy_cut
{
	my ($proxy) = @_;
	my ($in, $out) = @{$proxy}{qw(in out)};
	my $n;

	$$in .= "cut\n";
	wait_until(sub { $proxy->{harness}->pump_nb; return $$out =~ s/^cut (\d+)\n// && defined($n = $1) },
		"the proxy's answer") or die 'the proxy does not answer';
	return $n;
}

# Pass everything on so much later from now on, each way.
sub proxy_delay
{
	my ($proxy, $ms) = @_;
	my ($in, $out) = @{$proxy}{qw(in out)};

	$$in .= "delay $ms\n";
	wait_until(sub { $proxy->{harness}->pump_nb; return $$out =~ s/^delay $ms\n// },
		"the proxy's answer") or die 'the proxy does not answer';
	return;
}

END
{
	local $?;
	$_->{harness}->kill_kill(grace => 1) for @proxies;
	for my $dir (grep { -f "$_/addresses" } keys %kafkas)
	{
		system("$tree/test/kafka/kafka.sh", 'kill', $dir);
	}
	$_->{harness}->kill_kill(grace => 1) for @mocks;
}

# outbox_broker(mock => 1, conf...): a broker as { bootstrap, kind }.
#
# The real Kafka that the test run shares if there is one, else a mock of our
# own.  mock => 1 asks for the mock, which is what tests of a broker that goes
# down and comes back want.
sub outbox_broker
{
	my (%opt) = @_;
	my $real = $ENV{OUTBOX_TEST_KAFKA} // '';

	return { bootstrap => $real, kind => 'kafka' } if $real ne '' && !$opt{mock};
	# The test runner reads this line and passes it on.
	note 'broker: mock (instead of Kafka)' if !$opt{mock};
	return _start_mock(%opt);
}

# For a test that proves something only against the real thing.
sub need_kafka
{
	my $real = $ENV{OUTBOX_TEST_KAFKA} // '';

	plan skip_all => 'needs a real Kafka' if $real eq '';
	return { bootstrap => $real, kind => 'kafka' };
}

sub free_tcp_port
{
	my $socket = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => 0,
		Listen    => 1) or die "no free port: $!";

	return $socket->sockport;
}

# A topic name that no other test, and no other run, uses.
my $topics = 0;

sub unique_topic
{
	my ($base) = @_;

	return sprintf '%s_%s_%d_%d', $base // 'topic', time, $$, ++$topics;
}

sub _bootstrap
{
	my ($broker) = @_;
	return ref $broker ? $broker->{bootstrap} : $broker;
}

sub _kcat
{
	my ($broker, $input, @args) = @_;
	my ($out, $err) = ('', '');
	my @command = ('kcat', '-q', '-b', _bootstrap($broker), '-X', 'fetch.wait.max.ms=50', @args);

	my $ok = IPC::Run::run(\@command, '<', \$input, '>', \$out, '2>', \$err,
		IPC::Run::timeout(timeout()));
	return ($ok, $out, $err);
}

# topic_create(BROKER, TOPIC, PARTITIONS, NAME => VALUE...): settings only of a
# real Kafka.
sub topic_create
{
	my ($broker, $topic, $partitions, %setting) = @_;

	if (ref $broker && $broker->{kind} eq 'mock')
	{
		mock_control($broker, 'topic', $topic, $partitions // 1);
	}
	else
	{
		kafka_admin($broker, 'create', $topic, $partitions // 1,
			map { "$_=$setting{$_}" } sort keys %setting);
	}
	return;
}

# topic_read(BROKER, TOPIC, offset => 'beginning', partition => N, count => N)
#
# All records up to the end of the topic, in the order of (partition, offset),
# each a hash of partition, offset, timestamp (ms), key, value (undef: null),
# headers (a hash) and header_list (name, value, ... in their order).
sub topic_read
{
	my ($broker, $topic, %opt) = @_;
	my @args = ('-C', '-t', $topic, '-e', '-J', '-o', $opt{offset} // 'beginning');

	push @args, '-p', $opt{partition} if defined $opt{partition};
	push @args, '-c', $opt{count}     if defined $opt{count};
	my ($ok, $out, $err) = _kcat($broker, '', @args);
	if (!$ok)
	{
		# A topic that nobody has written to yet is an empty one.
		return () if $err =~ /unknown topic|Unknown topic/i;
		die "kcat could not read topic \"$topic\": $err";
	}
	return sort { $a->{partition} <=> $b->{partition} || $a->{offset} <=> $b->{offset} }
	  map { _record($_) } split /\n/, $out;
}

my $json = JSON::PP->new->allow_nonref;

sub _record
{
	my ($line) = @_;
	# The payload may be anything: bytes that are no UTF-8 are kept as they are.
	my $raw = $json->latin1->decode($line);
	my @headers = @{ $raw->{headers} // [] };

	return {
		partition   => $raw->{partition},
		offset      => $raw->{offset},
		timestamp   => $raw->{ts},
		key         => $raw->{key},
		value       => $raw->{payload},
		headers     => {@headers},
		header_list => \@headers };
}

# topic_wait(BROKER, TOPIC, N, SECONDS): read until there are at least N records.
sub topic_wait
{
	my ($broker, $topic, $n, $seconds) = @_;
	my @records;

	wait_until(
		sub { @records = topic_read($broker, $topic); return @records >= $n },
		sub { "$n records in topic \"$topic\", there are " . scalar @records },
		$seconds);
	return @records;
}

# topic_is(BROKER, TOPIC, VALUES, NAME): a test that the topic has these values, in
# order and separated by blanks, and no others.  Read until the last one is there, as
# readers see a Kafka transaction soon after its commit.
sub topic_is
{
	my ($broker, $topic, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($last) = $expected =~ /(\w+)$/;
	my $seen = '';

	wait_until(sub { $seen = join ' ', map { $_->{value} } topic_read($broker, $topic); return $seen =~ /\b$last$/ }, "event $last");
	return is($seen, $expected, $name);
}

# topic_write(BROKER, TOPIC, RECORD...)
#
# Each record a hash of key, value (either may be undef: null), headers (a hash,
# or a list reference of name, value, ...) and partition.  One kcat for each,
# so that each can have headers and nulls of its own.
sub topic_write
{
	my ($broker, $topic, @records) = @_;

	for my $record (@records)
	{
		my @args    = ('-P', '-t', $topic);
		my $headers = $record->{headers} // [];
		my @headers = ref $headers eq 'HASH' ? map { ($_ => $headers->{$_}) } sort keys %$headers : @$headers;
		my $file    = File::Temp->new;
		my $input   = '';

		push @args, '-p', $record->{partition} if defined $record->{partition};
		if (length($record->{value} // ''))
		{
			binmode $file;
			print $file $record->{value};
			push @args, '-k', $record->{key} if defined $record->{key};
		}
		else
		{
			# kcat takes nothing out of an empty file: a line with a key and nothing else
			$input = ($record->{key} // '') . "\x1f\n";
			push @args, '-K', "\x1f";
			push @args, '-Z' if !defined $record->{value};
		}
		close $file;
		while (my ($name, $value) = splice @headers, 0, 2)
		{
			push @args, '-H', defined $value ? "$name=$value" : $name;
		}
		push @args, "$file" if length($record->{value} // '');
		my ($ok, $out, $err) = _kcat($broker, $input, @args);
		die "kcat could not write to topic \"$topic\": $err" if !$ok;
	}
	return;
}

# topic_watermarks(BROKER, TOPIC, PARTITION): (low, high), high being where the
# next record goes.
sub topic_watermarks
{
	my ($broker, $topic, $partition) = @_;
	my @marks;

	for my $when (-2, -1)
	{
		my ($ok, $out, $err) = _kcat($broker, '', '-Q', '-t', "$topic:$partition:$when");
		die "kcat: $err" if !$ok;
		my ($offset) = $out =~ /offset (-?\d+)/ or die "kcat answered: $out";
		push @marks, $offset;
	}
	return @marks;
}

# ---------------------------------------------------------------------------
# Workers and faults
# ---------------------------------------------------------------------------

# Process id of a database's worker ("relay", "applier") or of the launcher; undef
# if there is none.
sub worker_pid
{
	my ($node, $db, $kind) = @_;
	my $where = $kind eq 'launcher' ? '' : "AND datname = '$db'";
	my ($rc, $pid) = $node->psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox.*$kind' $where LIMIT 1");

	return $rc == 0 && $pid ne '' ? $pid : undef;
}

# Wait until there is a worker, other than process NOT; returns its pid.
sub wait_for_worker
{
	my ($node, $db, $kind, $not) = @_;
	my $pid;

	wait_until(
		sub { $pid = worker_pid($node, $db, $kind); return defined $pid && $pid != ($not // 0) },
		sub { "a $kind of database \"$db\"\n" . _diagnosis($node, $db) })
	  or return;
	return $pid;
}

# kill_worker(NODE, DB, KIND, SIGNAL): SIGKILL by default, after which the
# postmaster restarts all its processes; the caller polls for what comes next.
# Returns the pid that was killed.
sub kill_worker
{
	my ($node, $db, $kind, $signal) = @_;
	my $pid = wait_for_worker($node, $db, $kind) or die "no $kind to kill in \"$db\"";

	kill $signal // 'KILL', $pid;
	wait_until(sub { !kill 0, $pid }, "the end of process $pid");
	return $pid;
}

# A server that a killed worker takes along accepts no connection for a while.
sub _configure
{
	my ($node, $setting) = @_;
	my $last;

	for my $sql ("ALTER SYSTEM $setting", 'SELECT pg_reload_conf()')
	{
		wait_until(
			sub {
				my ($rc, $out, $err) = eval { $node->psql('postgres', $sql) };
				$last = $@ || $err;
				return defined $rc && $rc == 0;
			},
			sub { "$sql: $last" }) or die "could not set: $setting";
	}
	return;
}

# fault(NODE, 'relay-before-settle=kill', ...): set fault points for all
# processes that look at the configuration; see src/common/fault.h.
sub fault
{
	my ($node, @points) = @_;

	_configure($node, sprintf q(SET pg_outbox.fault = '%s'), join ',', @points);
	return;
}

sub no_faults
{
	my ($node) = @_;

	_configure($node, 'RESET pg_outbox.fault');
	return;
}

# ---------------------------------------------------------------------------
# Comparing, loading
# ---------------------------------------------------------------------------

# same_rows([NODE, DB, SQL], [NODE, DB, SQL], NAME): a test that both queries give
# the same rows, whatever their order; a failure shows the first differences.
sub same_rows
{
	my ($expected, $got, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %count;
	my @rows = map {
		my ($node, $db, $sql) = @$_;
		[ split /\n/, $node->safe_psql($db, "COPY ($sql) TO STDOUT") ]
	} $expected, $got;

	$count{$_}++ for @{ $rows[0] };
	$count{$_}-- for @{ $rows[1] };
	my @missing = sort grep { $count{$_} > 0 } keys %count;
	my @extra   = sort grep { $count{$_} < 0 } keys %count;

	ok(!@missing && !@extra, $name // 'same rows') and return 1;
	diag scalar @{ $rows[0] }, ' rows expected, ', scalar @{ $rows[1] }, ' found';
	diag scalar @missing, " missing, the first of them:\n", join "\n", grep { defined } @missing[ 0 .. 9 ];
	diag scalar @extra, " not expected, the first of them:\n", join "\n", grep { defined } @extra[ 0 .. 9 ];
	return 0;
}

# run_pgbench(NODE, DB, SCRIPT, clients => 4, transactions => 100, time => s,
# seed => n, fail_ok => 1): run a pgbench script given as text.  Returns its
# output; dies if it fails, unless fail_ok.
sub run_pgbench
{
	my ($node, $db, $script, %opt) = @_;
	my $file = File::Temp->new(SUFFIX => '.sql');
	my ($out, $err) = ('', '');
	my @command = ('pgbench', '-n', '-f', "$file", '-c', $opt{clients} // 4, '-j', 2);

	print $file $script;
	close $file;
	push @command, defined $opt{time} ? ('-T', $opt{time}) : ('-t', $opt{transactions} // 100);
	push @command, '--random-seed', $opt{seed} if defined $opt{seed};
	push @command, '--max-tries', $opt{tries} if defined $opt{tries};
	push @command, $node->connstr($db);
	my $ok = IPC::Run::run(\@command, '<', \'', '>', \$out, '2>', \$err,
		IPC::Run::timeout(10 * timeout()));
	die "pgbench failed: $err\n$out" if !$ok && !$opt{fail_ok};
	return "$out$err";
}

1;
