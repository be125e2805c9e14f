#!/usr/bin/env bash
# 4 ranks as one job of Slurm. Submit it with sbatch, from where its script lies.
#SBATCH --job-name=script
#SBATCH --output=script.%j.log
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=1
#SBATCH --time=0-01:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --no-requeue

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
srun /opt/python -P -m hpclaunch run script.py -x 'a b' &
hpclaunch_program=$!
hpclaunch_code=0
wait "$hpclaunch_program" || hpclaunch_code=$?
while kill -0 "$hpclaunch_program" 2> /dev/null; do # a signal ends `wait`, not the program
    hpclaunch_code=0
    wait "$hpclaunch_program" || hpclaunch_code=$?
done
hpclaunch_before="$hpclaunch_program"
exit "$hpclaunch_code"
