#!/bin/bash
# Stops what up.sh started, by its process ids, takes back what it wrote in /etc, and ends what its user left running.
# ./down.sh NODE.. cuts only those nodes' power.
set -uo pipefail
HPCUSER=${HPCUSER:-hpcslurm} BASE=/var/lib/slurm-cluster RUN=/run/slurm-cluster
MARK="# hpclaunch's test bed wrote this file"
BED=slurm/down.sh
. "$(dirname "$0")/../common.sh"
only_one "$@"
stop() { # NAME WORD SIGNAL: only if the process in NAME.pid is still the one up.sh started
    local pid; pid=$(cat "$RUN/$1.pid" 2> /dev/null) || return 0
    alive() { { tr '\0' ' ' < "/proc/$pid/cmdline"; } 2> /dev/null | grep -q -- "$1"; } # a zombie has none
    alive "$2" && kill "-$3" "$pid" && kill -CONT "$pid" 2> /dev/null # a test that was killed may have frozen it
    for _ in {1..400}; do alive "$2" || break; sleep .05; done
    if alive "$2"; then echo "$BED: $1 ($pid) does not stop" >&2; else rm -f "$RUN/$1.pid"; fi
}
nodes=("$@")
if [ $# = 0 ]; then
    stop slurmctld slurmctld TERM # first, so that jobs are not seen to fail
    for f in "$RUN"/node*.pid; do [ ! -e "$f" ] || nodes+=("$(basename "$f" .pid)"); done
fi
for n in "${nodes[@]}"; do
    stop "$n" "slurm-init-$n" KILL # with its whole process namespace
    find /sys/fs/cgroup/*/"slurm_$n" -depth -type d -exec rmdir {} + 2> /dev/null
done
[ $# = 0 ] || exit 0
! id "$HPCUSER" > /dev/null 2>&1 || pkill -KILL -u "$HPCUSER" # programs of a run that was killed
stop slurmdbd slurmdbd TERM
stop mariadbd slurm-cluster/mysql TERM
stop munged munged TERM
for f in /etc/slurm/{slurm,slurmdbd,cgroup}.conf; do
    ! grep -qsF "$MARK" "$f" || rm -f "$f"
done
if grep -q '# slurm-cluster$' /etc/hosts; then # in place: containers mount this file
    grep -v '# slurm-cluster$' /etc/hosts > "$RUN/hosts"
    cat "$RUN/hosts" > /etc/hosts
fi
exit 0
