#!/bin/bash
# Real Erlang systems of a Debian suite, in a root with everything that they need:
#
#   tools/roots/system.sh build NAME [SUITE]   make the root, once; prints its folder
#   tools/roots/system.sh run NAME [SUITE]     run it in the foreground until killed
#
# NAME is rabbitmq, ejabberd or elixir; SUITE is bookworm (default), trixie or forky.
# It runs on loopback, on ports of its own, with pid, mount, ipc and uts namespaces
# of its own: when this process is killed, everything in them goes with it. It prints
# what the system prints, and `ready` on a line of its own when it is.
#
# Roots are made by mmdebstrap (maintainer scripts run in them) from the mirror of
# this machine's apt, in ${BEAMRAY_SYSTEMS:-build/systems}/NAME-SUITE.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
PATH=$PATH:/usr/sbin:/sbin

die() {
	echo "system.sh: $*" >&2
	exit 1
}

[ $# -ge 2 ] || die "usage: system.sh build|run NAME [SUITE]"
action=$1 name=$2 suite=${3:-bookworm}
systems=${BEAMRAY_SYSTEMS:-$top/build/systems}
root=$systems/$name-$suite
recipe=2

case $name in
rabbitmq) packages=rabbitmq-server ;;
ejabberd) packages=ejabberd ;;
elixir) packages=elixir,erlang-crypto,erlang-ssl ;;
*) die "no system $name (rabbitmq, ejabberd, elixir)" ;;
esac

build() {
	[ "$(cat "$root/.beamray-root" 2>/dev/null)" != "$recipe" ] || return 0
	[ "$(id -u)" -eq 0 ] || die "making a root needs root"
	command -v mmdebstrap >/dev/null || die "mmdebstrap is not installed"
	mkdir -p "$systems"
	exec 9>"$systems/.lock-$name-$suite"
	flock 9
	[ "$(cat "$root/.beamray-root" 2>/dev/null)" != "$recipe" ] || return 0
	local mirror
	mirror=$(python3 -c "import sys; sys.path.insert(0, '$here'); import otp
print(next(iter(otp.mirrors()), ''))")
	[ -n "$mirror" ] || die "no http mirror in apt's configuration; set BEAMRAY_MIRROR"
	rm -rf "$root"
	# No service starts by itself, and no name is asked of the network.
	# shellcheck disable=SC2016 # expanded by mmdebstrap's shell
	if ! mmdebstrap --quiet --variant=apt --include="$packages" \
		--aptopt='Acquire::Check-Valid-Until "false"' \
		--aptopt='APT::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--essential-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d" && chmod +x "$1/usr/sbin/policy-rc.d"' \
		--essential-hook='printf "127.0.0.1 localhost\n" >"$1/etc/hosts"' \
		"$suite" "$root" "$mirror" >"$systems/$name-$suite.log" 2>&1 9>&-; then
		tail -n 5 "$systems/$name-$suite.log" >&2
		rm -rf "$root"
		die "mmdebstrap could not make $name of $suite"
	fi
	echo "$recipe" >"$root/.beamray-root"
	exec 9>&-
}

# What runs in the root, as the user that the package made for it.
inside_rabbitmq() {
	cat <<-'END'
		export HOME=/var/lib/rabbitmq RABBITMQ_NODENAME=rabbit@localhost
		export RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=35672 RABBITMQ_DIST_PORT=35673
		export ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=34369 RABBITMQ_LOGS=-
		export RABBITMQ_MNESIA_BASE=/tmp/rabbitmq RABBITMQ_ENABLED_PLUGINS_FILE=/tmp/rabbitmq/plugins
		export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
		mkdir -p /tmp/rabbitmq && echo '[].' >/tmp/rabbitmq/plugins
		chown -R rabbitmq /tmp/rabbitmq /var/lib/rabbitmq
		setpriv --reuid=rabbitmq --regid=rabbitmq --clear-groups \
			/usr/lib/rabbitmq/bin/rabbitmq-server </dev/null |
			while IFS= read -r line; do
				echo "$line"
				case $line in *'completed with'*'plugins'* | *'startup complete'*) echo ready ;; esac
			done
	END
}

inside_ejabberd() {
	cat <<-'END'
		export HOME=/var/lib/ejabberd ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=34370
		mkdir -p /tmp/ejabberd /run/ejabberd
		rm -f /var/log/ejabberd/*
		sed -e 's/ip: "::"/ip: "127.0.0.1"/' -e 's/port: \([0-9]\{4\}\)$/port: 3\1/' \
			/etc/ejabberd/ejabberd.yml >/tmp/ejabberd/ejabberd.yml
		cat /etc/ejabberd/ejabberdctl.cfg - >/tmp/ejabberd/ctl.cfg <<-CFG
			EJABBERD_CONFIG_PATH=/tmp/ejabberd/ejabberd.yml
			ERLANG_NODE=ejabberd@localhost
			INET_DIST_INTERFACE=127.0.0.1
		CFG
		chown -R ejabberd /tmp/ejabberd /run/ejabberd /var/log/ejabberd /var/lib/ejabberd
		cd /var/lib/ejabberd
		setpriv --reuid=ejabberd --regid=ejabberd --clear-groups \
			ejabberdctl --ctl-config /tmp/ejabberd/ctl.cfg foreground </dev/null |
			while IFS= read -r line; do
				echo "$line"
				case $line in *'ejabberd '*'is started'*) echo ready ;; esac
			done
	END
}

# A web application, see shop.exs.
inside_elixir() {
	echo "cat >/tmp/shop.exs <<'END_OF_SHOP'"
	cat "$here/shop.exs"
	cat <<-'END'
		END_OF_SHOP
		export HOME=/tmp LC_ALL=C.UTF-8
		exec elixir --no-halt /tmp/shop.exs </dev/null
	END
}

case $action in
build)
	build
	echo "$root"
	;;
run)
	build
	# shellcheck disable=SC2016 # expanded by the inner shell
	exec unshare --mount --propagation unchanged --ipc --uts --pid --fork --kill-child sh -c '
root=$1
set -e
mount --make-rprivate / 2>/dev/null || :
hostname localhost
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
chmod 1777 "$root/tmp"
mount -t tmpfs tmpfs "$root/run"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" sh -c "$2"' \
		sh "$root" "$("inside_$name")"
	;;
*) die "build or run, not $action" ;;
esac
