-- Outbox tables that are there already: an inserted row is an event, as
-- Debezium's outbox event router would make it.
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1');
CREATE TABLE outboxevent (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
	type varchar(255) NOT NULL, payload jsonb);
CREATE VIEW new_events AS
SELECT e.id, e.topic, e.op, convert_from(e.key, 'UTF8') AS key, encode(e.value, 'escape') AS value, e.headers
FROM outbox._events() e;
\set show 'SELECT topic, op, key, value, headers FROM new_events WHERE id > :seen ORDER BY id; SELECT coalesce(max(id), :seen) AS seen FROM outbox._events() \\gset'
SELECT coalesce(max(id), 0) AS seen FROM outbox._events() \gset

INSERT INTO outboxevent VALUES ('00000000-0000-0000-0000-000000000000', 'early', '0', 'Before', '{}');
SELECT outbox.adopt('outboxevent');
SELECT name, source, kind, server, topic, columns, state, problem FROM outbox.publications;
-- what the application does, unchanged
BEGIN;
INSERT INTO outboxevent VALUES ('11111111-1111-1111-1111-111111111111', 'Order', '42', 'OrderPaid', '{"order": 42, "note": "grüße"}');
DELETE FROM outboxevent WHERE id = '11111111-1111-1111-1111-111111111111';
COMMIT;
INSERT INTO outboxevent VALUES ('22222222-2222-2222-2222-222222222222', 'Order', '42', 'OrderGone', NULL);
BEGIN;
SAVEPOINT s;
INSERT INTO outboxevent VALUES ('33333333-3333-3333-3333-333333333333', 'Order', '43', 'OrderPaid', '{}');
ROLLBACK TO s;
INSERT INTO outboxevent VALUES ('44444444-4444-4444-4444-444444444444', 'customer', '7', 'Moved', '{}');
COMMIT;
:show
UPDATE outboxevent SET type = 'other' WHERE aggregateid = '7';
TRUNCATE outboxevent;
:show

-- a topic that Kafka would not take, or the server does not allow
INSERT INTO outboxevent VALUES ('55555555-5555-5555-5555-555555555555', 'two words', '1', 't', '{}');
ALTER SERVER kafka OPTIONS (ADD topics 'outbox.event.*');
INSERT INTO outboxevent VALUES ('55555555-5555-5555-5555-555555555555', 'Order', '1', 't', '{}');
ALTER SERVER kafka OPTIONS (SET topics 'other.*');
INSERT INTO outboxevent VALUES ('66666666-6666-6666-6666-666666666666', 'Order', '1', 't', '{}');
ALTER SERVER kafka OPTIONS (DROP topics);
:show

-- headers, and what changes when it is called again
SELECT outbox.adopt('outboxevent', headers => '{type,"aggregatetype AS about"}');
SET pg_outbox.traceparent = '00-1-2-00';
INSERT INTO outboxevent VALUES ('77777777-7777-7777-7777-777777777777', 'Order', '1', 'Paid', '[1]');
RESET pg_outbox.traceparent;
:show
SELECT outbox.adopt('outboxevent', topic => 'fixed', headers => '{"type AS op"}');
SELECT outbox.adopt('outboxevent', topic => 'fixed');
INSERT INTO outboxevent VALUES ('88888888-8888-8888-8888-888888888888', 'not a topic', '1', 'Paid', '[1]');
:show

-- another shape: other names, a number as id, bytes as payload
CREATE SCHEMA regress_outbox_shop;
CREATE TABLE regress_outbox_shop."Messages" (seq bigint GENERATED ALWAYS AS IDENTITY, entity text, "the key" int, body bytea);
SELECT outbox.adopt('regress_outbox_shop."Messages"', topic => '{schema}.{aggregatetype}', name => 'messages',
	columns => '{seq AS id,entity AS aggregatetype,"\"the key\" AS aggregateid",body AS payload}');
