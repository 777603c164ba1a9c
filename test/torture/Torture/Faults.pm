# Torture::Faults: what can go wrong, and how it is put right again.
#
# A fault is { name, begin, ends, why_not }.  begin->(T, RANDOM) makes it, and returns
# what is to be done later: { hold => seconds, heal => code, until => code that says that
# it may be healed before }, or nothing.  RANDOM->(MIN, MAX) draws from the event's own
# seed.  A fault that could not be made dies; it is counted as missed, with the reason.

package Torture::Faults;

use strict;
use warnings FATAL => 'all';

use OutboxRun;
use Torture::Load;
use Torture::Rebirth;
use Torture::Service;
use Time::HiRes qw(sleep time);

# Fault points by the service that passes them, and what they may do.  Behind a commit
# there is no error any more.
my @points = (
	[ users => 'log.new_chunk',       qw(error kill) ],
	[ users => 'log.before_write',    qw(error kill wait) ],
	[ users => 'log.after_write',     qw(error kill wait) ],
	[ users => 'log.before_wake',     qw(kill wait) ],
	[ users => 'relay.before_read',   qw(error kill exit) ],
	[ users => 'relay.before_produce', qw(error kill exit) ],
	[ users => 'relay.after_produce', qw(error kill exit wait) ],
	[ users => 'relay.after_ack',     qw(error kill exit wait) ],
	[ users => 'relay.before_settle', qw(error kill exit) ],
	[ users => 'relay.settling',      qw(error kill exit) ],
	[ users => 'relay.after_settle',  qw(error kill exit) ],
	[ users => 'relay.trimming',      qw(error kill exit) ],
	[ orders => 'apply-fetched',       qw(full kill exit) ],
	[ orders => 'apply-deliver',       qw(full error kill exit) ],
	[ orders => 'apply-locked',        qw(full error kill wait) ],
	[ orders => 'apply-before-commit', qw(full kill exit wait) ],
	[ orders => 'apply-after-commit',  qw(error kill exit) ]);

# Those of Kafka's transactions.
my @exactly_once_points = (
	map { [ users => "relay.txn_$_", qw(error kill exit) ] } qw(begun prepared stored acknowledged committed claimed drained));

# ---------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------

sub kill_process
{
	my ($service, $what) = @_;
	my $until = time + 4;
	my $pid;

	until (defined($pid = $service->pid_of($what)))
	{
		die "there is no $what\n" if time > $until;
		sleep 0.1;
	}
	kill 'KILL', $pid;
	return;
}

sub process_faults
{
	return (
		[ 'kill:relay',     sub { kill_process($_[0]{users},  'relay') } ],
		[ 'kill:applier',   sub { kill_process($_[0]{orders}, 'applier') } ],
		[ 'kill:launcher:users',  sub { kill_process($_[0]{users},  'launcher') } ],
		[ 'kill:launcher:orders', sub { kill_process($_[0]{orders}, 'launcher') } ],
		[ 'kill:writer',    sub { kill_process($_[0]{users}, 'torture_writer') } ],
		map {
			my $side = $_;
			[ "kill:postmaster:$side", sub { return down($_[0], $side, 'kill9', $_[1]->(0, 2)) } ],
			[ "stop:immediate:$side",  sub { return down($_[0], $side, 'immediate', $_[1]->(0, 2)) } ],
			[ "stop:fast:$side",       sub { return down($_[0], $side, 'fast', $_[1]->(0, 2)) } ]
		} qw(users orders));
}

sub down
{
	my ($t, $side, $how, $hold) = @_;
	my $service = $t->{$side};

	die "it does not run\n" if !$service->running;
	if ($how eq 'kill9')
	{
		$service->kill9;
	}
	elsif (!$service->stop($how))
	{
		push @{ $t->{hung} }, "$how shutdown of $service->{name} took more than a minute";
	}
	return { hold => $hold, heal => sub { $service->start } };
}

# ---------------------------------------------------------------------------
# Fault points
# ---------------------------------------------------------------------------

sub set_points
{
	my ($service) = @_;
	my $points = $service->{points};

	return $service->set('pg_outbox.fault' => %$points ? join(',', map { "$_=$points->{$_}" } sort keys %$points) : undef);
}

