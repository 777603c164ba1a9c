# Torture::Schedule: what happens when, out of a seed.
#
# Everything random about a run is drawn here before anything begins, so that the
# same seed, faults and mode give the same schedule and the same statements; how
# they interleave is up to the machine.  Faults are dealt from a shuffled deck that
# is shuffled again when it is used up: each one has its turn before any comes
# again.

package Torture::Schedule;

use strict;
use warnings FATAL => 'all';

# plan(seed => n, faults => [{ name, ends }...], load => { name => probability }, rounds =>
#      n, seconds => [min, max], per_round => [min, max], writers => n, life => n)
#
# A list of rounds: { number, begins, seconds, writers => [seed...], events =>
# [{ at, name, seed }...] }.  "begins": the services are made anew before it.
sub plan
{
	my (%opt) = @_;
	my @rounds;

	srand $opt{seed};
	my @deck;
	for my $number (1 .. $opt{rounds})
	{
		my $seconds = between(@{ $opt{seconds} });
		my $n       = between(@{ $opt{per_round} });
		my @writers = map { drawn() } 1 .. $opt{writers};
		my @events  = map { { at => 0.5 + rand($seconds - 2), name => $_->{name}, seed => drawn() } }
		  deal($n, \@deck, $opt{faults});

		# what ends a history comes late, so that there is one
		$_->{at} = $seconds * (0.5 + 0.2 * rand) for grep { ends($opt{faults}, $_->{name}) } @events;
		for my $load (sort keys %{ $opt{load} })
		{
			push @events, { at => rand($seconds * 0.7), name => $load, seed => drawn() } if rand() < $opt{load}{$load};
		}
		push @rounds, {
			number  => $number,
			begins  => ($number - 1) % $opt{life} == 0,
			seconds => $seconds,
			writers => \@writers,
			events  => [ sort { $a->{at} <=> $b->{at} || $a->{name} cmp $b->{name} } @events ] };
	}
	return @rounds;
}

sub ends
{
	my ($faults, $name) = @_;
	return grep { $_->{name} eq $name && $_->{ends} } @$faults;
}

# The next N faults.  Histories end one at a time: a second fault of that kind goes
# back to the end of the deck.
sub deal
{
	my ($n, $deck, $faults) = @_;
	my (@hand, @back);
	my $ending = 0;

	while (@hand < $n && @$faults)
	{
		@$deck = shuffled(@$faults) if !@$deck;
		my $fault = shift @$deck;

		if ($fault->{ends} && $ending++)
		{
			push @back, $fault;
			last if @$faults <= @back;
			next;
		}
		push @hand, $fault;
	}
	push @$deck, @back;
	return @hand;
}

sub between
{
	my ($min, $max) = @_;
	return $min + int rand($max - $min + 1);
}

sub drawn
{
	return int rand(1_000_000_000);
}

sub shuffled
{
	my @list = @_;

	for my $i (reverse 1 .. $#list)
	{
		my $k = int rand($i + 1);
		@list[ $i, $k ] = @list[ $k, $i ];
	}
	return @list;
}

1;
