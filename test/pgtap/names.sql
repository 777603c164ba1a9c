-- Nasty strings wherever a name or a text may be given: each comes back as it was,
-- or is refused with an error that says why.  None of them is run, cut or taken for
-- a format.
BEGIN;
SET client_min_messages = error;
SELECT plan(18);

CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE TABLE nasty (n int, s text);
INSERT INTO nasty VALUES
	(1, ''''), (2, '"'), (3, '\'), (4, '\'''), (5, E'a\nb'), (6, E'\r\n\t\x01\x1f\x7f'), (7, '$$'), (8, '$q$'), (9, '; DROP TABLE nasty; --'),
	(10, '''); DROP TABLE nasty; --'), (11, '"; DROP TABLE nasty; --'), (12, '%s%n%d%m%'), (13, '%'), (14, '${x}`id`$(id)'),
	(15, 'ünïcödé'), (16, U&'\+01F600'), (17, U&'\202Etxt'), (18, '{database}'), (19, '{'), (20, '}'), (21, '*'), (22, ' '), (23, ' a '),
	(24, 'a,b'), (25, '(a)'), (26, 'a.b'), (27, '..'), (28, '/etc/passwd'), (29, 'NULL'), (30, 'select'), (31, 'A'), (32, '-- '), (33, '/*'),
	(34, '[]'), (35, 'a AS b'), (36, repeat('x', 62)), (37, repeat('ü', 31)), (38, repeat('x', 300)), (39, repeat('é', 5000)), (40, E'\\x41'), (41, ':a'), (42, '?'), (43, '');

