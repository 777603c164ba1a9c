/*-------------------------------------------------------------------------
 *
 * mock_broker.c
 *	  librdkafka's mock cluster as a process of its own.
 *
 * A stand-in for Kafka that needs no Java, starts at once, and can be told to
 * fail.  What it is not: it checks no sequences of idempotent producers, shows
 * aborted transactions to read_committed readers, keeps only the last 5 MB of a
 * partition, and answers a fetch that finds nothing only when the reader's
 * fetch.wait.max.ms is over.
 *
 *	  mock_broker [--brokers N] [--topic NAME:PARTITIONS]... [--file FILE]
 *				  [--control SOCKET] [--stdin] [--with-parent]
 *	  mock_broker --send SOCKET COMMAND [ARGUMENT...]
 *	  mock_broker --list-errors
 *
 * Prints "bootstrap.servers=HOST:PORT,..." and a newline once it listens, and
 * writes the same without the name into FILE.  Unknown topics come into being
 * with four partitions when a client asks for them.  Ends on SIGTERM, SIGINT,
 * with --stdin at the end of standard input, with --with-parent together with
 * the process that started it.
 *
 * Commands, one a line, come from standard input (--stdin) or the Unix socket;
 * each is answered by one line, "ok" or "error: ...":
 *
 *	  topic NAME PARTITIONS		create a topic
 *	  down BROKER|all			close its connections and refuse new ones
 *	  up BROKER|all
 *	  rtt BROKER|all MS			round-trip time
 *	  errors API ERROR [COUNT]	fail the next COUNT requests (Produce, Fetch, ...)
 *								with an error (MSG_SIZE_TOO_LARGE, _TRANSPORT, ...)
 *	  clear API					forget the errors not yet raised
 *	  topic-error NAME ERROR	answer requests for the topic with an error;
 *								NO_ERROR ends it
 *	  leader NAME PARTITION BROKER
 *	  ping
 *	  stop
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#define MAX_TOPICS 64
#define MAX_WORDS 8
#define MAX_ERRORS 10000
#define LINE_SIZE 1024

typedef struct Options
{
	int			brokers;
	const char *topics[MAX_TOPICS];
	int			ntopics;
	const char *file;
	const char *control;
	bool		use_stdin;
	bool		with_parent;
} Options;

typedef struct Api
{
	const char *name;
	int			key;
} Api;

static const Api apis[] = {
	{"Produce", 0}, {"Fetch", 1}, {"ListOffsets", 2}, {"Metadata", 3},
	{"OffsetCommit", 8}, {"OffsetFetch", 9}, {"FindCoordinator", 10},
	{"JoinGroup", 11}, {"Heartbeat", 12}, {"LeaveGroup", 13}, {"SyncGroup", 14},
	{"SaslHandshake", 17}, {"ApiVersion", 18}, {"InitProducerId", 22},
	{"AddPartitionsToTxn", 24}, {"AddOffsetsToTxn", 25}, {"EndTxn", 26},
	{"TxnOffsetCommit", 28}
};

static rd_kafka_mock_cluster_t *cluster;
static int	nbrokers;
static int	stop_pipe[2];		/* written by the signal handler */
static const char *unlink_at_exit[2];

static void die(const char *fmt,...) __attribute__((format(printf, 1, 2), noreturn));

