#!/bin/bash
#
# check.sh: what "make check" runs.  Set-up, a build with fault points, a
# private server, then all tests, and one line over everything at the end.
#
#   TESTS="sql/emit t/010*"   only these (patterns over the tests' names)
#   JOBS=n                    TAP tests at a time (default 2)
#   KAFKA=no                  do without the real Kafka
#   CI=true                   a test that did not run is a failure
#   KEEP=1                    leave the working directory behind

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

setup=(build check)
[ "${KAFKA:-yes}" = no ] || setup+=(kafka)
scripts/setup.sh "${setup[@]}"
pg_config=$(scripts/private-server.sh check -DOUTBOX_FAULT_POINTS -DUSE_ASSERT_CHECKING -Werror)
logdir=$ROOT/build/log
rm -rf "$logdir/check"
mkdir -p "$logdir/check"

# Short, because a socket's path has to fit into 107 bytes.
work=$(mktemp -d /tmp/obx.XXXXXX)
child=

cleanup()
{
	cp -R "$work/log/." "$logdir/check/" 2>/dev/null || :
	if [ "${KEEP:-}" = 1 ]; then
		say "left behind: $work"
	else
		rm -rf "$work"
	fi
}

# The runner stops its servers itself when it is told to end.
# shellcheck disable=SC2317
interrupted()
{
	[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || :
	wait || :
	exit 130
}
trap cleanup EXIT
trap interrupted INT TERM HUP

mkdir "$work/log"
tree=$ROOT
if ! can_read_as_server_user "$ROOT/Makefile" || ! can_read_as_server_user "$pg_config"; then
	# As root with the tree where the server's user has no access (/root).
	tree=$work/tree
	mkdir "$tree"
	tar -C "$ROOT" --exclude=./.git --exclude='*.o' -cf - . | tar -C "$tree" -xf - --no-same-owner
	chmod -R u+rwX,go+rX "$tree"
	pg_config=$tree${pg_config#"$ROOT"}
fi
chown -R "$(server_user)" "$work"

export OUTBOX_TREE=$tree OUTBOX_WORK=$work PG_CONFIG=$pg_config HOME=$work
cd "$work"
as_server_user perl "$tree/scripts/run-tests.pl" &
child=$!
wait "$child"
