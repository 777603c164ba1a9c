#!/usr/bin/perl
#
# bench.pl: the figures, as ratios within one run, in one table.
#
# Started by run.sh as the user that PostgreSQL runs as; QUICK, ROUNDS and ONLY
# are explained there.  What is compared takes turns, round by round, and of
# each figure the median is shown; a ratio is the median of the rounds' ratios.
#
# The broker is librdkafka's mock in a process of its own.  It stores next to
# nothing, so the figures show the relay's cost, not a broker's.  fsync is off:
# the disk is not what is measured.  The log of the longest drain fits into
# shared_buffers: where a part of it does not, that part costs another microsecond
# an event, to read it again and to write out what is in its place.

use strict;
use warnings FATAL => 'all';

use FindBin;
use IO::Handle;
use lib "$FindBin::RealBin/../scripts";
use POSIX ();
use Time::HiRes qw(sleep time);

use OutboxRun;

my $tree  = $ENV{OUTBOX_TREE};
my $work  = $ENV{OUTBOX_WORK};
my $log   = "$work/log";
my $built = "$tree/build/bench/src/build";
my $quick = $ENV{QUICK};

my $rounds = $ENV{ROUNDS} || ($quick ? 3 : 5);
my %only   = map { $_ => 1 } split /,/, $ENV{ONLY} // '';

# How much of each; the table has as many rows as the bulk update changes.
my %size = (
	table   => 100_000,
	writer  => 20_000,
	wal     => $quick ? 2_000 : 10_000,
	drain   => $quick ? 100_000 : 1_000_000,
	drains  => $quick ? 2 : 3,
	flat    => $quick ? 600_000 : 3_000_000,
	warm    => $quick ? 100_000 : 300_000,
	flats   => $quick ? 1 : 3,
	windows => 6,
	latency => $quick ? 5 : 20,              # seconds
	rate    => 1_000,                        # commits per second
	batches => $quick ? 30 : 100,
	feed    => $quick ? 3 : 8,               # changes of each of its rows
	giant   => $quick ? 100_000 : 1_000_000,
	pairs   => $quick ? 3 : 10,
	outage  => $quick ? 2 : 6,               # seconds of each run
	writers => 500);                         # their commits per second

use constant PARTITIONS => 4;
use constant KEYS       => 10_000;
use constant RING       => 65_536;           # FLOW_RING_SIZE of the relay
use constant FEED_ROWS  => 20_000;

chomp(my $bindir = `'$ENV{PG_CONFIG}' --bindir`);
my $data = "$work/data";
my $port = free_port();
my ($broker, $bootstrap);
my @table;                                   # rows of the result

STDOUT->autoflush(1);

# ---------------------------------------------------------------------------
# Cluster and broker
# ---------------------------------------------------------------------------

