-- bench.sql: tables and routines of bench.pl, for a database of its own.

-- Three tables alike; how thin and full are captured is said in bench.pl.
-- A row of "full" is about 200 bytes as JSON.  Room on the pages keeps the
-- plain update at its cheapest (HOT), so that nothing hides the capture's cost.
CREATE TABLE plain (
	id bigint PRIMARY KEY,
	n int NOT NULL,
	email text NOT NULL,
	note text NOT NULL
) WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE TABLE thin (LIKE plain INCLUDING ALL) WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE TABLE "full" (LIKE plain INCLUDING ALL) WITH (fillfactor = 45, autovacuum_enabled = off);

-- Processor time of this backend in nanoseconds.
CREATE FUNCTION cpu_ns() RETURNS bigint LANGUAGE sql VOLATILE AS
$$SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::bigint$$;

-- Events of a server that the relay has settled since the log began.
CREATE FUNCTION settled(of_server text DEFAULT 'kafka') RETURNS bigint LANGUAGE sql VOLATILE AS $$
	SELECT coalesce(max(events), 0)
	FROM (SELECT server, events FROM outbox._position_0 UNION ALL SELECT server, events FROM outbox._position_1) p
	WHERE server = of_server
$$;

-- Is something in the log that the relay's position does not cover?  (Settled
-- events stay in the log until their segment is emptied.)
CREATE FUNCTION unsettled() RETURNS boolean LANGUAGE sql VOLATILE AS $$
	SELECT EXISTS (
		SELECT FROM (SELECT xid FROM outbox._log_0 UNION ALL SELECT xid FROM outbox._log_1
			UNION ALL SELECT xid FROM outbox._log_2) l
		WHERE pg_visible_in_snapshot(l.xid, (SELECT base
			FROM (SELECT seq, base FROM outbox._position_0 WHERE server = 'kafka'
				UNION ALL SELECT seq, base FROM outbox._position_1 WHERE server = 'kafka') p
			ORDER BY seq DESC LIMIT 1)) IS NOT TRUE)
$$;

-- Processor time of all threads of a process in seconds; the scheduler counts
-- nanoseconds.
CREATE FUNCTION cpu_seconds(pid int) RETURNS float8 LANGUAGE sql VOLATILE AS $$
	SELECT sum(split_part(pg_read_file(format('/proc/%s/task/%s/schedstat', pid, thread), 0, 100, true), ' ', 1)::float8) / 1e9
	FROM pg_ls_dir(format('/proc/%s/task', pid)) thread
$$;

-- Resident memory of a process in bytes, without the pages of shared_buffers
-- that it happened to touch.
CREATE FUNCTION private_bytes(pid int) RETURNS bigint LANGUAGE sql VOLATILE AS $$
	SELECT sum(kb[1]::bigint) * 1024
	FROM regexp_matches(pg_read_file(format('/proc/%s/status', pid)), 'Rss(?:Anon|File):\s+(\d+)', 'g') kb
$$;

-- What a worker had done and used at a time.
CREATE UNLOGGED TABLE sample (at float8, done bigint, cpu float8, rss bigint);

CREATE PROCEDURE take_sample(of_worker text, done bigint) LANGUAGE plpgsql AS $$
DECLARE
	worker_pid int := (SELECT pid FROM outbox._workers() WHERE worker = of_worker);
BEGIN
	IF worker_pid IS NOT NULL THEN
		INSERT INTO sample VALUES (extract(epoch FROM clock_timestamp()), done, cpu_seconds(worker_pid),
			private_bytes(worker_pid));
	END IF;
END
$$;

-- Wait until the relay has settled that many events, taking samples.
CREATE PROCEDURE watch(goal bigint) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + interval '90 s';
BEGIN
	WHILE settled() < goal LOOP
		IF clock_timestamp() > until THEN
			RAISE EXCEPTION 'only % of % events were settled', settled(), goal;
		END IF;
		CALL take_sample('relay', settled());
		COMMIT;
		PERFORM pg_sleep(0.05);
	END LOOP;
	CALL take_sample('relay', settled());
END
$$;

-- The same for a subscription.
CREATE FUNCTION received(of_subscription text) RETURNS bigint LANGUAGE sql VOLATILE AS $$
	SELECT coalesce(sum(received), 0) FROM outbox._offset WHERE subscription = of_subscription
$$;

CREATE PROCEDURE watch_subscription(name text, goal bigint) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + interval '90 s';
BEGIN
	WHILE received(name) < goal LOOP
		IF clock_timestamp() > until THEN
			RAISE EXCEPTION 'only % of % events were received', received(name), goal;
		END IF;
		CALL take_sample('applier', received(name));
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
	CALL take_sample('applier', received(name));
END
$$;

-- Seconds from the start of the relay's process to its last settlement.
CREATE FUNCTION drain_seconds() RETURNS float8 LANGUAGE sql VOLATILE AS $$
	SELECT extract(epoch FROM (SELECT max(at)
		FROM (SELECT at, events FROM outbox._position_0 WHERE server = 'kafka'
			UNION ALL SELECT at, events FROM outbox._position_1 WHERE server = 'kafka') p
		WHERE events = settled()) - (SELECT started_at FROM outbox._workers() WHERE worker = 'relay'))
