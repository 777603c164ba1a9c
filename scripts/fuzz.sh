#!/bin/bash
#
# fuzz.sh: what "make fuzz" runs.  The targets of test/fuzz under libFuzzer, in a
# backend in single-user mode, with AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   TARGET="json record"   only these
#   RUNS=n                 executions of each (default 100000), of those that write
#                          tables a part of it; 0: until interrupted
#   MINIMIZE=1             afterwards rewrite test/fuzz/corpus/*.cover.txt: what
#                          covers something that nothing smaller does
#
# Inputs that were found interesting stay in build/fuzz/corpus; what made a
# target fail is put into build/fuzz/findings, and the run fails.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

runs=${RUNS:-100000}
[ "$runs" != 0 ] || runs=-1
targets=()
for target in ${TARGET:-$(sed -n 's/^	{"\([a-z]*\)", fuzz_.*/\1/p' test/fuzz/*.c)}; do
	targets+=("$target")
done

scripts/setup.sh build fuzz
clang=$(find_fuzz_clang)
runtime=$("$clang" -print-resource-dir)/lib/linux
machine=$(uname -m)

# A library cannot have the sanitizers' runtime inside: the server's program is
# started with it.  libFuzzer is inside, and its symbols are not to be sought in
# the runtime, which has some of their names.
pg_config=$(scripts/private-server.sh fuzz FUZZ=yes CC="$clang" \
	FUZZ_LIBS="-Wl,--whole-archive $runtime/libclang_rt.fuzzer_no_main-$machine.a -Wl,--no-whole-archive -Wl,-Bsymbolic -lstdc++ -lm -lpthread" \
	-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-sanitize=function \
	-fno-omit-frame-pointer -U_FORTIFY_SOURCE -O1 -w -DOUTBOX_LIBFUZZER -DUSE_ASSERT_CHECKING)
work=$(mktemp -d /tmp/obf.XXXXXX)
trap 'rm -rf "$work"' EXIT
[ -e build/fuzz/no_gettext.so ] || "$clang" -shared -fPIC -o build/fuzz/no_gettext.so test/memory/no_gettext.c

stage_tree "$work" "$pg_config"
export OUTBOX_PRELOAD="$runtime/libclang_rt.asan-$machine.so $STAGED_TREE/build/fuzz/no_gettext.so"
mkdir -p build/fuzz/corpus build/fuzz/findings
cp -R build/fuzz/corpus "$work/corpus"
mkdir -p "$work/findings"
chown -R "$(server_user)" "$work/corpus" "$work/findings"
status=0
(cd "$work" && as_server_user env HOME="$work" perl "$STAGED_TREE/test/fuzz/fuzz.pl" \
	"$(dirname "$STAGED_PG_CONFIG")" "$STAGED_TREE" "$work" "$runs" "${MINIMIZE:-0}" "${targets[@]}") || status=$?
cp -R "$work/corpus/." build/fuzz/corpus/
cp -R "$work/findings/." build/fuzz/findings/
[ "${MINIMIZE:-0}" = 0 ] || cp "$work"/minimized/*.txt test/fuzz/corpus/ 2>/dev/null || :
exit "$status"
