-- What the functions promise to callers and to the planner.  Whatever is added to
-- the extension has to be added here: names and defaults of parameters are part of
-- the interface, and a volatility that is wrong is a wrong result some day.
BEGIN;
SET client_min_messages = warning;
SELECT plan(7);

CREATE TEMP VIEW functions AS
SELECT p.*
FROM pg_proc p
	JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'pg_outbox';

-- Without the casts of the defaults.
SELECT set_eq($$SELECT proname::text, regexp_replace(pg_get_function_arguments(oid), '::[a-z]+(\[\])?', '', 'g'), pg_get_function_result(oid)
	FROM functions WHERE proname NOT LIKE '\_%'$$,
	$$VALUES
	('adopt', 'source regclass, topic text DEFAULT ''outbox.event.{aggregatetype}'', name text DEFAULT NULL, columns text[] DEFAULT NULL, headers text[] DEFAULT NULL, server text DEFAULT NULL', 'text'),
	('apply', 'target regclass, key text, value text, headers jsonb DEFAULT ''{}''', 'outbox.apply_result'),
	('apply_batch', 'target regclass, keys text[], payloads text[], headers jsonb[] DEFAULT NULL, OUT ordinal integer, OUT result outbox.apply_result', 'SETOF record'),
	('cancel_copy', 'publication text', 'boolean'),
	('copy', 'publication text', 'void'),
	('discard', 'letter bigint, reason text', 'void'),
	('edit', 'letter bigint, value text, key text DEFAULT NULL, headers jsonb DEFAULT NULL', 'void'),
	('emit', 'topic text, key text, payload bytea, event_type text DEFAULT NULL, headers jsonb DEFAULT NULL, server text DEFAULT NULL', 'bigint'),
	('emit', 'topic text, key text, payload jsonb, event_type text DEFAULT NULL, headers jsonb DEFAULT NULL, server text DEFAULT NULL', 'bigint'),
	('emit', 'topic text, key text, payload text, event_type text DEFAULT NULL, headers jsonb DEFAULT NULL, server text DEFAULT NULL', 'bigint'),
	('first_time', 'consumer text, source text, event_id text', 'boolean'),
	('forget_expired', '', 'bigint'),
	('handle', 'handler regprocedure, topic text, name text DEFAULT NULL, start text DEFAULT ''earliest'', on_error text DEFAULT ''dead_letter'', on_data_loss text DEFAULT ''stop'', server text DEFAULT NULL', 'text'),
	('pause', 'worker text DEFAULT NULL', 'void'),
	('pause_subscription', 'name text', 'void'),
	('pause_topic', 'topic text, server text DEFAULT NULL', 'void'),
	('publish', 'source regclass, topic text DEFAULT NULL, name text DEFAULT NULL, columns text[] DEFAULT NULL, mode text DEFAULT ''full'', partition_by text[] DEFAULT NULL, filter text DEFAULT NULL, event_type text DEFAULT NULL, headers jsonb DEFAULT NULL, initial text DEFAULT ''copy'', server text DEFAULT NULL, identity text DEFAULT NULL, on_truncate text DEFAULT ''error'', skip_unchanged boolean DEFAULT false, with_headers text[] DEFAULT NULL', 'text'),
	('redrive', 'letter bigint', 'void'),
	('redrive_all', 'name text', 'bigint'),
	('replicate', 'target regclass, topic text, name text DEFAULT NULL, key text[] DEFAULT NULL, version_column text DEFAULT NULL, start text DEFAULT ''earliest'', columns text[] DEFAULT NULL, on_error text DEFAULT ''dead_letter'', on_data_loss text DEFAULT ''stop'', server text DEFAULT NULL', 'text'),
	('resume', 'worker text DEFAULT NULL', 'void'),
	('resync', 'publication text', 'void'),
	('resume_subscription', 'name text', 'void'),
	('resume_topic', 'topic text, server text DEFAULT NULL', 'void'),
	('seek', 'name text, start text, partition integer DEFAULT NULL', 'void'),
	('server_check', 'server text DEFAULT ''kafka'', OUT ok boolean, OUT broker_count integer, OUT brokers text, OUT cluster_id text, OUT controller integer, OUT detail text', 'record'),
	('stat_reset', 'kind text DEFAULT NULL, name text DEFAULT NULL, server text DEFAULT NULL', 'void'),
	('unpublish', 'name text', 'void'),
	('unsubscribe', 'name text', 'void'),
	('wait_until_running', 'timeout interval DEFAULT ''00:00:30''', 'boolean')$$,
	'public functions, their parameters and results');

-- Nearly all change something, or show what others change while the statement runs.
SELECT set_eq($$SELECT proname::text, provolatile::text FROM functions WHERE provolatile <> 'v'$$,
	$$VALUES ('_positions', 's'), ('_server_topic_allowed', 's')$$,
	'the functions that are not volatile');
-- Caches, latches and buffers of events are the leader's.
SELECT set_eq($$SELECT proname::text, proparallel::text FROM functions WHERE proparallel <> 'u'$$,
	$$VALUES ('_waiting_servers', 'r'), ('_workers', 'r')$$,
	'the functions that are not unsafe in parallel plans');
SELECT is_empty('SELECT proname FROM functions WHERE proleakproof', 'none is leakproof');
SELECT set_eq('SELECT proname::text FROM functions WHERE proisstrict',
	ARRAY['_kafka_validator', '_server_topic_allowed', '_waiting_servers', '_workers'],
	'the functions that do nothing if an argument is null');
SELECT set_eq('SELECT proname::text FROM functions WHERE prosecdef',
	ARRAY['_backlog', '_log_usage', '_positions'],
	'the functions that run with their owner''s rights');

-- privileges.sql says what PUBLIC and pg_monitor may do.
SELECT is_empty($$SELECT f.proname, acl.grantee::regrole, acl.is_grantable
	FROM functions f CROSS JOIN LATERAL aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) acl
	WHERE acl.grantee NOT IN (0, f.proowner, 'pg_monitor'::regrole) OR acl.is_grantable AND acl.grantee <> f.proowner$$,
	'nobody but them and the owner has rights');
SELECT * FROM finish();
ROLLBACK;
