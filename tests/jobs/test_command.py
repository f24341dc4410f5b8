from __future__ import annotations

from dataclasses import replace

from jobs.command import RankPlace, torchrun_command
from jobs.node import NodeFacts
from jobs.rendezvous import Rendezvous
from jobs.spec import JobSpec, Resources

SPEC = JobSpec(
    kind="pretrain",
    name="x",
    arguments=("train", "--config", "configs/a.yaml", "optim.lr=3e-5"),
    resources=Resources(nodes=4, gpus_per_node=8, processes_per_node=8),
    env=(("NCCL_DEBUG", "WARN"),),
)
MEETING = Rendezvous("10.0.0.1", 12345, "x-a2-r0", 0, "10.0.0.7")
PLACE = RankPlace("/runs/x", 2, "/dev/shm/s/stop.json", "/home/me/egovl", "/l/1.{local_rank}", "/l")


def test_torchrun_meets_at_the_published_place_and_runs_the_module() -> None:
    argv, _ = torchrun_command(SPEC, NodeFacts(index=1, count=4), MEETING, place=PLACE)
    assert argv == [
        *("python", "-m", "torch.distributed.run", "--nnodes=4", "--nproc-per-node=8"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=10.0.0.1:12345", "--rdzv-id=x-a2-r0"),
        *("--rdzv-conf=is_host=false", "--local-addr=10.0.0.7", "--max-restarts=0"),
        *("--log-dir=/dev/shm/s/torchrun", "--shutdown-timeout=30", "-m", "jobs.rank", "egovl"),
        *("train", "--config", "configs/a.yaml", "optim.lr=3e-5"),
    ]


def test_node_0_alone_is_the_host() -> None:
    argv, _ = torchrun_command(SPEC, NodeFacts(index=0, count=4), MEETING, place=PLACE)
    assert "--rdzv-conf=is_host=true" in argv


def test_older_torchrun_is_not_given_a_flag_that_it_does_not_know() -> None:
    argv, _ = torchrun_command(
        SPEC, NodeFacts(), MEETING, place=PLACE, knows_shutdown_timeout=False
    )
    assert not any("shutdown" in word for word in argv)


def test_ranks_learn_run_attempt_stop_file_and_home() -> None:
    _, env = torchrun_command(SPEC, NodeFacts(), MEETING, place=PLACE)
    assert env["EGOVL_RUN_DIR"] == "/runs/x"
    assert env["EGOVL_ATTEMPT"] == "2"
    assert env["EGOVL_STOP_FILE"] == "/dev/shm/s/stop.json"
    assert env["EGOVL_HOME"] == "/home/me/egovl"
    assert env["NCCL_DEBUG"] == "WARN"


def test_environment_of_the_spec_wins_over_our_defaults_but_not_over_the_contract() -> None:
    spec = replace(SPEC, env=(("OMP_NUM_THREADS", "4"), ("EGOVL_ATTEMPT", "99")))
    _, env = torchrun_command(spec, NodeFacts(), MEETING, place=PLACE)
    assert env["OMP_NUM_THREADS"] == "4"
    assert env["EGOVL_ATTEMPT"] == "2"
