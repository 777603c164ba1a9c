-- Null where something must be named: null in return, or nothing done without a
-- word, would be taken for an answer.
\pset null '(null)'
\pset format unaligned
CREATE FUNCTION say(command text) RETURNS TABLE (code text, message text, hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	message := 'no error';
	RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN NEXT;
END $$;
CREATE TABLE argument (id bigint PRIMARY KEY, version bigint NOT NULL);
CREATE FUNCTION on_argument(event outbox.event) RETURNS void LANGUAGE sql AS '';

SELECT c.command, s.* FROM (VALUES
	('outbox.server_check(NULL)'),
	('outbox.publish(NULL, topic => ''t'')'),
	('outbox.adopt(NULL)'),
	('outbox.adopt(''argument'', topic => NULL)'),
	('outbox.unpublish(NULL)'),
	('outbox.copy(NULL)'),
	('outbox.cancel_copy(NULL)'),
	('outbox.emit(NULL, ''k'', ''v''::text)'),
	('outbox.emit(NULL, ''k'', ''1''::jsonb)'),
	('outbox.emit(NULL, ''k'', ''v''::bytea)'),
	('outbox.pause_topic(NULL)'),
	('outbox.resume_topic(NULL)'),
	('outbox.wait_until_running(NULL)'),
	('outbox.apply(NULL, ''1'', ''{}'')'),
	('outbox.apply_batch(NULL, ''{1}'', ''{"{}"}'')'),
	('outbox.apply_batch(''argument'', NULL, NULL)'),
	('outbox.first_time(NULL, ''s'', ''1'')'),
	('outbox.first_time(''c'', NULL, ''1'')'),
	('outbox.first_time(''c'', ''s'', NULL)'),
	('outbox.replicate(NULL, ''t'')'),
	('outbox.replicate(''argument'', NULL)'),
	('outbox.replicate(''argument'', ''t'', start => NULL)'),
	('outbox.replicate(''argument'', ''t'', on_error => NULL)'),
	('outbox.replicate(''argument'', ''t'', on_data_loss => NULL)'),
	('outbox.handle(NULL, ''t'')'),
	('outbox.handle(''on_argument(outbox.event)'', NULL)'),
	('outbox.unsubscribe(NULL)'),
	('outbox.seek(NULL, ''earliest'')'),
	('outbox.pause_subscription(NULL)'),
	('outbox.resume_subscription(NULL)'),
	('outbox.redrive(NULL)'),
	('outbox.redrive_all(NULL)'),
	('outbox.edit(NULL, ''{}'')'),
	('outbox.discard(NULL, ''test'')'),
	('outbox.discard(1, NULL)')) AS c (command),
	LATERAL say('SELECT ' || c.command) AS s;

-- A subscription that exists, but no place to go on at
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'localhost:1');
SET client_min_messages = warning;
SELECT outbox.replicate('argument', 'argument');
SELECT * FROM say('SELECT outbox.seek(''argument'', NULL)');
SELECT outbox.unsubscribe('argument');

DROP SERVER kafka;
DROP FUNCTION on_argument;
DROP FUNCTION say;
DROP TABLE argument;
