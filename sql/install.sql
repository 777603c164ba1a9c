-- The extension comes and goes without a trace, and says what it is.
SELECT extname, nspname, extrelocatable
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE extname = 'pg_outbox';
DROP EXTENSION pg_outbox;
SELECT count(*) AS objects_left
FROM pg_depend d JOIN pg_namespace n ON n.oid = d.refobjid AND d.refclassid = 'pg_namespace'::regclass
WHERE nspname = 'outbox';
CREATE EXTENSION pg_outbox;
CREATE EXTENSION pg_outbox;
-- Only into its own schema
DROP EXTENSION pg_outbox;
CREATE EXTENSION pg_outbox SCHEMA public;
-- and not into somebody else's
CREATE ROLE regress_outbox_squatter;
ALTER SCHEMA outbox OWNER TO regress_outbox_squatter;
CREATE EXTENSION pg_outbox;
ALTER SCHEMA outbox OWNER TO CURRENT_USER;
DROP ROLE regress_outbox_squatter;
CREATE EXTENSION pg_outbox;
