#!/bin/bash
#
# kafka.sh: a real Kafka (KRaft) for tests and demo, in a directory of its own.
#
#   kafka.sh fetch              get Kafka's artifacts by Maven, once
#   kafka.sh start DIR [OPTION...]
#                               start it, or what has ended of it, and wait until
#                               it answers; prints "bootstrap.servers=HOST:PORT,..."
#   kafka.sh stop DIR [NODE]    end it, or node 1, 2, ... only
#   kafka.sh kill DIR [NODE]    the same by force
#   kafka.sh status DIR         "running" or "stopped", a line for each node
#
# Options of the first start (later ones keep them):
#   --brokers N                 N nodes, each broker and controller (default 1)
#   --no-auto-create            unknown topics do not come into being
#   --sasl USER:PASSWORD        a second listener (SASL/PLAIN without encryption)
#                               for that user, who may do nothing without an ACL;
#                               prints "sasl.bootstrap.servers=..." as well
#   --property NAME=VALUE       further broker settings
#
# KAFKA_LIBS names a directory with the artifacts (default build/kafka-libs),
# KAFKA_HEAP the size of a node's heap (default 384m).  Data, logs and settings
# stay in DIR, for the caller to remove.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
libs=${KAFKA_LIBS:-$here/../../build/kafka-libs}
heap=${KAFKA_HEAP:-384m}

die()
{
	printf 'kafka.sh: %s\n' "$*" >&2
	exit 1
}

usage()
{
	sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

# ---------------------------------------------------------------------------
# Artifacts
# ---------------------------------------------------------------------------

fetch()
{
	local part

	[ ! -f "$libs/.complete" ] || return 0
	command -v mvn >/dev/null || die "Maven (mvn) is needed to fetch Kafka"
	part=$libs.part.$$
	rm -rf "$part"
	mkdir -p "$part"
	if ! mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies \
		-DincludeScope=runtime -DoutputDirectory="$(cd "$part" && pwd)" >&2; then
		rm -rf "$part"
		die "Maven could not fetch Kafka"
	fi
	touch "$part/.complete"
	rm -rf "$libs"
	mv "$part" "$libs"
}

# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# free_ports N: N different ports that nobody listens at
free_ports()
{
	perl -MIO::Socket::INET -e '
		my @s = map { IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1)
			or die "no free port: $!\n" } 1 .. shift;
		print $_->sockport, "\n" for @s;' "$1"
}

# 16 bytes in base64 as Kafka writes them, not beginning with a hyphen
cluster_id()
{
	perl -e 'my @c = ("A".."Z", "a".."z", 0..9);
		print join("", map { $c[rand @c] } 1..21), "A\n"'
}

