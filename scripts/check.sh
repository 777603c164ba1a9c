#!/bin/bash
#
# check.sh: what "make check" runs.  Set-up, a build with fault points, a
# private server, then all tests, and one line over everything at the end.
#
#   TESTS="sql/emit t/010*"   only these (patterns over the tests' names)
#   JOBS=n                    TAP tests at a time (default 2)
#   KAFKA=no                  do without the real Kafka
#   UPGRADE_FROM=pg_config    an older server's: t/072_pg_upgrade upgrades from that
#   CI=true                   a test that did not run is a failure
#   KEEP=1                    leave the working directory behind

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

if [ -n "${OUTBOX_UNDER:-}" ]; then
	pg_config=$OUTBOX_PG_CONFIG	# built and wrapped by check-memory.sh
else
	setup=(build check)
	[ "${KAFKA:-yes}" = no ] || setup+=(kafka)
	scripts/setup.sh "${setup[@]}"
	pg_config=$(scripts/private-server.sh check FUZZ=yes -DOUTBOX_FAULT_POINTS -DUSE_ASSERT_CHECKING -Werror)
fi
if [ -n "${UPGRADE_FROM:-}" ]; then
	old_pg_config=$(PG_CONFIG=$UPGRADE_FROM scripts/private-server.sh upgrade-from)
fi
mkdir -p build/log

# As ourselves: the user who runs the tests cannot write into build/.
export KAFKA_LIBS=$ROOT/build/kafka-libs
if [ "${KAFKA:-yes}" != no ] && have java && have mvn; then
	test/kafka/kafka.sh fetch >build/log/kafka-fetch.log 2>&1 || say "warning: Kafka's artifacts could not be fetched" >&2
fi
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
stage_tree "$work" "$pg_config"
export KAFKA_LIBS=$STAGED_TREE/build/kafka-libs
if [ -n "${UPGRADE_FROM:-}" ]; then
	OUTBOX_UPGRADE_FROM=$STAGED_TREE${old_pg_config#"$ROOT"}
	export OUTBOX_UPGRADE_FROM=${OUTBOX_UPGRADE_FROM%/pg_config}
fi
export OUTBOX_TREE=$STAGED_TREE PG_CONFIG=$STAGED_PG_CONFIG OUTBOX_WORK=$work HOME=$work
cd "$work"
(as_server_user perl "$OUTBOX_TREE/scripts/run-tests.pl") &
child=$!
wait "$child"
