#!/usr/bin/perl
#
# torture.pl: two services under load and faults, round by round; see run.sh.
#
# Started by run.sh as the user that PostgreSQL runs as, with OUTBOX_TREE, OUTBOX_WORK,
# OUTBOX_VOLUMES and PG_CONFIG.  The last line is the verdict, the exit status 0 if
# nothing was wrong.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../../scripts";
use POSIX ();

use OutboxRun;
use Torture::Runner;

my $work = $ENV{OUTBOX_WORK};
my $mode = $ENV{MODE} || 'at_least_once';

STDOUT->autoflush(1);
die "error: MODE is at_least_once or exactly_once\n" if $mode !~ /^(at_least_once|exactly_once)$/;

chomp(my $bindir = `'$ENV{PG_CONFIG}' --bindir`);
my %world = (
	tree     => $ENV{OUTBOX_TREE},
	work     => $work,
	log      => "$work/log",
	bindir   => $bindir,
	programs => "$ENV{OUTBOX_TREE}/build/check/src/build",
	volumes  => { map { split /=/, $_, 2 } split ' ', $ENV{OUTBOX_VOLUMES} // '' });
my $runner = Torture::Runner->new(
	world     => \%world,
	seed      => $ENV{SEED} // int rand 1_000_000_000,
	rounds    => $ENV{ROUNDS}  || 5,
	mode      => $mode,
	brokers   => $ENV{BROKERS} || 3,
	patterns  => [ split /[ ,]+/, $ENV{FAULTS} // '' ],
	seconds   => [ 20, 40 ],
	per_round => [ 8, 14 ],
	writers   => $ENV{WRITERS} || 5,
	life      => 4,
	go_on     => $ENV{GO_ON} // 0,
	say       => sub { print "$_[0]\n" });

local $SIG{INT} = local $SIG{TERM} = local $SIG{HUP} = sub {
	local $SIG{INT} = local $SIG{TERM} = 'IGNORE';
	$runner->clean_up;
	print "interrupted\n";
	POSIX::_exit(130);
};
local $SIG{PIPE} = 'IGNORE';

print "seed $runner->{seed}, rounds $runner->{rounds}, mode $mode, brokers $runner->{brokers}, ",
  scalar @{ $runner->{faults} }, " faults\n";
print "!!! the service \"$_\" has no volume of its own: instead of a full disk its error is raised\n"
  for grep { !$world{volumes}{$_} } qw(users orders);

my $good = eval { $runner->run($ENV{FIRST}) };
my $error = $@;
$runner->clean_up;
print "error: $error", "replay: make torture SEED=$runner->{seed} ROUNDS=$runner->{rounds}\n" if $error;
print $runner->{verdict}->last_line, "\n";
exit($good && !$error ? 0 : 1);
