-- Copies: what is refused, who may, and what status says of them.  What must
-- not race with the relay is in one transaction.
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1', topics 'item');
CREATE TABLE item (id int, name text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE item_low PARTITION OF item FOR VALUES FROM (0) TO (100);
CREATE TABLE item_high PARTITION OF item FOR VALUES FROM (100) TO (200);
INSERT INTO item SELECT g, 'n' FROM generate_series(90, 119) g;
SELECT outbox.publish('item', topic => 'item', initial => 'none');
\set show 'SELECT state, health, waiting_for, backlog, last_error FROM outbox.status WHERE kind = $$copy$$;'

-- Refused
SELECT outbox.copy('nothing');
SELECT outbox.cancel_copy('nothing');
SELECT outbox.cancel_copy('item');
SELECT outbox.resync('nothing');
SELECT outbox.publish('item', topic => 'item', name => 'twice', initial => 'none');
SELECT outbox.resync('item');
SELECT outbox.unpublish('twice');

-- A resync stays one, whoever asks for a copy, and can be asked for meanwhile
BEGIN;
SELECT outbox.copy('item');
SELECT kind FROM outbox.copies;
SELECT outbox.resync('item');
UPDATE outbox._copy SET floor = 5, waits_for = '{3,9000000000000000000}';
SELECT kind, state, floor, waits_for FROM outbox.copies;
:show
SELECT outbox.copy('item');
SELECT kind, state, floor, waits_for FROM outbox.copies;
UPDATE outbox._copy SET state = 'done';
SELECT outbox.copy('item');
SELECT kind FROM outbox.copies;
SELECT outbox.resync('item');
SELECT outbox.cancel_copy('item');
SELECT kind, state FROM outbox.copies;
ROLLBACK;

-- Progress; unknown before ANALYZE
BEGIN;
SELECT outbox.copy('item');
SELECT publication, state, rows, estimated_rows, error FROM outbox.copies;
:show
ANALYZE item_low, item_high;
SELECT estimated_rows FROM outbox.copies;
:show
UPDATE outbox._copy SET rows = 12;
:show
UPDATE outbox._copy SET rows = 40;
:show
UPDATE outbox._copy SET all_read = true;
INSERT INTO outbox._copy_pending VALUES ('item', '5', 101, '{7}'), ('item', '5', 102, '{8}'), ('item', '4000000000000', 103, '{9}');
SELECT state, pending FROM outbox.copies;
:show
SELECT updater, ended FROM outbox._copy_updaters;
UPDATE outbox._copy SET error = 'no luck', retry_at = '2030-01-01 00:00:00+00';
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO';
:show
-- One that heals leaves the publication incomplete until it is done
UPDATE outbox._copy SET heals = true;
SELECT name, state, health, waiting_for FROM outbox.status WHERE kind = 'publication';
SELECT outbox.copy('item');
SELECT rows, pending, error, retry_at FROM outbox.copies;
SELECT outbox.cancel_copy('item');
SELECT outbox.cancel_copy('item');
:show
SELECT state, finished_at IS NOT NULL AS finished FROM outbox.copies;
SELECT state FROM outbox.publications;
SELECT outbox.copy('item');
UPDATE outbox._copy SET state = 'done';
SELECT state FROM outbox.publications;
ROLLBACK;

-- A publication that means something else is copied again, or a running copy
-- begins anew; other settings are no reason to
BEGIN;
SELECT outbox.publish('item', topic => 'item', event_type => 'Item');
SELECT count(*) FROM outbox.copies;
SELECT outbox.publish('item', topic => 'item', filter => 'id > 100');
SELECT publication, state FROM outbox.copies;
UPDATE outbox._copy SET rows = 5, last_key = '{105}', all_read = true;
SELECT outbox.publish('item', topic => 'item', filter => 'id > 50', initial => 'none');
SELECT rows, last_key, all_read FROM outbox._copy;
UPDATE outbox._copy SET state = 'done', rows = 5;
SELECT outbox.publish('item', topic => 'item', initial => 'none');
SELECT state, rows FROM outbox._copy;
ROLLBACK;

-- Only the table's owner
CREATE ROLE regress_outbox_other;
GRANT USAGE ON SCHEMA outbox TO regress_outbox_other;
GRANT EXECUTE ON FUNCTION outbox.copy, outbox.resync, outbox.cancel_copy TO regress_outbox_other;
SET ROLE regress_outbox_other;
SELECT outbox.copy('item');
SELECT outbox.resync('item');
SELECT outbox.cancel_copy('item');
RESET ROLE;
DROP OWNED BY regress_outbox_other;
DROP ROLE regress_outbox_other;

SELECT outbox.unpublish('item');
SELECT outbox.copy('item');
DROP TABLE item;
DROP SERVER kafka;
