# Torture::Verdict: figures, and the line that they make.

package Torture::Verdict;

use strict;
use warnings FATAL => 'all';

# What has to be 0, and what it is called.
our @MUST_BE_ZERO = (
	[ lost          => 'lost' ],
	[ phantom       => 'phantom' ],
	[ disorder      => 'out of order' ],
	[ wrong         => 'wrong' ],
	[ reused        => 'versions with two contents' ],
	[ stale         => 'stale rows' ],
	[ handler       => 'handled other than once' ],
	[ grown         => 'tables grown' ],
	[ hung          => 'shutdowns hung' ],
	[ crashed       => 'crashes of its own' ],
	[ account_wrong => 'errors of the account itself' ]);

sub new
{
	my ($class, %opt) = @_;

	return bless { %opt, faults => {}, figures => {}, rounds => 0, bad => 0, missed => 0, seconds => [] }, $class;
}

# One round's results: number, faults (name -> count), missed, figures, converged: in how
# many seconds (undef: it did not).
sub add
{
	my ($self, $round) = @_;

	$self->{rounds}++;
	$self->{faults}{$_}  += $round->{faults}{$_}  for keys %{ $round->{faults} };
	$self->{figures}{$_} += $round->{figures}{$_} for keys %{ $round->{figures} };
	$self->{missed} += $round->{missed};
	$self->{bad}++ if $self->faulty($round);
	push @{ $self->{seconds} }, $round->{converged} if defined $round->{converged};
	return;
}

# The names of what is wrong with a round.
sub faulty
{
	my ($self, $round) = @_;
	my @wrong = map { $_->[0] } grep { $round->{figures}{ $_->[0] } } @MUST_BE_ZERO;

	push @wrong, 'repeated' if $self->{mode} eq 'exactly_once' && $round->{figures}{repeated};
	push @wrong, 'converge' if !defined $round->{converged};
	return @wrong;
}

# Faults by kind: the part of their names before the last detail.
sub kinds
{
	my ($faults) = @_;
	my %kind;

	for my $name (keys %$faults)
	{
		my ($kind) = $name =~ /^point:/ ? $name =~ /=(\w+)$/ : $name =~ /^([^:]+(?::(?!users|orders)[^:]+)?)/;
		$kind{ $name =~ /^point:/ ? "point=$kind" : $kind } += $faults->{$name};
	}
	return join ', ', map { "$_ $kind{$_}" } sort keys %kind;
}

sub line
{
	my ($self, $what, $faults, $figures, $seconds, $missed) = @_;
	my $n = 0;

	$n += $_ for values %$faults;
	return "$what: faults $n (" . kinds($faults) . ')'
	  . ($missed ? ", not made $missed" : '')
	  . ', events ' . ($figures->{events} // 0)
	  . join('', map { ", $_->[1] " . ($figures->{ $_->[0] } // 0) } @MUST_BE_ZERO)
	  . ', repeated ' . ($figures->{repeated} // 0)
	  . ', lost history ' . ($figures->{lost_history} // 0)
	  . ', ' . (defined $seconds ? sprintf('converged in %.1f s', $seconds) : 'NOT CONVERGED');
}

sub round_line
{
	my ($self, $round) = @_;

	return $self->line("round $round->{number}", @{$round}{qw(faults figures converged missed)});
}

sub last_line
{
	my ($self) = @_;
	my ($max) = sort { $b <=> $a } @{ $self->{seconds} };

	return $self->line("torture: $self->{rounds} rounds, $self->{bad} bad, mode $self->{mode}, brokers $self->{brokers}, seed $self->{seed}",
		$self->{faults}, $self->{figures}, @{ $self->{seconds} } == $self->{rounds} ? $max : undef, $self->{missed});
}

1;
