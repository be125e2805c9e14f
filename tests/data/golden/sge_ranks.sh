#!/usr/bin/env bash
# 8 ranks as one job of Grid Engine. Submit it with qsub, from where its script lies.
#$ -N script
#$ -S /bin/bash
#$ -cwd
#$ -j y
#$ -o script.$JOB_ID.log
#$ -r n
#$ -notify
#$ -pe ib 8
#$ -l h_rt=01:00:00

# A signal that the job is to end goes on to the ranks, whose end is then waited for.
ranks= before=
forward() { # a signal may come when the ranks are there and their name is not
    local all="${ranks:-${!:-}}"
    if [ "$all" != "$before" ]; then kill -"$1" "$all" 2> /dev/null; else exit "$2"; fi
}
trap 'forward TERM 143' TERM
trap 'forward INT 130' INT
trap 'forward USR1 138' USR1
trap 'forward USR2 140' USR2

# Libraries that start threads of their own get the cores of one rank, unless you said otherwise.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
export NUMEXPR_NUM_THREADS="${NUMEXPR_NUM_THREADS:-1}"
export BLIS_NUM_THREADS="${BLIS_NUM_THREADS:-1}"
export VECLIB_MAXIMUM_THREADS="${VECLIB_MAXIMUM_THREADS:-1}"
# Limits such as h_vmem count address space, of which glibc takes 64 MB for the arena of each thread.
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}"

# --- job-script-prologue: a line that fails ends the job. What fails inside a sourced file is that file's business.
failed() {
    [ -z "${BASH_SOURCE[2]:-}" ] || return 0
    echo "hpclaunch: job-script-prologue: exit code $1 from: $2" >&2
    exit "$1"
}
trap 'failed "$?" "$BASH_COMMAND"' ERR
module load openmpi
trap - ERR

before="${!:-}"
mpirun -np $NSLOTS /opt/python script.py -x 'a b' &
ranks=$!
code=0
wait "$ranks" || code=$?
while kill -0 "$ranks" 2> /dev/null; do # a signal ends `wait`, not the ranks
    code=0
    wait "$ranks" || code=$?
done
before="$ranks"
exit "$code"
