# Code of those who own handlers, replicas and published tables, at its worst: what
# a handler may try to become more than its owner, to stay, to stop the worker, or
# never to end.  Each attempt notes who it was that ran.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my ($topic, $rows, $fair, $cut, $own) = map { unique_topic($_) } qw(try rows fair cut own);
topic_create($broker, $_, 1) for $topic, $rows, $fair, $cut, $own;
my $node = outbox_node('main', conf => "pg_outbox.handler_timeout = '1s'\npg_outbox.stop_after_failures = 0\n");

# The database's own settings lead astray whoever follows them.
$node->safe_psql('postgres', <<'END');
CREATE DATABASE app;
\c app
CREATE ROLE alice LOGIN;
CREATE SCHEMA alice AUTHORIZATION alice;
CREATE TABLE public.secret AS SELECT 'of the superuser' AS s;
SET ROLE alice;
CREATE TABLE alice.sprung (who text, super bool, what text);
CREATE FUNCTION alice.note(what text) RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog AS
$$ BEGIN INSERT INTO alice.sprung SELECT current_user, rolsuper, what FROM pg_roles WHERE rolname = current_user; RETURN true; END $$;
DO $d$
DECLARE
	t text;
	o text;
BEGIN
	FOREACH t IN ARRAY '{int4,int8,text,name,oid,regclass,xid8,timestamptz}'::text[] LOOP
		FOREACH o IN ARRAY '{=,<>,<,>,<=,>=,||}'::text[] LOOP
			EXECUTE format($f$CREATE FUNCTION alice.%1$I(%2$s, %2$s) RETURNS bool LANGUAGE sql AS $$SELECT alice.note('operator %3$s')$$;
				CREATE OPERATOR alice.%3$s (FUNCTION = alice.%1$I, LEFTARG = %2$s, RIGHTARG = %2$s)$f$, 'op' || o, t, o);
		END LOOP;
	END LOOP;
	FOREACH t IN ARRAY '{now(),clock_timestamp(),pg_current_snapshot(),count(bigint),unnest(text[]),array_agg(text)}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION alice.%s RETURNS text LANGUAGE sql AS $f$SELECT alice.note(%L)::text$f$', t, t);
	END LOOP;
END $d$;
RESET ROLE;
ALTER DATABASE app SET search_path = alice, pg_catalog, public;
ALTER DATABASE app SET exit_on_error = on;
ALTER DATABASE app SET transform_null_equals = on;
END
# ... which only the workers shall do here.
$ENV{PGOPTIONS} = '-c search_path=pg_catalog -c exit_on_error=off -c transform_null_equals=off';
outbox_install($node, 'app', $broker);
$node->safe_psql('app', <<'END');
GRANT USAGE ON FOREIGN SERVER kafka TO alice;
GRANT EXECUTE ON FUNCTION outbox.replicate, outbox.handle, outbox.emit(text, text, text, text, jsonb, text) TO alice;
END

sub as_alice
{
	my ($sql) = @_;
	return $node->safe_psql('app', "SET ROLE alice;\n$sql");
}

# ---------------------------------------------------------------------------
# A handler tries
# ---------------------------------------------------------------------------

as_alice(<<"END");
CREATE TABLE alice.tried (command text, who text, session text, answer text);
CREATE PROCEDURE alice.commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE FUNCTION alice.definer() RETURNS text LANGUAGE sql SECURITY DEFINER RETURN session_user;
CREATE FUNCTION alice.as_postgres() RETURNS text LANGUAGE sql SET role = postgres RETURN current_user;
CREATE TABLE alice.deferred (id int);
CREATE FUNCTION alice.when_deferred() RETURNS trigger LANGUAGE plpgsql AS
\$\$ BEGIN PERFORM alice.note('deferred'); RETURN NULL; END \$\$;
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON alice.deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION alice.when_deferred();
CREATE FUNCTION alice.handler(e outbox.event) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	answer text := 'ok';
BEGIN
	BEGIN
		EXECUTE e.value;
	EXCEPTION WHEN OTHERS THEN
		answer := sqlstate || ' ' || sqlerrm;
	END;
	INSERT INTO alice.tried VALUES (e.value, current_user, session_user, answer);
END \$\$;
SELECT outbox.handle('alice.handler(outbox.event)', topic => '$topic', name => 'try');
END

