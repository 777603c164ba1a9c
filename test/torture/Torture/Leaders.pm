# Torture::Leaders: have brokers hand partitions to each other.
#
# librdkafka has no request for it, so two of Kafka's are written here by hand:
# AlterPartitionReassignments, which puts the same replicas into another order, and
# ElectLeaders, which makes the first of them the leader.

package Torture::Leaders;

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;

use constant ALTER_PARTITION_REASSIGNMENTS => 45;
use constant ELECT_LEADERS => 43;
use constant TIMEOUT_MS => 10_000;

# An answer's body behind the correlation id; dies if there is none.
sub ask
{
	my ($address, $request) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => $address, Timeout => 5) or die "$address: $!\n";
	my $answer = '';

	local $SIG{ALRM} = sub { die "$address does not answer\n" };
	alarm 15;
	print $socket pack('N', length $request) . $request;
	$socket->flush;
	until (length $answer >= 4 && length $answer >= 4 + unpack('N', $answer))
	{
		sysread $socket, $answer, 65536, length $answer or do { alarm 0; die "$address hung up\n" };
	}
	alarm 0;
	return substr $answer, 8;
}

# Small enough for a varint of one byte
sub compact { return chr(1 + length $_[0]) . $_[0] }

# replicas(TOPIC => { partition => [node...] }...)
sub order_replicas
{
	my ($address, %topic) = @_;
	my $request = pack('nnNn', ALTER_PARTITION_REASSIGNMENTS, 0, 1, 0xffff) . "\0"    # no client id, no tags
	  . pack('N', TIMEOUT_MS) . chr(1 + keys %topic);

	for my $name (sort keys %topic)
	{
		my $partitions = $topic{$name};

		$request .= compact($name) . chr(1 + keys %$partitions);
		for my $partition (sort { $a <=> $b } keys %$partitions)
		{
			my @nodes = @{ $partitions->{$partition} };

			$request .= pack('N', $partition) . chr(1 + @nodes) . pack('N*', @nodes) . "\0";
		}
		$request .= "\0";
	}
	my (undef, undef, $error) = unpack 'CNn', ask($address, "$request\0");
	die "the brokers refused another order of replicas: error $error\n" if $error;
	return;
}

sub elect
{
	my ($address, %topic) = @_;
	my $request = pack('nnNn', ELECT_LEADERS, 1, 2, 0xffff) . "\0" . pack('N', scalar keys %topic);

	for my $name (sort keys %topic)
	{
		my @partitions = sort { $a <=> $b } keys %{ $topic{$name} };

		$request .= pack('n/a*', $name) . pack('N/N*', @partitions);
	}
	my (undef, $error) = unpack 'Nn', ask($address, $request . pack('N', TIMEOUT_MS));
	die "the brokers refused the election: error $error\n" if $error;
	return;
}

1;
