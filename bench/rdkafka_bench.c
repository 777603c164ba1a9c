/*-------------------------------------------------------------------------
 *
 * rdkafka_bench.c
 *	  How fast librdkafka's producer is by itself: the yardstick for the relay.
 *
 *	  rdkafka_bench BOOTSTRAP TOPIC [COUNT [VALUE_BYTES [KEYS]]] [NAME=VALUE...]
 *
 * Sends COUNT messages (1000000) of VALUE_BYTES (200) with one of KEYS (10000)
 * keys and the headers id and op, configured as the relay's producer is, and
 * waits until all are acknowledged.  Prints one line of name=value pairs:
 * messages per second, processor time per message in microseconds (all
 * threads), and the number of failures; the exit status is 1 if there were any.
 * NAME=VALUE sets properties of the producer.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>

#include <librdkafka/rdkafka.h>

typedef struct Bench
{
	rd_kafka_t *rk;
	rd_kafka_topic_t *rkt;
	rd_kafka_queue_t *queue;
	long		count;
	int			value_bytes;
	int			keys;
	long		reported;
	long		failed;
} Bench;

static double
now(void)
{
	struct timeval tv;

	gettimeofday(&tv, NULL);
	return tv.tv_sec + tv.tv_usec / 1e6;
}

static double
cpu_seconds(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return ru.ru_utime.tv_sec + ru.ru_utime.tv_usec / 1e6 +
		ru.ru_stime.tv_sec + ru.ru_stime.tv_usec / 1e6;
}

static void
die(const char *what)
{
	fprintf(stderr, "rdkafka_bench: %s\n", what);
	exit(2);
}

static void
set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		errstr[512];

	if (rd_kafka_conf_set(conf, name, value, errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die(errstr);
}

static void
producer_create(Bench *bench, const char *bootstrap, const char *topic,
				int nset, char **settings)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		errstr[512];

	set(conf, "bootstrap.servers", bootstrap);
	set(conf, "client.id", "rdkafka_bench");
	set(conf, "enable.idempotence", "true");
	set(conf, "acks", "all");
	set(conf, "message.timeout.ms", "0");
	set(conf, "partitioner", "murmur2_random");
	set(conf, "socket.nagle.disable", "true");
	set(conf, "linger.ms", "0");
	set(conf, "queue.buffering.max.kbytes", "32768");
	set(conf, "queue.buffering.max.messages", "200000");
	for (int i = 0; i < nset; i++)
	{
		char	   *equals = strchr(settings[i], '=');

		if (equals == NULL)
			die("settings are NAME=VALUE");
		*equals = '\0';
		set(conf, settings[i], equals + 1);
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR);
	bench->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (bench->rk == NULL)
		die(errstr);
	bench->rkt = rd_kafka_topic_new(bench->rk, topic, NULL);
	bench->queue = rd_kafka_queue_get_main(bench->rk);
}

static void
reports_take(Bench *bench, int timeout_ms)
{
	rd_kafka_event_t *ev;

	while ((ev = rd_kafka_queue_poll(bench->queue, timeout_ms)) != NULL)
	{
		const rd_kafka_message_t *rkm;

		while ((rkm = rd_kafka_event_message_next(ev)) != NULL)
		{
			bench->reported++;
			if (rkm->err != RD_KAFKA_RESP_ERR_NO_ERROR)
				bench->failed++;
		}
		rd_kafka_event_destroy(ev);
		timeout_ms = 0;
	}
}

static void
message_send(Bench *bench, long i, char *value)
{
	char		key[24];
	char		id[24];
	int			keylen = snprintf(key, sizeof(key), "%ld", i * 7919 % bench->keys);
	int			idlen = snprintf(id, sizeof(id), "%ld", 1800000000000000L + i);

	for (;;)
	{
		rd_kafka_headers_t *headers = rd_kafka_headers_new(2);
		rd_kafka_resp_err_t err;

		rd_kafka_header_add(headers, "id", -1, id, idlen);
		rd_kafka_header_add(headers, "op", -1, "u", 1);
		err = rd_kafka_producev(bench->rk,
								RD_KAFKA_V_RKT(bench->rkt),
								RD_KAFKA_V_KEY(key, keylen),
								RD_KAFKA_V_VALUE(value, bench->value_bytes),
								RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
								RD_KAFKA_V_HEADERS(headers),
								RD_KAFKA_V_OPAQUE((void *) (size_t) i),
								RD_KAFKA_V_END);
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			return;
		rd_kafka_headers_destroy(headers);
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			die(rd_kafka_err2str(err));
		reports_take(bench, 10);
	}
}

static void
bench_run(Bench *bench)
{
	char	   *value = malloc(bench->value_bytes + 1);

	if (value == NULL)
		die("out of memory");
	memset(value, 'x', bench->value_bytes);
	for (long i = 0; i < bench->count; i++)
	{
		message_send(bench, i, value);
		if (i % 256 == 0)
			reports_take(bench, 0);
	}
	while (bench->reported < bench->count)
		reports_take(bench, 100);
	free(value);
}

int
main(int argc, char **argv)
{
	Bench		bench = {.count = 1000000,.value_bytes = 200,.keys = 10000};
	double		start,
				cpu,
				elapsed;
	int			i = 3;

	if (argc < 3)
		die("usage: rdkafka_bench BOOTSTRAP TOPIC [COUNT [VALUE_BYTES [KEYS]]] [NAME=VALUE...]");
	if (i < argc && strchr(argv[i], '=') == NULL)
		bench.count = atol(argv[i++]);
	if (i < argc && strchr(argv[i], '=') == NULL)
		bench.value_bytes = atoi(argv[i++]);
	if (i < argc && strchr(argv[i], '=') == NULL)
		bench.keys = atoi(argv[i++]);
	if (bench.count < 1 || bench.value_bytes < 0 || bench.keys < 1)
		die("numbers must be positive");
	producer_create(&bench, argv[1], argv[2], argc - i, argv + i);

	start = now();
	cpu = cpu_seconds();
	bench_run(&bench);
	elapsed = now() - start;
	printf("messages=%ld value_bytes=%d seconds=%.3f rate=%.0f cpu_us=%.3f failed=%ld\n",
		   bench.count, bench.value_bytes, elapsed, bench.count / elapsed,
		   (cpu_seconds() - cpu) * 1e6 / bench.count, bench.failed);
	fflush(stdout);

	rd_kafka_topic_destroy(bench.rkt);
	rd_kafka_queue_destroy(bench.queue);
	rd_kafka_destroy(bench.rk);
	return bench.failed > 0 ? 1 : 0;
}
