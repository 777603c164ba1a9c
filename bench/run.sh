#!/bin/bash
#
# run.sh: what "make bench" runs.  Set-up, a release build, a private server,
# then the measurements themselves (bench.pl).
#
#   QUICK=1     about a tenth of the work: for a look, not for the record
#   ROUNDS=n    interleaved rounds of which the medians are taken (5, quick 3)
#   ONLY=a,b    only these parts: writer, wal, bulk, relay, once, flat, latency, fair,
#               outage, applier, worker

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"
cd "$ROOT"

scripts/setup.sh build demo
pg_config=$(scripts/private-server.sh bench)

work=$(mktemp -d /tmp/obb.XXXXXX)
child=

cleanup()
{
	mkdir -p "$ROOT/build/log/bench"
	cp -R "$work/log/." "$ROOT/build/log/bench/" 2>/dev/null || :
	rm -rf "$work"
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
export OUTBOX_TREE=$STAGED_TREE PG_CONFIG=$STAGED_PG_CONFIG
export OUTBOX_WORK=$work HOME=$work
cd "$work"
(as_server_user perl "$OUTBOX_TREE/bench/bench.pl") &
child=$!
wait "$child"
