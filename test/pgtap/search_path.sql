-- A search path full of traps: operators, casts and functions that are found before
-- those of pg_catalog, temporary tables and types with the names of catalogs and of
-- our own tables.  What the extension does with its owner's rights must not step on
-- one of them, whoever calls, nor must its event triggers.
BEGIN;
SET client_min_messages = error;
SELECT plan(10);

CREATE ROLE mallory;
CREATE ROLE guard IN ROLE pg_monitor;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE SERVER spare FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
GRANT USAGE ON FOREIGN SERVER kafka TO mallory;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO mallory;
CREATE SCHEMA evil AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA evil TO PUBLIC;

-- Who stepped into what.
CREATE TABLE evil.sprung (who text, super boolean, what text);
ALTER TABLE evil.sprung OWNER TO mallory;
GRANT INSERT, SELECT ON evil.sprung TO PUBLIC;
CREATE FUNCTION evil.note(what text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO evil.sprung SELECT current_user, rolsuper, what FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user
$$;

SET LOCAL ROLE mallory;
DO $$
DECLARE
	t text;
	o text;
BEGIN
	-- operators of the types that our statements compare
	FOREACH t IN ARRAY '{int4,int8,text,name,oid,bool,bytea,regclass,xid8,timestamptz,text[],"\"char\""}'::text[] LOOP
		FOREACH o IN ARRAY '{=,<>,<,>,<=,>=,||}'::text[] LOOP
			EXECUTE format($f$
				CREATE FUNCTION evil.op(%1$s, %1$s) RETURNS %3$s LANGUAGE plpgsql AS $q$BEGIN PERFORM evil.note(%2$L); RETURN NULL; END$q$;
				CREATE OPERATOR evil.%4$s (FUNCTION = evil.op, LEFTARG = %1$s, RIGHTARG = %1$s);
				ALTER FUNCTION evil.op(%1$s, %1$s) RENAME TO %5$I$f$,
				t, 'operator ' || o, CASE o WHEN '||' THEN t ELSE 'bool' END, o, 'op' || o);
		END LOOP;
	END LOOP;
	-- exact matches, where ours need a cast
	CREATE FUNCTION evil.op_mixed(int8, int4) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(''mixed''); RETURN NULL; END';
	CREATE OPERATOR evil.= (FUNCTION = evil.op_mixed, LEFTARG = int8, RIGHTARG = int4);
	CREATE OPERATOR evil.< (FUNCTION = evil.op_mixed, LEFTARG = int8, RIGHTARG = int4);
	-- functions
	FOREACH t IN ARRAY '{now(),clock_timestamp(),current_database(),pg_backend_pid(),count(bigint),coalesce(text),lower(text),unnest(text[]),
		pg_current_snapshot(),pg_visible_in_snapshot(xid8\, pg_snapshot),pg_has_role(text\, text),array_agg(text),to_regclass(text),format(text),
		jsonb_each_text(jsonb),convert_to(text\, text),pg_relation_size(regclass),pg_event_trigger_ddl_commands(),pg_event_trigger_dropped_objects()}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION evil.%s RETURNS text LANGUAGE plpgsql AS $f$BEGIN PERFORM evil.note(%L); RETURN NULL; END$f$',
			replace(t, 'coalesce', '"coalesce"'), t);
	END LOOP;
