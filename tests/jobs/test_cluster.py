from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from jobs.cluster import build_resources, load_cluster, resolve_cluster_name, slurm_parameters
from jobs.errors import ConfigError, SpecError
from jobs.settings import load_settings
from jobs.spec import JobSpec, Resources

PROJECT = Path(__file__).parents[2]
PROFILE = """
gpus_per_node: 8
cpus_per_gpu: 12
memory_per_gpu_gb: 100
time_limit: 48:00:00
account: 0042
partition: a100
partitions:
  a100: {}
  v100: {gpus_per_node: 4, gpu_type: v100, time_limit: 90m, qos: low, stop_lead: 5m}
  cpu: {gpus_per_node: 0, cpus_per_process: 6, memory_gb: 20}
preamble: [first.sh, module load cuda/12.4]
srun_arguments: [--mpi=none]
sbatch: {mail_user: me@example.org, exclusive: true, hold: false}
exclude: [bad1]
"""


def write_profile(tmp_path: Path, text: str, name: str = "big") -> Path:
    configs = tmp_path / "configs"
    (configs / "clusters").mkdir(parents=True, exist_ok=True)
    (configs / "clusters" / f"{name}.yaml").write_text(text)
    templates = tmp_path / "slurm_templates"
    templates.mkdir(exist_ok=True)
    (templates / "first.sh").write_text("# why\nexport A=1\n")
    return configs


def sbatch_text(configs: Path, asked: dict[str, object]) -> list[str]:
    cluster = load_cluster(configs, "big")
    spec = JobSpec("pretrain", "run-1", resources=build_resources(cluster, asked))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # submitit warns about parameters it cannot combine
        text = _make_sbatch_string("agent", "logs", **slurm_parameters(spec, cluster))
    return text.splitlines()


def test_sbatch_text_carries_what_stopping_and_resuming_need(tmp_path: Path) -> None:
    lines = sbatch_text(write_profile(tmp_path, PROFILE), {"nodes": 4})
    for line in (
        "#SBATCH --signal=USR2@120",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=96",
        "#SBATCH --mem=819200M",
        "#SBATCH --time=2880",
        "#SBATCH --partition=a100",
        "#SBATCH --account=0042",
        "#SBATCH --exclude=bad1",
        "#SBATCH --mail-user=me@example.org",
        "#SBATCH --exclusive",
    ):
        assert line in lines
    srun = next(line for line in lines if line.startswith("srun"))
    assert "--mpi=none --kill-on-bad-exit=1 --cpus-per-task=96" in srun
    assert not any("wckey" in line or "hold" in line or "qos" in line for line in lines)


def test_preamble_files_and_lines_come_before_srun_in_their_order(tmp_path: Path) -> None:
    lines = sbatch_text(write_profile(tmp_path, PROFILE), {})
    order = [lines.index("export A=1"), lines.index("module load cuda/12.4")]
    assert order == sorted(order) and order[1] < next(
        index for index, line in enumerate(lines) if line.startswith("srun")
    )


def test_signal_does_not_follow_submitits_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("submitit.slurm.slurm.SlurmJobEnvironment.USR_SIG", "USR1")
    assert "#SBATCH --signal=USR2@120" in sbatch_text(write_profile(tmp_path, PROFILE), {})


def test_partition_values_win_over_the_clusters_and_flags_over_both(tmp_path: Path) -> None:
    cluster = load_cluster(write_profile(tmp_path, PROFILE), "big")
    v100 = build_resources(cluster, {"partition": "v100"})
    assert (v100.gpus_per_node, v100.processes_per_node, v100.cpus_per_process) == (4, 4, 12)
    assert (v100.memory_gb, v100.time_limit_sec, v100.qos, v100.lead_sec) == (400, 5400, "low", 300)
    few = build_resources(
        cluster,
        {"partition": "v100", "gpus_per_node": 2, "time_limit_sec": "1h", "memory_gb": "10G"},
    )
    assert (few.processes_per_node, few.time_limit_sec, few.memory_gb) == (2, 3600, 10)
    cpu = build_resources(cluster, {"partition": "cpu", "exclude": "bad2,bad3"})
    assert (cpu.gpus_per_node, cpu.processes_per_node, cpu.cpus_per_process) == (0, 1, 6)
    assert cpu.memory_gb == 20 and cpu.exclude == ("bad1", "bad2", "bad3")


def test_gpu_type_is_asked_with_the_count(tmp_path: Path) -> None:
    lines = sbatch_text(write_profile(tmp_path, PROFILE), {"partition": "v100"})
    assert "#SBATCH --gpus-per-node=v100:4" in lines
    assert "#SBATCH --time=90" in lines


def test_processes_share_the_cpus_of_the_gpus(tmp_path: Path) -> None:
    cluster = load_cluster(write_profile(tmp_path, PROFILE), "big")
    ask = build_resources(cluster, {"gpus_per_node": 2, "processes_per_node": 3})
    assert (ask.cpus_per_process, ask.cpus_per_node) == (8, 24)


