#!/usr/bin/perl
#
# demo.pl: the main job, before the user's eyes.  Two clusters, "users" with
# rows in it and "orders", and a broker; publish, replicate, initial copy; then
# writers, events delivered again and late, relay and applier killed; at the
# end every row is compared and every committed change looked for in the topic.
#
# Started by demo.sh as the user that PostgreSQL runs as.
#
# How "lost" is counted: the writers note each change in a table of their own,
# in the same transaction; each of these changes must be in the topic, which is
# read with kcat, that is, without any code of the extension.

use strict;
use warnings FATAL => 'all';

use FindBin;
use IO::Handle;
use JSON::PP ();
use lib $FindBin::RealBin;
use POSIX ();
use Time::HiRes qw(sleep time);

use OutboxRun;

my $tree = $ENV{OUTBOX_TREE};
my $work = $ENV{OUTBOX_WORK};
my $log  = "$work/log";

my $rows    = $ENV{ROWS}    || 20_000;
my $changes = $ENV{CHANGES} || 50_000;
my $writers = $ENV{WRITERS} || 8;

use constant BATCH    => 125;    # changes that a writer asks for at a time
use constant AGAIN    => 250;    # records per round of late deliveries
use constant DEADLINE => 110;    # seconds in which all has to be right

chomp(my $bindir = `'$ENV{PG_CONFIG}' --bindir`);
my %side;                        # the two clusters, by name
my $broker;                      # { bootstrap, what }
my $broker_pid;                  # the mock broker's process
my $topic = 'users';
my $begun = time;

STDOUT->autoflush(1);

# ---------------------------------------------------------------------------
# Clusters
# ---------------------------------------------------------------------------

sub make_cluster
{
	my ($name) = @_;
	my $it = $side{$name} = {
		name => $name,
		data => "$work/$name",
		host => "$work/s",
		port => free_port(),
		log  => "$log/$name.log" };

	mkdir $it->{host};
	run_command("$log/initdb.log", 60, "$bindir/initdb", '-D', $it->{data},
		qw(-U postgres -A trust -N -E UTF8 --no-locale))
	  or die "initdb failed\n", tail("$log/initdb.log", 20);
	open my $conf, '>>', "$it->{data}/postgresql.conf" or die "$!\n";
	print $conf <<"END";
shared_preload_libraries = 'pg_outbox'
port = $it->{port}
listen_addresses = ''
unix_socket_directories = '$it->{host}'
fsync = off                      # it is thrown away; processes crash here, machines do not
shared_buffers = 128MB
max_wal_size = 2GB
log_line_prefix = '%m [%p] %q%d '
cluster_name = '$name'
END
	close $conf;
	run_command("$log/pg_ctl.log", 90, "$bindir/pg_ctl", '-D', $it->{data}, '-l', $it->{log},
		qw(-w -t 60 start))
	  or die "cluster \"$name\" did not start\n", tail($it->{log}, 20);
	sql_or_die($it, "CREATE DATABASE $name", 'postgres');
	return;
}

