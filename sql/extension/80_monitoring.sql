-- What is going on: status, the log, figures.

CREATE FUNCTION outbox._positions(OUT server text, OUT base pg_snapshot, OUT target pg_snapshot,
								  OUT stamp bigint, OUT id bigint, OUT events bigint, OUT at timestamptz)
	RETURNS SETOF record
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
SELECT DISTINCT ON (p.server) p.server, p.base, p.target, p.stamp, p.id, p.events, p.at
FROM (SELECT * FROM outbox._position_0 UNION ALL SELECT * FROM outbox._position_1) AS p
ORDER BY p.server, p.seq DESC
$$;
COMMENT ON FUNCTION outbox._positions() IS 'where the relay stands for each server';
REVOKE ALL ON FUNCTION outbox._positions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._positions() TO pg_monitor;

-- A row of the log counts for every server that has not passed it: with
-- several servers the backlog of each is an upper bound.
CREATE FUNCTION outbox._backlog(OUT server text, OUT events bigint, OUT oldest timestamptz)
	RETURNS SETOF record
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
WITH r AS MATERIALIZED (SELECT * FROM outbox._log_rows() WHERE events > 0)
SELECT p.server, coalesce(pg_catalog.sum(r.events), 0)::bigint, pg_catalog.min(r.occurred_at)
FROM outbox._positions() AS p LEFT JOIN r
	ON NOT pg_catalog.pg_visible_in_snapshot(r.xid, p.base)
	AND (p.target IS NULL OR NOT pg_catalog.pg_visible_in_snapshot(r.xid, p.target)
		OR coalesce(r.commit_stamp, r.id) >= p.stamp)
	AND (p.id = 0 OR r.commit_stamp IS DISTINCT FROM p.stamp OR r.id > p.id)
GROUP BY p.server
$$;
COMMENT ON FUNCTION outbox._backlog() IS 'events in the log that each server''s relay has not settled; reads the heads of the log''s rows, so it takes about a second for a million transactions';
REVOKE ALL ON FUNCTION outbox._backlog() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._backlog() TO pg_monitor;

-- A segment is emptied only while nobody has a lock on it.  Who writes to the
-- current one is in nobody's way.  Segments come first: to ask for the size of
-- any other table that is locked would be to wait for it.
CREATE FUNCTION outbox._log_usage(OUT bytes bigint, OUT limit_bytes bigint, OUT held_by text)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
WITH s AS MATERIALIZED (
	SELECT t.relid FROM outbox._log_current AS c CROSS JOIN generate_series(0, 2) AS n
		CROSS JOIN LATERAL to_regclass('outbox._log_' || n) AS t (relid)
	WHERE n <> c.last_value % 3 AND pg_relation_size(t.relid) > 0)
SELECT u.bytes, u.limit_bytes, (
	SELECT string_agg(DISTINCT coalesce('process ' || l.pid, format('prepared transaction "%s"', x.gid)), ', ')
	FROM s JOIN pg_locks AS l ON l.relation = s.relid
		LEFT JOIN (pg_locks AS t JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid)
			ON l.pid IS NULL AND t.pid IS NULL AND t.virtualtransaction = l.virtualtransaction
	WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
		AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
		AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = l.pid AND a.backend_type ^@ 'pg_outbox'))
FROM outbox._log_space() AS u
$$;
COMMENT ON FUNCTION outbox._log_usage() IS 'bytes that the event log takes, and at which new events are refused; who has locks on segments that writers have left';
REVOKE ALL ON FUNCTION outbox._log_usage() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox._log_usage() TO pg_monitor;

