from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jobs.errors import JobsError, SpecError
from jobs.spec import JobSpec, Resources, parse_duration, parse_memory


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2-00:00:00", 172800),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("12:30:00", 45000),
        ("90:00", 5400),
        ("90", 5400),
        ("90m", 5400),
        ("48h", 172800),
        ("2d", 172800),
        ("1h30m", 5400),
        ("1.5 h", 5400),
        ("45s", 45),
        ("1w", 604800),
    ],
)
def test_times_read_as_slurm_and_people_write_them(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "0h", "-5m", "10:75", "1:2:3:4", "5 parsecs"])
def test_senseless_times_are_refused_with_their_text(text: str) -> None:
    with pytest.raises(SpecError, match="time above zero"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("64G", 64), ("64", 64), ("64gb", 64), ("1.5T", 1536), ("512M", 0.5), ("2 GiB", 2)],
)
def test_memory_comes_out_in_gigabytes(text: str, gigabytes: float) -> None:
    assert parse_memory(text) == gigabytes


@pytest.mark.parametrize("text", ["", "much", "0G", "-1G", "3X"])
def test_senseless_memory_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="memory size above zero"):
        parse_memory(text)


@pytest.mark.parametrize(
    "values",
    [
        {"nodes": 0},
        {"processes_per_node": 0},
        {"cpus_per_process": -1},
        {"gpus_per_node": -1},
        {"memory_gb": 0},
        {"time_limit_sec": 0},
        {"stop_lead_sec": 3600, "time_limit_sec": 3600},
    ],
)
def test_impossible_resources_are_refused_with_the_fields_value(values: dict[str, int]) -> None:
    with pytest.raises(SpecError, match=str(next(iter(values.values())))):
        Resources(**values)


def test_stop_comes_two_minutes_before_the_limit_but_within_its_last_third() -> None:
    assert Resources(time_limit_sec=86400).lead_sec == 120
    assert Resources(time_limit_sec=86400, stop_lead_sec=600).lead_sec == 600
    assert Resources(time_limit_sec=120).lead_sec == 40
    assert Resources(time_limit_sec=120, stop_lead_sec=100).lead_sec == 40


def make_spec(**values: object) -> JobSpec:
    return JobSpec(
        **{
            "kind": "pretrain",
            "name": "try-1",
            "arguments": ("train", "--config", "a b.yaml"),
            "resources": Resources(nodes=2, exclude=("node3",), memory_gb=1.5),
            "env": (("A", "1"),),
            **values,
        }
    )


def test_spec_comes_back_from_json_unchanged() -> None:
    spec = make_spec()
    assert JobSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_spec_from_json_names_an_unknown_key_and_a_missing_one() -> None:
    values = make_spec().to_json()
    with pytest.raises(SpecError, match="did you mean 'kind'"):
        JobSpec.from_json({**values, "kin": "x"})
    with pytest.raises(SpecError, match="did you mean 'nodes'"):
        JobSpec.from_json({**values, "resources": {"node": 2}})
    del values["name"]
    with pytest.raises(SpecError, match="name"):
        JobSpec.from_json(values)


def test_signature_follows_the_work_and_the_code_but_not_the_resources() -> None:
    spec = make_spec()
    signature = spec.signature("code")
    assert len(signature) == 8 and int(signature, 16) >= 0
    assert make_spec(resources=Resources(nodes=9)).signature("code") == signature
    assert spec.signature("other code") != signature
    assert make_spec(arguments=("train",)).signature("code") != signature
    assert make_spec(env=(("A", "2"),)).signature("code") != signature


@pytest.mark.parametrize(
    "values", [{"kind": "Pre train"}, {"name": "../up"}, {"name": ""}, {"env": (("A=B", "1"),)}]
)
def test_names_that_cannot_be_folders_or_variables_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        make_spec(**values)


def test_user_errors_leave_with_code_two() -> None:
    assert issubclass(SpecError, JobsError) and SpecError.exit_code == 2


def test_spec_loads_nothing_outside_the_standard_library() -> None:
    code = "import sys, jobs.spec; print({'yaml', 'submitit', 'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
