from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.health import PreflightLimits
from jobs.node import NodeFacts
from jobs.preflight import Preflight, earlier_failures, judge, run_checks
from jobs.preflight_checks import (
    Meeting,
    check_cpus,
    check_free_space,
    check_shared_disk,
    compare_nodes,
)
from jobs.preflight_gpus import (
    SmiError,
    check_gpus,
    choose_visible,
    find_faults,
    parse_gpus,
    parse_users,
)
from jobs.run_folder import RunFolder, write_json_atomic
from jobs.spec import JobSpec, Resources

HOME = Path(__file__).parents[2]
LIMITS = PreflightLimits()

# `nvidia-smi --query-gpu=... --format=csv,noheader,nounits` of eight healthy cards, and of others.
HEALTHY = "".join(
    f"{index}, GPU-{index}f0c1b7e-7a4e-3c55-9d0d-2b4f5a6c7d8e, NVIDIA A100-SXM4-80GB, 81920, 4, 0, "
    "0x0000000000000001\n"
    for index in range(8)
)
GEFORCE = (
    "0, GPU-8fe3a97d-51f6-a669-0d80-b4530b81b816, NVIDIA GeForce RTX 3080, 10240, 388, [N/A], "
    "0x0000000000000000\n"
)
UNKNOWN_FIELD = 'Field "clocks_event_reasons.active" is not a valid field to query.\n'
LOST = (
    "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  Reboot the system "
    "to recover this GPU\n"
)


def faults(text: str, users: str = "", wanted: int = 8, ours: tuple[int, ...] = ()) -> list[str]:
    return find_faults(
        parse_gpus(text), parse_users(users), wanted=wanted, ours=ours, foreign_gb=1.0
    )


def test_healthy_gpus_have_no_fault() -> None:
    gpus = parse_gpus(HEALTHY)
    assert [gpu.index for gpu in gpus] == list(range(8))
    assert (gpus[0].name, gpus[0].total_mib) == ("NVIDIA A100-SXM4-80GB", 81920.0)
    assert (gpus[0].uncorrected_errors, gpus[0].clock_reasons) == (0, 1)
    assert faults(HEALTHY) == []


def test_what_a_card_does_not_report_is_no_fault() -> None:
    assert parse_gpus(GEFORCE)[0].uncorrected_errors is None
    assert faults(GEFORCE, wanted=1) == []


def test_missing_gpu_is_counted_and_the_others_named() -> None:
    (words,) = faults("".join(HEALTHY.splitlines(keepends=True)[:2]), wanted=3)
    assert words.startswith("2 GPUs of 3 (there: 0, 1)")


def test_uncorrected_errors_name_the_gpu() -> None:
    line = HEALTHY.splitlines()[5].replace(", 4, 0, ", ", 4, 2, ")
    (words,) = faults(line, wanted=1)
    assert words.startswith("GPU 5 has 2 uncorrected memory errors")


@pytest.mark.parametrize(
    ("reasons", "words"),
    [("0x0000000000000009", "hardware slowdown"), ("0x0000000000000060", "too hot (driver)")],
)
def test_throttled_clocks_are_named(reasons: str, words: str) -> None:
    (found,) = faults(GEFORCE.replace("0x0000000000000000", reasons), wanted=1)
    assert words in found


@pytest.mark.parametrize("reasons", ["0x0000000000000001", "0x0000000000000004", "[N/A]"])
def test_idle_and_power_capped_clocks_are_no_fault(reasons: str) -> None:
    assert faults(GEFORCE.replace("0x0000000000000000", reasons), wanted=1) == []


def test_foreign_memory_names_the_process() -> None:
    held = GEFORCE.replace(" 388,", " 9000,")
    user = "GPU-8fe3a97d-51f6-a669-0d80-b4530b81b816, 4711, 8600\n"
    (words,) = faults(held, user, wanted=1)
    assert "GPU 0: 8.8 GB are held by process 4711" in words
    (words,) = faults(held, wanted=1)
    assert "nobody that nvidia-smi names" in words


