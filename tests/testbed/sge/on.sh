#!/bin/bash
# on.sh HOST [-u USER] COMMAND...: runs a command on a host of the cluster that up.sh started.
# It keeps the working directory and the environment (with -u, HOME and USER are the user's).
pid=$(cat "/var/lib/sge-cluster/pid/$1" 2> /dev/null)
grep -q "sge-host-$1" "/proc/$pid/cmdline" 2> /dev/null || { echo "on.sh: host $1 is not up" >&2; exit 1; }
shift
user=()
if [ "$1" = -u ]; then
    user=(setpriv --reuid "$2" --regid "$(id -g "$2")" --init-groups env HOME="$(getent passwd "$2" | cut -d: -f6)" USER="$2" LOGNAME="$2")
    shift 2
fi
exec nsenter --target "$pid" --net --uts --ipc --pid --mount --wd=. "${user[@]}" "$@"
