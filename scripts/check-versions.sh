#!/bin/bash
#
# check-versions.sh: what "make check-versions" runs.  Compile the sources, with
# warnings as errors, against the headers of every supported major version of
# PostgreSQL.
#
# Headers that are not installed are taken out of the package postgresql-server-
# dev-N of a distribution that has it; they are unpacked below build/versions and
# nothing is installed.  That needs apt and the network once.  What could not be
# got counts as skipped.
#
#   VERSIONS="17 18"   only these

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

dir=$ROOT/build/versions
passed=0
failed=0
skipped=0

# Where a version's package is, as an apt source.  Nothing of a package is run,
# its headers are only compiled, so keys of another distribution are not asked for.
source_of()
{
	case $1 in
		15) say "deb [trusted=yes] http://deb.debian.org/debian bookworm main" ;;
		16) say "deb [trusted=yes] http://archive.ubuntu.com/ubuntu noble main universe" ;;
		17) say "deb [trusted=yes] http://deb.debian.org/debian trixie main" ;;
		18) say "deb [trusted=yes] http://deb.debian.org/debian sid main" ;;
		*) return 1 ;;
	esac
}

# apt with lists and a cache of its own
private_apt()
{
	local home=$1

	shift
	apt-get -qq -o Dir::Etc::sourcelist="$home/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$home/lists" -o Dir::Cache="$home/cache" \
		-o APT::Sandbox::User="$(id -un)" "$@"
}

# headers VERSION: the directory with that version's server headers
headers()
{
	local installed=/usr/include/postgresql/$1/server
	local home=$dir/$1

	if [ -f "$installed/postgres.h" ]; then
		say "$installed"
		return
	fi
	if [ ! -f "$home/usr/include/postgresql/$1/server/postgres.h" ]; then
		mkdir -p "$home/lists/partial" "$home/cache/archives/partial"
		source_of "$1" >"$home/sources.list"
		{
			private_apt "$home" update &&
				(cd "$home" && private_apt "$home" download "postgresql-server-dev-$1") &&
				dpkg -x "$home"/postgresql-server-dev-"$1"_*.deb "$home"
		} >"$home/log" 2>&1 || return 1
		rm -rf "$home/lists" "$home/cache"
	fi
	say "$home/usr/include/postgresql/$1/server"
}

# compile VERSION HEADERS: every source file, quietly.  The headers may say that
# their own C library has strlcpy(), where ours has not.
compile()
{
	printf '%s\n' '#include <stddef.h>' \
		'extern size_t strlcpy(char *, const char *, size_t);' \
		'extern size_t strlcat(char *, const char *, size_t);' >"$dir/libc.h"
	find src test/modules -name '*.c' -print0 | xargs -0 -n 1 -P "$(nproc)" \
		gcc -fsyntax-only -std=gnu99 -O1 -Wall -Wextra -Werror -Wmissing-prototypes -Wpointer-arith \
		-Wdeclaration-after-statement -Wno-unused-parameter -Wno-sign-compare \
		-Wno-missing-field-initializers -fno-strict-aliasing -fwrapv -D_GNU_SOURCE \
		-DOUTBOX_VERSION='"0"' -DOUTBOX_FAULT_POINTS -include "$dir/libc.h" -Isrc -isystem "$2"
}

scripts/setup.sh build
mkdir -p "$dir"
for version in ${VERSIONS:-15 16 17 18}; do
	if ! include=$(headers "$version"); then
		say "skip PostgreSQL $version: no headers; see build/versions/$version/log"
		skipped=$((skipped + 1))
	elif compile "$version" "$include"; then
		say "ok   PostgreSQL $version"
		passed=$((passed + 1))
	else
		say "FAIL PostgreSQL $version"
		failed=$((failed + 1))
	fi
done
say "versions: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
