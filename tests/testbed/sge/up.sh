#!/bin/bash
# Starts a real Son of Grid Engine 8.1.9 cluster on this one machine, as root: the host
# "sgehead" (sge_qmaster) and NODES execution hosts "sge1".. (sge_execd), each in its own
# network, UTS, IPC, PID and mount namespace.  Nothing listens on the machine's own network.
# May be run again at any time: it installs, makes and starts only what is missing (so after
# "./down.sh sge2" it powers sge2 on again).
#   ./up.sh && ./on.sh sgehead -u hpcsge qsub -terse -b y hostname && ./down.sh
#   ./up.sh install    only installs packages
#   ./up.sh check      only says by its exit code whether qmaster runs
set -euo pipefail
NODES=${NODES:-4}                  # execution hosts
SLOTS=${SLOTS:-4}                  # slots (and 1 GiB of h_vmem a slot) on each of them
USERNAME=${USERNAME:-hpcsge}       # unprivileged user, made if it is missing
PRIVATE_TMP=${PRIVATE_TMP:-}       # 1: each execution host has a /tmp of its own, as on a real cluster
EXTRA_PACKAGES=${EXTRA_PACKAGES:-} # "openmpi-bin": an mpirun that starts its ranks by qrsh on its own
STATE=/var/lib/sge-cluster         # our own files: pid files, hosts, scratch directories
NET=10.77.0
SPOOL=/var/spool/gridengine
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default
COMMON=$SGE_ROOT/$SGE_CELL/common
HERE=$(cd "$(dirname "$0")" && pwd)
BED=sge/up.sh
. "$HERE/../common.sh"
on() { "$HERE/on.sh" "$@"; }
daemon() { on "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "/usr/sbin/$2"; } # jobs inherit execd's environment
nodes() { for ((i = 1; i <= NODES; i++)); do echo "sge$i"; done; }
if [ "${1:-}" = check ]; then on sgehead pgrep -x sge_qmaster > /dev/null 2>&1; exit; fi
only_one "$@"
[ ! -s $COMMON/act_qmaster ] || grep -qx sgehead $COMMON/act_qmaster \
    || die "$COMMON names another qmaster: this machine is part of a real cluster, so no test bed is started on it"

# msmtp-mta: bsd-mailx wants some MTA, and must not bring exim4
! command -v debconf-set-selections > /dev/null || dpkg -s gridengine-common > /dev/null 2>&1 \
    || debconf-set-selections <<< 'gridengine-common shared/gridengineconfig boolean false'
install_packages msmtp-mta netbase iproute2 procps util-linux gridengine-master gridengine-exec gridengine-client python3 openmpi-bin $EXTRA_PACKAGES
[ "${1:-}" != install ] || exit 0
make_user "$USERNAME"

# --- the hosts ----------------------------------------------------------------------------
mkdir -p "$STATE"/{pid,conf} /scratch
{   echo "127.0.0.1 localhost"
    echo "$NET.1 sgehead"
    for n in $(nodes); do echo "$NET.1${n#sge} $n"; done; } > "$STATE/hosts"

start_host() { # NAME: namespaces held by an idle init that also reaps orphans
    local name=$1 pid
    mkdir -p "$STATE/scratch/$name" && chmod 1777 "$STATE/scratch/$name"
    setsid env -i PATH="$PATH" unshare --net --uts --ipc --pid --mount --fork --kill-child --mount-proc \
        bash -c 'while :; do sleep 3600; done' "sge-host-$name" < /dev/null > /dev/null 2>&1 &
    for _ in {1..100}; do pid=$(pgrep -P $!) && break; sleep .02; done
    [ -n "$pid" ] || die "host $name could not be started: this machine does not allow new namespaces"
    echo "$pid" > "$STATE/pid/$name"
    on "$name" sh -c "hostname $name
        mount --bind $STATE/hosts /etc/hosts && mount --bind $STATE/scratch/$name /scratch
        mount -t tmpfs -o mode=1777 tmpfs /dev/shm
        [ -z '$PRIVATE_TMP' ] || [ $name = sgehead ] || mount -t tmpfs -o mode=1777 tmpfs /tmp
        ip link set lo up"
}
wire() { # NAME: a cable from the host to the bridge on the head
    on sgehead ip link del "v-$1" 2> /dev/null || true # that of an earlier life may linger
    ip link add "v-$1" netns "$(cat "$STATE/pid/sgehead")" type veth \
        peer name eth0 netns "$(cat "$STATE/pid/$1")"
    on sgehead ip link set "v-$1" master br0 up
    on "$1" sh -c "ip addr add $NET.1${1#sge}/24 dev eth0 && ip link set eth0 up"
}
fresh=
if ! on sgehead true 2> /dev/null; then
    fresh=1
    "$HERE/down.sh"                # the cables end at the head: without it, all start again
    rm -rf "/home/$USERNAME"/{.hpclaunch,hpclaunch-tests} # of a run that was killed
    start_host sgehead
    # an address of its own: else the bridge has that of a port, and changes it when a host loses power
    on sgehead sh -c "ip link add br0 address 02:00:0a:4d:00:01 type bridge && ip addr add $NET.1/24 dev br0 && ip link set br0 up"
fi
for n in $(nodes); do on "$n" true 2> /dev/null || { start_host "$n"; wire "$n"; }; done

# --- sge_qmaster --------------------------------------------------------------------------
echo sgehead > $COMMON/act_qmaster && chown sgeadmin: $COMMON/act_qmaster # qmaster rewrites it
install -d -o sgeadmin -g sgeadmin $SPOOL $SPOOL/spooldb $SPOOL/qmaster $SPOOL/qmaster/job_scripts $SPOOL/execd
[ -e $SPOOL/spooldb/sge ] || on sgehead -u sgeadmin /usr/share/gridengine/scripts/init_cluster \
    $SGE_ROOT $SGE_CELL $SPOOL/spooldb sgeadmin
on sgehead pkill -CONT -x sge_qmaster || daemon sgehead sge_qmaster # a test that was killed may have frozen it
for _ in {1..100}; do on sgehead qconf -sh > /dev/null 2>&1 && break; sleep .1; done
on sgehead qconf -sh > /dev/null || { tail $SPOOL/qmaster/messages /tmp/qmaster_messages* >&2; die "qmaster does not answer"; }

# --- configuration, once ------------------------------------------------------------------
set_conf() { # FILE KEY VALUE...: sets "KEY VALUE" in a file as qconf prints it
    local f=$1; shift
    while [ $# -gt 0 ]; do
        grep -q "^$1 " "$f" || echo "$1 x" >> "$f"
        sed -i -E "s|^$1 .*|$1 $2|" "$f"; shift 2
    done
}
configure() {
    export SGE_SINGLE_LINE=1
    q() { on sgehead qconf "$@"; }
    q -sconf global > global
    set_conf global load_report_time 00:00:05 max_unheard 00:00:30 gid_range 20000-20200 \
        reporting_params "accounting=true reporting=false flush_time=00:00:01 accounting_flush_time=00:00:00 joblog=false sharelog=00:00:00" \
        execd_params "PDC_INTERVAL=1 ENABLE_ADDGRP_KILL=true NOTIFY_KILL=default" mailer "$STATE/mailer"
    q -Mconf global
    q -ssconf > sched
    set_conf sched schedule_interval 0:0:1 flush_submit_sec 1 flush_finish_sec 1 schedd_job_info true \
        job_load_adjustments NONE load_adjustment_decay_time 0:0:0 queue_sort_method seqno
    q -Msconf sched
    # a consumable h_vmem needs a default: with 0, a job that asks for none gets a limit of 10 MiB
    q -sc | sed -E 's/^(h_vmem +h_vmem +MEMORY +<= +YES +)NO +0 /\1YES 1G /' > complex
    q -Mc complex
    q -as sgehead
    for n in $(nodes); do
        q -ah "$n"; q -as "$n"
        printf '%s\n' "hostname $n" 'load_scaling NONE' "complex_values slots=$SLOTS,h_vmem=${SLOTS}G" \
            'user_lists NONE' 'xuser_lists NONE' 'projects NONE' 'xprojects NONE' 'usage_scaling NONE' 'report_variables NONE' > "host-$n"
        q -Ae "host-$n"
    done
    printf '%s\n' 'group_name @allhosts' "hostlist $(nodes | xargs)" > hostgroup
    q -Ahgrp hostgroup
    pe() { # NAME RULE
        sed -E "s/^(pe_name +).*/\1$1/; s/^(allocation_rule +).*/\1$2/; s/^(accounting_summary +).*/\1TRUE/" \
            /usr/share/gridengine/util/resources/pe/mpi > "pe-$1"
        q -Ap "pe-$1"
    }
    pe smp '$pe_slots'; pe mpi '$round_robin'; pe ib '$fill_up'
    queue() { # NAME SEQ_NO H_RT
        q -sq > "queue-$1"
        set_conf "queue-$1" qname "$1" seq_no "$2" h_rt "$3" hostlist @allhosts slots "$SLOTS" \
            pe_list 'smp mpi ib' shell /bin/bash tmpdir /scratch load_thresholds NONE notify 00:00:05
        q -Aq "queue-$1"
    }
    queue all.q 0 INFINITY; queue short.q 10 0:5:0
}
printf '#!/bin/sh\n{ echo "To: $3 Subject: $2"; cat; echo; } >> %s/mail\n' "$STATE" > "$STATE/mailer"
touch "$STATE/mail"; chmod 755 "$STATE/mailer"; chmod 666 "$STATE/mail"
[ -e "$STATE/configured" ] || (cd "$STATE/conf"; configure > configure.out 2>&1 || { cat configure.out >&2; exit 1; }; touch "$STATE/configured")

# --- sge_execd on every node --------------------------------------------------------------
started=() # all at once: each takes a second to become a daemon
for n in $(nodes); do on "$n" pgrep -x sge_execd > /dev/null || { daemon "$n" sge_execd & started+=($!); }; done
[ ${#started[@]} = 0 ] || wait "${started[@]}"
states=none
for _ in {1..300}; do # until every queue instance has a load and no "u"nreachable state
    states=$(on sgehead qstat -f -q '*' 2> /dev/null | awk '/@/ && $6 ~ /u/' || echo none)
    [ -z "$states" ] && break; sleep .1
done
[ -z "$states" ] || die "these queues do not come up: $states"
if [ -n "$fresh" ]; then # a run that was killed may have left jobs in the spool
    on sgehead qdel -f -u '*' > /dev/null 2>&1 || true # "-f": those that ran when their hosts lost power, too
    for _ in {1..300}; do left=$(on sgehead qstat -u '*'); [ -z "$left" ] && break; sleep .1; done
    [ -z "$left" ] || die "these jobs of an earlier life do not go away: $left"
fi
on sgehead qhost
