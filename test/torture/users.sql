-- The source: tables that are published, what is done to them, and a plain
-- account of it.
--
-- history is written by PL/pgSQL triggers in the transaction of the change and
-- knows nothing of the extension.  What it says, and why it can be believed:
--
-- - Its row is there if and only if the change was committed.
-- - seq, from a sequence, is taken while the row's lock is held (AFTER INSERT, behind
--   the unique check; AFTER UPDATE; BEFORE DELETE, which comes with the lock): of two
--   transactions that changed one key, the later has the larger ones.
-- - rev, from a sequence, is taken in BEFORE triggers, which fire where the change is
--   made, whereas AFTER triggers wait for the end of the statement: within a
--   transaction the largest rev of a key tells what became of it.
-- - op is w (written), d (deleted) or t (gone with a TRUNCATE).
-- - n counts the changes of a row in the row itself, without any sequence.
-- - era says which history it is: it is raised, and the sequences with it, when a
--   standby is promoted or a backup restored, as transactions' numbers begin again
--   then.  The same text is on every event as header correlation_id.

CREATE SEQUENCE rev_seq;
CREATE SEQUENCE seq_seq;

CREATE TABLE history (
	seq bigint NOT NULL DEFAULT nextval('seq_seq'),
	era text NOT NULL DEFAULT current_setting('pg_outbox.correlation_id'),
	xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
	tbl text NOT NULL,
	key text NOT NULL,
	op "char" NOT NULL,
	rev bigint NOT NULL,
	n bigint,
	content jsonb
);

