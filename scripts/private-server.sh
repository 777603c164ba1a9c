#!/bin/bash
#
# private-server.sh NAME [VARIABLE=VALUE...] [CFLAG...]: build the extension in
# build/NAME/src, with variables for make and flags for the compiler, and
# install it into a private copy of PostgreSQL, build/NAME/pg, so that tests and
# demo neither write to the system's PostgreSQL nor need its owner's rights.
# Prints the copy's pg_config, and nothing else, on standard output.
#
# PostgreSQL's programs find everything relative to themselves as long as the
# directories keep their places to each other below a common parent, so copying
# bindir, sharedir and pkglibdir is enough.  The sources are copied too: builds
# with other flags than the user's leave the user's objects alone.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

name=$1
shift
variables=()
while [[ ${1:-} =~ ^[A-Z_]+= ]]; do
	variables+=("$1")
	shift
done
flags="$*"
dir=$ROOT/build/$name
log=$ROOT/build/log/build-$name.log
system=$(find_pg_config) || die "no pg_config found; run scripts/setup.sh"

# common_parent PATH PATH: the longest directory that both lie in
common_parent()
{
	local parent=$1

	while [ "$parent" != / ] && [ "${2#"$parent"/}" = "$2" ]; do
		parent=$(dirname "$parent")
	done
	say "$parent"
}

bindir=$("$system" --bindir)
sharedir=$("$system" --sharedir)
pkglibdir=$("$system" --pkglibdir)
includedir=$("$system" --includedir)
prefix=$(common_parent "$(common_parent "$bindir" "$sharedir")" "$pkglibdir")
private=$dir/pg${bindir#"$prefix"}/pg_config

# What the copy was made from: when that changes, it is made anew.
fingerprint()
{
	say "$system"
	"$system" --version
	stat -c '%n %Y' "$bindir" "$bindir/postgres" "$sharedir/extension" "$pkglibdir"
}

copy_server()
{
	local part

	rm -rf "$dir/pg"
	for part in "$bindir" "$sharedir" "$pkglibdir"; do
		mkdir -p "$dir/pg${part#"$prefix"}"
		cp -RLp "$part/." "$dir/pg${part#"$prefix"}"
	done
	# Without write permission for us (we are not root) nothing could be installed.
	chmod -R u+w "$dir/pg"
	if [ "${includedir#"$prefix"/}" != "$includedir" ]; then
		mkdir -p "$(dirname "$dir/pg${includedir#"$prefix"}")"
		ln -sfn "$includedir" "$dir/pg${includedir#"$prefix"}"
	fi
	rm -f "$dir/pg${sharedir#"$prefix"}/extension/pg_outbox"*
	fingerprint >"$dir/fingerprint"
}

# Bring build/NAME/src up to date, dropping what the tree no longer has.
copy_sources()
{
	local file

	mkdir -p "$dir/src"
	(cd "$ROOT" && find . \( -path ./build -o -path ./.git \) -prune -o -type f \
		\( -name '*.[ch]' -o -name '*.sql' -o -name '*.mk' -o -name '*.control' \
		-o -name Makefile -o -name '*.map' \) -print0 |
		tar --null -T - -cf - | tar -C "$dir/src" -xpf - --no-same-owner)
	(cd "$dir/src" && find src test/fuzz sql/extension -name '*.[ch]' -o -path '*extension/*.sql') |
		while read -r file; do
			[ -e "$ROOT/$file" ] || rm -f "$dir/src/$file" "$dir/src/${file%.c}.o"
		done
	# Objects of files that are gone must not be linked either.
	(cd "$dir/src" && find src test/fuzz -name '*.o') | while read -r file; do
		[ -e "$dir/src/${file%.o}.c" ] || rm -f "$dir/src/$file"
	done
}

# Objects of other flags, or of another server's headers, are of no use.
build()
{
	local made_with

	made_with="$system $("$system" --version) ${variables[*]} $flags"
	if [ "$(cat "$dir/flags" 2>/dev/null)" != "$made_with" ]; then
		find "$dir/src" \( -name '*.o' -o -name '*.so' \) -delete
		say "$made_with" >"$dir/flags"
	fi
	make -C "$dir/src" -j"$(nproc)" PG_CONFIG="$private" COPT="$flags" "${variables[@]}" all &&
		make -C "$dir/src" PG_CONFIG="$private" COPT="$flags" "${variables[@]}" install test-programs test-modules
}

mkdir -p "$ROOT/build/log" "$dir"
if [ "$(cat "$dir/fingerprint" 2>/dev/null)" != "$(fingerprint)" ]; then
	copy_server
fi
copy_sources
if ! build >"$log" 2>&1; then
	grep -E '(error|warning):|\*\*\*' "$log" >&2 || tail -n 40 "$log" >&2
	die "the build failed; all of it is in build/log/build-$name.log"
fi
grep -E 'warning:' "$log" >&2 || :
say "$private"