# Set until somebody has come by, for some seconds at most; "wait" a little longer.
sub point_fault
{
	my ($side, $point, $action) = @_;

	return [ "point:$point=$action", sub {
		my ($t, $random) = @_;
		my $service = $t->{$side};
		my $from    = $service->log_size;
		my $hit     = 0;

		die "already set\n" if $service->{points}{$point};
		$service->{points}{$point} = $action;
		set_points($service);
		return {
			hold => $action eq 'wait' ? $random->(1, 4) : 8,
			until => sub {
				$hit ||= $service->logged_since($from) =~ /fault point "\Q$point\E"/;
				return $hit && $action ne 'wait';
			},
			heal => sub {
				$t->{letters} = 1 if $side eq 'orders' && $action eq 'error';
				delete $service->{points}{$point};
				set_points($service);
				$hit ||= $service->logged_since($from) =~ /fault point "\Q$point\E"/;
				return $hit ? undef : 'nobody came by';
			} };
	} ];
}

# ---------------------------------------------------------------------------
# Brokers and connections
# ---------------------------------------------------------------------------

sub broker_faults
{
	return (
		[ 'broker:pause', sub {
				my ($t, $random) = @_;
				my $pid = $t->{kafka}->node_pid(1 + $random->(0, $t->{kafka}{brokers} - 1)) // die "it is down\n";

				kill 'STOP', $pid or die "it is down\n";
				return { hold => $random->(2, 9), heal => sub { kill 'CONT', $pid; return } };
			} ],
		(map {
			my $how = $_;
			[ "broker:$how", sub {
					my ($t, $random) = @_;
					my $node = 1 + $random->(0, $t->{kafka}{brokers} - 1);

					$t->{kafka}->node_pid($node) // die "it is down\n";
					$t->{kafka}->end_node($how, $node);
					return { hold => $random->(1, 6), heal => sub { $t->{kafka}->want_all; return } };
				} ]
		} qw(stop kill)),
		[ 'broker:leaders', sub {
				my ($t, $random) = @_;
				$t->{kafka}->move_leaders($random,
					map { [ "$t->{prefix}$_", $Torture::Load::PARTITIONS{$_} ] } sort keys %Torture::Load::PARTITIONS);
				return;
			} ],
		map {
			my $side = $_;
			[ "cut:$side", sub { $_[0]{kafka}->tell_way($side, 'cut') || die "there was no connection\n"; return } ],
			[ "delay:$side", sub {
					my ($t, $random) = @_;
					$t->{kafka}->tell_way($side, 'delay ' . $random->(20, 400));
					return { hold => $random->(2, 8), heal => sub { $t->{kafka}->tell_way($side, 'delay 0'); return } };
				} ]
		} qw(users orders));
}

# ---------------------------------------------------------------------------
# Sessions
# ---------------------------------------------------------------------------

# A few changes of rows that the writers seldom touch, or they would all wait for it.
sub some_changes
{
	my ($n) = @_;
	my $id = 100_000 + $n;

	return "INSERT INTO account VALUES ($id, 'held', 0, now()) ON CONFLICT (id) DO UPDATE SET amount = 1; "
	  . "UPDATE account SET name = 'held again' WHERE id = $id; DELETE FROM doc WHERE id = 61; "
	  . "INSERT INTO doc VALUES ($id, repeat('held', 5000)) ON CONFLICT (id) DO UPDATE SET body = 'was there';";
}