my @attempts = (
	# to be somebody else
	['SET ROLE postgres', '42501'], ['RESET ROLE', '42501'], ['SET LOCAL ROLE NONE', '42501'],
	['SET SESSION AUTHORIZATION DEFAULT', '42501'], ['SET SESSION AUTHORIZATION postgres', '42501'],
	[q(SELECT set_config('role', 'postgres', false)), '42501'], ['SELECT alice.as_postgres()', '42501'],
	['RESET ALL', 'ok'], ['DISCARD ALL', '25001|42501'],
	# to do what only they may
	['ALTER ROLE alice SUPERUSER', '42501'], ['CREATE ROLE evil', '42501'], ['GRANT postgres TO alice', '42501'],
	['GRANT pg_execute_server_program TO alice', '42501'], [q(ALTER SYSTEM SET work_mem = '1MB'), '25001|42501'],
	[q(COPY (SELECT 1) TO PROGRAM 'id'), '42501'], [q(COPY alice.deferred FROM '/etc/passwd'), '42501'],
	[q(SELECT pg_read_file('PG_VERSION')), '42501'], [q(SELECT lo_import('/etc/passwd')), '42501'],
	['SELECT * FROM public.secret', '42501'], ['SELECT rolpassword FROM pg_authid', '42501'],
	['SELECT * FROM outbox._subscription', '42501'], [q(UPDATE outbox._offset SET next_offset = 0), '42501'],
	['SELECT * FROM outbox.dead_letters', '42501'], ['SELECT outbox.pause()', '42501'], [q(SELECT outbox.unsubscribe('other')), '42501'],
	['ALTER EXTENSION pg_outbox DROP SCHEMA public', '42501'], ['DROP EXTENSION pg_outbox CASCADE', '42501'],
	['CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION outbox._table_altered()', '42501'],
	['CREATE FUNCTION alice.c() RETURNS int LANGUAGE c AS $$/tmp/evil$$', '42501'], [q(LOAD '/tmp/evil'), '42501'], ['SELECT pg_reload_conf()', '42501'],
	['ALTER DATABASE app OWNER TO alice', '42501'], ['SET session_replication_role = replica', '42501'],
	['SET pg_outbox.capture = off', '42501'], ['SET pg_outbox.max_backlog = 1', '42501'],
	['SELECT pg_terminate_backend(pg_backend_pid())', '42501'], ['SELECT pg_cancel_backend(pg_backend_pid())', '42501'],
	# to stay
	['CREATE TEMP TABLE t ()', '42501'], ['LISTEN x', '42501'], ['DECLARE c CURSOR WITH HOLD FOR SELECT 1', '42501|34000'],
	['PREPARE p AS SELECT 1', '42501'], ['DO $$ BEGIN COMMIT; END $$', '2D000'], ['CALL alice.commits()', '2D000'],
	['COMMIT', '0A000'], [q(PREPARE TRANSACTION 'x'), '0A000'], ['INSERT INTO alice.deferred VALUES (1)', 'ok'],
	['DO $$ BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO alice.deferred VALUES (2); END $$', '42501'],
	['SELECT pg_advisory_lock(1)', 'ok'], ['SET search_path = alice, pg_catalog', 'ok'], [q(SET work_mem = '1MB'), 'ok'],
	['SET statement_timeout = 0', 'ok'], ['SET row_security = on', 'ok'], [q(SELECT outbox.emit('t', 'k', 'v'::text)), 'ok'],
	[q(SET pg_outbox.traceparent = 'x'), 'ok'], ['NOTIFY x', 'ok'],
	# to stop the worker
	['SET exit_on_error = on', '42501'], [q(SELECT set_config('exit_on_error', 'on', true)), '42501'],
	['SELECT alice.definer()', 'ok']);
