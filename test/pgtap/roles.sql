-- Who may do what, by trying it: each public function and each object of the
-- extension, as a table's owner without further rights, a publisher, a subscriber,
-- a monitor, nobody in particular and a superuser, on what is theirs and on what is
-- somebody else's.  An object that has no entry here makes the test fail.
BEGIN;
SET client_min_messages = error;
SET search_path = public;
SELECT plan(14);

CREATE ROLE owner;		-- owns everything named after him, as the others do
CREATE ROLE publisher;	-- may use the server, and emit
CREATE ROLE subscriber;	-- may use the server, and what administers subscriptions
CREATE ROLE monitor IN ROLE pg_monitor;
CREATE ROLE nobody;
CREATE ROLE superuser SUPERUSER;
CREATE ROLE stranger;	-- owns what the others try to get at

CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', topics 'open*');
CREATE SERVER closed FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
GRANT USAGE ON FOREIGN SERVER kafka TO publisher, subscriber;
GRANT EXECUTE ON FUNCTION outbox.emit(text, text, text, text, jsonb, text), outbox.emit(text, text, jsonb, text, jsonb, text),
	outbox.emit(text, text, bytea, text, jsonb, text) TO publisher;
GRANT EXECUTE ON FUNCTION outbox.apply, outbox.apply_batch, outbox.first_time, outbox.replicate, outbox.handle,
	outbox.unsubscribe, outbox.seek, outbox.pause_subscription, outbox.resume_subscription,
	outbox.redrive, outbox.redrive_all, outbox.edit, outbox.discard TO subscriber;

CREATE TEMP TABLE role (name text, n int);
INSERT INTO role VALUES ('owner', 1), ('publisher', 2), ('subscriber', 3), ('monitor', 4), ('nobody', 5), ('superuser', 6), ('stranger', 7);
GRANT SELECT ON role TO PUBLIC;

-- For each a schema with a published table, one that is not, an adopted outbox
-- table, a replica, a handler, their subscriptions, and a dead letter of each kind.
CREATE TEMP TABLE letter (role text, kind text, id bigint);
GRANT SELECT ON letter TO PUBLIC;
DO $$
DECLARE
	r text;
BEGIN
	FOR r IN SELECT name FROM role LOOP
		EXECUTE format('CREATE SCHEMA %1$I AUTHORIZATION %1$I', r);
		EXECUTE format($f$
			SET LOCAL ROLE %1$I;
			CREATE TABLE %1$I.src (id int PRIMARY KEY);
			CREATE TABLE %1$I.fresh (id int PRIMARY KEY);
			CREATE TABLE %1$I.box (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload text);
			CREATE TABLE %1$I.newbox (LIKE %1$I.box INCLUDING ALL);
			CREATE TABLE %1$I.replica (id int PRIMARY KEY, version bigint NOT NULL);
			CREATE FUNCTION %1$I.handler(e outbox.event) RETURNS void LANGUAGE sql RETURN NULL;
			RESET ROLE;
			SELECT outbox.publish('%1$I.src', topic => 'open.src', name => 'pub_%1$s');
			SELECT outbox.adopt('%1$I.box', topic => 'open.{aggregatetype}', name => 'box_%1$s');
			SELECT outbox.replicate('%1$I.replica', topic => 'open.in', name => 'rep_%1$s');
			SELECT outbox.handle('%1$I.handler(outbox.event)', topic => 'open.in', name => 'han_%1$s');
			INSERT INTO outbox._offset (subscription, partition, next_offset) VALUES ('rep_%1$s', 0, 5);
			WITH l AS (INSERT INTO outbox._dead_letter (direction, name, subscription, topic, header_names, header_values, sqlstate, message, state)
				SELECT 'in', name, id, 'open.in', '{}', '{}', '22023', 'wrong', 'dead' FROM outbox._subscription WHERE name = 'rep_%1$s' RETURNING id)
			INSERT INTO letter SELECT '%1$s', 'in', id FROM l;
			WITH l AS (INSERT INTO outbox._dead_letter (direction, name, server, topic, header_names, header_values, sqlstate, message, state, event_time)
				VALUES ('out', 'pub_%1$s', 'kafka', 'open.src', '{}', '{}', '22023', 'too large', 'dead', now()) RETURNING id)
			INSERT INTO letter SELECT '%1$s', 'out', id FROM l;
			WITH l AS (INSERT INTO outbox._dead_letter (direction, name, subscription, topic, header_names, header_values, sqlstate, message, state)
				VALUES ('in', 'gone', 999999, 'open.in', '{}', '{}', '22023', 'wrong', 'dead') RETURNING id)
			INSERT INTO letter SELECT '%1$s', 'ended', id FROM l;
			$f$, r);
	END LOOP;
