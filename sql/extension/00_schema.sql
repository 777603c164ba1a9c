-- pg_outbox: objects of schema outbox, assembled from sql/extension.

-- complain if this script is sourced in psql rather than by CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_outbox" to load this file. \quit

-- A schema of that name that was there already: its owner could put functions
-- before ours, and drop what is ours.
DO $$
BEGIN
	PERFORM FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
		WHERE n.nspname OPERATOR(pg_catalog.=) 'outbox' AND NOT r.rolsuper;
	IF FOUND THEN
		RAISE EXCEPTION 'schema "outbox" exists and does not belong to a superuser'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Rename the schema, or give it to a superuser, and repeat CREATE EXTENSION.';
	END IF;
END
$$;

COMMENT ON SCHEMA outbox IS 'pg_outbox: publish committed changes to Kafka, apply events to version-guarded replicas';
GRANT USAGE ON SCHEMA outbox TO PUBLIC;