sub psql_command
{
	my ($db) = @_;
	return ("$bindir/psql", qw(-X -q -A -t -v ON_ERROR_STOP=1 -h), $work, '-p', $port,
		qw(-U postgres -d), $db // 'bench');
}

# Run a script, statement by statement, in one session; the lines it prints.
sub sql
{
	my ($script, $db) = @_;
	my $file = "$work/script.sql";

	open my $out, '>', $file or die "$!\n";
	print $out $script;
	close $out;
	my @command = (psql_command($db), '-f', $file);
	my $pid = open my $psql, '-|';
	die "fork: $!\n" if !defined $pid;
	if ($pid == 0)
	{
		open STDERR, '>>', "$log/psql-errors.log" or POSIX::_exit(126);
		exec @command or POSIX::_exit(127);
	}
	chomp(my @lines = <$psql>);
	close $psql or die "failed:\n$script\n", tail("$log/psql-errors.log", 10);
	return wantarray ? @lines : $lines[0];
}

sub start_cluster
{
	run_command("$log/initdb.log", 60, "$bindir/initdb", '-D', $data,
		qw(-U postgres -A trust -N -E UTF8 --no-locale))
	  or die "initdb failed\n", tail("$log/initdb.log", 20);
	open my $conf, '>>', "$data/postgresql.conf" or die "$!\n";
	print $conf <<"END";
shared_preload_libraries = 'pg_outbox'
port = $port
listen_addresses = ''
unix_socket_directories = '$work'
fsync = off
shared_buffers = 1GB
max_wal_size = 20GB
checkpoint_timeout = 1h
autovacuum = off
log_line_prefix = '%m [%p] %q%d '
END
	close $conf;
	run_command("$log/pg_ctl.log", 90, "$bindir/pg_ctl", '-D', $data, '-l', "$log/server.log",
		qw(-w -t 60 start))
	  or die "the cluster did not start\n", tail("$log/server.log", 20);
	sql('CREATE DATABASE bench', 'postgres');
	return;
}

sub start_broker
{
	my $output = "$log/broker.log";

	$broker = start_command($output, {}, "$built/mock_broker", '--control', "$work/control", '--topic', 'feed1:1',
		map { ('--topic', "$_:" . PARTITIONS) } qw(thin full latency yardstick feed4 giant probe_kafka probe_other));

	for (1 .. 200)
	{
		if (slurp($output) =~ /^bootstrap\.servers=(\S+)$/m)
		{
			$bootstrap = $1;
			return;
		}
		last if has_ended($broker);
		sleep 0.05;
	}
	die "the mock broker did not start\n", tail($output, 10);
}

sub prepare
{
	sql('CREATE EXTENSION pg_outbox');
	sql(slurp("$tree/bench/bench.sql"));
	sql(<<"END");
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap');
CREATE SERVER compressed FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '$bootstrap', "compression.type" 'zstd');
CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap');
SELECT outbox.pause();
INSERT INTO plain SELECT i, 0, 'user' || i || '\@example.org', repeat('n', 137)
FROM generate_series(1, $size{table}) i;
INSERT INTO thin TABLE plain;
INSERT INTO "full" TABLE plain;
VACUUM ANALYZE;
END
	sql("SELECT outbox.publish('thin', mode => 'key', initial => 'none')");
	sql("SELECT outbox.publish('\"full\"', initial => 'none')");
	my $bytes = sql(<<'END');
BEGIN;
UPDATE "full" SET n = n + 1 WHERE id = 12345;
SELECT octet_length(value) FROM outbox._events() WHERE uncommitted;
ROLLBACK;
END
	print "a full event's value has $bytes bytes\n";
	return;
}

# ---------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	my $middle = int(@sorted / 2);
	return @sorted % 2 ? $sorted[$middle] : ($sorted[ $middle - 1 ] + $sorted[$middle]) / 2;
}