-- The account is written with its own hand: no large value twice.
CREATE FUNCTION digest(r jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN r ? 'body' THEN jsonb_set(r, '{body}', coalesce(to_jsonb(md5(r ->> 'body') || ' ' || length(r ->> 'body')), 'null')) ELSE r END
$$;

CREATE FUNCTION key_of(tbl text, r jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
SELECT CASE tbl WHEN 'item' THEN jsonb_build_object('a', r -> 'a', 'b', r -> 'b')::text ELSE r ->> 'id' END
$$;

CREATE FUNCTION number_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.rev := nextval('rev_seq');
	NEW.n := CASE WHEN TG_OP = 'UPDATE' THEN OLD.n + 1 ELSE 1 END;
	RETURN NEW;
END $$;

CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	old_key text;
	new_key text := key_of(TG_TABLE_NAME, to_jsonb(NEW));
BEGIN
	IF TG_OP = 'UPDATE' THEN
		old_key := key_of(TG_TABLE_NAME, to_jsonb(OLD));
		IF old_key <> new_key THEN
			INSERT INTO history (tbl, key, op, rev) VALUES (TG_TABLE_NAME, old_key, 'd', NEW.rev);
		END IF;
	END IF;
	INSERT INTO history (tbl, key, op, rev, n, content)
	VALUES (TG_TABLE_NAME, new_key, 'w', NEW.rev, NEW.n, digest(to_jsonb(NEW)));
	RETURN NULL;
END $$;

CREATE FUNCTION note_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO history (tbl, key, op, rev, n) VALUES (TG_TABLE_NAME, key_of(TG_TABLE_NAME, to_jsonb(OLD)), 'd', nextval('rev_seq'), OLD.n);
	RETURN OLD;
END $$;

-- Under TRUNCATE's own lock.
CREATE FUNCTION note_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO history (tbl, key, op, rev, n) SELECT 'item', key_of('item', to_jsonb(i)), 't', nextval('rev_seq'), i.n FROM item AS i;
	RETURN NULL;
END $$;

CREATE TABLE account (id bigint PRIMARY KEY, name text, amount numeric, at timestamptz, rev bigint, n bigint);
CREATE TABLE item (a text, b int, note text, rev bigint, n bigint, PRIMARY KEY (a, b));
CREATE TABLE doc (id bigint PRIMARY KEY, body text, rev bigint, n bigint);
CREATE TABLE bulk (id bigint PRIMARY KEY, g int, rev bigint, n bigint);
CREATE TABLE topic_key (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0);

-- What number_change() notes must not depend on which trigger of a table comes
-- first, so they are made alike for all.
DO $$
DECLARE
	t text;
BEGIN
	FOREACH t IN ARRAY ARRAY['account', 'item', 'doc', 'bulk'] LOOP
		EXECUTE format('CREATE TRIGGER number_change BEFORE INSERT OR UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION number_change()', t);
		EXECUTE format('CREATE TRIGGER note_change AFTER INSERT OR UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION note_change()', t);
		EXECUTE format('CREATE TRIGGER note_delete BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION note_delete()', t);
	END LOOP;
END $$;

CREATE TRIGGER note_truncate BEFORE TRUNCATE ON item FOR EACH STATEMENT EXECUTE FUNCTION note_truncate();

-- triggers of the user's that touch sibling rows, before and after ours
CREATE FUNCTION sibling() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() > 1 OR random() > 0.15 THEN
		RETURN NULL;
	END IF;
	CASE (random() * 3)::int
		WHEN 0 THEN UPDATE account SET amount = amount + 1 WHERE id IN (coalesce(NEW.id, OLD.id) + 1, coalesce(NEW.id, OLD.id));
		WHEN 1 THEN DELETE FROM account WHERE id = coalesce(NEW.id, OLD.id) + 2;
		WHEN 2 THEN INSERT INTO account VALUES (coalesce(NEW.id, OLD.id), 'again') ON CONFLICT DO NOTHING;
		ELSE UPDATE account SET name = 'sibling ' || id WHERE id = coalesce(NEW.id, OLD.id) + 1;
	END CASE;
	RETURN NULL;
END $$;
CREATE TRIGGER aaa_sibling AFTER INSERT OR UPDATE OR DELETE ON account FOR EACH ROW EXECUTE FUNCTION sibling();
CREATE TRIGGER zzz_sibling AFTER INSERT OR UPDATE OR DELETE ON account FOR EACH ROW EXECUTE FUNCTION sibling();

CREATE PROCEDURE change_account() LANGUAGE plpgsql AS $$
DECLARE
	k bigint := (random() * 300)::bigint;
BEGIN
	CASE (random() * 7)::int
		WHEN 0 THEN INSERT INTO account VALUES (k, 'new ' || k, random()::numeric, clock_timestamp());
		WHEN 1 THEN UPDATE account SET amount = random()::numeric * 1e10 WHERE id = k;
		WHEN 2 THEN DELETE FROM account WHERE id = k;
		WHEN 3 THEN UPDATE account SET id = id + 1 WHERE id = k;
		WHEN 4 THEN INSERT INTO account VALUES (k, 'upsert') ON CONFLICT (id) DO UPDATE SET amount = account.amount + 1;
		WHEN 5 THEN UPDATE account SET at = clock_timestamp() WHERE id BETWEEN k AND k + 5;
		WHEN 6 THEN UPDATE account SET id = -id WHERE id BETWEEN k AND k + 3;
			UPDATE account SET id = -id WHERE id < 0;
		ELSE DELETE FROM account WHERE id = k; INSERT INTO account VALUES (k, 'back');
	END CASE;
END $$;

CREATE PROCEDURE change_item() LANGUAGE plpgsql AS $$
DECLARE
	k int := (random() * 100)::int;
	l text := (ARRAY['x', 'y"\', 'zäö', 'null'])[1 + (random() * 3)::int];
BEGIN
	IF random() < 0.01 THEN
		TRUNCATE item;
		RETURN;
	END IF;
	CASE (random() * 4)::int
		WHEN 0 THEN INSERT INTO item VALUES (l, k, 'new') ON CONFLICT (a, b) DO UPDATE SET note = 'was there';
		WHEN 1 THEN UPDATE item SET note = E'tab\t, line\n, quote" ' || random() WHERE b = k;
		WHEN 2 THEN DELETE FROM item WHERE a = l AND b BETWEEN k AND k + 2;
		WHEN 3 THEN UPDATE item SET b = b + 100 WHERE a = l AND b = k;
		ELSE UPDATE item SET b = b - 100 WHERE a = l AND b = k + 100;
	END CASE;
END $$;

-- values that need TOAST: some that compress well, some that do not
CREATE PROCEDURE change_doc() LANGUAGE plpgsql AS $$
DECLARE
	k bigint := (random() * 60)::bigint;
	size int := (10 ^ (1 + random() * 4))::int;
BEGIN
	CASE (random() * 3)::int
		WHEN 0 THEN INSERT INTO doc VALUES (k, repeat('body ' || k, size / 8)) ON CONFLICT (id) DO UPDATE SET body = EXCLUDED.body;
		WHEN 1 THEN UPDATE doc SET body = (SELECT string_agg(md5(random()::text), '') FROM generate_series(0, size / 32)) WHERE id = k;
		WHEN 2 THEN UPDATE doc SET id = id WHERE id = k;
		ELSE DELETE FROM doc WHERE id = k;
	END CASE;
END $$;

-- Events of the application's own.  A row's lock orders those of a key; before it
-- is taken in some, as applications do that write their event first.
CREATE PROCEDURE emit_event() LANGUAGE plpgsql AS $$
DECLARE
	k bigint := (random() * 20)::bigint;
	r bigint := nextval('rev_seq');
	first boolean := random() < 0.3;
	payload jsonb := jsonb_build_object('id', k, 'rev', r, 'text', repeat('e', (random() * 100)::int));
BEGIN
	IF first THEN
		PERFORM outbox.emit('${prefix}event', key => k::text, payload => payload);
	END IF;
	INSERT INTO topic_key VALUES (k) ON CONFLICT (id) DO UPDATE SET n = topic_key.n + 1;
	IF NOT first THEN
		PERFORM outbox.emit('${prefix}event', key => k::text, payload => payload);
	END IF;
	INSERT INTO history (tbl, key, op, rev, content) VALUES ('event', k, 'w', r, payload);
END $$;

-- Transactions of a few changes, some undone by savepoint, some as a whole, some
-- committed without waiting for the disk.
CREATE PROCEDURE work(transactions int, seed float8, pause float8) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM setseed(seed);
	FOR t IN 1 .. transactions LOOP
		IF random() < 0.3 THEN
			SET LOCAL synchronous_commit = off;
		END IF;
		FOR c IN 1 .. 1 + (random() * 4)::int LOOP
			BEGIN
				CASE (random() * 4)::int
					WHEN 0, 1 THEN CALL change_account();
					WHEN 2 THEN CALL change_item();
					WHEN 3 THEN CALL change_doc();
					ELSE CALL emit_event();
				END CASE;
				IF random() < 0.15 THEN
					RAISE EXCEPTION 'undone';
				END IF;
			EXCEPTION WHEN raise_exception OR unique_violation OR deadlock_detected THEN
				NULL;
			END;
		END LOOP;
		PERFORM pg_sleep(pause * random());
		IF random() < 0.1 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END $$;

-- One statement that changes many rows.
CREATE PROCEDURE work_bulk(rows int, seed float8) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM setseed(seed);
	IF NOT EXISTS (SELECT FROM bulk) THEN
		INSERT INTO bulk SELECT i, (random() * 1000)::int FROM generate_series(1, rows) AS i;
	ELSIF random() < 0.5 THEN
		UPDATE bulk SET g = g + 1 WHERE id <= rows;
	ELSE
		DELETE FROM bulk;
	END IF;
END $$;
