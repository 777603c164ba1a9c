-- What holds for every object of the extension, whoever adds one.
BEGIN;
SET client_min_messages = warning;
SELECT plan(7);

CREATE TEMP VIEW ours AS
SELECT d.classid, d.objid, i.type, i.identity,
	split_part(split_part(i.identity, '(', 1), '.', 2) AS name
FROM pg_depend d
	JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
	CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
WHERE e.extname = 'pg_outbox' AND d.deptype = 'e';

CREATE TEMP VIEW functions AS
SELECT p.*, o.name, o.identity
FROM pg_proc p JOIN ours o ON o.classid = 'pg_proc'::regclass AND o.objid = p.oid;

SELECT is((SELECT string_agg(type || ' ' || identity, E'\n' ORDER BY identity)
	FROM ours
	WHERE name NOT LIKE '\_%' AND name <> ''
		AND type NOT IN ('type', 'sequence', 'index', 'trigger', 'toast table')
		AND obj_description(objid, (SELECT relname FROM pg_class WHERE oid = classid)) IS NULL),
	NULL, 'every public object has a comment');

SELECT is((SELECT string_agg(identity, E'\n' ORDER BY identity)
	FROM functions
	WHERE prosecdef AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)),
	NULL, 'every function with its owner''s rights pins its search path');

SELECT is((SELECT string_agg(identity, E'\n' ORDER BY identity)
	FROM functions
	WHERE name LIKE '\_%' AND has_function_privilege('public', oid, 'EXECUTE')
		AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)),
	NULL, 'internal functions are not PUBLIC''s');

SELECT is((SELECT string_agg(identity, E'\n' ORDER BY identity)
	FROM functions
	WHERE name NOT LIKE '\_%' AND proisstrict),
	NULL, 'no public function takes null for an answer: it says which argument must not be');

SELECT is((SELECT string_agg(identity || ': ' || privilege, E'\n' ORDER BY identity)
	FROM ours
		JOIN pg_class c ON c.oid = objid AND classid = 'pg_class'::regclass AND relkind IN ('r', 'p', 'S')
		CROSS JOIN unnest(ARRAY['SELECT', 'UPDATE']) AS privilege
	WHERE CASE WHEN relkind = 'S' THEN has_sequence_privilege('public', c.oid, privilege)
		ELSE has_table_privilege('public', c.oid, privilege) END),
	NULL, 'tables and sequences are not PUBLIC''s');

SELECT is((SELECT string_agg(identity || ': ' || privilege, E'\n' ORDER BY identity)
	FROM ours
		JOIN pg_class c ON c.oid = objid AND classid = 'pg_class'::regclass AND relkind = 'v'
		CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE']) AS privilege
	WHERE has_table_privilege('public', c.oid, privilege)),
	NULL, 'nobody writes through the views');

SELECT is((SELECT string_agg(identity, E'\n' ORDER BY identity)
	FROM ours
	WHERE identity NOT LIKE 'outbox.%' AND identity NOT LIKE '%on outbox.%'
		AND type NOT IN ('schema', 'foreign-data wrapper', 'extension', 'role', 'event trigger', 'cast')),
	NULL, 'everything lives in schema outbox');

SELECT * FROM finish();
ROLLBACK;
