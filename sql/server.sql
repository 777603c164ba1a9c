-- Kafka servers: which options are taken, from whom, and what is said of them.

CREATE ROLE regress_outbox_owner;
CREATE ROLE regress_outbox_user;
GRANT USAGE ON FOREIGN DATA WRAPPER outbox_kafka TO regress_outbox_owner;

-- the default server does not exist yet
SELECT * FROM outbox.server_check();
SELECT * FROM outbox.server_check('no such; DROP "server');
CREATE FOREIGN DATA WRAPPER other_wrapper;
CREATE SERVER other FOREIGN DATA WRAPPER other_wrapper;
SELECT * FROM outbox.server_check('other');
DROP FOREIGN DATA WRAPPER other_wrapper CASCADE;

-- bootstrap.servers is required, and must make sense
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("client.id" 'a');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'a:9092,,b:9092');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" ':9092');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'a:+9092');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'a:b');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'a:70000');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'a b:9092');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'file:///etc/passwd');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '[::1:9092');
CREATE SERVER v6 FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" 'a, SASL_SSL://b.example:9092 ,[::1]:9092,[::2]');
DROP SERVER v6;

-- names that do not exist
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "compresion.type" 'lz4');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "Linger.MS" '1');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "nothing.like.any.of.them" '1');

-- names that are others' business
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', acks '1');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "sasl.mechanisms" 'PLAIN');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "plugin.library.paths" '/tmp/evil');

-- each of these is refused, whatever its value
DO $$
DECLARE
	name text;
	hint text;
	detail text;
	tried int := 0;
BEGIN
	FOREACH name IN ARRAY '{
		plugin.library.paths, sasl.kerberos.kinit.cmd, sasl.kerberos.keytab, sasl.kerberos.principal,
		ssl.engine.location, ssl.engine.id, ssl.providers, interceptors, offset.store.path,
		offset.store.method, sasl.jaas.config, ssl_ca, ssl_key, ssl_certificate,
		ssl_engine_callback_data, enable.sasl.oauthbearer.unsecure.jwt, sasl.oauthbearer.config,
		enable.idempotence, enable.gapless.guarantee, acks, request.required.acks, retries,
		message.send.max.retries, max.in.flight, max.in.flight.requests.per.connection,
		message.timeout.ms, delivery.timeout.ms, transactional.id,
		partitioner, partitioner_cb, msg_order_cmp, queuing.strategy, delivery.report.only.error,
		group.id, group.instance.id, enable.auto.commit, auto.commit.enable,
		enable.auto.offset.store, auto.offset.reset, isolation.level, enable.partition.eof,
		allow.auto.create.topics, opaque, default_topic_conf, error_cb, log_cb, stats_cb, dr_cb,
		dr_msg_cb, socket_cb, open_cb, resolve_cb, rebalance_cb, consume_cb, offset_commit_cb,
		throttle_cb, background_event_cb, oauthbearer_token_refresh_cb, ssl.certificate.verify_cb,
		connect_cb, closesocket_cb, enabled_events, log.queue, log_level, debug,
		statistics.interval.ms, internal.termination.signal, test.mock.num.brokers,
		test.mock.broker.rtt, broker.version.fallback, api.version.request, topic.blacklist,
		builtin.features, client.software.name, socket.blocking.max.ms, metadata.broker.list,
		compression.codec, ssl.truststore.location}'::text[]
	LOOP
		BEGIN
			EXECUTE format('CREATE SERVER evil FOREIGN DATA WRAPPER outbox_kafka '
				'OPTIONS ("bootstrap.servers" ''127.0.0.1:1'', %I ''/bin/true'')', name);
			RAISE WARNING 'server option % was accepted', name;
		EXCEPTION
			WHEN fdw_invalid_option_name THEN
				tried := tried + 1;
		END;
	END LOOP;
	RAISE NOTICE '% options refused', tried;
END $$;

-- values
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "compression.type" 'zip');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "linger.ms" 'soon');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "queue.buffering.max.kbytes" '2147483647');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "queued.max.messages.kbytes" 'nan');
-- exactly once
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', exactly_once 'perhaps');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', exactly_once 'on', "transaction.timeout.ms" '1000');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', exactly_once 'on', "transactional.id" 'mine');
-- numbers that we and the client would read differently
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "batch.size" '0x10000');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "batch.size" '1e6');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "message.max.bytes" '010000');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "message.max.bytes" '10000.5');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "linger.ms" '1e1');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "socket.keepalive.enable" 'perhaps');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "sasl.mechanism" 'PLAIN,GSSAPI');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "sasl.oauthbearer.token.endpoint.url" 'file:///etc/passwd');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "ssl.ca.location" 'relative/ca.pem');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', topics 'good, bad topic');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', topics 'a,');

-- secrets belong to a user mapping, and are not repeated
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "sasl.password" 'geheim');
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "client.id" 'regress', "compression.type" 'lz4',
	"linger.ms" '0.5', topics 'users, orders.*,*-dead,x*y*z');
