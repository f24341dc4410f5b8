from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cluster import build_resources, load_cluster
from jobs.continuation import decide
from jobs.errors import ConfigError, SpecError
from jobs.health import WatchdogLimits, read_limits
from jobs.node import NodeFacts
from jobs.rank import HEARTBEAT_NAME, STACK_NAME, STACK_SIGNAL
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.spec import JobSpec, Resources
from jobs.stacks import Native, collect_stacks, flight_recorder, innermost_frame
from jobs.stop import Stop
from jobs.verdict import Verdict
from jobs.watchdog import Beat, RankWatch, Watchdog, read_beat

LIMITS = WatchdogLimits(step_min_sec=10, start_sec=100, save_sec=50, eval_sec=30, native_sec=0)


class Node:
    """A watchdog whose clock and ranks a test moves by hand."""

    def __init__(self, folder: Path, index: int = 0, count: int = 1) -> None:
        self.local = folder / f"local{index}"
        self.local.mkdir()
        self.attempt = RunFolder(folder / "run").attempt(1)
        self.now = 0.0
        node = NodeFacts(index=index, count=count, name=f"n{index}")
        self.watchdog = Watchdog(self.local, self.attempt, node, LIMITS, clock=lambda: self.now)

    def beat(self, rank: int, phase: str, count: int) -> None:
        (self.local / HEARTBEAT_NAME.format(rank=rank)).write_text(f"{phase} {count}\n")

    def pass_time(self, seconds: float, look_sec: float = 0.5) -> str | None:
        """Look twice a second for so long; the first trip."""
        for _ in range(round(seconds / look_sec)):
            self.now += look_sec
            if words := self.watchdog.look():
                return words
        return None

    def train(self, rank: int, steps: int, step_sec: float, first: int = 0) -> None:
        for step in range(first, first + steps):
            self.beat(rank, "step", step)
            assert self.pass_time(step_sec) is None


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_rank_that_stops_stepping_is_named_with_its_step_and_the_time(node: Node) -> None:
    node.train(3, 20, 1.0)
    words = node.pass_time(30)
    assert words is not None
    assert words == "on n0 rank 3 silent for 10 s in phase step after step 19 (limit 10 s)"
    assert node.now == pytest.approx(20 + 9.5, abs=1.1)


def test_slow_steps_have_eight_times_their_median(node: Node) -> None:
    node.train(0, 12, 5.0)
    assert node.pass_time(33) is None
    assert node.pass_time(4) is not None


def test_first_steps_have_the_time_of_the_start(node: Node) -> None:
    node.beat(0, "start", 0)
    assert node.pass_time(90) is None
    node.beat(0, "step", 100)  # of a resumed run: it compiles now
    assert node.pass_time(90) is None
    node.train(0, 5, 1.0, first=101)
    assert node.pass_time(15) is not None


def test_run_whose_very_first_step_was_seen_comes_out_of_its_start(node: Node) -> None:
    node.beat(0, "start", 0)
    assert node.pass_time(1) is None
    node.train(0, 6, 1.0, first=0)
    assert node.pass_time(15) is not None


@pytest.mark.parametrize(("phase", "limit"), [("save", 50), ("eval", 30), ("start", 100)])
def test_phases_have_their_own_limits(node: Node, phase: str, limit: int) -> None:
    node.train(0, 10, 0.5)
    node.beat(0, phase, 10)
    assert node.pass_time(limit) is None
    words = node.pass_time(2)
    assert words is not None
    assert f"in phase {phase}" in words


def test_rewritten_word_is_a_sign_of_life(node: Node) -> None:
    node.train(0, 10, 0.5)
    path = node.local / HEARTBEAT_NAME.format(rank=0)
    for number in range(10):
        node.beat(0, "step", 9)
        os.utime(path, ns=(number, number))
        assert node.pass_time(8) is None


def test_program_without_heartbeats_is_not_watched(node: Node) -> None:
    assert node.pass_time(10_000, look_sec=4) is None


def test_rank_that_has_left_does_not_hang(node: Node) -> None:
    node.train(0, 10, 0.5)
    write_json_atomic(node.attempt.exit_json(0), {"state": "done"})
    assert node.pass_time(60) is None


def test_time_in_which_the_agent_itself_was_suspended_does_not_count(node: Node) -> None:
    node.train(0, 10, 0.5)
    node.now += 3600
    assert node.watchdog.look() is None
    assert node.pass_time(10) is not None


def test_watchdog_can_be_switched_off(tmp_path: Path) -> None:
    node = Node(tmp_path)
    off = WatchdogLimits(is_on=False)
    watchdog = Watchdog(node.local, node.attempt, NodeFacts(), off, clock=lambda: node.now)
    node.beat(0, "step", 1)
    for _ in range(1000):
        node.now += 4
        assert watchdog.look() is None


