-- pause, resume, wait_until_running: who may, and what they refuse.  What
-- workers do is tested where there are any (test/t).
\set VERBOSITY terse
CREATE ROLE regress_outbox_anybody;
SET ROLE regress_outbox_anybody;
SELECT outbox.pause();
SELECT outbox.resume();
SELECT outbox.wait_until_running();
SELECT * FROM outbox._workers();
SELECT * FROM outbox._paused;
RESET ROLE;

\set VERBOSITY default
SELECT outbox.pause('Relay');
SELECT outbox.resume('');

-- paused twice is paused once, and by whoever did it first
SELECT outbox.pause('relay');
SELECT outbox.pause();
SELECT worker, by_role = current_user AS by_me FROM outbox._paused ORDER BY worker;
SELECT outbox.resume('applier');
SELECT worker FROM outbox._paused;
BEGIN;
SELECT outbox.resume();
ROLLBACK;
SELECT worker FROM outbox._paused;
SELECT outbox.resume();
SELECT count(*) FROM outbox._paused;

SELECT worker FROM outbox._workers();

DROP ROLE regress_outbox_anybody;
