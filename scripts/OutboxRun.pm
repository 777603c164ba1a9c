# OutboxRun: processes and files, as run-tests.pl and demo.pl need them.
#
# Every process is started in a process group of its own and remembered, so
# that on the way out exactly those can be ended.

package OutboxRun;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use File::Find;
use IO::Socket::INET;
use POSIX qw(:sys_wait_h setsid);
use Time::HiRes qw(sleep time);

our @EXPORT = qw(slurp tail free_port start_command start_code finish_command
  stop_child stop_children forget_child run_command stop_servers_below has_ended);

my %child;

sub slurp
{
	my ($file) = @_;
	open my $fh, '<', $file or return '';
	local $/;
	my $text = <$fh>;
	return $text // '';
}

# The last lines of a file, set off for a report.
sub tail
{
	my ($file, $lines) = @_;
	my @all = split /\n/, slurp($file);
	splice @all, 0, -$lines if @all > $lines;
	return map { "    | $_\n" } @all;
}

sub free_port
{
	my $socket = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => 0,
		Listen    => 1) or die "no free port: $!\n";
	return $socket->sockport;
}

# Start a command with its output in a file and some more environment.
sub start_command
{
	my ($output, $env, @command) = @_;
	my $pid = fork // die "fork: $!\n";

	if ($pid == 0)
	{
		setsid();
		$SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
		%ENV = (%ENV, %$env);
		open STDIN,  '<', '/dev/null';
		open STDOUT, '>', $output or POSIX::_exit(126);
		open STDERR, '>&', \*STDOUT;
		{ no warnings 'exec'; exec { $command[0] } @command; }
		POSIX::_exit(127);
	}
	$child{$pid} = 1;
	return $pid;
}

# Run code of ours in a process of its own.
sub start_code
{
	my ($code) = @_;
	my $pid = fork // die "fork: $!\n";

	if ($pid == 0)
	{
		setsid();
		$SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
		eval { $code->(); 1 } or do { print "error: $@"; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	$child{$pid} = 1;
	return $pid;
}

# Has one of our processes ended?  Then $? says how.
sub has_ended
{
	my ($pid) = @_;
	return 0 if waitpid($pid, WNOHANG) == 0;
	delete $child{$pid};
	return 1;
}

# Wait for one of our processes; false if it had to be stopped.
sub finish_command
{
	my ($pid, $timeout) = @_;
	my $until = time + $timeout;

	until (has_ended($pid))
	{
		if (time > $until)
		{
			stop_child($pid);
			return 0;
		}
		sleep 0.02;
	}
	return 1;
}

# TERM first, so that a process can stop what it has started itself.
sub stop_child
{
	my ($pid) = @_;

	for my $signal (qw(TERM KILL))
	{
		kill $signal, -$pid;
		for (1 .. 600)
		{
			return if has_ended($pid);
			sleep 0.05;
		}
	}
	return;
}

sub stop_children
{
	stop_child($_) for keys %child;
	return;
}

# Let a process live on after us.
sub forget_child
{
	my ($pid) = @_;
	delete $child{$pid};
	return;
}

sub run_command
{
	my ($output, $timeout, @command) = @_;
	return finish_command(start_command($output, {}, @command), $timeout) && $? == 0;
}

# Stop every postmaster whose data lies below the directory.
sub stop_servers_below
{
	my ($dir) = @_;
	my @pidfiles;

	return if !-d $dir;
	find(sub { push @pidfiles, $File::Find::name if $_ eq 'postmaster.pid' }, $dir);
	for my $file (@pidfiles)
	{
		my ($pid) = split /\n/, slurp($file);
		kill 'QUIT', $pid if defined $pid && $pid =~ /^\d+$/;
	}
	return;
}

1;