-- Where counters stood when stat_reset() was called.
CREATE TABLE outbox._reset_server (
	server text PRIMARY KEY,
	settled_events bigint NOT NULL,
	at timestamptz NOT NULL
);
COMMENT ON TABLE outbox._reset_server IS 'what outbox.stat_servers subtracts';
CREATE TABLE outbox._reset_topic (
	server text NOT NULL,
	topic text NOT NULL,
	delivered_count bigint NOT NULL,
	delivered_bytes bigint NOT NULL,
	parked_count bigint NOT NULL,
	dead_count bigint NOT NULL,
	at timestamptz NOT NULL,
	PRIMARY KEY (server, topic)
);
COMMENT ON TABLE outbox._reset_topic IS 'what outbox.stat_topics subtracts';
-- Goes with the offsets, whose counters begin anew where they are deleted.
CREATE TABLE outbox._reset_subscription (
	subscription text COLLATE "C" NOT NULL,
	partition int NOT NULL,
	received bigint NOT NULL,
	applied bigint NOT NULL,
	deleted bigint NOT NULL,
	stale bigint NOT NULL,
	duplicate bigint NOT NULL,
	suppressed bigint NOT NULL,
	dead bigint NOT NULL,
	parked bigint NOT NULL,
	skipped bigint NOT NULL,
	lost bigint NOT NULL,
	at timestamptz NOT NULL,
	PRIMARY KEY (subscription, partition),
	FOREIGN KEY (subscription, partition) REFERENCES outbox._offset ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE outbox._reset_subscription IS 'what outbox.stat_subscriptions subtracts';
SELECT pg_catalog.pg_extension_config_dump('outbox._reset_subscription', '');

CREATE FUNCTION outbox.stat_reset(kind text DEFAULT NULL, name text DEFAULT NULL, server text DEFAULT NULL)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'outbox_stat_reset';
COMMENT ON FUNCTION outbox.stat_reset(text, text, text) IS
'have counters begin anew at 0 in outbox.stat_servers, stat_topics and stat_subscriptions, whose stats_reset says when: of one kind (server, topic or subscription), of one by its name, of a topic on one server; by default all. Like any change it can be rolled back, and no worker waits for it. Errors: 22004 for a name without kind, 22023 for another kind or a server with one that is not topic, 42704 if nothing of that name is counted';
REVOKE ALL ON FUNCTION outbox.stat_reset(text, text, text) FROM PUBLIC;

CREATE VIEW outbox.stat_servers AS
SELECT p.server, p.events - coalesce(r.settled_events, 0) AS settled_events, p.at AS last_settled_at,
	b.events AS backlog_events, b.oldest AS oldest_event_at,
	extract(epoch FROM pg_catalog.clock_timestamp() - b.oldest)::float8 AS lag_seconds,
	r.at AS stats_reset,
	CASE WHEN NOT EXISTS (
		SELECT FROM pg_catalog.pg_foreign_server AS s JOIN pg_catalog.pg_foreign_data_wrapper AS w ON w.oid = s.srvfdw
		WHERE s.srvname = p.server AND w.fdwname = 'outbox_kafka') THEN 'the server does not exist' END AS problem,
	EXISTS (SELECT FROM pg_catalog.pg_foreign_server AS s CROSS JOIN LATERAL pg_catalog.pg_options_to_table(s.srvoptions) AS o
		WHERE s.srvname = p.server AND o.option_name = 'exactly_once' AND o.option_value::boolean) AS exactly_once
FROM outbox._positions() AS p JOIN outbox._backlog() AS b USING (server)
	LEFT JOIN outbox._reset_server AS r USING (server);
COMMENT ON VIEW outbox.stat_servers IS 'one row per server that events were published to: events settled (acknowledged, parked or dead) since the server was first used or outbox.stat_reset(), events in the log not settled yet, the age in seconds of the oldest of them (null: none), and whether the server has option exactly_once; problem says that the server was dropped: its events are parked until there is one of its name again';

CREATE VIEW outbox.stat_topics AS
SELECT server, topic, coalesce(s.state, 'live') AS state, s.reason, s.since,
	(SELECT pg_catalog.count(*) FROM outbox._parked AS k WHERE k.stream = s.id) AS parked_events,
	coalesce(t.delivered_count, 0) - coalesce(r.delivered_count, 0) AS delivered_count,
	coalesce(t.delivered_bytes, 0) - coalesce(r.delivered_bytes, 0) AS delivered_bytes,
	coalesce(t.parked_count, 0) - coalesce(r.parked_count, 0) AS parked_count,
	coalesce(t.dead_count, 0) - coalesce(r.dead_count, 0) AS dead_count,
	t.last_delivered_at, r.at AS stats_reset
FROM outbox._stream AS s FULL JOIN outbox._topic_stat AS t USING (server, topic)
	LEFT JOIN outbox._reset_topic AS r USING (server, topic);
COMMENT ON VIEW outbox.stat_topics IS 'one row per topic of a publication, and per topic that something was sent to: its state live, stopped (with the reason; its events are parked and sent when it goes on) or paused; parked_events: how many are parked now; then counters, up to a second late and after a crash short of the last second: events that brokers acknowledged, bytes of their keys and values before compression, events that were parked (and delivered later, or not), and those that became dead letters';

CREATE VIEW outbox.stat_subscriptions AS
SELECT s.name, s.topic, o.partition, s.state, o.next_offset, o.high_watermark,
	CASE WHEN o.high_watermark IS NOT NULL THEN greatest(o.high_watermark - o.next_offset, 0) END AS lag,
	o.received - coalesce(r.received, 0) AS received,
	o.applied - coalesce(r.applied, 0) AS applied,
	o.deleted - coalesce(r.deleted, 0) AS deleted,
	o.stale - coalesce(r.stale, 0) AS stale,
	o.duplicate - coalesce(r.duplicate, 0) AS duplicate,
	o.suppressed - coalesce(r.suppressed, 0) AS suppressed,
	o.dead - coalesce(r.dead, 0) AS dead,
	o.parked - coalesce(r.parked, 0) AS parked,
	o.skipped - coalesce(r.skipped, 0) AS skipped,
	o.lost - coalesce(r.lost, 0) AS lost,
	CASE WHEN o.last_time_ms BETWEEN 0 AND 9224318015999999 THEN to_timestamp(o.last_time_ms / 1000.0) END AS last_event_time, o.last_at AS last_applied_at, r.at AS stats_reset,
	CASE WHEN o.last_loss_at <= r.at THEN NULL ELSE o.last_loss END AS last_loss,
	CASE WHEN o.last_loss_at <= r.at THEN NULL ELSE o.last_loss_at END AS last_loss_at
FROM outbox._subscription s LEFT JOIN outbox._offset o ON o.subscription = s.name
	LEFT JOIN outbox._reset_subscription r ON r.subscription = o.subscription AND r.partition = o.partition;
COMMENT ON VIEW outbox.stat_subscriptions IS
'one row per subscription and partition: the next offset to read, the end of the partition when it was last seen (null: never), lag in records behind that, and, since the offsets were first stored or outbox.stat_reset(), how many events were received and what became of them (as in outbox.apply_result; handlers, and events about all rows, count as applied; dead and parked: set aside at first, see outbox.dead_letters; lost: offsets that the broker no longer had, of a topic that was created again those that had been seen); last_loss: what was lost the last time, with the range, and when, since outbox.stat_reset()';

CREATE VIEW outbox.stat_log AS
SELECT u.bytes, u.limit_bytes, (SELECT last_value FROM outbox._log_current) AS rotations, u.held_by
FROM outbox._log_usage() AS u;
COMMENT ON VIEW outbox.stat_log IS 'the event log: bytes it takes, bytes at which new events are refused (pg_outbox.max_backlog; null: never), how many segments it went on by, and whose locks keep segments that writers have left from being emptied (null: nobody''s)';

CREATE VIEW outbox.status AS
WITH w AS MATERIALIZED (SELECT * FROM outbox._workers())
SELECT 'worker' AS kind, w.worker AS name, w.state,
	CASE WHEN w.state IN ('running', 'idle') THEN 'ok'
		 WHEN w.state IN ('paused', 'stopped') THEN w.state
		 WHEN w.last_error IS NOT NULL AND w.pid IS NULL THEN 'failing' ELSE 'waiting' END AS health,
	w.waiting_for, NULL::bigint AS backlog, NULL::float8 AS lag_seconds,
	w.last_error, w.last_error_at
FROM w
UNION ALL
SELECT 'server', v.server,
	CASE WHEN v.problem IS NOT NULL THEN 'dropped' WHEN q.server IS NOT NULL THEN q.state WHEN w.pid IS NULL THEN w.state ELSE 'publishing' END,
	CASE WHEN v.problem IS NOT NULL THEN CASE WHEN v.backlog_events > 0 OR EXISTS (
			SELECT FROM outbox._stream AS t JOIN outbox._parked AS k ON k.stream = t.id WHERE t.server = v.server) THEN 'stopped' ELSE 'ok' END
		 WHEN q.server IS NOT NULL THEN q.state
		 WHEN w.pid IS NULL AND w.state NOT IN ('starting', 'idle') THEN w.state
		 WHEN v.lag_seconds > 60 THEN 'late' ELSE 'ok' END,
	CASE WHEN v.problem IS NOT NULL THEN 'CREATE SERVER'
		 WHEN q.server IS NOT NULL THEN CASE q.state WHEN 'unreachable' THEN 'a broker that answers' WHEN 'stopped' THEN 'another server to stop' ELSE q.reason END
		 WHEN w.pid IS NULL THEN 'the relay' END,
	v.backlog_events, v.lag_seconds, coalesce(v.problem, CASE WHEN q.state <> 'waiting' THEN q.reason END), CASE WHEN q.state <> 'waiting' THEN q.since END
FROM outbox.stat_servers AS v JOIN w ON w.worker = 'relay'
	LEFT JOIN outbox._waiting_servers() AS q ON q.worker = 'relay' AND q.server = v.server
UNION ALL
SELECT 'publication', p.name, p.state,
	CASE WHEN p.problem IS NOT NULL THEN 'broken' WHEN p.state = 'live' THEN 'ok' ELSE p.state END,
	CASE WHEN p.state = 'incomplete' THEN 'a copy that ends, of changes that were not recorded' END,
	NULL, NULL, p.problem, NULL
FROM outbox.publications AS p
UNION ALL
SELECT 'topic', t.topic, t.state, CASE t.state WHEN 'live' THEN 'ok' WHEN 'paused' THEN 'paused' ELSE 'stopped' END,
	NULL, t.parked_events, NULL, t.reason, t.since
FROM outbox.stat_topics AS t
UNION ALL
SELECT 'copy', c.publication, c.state,
	CASE WHEN c.error IS NOT NULL THEN 'failing'
		 WHEN k.all_read AND c.pending > 0 OR c.waits_for IS NOT NULL THEN 'waiting' ELSE 'ok' END,
	CASE WHEN c.retry_at IS NOT NULL AND c.error IS NOT NULL THEN 'the next attempt at ' || c.retry_at
		 WHEN c.waits_for IS NOT NULL THEN 'the end of transactions that were writing when it began: '
			|| pg_catalog.array_to_string(c.waits_for, ', ')
		 WHEN k.all_read AND c.pending > 0 THEN coalesce(
			'the end of transactions that were changing ' || c.pending || ' rows: '
			|| (SELECT pg_catalog.string_agg(u.updater::text, ', ' ORDER BY u.updater)
				FROM outbox._copy_updaters AS u WHERE u.publication = c.publication AND NOT u.ended),
			'the relay; ' || c.pending || ' rows are pending')
		 ELSE 'the relay; ' || c.rows || ' rows so far' END,
	CASE WHEN c.estimated_rows IS NOT NULL THEN greatest(c.estimated_rows - c.rows, 0) END, NULL, c.error, NULL
FROM outbox.copies AS c JOIN outbox._copy AS k USING (publication)
WHERE c.state = 'running'
UNION ALL
SELECT 'subscription', s.name,
	CASE WHEN s.state <> 'running' THEN s.state WHEN q.server IS NOT NULL THEN 'unreachable'
		 WHEN w.pid IS NULL THEN w.state ELSE s.state END,
	CASE WHEN s.state <> 'running' THEN s.state WHEN q.server IS NOT NULL THEN 'unreachable'
		 WHEN w.pid IS NULL AND w.state NOT IN ('starting', 'idle') THEN w.state
		 WHEN s.waiting_for IS NOT NULL THEN 'waiting' ELSE 'ok' END,
	CASE WHEN s.state <> 'running' THEN NULL WHEN q.server IS NOT NULL THEN 'a broker that answers'
		 WHEN w.pid IS NULL THEN 'the applier' ELSE s.waiting_for END,
	(SELECT pg_catalog.sum(greatest(o.high_watermark - o.next_offset, 0))::bigint
	 FROM outbox._offset AS o WHERE o.subscription = s.name AND s.state = 'running' AND w.pid IS NOT NULL AND q.server IS NULL
	 HAVING pg_catalog.bool_and(o.high_watermark IS NOT NULL)), NULL,
	CASE WHEN s.state <> 'running' THEN s.stopped_reason WHEN q.server IS NOT NULL THEN q.reason ELSE l.last_loss END,
	CASE WHEN s.state <> 'running' THEN s.stopped_at WHEN q.server IS NOT NULL THEN q.since ELSE l.last_loss_at END
FROM outbox.subscriptions AS s JOIN w ON w.worker = 'applier'
	LEFT JOIN outbox._waiting_servers() AS q ON q.worker = 'applier' AND q.server = s.server
	LEFT JOIN LATERAL (SELECT v.last_loss, v.last_loss_at FROM outbox.stat_subscriptions AS v
		WHERE v.name = s.name AND v.last_loss IS NOT NULL ORDER BY v.last_loss_at DESC LIMIT 1) AS l ON true
UNION ALL
SELECT 'dead letters', d.direction, 'waiting', 'attention', NULL, pg_catalog.count(*), NULL,
	(pg_catalog.array_agg(d.message ORDER BY d.id DESC))[1], pg_catalog.max(d.last_at)
FROM outbox._dead_letter AS d WHERE d.state = 'dead' GROUP BY d.direction
UNION ALL
SELECT 'log', 'event log', 'open',
	CASE WHEN l.limit_bytes IS NULL OR l.bytes < 0.8 * l.limit_bytes THEN 'ok'
		 WHEN l.bytes < l.limit_bytes THEN 'nearly full' ELSE 'full' END,
	l.held_by, l.bytes, NULL, NULL, NULL
FROM outbox.stat_log AS l;
COMMENT ON VIEW outbox.status IS 'one row per worker, server, publication, topic, running copy, subscription, kind of dead letter, and one for the log; health is ok, waiting (waiting_for says what for), late (over a minute), unreachable (no broker of the server answers, since last_error_at), failing, broken (a publication that cannot do what it should), stopped, paused, incomplete, attention, nearly full or full; backlog is in events (null: not known, as of a subscription that does not read; log: bytes; copy: rows left, estimated, 0 if there are more than estimated), lag in seconds';

CREATE VIEW outbox.events AS
SELECT e.id, e.version, e.op, coalesce(e.server, s.server) AS server, coalesce(e.topic, s.topic) AS topic,
	pg_catalog.convert_from(e.key, 'UTF8') AS key, e.value, e.headers, e.occurred_at,
	e.xid, e.commit_stamp, e.uncommitted
FROM outbox._events() AS e LEFT JOIN outbox._stream AS s ON s.id = e.stream;
COMMENT ON VIEW outbox.events IS 'events in the log, the uncommitted ones of this session included: op (c, u, d, r as Debezium''s; null: emit), key as text, value as the bytes that are sent (null: tombstone), headers without those the relay adds (id, op, version); delivered events remain until their segment is emptied. Who may read it needs EXECUTE on outbox._events() as well';

GRANT SELECT ON outbox.stat_servers, outbox.stat_topics, outbox.stat_subscriptions, outbox.stat_log, outbox.status TO pg_monitor;
