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
-- Events of the transaction that drops it go with it
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1');
SELECT outbox.emit('t', 'k', 'x') > 0 AS emitted;
\set VERBOSITY terse
BEGIN;
SELECT outbox.emit('t', 'k', 'x') > 0 AS emitted;
DROP EXTENSION pg_outbox CASCADE;
COMMIT;
BEGIN;
CREATE EXTENSION pg_outbox;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1');
SELECT outbox.emit('t', 'k', 'old') > 0 AS emitted;
DROP EXTENSION pg_outbox CASCADE;
CREATE EXTENSION pg_outbox;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1');
SELECT outbox.emit('t', 'k', 'new') > 0 AS emitted;
COMMIT;
SELECT convert_from(value, 'UTF8') FROM outbox.events;
DROP SERVER kafka;
\set VERBOSITY default
-- Only into its own schema
DROP EXTENSION pg_outbox;
CREATE EXTENSION pg_outbox SCHEMA public;
-- and not into somebody else's (18 shows the script in the context)
\set SHOW_CONTEXT never
CREATE ROLE regress_outbox_squatter;
ALTER SCHEMA outbox OWNER TO regress_outbox_squatter;
CREATE EXTENSION pg_outbox;
ALTER SCHEMA outbox OWNER TO CURRENT_USER;
DROP ROLE regress_outbox_squatter;
\set SHOW_CONTEXT errors
CREATE EXTENSION pg_outbox;
