# Torture::Runner: rounds of load and faults, each ended by quiet and the oracle.
#
# The figures of a round are those of everything since the services were made; the
# events counted for the whole run are each counted once.

package Torture::Runner;

use strict;
use warnings FATAL => 'all';

use File::Path ();
use OutboxRun;
use Torture::Faults;
use Torture::Kafka;
use Torture::Load;
use Torture::Oracle;
use Torture::Schedule;
use Torture::Service;
use Torture::Verdict;
use Time::HiRes qw(sleep time);

use constant TICK            => 0.05;
use constant CONVERGE        => 180;    # seconds in which all must be right again
use constant HANDLER_SECONDS => 30;
use constant SEGMENT_MB      => 4;
use constant POSITIONS_BYTES => 16 * 1024 * 1024;

# new(world => {...}, seed, rounds, mode, brokers, faults => [patterns], seconds => [a, b],
#     per_round => [a, b], writers, life, say => code)
sub new
{
	my ($class, %opt) = @_;
	my $self = bless {%opt}, $class;
	my $world = $self->{world};

	$world->{$_} = $self->{$_} for qw(brokers mode);
	$self->{kafka}    = Torture::Kafka->new(world => $world, brokers => $self->{brokers});
	$self->{faults}   = [ Torture::Faults::all($world, @{ $self->{patterns} // [] }) ];
	$self->{loads}    = { Torture::Faults::loads() };
	$self->{verdict}  = Torture::Verdict->new(map { ($_ => $self->{$_}) } qw(mode brokers seed));
	$self->{server_options} = $self->{mode} eq 'exactly_once' ? { exactly_once => 'true' } : {};
	$self->{lives} = 0;
	return $self;
}

# ---------------------------------------------------------------------------
# Services
# ---------------------------------------------------------------------------

sub start_oracle
{
	my ($self) = @_;
	my $server = Torture::Service->new('oracle', world => $self->{world}, conf => "autovacuum = off\nmax_worker_processes = 4\n");

	$server->init;
	$server->start or die "the oracle's server does not start\n";
	$self->{oracle_server} = $server;
	$self->{oracle} = Torture::Oracle->new($server);
	return;
}

sub begin_life
{
	my ($self) = @_;
	my $world = $self->{world};

	$self->end_life;
	$self->{prefix} = sprintf 't%d_', ++$self->{lives};
	for my $side (qw(users orders))
	{
		my $volume  = $world->{volumes}{$side};
		my $service = $self->{$side} = Torture::Service->new($side, world => $world,
			data => defined $volume ? "$volume/data" : "$world->{work}/$side",
			conf => "shared_preload_libraries = 'pg_outbox'\npg_outbox.segment_size = " . SEGMENT_MB . "MB\n"
			  . "archive_mode = on\narchive_command = '/bin/true'\n");

		$service->{points}  = {};
		$service->{ballast} = "$volume/ballast" if defined $volume;
		$service->init;
		$service->start or die "$side does not start\n", tail($service->{log}, 10);
		$self->{kafka}->open_way($side);
	}
	Torture::Load::make_services($self);
	$self->{oracle}->begin($world->{tree});
	$self->{seen} = {};
	return;
}

sub end_life
{
	my ($self) = @_;

	for my $service (grep { defined } delete @{$self}{qw(standby users orders)})
	{
		$service->stop('immediate');
		File::Path::remove_tree($service->{data});
	}
	$self->{kafka}->close_ways;
	if (defined $self->{prefix})
	{
		$self->{kafka}->admin('delete', "$self->{prefix}$_") for sort keys %Torture::Load::PARTITIONS;
	}
	return;
}

# ---------------------------------------------------------------------------
# A round
# ---------------------------------------------------------------------------

sub run
{
	my ($self, $first) = @_;
	my @rounds = Torture::Schedule::plan(
		seed    => $self->{seed},
		rounds  => $self->{rounds},
		faults  => $self->{faults},
		load    => { 'load:bulk' => 0.5, 'load:copy' => 0.4 },
		seconds => $self->{seconds},
		map { ($_ => $self->{$_}) } qw(per_round writers life));

	$self->{kafka}->start;
	$self->start_oracle;
	for my $round (@rounds)
	{
		next if $round->{number} < ($first // 1);
		$self->begin_life if $round->{begins} || !$self->{users};
		$self->run_round($round);
		$self->{say}->($self->{verdict}->round_line($round));
		$self->{verdict}->add($round);
		my @wrong = $self->{verdict}->faulty($round);
		$self->report($round, @wrong) if @wrong;
		last if @wrong && !$self->{go_on};
	}
	return !$self->{verdict}{bad};
}

sub run_round
{
	my ($self, $round) = @_;

	@{$round}{qw(faults missed begun)} = ({}, 0, time);
	$self->{hung} = [];
	$self->{round} = $round;
	$self->note("round $round->{number}");
	$self->{pending} = [];
	Torture::Load::start_writers($self, @{ $round->{writers} });
	for my $event (@{ $round->{events} })
	{
		$self->wait_for_time($round, $round->{begun} + $event->{at});
		$self->begin_event($round, $event);
	}
	$self->wait_for_time($round, $round->{begun} + $round->{seconds});
	$self->heal_all($round);
	Torture::Load::stop_writers($self);
	$self->end_prepared;
	$self->{kafka}->heal;
	$self->mend_letters if delete $self->{letters};
	$self->converge($round);
	$self->judge($round);
	return;
}

# Numbers of an event's own.
sub random_of
{
	my ($seed) = @_;
	my $state = $seed % 2147483647 || 1;

	return sub {
		my ($min, $max) = @_;
		$state = $state * 48271 % 2147483647;
		return $min + $state % ($max - $min + 1);
	};
}

sub begin_event
{
	my ($self, $round, $event) = @_;
	my ($fault) = grep { $_->{name} eq $event->{name} } @{ $self->{faults} };
	my $begin   = $fault ? $fault->{begin} : $self->{loads}{ $event->{name} };
	my $later   = eval { $begin->($self, random_of($event->{seed})) };

	if ($@)
	{
		$self->missed($round, $event->{name}, $@);
		return;
	}
	$round->{faults}{ $event->{name} }++ if $fault;
	$self->note(sprintf '%5.1f %s', time - $round->{begun}, $event->{name});
	push @{ $self->{pending} }, { %$later, name => $event->{name}, ends => $fault->{ends}, due => time + $later->{hold} }
	  if ref $later eq 'HASH';
	return;
}

sub missed
{
	my ($self, $round, $name, $why) = @_;

	chomp $why;
	$round->{missed}++;
	$round->{faults}{$name}-- if $round->{faults}{$name} && $why eq 'nobody came by';
	delete $round->{faults}{$name} if !$round->{faults}{$name};
	$self->note(sprintf '%5.1f %s was not made: %s', time - $round->{begun}, $name, $why);
	return;
}

sub note
{
	my ($self, $text) = @_;

	open my $fh, '>>', "$self->{world}{log}/schedule.log" or return;
	print $fh "$text\n";
	close $fh;
	return;
}

sub wait_for_time
{
	my ($self, $round, $until) = @_;

	do
	{
		$self->heal_due($round, 0);
		$self->{kafka}->tick;
		Torture::Service::reap();
		sleep TICK;
	} while (time < $until);
	return;
}

# Those that are due; what ends a history has the others end before it, as it cannot
# be done to a server that dies meanwhile.
sub heal_due
{
	my ($self, $round, $all) = @_;
	my @due = grep { $all || time >= $_->{due} || ($_->{until} && $_->{until}->()) } @{ $self->{pending} };

	@due = @{ $self->{pending} } if grep { $_->{ends} } @due;
	$self->heal_one($round, $_) for sort { $a->{ends} <=> $b->{ends} } @due;
	return;
}

sub heal_one
{
	my ($self, $round, $it) = @_;
	my $problem;

	$self->{pending} = [ grep { $_ != $it } @{ $self->{pending} } ];
	eval { $problem = $it->{heal}->(); 1 } or die "$it->{name} could not be healed: $@";
	$self->missed($round, $it->{name}, $problem) if ($problem // '') eq 'nobody came by';
	$self->note(sprintf '%5.1f %s is over', time - $round->{begun}, $it->{name});
	return;
}

sub heal_all
{
	my ($self, $round) = @_;

	$self->heal_due($round, 1);
	for my $service (@{$self}{qw(users orders)})
	{
		$service->start or die "$service->{name} does not start\n", tail($service->{log}, 20);
	}
	return;
}

# Transactions that a broken session has left prepared.
sub end_prepared
{
	my ($self) = @_;
	my $users = $self->{users};

	for my $gid (split /\n/, $users->insist('SELECT gid FROM pg_prepared_xacts', 'postgres'))
	{
		$users->insist("COMMIT PREPARED '$gid'");
	}
	return;
}

# An event that was at hand when an error was raised has become a dead letter, or
# has stopped its subscription: an administrator's work.
sub mend_letters
{
	my ($self) = @_;
	my $orders = $self->{orders};

	$orders->insist(q(SELECT outbox.resume_subscription(name) FROM outbox.subscriptions WHERE state = 'stopped'));
	$orders->insist('SELECT outbox.redrive_all(name) FROM outbox.subscriptions');
	return;
}

# ---------------------------------------------------------------------------
# Quiet
# ---------------------------------------------------------------------------

# What users has not sent yet: the first thing found, or ''.
sub unsent
{
	my ($self) = @_;
	my $users = $self->{users};

	return $users->sql(<<'END') // $users->{error};
SELECT CASE
	WHEN (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'psql' AND query ~ 'work_bulk' AND pid <> pg_backend_pid()) > 0 THEN 'a bulk statement runs'
	WHEN (SELECT coalesce(sum(events), 0) FROM outbox._backlog()) > 0 THEN 'events in the log'
	WHEN (SELECT count(*) FROM outbox._parked) > 0 THEN 'parked events'
	WHEN (SELECT count(*) FROM outbox._unrecorded) > 0 THEN 'unrecorded changes'
	WHEN (SELECT count(*) FROM outbox.copies WHERE state = 'running') > 0 THEN 'a copy'
	ELSE '' END
END
}

# Hold writers until everything is sent; other faults come to their end meanwhile.
sub drain
{
	my ($self, $seconds) = @_;
	my $until = time + $seconds;

	Torture::Load::hold_writers($self);
	until (Torture::Load::held($self) && !Torture::Service::leaving() && $self->unsent eq '')
	{
		if (time > $until)
		{
			Torture::Load::release_writers($self);
			die "not everything is sent\n";
		}
		$self->wait_for_time($self->{round}, time + 0.2);
	}
	return;
}

# What is not done yet: the first thing found, or undef.
sub unfinished
{
	my ($self) = @_;
	my ($users, $orders) = @{$self}{qw(users orders)};
	my $segments = 3 * SEGMENT_MB * 1024 * 1024;
	my $state = $self->unsent;

	return "users: $state" if $state ne '';
	my $bytes = $users->sql('SELECT bytes FROM outbox.stat_log') // return "users: $users->{error}";
	return "users: the log takes $bytes" if $bytes > $segments;

	my $rows = join ' UNION ALL ', map {
		my $key = $_ eq 'item' ? "a || ' ' || b" : 'id::text';
		"SELECT '$_' AS t, count(*) AS n, sum(hashtextextended($key || ' ' || rev, 0)) AS h FROM $_"
	} @Torture::Load::TABLES;
	my $source = $users->sql("SELECT string_agg(x::text, ' ' ORDER BY t) FROM ($rows) AS x") // return "users: $users->{error}";
	my $replica = $orders->sql("SELECT string_agg(x::text, ' ' ORDER BY t) FROM ($rows) AS x") // return "orders: $orders->{error}";
	return "replicas: source $source, replica $replica" if $source ne $replica;
	my $letters = $orders->sql(q(SELECT count(*) FROM outbox._dead_letter WHERE state NOT IN ('done', 'discarded'))) // return "orders: $orders->{error}";
	return "$letters dead letters" if $letters > 0;
	return;
}

sub converge
{
	my ($self, $round) = @_;
	my $begun = time;
	my $left;

	$self->note(sprintf '%5.1f quiet', time - $round->{begun});
	while (defined($left = $self->unfinished))
	{
		if (time - $begun > CONVERGE)
		{
			$round->{left} = $left;
			return;
		}
		# an event that a fault killed the applier with becomes one at its next start
		$self->mend_letters if $left =~ /dead letters/;
		sleep 0.3;
	}
	$round->{converged} = time - $begun;
	$self->note(sprintf '%5.1f converged', time - $round->{begun});
	return;
}

# Tables of ours that are larger than there is reason for.
sub grown
{
	my ($self) = @_;
	my ($users, $orders) = @{$self}{qw(users orders)};
	my $positions = POSITIONS_BYTES;
	my @of_users = split /\n/, $users->must(<<"END");
SELECT 'users: ' || what || ' ' || n FROM (
	SELECT '_parked', count(*) FROM outbox._parked
	UNION ALL SELECT '_unrecorded', count(*) FROM outbox._unrecorded
	UNION ALL SELECT '_copy_pending', count(*) FROM outbox._copy_pending
	UNION ALL SELECT 'letters', count(*) FROM outbox._dead_letter WHERE state NOT IN ('done', 'discarded')
	UNION ALL SELECT 'positions, bytes', n FROM (SELECT pg_total_relation_size('outbox._position_0') + pg_total_relation_size('outbox._position_1')) AS p (n) WHERE n > $positions
) AS x (what, n) WHERE n > 0
END
	my @of_orders = split /\n/, $orders->must(<<'END');
SELECT 'orders: ' || what || ' ' || n FROM (
	SELECT 'letters', count(*) FROM outbox._dead_letter WHERE state NOT IN ('done', 'discarded')
	UNION ALL SELECT '_inbox beyond what was handled', (SELECT count(*) FROM outbox._inbox) - (SELECT count(*) FROM handled)
	UNION ALL SELECT 'subscriptions not running', count(*) FROM outbox.subscriptions WHERE state <> 'running'
) AS x (what, n) WHERE n > 0
END
	return (@of_users, @of_orders);
}

# Processes that died of what we have not done to them, as the servers' logs say.  A
# server that cannot write to a full disk ends itself.
sub crashed
{
	my ($self) = @_;
	my @crashed;

	for my $service (@{$self}{qw(users orders)})
	{
		my $new = $service->logged_since($self->{read}{ $service->{log} } // 0);

		$self->{read}{ $service->{log} } = $service->log_size;
		my %full = map { $_ => 1 } $new =~ /\[(\d+)\] PANIC: .*No space left on device/g;
		push @crashed, map { "$service->{name}: $_" }
		  grep { !/\(PID (\d+)\) was terminated by signal 6:/ || !$full{$1} }
		  grep { /was terminated by signal (?!9:|2:|3:|15:)|TRAP: / } split /\n/, $new;
	}
	return @crashed;
}

sub judge
{
	my ($self, $round) = @_;
	my $oracle = $self->{oracle};

	$oracle->load($self, sort keys %Torture::Load::PARTITIONS);
	my $figures = $oracle->figures;
	# how far handlers are shows in what they have done
	for my $again (1 .. HANDLER_SECONDS)
	{
		last if !$figures->{handler};
		sleep 1;
		$oracle->load_handled($self->{orders});
		$figures = $oracle->figures;
	}
	my @grown = $self->grown;

	$figures->{grown} = @grown;
	$figures->{hung}  = @{ $self->{hung} };
	my @crashed = $self->crashed;
	$figures->{crashed} = @crashed;
	$round->{details} = [ @grown, @{ $self->{hung} }, @crashed ];
	# what earlier rounds of this life have counted already
	for my $name (qw(events repeated copied lost_history))
	{
		my $all = $figures->{$name};

		$figures->{$name} -= $self->{seen}{$name} // 0;
		$self->{seen}{$name} = $all;
	}
	$round->{figures} = $figures;
	$self->note(sprintf '%5.1f judged', time - $round->{begun});
	return;
}

# ---------------------------------------------------------------------------
# When something is wrong
# ---------------------------------------------------------------------------

sub report
{
	my ($self, $round, @wrong) = @_;
	my $say = $self->{say};
	my $first = $round->{number} - ($round->{number} - 1) % $self->{life};

	$say->("wrong in round $round->{number}: @wrong");
	$say->("    | not done: $round->{left}") if defined $round->{left};
	for my $view (grep { my $v = $_; grep { $_ eq $v } @Torture::Oracle::FAULTS, 'repeated' } @wrong)
	{
		$say->("    $view:");
		$say->($_) for map { s/\n\z//r } $self->{oracle}->show($view, 10);
		$self->{oracle}->keep($view, "$self->{world}{log}/round$round->{number}-$view.txt");
	}
	$say->("    | $_") for @{ $round->{details} // [] };
	$self->{oracle}->keep($_, "$self->{world}{log}/round$round->{number}-$_.txt") for qw(history record);
	$say->("replay: make torture SEED=$self->{seed} ROUNDS=$round->{number} FIRST=$first MODE=$self->{mode} BROKERS=$self->{brokers}"
		  . (@{ $self->{patterns} // [] } ? " FAULTS=" . join(',', @{ $self->{patterns} }) : ''));
	return;
}

sub clean_up
{
	my ($self) = @_;

	for my $service (grep { defined } @{$self}{qw(standby users orders oracle_server)})
	{
		$service->stop('immediate');
	}
	stop_children();
	$self->{kafka}->stop;
	return;
}

1;
