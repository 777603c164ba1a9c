# "make torture" in small: the same program, fixed seeds, one broker, short rounds.
#
# OUTBOX_SEED=n takes another seed.  The full disk is an error raised at a fault point
# here, as nobody but root can have a volume to fill.

use strict;
use warnings FATAL => 'all';

use File::Path ();
use File::Temp;
use FindBin;
use lib "$FindBin::RealBin/../torture", "$FindBin::RealBin/../../scripts";
use OutboxRun;
use POSIX ();
use Test::More;
use Torture::Runner;

plan skip_all => 'needs a real Kafka' if ($ENV{OUTBOX_TEST_KAFKA} // '') eq '';

chomp(my $bindir = `'$ENV{PG_CONFIG}' --bindir`);
my $tree = "$FindBin::RealBin/../..";
my ($build) = $bindir =~ m{/build/(\w+)/};    # "check", or that of the sanitizers
my $logs = "$ENV{TESTDIR}/tmp_check/log";
my $runner;

$ENV{KAFKA_HEAP} = '256m';
local $SIG{PIPE} = 'IGNORE';
local $SIG{INT} = local $SIG{TERM} = sub { die "interrupted\n" };
File::Path::make_path($logs);

END
{
	my $status = $?;
	$runner->clean_up if $runner;
	$? = $status;
}

for my $mode (qw(at_least_once exactly_once))
{
	my $work = File::Temp->newdir('obtXXXXXX', DIR => '/tmp');
	my $log  = "$logs/$mode";

	File::Path::make_path($log);
	$runner = Torture::Runner->new(
		world => {
			tree => $tree, work => "$work", log => $log, bindir => $bindir, volumes => {},
			programs => "$tree/build/" . ($build // 'check') . '/src/build' },
		seed      => $ENV{OUTBOX_SEED} // 26,
		rounds    => 2,
		mode      => $mode,
		brokers   => 1,
		seconds   => [ 8, 10 ],
		per_round => [ 9, 10 ],
		writers   => 3,
		life      => 2,
		go_on     => 0,
		say       => sub { note $_[0] });
	ok($runner->run, "nothing is wrong, $mode") or diag "the schedule is in schedule.log\n", slurp("$log/schedule.log");
	cmp_ok($runner->{verdict}{figures}{events}, '>', 500, 'there was something to see');
	$runner->clean_up;
	$runner = undef;
}
done_testing();
