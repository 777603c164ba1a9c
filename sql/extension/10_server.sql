
-- Kafka clusters as foreign servers

CREATE FUNCTION outbox._kafka_validator(options text[], catalog oid) RETURNS void
AS 'MODULE_PATHNAME', 'outbox_kafka_validator'
LANGUAGE C STRICT;
REVOKE ALL ON FUNCTION outbox._kafka_validator(text[], oid) FROM PUBLIC;

COMMENT ON FUNCTION outbox._kafka_validator(text[], oid) IS
'Validator of foreign-data wrapper outbox_kafka, called by CREATE and ALTER of servers and user mappings. Raises fdw_invalid_option_name (HV00D), fdw_invalid_attribute_value, fdw_option_name_not_found (HV00J), or insufficient_privilege for options that name files.';

CREATE FOREIGN DATA WRAPPER outbox_kafka NO HANDLER VALIDATOR outbox._kafka_validator;

COMMENT ON FOREIGN DATA WRAPPER outbox_kafka IS
'Kafka clusters. CREATE SERVER takes the connection properties of a Kafka client under their own names ("bootstrap.servers", required, "security.protocol", "compression.type", ...), and "topics", a comma-separated list of topics or patterns with * that its users may publish to. CREATE USER MAPPING takes credentials ("sasl.username", "sasl.password", "ssl.key.pem", ...); the workers use the mapping of the server''s owner, else that of PUBLIC. "secrets.file" names a private file of such credentials (superusers only).';

CREATE FUNCTION outbox.server_check(
	server text DEFAULT 'kafka',
	OUT ok boolean,
	OUT broker_count integer,
	OUT brokers text,
	OUT cluster_id text,
	OUT controller integer,
	OUT detail text)
AS 'MODULE_PATHNAME', 'outbox_server_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION outbox.server_check(text) IS
'Connects to a Kafka server as the workers do and says what is there: whether a broker answered, how many brokers there are, the list "id=host:port, ...", the cluster''s id, the broker that is its controller, or, if none answered, the reason. Waits at most pg_outbox.connect_timeout (milliseconds, default 5000) and can be cancelled. Needs USAGE on the server. Raises undefined_object (42704), wrong_object_type (42809), insufficient_privilege (42501), fdw_error (HV000).';

CREATE FUNCTION outbox._server_topic_allowed(server text, topic text) RETURNS boolean
AS 'MODULE_PATHNAME', 'outbox_server_topic_allowed_sql'
LANGUAGE C STRICT STABLE;
REVOKE ALL ON FUNCTION outbox._server_topic_allowed(text, text) FROM PUBLIC;

COMMENT ON FUNCTION outbox._server_topic_allowed(text, text) IS
'Whether option "topics" of the Kafka server lets its users publish to the topic.';
