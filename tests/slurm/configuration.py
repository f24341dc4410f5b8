"""The files that describe one local Slurm: settings in, configuration text out; and its ports.

Why each value: the facts behind them were measured on Slurm 22.05.8. A gres.conf line with
`Count=` and no `File=` makes nodes INVAL; `cred_expire` is what a requeued job waits for
(121 s by default); the default SlurmdTimeout notices a dead slurmd after five minutes.
"""

from __future__ import annotations

import json
import random
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TRACKERS = ("linuxproc", "cgroup")
PREEMPT_MODES = ("REQUEUE", "CANCEL")
KILL_WAIT_SEC = 16
GRACE_SEC = 20
GPUS_PER_NODE = 2
CPUS_PER_NODE = 16
MAX_ARRAY_SIZE = 51
# Name -> what differs from the settings' defaults: which signal preemption sends, what becomes of
# the preempted job, and whether jobs are requeued that do not ask for it.
PROFILES: dict[str, dict[str, Any]] = {
    f"{tracker}-{word}-{mode.lower()}-jobrequeue{requeue}": {
        "tracker": tracker,
        "send_user_signal": word == "usr2",
        "preempt_mode": mode,
        "job_requeue": requeue,
    }
    for tracker in TRACKERS
    for word in ("term", "usr2")
    for mode in PREEMPT_MODES
    for requeue in (1, 0)
}
PROFILES |= {tracker: {"tracker": tracker} for tracker in TRACKERS}
# A unix socket's path holds 107 characters; slurmstepd's is spool/node1/node1_<job>.<step>.
LONGEST_FOLDER = 60


@dataclass(frozen=True)
class Settings:
    """One local Slurm. Every path below follows from its folder.

    send_user_signal: at preemption the steps get the job's own `--signal` rather than TERM.
    preempt_mode: of the partitions that are preempted.
    job_requeue: whether jobs that do not say are requeued (by preemption, node failure, hand).
    credential_sec: what a requeued job waits for; Slurm's own default is 120.
    """

    folder: Path
    tracker: str = "linuxproc"
    accounting: bool = False
    num_nodes: int = 4
    first_port: int = 0
    first_job: int = 1
    send_user_signal: bool = False
    preempt_mode: str = "REQUEUE"
    job_requeue: int = 1
    credential_sec: int = 5

    def __post_init__(self) -> None:
        if self.preempt_mode not in PREEMPT_MODES:
            known = ", ".join(PREEMPT_MODES)
            raise ValueError(f"preempt_mode={self.preempt_mode!r}: one of {known}")
        if self.job_requeue not in (0, 1):
            raise ValueError(f"job_requeue={self.job_requeue!r}: 0 or 1")
        if self.tracker not in TRACKERS:
            raise ValueError(f"tracker={self.tracker!r}: one of {', '.join(TRACKERS)}")
        if not 1 <= self.num_nodes <= 16:
            raise ValueError(f"nodes={self.num_nodes}: 1 to 16")
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise ValueError(
                f"folder {self.folder} has {len(str(self.folder))} characters, at most "
                f"{LONGEST_FOLDER} leave room for its sockets: choose a shorter one"
            )

    @property
    def node_names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.num_nodes + 1)]

    @property
    def num_ports(self) -> int:
        return self.num_nodes + 2

    @property
    def slurmdbd_port(self) -> int:
        return self.first_port + 1

    def node_port(self, name: str) -> int:
        return self.first_port + 2 + self.node_names.index(name)

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    @property
    def slurm_conf(self) -> Path:
        return self.path("etc", "slurm.conf")

    @property
    def munge_socket(self) -> Path:
        return self.path("munge", "socket")

    @property
    def database_socket(self) -> Path:
        return self.path("database.socket")

    @property
    def freezer(self) -> Path:
        return self.path("cgroup", "freezer")

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"folder": str(self.folder)}, indent=1)

    @staticmethod
    def from_json(text: str) -> Settings:
        values = json.loads(text)
        return Settings(**(values | {"folder": Path(values["folder"])}))


