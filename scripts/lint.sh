#!/bin/bash
#
# lint.sh: what "make lint" runs.  Checks that need no running server; every
# check runs, each finding is printed, and the last line counts them.
#
#   ONLY="layers symbols"   just these checks

# Names of our files have no blanks.
# shellcheck disable=SC2046
set -uo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1

failed=0
passed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Files of the tree: what is committed or about to be; all files in a dist archive.
files()
{
	if [ -e .git ] && have git; then
		git ls-files -co --exclude-standard -- "$@" | while read -r file; do
			[ ! -f "$file" ] || say "$file"
		done
	else
		find . -path ./build -prune -o -type f -print | sed 's|^\./||' | while read -r file; do
			for pattern; do
				# shellcheck disable=SC2254
				case $file in
					$pattern) say "$file" ;;
				esac
			done
		done
	fi
}

# The compiler's warnings are errors, as built for release and for tests.
lint_warnings()
{
	scripts/private-server.sh lint -Werror -O2 >/dev/null &&
		scripts/private-server.sh check FUZZ=yes -DOUTBOX_FAULT_POINTS -DUSE_ASSERT_CHECKING -Werror >/dev/null
}

# Includes point downwards, librdkafka and version tests stay where they belong.
lint_layers()
{
	perl scripts/lint-layers.pl $(files 'src/*.[ch]')
}

# What the libraries export carries our prefix.
lint_symbols()
{
	local library
	local bad=0

	for library in build/lint/src/*.so; do
		nm -D --defined-only "$library" | awk '{ print $NF }' |
			grep -vE '^(outbox_|pg_outbox_|Outbox|pg_finfo_outbox_|pg_finfo_pg_outbox_|_PG_init$|Pg_magic_func$|_init$|_fini$|__)' |
			sed "s|^|${library##*/} exports |" && bad=1
	done
	return $bad
}

# Messages have error codes and follow PostgreSQL's style.
lint_messages()
{
	perl scripts/lint-messages.pl $(files 'src/*.c')
}

lint_functions()
{
	perl scripts/lint-functions.pl $(files 'src/*.c')
}

# SECURITY DEFINER functions pin their search path; fragments end with a newline.
lint_sql()
{
	perl scripts/lint-sql.pl $(files 'sql/extension/*.sql' 'sql/upgrade/*.sql')
}

lint_cppcheck()
{
	mkdir -p build/cppcheck
	cppcheck -q -j "$(nproc)" --cppcheck-build-dir=build/cppcheck \
		--enable=warning,performance,portability --std=c99 --error-exitcode=1 \
		--inline-suppr --suppressions-list=scripts/cppcheck.suppressions \
		-DOUTBOX_FAULT_POINTS -DOUTBOX_VERSION='"0"' -DPG_VERSION_NUM=150000 \
		'-Dforeach(cell,lst)=for(cell=NULL;cell;)' '-DPG_FUNCTION_INFO_V1(f)=' \
		'-DPG_TRY()=if(1)' '-DPG_CATCH()=else' '-DPG_FINALLY()=' '-DPG_END_TRY()=' \
		'-DPG_RE_THROW()=abort()' '-DPG_MODULE_MAGIC=' \
		-Isrc $(files 'src/*.c' 'test/*.c' 'bench/*.c')
}

lint_shellcheck()
{
	shellcheck -x $(for file in $(files scripts .ci test bench); do
		head -n 1 "$file" | grep -q '^#!.*sh$' && say "$file"
	done; say scripts/lib.sh)
}

# Every Perl file compiles, without a server being there.
lint_perl()
{
	local file
	local bad=0
	local pgxs

	pgxs=$("$(find_pg_config)" --pgxs)
	for file in $(files '*.pl' '*.pm'); do
		perl -I test/perl -I test/torture -I scripts -I "${pgxs%/makefiles/*}/test/perl" -c "$file" >"$log" 2>&1 ||
			{ cat "$log"; bad=1; }
	done
	return $bad
}

# Nothing of the machine that a file was written on, no trailing blanks.
lint_text()
{
	local bad=0

	if grep -nIE '(^|[^[:alnum:]_.$}])/(work|root|home|Users)/' $(files '*' | grep -v '^scripts/lint'); then
		say "these lines name places of one machine"
		bad=1
	fi
	if grep -nIE '[[:blank:]]+$' $(files '*.c' '*.h' '*.sql' '*.sh' '*.pl' '*.pm' '*.md' Makefile '*.mk' |
			grep -vE '(^|/)expected/'); then
		say "these lines end in blanks"
		bad=1
	fi
	return $bad
}

# pg_bsd_indent with pgindent's flags changes nothing.
lint_indent()
{
	scripts/indent.sh --check
}

run()
{
	if "lint_$1" >"$log.out" 2>&1; then
		say "ok   $1"
		passed=$((passed + 1))
	else
		say "FAIL $1"
		sed 's/^/    | /' "$log.out"
		failed=$((failed + 1))
	fi
	rm -f "$log.out"
}

scripts/setup.sh build check lint || exit 1
for check in ${ONLY:-warnings layers symbols messages functions sql cppcheck shellcheck perl text indent}; do
	run "$check"
done
say "lint: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
