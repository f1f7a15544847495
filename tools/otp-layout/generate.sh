#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes a layout table (src/erts/layouts/otp-NN-ARCH.c) from the sources of a release.
#
#   generate.sh -s SUITE  [options]     from Debian's source package "erlang" of that suite
#   generate.sh -d SOURCE [options]     from an unpacked OTP source tree
#
#   -f FLAVOR   jit (default from OTP 24 on), emu (default before), or hipe (before 24 only:
#               the native compiler of old enlarges Process; Debian's erlang-base-hipe, and what
#               a plain ./configure of OTP 23 builds)
#   -o FILE     where to write the table; default src/erts/layouts/otp-NN-ARCH[-FLAVOR].c
#   -w DIR      working directory, kept; default: a fresh one under /tmp, removed at the end
#   -v          say what the release does not have
#
# Nothing of OTP is linked or run except its own generators (they write erl_alloc_types.h and the
# like); about two minutes and 500 MB of disk for a release. See README.md in this directory.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
suite='' source='' flavor='' out='' work='' verbose=''

die()
{
	echo "generate.sh: $*" >&2
	exit 1
}

while getopts s:d:f:o:w:v option; do
	case $option in
	s) suite=$OPTARG ;;
	d) source=$(cd "$OPTARG" && pwd) ;;
	f) flavor=$OPTARG ;;
	o) out=$OPTARG ;;
	w) work=$OPTARG ;;
	v) verbose=-v ;;
	*) die "usage: generate.sh -s SUITE | -d SOURCE [-f jit|emu|hipe] [-o FILE] [-w DIR] [-v]" ;;
	esac
done
[ -n "$suite" ] || [ -n "$source" ] || die "give a suite (-s) or a source tree (-d)"

if [ -z "$work" ]; then
	work=$(mktemp -d /tmp/otp-layout-XXXXXX)
	trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
work=$(cd "$work" && pwd)

# ---- the sources -------------------------------------------------------------
if [ -n "$suite" ]; then
	if [ -d "$work/source" ] && [ -s "$work/erlang.index" ]; then
		package=$(awk '/^Version:/ { print $2 }' "$work/erlang.index")
	else
		read -r _ package < <("$here/fetch.sh" "$suite" "$work") || die "no sources"
	fi
	source=$work/source
	measured="Debian $suite, source package erlang $package"
	again="tools/otp-layout/generate.sh -s $suite"
else
	measured="OTP sources"
	again="tools/otp-layout/generate.sh -d SOURCE"
fi
[ -r "$source/erts/vsn.mk" ] || die "$source is no OTP source tree"

export ERL_TOP=$source
otp=$(cat "$source/OTP_VERSION")
major=${otp%%.*}
erts=$(sed -n 's/^VSN *= *//p' "$source/erts/vsn.mk")
arch=$(uname -m)
if [ -z "$flavor" ]; then
	[ "$major" -ge 24 ] && flavor=jit || flavor=emu
fi
# Before OTP 24 there is one flavour for make, its folder is called smp; HiPE is configured.
folder=$flavor
hipe=''
if [ "$major" -lt 24 ]; then
	folder=smp
	[ "$flavor" = hipe ] && hipe=--enable-hipe || hipe=--disable-hipe
fi

# ---- configured, and its generated headers made -------------------------------
# The options leave out what needs development packages and does not reach into erts/emulator.
cd "$source"
if [ ! -x configure ]; then
	command -v autoconf >/dev/null || die "OTP $otp has no configure script: install autoconf"
	nice ./otp_build autoconf > "$work/autoconf.log" 2>&1 || die "see $work/autoconf.log"
fi
if ! ls erts/*/config.h >/dev/null 2>&1; then
	# shellcheck disable=SC2086
	nice ./configure --without-termcap --without-javac --without-wx --without-odbc \
		--without-ssl $hipe > "$work/configure.log" 2>&1 || die "see $work/configure.log"
	echo "$hipe" > "$work/configured"
fi
if [ -n "$hipe" ] && [ "$(cat "$work/configured" 2>/dev/null)" != "$hipe" ]; then
	die "the tree was not configured with $hipe; use a fresh one"
fi
config=(erts/*/config.h)
target=$(basename "$(dirname "${config[0]}")")
nice make -j2 -C erts/emulator generate TYPE=opt FLAVOR="$folder" \
	> "$work/generate-$flavor.log" 2>&1 || die "see $work/generate-$flavor.log"

