# What parses foreign bytes, with each input of the corpus of test/fuzz and some
# thousands of mutations of them, the same in each run.  "make fuzz" is the real
# thing.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

use lib dirname(__FILE__) . '/../fuzz';
use FuzzCorpus;

my $fuzz = dirname(__FILE__) . '/../fuzz';
my $seed = $ENV{OUTBOX_SEED} // 1;

note "OUTBOX_SEED=$seed";
my $node = outbox_node('fuzz', preload => 0);
$node->safe_psql('postgres', slurp_file("$fuzz/setup.sql"));

my @targets;
for my $file (glob "$fuzz/*.c")
{
	push @targets, slurp_file($file) =~ /^\t\{"(\w+)", fuzz_/mg;
}
cmp_ok(scalar(@targets), '>', 10, 'there are targets');

# Those that write tables take longer.
my %mutations = (batch => 200, record => 1000, handler => 500);

for my $target (@targets)
{
	my @inputs = corpus_read("$fuzz/corpus", $target);
	my $list = join ',', map { "'\\x" . unpack('H*', $_) . "'" } @inputs;
	my $n = $mutations{$target} // 3000;
	my ($rc, $out, $err) = $node->psql('postgres', <<"END");
SELECT count(outbox_fuzz_input('$target', input)) FROM unnest(ARRAY[$list]::bytea[]) AS input;
SELECT outbox_fuzz_mutate('$target', ARRAY[$list]::bytea[], $n, $seed) >= 0;
END
	is("$out$err", (@inputs || 'some') . "\nt", "$target: no finding");
}

$node->stop;
done_testing();
