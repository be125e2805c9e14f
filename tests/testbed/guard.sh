#!/bin/bash
# guard.sh PYTEST..: runs the tests that need a real system, those of each system beside those of the others, and
# stops the test beds that they started, however they ended, unless another run of the tests uses them.
# The tests start the beds themselves, and stop them too unless they are killed.
marks=(slurm sge mpi)
here=$(cd "$(dirname "$0")" && pwd)
up() { "$here/$1/up.sh" check 2> /dev/null; }
mine=()
for bed in slurm sge; do up $bed || mine+=($bed); done
logs=$(mktemp -d)
finish() {
    rm -rf "$logs"
    [ "$(id -u)" = 0 ] || return 0
    for bed in "${mine[@]}"; do # also what is up by half
        flock --nonblock --close "/run/lock/hpclaunch-$bed-users.lock" "$here/$bed/down.sh" || echo "$bed is in use"
    done
}
trap finish EXIT
children=()
stopped=
trap stopped=130 INT # from a terminal the commands have it too
trap 'stopped=143; kill -INT "${children[@]}" 2> /dev/null' TERM HUP # so that they can clean up behind themselves
if [ "$(id -u)" = 0 ] && grep -qsx ID=debian /etc/os-release; then
    # before any test, whose time is limited; what goes wrong here goes wrong in the tests' fixtures too, and is told there
    for bed in slurm sge; do "$here/$bed/up.sh" install > /dev/null 2>&1; done
fi
[ -z "$stopped" ] || exit $stopped
for mark in "${marks[@]}"; do # in the background, so that signals are seen at once; there INT would be ignored
    env --default-signal=INT "$@" -v -o "cache_dir=.pytest_cache/$mark" -m "$mark" > "$logs/$mark" 2>&1 &
    children+=($!)
    tail --lines=+1 --follow --pid=$! "$logs/$mark" | sed --unbuffered "s/^/$mark: /" &
done
status=0
for child in "${children[@]}"; do
    while :; do
        wait "$child"
        code=$?
        kill -0 "$child" 2> /dev/null || break
    done
    [ $code = 0 ] || status=$code
done
wait # until all is shown
for mark in "${marks[@]}"; do
    echo "=== $mark"
    sed -n '/^=* slowest /,$p' "$logs/$mark" | grep . || tail "$logs/$mark"
done
exit $status
