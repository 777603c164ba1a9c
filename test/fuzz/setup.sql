-- What the targets of test/fuzz need in their database.
CREATE EXTENSION IF NOT EXISTS pg_outbox;

CREATE FUNCTION outbox_fuzz_input(target text, input bytea) RETURNS boolean
AS 'pg_outbox' LANGUAGE c STRICT;
CREATE FUNCTION outbox_fuzz_mutate(target text, inputs bytea[], n integer, seed integer) RETURNS bigint
AS 'pg_outbox' LANGUAGE c STRICT;
CREATE FUNCTION outbox_fuzz_run(target text, arguments text[]) RETURNS void
AS 'pg_outbox' LANGUAGE c STRICT;

CREATE SERVER fuzz FOREIGN DATA WRAPPER outbox_kafka
OPTIONS ("bootstrap.servers" 'localhost:1', topics 'a*b*a, *.*.x,**ab,c*d');

CREATE TABLE fuzz_columns (
	id integer PRIMARY KEY,
	name text,
	"Name" text,
	"a as b" text,
	"quoted ""name""" text,
	" blank " text,
	"b,c" text,
	gone text,
	"äöü" text
);
ALTER TABLE fuzz_columns DROP COLUMN gone;

CREATE TYPE fuzz_record_value AS (id integer, name text, n numeric, ok boolean, j jsonb, tags text[], at timestamptz);
CREATE TABLE fuzz_record (
	id integer PRIMARY KEY,
	name text,
	n numeric,
	ok boolean,
	j jsonb,
	tags text[],
	at timestamptz,
	version bigint NOT NULL
);
CREATE TABLE fuzz_batch (id integer PRIMARY KEY, n integer NOT NULL, t text, version bigint NOT NULL);

CREATE FUNCTION fuzz_handler(ev outbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	ASSERT ROW(ev.headers ->> 'id', ev.headers ->> 'op', ev.headers ->> 'source', ev.headers ->> 'type')
		IS NOT DISTINCT FROM ROW(ev.id, ev.op, ev.source, ev.type);
END $$;

CREATE TYPE fuzz_inner AS (a integer, b text, c jsonb, d text[]);
CREATE TYPE fuzz_outer AS (x fuzz_inner, y fuzz_inner[], "z ""z" numeric);
CREATE DOMAIN fuzz_domain AS text CHECK (length(VALUE) < 20);
CREATE TYPE fuzz_enum AS ENUM ('one', 'two', 'three and more');

-- a table for each type, as the target "value" counts them
DO $$
DECLARE
	types text[] := ARRAY['text', 'integer', 'bigint', 'smallint', 'boolean', 'numeric', 'float4', 'float8',
		'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'interval', 'bytea', 'json', 'jsonb', 'uuid',
		'inet', 'char(5)', 'varchar(10)', 'text[]', 'integer[]', 'jsonb[]', 'json[]', 'fuzz_inner',
		'fuzz_outer', 'fuzz_outer[]', 'fuzz_domain[]', 'fuzz_enum[]', 'int4range', 'tsvector'];
BEGIN
	FOR i IN 1 .. cardinality(types) LOOP
		EXECUTE format('CREATE TABLE fuzz_value_%s (id integer PRIMARY KEY, v %s, version bigint NOT NULL)', i - 1, types[i]);
	END LOOP;
END $$;
