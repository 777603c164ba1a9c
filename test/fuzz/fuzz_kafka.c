/*-------------------------------------------------------------------------
 *
 * fuzz_kafka.c
 *	  Targets for options of servers and user mappings, and secrets files.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "fuzz.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "foreign/foreign.h"

#include "kafka/kafka.h"
#include "kafka/option.h"
#include "kafka/secrets.h"

/* ---------------- option: name and value ---------------- */

/* After the last colon, or behind a bracket: digits of a number up to 65535. */
static void
check_bootstrap(char *servers)
{
	for (char *entry = strtok(servers, ","); entry != NULL; entry = strtok(NULL, ","))
	{
		char	   *address = strstr(entry, "://") ? strstr(entry, "://") + 3 : entry;
		char	   *bracket;
		char	   *port;

		while (*address == ' ' || (*address >= '\t' && *address <= '\r'))
			address++;
		bracket = (*address == '[') ? strchr(address, ']') : NULL;
		port = strrchr(bracket ? bracket : address, ':');
		if (port == NULL)
			continue;
		port++;
		fuzz_check(strspn(port, "0123456789") > 0);
		port[strcspn(port, " \t\n\v\f\r")] = '\0';
		fuzz_check(strspn(port, "0123456789") == strlen(port) && strlen(port) < 10);
		fuzz_check(atoi(port) >= 1 && atoi(port) <= 65535);
	}
}

static void
check_value(const char *name, const char *value)
{
	const OutboxOption *option = outbox_option_find(name);

	fuzz_check(option != NULL && *value != '\0');
	if (strcmp(name, OUTBOX_OPTION_BOOTSTRAP) == 0)
		check_bootstrap(pstrdup(value));
	if (option->flags & OUTBOX_OPTION_FILE)
		fuzz_check(value[0] == '/');
	if (option->max > 0)
		fuzz_check(atof(value) >= option->min && atof(value) <= option->max);
}

static void
fuzz_option(const char *data, int len)
{
	int			n;
	FuzzField  *fields = fuzz_split(data, len, &n);
	char	   *name;
	char	   *value;
	int			where;

	if (n < 2 || !fuzz_is_text(fields[0].data, fields[0].len) || !fuzz_is_text(fields[1].data, fields[1].len))
		return;
	name = fuzz_cstring(&fields[0]);
	value = fuzz_cstring(&fields[1]);
	where = (n == 2) ? OUTBOX_OPTION_SERVER : OUTBOX_OPTION_MAPPING;
	outbox_option_check(name, value, where, n > 3 ? "secrets" : NULL, 1);
	check_value(name, value);
}

/* ---------------- secrets: a file ---------------- */

typedef struct SecretsFile
{
	const char *data;
	int			len;
	int			nlines;			/* that have an option, as it was told */
} SecretsFile;

static void
take_secret(void *arg, const char *name, const char *value)
{
	SecretsFile *file = arg;
	const OutboxOption *option = outbox_option_find(name);

	file->nlines++;
	fuzz_check(option != NULL && (option->flags & OUTBOX_OPTION_MAPPING) != 0);
	fuzz_check(value[0] != '\0');
	fuzz_check(memmem(file->data, file->len, value, strlen(value)) != NULL);
}

static bool
is_blank_or_comment(const char *line, int len)
{
	while (len > 0 && (*line == ' ' || (*line >= '\t' && *line <= '\r')))
		line++, len--;
	return len == 0 || *line == '#';
}

static int
count_lines(const char *data, int len)
{
	const char *end = data + len;
	int			n = 0;

	while (data < end)
	{
		const char *stop = memchr(data, '\n', end - data);

		if (stop == NULL)
			stop = end;
		n += !is_blank_or_comment(data, stop - data);
		data = stop + 1;
	}
	return n;
}

static int	secrets_fd = -1;

/* A file that is in memory only, and ours. */
static char *
write_secrets(const char *data, int len)
{
	if (secrets_fd < 0)
	{
		secrets_fd = memfd_create("secrets", MFD_CLOEXEC);
		if (secrets_fd < 0 || fchmod(secrets_fd, 0600) != 0)
			elog(ERROR, "could not make a file: %m");
	}
	if (ftruncate(secrets_fd, 0) != 0 || pwrite(secrets_fd, data, len, 0) != len)
		elog(ERROR, "could not write the file: %m");
	return psprintf("/proc/self/fd/%d", secrets_fd);
}

static void
fuzz_secrets(const char *data, int len)
{
	SecretsFile file = {data, len, 0};

	outbox_secrets_read(write_secrets(data, len), take_secret, &file);
	fuzz_check(file.nlines == count_lines(data, len));
}

/* ---------------- pattern: topics that a server allows ---------------- */

static bool
matches(const char *pattern, const char *name)
{
	if (*pattern == '\0')
		return *name == '\0';
	if (*pattern == '*')
		return matches(pattern + 1, name) || (*name != '\0' && matches(pattern, name + 1));
	return *pattern == *name && matches(pattern + 1, name + 1);
}

static void
fuzz_pattern(const char *data, int len)
{
	static const char *const patterns[] = {"a*b*a", "*.*.x", "**ab", "c*d"};
	FuzzField	field = {unconstify(char *, data), len};
	bool		expected = false;
	char	   *topic;

	if (len > 64 || !fuzz_is_text(data, len))
		return;
	topic = fuzz_cstring(&field);
	for (int i = 0; i < lengthof(patterns); i++)
		expected = expected || matches(patterns[i], topic);
	fuzz_check(outbox_server_topic_allowed(outbox_server_oid("fuzz", false), topic) == expected);
}

const FuzzTarget fuzz_kafka_targets[] = {
	{"option", fuzz_option, false, "HV "},
	{"secrets", fuzz_secrets, true, "HV F0000 "},
	{"pattern", fuzz_pattern, false, ""},
	{NULL}
};