INSERT INTO regress_outbox_shop."Messages" (entity, "the key", body) VALUES ('Thing', 5, '\x00ff'), ('Thing', NULL, '');
:show
INSERT INTO regress_outbox_shop."Messages" (entity) VALUES (NULL);
ALTER TABLE regress_outbox_shop."Messages" RENAME COLUMN body TO content;
ALTER TABLE regress_outbox_shop."Messages" RENAME TO messages;
INSERT INTO regress_outbox_shop.messages (entity, "the key", content) VALUES ('Thing', 6, 'x');
:show
ALTER TABLE regress_outbox_shop.messages DROP COLUMN content;
DROP TRIGGER outbox_adopted ON regress_outbox_shop.messages;
SELECT name, source, columns, problem FROM outbox.publications ORDER BY name;

-- an outbox table with partitions
CREATE TABLE parted (id int, aggregatetype text, aggregateid text, payload json) PARTITION BY RANGE (id);
CREATE TABLE parted_1 (payload json, dropped int, id int, aggregateid text, aggregatetype text);
ALTER TABLE parted_1 DROP COLUMN dropped;
SELECT outbox.adopt('parted');
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM (0) TO (100);
INSERT INTO parted VALUES (1, 'Part', 'k', '{ "as":  "is" }');
:show
SELECT outbox.adopt('parted_1');

-- text is sent as it is, JSON or not; an empty one is no null
CREATE TABLE texts (id text, aggregatetype text, aggregateid text, payload text);
SELECT outbox.adopt('texts');
INSERT INTO texts VALUES ('a', 'Text', 'k', 'no "json" {'), ('b', 'Text', 'k', ''), ('c', 'Text', 'k', NULL);
\pset null null
:show
\pset null ''
DROP TABLE texts;

-- refusals
SELECT outbox.adopt(NULL);
SELECT outbox.adopt('outboxevent', topic => NULL);
SELECT outbox.adopt('outboxevent', topic => 'no such topic {aggregatetype}');
SELECT outbox.adopt('outboxevent', columns => '{type AS kind}');
SELECT outbox.adopt('outboxevent', columns => '{nothing AS id}');
SELECT outbox.adopt('outboxevent', columns => '{}');
SELECT outbox.adopt('outboxevent', headers => '{nothing}');
SELECT outbox.adopt('outboxevent', server => 'nowhere');
SELECT outbox.emit('t', 'k', 'v', headers => jsonb_object_agg('h' || i, i)) FROM generate_series(1, 51) i;
CREATE TABLE no_outbox (id int PRIMARY KEY);
SELECT outbox.adopt('no_outbox');
SELECT outbox.publish('no_outbox', topic => 't', name => 'outboxevent');
SELECT outbox.publish('outboxevent', topic => 't');
SELECT outbox.copy('outboxevent');
SELECT outbox.adopt('new_events');
CREATE ROLE regress_outbox_carol;
SET ROLE regress_outbox_carol;
SELECT outbox.adopt('outboxevent');
RESET ROLE;
-- the owner needs USAGE on the server, a writer needs nothing but the table
CREATE TABLE hers (LIKE outboxevent);
ALTER TABLE hers OWNER TO regress_outbox_carol;
SET ROLE regress_outbox_carol;
SELECT outbox.adopt('hers');
RESET ROLE;
SELECT outbox.adopt('hers');
SET ROLE regress_outbox_carol;
INSERT INTO hers VALUES ('99999999-9999-9999-9999-999999999999', 'Hers', 'k', 't', '1');
RESET ROLE;
:show

-- a topic from bytes, which may be none
CREATE TABLE raw (id int PRIMARY KEY, aggregatetype bytea, aggregateid int, payload text);
SELECT outbox.adopt('raw');
INSERT INTO raw VALUES (1, '\x4f7264657200ff', 1, 'after a zero byte');
INSERT INTO raw VALUES (1, '\xff', 1, 'no text');
INSERT INTO raw VALUES (1, '\x526177', 1, 'a topic');
:show
SELECT outbox.unpublish('raw');
DROP TABLE raw;

SELECT outbox.unpublish('outboxevent');
SELECT outbox.unpublish('messages');
INSERT INTO outboxevent VALUES ('aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa', 'Order', '1', 'Paid', '[1]');
:show
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'outbox%' ORDER BY 1;
DROP TABLE parted, hers;
SELECT name FROM outbox.publications;
DROP VIEW new_events;
DROP TABLE outboxevent, no_outbox, regress_outbox_shop.messages;
DROP SCHEMA regress_outbox_shop;
DROP ROLE regress_outbox_carol;
DROP SERVER kafka;
