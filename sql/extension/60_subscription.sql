-- Subscriptions: topics that the applier consumes, and where to.

CREATE TABLE outbox._subscription (
	name text COLLATE "C" PRIMARY KEY,
	id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
	target regclass,
	handler text,
	server text NOT NULL,
	topic text NOT NULL,
	key_columns text[],
	version_column text,
	columns text[],
	start text NOT NULL,
	on_error text NOT NULL CHECK (on_error IN ('dead_letter', 'stop', 'skip')),
	on_data_loss text NOT NULL CHECK (on_data_loss IN ('stop', 'continue')),
	state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'stopped')),
	stopped_sqlstate text,
	stopped_reason text,
	stopped_at timestamptz,
	generation bigint NOT NULL DEFAULT 1,
	starts int NOT NULL DEFAULT 0,
	suspect_partition int,
	suspect_offset bigint,
	suspect_count int NOT NULL DEFAULT 0,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	handler_owner regrole,
	CHECK ((target IS NULL) <> (handler IS NULL))
);
CREATE INDEX _subscription_target_idx ON outbox._subscription (target);
COMMENT ON TABLE outbox._subscription IS 'subscriptions; internal, see view outbox.subscriptions';
COMMENT ON COLUMN outbox._subscription.starts IS 'how often a worker began with it since an event was last applied: many mean that an event kills the worker';
COMMENT ON COLUMN outbox._subscription.id IS 'which subscription it is, for the worker and for dead letters: another one may have had the name before';
COMMENT ON COLUMN outbox._subscription.handler_owner IS 'who owned the handler when it was subscribed: a function of that name that belongs to another role is not called; null for a replica, or if it is not known';
SELECT pg_catalog.pg_extension_config_dump('outbox._subscription', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._subscription_id_seq', '');

CREATE TABLE outbox._offset (
	subscription text COLLATE "C" NOT NULL REFERENCES outbox._subscription ON UPDATE CASCADE ON DELETE CASCADE,
	partition int NOT NULL,
	next_offset bigint NOT NULL,
	last_offset bigint,
	last_time_ms bigint,
	last_id text,
	high_watermark bigint,
	received bigint NOT NULL DEFAULT 0,
	applied bigint NOT NULL DEFAULT 0,
	deleted bigint NOT NULL DEFAULT 0,
	stale bigint NOT NULL DEFAULT 0,
	duplicate bigint NOT NULL DEFAULT 0,
	suppressed bigint NOT NULL DEFAULT 0,
	dead bigint NOT NULL DEFAULT 0,
	parked bigint NOT NULL DEFAULT 0,
	skipped bigint NOT NULL DEFAULT 0,
	lost bigint NOT NULL DEFAULT 0,
	last_at timestamptz,
	last_loss text,
	last_loss_at timestamptz,
	PRIMARY KEY (subscription, partition)
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE outbox._offset IS 'how far each partition was consumed, moved in the transaction that applies the events; internal';
SELECT pg_catalog.pg_extension_config_dump('outbox._offset', '');

-- Written by the applier alone, so that it never waits for somebody who holds a
-- subscription's row; not dumped.
CREATE TABLE outbox._waiting (
	subscription text COLLATE "C" PRIMARY KEY,
	reason text NOT NULL,
	since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE outbox._waiting IS 'subscriptions that cannot go on for now, and why; internal, see view outbox.subscriptions';

CREATE TYPE outbox.event AS (
	subscription text,
	topic text,
	partition int,
	kafka_offset bigint,
	event_time timestamptz,
	id text,
	source text,
	op text,
	type text,
	key text,
	value text,
	headers jsonb
);
COMMENT ON TYPE outbox.event IS
'a record as a handler receives it: where it was (subscription, topic, partition, kafka_offset), its timestamp (null if its producer gave none that is a time), the headers id, source, op and type, key and value as text (null: Kafka''s null; cast them to what they are), and all headers as an object';

CREATE FUNCTION outbox.replicate(target regclass, topic text, name text DEFAULT NULL, key text[] DEFAULT NULL,
		version_column text DEFAULT NULL, start text DEFAULT 'earliest', columns text[] DEFAULT NULL,
		on_error text DEFAULT 'dead_letter', on_data_loss text DEFAULT 'stop', server text DEFAULT NULL)
	RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_replicate';
COMMENT ON FUNCTION outbox.replicate(regclass, text, text, text[], text, text, text[], text, text, text) IS
'keep a table as a replica of what a topic''s events say, and return the subscription''s name. name: by default the table''s. key: columns of a unique index, by default the primary key. version_column: of type bigint, by default "version". start: "earliest", "latest", a time, or a JSON object of partition and offset; partitions that are added later start at their beginning. columns: those that events have, by default all. on_error: "dead_letter", "stop" or "skip" what can never be applied. on_data_loss: "stop" or "continue" when the broker no longer has what was not yet read. server: by default that of pg_outbox.default_server. Called again it makes the subscription what the call says, and runs it if it had stopped. The caller must own the table and may use the server; events are applied with the rights of the table''s owner';

CREATE FUNCTION outbox.handle(handler regprocedure, topic text, name text DEFAULT NULL, start text DEFAULT 'earliest',
		on_error text DEFAULT 'dead_letter', on_data_loss text DEFAULT 'stop', server text DEFAULT NULL)
	RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_handle';
COMMENT ON FUNCTION outbox.handle(regprocedure, text, text, text, text, text, text) IS
'call a function for each event of a topic, in one transaction with the event''s offset and its entry in the inbox, and return the subscription''s name. The function takes one outbox.event; what it returns is ignored; it runs with its owner''s rights, for at most pg_outbox.handler_timeout. An event that fails is set aside, and later events with the same key wait for it. A function of that name that belongs to another role than when it was subscribed is not called: the subscription stops, until a superuser or a member of both roles calls outbox.handle() again. Parameters as of outbox.replicate(); the default of name is the function''s';

CREATE FUNCTION outbox.unsubscribe(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_unsubscribe';
COMMENT ON FUNCTION outbox.unsubscribe(text) IS 'end a subscription and forget its offsets; the target stays as it is, and so do its dead letters: they are tried no more, those of a table come back when it is replicated under the same name again, the others are the extension owner''s to look at and discard';

CREATE FUNCTION outbox.seek(name text, start text, partition int DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_seek';
COMMENT ON FUNCTION outbox.seek(text, text, int) IS
'go on reading elsewhere: start as of outbox.replicate(), or the decimal number of an offset if a partition, which must be one that is read already, is named. Runs the subscription if it had stopped. A replica ignores what it has seen already';

CREATE FUNCTION outbox.pause_subscription(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_pause_subscription';
COMMENT ON FUNCTION outbox.pause_subscription(text) IS 'stop consuming for one subscription until outbox.resume_subscription()';

CREATE FUNCTION outbox.resume_subscription(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_resume_subscription';
COMMENT ON FUNCTION outbox.resume_subscription(text) IS 'go on with a subscription that was paused, or that stopped and whose reason is gone, where it stood';

CREATE VIEW outbox.subscriptions AS
SELECT s.name, s.target, s.handler, s.server, s.topic, s.key_columns AS key, coalesce(s.version_column, 'version') AS version_column,
	s.columns, s.start, s.on_error, s.on_data_loss, s.state, s.stopped_sqlstate, s.stopped_reason, s.stopped_at, s.created_at,
	CASE WHEN s.state = 'running' THEN w.reason END AS waiting_for
FROM outbox._subscription s LEFT JOIN outbox._waiting w ON w.subscription = s.name;
COMMENT ON VIEW outbox.subscriptions IS 'subscriptions and their settings, see outbox.replicate() and outbox.handle(); state: running, paused (by a person) or stopped (with the reason); waiting_for: why one that runs cannot go on for now, such as a lock that is held, or a topic that is missing; it tries again by itself';

REVOKE ALL ON FUNCTION outbox.replicate(regclass, text, text, text[], text, text, text[], text, text, text),
	outbox.handle(regprocedure, text, text, text, text, text, text),
	outbox.unsubscribe(text), outbox.seek(text, text, int),
	outbox.pause_subscription(text), outbox.resume_subscription(text) FROM PUBLIC;
GRANT SELECT ON outbox.subscriptions TO pg_monitor;