END $$;
-- temporary tables in the place of ours and of the catalogs, whose triggers tell
CREATE FUNCTION evil.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note(tg_relname); RETURN NULL; END $$;
CREATE FUNCTION evil.tell_read(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note(what); RETURN true; END $$;
RESET ROLE;
GRANT TEMPORARY ON DATABASE :"DBNAME" TO PUBLIC;
SET LOCAL ROLE mallory;
DO $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT oid::regclass AS real, relname FROM pg_class
		WHERE (relnamespace = 'outbox'::regnamespace AND relkind = 'r'
			OR oid IN ('pg_class'::regclass, 'pg_index'::regclass, 'pg_attribute'::regclass, 'pg_inherits'::regclass, 'pg_trigger'::regclass,
				'pg_foreign_server'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass, 'pg_locks'::regclass, 'pg_roles'::regclass,
				'pg_stat_activity'::regclass, 'pg_database'::regclass, 'pg_depend'::regclass)) LOOP
		EXECUTE format('CREATE TEMP VIEW %I AS SELECT evil.tell_read(%L)', r.relname, r.relname);
		EXECUTE format('CREATE TRIGGER t INSTEAD OF INSERT ON pg_temp.%I FOR EACH ROW EXECUTE FUNCTION evil.tell()', r.relname);
	END LOOP;
END $$;
CREATE DOMAIN pg_temp.regclass AS text CHECK (evil.tell_read('type regclass'));
CREATE DOMAIN pg_temp.int8 AS text CHECK (evil.tell_read('type int8'));
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (evil.tell_read('type text'));

-- a table with everything that runs code when its rows change
CREATE FUNCTION evil.watched(what text, v anyelement) RETURNS anyelement LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM evil.note(what); RETURN v; END $$;
CREATE DOMAIN evil.number AS int CHECK (evil.watched('check of a domain', VALUE) IS NOT NULL);
CREATE TABLE evil.item (id evil.number PRIMARY KEY, n int DEFAULT evil.watched('default', 1), version bigint NOT NULL DEFAULT 1,
	g int GENERATED ALWAYS AS (evil.watched('generated', id::int)) STORED, CHECK (evil.watched('check', n) IS NOT NULL));
CREATE INDEX ON evil.item (evil.watched('index', n)) WHERE evil.watched('predicate', true);
CREATE FUNCTION evil.triggered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.note('trigger'); RETURN new; END $$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON evil.item FOR EACH ROW EXECUTE FUNCTION evil.triggered();
CREATE RULE r AS ON DELETE TO evil.item DO ALSO SELECT evil.note('rule');
CREATE FUNCTION evil.handler(e outbox.event) RETURNS void LANGUAGE sql RETURN NULL;
CREATE TABLE evil.box (id uuid PRIMARY KEY, aggregatetype pg_catalog.text, aggregateid pg_catalog.text, type pg_catalog.text, payload pg_catalog.text);

-- The traps work: one's own statement falls into them.
SET LOCAL search_path = pg_temp, evil, pg_catalog, public;
SELECT 1::bigint = 1::int4, now(), 'a'::pg_catalog.text || 'b'::pg_catalog.text;
SELECT * FROM _subscription;
SELECT * FROM pg_class;
RESET search_path;
SELECT public.cmp_ok((SELECT count(DISTINCT what) FROM evil.sprung), '>', 3::bigint, 'the traps work');
DELETE FROM evil.sprung;

SET LOCAL search_path = pg_temp, evil, pg_catalog, public;
\o /dev/null
SELECT outbox.publish('evil.item'::pg_catalog.regclass, topic => 't', name => 'p', filter => 'evil.watched(''filter'', n) OPERATOR(pg_catalog.>) 0');
SELECT outbox.publish('evil.item'::pg_catalog.regclass, topic => 't2', name => 'p', filter => 'n OPERATOR(pg_catalog.>) 0');
SELECT outbox.adopt('evil.box'::pg_catalog.regclass, topic => 't.{aggregatetype}');
INSERT INTO evil.item VALUES (1), (2);
UPDATE evil.item SET id = 3 WHERE id OPERATOR(pg_catalog.=) 2;
DELETE FROM evil.item WHERE id OPERATOR(pg_catalog.=) 3;
INSERT INTO evil.box VALUES ('00000000-0000-0000-0000-000000000001', 'a', 'b', 'c', 'd');
SELECT outbox.copy('p');
SELECT outbox.cancel_copy('p');
SELECT outbox.emit('t', 'k', 'v'::pg_catalog.text, headers => '{"a": "b"}');
SELECT outbox.unpublish('p');
SELECT outbox.publish('evil.item'::pg_catalog.regclass, topic => 't', name => 'p');
SELECT outbox.replicate('evil.item'::pg_catalog.regclass, topic => 't', columns => '{id,n}');
SELECT outbox.handle('evil.handler(outbox.event)', topic => 't');
SELECT outbox.seek('item', 'latest');
SELECT outbox.pause_subscription('item');
SELECT outbox.resume_subscription('item');
SELECT outbox.redrive_all('item');
SELECT outbox.apply('evil.item'::pg_catalog.regclass, '1', '{"id": 1, "n": 5, "version": 7}');
SELECT outbox.apply('evil.item'::pg_catalog.regclass, '1', NULL, '{"version": 8}');
SELECT outbox.apply('evil.item'::pg_catalog.regclass, '1', '{"id": 1, "n": 5, "version": 7}');
SELECT outbox.apply_batch('evil.item'::pg_catalog.regclass, '{4,5}', '{"{\"id\":4,\"n\":5,\"version\":7}","{\"id\":5,\"n\":5,\"version\":7}"}');
SELECT outbox.first_time('c', 's', 'e');
SELECT outbox.forget_expired();
SELECT outbox.stat_reset();
SELECT outbox.pause();
SELECT outbox.resume();
SELECT outbox.pause_topic('t');
SELECT outbox.resume_topic('t');
SELECT * FROM outbox._positions(), outbox._backlog(), outbox._log_usage(), outbox._workers();
SELECT * FROM outbox.publications;
SELECT outbox.unsubscribe('item');
ALTER TABLE evil.item RENAME COLUMN n TO m;
ALTER TABLE evil.item ADD COLUMN more int;
DROP FUNCTION evil.handler;
\o
RESET search_path;
SELECT public.is((SELECT pg_catalog.string_agg(DISTINCT who || ': ' || what, ', ') FROM evil.sprung WHERE super), NULL,
	'nothing of it ran with the rights of the extension''s owner');
SELECT public.cmp_ok((SELECT count(DISTINCT what) FROM evil.sprung), '>', 5::bigint, 'although code of the table''s owner did run');
RESET ROLE;

-- Letters, which need somebody's own.
INSERT INTO outbox._dead_letter (direction, name, server, topic, header_names, header_values, sqlstate, message, state, event_time)
	VALUES ('out', 'p', 'kafka', 't', '{}', '{}', '22023', 'too large', 'dead', now());
-- a position, and rows in the log that lie behind it, for what joins them
ALTER TABLE outbox._position_0 DISABLE TRIGGER keep_restored;
INSERT INTO outbox._position_0 VALUES (1, 'kafka', '3:3:', NULL, 0, 0, 0, now(), '0/0');
ALTER TABLE outbox._position_0 ENABLE ALWAYS TRIGGER keep_restored;
SET LOCAL pg_outbox.event_buffer = '64kB';
SELECT outbox.emit('t', 'k', repeat('x', 100000)) FROM generate_series(1, 3) \g /dev/null
SELECT cmp_ok((SELECT backlog_events FROM outbox.stat_servers), '>', 0::bigint, 'there is a backlog');
TRUNCATE evil.sprung;

-- Superusers, and monitors, who have the path for whatever reason.  Views and
-- functions find what they found when they were made; DDL calls our event triggers.
\o /dev/null
SET LOCAL search_path = evil, pg_catalog, public;
SELECT outbox.edit(pg_catalog.max(id), 'v', 'k', '{"a": "b"}') FROM outbox.dead_letters;
SELECT outbox.redrive(pg_catalog.max(id)) FROM outbox.dead_letters;
SELECT * FROM outbox.status;
SELECT * FROM outbox.stat_servers, outbox.stat_topics, outbox.stat_log;
SELECT * FROM outbox.stat_subscriptions, outbox.subscriptions, outbox.copies, outbox.publications;
SELECT * FROM outbox.events;
SELECT * FROM outbox.dead_letters;
CREATE TABLE public.plain (id int PRIMARY KEY, a int);
SELECT outbox.publish('public.plain'::pg_catalog.regclass, topic => 't');
ALTER TABLE public.plain ADD COLUMN b int;
ALTER TABLE public.plain RENAME COLUMN a TO c;
INSERT INTO public.plain VALUES (1);
CREATE TABLE public.parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
SELECT outbox.publish('public.parted'::pg_catalog.regclass, topic => 't');
CREATE TABLE public.part PARTITION OF public.parted FOR VALUES FROM (1) TO (2);
ALTER TABLE public.parted DETACH PARTITION public.part;
ALTER TABLE public.parted ATTACH PARTITION public.part FOR VALUES FROM (1) TO (2);
CREATE TYPE public.pair AS (a int);
ALTER TYPE public.pair ADD ATTRIBUTE b int;
ALTER FUNCTION evil.triggered() RENAME TO triggered2;
ALTER SERVER spare RENAME TO spare2;
DROP TABLE public.plain, public.part;
SET LOCAL ROLE guard;
SELECT * FROM outbox.status;
SELECT * FROM outbox._positions(), outbox._backlog(), outbox._log_usage(), outbox._workers();
RESET ROLE;
\o
SET LOCAL search_path = public;
SELECT is((SELECT string_agg(DISTINCT who || ': ' || what, ', ') FROM evil.sprung), NULL, 'nor does a superuser or a monitor fall into a trap of ours');

-- What runs with its owner's rights: what to find is settled, and nobody changes it
-- while it runs.
SELECT is((SELECT count(*) FROM pg_catalog.pg_proc WHERE pronamespace = 'outbox'::regnamespace AND prosecdef), 3::bigint, 'three functions have their owner''s rights');
SELECT is_empty($$SELECT proname FROM pg_catalog.pg_proc WHERE pronamespace = 'outbox'::regnamespace AND prosecdef
	AND (proconfig IS DISTINCT FROM '{"search_path=pg_catalog, pg_temp"}' OR pronargs > 0)$$, 'each pins its search path and takes no argument');
SELECT is_empty($$SELECT t.tgname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = 'outbox'::regnamespace AND NOT t.tgisinternal
		AND (t.tgname <> 'keep_restored' OR t.tgfoid <> 'outbox._keep_restored'::regproc)
	UNION ALL SELECT r.rulename FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class WHERE c.relnamespace = 'outbox'::regnamespace AND r.rulename <> '_RETURN'
	UNION ALL SELECT p.polname FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid WHERE c.relnamespace = 'outbox'::regnamespace$$,
	'our tables run no code but one trigger in C');

-- CREATE EXTENSION where somebody got there first
DROP EXTENSION pg_outbox CASCADE;
ALTER SCHEMA outbox OWNER TO mallory;
SELECT throws_ok('CREATE EXTENSION pg_outbox', '42501', 'schema "outbox" exists and does not belong to a superuser', 'the schema is somebody''s');
ALTER SCHEMA outbox OWNER TO CURRENT_USER;
GRANT CREATE, USAGE ON SCHEMA outbox TO mallory;
SET LOCAL ROLE mallory;
CREATE FUNCTION outbox._positions() RETURNS int LANGUAGE sql RETURN 1;
RESET ROLE;
SELECT throws_ok('CREATE EXTENSION pg_outbox', '42723', NULL, 'a function of ours is there already');
SELECT * FROM finish();
ROLLBACK;
