# Torture::Rebirth: a service is replaced by an older state of itself.
#
# What the old one had and the new one has not is lost history: the oracle takes it
# from the old one before that is removed, and the source's rows are the truth from
# then on.  Faults of users end an era (see users.sql).
#
# With Kafka transactions nothing may be sent twice all the same, so the source is
# treated as whoever needs that is told to: only what a standby has is published, a
# backup is recovered to a moment that it had, and a database is dumped when it has
# sent everything.

package Torture::Rebirth;

use strict;
use warnings FATAL => 'all';

use File::Path ();
use OutboxRun;
use Torture::Load;
use Torture::Service;
use Time::HiRes qw(sleep time);

use constant DRAIN_SECONDS => 30;

# A program of PostgreSQL's that works on a server, which may die meanwhile, of what
# was done to it before: then once more.
sub run_or_die
{
	my ($t, $service, $program, @args) = @_;
	my $output = "$t->{world}{log}/rebirth.log";

	for my $attempt (1 .. 4)
	{
		$service->start;
		return if run_command($output, 120, $service->program($program), '-h', $service->{host},
			'-p', $service->{port}, '-U', 'postgres', @args);
	}
	die "$program failed\n", tail($output, 10);
}

# ---------------------------------------------------------------------------
# The end of a history
# ---------------------------------------------------------------------------

# The old server has ended: what it had is read from it without the library, so that
# it does nothing more.
sub read_old
{
	my ($t) = @_;
	my $old = $t->{users};

	Torture::Load::await_held($t);
	local $old->{options} = [ '-c', 'shared_preload_libraries=' ];
	$old->start or die "the old server cannot be read\n", tail($old->{log}, 10);
	$t->{oracle}->load_lost($old);
	$old->stop('fast');
	return;
}

# The new one is there: a new era, and replicas are to follow it.
sub new_history
{
	my ($t) = @_;

	Torture::Load::next_era($t);
	Torture::Load::release_writers($t);
	$t->{users}->insist("SELECT outbox.resync('$_')") for @Torture::Load::TABLES;
	return;
}

