-- Arguments that mean nothing: null where something must be named, which in return,
-- or as nothing done without a word, would be taken for an answer, and numbers
-- that are no object.
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
	('outbox.resync(NULL)'),
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
SELECT c.command, s.* FROM (VALUES
	('outbox.seek(''argument'', ''{'')'),
	('outbox.seek(''argument'', ''earliest'', 0)'),
	('outbox.seek(''argument'', ''-1'', 0)'),
	('outbox.seek(''argument'', ''7'', 0)'),
	('outbox.seek(''argument'', ''7'', -1)')) AS c (command),
	LATERAL say('SELECT ' || c.command) AS s;
SELECT outbox.unsubscribe('argument');

-- Numbers of what does not exist, or exists no more
SELECT c.command, s.* FROM (VALUES
	('outbox.publish(4000000000::regclass, topic => ''t'')'),
	('outbox.adopt(4000000000::regclass)'),
	('outbox.replicate(4000000000::regclass, ''t'')'),
	('outbox.apply(4000000000::regclass, ''1'', NULL, ''{"id": "1"}'')'),
	('outbox.apply_batch(4000000000::regclass, ''{1}'', ''{NULL}'', ''{"{\"id\": \"1\"}"}'')'),
	('outbox.handle(4000000000::regprocedure, ''t'')'),
	('outbox.publish(0::regclass, topic => ''t'')')) AS c (command),
	LATERAL say('SELECT ' || c.command) AS s;

DROP SERVER kafka;
DROP FUNCTION on_argument;
DROP FUNCTION say;
DROP TABLE argument;
