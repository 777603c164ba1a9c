/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *	  Running targets: one input, mutations of a corpus, or under libFuzzer.
 *
 * The mutations are for test runs, where no compiler with libFuzzer need be:
 * the same seed gives the same inputs.  libFuzzer takes the process over; so its
 * backend is one in single-user mode.
 *
 *-------------------------------------------------------------------------
 */
#include "common/compat.h"
#include "fuzz.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define FIELD_SEPARATOR ((char) 0xFF)
#define MAX_INPUT 4096

/*
 * How often to look at memory, and what it may grow by since the first look:
 * PostgreSQL's caches remember each name that does not exist.
 */
#define LOOK_AT_MEMORY 50000
#define MEMORY_GROWTH (64 * 1024 * 1024)

PG_FUNCTION_INFO_V1(outbox_fuzz_input);
PG_FUNCTION_INFO_V1(outbox_fuzz_mutate);
PG_FUNCTION_INFO_V1(outbox_fuzz_run);

static const FuzzTarget *const target_lists[] = {
	fuzz_json_targets, fuzz_apply_targets, fuzz_capture_targets, fuzz_kafka_targets
};

static MemoryContext fuzz_context = NULL;
static char finding[1024];		/* empty: none */

/* Memory by malloc(), so that a sanitizer sees its bounds; freed with the input. */
#define MAX_BLOCKS 1024
static void *blocks[MAX_BLOCKS];
static int	nblocks = 0;

/* ---------------- for targets ---------------- */

void
fuzz_finding(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(finding, sizeof(finding), format, args);
	va_end(args);
	ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg_internal("%s", finding)));
}

static char *
exact_block(const char *data, int len, int size)
{
	char	   *block = malloc(size);

	if (block == NULL || nblocks >= MAX_BLOCKS)
		elog(ERROR, "too many fields");
	blocks[nblocks++] = block;
	memcpy(block, data, len);
	return block;
}

FuzzField *
fuzz_split(const char *data, int len, int *nfields)
{
	const char *end = data + len;
	FuzzField  *fields = palloc(sizeof(FuzzField) * (MAX_BLOCKS / 2));
	int			n = 0;

	while (n < MAX_BLOCKS / 2)
	{
		const char *stop = memchr(data, FIELD_SEPARATOR, end - data);

		if (stop == NULL)
			stop = end;
		fields[n].len = stop - data;
		fields[n].data = exact_block(data, fields[n].len, fields[n].len);
		n++;
		if (stop == end)
			break;
		data = stop + 1;
	}
	*nfields = n;
	return fields;
}

char *
fuzz_cstring(const FuzzField *field)
{
	char	   *str = exact_block(field->data, field->len, field->len + 1);

	str[field->len] = '\0';
	return str;
}

bool
fuzz_is_text(const char *data, int len)
{
	return pg_verifymbstr(data, len, true);
}

Datum
fuzz_call2(PGFunction function, Datum a, Datum b)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, NULL, 2, DEFAULT_COLLATION_OID, NULL, NULL);
	fcinfo->args[0].value = a;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = b;
	fcinfo->args[1].isnull = false;
	result = function(fcinfo);
	return fcinfo->isnull ? (Datum) 0 : result;
}

/*
 * What an error says goes to clients and into tables.
 */
static void
check_message(const char *what, const char *message)
{
	if (message != NULL && !fuzz_is_text(message, strlen(message)) && finding[0] == '\0')
		snprintf(finding, sizeof(finding), "the error's %s is no text in the server's encoding", what);
}

static void
check_error(const ErrorData *edata, const char *refusals)
{
	const char *state = unpack_sql_state(edata->sqlerrcode);

	check_message("message", edata->message);
	check_message("detail", edata->detail);
	check_message("context", edata->context);
	if (finding[0] != '\0')
		return;
	for (const char *p = refusals; *p != '\0'; p += strcspn(p, " ") + 1)
		if (strncmp(p, state, strcspn(p, " ")) == 0)
			return;
	snprintf(finding, sizeof(finding), "unexpected error %s: %s", state, edata->message);
}

bool
fuzz_raises(FuzzCall call, void *arg, int *sqlerrcode)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool raised = false;

	*sqlerrcode = 0;
	PG_TRY();
	{
		call(arg);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		if (finding[0] != '\0')
			PG_RE_THROW();
		FlushErrorState();
		*sqlerrcode = edata->sqlerrcode;
		raised = true;
		check_message("message", edata->message);
		check_message("detail", edata->detail);
	}
	PG_END_TRY();
	if (finding[0] != '\0')
		fuzz_finding("%s", pstrdup(finding));
	return raised;
}

static void
call_json_in(void *arg)
{
	(void) DirectFunctionCall1(json_in, CStringGetDatum(arg));
}

