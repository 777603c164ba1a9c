#!/usr/bin/perl
#
# proxy.pl HOST:PORT: stands between clients and a broker, and cuts their
# connections when told to.
#
# Prints "bootstrap.servers=127.0.0.1:PORT" once it listens.  A client that
# begins there stays there: where the broker tells its own address (metadata,
# coordinators), the proxy's is put in its place, which is as long.  Ends with its
# standard input.  Commands come from there, one a line:
#
#	cut		reset all connections: by turns in the middle of the next request, which
#			the broker then never sees, or of the next answer, which the client
#			then never sees; those on which nothing comes after a while.  Answered
#			by "cut N" when it is done, N being how many there were

use strict;
use warnings FATAL => 'all';

use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

use constant CUT_PATIENCE => 0.3;    # seconds to wait for something to cut

my ($host, $port) = ($ARGV[0] // '') =~ /^(127\.0\.0\.1):(\d+)$/
  or die "usage: proxy.pl 127.0.0.1:PORT\n";
my $listener = IO::Socket::INET->new(LocalAddr => $host, Listen => 50, Blocking => 0)
  or die "could not listen: $!\n";

# An address as Kafka's protocol has it: after the host's text the port, 32 bits.
my $theirs = $host . pack('N', $port);
my $ours   = $host . pack('N', $listener->sockport);

# Ends of connections, by file number: { socket, peer, in, out, frames, doomed }.
# "in" is what came and cannot be passed on yet, "out" what this end has yet to
# take.  What comes next from a doomed end is cut.
my %ends;
my $cuts = 0;
my $ncut;        # connections of the cut under way, undef: none is
my $cut_until;

sub open_pair
{
	my $client = $listener->accept or return;
	my $broker = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port);

	if (!$broker)
	{
		close $client;
		return;
	}
	my @pair = map { { socket => $_, in => '', out => '' } } $client, $broker;
	$pair[1]{frames} = 1;    # answers are looked at one by one
	for my $i (0, 1)
	{
		$pair[$i]{socket}->blocking(0);
		$pair[$i]{peer} = $pair[ 1 - $i ];
		$ends{ $pair[$i]{socket}->fileno } = $pair[$i];
	}
	return;
}

sub close_pair
{
	my ($end, $reset) = @_;

	for my $e ($end, $end->{peer})
	{
		delete $ends{ $e->{socket}->fileno };
		setsockopt $e->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0) if $reset;
		close $e->{socket};
	}
	delete $end->{peer}{peer};    # so that the memory goes
	delete $end->{peer};
	return;
}

# Pass on what came in at this end; of answers whole ones.
sub pass_on
{
	my ($end) = @_;

	if (!$end->{frames})
	{
		$end->{peer}{out} .= $end->{in};
		$end->{in} = '';
		return;
	}
	while (length $end->{in} >= 4)
	{
		my $size = 4 + unpack 'N', $end->{in};

		last if length $end->{in} < $size;
		my $frame = substr $end->{in}, 0, $size, '';
		$frame =~ s/\Q$theirs\E/$ours/g;
		$end->{peer}{out} .= $frame;
	}
	return;
}

sub receive
{
	my ($end) = @_;
	my $n = sysread $end->{socket}, $end->{in}, 65536, length $end->{in};

	return if !defined $n && ($!{EAGAIN} || $!{EINTR});
	if (!$n)
	{
		close_pair($end);
	}
	elsif ($end->{doomed})
	{
		syswrite $end->{peer}{socket}, $end->{in}, int($n / 2);
		close_pair($end, 1);
	}
	else
	{
		pass_on($end);
	}
	return;
}

sub transmit
{
	my ($end) = @_;
	my $n = syswrite $end->{socket}, $end->{out};

	if (defined $n)
	{
		substr $end->{out}, 0, $n, '';
	}
	elsif (!$!{EAGAIN} && !$!{EINTR})
	{
		close_pair($end);
	}
	return;
}

sub command
{
	my ($line) = @_;

	die "unknown command: $line\n" if $line ne 'cut' || defined $ncut;
	$cuts++;
	my @doomed = grep { $cuts % 2 ? !$_->{frames} : $_->{frames} } values %ends;
	$_->{doomed} = 1 for @doomed;
	$ncut      = @doomed;
	$cut_until = time + CUT_PATIENCE;
	return;
}

# End a cut when nothing is left of it, or when it has waited long enough.
sub finish_cut
{
	my @doomed = grep { $_->{doomed} } values %ends;

	return if @doomed && time < $cut_until;
	close_pair($_, 1) for @doomed;
	print "cut $ncut\n";
	$ncut = undef;
	return;
}

local $SIG{PIPE} = 'IGNORE';
STDOUT->autoflush(1);
print "bootstrap.servers=$host:", $listener->sockport, "\n";

my $commands = '';
for (;;)
{
	my $readers = IO::Select->new(\*STDIN, $listener, map { $_->{socket} } values %ends);
	my $writers = IO::Select->new(map { $_->{socket} } grep { $_->{out} ne '' } values %ends);
	my ($readable, $writable) = IO::Select->select($readers, $writers, undef, defined $ncut ? 0.01 : undef);

	for my $socket (@{ $writable // [] })
	{
		my $end = defined $socket->fileno ? $ends{ $socket->fileno } : undef;
		transmit($end) if $end;
	}
	for my $socket (@{ $readable // [] })
	{
		if ($socket == \*STDIN)
		{
			exit 0 if !sysread STDIN, $commands, 1024, length $commands;
			command($1) while $commands =~ s/^(.*)\n//;
		}
		elsif ($socket == $listener)
		{
			open_pair();
		}
		else
		{
			my $end = defined $socket->fileno ? $ends{ $socket->fileno } : undef;
			receive($end) if $end;
		}
	}
	finish_cut() if defined $ncut;
}
