#!/usr/bin/perl
#
# lint-messages.pl FILE...: every report from WARNING up has an error code, and
# messages follow PostgreSQL's style: errmsg starts in lower case and has no
# final period, detail and hint are sentences.

use strict;
use warnings FATAL => 'all';

my $bad = 0;

sub finding
{
	my ($file, $line, $text) = @_;
	print "$file:$line: $text\n";
	$bad = 1;
	return;
}

# The balanced text after an opening parenthesis at the position of $$source.
sub arguments
{
	my ($source, $start) = @_;
	my $depth = 0;

	pos($$source) = $start;
	while ($$source =~ /\G(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)'|([()])|[^"'()]+|.)/gs)
	{
		next if !defined $1;
		$depth += $1 eq '(' ? 1 : -1;
		return substr $$source, $start, pos($$source) - $start if $depth == 0;
	}
	return '';
}

# The text of a call's string literal, neighbours joined.
sub literal
{
	my ($report, $function) = @_;
	return if $report !~ /\b$function(?:_internal|_plural)?\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)/;
	my $text = $1;
	$text =~ s/"\s*"//g;
	$text =~ s/^\s*"|"\s*$//g;
	return $text;
}

sub check_report
{
	my ($file, $line, $report) = @_;
	my $level   = $report =~ /^\(\s*([A-Z]+\d?)\b/ ? $1 : 'unknown';
	my $message = literal($report, 'errmsg');

	finding($file, $line, 'report without errcode')
	  if $level =~ /^(ERROR|FATAL|PANIC|WARNING|unknown)$/ && $report !~ /\berrcode(_for_\w+)?\s*\(/;
	if (defined $message)
	{
		finding($file, $line, "message starts with a capital: \"$message\"")
		  if $message =~ /^[A-Z][a-z]/ && $message !~ /^Kafka\b/;
		finding($file, $line, "message ends like a sentence: \"$message\"")
		  if $message =~ /(\.|\\n|!)$/ && $message !~ /\.\.\.$/;
	}
	for my $part (qw(errdetail errhint))
	{
		my $text = literal($report, $part) // next;
		finding($file, $line, "$part is no sentence: \"$text\"")
		  if $text !~ /[.?!:]\)?$/ && $text !~ /%s$/ || $text =~ /^[a-z]/ && $text !~ /^(pg_|max_|librdkafka)/;
	}
	return;
}

for my $file (@ARGV)
{
	open my $fh, '<', $file or die "$file: $!\n";
	my $source = do { local $/; <$fh> };
	close $fh;
	$source =~ s{(/\*.*?\*/)}{ $1 =~ s/[^\n]/ /gr }gse;
	while ($source =~ /\bereport(?:_domain)?\s*(?=\()/g)
	{
		my $start = pos $source;
		my $line = 1 + (substr($source, 0, $start) =~ tr/\n//);
		check_report($file, $line, arguments(\$source, $start));
		pos($source) = $start;
	}
}
exit $bad;
