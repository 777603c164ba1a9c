-- The guard against a plain one: random events, singly and in batches, must end
-- alike and be judged alike.  The seed is printed; set it to repeat a run.
\if :{?seed}
\else
SELECT (random() * 1000000)::int AS seed \gset
\endif
\echo '# seed' :seed
BEGIN;
SET client_min_messages = warning;
SELECT plan(10);
SELECT setseed(:seed / 1000000.0);

CREATE TABLE single (a int, b text, payload text, version bigint NOT NULL, PRIMARY KEY (a, b));
CREATE TABLE batched (LIKE single INCLUDING ALL);
CREATE TABLE plain (LIKE single INCLUDING ALL);
CREATE TABLE plain_deleted (a int, b text, version bigint NOT NULL, PRIMARY KEY (a, b));

-- One event by the book: look, compare, write.
CREATE FUNCTION plain_apply(k_a int, k_b text, new_payload text, new_version bigint, is_delete boolean)
	RETURNS outbox.apply_result LANGUAGE plpgsql AS $$
DECLARE
	known bigint;
BEGIN
	SELECT max(v) INTO known FROM (
		SELECT p.version FROM plain p WHERE p.a = k_a AND p.b = k_b
		UNION ALL SELECT d.version FROM plain_deleted d WHERE d.a = k_a AND d.b = k_b) AS u(v);
	IF known = new_version THEN
		RETURN 'duplicate';
	ELSIF known > new_version THEN
		RETURN 'stale';
	END IF;
	DELETE FROM plain p WHERE p.a = k_a AND p.b = k_b;
	DELETE FROM plain_deleted d WHERE d.a = k_a AND d.b = k_b;
	IF is_delete THEN
		INSERT INTO plain_deleted VALUES (k_a, k_b, new_version);
		RETURN 'deleted';
	END IF;
	INSERT INTO plain VALUES (k_a, k_b, new_payload, new_version);
	RETURN 'applied';
END $$;

-- A version belongs to one event: the same again is a repetition.
CREATE TABLE events AS
WITH versions AS MATERIALIZED (
	SELECT v, (random() * 6)::int AS a, (ARRAY['x', 'y,', '\', 'é"'])[1 + floor(random() * 4)::int] AS b,
		random() < 0.3 AS is_delete, md5(random()::text) AS payload
	FROM generate_series(1, 1500) v
), deliveries AS MATERIALIZED (
	SELECT 1 + floor(random() * 1500)::int AS v, n FROM generate_series(1, 4000) n
)
SELECT n, v AS version, a, b, is_delete, payload, json_build_object('a', a, 'b', b)::text AS key,
	CASE WHEN NOT is_delete THEN json_build_object('b', b, 'payload', payload, 'a', a)::text END AS value,
	jsonb_build_object('id', v::text, 'op', CASE WHEN is_delete THEN 'd' ELSE 'u' END) AS headers,
	n / 500 * 10000 + n / (1 + 40 * (n / 500 % 2)) AS batch
FROM deliveries JOIN versions USING (v);

CREATE TABLE judged AS
SELECT n, plain_apply(a, b, payload, version, is_delete) AS plain, outbox.apply('single', key, value, headers) AS single
FROM (SELECT * FROM events ORDER BY n) e;
SELECT is((SELECT count(*) FROM judged), 4000::bigint, 'every event was judged');
SELECT is((SELECT count(*) FROM judged WHERE plain <> single), 0::bigint, 'each as by the book');
SELECT is((SELECT count(DISTINCT plain) FROM judged), 4::bigint, 'in all four ways');
SELECT results_eq('SELECT * FROM single ORDER BY a, b', 'SELECT * FROM plain ORDER BY a, b', 'the rows are the same');
SELECT results_eq(
	$$SELECT version FROM outbox._tombstone WHERE target = 'single'::regclass ORDER BY 1$$,
	'SELECT version FROM plain_deleted ORDER BY 1', 'the same is remembered of deleted keys');

CREATE TABLE judged_batches AS
SELECT batch, r.ordinal, e.ns[r.ordinal] AS n, r.result
FROM (SELECT batch, array_agg(n ORDER BY n) AS ns, array_agg(key ORDER BY n) AS keys, array_agg(value ORDER BY n) AS payloads,
		array_agg(headers ORDER BY n) AS headers FROM events GROUP BY batch ORDER BY min(n)) e
	CROSS JOIN LATERAL outbox.apply_batch('batched', e.keys, e.payloads, e.headers) r;
SELECT is((SELECT count(*) FROM judged_batches), 4000::bigint, 'every event of a batch was judged');
SELECT results_eq('SELECT * FROM batched ORDER BY a, b', 'SELECT * FROM plain ORDER BY a, b', 'batches end in the same rows');
SELECT results_eq(
	$$SELECT version FROM outbox._tombstone WHERE target = 'batched'::regclass ORDER BY 1$$,
	'SELECT version FROM plain_deleted ORDER BY 1', 'and the same tombstones');
-- What took effect one by one, but was overtaken in its own batch, is stale there.
SELECT is((SELECT count(*) FROM judged j JOIN judged_batches b USING (n)
	WHERE b.result IN ('applied', 'deleted') AND j.plain <> b.result), 0::bigint, 'nothing takes effect in a batch that would not alone');
SELECT is((SELECT count(*) FROM judged j JOIN judged_batches b USING (n)
	WHERE j.plain = 'stale' AND b.result <> 'stale'), 0::bigint, 'what is stale alone is stale in a batch');
SELECT * FROM finish();
ROLLBACK;
