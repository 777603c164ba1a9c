-- pg_outbox: objects of schema outbox, assembled from sql/extension.

-- complain if this script is sourced in psql rather than by CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_outbox" to load this file. \quit

COMMENT ON SCHEMA outbox IS 'pg_outbox: publish committed changes to Kafka, apply events to version-guarded replicas';
GRANT USAGE ON SCHEMA outbox TO PUBLIC;
