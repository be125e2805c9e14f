#!/usr/bin/env bash
# A job of cluster demo-0a1b2c3d, for Grid Engine. The count of jobs (-t) stands on the command line.
#$ -N hpclaunch-worker
#$ -S /bin/bash
#$ -cwd
#$ -j y
#$ -o "/home/user/my logs"/$JOB_ID.$TASK_ID.log
#$ -notify
#$ -q all.q
#$ -P physics
#$ -pe smp 8
#$ -l h_vmem=2929688K
#$ -ac HPCLAUNCH_CLUSTER=demo-0a1b2c3d
#$ -l h_rt=48:00:00,disk=1G

HPCLAUNCH_ENDS=$(($(date +%s) + 172800))
HPCLAUNCH_JOB="$JOB_ID.$SGE_TASK_ID"
export HPCLAUNCH_JOB # tasks may want to know
hpclaunch_tickets=/home/user/.hpclaunch/run/demo-0a1b2c3d/jobs
if ! (umask 077; echo "$(date +%s) $(uname -n) $$" > "$hpclaunch_tickets/$HPCLAUNCH_JOB.start"); then
    echo "hpclaunch: $(uname -n) can't write to $hpclaunch_tickets: nodes must share the cluster's directory" >&2
    echo "hpclaunch: set shared-temp-directory to a directory of yours that all nodes can write to" >&2
    exit 73
fi

# However this script ends, its exit code is written where the head finds it.
hpclaunch_end() {
    local code=$?
    trap - EXIT
    if [ -n "${hpclaunch_line:-}" ]; then
        hpclaunch_left "$code"
        code=$((code ? code : 1)) # it never came to the workers
    fi
    (umask 077; echo "$code" > "$hpclaunch_tickets/$HPCLAUNCH_JOB.exit") 2> /dev/null
    exit "$code"
}
trap hpclaunch_end EXIT

# A signal for the job goes on to its program, whose end is then waited for. USR1 and USR2 announce the job's end.
hpclaunch_program= hpclaunch_before=
hpclaunch_forward() { # a signal may come when the program is there and its name is not
    local program="${hpclaunch_program:-${!:-}}"
    if [ "$program" != "$hpclaunch_before" ]; then kill -"$1" "$program" 2> /dev/null; else hpclaunch_told=yes; exit "$2"; fi
}
trap 'hpclaunch_forward TERM 143' TERM
trap 'hpclaunch_forward INT 130' INT
trap 'hpclaunch_forward USR1 138' USR1
trap 'hpclaunch_forward USR2 140' USR2

# Libraries that start threads of their own get the cores of one task, unless you said otherwise.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
export NUMEXPR_NUM_THREADS="${NUMEXPR_NUM_THREADS:-1}"
export BLIS_NUM_THREADS="${BLIS_NUM_THREADS:-1}"
export VECLIB_MAXIMUM_THREADS="${VECLIB_MAXIMUM_THREADS:-1}"
# Limits such as h_vmem count address space, of which glibc takes 64 MB for the arena of each thread.
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}"

# --- job-script-prologue: a line that fails ends the job. What fails inside a sourced file is that file's business.
hpclaunch_script="$0" hpclaunch_line= hpclaunch_told= hpclaunch_inner= hpclaunch_eval=
case "$0" in /*) ;; *) hpclaunch_script="$PWD/$0" ;; esac
hpclaunch_tell() { # what is to be said of the line
    local text=
    { mapfile -t -s "$((hpclaunch_line - 1))" -n 1 text < "$hpclaunch_script"; } 2> /dev/null
    text="${text[0]:-line $hpclaunch_line}"
    echo "hpclaunch: job-script-prologue: $1 from: ${text#"${text%%[![:space:]]*}"}" >&2
}
hpclaunch_at() { # line and command that is about to run; those of a text given to eval have numbers of their own
    local text=
    if [ "$1" -le 1 ]; then return 0; fi
    if [ -n "$hpclaunch_eval" ]; then
        { mapfile -t -s "$(($1 - 1))" -n 1 text < "$hpclaunch_script"; } 2> /dev/null
        case "${text[0]:-}" in *"${2%%[[:space:]]*}"*) ;; *) return 0 ;; esac
    fi
    hpclaunch_eval= hpclaunch_line="$1"
    case "$2" in "eval "*) hpclaunch_eval=yes ;; esac
}
hpclaunch_failed() { # exit code and command; from main, a line has failed, else a command of a file that it sources
    if [ "${FUNCNAME[1]}" != main ]; then hpclaunch_inner="$hpclaunch_line $2"; return 0; fi
    case "$2" in
        "source "* | ". "*) if hpclaunch_is_read "$1" "$2"; then return 0; fi ;;
        "eval "*) ;; # the whole of it has failed
        *) if [ -n "$hpclaunch_eval" ]; then return 0; fi ;;
    esac
    case "$1 $2" in "127 module "* | "127 ml "* | "127 conda "* | "127 mamba "*)
        echo "hpclaunch: this job's shell does not have ${2%% *}: source what defines it first, such as" \
            "/etc/profile.d/modules.sh or etc/profile.d/conda.sh, or write shebang: '#!/bin/bash -l'" >&2 ;;
    esac
    hpclaunch_tell "exit code $1"
    hpclaunch_told=yes
    exit "$1"
}
hpclaunch_is_read() { # whether a file was sourced to its end, and its last status is all there is to say
    local code="$1" directory
    case "$-" in *e*) return 1 ;; esac
    eval "set -- ${2#* }" 2> /dev/null || return 1
    if [ "${1#*/}" = "$1" ]; then
        while IFS= read -r -d : directory; do
            if [ -r "$directory/$1" ]; then set -- "$directory/$1" "${@:2}"; break; fi
        done <<< "$PATH:"
    fi
    if [ ! -r "$1" ]; then return 1; fi
    # With arguments it activates something, as `source activate NAME` does: the failure of its last command counts.
    if [ "$#" -gt 1 ] && [ "${hpclaunch_inner%% *}" = "$hpclaunch_line" ]; then return 1; fi
    hpclaunch_tell "note: exit code $code, which a last line that is not true gives too; the job goes on;"
}
hpclaunch_left() { # exit code; the script ends within the prologue, by exit, an unset variable or set -e
    if [ -n "$hpclaunch_line" ] && [ -z "$hpclaunch_told" ]; then hpclaunch_tell "the job ends with exit code $1"; fi
}
trap 'hpclaunch_at "$LINENO" "$BASH_COMMAND"' DEBUG
trap 'hpclaunch_failed "$?" "$BASH_COMMAND"' ERR
module load anaconda
source activate work
trap - ERR DEBUG
hpclaunch_line=
set +eu +o pipefail # the prologue's own, and not for what follows

hpclaunch_before="${!:-}"
/opt/python/bin/python -P -m hpclaunch.worker --directory /home/user/.hpclaunch/run/demo-0a1b2c3d --job "$HPCLAUNCH_JOB" --ends "${HPCLAUNCH_ENDS:-0}" --processes 4 --threads 2 --memory 24000000000 --death-timeout 60 --interface ib0 &
hpclaunch_program=$!
hpclaunch_code=0
wait "$hpclaunch_program" || hpclaunch_code=$?
while kill -0 "$hpclaunch_program" 2> /dev/null; do # a signal ends `wait`, not the program
    hpclaunch_code=0
    wait "$hpclaunch_program" || hpclaunch_code=$?
done
hpclaunch_before="$hpclaunch_program"

# --- job-script-epilogue
rm -rf $TMPDIR/big
exit "$hpclaunch_code"
