#!/usr/bin/env bash
# A SLURM of one node, for tests: its daemons use ports, keys and folders of their own and touch no other SLURM.
#
#   setup_slurm.sh install        install the Debian packages if they are missing (root only); nothing is started
#   setup_slurm.sh start FOLDER   start it; everything it writes is in FOLDER; nothing if it runs there already
#   setup_slurm.sh stop FOLDER    stop what was started there
#
# After `start`, commands such as sbatch use it with SLURM_CONF=FOLDER/slurm.conf. Without SLURM, `start` ends with 77.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

absent() {
    ! { command -v munged && command -v slurmctld && command -v slurmd && command -v sbatch; } >/dev/null
}

install_packages() {
    absent || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "SLURM is not installed, and only root on Debian or Ubuntu can install it: tests that need it skip" >&2
        return 0
    fi
    export DEBIAN_FRONTEND=noninteractive
    # A package starts its daemons where nothing forbids it; this is the way to forbid it.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=$policy
    fi
    local log status=0
    log=$(mktemp)
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends slurm-wlm munge; } >"$log" 2>&1 || status=$?
    [ -z "$made" ] || rm -f "$made"
    [ "$status" = 0 ] || { tail -n 3 "$log" >&2; echo "SLURM could not be installed: tests that need it skip" >&2; }
    rm -f "$log"
}

free_ports() {
    python3 - <<'PYTHON'
import socket
sockets = [socket.socket() for _ in range(2)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PYTHON
}

configure() {
    local folder=$1 controller_port node_port memory host
    read -r controller_port node_port < <(free_ports)
    memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    host=$(hostname -s)
    mkdir -p "$folder/state" "$folder/spool"
    dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
    chmod 600 "$folder/munge.key"
    cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
MaxNodeCount=1
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

alive() {
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

start() {
    local folder=$1
    absent && { echo "SLURM is not installed" >&2; return 77; }
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd -P)
    alive "$folder/slurmctld.pid" && alive "$folder/slurmd.pid" && return 0
    stop "$folder"
    configure "$folder"
    # --force: that the folder lies below one others may write to is no danger in a test.
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>"$folder/start.log"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -c 2>>"$folder/start.log"
    slurmd -c 2>>"$folder/start.log"
    local attempt
    for attempt in $(seq 100); do
        case $(sinfo --noheader --format=%T 2>/dev/null) in
            idle | mixed | allocated) return 0 ;;
        esac
        sleep 0.2
    done
    echo "SLURM did not start; its logs are in $folder" >&2
    tail -n 3 "$folder"/*.log >&2
    stop "$folder"
    return 1
}

stop() {
    local folder=$1 name attempt
    [ -d "$folder" ] || return 0
    if alive "$folder/slurmctld.pid"; then
        SLURM_CONF=$folder/slurm.conf scancel --user="$(id -un)" --quiet 2>/dev/null || true
    fi
    for name in slurmd slurmctld munged; do # by the ids they wrote down themselves
        alive "$folder/$name.pid" || continue
        kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
        for attempt in $(seq 50); do
            alive "$folder/$name.pid" || break
            sleep 0.1
        done
    done
}

case ${1:-} in
    install) install_packages ;;
    start) start "${2:?a folder}" ;;
    stop) stop "${2:?a folder}" ;;
    *)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
