#!/bin/bash
# Style of what is in the tree: clang-format, clang-tidy, shellcheck. clang-tidy is
# slow and looks only at C files that differ from origin/main (all with --all, or
# when there is no such branch). LINT_FLAGS are the compiler's (set by the Makefile).
# With --format, files are laid out anew instead.
set -u
cd "$(dirname "$0")/.." || exit 1

status=0
mapfile -t c_files < <(git ls-files -co --exclude-standard '*.c' '*.h' |
	while read -r f; do
		case $f in
		src/erts/layouts/otp-*) continue ;; # tools/otp-layout writes these
		esac
		[ -e "$f" ] && echo "$f"
	done)

if [ "${1:-}" = --format ]; then
	clang-format -i "${c_files[@]}"
	exit
fi
mapfile -t scripts < <(git ls-files -co --exclude-standard |
	while read -r f; do
		[ -f "$f" ] && head -n 1 "$f" | grep -qE '^#!.*\b(ba|da)?sh\b' && echo "$f"
	done)

if [ ${#c_files[@]} -gt 0 ]; then
	clang-format --dry-run -Werror "${c_files[@]}" || status=1
fi

base=$(git merge-base HEAD origin/main 2>/dev/null || true)
if [ "${1:-}" = --all ] || [ -z "$base" ]; then
	tidy=("${c_files[@]}")
else
	mapfile -t tidy < <(git diff --name-only --diff-filter=d "$base" -- '*.c'
		git ls-files -o --exclude-standard '*.c')
fi
# BPF programs and NIFs are compiled with other headers. What includes a generated
# skeleton is not searched for leaks: the analyser finds one in the skeleton.
tidy() { # CHECKS < FILES
	# shellcheck disable=SC2086 # a list of flags
	xargs -r -P "$(nproc)" -I FILE clang-tidy --quiet $1 FILE -- ${LINT_FLAGS:-} 2>/dev/null |
		grep -v '^$' && status=1
}
mapfile -t tidy < <(printf '%s\n' "${tidy[@]}" | grep -E '\.c$' |
	grep -vE '\.bpf\.c$|^tests/scenarios/')
if [ ${#tidy[@]} -gt 0 ]; then
	mapfile -t skeletons < <(grep -l 'skel\.h"' "${tidy[@]}")
	tidy '' < <(printf '%s\n' "${tidy[@]}" "${skeletons[@]}" | sort | uniq -u)
	tidy --checks=-clang-analyzer-unix.Malloc < <(printf '%s\n' "${skeletons[@]}" | grep .)
fi

[ ${#scripts[@]} -eq 0 ] || shellcheck "${scripts[@]}" || status=1
exit $status
