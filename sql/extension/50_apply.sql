-- Applying events without a worker: the guard as functions.

CREATE TYPE outbox.apply_result AS ENUM ('applied', 'deleted', 'stale', 'duplicate', 'suppressed', 'swept', 'marked');
COMMENT ON TYPE outbox.apply_result IS
'what became of an event: applied = the row was inserted or updated; deleted = the row is gone, or was never there, and later events of the key that are older will be stale; stale = a newer version of the key, or its newer delete, was there already, or came in the same batch; duplicate = this very version was there already; suppressed = a BEFORE trigger of the target refused the row; swept = all rows older than the event were deleted, and older events will be stale (op t, or the last mark of a resync); marked = the end of a resync in one partition was noted, those of others are still to come';

CREATE TABLE outbox._tombstone (
	target regclass NOT NULL,
	key text COLLATE "C" NOT NULL,
	version bigint NOT NULL,
	deleted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (target, key)
);
CREATE INDEX _tombstone_deleted_at_idx ON outbox._tombstone (deleted_at);
COMMENT ON TABLE outbox._tombstone IS 'versions at which keys of replicas were deleted; internal';
-- Of a table that is gone only its number is left, which will be another's elsewhere.
SELECT pg_catalog.pg_extension_config_dump('outbox._tombstone', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = target)');

-- Kept for as long as the target, unlike tombstones: one row stands for all.
CREATE TABLE outbox._floor (
	target regclass PRIMARY KEY,
	version bigint NOT NULL,
	raised_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE outbox._floor IS 'versions below which every event of a replica is stale, since a TRUNCATE or a resync of its source; internal';
SELECT pg_catalog.pg_extension_config_dump('outbox._floor', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = target)');

CREATE TABLE outbox._mark (
	target regclass NOT NULL,
	partition int NOT NULL,
	version bigint NOT NULL,
	noted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (target, partition)
);
COMMENT ON TABLE outbox._mark IS 'ends of a resync that have come, by partition of the topic, until all have; version: what is older is to go then; internal';
SELECT pg_catalog.pg_extension_config_dump('outbox._mark', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = target)');

CREATE TABLE outbox._inbox (
	consumer text COLLATE "C" NOT NULL,
	is_subscription boolean NOT NULL,
	source text COLLATE "C" NOT NULL,
	event_id text COLLATE "C" NOT NULL,
	seen_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (consumer, is_subscription, source, event_id)
);
CREATE INDEX _inbox_seen_at_idx ON outbox._inbox (seen_at);
COMMENT ON TABLE outbox._inbox IS 'events that consumers have seen; internal, see outbox.first_time()';
COMMENT ON COLUMN outbox._inbox.is_subscription IS 'the consumer is the id of a subscription, written by the applier; false: a name that a caller of outbox.first_time() chose, which says nothing about subscriptions';
SELECT pg_catalog.pg_extension_config_dump('outbox._inbox', '');

CREATE FUNCTION outbox.apply(target regclass, key text, value text, headers jsonb DEFAULT '{}')
	RETURNS outbox.apply_result
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_apply';
COMMENT ON FUNCTION outbox.apply(regclass, text, text, jsonb) IS
'apply one event, as a consumer received it, to a replica: a row only moves forward. value: the row as a JSON object, null for a delete. headers: an object, or an array of pairs; "op" is c, u, r (upsert), d (delete), t (all rows older than the version are deleted) or e (the same, once it has come for all partitions that header "partition", as 0/4, tells of), without it a null value is a delete; the version is header "version", else header "id", else the version column in the value; header "json_verbatim", a JSON array of names, says which columns of type json and jsonb are taken as they stand, null being JSON''s null then. Needs SELECT, INSERT, UPDATE and DELETE on the target. Errors: class 22 for a bad event, 54000 for a value beyond a limit of its type, 42703 if it lacks a column of the target or a field of its composite type, 0A000 if row-level security policies of the target apply to the caller, 40001 under REPEATABLE READ and up if the key changed meanwhile, and whatever the target''s constraints and triggers raise';

CREATE FUNCTION outbox.apply_batch(target regclass, keys text[], payloads text[], headers jsonb[] DEFAULT NULL,
	OUT ordinal int, OUT result outbox.apply_result) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000
	AS 'MODULE_PATHNAME', 'outbox_apply_batch';
COMMENT ON FUNCTION outbox.apply_batch(regclass, text[], text[], jsonb[]) IS
'apply many events in one statement; the nth elements of the arrays are the nth event, see outbox.apply(). Returns what became of each. Of several events of a key only the newest is written, the others are stale. If one event fails none is applied; the error''s context names it';

CREATE FUNCTION outbox.first_time(consumer text, source text, event_id text)
	RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_first_time';
COMMENT ON FUNCTION outbox.first_time(text, text, text) IS
'inbox test for a consumer''s own handler: true if the consumer has not seen the event of that source before, and remembers it in the current transaction; waits for another transaction that is about to remember the same. Each text may have 512 bytes; null raises null_value_not_allowed (22004). Forgotten after pg_outbox.inbox_retention';

REVOKE ALL ON FUNCTION outbox.apply(regclass, text, text, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.apply_batch(regclass, text[], text[], jsonb[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.first_time(text, text, text) FROM PUBLIC;

CREATE FUNCTION outbox.forget_expired() RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_forget_expired';
COMMENT ON FUNCTION outbox.forget_expired() IS
'delete a part of what is older than pg_outbox.tombstone_retention and pg_outbox.inbox_retention, and return how many rows went; to be repeated while that is many. The applier does it by itself; a database without subscriptions needs it once in a while';
REVOKE ALL ON FUNCTION outbox.forget_expired() FROM PUBLIC;
