-- Events set aside, in either direction.

CREATE TABLE outbox._dead_letter (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	direction text NOT NULL CHECK (direction IN ('in', 'out')),
	name text,
	server text,
	topic text NOT NULL,
	partition int,
	kafka_offset bigint,
	key bytea,
	value bytea,
	header_names text[] NOT NULL,
	header_values bytea[] NOT NULL,
	event_time timestamptz,
	identity text COLLATE "C",
	event_id bigint,
	target oid,
	sqlstate text NOT NULL,
	message text NOT NULL,
	detail text,
	context text,
	state text NOT NULL CHECK (state IN ('parked', 'dead', 'retry', 'done', 'discarded')),
	attempts int NOT NULL DEFAULT 0,
	first_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	last_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	next_attempt_at timestamptz,
	reason text
);
CREATE INDEX _dead_letter_open_idx ON outbox._dead_letter (name, identity, id)
	WHERE state IN ('parked', 'dead', 'retry');
COMMENT ON TABLE outbox._dead_letter IS 'events set aside; internal, see view outbox.dead_letters';
COMMENT ON COLUMN outbox._dead_letter.state IS 'parked: tried again by itself; dead: waits for a person; retry: a person asked for it to be driven again; done: it went through since; discarded: given up, with a reason';
SELECT pg_catalog.pg_extension_config_dump('outbox._dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._dead_letter_id_seq', '');
