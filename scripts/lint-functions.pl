#!/usr/bin/perl
#
# lint-functions.pl FILE...: no function is longer than a screen or two, every
# file starts with a comment that names it.

use strict;
use warnings FATAL => 'all';

use File::Basename;

use constant LONGEST => 90;    # lines between the braces of a function

my $bad = 0;

for my $file (@ARGV)
{
	my ($begun, $name);
	my $previous = '';

	open my $fh, '<', $file or die "$file: $!\n";
	my @lines = <$fh>;
	close $fh;
	if (join('', @lines[ 0 .. 4 ]) !~ /\Q@{[ basename($file) ]}\E/)
	{
		print "$file:1: no comment at the head that names the file\n";
		$bad = 1;
	}
	for my $i (0 .. $#lines)
	{
		my $line = $lines[$i];
		if ($line =~ /^\{/ && $previous =~ /\)\s*$/)
		{
			($begun, $name) = ($i, $previous =~ /^(\w+)\(/ ? $1 : 'a function');
		}
		elsif ($line =~ /^\}/ && defined $begun)
		{
			my $length = $i - $begun - 1;
			if ($length > LONGEST)
			{
				printf "%s:%d: %s has %d lines\n", $file, $begun + 1, $name, $length;
				$bad = 1;
			}
			undef $begun;
		}
		# Remember where a declaration starts that goes over several lines.
		$previous = $line =~ /^\w+\(/ ? $line =~ s/\n//r : $line =~ /^\s/ ? $previous : $line;
		$previous .= ')' if $line =~ /^\s.*\)\s*$/ && $previous =~ /^\w+\(/ && $previous !~ /\)\s*$/;
	}
}
exit $bad;
