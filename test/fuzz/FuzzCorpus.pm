# FuzzCorpus: inputs as lines of text, so that they can be read and compared.
#
# A line is one input: printable ASCII as it is, any other byte, and the
# backslash, as \xHH.  TARGET.txt was written by hand, findings included;
# TARGET.cover.txt is what "make fuzz MINIMIZE=1" chose to cover the rest.

package FuzzCorpus;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

our @EXPORT = qw(corpus_read corpus_unpack corpus_pack);

# The inputs of a file, as bytes; none if there is no such file.
sub _read
{
	my ($file) = @_;

	open my $fh, '<:raw', $file or return ();
	return map { chomp; s/\\x([0-9a-f]{2})/chr hex $1/ger } <$fh>;
}

# All inputs of a target.
sub corpus_read
{
	my ($dir, $target) = @_;

	return map { _read("$dir/$target$_") } '.txt', '.cover.txt';
}

# Those written by hand, each into a file of its own, and the others.
sub corpus_unpack
{
	my ($from, $target, $dir) = @_;
	my %inputs = (seed => [ _read("$from/$target.txt") ], cover => [ _read("$from/$target.cover.txt") ]);

	for my $kind (keys %inputs)
	{
		for my $n (0 .. $#{ $inputs{$kind} })
		{
			open my $fh, '>:raw', sprintf('%s/%s-%04d', $dir, $kind, $n) or die "could not write into $dir: $!";
			print $fh $inputs{$kind}[$n];
			close $fh;
		}
	}
	return;
}

# The other way round; the shortest first.
sub corpus_pack
{
	my ($dir, $file) = @_;
	my @inputs;

	for my $path (glob "$dir/*")
	{
		open my $fh, '<:raw', $path or die "could not open $path: $!";
		push @inputs, do { local $/; <$fh> } // '';
	}
	open my $fh, '>:raw', $file or die "could not write $file: $!";
	for my $input (sort { length $a <=> length $b || $a cmp $b } @inputs)
	{
		print $fh $input =~ s/([^\x20-\x7e]|\\)/sprintf '\\x%02x', ord $1/ger, "\n";
	}
	return;
}

1;
