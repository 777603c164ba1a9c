#!/usr/bin/perl
#
# fuzz.pl BINDIR TREE WORK RUNS MINIMIZE TARGET...: what scripts/fuzz.sh runs as
# the server's user.  A cluster, and for each target a backend in single-user
# mode that libFuzzer takes over.  The last line counts the executions.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use FuzzCorpus;

my ($bindir, $tree, $work, $runs, $minimize, @targets) = @ARGV;
my $database = "$work/data";
my $preload  = $ENV{OUTBOX_PRELOAD};
my (%count, @failed);

# Those that write into tables take hundreds of times as long as the others.
my %share = (record => 0.2, row => 0.2, handler => 0.2, batch => 0.05);

# And leave dead rows behind, until VACUUM at the next start; or entries in caches.
my %chunk = (record => 50_000, row => 50_000, handler => 50_000, batch => 4000, columns => 100_000);

$ENV{ASAN_OPTIONS}  = 'detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16:detect_stack_use_after_return=0';
$ENV{UBSAN_OPTIONS} = 'print_stacktrace=1';
$ENV{LC_ALL}        = 'C';

sub run
{
	my (@command) = @_;

	system("@command >>$work/setup.log 2>&1") == 0 or die "@command failed\n" . `tail -n 20 $work/setup.log`;
	return;
}

# Statements for a backend in single-user mode; each on one line.
sub single_user
{
	my ($sql, $output) = @_;
	local $ENV{LD_PRELOAD} = $preload;

	open my $backend, '|-', "$bindir/postgres --single -j -D $database -c shared_buffers=16MB postgres >$output 2>&1"
	  or die "could not start postgres: $!";
	print $backend $sql;
	close $backend;
	return $? >> 8;
}

sub make_cluster
{
	run("$bindir/initdb", '-D', $database, '-N', '-A', 'trust', '--no-locale', '-E', 'UTF8');
	# with -j a statement, or several, end where an empty line follows a semicolon
	single_user(join('', read_lines("$tree/test/fuzz/setup.sql"), "\n"), "$work/setup.log");
	my $log = join '', read_lines("$work/setup.log");
	die $log if $log =~ /ERROR:|FATAL:|PANIC:/;
	return;
}

sub read_lines
{
	my ($file) = @_;

	open my $fh, '<', $file or die "could not open $file: $!";
	return <$fh>;
}

# Run libFuzzer with these arguments; its output.
sub fuzz
{
	my ($target, @arguments) = @_;
	my $list = join ', ', map { "'$_'" } @arguments;

	my $code = single_user("VACUUM;\n\nSELECT outbox_fuzz_run('$target', ARRAY[$list]::text[]);\n\n", "$work/$target.log");
	return ($code, join '', read_lines("$work/$target.log"));
}

sub arguments
{
	my ($target) = @_;
	my $dictionary = "$tree/test/fuzz/$target.dict";

	$dictionary = "$tree/test/fuzz/json.dict" if !-e $dictionary;
	return ("-artifact_prefix=$work/findings/$target-", '-rss_limit_mb=0', '-timeout=20', '-max_len=2048',
		'-print_final_stats=1', '-use_value_profile=0', "-dict=$dictionary");
}

# Of libFuzzer's and the sanitizers' output: what is wrong, where, and with what.
sub report_line
{
	my ($line) = @_;

	return $line !~ /^#\d|^INFO|^NOTE|^stat::|^MS:|^DEDUP| fuzzer::|postgres\+0x|libc|^\s*$/
	  && $line =~ /outbox|ERROR|SUMMARY|Test unit|Base64|runtime error|src/;
}

# What covers something that neither the inputs written by hand nor anything
# smaller does.  The first step of libFuzzer's own merging says what each input covers; the others
# would start the program anew.
sub minimize
{
	my ($target, $corpus) = @_;
	my $smaller = "$work/minimized/$target";
	my $control = "$work/minimized/$target.control";
	my @seeds = glob "$corpus/seed-*";
	my @files = (@seeds, sort { -s $a <=> -s $b || $a cmp $b } grep { !/seed-\d+$/ } glob "$corpus/*");
	my %covered;

	mkdir "$work/minimized";
	mkdir $smaller;
	open my $fh, '>', $control or die "could not write $control: $!";
	print $fh join("\n", scalar(@files), 0, @files), "\n";
	close $fh;
	fuzz($target, arguments($target), '-merge_inner=1', "-merge_control_file=$control");
	for my $line (read_lines($control))
	{
		my ($input, @edges) = $line =~ /^COV (\d+) (.*)/ ? ($1, split / /, $2) : next;

		next if !grep { !$covered{$_} } @edges;
		$covered{$_} = 1 for @edges;
		next if $input < @seeds;
		link $files[$input], sprintf '%s/%04d', $smaller, $input or die "could not link: $!";
	}
	corpus_pack($smaller, "$smaller.cover.txt");
	return;
}

$| = 1;
make_cluster();
for my $target (@targets)
{
	my $corpus = "$work/corpus/$target";
	my $wanted = $runs < 0 ? 1e15 : int($runs * ($share{$target} // 1));
	my ($executions, $taken, $began, $failed) = (0, 0, time, 0);

	mkdir $corpus;
	unlink glob "$corpus/seed-*";
	corpus_unpack("$tree/test/fuzz/corpus", $target, $corpus);
	while ($executions < $wanted && !$failed)
	{
		my $n = $wanted - $executions;
		my $chunk = $chunk{$target} // 1_000_000;
		my ($code, $log) = fuzz($target, arguments($target), '-runs=' . ($n < $chunk ? $n : $chunk), $corpus);

		$log =~ /^outbox_fuzz: \w+: (\d+) executions, (\d+) taken$/m
		  and ($executions, $taken) = ($executions + $1, $taken + $2);
		next if $code == 0 && $log =~ /^Done /m;
		$failed = 1;
		print map { "    | $_\n" } grep { report_line($_) } split /\n/, $log;
	}
	printf "%-10s %10d executions, %10d taken, %7d a second: %s\n", $target, $executions, $taken,
	  $executions / ((time - $began) || 1), $failed ? 'FINDING' : 'no finding';
	$count{$target} = $executions;
	push @failed, $target if $failed;
	minimize($target, $corpus) if $minimize && !$failed;
}

my $total = 0;
$total += $_ for values %count;
printf "fuzz: %d executions, %s\n", $total, @failed ? "findings in @failed" : 'no finding';
exit(@failed ? 1 : 0);
