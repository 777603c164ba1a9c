/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  Targets for fuzzing what parses foreign bytes, and what they share.
 *
 * These files are linked into the library itself, in builds for tests only
 * ("make FUZZ=yes"), and run in a real backend: what is fuzzed has the memory
 * contexts, errors, catalogs and types that it has in earnest.
 *
 * A target gets one input and hands it to the code that it is for.  An error of
 * an allowed class is that code's way to refuse it.  Any other error, a crash, a
 * report of a sanitizer, or a call of fuzz_finding() is a finding.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FUZZ_H
#define OUTBOX_FUZZ_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"

/* A part of an input, in memory of exactly its size. */
typedef struct FuzzField
{
	char	   *data;			/* not NUL-terminated */
	int			len;
} FuzzField;

typedef struct FuzzTarget
{
	const char *name;
	void		(*run) (const char *data, int len);
	bool		subtransaction; /* it takes what only an abort gives back */
	const char *refusals;		/* beginnings of the SQLSTATEs that may be
								 * raised, each with a blank behind it */
} FuzzTarget;

/* Ends with an entry without a name. */
extern const FuzzTarget fuzz_json_targets[];
extern const FuzzTarget fuzz_apply_targets[];
extern const FuzzTarget fuzz_capture_targets[];
extern const FuzzTarget fuzz_kafka_targets[];

/* What was found, with a reason as printf() takes it; does not return. */
pg_noreturn extern void fuzz_finding(const char *format,...) pg_attribute_printf(1, 2);

#define fuzz_check(condition) \
	do { \
		if (!(condition)) \
			fuzz_finding("%s:%d: not true: %s", __FILE__, __LINE__, #condition); \
	} while (0)

/*
 * Split the input where a byte 0xFF stands, which is in no text.  Freed when
 * the target is done.
 */
extern FuzzField *fuzz_split(const char *data, int len, int *nfields);

/* The same bytes with a NUL behind them, in memory of exactly that size. */
extern char *fuzz_cstring(const FuzzField *field);

/* Is it a text in the server's encoding? */
extern bool fuzz_is_text(const char *data, int len);

/*
 * Call a function and say whether it raised; *sqlerrcode is 0 if not.  The
 * error is checked as one that leaves the target.
 */
typedef void (*FuzzCall) (void *arg);
extern bool fuzz_raises(FuzzCall call, void *arg, int *sqlerrcode);

/* Call one of PostgreSQL's functions; a null result is (Datum) 0. */
extern Datum fuzz_call2(PGFunction function, Datum a, Datum b);

/* Does PostgreSQL take the text for json, for jsonb?  *result may be NULL. */
extern bool fuzz_is_json(const char *data, int len);
extern bool fuzz_is_jsonb(const char *data, int len, Jsonb **result);

#endif							/* OUTBOX_FUZZ_H */
