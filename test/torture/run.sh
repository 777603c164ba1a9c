#!/bin/bash
#
# run.sh: what "make torture" runs.  Set-up, a build with fault points, a private
# server, then rounds of load and faults (torture.pl).
#
#   ROUNDS=n        how many rounds of 20 to 40 s (5)
#   SEED=n          of the schedule and the load; printed, else drawn
#   FIRST=n         begin at that round, to replay one: the first of its life
#   MODE=...        at_least_once (default) or exactly_once
#   BROKERS=n       1 or 3 (default)
#   FAULTS=a,b      only faults whose names begin so
#   WRITERS=n       sessions that write (5)
#   GO_ON=1         go on after a round that was wrong
#   KEEP=1          leave the working directory behind
#
# Logs are in build/log/torture.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
cd "$ROOT"

scripts/setup.sh build check kafka
pg_config=$(scripts/private-server.sh check -DOUTBOX_FAULT_POINTS -DUSE_ASSERT_CHECKING -Werror)
export KAFKA_LIBS=$ROOT/build/kafka-libs KAFKA_HEAP=${KAFKA_HEAP:-256m}
test/kafka/kafka.sh fetch

work=$(mktemp -d /tmp/obt.XXXXXX)
child=
volumes=()

# What was left running by a runner that could not clean up itself.
end_rest()
{
	local file

	for file in "$work"/*/postmaster.pid "$work"/volume/*/data/postmaster.pid; do
		[ ! -f "$file" ] || kill -QUIT "$(head -n 1 "$file")" 2>/dev/null || :
	done
	[ ! -f "$work/k/addresses" ] || "$ROOT/test/kafka/kafka.sh" kill "$work/k" || :
}

# shellcheck disable=SC2317
cleanup()
{
	local volume

	end_rest
	rm -rf "$ROOT/build/log/torture"
	mkdir -p "$ROOT/build/log/torture"
	cp -R "$work/log/." "$ROOT/build/log/torture/" 2>/dev/null || :
	if [ "${KEEP:-}" = 1 ]; then
		say "left behind: $work"
		return
	fi
	for volume in "${volumes[@]}"; do
		umount "$volume" 2>/dev/null || umount -l "$volume" || :
	done
	rm -rf "$work"
}

# The runner stops what it has started itself when it is told to end.
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

# Small volumes, to be filled.  Only root can have them.
for side in users orders; do
	mkdir -p "$work/volume/$side"
	if [ "$(id -u)" -eq 0 ] &&
		mount -t tmpfs -o "size=${VOLUME_SIZE:-1200m},mode=0777" outbox_torture "$work/volume/$side" 2>/dev/null; then
		volumes+=("$work/volume/$side")
		OUTBOX_VOLUMES="${OUTBOX_VOLUMES:-} $side=$work/volume/$side"
	fi
done
chown -R "$(server_user)" "$work/volume"
export KAFKA_LIBS=$STAGED_TREE/build/kafka-libs OUTBOX_VOLUMES=${OUTBOX_VOLUMES:-}
export OUTBOX_TREE=$STAGED_TREE PG_CONFIG=$STAGED_PG_CONFIG OUTBOX_WORK=$work HOME=$work
cd "$work"
(as_server_user perl "$OUTBOX_TREE/test/torture/torture.pl") &
child=$!
wait "$child"
