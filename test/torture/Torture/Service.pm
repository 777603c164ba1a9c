# Torture::Service: a PostgreSQL server that is treated badly.
#
# Its postmaster is our child, so that it is ended by its pid and by nothing else.
# Nothing here dies because the server does not answer: that is what it is for.

package Torture::Service;

use strict;
use warnings FATAL => 'all';

use IO::Handle;
use OutboxRun;
use POSIX ();
use Time::HiRes qw(sleep time);

use constant START_SECONDS => 120;
use constant ROOM_SECONDS  => 10;

my @leaving;    # processes of sessions that were told to end

# new(NAME, world => { work, log, bindir, ... }, data => DIR, db => NAME, conf => TEXT)
sub new
{
	my ($class, $name, %opt) = @_;
	my $world = $opt{world};

	return bless {
		name  => $name,
		world => $world,
		db    => $opt{db} // $name,
		data  => $opt{data} // "$world->{work}/$name",
		host  => "$world->{work}/s",
		port  => free_port(),
		log   => "$world->{log}/$name.log",
		conf  => $opt{conf} // '',
		set   => {} }, $class;
}

sub init
{
	my ($self) = @_;
	my $output = "$self->{world}{log}/initdb.log";

	mkdir $self->{host};
	run_command($output, 120, $self->program('initdb'), '-D', $self->{data},
		qw(-U postgres -A trust -N -E UTF8 --no-locale))
	  or die "initdb failed\n", tail($output, 20);
	$self->configure(<<"END");
fsync = off						# processes crash here, machines do not
shared_buffers = 64MB
max_wal_size = 160MB
min_wal_size = 32MB
wal_level = replica
max_wal_senders = 5
max_worker_processes = 24
max_prepared_transactions = 20
max_connections = 60
restart_after_crash = on
timezone = UTC
log_timezone = UTC
log_line_prefix = '%m [%p] %q%a '
listen_addresses = ''
unix_socket_directories = '$self->{host}'
autovacuum_naptime = 5s
$self->{conf}
include_if_exists = 'torture.conf'
END
	return $self;
}

sub configure
{
	my ($self, $text) = @_;

	open my $fh, '>>', "$self->{data}/postgresql.conf" or die "$self->{data}: $!\n";
	print $fh $text;
	close $fh;
	return;
}

sub program
{
	my ($self, $name) = @_;
	return "$self->{world}{bindir}/$name";
}

# ---------------------------------------------------------------------------
# Life
# ---------------------------------------------------------------------------

# Settings that come and go, in a file of their own: a server that cannot be
# talked to can still be told.
sub set
{
	my ($self, %setting) = @_;
	my $file = "$self->{data}/torture.conf";

	%{ $self->{set} } = (%{ $self->{set} }, %setting);
	open my $fh, '>', "$file.new" or return 0;
	print $fh map { defined $self->{set}{$_} ? "$_ = '$self->{set}{$_}'\n" : () } sort keys %{ $self->{set} };
	close $fh or return 0;
	rename "$file.new", $file or return 0;
	kill 'HUP', $self->{pid} if $self->running;
	return 1;
}

sub running
{
	my ($self) = @_;

	$self->{pid} = undef if defined $self->{pid} && has_ended($self->{pid});
	return defined $self->{pid};
}

