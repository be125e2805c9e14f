#!/bin/bash
# Starts a real Slurm 22.05 cluster (Debian 12's packages) on this one machine, as root:
# slurmctld + slurmdbd + MariaDB, and NODES compute nodes "node1".., each a slurmd with its own
# host name, process table and port.  Everything listens on 127.0.0.1 only.
# May be run again at any time: it installs and starts only what is missing (so after
# "./down.sh node2" it powers node2 on again), and passes a changed slurm.conf on; only another
# NODES, CPUS, CGROUP or AccountingStorageEnforce wants a ./down.sh first.
#   ./up.sh && runuser -u hpcslurm -- sbatch --wrap hostname && ./down.sh
#   ./up.sh install    only installs packages
#   ./up.sh check      only says by its exit code whether the controller runs
set -euo pipefail
NODES=${NODES:-4} CPUS=${CPUS:-2} MEM=${MEM:-4000}  # nodes; CPUs and MB that each one declares
HPCUSER=${HPCUSER:-hpcslurm}                        # unprivileged user, made if it is missing
EXTRA=${EXTRA:-}                                    # more lines for slurm.conf
CGROUP=${CGROUP:-yes}                               # no: do not use cgroups even if they are there
BASE=/var/lib/slurm-cluster RUN=/run/slurm-cluster LOG=/var/log/slurm-cluster
MARK="# hpclaunch's test bed wrote this file"
CLEAN=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8)
BED=slurm/up.sh
. "$(dirname "$0")/../common.sh"
wait_for() { # COMMAND..: until it succeeds
    local end=$((SECONDS + 60))
    until "$@" > /dev/null 2>&1; do [ $SECONDS -lt $end ] || die "gave up on: $* (logs are in $LOG)"; sleep .1; done
}
alive() { # NAME WORD: the process in NAME.pid runs, and its command line has WORD
    { tr '\0' ' ' < "/proc/$(cat "$RUN/$1.pid")/cmdline"; } 2> /dev/null | grep -q -- "$2"
}
spawn() { # NAME COMMAND..: in the background, its process id in NAME.pid
    local name=$1; shift
    setsid "${CLEAN[@]}" "$@" < /dev/null >> "$LOG/$name.out" 2>&1 &
    echo $! > "$RUN/$name.pid"
}
if [ "${1:-}" = check ]; then alive slurmctld slurmctld; exit; fi
only_one "$@"
conf=/etc/slurm/slurm.conf
[ ! -s $conf ] || grep -qF "$MARK" $conf || cmp -s $conf $RUN/slurm.conf \
    || die "$conf belongs to another Slurm: this machine is part of a real cluster, so no test bed is started on it"

install_packages slurmctld slurmd slurm-client slurmdbd mariadb-server-core mariadb-client-core munge procps util-linux python3 openmpi-bin
pmix=/usr/lib/x86_64-linux-gnu/pmix2/lib # libpmix2, which openmpi-bin needs: slurm looks for the -dev name
[ ! -e $pmix/libpmix.so.2 ] || [ -e $pmix/libpmix.so ] || ln -s libpmix.so.2 $pmix/libpmix.so
[ "${1:-}" != install ] || exit 0
make_user "$HPCUSER"

# --- directories, host names ---------------------------------------------------------------
install -d -o slurm -g slurm $BASE $BASE/ctld $RUN $LOG
install -d -m 1777 /scratch $(seq -f $BASE/scratch/node%g $NODES) # each node sees its own /scratch
{   grep -v '# slurm-cluster$' /etc/hosts || true
    echo "127.0.0.1 $(hostname) slurmhead" $(seq -f node%g $NODES) "# slurm-cluster"; } > $RUN/hosts
cmp -s $RUN/hosts /etc/hosts || cat $RUN/hosts > /etc/hosts

# --- configuration -------------------------------------------------------------------------
install -d /etc/slurm
if [ -w /sys/fs/cgroup/memory/cgroup.procs ] && [ "$CGROUP" = yes ]; then # cgroup v1
    track=$'ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup'
    printf '%s\n' "$MARK" CgroupPlugin=cgroup/v1 ConstrainRAMSpace=yes > /etc/slurm/cgroup.conf
else # then a job over its memory is FAILED rather than OUT_OF_MEMORY, and its daemons may outlive it
    track=$'ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherParams=OverMemoryKill'
    rm -f /etc/slurm/cgroup.conf
fi
cat > $RUN/slurm.conf <<CONF
$MARK
ClusterName=workshop
SlurmctldHost=slurmhead
SlurmUser=slurm
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$BASE/ctld
SlurmdSpoolDir=$BASE/%n
SlurmctldPidFile=$RUN/slurmctld.own.pid
SlurmdPidFile=$RUN/slurmd-%n.own.pid
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/%n.log

