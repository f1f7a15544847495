#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Fetches and unpacks the source package "erlang" of a Debian suite.
#
#   fetch.sh SUITE DIRECTORY      e.g. fetch.sh trixie /tmp/otp-layout-27
#
# Prints two words on stdout: the unpacked source directory and the package's version.
#
# The mirror is the one this machine's apt already uses for Debian itself (`apt-get indextargets`),
# so nothing here names a host. The suite need not be configured in apt: its InRelease is fetched
# from that mirror and its signature verified with the keyrings in /usr/share/keyrings; the source
# index is verified by the signed checksum, the package's files by the index's checksums.
set -euo pipefail

die()
{
	echo "fetch.sh: $*" >&2
	exit 1
}

[ $# -eq 2 ] || die "usage: fetch.sh SUITE DIRECTORY"
suite=$1
dir=$2
keyring=${OTP_LAYOUT_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}

for tool in apt-get gpgv wget xz dpkg-source sha256sum; do
	command -v "$tool" >/dev/null || die "$tool is missing"
done

# The base of the archive that holds "main" of Debian proper (not security, not a third party).
# shellcheck disable=SC2016 # apt-get expands these, not the shell
mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)' \
	'Created-By: Packages' |
	awk '$2 == "Debian" && $3 == "Debian" && $4 == "main" { print $1; exit }')
[ -n "$mirror" ] || die "apt knows no Debian mirror: run apt-get update, or use generate.sh -d"
mirror=${mirror%/}

mkdir -p "$dir"
cd "$dir"

get()
{
	wget -q -O "$2" "$mirror/$1" || die "cannot fetch $1 from the mirror apt uses"
}

get "dists/$suite/InRelease" InRelease
[ -r "$keyring" ] || die "no keyring $keyring (package debian-archive-keyring)"
# gpgv fails when one of several signatures is by a key that this keyring does not have yet;
# one good signature by a key of ours and no bad one is what is asked for. --output gives the
# signed text only, so nothing outside the signature is ever parsed.
rm -f Release
gpgv --keyring "$keyring" --status-fd 3 --output Release InRelease 3>gpgv.status 2>gpgv.log || true
grep -q '^\[GNUPG:\] VALIDSIG' gpgv.status ||
	die "InRelease of $suite: no valid signature (see $dir/gpgv.log)"
! grep -q '^\[GNUPG:\] BADSIG' gpgv.status || die "InRelease of $suite: bad signature"
[ -s Release ] || die "InRelease of $suite: no signed text"

want=$(awk '/^SHA256:/ { on = 1; next } /^[^ ]/ { on = 0 }
	on && $3 == "main/source/Sources.xz" { print $1 }' Release)
[ -n "$want" ] || die "$suite lists no main/source/Sources.xz"
get "dists/$suite/main/source/Sources.xz" Sources.xz
echo "$want  Sources.xz" | sha256sum --quiet -c - >&2 || die "Sources.xz: wrong checksum"

# One paragraph of the index; older versions kept for another package's sake are marked as extra.
xz -dc Sources.xz | awk -v RS= '/^Package: erlang\n/ && !/\nExtra-Source-Only: yes/ { p = $0 }
	END { print p }' > erlang.index
grep -q '^Version:' erlang.index || die "$suite has no source package erlang"
version=$(awk '/^Version:/ { print $2 }' erlang.index)
pool=$(awk '/^Directory:/ { print $2 }' erlang.index)
awk '/^Checksums-Sha256:/ { on = 1; next } /^[^ ]/ { on = 0 } on { print $1 "  " $3 }' \
	erlang.index > erlang.sha256
while read -r _ file; do
	[ -s "$file" ] || get "$pool/$file" "$file" # kept from an earlier run; verified below
done < erlang.sha256
sha256sum --quiet -c erlang.sha256 >&2 || die "erlang $version: wrong checksum"

rm -rf source
# The .dsc was verified through the signed index; the uploader's own key is not needed.
dpkg-source --no-check -x ./*.dsc source > dpkg-source.log 2>&1 ||
	die "dpkg-source failed (see $dir/dpkg-source.log)"
rm -f Sources.xz InRelease Release
echo "$dir/source $version"