def test_a_partition_the_profile_does_not_list_is_left_to_slurm(tmp_path: Path) -> None:
    lines = sbatch_text(write_profile(tmp_path, PROFILE), {"partition": "new"})
    assert "#SBATCH --partition=new" in lines and "#SBATCH --gpus-per-node=8" in lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu_per_node: 8", "did you mean 'gpus_per_node'"),
        ("partitions: {a: {time_limt: 1h}}", "partition a: .*did you mean 'time_limit'"),
        ("time_limit: soon", "time_limit: not a time"),
        ("gpus_per_node: many", "gpus_per_node: not a whole number"),
        ("cpus_per_gpu: 0", "cpus_per_gpu: must be at least 1"),
        ("executor: slrum", "did you mean 'slurm'"),
        ("preamble: [frist.sh]", "did you mean 'first.sh'"),
        ("sbatch: {requeue: true}", "requeue is set elsewhere"),
        ("sbatch: {time: 5}", "time is set elsewhere"),
        ("partitions: [a, b]", "expected `key: value`"),
        ("gpus_per_node: 1\ngpus_per_node: 2", "big.yaml:2: .*twice"),
        ("a: [", "not valid yaml"),
        ("- a", "expected `key: value`"),
    ],
)
def test_a_broken_profile_names_file_key_and_cure(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_cluster(write_profile(tmp_path, text), "big")
    assert "big.yaml" in str(caught.value) or "slurm_templates" in str(caught.value)


def test_an_unknown_profile_names_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'big'"):
        load_cluster(write_profile(tmp_path, PROFILE), "bigg")


def test_an_unknown_resource_names_the_closest(tmp_path: Path) -> None:
    cluster = load_cluster(write_profile(tmp_path, PROFILE), "big")
    with pytest.raises(SpecError, match="did you mean 'nodes'"):
        build_resources(cluster, {"node": 2})


def test_auto_is_the_profile_of_this_slurm_or_the_only_own_one_or_local(tmp_path: Path) -> None:
    configs = write_profile(tmp_path, PROFILE)
    write_profile(tmp_path, "executor: local", "local")
    write_profile(tmp_path, PROFILE, "example_a100")
    assert resolve_cluster_name("auto", configs, "thing") == "big"
    assert resolve_cluster_name(None, configs, None) == "local"
    assert resolve_cluster_name("big", configs, None) == "big"
    write_profile(tmp_path, PROFILE, "second")
    with pytest.raises(ConfigError, match=r"cluster thing .*doctor --write"):
        resolve_cluster_name("auto", configs, "thing")
    write_profile(tmp_path, PROFILE + "\nslurm_cluster: thing\n", "third")
    assert resolve_cluster_name("auto", configs, "thing") == "third"


def test_examples_serve_by_partition_until_there_is_a_profile_of_ones_own() -> None:
    configs = PROJECT / "configs"
    assert resolve_cluster_name("auto", configs, "site", "a100") == "example_a100"
    assert resolve_cluster_name("auto", configs, "site", "v100") == "example_v100"
    with pytest.raises(ConfigError, match="doctor --write"):
        resolve_cluster_name("auto", configs, "site")


def test_shipped_configs_load_and_give_jobs_slurm_could_take() -> None:
    configs = PROJECT / "configs"
    for path in sorted((configs / "clusters").glob("*.yaml")):
        cluster = load_cluster(configs, path.stem)
        for partition in [None, *cluster.partitions]:
            ask = build_resources(cluster, {"nodes": 2, "partition": partition})
            assert isinstance(ask, Resources)
            spec = JobSpec("pretrain", "x", resources=ask)
            assert _make_sbatch_string("agent", "logs", **slurm_parameters(spec, cluster))
    settings = load_settings(configs)
    assert settings.runs == PROJECT / "runs" and settings.snapshots == PROJECT / "runs/.snapshots"
    assert settings.recipe("pretrain") == "configs/lavila/pretrain_tsf_base.yaml"
    assert settings.cluster == "auto"


def test_defaults_name_the_closest_key_and_recipe(tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text("recipes: {pretrain: a.yaml}\nruns: /scratch/runs\n")
    settings = load_settings(tmp_path)
    assert settings.runs == Path("/scratch/runs")
    assert settings.snapshots == Path("/scratch/runs/.snapshots")
    with pytest.raises(ConfigError, match="did you mean 'pretrain'"):
        settings.recipe("pretrian")
    (tmp_path / "defaults.yaml").write_text("recipe: {}")
    with pytest.raises(ConfigError, match="did you mean 'recipes'"):
        load_settings(tmp_path)


def test_every_preamble_is_valid_shell_and_harmless_without_its_tool() -> None:
    import subprocess

    for file in sorted((PROJECT / "slurm_templates").rglob("*.s[hb]*")):
        subprocess.run(["bash", "-n", str(file)], check=True)
    for file in sorted((PROJECT / "slurm_templates/preambles").glob("nccl_*.sh")):
        command = f"export NCCL_SOCKET_IFNAME=eth7; . {file}; echo $NCCL_SOCKET_IFNAME"
        done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "eth7"
