#!/usr/bin/perl
#
# proxy.pl HOST:PORT,...: stands between clients and brokers, and cuts and delays
# their connections when told to.
#
# Prints "bootstrap.servers=127.0.0.1:PORT,..." once it listens, a port for each broker.
# A client that begins there stays there: where a broker tells addresses (metadata,
# coordinators), the proxy's are put in their place, which are as long.  Ends with its
# standard input.  Commands come from there, one a line:
#
#	cut		reset all connections: by turns in the middle of the next request, which
#			the broker then never sees, or of the next answer, which the client
#			then never sees; those on which nothing comes after a while.  Answered
#			by "cut N" when it is done, N being how many there were
#	delay MS	from now on pass everything on so much later; 0 ends it.  Answered by
#			"delay MS"

use strict;
use warnings FATAL => 'all';

use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

use constant CUT_PATIENCE => 0.3;    # seconds to wait for something to cut

my $host  = '127.0.0.1';
my @ports = map { /^\Q$host\E:(\d+)$/ ? $1 : () } split /,/, $ARGV[0] // '';
die "usage: proxy.pl 127.0.0.1:PORT,...\n" if !@ports;

# Listeners by file number: { socket, port }, the port being the broker's.
my %listeners;
# The brokers' addresses, as Kafka's protocol has them, and ours: after the host's
# text the port, 32 bits.
my %ours;
my @bootstrap;
for my $port (@ports)
{
	my $socket = IO::Socket::INET->new(LocalAddr => $host, Listen => 50, Blocking => 0)
	  or die "could not listen: $!\n";

	$listeners{ $socket->fileno } = { socket => $socket, port => $port };
	$ours{ $host . pack('N', $port) } = $host . pack('N', $socket->sockport);
	push @bootstrap, "$host:" . $socket->sockport;
}
my $theirs = join '|', map { quotemeta } keys %ours;

# Ends of connections, by file number: { socket, peer, in, out, frames, doomed, late }.
# "in" is what came and cannot be passed on yet, "out" what this end has yet to
# take.  What comes next from a doomed end is cut.  "late" is a list of [when, what]
# for this end, still to become "out".
my %ends;
my $delay = 0;   # seconds
my $cuts = 0;
my $ncut;        # connections of the cut under way, undef: none is
my $cut_until;

sub open_pair
{
	my ($listener) = @_;
	my $client = $listener->{socket}->accept or return;
	my $broker = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $listener->{port});

	if (!$broker)
	{
		close $client;
		return;
	}
	my @pair = map { { socket => $_, in => '', out => '', late => [] } } $client, $broker;
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

# Now, or later: nothing overtakes what waits already.
sub hand_over
{
	my ($end, $bytes) = @_;

	if ($delay > 0 || @{ $end->{late} })
	{
		push @{ $end->{late} }, [ time + $delay, $bytes ];
	}
	else
	{
		$end->{out} .= $bytes;
	}
	return;
}

# What has waited long enough; returns for how long the rest has to at least.
sub hand_over_late
{
	my $now = time;
	my $wait;

	for my $end (values %ends)
	{
		my $late = $end->{late};

		$end->{out} .= (shift @$late)->[1] while @$late && $late->[0][0] <= $now;
		$wait = $late->[0][0] - $now if @$late && (!defined $wait || $late->[0][0] - $now < $wait);
	}
	return $wait;
}

# Pass on what came in at this end; of answers whole ones.
sub pass_on
{
	my ($end) = @_;

	if (!$end->{frames})
	{
		hand_over($end->{peer}, $end->{in});
		$end->{in} = '';
		return;
	}
	while (length $end->{in} >= 4)
	{
		my $size = 4 + unpack 'N', $end->{in};

		last if length $end->{in} < $size;
		my $frame = substr $end->{in}, 0, $size, '';
		$frame =~ s/($theirs)/$ours{$1}/go;
		hand_over($end->{peer}, $frame);
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

	if ($line =~ /^delay (\d+)$/)
	{
		$delay = $1 / 1000;
		print "$line\n";
		return;
	}
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
print 'bootstrap.servers=', join(',', @bootstrap), "\n";

my $commands = '';
for (;;)
{
	my $wait    = hand_over_late();
	my $readers = IO::Select->new(\*STDIN, map { $_->{socket} } values %listeners, values %ends);
	my $writers = IO::Select->new(map { $_->{socket} } grep { $_->{out} ne '' } values %ends);
	$wait = 0.01 if defined $ncut && !(defined $wait && $wait < 0.01);
	my ($readable, $writable) = IO::Select->select($readers, $writers, undef, $wait);

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
		elsif (defined $socket->fileno && $listeners{ $socket->fileno })
		{
			open_pair($listeners{ $socket->fileno });
		}
		else
		{
			my $end = defined $socket->fileno ? $ends{ $socket->fileno } : undef;
			receive($end) if $end;
		}
	}
	finish_cut() if defined $ncut;
}