sub prepare
{
	my ($t, $random) = @_;
	my $gid = 'torture_' . ++$t->{prepared};
	my $session = $t->{users}->session('BEGIN; ' . some_changes($random->(1, 50)) . " PREPARE TRANSACTION '$gid';");
	my $until = time + 5;

	Torture::Service::hang_up($session);
	while (($t->{users}->sql("SELECT count(*) FROM pg_prepared_xacts WHERE gid = '$gid'", 'postgres') // '') ne '1')
	{
		die "it was not prepared\n" if time > $until;
		sleep 0.1;
	}
	return $gid;
}

sub finish_prepared
{
	my ($t, $gid, $how) = @_;

	return sub {
		$t->{users}->start;
		return if ($t->{users}->insist("SELECT count(*) FROM pg_prepared_xacts WHERE gid = '$gid'", 'postgres')) eq '0';
		return $t->{users}->sql("$how PREPARED '$gid'") // undef;
	};
}

sub session_faults
{
	return (
		[ 'session:snapshot', sub {
				my ($t, $random) = @_;
				my $s = $t->{users}->session('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM history;');

				return { hold => $random->(5, 15), heal => sub { Torture::Service::say_to($s, 'COMMIT;'); Torture::Service::hang_up($s); return } };
			} ],
		[ 'session:idle', sub {
				my ($t, $random) = @_;
				my $s = $t->{users}->session('BEGIN; ' . some_changes($random->(51, 100)));
				my $end = $random->(0, 2) ? 'COMMIT;' : 'ROLLBACK;';

				return { hold => $random->(3, 12), heal => sub { Torture::Service::say_to($s, $end); Torture::Service::hang_up($s); return } };
			} ],
		[ 'session:prepared', sub {
				my ($t, $random) = @_;
				my $how = $random->(0, 2) ? 'COMMIT' : 'ROLLBACK';

				return { hold => $random->(2, 10), heal => finish_prepared($t, prepare($t, $random), $how) };
			} ],
		[ 'session:prepared:restart', sub {
				my ($t, $random) = @_;
				my $gid = prepare($t, $random);

				$t->{users}->stop($random->(0, 1) ? 'fast' : 'immediate');
				$t->{users}->start;
				return { hold => $random->(1, 5), heal => finish_prepared($t, $gid, 'COMMIT') };
			} ]);
}

# ---------------------------------------------------------------------------
# A full disk
# ---------------------------------------------------------------------------

sub fill
{
	my ($file) = @_;
	my $block = "\0" x 1048576;

	open my $fh, '>', $file or die "$file: $!\n";
	for my $size (1048576, 65536, 4096)
	{
		while (syswrite $fh, $block, $size) { }
	}
	close $fh;
	return;
}

# Without a volume of the service's own the error is raised where the log is
# written, or where the applier commits: less, and said so.
sub full_disk_fault
{
	my ($side, $world) = @_;
	my $volume = $world->{volumes}{$side};

	if (!defined $volume)
	{
		my $fault = point_fault($side, $side eq 'users' ? 'log.before_write' : 'apply-before-commit', 'full');
		return [ "disk:$side", $fault->[1] ];
	}
	return [ "disk:$side", sub {
		my ($t, $random) = @_;
		my $service = $t->{$side};

		fill($service->{ballast});
		return {
			hold => $random->(2, 6),
			heal => sub {
				$service->make_room;
				$service->start;
				return;
			} };
	} ];
}

# ---------------------------------------------------------------------------
# All of them
# ---------------------------------------------------------------------------

# all(WORLD, PATTERN...): those whose name begins with one of the patterns, or all
sub all
{
	my ($world, @patterns) = @_;
	my @faults = map { { name => $_->[0], begin => $_->[1], ends => $_->[2] // 0 } }
	  process_faults(), broker_faults(), session_faults(),
	  full_disk_fault('users', $world), full_disk_fault('orders', $world),
	  (map { my ($side, $point, @actions) = @$_; map { point_fault($side, $point, $_) } @actions }
		  @points, $world->{mode} eq 'exactly_once' ? @exactly_once_points : ()),
	  Torture::Rebirth::faults($world);

	@faults = grep { $_->{name} ne 'broker:leaders' } @faults if $world->{brokers} < 3;
	return @faults if !@patterns;
	return grep { my $name = $_->{name}; grep { index($name, $_) == 0 } @patterns } @faults;
}

# What is done to the services besides, in the manner of faults.
sub loads
{
	return (
		'load:bulk' => sub {
			my ($t, $random) = @_;
			my $rows = $random->(0, 3) ? $random->(500, 5000) : 100_000;
			my $s = $t->{users}->session(sprintf 'CALL work_bulk(%d, %.9f);', $rows, $random->(0, 1000) / 1000);

			Torture::Service::hang_up($s);
			return;
		},
		'load:copy' => sub {
			my ($t, $random) = @_;
			my $table = $Torture::Load::TABLES[ $random->(0, $#Torture::Load::TABLES) ];

			$t->{users}->sql("SELECT outbox.copy('$table')") // die $t->{users}{error};
			return;
		});
}

1;
