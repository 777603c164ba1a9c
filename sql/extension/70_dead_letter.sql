-- Events set aside, in either direction.

CREATE TABLE outbox._dead_letter (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	direction text NOT NULL CHECK (direction IN ('in', 'out')),
	name text,
	subscription bigint,
	server text,
	topic text NOT NULL,
	partition int,
	kafka_offset bigint,
	key bytea,
	value bytea,
	header_names bytea[] NOT NULL,
	header_values bytea[] NOT NULL,
	event_time timestamptz,
	identity text COLLATE "C",
	event_id bigint,
	target regclass,
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
CREATE INDEX _dead_letter_open_idx ON outbox._dead_letter (subscription, identity, id)
	WHERE state IN ('parked', 'dead', 'retry');
COMMENT ON TABLE outbox._dead_letter IS 'events set aside; internal, see view outbox.dead_letters';
COMMENT ON COLUMN outbox._dead_letter.subscription IS 'id of the subscription that set it aside, which may have ended; null: direction out';
COMMENT ON COLUMN outbox._dead_letter.state IS 'parked: tried again by itself; dead: waits for a person; retry: a person asked for it to be driven again; done: it went through since; discarded: given up, with a reason';
SELECT pg_catalog.pg_extension_config_dump('outbox._dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('outbox._dead_letter_id_seq', '');

CREATE VIEW outbox.dead_letters AS
SELECT id, direction, name, state, topic, partition, kafka_offset, key, value,
	(SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(pg_catalog.encode(h.name, 'escape'), pg_catalog.encode(h.value, 'escape')) ORDER BY h.n), '[]')
		FROM ROWS FROM (pg_catalog.unnest(header_names), pg_catalog.unnest(header_values)) WITH ORDINALITY AS h(name, value, n)) AS headers,
	event_time, event_id, server, sqlstate, message, detail, context, attempts, first_at, last_at, next_attempt_at, reason
FROM outbox._dead_letter;
COMMENT ON VIEW outbox.dead_letters IS
'events that were set aside, with key and value as they came and the error. direction: in (a subscription could not apply it) or out (the broker will not take it); name: of the subscription or publication; headers: pairs, bytes that are no ASCII escaped; state: parked = waits for another event and is tried again by itself, dead = waits for a person, retry = is about to be tried again, done = went through since, discarded = given up. See outbox.redrive(), edit() and discard()';

CREATE FUNCTION outbox.redrive(letter bigint) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_redrive';
COMMENT ON FUNCTION outbox.redrive(bigint) IS 'try a dead or parked letter again; what becomes of it shows in outbox.dead_letters. A replica ignores it if something newer is known of the key. An outgoing one is recorded in the event log again, with the headers it had, and is done by that; if the broker refuses it again that makes another letter';

CREATE FUNCTION outbox.redrive_all(name text) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_redrive_all';
COMMENT ON FUNCTION outbox.redrive_all(text) IS 'try all dead and parked letters of a subscription, or of a topic that events could not be sent to, again, and return how many there are';

CREATE FUNCTION outbox.edit(letter bigint, value text, key text DEFAULT NULL, headers jsonb DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_edit';
COMMENT ON FUNCTION outbox.edit(bigint, text, text, jsonb) IS 'mend a dead or parked letter: value replaces the value (null: Kafka''s null), key and headers (an object of texts) replace theirs unless null. It is not tried again before outbox.redrive()';

CREATE FUNCTION outbox.discard(letter bigint, reason text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_discard';
COMMENT ON FUNCTION outbox.discard(bigint, text) IS 'give a dead or parked letter up, for a reason that is kept; events that waited for it go on';

REVOKE ALL ON FUNCTION outbox.redrive(bigint), outbox.redrive_all(text), outbox.edit(bigint, text, text, jsonb),
	outbox.discard(bigint, text) FROM PUBLIC;