def find_ports(count: int) -> int:
    """First of `count` neighbouring free ports below the range the kernel gives to clients."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    low = max(12000, int(text.split()[0]))
    choices = random.SystemRandom()
    for _ in range(200):
        first = choices.randrange(10000, low - count)
        if all(_is_free(first + offset) for offset in range(count)):
            return first
    raise OSError(f"no {count} neighbouring free ports between 10000 and {low}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def slurm_conf_text(settings: Settings) -> str:
    """slurm.conf of these settings."""
    s, host = settings, socket.gethostname()
    lines = [
        f"ClusterName=egovl{s.first_port}",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={s.first_port}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={s.munge_socket},cred_expire={s.credential_sec}",
        f"StateSaveLocation={s.path('state')}",
        f"SlurmdSpoolDir={s.path('spool')}/%n",
        f"SlurmctldPidFile={s.path('run')}/slurmctld.pid",
        f"SlurmdPidFile={s.path('run')}/%n.pid",
        f"SlurmctldLogFile={s.path('log')}/slurmctld.log",
        f"SlurmdLogFile={s.path('log')}/%n.log",
        f"ProctrackType=proctrack/{s.tracker}",
        "TaskPlugin=task/none",
        "SwitchType=switch/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "ReturnToService=2",
        f"JobRequeue={s.job_requeue}",
        f"FirstJobId={s.first_job}",
        f"MaxArraySize={MAX_ARRAY_SIZE}",
        f"KillWait={KILL_WAIT_SEC}",
        "SlurmdTimeout=10",
        "PreemptType=preempt/partition_prio",
        f"PreemptMode={s.preempt_mode}",
        "SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0",
        "JobAcctGatherType=jobacct_gather/none",
        "JobCompType=jobcomp/none",
        "GresTypes=gpu",
        "SlurmdParameters=config_overrides",
    ]
    if s.send_user_signal:  # since 23.02: PreemptParameters=send_user_signal
        lines.append("SlurmctldParameters=preempt_send_user_signal")
    if s.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={s.slurmdbd_port}",
            # With a munge of our own, the "password" names its socket.
            f"AccountingStoragePass={s.munge_socket}",
        ]
    else:
        lines.append("AccountingStorageType=accounting_storage/none")
    for name in s.node_names:
        lines.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={s.node_port(name)} "
            f"CPUs={CPUS_PER_NODE} RealMemory=256000 Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
        )
    everywhere = "Nodes=ALL MaxTime=INFINITE State=UP"
    lines += [
        f"PartitionName=a100 {everywhere} Default=YES PriorityTier=1 "
        f"PreemptMode={s.preempt_mode} GraceTime={GRACE_SEC}",
        f"PartitionName=nograce {everywhere} PriorityTier=1 PreemptMode={s.preempt_mode} "
        "GraceTime=0",
        f"PartitionName=urgent {everywhere} PriorityTier=100 PreemptMode=OFF",
    ]
    return "\n".join(lines) + "\n"


def gres_conf_text(settings: Settings) -> str:
    """gres.conf: the fake GPUs' device files."""
    return f"AutoDetect=off\nName=gpu File={settings.path('dev')}/nvidia[0-{GPUS_PER_NODE - 1}]\n"


def cgroup_conf_text(settings: Settings) -> str:
    """cgroup.conf: the v1 freezer at a mount of our own, nothing constrained."""
    return (
        "CgroupPlugin=cgroup/v1\n"
        f"CgroupMountpoint={settings.path('cgroup')}\n"
        "CgroupAutomount=no\n"
        "ConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"
    )


def slurmdbd_conf_text(settings: Settings) -> str:
    """slurmdbd.conf; the database's socket comes through MYSQL_UNIX_PORT."""
    s = settings
    return "\n".join(
        [
            "AuthType=auth/munge",
            f"AuthInfo=socket={s.munge_socket}",
            "DbdHost=localhost",
            "DbdAddr=127.0.0.1",
            f"DbdPort={s.slurmdbd_port}",
            "SlurmUser=root",
            f"LogFile={s.path('log')}/slurmdbd.log",
            f"PidFile={s.path('run')}/slurmdbd.pid",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",
            "StorageUser=root",
            "StorageLoc=slurm_acct_db",
            "",
        ]
    )