def test_half_written_heartbeat_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    assert read_beat(path) is None
    for text in ("", "step", "step x\n"):
        path.write_text(text)
        assert read_beat(path) is None


def test_median_ignores_the_one_long_step() -> None:
    watch = RankWatch(Beat("step", 0, 0))
    for step in range(1, 40):
        watch.see(Beat("step", step, step), 600.0 if step == 7 else 2.0)
    assert watch.limit_sec(LIMITS) == 16.0


# ---- stacks

STUCK = """
    import ctypes, os, sys, time
    from jobs.rank import _write_stacks_when_asked
    from pathlib import Path
    _write_stacks_when_asked(Path(sys.argv[1]))
    empty, _ = os.pipe()
    def waits_as_a_loader():
        while True: time.sleep(100)
    if os.fork() == 0:
        waits_as_a_loader()
    def stuck_in_native_code():
        # holds the GIL: no Python code runs in this process any more
        ctypes.PyDLL(None).read(empty, ctypes.create_string_buffer(1), 1)
    print("ready", flush=True)
    stuck_in_native_code()
"""


@pytest.fixture
def stuck_rank(tmp_path: Path) -> Iterator[int]:
    """A process that waits in C with the GIL held, its stack file in `tmp_path`."""
    code = textwrap.dedent(STUCK)
    file = tmp_path / STACK_NAME.format(rank=4)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    yield process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_stack_of_a_rank_stuck_in_native_code_is_written(tmp_path: Path, stuck_rank: int) -> None:
    stacks = tmp_path / "stacks"
    frames = collect_stacks(tmp_path, stacks, {4: stuck_rank}, "rank 4 hangs", 0)
    assert frames[4].endswith(" stuck_in_native_code")
    text = (stacks / "4.txt").read_text()
    assert text.startswith(f"rank 4, process {stuck_rank}: rank 4 hangs")
    assert "in stuck_in_native_code" in text
    assert "State: S" in text
    assert "waits in" in text
    assert "which rank 4 forked:" in text
    assert "in waits_as_a_loader" in text
    assert Path(f"/proc/{stuck_rank}").exists()  # asked, not killed


@pytest.mark.skipif(Native.find(1).tool is None, reason="neither py-spy nor gdb here")
@pytest.mark.slow
def test_native_stack_names_the_c_function(tmp_path: Path, stuck_rank: int) -> None:
    collect_stacks(tmp_path, tmp_path / "stacks", {4: stuck_rank}, "", 60)
    native = (tmp_path / "stacks/4.txt").read_text().partition("== native")[2]
    assert "read" in native.partition("== Linux")[0]


def test_processes_that_do_not_listen_are_left_alone(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "100"])
    try:
        frames = collect_stacks(tmp_path, tmp_path / "stacks", {0: child.pid}, "", 0)
        assert frames == {0: ""}
        assert child.poll() is None  # the signal's default is death
        assert "no answer" in (tmp_path / "stacks/0.txt").read_text()
    finally:
        child.kill()
        child.wait()


