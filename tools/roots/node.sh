#!/bin/sh
# Become an Erlang node of a given release, in the foreground:
#
#   tools/roots/node.sh [-n] [-e VAR=VALUE]... [-b DIR] REL|host [erl arguments]
#
# REL is a release of the OTP matrix (tools/roots/otp.py makes its root); `host`
# is the Erlang of this machine. Every step is an exec, so the pid of this script
# is the pid of beam.smp, and stdin, stdout and signals are the node's own.
#
#   -b DIR   a folder with .beam files and NIFs; the node finds it under the same
#            path (bind-mounted into a root) and has it in its code path
#   -e V=X   environment of the node, beside the few things that it always gets
#   -n       pid, mount, ipc and uts namespaces of its own: the node is then a
#            child of this script, and is killed with it
#
# A root's node gets a mount namespace of its own for /proc and DIR: nothing stays
# mounted when it is gone.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir='' namespaces='' vars=''

die() {
	echo "node.sh: $*" >&2
	exit 1
}

while getopts b:e:n option; do
	case $option in
	b) dir=$(cd "$OPTARG" && pwd) ;;
	e)
		case $OPTARG in
		*[[:space:]]*) die "-e takes no blanks" ;;
		*) vars="$vars $OPTARG" ;;
		esac
		;;
	n) namespaces=yes ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || die "no release named"
release=$1
shift

if [ "$release" = host ]; then
	erl=$(command -v erl) || die "there is no erl on this machine"
	lib=$(dirname "$(readlink -f "$erl")")
	rootdir=$(cd "$lib/.." && pwd)
	root=''
else
	root=$("$here/otp.py" path "$release")
	rootdir=/usr/lib/erlang
fi
erts=$(basename "$(find "$root$rootdir" -maxdepth 1 -name 'erts-*' | sort | tail -n 1)")
[ -x "$root$rootdir/$erts/bin/erlexec" ] || die "no erlexec in $root$rootdir"
bin=$rootdir/$erts/bin

[ -z "$dir" ] || set -- "$@" -pa "$dir"
# The environment is small and known; what erl's own start script would set is set here.
# env is this machine's (a root has none) and finds chroot by the PATH it sets.
[ -z "$root" ] || set -- chroot "$root" "$bin/erlexec" -noshell "$@"
[ -n "$root" ] || set -- "$bin/erlexec" -noshell "$@"
# shellcheck disable=SC2086 # $vars is a list of words
set -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 \
	ERL_CRASH_DUMP_SECONDS=0 ROOTDIR="$rootdir" BINDIR="$bin" EMU=beam PROGNAME=erl $vars "$@"

if [ -z "$root" ] && [ -z "$namespaces" ]; then
	exec "$@"
fi

# Inside the new mount namespace: what a root needs, then the node. (unshare itself
# could make it private, but fails where / is no mount point, as in a chroot.)
# shellcheck disable=SC2016 # expanded by the inner shell
inside='
root=$1 dir=$2
shift 2
set -e
mount --make-rprivate / 2>/dev/null || :
mount -t proc proc "$root/proc"
[ -z "$root" ] || [ -z "$dir" ] || { mkdir -p "$root$dir" && mount --bind "$dir" "$root$dir"; }
exec "$@"'

if [ -n "$namespaces" ]; then
	exec unshare --mount --propagation unchanged --ipc --uts --pid --fork --kill-child \
		sh -c "$inside" sh "$root" "$dir" "$@"
fi
exec unshare --mount --propagation unchanged sh -c "$inside" sh "$root" "$dir" "$@"
