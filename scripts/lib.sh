# shellcheck shell=bash
# lib.sh: what the scripts behind "make check", "make demo" and their like share.
#
# Sourced, never run.  Sets ROOT (the source tree) and nothing else.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ROOT

# A make that called us must not hand its own flags on to the makes we call.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL

say()
{
	printf '%s\n' "$*"
}

die()
{
	printf 'error: %s\n' "$*" >&2
	exit 1
}

have()
{
	command -v "$1" >/dev/null 2>&1
}

# usable_pg_config PROGRAM: does it belong to a server that we can build for?
# Debian's libpq-dev has a pg_config and PGXS, but no headers of the server.
usable_pg_config()
{
	local pgxs

	pgxs=$("$1" --pgxs 2>/dev/null) || return 1
	[ -f "$pgxs" ] && [ -f "$("$1" --includedir-server)/postgres.h" ] &&
		[ -x "$("$1" --bindir)/postgres" ]
}

# pg_major PG_CONFIG: the major version it belongs to
pg_major()
{
	"$1" --version | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p'
}

# find_pg_config: print the pg_config to use.  PG_CONFIG wins, then the search
# path, then the newest server where Debian and Ubuntu keep them.
find_pg_config()
{
	local version

	if [ -n "${PG_CONFIG:-}" ]; then
		usable_pg_config "$PG_CONFIG" || return 1
		command -v "$PG_CONFIG"
		return
	fi
	if have pg_config && usable_pg_config pg_config; then
		command -v pg_config
		return
	fi
	for version in 18 17 16 15; do
		if usable_pg_config "/usr/lib/postgresql/$version/bin/pg_config"; then
			say "/usr/lib/postgresql/$version/bin/pg_config"
			return
		fi
	done
	return 1
}

# find_fuzz_clang: print the clang that has libFuzzer and AddressSanitizer.
find_fuzz_clang()
{
	local clang
	local runtime

	for clang in clang clang-{21..14}; do
		have "$clang" || continue
		runtime=$("$clang" -print-resource-dir)/lib/linux
		if [ -e "$runtime/libclang_rt.fuzzer_no_main-$(uname -m).a" ] &&
			[ -e "$runtime/libclang_rt.asan-$(uname -m).so" ]; then
			say "$clang"
			return
		fi
	done
	return 1
}

# PostgreSQL refuses to run as root: the user that runs it instead.
server_user()
{
	if [ "$(id -u)" -ne 0 ]; then
		id -un
	elif id -u postgres >/dev/null 2>&1; then
		say postgres
	else
		say nobody
	fi
}

# as_server_user COMMAND...: run it as the user of server_user, whose
# environment is ours; exec'ed, so that its process is the one we can signal.
as_server_user()
{
	local user

	user=$(server_user)
	if [ "$user" = "$(id -un)" ]; then
		exec "$@"
	else
		exec setpriv --reuid="$user" --regid="$(id -gn "$user")" --init-groups -- "$@"
	fi
}

# can_read_as_server_user FILE
can_read_as_server_user()
{
	(as_server_user test -r "$1")
}

# stage_tree WORK PG_CONFIG: hand WORK to the server's user, and copy the tree
# there if that user cannot read it (we are root and the tree is in /root).
# Sets STAGED_TREE and STAGED_PG_CONFIG to what is to be used.
stage_tree()
{
	STAGED_TREE=$ROOT
	STAGED_PG_CONFIG=$2
	if ! can_read_as_server_user "$ROOT/Makefile" || ! can_read_as_server_user "$2"; then
		STAGED_TREE=$1/tree
		STAGED_PG_CONFIG=$1/tree${2#"$ROOT"}
		mkdir "$1/tree"
		tar -C "$ROOT" --exclude=./.git --exclude='*.o' -cf - . |
			tar -C "$1/tree" -xf - --no-same-owner
		chmod -R u+rwX,go+rX "$1/tree"
	fi
	chown -R "$(server_user)" "$1"
	export STAGED_TREE STAGED_PG_CONFIG
}
