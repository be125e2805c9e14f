#!/bin/bash
# guard.sh COMMAND..: runs a command (the tests), then stops the test beds that it started, however it ended,
# unless another run of the tests uses them.
# The tests start the beds themselves, and stop them too unless they are killed.
here=$(cd "$(dirname "$0")" && pwd)
up() { "$here/$1/up.sh" check 2> /dev/null; }
mine=()
for bed in slurm sge; do up $bed || mine+=($bed); done
stop_beds() {
    [ "$(id -u)" = 0 ] || return 0
    for bed in "${mine[@]}"; do # also what is up by half
        flock --nonblock --close "/run/lock/hpclaunch-$bed-users.lock" "$here/$bed/down.sh" || echo "$bed is in use"
    done
}
trap stop_beds EXIT
env --default-signal=INT "$@" & # in the background, so that signals are seen at once; there INT would be ignored
child=$!
trap : INT                       # from a terminal the command has it too
trap 'kill -INT $child' TERM HUP # so that the command can clean up behind itself
while :; do
    wait $child
    code=$?
    kill -0 $child 2> /dev/null || break
done
exit $code
