/*-------------------------------------------------------------------------
 *
 * secrets.c
 *	  The file of credentials named by option "secrets.file".
 *
 * Lines are name=value with blanks around name and value ignored; empty lines
 * and those that begin with # are skipped.  Only what a user mapping may hold
 * is allowed.  No message repeats anything from the file but option names.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "kafka/secrets.h"

#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "kafka/option.h"

#define SECRETS_MAX_BYTES (64 * 1024)

/*
 * Judge the opened file, not its name: nobody can exchange it in between.
 */
static void
secrets_check_file(int fd, const char *path)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat secrets file \"%s\": %m", path)));
	if (!S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("secrets file \"%s\" is not a regular file", path)));
	if (st.st_uid != geteuid() || (st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("secrets file \"%s\" is not private", path),
				 errdetail("It must belong to the operating system user the server runs as, and be accessible to nobody else."),
				 errhint("Set its mode to 0600.")));
}

pg_noreturn static void
secrets_too_large(const char *path)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("secrets file \"%s\" is too large", path),
			 errdetail("It may have at most %d bytes.", SECRETS_MAX_BYTES)));
}

/*
 * The whole file as a palloc'd string.  It may grow while it is read, and a
 * zero byte would end the string early: a part is never taken for the whole.
 */
static char *
secrets_load(const char *path)
{
	char	   *contents = palloc(SECRETS_MAX_BYTES + 2);
	int			len = 0;
	int			fd;

	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open secrets file \"%s\": %m", path)));
	secrets_check_file(fd, path);
	while (len <= SECRETS_MAX_BYTES)
	{
		ssize_t		nread = read(fd, contents + len, SECRETS_MAX_BYTES + 1 - len);

		if (nread < 0 && errno == EINTR)
			continue;
		if (nread < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read secrets file \"%s\": %m", path)));
		if (nread == 0)
			break;
		len += nread;
	}
	CloseTransientFile(fd);
	if (len > SECRETS_MAX_BYTES)
		secrets_too_large(path);
	contents[len] = '\0';
	if (strlen(contents) != len)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("secrets file \"%s\" has a zero byte", path)));
	return contents;
}

static char *
trim(char *s)
{
	char	   *end;

	while (isspace((unsigned char) *s))
		s++;
	end = s + strlen(s);
	while (end > s && isspace((unsigned char) end[-1]))
		end--;
	*end = '\0';
	return s;
}

/*
 * Is it the name of a property?  Anything else may be a secret in the wrong
 * place and must not be repeated.
 */
static bool
looks_like_name(const char *name)
{
	return *name != '\0' &&
		strspn(name, "abcdefghijklmnopqrstuvwxyz._") == strlen(name);
}

static void
secrets_line(const char *path, int lineno, char *line,
			 OutboxSecretFunc func, void *arg)
{
	char	   *name = trim(line);
	char	   *equals;

	if (*name == '\0' || *name == '#')
		return;
	equals = strchr(name, '=');
	if (equals != NULL)
	{
		*equals = '\0';
		name = trim(name);
	}
	if (equals == NULL || !looks_like_name(name))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("invalid line %d in secrets file \"%s\"", lineno, path),
				 errhint("Each line must be an option of a user mapping, an equals sign and its value; a comment begins with \"#\".")));
	outbox_option_check(name, trim(equals + 1), OUTBOX_OPTION_MAPPING,
						path, lineno);
	func(arg, name, trim(equals + 1));
}

void
outbox_secrets_read(const char *path, OutboxSecretFunc func, void *arg)
{
	char	   *contents = secrets_load(path);
	char	   *line = contents;
	int			lineno = 1;

	while (line != NULL)
	{
		char	   *end = strchr(line, '\n');

		if (end != NULL)
			*end = '\0';
		secrets_line(path, lineno++, line, func, arg);
		line = end ? end + 1 : NULL;
	}
	explicit_bzero(contents, SECRETS_MAX_BYTES + 1);
	pfree(contents);
}
