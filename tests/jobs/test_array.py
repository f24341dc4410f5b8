"""Arrays without a real Slurm: chunks, refusals, members on this machine. The rest: tests/slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.array import ArrayFolder, MemberAgent, array_of_token, find_place, prepare_member
from jobs.array_launch import launch_array, render_array
from jobs.cluster import Cluster
from jobs.errors import ConfigError, RunError, SubmitError
from jobs.ledger import Ledger
from jobs.node import NodeFacts, read_node_facts
from jobs.run_folder import RunFolder, read_json
from jobs.spec import JobSpec
from jobs.standing import find_standing
from jobs.submit import Place, launch
from jobs.sweep_request import follow_runs, report
from tests.jobs.slurm_programs import SlurmPrograms, programs
from tests.slurm.toy_members import make_place, starts_of, state_of, toy_spec, wait_states

__all__ = ["programs"]  # a fixture

CLUSTER = Cluster("test")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


def specs(count: int, *more: str) -> list[JobSpec]:
    plain = [toy_spec(f"number={number}", *more) for number in range(count)]
    return [replace(each, resources=replace(each.resources, partition=None)) for each in plain]


def scripts(array: Path | None) -> list[list[str]]:
    """The sbatch flags of each chunk."""
    assert array is not None
    found = sorted(array.glob("chunk*/*_submission.sh"), key=lambda path: int(path.parent.name[5:]))
    lines = [path.read_text().splitlines() for path in found]
    return [[line.removeprefix("#SBATCH ") for line in each if "#SBATCH" in line] for each in lines]


def flag(flags: list[str], name: str) -> str:
    return next((each.partition("=")[2] for each in flags if each.startswith(f"--{name}=")), "")


def test_members_are_queued_in_chunks_that_count_from_zero(
    programs: SlurmPrograms, place: Place
) -> None:
    launched = launch_array(specs(120), CLUSTER, place, "slurm")
    assert launched.queued == 120 and launched.array is not None
    flags = scripts(launched.array)
    assert [flag(each, "array") for each in flags] == ["0-50", "0-50", "0-17"]
    assert len({flag(each, "comment") for each in flags}) == 3
    assert len(list(launched.array.glob("chunk*/*.pkl"))) == 3
    array = ArrayFolder(launched.array)
    tokens = [flag(each, "comment").removeprefix("egovl-") for each in flags]
    assert array_of_token(place.runs, tokens[2])[0].path == array.path
    member = array.read_member(find_place(str(array.path), tokens[2], 17).position)
    assert "number=119" in member.arguments
    with pytest.raises(RunError, match="no member 120"):
        array.read_member(120)
    assert not launched.folder.exists()  # a member makes its own


@pytest.mark.parametrize(
    ("parallel", "throttles", "waits"),
    [
        (None, ["0-50", "0-50", "0-17"], ["", "", ""]),
        (10, ["0-50%4", "0-50%3", "0-17%3"], ["", "", ""]),
        (2, ["0-50%1", "0-50%1", "0-17%1"], ["", "", "first"]),
        (1, ["0-50%1", "0-50%1", "0-17%1"], ["", "first", "second"]),
    ],
)
def test_parallelism_is_divided_over_the_chunks(
    programs: SlurmPrograms,
    place: Place,
    parallel: int | None,
    throttles: list[str],
    waits: list[str],
) -> None:
    launched = launch_array(specs(120), CLUSTER, place, "slurm", parallel)
    flags = scripts(launched.array)
    assert [flag(each, "array") for each in flags] == throttles
    jobs = {"": "", "first": f"afterany:{launched.jobs[0]}"}
    jobs["second"] = f"afterany:{launched.jobs[1]}"
    assert [flag(each, "dependency") for each in flags] == [jobs[each] for each in waits]


def test_a_first_chunk_that_is_refused_leaves_nothing(
    programs: SlurmPrograms, place: Place
) -> None:
    programs.answer("sbatch", "echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1")
    with pytest.raises(SubmitError, match="AssocMaxSubmitJobLimit"):
        launch_array(specs(120), CLUSTER, place, "slurm")
    assert [path for path in place.runs.rglob("*") if path.is_file()] == [Ledger(place.runs).path]
    assert Ledger(place.runs).open_submissions() == []


def test_a_later_chunk_that_is_refused_is_said_and_queued_by_the_next_launch(
    programs: SlurmPrograms, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    once = f'[ "$(grep -c ^sbatch {programs.log})" = 2 ] && echo "sbatch: MaxSubmit" >&2 && exit 1'
    programs.answer("sbatch", f'{once}\necho "Submitted batch job 7"')
    first = launch_array(specs(120), CLUSTER, place, "slurm")
    assert (first.queued, first.jobs) == (51, ("7",))
    assert report(first, "slurm") == 2
    told = capsys.readouterr()
    assert "51 queued, 69 not queued" in told.out
    assert "69 of the runs were refused: Slurm: sbatch: MaxSubmit" in told.err
    assert first.array is not None and not list(first.array.glob("chunk1*"))
    token = ArrayFolder(first.array).token(0)
    lines = "".join(f"7_{task}|egovl-{token}\\n" for task in range(51))
    programs.answer("squeue", f"printf '{lines}8|(null)\\n9_1|egovl-{'0' * 32}\\n'")
    second = launch_array(specs(120), CLUSTER, place, "slurm")
    assert (second.queued, len(second.plan.live)) == (69, 51)
    assert len(programs.calls("squeue")) == 2  # one look at the queue for each launch
    index = ArrayFolder(second.array or Path()).read_members()
    assert "number=51" in index[0].arguments


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [(0, 2, "switched off"), (51, 10_000, "10000 jobs in all")],
)
def test_what_the_site_cannot_hold_is_refused_before_anything_is_written(
    programs: SlurmPrograms, place: Place, size: int, count: int, message: str
) -> None:
    programs.set_array_size(size)
    with pytest.raises(SubmitError, match=message):
        launch_array(specs(count), CLUSTER, place, "slurm")
    assert not place.runs.exists() and programs.calls("sbatch") == []


def test_two_members_never_share_a_folder(
    programs: SlurmPrograms, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobSpec, "signature", lambda *_: "00000000")
    launched = launch_array(specs(3), CLUSTER, place, "slurm")
    names = [member.folder for member in launched.plan.members]
    assert names == ["toy-00000000", "toy.b-00000000", "toy.b.b-00000000"]


def test_a_wrong_value_of_any_member_is_found_before_anything_is_queued(
    programs: SlurmPrograms, place: Place
) -> None:
    (place.home / "judge.py").write_text(
        "import sys\nif 'number=13' in sys.argv: sys.exit(f'wrong: {sys.argv[1:]}')\n"
    )
    judged = [replace(spec, module="judge") for spec in specs(20)]
    with pytest.raises(ConfigError, match=r"wrong: \['check', 'number=13'\]"):
        launch_array(judged, CLUSTER, replace(place, check=("check",)), "slurm")
    assert not place.runs.exists()
    launch_array(judged[:13], CLUSTER, replace(place, check=("check",)), "slurm")


def test_dry_run_shows_members_and_script_and_queues_nothing(
    programs: SlurmPrograms, place: Place
) -> None:
    text = render_array(specs(60), CLUSTER, place, "slurm", parallel=4)
    assert "# 60 runs" in text and "#SBATCH --array=0-50%2" in text
    assert text.count("number=") == 60
    assert not place.runs.exists() and programs.calls("sbatch") == []


def test_a_member_is_named_so_that_no_other_is_meant() -> None:
    env = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "70", "SLURM_ARRAY_JOB_ID": "70"}
    assert read_node_facts({**env, "SLURM_ARRAY_TASK_ID": "4"}).job_id == "70_4"
    assert read_node_facts({"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "70"}).job_id == "70"


NODE = NodeFacts(executor="slurm", job_id="7_1")


def prepared(place: Place, restart: int = 0, node: NodeFacts = NODE) -> tuple[RunFolder, str]:
    [array] = (place.runs / ".arrays").iterdir()
    found = find_place(str(array), ArrayFolder(array).token(0), 1)
    return prepare_member(found, replace(node, restart=restart)), found.token


def test_a_member_makes_the_folder_that_a_launch_of_its_own_would(
    programs: SlurmPrograms, place: Place
) -> None:
    launched = launch_array(specs(2), CLUSTER, place, "slurm")
    run, token = prepared(place)
    assert run.path == launched.runs[1]
    facts = read_json(run.run_json) or {}
    assert facts["spec"]["arguments"] == ["train", "number=1"]
    assert facts["array"] == str(launched.array)
    alike = read_json(run.sbatch_json(token)) or {}
    assert alike["job_name"] == "toy" and "array" not in alike["additional_parameters"]
    assert (run.provenance / "provenance.json").is_file()
    assert (read_json(run.job_json(token)) or {})["job_id"] == "7_1"
    assert run.find_claim(token, 0) == 1
    assert prepared(place, restart=1)[0].attempt_numbers() == [1]  # the agent claims a restart
    programs.answer("scontrol", "echo 'JobId=8 JobState=RUNNING'")
    alone = launch(specs(2)[1], CLUSTER, place, "slurm")
    assert (alone.run_dir, alone.state) == (run.path, "live")


def test_a_member_leaves_a_run_that_somebody_else_is_at_work_on(
    programs: SlurmPrograms, place: Place
) -> None:
    launch_array(specs(2), CLUSTER, place, "slurm")
    programs.answer("scontrol", "echo 'JobId=1 JobState=RUNNING'")
    alone = launch(specs(2)[1], CLUSTER, place, "slurm")
    run, token = prepared(place)
    assert run.path == alone.run_dir
    assert run.attempt_numbers() == [1] and run.find_claim(token, 0) is None
    programs.answer("scontrol", "echo 'JobId=1 JobState=FAILED'")
    assert prepared(place)[0].find_claim(token, 0) == 2


def test_a_signal_before_the_agent_listens_continues_the_member(
    programs: SlurmPrograms, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = launch_array(specs(2), CLUSTER, place, "slurm")
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert launched.array is not None
    token = ArrayFolder(launched.array).token(0)
    agent = MemberAgent(str(launched.array), "/code", token)
    assert agent.checkpoint().function is agent
    run = RunFolder(launched.runs[1])
    assert (read_json(run.attempt(2).claim_json) or {})["by"] == "submitit"


def test_the_last_word_for_a_member_without_an_agent_continues_it(
    programs: SlurmPrograms, place: Place
) -> None:
    launched = launch_array(specs(2), CLUSTER, place, "slurm")
    programs.answer("scontrol", "echo 'JobId=8 JobState=RUNNING Restarts=0'")
    array = ArrayFolder(launched.array or Path())
    env = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.array_step", str(array.path), array.token(0), "137"],
        env={**os.environ, **env},
        cwd=place.home,
        check=False,
    )
    assert done.returncode == 0
    run = RunFolder(launched.runs[1])
    claim = read_json(run.attempt(2).claim_json) or {}
    assert (claim["by"], claim["after"]) == ("successor", "7_1")
    assert len(programs.calls("sbatch")) == 2
    assert (run.read_state()["state"], run.latest_attempt()) == ("queued", 2)


@pytest.mark.slow
def test_on_this_machine_members_run_side_by_side_and_only_the_failed_one_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    members = [*specs(3), *specs(1, "fail=1")]
    first = launch_array(members, CLUSTER, place, "local", parallel=2)
    assert first.queued == 4
    again = launch_array(members, CLUSTER, place, "local")
    assert (again.queued, len(again.plan.live) + len(again.plan.done)) == (0, 4)
    assert follow_runs(first.runs, poll_sec=0.2) == 1
    assert [state_of(run) for run in first.runs] == ["done", "done", "done", "failed"]
    (tmp_path / "runs" / "mended").touch()
    wait_states(first.runs, lambda _: not _is_led(first.array), 20.0)
    second = launch_array(members, CLUSTER, place, "debug")
    assert (second.queued, len(second.plan.done)) == (1, 3)
    assert [starts_of(run) for run in first.runs] == [[1], [1], [1], [1, 2]]
    assert all(find_standing(RunFolder(run)).state == "done" for run in first.runs)


def _is_led(array: Path | None) -> bool:
    from jobs.controller import controller_pid

    return controller_pid(read_json(ArrayFolder(array or Path()).controller_json) or {}) is not None


def test_members_side_by_side_need_gpus_of_their_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    plain = specs(4)
    two = [replace(s, resources=replace(s.resources, gpus_per_node=2)) for s in plain]
    with pytest.raises(SubmitError, match="need 4 GPUs, not 3"):
        launch_array(two, CLUSTER, place, "local", parallel=2)
    assert not list(place.runs.glob(".arrays/*"))
