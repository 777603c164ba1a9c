# Row filters call functions of the table's owner.  In the relay they run with
# the owner's rights, never the server's; anywhere they may not change what is
# published while a change is being captured.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $node = outbox_node('main');
outbox_install($node, 'postgres', $broker);

$node->safe_psql('postgres', <<'END');
CREATE ROLE alice;
GRANT USAGE ON FOREIGN SERVER kafka TO alice;
CREATE SCHEMA alice AUTHORIZATION alice;
SET ROLE alice;
CREATE TABLE alice.seen (who text, pid int);
CREATE TABLE alice.item (id int PRIMARY KEY);
INSERT INTO alice.item SELECT generate_series(1, 10);
-- what calls itself immutable is called while the filter is prepared
CREATE FUNCTION alice.note() RETURNS bool LANGUAGE sql AS
$$INSERT INTO alice.seen VALUES (current_user, pg_backend_pid()) RETURNING true$$;
CREATE FUNCTION alice.look(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
$$ DECLARE b bool; BEGIN SELECT alice.note() INTO b; RETURN b; END $$;
SELECT outbox.publish('alice.item', topic => 'items', filter => 'alice.look(1) AND alice.look(id)');
END

is_soon($node, 'postgres', "SELECT state FROM outbox.copies", 'done', 'the copy is made');
is($node->safe_psql('postgres', "SELECT count(*) > 0 FROM alice.seen WHERE pid = (SELECT pid FROM outbox._workers() WHERE worker = 'relay')"),
	't', 'the filter was called by the relay');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT who, ',') FROM alice.seen"),
	'alice', 'only ever as the owner of the table');

# The same function, now with a published table to change.
$node->safe_psql('postgres', <<'END');
SET ROLE alice;
CREATE TABLE alice.log (id int PRIMARY KEY, who text);
SELECT outbox.publish('alice.log', topic => 'items', initial => 'none');
CREATE OR REPLACE FUNCTION alice.note() RETURNS bool LANGUAGE sql AS
$$INSERT INTO alice.log VALUES (1, current_user) RETURNING true$$;
END
my ($rc, $out, $err) = $node->psql('postgres', 'INSERT INTO alice.item VALUES (100)');
like($err, qr/cannot change published table "log" while another change is being captured/,
	'a filter that changes a published table fails the statement');
$node->safe_psql('postgres', <<'END');
CREATE OR REPLACE FUNCTION alice.note() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO alice.log VALUES (1, current_user);
	RETURN true;
EXCEPTION WHEN triggered_data_change_violation THEN
	RETURN true;
END $$;
INSERT INTO alice.item VALUES (101);
INSERT INTO alice.log VALUES (4, 'me');
END
is($node->safe_psql('postgres',
		"SELECT string_agg(convert_from(value, 'UTF8'), ' ' ORDER BY id) FROM outbox.events WHERE op = 'c'"),
	'{"id":101} {"id":4,"who":"me"}', 'one that catches the error does no harm');

# A published table emptied from within.
$node->safe_psql('postgres', <<'END');
CREATE OR REPLACE FUNCTION alice.note() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
	TRUNCATE alice.log;
	RETURN true;
END $$;
END
($rc, $out, $err) = $node->psql('postgres', 'INSERT INTO alice.item VALUES (102)');
like($err, qr/cannot change published table "log"/, 'TRUNCATE is seen as well');
$node->safe_psql('postgres', "SELECT outbox.copy('alice.item')");
is_soon($node, 'postgres', "SELECT error LIKE 'cannot change published table%' FROM outbox.copies", 't',
	'a copy with that filter fails and says why');
$node->safe_psql('postgres', 'CREATE OR REPLACE FUNCTION alice.note() RETURNS bool LANGUAGE sql AS $$SELECT true$$');
is_soon($node, 'postgres', "SELECT state FROM outbox.copies", 'done', 'and goes through when the filter is mended');

# Reading a filter can run code: a constant of an array of a domain is checked.
# Whoever alters or drops anything, it runs as the owner of the table, and what
# it SETs is gone.
$node->safe_psql('postgres', <<'END');
GRANT CREATE ON DATABASE postgres TO alice;
SET ROLE alice;
CREATE TABLE alice.ran (who text, super bool, path text);
CREATE FUNCTION alice.ok(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO alice.ran SELECT current_user, rolsuper, current_setting('search_path') FROM pg_roles WHERE rolname = current_user;
	PERFORM set_config('search_path', 'alice', false);
	RETURN true;
END $$;
CREATE DOMAIN alice.dom AS int CHECK (alice.ok(VALUE));
CREATE TABLE alice.thing (id int PRIMARY KEY, n int, junk int, d alice.dom[]);
SELECT outbox.publish('alice.thing', topic => 'things', initial => 'none',
	filter => $$n > 0 AND d <> '{1}'::alice.dom[]$$);
TRUNCATE alice.ran;
RESET ROLE;
SET search_path = public;
ALTER TABLE alice.thing ADD COLUMN more int;
ALTER TABLE alice.thing DROP COLUMN junk;
ALTER TABLE alice.thing RENAME COLUMN n TO m;
CREATE TABLE public.path AS SELECT current_setting('search_path') AS p;
END
is($node->safe_psql('postgres', 'SELECT count(*) >= 3, bool_or(super), string_agg(DISTINCT who, $$,$$), string_agg(DISTINCT path, $$;$$) FROM alice.ran'),
	't|f|alice|pg_catalog, pg_temp', 'reading a filter runs as the owner of the table');
is($node->safe_psql('postgres', 'SELECT p FROM public.path'), 'public', 'and changes no setting');
like($node->safe_psql('postgres', q(SELECT filter FROM outbox.publications WHERE name = 'alice.thing')), qr/\(m > 0\)/,
	'and the filter follows its column');

done_testing();
