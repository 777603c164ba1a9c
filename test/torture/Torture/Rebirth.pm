# Torture::Rebirth: a service is replaced by an older state of itself.
#
# What the old one had and the new one has not is lost history: the oracle takes it
# from the old one before that is removed, and the source's rows are the truth from
# then on.  Faults of users end an era (see users.sql).

package Torture::Rebirth;

use strict;
use warnings FATAL => 'all';

use File::Path ();
use OutboxRun;
use Torture::Load;
use Torture::Service;
use Time::HiRes qw(sleep time);

sub run_or_die
{
	my ($t, $what, @command) = @_;
	my $output = "$t->{world}{log}/rebirth.log";

	run_command($output, 120, @command) or die "$what failed\n", tail($output, 10);
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

	$service->insist("CREATE DATABASE ${db}_new", 'postgres');
	run_or_die($t, 'pg_restore', $service->program('pg_restore'), '-h', $service->{host}, '-p', $service->{port},
		'-U', 'postgres', '--exit-on-error', '-d', "${db}_new", $file);
	$service->insist("DROP DATABASE IF EXISTS $db WITH (FORCE)", 'postgres');
	$service->insist("ALTER DATABASE ${db}_new RENAME TO $db",   'postgres');
	unlink $file;
	$service->insist('SELECT outbox.resume()');
	return;
}

sub dump_database
{
	my ($t, $service) = @_;
	my $file = "$t->{world}{work}/$service->{name}.dump";

	run_or_die($t, 'pg_dump', $service->program('pg_dump'), '-h', $service->{host}, '-p', $service->{port},
		'-U', 'postgres', '-Fc', '-Z1', '-f', $file, $service->{db});
	return $file;
}

sub dump_orders
{
	my ($t, $random) = @_;
	my $orders = $t->{orders};
	my $file   = dump_database($t, $orders);

	return { hold => $random->(2, 6), heal => sub { $orders->start; restore_dump($t, $orders, $file); return } };
}

# ---------------------------------------------------------------------------
# Base backups
# ---------------------------------------------------------------------------

sub base_backup
{
	my ($t, $service, $dir) = @_;

	File::Path::remove_tree($dir);
	run_or_die($t, 'pg_basebackup', $service->program('pg_basebackup'), '-h', $service->{host},
		'-p', $service->{port}, '-U', 'postgres', '-D', $dir, '-X', 'fetch', '-c', 'fast', '--no-sync');
	return;
}

# Put the backup in the place of the service's data directory.
sub take_place
{
	my ($service, $dir, $recovery) = @_;

	File::Path::remove_tree($service->{data});
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
sub pitr_orders
{
	my ($t, $random) = @_;
	my $orders  = $t->{orders};
	my $dir     = "$t->{world}{work}/backup";
	my $archive = archive_begin($t, $orders);

	base_backup($t, $orders, $dir);
	return {
		hold => $random->(2, 6),
		heal => sub {
			$orders->start;
			my $moment = archive_end($t, $orders, $archive);
			sleep $random->(5, 20) / 10;    # what comes now is lost
			$orders->stop('immediate');
			take_place($orders, $dir, <<"END");
restore_command = 'cp $archive/%f %p'
recovery_target_time = '$moment'
recovery_target_action = promote
END
			$orders->start or die "the restored server does not answer\n";
			my $up = time + 60;
			until (($orders->sql('SELECT pg_is_in_recovery()', 'postgres') // '') eq 'f')
			{
				die "recovery does not end\n" if time > $up;
				sleep 0.1;
			}
			File::Path::remove_tree($archive);
			return;
		} };
}

sub faults
{
	my ($world) = @_;

	return (
		[ 'dump:orders', \&dump_orders, 1 ],
		[ 'pitr:orders', \&pitr_orders, 1 ]);
}

1;
