-- The other service: replicas, and a handler that must see every event once.

CREATE TABLE account (id bigint PRIMARY KEY, name text, amount numeric, at timestamptz, rev bigint, n bigint, version bigint NOT NULL);
CREATE TABLE item (a text, b int, note text, rev bigint, n bigint, version bigint NOT NULL, PRIMARY KEY (a, b));
CREATE TABLE doc (id bigint PRIMARY KEY, body text, rev bigint, n bigint, version bigint NOT NULL);
CREATE TABLE bulk (id bigint PRIMARY KEY, g int, rev bigint, n bigint, version bigint NOT NULL);

-- No unique constraint: what is handled twice is to be seen.
CREATE TABLE handled (id bigint NOT NULL, rev bigint);
CREATE FUNCTION on_event(e outbox.event) RETURNS void LANGUAGE sql SET search_path = public AS $$
INSERT INTO handled VALUES (e.id::bigint, (e.value::jsonb ->> 'rev')::bigint)
$$;
