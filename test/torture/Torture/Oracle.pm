# Torture::Oracle: loads what there is into a server of its own, and counts what is
# wrong with it.  What that means is in oracle.sql.

package Torture::Oracle;

use strict;
use warnings FATAL => 'all';

use OutboxRun;
use POSIX ();

# The views of oracle.sql whose rows are faults.
our @FAULTS = qw(lost phantom wrong disorder reused stale handler account_wrong);

my $csv = q{(FORMAT csv, DELIMITER E'\x1f', QUOTE E'\x1e')};

my %row = (
	account => 'id::text',
	item    => q{jsonb_build_object('a', a, 'b', b)::text},
	doc     => 'id::text',
	bulk    => 'id::text');

sub new
{
	my ($class, $server) = @_;

	return bless { server => $server }, $class;
}

sub begin
{
	my ($self, $tree) = @_;

	$self->{server}->must('DROP DATABASE IF EXISTS oracle', 'postgres');
	$self->{server}->must('CREATE DATABASE oracle', 'postgres');
	$self->{server}->run_text(slurp("$tree/test/torture/oracle.sql"));
	return;
}

# COMMAND... | psql -c SQL
sub pipe_into
{
	my ($self, $sql, @command) = @_;
	my $output = "$self->{server}{world}{log}/oracle.log";

	return run_command($output, 600, 'bash', '-c',
		'set -o pipefail; n=$1; shift; "${@:1:n}" | "${@:n+1}"', 'bash',
		scalar @command, @command, $self->{server}->psql(undef, '-c', $sql))
	  || die "oracle: $sql\n", tail($output, 10);
}

sub load_kafka
{
	my ($self, $kafka, $prefix, @labels) = @_;

	$self->{server}->must('TRUNCATE raw');
	for my $label (@labels)
	{
		$self->pipe_into("COPY raw FROM STDIN $csv", $kafka->reader("$prefix$label", $label));
	}
	return;
}

sub load_query
{
	my ($self, $service, $query, $into) = @_;

	$self->pipe_into("COPY $into FROM STDIN", $service->psql(undef, '-c', "COPY ($query) TO STDOUT"));
	return;
}

my $history_columns = 'seq, era, xid, tbl, key, op, rev, n, content';

# The account as the source has it now.
sub load_history
{
	my ($self, $users) = @_;

	$self->{server}->must('DELETE FROM history WHERE NOT lost');
	$self->load_query($users, "SELECT $history_columns FROM history", "history ($history_columns)");
	# what was thought to be lost and is there all the same
	$self->{server}->must('ANALYZE history');
	$self->{server}->must('DELETE FROM history AS h WHERE lost AND EXISTS (SELECT FROM history AS o WHERE NOT o.lost AND o.era = h.era AND o.rev = h.rev AND o.seq = h.seq)');
	return;
}

# What a server knew whose place another takes: lost, as far as that does not have it.
sub load_lost
{
	my ($self, $users) = @_;

	$self->load_query($users, "SELECT $history_columns, true FROM history", "history ($history_columns, lost)");
	return;
}

sub load_rows
{
	my ($self, $side, $service) = @_;

	$self->{server}->must("DELETE FROM image WHERE side = '$side'");
	for my $table (sort keys %row)
	{
		my $query = "SELECT '$side', '$table', $row{$table}, to_jsonb(t) - 'version' - 'body'"
		  . ($table eq 'doc' ? q{ || jsonb_build_object('body', md5(body) || ' ' || length(body))} : '') . " FROM $table AS t";

		$self->load_query($service, $query, 'image');
	}
	return;
}

sub load_handled
{
	my ($self, $orders) = @_;

	$self->{server}->must('TRUNCATE handled');
	$self->load_query($orders, 'SELECT id, rev FROM handled', 'handled');
	return;
}

# Everything, then the figures.
sub load
{
	my ($self, $t, @labels) = @_;

	$self->load_kafka($t->{kafka}, $t->{prefix}, @labels);
	$self->load_history($t->{users});
	$self->load_rows('source',  $t->{users});
	$self->load_rows('replica', $t->{orders});
	$self->load_handled($t->{orders});
	$self->{server}->must('CALL digest_records()');
	return;
}

sub figures
{
	my ($self) = @_;
	my %figure = (events => 0, repeated => 0);

	$figure{$_} = $self->{server}->must("SELECT count(*) FROM $_") for @FAULTS;
	$figure{events}   = $self->{server}->must('SELECT count(*) FROM first');
	$figure{copied}   = $self->{server}->must(q(SELECT count(*) FROM first WHERE op = 'r'));
	$figure{repeated} = $self->{server}->must('SELECT coalesce(sum(times), 0) FROM repeated');
	$figure{lost_history} = $self->{server}->must('SELECT count(*) FROM expected WHERE lost');
	return \%figure;
}

# All rows, for whoever looks into it.
sub keep
{
	my ($self, $table, $file) = @_;

	return run_command($file, 120, $self->{server}->psql(undef, '-c', "COPY (SELECT * FROM $table) TO STDOUT (FORMAT csv, HEADER)"));
}

# The first rows of a view, for a report.
sub show
{
	my ($self, $view, $limit) = @_;
	my $rows = $self->{server}->sql(
		"SELECT left(row_to_json(x)::text, 400) FROM (SELECT * FROM $view LIMIT $limit) AS x");

	return map { "    | $_\n" } split /\n/, $rows // $self->{server}{error};
}

1;