END $$;
SET LOCAL pg_outbox.connect_timeout = '100ms';

-- "ok", "denied", or another error's SQLSTATE.  In the statement %1$s is the role,
-- %2$s whose object it is.  Nothing lasts.
CREATE FUNCTION pg_temp.attempt(who text, whose text, statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', who);
	EXECUTE format(statement, who, whose);
	RAISE SQLSTATE 'PASSD';
EXCEPTION
	WHEN SQLSTATE 'PASSD' THEN RETURN 'ok';
	WHEN insufficient_privilege THEN RETURN 'denied';
	WHEN OTHERS THEN RETURN sqlstate;
END $$;

-- The table: what a role gets of its own and of somebody else's.  One answer is
-- everybody's, otherwise the first three are "owner publisher subscriber", then
-- "monitor nobody superuser"; - stands for denied, + for ok.
CREATE TEMP TABLE expected (function text, statement text, own text, others text);
INSERT INTO expected VALUES
	('publish', $$SELECT outbox.publish('%2$s.fresh', topic => 'open.a')$$, '-++ --+', '--- --+'),
	('publish', $$SELECT outbox.publish('%2$s.src', topic => 'open.a', name => 'pub_%2$s')$$, '-++ --+', '--- --+'),
	('publish', $$SELECT outbox.publish('%2$s.fresh', topic => 'open.a', initial => 'none')$$, '-++ --+', '--- --+'),
	('publish', $$SELECT outbox.publish('%2$s.fresh', topic => 'shut')$$, '--- ---', '--- ---'),
	('publish', $$SELECT outbox.publish('%2$s.fresh', topic => 'open.a', server => 'closed')$$, '--- --+', '--- --+'),
	('publish', $$SELECT outbox.publish('outbox._inbox', topic => 'open.a')$$, '428094280942809 428094280942809', '428094280942809 428094280942809'),
	('publish', $$SELECT outbox.publish('pg_catalog.pg_authid', topic => 'open.a')$$, '428094280942809 428094280942809', '428094280942809 428094280942809'),
	('unpublish', $$SELECT outbox.unpublish('pub_%2$s')$$, '+++ +++', '--- --+'),
	('unpublish', $$SELECT outbox.unpublish('box_%2$s')$$, '+++ +++', '--- --+'),
	('adopt', $$SELECT outbox.adopt('%2$s.newbox', topic => 'open.{aggregatetype}')$$, '-++ --+', '--- --+'),
	('adopt', $$SELECT outbox.adopt('%2$s.newbox', topic => 'open.a', server => 'closed')$$, '--- --+', '--- --+'),
	('copy', $$SELECT outbox.copy('pub_%2$s')$$, '+++ +++', '--- --+'),
	-- all of them send to one topic, which is found out after who may
	('resync', $$SELECT outbox.resync('pub_%2$s')$$, '550005500055000 550005500055000', '--- --55000'),
	('cancel_copy', $$SELECT outbox.cancel_copy('pub_%2$s')$$, '+++ +++', '--- --+'),
	('server_check', $$SELECT outbox.server_check()$$, '-++ --+', '-++ --+'),
	('server_check', $$SELECT outbox.server_check('closed')$$, '--- --+', '--- --+'),
	('emit', $$SELECT outbox.emit('open.a', 'k', 'v'::text)$$, '-+- --+', '-+- --+'),
	('emit', $$SELECT outbox.emit('open.a', 'k', '{}'::jsonb)$$, '-+- --+', '-+- --+'),
	('emit', $$SELECT outbox.emit('open.a', 'k', ''::bytea)$$, '-+- --+', '-+- --+'),
	('emit', $$SELECT outbox.emit('shut', 'k', 'v'::text)$$, '--- ---', '--- ---'),
	('emit', $$SELECT outbox.emit('open.a', 'k', 'v'::text, server => 'closed')$$, '--- --+', '--- --+'),
	('apply', $$SELECT outbox.apply('%2$s.replica', '1', '{"id":1,"version":1}')$$, '--+ --+', '--- --+'),
	('apply', $$SELECT outbox.apply('%2$s.replica', '1', NULL, '{"version":1}')$$, '--+ --+', '--- --+'),
	('apply', $$SELECT outbox.apply('outbox._subscription', '1', '{"name":1,"generation":1}')$$, '--- ---', '--- ---'),
	('apply_batch', $$SELECT outbox.apply_batch('%2$s.replica', '{1}', '{"{\"id\":1,\"version\":1}"}')$$, '--+ --+', '--- --+'),
	('first_time', $$SELECT outbox.first_time('rep_%2$s', 's', '1')$$, '--+ --+', '--+ --+'),
	('forget_expired', $$SELECT outbox.forget_expired()$$, '--- --+', '--- --+'),
	('replicate', $$SELECT outbox.replicate('%2$s.replica', topic => 'open.b', name => 'rep_%2$s')$$, '--+ --+', '--- --+'),
	('replicate', $$SELECT outbox.replicate('%2$s.replica', topic => 'open.b', name => 'new')$$, '--+ --+', '--- --+'),
	('replicate', $$SELECT outbox.replicate('%1$s.replica', topic => 'open.b', name => 'rep_stranger')$$, '--42710 --42710', '--42710 --42710'),
	('replicate', $$SELECT outbox.replicate('%2$s.replica', topic => 'open.b', server => 'closed')$$, '--- --+', '--- --+'),
	('handle', $$SELECT outbox.handle('%2$s.handler(outbox.event)', topic => 'open.b', name => 'han_%2$s')$$, '--+ --+', '--- --+'),
	('handle', $$SELECT outbox.handle('%2$s.handler(outbox.event)', topic => 'open.b', server => 'closed')$$, '--- --+', '--- --+'),
	('handle', $$SELECT outbox.handle('%1$s.handler(outbox.event)', topic => 'open.b', name => 'han_stranger')$$, '--42710 --42710', '--42710 --42710'),
	('unsubscribe', $$SELECT outbox.unsubscribe('rep_%2$s')$$, '--+ --+', '--- --+'),
	('unsubscribe', $$SELECT outbox.unsubscribe('han_%2$s')$$, '--+ --+', '--- --+'),
	('seek', $$SELECT outbox.seek('rep_%2$s', 'latest')$$, '--+ --+', '--- --+'),
	('seek', $$SELECT outbox.seek('rep_%2$s', '3', 0)$$, '--+ --+', '--- --+'),
	('seek', $$SELECT outbox.seek('han_%2$s', 'latest')$$, '--+ --+', '--- --+'),
	('pause_subscription', $$SELECT outbox.pause_subscription('rep_%2$s')$$, '--+ --+', '--- --+'),
	('pause_subscription', $$SELECT outbox.pause_subscription('han_%2$s')$$, '--+ --+', '--- --+'),
	('resume_subscription', $$SELECT outbox.resume_subscription('rep_%2$s')$$, '--+ --+', '--- --+'),
	('redrive', $$SELECT outbox.redrive((SELECT id FROM letter WHERE role = '%2$s' AND kind = 'in'))$$, '--+ --+', '--- --+'),
	('redrive', $$SELECT outbox.redrive((SELECT id FROM letter WHERE role = '%2$s' AND kind = 'out'))$$, '--- --+', '--- --+'),
	('redrive', $$SELECT outbox.redrive((SELECT id FROM letter WHERE role = '%2$s' AND kind = 'ended'))$$, '--- --55000', '--- --55000'),
	('redrive_all', $$SELECT outbox.redrive_all('rep_%2$s')$$, '--+ --+', '--- --+'),
	('redrive_all', $$SELECT outbox.redrive_all('open.src')$$, '--- --+', '--- --+'),
	('edit', $$SELECT outbox.edit((SELECT id FROM letter WHERE role = '%2$s' AND kind = 'in'), 'v', 'k', '{}')$$, '--+ --+', '--- --+'),
	('edit', $$SELECT outbox.edit((SELECT id FROM letter WHERE role = '%2$s' AND kind = 'out'), 'v')$$, '--- --+', '--- --+'),
	('discard', $$SELECT outbox.discard((SELECT id FROM letter WHERE role = '%2$s' AND kind = 'in'), 'r')$$, '--+ --+', '--- --+'),
	('discard', $$SELECT outbox.discard((SELECT id FROM letter WHERE role = '%2$s' AND kind = 'out'), 'r')$$, '--- --+', '--- --+'),
	('discard', $$SELECT outbox.discard((SELECT id FROM letter WHERE role = '%2$s' AND kind = 'ended'), 'r')$$, '--- --+', '--- --+'),
	('pause', $$SELECT outbox.pause()$$, '--- --+', '--- --+'),
	('resume', $$SELECT outbox.resume()$$, '--- --+', '--- --+'),
	('pause_topic', $$SELECT outbox.pause_topic('open.src')$$, '--- --+', '--- --+'),
	('resume_topic', $$SELECT outbox.resume_topic('open.src')$$, '--- --55000', '--- --55000'),
	('stat_reset', $$SELECT outbox.stat_reset()$$, '--- --+', '--- --+'),
	('wait_until_running', $$SELECT outbox.wait_until_running('0')$$, '--- 55000-55000', '--- 55000-55000'),

	('_kafka_validator', $$SELECT outbox._kafka_validator('{}', 0)$$, '--- --+', '--- --+'),
	('_server_topic_allowed', $$SELECT outbox._server_topic_allowed('kafka', 'open')$$, '--- --+', '--- --+'),
	('_events', $$SELECT * FROM outbox._events()$$, '--- --+', '--- --+'),
	('_log_rows', $$SELECT * FROM outbox._log_rows()$$, '--- --+', '--- --+'),
	('_log_space', $$SELECT * FROM outbox._log_space()$$, '--- --+', '--- --+'),
	('_workers', $$SELECT * FROM outbox._workers()$$, '--- +-+', '--- +-+'),
	('_waiting_servers', $$SELECT * FROM outbox._waiting_servers()$$, '--- +-+', '--- +-+'),
	('_positions', $$SELECT * FROM outbox._positions()$$, '--- +-+', '--- +-+'),
	('_backlog', $$SELECT * FROM outbox._backlog()$$, '--- +-+', '--- +-+'),
	('_log_usage', $$SELECT * FROM outbox._log_usage()$$, '--- +-+', '--- +-+'),
	-- what only a trigger may call says so to everybody; made by hand it does no harm
	('_capture', 'SELECT outbox._capture()', '39P0139P0139P01 39P0139P0139P01', NULL),
	('_capture_adopted', 'SELECT outbox._capture_adopted()', '39P0139P0139P01 39P0139P0139P01', NULL),
	('_capture_truncate', 'SELECT outbox._capture_truncate()', '39P0139P0139P01 39P0139P0139P01', NULL),
	('_keep_restored', 'SELECT outbox._keep_restored()', '--- --39P01', NULL),
	('_table_altered', 'SELECT outbox._table_altered()', '39P0339P0339P03 39P0339P0339P03', NULL),
	('_objects_dropped', 'SELECT outbox._objects_dropped()', '39P0339P0339P03 39P0339P0339P03', NULL),
	('_server_altering', 'SELECT outbox._server_altering()', '39P0339P0339P03 39P0339P0339P03', NULL),
	('_names_altered', 'SELECT outbox._names_altered()', '39P0339P0339P03 39P0339P0339P03', NULL);

CREATE TEMP TABLE answer AS
SELECT e.statement, whose.kind, whose.expected, (
	SELECT string_agg(CASE a WHEN 'ok' THEN '+' WHEN 'denied' THEN '-' ELSE a END || CASE n WHEN 3 THEN ' ' ELSE '' END, '' ORDER BY n)
	FROM (SELECT n, pg_temp.attempt(name, CASE whose.kind WHEN 'own' THEN name ELSE 'stranger' END, e.statement) FROM role WHERE n <= 6) AS t (n, a)) AS answer
FROM expected AS e CROSS JOIN LATERAL (VALUES ('own', own), ('others', others)) AS whose (kind, expected)
WHERE whose.expected IS NOT NULL;
SELECT is_empty('SELECT statement, kind, expected, answer FROM answer WHERE answer IS DISTINCT FROM expected',
	'each function does for each role what it is meant to');
SELECT cmp_ok((SELECT count(*) FROM answer), '>', 100::bigint, 'many were tried');

CREATE TEMP VIEW ours AS
SELECT d.classid, d.objid, o.type, o.identity
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS o
WHERE e.extname = 'pg_outbox' AND d.deptype = 'e';
SELECT set_eq($$SELECT DISTINCT proname::text FROM pg_proc JOIN ours ON oid = objid AND classid = 'pg_proc'::regclass$$,
	'SELECT DISTINCT function FROM expected', 'no function was left out');

-- Every relation, by reading it to its end and by trying to change it.
CREATE TEMP TABLE relation (name text, readers text);
INSERT INTO relation VALUES
	('publications', '+++ +++'), ('status', '--- +-+'), ('stat_servers', '--- +-+'), ('stat_topics', '--- +-+'),
	('stat_subscriptions', '--- +-+'), ('stat_log', '--- +-+'), ('copies', '--- +-+'), ('subscriptions', '--- +-+'),
	('dead_letters', '--- --+'), ('events', '--- --+'), ('_copy_updaters', '--- --+'),
	('_copy', '--- --+'), ('_copy_pending', '--- --+'), ('_dead_letter', '--- --+'), ('_identity', '--- --+'),
	('_inbox', '--- --+'), ('_log_0', '--- --+'), ('_log_1', '--- --+'), ('_log_2', '--- --+'), ('_offset', '--- --+'),
	('_parked', '--- --+'), ('_paused', '--- --+'), ('_position_0', '--- --+'), ('_position_1', '--- --+'),
	('_publication', '--- --+'), ('_reset_server', '--- --+'), ('_reset_subscription', '--- --+'), ('_reset_topic', '--- --+'),
	('_stream', '--- --+'), ('_subscription', '--- --+'), ('_tombstone', '--- --+'), ('_topic_stat', '--- --+'),
	('_unrecorded', '--- --+'), ('_restored_log', '--- --+'), ('_restored_position', '--- --+'), ('_floor', '--- --+'), ('_mark', '--- --+'), ('_drained', '--- --+'), ('_claim', '--- --+'), ('_waiting', '--- --+'),
	('_dead_letter_id_seq', '--- --+'), ('_log_current', '--- --+'), ('_publication_id_seq', '--- --+'), ('_stamp', '--- --+'),
	('_stamp_fence', '--- --+'), ('_stream_id_seq', '--- --+'), ('_subscription_id_seq', '--- --+');
SELECT set_eq($$SELECT relname::text FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'v', 'm', 'S', 'p', 'f')$$,
	'SELECT name FROM relation', 'no relation was left out');

