# Workers are out of the way of commands that need their database within a second,
# and of the server's stop within three, whatever they are at.

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;
use OutboxTest;
use OutboxWorkerTest;
use PostgreSQL::Test::Utils;
use Socket qw(inet_aton pack_sockaddr_in);
use Test::More;

my $node = outbox_node('main', conf => 'pg_outbox.handler_timeout = 0');

# ---- brokers that do not answer, each in its way ------------------------------------------

my $broker = outbox_broker(mock => 1);
my $stopped = outbox_broker(mock => 1);

# Takes connections, says nothing.
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 100) or die "no socket: $!";

# Answers no attempt to connect, as an address behind a firewall: its queue is full.
my $hole = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1) or die "no socket: $!";
my @fill;
for (1 .. 4)
{
	my $socket = IO::Socket::INET->new(Proto => 'tcp', Blocking => 0) or die "no socket: $!";
	connect $socket, pack_sockaddr_in($hole->sockport, inet_aton('127.0.0.1'));
	push @fill, $socket;
}

my %address = (
	refusing  => '127.0.0.1:1',
	mute      => '127.0.0.1:' . $mute->sockport,
	hole      => '127.0.0.1:' . $hole->sockport,
	nameless  => 'no-such-host.invalid:9092',
	stopped   => $stopped->{bootstrap},
	answering => $broker->{bootstrap});

# ---- what workers are at ------------------------------------------------------------------

# A database with events to send and a topic to read, at a broker of some kind.
sub busy
{
	my ($db, $kind) = @_;
	my $topic = unique_topic($kind);

	outbox_install($node, $db, $address{$kind});
	$node->safe_psql($db, <<"END");
CREATE TABLE t (id int PRIMARY KEY, n int);
CREATE TABLE r (id bigint PRIMARY KEY, n int, version bigint NOT NULL);
SELECT outbox.publish('t', topic => '$topic', initial => 'none');
SELECT outbox.replicate('r', topic => '$topic');
INSERT INTO t SELECT g, 0 FROM generate_series(1, 1000) g;
END
	return $topic;
}

sub workers_run
{
	my ($db) = @_;
	return wait_for_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity
		WHERE backend_type IN ('pg_outbox relay', 'pg_outbox applier') AND datname = '$db'", '2');
}

sub waits_for_broker
{
	my ($db, $kind) = @_;

	busy($db, $kind);
	return workers_run($db) if $kind =~ m{mute|hole};
	return workers_run($db) && wait_for_sql($node, $db,
		q(SELECT count(*) FROM outbox.status WHERE kind IN ('server', 'subscription') AND health = 'unreachable'), qr/^[12]$/);
}

sub waits_for_stopped
{
	my ($db) = @_;

	kill 'CONT', $stopped->{pid};
	busy($db, 'stopped');
	wait_for_sql($node, $db, 'SELECT count(*) FROM r', '1000') or return 0;
	kill 'STOP', $stopped->{pid};
	$node->safe_psql($db, 'UPDATE t SET n = 1');
	return workers_run($db);
}

my $sleeps = q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox %s' AND datname = '%s' AND wait_event = 'PgSleep');

sub runs_handler
{
	my ($db) = @_;
	my $topic = busy($db, 'answering');

	$node->safe_psql($db, "CREATE FUNCTION h(e outbox.event) RETURNS void LANGUAGE sql SET search_path = public AS 'SELECT pg_sleep(600)';
		SELECT outbox.handle('h(outbox.event)', topic => '$topic')");
	return wait_for_sql($node, 'postgres', sprintf($sleeps, 'applier', $db), '1');
}

sub runs_copy
{
	my ($db) = @_;

	busy($db, 'answering');
	$node->safe_psql($db, "CREATE TABLE c AS SELECT g AS id FROM generate_series(1, 10) g; ALTER TABLE c ADD PRIMARY KEY (id);
		CREATE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_sleep(600); RETURN true; END';
		SELECT outbox.publish('c', topic => 'c', filter => 'public.slow(id)')");
	return wait_for_sql($node, 'postgres', sprintf($sleeps, 'relay', $db), '1');
}

my %state = (
	'no broker listens'     => sub { waits_for_broker($_[0], 'refusing') },
	'the broker is mute'    => sub { waits_for_broker($_[0], 'mute') },
	'a black hole'          => sub { waits_for_broker($_[0], 'hole') },
	'a name of nobody'      => sub { waits_for_broker($_[0], 'nameless') },
	'the broker is stopped' => \&waits_for_stopped,
	'a handler runs'        => \&runs_handler,
	'a copy runs'           => \&runs_copy);

# ---- commands -------------------------------------------------------------------------------

my %command = (
	'DROP DATABASE'         => sub { $node->safe_psql('postgres', "DROP DATABASE $_[0]") },
	'DROP DATABASE (FORCE)' => sub { $node->safe_psql('postgres', "DROP DATABASE $_[0] WITH (FORCE)") },
	'DROP EXTENSION'        => sub { $node->safe_psql($_[0], 'DROP EXTENSION pg_outbox CASCADE') });

# The same of a database where nothing is to be done.
my %baseline;
for my $name (sort keys %command)
{
	outbox_install($node, 'empty', undef);
	$baseline{$name} = seconds(sub { $command{$name}->('empty') });
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS empty');
}

# Within a second more than that; what the machine does meanwhile may take one try
# or two away.
for my $what (sort keys %state)
{
	for my $name (sort keys %command)
	{
		my $best;

		# what is done for FORCE is the same
		next if $name =~ /FORCE/ && $what !~ /mute|handler/;

		for my $try (1 .. 3)
		{
			$state{$what}->('busy') or die "the state was not reached: $what";
			my $took = seconds(sub { $command{$name}->('busy') });
			$best = $took if !defined $best || $took < $best;
			$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS busy');
			last if $best < $baseline{$name} + 1;
		}
		cmp_ok($best, '<', $baseline{$name} + 1, sprintf '%s while %s: %.2f s (%.2f s without workers)', $name, $what, $best, $baseline{$name});
	}
}

# ---- the server's stop, all of it at once ------------------------------------------------------

my $n = 0;
for my $what (sort keys %state)
{
	$state{$what}->('busy' . ++$n) or die "the state was not reached: $what";
}
my $best;
for my $try (1 .. 3)
{
	my $took = seconds(sub { $node->stop('fast') });
	$best = $took if !defined $best || $took < $best;
	last if $best < 3;
	$node->start;
	workers_run("busy$_") for 1 .. $n;
}
cmp_ok($best, '<', 3, sprintf 'stop -m fast with all of these: %.2f s', $best);
unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC/, 'no process has crashed');
kill 'CONT', $stopped->{pid};
done_testing();
