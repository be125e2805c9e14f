#!/bin/bash
# Stops what up.sh started: the hosts' inits, and with their PID namespaces all they run.
# "down.sh clean" also forgets the cluster's state, so that job numbers begin at 1 again.
# "down.sh sge2 .." cuts only those hosts' power.
set -uo pipefail
STATE=/var/lib/sge-cluster
BED=sge/down.sh
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/../common.sh"
only_one "$@"
on() { "$HERE/on.sh" "$@"; }
alive() { grep -q "sge-host-$1" "/proc/$2/cmdline" 2> /dev/null; }
power_off() { # NAME: only if the process in its pid file is still the one up.sh started
    local f=$STATE/pid/$1 pid
    pid=$(cat "$f" 2> /dev/null) || return 0
    if alive "$1" "$pid"; then
        kill -9 "$pid"
        for _ in {1..400}; do alive "$1" "$pid" || break; sleep .05; done # a zombie has no command line
    fi
    rm -f "$f"
}
case ${1:-} in
sge[0-9]*) for n in "$@"; do power_off "$n"; done; exit 0 ;;
"") on sgehead pkill -CONT -x sge_qmaster 2> /dev/null # a test that was killed may have frozen it
    on sgehead sh -c 'qconf -ke all; qconf -km' > /dev/null 2>&1 # an orderly end, about 8 s, in which
    for _ in {1..150}; do on sgehead pgrep -x sge_qmaster > /dev/null 2>&1 || break; sleep .1; done ;; # it writes its job number down
clean) ;;
*) die "what is \"$1\"? Say nothing, clean, or the names of hosts" ;;
esac
for f in "$STATE"/pid/*; do [ ! -e "$f" ] || power_off "${f##*/}"; done
[ "${1:-}" = clean ] && rm -rf "$STATE" /var/spool/gridengine/{spooldb,qmaster,execd}/* \
    /var/lib/gridengine/default/common/{accounting,act_qmaster}
exit 0
