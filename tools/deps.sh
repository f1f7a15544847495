#!/bin/sh
# What beamray needs to be built and tested: installed where there is apt (Debian,
# Ubuntu), named where there is not. When everything is there it does nothing and
# uses no network, so `make demo` and `make check` call it every time.
#
#   tools/deps.sh [--build | --optional]
#
#   --build      only what building needs
#   --optional   also what single tests need and are skipped without; it is no
#                error if it cannot be had
#
# Exit code 0: all there; 1: something is missing and could not be installed.
# shellcheck disable=SC2086 # package lists are lists of words
set -eu

build='gcc make clang llvm libbpf-dev bpftool libelf-dev libdw-dev zlib1g-dev
	libsqlite3-dev libjansson-dev libcap-ng-dev libcapstone-dev libiberty-dev
	pkg-config'
tests='erlang-base erlang-dev erlang-tools erlang-runtime-tools erlang-crypto
	libcmocka-dev binutils clang-format clang-tidy shellcheck tmux gpgv
	debian-archive-keyring xz-utils zstd python3 procps util-linux mount mmdebstrap
	ca-certificates git libjemalloc2'

# A browser for the pages; C++ NIFs; capsh; flamegraph.pl, which NYTProf brings. (node and
# npm, for readers of other formats, are used where they are: as packages of Debian they are
# hundreds.)
optional='chromium fonts-dejavu-core g++ libcap2-bin libdevel-nytprof-perl'

wanted=$build
[ "${1:-}" = --build ] || wanted="$build $tests"

# How other distributions call them.
fedora='gcc make clang llvm libbpf-devel bpftool elfutils-libelf-devel elfutils-devel
 zlib-devel sqlite-devel jansson-devel libcap-ng-devel capstone-devel pkgconf erlang
 libcmocka-devel
 binutils binutils-devel clang-tools-extra ShellCheck tmux gnupg2 debian-keyring dpkg xz zstd python3
 procps-ng util-linux git'
arch='gcc make clang llvm libbpf bpf libelf zlib sqlite jansson libcap-ng capstone pkgconf
 erlang cmocka binutils shellcheck tmux gnupg debian-archive-keyring dpkg xz zstd python
 procps-ng util-linux git'
alpine='gcc musl-dev linux-headers make clang llvm libbpf-dev bpftool elfutils-dev zlib-dev
 sqlite-dev jansson-dev libcap-ng-dev capstone-dev pkgconf argp-standalone erlang erlang-dev cmocka-dev
 binutils binutils-dev clang-extra-tools shellcheck tmux gnupg debian-archive-keyring dpkg xz zstd
 python3 procps util-linux git'

# Without apt the packages cannot be looked up by name; these must be there.
tools_needed='cc make clang llvm-strip bpftool pkg-config'
libs_needed='libbpf libelf libdw zlib sqlite3 jansson libcap-ng capstone'
[ "${1:-}" = --build ] || {
	tools_needed="$tools_needed erl shellcheck tmux gpgv xz python3 unshare"
	libs_needed="$libs_needed cmocka"
}

PATH=$PATH:/usr/sbin:/sbin

have() {
	command -v "$1" >/dev/null 2>&1
}

foreign_erlang() {
	have erl && ! dpkg-query -W erlang-base >/dev/null 2>&1
}

missing_by_probe() {
	for tool in $tools_needed; do
		have "$tool" || echo "$tool"
	done
	for lib in $libs_needed; do
		pkg-config --exists "$lib" 2>/dev/null || echo "$lib"
	done
}

missing_packages() {
	for package in $wanted; do
		# The same thing may have come under another name: pkgconf, an Erlang
		# from elsewhere, Ubuntu's bpftool.
		case $package in
		pkg-config) have pkg-config && continue ;;
		bpftool) have bpftool && continue ;;
		erlang-*) foreign_erlang && continue ;;
		esac
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
		[ "$status" = installed ] || echo "$package"
	done
}

if ! have apt-get || ! have dpkg-query; then
	missing=$(missing_by_probe | tr '\n' ' ')
	[ -n "$missing" ] || exit 0
	id=''
	# shellcheck disable=SC1091
	[ ! -r /etc/os-release ] || id=$(. /etc/os-release && echo "${ID:-} ${ID_LIKE:-}")
	echo "Missing here: $missing" >&2
	case " $id " in
	*fedora* | *rhel*) echo "Get them with: dnf install" $fedora >&2 ;;
	*arch*) echo "Get them with: pacman -S --needed" $arch >&2 ;;
	*alpine*) echo "Get them with: apk add" $alpine >&2 ;;
	*)
		echo "There is no apt here. The packages are called, on Fedora:" $fedora >&2
		echo "on Arch:" $arch >&2
		echo "on Alpine:" $alpine >&2
		;;
	esac
	exit 1
fi

# Ubuntu has bpftool in its kernel's tools.
if grep -qs '^ID=ubuntu' /etc/os-release; then
	wanted="$(echo $wanted | sed 's/\bbpftool\b//')"
	have bpftool || wanted="$wanted linux-tools-common linux-tools-generic"
fi

missing=$(missing_packages | tr '\n' ' ')
extra=''
if [ "${1:-}" = --optional ]; then
	needed=$wanted wanted=$optional
	extra=$(missing_packages | tr '\n' ' ')
	wanted=$needed
fi
[ -n "$missing$extra" ] || exit 0

as_root=''
if [ "$(id -u)" -ne 0 ]; then
	if have sudo; then
		as_root=sudo
	else
		[ -n "$missing" ] || exit 0
		echo "Missing packages, and neither root nor sudo to install them: $missing" >&2
		exit 1
	fi
fi

echo "Installing: $missing$extra"
apt() {
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o Dpkg::Use-Pty=0 -o APT::Install-Recommends=false -o DPkg::Lock::Timeout=300 "$@"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Known package lists may do; only when they do not, they are fetched, once.
if [ -n "$missing" ] && ! apt install $missing >"$log" 2>&1; then
	apt update >"$log" 2>&1 || true
	if ! apt install $missing >>"$log" 2>&1; then
		tail -n 20 "$log" >&2
		echo "apt could not install: $missing" >&2
		exit 1
	fi
fi
missing=$(missing_packages | tr '\n' ' ')
[ -z "$missing" ] || {
	echo "Still missing after apt: $missing" >&2
	exit 1
}
if [ -n "$extra" ] && ! apt install $extra >"$log" 2>&1; then
	apt update >"$log" 2>&1 || true
	apt install $extra >>"$log" 2>&1 || echo "apt could not install: $extra(some tests are skipped)" >&2
fi
