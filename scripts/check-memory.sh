#!/bin/bash
#
# check-memory.sh: what "make check-memory" runs.  The tests with the extension
# under AddressSanitizer and UndefinedBehaviorSanitizer, or under valgrind.  Any
# report fails the run.  First a fault point commits errors on purpose, to show
# that they would be reported.
#
#   MEMORY=valgrind   valgrind instead (slow; finds uses of unset memory)
#   TESTS=...         other tests than those chosen below; all: TESTS="*"
#
# The server itself is the distribution's: what is checked is our libraries, and
# what they make others do.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

tool=${MEMORY:-asan}
case $tool in
	asan)
		flags=(-fsanitize=address -fsanitize=undefined -fno-omit-frame-pointer -O1)
		scripts/setup.sh build check kafka
		;;
	valgrind)
		flags=(-O1)
		scripts/setup.sh build check kafka memory
		;;
	*) die "MEMORY is \"asan\" or \"valgrind\"" ;;
esac
export TESTS="${TESTS:-sql/* isolation/* t/*}"
pg_config=$(scripts/private-server.sh "$tool" FUZZ=yes "${flags[@]}" -DOUTBOX_FAULT_POINTS -DUSE_ASSERT_CHECKING)
bindir=$("$pg_config" --bindir)

# In the private copy the server's program becomes a script that starts the
# real one with the tool: whoever starts it, and nothing else, is checked.
wrap_server()
{
	local libraries

	[ -e "$bindir/postgres.bin" ] || mv "$bindir/postgres" "$bindir/postgres.bin"
	cp test/memory/valgrind.supp "$bindir/"
	libraries="$(gcc -print-file-name=libasan.so)"
	gcc -shared -fPIC -o "$bindir/no_gettext.so" test/memory/no_gettext.c
	{
		say '#!/bin/bash'
		if [ "$tool" = asan ]; then
			cat <<END
export LD_PRELOAD="$libraries \${0%/*}/no_gettext.so\${LD_PRELOAD:+ \$LD_PRELOAD}"
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=0:allocator_may_return_null=1"
exec -a "\$0" "\${0%/*}/postgres.bin" "\$@"
END
		else
			cat <<END
case \$* in
	*--single* | *--boot* | *--check* | -V | --version) exec -a "\$0" "\${0%/*}/postgres.bin" "\$@" ;;
esac
exec valgrind -q --trace-children=yes --leak-check=no --error-limit=no --num-callers=30 \\
	--suppressions="\${0%/*}/valgrind.supp" --log-file="\${OUTBOX_REPORTS:-/tmp}/valgrind.%p" \\
	"\${0%/*}/postgres.bin" "\$@"
END
		fi
	} >"$bindir/postgres"
	chmod +x "$bindir/postgres"
}

wrap_server
OUTBOX_UNDER=$tool OUTBOX_PG_CONFIG=$pg_config exec scripts/check.sh