static void
die(const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	fputs("mock_broker: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

/* ---------------- commands ---------------- */

static const char *
api_lookup(const char *name, int *key)
{
	for (size_t i = 0; i < sizeof(apis) / sizeof(apis[0]); i++)
		if (strcasecmp(apis[i].name, name) == 0)
		{
			*key = apis[i].key;
			return NULL;
		}
	return "no such request type";
}

static const char *
error_lookup(const char *name, rd_kafka_resp_err_t *err)
{
	const struct rd_kafka_err_desc *descs;
	size_t		count;

	rd_kafka_get_err_descs(&descs, &count);
	for (size_t i = 0; i < count; i++)
		if (descs[i].name != NULL && strcmp(descs[i].name, name) == 0)
		{
			*err = descs[i].code;
			return NULL;
		}
	return "no such error";
}

/* The errors that brokers answer, as the client knows them. */
static int
errors_list(void)
{
	const struct rd_kafka_err_desc *descs;
	size_t		count;

	rd_kafka_get_err_descs(&descs, &count);
	for (size_t i = 0; i < count; i++)
		if (descs[i].name != NULL && descs[i].desc != NULL && descs[i].code > 0)
			printf("%s\n", descs[i].name);
	return 0;
}

static const char *
reply_of(rd_kafka_resp_err_t err)
{
	return err == RD_KAFKA_RESP_ERR_NO_ERROR ? NULL : rd_kafka_err2str(err);
}

/* Apply to one broker or to all. */
static const char *
brokers_change(const char *command, const char *which, int ms)
{
	bool		all = strcmp(which, "all") == 0;
	int			from = all ? 1 : atoi(which);
	int			to = all ? nbrokers : from;
	const char *fault = NULL;

	for (int id = from; id <= to && fault == NULL; id++)
	{
		if (strcmp(command, "down") == 0)
			fault = reply_of(rd_kafka_mock_broker_set_down(cluster, id));
		else if (strcmp(command, "up") == 0)
			fault = reply_of(rd_kafka_mock_broker_set_up(cluster, id));
		else
			fault = reply_of(rd_kafka_mock_broker_set_rtt(cluster, id, ms));
	}
	return fault;
}

static const char *
errors_push(const char *api, const char *error, int count)
{
	rd_kafka_resp_err_t *errs;
	rd_kafka_resp_err_t err;
	int			key;
	const char *fault = api_lookup(api, &key);

	if (fault == NULL)
		fault = error_lookup(error, &err);
	if (fault == NULL && (count < 1 || count > MAX_ERRORS))
		fault = "bad count";
	if (fault != NULL)
		return fault;
	errs = malloc(count * sizeof(*errs));
	if (errs == NULL)
		return "out of memory";
	for (int i = 0; i < count; i++)
		errs[i] = err;
	rd_kafka_mock_push_request_errors_array(cluster, key, count, errs);
	free(errs);
	return NULL;
}

static const char *
errors_clear(const char *api)
{
	int			key;
	const char *fault = api_lookup(api, &key);

	if (fault == NULL)
		rd_kafka_mock_clear_request_errors(cluster, key);
	return fault;
}

static const char *
topic_error(const char *topic, const char *error)
{
	rd_kafka_resp_err_t err;
	const char *fault = error_lookup(error, &err);

	if (fault == NULL)
		rd_kafka_mock_topic_set_error(cluster, topic, err);
	return fault;
}

static const char *
topic_create(const char *topic, int partitions)
{
	if (partitions < 1)
		return "bad number of partitions";
	return reply_of(rd_kafka_mock_topic_create(cluster, topic, partitions,
											   nbrokers < 3 ? nbrokers : 3));
}

/* NULL if the command was carried out, else what is wrong. */
static const char *
command_run(int nwords, char **word)
{
	const char *name = word[0];

	if (strcmp(name, "ping") == 0 && nwords == 1)
		return NULL;
	if (strcmp(name, "topic") == 0 && nwords == 3)
		return topic_create(word[1], atoi(word[2]));
	if ((strcmp(name, "down") == 0 || strcmp(name, "up") == 0) && nwords == 2)
		return brokers_change(name, word[1], 0);
	if (strcmp(name, "rtt") == 0 && nwords == 3)
		return brokers_change(name, word[1], atoi(word[2]));
	if (strcmp(name, "errors") == 0 && (nwords == 3 || nwords == 4))
		return errors_push(word[1], word[2], nwords == 4 ? atoi(word[3]) : 1);
	if (strcmp(name, "clear") == 0 && nwords == 2)
		return errors_clear(word[1]);
	if (strcmp(name, "topic-error") == 0 && nwords == 3)
		return topic_error(word[1], word[2]);
	if (strcmp(name, "leader") == 0 && nwords == 4)
		return reply_of(rd_kafka_mock_partition_set_leader(cluster, word[1],
														   atoi(word[2]),
														   atoi(word[3])));
	if (strcmp(name, "stop") == 0 && nwords == 1)
	{
		if (write(stop_pipe[1], "x", 1) < 0)
			return strerror(errno);
		return NULL;
	}
	return "no such command, or the wrong number of arguments";
}

static void
line_run(char *line, int reply_fd)
{
	char	   *word[MAX_WORDS];
	int			nwords = 0;
	char	   *save;
	const char *fault;
	char		reply[LINE_SIZE];

	for (char *p = strtok_r(line, " \t\r\n", &save); p != NULL && nwords < MAX_WORDS;
		 p = strtok_r(NULL, " \t\r\n", &save))
		word[nwords++] = p;
	if (nwords == 0)
		return;
	fault = command_run(nwords, word);
	if (fault == NULL)
		snprintf(reply, sizeof(reply), "ok\n");
	else
		snprintf(reply, sizeof(reply), "error: %s\n", fault);
	if (write(reply_fd, reply, strlen(reply)) < 0)
		return;					/* nobody listens */
}

/* ---------------- control socket ---------------- */

static int
socket_address(const char *path, struct sockaddr_un *addr)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(addr->sun_path))
		die("the socket's path is too long: %s", path);
	strcpy(addr->sun_path, path);
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int
control_listen(const char *path)
{
	struct sockaddr_un addr;
	int			fd = socket_address(path, &addr);

	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *) &addr, sizeof(addr)) < 0 ||
		listen(fd, 8) < 0)
		die("could not listen at %s: %s", path, strerror(errno));
	unlink_at_exit[0] = path;
	return fd;
}