$$;

-- Single-row updates, each a transaction of its own.
CREATE PROCEDURE update_singly(target regclass, times int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. times LOOP
		EXECUTE format('UPDATE %s SET n = n + 1 WHERE id = $1', target) USING i;
		COMMIT;
	END LOOP;
END
$$;

-- What goes by way of Kafka into a replica: the number of partitions is that of
-- the topic.  Compressed, so that the mock broker, which keeps 5 MB of a
-- partition, keeps all of it.
CREATE TABLE feed1 (id bigint PRIMARY KEY, name text NOT NULL, amount numeric NOT NULL, note text)
	WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE TABLE feed4 (LIKE feed1 INCLUDING ALL) WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE TABLE fed1 (LIKE feed1 INCLUDING ALL, version bigint NOT NULL) WITH (autovacuum_enabled = off);
CREATE TABLE fed4 (LIKE fed1 INCLUDING ALL) WITH (autovacuum_enabled = off);
INSERT INTO feed1 SELECT i, 'name ' || i, i / 100.0, repeat('n', 128) FROM generate_series(1, 20000) i;
INSERT INTO feed4 TABLE feed1;

-- Batches of 1,000 events: as a consumer has them, and taken apart already.
CREATE TABLE replica (id bigint PRIMARY KEY, name text NOT NULL, amount numeric NOT NULL, note text, version bigint NOT NULL)
	WITH (autovacuum_enabled = off);
CREATE TABLE by_hand (LIKE replica INCLUDING ALL) WITH (autovacuum_enabled = off);
CREATE TABLE batch_events (no int PRIMARY KEY, keys text[], payloads text[], headers jsonb[]);
CREATE TABLE batch_columns (no int PRIMARY KEY, ids bigint[], names text[], amounts numeric[], notes text[], versions bigint[]);

CREATE VIEW generated AS
SELECT i / 1000 AS no, i * 7919::bigint % 20011 AS id, 'name ' || i AS name, i / 100.0 AS amount,
	repeat(md5(i::text), 4) AS note, i + 1000::bigint AS version
FROM generate_series(0, current_setting('bench.batches')::int * 1000 - 1) i;

CREATE PROCEDURE make_batches() LANGUAGE sql AS $$
	INSERT INTO batch_columns
	SELECT no, array_agg(id), array_agg(name), array_agg(amount), array_agg(note), array_agg(version)
	FROM generated GROUP BY no;
	INSERT INTO batch_events
	SELECT no, array_agg(id::text),
		array_agg(json_build_object('id', id, 'name', name, 'amount', amount, 'note', note)::text),
		array_agg(jsonb_build_object('id', version::text, 'op', 'u'))
	FROM generated GROUP BY no
$$;

CREATE PROCEDURE apply_ours() LANGUAGE plpgsql AS $$
DECLARE
	b batch_events;
	batches int := (SELECT count(*) FROM batch_events);
BEGIN
	FOR i IN 0 .. batches - 1 LOOP
		SELECT * INTO b FROM batch_events WHERE no = i;
		PERFORM outbox.apply_batch('replica', b.keys, b.payloads, b.headers);
		COMMIT;
	END LOOP;
END
$$;

-- The yardstick: typed columns, nothing to parse, no word on what became of an
-- event, no deletes.
CREATE PROCEDURE apply_by_hand() LANGUAGE plpgsql AS $$
DECLARE
	b batch_columns;
	batches int := (SELECT count(*) FROM batch_columns);
BEGIN
	FOR i IN 0 .. batches - 1 LOOP
		SELECT * INTO b FROM batch_columns WHERE no = i;
		INSERT INTO by_hand AS t (id, name, amount, note, version)
		SELECT * FROM unnest(b.ids, b.names, b.amounts, b.notes, b.versions)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, amount = excluded.amount, note = excluded.note,
			version = excluded.version
		WHERE t.version < excluded.version;
		COMMIT;
	END LOOP;
END
$$;

-- The same, given what a consumer gives: JSON.
CREATE PROCEDURE apply_by_hand_json() LANGUAGE plpgsql AS $$
DECLARE
	b batch_events;
	batches int := (SELECT count(*) FROM batch_events);
BEGIN
	FOR i IN 0 .. batches - 1 LOOP
		SELECT * INTO b FROM batch_events WHERE no = i;
		INSERT INTO by_hand AS t (id, name, amount, note, version)
		SELECT r.id, r.name, r.amount, r.note, (e.header ->> 'id')::bigint
		FROM unnest(b.payloads, b.headers) AS e(payload, header),
			json_to_record(e.payload::json) AS r(id bigint, name text, amount numeric, note text)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, amount = excluded.amount, note = excluded.note,
			version = excluded.version
		WHERE t.version < excluded.version;
		COMMIT;
	END LOOP;
END
$$;
