# Torture::Kafka: brokers, and the ways to them.
#
# The services reach the brokers through proxies (test/kafka/proxy.pl), one process
# for each service, so that the connections of one can be cut and delayed; the
# oracle reads without.

package Torture::Kafka;

use strict;
use warnings FATAL => 'all';

use IO::Handle;
use OutboxRun;
use POSIX ();
use Time::HiRes qw(sleep time);
use Torture::Leaders;

sub new
{
	my ($class, %opt) = @_;
	my $world = $opt{world};

	return bless {
		world   => $world,
		dir     => "$world->{work}/k",
		brokers => $opt{brokers},
		ways    => {} }, $class;
}

sub script
{
	my ($self, $seconds, $command, @args) = @_;
	my $output = "$self->{world}{log}/kafka-$command.log";

	return run_command($output, $seconds, "$self->{world}{tree}/test/kafka/kafka.sh", $command, $self->{dir}, @args)
	  ? slurp($output) : undef;
}

sub start
{
	my ($self) = @_;
	my $replicas = $self->{brokers} < 3 ? 1 : 2;
	my $out = $self->script(180, 'start', '--brokers', $self->{brokers}, '--no-auto-create',
		map { ('--property', $_) } "min.insync.replicas=$replicas",
		"transaction.state.log.min.isr=$replicas", 'unclean.leader.election.enable=false',
		'broker.session.timeout.ms=6000', 'broker.heartbeat.interval.ms=1000',
		'replica.lag.time.max.ms=10000', 'auto.leader.rebalance.enable=false');

	die "Kafka did not start\n", tail("$self->{world}{log}/kafka-start.log", 10) if !defined $out;
	($self->{bootstrap}) = $out =~ /^bootstrap\.servers=(\S+)$/m;
	return;
}

# ---------------------------------------------------------------------------
# Brokers that go and come
# ---------------------------------------------------------------------------

# Begin to stop or kill one.  It takes a broker some seconds, and others shall
# suffer meanwhile: tick() sees to what is under way.
sub end_node
{
	my ($self, $how, $node) = @_;

	push @{ $self->{under_way} }, start_command("$self->{world}{log}/kafka-$how.log", {},
		"$self->{world}{tree}/test/kafka/kafka.sh", $how, $self->{dir}, $node);
	return;
}

# All of them shall run: what has ended is started.
sub want_all
{
	my ($self) = @_;

	$self->{wanted} = 1;
	$self->tick;
	return;
}

# One thing at a time, or two would start the same broker.
sub tick
{
	my ($self) = @_;

	$self->{under_way} = [ grep { !has_ended($_) } @{ $self->{under_way} // [] } ];
	return if @{ $self->{under_way} } || !$self->{wanted};
	$self->{wanted}    = 0;
	$self->{under_way} = [ start_command("$self->{world}{log}/kafka-start.log", {},
			"$self->{world}{tree}/test/kafka/kafka.sh", 'start', $self->{dir}) ];
	return;
}

# Every broker goes on, and all answer.
sub heal
{
	my ($self) = @_;

	for my $node (1 .. $self->{brokers})
	{
		my $pid = $self->node_pid($node);

		kill 'CONT', $pid if defined $pid;
	}
	for my $pid (@{ $self->{under_way} // [] })
	{
		finish_command($pid, 150);
	}
	$self->{under_way} = [];
	$self->{wanted}    = 0;
	$self->script(150, 'start') // die "the brokers do not answer\n", tail("$self->{world}{log}/kafka-start.log", 10);
	return;
}

sub stop
{
	my ($self) = @_;

	$self->close_ways;
	$self->script(60, 'kill') if -f "$self->{dir}/addresses";
	return;
}

sub node_pid
{
	my ($self, $node) = @_;
	my ($pid) = slurp("$self->{dir}/$node/pid") =~ /^(\d+)/;
	return $pid;
}

sub admin
{
	my ($self, @words) = @_;

	return run_command("$self->{world}{log}/kafka-admin.log", 60,
		"$self->{world}{programs}/kafka_admin", $self->{bootstrap}, @words);
}

sub create_topic
{
	my ($self, $topic, $partitions) = @_;

	for (1 .. 20)
	{
		return if $self->admin('create', $topic, $partitions);
		sleep 1;
	}
	die "topic $topic could not be created\n", tail("$self->{world}{log}/kafka-admin.log", 5);
}

# Give every partition of the topics another leader, as far as the brokers are there.
# topics: [name, partitions]...
sub move_leaders
{
	my ($self, $draw, @topics) = @_;
	my %wanted;

	for my $topic (@topics)
	{
		my ($name, $partitions) = @$topic;

		for my $partition (0 .. $partitions - 1)
		{
			my $shift = $draw->(0, $self->{brokers} - 1);
			$wanted{$name}{$partition} = [ map { 1 + ($_ + $shift) % $self->{brokers} } 0 .. $self->{brokers} - 1 ];
		}
	}
	# any broker passes it on to the controller
	my $error;
	for my $address (split /,/, $self->{bootstrap})
	{
		return if eval {
			Torture::Leaders::order_replicas($address, %wanted);
			Torture::Leaders::elect($address, %wanted);
			1;
		};
		$error = $@;
	}
	die $error;
}

# ---------------------------------------------------------------------------
# Ways
# ---------------------------------------------------------------------------

# A proxy ends when nobody can write to it any more: of the ends of its pipes only
# ours stay open, and perl closes those where we start another program.
sub open_way
{
	my ($self, $name) = @_;

	pipe my $from_us, my $in or die "pipe: $!\n";
	pipe my $out, my $to_us  or die "pipe: $!\n";
	my $pid = fork // die "fork: $!\n";
	if ($pid == 0)
	{
		POSIX::setsid();
		open STDIN,  '<&', $from_us;
		open STDOUT, '>&', $to_us;
		{ no warnings 'exec'; exec $^X, "$self->{world}{tree}/test/kafka/proxy.pl", $self->{bootstrap}; }
		POSIX::_exit(127);
	}
	close $from_us;
	close $to_us;
	$in->autoflush(1);
	my $line = <$out> // '';
	$line =~ /^bootstrap\.servers=(\S+)/ or die "the proxy did not start\n";
	return $self->{ways}{$name} = { in => $in, out => $out, bootstrap => $1, pid => $pid };
}

# Tell a proxy something; the number in its answer.
sub tell_way
{
	my ($self, $name, $command) = @_;
	my $way = $self->{ways}{$name};
	my ($in, $out) = @{$way}{qw(in out)};

	print $in "$command\n";
	my $answer = <$out> // die "the proxy has ended\n";
	return $answer =~ /(\d+)/ ? $1 : 0;
}

sub close_ways
{
	my ($self) = @_;

	for my $way (values %{ $self->{ways} })
	{
		close $way->{in};
		kill 'TERM', $way->{pid};    # a child of ours may still have the other end
		waitpid $way->{pid}, 0;
	}
	$self->{ways} = {};
	return;
}

# ---------------------------------------------------------------------------
# Reading, without any of the extension's code
# ---------------------------------------------------------------------------

# The command that prints all records of a topic as the oracle's table raw takes
# them: CSV with separators that JSON does not have.
sub reader
{
	my ($self, $topic, $label) = @_;

	return ('kcat', '-C', '-q', '-e', '-b', $self->{bootstrap}, '-t', $topic, '-o', 'beginning',
		'-X', 'isolation.level=read_committed', '-X', 'fetch.wait.max.ms=50', '-X', 'check.crcs=true',
		'-f', join("\x1f", $label, '%p', '%o', '%k', '%h', '%S', '%s') . "\n");
}

1;
