-- Publications: which tables are captured, and how their rows become events.

CREATE TABLE outbox._publication (
	id				integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name			text NOT NULL UNIQUE,
	source			regclass NOT NULL,
	kind			text NOT NULL DEFAULT 'table' CHECK (kind IN ('table', 'outbox')),
	server			text NOT NULL,
	topic			text NOT NULL,
	stream			integer NOT NULL,
	mode			text NOT NULL DEFAULT 'full' CHECK (mode IN ('full', 'key')),
	columns			text[],
	identity		text[] NOT NULL,
	partition_by	text[],
	filter			text,
	event_type		text,
	headers			jsonb,
	with_headers	text[] NOT NULL DEFAULT '{}',
	on_truncate		text NOT NULL DEFAULT 'error' CHECK (on_truncate IN ('error', 'ignore')),
	skip_unchanged	boolean NOT NULL DEFAULT false,
	since			bigint NOT NULL,
	state			text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'paused', 'incomplete')),
	created_at		timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX _publication_source_idx ON outbox._publication (source);
COMMENT ON TABLE outbox._publication IS 'publications; columns: entries "name" or "name AS other", null: all; identity: columns of the unique key; partition_by: columns of the message key, null: the identity; since: the stamp at which capture began, below every captured event; state incomplete: events were refused, the publication needs a new copy';

CREATE FUNCTION outbox._capture() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_capture';
COMMENT ON FUNCTION outbox._capture() IS 'trigger of captured tables, made by outbox.publish: records an event per changed row and publication';

CREATE FUNCTION outbox._refuse_truncate() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_refuse_truncate';
COMMENT ON FUNCTION outbox._refuse_truncate() IS 'trigger of captured tables: TRUNCATE would leave the replicas as they are';

CREATE FUNCTION outbox.emit(topic text, key text, payload text,
							event_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
							server text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_emit_text';
CREATE FUNCTION outbox.emit(topic text, key text, payload jsonb,
							event_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
							server text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_emit_jsonb';
CREATE FUNCTION outbox.emit(topic text, key text, payload bytea,
							event_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
							server text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_emit_bytea';
COMMENT ON FUNCTION outbox.emit(text, text, text, text, jsonb, text) IS 'records an event of the application''s own in this transaction and returns its id; payload null is a tombstone; headers: an object, values become text; server: default pg_outbox.default_server';
COMMENT ON FUNCTION outbox.emit(text, text, jsonb, text, jsonb, text) IS 'records an event of the application''s own in this transaction and returns its id; the payload is sent as JSON text; see emit(text, text, text, ...)';
COMMENT ON FUNCTION outbox.emit(text, text, bytea, text, jsonb, text) IS 'records an event of the application''s own in this transaction and returns its id; the payload is sent as it is; see emit(text, text, text, ...)';
REVOKE ALL ON FUNCTION outbox.emit(text, text, text, text, jsonb, text),
	outbox.emit(text, text, jsonb, text, jsonb, text),
	outbox.emit(text, text, bytea, text, jsonb, text) FROM PUBLIC;
