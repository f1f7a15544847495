#!/bin/bash
# The tests, all of them: builds, unit tests (plain and under ASan+UBSan), scenario
# tests over the OTP matrix. The last line is `N passed, N failed[, N skipped]`, and
# the exit code tells whether anything failed.
#
#   tests/run.sh [--long] [-k PATTERN] [-r "25 29"] [--no-build] [--list]
#   tests/run.sh --unit-only [--unit-dir DIR]
#
#   -k PATTERN  only tests whose name matches (an extended regular expression):
#               build-*, lint, unit-*, asan-*, or a scenario test (t_memory)
#   -r LIST     only these releases ("host": this machine's own Erlang)
#   --long      also tests marked `# long`, and longer forms of the others
#
# A test is a program that prints `ok - what` and `not ok - what # why` lines, and
# `ok - what # SKIP why` for what cannot be tested here; an unclean end without such
# a line counts as a failure. A line `# timeout: SECONDS` in its head sets its time
# limit (default 300). Whatever a test prints is kept in build/tests/log.
set -u
unset MAKEFLAGS MAKELEVEL MFLAGS
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:/usr/sbin:/sbin

pattern='' long='' build=yes unit_only='' unit_dir=build/gcc/tests/unit list=''
while [ $# -gt 0 ]; do
	case $1 in
	--long) long=1 ;;
	-k) pattern=$2 && shift ;;
	-r) export BEAMRAY_RELEASES=$2 && shift ;;
	--no-build) build='' ;;
	--unit-only) unit_only=yes build='' ;;
	--unit-dir) unit_dir=$2 && shift ;;
	--list) list=yes ;;
	-h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 0 ;;
	*) echo "tests/run.sh: what is $1? (see --help)" >&2 && exit 2 ;;
	esac
	shift
done
[ -z "$long" ] || export BEAMRAY_LONG=1

passed=0 failed=0 skipped=0
failures=()
log=build/tests/log
mkdir -p "$log"
jobs=$(nproc 2>/dev/null || echo 2)

wanted() { # NAME
	[ -z "$pattern" ] || [[ $1 =~ $pattern ]] || return 1
	[ -z "$list" ] || { echo "$1" && return 1; }
}

# Run a command under a name and a time limit, print and count its TAP lines. With
# TAP=no the command is itself one test.
run() { # NAME SECONDS COMMAND...
	local name=$1 limit=$2 out=$log/$1.log code lines before=$SECONDS
	shift 2
	printf '== %s\n' "$name"
	timeout --kill-after=20 "$limit" "$@" >"$out" 2>&1 </dev/null
	code=$?
	local n_ok=0 n_bad=0
	if [ "${TAP:-yes}" = yes ]; then
		while IFS= read -r lines; do
			case $lines in
			*'# SKIP'* | *'# skip'*) skipped=$((skipped + 1)) && printf '%s\n' "$lines" ;;
			'ok'*) n_ok=$((n_ok + 1)) ;;
			'not ok'*)
				n_bad=$((n_bad + 1))
				failures+=("$name: $lines")
				;;
			esac
		done < <(grep -aE '^[[:space:]]*(ok|not ok)\b' "$out" | sed 's/^[[:space:]]*//')
	fi
	if [ $code -eq 124 ] || [ $code -eq 137 ]; then
		n_bad=$((n_bad + 1))
		failures+=("$name: not done within $limit s")
	elif [ $code -ne 0 ] && [ $n_bad -eq 0 ]; then
		n_bad=1
		failures+=("$name: exit code $code")
	elif [ $code -eq 0 ] && [ "${TAP:-yes}" != yes ]; then
		n_ok=1
	elif [ $((n_ok + n_bad)) -eq 0 ] && ! grep -aqE '# (SKIP|skip)' "$out"; then
		n_bad=1
		failures+=("$name: said nothing")
	fi
	[ $n_bad -eq 0 ] || grep -avE '^[[:space:]]*ok\b' "$out" | tail -n 40 | sed 's/^/    /'
	printf '   %d ok, %d not ok (%d s)\n' $n_ok $n_bad $((SECONDS - before))
	passed=$((passed + n_ok))
	failed=$((failed + n_bad))
	[ $n_bad -eq 0 ]
}

