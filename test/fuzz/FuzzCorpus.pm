# FuzzCorpus: inputs as lines of text, so that they can be read and compared.
#
# A line is one input: printable ASCII as it is, any other byte, and the
# backslash, as \xHH.

package FuzzCorpus;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

our @EXPORT = qw(corpus_read corpus_unpack corpus_pack);

# All inputs of a file, as bytes; none if there is no such file.
sub corpus_read
{
	my ($file) = @_;

	open my $fh, '<:raw', $file or return ();
	return map { chomp; s/\\x([0-9a-f]{2})/chr hex $1/ger } <$fh>;
}

# Each input into a file of its own.
sub corpus_unpack
{
	my ($file, $dir) = @_;
	my $n = 0;

	for my $input (corpus_read($file))
	{
		open my $fh, '>:raw', sprintf('%s/corpus-%04d', $dir, $n++) or die "could not write into $dir: $!";
		print $fh $input;
		close $fh;
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