static void
call_jsonb_in(void *arg)
{
	char	  **text_and_result = arg;

	text_and_result[1] = DatumGetPointer(DirectFunctionCall1(jsonb_in,
															 CStringGetDatum(text_and_result[0])));
}

bool
fuzz_is_json(const char *data, int len)
{
	int			sqlerrcode;

	return !fuzz_raises(call_json_in, pnstrdup(data, len), &sqlerrcode);
}

bool
fuzz_is_jsonb(const char *data, int len, Jsonb **result)
{
	int			sqlerrcode;
	char	   *text_and_result[2] = {pnstrdup(data, len), NULL};

	if (fuzz_raises(call_jsonb_in, text_and_result, &sqlerrcode))
		return false;
	if (result != NULL)
		*result = (Jsonb *) text_and_result[1];
	return true;
}

/* ---------------- one input ---------------- */

static const FuzzTarget *
find_target(const char *name)
{
	for (int i = 0; i < lengthof(target_lists); i++)
		for (const FuzzTarget *target = target_lists[i]; target->name != NULL; target++)
			if (strcmp(target->name, name) == 0)
				return target;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("there is no fuzz target \"%s\"", name)));
}

/*
 * Give the input to the target.  True if it was taken, false if it was refused;
 * "finding" says more.
 */
static bool
run_input(const FuzzTarget *target, const char *data, int len)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool taken = false;

	finding[0] = '\0';
	if (fuzz_context == NULL)
		fuzz_context = AllocSetContextCreate(TopMemoryContext, "fuzz input", ALLOCSET_DEFAULT_SIZES);
	if (target->subtransaction)
		BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(fuzz_context);
	PG_TRY();
	{
		target->run(data, len);
		taken = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(fuzz_context);
		check_error(CopyErrorData(), target->refusals);
		FlushErrorState();
	}
	PG_END_TRY();
	if (target->subtransaction)
	{
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
	}
	MemoryContextSwitchTo(context);
	MemoryContextReset(fuzz_context);
	while (nblocks > 0)
		free(blocks[--nblocks]);
	return taken;
}

static char *
to_hex(const char *data, int len)
{
	char	   *hex = palloc(len * 2 + 1);

	hex[hex_encode(data, len, hex)] = '\0';
	return hex;
}

static bool
run_and_report(const FuzzTarget *target, const char *data, int len)
{
	/* an exact copy */
	char	   *copy = malloc(Max(len, 1));
	bool		taken;

	memcpy(copy, data, len);
	taken = run_input(target, copy, len);
	free(copy);
	if (finding[0] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("fuzz target \"%s\": %s", target->name, finding),
				 errdetail("The input, in hexadecimal: %s", to_hex(data, len))));
	return taken;
}

/*
 * outbox_fuzz_input(target text, input bytea): true if the input is taken, false
 * if it is refused
 */
Datum
outbox_fuzz_input(PG_FUNCTION_ARGS)
{
	const FuzzTarget *target = find_target(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	bytea	   *input = PG_GETARG_BYTEA_PP(1);

	PG_RETURN_BOOL(run_and_report(target, VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input)));
}

/* ---------------- mutations ---------------- */

typedef struct Mutator
{
	uint64		state;
	int			ninputs;
	Datum	   *inputs;
} Mutator;

/* xorshift64* */
static uint32
next_random(Mutator *mutator, uint32 below)
{
	mutator->state ^= mutator->state >> 12;
	mutator->state ^= mutator->state << 25;
	mutator->state ^= mutator->state >> 27;
	return (uint32) ((mutator->state * UINT64CONST(2685821657736338717)) >> 32) % below;
}

static bytea *
random_input(Mutator *mutator)
{
	return DatumGetByteaPP(mutator->inputs[next_random(mutator, mutator->ninputs)]);
}

static void
replace_part(StringInfo buf, int start, int removed, const char *data, int len)
{
	char	   *tail = pnstrdup("", 0);
	int			tail_len = buf->len - start - removed;

	if (start + len + tail_len > MAX_INPUT)
		return;
	tail = palloc(tail_len + 1);
	memcpy(tail, buf->data + start + removed, tail_len);
	buf->len = start;
	buf->data[start] = '\0';
	appendBinaryStringInfo(buf, data, len);
	appendBinaryStringInfo(buf, tail, tail_len);
}

