-- outbox.stat_reset: what it takes, and that it can be rolled back.  What is
-- counted is in test/t/037_stat.pl.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1');
CREATE TABLE stat (id bigint PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.publish('stat', topic => 'stat', initial => 'none');
SELECT outbox.replicate('stat', 'stat', name => 'stat');
SELECT topic, state, delivered_count, delivered_bytes, parked_count, dead_count, last_delivered_at, stats_reset
FROM outbox.stat_topics WHERE topic = 'stat';

SELECT outbox.stat_reset('relay');
SELECT outbox.stat_reset(name => 'stat');
SELECT outbox.stat_reset('server', 'nowhere');
SELECT outbox.stat_reset('topic', 'nothing');
SELECT outbox.stat_reset('topic', 'stat', server => 'nowhere');
SELECT outbox.stat_reset('subscription', 'nobody');
SELECT outbox.stat_reset('subscription', 'stat', server => 'kafka');
SELECT outbox.stat_reset(server => 'kafka');

BEGIN;
SELECT outbox.stat_reset();
SELECT stats_reset IS NOT NULL AS reset FROM outbox.stat_topics WHERE topic = 'stat';
ROLLBACK;
SELECT stats_reset IS NOT NULL AS reset FROM outbox.stat_topics WHERE topic = 'stat';
SELECT outbox.stat_reset('subscription', 'stat');    -- it has read nothing yet
SELECT outbox.stat_reset('topic', 'stat', 'kafka');
SELECT stats_reset IS NOT NULL AS reset FROM outbox.stat_topics WHERE topic = 'stat';

-- Counters of partitions begin anew with their offsets
INSERT INTO outbox._offset (subscription, partition, next_offset, received, applied, lost)
VALUES ('stat', 0, 10, 7, 6, 1), ('stat', 1, 5, 2, 2, 0) ON CONFLICT DO NOTHING;
SELECT outbox.pause_subscription('stat');
SELECT outbox.stat_reset('subscription', 'stat');
UPDATE outbox._offset SET received = received + 3 WHERE subscription = 'stat' AND partition = 0;
SELECT partition, received, applied, lost, stats_reset IS NOT NULL AS reset FROM outbox.stat_subscriptions ORDER BY 1;
DELETE FROM outbox._offset WHERE partition = 0;
INSERT INTO outbox._offset (subscription, partition, next_offset, received) VALUES ('stat', 0, 1, 1);
SELECT partition, received, applied, lost, stats_reset IS NOT NULL AS reset FROM outbox.stat_subscriptions ORDER BY 1;

CREATE ROLE outbox_stat_monitor IN ROLE pg_monitor;
SET ROLE outbox_stat_monitor;
SELECT outbox.stat_reset();
RESET ROLE;
GRANT EXECUTE ON FUNCTION outbox.stat_reset(text, text, text) TO outbox_stat_monitor;
SET ROLE outbox_stat_monitor;
SELECT outbox.stat_reset('topic');
RESET ROLE;
REVOKE ALL ON FUNCTION outbox.stat_reset(text, text, text) FROM outbox_stat_monitor;

SELECT outbox.unsubscribe('stat');
DROP TABLE stat;
DROP SERVER kafka;
DROP ROLE outbox_stat_monitor;