sub psql_command
{
	my ($it, $db) = @_;
	return ("$bindir/psql", '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1',
		'-h', $it->{host}, '-p', $it->{port}, '-U', 'postgres', '-d', $db // $it->{name});
}

# Run SQL; the output without its last newline, or undef.  Errors go to a file.
sub sql
{
	my ($it, $sql, $db) = @_;
	my $pid = open my $out, '-|';

	die "fork: $!\n" if !defined $pid;
	if ($pid == 0)
	{
		open STDERR, '>>', "$log/psql-errors.log" or POSIX::_exit(126);
		exec psql_command($it, $db), '-c', $sql or POSIX::_exit(127);
	}
	my $answer = do { local $/; <$out> } // '';
	return if !close $out;
	chomp $answer;
	return $answer;
}

sub sql_or_die
{
	my ($it, $sql, $db) = @_;
	my $answer = sql($it, $sql, $db);

	die "failed: $sql\n", tail("$log/psql-errors.log", 10) if !defined $answer;
	return $answer;
}

# ---------------------------------------------------------------------------
# Broker
# ---------------------------------------------------------------------------

sub start_broker
{
	if (my $bootstrap = $ENV{BOOTSTRAP})
	{
		# Somebody else's broker: a topic of our own there.
		$topic  = sprintf 'pg_outbox_demo_%d', time;
		$broker = { bootstrap => $bootstrap, what => "your Kafka at $bootstrap, topic \"$topic\", which stays there" };
	}
	elsif (($ENV{BROKER} // 'mock') eq 'kafka')
	{
		$broker = { bootstrap => start_kafka(), what => 'a real Kafka (KRaft, single node)' };
	}
	else
	{
		$broker = { bootstrap => start_mock(), what => 'the mock broker of librdkafka, not a real Kafka (BROKER=kafka is one)' };
	}
	return;
}

# The mock broker in a process of its own.  It drops what goes beyond 5 MB of a
# partition, so the topic gets enough partitions to stay well below that.
sub start_mock
{
	my $output  = "$log/broker.log";
	my $program = "$tree/build/demo/src/build/mock_broker";

	$broker_pid = start_command($output, {}, $program, '--topic', "$topic:16",
		'--control', "$work/broker.control");
	for (1 .. 200)
	{
		return $1 if slurp($output) =~ /^bootstrap\.servers=(\S+)$/m;
		last if has_ended($broker_pid);
		sleep 0.05;
	}
	die "the mock broker did not start\n", tail($output, 10);
}

sub start_kafka
{
	my $output = "$log/broker.log";

	run_command($output, 180, "$tree/test/kafka/kafka.sh", 'start', "$work/kafka")
	  or die "Kafka did not start\n", tail($output, 10);
	slurp($output) =~ /^bootstrap\.servers=(\S+)$/m or die "Kafka did not say its address\n";
	return $1;
}

sub stop_broker
{
	if (-f "$work/kafka/addresses")
	{
		run_command("$log/broker-stop.log", 60, "$tree/test/kafka/kafka.sh", 'stop', "$work/kafka");
	}
	elsif (-S "$work/broker.control")
	{
		run_command("$log/broker-stop.log", 10, "$tree/build/demo/src/build/mock_broker",
			'--send', "$work/broker.control", 'stop');
	}
	return;
}

# ---------------------------------------------------------------------------
# The job
# ---------------------------------------------------------------------------

my $users_sql = <<'SQL';
CREATE TABLE users (
	id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	name text NOT NULL,
	email text,
	balance numeric(12,2) NOT NULL,
	changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE journal (op "char" NOT NULL);

-- Random changes, committed one to five at a time; one transaction in twenty
-- is rolled back instead, and must leave no trace.
CREATE PROCEDURE write_randomly(changes int, seed float8) LANGUAGE plpgsql AS $$
DECLARE
	done int := 0;
	n int;
	what float8;
	pick bigint;
	who bigint;
BEGIN
	PERFORM setseed(seed);
	WHILE done < changes LOOP
		n := least(1 + floor(random() * 5)::int, changes - done);
		FOR i IN 1 .. n LOOP
			what := random();
			IF what < 0.15 THEN
				INSERT INTO users (name, email, balance)
				VALUES ('new ' || md5(random()::text), md5(random()::text) || '@example.org', random() * 1000);
				INSERT INTO journal VALUES ('c');
				CONTINUE;
			END IF;
			pick := random() * (SELECT max(id) FROM users);
			SELECT id INTO who FROM users WHERE id >= pick
			ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED;
			CONTINUE WHEN NOT FOUND;
			IF what < 0.25 THEN
				DELETE FROM users WHERE id = who;
				INSERT INTO journal VALUES ('d');
			ELSE
				UPDATE users SET balance = random() * 1000, changed_at = clock_timestamp(),
					email = CASE WHEN what < 0.3 THEN NULL ELSE md5(random()::text) || '@example.org' END
				WHERE id = who;
				INSERT INTO journal VALUES ('u');
			END IF;
		END LOOP;
		IF random() < 0.05 THEN
			ROLLBACK;
		ELSE
			COMMIT;
			done := done + n;
		END IF;
	END LOOP;
END
$$;
SQL

my $columns = 'id, name, email, balance, changed_at';

sub prepare
{
	my ($users, $orders) = @side{qw(users orders)};
	my $server = qq(CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$broker->{bootstrap}'));

	sql_or_die($users, $users_sql);
	sql_or_die($users, <<"END");
INSERT INTO users (name, email, balance)
SELECT 'user ' || i, 'user' || i || '\@example.org', i FROM generate_series(1, $rows) i
END
	sql_or_die($orders, <<'END');
CREATE TABLE user_replica (id bigint PRIMARY KEY, name text, email text, balance numeric(12,2),
	changed_at timestamptz, version bigint NOT NULL)
END
	show($users, 'CREATE EXTENSION pg_outbox');
	show($users, $server);
	show($users, "SELECT outbox.publish('users', topic => '$topic')");
	show($orders, 'CREATE EXTENSION pg_outbox');
	show($orders, $server);
	show($orders, "SELECT outbox.replicate('user_replica', topic => '$topic')");
	return;
}

# Run a statement that the user is to see.
sub show
{
	my ($it, $sql) = @_;
	print "$it->{name}=# $sql;\n";
	sql_or_die($it, $sql);
	return;
}

# What the applier counted, in the same transactions that applied: an array of
# delivered, applied and stale; undef while the server restarts.
sub applier_counts
{
	my $answer = sql($side{orders}, <<'END') // return;
SELECT coalesce(sum(received), 0) || ' ' || coalesce(sum(applied + deleted), 0) || ' ' || coalesce(sum(stale + duplicate), 0)
FROM outbox.stat_subscriptions
END
	return [ split ' ', $answer ];
}

my @last = (0, 0, 0);

sub progress
{
	my ($what) = @_;
	my $written = sql($side{users}, 'SELECT count(*) FROM journal');
	my $counts  = applier_counts();

	@last = @$counts if $counts;
	printf "%5.1f s  %s: %s changes committed, %d delivered, %d applied, %d stale\n",
	  time - $begun, $what, $written // '(users restarts)', @last;
	return;
}

# Poll a condition, with a progress line now and then.  What it is called may be
# a reference, to a text that changes meanwhile.
sub wait_for
{
	my ($name, $condition) = @_;
	my $what = ref $name ? $name : \$name;
	my $next = time + 1;

	until ($condition->())
	{
		if (time - $begun > DEADLINE)
		{
			progress($$what);
			die "not done after " . DEADLINE . " seconds: $$what\n", state_of_things();
		}
		if (time > $next)
		{
			progress($$what);
			$next = time + 2;
		}
		sleep 0.1;
	}
	return;
}

sub state_of_things
{
	return map {
		my $status = sql($_, 'SELECT * FROM outbox.status') // '(no answer)';
		("$_->{name}: outbox.status:\n$status\n", "$_->{name}: last lines of its log\n", tail($_->{log}, 12));
	} @side{qw(users orders)};
}

sub initial_copy
{
	wait_for('initial copy',
		sub { (sql($side{orders}, 'SELECT count(*) FROM user_replica') // -1) == $rows });
	progress('initial copy done');
	return;
}

# A writer: asks for batches until it has done its share, again after an error.
sub write_share
{
	my ($n) = @_;
	my $share = int($changes / $writers) + ($n < $changes % $writers);
	for (my $done = 0; $done < $share;)
	{
		my $batch = $share - $done < BATCH ? $share - $done : BATCH;
		my $seed  = ($n * 1000 + $done / BATCH) / 1e6;
		if (defined sql($side{users}, "CALL write_randomly($batch, $seed)"))
		{
			$done += $batch;
		}
		else
		{
			sleep 0.2;    # the cluster restarts after the kill
		}
	}
	return;
}

# Kill the worker as a crash would.  PostgreSQL then restarts all processes of
# that cluster; its clients connect again.
sub kill_worker
{
	my ($it, $kind) = @_;
	my $pid = sql($it, "SELECT pid FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox.*$kind' LIMIT 1");

	return 0 if !defined $pid || $pid !~ /^\d+$/;
	kill 'KILL', $pid or return 0;
	printf "%5.1f s  kill -9 of the %s (process %d); its cluster recovers\n", time - $begun, $kind, $pid;
	return 1;
}

# All records of the topic, each a line in a format of kcat's.  Not JSON for all:
# to decode that in Perl would take longer than everything else.
sub topic_lines
{
	my @format = @_;

	open my $kcat, '-|', 'kcat', '-q', '-b', $broker->{bootstrap}, '-C', '-t', $topic, '-e', @format,
	  '-X', 'fetch.wait.max.ms=50'
	  or die "kcat: $!\n";
	my @lines = <$kcat>;
	close $kcat or die "kcat could not read the topic\n";
	return @lines;
}

# Records that were delivered before are delivered again now, among newer ones
# of the same keys: a random choice, by a producer that is none of ours.
sub deliver_again
{
	my @lines   = topic_lines('-J');
	my $program = "$tree/build/demo/src/build/kafka_admin";
	my $json    = JSON::PP->new->latin1;

	return if !@lines;
	open my $producer, '|-', $program, $broker->{bootstrap}, 'write', $topic or die "$program: $!\n";
	print $producer map { record_line($json->decode($lines[ rand @lines ])) } 1 .. AGAIN;
	close $producer or die "the records could not be delivered again\n";
	return;
}

# A record as kafka_admin reads it.
sub record_line
{
	my ($record) = @_;
	my @fields = map { defined $_ ? unpack('H*', $_) : '-' }
	  $record->{key}, $record->{payload}, @{ $record->{headers} // [] };

	return join("\t", $record->{partition}, @fields) . "\n";
}

# The writers' time: what has to happen meanwhile happens at its share of the
# changes.
sub run_writers
{
	my %running;
	my $again    = sub { $running{ start_code(\&deliver_again) } = 1 };
	my @upcoming = (
		[ 0.10, $again ],
		[ 0.30, sub { kill_worker($side{users}, 'relay') } ],
		[ 0.45, $again ],
		[ 0.65, sub { kill_worker($side{orders}, 'applier') } ],
		[ 0.80, $again ]);

	for my $n (0 .. $writers - 1)
	{
		$running{ start_code(sub { write_share($n) }) } = 1;
	}

	my $what = 'writers at work';
	wait_for(\$what, sub {
		my $written = sql($side{users}, 'SELECT count(*) FROM journal') // 0;
		$what = 'late deliveries' if $written >= $changes;
		if (@upcoming && $written >= $upcoming[0][0] * $changes)
		{
			shift @upcoming if $upcoming[0][1]->();
		}
		for my $pid (keys %running)
		{
			delete $running{$pid} if has_ended($pid);
		}
		return !%running && !@upcoming;
	});
	progress('writers done');
	return;
}

# ---------------------------------------------------------------------------
# The proof
# ---------------------------------------------------------------------------

# The topic as a reader finds it: how many records, how many events (a record
# that was sent again counts once), how many of those are changes.
sub examine_topic
{
	my (%event, %low);
	my ($records, $changed) = (0, 0);

	for my $line (topic_lines('-f', '%p %o %h\n'))
	{
		my ($partition, $offset, $headers) = $line =~ /^(\d+) (\d+) (.*)$/ or die "kcat: $line";
		my %header = map { split /=/, $_, 2 } split /,/, $headers;

		$records++;
		$low{$partition} = $offset if $offset < ($low{$partition} // 9e15);
		next if $event{ $header{id} }++;
		$changed++ if $header{op} ne 'r';
	}
	# A broker that has dropped records already proves nothing.
	die "the broker dropped records before they were examined\n" if grep { $_ > 0 } values %low;
	return ($records, scalar keys %event, $changed);
}

sub drain
{
	my ($records, $events, $changed);
	my $written = sql_or_die($side{users}, 'SELECT count(*) FROM journal');

	wait_for('relay drains the log', sub {
		($records, $events, $changed) = examine_topic();
		return $changed >= $written;
	});
	wait_for('applier catches up', sub {
		my $counts = applier_counts() // return 0;
		($records) = high_watermarks();
		return $counts->[0] >= $records;
	});
	($records, $events, $changed) = examine_topic();
	return ($events, $written - $changed);
}

sub high_watermarks
{
	my ($records) = examine_topic();
	return $records;
}

# Compare the tables row by row; the differences as text.
sub differences
{
	my %row;
	my @text;

	for my $where ([ users => 'users' ], [ orders => 'user_replica' ])
	{
		my ($name, $table) = @$where;
		my $answer = sql_or_die($side{$name}, "SELECT $columns FROM $table ORDER BY id");
		for my $line (split /\n/, $answer)
		{
			my ($id) = split /\|/, $line;
			$row{$id}{$name} = $line;
		}
	}
	for my $id (sort { $a <=> $b } keys %row)
	{
		my ($source, $replica) = map { $_ // '(no such row)' } @{ $row{$id} }{qw(users orders)};
		push @text, "  source:  $source\n  replica: $replica\n" if $source ne $replica;
	}
	return @text;
}

sub judge
{
	my ($published, $lost) = @_;
	my ($delivered, $applied, $stale) = @{ applier_counts() };
	my $count = sql_or_die($side{orders}, 'SELECT count(*) FROM user_replica');
	my @different = differences();
	my $identical = @different ? sprintf('%d rows differ', scalar @different) : 'identical';
	my $right = !@different && !$lost && $delivered == $applied + $stale;

	if (@different)
	{
		print "Differences, at most ten of them:\n", grep { defined } @different[ 0 .. 9 ];
		print state_of_things();
	}
	print "delivered is not applied + stale\n" if $delivered != $applied + $stale;
	printf "demo: %d published, %d delivered, %d applied, %d stale, %d lost, replica %s (%d rows)\n",
	  $published, $delivered, $applied, $stale, $lost, $identical, $count;
	return $right;
}

# ---------------------------------------------------------------------------

sub stop_all
{
	stop_children();
	for my $it (grep { -f "$_->{data}/postmaster.pid" } values %side)
	{
		run_command("$log/pg_ctl.log", 60, "$bindir/pg_ctl", '-D', $it->{data}, qw(-w -m fast stop))
		  or run_command("$log/pg_ctl.log", 60, "$bindir/pg_ctl", '-D', $it->{data}, qw(-w -m immediate stop));
	}
	stop_broker();
	stop_servers_below($work);
	return;
}

sub leave_running
{
	open my $env, '>', "$work/demo.env" or die "$!\n";
	print $env "OUTBOX_TREE='$tree'\nPG_CONFIG='$ENV{PG_CONFIG}'\n";
	close $env;
	print "\nLeft running; to look round:\n";
	print '  ', join(' ', (psql_command($_))[ 0, 7 .. 14 ]), "\n" for @side{qw(users orders)};
	print "  kcat -b $broker->{bootstrap} -C -t $topic -e\n";
	print "To stop and remove it: $ENV{OUTBOX_ROOT}/scripts/demo.sh --stop $work\n\n";
	forget_child($broker_pid) if defined $broker_pid;
	return;
}

if (@ARGV && $ARGV[0] eq '--stop')
{
	$side{$_} = { data => "$work/$_" } for qw(users orders);
	stop_all();
	exit 0;
}

local $SIG{INT} = local $SIG{TERM} = sub { print "interrupted\n"; stop_all(); POSIX::_exit(1) };

my $right = eval {
	start_broker();
	print "Broker: $broker->{what}\n";
	make_cluster($_) for qw(users orders);
	$begun = time;
	prepare();
	initial_copy();
	run_writers();
	my ($published, $lost) = drain();
	leave_running() if $ENV{KEEP};
	judge($published, $lost);
};
print "error: $@" if !defined $right;
stop_all() if !$ENV{KEEP} || !-f "$work/demo.env";
exit($right ? 0 : 1);