finish() {
	[ -z "$list" ] || exit 0
	if [ ${#failures[@]} -gt 0 ]; then
		printf '\nFailed:\n'
		printf '  %s\n' "${failures[@]}"
	fi
	printf '\n'
	if [ $skipped -gt 0 ]; then
		printf '%d passed, %d failed, %d skipped\n' $passed $failed $skipped
	else
		printf '%d passed, %d failed\n' $passed $failed
	fi
	[ $failed -eq 0 ]
	exit
}

unit_tests() { # LABEL DIR
	local label=$1 dir=$2 program
	for program in tests/unit/test_*.c; do
		[ -e "$program" ] || return
		program=$(basename "$program" .c)
		wanted "$label-$program" || continue
		CMOCKA_MESSAGE_OUTPUT=TAP ASAN_OPTIONS=detect_leaks=1 \
			run "$label-$program" 300 "$dir/$program"
	done
}

if [ -n "$unit_only" ]; then
	unit_tests unit "$unit_dir"
	finish
fi

# ---- builds ------------------------------------------------------------------

# The program first: without it nothing else means anything.
if [ -n "$build" ] && [ -z "$list" ]; then
	if ! TAP=no run build 900 make -j"$jobs" all unit-programs; then
		finish
	fi
	if [ -z "$pattern" ] || [[ $pattern == *asan* ]]; then
		TAP=no run build-asan 900 make -j"$jobs" SANITIZE=address,undefined unit-programs \
			build/gcc-address-undefined/beamray
	fi
	if wanted build-clang; then
		TAP=no run build-clang 900 make -j"$jobs" CC=clang build/clang/beamray
	fi
	if wanted build-install; then
		rm -rf build/tests/dest
		TAP=no run build-install 300 sh -c 'make install DESTDIR=build/tests/dest prefix=/usr &&
			build/tests/dest/usr/bin/beamray -V &&
			make uninstall DESTDIR=build/tests/dest prefix=/usr &&
			! find build/tests/dest -type f | grep .'
	fi
fi
if wanted lint; then
	TAP=no run lint 1500 make lint
fi

# ---- unit --------------------------------------------------------------------

unit_tests unit build/gcc/tests/unit
unit_tests asan build/gcc-address-undefined/tests/unit

# ---- scenarios ---------------------------------------------------------------

for test in tests/scenarios/t_*.py tests/scenarios/t_*.sh tests/matrix/t_*.py; do
	[ -e "$test" ] || continue
	case $test in
	*.py) with=python3 ;;
	*) with=bash ;;
	esac
	name=$(basename "$test")
	name=${name%.*}
	wanted "$name" || continue
	head=$(head -n 40 "$test")
	if [ -z "$long" ] && grep -q '^# long$' <<<"$head"; then
		printf '== %s (only with --long)\n' "$name"
		continue
	fi
	limit=$(sed -n 's/^# timeout: \([0-9]*\)$/\1/p' <<<"$head" | head -n 1)
	limit=${limit:-300}
	[ -z "$long" ] || limit=$((limit * 4))
	run "$name" "$limit" $with "$test"
done

# Real targets under the sanitizers too: whatever a look trips over, it says.
asan=$PWD/build/gcc-address-undefined/beamray
if [ -x "$asan" ] || [ -n "$list" ]; then
	for test in t_memory t_bad_target ${long:+t_churn t_native t_flags}; do
		wanted "asan-$test" || continue
		BEAMRAY=$asan BEAMRAY_RELEASES=${BEAMRAY_RELEASES:-${long:+23 27 }25 29} \
			run "asan-$test" 1200 "tests/scenarios/$test.py"
	done
fi

finish
