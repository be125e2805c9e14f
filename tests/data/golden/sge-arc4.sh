#!/usr/bin/env bash
# A job of cluster demo-0a1b2c3d, for Grid Engine. The count of jobs (-t) stands on the command line.
#$ -N dask-worker
#$ -S /bin/bash
#$ -cwd
#$ -j y
#$ -o /home/user/.hpclaunch/run/demo-0a1b2c3d/logs/$JOB_ID.$TASK_ID.log
#$ -r n
#$ -notify
#$ -l h_rt=01:00:00
#$ -l h_vmem=24G
#$ -ac HPCLAUNCH_CLUSTER=demo-0a1b2c3d
#$ -V
#$ -pe smp 1
#$ -l disk=24G

HPCLAUNCH_ENDS=$(($(date +%s) + 3600))
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

hpclaunch_before="${!:-}"
/opt/python/bin/python -P -m hpclaunch.worker --directory /home/user/.hpclaunch/run/demo-0a1b2c3d --job "$HPCLAUNCH_JOB" --ends "${HPCLAUNCH_ENDS:-0}" --processes 1 --threads 1 --memory 24000000000 --death-timeout 60 --interface ib0 --local-directory "/scratch/user/dask-worker-space" &
hpclaunch_program=$!
hpclaunch_code=0
wait "$hpclaunch_program" || hpclaunch_code=$?
while kill -0 "$hpclaunch_program" 2> /dev/null; do # a signal ends `wait`, not the program
    hpclaunch_code=0
    wait "$hpclaunch_program" || hpclaunch_code=$?
done
hpclaunch_before="$hpclaunch_program"
exit "$hpclaunch_code"
