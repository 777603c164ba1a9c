#!/usr/bin/perl
#
# run-tests.pl: run all tests, or those that TESTS selects, and say in one last
# line how many passed, failed and were skipped.
#
# Started by check.sh as the user that PostgreSQL runs as, with
#   OUTBOX_TREE   the source tree, only read
#   OUTBOX_WORK   a directory for everything that is written
#   PG_CONFIG     pg_config of the server that the extension is installed in
# A test is counted as its tool counts: a file of pg_regress and of the isolation
# tester is one test, pgTAP and TAP files have as many as they plan.

use strict;
use warnings FATAL => 'all';

use Cwd qw(abs_path);
use File::Basename;
use File::Find;
use File::Path qw(make_path);
use FindBin;
use IO::Handle;
use lib $FindBin::RealBin;
use POSIX ();
use TAP::Parser;
use Time::HiRes qw(sleep time);

use OutboxRun;

use constant FILE_TIMEOUT => $ENV{OUTBOX_UNDER} ? 3600 : 900;    # seconds for one test file

my $tree = $ENV{OUTBOX_TREE};
my $work = $ENV{OUTBOX_WORK};
my $log  = "$work/log";
my $ci   = ($ENV{CI} // '') =~ /^(1|true|yes)$/i;
my $jobs = $ENV{JOBS} || 2;
my $under = $ENV{OUTBOX_UNDER} // '';    # what check-memory runs the server under

chomp(my $bindir = `'$ENV{PG_CONFIG}' --bindir`);
chomp(my $pgxs   = `'$ENV{PG_CONFIG}' --pgxs`);
my $pgtest = abs_path(dirname($pgxs) . '/../test');

my %total = (passed => 0, failed => 0, skipped => 0);
my @notes;                               # what must not be overlooked
my $kafka;                               # host:port of the real Kafka
my $started = time;

STDOUT->autoflush(1);

# ---------------------------------------------------------------------------
# Small things
# ---------------------------------------------------------------------------

sub note_loudly
{
	my ($text) = @_;
	push @notes, $text;
	print "!!! $text\n";
	return;
}

# ---------------------------------------------------------------------------
# Which tests
# ---------------------------------------------------------------------------

my @patterns = map { glob_to_regex($_) } split ' ', $ENV{TESTS} // '';

sub glob_to_regex
{
	my ($glob) = @_;
	$glob =~ s{^test/}{};
	$glob =~ s{\.(sql|spec|pl)$}{};
	$glob = join '', map { $_ eq '*' ? '.*' : $_ eq '?' ? '.' : quotemeta } split //, $glob;
	return qr/^$glob$/;
}

sub selected
{
	my ($name) = @_;
	return 1 if !@patterns;
	return scalar grep { $name =~ $_ } @patterns;
}

# Names of a suite's selected tests, without directory and suffix.
sub tests_of
{
	my ($suite, $pattern) = @_;
	my @names = map { basename($_) =~ s/\.[^.]+$//r } sort glob "$tree/$pattern";
	return grep { selected("$suite/$_") } @names;
}

# ---------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------

sub count
{
	my ($name, $seconds, %n) = @_;
	my $verdict = $n{failed} ? 'FAIL' : $n{passed} ? 'ok  ' : 'skip';
	my @parts;

	$total{$_} += $n{$_} // 0 for keys %total;
	push @parts, "$n{passed} passed"   if $n{passed};
	push @parts, "$n{failed} failed"   if $n{failed};
	push @parts, "$n{skipped} skipped" if $n{skipped};
	printf "%s %-40s %s%s\n", $verdict, $name, join(', ', @parts),
	  defined $seconds ? sprintf(' (%.1f s)', $seconds) : '';
	return;
}

# pg_regress's report, as of 15 ("test x ... ok 9 ms") and 16 ("ok 1 - x 9 ms").
sub count_regress
{
	my ($suite, $dir, @names) = @_;
	my $report = slurp("$dir/report");
	my %verdict;

	while ($report =~ /^(?:test\s+)?(\S+)\s+\.\.\.\s+(ok|FAILED)/mg)
	{
		$verdict{$1} = $2 eq 'ok';
	}
	while ($report =~ /^(ok|not ok)\s+\d+\s+[-+]\s+(\S+)/mg)
	{
		$verdict{$2} = $1 eq 'ok';
	}
	for my $name (@names)
	{
		my $ok = $verdict{$name};
		my ($ms) = $report =~ /\b\Q$name\E\b[^\n]*?(\d+) ms/;
		count("$suite/$name", defined $ms ? $ms / 1000 : undef,
			$ok ? (passed => 1) : (failed => 1));
	}
	if (grep { !$verdict{$_} } @names)
	{
		my $diffs = -s "$dir/regression.diffs" ? "$dir/regression.diffs" : "$dir/report";
		print tail($diffs, 80);
	}
	return;
}

sub count_tap
{
	my ($name, $file, $status, $ended, $seconds) = @_;
	my $tap    = slurp($file) || "\n";    # of nothing at all the parser makes no parser
	my $parser = TAP::Parser->new({ tap => $tap, ignore_exit => 1 });
	my %n      = (passed => 0, failed => 0, skipped => 0);

	while (my $result = $parser->next)
	{
		next if !$result->is_test;
		if ($result->has_skip) { $n{skipped}++ }
		elsif ($result->is_ok) { $n{passed}++ }
		else                   { $n{failed}++ }
	}
	if (defined $parser->skip_all)
	{
		$n{skipped}++;
		note_loudly("not run: $name: " . $parser->skip_all);
	}
	elsif (!$ended || $status != 0 || $parser->parse_errors)
	{
		# A file that breaks off fails, whatever its tests said until then.
		$n{failed} ||= 1;
	}
	note_loudly("ran on the mock broker: $name")
	  if $tap =~ /^# broker: mock \(instead of Kafka\)/m;
	count($name, $seconds, %n);
	if ($n{failed})
	{
		print "    | stopped after " . FILE_TIMEOUT . " s\n" if !$ended;
		print "    | $_\n" for $parser->parse_errors;
		print grep { !/^    \| ok / } tail($file, 60);
	}
	return;
}

# ---------------------------------------------------------------------------
# The cluster that pg_regress, the isolation tester and pgTAP share
# ---------------------------------------------------------------------------

my %cluster;

sub init_cluster
{
	%cluster = (
		data => "$work/c",
		host => "$work/s",
		port => free_port(),
		log  => "$log/postgresql.log");
	mkdir $cluster{host};
	run_command("$log/initdb.log", FILE_TIMEOUT, "$bindir/initdb", '-D', $cluster{data},
		qw(-U postgres -A trust -N -E UTF8 --no-locale))
	  or die "initdb failed\n", tail("$log/initdb.log", 20);
	open my $conf, '>>', "$cluster{data}/postgresql.conf" or die $!;
	print $conf <<"END";
fsync = off
port = $cluster{port}
listen_addresses = ''
unix_socket_directories = '$cluster{host}'
shared_buffers = 64MB
max_worker_processes = 32
max_prepared_transactions = 10
log_line_prefix = '%m [%p] %q%a '
END
	close $conf;
	return;
}

sub start_cluster
{
	my ($preload) = @_;
	my $timeout = $under ? 300 : 60;

	run_command("$log/pg_ctl.log", FILE_TIMEOUT, "$bindir/pg_ctl", '-D', $cluster{data},
		'-l', $cluster{log}, '-w', '-t', $timeout, '-o',
		"-c shared_preload_libraries='$preload'", 'start')
	  or die "the server did not start\n", tail($cluster{log}, 20);
	return;
}

sub stop_cluster
{
	run_command("$log/pg_ctl.log", FILE_TIMEOUT, "$bindir/pg_ctl", '-D', $cluster{data},
		qw(-w -m fast stop))
	  or note_loudly('the server of the regression tests could not be stopped');
	return;
}

sub psql_command
{
	my ($db, @args) = @_;
	return ("$bindir/psql", '-X', '-q', '-A', '-t', '-P', 'pager=off',
		'-h', $cluster{host}, '-p', $cluster{port}, '-U', 'postgres', '-d', $db, @args);
}

sub run_regress
{
	my ($suite, $program, $inputdir, @names) = @_;
	my $dir = "$work/$suite" =~ s/ /-/gr;

	return if !@names;
	make_path($dir);
	run_command("$dir/report", FILE_TIMEOUT, "$pgtest/$program",
		"--inputdir=$inputdir", "--outputdir=$dir", "--bindir=$bindir",
		"--host=$cluster{host}", "--port=$cluster{port}", '--user=postgres',
		'--dbname=regression_outbox', '--load-extension=pg_outbox', @names);
	count_regress($suite, $dir, @names);
	# Where a new test's results are taken from, to become what is expected.
	system 'cp', '-R', $dir, $log;
	return;
}

sub run_pgtap
{
	my @names = tests_of('pgtap', 'test/pgtap/*.sql');

	return if !@names;
	chomp(my $sharedir = `'$ENV{PG_CONFIG}' --sharedir`);
	if (!-e "$sharedir/extension/pgtap.control")
	{
		note_loudly("not run: pgtap/$_: pgTAP is not installed for this server") for @names;
		count("pgtap/$_", undef, skipped => 1) for @names;
		return;
	}
	for my $name (@names)
	{
		my $begun  = time;
		my $output = "$log/pgtap_$name.tap";

		run_command("$log/pgtap.setup", FILE_TIMEOUT, psql_command('postgres', '-v', 'ON_ERROR_STOP=1',
				'-c', "CREATE DATABASE pgtap_$name"))
		  && run_command("$log/pgtap.setup", FILE_TIMEOUT, psql_command("pgtap_$name", '-v', 'ON_ERROR_STOP=1',
				'-c', 'CREATE EXTENSION pgtap', '-c', 'CREATE EXTENSION pg_outbox'))
		  or print tail("$log/pgtap.setup", 10);
		my $ended = finish_command(
			start_command($output, {}, psql_command("pgtap_$name", '-v', 'ON_ERROR_STOP=1',
					'-f', "$tree/test/pgtap/$name.sql")), FILE_TIMEOUT);
		count_tap("pgtap/$name", $output, $?, $ended, time - $begun);
	}
	return;
}

# Everything that needs a running server, with the library preloaded; then the
# regression tests again without, but for those that say that they need it.
sub run_server_suites
{
	my @sql       = tests_of('sql', 'sql/*.sql');
	my @isolation = tests_of('isolation', 'test/isolation/specs/*.spec');
	my @pgtap     = tests_of('pgtap', 'test/pgtap/*.sql');
	my @without   = grep { slurp("$tree/sql/$_.sql") !~ /^-- needs shared_preload_libraries/m } @sql;

	return if !@sql && !@isolation && !@pgtap;
	init_cluster();
	start_cluster('pg_outbox');
	prove_that_errors_show() if $under;
	run_regress('sql', 'regress/pg_regress', $tree, @sql);
	run_regress('isolation', 'isolation/pg_isolation_regress', "$tree/test/isolation", @isolation);
	run_pgtap();
	stop_cluster();
	if (@without && !$under)
	{
		start_cluster('');
		run_regress('sql without preload', 'regress/pg_regress', $tree, @without);
		stop_cluster();
	}
	count('the server survived', undef, failed => 1), print tail($cluster{log}, 40)
	  if slurp($cluster{log}) =~ /was terminated by signal|TRAP: /;
	return;
}

# ---------------------------------------------------------------------------
# Kafka and TAP
# ---------------------------------------------------------------------------

sub tap_environment
{
	my ($name) = @_;
	my $dir = "$work/t/$name";

	make_path($dir, "$work/ports");
	return {
		TESTDIR                 => $dir,
		TESTDATADIR             => "$dir/tmp_check",    # as 15, which does not ask, has it
		TESTLOGDIR              => "$dir/tmp_check/log",
		PATH                    => "$bindir:$ENV{PATH}",
		PG_REGRESS              => "$pgtest/regress/pg_regress",
		PG_TEST_PORT_DIR        => "$work/ports",
		PG_TEST_TIMEOUT_DEFAULT => $under ? 600 : 120,
		PERL5LIB                => "$pgtest/perl:$tree/test/perl",
		OUTBOX_TEST_KAFKA       => $kafka // '' };
}

sub keep_tap_logs
{
	my ($name) = @_;
	my $from = "$work/t/$name/tmp_check/log";

	return if !-d $from;
	make_path("$log/t_$name");
	system 'cp', '-R', "$from/.", "$log/t_$name";
	return;
}

sub run_tap
{
	my @queue = @_;
	my %running;

	while (@queue || %running)
	{
		while (@queue && keys %running < $jobs)
		{
			my $name   = shift @queue;
			my $output = "$log/t_$name.tap";
			my $pid    = start_command($output, tap_environment($name),
				$^X, "$tree/test/t/$name.pl");
			$running{$pid} = { name => $name, output => $output, begun => time };
		}
		for my $pid (keys %running)
		{
			my $test  = $running{$pid};
			my $late  = time - $test->{begun} > FILE_TIMEOUT;
			my $ended = has_ended($pid);

			next if !$ended && !$late;
			my $status = $?;
			stop_child($pid) if !$ended;
			keep_tap_logs($test->{name});
			count_tap("t/$test->{name}", $test->{output}, $status, $ended,
				time - $test->{begun});
			delete $running{$pid};
		}
		sleep 0.05;
	}
	return;
}

# One real Kafka for all TAP tests, each of which uses topics of its own.
sub start_kafka
{
	my $script = "$tree/test/kafka/kafka.sh";
	my $dir    = "$work/k";

	if (($ENV{KAFKA} // '') eq 'no')
	{
		note_loudly('no real Kafka: switched off by KAFKA=no');
		return;
	}
	return if !-x $script;
	if (!run_command("$log/kafka.log", FILE_TIMEOUT, $script, 'start', $dir))
	{
		note_loudly('no real Kafka: it could not be started; see build/log/check/kafka.log');
		print tail("$log/kafka.log", 10);
		return;
	}
	($kafka) = slurp("$log/kafka.log") =~ /^bootstrap\.servers=(\S+)$/m;
	return;
}

sub stop_kafka
{
	run_command("$log/kafka-stop.log", FILE_TIMEOUT, "$tree/test/kafka/kafka.sh", 'stop', "$work/k")
	  if defined $kafka;
	$kafka = undef;
	return;
}

# ---------------------------------------------------------------------------
# Memory errors
# ---------------------------------------------------------------------------

# The reports that concern us: the sanitizers', which are in the servers' logs,
# are ours or caused by us; of valgrind's those with a function of ours on the
# stack.  Those that are made on purpose are left out unless asked for.
sub memory_reports
{
	my ($on_purpose) = @_;
	my (@logs, @reports);

	find(sub { push @logs, $File::Find::name if -f && /\.log$/ }, $log);
	for my $text (map { slurp($_) } sort @logs)
	{
		push @reports, $text =~ /^(==\d+==ERROR: AddressSanitizer.*?^SUMMARY[^\n]*)/gms;
		push @reports, $text =~ /^([^\n]*: runtime error: [^\n]*(?:\n    [^\n]*)*)/gm;
	}
	for my $text (map { slurp($_) } sort glob "$work/reports/*")
	{
		push @reports, grep { /\boutbox_\w+|pg_outbox|fault_overflow/ } split /^==\d+== \n/m, $text;
	}
	return grep { $on_purpose ? m{common/fault\.c|fault_overflow} && /$on_purpose/ : !m{fault_overflow|common/fault\.c} } @reports;
}

# Errors on purpose, without which a clean run would mean little.  After an
# overflow the sanitizer ends the process, and the server recovers.
sub prove_that_errors_show
{
	run_command("$log/memory.txt", FILE_TIMEOUT, psql_command('postgres',
			'-c', "LOAD 'pg_outbox'", '-c', "SET pg_outbox.fault = 'now=undefined'",
			'-c', "SET pg_outbox.fault = 'now=overflow'"));
	for my $error ('fault_overflow', $under eq 'asan' ? 'shift exponent' : ())
	{
		count("$under reports: $error", undef,
			memory_reports($error) ? (passed => 1) : (failed => 1));
	}
	for (1 .. 600)
	{
		last if run_command("$log/memory.txt", FILE_TIMEOUT, psql_command('postgres', '-c', 'SELECT 1'));
		sleep 0.2;
	}
	return;
}

sub count_memory_reports
{
	my @reports = memory_reports(0);

	print map { s/^/    | /gmr . "\n" } @reports[ 0 .. ($#reports > 4 ? 4 : $#reports) ];
	count("memory errors reported by $under", undef,
		@reports ? (failed => scalar @reports) : (passed => 1));
	system 'cp', '-R', "$work/reports", $log;
	return;
}

sub run_tap_suite
{
	my @names = tests_of('t', 'test/t/*.pl');

	return if !@names;
	start_kafka();
	if ($ci && !defined $kafka)
	{
		count('real Kafka', undef, failed => 1);
	}
	run_tap(@names);
	stop_kafka();
	return;
}

# ---------------------------------------------------------------------------

sub clean_up
{
	stop_children();
	stop_kafka();
	stop_servers_below($work);
	return;
}

sub summary
{
	my $line = "$total{passed} passed, $total{failed} failed";

	$line .= ", $total{skipped} skipped" if $total{skipped};
	printf "\n%.0f seconds; logs are in build/log/check\n", time - $started;
	print "!!! $_\n" for @notes;
	print "$line\n";
	return;
}

local $SIG{INT} = local $SIG{TERM} = sub { clean_up(); print "interrupted\n"; POSIX::_exit(1) };

make_path($log, "$work/reports");
$ENV{OUTBOX_REPORTS} = "$work/reports";
eval { run_server_suites(); run_tap_suite(); 1 } or do
{
	print "error: $@";
	count('the test run itself', undef, failed => 1);
};
clean_up();
count_memory_reports() if $under;
if (!$total{passed} && !$total{failed})
{
	print "error: no test was run", ($ENV{TESTS} ? ": none matches TESTS=\"$ENV{TESTS}\"" : ''), "\n";
	$total{failed} = 1;
}
summary();
exit($total{failed} || ($ci && $total{skipped}) ? 1 : 0);