/* One command a connection. */
static void
control_serve(int listener)
{
	char		line[LINE_SIZE];
	int			fd = accept(listener, NULL, NULL);
	size_t		len = 0;
	struct timeval limit = {.tv_sec = 5};

	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	while (len < sizeof(line) - 1)
	{
		ssize_t		n = read(fd, line + len, sizeof(line) - 1 - len);

		if (n <= 0)
			break;
		len += n;
		if (memchr(line, '\n', len) != NULL)
			break;
	}
	line[len] = '\0';
	line_run(line, fd);
	close(fd);
}

static int
control_send(const char *path, int nwords, char **word)
{
	struct sockaddr_un addr;
	int			fd = socket_address(path, &addr);
	char		line[LINE_SIZE] = "";
	ssize_t		n;

	if (fd < 0 || connect(fd, (struct sockaddr *) &addr, sizeof(addr)) < 0)
		die("could not connect to %s: %s", path, strerror(errno));
	for (int i = 0; i < nwords; i++)
	{
		strncat(line, word[i], sizeof(line) - strlen(line) - 2);
		strncat(line, i + 1 < nwords ? " " : "\n", sizeof(line) - strlen(line) - 1);
	}
	if (write(fd, line, strlen(line)) < 0)
		die("could not send: %s", strerror(errno));
	n = read(fd, line, sizeof(line) - 1);
	if (n <= 0)
		die("no answer");
	line[n] = '\0';
	fputs(line, stdout);
	return strncmp(line, "ok", 2) == 0 ? 0 : 1;
}

/* ---------------- main ---------------- */

static void
handle_signal(int signo)
{
	int			saved = errno;

	(void) signo;
	if (write(stop_pipe[1], "x", 1) < 0)
		_exit(1);
	errno = saved;
}

static void usage(void) __attribute__((noreturn));

static void
usage(void)
{
	fputs("usage: mock_broker [--brokers N] [--topic NAME:PARTITIONS]... [--file FILE]\n"
		  "                   [--control SOCKET] [--stdin] [--with-parent]\n"
		  "       mock_broker --send SOCKET COMMAND [ARGUMENT...]\n"
		  "       mock_broker --list-errors\n", stderr);
	exit(2);
}

static const char *
next_argument(int argc, char **argv, int *i)
{
	if (++*i >= argc)
		usage();
	return argv[*i];
}

static void
options_parse(int argc, char **argv, Options *opt)
{
	for (int i = 1; i < argc; i++)
	{
		if (strcmp(argv[i], "--brokers") == 0)
			opt->brokers = atoi(next_argument(argc, argv, &i));
		else if (strcmp(argv[i], "--topic") == 0 && opt->ntopics < MAX_TOPICS)
			opt->topics[opt->ntopics++] = next_argument(argc, argv, &i);
		else if (strcmp(argv[i], "--file") == 0)
			opt->file = next_argument(argc, argv, &i);
		else if (strcmp(argv[i], "--control") == 0)
			opt->control = next_argument(argc, argv, &i);
		else if (strcmp(argv[i], "--stdin") == 0)
			opt->use_stdin = true;
		else if (strcmp(argv[i], "--with-parent") == 0)
			opt->with_parent = true;
		else
			usage();
	}
	if (opt->brokers < 1 || opt->brokers > 100)
		usage();
}