-- What an error said: the string in it, if any, is all of it, as it was.
CREATE FUNCTION pg_temp.attempt(statement text, arg text DEFAULT NULL, other text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE statement INTO result USING arg, other;
	RETURN 'ok ' || coalesce(result, '');
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END $$;

-- Schemas, tables and columns of these names: as long as names are.
CREATE FUNCTION pg_temp.identifier(s text) RETURNS text LANGUAGE sql AS $$ SELECT s::name::text $$;
CREATE TABLE made AS
SELECT n, s, pg_temp.identifier(s) AS name FROM nasty WHERE s <> '' AND length(s) < 100;
DO $$
DECLARE
	m record;
BEGIN
	FOR m IN SELECT * FROM made LOOP
		EXECUTE format('CREATE SCHEMA %I', 's' || m.name);
		EXECUTE format('CREATE TABLE %I.%I (%I text PRIMARY KEY, %I text)', 's' || m.name, m.name, m.name, 'v' || m.name);
		EXECUTE format('CREATE TABLE %I.%I (%I text PRIMARY KEY, version bigint NOT NULL)', 's' || m.name, 'r' || m.name, m.name);
		EXECUTE format('CREATE FUNCTION %I.%I(e outbox.event) RETURNS void LANGUAGE sql RETURN NULL', 's' || m.name, m.name);
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.of(m made, prefix text DEFAULT '') RETURNS text LANGUAGE sql AS $$ SELECT format('%I.%I', 's' || m.name, prefix || m.name) $$;

-- Publications: table, columns, renamed columns, key, filter, headers, type, all of these.
CREATE TABLE published AS
SELECT m.n, m.name, m.s, pg_temp.attempt(format($f$SELECT outbox.publish(%L, topic => 't', name => %L, columns => ARRAY[%L, %L],
		partition_by => ARRAY[%L], filter => %L, event_type => %L, headers => jsonb_build_object(%L, %L::text), initial => 'none')$f$,
	pg_temp.of(m), 'p' || m.s, m.name, 'v' || m.name, m.name, format('%I <> %L', m.name, m.s || 'x'), m.s, 'h' || m.s, m.s)) AS answer
FROM made AS m;
SELECT is_empty($$SELECT n, answer FROM published WHERE answer NOT LIKE 'ok %' AND answer <> '42703'$$, 'tables of all names are published');
SELECT results_eq($$SELECT n FROM published WHERE answer NOT LIKE 'ok %' ORDER BY n$$, 'VALUES (22), (23), (32)', 'only blanks at the ends of a column cannot be named in a list');
SELECT is_empty($$SELECT n, s, p.name FROM published AS m JOIN outbox.publications AS p ON m.answer = 'ok ' || p.name WHERE p.name <> 'p' || s OR p.event_type <> s
	OR p.headers <> jsonb_build_object('h' || s, s) OR p.columns <> ARRAY[m.name, 'v' || m.name] OR p.identity <> ARRAY[m.name]$$,
	'names, type and headers are what was said');
SELECT is((SELECT count(*) FROM outbox.publications), (SELECT count(*) FROM published WHERE answer LIKE 'ok %'), 'each is there');

-- Rows of them, through trigger, filter and encoding.
DO $$
DECLARE
	m made;
BEGIN
	FOR m IN SELECT * FROM made LOOP
		EXECUTE format('INSERT INTO %s VALUES ($1, $2)', pg_temp.of(m)) USING m.s, m.s;
	END LOOP;
END $$;
CREATE TABLE sent AS SELECT * FROM outbox.events;
SELECT is_empty($$SELECT m.n, e.key, e.value, e.headers FROM made AS m LEFT JOIN sent AS e ON e.key = m.s AND convert_from(e.value, 'UTF8')::jsonb = jsonb_build_object(m.name, m.s, 'v' || m.name, m.s)
		AND e.headers ->> ('h' || m.s) = m.s AND e.headers ->> 'type' = m.s WHERE e.id IS NULL AND n NOT IN (22, 23, 32)$$,
	'key, value, headers and type are in the events');

-- Columns renamed to them, and taken back
DO $$
DECLARE
	m made;
BEGIN
	FOR m IN SELECT * FROM made LOOP
		EXECUTE format('ALTER TABLE %s RENAME COLUMN %I TO z', pg_temp.of(m), m.name);
		EXECUTE format('ALTER TABLE %s RENAME COLUMN z TO %I', pg_temp.of(m), m.name);
	END LOOP;
END $$;
SELECT is_empty('SELECT name, problem FROM outbox.publications WHERE problem IS NOT NULL', 'filters follow columns of all names');

CREATE TABLE target (id int PRIMARY KEY, version bigint NOT NULL);
-- Topics: only what Kafka takes, whoever makes them.
SELECT is_empty($$SELECT n, s FROM nasty WHERE (pg_temp.attempt('SELECT outbox.emit($1, NULL, NULL::text)', s) LIKE 'ok %')
	<> (s ~ '^[A-Za-z0-9._-]{1,249}$' AND s NOT IN ('.', '..'))$$, 'a topic is a name that Kafka takes');
SELECT is_empty($$SELECT n, s FROM nasty WHERE (pg_temp.attempt('SELECT outbox.replicate(''target'', topic => $1, name => ''topics'')', s) LIKE 'ok %')
	<> (s ~ '^[A-Za-z0-9._-]{1,249}$')$$, 'also of a subscription');

-- Events of one's own
SELECT is_empty($$SELECT n, s FROM nasty WHERE s <> '' AND length(s) < 400 AND pg_temp.attempt(
		'SELECT outbox.emit(''t'', $1, $1, event_type => $1, headers => jsonb_build_object(''h'' || $1, $1))', s) NOT LIKE 'ok %'$$, 'emit takes any text');
SELECT is_empty($$SELECT n, s FROM nasty WHERE s <> '' AND length(s) < 400 AND NOT EXISTS (SELECT FROM outbox.events AS e WHERE e.key = s AND convert_from(e.value, 'UTF8') = s
		AND e.headers ->> 'type' = s AND e.headers ->> ('h' || s) = s AND e.op IS NULL)$$, 'and keeps it');

-- Adopted tables: topics from a column
CREATE TABLE box (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload text);
SELECT outbox.adopt('box', headers => '{type}') \g /dev/null
SELECT is_empty($$SELECT n, s FROM nasty WHERE (pg_temp.attempt('INSERT INTO box (aggregatetype, aggregateid, type, payload) VALUES ($1, $1, $1, $1) RETURNING id', s) LIKE 'ok %')
	<> (s ~ '^[A-Za-z0-9._-]{0,236}$')$$, 'a row of an adopted table names a topic that Kafka takes, or fails');

-- Subscriptions and handlers
CREATE TABLE subscribed AS
SELECT m.n, m.s, m.name, pg_temp.attempt(format($f$SELECT outbox.replicate(%L, topic => 't', name => %L, key => ARRAY[%L], columns => ARRAY[%L])$f$,
		pg_temp.of(m, 'r'), 'r' || m.s, m.name, m.name)) AS replica,
	pg_temp.attempt(format($f$SELECT outbox.handle(%L, topic => 't', name => %L)$f$, pg_temp.of(m) || '(outbox.event)', 'h' || m.s)) AS handler
FROM made AS m;
SELECT is_empty($$SELECT n, replica, handler FROM subscribed WHERE replica <> 'ok r' || s OR handler <> 'ok h' || s$$, 'subscriptions have all names');
SELECT is_empty($$SELECT n FROM subscribed WHERE pg_temp.attempt('SELECT outbox.pause_subscription($1), outbox.resume_subscription($1), outbox.redrive_all($1)', 'h' || s) NOT LIKE 'ok %'
	OR pg_temp.attempt('SELECT outbox.seek($1, ''latest'')', 'r' || s) NOT LIKE 'ok %'$$, 'and are found by them');
-- events applied to such tables; what is in quotes in the SQL is the column's name
SELECT is_empty($$SELECT m.n, a FROM made AS m, pg_temp.attempt(format('SELECT outbox.apply(%L, $1, $2)', pg_temp.of(m, 'r')), m.s,
	jsonb_build_object(m.name, m.s, 'version', 1)::text) AS a WHERE a <> 'ok applied'$$, 'their replicas take events');

-- Letters
INSERT INTO outbox._dead_letter (direction, name, subscription, topic, header_names, header_values, sqlstate, message, state)
	SELECT 'in', name, id, 't', '{}', '{}', '22023', '%s', 'dead' FROM outbox._subscription LIMIT 1;
CREATE FUNCTION pg_temp.edited(s text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM outbox.edit(id, s, s, jsonb_build_object(s, s)) FROM outbox.dead_letters;
	RETURN (SELECT convert_from(value, 'UTF8') = s AND convert_from(key, 'UTF8') = s FROM outbox.dead_letters);
END $$;
SELECT is_empty($$SELECT n, s FROM nasty WHERE pg_temp.edited(s) IS NOT TRUE$$, 'letters are mended with any text');
SELECT is_empty($$SELECT n, s FROM nasty WHERE s <> '' AND length(s) < 250 AND pg_temp.attempt('SELECT outbox.first_time($1, $1, $1)', s) <> 'ok true'$$, 'so are inboxes');

-- Names of what is not there, with a % or a line break: errors, not formats
SELECT is_empty($$SELECT n, f, a FROM nasty, unnest(ARRAY['SELECT outbox.unpublish($1)', 'SELECT outbox.copy($1)', 'SELECT outbox.cancel_copy($1)', 'SELECT outbox.unsubscribe($1)',
		'SELECT outbox.seek($1, $1)', 'SELECT outbox.server_check($1)', 'SELECT outbox.pause($1)', 'SELECT outbox.resume($1)', 'SELECT outbox.pause_topic(''t'', $1)',
		'SELECT outbox.stat_reset($1)', 'SELECT outbox.stat_reset(''topic'', $1)', 'SELECT outbox.publish(''box'', topic => ''t'', mode => $1)',
		'SELECT outbox.publish(''box'', topic => ''t'', identity => $1)', 'SELECT outbox.publish(''box'', topic => ''t'', server => $1)',
		'SELECT outbox.publish(''box'', topic => ''t'', columns => ARRAY[$1])', 'SELECT outbox.publish(''box'', topic => ''t'', partition_by => ARRAY[$1])',
		'SELECT outbox.publish(''box'', topic => ''t'', filter => $1)', 'SELECT outbox.publish(''box'', topic => ''t'', with_headers => ARRAY[$1])',
		'SELECT outbox.adopt(''box'', columns => ARRAY[$1])', 'SELECT outbox.adopt(''box'', topic => $1)',
		'SELECT outbox.apply(''box'', $1, $1)', 'SELECT outbox.apply(''box'', $1, ''{}'', to_jsonb($1))']) AS f, pg_temp.attempt(f, s) AS a
	WHERE a LIKE 'ok %' AND NOT (f LIKE '%adopt%topic%' AND s ~ '^[A-Za-z0-9._-]+$|^{database}$') OR a LIKE 'XX%'$$, 'what does not exist is refused');
SELECT is((SELECT count(*) FROM nasty), 43::bigint, 'and the table is still there');
SELECT * FROM finish();
ROLLBACK;
