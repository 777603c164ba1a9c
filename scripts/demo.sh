#!/bin/bash
#
# demo.sh: what "make demo" runs.  Set-up, a release build, a private server,
# then the demo itself (demo.pl).
#
#   BROKER=kafka          a real Kafka, single node, instead of the mock
#   BOOTSTRAP=host:port   your own Kafka
#   KEEP=1                leave everything running, to look round
#   demo.sh --stop DIR    stop and remove what KEEP=1 left
#
# ROWS, CHANGES and WRITERS change the size (20000, 50000, 8).

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

if [ "${1:-}" = --stop ]; then
	work=${2:?which directory?}
	[ -f "$work/demo.env" ] || die "$work is not what a demo left behind"
	# shellcheck disable=SC1091
	. "$work/demo.env"
	(as_server_user env OUTBOX_WORK="$work" OUTBOX_TREE="$OUTBOX_TREE" PG_CONFIG="$PG_CONFIG" \
		perl "$OUTBOX_TREE/scripts/demo.pl" --stop)
	rm -rf "$work"
	exit 0
fi

case ${BROKER:-mock} in
	mock | kafka) ;;
	*) die "BROKER is \"mock\" or \"kafka\"; your own is BOOTSTRAP=host:port" ;;
esac
scripts/setup.sh build demo
pg_config=$(scripts/private-server.sh demo)
export KAFKA_LIBS=$ROOT/build/kafka-libs
[ "${BROKER:-}" != kafka ] || test/kafka/kafka.sh fetch

work=$(mktemp -d /tmp/obd.XXXXXX)
child=

cleanup()
{
	mkdir -p "$ROOT/build/log/demo"
	cp -R "$work/log/." "$ROOT/build/log/demo/" 2>/dev/null || :
	[ -f "$work/demo.env" ] || rm -rf "$work"
}

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
export OUTBOX_TREE=$STAGED_TREE PG_CONFIG=$STAGED_PG_CONFIG
export OUTBOX_WORK=$work OUTBOX_ROOT=$ROOT HOME=$work
cd "$work"
(as_server_user perl "$OUTBOX_TREE/scripts/demo.pl") &
child=$!
wait "$child"