CREATE FUNCTION pg_temp.answers(statement text, object text) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(CASE a WHEN 'ok' THEN '+' WHEN 'denied' THEN '-' ELSE a END || CASE n WHEN 3 THEN ' ' ELSE '' END, '' ORDER BY n)
FROM (SELECT n, pg_temp.attempt(name, object, statement) FROM role WHERE n <= 6) AS t (n, a)
$$;
SELECT is_empty($$SELECT name, readers, a FROM relation, pg_temp.answers('SELECT * FROM outbox.%2$I', name) AS a WHERE a IS DISTINCT FROM readers$$,
	'each can be read by those it is for');
SELECT is_empty($$SELECT name, statement, a FROM relation JOIN pg_class AS c ON c.oid = ('outbox.' || quote_ident(name))::regclass,
		unnest(CASE relkind WHEN 'S' THEN ARRAY['SELECT nextval(%2$L)', 'SELECT setval(%2$L, 7)', 'SELECT currval(%2$L)'] ELSE
			ARRAY['DELETE FROM outbox.%2$I', 'INSERT INTO outbox.%2$I DEFAULT VALUES', 'TRUNCATE outbox.%2$I', 'LOCK TABLE outbox.%2$I IN ROW EXCLUSIVE MODE',
			'CREATE TRIGGER t AFTER INSERT ON outbox.%2$I EXECUTE FUNCTION outbox._capture_truncate()',
			'DROP TABLE outbox.%2$I', 'ALTER TABLE outbox.%2$I OWNER TO %1$I'] END) AS statement,
		pg_temp.answers(statement, CASE relkind WHEN 'S' THEN 'outbox.' || name ELSE name END) AS a
	WHERE regexp_replace(a, '\+$', '') LIKE '%+%'$$,
	'nobody but a superuser changes or locks any');

