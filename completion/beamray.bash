# bash completion for beamray                              -*- shell-script -*-

_beamray_pids()
{
	local dir comm
	for dir in /proc/[0-9]*; do
		{ read -r comm <"$dir/comm"; } 2>/dev/null || continue
		[[ $comm == beam* ]] && echo "${dir#/proc/}"
	done
}

_beamray()
{
	local cur prev command='' word
	cur=${COMP_WORDS[COMP_CWORD]}
	prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()

	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		if [[ $word != -* ]]; then
			command=$word
			break
		fi
	done

	case $prev in
	-p | --pid)
		mapfile -t COMPREPLY < <(compgen -W "$(_beamray_pids)" -- "$cur")
		return
		;;
	-o | --output | --diff)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--unit)
		mapfile -t COMPREPLY < <(compgen -W "B KiB MiB GiB auto" -- "$cur")
		return
		;;
	-f | --format)
		mapfile -t COMPREPLY < <(compgen -W "text html json folded svg pprof speedscope" -- "$cur")
		return
		;;
	--kind)
		mapfile -t COMPREPLY < <(compgen -W "growth cpu offcpu carrier gc gc_time native" -- "$cur")
		return
		;;
	-d | --duration | -i | --interval | -c | --count | -n | --rows | --sort | --window | --budget | --threshold | --gate | --process | --library)
		return
		;;
	esac

	local options='-h --help -V --version'
	case $command in
	'') options="doctor memory record report diff list check $options" ;;
	memory) options="-p --pid --json -i --interval -c --count --unit --quick -o --output -v --verbose -h --help" ;;
	doctor) options="-p --pid -d --duration --json --no-uprobes --native --scan --no-scan --still --threshold --gate --budget --unit -o --output -v --verbose -h --help" ;;
	record) options="-p --pid -o --output -d --duration -i --interval --growth --cpu --no-cpu -F --frequency --carriers --no-carriers --gc --long-gc --large-heap --offcpu --offcpu-min --native --no-uprobes --budget -v --verbose -h --help" ;;
	report)
		options="-f --format --json --kind --process --library --invert --diff --unit -o --output -v --verbose -h --help"
		[[ $cur == -* ]] || compopt -o default
		;;
	diff)
		options="-f --format --json --kind --process --library --invert --unit -o --output -v --verbose -h --help"
		[[ $cur == -* ]] || compopt -o default
		;;
	list)
		options="processes stacks ets allocators carriers pins binaries resources nifs ports schedulers memory atoms modules literals persistent_terms native lost -p --pid --json -n --rows --sort --window --process --unit -o --output -h --help" ;;
	check) options="-p --pid --json -o --output -v --verbose -h --help" ;;
	*) return ;;
	esac
	# report and diff take files: those are completed where no option fits
	[[ $command == @(report|diff) && $cur != -* ]] && return
	mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
} &&
	complete -F _beamray beamray
