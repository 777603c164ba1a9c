#!/usr/bin/perl
#
# lint-layers.pl FILE...: check that includes point downwards only, that
# librdkafka stays inside src/kafka and version tests inside compat.h.

use strict;
use warnings FATAL => 'all';

# What each area may include, besides itself.
my %below = (
	common  => [],
	worker  => ['common'],
	kafka   => ['common'],
	log     => ['common'],
	capture => [qw(worker kafka log common)],
	relay   => [qw(worker kafka log common)],
	apply   => [qw(worker kafka log common)],
	''      => [qw(apply relay capture worker kafka log common)]);
my $bad = 0;

sub finding
{
	my ($file, $line, $text) = @_;
	print "$file:$line: $text\n";
	$bad = 1;
	return;
}

sub check_include
{
	my ($file, $area, $header) = @_;

	finding($file, $., "librdkafka is src/kafka's alone")
	  if $header =~ m{rdkafka} && $area ne 'kafka';
	return if $header !~ m{^(\w+)/} || !exists $below{$1};
	finding($file, $., "area \"$area\" must not include \"$header\"")
	  if $1 ne $area && !grep { $_ eq $1 } @{ $below{$area} };
	return;
}

for my $file (@ARGV)
{
	my ($area) = $file =~ m{^src/(?:(\w+)/)?(?:\w+/)*[^/]+$};
	$area //= '';
	if (!exists $below{$area})
	{
		finding($file, 0, "unknown area \"$area\"");
		next;
	}
	open my $fh, '<', $file or die "$file: $!\n";
	while (<$fh>)
	{
		check_include($file, $area, $1) if /^\s*#\s*include\s+"([^"]+)"/;
		finding($file, $., "librdkafka is src/kafka's alone")
		  if $area ne 'kafka' && (/<librdkafka/ || /\brd_kafka_\w+\s*\(/);
		finding($file, $., 'PG_VERSION_NUM belongs into common/compat.h')
		  if /\bPG_VERSION_NUM\b/ && $file ne 'src/common/compat.h';
	}
	close $fh;
}
exit $bad;
