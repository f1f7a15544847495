#!/bin/sh
# What runs in a guest of the kernel matrix: a node with a NIF that leaks, and beamray
# looking at it. Everything that it finds goes to /tmp/out, which the host reads.
b=/tmp/busybox out=/tmp/out
for a in sleep cat mkfifo grep ls uname awk sed date; do $b ln -sf $b /tmp/$a; done
PATH=/tmp:/usr/bin:/bin
export PATH HOME=/root LC_ALL=C.UTF-8

uname -r >$out/kernel
ls /sys/kernel/btf >$out/btf 2>&1
erts=$(echo /usr/lib/erlang/erts-*/bin)
mkfifo /tmp/in
ROOTDIR=/usr/lib/erlang BINDIR=$erts EMU=beam PROGNAME=erl \
	"$erts/erlexec" -pa /test -noinput -s scenario main </tmp/in >$out/node 2>$out/node.err &
node=$!
exec 3>/tmp/in
say() { echo "$*" >&3; }
# Waits until the node has written that many lines.
until_lines() {
	n=0
	while [ "$(grep -c . $out/node)" -lt "$1" ] && [ $n -lt 600 ]; do
		sleep 0.2
		n=$((n + 1))
	done
}
run() { # NAME COMMAND...
	name=$1
	shift
	"$@" >"$out/$name" 2>"$out/$name.err"
	echo $? >"$out/$name.code"
}

until_lines 1
say nif load /test
say nif leak_malloc 2000 1000
say gc
until_lines 4
sleep 2
run check /test/beamray check -p $node
resident() { awk '/^Rss:/ { sum += $2 } END { print sum * 1024 }' /proc/$node/smaps >>$out/smaps; }
resident
run memory /test/beamray memory -p $node --json
resident
say nif truth
# Leaks on, in small steps, through what follows.
(
	while [ ! -e /tmp/enough ]; do
		say nif leak_malloc 200 1000
		sleep 0.3
	done
) &
leaker=$!
sleep 1
run doctor /test/beamray doctor -p $node -d 5s --json
run still /test/beamray doctor -p $node -d 3s --no-uprobes --json
run record /test/beamray record -p $node -d 3s -i 1s -o $out/recording
run report /test/beamray report $out/recording --json
# all that needs probes in functions
run record2 /test/beamray record -p $node -d 3s -i 1s --native --gc --budget 50 -o $out/recording2
run native /test/beamray report $out/recording2 --json --kind native
run gc /test/beamray report $out/recording2 --json --kind gc
run carrier /test/beamray report $out/recording2 --json --kind carrier
run cpu /test/beamray report $out/recording2 --json --kind cpu
: >/tmp/enough
wait $leaker
sleep 1
have=$(grep -c . $out/node)
say nif truth
until_lines $((have + 1))
say stop
exec 3>&-
wait $node