def test_rank_that_is_gone_has_a_file_that_says_so(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    collect_stacks(tmp_path, tmp_path / "stacks", {0: child.pid}, "", 0)
    assert "is gone" in (tmp_path / "stacks/0.txt").read_text()


def test_innermost_frame_is_the_main_threads(tmp_path: Path) -> None:
    assert innermost_frame("") == ""
    release = threading.Event()
    helper = threading.Thread(target=release.wait, name="helper")
    helper.start()
    with (tmp_path / "dump").open("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text = file.read()
    release.set()
    helper.join()
    assert innermost_frame(text).endswith(" test_innermost_frame_is_the_main_threads")


def test_flight_recorder_is_asked_through_its_pipe_and_waited_for(tmp_path: Path) -> None:
    local, stacks = tmp_path / "local", tmp_path / "stacks"
    local.mkdir()
    names = flight_recorder(local, stacks)
    pipes = [f"{names['TORCH_NCCL_DEBUG_INFO_PIPE_FILE']}{rank}.pipe" for rank in (0, 1)]
    for pipe in pipes:
        os.mkfifo(pipe)  # nobody reads the second: it must not block
    handle = os.open(pipes[0], os.O_RDONLY | os.O_NONBLOCK)
    record = Path(f"{names['TORCH_FR_DUMP_TEMP_FILE']}0")

    def answer() -> None:
        """As torch's monitor thread does: look now and then, write a file named by the rank."""
        while not select.select([handle], [], [], 0.1)[0] or not os.read(handle, 128):
            time.sleep(0.1)
        time.sleep(0.5)
        record.write_bytes(b"collectives")

    monitor = threading.Thread(target=answer)
    child = subprocess.Popen(["sleep", "100"])
    monitor.start()
    try:
        collect_stacks(local, stacks, {0: child.pid, 1: child.pid}, "", 0)
        assert record.read_bytes() == b"collectives"
    finally:
        monitor.join()
        os.close(handle)
        child.kill()
        child.wait()


def test_signal_of_the_stacks_is_no_other_programs() -> None:
    """Slurm and torchrun use the classic signals, glibc the first three real-time ones."""
    assert 34 < STACK_SIGNAL < 64


# ---- the attempt's end


def test_ranks_may_be_killed_when_all_nodes_have_written_their_stacks(tmp_path: Path) -> None:
    first, second = Node(tmp_path, 0, 2), Node(tmp_path, 1, 2)
    assert not first.watchdog.may_kill()
    first.watchdog.collect({}, "why")
    assert not first.watchdog.may_kill()
    second.watchdog.collect({}, "why")
    assert first.watchdog.may_kill()
    assert second.watchdog.may_kill()


def test_stacks_are_collected_once(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.watchdog.collect({}, "first")
    marker = node.attempt.stacks / "node.0.json"
    before = read_json(marker)
    node.watchdog.collect({}, "second")
    assert read_json(marker) == before


def test_reason_names_the_rank_that_stands_alone_first(tmp_path: Path) -> None:
    nodes = [Node(tmp_path, index, 2) for index in (0, 1)]
    places = [{"0": "c10d.py:9 all_reduce", "1": "c10d.py:9 all_reduce"}]
    places.append({"2": "disk.py:3 read", "3": "c10d.py:9 all_reduce"})
    for node, ranks in zip(nodes, places, strict=True):
        index = nodes.index(node)
        write_json_atomic(node.attempt.stacks / f"node.{index}.json", {"ranks": ranks})
    stop = nodes[0].watchdog.explain(Stop("hang", None, "watchdog", "rank 0 is silent"))
    assert stop is not None
    assert "silent; rank 2 at disk.py:3 read; rank 0, 1, 3 at c10d.py:9" in stop.detail
    user = Stop("user")
    assert nodes[0].watchdog.explain(user) is user


def test_first_hang_is_followed_by_an_attempt_the_second_by_the_end(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    stop = Stop("hang", None, "watchdog", "rank 2 is silent")
    for number in (1, 2):
        run.claim_attempt(number, "t", number - 1)
    first = decide(run, 1, stop, Verdict("open"))
    assert (first.state, first.cause, first.goes_on) == ("queued", "hang", True)
    assert "rank 2 is silent" in first.reason
    write_json_atomic(run.attempt(1).outcome_json, {"state": "queued", "cause": "hang"})
    second = decide(run, 2, stop, Verdict("failed", "gloo lost its peer"))
    assert (second.state, second.cause, second.goes_on) == ("failed", "hang", False)
    assert "rank 2 is silent" in second.reason


# ---- configuration


def test_limits_come_from_the_cluster_profile_and_travel_with_the_job(tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    profile = tmp_path / "clusters" / "x.yaml"
    profile.write_text("watchdog: {step_min_sec: 30, save_sec: 90.5}\npreflight: off\n")
    resources = build_resources(load_cluster(tmp_path, "x"), {})
    assert resources.watchdog == WatchdogLimits(step_min_sec=30, save_sec=90.5)
    assert not resources.preflight.is_on
    spec = JobSpec("pretrain", "x", resources=resources)
    assert JobSpec.from_json(spec.to_json()) == spec
    profile.write_text("watchdog: {step_sec: 30}\n")
    with pytest.raises(ConfigError, match=r"x\.yaml: watchdog: .*step_sec.*step_min_sec"):
        load_cluster(tmp_path, "x")


def test_job_spec_of_before_the_watchdog_has_its_defaults() -> None:
    values = JobSpec("pretrain", "x").to_json()
    del values["resources"]["watchdog"], values["resources"]["preflight"]
    assert JobSpec.from_json(values).resources == Resources()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("never", "write off"),
        ({"step_min_sec": "ten"}, "'ten' is not a number"),
        ({"save_sec": 0}, "save_sec is 0.0: must be 0.1 or more"),
        ({"is_on": "maybe"}, "is not on or off"),
        ({"start_sec": "nan"}, "start_sec is nan"),
    ],
)
def test_wrong_limits_are_named(value: object, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read_limits(WatchdogLimits, value, "here")


def test_limits_do_not_change_the_runs_name() -> None:
    watched = Resources(watchdog=WatchdogLimits(step_min_sec=3))
    spec = JobSpec("pretrain", "x", resources=watched)
    assert spec.signature("0") == JobSpec("pretrain", "x").signature("0")