-- publications: one's own, for a monitor all
CREATE TEMP TABLE seen AS SELECT ''::text AS role, ''::text AS name WHERE false;
GRANT INSERT ON seen TO PUBLIC;
DO $$
DECLARE
	r text;
BEGIN
	FOR r IN SELECT name FROM role WHERE n <= 6 LOOP
		EXECUTE format('SET LOCAL ROLE %I', r);
		INSERT INTO seen SELECT r, name FROM outbox.publications;
		RESET ROLE;
	END LOOP;
END $$;
SELECT is_empty($$SELECT role FROM seen WHERE name NOT IN ('pub_' || role, 'box_' || role) AND role NOT IN ('monitor', 'superuser')$$, 'each sees his own publications');
SELECT is((SELECT string_agg(role || ' ' || n, ', ' ORDER BY role) FROM (SELECT role, count(*) AS n FROM seen GROUP BY role) t),
	'monitor 14, nobody 2, owner 2, publisher 2, subscriber 2, superuser 14', 'a monitor all');

-- Everything else that the extension consists of.
SELECT set_eq($$SELECT type, identity FROM ours WHERE type NOT IN ('function', 'table', 'view', 'sequence')
		-- 18 counts every array type too, older servers those of relations
		AND NOT (type = 'type' AND (identity LIKE '%[]' OR identity IN (SELECT 'outbox.' || name FROM relation)))$$,
	$$VALUES ('foreign-data wrapper', 'outbox_kafka'), ('type', 'outbox.apply_result'), ('type', 'outbox.event'),
		('event trigger', 'outbox_names_altered'), ('event trigger', 'outbox_objects_dropped'),
		('event trigger', 'outbox_server_altering'), ('event trigger', 'outbox_table_altered')$$,
	'and there is nothing else');