def test_memory_of_our_own_ranks_is_not_foreign() -> None:
    held = GEFORCE.replace(" 388,", " 9000,")
    user = "GPU-8fe3a97d-51f6-a669-0d80-b4530b81b816, 4711, 8600\n"
    assert faults(held, user, wanted=1, ours=(4711,)) == []
    stranger = "GPU-8fe3a97d-51f6-a669-0d80-b4530b81b816, 99, 3000\n"
    (words,) = faults(held, user + stranger, wanted=1, ours=(4711,))
    assert "2.9 GB are held by process 99" in words


def test_only_visible_gpus_count() -> None:
    gpus = parse_gpus(HEALTHY)
    assert [gpu.index for gpu in choose_visible(gpus, "2,5")] == [2, 5]
    assert [gpu.index for gpu in choose_visible(gpus, "GPU-3f0c1b7e")] == [3]
    assert len(choose_visible(gpus, None)) == 8


@pytest.mark.parametrize("text", [UNKNOWN_FIELD, LOST, "No devices were found\n"])
def test_words_instead_of_values_are_refused(text: str) -> None:
    with pytest.raises(SmiError):
        parse_gpus(text)


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called nvidia-smi before all others."""
    tool = folder / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_older_driver_is_asked_by_the_older_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").write_text(UNKNOWN_FIELD)
    (tmp_path / "old").write_text(GEFORCE)
    script = (
        f'case "$1" in *clocks_event*) cat {tmp_path}/new; exit 2;; *query-gpu*) '
        f"cat {tmp_path}/old;; esac"
    )
    fake_smi(tmp_path, monkeypatch, script)
    assert check_gpus(1, 1.0, os.getpid()) == ("passed", "1 x NVIDIA GeForce RTX 3080", "")


def test_lost_gpu_fails_with_the_tools_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words").write_text(LOST)
    fake_smi(tmp_path, monkeypatch, f"cat {tmp_path}/words; exit 15")
    state, _, message = check_gpus(1, 1.0, os.getpid())
    assert state == "failed"
    assert "nvidia-smi ended with 15: Unable to determine the device handle" in message


def test_memory_that_is_freed_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "held").write_text(GEFORCE.replace(" 388,", " 9000,"))
    (tmp_path / "free").write_text(GEFORCE)
    script = (
        f'case "$1" in *query-gpu*) cat {tmp_path}/held; cp {tmp_path}/free {tmp_path}/held;; esac'
    )
    fake_smi(tmp_path, monkeypatch, script)
    assert check_gpus(1, 1.0, os.getpid())[0] == "passed"


def test_node_without_nvidia_smi_is_skipped_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    state, _, message = check_gpus(2, 1.0, os.getpid())
    assert (state, "no nvidia-smi" in message) == ("skipped", True)


# ---- CPUs, space, disk


def test_cpus_of_the_mask_are_compared_with_the_request() -> None:
    allowed = len(os.sched_getaffinity(0))
    assert check_cpus(allowed)[0] == "passed"
    if allowed == os.cpu_count():
        assert check_cpus(allowed + 1)[0] == "warned"  # the machine has no more


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_lost_cpus_per_task_is_found() -> None:
    code = (
        "import os; from jobs.preflight_checks import check_cpus; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print('|'.join(check_cpus(2)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True
    )
    state, value, message = done.stdout.split("|")
    assert (state, value[:17]) == ("failed", "1 of 2 asked for,")
    assert "--cpus-per-task" in message


def test_space_is_compared_with_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    assert check_free_space(run, 0)[0] == "skipped"
    assert check_free_space(run, 1e-6)[0] == "passed"
    state, value, message = check_free_space(run, 1e9)
    assert state == "failed"
    assert "1000000000.0 GB needed" in value
    assert str(tmp_path) in message
    folder = run.checkpoints / "step-5"
    folder.mkdir(parents=True)
    (folder / "COMMIT").write_text('{"step": 5}')
    (folder / "model").write_bytes(b"0" * 1000)
    assert check_free_space(run, 0)[0] == "passed"
    os.truncate(folder / "model", 1 << 43)  # a hole: it takes no room itself
    assert check_free_space(run, 0)[0] == "failed"


def test_nodes_meet_through_files_and_measure_their_delay(tmp_path: Path) -> None:
    meetings = [Meeting(tmp_path, node, 3) for node in range(3)]
    outcomes: dict[int, tuple[str, str, str]] = {}

    def meet(node: int) -> None:
        outcomes[node] = check_shared_disk(meetings[node], time.monotonic() + 20)

    threads = [threading.Thread(target=meet, args=(node,)) for node in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert [outcomes[node][0] for node in range(3)] == ["passed"] * 3
    assert sorted(meetings[0].seen) == [1, 2]
    assert sorted(meetings[1].seen) == [0]
    assert 0 <= meetings[0].seen[2].delay_sec < 2


def test_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state, _, message = check_shared_disk(Meeting(tmp_path / "file", 0, 1), 0)
    assert state == "failed"
    assert str(tmp_path) in message


# ---- what all nodes' reports say together


def report(
    name: str,
    failed: Mapping[str, str] | None = None,
    *,
    seen: Mapping[int, float] | None = None,
    began: float = 1000.0,
    ended: float = 1001.0,
    disk_ahead_sec: float = 0.0,
) -> dict[str, Any]:
    results = [
        {"name": check, "state": "failed", "seconds": 0.1, "value": "", "message": message}
        for check, message in (failed or {}).items()
    ]
    sightings = {str(n): {"first": 1000.5, "delay_sec": delay} for n, delay in (seen or {}).items()}
    meeting = {"began": began, "ended": ended, "disk_ahead_sec": disk_ahead_sec, "seen": sightings}
    return {"name": name, "checks": results, "seconds": 0.2, "meeting": meeting}


def healthy(count: int) -> dict[int, dict[str, Any]]:
    others = dict.fromkeys(range(1, count), 0.1)
    return {n: report(f"n{n}", seen=others if n == 0 else {0: 0.2}) for n in range(count)}


def test_fit_nodes_lead_to_nothing() -> None:
    for count in (1, 2, 5):
        assert judge(healthy(count), LIMITS, set()) is None


def test_unfit_node_is_left_out_of_the_next_attempt() -> None:
    reports = healthy(3)
    reports[1] = report("n1", {"gpus": "GPU 3 is lost"}, seen={0: 0.1})
    stop = judge(reports, LIMITS, set())
    assert stop is not None
    assert (stop.reason, stop.exclude) == ("preflight", ("n1",))
    assert "n1: gpus: GPU 3 is lost" in stop.detail


def test_what_no_node_has_is_the_jobs_fault() -> None:
    reports = {n: report(f"n{n}", {"cpus": "1 of 8"}) for n in range(2)}
    stop = judge(reports, LIMITS, set())
    assert stop is not None
    assert stop.exclude == ()
    assert "every node is unfit for this job: n0: cpus: 1 of 8; n1: cpus" in stop.detail


def test_one_nodes_job_gets_another_node_once() -> None:
    reports = {0: report("n0", {"gpus": "GPU 3 is lost"})}
    stop = judge(reports, LIMITS, set())
    assert stop is not None
    assert stop.exclude == ("n0",)
    again = judge(reports, LIMITS, {"gpus"})
    assert again is not None
    assert again.exclude == ()
    full = judge({0: report("n0", {"free_space": "0 GB"})}, LIMITS, set())
    assert full is not None
    assert full.exclude == ()


def test_earlier_failures_are_read_from_attempts_that_ended_so(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for number, cause in ((1, "preflight"), (2, "crash"), (3, "preflight")):
        run.claim_attempt(number, "t", number)
        write_json_atomic(run.attempt(number).outcome_json, {"cause": cause})
        found = report("n0", {f"check{number}": "x"})
        write_json_atomic(run.attempt(number).preflight_json(0), found)
    assert earlier_failures(run, 3) == {"check1"}
    assert earlier_failures(run, 4) == {"check1", "check3"}


def test_clock_that_differs_from_the_others_is_found() -> None:
    reports = healthy(4)
    # node 2's clock is 30 s ahead: what it writes seems to come from the future
    reports[0]["meeting"]["seen"]["2"]["delay_sec"] = 0.1 - 30
    reports[2]["meeting"]["seen"]["0"]["delay_sec"] = 0.2 + 30
    faults = compare_nodes(reports, 5.0, 0)
    assert list(faults) == [2]
    assert "clock: 30.0 s ahead of the other nodes" in faults[2][0]
    assert compare_nodes(reports, 60.0, 0) == {}


def test_node_0_itself_may_have_the_wrong_clock() -> None:
    reports = healthy(4)
    for node in (1, 2, 3):
        reports[0]["meeting"]["seen"][str(node)]["delay_sec"] = 0.1 + 30
        reports[node]["meeting"]["seen"]["0"]["delay_sec"] = 0.2 - 30
    assert list(compare_nodes(reports, 5.0, 0)) == [0]


@pytest.mark.parametrize(("disk", "blamed"), [(0.0, 1), (30.0, 0)])
def test_of_two_clocks_the_disks_own_tells_which_is_wrong(disk: float, blamed: int) -> None:
    reports = healthy(2)
    reports[0]["meeting"]["disk_ahead_sec"] = disk
    reports[0]["meeting"]["seen"]["1"]["delay_sec"] = 0.1 - 30
    reports[1]["meeting"]["seen"]["0"]["delay_sec"] = 0.2 + 30
    assert list(compare_nodes(reports, 5.0, 0)) == [blamed]


def test_slow_disk_is_no_wrong_clock() -> None:
    reports = healthy(2)
    reports[0]["meeting"]["seen"]["1"]["delay_sec"] = 0.1
    reports[1]["meeting"]["seen"]["0"]["delay_sec"] = 14.0
    assert compare_nodes(reports, 5.0, 0) == {}


def test_file_that_is_never_seen_is_a_fault_and_a_late_node_is_not() -> None:
    reports = healthy(3)
    del reports[2]["meeting"]["seen"]["0"]
    reports[2]["meeting"]["ended"] = 1015.0  # it looked for 15 s
    (words,) = compare_nodes(reports, 5.0, 10.0)[2]
    assert "a file of node 0 was not seen in 15 s" in words
    late = healthy(2)
    late[0] = report("n0", ended=1015.0)
    late[1] = report("n1", began=1016.0, ended=1016.5, seen={0: 0.3})
    assert compare_nodes(late, 5.0, 10.0) == {}


# ---- the process beside the ranks


def test_report_has_the_seconds_of_every_check(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    noted: list[str] = []
    resources = Resources(gpus_per_node=1, cpus_per_process=1)
    found = run_checks(run, run.attempt(1), NodeFacts(name="n7"), resources, noted.append)
    names = [check["name"] for check in found["checks"]]
    assert names == noted == ["cpus", "free_space", "gpus", "shared_disk"]
    assert all(check["seconds"] >= 0 for check in found["checks"])
    assert (found["name"], found["seconds"] < 20) == ("n7", True)
    json.dumps(found)


def start(run: RunFolder, folder: Path, limits: PreflightLimits) -> Preflight:
    run.claim_attempt(1, "t", 0)
    spec = JobSpec("pretrain", "x", resources=Resources(preflight=limits))
    write_json_atomic(run.spec_json("t"), spec.to_json())
    node = NodeFacts(name="n0", executor="slurm", job_id="1")
    preflight = Preflight(run, run.attempt(1), node, spec.resources)
    preflight.start("t", folder, HOME)
    return preflight


def test_agent_hears_of_an_unfit_node_from_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    run = RunFolder(tmp_path / "run")
    preflight = start(run, tmp_path, PreflightLimits(free_gb=1e9))
    end = time.monotonic() + 30
    while (stop := preflight.look()) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (stop.reason, stop.exclude) == ("preflight", ())
    assert "needs 1000000000.0 GB" in stop.detail
    assert preflight.look() is None  # said once
    preflight.close()


def test_checks_that_do_not_end_are_given_up_and_no_nodes_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.preflight.TOTAL_SEC", 0.0)
    run = RunFolder(tmp_path / "run")
    preflight = start(run, tmp_path, PreflightLimits(free_gb=1e9))
    assert preflight.look() is None
    found = json.loads(run.attempt(1).preflight_json(0).read_text())
    assert found["state"] == "late"
    assert found["checks"][0]["state"] == "warned"


def test_preflight_can_be_switched_off(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    preflight = start(run, tmp_path, PreflightLimits(is_on=False))
    assert preflight.look() is None
    assert not run.attempt(1).preflight.exists()