sub wait_for_promotion
{
	my ($service) = @_;
	my $until = time + 60;

	$service->start or die "the new server does not answer\n", tail($service->{log}, 10);
	until (($service->sql('SELECT pg_is_in_recovery()', 'postgres') // '') eq 'f')
	{
		die "recovery does not end\n", tail($service->{log}, 10) if time > $until;
		sleep 0.1;
	}
	return;
}

# ---------------------------------------------------------------------------
# Dump and restore
# ---------------------------------------------------------------------------

# The dump of some seconds ago takes the database's place, in the same cluster.
sub restore_dump
{
	my ($t, $service, $file) = @_;
	my $db = $service->{db};

	$service->insist("DROP DATABASE IF EXISTS ${db}_new", 'postgres');
	$service->insist("CREATE DATABASE ${db}_new", 'postgres');
	# all or nothing, so that it can be tried again
	run_or_die($t, $service, 'pg_restore', '--single-transaction', '-d', "${db}_new", $file);
	$service->insist("DROP DATABASE IF EXISTS $db WITH (FORCE)", 'postgres');
	$service->insist("ALTER DATABASE ${db}_new RENAME TO $db",   'postgres');
	unlink $file;
	return;
}

# A TRUNCATE that commits between pg_dump's snapshot and its lock is in the dump, and
# nothing else of its transaction is: PostgreSQL says so.  Returns the session that
# keeps that from happening.
sub no_truncate
{
	my ($users) = @_;
	my $session = $users->session("SET application_name = 'torture_dump'; BEGIN; LOCK TABLE item IN ACCESS SHARE MODE;");
	my $until   = time + 20;

	until ($users->insist(q(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'torture_dump'
		AND state = 'idle in transaction' AND query ~ '^LOCK'), 'postgres') ne '0')
	{
		if (time > $until)
		{
			Torture::Service::hang_up($session);
			die "no lock on item\n";
		}
		sleep 0.05;
	}
	return $session;
}

sub dump_database
{
	my ($t, $service) = @_;
	my $file = "$t->{world}{work}/$service->{name}.dump";

	my $session = $service == $t->{users} ? no_truncate($service) : undef;

	eval { run_or_die($t, $service, 'pg_dump', '-Fc', '-Z1', '-f', $file, $service->{db}) };
	my $problem = $@;
	Torture::Service::hang_up($session) if $session;
	die $problem if $problem;
	return $file;
}

sub dump_orders
{
	my ($t, $random) = @_;
	my $orders = $t->{orders};
	my $file   = dump_database($t, $orders);

	return {
		hold => $random->(2, 6),
		heal => sub {
			$orders->start;
			restore_dump($t, $orders, $file);
			$orders->insist('SELECT outbox.resume()');
			return;
		} };
}

# A dump carries what was not sent when it was made.  What the old database did since
# then is lost, sent or not.
sub dump_users
{
	my ($t, $random) = @_;
	my $users = $t->{users};

	$t->drain(DRAIN_SECONDS) if $t->{mode} eq 'exactly_once';
	my $file = eval { dump_database($t, $users) };
	my $problem = $@;
	Torture::Load::release_writers($t);
	die $problem if !defined $file;
	return {
		hold => $random->(2, 6),
		heal => sub {
			$users->start;
			Torture::Load::hold_writers($t);
			$users->insist(q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'users' AND backend_type = 'client backend' AND pid <> pg_backend_pid()));
			Torture::Load::await_held($t);
			$users->insist("ROLLBACK PREPARED '$_'") for split /\n/, $users->insist('SELECT gid FROM pg_prepared_xacts', 'postgres');
			$t->{oracle}->load_lost($users);
			restore_dump($t, $users, $file);
			$users->insist('SELECT outbox.resume()');
			new_history($t);
			return;
		} };
}

# ---------------------------------------------------------------------------
# Base backups
# ---------------------------------------------------------------------------

sub base_backup
{
	my ($t, $service, $dir) = @_;

	File::Path::remove_tree($dir);
	# what a failed attempt has written it removes itself
	run_or_die($t, $service, 'pg_basebackup', '-D', $dir, '-X', 'fetch', '-c', 'fast', '--no-sync');
	return;
}

# Put the backup in the place of the service's data directory.
sub take_place
{
	my ($service, $dir, $recovery) = @_;

	File::Path::remove_tree($service->{data});
	$service->make_room;
	# moved by copying: the data may be on a volume of its own
	system('cp', '-a', $dir, $service->{data}) == 0 or die "$dir could not be copied\n";
	File::Path::remove_tree($dir);
	unlink "$service->{data}/torture.conf";
	$service->{set} = {};
	$service->configure($recovery);
	open my $fh, '>', "$service->{data}/recovery.signal" or die "$!\n";
	close $fh;
	return;
}

sub archive_begin
{
	my ($t, $service) = @_;
	my $archive = "$t->{world}{work}/archive";

	File::Path::remove_tree($archive);
	mkdir $archive;
	$service->set(archive_command => "cp %p $archive/%f");
	$service->insist('SELECT pg_switch_wal()', 'postgres');
	return $archive;
}

# Everything up to now is in the archive; returns the time.
sub archive_end
{
	my ($t, $service, $archive) = @_;
	my $until = time + 20;
	my $now   = $service->insist('SELECT clock_timestamp()', 'postgres');

	# recovery stops at the first commit behind the time: there has to be one
	$service->insist('SELECT txid_current()', 'postgres') for 1 .. 2;
	my $file = $service->insist('SELECT pg_walfile_name(pg_switch_wal())', 'postgres');
	until (-e "$archive/$file")
	{
		die "WAL was not archived\n" if time > $until;
		sleep 0.1;
	}
	return $now;
}

# To a moment between the backup and the end.
sub restore_to_moment
{
	my ($t, $service, $dir, $archive, $random) = @_;

	$service->start;
	$t->{standby}->stop('fast') if $t->{standby};    # and from now on nothing is published
	my $moment = archive_end($t, $service, $archive);
	sleep $random->(5, 20) / 10;    # what comes now is lost
	Torture::Load::hold_writers($t) if $service == $t->{users};
	$service->stop('immediate');
	read_old($t) if $service == $t->{users};
	take_place($service, $dir, <<"END");
restore_command = 'cp $archive/%f %p'
recovery_target_time = '$moment'
recovery_target_action = promote
END
	wait_for_promotion($service);
	# not for the next one who begins with a copy of this
	$service->configure("restore_command = ''\nrecovery_target_time = ''\n");
	File::Path::remove_tree($archive);
	return;
}

sub pitr
{
	my ($t, $service, $random) = @_;
	my $dir     = "$t->{world}{work}/backup";
	my $archive = archive_begin($t, $service);

	base_backup($t, $service, $dir);
	follow($t) if $service == $t->{users} && $t->{mode} eq 'exactly_once';
	return {
		hold => $random->(2, 6),
		heal => sub {
			restore_to_moment($t, $service, $dir, $archive, $random);
			File::Path::remove_tree((delete $t->{standby})->{data}) if $t->{standby};
			new_history($t) if $service == $t->{users};
			return;
		} };
}

# ---------------------------------------------------------------------------
# Promotion
# ---------------------------------------------------------------------------

sub make_standby
{
	my ($t) = @_;
	my $users = $t->{users};
	my $standby = Torture::Service->new('standby', world => $t->{world}, data => "$users->{data}.standby");

	base_backup($t, $users, $standby->{data});
	$standby->configure(<<"END");
primary_conninfo = 'host=$users->{host} port=$users->{port} user=postgres'
hot_standby = on
END
	open my $fh, '>', "$standby->{data}/standby.signal" or die "$!\n";
	close $fh;
	$standby->launch;
	return $standby;
}

# A standby follows users; with Kafka transactions what it lacks is not published.
sub follow
{
	my ($t) = @_;

	$t->{standby} = make_standby($t);
	return if $t->{mode} ne 'exactly_once';
	return if $t->{users}->set('pg_outbox.wait_for_standbys' => 1);
	(delete $t->{standby})->stop('fast');
	die "the setting could not be written\n";
}

# The standby takes the primary's place, without what the primary did since the
# standby was stopped.
sub promote
{
	my ($t, $random) = @_;
	my ($users, $standby) = @{$t}{qw(users standby)};

	$users->start;
	$standby->stop('fast');
	sleep $random->(5, 25) / 10;    # what comes now is lost
	Torture::Load::hold_writers($t);
	$random->(0, 1) ? $users->kill9 : $users->stop('immediate');
	read_old($t);
	File::Path::remove_tree($users->{data});
	rename $standby->{data}, $users->{data} or die "$standby->{data}: $!\n";
	unlink "$users->{data}/torture.conf";
	$users->{set} = {};
	$users->start or die "the standby does not start\n", tail($users->{log}, 10);
	$users->insist('SELECT pg_promote(false)', 'postgres');
	wait_for_promotion($users);
	new_history($t);
	return;
}

sub promotion
{
	my ($t, $random) = @_;

	follow($t);
	return {
		hold => $random->(3, 8),
		heal => sub {
			promote($t, $random);
			delete $t->{standby};
			return;
		} };
}

sub faults
{
	my ($world) = @_;

	return (
		[ 'dump:orders', \&dump_orders, 1 ],
		[ 'dump:users', \&dump_users, 1 ],
		(map { my $side = $_; [ "pitr:$side", sub { return pitr($_[0], $_[0]{$side}, $_[1]) }, 1 ] } qw(users orders)),
		[ 'promote:users', \&promotion, 1 ]);
}

1;