$node->safe_psql('app', 'CREATE TABLE public.pids AS SELECT pid FROM outbox._workers() WHERE worker = $$applier$$');
$node->safe_psql('app', join '', map { "SELECT outbox.emit('$topic', \$k\$$_->[0]\$k\$, \$v\$$_->[0]\$v\$::text);\n" } @attempts);
is_soon($node, 'app', 'SELECT count(*) FROM alice.tried', scalar @attempts, 'all was tried', 30);
my %answer = map { split /\|/, $_, 2 } split /\n/, $node->safe_psql('app', "SELECT command, replace(answer, E'\\n', ' ') FROM alice.tried");
for my $attempt (@attempts)
{
	my ($command, $expected) = @$attempt;
	like($answer{$command} // 'not tried', qr/^(?:$expected)/, $command);
}
is($node->safe_psql('app', 'SELECT string_agg(DISTINCT who, $$ $$) FROM alice.tried'), 'alice', 'all as alice');
is($node->safe_psql('app', 'SELECT count(*) FROM outbox._workers() AS w JOIN public.pids AS p USING (pid)'), '1', 'the worker is still the same');
is($node->safe_psql('app', q(SELECT string_agg(DISTINCT who, ' ') FROM alice.sprung WHERE what = 'deferred')), 'alice', 'a deferred trigger ran at once');
is($node->safe_psql('app', q(SELECT rolsuper::text || rolcreaterole FROM pg_roles WHERE rolname = 'alice')), 'falsefalse', 'alice is what she was');
is($node->safe_psql('app', 'SELECT string_agg(DISTINCT who || what, $$ $$) FROM alice.sprung WHERE super'), '',
	'nobody else has stepped on an operator or function of hers');

# ---------------------------------------------------------------------------
# A replica with code of every kind
# ---------------------------------------------------------------------------

as_alice(<<"END");
TRUNCATE alice.sprung;
CREATE FUNCTION alice.sees(what text, v int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$\$
BEGIN PERFORM alice.note(what); RETURN v; END \$\$;
CREATE DOMAIN alice.number AS int CHECK (alice.sees('domain', VALUE) OPERATOR(pg_catalog.<) 1000);
CREATE FUNCTION alice.diff(int, int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS \$\$
BEGIN PERFORM alice.note('subtype_diff'); RETURN 1; END \$\$;
CREATE TYPE alice.span AS RANGE (subtype = int, subtype_diff = alice.diff);
CREATE TYPE alice.mood AS ENUM ('good', 'bad');
CREATE TABLE alice.replica (id alice.number PRIMARY KEY, n int CHECK (alice.sees('check', n) IS NOT NULL), s alice.span, m alice.mood,
	d int DEFAULT alice.sees('default', 1), g int GENERATED ALWAYS AS (alice.sees('generated', n)) STORED,
	version bigint NOT NULL);
CREATE INDEX ON alice.replica (alice.sees('index', n)) WHERE alice.sees('predicate', n) > 0;
CREATE INDEX ON alice.replica USING gist (s);
CREATE FUNCTION alice.trigger() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM alice.note('trigger'); RETURN coalesce(new, old); END \$\$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON alice.replica FOR EACH ROW EXECUTE FUNCTION alice.trigger();
CREATE TRIGGER s AFTER INSERT ON alice.replica FOR EACH STATEMENT EXECUTE FUNCTION alice.trigger();
ALTER TABLE alice.replica ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON alice.replica USING (alice.note('policy'));
SELECT outbox.replicate('alice.replica', topic => '$rows', columns => '{id,n,s,m}', name => 'rows');
END
topic_write($broker, $rows, map { +{ key => $_, value => qq{{"id":$_,"n":$_,"s":"[1,5)","m":"good","version":1}} } } 1 .. 3);
topic_write($broker, $rows, { key => 2, value => undef, headers => { version => 2 } });
is_soon($node, 'app', 'SELECT string_agg(id::text, $$ $$ ORDER BY id) FROM alice.replica', '1 3', 'events are applied');
is($node->safe_psql('app', 'SELECT string_agg(DISTINCT what, $$ $$ ORDER BY what) FROM alice.sprung'),
	'check default domain generated index predicate trigger', 'by way of all this code');
is($node->safe_psql('app', 'SELECT string_agg(DISTINCT who, $$ $$) FROM alice.sprung'), 'alice', 'as alice alone');

# ---------------------------------------------------------------------------
# Code that does not end
# ---------------------------------------------------------------------------

as_alice(<<"END");
CREATE FUNCTION alice.stays() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	LOOP
		BEGIN
			PERFORM pg_sleep(1000);
		EXCEPTION WHEN query_canceled THEN NULL;
		END;
	END LOOP;
END \$\$;
CREATE FUNCTION alice.staying(e outbox.event) RETURNS void LANGUAGE sql AS 'SELECT alice.stays()';
CREATE TABLE alice.got (k text);
CREATE FUNCTION alice.good(e outbox.event) RETURNS void LANGUAGE sql AS 'INSERT INTO alice.got VALUES (e.key)';
SELECT outbox.handle('alice.staying(outbox.event)', topic => '$fair', name => 'a-stays');
SELECT outbox.handle('alice.good(outbox.event)', topic => '$fair', name => 'good');
END
topic_write($broker, $fair, { key => 'one', value => 'x' });
is_soon($node, 'app', q(SELECT state || ': ' || stopped_sqlstate || ' ' || stopped_reason FROM outbox.subscriptions WHERE name = 'a-stays'),
	qr/^stopped: 57014 its code went on/, 'a handler that catches its cancellation is stopped');
topic_write($broker, $fair, { key => 'two', value => 'x' });
is_soon($node, 'app', 'SELECT string_agg(k, $$ $$ ORDER BY k) FROM alice.got', 'one two', 'others go on');
like($node->safe_psql('app', q(SELECT last_error FROM outbox.status WHERE kind = 'worker' AND name = 'applier')),
	qr/went on after it had been cancelled|subscription "a-stays" stopped/, 'which shows in status');
is($node->safe_psql('app', q(SELECT count(*) FROM outbox.subscriptions WHERE state <> 'running')), '1', 'none but it was stopped');

# Triggers of a replica, while all of its rows are deleted: one that only takes its
# time may, for longer than the limit in all; one that hangs, or stays, may not.
as_alice(<<"END");
CREATE TABLE alice.cut (id int PRIMARY KEY, version bigint NOT NULL);
CREATE FUNCTION alice.cutting() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM pg_sleep(0.003); RETURN old; END \$\$;
CREATE TRIGGER t BEFORE DELETE ON alice.cut FOR EACH ROW EXECUTE FUNCTION alice.cutting();
CREATE TABLE alice.own (id int PRIMARY KEY, parent int REFERENCES alice.own, version bigint NOT NULL);
CREATE TRIGGER t BEFORE DELETE ON alice.own FOR EACH ROW EXECUTE FUNCTION alice.cutting();
SELECT outbox.replicate('alice.cut', topic => '$cut'), outbox.replicate('alice.own', topic => '$own');
END
my $state = q(SELECT state || coalesce(': ' || waiting_for, ': ' || stopped_reason, '') FROM outbox.subscriptions WHERE name = 'cut');
sub cut
{
	my ($n, $version) = @_;
	$node->safe_psql('app', "INSERT INTO alice.cut (id, version) SELECT i, 1 FROM generate_series(1, $n) AS i");
	topic_write($broker, $cut, { key => '{}', value => '{}', headers => { op => 't', version => $version } });
	return;
}
cut(400, 10);
is_soon($node, 'app', 'SELECT count(*) FROM alice.cut', '0', 'all rows go, slowly');
$node->safe_psql('app', 'INSERT INTO alice.own SELECT i, nullif(i - 1, 0), 1 FROM generate_series(1, 400) AS i');
topic_write($broker, $own, { key => '{}', value => '{}', headers => { op => 't', version => 10 } });
is_soon($node, 'app', 'SELECT count(*) FROM alice.own', '0', 'rows that refer to each other too');
is($node->safe_psql('app', q(SELECT count(*) FROM outbox.dead_letters WHERE name IN ('cut', 'own'))), '0', 'without a letter');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/subscription "(?:cut|own)" tries again later/, 'at once');
as_alice('CREATE OR REPLACE FUNCTION alice.cutting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1000); RETURN old; END $$');
cut(2, 20);
is_soon($node, 'app', $state, qr/^running: canceling statement due to statement timeout/, 'a trigger that hangs is cancelled, and tried again');
topic_write($broker, $fair, { key => 'three', value => 'x' });
is_soon($node, 'app', 'SELECT string_agg(k, $$ $$ ORDER BY k) FROM alice.got', 'one three two', 'others go on');
as_alice('CREATE OR REPLACE FUNCTION alice.cutting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.stays(); RETURN old; END $$');
is_soon($node, 'app', $state, qr/^stopped: its code went on/, 'one that stays is stopped');
as_alice(q(CREATE OR REPLACE FUNCTION alice.cutting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN old; END $$));
$node->safe_psql('app', q(SELECT outbox.resume_subscription('cut')));
is_soon($node, 'app', 'SELECT count(*) FROM alice.cut', '0', 'mended, it goes on');

# In the relay it is a filter that is slow, or stays.
as_alice(<<"END");
CREATE TABLE alice.source (id int PRIMARY KEY);
INSERT INTO alice.source VALUES (1);
CREATE TABLE alice.plain (id int PRIMARY KEY);
CREATE FUNCTION alice.filter(v int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS \$\$ BEGIN PERFORM pg_sleep(1000); RETURN true; END \$\$;
SELECT outbox.publish('alice.plain', topic => 'plain', initial => 'none', name => 'plain');
SELECT outbox.publish('alice.source', topic => 'source', filter => 'alice.filter(id)', name => 'slow');
END
is_soon($node, 'app', q(SELECT error FROM outbox.copies WHERE publication = 'slow'), qr/canceling statement/, 'a copy whose filter is slow fails');
as_alice(<<"END");
CREATE OR REPLACE FUNCTION alice.filter(v int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS \$\$ BEGIN PERFORM alice.stays(); RETURN true; END \$\$;
END
is_soon($node, 'app', q(SELECT state || ': ' || error FROM outbox.copies WHERE publication = 'slow'),
	qr/^cancelled: its code went on/, 'one whose filter stays is cancelled');
as_alice('INSERT INTO alice.plain VALUES (1)');
is(scalar topic_wait($broker, 'plain', 1), 1, 'the relay goes on');

done_testing();