SELECT is_empty($$SELECT statement, wanted, a FROM (VALUES
		('SELECT NULL::outbox.event, NULL::outbox.apply_result', '+++ +++'),
		('CREATE TABLE outbox.t ()', '--- --+'), ('CREATE FUNCTION outbox.f() RETURNS int LANGUAGE sql RETURN 1', '--- --+'),
		('CREATE SERVER s FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" ''a'')', '--- --+'),
		('ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" ''a'')', '--- --+'),
		('ALTER SERVER closed RENAME TO x', '--- --+'),
		('DROP SERVER kafka CASCADE', '--- --+'),
		('CREATE USER MAPPING FOR PUBLIC SERVER kafka', '--- --+'),
		-- as of any server, and it means nothing to the workers
		('CREATE USER MAPPING FOR CURRENT_USER SERVER kafka', '-++ --+'),
		('DROP EVENT TRIGGER outbox_table_altered', '--- --2BP01'),
		('ALTER EVENT TRIGGER outbox_table_altered DISABLE', '--- --+'),
		('CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION outbox._table_altered()', '--- --+'),
		('ALTER EXTENSION pg_outbox ADD SCHEMA public', '--- --+'),
		('DROP EXTENSION pg_outbox CASCADE', '--- --+'),
		('CREATE TRIGGER t AFTER INSERT ON %1$I.fresh FOR EACH ROW EXECUTE FUNCTION outbox._capture(); INSERT INTO %1$I.fresh VALUES (1)', '+++ +++'),
		('SET LOCAL pg_outbox.capture = off', '--- --+'), ('SET LOCAL pg_outbox.max_backlog = 0', '--- --+'),
		('SET LOCAL pg_outbox.max_backlog_action = copy', '--- --+'),
		('SET LOCAL pg_outbox.default_server = x; SET LOCAL pg_outbox.default_topic = x; SET LOCAL pg_outbox.default_with_headers = txid;
		SET LOCAL pg_outbox.event_buffer = ''1MB''; SET LOCAL pg_outbox.traceparent = x; SET LOCAL pg_outbox.correlation_id = x;
		SET LOCAL pg_outbox.causation_id = x; SET LOCAL pg_outbox.connect_timeout = ''1s''', '+++ +++')
	) AS t (statement, wanted), pg_temp.answers(statement, 'stranger') AS a WHERE a IS DISTINCT FROM wanted$$,
	'nor is it anybody''s to change');
-- Set by anyone is only what concerns himself.
SELECT set_eq($$SELECT name, context FROM pg_settings WHERE name LIKE 'pg\_outbox.%' AND name <> 'pg_outbox.fault' AND context NOT IN ('sighup', 'postmaster')$$,
	$$VALUES ('pg_outbox.capture', 'superuser'), ('pg_outbox.max_backlog', 'superuser'), ('pg_outbox.max_backlog_action', 'superuser'),
		('pg_outbox.default_server', 'user'), ('pg_outbox.default_topic', 'user'), ('pg_outbox.default_with_headers', 'user'),
		('pg_outbox.event_buffer', 'user'), ('pg_outbox.traceparent', 'user'), ('pg_outbox.correlation_id', 'user'),
		('pg_outbox.causation_id', 'user'), ('pg_outbox.connect_timeout', 'user')$$,
	'no other setting can be made in a session');

-- The trigger's function made to fire where it was not meant to.
SELECT is_empty($$SELECT statement, a FROM unnest(ARRAY[
		'CREATE TRIGGER t BEFORE INSERT ON %1$I.src FOR EACH ROW EXECUTE FUNCTION outbox.%2$I(); INSERT INTO %1$I.src VALUES (1)',
		'CREATE TRIGGER t AFTER INSERT ON %1$I.src EXECUTE FUNCTION outbox.%2$I(); INSERT INTO %1$I.src VALUES (1)',
		'CREATE TRIGGER t AFTER TRUNCATE ON %1$I.fresh EXECUTE FUNCTION outbox.%2$I(); TRUNCATE %1$I.fresh',
		'CREATE VIEW %1$I.v AS SELECT * FROM %1$I.src; CREATE TRIGGER t INSTEAD OF INSERT ON %1$I.v FOR EACH ROW EXECUTE FUNCTION outbox.%2$I(); INSERT INTO %1$I.v VALUES (1)'
		]) AS statement, unnest(ARRAY['_capture', '_capture_adopted']) AS function, pg_temp.answers(statement, function) AS a
	WHERE a NOT IN ('39P0139P0139P01 39P0139P0139P01', '0A0000A0000A000 0A0000A0000A000')$$, 'a trigger made by hand says what it is not for');
-- A name of an object is no way to one: not by number, nor to what is not a table.
SELECT is_empty($$SELECT statement, a FROM unnest(ARRAY[
		'SELECT outbox.publish(4294967294::oid::regclass)', 'SELECT outbox.adopt(4294967294::oid::regclass)'
		]) AS statement, pg_temp.answers(statement, 'stranger') AS a WHERE a <> '42P0142P0142P01 42P0142P0142P01'$$, 'a number that is no table');
SELECT is(pg_temp.answers('SELECT outbox.copy(''pub_%2$s; DROP TABLE x'')', 'stranger'), '427044270442704 427044270442704', 'a name that is no publication');
SELECT * FROM finish();
ROLLBACK;
