-- Subscriptions: topics that the applier consumes, and where to.

CREATE TABLE outbox._subscription (
	name text COLLATE "C" PRIMARY KEY,
	target regclass,
	handler text,
	server text NOT NULL,
	topic text NOT NULL,
	key_columns text[],
	version_column text,
	columns text[]
);
CREATE INDEX _subscription_target_idx ON outbox._subscription (target);
COMMENT ON TABLE outbox._subscription IS 'subscriptions; internal, see view outbox.subscriptions';
