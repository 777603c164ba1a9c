#!/usr/bin/perl
#
# typedefs.pl FILE...: print the names that the files' typedefs define, one a
# line, unsorted.  For pg_bsd_indent, which has to be told what is a type.

use strict;
use warnings FATAL => 'all';

# Braces nest at most three deep inside a typedef.
my $braces = qr/\{[^{}]*\}/;
$braces = qr/\{(?:[^{}]|$braces)*\}/ for 1 .. 2;

for my $file (@ARGV)
{
	open my $fh, '<', $file or next;
	my $source = do { local $/; <$fh> };
	close $fh;
	$source =~ s{/\*.*?\*/|//[^\n]*}{}gs;
	while ($source =~ /\btypedef\b((?:[^;{}]|$braces)*);/g)
	{
		my $declaration = $1 =~ s/$braces//gr;
		if ($declaration =~ /\(\s*\*\s*(\w+)\s*\)\s*\(/)
		{
			print "$1\n";
		}
		elsif ($declaration =~ /(\w+)\s*(?:\[[^\]]*\]\s*)?(?:\([^()]*\)\s*)?(?:pg_attribute\w*\(.*\)\s*)?$/s)
		{
			print "$1\n";
		}
	}
}
