#!/bin/sh
# nif.sh TARGET.so INCLUDE SOURCE...: compile a test NIF, driver or library (C, and C++
# for what ends in .cc) that loads into every root of the matrix; the oldest has glibc
# 2.31, so newer symbol versions are refused.
set -eu

target=$1 include=$2
shift 2
objects=''
link=${CC:-gcc}
for source in "$@"; do
	object=$target.$(basename "$source").o
	case $source in
	*.cc) compiler=${CXX:-g++} std=-std=gnu++11 link=${CXX:-g++} ;;
	*) compiler=${CC:-gcc} std=-std=gnu11 ;;
	esac
	"$compiler" -c -fPIC $std -O2 -g -Wall -Wextra -Werror -pthread -I"$include" \
		-o "$object" "$source"
	objects="$objects $object"
done
# shellcheck disable=SC2086 # a list of words; build folders have no blanks
"$link" -shared -pthread -o "$target" $objects
# shellcheck disable=SC2086
rm -f $objects
newest=$(objdump -T "$target" | grep -o 'GLIBC_2\.[0-9]*' | sort -u -t. -k2n | tail -n 1)
if [ "${newest#GLIBC_2.}" -gt 31 ]; then
	echo "$target needs $newest, newer than the oldest root's 2.31:" >&2
	objdump -T "$target" | grep "$newest" >&2
	rm -f "$target"
	exit 1
fi
