-- The functions of outbox_test_kafka.c, in schema tk.
CREATE SCHEMA tk;

CREATE FUNCTION tk.register_exit() RETURNS void
AS 'outbox_test_kafka', 'test_register_exit' LANGUAGE C STRICT;
CREATE FUNCTION tk.producer_open(VARIADIC settings text[]) RETURNS void
AS 'outbox_test_kafka', 'test_producer_open' LANGUAGE C STRICT;
CREATE FUNCTION tk.send(topic text, key text, value text, headers text[] DEFAULT NULL,
	tag bigint DEFAULT 0, timestamp_ms bigint DEFAULT NULL) RETURNS text
AS 'outbox_test_kafka', 'test_producer_send' LANGUAGE C;
CREATE FUNCTION tk.burst(topic text, key text, first bigint, last bigint, size integer) RETURNS text
AS 'outbox_test_kafka', 'test_producer_burst' LANGUAGE C STRICT;
CREATE FUNCTION tk.reports(wanted integer, timeout_ms integer DEFAULT 20000,
	OUT tag bigint, OUT fault text, OUT partition integer, OUT "offset" bigint, OUT error text)
RETURNS SETOF record
AS 'outbox_test_kafka', 'test_producer_reports' LANGUAGE C STRICT;
CREATE FUNCTION tk.bench(topic text, messages integer, size integer, per_second integer) RETURNS text
AS 'outbox_test_kafka', 'test_producer_bench' LANGUAGE C STRICT;
CREATE FUNCTION tk.state(wanted boolean, timeout_ms integer DEFAULT 20000) RETURNS text
AS 'outbox_test_kafka', 'test_producer_state' LANGUAGE C STRICT;
-- the state once it matches, or an error
CREATE FUNCTION tk.await(pattern text, OUT state text) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + '60 s';
BEGIN
	LOOP
		state := tk.state(true, 0);
		EXIT WHEN state ~ pattern;
		IF clock_timestamp() > until THEN
			RAISE 'the producer''s state is "%"', state;
		END IF;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;
-- who failed, and which
CREATE FUNCTION tk.summary(wanted integer, timeout_ms integer DEFAULT 20000) RETURNS text
LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s..%s', fault, lo, hi), ', ' ORDER BY lo)
	FROM (SELECT fault, min(tag) AS lo, max(tag) AS hi FROM tk.reports(wanted, timeout_ms)
		GROUP BY fault) s
$$;
-- what the producer says of a topic once brokers have answered
CREATE FUNCTION tk.refresh(topic text, timeout_ms integer DEFAULT 20000) RETURNS text
AS 'outbox_test_kafka', 'test_producer_refresh' LANGUAGE C STRICT;
-- how many partitions the producer finds, or why it cannot tell
CREATE FUNCTION tk.copies(topic text) RETURNS text
AS 'outbox_test_kafka', 'test_producer_partitions' LANGUAGE C STRICT;
CREATE FUNCTION tk.producer_close(timeout_ms integer DEFAULT 1000) RETURNS void
AS 'outbox_test_kafka', 'test_producer_close' LANGUAGE C STRICT;

CREATE FUNCTION tk.consumer_open(settings text[], group_id text) RETURNS void
AS 'outbox_test_kafka', 'test_consumer_open' LANGUAGE C STRICT;
CREATE FUNCTION tk.partitions(topic text, timeout_ms integer DEFAULT 20000) RETURNS text
AS 'outbox_test_kafka', 'test_consumer_partitions' LANGUAGE C STRICT;
CREATE FUNCTION tk.offsets(topic text, partitions integer, time_ms bigint) RETURNS text
AS 'outbox_test_kafka', 'test_consumer_offsets' LANGUAGE C STRICT;
CREATE FUNCTION tk.assign(topic text, offsets text[]) RETURNS void
AS 'outbox_test_kafka', 'test_consumer_assign' LANGUAGE C STRICT;
-- what: pause, resume, watermark, or an offset to seek to
CREATE FUNCTION tk.control(what text, topic text, partition integer) RETURNS bigint
AS 'outbox_test_kafka', 'test_consumer_control' LANGUAGE C STRICT;
CREATE FUNCTION tk.read(wanted integer, timeout_ms integer DEFAULT 20000,
	OUT kind text, OUT partition integer, OUT "offset" bigint, OUT timestamp_ms bigint,
	OUT key text, OUT value text, OUT headers text, OUT error text)
RETURNS SETOF record
AS 'outbox_test_kafka', 'test_consumer_read' LANGUAGE C STRICT;
CREATE FUNCTION tk.commit(topic text, offsets text[]) RETURNS void
AS 'outbox_test_kafka', 'test_consumer_commit' LANGUAGE C STRICT;
CREATE FUNCTION tk.consumer_close() RETURNS void
AS 'outbox_test_kafka', 'test_consumer_close' LANGUAGE C STRICT;
