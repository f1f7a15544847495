#!/bin/sh
# nif.sh SOURCE TARGET.so INCLUDE [FLAGS...]: compile a test NIF or driver, C or C++,
# that loads into every root of the matrix; the oldest has glibc 2.31, so newer symbol
# versions are refused.
set -eu

source=$1 target=$2 include=$3
shift 3
case $source in
*.cpp) set -- "${CXX:-g++}" -std=gnu++17 "$source" "$@" ;;
*) set -- "${CC:-gcc}" -std=gnu11 "$source" "$@" ;;
esac
"$@" -shared -fPIC -O2 -g -Wall -Wextra -Werror -pthread -I"$include" -o "$target"
newest=$(objdump -T "$target" | grep -o 'GLIBC_2\.[0-9]*' | sort -u -t. -k2n | tail -n 1)
if [ "${newest#GLIBC_2.}" -gt 31 ]; then
	echo "$target needs $newest, newer than the oldest root's 2.31:" >&2
	objdump -T "$target" | grep "$newest" >&2
	rm -f "$target"
	exit 1
fi
