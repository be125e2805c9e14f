# Sourced by the test beds' scripts: what both of them need.

LOCK=/run/lock/hpclaunch-testbed.lock
die() { echo "$BED: $*" >&2; exit 1; }

only_one() { # "$@" of the script: starts it again under the lock, so that nothing starts or stops a bed twice at once
    [ "$(id -u)" = 0 ] || die "must be root"
    local fd
    for fd in /proc/$$/fd/*; do # daemons must not keep what our caller has open, such as its own locks
        fd=${fd##*/}
        [ "$fd" -le 2 ] || [ "$fd" -ge 255 ] || eval "exec $fd>&-"
    done
    [ -z "${TESTBED_LOCKED:-}" ] || return 0
    TESTBED_LOCKED=1 exec flock --close "$LOCK" "$BASH" "$0" "$@" # --close: the daemons must not keep the lock
}

install_packages() { # PACKAGE..: from Debian, unless all are there; no daemon may start by being installed
    ! dpkg -s "$@" > /dev/null 2>&1 || return 0
    command -v apt-get > /dev/null || die "needs Debian packages ($*), and there is no apt-get"
    local policy=/usr/sbin/policy-rc.d
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; trap "rm -f $policy" EXIT; }
    export DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    "${apt[@]}" update < /dev/null
    "${apt[@]}" install -y --no-install-recommends "$@" < /dev/null > /dev/null || die "apt-get could not install $*"
}

make_user() { # NAME: an unprivileged user, unless it is there
    id "$1" > /dev/null 2>&1 || useradd --create-home --shell /bin/bash "$1"
}
