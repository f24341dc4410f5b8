from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from egovl.config import ConfigError
from egovl.recipe import Recipe, input_hashes, load_recipe, missing_inputs
from jobs.pipeline import load_pipeline, stand_in_references
from tests.architecture.source import ROOT


def recipe(folder: Path, *overrides: str) -> Recipe:
    for name in ("test.csv", "sentences.csv", "train.csv", "weights.pth"):
        (folder / name).write_text(name)
    (folder / "videos").mkdir(exist_ok=True)
    mir = "evaluate.ek100_mir.dataset"
    return load_recipe(
        ROOT / "configs/lavila/zero_shot_tsf_base.yaml",
        [
            f"{mir}.annotations={folder}/test.csv",
            f"{mir}.sentences={folder}/sentences.csv",
            f"{mir}.video_root={folder}/videos",
            f"init.file={folder}/weights.pth",
            *overrides,
        ],
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_result_names_the_hashes_of_annotations_relevancy_and_weights(tmp_path: Path) -> None:
    (tmp_path / "r.npy").write_text("matrix")
    found = input_hashes(
        recipe(tmp_path, f"evaluate.ek100_mir.dataset.relevancy={tmp_path}/r.npy"),
        lambda path: path,
    )
    assert found == {
        "evaluate.ek100_mir.dataset.annotations": sha256("test.csv"),
        "evaluate.ek100_mir.dataset.sentences": sha256("sentences.csv"),
        "evaluate.ek100_mir.dataset.relevancy": sha256("matrix"),
        "init.file": sha256("weights.pth"),
    }


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "step-5").mkdir(parents=True)
    (run / "step-5" / "COMMIT").write_text("five")
    chosen = recipe(tmp_path, f"init={{origin: egovl, file: {run}}}")
    assert input_hashes(chosen, lambda path: path / "step-5")["init.file"] == sha256("five")


def test_files_of_a_list_are_missed_one_by_one(tmp_path: Path) -> None:
    cls = "evaluate.ek100_cls.dataset"
    chosen = recipe(tmp_path, f"{cls}.action_tables=[{tmp_path}/train.csv, {tmp_path}/none.csv]")
    missing = missing_inputs(chosen)
    assert f"{cls}.action_tables.1: {tmp_path}/none.csv" in missing
    assert not any("action_tables.0" in line or "ek100_mir.dataset.ann" in line for line in missing)


@pytest.mark.parametrize("value", ["[]", "[8, train.csv]"])
def test_a_list_that_is_none_of_files_is_refused(tmp_path: Path, value: str) -> None:
    lists = "train.dataset.annotations"
    with pytest.raises(ValueError, match=r"annotations is empty|expected a path, got 8"):
        load_recipe(ROOT / "configs/debug/benchmarks.yaml", [f"{lists}={value}"])


def test_one_of_a_recipes_evaluations_can_be_asked_for() -> None:
    recipe = load_recipe(ROOT / "configs/debug/benchmarks.yaml")
    assert list(recipe.only("egtea").evaluate) == ["egtea"]
    assert recipe.only(None) is recipe
    with pytest.raises(ConfigError, match="no evaluation 'egtae'; the recipe has egomcq, ek100"):
        recipe.only("egtae")


def test_clips_that_learn_are_not_stored() -> None:
    with pytest.raises(ConfigError, match=r"set parents\.cache_clips"):
        load_recipe(ROOT / "configs/debug/hierarchical.yaml", ["train.cache_clips=true"])


def test_stores_without_a_folder_lie_in_the_runs() -> None:
    file = ROOT / "configs/debug/queries_features.yaml"
    words = ["init.file=runs/tower", "features.out=null", "tokens.out=null"]
    placed = load_recipe(file, words).with_stores_in(Path("/runs/x"))
    assert placed.features is not None and placed.features.out == Path("/runs/x/features")
    assert placed.tokens is not None and placed.tokens.out == Path("/runs/x/tokens")
    named = load_recipe(file, words[:1])
    assert named.with_stores_in(None) == named
    with pytest.raises(ConfigError, match=r"features.out is null.*features.out=DIR"):
        load_recipe(file, words).with_stores_in(None)
    for section in ("features", "tokens"):
        with pytest.raises(ConfigError, match="several shards need one folder"):
            load_recipe(file, [*words, f"{section}.shards=2"])


PIPELINES = sorted((ROOT / "configs/pipelines").glob("*.yaml"))


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_a_stage_of_a_shipped_pipeline_reads_data_or_what_other_stages_made(
    file: Path, tmp_path: Path
) -> None:
    """Else its check refuses the first launch, when nothing has been made yet."""
    for stage in load_pipeline(file).stages:
        words = [stand_in_references(word, tmp_path) for word in stage.overrides]
        missing = missing_inputs(load_recipe(ROOT / stage.config, words))
        assert [each for each in missing if f": {ROOT / 'data'}/" not in each] == [], stage.name