sub launch
{
	my ($self) = @_;

	return if $self->running;
	# appended to, as a server that starts again goes on with its log
	$self->{pid} = start_command('/dev/null', {},
		'sh', '-c', 'log=$1; shift; exec "$@" >>"$log" 2>&1', 'sh', $self->{log},
		$self->program('postgres'), '-D', $self->{data}, '-p', $self->{port},
		'-c', "cluster_name=$self->{name}", @{ $self->{options} // [] });
	return;
}

# Started, however often it takes: after kill -9 the old one's processes have to
# leave first.  False if it does not answer in the end.
sub start
{
	my ($self, $seconds) = @_;
	my $begun = time;
	my $until = $begun + ($seconds // START_SECONDS);

	while (time < $until)
	{
		$self->launch;
		return 1 if $self->answers;
		$self->make_room if time - $begun > ROOM_SECONDS;
		sleep 0.2;
	}
	return 0;
}

# With a full disk a server may not start: then whoever waits for it ends that fault.
sub make_room
{
	my ($self) = @_;

	unlink $self->{ballast} if defined $self->{ballast};
	return;
}

sub answers
{
	my ($self) = @_;
	return ($self->sql('SELECT 1', 'postgres') // '') eq '1';
}

# stop(fast | immediate): false if it had to be killed.
sub stop
{
	my ($self, $mode) = @_;

	return 1 if !$self->running;
	kill $mode eq 'fast' ? 'INT' : 'QUIT', $self->{pid};
	return 1 if $self->gone(60);
	$self->kill9;
	return 0;
}

sub kill9
{
	my ($self) = @_;

	return if !$self->running;
	kill 'KILL', $self->{pid};
	$self->gone(10);
	return;
}

sub gone
{
	my ($self, $seconds) = @_;
	my $until = time + $seconds;

	while ($self->running)
	{
		return 0 if time > $until;
		sleep 0.02;
	}
	return 1;
}

# What the server has logged since a place, and the place.
sub log_size
{
	my ($self) = @_;
	return -s $self->{log} // 0;
}

sub logged_since
{
	my ($self, $from) = @_;

	open my $fh, '<', $self->{log} or return '';
	seek $fh, $from, 0;
	local $/;
	return <$fh> // '';
}

# ---------------------------------------------------------------------------
# SQL
# ---------------------------------------------------------------------------

sub psql
{
	my ($self, $db, @args) = @_;
	return ($self->program('psql'), '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1',
		'-h', $self->{host}, '-p', $self->{port}, '-U', 'postgres', '-d', $db // $self->{db}, @args);
}

# Run SQL; its output without the last newline, undef if it failed.  The reason is
# in {error}.
sub sql
{
	my ($self, $sql, $db) = @_;
	my $errors = "$self->{world}{work}/psql.$$.err";
	my $pid = open my $out, '-|';

	die "fork: $!\n" if !defined $pid;
	if ($pid == 0)
	{
		open STDERR, '>', $errors or POSIX::_exit(126);
		open STDIN, '<', '/dev/null';
		{ no warnings 'exec'; exec $self->psql($db, '-c', $sql); }
		POSIX::_exit(127);
	}
	my $answer = do { local $/; <$out> } // '';
	if (!close $out)
	{
		$self->{error} = slurp($errors);
		return;
	}
	chomp $answer;
	return $answer;
}

sub must
{
	my ($self, $sql, $db) = @_;
	my $answer = $self->sql($sql, $db);

	die "$self->{name}: $sql\n$self->{error}\n" if !defined $answer;
	return $answer;
}

# Until it goes through.
sub insist
{
	my ($self, $sql, $db, $seconds) = @_;
	my $begun = time;
	my $until = $begun + ($seconds // START_SECONDS);

	for (;;)
	{
		my $answer = $self->sql($sql, $db);

		return $answer if defined $answer;
		$self->make_room if time - $begun > ROOM_SECONDS;
		die "$self->{name}: $sql\n$self->{error}\n" if time > $until;
		$self->launch;
		sleep 0.2;
	}
}

sub run_text
{
	my ($self, $text, $db) = @_;
	my $file = "$self->{world}{work}/run.$$.sql";

	open my $fh, '>', $file or die "$file: $!\n";
	print $fh $text;
	close $fh;
	run_command("$file.out", 300, $self->psql($db, '-f', $file)) or die "$self->{name}:\n", tail("$file.out", 20);
	unlink $file, "$file.out";
	return;
}

# A session that stays open and does what it is told; nobody waits for it.
sub session
{
	my ($self, $sql) = @_;

	pipe my $from_us, my $in or die "pipe: $!\n";
	my $pid = start_code(sub {
		open STDIN,  '<&', $from_us;
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		{ no warnings 'exec'; exec $self->psql(undef, '-v', 'ON_ERROR_STOP=0'); }
		POSIX::_exit(127);
	});
	close $from_us;
	$in->autoflush(1);
	my $session = { in => $in, pid => $pid };
	say_to($session, $sql);
	return $session;
}

sub say_to
{
	my ($session, $sql) = @_;
	my $in = $session->{in};

	print $in "$sql\n";
	return;
}

# It ends when it has done what it was told.
sub hang_up
{
	my ($session) = @_;

	close $session->{in};
	push @leaving, $session->{pid};
	return;
}

sub reap
{
	@leaving = grep { !has_ended($_) } @leaving;
	return;
}

# How many have not ended.
sub leaving
{
	reap();
	return scalar @leaving;
}

# Process id of a worker (relay, applier, launcher) or of a session by its
# application_name; undef if there is none.
sub pid_of
{
	my ($self, $what) = @_;
	my $where = $what eq 'launcher' ? "backend_type ~ 'pg_outbox.*launcher'" :
	  $what =~ /^(relay|applier)$/ ? "backend_type ~ 'pg_outbox.*$what' AND datname = '$self->{db}'" :
	  "application_name ~ '$what'";
	my $pid = $self->sql("SELECT pid FROM pg_stat_activity WHERE $where ORDER BY pid LIMIT 1", 'postgres');

	return defined $pid && $pid ne '' ? $pid : undef;
}

1;
