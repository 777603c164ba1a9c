-- Workers: the database's identity, pause and resume, what workers do now.

-- Which database the rows of this schema belong to: empty until something is
-- published or subscribed to for the first time.  Where a row names another
-- database, this one is a copy of it, and its workers wait for resume().
CREATE TABLE outbox._identity (
	system_identifier bigint NOT NULL,
	database_oid oid NOT NULL,
	extension_oid oid NOT NULL,
	lineage uuid NOT NULL,
	ancestors uuid[] NOT NULL DEFAULT '{}',
	adopted_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
-- Its rows could not be deleted otherwise where a publication is FOR ALL TABLES.
ALTER TABLE outbox._identity REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('outbox._identity', '');

CREATE TABLE outbox._paused (
	worker text PRIMARY KEY,
	since timestamptz NOT NULL DEFAULT pg_catalog.now(),
	by_role text NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('outbox._paused', '');

CREATE FUNCTION outbox.pause(worker text DEFAULT NULL) RETURNS void
LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_pause';
COMMENT ON FUNCTION outbox.pause(text) IS
'Stop a worker of this database until resume(): ''relay'' (nothing is sent), ''applier'' (nothing is applied), or both if NULL. Changes are captured all the same. Takes effect at commit and outlasts restarts. Raises invalid_parameter_value for another name.';
REVOKE ALL ON FUNCTION outbox.pause(text) FROM PUBLIC;

CREATE FUNCTION outbox.resume(worker text DEFAULT NULL) RETURNS void
LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_resume';
COMMENT ON FUNCTION outbox.resume(text) IS
'Let paused workers of this database go on: ''relay'', ''applier'', or both if NULL. In a copy of a database (restored, cloned, made from a template) resume() without an argument also says that the copy shall publish and consume from now on; only do this where the original no longer does, or in agreement with it. Takes effect at commit. Raises invalid_parameter_value for another name, object_not_in_prerequisite_state for a single worker of a copy.';
REVOKE ALL ON FUNCTION outbox.resume(text) FROM PUBLIC;

CREATE FUNCTION outbox.wait_until_running(timeout interval DEFAULT '30 s') RETURNS boolean
LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_wait_until_running';
COMMENT ON FUNCTION outbox.wait_until_running(interval) IS
'Wait until every worker that this database needs runs; one that is paused is not needed. Whether brokers answer is another question, see outbox.status. True, or raises object_not_in_prerequisite_state with the reason in its detail: after the timeout, at once if a worker cannot run before somebody acts, and in a transaction whose own changes the workers cannot see yet.';
REVOKE ALL ON FUNCTION outbox.wait_until_running(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox.wait_until_running(interval) TO pg_monitor;

CREATE FUNCTION outbox._workers(
	OUT worker text,
	OUT pid integer,
	OUT state text,
	OUT waiting_for text,
	OUT started_at timestamptz,
	OUT restarts bigint,
	OUT last_error text,
	OUT last_error_at timestamptz,
	OUT next_start timestamptz)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED ROWS 2 AS 'MODULE_PATHNAME', 'outbox_workers';
COMMENT ON FUNCTION outbox._workers() IS
'One row per kind of worker in this database, also where it has no process.';
REVOKE ALL ON FUNCTION outbox._workers() FROM PUBLIC;

CREATE FUNCTION outbox._waiting_servers(
	OUT worker text,
	OUT server text,
	OUT state text,
	OUT reason text,
	OUT since timestamptz)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'outbox_waiting_servers';
COMMENT ON FUNCTION outbox._waiting_servers() IS
'Kafka servers that a worker of this database cannot go on with; state: unreachable, no broker answers, and reason is what the client says of it; waiting, for what reason says; stopped, the worker sends nothing there for that reason.';
REVOKE ALL ON FUNCTION outbox._waiting_servers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._waiting_servers() TO pg_monitor;
GRANT EXECUTE ON FUNCTION outbox._workers() TO pg_monitor;
