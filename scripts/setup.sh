#!/bin/bash
#
# setup.sh GROUP...: install what is missing on Debian or Ubuntu, by package
# name, and say what and why.
#
# Groups: build (compile and run a private server), check (the tests), kafka
# (a real Kafka for the tests; going without it is not fatal here), demo, lint,
# memory, fuzz.  Does nothing, needs no rights and no network if all is there.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

needed=()						# packages that must come
wanted=()						# packages that we can do without
updated=no

need() { note needed "$@"; }
want() { note wanted "$@"; }

# note LIST PACKAGE WHY
note()
{
	local -n list=$1

	say "missing: $2 ($3)"
	list+=("$2")
}

installed()
{
	dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed
}

candidate()
{
	local version

	version=$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p')
	[ -n "$version" ] && [ "$version" != "(none)" ]
}

# first_candidate PACKAGE...: the first one that the package lists know
first_candidate()
{
	local package

	for package in "$@"; do
		if candidate "$package"; then
			say "$package"
			return
		fi
	done
	say "${!#}"
}

run_as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif have sudo; then
		sudo "$@"
	else
		return 1
	fi
}

update_lists()
{
	if [ "$updated" = no ]; then
		say "updating the package lists"
		run_as_root apt-get update -qq || say "warning: apt-get update failed" >&2
		updated=yes
	fi
}

# The major version to install where there is no server: one that is there
# already but lacks its headers, else the distribution's.
server_version()
{
	local version

	for version in 18 17 16 15; do
		if [ -x "/usr/lib/postgresql/$version/bin/postgres" ]; then
			say "$version"
			return
		fi
	done
	candidate postgresql || update_lists >&2
	apt-cache policy postgresql 2>/dev/null |
		sed -n 's/^  Candidate: \([0-9]*\)[+.].*/\1/p'
}

group_build()
{
	local version

	have gcc || need gcc "C compiler"
	[ -e /usr/include/stdio.h ] || need libc6-dev "headers of the C library"
	[ -e /usr/include/librdkafka/rdkafka.h ] || need librdkafka-dev "Kafka client library"
	if find_pg_config >/dev/null; then
		return
	fi
	if [ -n "${PG_CONFIG:-}" ]; then
		die "PG_CONFIG=$PG_CONFIG is no pg_config of a server with its headers (PGXS)"
	fi
	version=$(server_version)
	case $version in
		15 | 16 | 17 | 18) ;;
		*) die "no package of PostgreSQL 15 to 18 found; set PG_CONFIG to an installed one" ;;
	esac
	[ -x "/usr/lib/postgresql/$version/bin/postgres" ] ||
		need "postgresql-$version" "database server; the cluster that its package may create is not used"
	need "postgresql-server-dev-$version" "headers and build rules of the server"
}

# Version that packages of server extensions are to be chosen for
major()
{
	local pg_config

	if pg_config=$(find_pg_config); then
		pg_major "$pg_config"
	else
		server_version
	fi
}

group_check()
{
	local pg_config

	perl -MTAP::Parser -MTest::More -e 1 2>/dev/null || need perl "runs the tests"
	perl -MIPC::Run -e 1 2>/dev/null || need libipc-run-perl "used by PostgreSQL's own test modules"
	have kcat || need kcat "reads and writes Kafka independently of the extension"
	have openssl || need openssl "a TLS server for the tests"
	pg_config=$(find_pg_config) || pg_config=
	if [ -z "$pg_config" ] || [ ! -e "$("$pg_config" --sharedir)/extension/pgtap.control" ]; then
		want "postgresql-$(major)-pgtap" "pgTAP, for the tests of the schema"
	fi
}

group_kafka()
{
	if ! have java; then
		candidate openjdk-17-jre-headless || candidate openjdk-21-jre-headless || update_lists
		want "$(first_candidate openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless)" \
			"Java, which Kafka runs on"
	fi
	have mvn || want maven "fetches Kafka's published artifacts"
}

group_demo()
{
	perl -MJSON::PP -e 1 2>/dev/null || need perl "runs the demo"
	have kcat || need kcat "delivers events again, and late"
	case ${BROKER:-} in
		kafka) group_kafka ;;
	esac
}

group_lint()
{
	have cppcheck || need cppcheck "static analysis of the C code"
	have shellcheck || need shellcheck "static analysis of the scripts"
	have pg_bsd_indent || need pg-bsd-indent "checks the layout of the C code"
}

group_memory()
{
	have valgrind || need valgrind "finds memory errors"
}

# The clang that is there, or the distribution's, whose package says which.
group_fuzz()
{
	local version

	! find_fuzz_clang >/dev/null || return 0
	version=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 'clang-[0-9]*' 2>/dev/null |
		sed -n 's/^clang-\([0-9]*\) installed$/\1/p' | sort -n | tail -n 1)
	if [ -z "$version" ]; then
		candidate clang || update_lists
		version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
	fi
	[ -n "$version" ] || die "no package of clang found"
	need "clang-$version" "compiler with libFuzzer"
	need "libclang-rt-$version-dev" "libFuzzer and the sanitizers"
}

# install FATAL PACKAGE...
install()
{
	local fatal=$1
	local package

	shift
	[ $# -gt 0 ] || return 0
	have apt-get ||
		die "no apt-get here; install what corresponds to: $*"
	if [ "$(id -u)" -ne 0 ] && ! have sudo; then
		[ "$fatal" = yes ] || return 0
		die "neither root nor sudo: run as root: apt-get install --no-install-recommends $*"
	fi
	for package in "$@"; do
		candidate "$package" || update_lists
	done
	say "installing: $*"
	if try_install "$@"; then
		return 0
	fi
	update_lists
	if try_install "$@"; then
		return 0
	fi
	[ "$fatal" = no ] || die "could not install: $*"
	say "warning: could not install $*" >&2
}

try_install()
{
	run_as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends "$@" </dev/null >"$log" 2>&1 && return
	tail -n 5 "$log" >&2
	return 1
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

[ $# -gt 0 ] || set -- build
for group in "$@"; do
	"group_$group"
done
install yes "${needed[@]}"
install no "${wanted[@]}"
if ! find_pg_config >/dev/null; then
	die "no pg_config of a server with its headers was found"
fi