# ---- the probes ---------------------------------------------------------------
# Every file of ERTS that declares a type or macro which beamray reads, or sees its header: each is
# compiled with the flags of its own build, its macros' values appended as constants. Types private
# to a file come with it; beamray reads the same files' debug information in a real VM.
tool=$work/otp-layout
cc -std=gnu11 -O1 -D_GNU_SOURCE -I"$root/src" -o "$tool" "$here/otp-layout.c" \
	"$root/src/erts/layout.c" "$root/src/erts/layout_dwarf.c" -ldw -lelf ||
	die "cannot build the tool (libdw-dev?)"

files="beam/erl_alloc.c beam/erl_alloc_util.c sys/common/erl_mseg.c sys/common/erl_mmap.c
	beam/erl_process.c beam/erl_process_dict.c beam/erl_ptab.c beam/erl_message.c
	beam/erl_proc_sig_queue.c beam/erl_monitor_link.c beam/register.c beam/io.c
	beam/erl_bif_ddll.c beam/erl_port_task.c beam/erl_trace.c
	beam/atom.c beam/index.c beam/module.c beam/export.c beam/erl_fun.c
	beam/beam_ranges.c beam/beam_bp.c beam/beam_code.c beam/erl_bits.c beam/binary.c
	beam/erl_nif.c beam/erl_bif_info.c beam/dist.c beam/erl_node_tables.c
	beam/erl_db.c beam/erl_db_util.c beam/erl_db_hash.c beam/erl_db_tree.c
	beam/erl_db_catree.c beam/erl_flxctr.c beam/erl_bif_persistent.c
	sys/common/erl_check_io.c sys/unix/sys_drivers.c drivers/common/inet_drv.c"
cd erts/emulator
objects=$work/objects-$flavor
rm -rf "$objects"
mkdir -p "$objects"
for file in $files; do
	[ -r "$file" ] || continue # other releases, other files
	name=$(basename "$file" .c)
	# The make rule's own compiler call, less its optimisation and warnings.
	flags=$(make -n -f "$target/Makefile" TYPE=opt FLAVOR="$folder" \
		"obj/$target/opt/$folder/$name.o" 2>/dev/null |
		tr ';' '\n' | grep -- "-c $file" | head -1 | tr ' ' '\n' | grep -E '^-[DIU]' || true)
	[ -n "$flags" ] || flags=$(cat "$objects/flags" 2>/dev/null) || die "no flags for $file"
	[ -s "$objects/flags" ] || echo "$flags" > "$objects/flags"
	{
		echo "#include \"$file\""
		"$tool" probe "$name.c"
	} > "$objects/$name.c"
	# -I.: the probe names the file by its path within the emulator's directory.
	# shellcheck disable=SC2086
	nice cc $flags -I. -I"$(dirname "$file")" -w -g -O0 -fno-eliminate-unused-debug-types -c \
		"$objects/$name.c" -o "$objects/$name.o" 2> "$objects/$name.log" ||
		die "$file does not compile, see $objects/$name.log: $(head -5 "$objects/$name.log")"
done
# One object, many units: the form in which a real VM's debug information comes.
ld -r -o "$objects/all" "$objects"/*.o

# ---- the table ----------------------------------------------------------------
suffix=''
case $major-$flavor in
*-hipe | 2[4-9]-emu | [3-9][0-9]-emu)
	suffix=-$flavor
	again="$again -f $flavor"
	;;
esac
symbol=layout_otp_${major}_$arch${suffix/-/_}
out=${out:-$root/src/erts/layouts/otp-$major-$arch$suffix.c}
"$tool" table $verbose --otp "$otp" --erts "$erts" --arch "$arch" --flavor "$flavor" \
	--source "$measured" --symbol "$symbol" --command "$again" "$objects/all" > "$out.new"
mv "$out.new" "$out"
echo "$out"
