-- Who may do what: PUBLIC, members of pg_monitor, and nobody else by default.
-- Whatever is added to the extension has to be added here, or stay its owner's.
BEGIN;
SET client_min_messages = warning;
SELECT plan(18);

CREATE TEMP VIEW ours AS
SELECT d.classid, d.objid
FROM pg_depend d
	JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'pg_outbox' AND d.deptype = 'e';

CREATE ROLE outbox_nobody;
CREATE ROLE outbox_monitor IN ROLE pg_monitor;

CREATE FUNCTION pg_temp.executable_by(who text) RETURNS SETOF text LANGUAGE sql AS $$
SELECT p.proname::text
FROM pg_proc p JOIN ours o ON o.classid = 'pg_proc'::regclass AND o.objid = p.oid
WHERE has_function_privilege(who, p.oid, 'EXECUTE')
	AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
$$;
CREATE FUNCTION pg_temp.readable_by(who text) RETURNS SETOF text LANGUAGE sql AS $$
SELECT c.relname::text
FROM pg_class c JOIN ours o ON o.classid = 'pg_class'::regclass AND o.objid = c.oid
WHERE c.relkind IN ('r', 'v', 'p') AND has_any_column_privilege(who, c.oid, 'SELECT')
$$;

SELECT set_eq($$SELECT pg_temp.executable_by('outbox_nobody')$$,
	ARRAY['publish', 'unpublish', 'adopt', 'copy', 'resync', 'cancel_copy', 'server_check'],
	'PUBLIC may call what asks for ownership or USAGE itself');
SELECT set_eq($$SELECT pg_temp.readable_by('outbox_nobody')$$,
	ARRAY['publications'],
	'PUBLIC sees its own publications');

SELECT set_eq($$SELECT pg_temp.executable_by('outbox_monitor') EXCEPT SELECT pg_temp.executable_by('outbox_nobody')$$,
	ARRAY['_workers', '_waiting_servers', '_positions', '_backlog', '_log_usage', 'wait_until_running'],
	'a monitor may call what its views need, and wait');
SELECT set_eq($$SELECT pg_temp.readable_by('outbox_monitor') EXCEPT SELECT pg_temp.readable_by('outbox_nobody')$$,
	ARRAY['status', 'stat_servers', 'stat_topics', 'stat_log', 'copies', 'subscriptions', 'stat_subscriptions'],
	'a monitor sees states and figures, and no contents of events');

SELECT is_empty($$
	SELECT c.relname, has.privilege
	FROM pg_class c JOIN ours o ON o.classid = 'pg_class'::regclass AND o.objid = c.oid
		CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS has(privilege)
	WHERE c.relkind IN ('r', 'v', 'p') AND has_table_privilege('outbox_monitor', c.oid, has.privilege)$$,
	'a monitor writes nothing');

-- What is granted also works: every view, to its last row.
SET LOCAL ROLE outbox_monitor;
SELECT lives_ok('SELECT * FROM outbox.status', 'a monitor reads status');
SELECT lives_ok('SELECT * FROM outbox.stat_servers', 'a monitor reads stat_servers');
SELECT lives_ok('SELECT * FROM outbox.stat_topics', 'a monitor reads stat_topics');
SELECT lives_ok('SELECT * FROM outbox.stat_log', 'a monitor reads stat_log');
SELECT lives_ok('SELECT * FROM outbox.copies', 'a monitor reads copies');
SELECT lives_ok('SELECT * FROM outbox.subscriptions', 'a monitor reads subscriptions');
SELECT lives_ok('SELECT * FROM outbox.stat_subscriptions', 'a monitor reads stat_subscriptions');
SELECT lives_ok('SELECT * FROM outbox.publications', 'a monitor reads publications');

SELECT throws_ok('SELECT * FROM outbox.events', '42501', NULL, 'a monitor does not read events');
SELECT throws_ok('SELECT * FROM outbox.dead_letters', '42501', NULL, 'a monitor does not read dead letters');
SELECT throws_ok('SELECT outbox.pause()', '42501', NULL, 'a monitor pauses nothing');
SELECT throws_ok('SELECT outbox.stat_reset()', '42501', NULL, 'a monitor resets no counters');
SET LOCAL ROLE outbox_nobody;
SELECT throws_ok('SELECT * FROM outbox.status', '42501', NULL, 'nobody does not read status');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