sub percentile
{
	my ($share, @sorted) = @_;
	return $sorted[ int($share * $#sorted + 0.5) ];
}

# A row of the table: ours and yardstick are texts; the aim is a text with
# whether it is met, or undef where there is none.
sub result
{
	my ($what, $ours, $yardstick, $ratio, $aim, $met) = @_;
	push @table, [ $what, $ours, $yardstick, $ratio, $aim // 'none', !defined $aim ? '' : $met ? 'met' : 'NOT MET' ];
	printf "  %s: %s, yardstick %s, ratio %s\n", $what, $ours, $yardstick, $ratio;
	return;
}

sub ratio
{
	my ($ours, $yardstick) = @_;
	return median(map { $ours->[$_] / $yardstick->[$_] } 0 .. $#$ours);
}

# ---------------------------------------------------------------------------
# Writers
# ---------------------------------------------------------------------------

# Processor time of a backend that updates one row after the other, per row.
sub bench_writer
{
	my %us;
	my $n = $size{writer};
	my $loop = sub {
		my ($name, $rows) = @_;
		return qq(DO 'BEGIN FOR i IN 1 .. $rows LOOP UPDATE "$name" SET n = n + 1 WHERE id = i; END LOOP; END';\n);
	};

	for (1 .. $rounds)
	{
		for my $name (qw(plain thin full))
		{
			my ($before, $after) = sql($loop->($name, 500) . "SELECT cpu_ns();\n" . $loop->($name, $n) . "SELECT cpu_ns();\n");
			push @{ $us{$name} }, ($after - $before) / 1000 / $n;
		}
		sql('VACUUM plain, thin, "full"');
	}
	for my $case ([ thin => 7 ], [ full => 13 ])
	{
		my ($name, $aim) = @$case;
		my $cost = median(map { $us{$name}[$_] - $us{plain}[$_] } 0 .. $rounds - 1);
		result("writer: CPU per captured row, $name, us", sprintf('%.1f', $cost),
			sprintf('%.1f (the update itself)', median(@{ $us{plain} })),
			sprintf('%.2f', $cost / median(@{ $us{plain} })), "<= $aim", $cost <= $aim);
	}
	return;
}

# WAL of single-row transactions.
sub bench_wal
{
	my %bytes;
	my $n = $size{wal};

	for (1 .. $rounds)
	{
		for my $name (qw(plain thin))
		{
			my ($before, $after) = sql(<<"END");
SELECT pg_current_wal_insert_lsn() - '0/0';
CALL update_singly('$name', $n);
SELECT pg_current_wal_insert_lsn() - '0/0';
END
			push @{ $bytes{$name} }, ($after - $before) / $n;
		}
		sql('VACUUM plain, thin');
	}
	my $cost = median(map { $bytes{thin}[$_] - $bytes{plain}[$_] } 0 .. $rounds - 1);
	result('writer: WAL per thin event, bytes', sprintf('%.0f', $cost),
		sprintf('%.0f (update and commit)', median(@{ $bytes{plain} })),
		sprintf('%.2f', $cost / median(@{ $bytes{plain} })), '<= 190', $cost <= 190);
	return;
}

# One statement that changes every row: the time it takes, and the processor
# time of its backend, which others on the machine disturb less.
sub bench_bulk
{
	my (%seconds, %cpu);

	for (1 .. $rounds)
	{
		for my $name (qw(plain thin full))
		{
			my ($before, $cpu_before, $cpu_after, $after) = sql(<<"END");
SELECT extract(epoch FROM clock_timestamp());
SELECT cpu_ns();
UPDATE "$name" SET n = n + 1;
SELECT cpu_ns();
SELECT extract(epoch FROM clock_timestamp());
END
			push @{ $seconds{$name} }, $after - $before;
			push @{ $cpu{$name} }, ($cpu_after - $cpu_before) / 1e9;
		}
		sql('VACUUM plain, thin, "full"');
	}
	for my $name (qw(thin full))
	{
		my $ratio = ratio($seconds{$name}, $seconds{plain});
		result("writer: UPDATE of $size{table} rows, $name, s", sprintf('%.2f', median(@{ $seconds{$name} })),
			sprintf('%.2f', median(@{ $seconds{plain} })), sprintf('%.2f', $ratio), '<= 2', $ratio <= 2);
		result('writer: the same, processor time, s', sprintf('%.2f', median(@{ $cpu{$name} })),
			sprintf('%.2f', median(@{ $cpu{plain} })), sprintf('%.2f', ratio($cpu{$name}, $cpu{plain})));
	}
	return;
}

# ---------------------------------------------------------------------------
# Relay
# ---------------------------------------------------------------------------

# Put events into the log, KEYS to a transaction.
sub fill_log
{
	my ($events) = @_;
	sql(join '', map { 'UPDATE "full" SET n = n + 1 WHERE id <= ' . KEYS . ";\n" } 1 .. $events / KEYS);
	sql('VACUUM "full"');
	return;
}

# Let the relay run until that many events are settled, then pause it again.
# Seconds that its process took.
sub drain
{
	my ($events) = @_;
	my $goal = sql("TRUNCATE sample;\nSELECT settled() + $events");
	resume_relay();
	sql("CALL watch($goal)");
	my $seconds = sql('SELECT drain_seconds()');
	pause_relay();
	return $seconds;
}

sub resume_relay
{
	sql("SELECT outbox.resume();\nSELECT outbox.wait_until_running()");
	return;
}

sub pause_relay
{
	sql('SELECT outbox.pause()');
	for (1 .. 200)
	{
		return if sql("SELECT count(*) FROM outbox._workers() WHERE worker = 'relay' AND pid IS NOT NULL") == 0;
		sleep 0.05;
	}
	die "the relay did not pause\n";
}

# What earlier parts left in the log must not count.
sub empty_log
{
	my $until = time + 120;

	resume_relay();
	until (sql('SELECT unsettled()') eq 'f')
	{
		die "the relay did not drain the log\n" if time > $until;
		sleep 0.2;
	}
	pause_relay();
	return;
}

sub run_yardstick
{
	my ($events) = @_;
	my $output = "$log/rdkafka_bench.log";

	run_command($output, 300, "$built/rdkafka_bench", $bootstrap, 'yardstick', $events, 200, KEYS)
	  or die "rdkafka_bench failed\n", tail($output, 10);
	slurp($output) =~ /rate=(\d+) cpu_us=([\d.]+)/ or die "rdkafka_bench printed no rate\n";
	return ($1, $2);
}

sub relay_cpu_us
{
	my ($events) = @_;
	return sql('SELECT max(cpu) FROM sample') * 1e6 / $events;
}

sub bench_relay
{
	my (@ours, @theirs, @our_cpu, @their_cpu);
	my $n = $size{drain};

	for (1 .. $size{drains})
	{
		fill_log($n);
		push @ours, $n / drain($n);
		push @our_cpu, relay_cpu_us($n);
		my ($rate, $cpu) = run_yardstick($n);
		push @theirs, $rate;
		push @their_cpu, $cpu;
	}
	my $ratio = ratio(\@ours, \@theirs);
	result("relay: drain of $n events of 200 B, events/s", sprintf('%.0f', median(@ours)),
		sprintf('%.0f (librdkafka alone)', median(@theirs)), sprintf('%.2f', $ratio), '>= 0.5', $ratio >= 0.5);
	result('relay: CPU per event, all threads, us', sprintf('%.2f', median(@our_cpu)),
		sprintf('%.2f (librdkafka alone)', median(@their_cpu)), sprintf('%.2f', ratio(\@our_cpu, \@their_cpu)));
	return;
}

# The same drain in Kafka transactions, against one without, in turn.
sub bench_once
{
	my (@plain, @once);
	my $n = $size{drain};

	for (1 .. $size{drains})
	{
		fill_log($n);
		push @plain, $n / drain($n);
		fill_log($n);
		sql("ALTER SERVER kafka OPTIONS (ADD exactly_once 'true')");
		push @once, $n / drain($n);
		sql('ALTER SERVER kafka OPTIONS (DROP exactly_once)');
	}
	result("exactly once: drain of $n events of 200 B, events/s", sprintf('%.0f', median(@once)),
		sprintf('%.0f (at least once)', median(@plain)), sprintf('%.2f', ratio(\@once, \@plain)));
	return;
}

# Processor time at a number of events done, between the samples around it.
sub cpu_at
{
	my ($events, @samples) = @_;
	my $before = $samples[0];

	for my $after (@samples)
	{
		if ($after->[0] >= $events)
		{
			my $part = $after->[0] - $before->[0];
			return $after->[1] if $part == 0;
			return $before->[1] + ($after->[1] - $before->[1]) * ($events - $before->[0]) / $part;
		}
		$before = $after;
	}
	return $before->[1];
}

# Microseconds per event in equal windows of the events behind a number.
sub window_costs
{
	my ($start, $events, @samples) = @_;
	my $window = $events / $size{windows};
	my @marks = map { cpu_at($start + $window * $_, @samples) } 0 .. $size{windows};

	return map { ($marks[$_] - $marks[ $_ - 1 ]) * 1e6 / $window } 1 .. $size{windows};
}

# One long drain as an outage of the broker ends: the relay runs and has sent
# events before, the broker stands still while the log fills, then it goes on.
# Another session holds a snapshot meanwhile.
#
# Windows are of events read and sent.  Settled events are what can be counted
# from outside; the relay is a ring full ahead of them when the broker goes on,
# and stays so until it has read everything.  So the windows end there.
sub flat_drain
{
	my $n = $size{flat};

	kill 'STOP', $broker;
	fill_log($n);

	# Only now: the snapshot would keep all versions of the updated rows.
	my $holder = start_command("$log/holder.log", { PGAPPNAME => 'holder' }, psql_command(), '-c',
		'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM plain; SELECT pg_sleep(3600)');
	sleep 0.1 until sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holder' AND wait_event = 'PgSleep'") eq '1';
	my $first = sql('SELECT settled()');
	sql("TRUNCATE sample;\nCALL take_sample('relay', $first)");
	kill 'CONT', $broker;
	sql("CALL watch($first + $n)");
	my @samples = map { [ split /\|/ ] } sql('SELECT done, cpu FROM sample ORDER BY at');
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'");
	finish_command($holder, 10);
	return window_costs($first, $n - RING, @samples);
}

sub bench_flat
{
	my (@drains, @rss);

	resume_relay();
	my $goal = sql('SELECT settled()') + $size{warm};
	fill_log($size{warm});
	sql("CALL watch($goal)");
	for (1 .. $size{flats})
	{
		push @drains, [ flat_drain() ];
		push @rss, sql('SELECT max(rss) FROM sample') / 1e6;
		print '  us per event: ', join(' ', map { sprintf '%.2f', $_ } @{ $drains[-1] }), "\n";
	}
	pause_relay();

	my ($dead, $changed) = split /\|/, sql(<<'END');
SELECT sum(n_dead_tup), sum(n_tup_upd + n_tup_del) FROM pg_stat_all_tables
WHERE schemaname = 'outbox' AND relname ~ '^_(log|position)_'
END
	my @cost = map { my $w = $_; median(map { $_->[$w] } @drains) } 0 .. $size{windows} - 1;
	my ($least, $most) = (sort { $a <=> $b } @cost)[ 0, -1 ];
	my $ratio = $most / $least;

	result("flat: CPU per event, $size{windows} windows of a drain of $size{flat}, us", sprintf('%.2f most', $most),
		sprintf('%.2f least', $least), sprintf('%.2f', $ratio), '< 1.10', $ratio < 1.1);
	result('flat: resident memory of the relay (not shared), MB', sprintf('%.0f', median(@rss)), '-', '-', '< 150',
		median(@rss) < 150);
	result('flat: dead tuples in log and positions, a snapshot held', $dead,
		"$changed rows updated or deleted", '-', '0', $dead == 0 && $changed == 0);
	return;
}

# ---------------------------------------------------------------------------
# Commit to acknowledgement
# ---------------------------------------------------------------------------

# Each event carries the time right before its commit; a consumer of its own
# (kcat, asking again at once, at most 1 ms at a time) sees it when the broker
# has it, which is when the broker acknowledges it.  What is measured is thus
# never less than the latency asked for: the commit itself, the mock's answer
# to the consumer and kcat's output come on top.  The mock looks for the place
# to read at through all messages of the partition, one by one, so it becomes
# slower as the topic grows; the quarters of the run show how much.
sub bench_latency
{
	my $seconds = $size{latency};
	my $script = "$work/emit.sql";

	resume_relay();
	open my $out, '>', $script or die "$!\n";
	print $out "SELECT outbox.emit('latency', :client_id::text, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text);\n";
	close $out;
	my $kcat_pid = open my $kcat, '-|', 'kcat', qw(-q -u -C -t latency -o end -b), $bootstrap, '-X', 'fetch.wait.max.ms=1',
	  '-f', '%s\n'
	  or die "kcat: $!\n";
	sleep 1;
	my $pgbench = start_command("$log/pgbench.log", {}, "$bindir/pgbench", '-n', '-h', $work, '-p', $port,
		qw(-U postgres -c 8 -j 1 -M prepared -R), $size{rate}, '-T', $seconds, '-f', $script, 'bench');
	my @ms = read_latencies($kcat, $size{rate}, time + $seconds + 10, $pgbench);
	kill 'TERM', $kcat_pid;
	close $kcat;
	pause_relay();
	die "pgbench failed\n", tail("$log/pgbench.log", 10) if slurp("$log/pgbench.log") !~ /^tps = /m;

	my @quarters = map { [ @ms[ int($#ms * $_ / 4) .. int($#ms * ($_ + 1) / 4) ] ] } 0 .. 3;
	print '  p99 by quarter, ms: ',
	  join(' ', map { sprintf '%.2f', percentile(0.99, sort { $a <=> $b } @$_) } @quarters), "\n";
	for my $case ([ 0.5, 5 ], [ 0.99, 25 ])
	{
		my ($share, $aim) = @$case;
		my $value = percentile($share, sort { $a <=> $b } @ms);
		result(sprintf('latency: commit to ack at %d commits/s, p%d, ms', (@ms + $size{rate}) / $seconds, $share * 100),
			sprintf('%.2f', $value), '-', '-', "< $aim", $value < $aim);
	}
	return;
}

# Milliseconds per event; those of the first second do not count.
sub read_latencies
{
	my ($kcat, $skip, $until, $pgbench) = @_;
	my ($rest, @ms) = ('');
	my $quiet = 0;

	while (time < $until && $quiet < 2)
	{
		my $ready = '';
		vec($ready, fileno $kcat, 1) = 1;
		if (!select $ready, undef, undef, 0.5)
		{
			$quiet++ if has_ended($pgbench) || $quiet;
			next;
		}
		sysread $kcat, $rest, 65536, length $rest or last;
		my $now = time;
		while ($rest =~ s/^(\d+)\n//)
		{
			push @ms, $now * 1000 - $1 / 1000;
		}
	}
	splice @ms, 0, $skip;
	die "no event arrived\n" if !@ms;
	return @ms;
}

# ---------------------------------------------------------------------------
# Fairness
# ---------------------------------------------------------------------------

sub wait_for
{
	my ($query, $answer) = @_;
	my $until = time + 120;

	until (sql($query) eq $answer)
	{
		die "waited in vain: $query\n" if time > $until;
		sleep 0.05;
	}
	return;
}

# Milliseconds from the commit of an event, which follows the statements given,
# until a consumer has it.
sub probe_ms
{
	my ($server, $statements) = @_;
	my $topic = "probe_$server";
	my $kcat_pid = open my $kcat, '-|', 'kcat', qw(-q -u -C -c 1 -o end -t), $topic, '-b', $bootstrap, '-X', 'fetch.wait.max.ms=1',
	  '-f', '%s\n'
	  or die "kcat: $!\n";
	sleep 1;
	my $committed = (sql($statements . "SELECT outbox.emit('$topic', 'k', 'v', server => '$server') \\g /dev/null\n"
		  . 'SELECT extract(epoch FROM clock_timestamp())'))[-1];
	my $line = <$kcat>;
	my $ms = (time - $committed) * 1000;

	close $kcat;
	return $ms;
}

# How long an event waits for its turn: while one transaction is sent to another
# topic, while as many events are parked because their topic is paused, and
# while those are sent when it goes on.
sub bench_fair
{
	my $n = $size{giant};
	my $giant = "SELECT outbox.emit('giant', g::text, repeat('x', 180)) FROM generate_series(1, $n) g \\g /dev/null\n";
	my $parked = q(SELECT count(*) FROM outbox._parked);
	my %do = (
		sent => sub { return $giant },
		parked => sub { sql(q(SELECT outbox.pause_topic('giant', 'kafka'))); return $giant },
		drained => sub {
			sql(qq(SELECT outbox.pause_topic('giant', 'kafka');\n$giant));
			wait_for($parked, $n);
			return qq(SELECT outbox.resume_topic('giant', 'kafka') \\g /dev/null\n);
		});

	resume_relay();
	for my $how (qw(sent parked drained))
	{
		for my $server (qw(kafka other))
		{
			my @ms;

			for (1 .. $size{drains})
			{
				push @ms, probe_ms($server, $do{$how}->());
				wait_for('SELECT unsettled()', 'f');
				next if $how eq 'sent';
				sql(q(SELECT outbox.resume_topic('giant', 'kafka'))) if $how eq 'parked';
				wait_for($parked, 0);
			}
			result("fair: an event's wait while $n of another topic are $how, " . ($server eq 'kafka' ? 'same server' : 'another server') . ', ms',
				sprintf('%.0f', median(@ms)), '-', '-');
		}
	}
	pause_relay();
	return;
}

# ---------------------------------------------------------------------------
# Outage
# ---------------------------------------------------------------------------

# Milliseconds that a transaction with one published update took, median and
# 99th percentile; fsync is on.
sub writers_ms
{
	my ($name) = @_;
	my $script = "$work/update.sql";

	open my $out, '>', $script or die "$!\n";
	print $out qq(\\set id random(1, $size{table})\nUPDATE "full" SET n = n + 1 WHERE id = :id;\n);
	close $out;
	unlink glob "$work/$name.*";
	run_command("$log/pgbench.log", $size{outage} + 60, "$bindir/pgbench", '-n', '-h', $work, '-p', $port,
		qw(-U postgres -c 4 -j 1 -M prepared -l --log-prefix), "$work/$name", '-R', $size{writers}, '-T', $size{outage}, '-f', $script, 'bench')
	  or die "pgbench failed\n", tail("$log/pgbench.log", 10);

	# columns: client, number, latency and, last, how late it began, in microseconds
	my @ms = sort { $a <=> $b } map { my @f = split; ($f[2] - $f[-1]) / 1000 } map { split /\n/, slurp($_) } glob "$work/$name.*";
	die "no transactions\n" if !@ms;
	return (percentile(0.5, @ms), percentile(0.99, @ms));
}

sub control_broker
{
	my ($command) = @_;
	run_command("$log/control.log", 10, "$built/mock_broker", '--send', "$work/control", $command, 'all')
	  or die "the broker does not obey\n", tail("$log/control.log", 5);
	return;
}

# What writers take while the broker is away, against what they take while it is
# there: by turns, in either order.  It refuses connections, or it stands still
# and keeps them.
sub bench_outage
{
	my %away = (
		'refuses connections' => [ sub { control_broker('down') }, sub { control_broker('up') } ],
		'stands still'        => [ sub { kill 'STOP', $broker }, sub { kill 'CONT', $broker } ]);

	sql("ALTER SYSTEM SET fsync = on", 'postgres');
	sql('SELECT pg_reload_conf()');
	resume_relay();
	writers_ms('warm');
	for my $how (sort keys %away)
	{
		my (%ms, %p99);
		my %run = (
			up   => sub { push @{ $ms{up} }, 0; ($ms{up}[-1], $p99{up}[ $#{ $ms{up} } ]) = writers_ms('up') },
			away => sub {
				$away{$how}[0]->();
				push @{ $ms{away} }, 0;
				($ms{away}[-1], $p99{away}[ $#{ $ms{away} } ]) = writers_ms('away');
				$away{$how}[1]->();
				wait_for('SELECT unsettled()', 'f');
			});

		for my $pair (1 .. $size{pairs})
		{
			$run{$_}->() for $pair % 2 ? qw(up away) : qw(away up);
			sql('VACUUM "full"');
		}
		for my $case ([ 'median', \%ms ], [ 'p99', \%p99 ])
		{
			my ($name, $of) = @$case;
			my $ratio = ratio($of->{away}, $of->{up});
			my @up = sort { $a <=> $b } @{ $of->{up} };
			my $spread = $up[-1] / $up[0];
			result("outage: writers, $name of a transaction while the broker $how, ms",
				sprintf('%.2f', median(@{ $of->{away} })), sprintf('%.2f (broker up; %.2f to %.2f)', median(@up), @up[ 0, -1 ]),
				sprintf('%.2f', $ratio), '<= 1.10 or the spread', $ratio <= 1.1 || $ratio <= $spread);
		}
	}
	pause_relay();
	sql("ALTER SYSTEM RESET fsync", 'postgres');
	sql('SELECT pg_reload_conf()');
	return;
}

# ---------------------------------------------------------------------------
# Applier
# ---------------------------------------------------------------------------

sub bench_applier
{
	my %rate;
	my $rows = $size{batches} * 1000;
	my %way = (
		apply_ours         => 'replica',
		apply_by_hand      => 'by_hand',
		apply_by_hand_json => 'by_hand');

	sql("SET bench.batches = $size{batches};\nCALL make_batches();\nVACUUM ANALYZE batch_events, batch_columns");
	for (1 .. $rounds)
	{
		for my $how (sort keys %way)
		{
			my ($before, $after) = sql(<<"END");
TRUNCATE $way{$how};
SELECT extract(epoch FROM clock_timestamp());
CALL $how();
SELECT extract(epoch FROM clock_timestamp());
END
			push @{ $rate{$how} }, $rows / ($after - $before);
		}
		sql('SELECT 1 / (NOT EXISTS ((TABLE replica EXCEPT TABLE by_hand) UNION ALL (TABLE by_hand EXCEPT TABLE replica)))::int');
	}
	my $ratio = ratio($rate{apply_ours}, $rate{apply_by_hand});
	result("applier: $size{batches} batches of 1,000, rows/s", sprintf('%.0f', median(@{ $rate{apply_ours} })),
		sprintf('%.0f (unnest of typed arrays)', median(@{ $rate{apply_by_hand} })),
		sprintf('%.2f', $ratio), '>= 1.0', $ratio >= 1);
	result('applier: the same, both from JSON, rows/s', sprintf('%.0f', median(@{ $rate{apply_ours} })),
		sprintf('%.0f (unnest and json_to_record)', median(@{ $rate{apply_by_hand_json} })),
		sprintf('%.2f', ratio($rate{apply_ours}, $rate{apply_by_hand_json})));
	return;
}

# Changes of a table, by way of the relay, into a topic of so many partitions.
sub fill_topic
{
	my ($partitions) = @_;
	my $goal = FEED_ROWS * $size{feed};
	my $until = time + 120;

	sql("SELECT outbox.publish('feed$partitions', topic => 'feed$partitions', server => 'compressed', initial => 'none')");
	sql(join '', map { "UPDATE feed$partitions SET amount = amount + 1;\n" } 1 .. $size{feed});
	my $settled = sql("SELECT settled('compressed')");
	sql("SELECT outbox.resume('relay')");
	until (sql("SELECT settled('compressed')") >= $settled + $goal)
	{
		die "the relay did not fill the topic\n" if time > $until;
		sleep 0.2;
	}
	pause_relay();
	return;
}

# Let the applier read the topic from its beginning, into an empty replica.
# Events per second from the first sample with any, microseconds per event, MB.
sub apply_topic
{
	my ($partitions) = @_;
	my $goal = FEED_ROWS * $size{feed};

	sql("TRUNCATE fed$partitions, sample");
	sql("SELECT outbox.replicate('fed$partitions', topic => 'feed$partitions', server => 'compressed')");
	sql("SELECT outbox.resume('applier')");
	sql("CALL watch_subscription('fed$partitions', $goal)");
	my ($seconds, $done, $cpu, $rss) = split /\|/, sql(<<'END');
SELECT max(at) - min(at), max(done) - min(done), max(cpu) - min(cpu), (SELECT max(rss) FROM sample) / 1e6
FROM sample WHERE done > 0
END
	sql("SELECT 1 / (NOT EXISTS (SELECT id, name, amount, note FROM fed$partitions EXCEPT TABLE feed$partitions)"
		  . " AND (SELECT count(*) FROM fed$partitions) = @{[ FEED_ROWS ]})::int");
	sql("SELECT outbox.unsubscribe('fed$partitions');\nSELECT outbox.pause('applier')");
	return ($done / $seconds, $cpu * 1e6 / $done, $rss);
}

sub bench_worker
{
	my @rss;

	for my $partitions (1, PARTITIONS)
	{
		my (@rate, @cpu);

		fill_topic($partitions);
		for (1 .. $rounds)
		{
			my ($rate, $cpu, $rss) = apply_topic($partitions);
			push @rate, $rate;
			push @cpu, $cpu;
			push @rss, $rss;
		}
		result("applier: worker, $partitions partition(s), rows/s", sprintf('%.0f', median(@rate)),
			sprintf('%.1f us of CPU a row', median(@cpu)), '-');
	}
	my $rss = (sort { $a <=> $b } @rss)[-1];
	result('applier: resident memory of the worker (not shared), MB', sprintf('%.0f', $rss), '-', '-', '< 150', $rss < 150);
	return;
}

# ---------------------------------------------------------------------------

sub print_table
{
	my @all = ([ 'what', 'ours', 'yardstick', 'ratio', 'aim', 'result' ], @table);
	my @width = map { my $c = $_; (sort { $b <=> $a } map { length $_->[$c] } @all)[0] } 0 .. 5;

	print "\n";
	for my $row (0 .. $#all)
	{
		print '| ', join(' | ', map { sprintf '%-*s', $width[$_], $all[$row][$_] } 0 .. 5), " |\n";
		print '|', join('|', map { '-' x ($width[$_] + 2) } 0 .. 5), "|\n" if $row == 0;
	}
	return;
}

sub stop_all
{
	stop_children();
	run_command("$log/pg_ctl.log", 60, "$bindir/pg_ctl", '-D', $data, qw(-w -m immediate stop))
	  if -f "$data/postmaster.pid";
	stop_servers_below($work);
	return;
}

local $SIG{INT} = local $SIG{TERM} = sub { print "interrupted\n"; stop_all(); POSIX::_exit(1) };

my @parts = (
	[ writer  => \&bench_writer ],
	[ wal     => \&bench_wal ],
	[ bulk    => \&bench_bulk ],
	[ relay   => sub { empty_log(); bench_relay() } ],
	[ once    => sub { empty_log(); bench_once() } ],
	[ flat    => sub { empty_log(); bench_flat() } ],
	[ latency => sub { empty_log(); bench_latency() } ],
	[ fair    => sub { empty_log(); bench_fair() } ],
	[ outage  => sub { empty_log(); bench_outage() } ],
	[ applier => \&bench_applier ],
	[ worker  => \&bench_worker ]);

my $done = eval {
	start_broker();
	start_cluster();
	prepare();
	for my $part (grep { !%only || $only{ $_->[0] } } @parts)
	{
		print "$part->[0]\n";
		$part->[1]->();
	}
	print_table();
	1;
};
print "error: $@" if !$done;
stop_all();
exit($done ? 0 : 1);
