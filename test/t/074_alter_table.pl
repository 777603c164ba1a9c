# ALTER TABLE of every kind on a captured table and on a replica: what is changed
# afterwards arrives as it is, or the command is refused, or writers get an error,
# or outbox.publications says what is wrong.  Nothing is lost in silence.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Events are looked at in the log, and given to outbox.apply: no broker is needed.
my $node = outbox_node('main');
my $elsewhere = PostgreSQL::Test::Utils::tempdir();
outbox_install($node, 'shop', '127.0.0.1:1');
$node->safe_psql('shop', <<"END");
CREATE TABLESPACE elsewhere LOCATION '$elsewhere';
CREATE ROLE keeper;
GRANT ALL ON SCHEMA public TO keeper;
CREATE SCHEMA other;
CREATE TYPE shape AS (id int, n int, a varchar(20), g int, z int);
END

# An insert, an update and a delete, as the publication tells of them: "same", or
# what is wrong.
$node->safe_psql('shop', <<'END');
CREATE FUNCTION probe_source(t text, k text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	last bigint := (SELECT coalesce(max(id), 0) FROM outbox.events);
	ops text;
	n int;
BEGIN
	EXECUTE format('INSERT INTO %s (%I, n) VALUES (4, 7)', t, k);
	EXECUTE format('UPDATE %s SET n = n + 1 WHERE %I = 1', t, k);
	EXECUTE format('DELETE FROM %s WHERE %I = 3', t, k);
	SELECT string_agg(op || ':' || key, ' ' ORDER BY id) INTO ops FROM outbox.events WHERE id > last;
	EXECUTE format('SELECT count(*) FROM outbox.events AS e JOIN %s AS r ON e.key = r.%I::text'
		' WHERE e.id > $1 AND convert_from(e.value, ''UTF8'')::jsonb = to_jsonb(r)', t, k) USING last INTO n;
	RETURN CASE WHEN ops = 'c:4 u:1 d:3' AND n = 2 THEN 'same' ELSE format('events are %s, %s of them right', ops, n) END;
END $$;
CREATE FUNCTION problem() RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN count(*) = 0 THEN 'problem: no publication' ELSE 'problem: ' || max(problem) END FROM outbox.publications
$$;
-- The same for a replica: what apply() is given is what the row is then.
CREATE FUNCTION probe_replica(t text, k text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	results text;
	rows text;
BEGIN
	results := concat_ws(' ',
		outbox.apply(t::regclass, '2', '{"id": 2, "n": 7, "a": "new"}', '{"id": 20}'),
		outbox.apply(t::regclass, '1', '{"id": 1, "n": 8, "a": "newer"}', '{"id": 21}'),
		outbox.apply(t::regclass, '3', NULL, '{"id": 22, "op": "d"}'),
		outbox.apply(t::regclass, '3', '{"id": 3, "n": 9, "a": "late"}', '{"id": 19}'));
	EXECUTE format('SELECT string_agg(format(''%%s %%s %%s %%s'', %I, r.n, r.a, r.version), '', '' ORDER BY %I) FROM %s AS r', k, k, t) INTO rows;
	RETURN CASE WHEN results = 'applied applied deleted stale' AND rows = '1 8 newer 21, 2 7 new 20' THEN 'same'
		ELSE format('results are %s, rows %s', results, rows) END;
END $$;
END

my %fresh = (
	source => <<'END',
CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, a varchar(20) NOT NULL DEFAULT 'a', g int GENERATED ALWAYS AS (n * 2) STORED, z int CONSTRAINT z_check CHECK (z > 0));
CREATE UNIQUE INDEX by_id ON t (id);
INSERT INTO t (id, n, a, z) SELECT g, 1, 'old', 1 FROM generate_series(1, 3) AS g;
SELECT outbox.publish('t', topic => 't', initial => 'none', columns => NULL);
END
	listed => <<'END',
CREATE TABLE t (id int PRIMARY KEY, n int, a text, z int);
INSERT INTO t SELECT g, 1, 'old', 1 FROM generate_series(1, 3) AS g;
SELECT outbox.publish('t', topic => 't', initial => 'none', columns => '{id,n,a,z}', filter => 'z IS NULL OR z > 0');
END
	whole => <<'END',
CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, a text) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF t FOR VALUES FROM (0) TO (100);
CREATE TABLE child (LIKE t INCLUDING ALL);
INSERT INTO t SELECT g, 1, 'old' FROM generate_series(1, 3) AS g;
SELECT outbox.publish('t', topic => 't', initial => 'none');
END
	whole_replica => <<'END',
CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, a text, version bigint NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF t FOR VALUES FROM (0) TO (100);
INSERT INTO t SELECT g, 1, 'old', 10 FROM generate_series(1, 3) AS g;
END
	replica => <<'END');
CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, a varchar(20) NOT NULL DEFAULT 'a', version bigint NOT NULL);
CREATE UNIQUE INDEX by_id ON t (id);
INSERT INTO t SELECT g, 1, 'old', 10 FROM generate_series(1, 3) AS g;
END

# What becomes of a form: "same", "refused: ..." (the command is, and all is as before),
# "fails: ..." (who writes or applies gets an error), with "; problem: ..." where the
# view says so; "lost: ..." else.
sub outcome
{
	my ($side, $sql, %opt) = @_;
	my ($table, $key) = ($opt{table} // 't', $opt{key} // 'id');
	my $before = $opt{before} // '';
	my ($rc, $out, $err) = $node->psql('shop', <<"END", on_error_stop => 0);
$fresh{ $opt{fresh} // $side }
$before;
\\warn form
$sql;
\\warn probe
SELECT 'probe ' || probe_$side('$table', '$key');
SELECT problem() WHERE '$side' = 'source';
\\warn end
SET client_min_messages = error;
SET pg_outbox.capture = off;
DROP TABLE IF EXISTS $table, t, other.t, parent, child, part CASCADE;
DROP FUNCTION IF EXISTS x();
SELECT outbox.unpublish(name) FROM outbox._publication;
END
	my ($setup, $form, $probe) = $err =~ /\A(.*?)^form\n(.*?)^probe\n(.*?)^end$/ms or die $err;
	my ($problem) = $out =~ /^(problem: .*)/m;
	my ($result) = $out =~ /^probe (.*)/m;

	die $setup if $setup =~ /ERROR/;
	$result = "fails: $1" if $probe =~ /ERROR:\s+(.*)/;
	$result = "lost: $result" if $result !~ /^(same|fails)/ && !defined $problem;
	return "refused: $1" if $form =~ /ERROR:\s+(.*)/ && $result eq 'same' && !defined $problem;
	$result .= "; warning: $1" if $form =~ /WARNING:\s+(.*)/;
	return defined $problem ? "$result; $problem" : $result;
}

sub forms
{
	my ($side, @forms) = @_;

	while (my ($sql, $expected) = splice @forms, 0, 2)
	{
		my ($want, %opt) = ref $expected ? @$expected : ($expected);
		my $got = outcome($side, $sql, %opt);

		ok(ref $want ? $got =~ $want : $got eq $want, "$side: $sql") or diag "got: $got\nexpected: $want";
	}
	return;
}

# Forms on another set-up.
sub with
{
	my ($fresh, @forms) = @_;
	my @result;

	while (my ($sql, $expected) = splice @forms, 0, 2)
	{
		push @result, $sql => [ $expected, fresh => $fresh ];
	}
	return @result;
}

my $a = 'ALTER TABLE t';
my @both = (
	"$a SET (fillfactor = 50)" => 'same',
	"$a RESET (fillfactor)" => 'same',
	"$a ALTER a SET STATISTICS 10, ALTER a SET (n_distinct = 5), ALTER a RESET (n_distinct)" => 'same',
	"$a ALTER a SET STORAGE EXTERNAL, ALTER a SET COMPRESSION pglz" => 'same',
	"$a ALTER a TYPE text" => 'same',
	"$a ALTER a TYPE varchar(30)" => 'same',
	"$a ALTER n SET DEFAULT 5, ALTER a DROP NOT NULL" => 'same',
	"$a ALTER n DROP DEFAULT" => 'same',
	"$a ALTER n SET NOT NULL" => 'same',
	"$a ALTER n DROP DEFAULT, ALTER n SET NOT NULL, ALTER n DROP NOT NULL" => 'same',
	"$a ADD CONSTRAINT c CHECK (n >= 0)" => 'same',
	"$a ADD CONSTRAINT c CHECK (n >= 0) NOT VALID; $a VALIDATE CONSTRAINT c; $a RENAME CONSTRAINT c TO d; $a DROP CONSTRAINT d" => 'same',
	"$a ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES t DEFERRABLE; $a ALTER CONSTRAINT f NOT DEFERRABLE; $a DROP CONSTRAINT f" => 'same',
	"$a ADD CONSTRAINT e EXCLUDE (id WITH =)" => 'same',
	"$a REPLICA IDENTITY FULL" => 'same',
	"$a REPLICA IDENTITY NOTHING" => 'same',
	"$a REPLICA IDENTITY USING INDEX by_id" => 'same',
	"$a CLUSTER ON by_id; CLUSTER t; $a SET WITHOUT CLUSTER" => 'same',
	"$a SET TABLESPACE elsewhere" => 'same',
	"$a SET ACCESS METHOD heap" => 'same',
	"$a SET WITHOUT OIDS" => 'same',
	"$a OWNER TO keeper" => 'same',
	"$a RENAME TO u" => ['same', table => 'u'],
	"$a SET SCHEMA other" => ['same', table => 'other.t'],
	"$a RENAME CONSTRAINT t_pkey TO other_pkey" => 'same',
	"$a DROP CONSTRAINT t_pkey, ADD CONSTRAINT pk PRIMARY KEY USING INDEX by_id" => 'same',
	"$a ALTER id ADD GENERATED BY DEFAULT AS IDENTITY; $a ALTER id SET START 100; $a ALTER id DROP IDENTITY" => 'same',
	"$a ENABLE ROW LEVEL SECURITY" => 'same',
	"$a DISABLE TRIGGER x; $a ENABLE TRIGGER x; $a ENABLE REPLICA TRIGGER x; $a ENABLE ALWAYS TRIGGER x" => ['same',
		before => q(CREATE FUNCTION x() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; CREATE TRIGGER x BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION x())],
	"$a INHERIT parent; $a NO INHERIT parent" => ['same', before => "CREATE TABLE parent (id int, n int)"],
	"$a INHERIT parent" => ['same', before => "CREATE TABLE parent (id int, n int)"]);

my $by_trigger = 'events are , 0 of them right; problem: the trigger that captures changes is disabled';
my $reattach = "ATTACH PARTITION part FOR VALUES FROM (0) TO (100)";

forms('source', @both,
	"$a DISABLE RULE r; $a ENABLE ALWAYS RULE r" => ['same', before => 'CREATE RULE r AS ON UPDATE TO t DO ALSO SELECT 1'],
	"$a ADD COLUMN b text" => 'same',
	"$a ADD COLUMN b int DEFAULT 5 NOT NULL" => 'same',
	"$a ADD COLUMN b float8 DEFAULT random()" => 'same',
	"$a ADD COLUMN b int GENERATED ALWAYS AS (n + 1) STORED" => 'same',
	"$a ADD COLUMN b int GENERATED ALWAYS AS IDENTITY" => 'same',
	"$a DROP COLUMN z" => 'same',
	"$a DROP COLUMN g" => 'same',
	"$a ALTER g DROP EXPRESSION" => 'same',
	"$a ALTER z TYPE bigint" => 'same',
	"$a DROP CONSTRAINT z_check, ALTER z TYPE text USING 'z' || z" => 'same',
	"$a ALTER id TYPE bigint" => 'same',
	"$a RENAME COLUMN z TO y" => 'same',
	"$a RENAME COLUMN id TO key" => ['same', key => 'key'],
	"$a DROP COLUMN id" => 'refused: cannot drop column "id" of table "t" because publication "t" needs it',
	"$a DROP CONSTRAINT t_pkey" => 'same',    # there is another unique index on the identity
	"DROP INDEX by_id; $a DROP CONSTRAINT t_pkey" => 'refused: cannot drop unique index of table "t" because publication "t" needs it',
	"UPDATE t SET n = id; DROP INDEX by_id; $a DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (n)" => 'refused: cannot drop unique index of table "t" because publication "t" needs it',
	"DROP INDEX by_id; $a DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id)" => 'same',
	"$a SET UNLOGGED" => 'same; problem: the table is unlogged: a crash empties it and makes no events',
	"$a SET UNLOGGED; $a SET LOGGED" => 'same',
	"$a DISABLE TRIGGER ALL" => $by_trigger,
	"$a DISABLE TRIGGER USER" => $by_trigger,
	"$a DISABLE TRIGGER USER; $a ENABLE TRIGGER USER" => 'same',
	"$a ENABLE REPLICA TRIGGER outbox_capture" => $by_trigger,
	"$a ENABLE ALWAYS TRIGGER outbox_capture" => 'same',
	"$a FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY" => 'same',
	"$a OF shape; $a NOT OF" => 'same',
	"$a OF shape" => 'same',
	"CREATE TABLE child () INHERITS (t)" => 'same; problem: tables that inherit from it are not captured',
	"CREATE TABLE child (LIKE t INCLUDING ALL); ALTER TABLE child INHERIT t; ALTER TABLE child NO INHERIT t" => 'same');

# Columns that a publication names, in its list and its filter.
forms('source', with('listed',
	"$a ALTER z TYPE bigint, ALTER a TYPE varchar(30)" => 'same',
	"$a ALTER z SET DEFAULT 5, ALTER z SET STATISTICS 5, ALTER n SET NOT NULL" => 'same',
	"$a DROP COLUMN a" => 'refused: cannot drop column "a" of table "t" because publication "t" needs it',
	"$a DROP COLUMN z" => 'refused: cannot drop column "z" of table "t" because publication "t" needs it',
	"$a ALTER z TYPE text" => 'refused: operator does not exist: text > integer'));

# Partitions come and go.
forms('source', with('whole',
	"$a ADD COLUMN b int DEFAULT 3" => 'same',
	"$a ALTER a TYPE varchar(100)" => 'same',
	"$a RENAME COLUMN a TO b" => 'same',
	"$a DROP COLUMN a" => 'same',
	"CREATE TABLE more PARTITION OF t FOR VALUES FROM (100) TO (200); DROP TABLE more" => 'same',
	"$a ATTACH PARTITION child FOR VALUES FROM (100) TO (200)" => 'same',
	"$a DETACH PARTITION part; $a $reattach" => 'same; warning: rows of the detached partition stay in the replicas of publication "t"',
	"$a DETACH PARTITION part CONCURRENTLY; $a $reattach" => 'same; warning: rows of the detached partition stay in the replicas of publication "t"',
	"$a DETACH PARTITION part" => 'fails: no partition of relation "t" found for row; warning: rows of the detached partition stay in the replicas of publication "t"',
	"ALTER TABLE part SET UNLOGGED" => 'same; problem: a partition is unlogged: a crash empties it and makes no events',
	"ALTER TABLE part DISABLE TRIGGER ALL" => "$by_trigger in a partition",
	"ALTER TABLE part ENABLE ALWAYS TRIGGER outbox_capture" => 'same'));
forms('replica', @both,
	"$a ADD COLUMN b text" => 'fails: event lacks column "b" of replica public.t',
	"$a ADD COLUMN b int GENERATED ALWAYS AS (n + 1) STORED" => 'same',
	"$a ADD COLUMN b int GENERATED ALWAYS AS IDENTITY" => 'same',
	"$a DROP COLUMN a" => 'fails: column r.a does not exist',
	"$a DROP COLUMN version" => 'fails: relation "t" has no version column "version"',
	"$a RENAME COLUMN version TO v" => 'fails: relation "t" has no version column "version"',
	"$a ALTER version TYPE int" => 'fails: version column "version" of relation "t" must be an ordinary column of type bigint',
	"$a ALTER version TYPE numeric" => 'fails: version column "version" of relation "t" must be an ordinary column of type bigint',
	"$a RENAME COLUMN a TO b" => 'fails: event lacks column "b" of replica public.t',
	"$a RENAME COLUMN id TO key" => ['same', key => 'key'],    # a single key is the message's
	"$a ALTER n TYPE bigint, ALTER a TYPE text" => 'same',
	"$a ALTER n TYPE text, ALTER id TYPE bigint" => 'same',
	"$a DROP CONSTRAINT t_pkey" => 'fails: relation "t" has no primary key',
	"DROP INDEX by_id; $a DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, n)" => 'fails: event key is not a JSON object',
	"$a ADD CHECK (n > 100) NOT VALID" => 'fails: new row for relation "t" violates check constraint "t_n_check"',
	"$a SET UNLOGGED" => 'same',
	"$a SET UNLOGGED; $a SET LOGGED" => 'same',
	"$a DISABLE TRIGGER ALL" => 'same',
	"$a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY" => 'same',
	"CREATE RULE r AS ON UPDATE TO t DO ALSO SELECT 1" => 'fails: INSERT with ON CONFLICT clause cannot be used with table that has INSERT or UPDATE rules',
	"CREATE TABLE child () INHERITS (t)" => 'same');
forms('replica', with('whole_replica',
	"$a DETACH PARTITION part; $a $reattach" => 'same',
	"$a DETACH PARTITION part CONCURRENTLY; $a $reattach" => 'same',
	"$a DETACH PARTITION part" => 'fails: no partition of relation "t" found for row'));
# ---- policies -------------------------------------------------------------------------

# The owner of a table is under its policies only where they are forced.  What a copy or
# the applier would not see is not left out: they say so.
sub policies
{
	my ($how) = @_;
	return "CREATE POLICY part_of_it ON %s USING (id <> 2); ALTER TABLE %s ENABLE ROW LEVEL SECURITY, $how ROW LEVEL SECURITY; ALTER TABLE %s OWNER TO keeper";
}

$node->safe_psql('shop', 'GRANT USAGE ON FOREIGN SERVER kafka TO keeper; GRANT EXECUTE ON FUNCTION outbox.apply TO keeper');
for my $how ('NO FORCE', 'FORCE')
{
	my ($rc, $out, $err);

	$node->safe_psql('shop', "CREATE TABLE p AS SELECT g AS id FROM generate_series(1, 3) g; ALTER TABLE p ADD PRIMARY KEY (id);
		CREATE TABLE q (id int PRIMARY KEY, version bigint NOT NULL)");
	$node->safe_psql('shop', policies($how) =~ s/%s/$_/gr) for qw(p q);
	$node->safe_psql('shop', "SET ROLE keeper; SELECT outbox.publish('p', topic => 'p')");
	is_soon($node, 'shop', q(SELECT state, rows, coalesce(error, '') FROM outbox.copies WHERE publication = 'p'),
		$how eq 'FORCE' ? qr/^running\|0\|.*query would be affected by row-level security policy for table "p"/ : 'done|3|', "$how: what becomes of a copy");
	$node->safe_psql('shop', 'SET ROLE keeper; INSERT INTO p VALUES (4)');
	is($node->safe_psql('shop', q(SELECT count(*) FROM outbox.events WHERE topic = 'p' AND op = 'c')), '1', "$how: changes are captured");
	($rc, $out, $err) = $node->psql('shop', q(SET ROLE keeper; SELECT outbox.apply('q', '2', '{"id": 2}', '{"id": 5}')));
	like($how eq 'FORCE' ? $err : $out, $how eq 'FORCE' ? qr/ERROR:.*row-level security/ : qr/^applied$/m, "$how: what becomes of apply()");
	$node->safe_psql('shop', 'DROP TABLE p, q; TRUNCATE outbox._log_0, outbox._log_1, outbox._log_2');
}

$node->stop('fast');
done_testing();
