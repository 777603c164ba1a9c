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
CREATE FUNCTION settled() RETURNS bigint LANGUAGE sql VOLATILE AS $$
	SELECT coalesce(max(events), 0)
	FROM (SELECT server, events FROM outbox._position_0 UNION ALL SELECT server, events FROM outbox._position_1) p
	WHERE server = 'kafka'
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

-- What the relay had done and used at a time: processor time of all its
-- threads in seconds (clock ticks of 1/100 s), resident memory in bytes, without
-- the pages of shared_buffers that it happened to touch.
CREATE FUNCTION private_bytes(pid int) RETURNS bigint LANGUAGE sql VOLATILE AS $$
	SELECT sum(kb[1]::bigint) * 1024
	FROM regexp_matches(pg_read_file(format('/proc/%s/status', pid)), 'Rss(?:Anon|File):\s+(\d+)', 'g') kb
$$;

CREATE UNLOGGED TABLE sample (at float8, settled bigint, cpu float8, rss bigint);

CREATE PROCEDURE take_sample() LANGUAGE plpgsql AS $$
DECLARE
	relay int := (SELECT pid FROM outbox._workers() WHERE worker = 'relay');
	stat text[];
BEGIN
	IF relay IS NULL THEN
		RETURN;
	END IF;
	stat := string_to_array(regexp_replace(pg_read_file(format('/proc/%s/stat', relay)), '^.*\) ', ''), ' ');
	INSERT INTO sample VALUES (extract(epoch FROM clock_timestamp()), settled(),
		(stat[12]::float8 + stat[13]::float8) / 100, private_bytes(relay));
END
$$;

-- Wait until that many events are settled, taking samples.
CREATE PROCEDURE watch(goal bigint) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + interval '90 s';
BEGIN
	WHILE settled() < goal LOOP
		IF clock_timestamp() > until THEN
			RAISE EXCEPTION 'only % of % events were settled', settled(), goal;
		END IF;
		CALL take_sample();
		COMMIT;
		PERFORM pg_sleep(0.05);
	END LOOP;
	CALL take_sample();
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
