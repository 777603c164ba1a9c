# Torture::Load: the two services' tables, and the writers.

package Torture::Load;

use strict;
use warnings FATAL => 'all';

use OutboxRun;
use POSIX ();
use Time::HiRes qw(sleep time);

our @TABLES = qw(account item doc bulk);
our %PARTITIONS = (account => 4, item => 3, doc => 3, bulk => 2, event => 3);

use constant TRANSACTIONS => 12;      # that a writer asks for at a time
use constant PAUSE        => 0.04;    # seconds at most before each commit

sub sql_file
{
	my ($t, $name) = @_;
	my $text = slurp("$t->{world}{tree}/test/torture/$name");

	$text =~ s/\$\{prefix\}/$t->{prefix}/g;
	return $text;
}

sub server_sql
{
	my ($t, $name, %option) = @_;

	$option{'bootstrap.servers'} = $t->{kafka}{ways}{$name}{bootstrap};
	return 'CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ('
	  . join(', ', map { qq("$_" '$option{$_}') } sort keys %option) . ')';
}

# Another history begins: before anybody writes.
sub next_era
{
	my ($t) = @_;
	my $era   = ++$t->{era};
	my $start = $era * 1_000_000_000_000;

	$t->{users}->insist("ALTER DATABASE users SET pg_outbox.correlation_id = '$era'", 'postgres');
	$t->{users}->insist("SELECT setval('rev_seq', $start), setval('seq_seq', $start)") if $era > 1;
	return;
}

sub touch
{
	my ($file) = @_;

	open my $fh, '>', $file or die "$file: $!\n";
	close $fh;
	return;
}

# Writers ask for nothing more.  What they have asked for goes on.
sub hold_writers
{
	my ($t) = @_;

	touch("$t->{world}{work}/hold");
	return;
}

# Every writer's last session has ended.
sub held
{
	my ($t) = @_;
	return !grep { !-e "$t->{world}{work}/held.$_" } 1 .. @{ $t->{writers} };
}

sub await_held
{
	my ($t) = @_;
	my $until = time + 60;

	until (held($t))
	{
		die "a writer does not pause\n" if time > $until;
		sleep 0.05;
	}
	return;
}

sub release_writers
{
	my ($t) = @_;

	unlink "$t->{world}{work}/hold";
	return;
}

sub make_services
{
	my ($t) = @_;
	my ($users, $orders) = @{$t}{qw(users orders)};

	$t->{kafka}->create_topic("$t->{prefix}$_", $PARTITIONS{$_}) for sort keys %PARTITIONS;
	$_->must("CREATE DATABASE $_->{db}", 'postgres') for $users, $orders;
	$t->{era} = 0;
	next_era($t);
	$_->must('CREATE EXTENSION pg_outbox') for $users, $orders;
	$users->must(server_sql($t, 'users', %{ $t->{server_options} }));
	$orders->must(server_sql($t, 'orders'));
	$users->run_text(sql_file($t, 'users.sql'));
	$orders->run_text(sql_file($t, 'orders.sql'));
	for my $table (@TABLES)
	{
		my $truncate = $table eq 'item' ? ", on_truncate => 'publish'" : '';

		$users->must("SELECT outbox.publish('$table', topic => '$t->{prefix}$table', with_headers => '{txid}'$truncate)");
		$orders->must("SELECT outbox.replicate('$table', topic => '$t->{prefix}$table')");
	}
	$orders->must("SELECT outbox.handle('on_event(outbox.event)', topic => '$t->{prefix}event')");
	return;
}

# A writer: a process that asks for transactions until it is told to stop, whatever
# becomes of its sessions.
sub start_writer
{
	my ($t, $number, $seed) = @_;
	my $users = $t->{users};
	my ($stop, $hold, $held) = map { "$t->{world}{work}/$_" } 'stop', 'hold', "held.$number";
	my $log   = "$t->{world}{log}/writers.log";
	my $parent = $$;

	return start_code(sub {
		my $child;
		local $SIG{TERM} = sub { kill 'TERM', $child if $child; POSIX::_exit(0) };
		$ENV{PGAPPNAME} = "torture_writer_$number";
		srand $seed;
		until (-e $stop || getppid() != $parent)
		{
			if (-e $hold)
			{
				touch($held);
				sleep 0.05;
				next;
			}
			unlink $held;
			next if -e $hold;
			my $call = sprintf 'CALL work(%d, %.9f, %s)', TRANSACTIONS, rand() * 2 - 1, PAUSE;

			$child = fork // die "fork: $!\n";
			if ($child == 0)
			{
				open STDOUT, '>>', $log;
				open STDERR, '>>', $log;
				{ no warnings 'exec'; exec $users->psql(undef, '-c', $call); }
				POSIX::_exit(127);
			}
			waitpid $child, 0;
			sleep 0.2 if $?;
		}
	});
}

sub start_writers
{
	my ($t, @seeds) = @_;
	my $number = 0;

	unlink "$t->{world}{work}/stop";
	$t->{writers} = [ map { start_writer($t, ++$number, $_) } @seeds ];
	return;
}

sub stop_writers
{
	my ($t) = @_;

	touch("$t->{world}{work}/stop");
	finish_command($_, 60) for @{ $t->{writers} // [] };
	$t->{writers} = [];
	return;
}

1;
