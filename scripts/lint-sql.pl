#!/usr/bin/perl
#
# lint-sql.pl FILE...: functions that run with their owner's rights pin their
# search path, and fragments of the install script end with a newline.

use strict;
use warnings FATAL => 'all';

my $bad = 0;

# Statements with the line that each starts in; dollar quotes are kept whole.
sub statements
{
	my ($source) = @_;
	my @found;
	my $start = 0;

	while ($source =~ /\G(?:--[^\n]*|'(?:[^']|'')*'|(\$\w*\$).*?\1|(;)|.)/gs)
	{
		next if !defined $2;
		my $text = substr $source, $start, pos($source) - $start;
		my $line = 1 + (substr($source, 0, $start) =~ tr/\n//) + ($text =~ /^(\s*)/ ? ($1 =~ tr/\n//) : 0);
		push @found, [ $line, $text ];
		$start = pos $source;
	}
	return @found;
}

for my $file (@ARGV)
{
	open my $fh, '<', $file or die "$file: $!\n";
	my $source = do { local $/; <$fh> };
	close $fh;
	if ($source !~ /\n\z/)
	{
		print "$file: no newline at the end\n";
		$bad = 1;
	}
	for (statements($source))
	{
		my ($line, $text) = @$_;
		$text =~ s/--[^\n]*//g;
		next if $text !~ /\bCREATE\b.*\b(FUNCTION|PROCEDURE)\b/is || $text !~ /SECURITY\s+DEFINER/i;
		next if $text =~ /SET\s+search_path\s*(=|TO)\s*pg_catalog\s*,\s*pg_temp\b/i;
		print "$file:$line: SECURITY DEFINER without SET search_path = pg_catalog, pg_temp\n";
		$bad = 1;
	}
}
exit $bad;
