-- The oracle: what was committed, what is in Kafka and what the replicas have,
-- as plain tables in a server without the extension, and what is wrong with it,
-- as views.  Every row of a view is a fault; test/t/081 sees each of them red.

-- What kcat read; a null value has length -1.
CREATE UNLOGGED TABLE raw (tbl text, part int, off bigint, key text, headers text, len int, value text);

-- From the source.  Lost: a committed change that went with a server which another
-- took the place of, without having had all of it.
CREATE UNLOGGED TABLE history (seq bigint, era text, xid bigint, tbl text, key text, op "char",
	rev bigint, n bigint, content jsonb, lost boolean NOT NULL DEFAULT false);

-- Rows of source and replicas.
CREATE UNLOGGED TABLE image (side text, tbl text, key text, content jsonb);
CREATE UNLOGGED TABLE handled (id bigint, rev bigint);

CREATE TABLE account (id bigint, name text, amount numeric, at timestamptz, rev bigint, n bigint);
CREATE TABLE item (a text, b int, note text, rev bigint, n bigint);
CREATE TABLE doc (id bigint, body text, rev bigint, n bigint);
CREATE TABLE bulk (id bigint, g int, rev bigint, n bigint);

CREATE FUNCTION digest(r jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN r ? 'body' THEN jsonb_set(r, '{body}', coalesce(to_jsonb(md5(r ->> 'body') || ' ' || length(r ->> 'body')), 'null')) ELSE r END
$$;

-- A value as the source's own to_jsonb() writes such a row.
CREATE FUNCTION content_of(tbl text, value text) RETURNS jsonb LANGUAGE sql AS $$
SELECT digest(CASE tbl
	WHEN 'account' THEN to_jsonb(jsonb_populate_record(NULL::account, value::jsonb))
	WHEN 'item' THEN to_jsonb(jsonb_populate_record(NULL::item, value::jsonb))
	WHEN 'doc' THEN to_jsonb(jsonb_populate_record(NULL::doc, value::jsonb))
	WHEN 'bulk' THEN to_jsonb(jsonb_populate_record(NULL::bulk, value::jsonb))
	ELSE value::jsonb END)
$$;

CREATE FUNCTION header(headers text, name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
SELECT substring(headers FROM '(?:^|,)' || name || '=([^,]*)')
$$;

-- Records of Kafka; op is w, d, r for a row that a copy read, and, once in each
-- partition, t for a TRUNCATE and e for the end of a resync.
CREATE UNLOGGED TABLE record (tbl text, part int, off bigint, key text, id bigint, version bigint,
	op "char", era text, xid bigint, content jsonb);

-- What is sent to each partition is there once in each.
CREATE FUNCTION place_of(op "char", part int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN op IN ('t', 'e') THEN part END
$$;

-- The first delivery of each event.
CREATE UNLOGGED TABLE first (LIKE record);
CREATE INDEX first_key ON first (tbl, key, era, xid);
CREATE INDEX history_key ON history (tbl, key, era, xid);
CREATE INDEX history_rev ON history (rev);

CREATE PROCEDURE digest_records() LANGUAGE sql AS $$
TRUNCATE record, first;
ANALYZE history, image, raw;
INSERT INTO record
SELECT tbl, part, off, CASE WHEN header(headers, 'op') IN ('t', 'e') THEN NULL WHEN tbl = 'item' THEN key::jsonb::text ELSE key END,
	header(headers, 'id')::bigint, header(headers, 'version')::bigint,
	CASE WHEN header(headers, 'op') IN ('d', 'r', 't', 'e') THEN header(headers, 'op') ELSE 'w' END::"char",
	header(headers, 'correlation_id'), header(headers, 'txid')::bigint,
	CASE WHEN len >= 0 THEN content_of(tbl, value) END
FROM raw;
ANALYZE record;
INSERT INTO first SELECT DISTINCT ON (tbl, id, place_of(op, part)) * FROM record ORDER BY tbl, id, place_of(op, part), off;
ANALYZE first;
-- A TRUNCATE is the delete of each row that it took, where that row's events are.
INSERT INTO first
SELECT DISTINCT ON (t.tbl, t.id, h.key) t.tbl, t.part, t.off, h.key, t.id, t.version, 'd', t.era, t.xid
FROM first AS t JOIN history AS h ON (h.tbl, h.era, h.xid) = (t.tbl, t.era, t.xid)
	JOIN (SELECT DISTINCT tbl, key, part FROM first WHERE key IS NOT NULL) AS k ON (k.tbl, k.key, k.part) = (h.tbl, h.key, t.part)
WHERE t.op = 't' AND h.op = 't';
-- An emitted event has no header txid, but says which change it is.
UPDATE first SET xid = h.xid FROM history AS h
WHERE first.tbl = 'event' AND h.tbl = 'event' AND h.rev = (first.content ->> 'rev')::bigint AND h.era = first.era;
ANALYZE first;
$$;

-- What each transaction made of each key in the end.
CREATE VIEW expected AS
SELECT DISTINCT ON (tbl, key, era, xid) tbl, key, era, xid, CASE op WHEN 't' THEN 'd' ELSE op END AS op, rev, content, lost,
	max(seq) OVER (PARTITION BY tbl, key, era, xid) AS seq
FROM history ORDER BY tbl, key, era, xid, rev DESC;

-- Changes as they were first delivered, numbered within their key.
CREATE VIEW delivered AS
SELECT *, row_number() OVER (PARTITION BY tbl, key ORDER BY part, off) AS place,
	(content ->> 'rev')::bigint AS rev
FROM first WHERE op IN ('w', 'd');

-- Of each transaction and key what was delivered, and the last of it.
CREATE VIEW delivered_end AS
SELECT DISTINCT ON (tbl, key, era, xid) tbl, key, era, xid, id, op, content, rev, part, off,
	min(place) OVER w AS first_place, max(place) OVER w AS last_place, count(*) OVER w AS events
FROM delivered WINDOW w AS (PARTITION BY tbl, key, era, xid)
ORDER BY tbl, key, era, xid, place DESC;

-- Committed, and not in Kafka.
CREATE VIEW lost AS
SELECT tbl, key, era, xid, seq, rev FROM expected AS e
WHERE NOT lost AND tbl <> 'event' AND NOT EXISTS (
	SELECT FROM first AS f WHERE f.op <> 'r' AND (f.tbl, f.key, f.era, f.xid) = (e.tbl, e.key, e.era, e.xid))
UNION ALL
SELECT tbl, key, era, xid, seq, rev FROM history AS h
WHERE tbl = 'event' AND NOT lost AND NOT EXISTS (
	SELECT FROM first AS f WHERE f.tbl = 'event' AND f.key = h.key AND f.content = h.content);

-- In Kafka, and never committed.  A delete of a key by the transaction must be one, or
-- the key's row must have been gone for a while in it; a row must be one that it wrote; a
-- copied row one that somebody wrote.
CREATE VIEW phantom AS
SELECT f.tbl, f.key, f.era, f.xid, f.id, f.op, f.content FROM first AS f
WHERE f.op = 'w' AND NOT EXISTS (
	SELECT FROM history AS h WHERE (h.tbl, h.key, h.era, h.xid) = (f.tbl, f.key, f.era, f.xid) AND h.content = f.content)
OR f.op = 'd' AND NOT EXISTS (
	SELECT FROM history AS h WHERE (h.tbl, h.key, h.era, h.xid) = (f.tbl, f.key, f.era, f.xid) AND h.op IN ('d', 't'))
OR f.op = 'r' AND NOT EXISTS (
	SELECT FROM history AS h WHERE h.tbl = f.tbl AND h.key = f.key AND h.content = f.content);

-- What a transaction left of a key is not what its last event says.  Of a transaction
-- that was lost a part may have been sent.
CREATE VIEW wrong AS
SELECT e.tbl, e.key, e.era, e.xid, e.op, e.content, d.id, d.op AS delivered_op, d.content AS delivered_content
FROM expected AS e JOIN delivered_end AS d USING (tbl, key, era, xid)
WHERE NOT e.lost AND (e.op <> d.op OR e.content IS DISTINCT FROM d.content);

-- First deliveries of a key not in the order in which its transactions committed, mixed,
-- or with a version below that of an earlier one.
CREATE VIEW disorder AS
SELECT tbl, key, era, xid, id, what FROM (
	SELECT d.*, CASE WHEN d.last_place - d.first_place + 1 <> d.events THEN 'mixed'
			WHEN e.seq < max(e.seq) OVER w THEN 'late' END AS what
	FROM delivered_end AS d JOIN expected AS e USING (tbl, key, era, xid)
	WINDOW w AS (PARTITION BY d.tbl, d.key ORDER BY d.first_place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)) AS x
WHERE what IS NOT NULL
UNION ALL
SELECT tbl, key, era, xid, id, 'version' FROM (
	SELECT *, lag(id) OVER (PARTITION BY tbl, key ORDER BY place) AS before FROM delivered WHERE tbl <> 'event') AS x
WHERE id <= before;

-- Records that were there before.
CREATE VIEW repeated AS
SELECT tbl, id, count(*) - 1 AS times FROM record GROUP BY tbl, id, place_of(op, part) HAVING count(*) > 1;

-- A version with two contents.  A copied row that was being changed has the version at
-- which capture began, not one of its own.
CREATE VIEW reused AS
SELECT tbl, id, count(*) AS contents FROM (
	SELECT DISTINCT tbl, id, op, key, content FROM record) AS x
GROUP BY tbl, id HAVING count(*) > 1;

-- Rows in which a replica and its source differ.
CREATE VIEW stale AS
SELECT coalesce(s.tbl, r.tbl) AS tbl, coalesce(s.key, r.key) AS key, s.content AS source, r.content AS replica
FROM (SELECT * FROM image WHERE side = 'source') AS s
	FULL JOIN (SELECT * FROM image WHERE side = 'replica') AS r ON (s.tbl, s.key) = (r.tbl, r.key)
WHERE s.content IS DISTINCT FROM r.content;

-- Events that the handler saw other than once.
CREATE VIEW handler AS
SELECT coalesce(f.id, h.id) AS id, h.times FROM (SELECT id FROM first WHERE tbl = 'event') AS f
	FULL JOIN (SELECT id, count(*) AS times FROM handled GROUP BY id) AS h USING (id)
WHERE f.id IS NULL OR h.times IS DISTINCT FROM 1;

-- The account itself: it must end with the source's rows, and a row's own counter
-- must have counted what the account says.
CREATE VIEW account_wrong AS
SELECT tbl, key FROM (
	SELECT DISTINCT ON (tbl, key) tbl, key, op, content FROM expected
	WHERE NOT lost AND tbl <> 'event' ORDER BY tbl, key, seq DESC) AS h
	FULL JOIN (SELECT * FROM image WHERE side = 'source') AS s USING (tbl, key)
WHERE CASE WHEN h.op = 'w' THEN h.content END IS DISTINCT FROM s.content
UNION ALL
SELECT tbl, key FROM (
	SELECT tbl, key, n, lag(n) OVER w AS before, lag(op) OVER w AS op_before
	FROM (SELECT *, max(seq) OVER (PARTITION BY tbl, key, era, xid) AS tx FROM history WHERE NOT lost AND op = 'w' AND tbl <> 'event') AS h
	WINDOW w AS (PARTITION BY tbl, key ORDER BY tx, rev)) AS x
WHERE n NOT IN (1, before + 1) AND tbl NOT IN ('account', 'item');