COMMENT ON SERVER kafka IS 'nothing listens there';
CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ("linger.ms" '5');
CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ("secrets.file" '/etc/passwd');
CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ("sasl.passwort" 'geheim');
CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ("sasl.password" '');
CREATE USER MAPPING FOR PUBLIC SERVER kafka
	OPTIONS ("sasl.mechanism" 'PLAIN', "sasl.username" 'joe', "sasl.password" 'geheim');
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'kafka';

-- the wrapper itself and foreign tables have nothing to set
ALTER FOREIGN DATA WRAPPER outbox_kafka OPTIONS (ADD "bootstrap.servers" 'a');
CREATE FOREIGN TABLE ft (a int) SERVER kafka OPTIONS (topic 'a');
CREATE FOREIGN TABLE ft (a int) SERVER kafka;
SELECT * FROM ft;
DROP FOREIGN TABLE ft;

-- which topics
SELECT topic, outbox._server_topic_allowed('kafka', topic)
FROM unnest('{users,Users,users2,user,orders.,orders.eu,orders,-dead,a-dead,a-dead-,xyz,xaaybbz,xz,
	"users, orders.eu","users,","","*","orders.*","users ","xyzz","xyyz","xzyzyz"}'::text[]) WITH ORDINALITY AS t (topic, n)
ORDER BY n;
SELECT outbox._server_topic_allowed('kafka', repeat('x', 200) || repeat('y', 40));
ALTER SERVER kafka OPTIONS (DROP topics);
SELECT outbox._server_topic_allowed('kafka', 'anything');

-- the check says why not, quickly
SET pg_outbox.connect_timeout = '3s';
SELECT ok, broker_count, brokers, cluster_id, controller,
	regexp_replace(detail, ' \(after.*', '') AS detail FROM outbox.server_check();
ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" 'no..name:9092');
SELECT ok, detail ~ 'Failed to resolve ' AS not_resolved FROM outbox.server_check();
ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '127.0.0.1:1', ADD "security.protocol" 'ssl',
	ADD "ssl.ca.location" '/nonexistent/ca.pem');
\set VERBOSITY terse
SELECT * FROM outbox.server_check();
ALTER SERVER kafka OPTIONS (DROP "security.protocol", DROP "ssl.ca.location");
-- options that contradict each other are found when the client is made
ALTER SERVER kafka OPTIONS (ADD "reconnect.backoff.ms" '5000', ADD "reconnect.backoff.max.ms" '100');
SELECT * FROM outbox.server_check();
\set VERBOSITY default
ALTER SERVER kafka OPTIONS (DROP "reconnect.backoff.ms", DROP "reconnect.backoff.max.ms");
\set VERBOSITY sqlstate
SET pg_outbox.connect_timeout = '0';
\set VERBOSITY default
RESET pg_outbox.connect_timeout;

-- rights: using a server is granted, naming files is for superusers
SET ROLE regress_outbox_user;
SELECT * FROM outbox.server_check();
SELECT outbox._server_topic_allowed('kafka', 'a');
SELECT outbox._kafka_validator('{acks=1}', 0);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER kafka TO regress_outbox_user;
SET ROLE regress_outbox_user;
SELECT ok FROM outbox.server_check();
SELECT umoptions FROM pg_user_mappings WHERE srvname = 'kafka';
RESET ROLE;
SET ROLE regress_outbox_owner;
CREATE SERVER mine FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "ssl.ca.location" '/etc/ssl/certs/ca-certificates.crt');
CREATE SERVER mine FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '127.0.0.1:1', "secrets.file" '/etc/passwd');
CREATE SERVER mine FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
-- nobody else turns the operating system user's ticket to brokers of his own
ALTER SERVER mine OPTIONS (ADD "security.protocol" 'SASL_plaintext');
SELECT * FROM outbox.server_check('mine');
ALTER SERVER mine OPTIONS (ADD "sasl.mechanism" 'GSSAPI');
SELECT * FROM outbox.server_check('mine');
-- nor by words that the client reads less strictly
ALTER SERVER mine OPTIONS (SET "sasl.mechanism" ' GSSAPI');
ALTER SERVER mine OPTIONS (SET "sasl.mechanism" 'gssapi');
ALTER SERVER mine OPTIONS (SET "sasl.mechanism" 'anything');
ALTER SERVER mine OPTIONS (SET "security.protocol" E'\tsasl_plaintext');
ALTER SERVER mine OPTIONS (SET "security.protocol" 'sasl_plaintext ');
ALTER SERVER mine OPTIONS (DROP "sasl.mechanism", DROP "security.protocol");
RESET ROLE;
-- what a superuser has set stays out of its owner's hands
ALTER SERVER mine OPTIONS (ADD "secrets.file" '/nonexistent/secrets');
SET ROLE regress_outbox_owner;
ALTER SERVER mine OPTIONS (SET "bootstrap.servers" 'evil.example:9092');
SELECT * FROM outbox.server_check('mine');
RESET ROLE;

DROP SERVER mine CASCADE;
DROP SERVER kafka CASCADE;
REVOKE USAGE ON FOREIGN DATA WRAPPER outbox_kafka FROM regress_outbox_owner;
DROP ROLE regress_outbox_owner, regress_outbox_user;
