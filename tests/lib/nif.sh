#!/bin/sh
# nif.sh SOURCE.c TARGET.so INCLUDE: compile a test NIF that loads into every root
# of the matrix; the oldest has glibc 2.31, so newer symbol versions are refused.
set -eu

"${CC:-gcc}" -shared -fPIC -std=gnu11 -O2 -g -Wall -Wextra -Werror -pthread \
	-I"$3" -o "$2" "$1"
newest=$(objdump -T "$2" | grep -o 'GLIBC_2\.[0-9]*' | sort -u -t. -k2n | tail -n 1)
if [ "${newest#GLIBC_2.}" -gt 31 ]; then
	echo "$2 needs $newest, newer than the oldest root's 2.31:" >&2
	objdump -T "$2" | grep "$newest" >&2
	rm -f "$2"
	exit 1
fi