$track
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
AuthInfo=cred_expire=10
KillWait=5
SlurmdTimeout=5
MessageTimeout=5
ReturnToService=2

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=slurmhead
AccountingStorageEnforce=limits,qos
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1

TmpFS=/scratch
SlurmdParameters=config_overrides
NodeName=node[1-$NODES] NodeAddr=127.0.0.1 Port=[6821-$((6820 + NODES))] CPUs=$CPUS RealMemory=$MEM
PartitionName=debug Nodes=ALL Default=YES MaxTime=01:00:00 DefaultTime=00:10:00
PartitionName=short Nodes=ALL MaxTime=00:05:00
$EXTRA
CONF
changed=; cmp -s $RUN/slurm.conf $conf || { changed=1; cp $RUN/slurm.conf $conf; }
install -o slurm -g slurm -m 600 /dev/stdin /etc/slurm/slurmdbd.conf <<CONF
$MARK
DbdHost=slurmhead
SlurmUser=slurm
CommunicationParameters=NoInAddrAny
PidFile=$RUN/slurmdbd.own.pid
LogFile=$LOG/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
CONF

# --- munged --------------------------------------------------------------------------------
if ! munge -n > /dev/null 2>&1; then
    install -d -o munge -g munge -m 755 /run/munge
    runuser -u munge -- "${CLEAN[@]}" /usr/sbin/munged --force < /dev/null > $LOG/munged.out 2>&1
    cp /run/munge/munged.pid $RUN/munged.pid
fi

# --- MariaDB (a socket, no port; the system user "slurm" is its root) and slurmdbd ------------
if ! [ -e $BASE/mysql/mysql ]; then
    install -d -o slurm -g slurm -m 700 $BASE/mysql
    mariadb-install-db --no-defaults --datadir=$BASE/mysql --user=slurm --skip-test-db \
        --auth-root-authentication-method=socket --auth-root-socket-user=slurm > $LOG/mariadb-install.out
fi
if ! alive mariadbd $BASE/mysql; then
    rm -f $RUN/mysql.sock
    spawn mariadbd mariadbd --no-defaults --datadir=$BASE/mysql --socket=$RUN/mysql.sock --skip-networking \
        --user=slurm --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=2
fi
wait_for test -S $RUN/mysql.sock
alive slurmdbd slurmdbd || spawn slurmdbd unshare --uts sh -c "hostname slurmhead
    MYSQL_UNIX_PORT=$RUN/mysql.sock exec slurmdbd -D"
wait_for sacctmgr -n show cluster
sacctmgr -n show user "$HPCUSER" | grep -q . || {
    sacctmgr -iQ add cluster workshop
    sacctmgr -iQ add account lab
    sacctmgr -iQ add user "$HPCUSER" account=lab
} > $LOG/sacctmgr.out 2>&1 || true

# --- slurmctld and the nodes ---------------------------------------------------------------
fresh=
if alive slurmctld slurmctld; then
    kill -CONT "$(cat $RUN/slurmctld.pid)" # a test that was killed may have frozen it
    [ -z "$changed" ] || scontrol reconfigure
else
    fresh=1
    rm -rf "/home/$HPCUSER"/{.hpclaunch,hpclaunch-tests} # of a run that was killed
    spawn slurmctld unshare --uts sh -c "hostname slurmhead; exec slurmctld -D"
fi
in_node() { local n=$1; shift; nsenter -t "$(cat $RUN/$n.pid)" --uts --pid --mount "${CLEAN[@]}" "$@"; }
for ((i = 1; i <= NODES; i++)); do
    n=node$i
    if ! alive $n slurm-init-$n; then # an idle init, which also reaps orphans; its end is a power cut
        rm -rf ${BASE:?}/$n
        spawn $n unshare --uts --pid --mount-proc --fork --kill-child \
            bash -c "hostname $n; mount --bind $BASE/scratch/$n /scratch; while :; do sleep 3600; done" slurm-init-$n
        wait_for pgrep -P "$(cat $RUN/$n.pid)"
        pgrep -P "$(cat $RUN/$n.pid)" > $RUN/$n.pid.new && mv $RUN/$n.pid.new $RUN/$n.pid
    fi
    in_node $n pgrep -x slurmd > /dev/null || in_node $n slurmd -N $n < /dev/null >> $LOG/$n.out 2>&1
done
all_up() { local t; t=$(sinfo -h -N -o %t) && ! grep -qE '\*|down|unk' <<< "$t"; }
wait_for all_up
no_jobs() { squeue -h -o %A | xargs -r scancel; [ -z "$(squeue -h)" ]; }
[ -z "$fresh" ] || wait_for no_jobs # a run that was killed may have left some
sinfo