# write_settings DIR: settings of all nodes, from the options in shell variables
write_settings()
{
	local dir=$1
	local -a port
	local voters='' bootstrap='' sasl_bootstrap=''
	local node replicas

	mapfile -t port < <(free_ports $((3 * brokers)))
	[ ${#port[@]} -eq $((3 * brokers)) ] || die "no free ports"
	replicas=$((brokers < 3 ? brokers : 3))
	for ((node = 1; node <= brokers; node++)); do
		voters+=${voters:+,}$node@127.0.0.1:${port[3 * node - 3]}
		bootstrap+=${bootstrap:+,}127.0.0.1:${port[3 * node - 2]}
		sasl_bootstrap+=${sasl_bootstrap:+,}127.0.0.1:${port[3 * node - 1]}
	done
	for ((node = 1; node <= brokers; node++)); do
		mkdir -p "$dir/$node"
		node_settings "$dir/$node" "$node" "$voters" "$replicas" \
			"${port[@]:3 * node - 3:3}" >"$dir/$node/server.properties"
	done
	cluster_id >"$dir/cluster_id"
	{
		printf 'bootstrap.servers=%s\n' "$bootstrap"
		[ -z "$sasl" ] || printf 'sasl.bootstrap.servers=%s\n' "$sasl_bootstrap"
	} >"$dir/addresses.tmp"
	mv "$dir/addresses.tmp" "$dir/addresses"
}

# node_settings DIR NODE VOTERS REPLICAS CONTROLLER_PORT PORT SASL_PORT
node_settings()
{
	local listeners="CONTROLLER://127.0.0.1:$5,PLAIN://127.0.0.1:$6"
	local advertised="PLAIN://127.0.0.1:$6"

	if [ -n "$sasl" ]; then
		listeners+=,SASL://127.0.0.1:$7
		advertised+=,SASL://127.0.0.1:$7
	fi
	cat <<-END
		process.roles=broker,controller
		node.id=$2
		controller.quorum.voters=$3
		listeners=$listeners
		advertised.listeners=$advertised
		inter.broker.listener.name=PLAIN
		controller.listener.names=CONTROLLER
		listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,SASL:SASL_PLAINTEXT
		log.dirs=$1/data
		auto.create.topics.enable=$auto_create
		num.partitions=4
		default.replication.factor=$4
		min.insync.replicas=1
		offsets.topic.num.partitions=4
		offsets.topic.replication.factor=$4
		transaction.state.log.num.partitions=4
		transaction.state.log.replication.factor=$4
		transaction.state.log.min.isr=1
		group.initial.rebalance.delay.ms=0
		num.network.threads=2
		num.io.threads=4
		num.recovery.threads.per.data.dir=1
		log.cleaner.dedupe.buffer.size=8388608
		controlled.shutdown.enable=$([ "$4" -gt 1 ] && echo true || echo false)
	END
	if [ -n "$sasl" ]; then
		cat <<-END
			sasl.enabled.mechanisms=PLAIN
			listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_${sasl%%:*}="${sasl#*:}";
			authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
			super.users=User:ANONYMOUS
		END
	fi
	[ ${#properties[@]} -eq 0 ] || printf '%s\n' "${properties[@]}"
}

# ---------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------

# nodes DIR [NODE]: the nodes' directories
nodes()
{
	local node

	[ -f "$1/addresses" ] || die "there is no Kafka in $1"
	if [ -n "${2:-}" ]; then
		[ -d "$1/$2" ] || die "there is no node $2 in $1"
		printf '%s\n' "$1/$2"
		return
	fi
	for node in "$1"/[0-9]*/; do
		printf '%s\n' "${node%/}"
	done
}

# node_pid NODE_DIR: the process that runs it; its arguments name the settings,
# so that a process id that was used again is not taken for it.
node_pid()
{
	local pid

	pid=$(cat "$1/pid" 2>/dev/null) || return 1
	[ -n "$pid" ] && ps -ww -o args= -p "$pid" 2>/dev/null |
		grep -qF "kafka.Kafka $1/server.properties" || return 1
	printf '%s\n' "$pid"
}

# java_arguments MAIN ARGUMENT...: sets the array "java"
java_arguments()
{
	java=(java -Xmx"$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto
		-Djava.awt.headless=true -Dorg.slf4j.simpleLogger.defaultLogLevel=warn
		-Dorg.slf4j.simpleLogger.showDateTime=true
		"-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS"
		-cp "$libs/*" "$@")
}

node_start()
{
	local -a java

	if [ ! -f "$1/data/meta.properties" ]; then
		java_arguments kafka.tools.StorageTool format \
			-t "$(cat "${1%/*}/cluster_id")" -c "$1/server.properties"
		"${java[@]}" >"$1/log" 2>&1 ||
			{ tail -n 20 "$1/log" >&2; die "could not format the storage of $1"; }
	fi
	java_arguments kafka.Kafka "$1/server.properties"
	# A session of its own: the terminal's interrupts are not meant for it.
	setsid "${java[@]}" </dev/null >>"$1/log" 2>&1 &
	printf '%s\n' "$!" >"$1/pid"
}

# All nodes answer, and each knows of all the others.
ready()
{
	local address

	for address in ${2//,/ }; do
		if command -v kcat >/dev/null; then
			kcat -L -b "$address" -m 2 2>/dev/null | grep -q "^ $1 brokers:" || return 1
		else
			(exec 3<>"/dev/tcp/${address%:*}/${address#*:}") 2>/dev/null || return 1
		fi
	done
}

wait_ready()
{
	local bootstrap count node
	local until=$((SECONDS + 120))

	bootstrap=$(sed -n 's/^bootstrap.servers=//p' "$1/addresses")
	count=$(nodes "$1" | wc -l)
	until ready "$count" "$bootstrap"; do
		while read -r node; do
			node_pid "$node" >/dev/null ||
				{ tail -n 20 "$node/log" >&2; die "node $node has ended"; }
		done < <(nodes "$1")
		[ "$SECONDS" -lt "$until" ] || die "Kafka does not answer; see $1/*/log"
		sleep 0.2
	done
}

start()
{
	local dir=$1
	local node
	local brokers=1 auto_create=true sasl=''
	local -a properties=()

	shift
	while [ $# -gt 0 ]; do
		case $1 in
			--brokers) brokers=$2; shift 2 ;;
			--no-auto-create) auto_create=false; shift ;;
			--sasl) sasl=$2; shift 2 ;;
			--property) properties+=("$2"); shift 2 ;;
			*) usage ;;
		esac
	done
	command -v java >/dev/null || die "Java is needed to run Kafka"
	fetch
	libs=$(cd "$libs" && pwd)
	mkdir -p "$dir"
	dir=$(cd "$dir" && pwd)
	[ -f "$dir/addresses" ] || write_settings "$dir"
	while read -r node; do
		node_pid "$node" >/dev/null || node_start "$node"
	done < <(nodes "$dir")
	wait_ready "$dir"
	cat "$dir/addresses"
}

# end SIGNAL DIR [NODE]
end()
{
	local node pid
	local until

	while read -r node; do
		pid=$(node_pid "$node") && kill -s "$1" "$pid"
	done < <(nodes "$(cd "$2" && pwd)" "${3:-}")
	until=$((SECONDS + 20))
	while read -r node; do
		while pid=$(node_pid "$node"); do
			[ "$SECONDS" -lt "$until" ] || kill -s KILL "$pid" || :
			sleep 0.1
		done
		rm -f "$node/pid"
	done < <(nodes "$(cd "$2" && pwd)" "${3:-}")
}

status()
{
	local node

	while read -r node; do
		if node_pid "$node" >/dev/null; then
			printf '%s running\n' "${node##*/}"
		else
			printf '%s stopped\n' "${node##*/}"
		fi
	done < <(nodes "$(cd "$1" && pwd)")
}

[ $# -ge 1 ] || usage
case $1 in
	fetch) fetch ;;
	start) [ $# -ge 2 ] || usage; start "${@:2}" ;;
	stop) [ $# -ge 2 ] || usage; end TERM "${@:2}" ;;
	kill) [ $# -ge 2 ] || usage; end KILL "${@:2}" ;;
	status) [ $# -eq 2 ] || usage; status "$2" ;;
	*) usage ;;
esac