static void
mutate_once(Mutator *mutator, StringInfo buf)
{
	static const char bytes[] = "\"\\{}[]:,0129.eE+-u \t\n/*#=tfn\0\x7F\x80\xC3\xED\xA0\xF0\xFF";
	int			at = next_random(mutator, buf->len + 1);
	int			n = next_random(mutator, Min(buf->len - at, 16) + 1);
	char		byte = bytes[next_random(mutator, sizeof(bytes) - 1)];
	bytea	   *other = random_input(mutator);
	int			other_len = VARSIZE_ANY_EXHDR(other);
	int			from = next_random(mutator, other_len + 1);

	switch (next_random(mutator, 6))
	{
		case 0:
			if (at < buf->len)
				buf->data[at] ^= (char) (1 << next_random(mutator, 8));
			break;
		case 1:
			replace_part(buf, at, Min(1, buf->len - at), &byte, 1);
			break;
		case 2:
			replace_part(buf, at, 0, &byte, 1);
			break;
		case 3:
			replace_part(buf, at, n, "", 0);
			break;
		case 4:
			replace_part(buf, at, 0, pnstrdup(buf->data + at, n), n);
			break;
		default:
			replace_part(buf, at, n, VARDATA_ANY(other) + from,
						 next_random(mutator, other_len - from + 1));
	}
}

/*
 * outbox_fuzz_mutate(target text, inputs bytea[], n int, seed int): give the
 * target n mutations of the inputs; how many were taken
 */
Datum
outbox_fuzz_mutate(PG_FUNCTION_ARGS)
{
	const FuzzTarget *target = find_target(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	int			n = PG_GETARG_INT32(2);
	int64		taken = 0;
	Mutator		mutator;
	StringInfoData buf;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID, -1, false, TYPALIGN_INT,
					  &mutator.inputs, NULL, &mutator.ninputs);
	if (mutator.ninputs == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no input to mutate")));
	mutator.state = (uint64) PG_GETARG_INT32(3) + UINT64CONST(0x9E3779B97F4A7C15);
	initStringInfo(&buf);
	for (int i = 0; i < n; i++)
	{
		bytea	   *input = random_input(&mutator);
		int			mutations = 1 + next_random(&mutator, 4);

		CHECK_FOR_INTERRUPTS();
		resetStringInfo(&buf);
		appendBinaryStringInfo(&buf, VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input));
		while (mutations-- > 0)
			mutate_once(&mutator, &buf);
		taken += run_and_report(target, buf.data, buf.len);
	}
	PG_RETURN_INT64(taken);
}

/* ---------------- libFuzzer ---------------- */

#ifdef OUTBOX_LIBFUZZER

extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								int (*callback) (const uint8_t * data, size_t size));

static const FuzzTarget *fuzz_target;
static int64 executions = 0;
static int64 accepted = 0;
static Size memory_seen = 0;

static void
print_totals(void)
{
	fprintf(stderr, "outbox_fuzz: %s: " INT64_FORMAT " executions, " INT64_FORMAT " taken\n",
			fuzz_target->name, executions, accepted);
}

/*
 * What was allocated beyond an input's end, caches aside, does not grow.
 */
static void
look_at_memory(void)
{
	Size		memory = MemoryContextMemAllocated(TopMemoryContext, true);

	if (memory_seen != 0 && memory > memory_seen + MEMORY_GROWTH)
	{
		MemoryContextStats(TopMemoryContext);
		fprintf(stderr, "outbox_fuzz: memory has grown from %zu to %zu bytes\n", memory_seen, memory);
		abort();
	}
	if (memory_seen == 0)
		memory_seen = memory;
}

static int
libfuzzer_input(const uint8_t * data, size_t size)
{
	accepted += run_input(fuzz_target, (const char *) data, (int) size);
	if (finding[0] != '\0')
	{
		fprintf(stderr, "outbox_fuzz: %s: %s\n", fuzz_target->name, finding);
		abort();
	}
	if (++executions % LOOK_AT_MEMORY == 0)
		look_at_memory();
	return 0;
}

static char **
driver_arguments(ArrayType *array, int *argc)
{
	Datum	   *elems;
	char	  **argv;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, NULL, argc);
	argv = palloc(sizeof(char *) * (*argc + 2));
	argv[0] = "outbox_fuzz";
	for (int i = 0; i < *argc; i++)
		argv[i + 1] = TextDatumGetCString(elems[i]);
	argv[++*argc] = NULL;
	return argv;
}

/*
 * outbox_fuzz_run(target text, arguments text[]): does not come back
 */
Datum
outbox_fuzz_run(PG_FUNCTION_ARGS)
{
	int			argc;
	char	  **argv = driver_arguments(PG_GETARG_ARRAYTYPE_P(1), &argc);

	fuzz_target = find_target(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	/* its watch over time needs the signal, and nothing here sets time-outs */
	pqsignal(SIGALRM, SIG_DFL);
	atexit(print_totals);
	LLVMFuzzerRunDriver(&argc, &argv, libfuzzer_input);
	PG_RETURN_VOID();
}

#else

Datum
outbox_fuzz_run(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("this library was built without libFuzzer")));
}

#endif