static void
topics_create(const Options *opt)
{
	for (int i = 0; i < opt->ntopics; i++)
	{
		char		name[256];
		int			partitions;
		const char *fault;

		if (sscanf(opt->topics[i], "%255[^:]:%d", name, &partitions) != 2)
			usage();
		fault = topic_create(name, partitions);
		if (fault != NULL)
			die("could not create topic %s: %s", name, fault);
	}
}

/* The file appears whole or not at all. */
static void
file_write(const char *path, const char *text)
{
	char		tmp[4096];
	FILE	   *f;

	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	f = fopen(tmp, "w");
	if (f == NULL || fprintf(f, "%s\n", text) < 0 || fclose(f) != 0 ||
		rename(tmp, path) != 0)
		die("could not write %s: %s", path, strerror(errno));
	unlink_at_exit[1] = path;
}

static void
cluster_start(const Options *opt)
{
	char		errstr[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;

	/* the instance is no client: that it has no servers is no news */
	rd_kafka_conf_set(conf, "log_level", "3", NULL, 0);
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (rk == NULL)
		die("%s", errstr);
	cluster = rd_kafka_mock_cluster_new(rk, opt->brokers);
	if (cluster == NULL)
		die("could not start the cluster");
	nbrokers = opt->brokers;
	topics_create(opt);
}

static bool
stdin_serve(void)
{
	static char line[LINE_SIZE];
	static size_t len = 0;
	ssize_t		n = read(STDIN_FILENO, line + len, sizeof(line) - 1 - len);
	char	   *end;

	if (n <= 0)
		return false;
	len += n;
	line[len] = '\0';
	while ((end = strchr(line, '\n')) != NULL)
	{
		*end = '\0';
		line_run(line, STDOUT_FILENO);
		len -= end + 1 - line;
		memmove(line, end + 1, len + 1);
	}
	return len < sizeof(line) - 1;
}

static void
serve(const Options *opt, int listener)
{
	struct pollfd fds[3] = {
		{.fd = stop_pipe[0],.events = POLLIN},
		{.fd = listener,.events = POLLIN},	/* ignored if negative */
		{.fd = opt->use_stdin ? STDIN_FILENO : -1,.events = POLLIN}
	};

	for (;;)
	{
		if (poll(fds, 3, -1) < 0)
		{
			if (errno == EINTR)
				continue;
			die("poll: %s", strerror(errno));
		}
		if (fds[0].revents)
			return;
		if (fds[1].revents)
			control_serve(listener);
		if (fds[2].revents && !stdin_serve())
			return;
	}
}

static void
tie_to_parent(pid_t parent)
{
#ifdef __linux__
	prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
	if (getppid() != parent)
		exit(1);
}

int
main(int argc, char **argv)
{
	Options		opt = {.brokers = 1};
	pid_t		parent = getppid();
	int			listener = -1;

	if (argc == 2 && strcmp(argv[1], "--list-errors") == 0)
		return errors_list();
	if (argc >= 4 && strcmp(argv[1], "--send") == 0)
		return control_send(argv[2], argc - 3, argv + 3);
	options_parse(argc, argv, &opt);
	if (opt.with_parent)
		tie_to_parent(parent);
	if (pipe(stop_pipe) < 0)
		die("pipe: %s", strerror(errno));
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, handle_signal);
	signal(SIGINT, handle_signal);

	cluster_start(&opt);
	if (opt.control != NULL)
		listener = control_listen(opt.control);
	if (opt.file != NULL)
		file_write(opt.file, rd_kafka_mock_cluster_bootstraps(cluster));
	printf("bootstrap.servers=%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);

	serve(&opt, listener);
	for (int i = 0; i < 2; i++)
		if (unlink_at_exit[i] != NULL)
			unlink(unlink_at_exit[i]);
	_exit(0);					/* nothing to save, and no threads to wait for */
}
