# Upgrades: from each earlier version ALTER EXTENSION UPDATE leads to what CREATE
# EXTENSION makes; and until it has been run, a library of another version than
# the objects does nothing but say so.

use strict;
use warnings FATAL => 'all';

use File::Temp;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node   = outbox_node('main');

# ---- what is compared ----------------------------------------------------------------

# Everything that belongs to the extension, an object a row: its identity, and all
# that makes it what it is, in a readable form.
my $objects = <<'END';
WITH ours AS MATERIALIZED (
	SELECT d.classid, d.objid, i.type, i.identity,
		coalesce(E'\ncomment: ' || obj_description(d.objid, c.relname), '') AS comment
	FROM pg_depend AS d
		JOIN pg_extension AS e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
		JOIN pg_class AS c ON c.oid = d.classid
		CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS i
	WHERE e.extname = 'pg_outbox' AND d.deptype = 'e'
), relations AS (
	SELECT o.*, r.* FROM ours AS o JOIN pg_class AS r ON r.oid = o.objid AND o.classid = 'pg_class'::regclass
)
SELECT o.type || ' ' || o.identity, pg_get_functiondef(p.oid) || coalesce(E'\nacl: ' || p.proacl::text, '') || o.comment
FROM ours AS o JOIN pg_proc AS p ON p.oid = o.objid AND o.classid = 'pg_proc'::regclass
UNION ALL
SELECT r.type || ' ' || r.identity, concat_ws(E'\n',
	'kind ' || r.relkind::text || ', persistence ' || r.relpersistence::text || ', replica identity ' || r.relreplident::text
		|| ', row security ' || r.relrowsecurity::text || r.relforcerowsecurity::text || ', access method ' || coalesce(am.amname, 'none'),
	'options: ' || r.reloptions::text, 'TOAST options: ' || t.reloptions::text, 'acl: ' || r.relacl::text,
	CASE r.relkind WHEN 'v' THEN pg_get_viewdef(r.oid, true)
		WHEN 'S' THEN (SELECT format('sequence %s start %s by %s min %s max %s cache %s cycle %s',
			s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
			FROM pg_sequence AS s WHERE s.seqrelid = r.oid) END,
	(SELECT string_agg(concat_ws(' ', 'column', a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
		CASE WHEN a.attnotnull THEN 'NOT NULL' END, 'COLLATE ' || nullif(a.attcollation, 0)::regcollation::text,
		'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), 'identity ' || nullif(a.attidentity::text, ''),
		'generated ' || nullif(a.attgenerated::text, ''), 'storage ' || a.attstorage::text,
		'compression ' || nullif(a.attcompression::text, ''), 'acl: ' || a.attacl::text,
		'comment: ' || col_description(r.oid, a.attnum)), E'\n' ORDER BY a.attnum)
	 FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	 WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped),
	(SELECT string_agg(c.conname || ': ' || pg_get_constraintdef(c.oid), E'\n' ORDER BY c.conname)
	 FROM pg_constraint AS c WHERE c.conrelid = r.oid AND c.contype <> 'n'),
	(SELECT string_agg(pg_get_indexdef(i.indexrelid), E'\n' ORDER BY i.indexrelid::regclass::text)
	 FROM pg_index AS i WHERE i.indrelid = r.oid),
	(SELECT string_agg(pg_get_triggerdef(g.oid) || ' enabled ' || g.tgenabled::text, E'\n' ORDER BY g.tgname)
	 FROM pg_trigger AS g WHERE g.tgrelid = r.oid AND NOT g.tgisinternal),
	(SELECT string_agg(w.rulename || ': ' || pg_get_ruledef(w.oid), E'\n' ORDER BY w.rulename)
	 FROM pg_rewrite AS w WHERE w.ev_class = r.oid AND w.rulename <> '_RETURN'),
	(SELECT 'dumped, if ' || coalesce(nullif(e.extcondition[array_position(e.extconfig, r.oid)], ''), 'anything')
	 FROM pg_extension AS e WHERE e.extname = 'pg_outbox' AND r.oid = ANY (e.extconfig))) || r.comment
FROM relations AS r LEFT JOIN pg_am AS am ON am.oid = r.relam LEFT JOIN pg_class AS t ON t.oid = r.reltoastrelid
WHERE r.relkind <> 'c'
UNION ALL
SELECT o.type || ' ' || o.identity, concat_ws(E'\n', 'kind ' || t.typtype::text, 'acl: ' || t.typacl::text,
	(SELECT string_agg('column ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod), E'\n' ORDER BY a.attnum)
	 FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
	(SELECT string_agg(l.enumlabel, ', ' ORDER BY l.enumsortorder) FROM pg_enum AS l WHERE l.enumtypid = t.oid),
	'check: ' || (SELECT string_agg(pg_get_constraintdef(c.oid), ', ') FROM pg_constraint AS c WHERE c.contypid = t.oid)) || o.comment
FROM ours AS o JOIN pg_type AS t ON t.oid = o.objid AND o.classid = 'pg_type'::regclass
	LEFT JOIN pg_class AS c ON c.oid = t.typrelid
WHERE t.typelem = 0 AND (c.relkind IS NULL OR c.relkind = 'c')
UNION ALL
SELECT o.type || ' ' || o.identity, format('on %s when %s execute %s enabled %s', v.evtevent, v.evttags, v.evtfoid::regproc, v.evtenabled) || o.comment
FROM ours AS o JOIN pg_event_trigger AS v ON v.oid = o.objid AND o.classid = 'pg_event_trigger'::regclass
UNION ALL
SELECT o.type || ' ' || o.identity, format('validator %s handler %s options %s acl %s', w.fdwvalidator::regproc, w.fdwhandler::regproc, w.fdwoptions, w.fdwacl) || o.comment
FROM ours AS o JOIN pg_foreign_data_wrapper AS w ON w.oid = o.objid AND o.classid = 'pg_foreign_data_wrapper'::regclass
UNION ALL
SELECT 'schema ' || n.nspname, 'acl: ' || n.nspacl::text || coalesce(E'\ncomment: ' || obj_description(n.oid, 'pg_namespace'), '')
FROM pg_namespace AS n WHERE n.nspname = 'outbox'
UNION ALL
SELECT o.type || ' ' || o.identity, o.comment
FROM ours AS o WHERE o.classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass,
	'pg_event_trigger'::regclass, 'pg_foreign_data_wrapper'::regclass)
UNION ALL
SELECT 'extension pg_outbox', 'version ' || e.extversion || ', schema ' || e.extnamespace::regnamespace FROM pg_extension AS e WHERE e.extname = 'pg_outbox'
END

sub objects_of
{
	my ($db) = @_;
	my $rows = $node->safe_psql($db, "SELECT encode(convert_to(k, 'UTF8'), 'hex'), encode(convert_to(coalesce(v, ''), 'UTF8'), 'hex') FROM ($objects) AS o (k, v)");
	return map { map { pack 'H*', $_ } split /\|/, $_, 2 } split /\n/, $rows;
}

# How an object differs, as lines with - (upgraded) and + (new).
sub difference
{
	my ($have, $want) = @_;
	my @file = map { my $f = File::Temp->new; print $f "$_\n"; close $f; $f } $have, $want;
	return join '', grep { !/^(---|\+\+\+|@@)/ } `diff -U 0 $file[0] $file[1]`;
}

sub same_objects
{
	my ($fresh, $upgraded, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %want = objects_of($fresh);
	my %have = objects_of($upgraded);
	my @problems;

	cmp_ok(scalar keys %want, '>', 80, 'what there is to compare');
	for my $object (sort keys %{ { %want, %have } })
	{
		push @problems, "the script does not make $object:\n$want{$object}" if !exists $have{$object};
		push @problems, "the script does not drop $object" if !exists $want{$object};
		push @problems, "the script does not change $object (- as it is, + as it should be):\n" . difference($have{$object}, $want{$object})
		  if exists $have{$object} && exists $want{$object} && $have{$object} ne $want{$object};
	}
	diag join "\n\n", '', @problems if @problems;
	return is(scalar @problems, 0, $name);
}

# ---- each way from there to here -------------------------------------------------------

my $paths = q(SELECT source FROM pg_extension_update_paths('pg_outbox') AS p
	JOIN pg_available_extension_versions AS v ON v.name = 'pg_outbox' AND v.version = p.source
	JOIN pg_available_extensions AS e ON e.name = 'pg_outbox' AND e.default_version = p.target
	WHERE p.path IS NOT NULL ORDER BY 1);
my @versions = split /\n/, $node->safe_psql('postgres', $paths);
my $library = $node->safe_psql('postgres', q(SELECT default_version FROM pg_available_extensions WHERE name = 'pg_outbox'));

cmp_ok(scalar @versions, '>=', 1, "versions that lead to $library: @versions");
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION pg_outbox');
for my $version (@versions)
{
	$node->safe_psql('postgres', 'CREATE DATABASE upgraded');
	$node->safe_psql('upgraded', "CREATE EXTENSION pg_outbox VERSION '$version'");
	isnt({ objects_of('upgraded') }->{'extension pg_outbox'}, { objects_of('fresh') }->{'extension pg_outbox'}, "$version differs");
	$node->safe_psql('upgraded', q(CREATE TABLE kept (id bigint PRIMARY KEY, version bigint NOT NULL);
		INSERT INTO outbox._dead_letter (direction, topic, header_names, header_values, target, sqlstate, message, state)
			VALUES ('in', 't', '{}', '{}', 'kept'::regclass, '22000', 'm', 'dead')));
	$node->safe_psql('upgraded', q(CREATE FUNCTION "Kept"(e outbox.event) RETURNS void LANGUAGE sql AS '';
		INSERT INTO outbox._subscription (name, handler, server, topic, start, on_error, on_data_loss)
			SELECT n, 'public.' || quote_ident(n), 's', 't', 'earliest', 'stop', 'stop' FROM unnest('{Kept,gone}'::text[]) AS n));
	$node->safe_psql('upgraded', 'ALTER EXTENSION pg_outbox UPDATE');
	same_objects('fresh', 'upgraded', "from $version to $library");
	is($node->safe_psql('upgraded', q(SELECT string_agg(target::regclass::text, ' ') FROM outbox._dead_letter)), 'kept', 'rows are kept');
	is($node->safe_psql('upgraded', q(SELECT string_agg(name, ' ') FROM outbox._subscription WHERE handler_owner = current_user::regrole)), 'Kept', 'owners of handlers are filled in');
	$node->safe_psql('postgres', 'DROP DATABASE upgraded');
}

# ---- a library of another version ---------------------------------------------------------

my $topic = unique_topic('upgrade');
topic_create($broker, $topic, 1);
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE TABLE t (id int PRIMARY KEY, n int);
CREATE TABLE plain (id int PRIMARY KEY);
CREATE TABLE r (id bigint PRIMARY KEY, n int, version bigint NOT NULL);
SELECT outbox.publish('t', topic => '$topic', initial => 'none');
SELECT outbox.replicate('r', topic => '$topic');
INSERT INTO t VALUES (1, 1);
END
is_soon($node, 'shop', 'SELECT count(*) FROM r', '1', 'events flow');

# As if the library had been installed and the server restarted; sessions are told
# as the scripts of upgrades tell them.
sub objects_are
{
	my ($db, $version) = @_;
	$node->safe_psql($db, "UPDATE pg_extension SET extversion = '$version' WHERE extname = 'pg_outbox';
		GRANT USAGE ON SCHEMA outbox TO PUBLIC");
	return;
}

my $hint = qr/and its library are of different versions.*HINT:  Run ALTER EXTENSION pg_outbox UPDATE, or restart the server if its library is the older one/s;
for my $version ('0.0.9', '9.9.9')
{
	my $session = $node->background_psql('shop', on_error_stop => 0);
	$session->query_safe('INSERT INTO t VALUES (2, 1)');
	objects_are('shop', $version);
	$session->query('UPDATE t SET n = 2');
	like($session->{stderr}, $hint, "$version: a session that knew another version is refused");
	$session->quit;
	my ($rc, $out, $err) = $node->psql('shop', 'INSERT INTO t VALUES (3, 1)');
	like($err, $hint, 'a new one too');
	$node->safe_psql('shop', 'INSERT INTO plain VALUES (1) ON CONFLICT DO NOTHING');
	$node->restart;
	is_soon($node, 'shop', q(SELECT string_agg(DISTINCT state || ' ' || waiting_for, ' ') FROM outbox.status WHERE kind = 'worker'),
		"stopped ALTER EXTENSION pg_outbox UPDATE: its objects are of version $version, the library of $library",
		'workers are stopped, and status says why');
	like(slurp_file($node->logfile), qr/workers of database "shop" are stopped\n.*DETAIL:.*\n.*HINT:  Run ALTER EXTENSION pg_outbox UPDATE/, 'so does the log');
	objects_are('shop', $library);
	$node->safe_psql('shop', 'SELECT outbox.wait_until_running(); DELETE FROM t WHERE id = 2');
	is_soon($node, 'shop', 'SELECT count(*) FROM r', '1', 'of the same version all go on');
}

# Every function of every version, called with nothing: an error perhaps, never a crash.
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
my $calls = <<'END';
SELECT format('SELECT %s(%s)', p.oid::regproc, (SELECT string_agg(format('NULL::%s', t::regtype), ', ' ORDER BY n)
	FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n)))
FROM pg_proc AS p WHERE pronamespace = 'outbox'::regnamespace AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
ORDER BY 1
END
for my $version (@versions)
{
	$node->safe_psql('postgres', "CREATE DATABASE behind");
	$node->safe_psql('behind', "CREATE EXTENSION pg_outbox VERSION '$version'");
	my @calls = map { s/SELECT (\w+)\(/SELECT outbox.$1(/r } split /\n/, $node->safe_psql('behind', $calls);
	my ($rc, $out, $err) = $node->psql('behind', join(";\n", @calls) . ";\nSELECT 'end';", on_error_stop => 0);
	like($out, qr/^end$/m, "$version: " . scalar(@calls) . ' functions called');
	cmp_ok(scalar(() = $err =~ /$hint/g), '>=', 1, 'some say that they are of another version');
	unlike($err, qr/XX000|server closed|could not find function/, 'none fails otherwise');
	$node->safe_psql('behind', 'DROP EXTENSION pg_outbox CASCADE');
	$node->safe_psql('postgres', 'DROP DATABASE behind');
}
objects_are('shop', '0.0.9');
$node->safe_psql('shop', 'DROP EXTENSION pg_outbox CASCADE');
is($node->safe_psql('shop', 'INSERT INTO t VALUES (4, 1) RETURNING id'), '4', 'DROP EXTENSION works, whatever the version');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server has not crashed');

$node->stop('fast');
done_testing();
