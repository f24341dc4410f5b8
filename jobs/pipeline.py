"""A graph of stages, each a run: what a yaml of `configs/pipelines` says. Pure.

    name: lavila
    stages:
      pretrain:
        kind: pretrain                 first folder below runs/
        command: train                 of egovl
        config: configs/lavila/pretrain_tsf_base.yaml
        overrides: [trainer.epochs=5]
        resources: {nodes: 4, time: 48h}
      evaluate:
        kind: evaluate
        command: eval
        config: configs/lavila/egomcq_tsf_base.yaml
        overrides: [init.origin=egovl, "init.file=${pretrain.run}"]

`${stage.run}` is the run folder of another stage, which thereby comes first; `after: [stage]` says
so where nothing is read from it. Resources are the launchers' flags.

A stage may be a sweep, of which a later one reads the best run:

      finetune:
        ...
        sweep: {grid: {optim.lr: [1e-5, 3e-5], seed: 0..1}}    as a file for --sweep-file; or as for
                                                   --sweep: ["optim.lr=1e-5,3e-5", "seed=0..1"]
        best: {metric: egomcq/inter_video, mode: max}          of the results; or mode: min
        failed_members: stop                                   skip: the best of those that are done
      evaluate:
        ...
        overrides: ["init.file=${finetune.best}"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.errors import ConfigError, unknown_name
from jobs.member_group import MODES, Best
from jobs.sweep import expand_entry
from jobs.yaml_file import as_list, as_mapping, as_text, as_words, read_yaml, refuse_unknown

# `${stage.run}`, `${stage.best}` and what of a path follows it.
_REFERENCE = re.compile(r"\$\{([^}]*)\}([\w./-]*)")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_STAGE_KEYS = (
    *("kind", "command", "config", "overrides", "resources", "after", "module"),
    *("sweep", "best", "failed_members"),
)
MAX_STAGE_MEMBERS = 256  # each is a job of its own, and a stage after them waits for all
_COUNTS = ("nodes", "gpus", "processes", "cpus")
RESOURCE_FLAGS = (
    *_COUNTS,
    *("memory", "time", "stop_lead", "partition", "account", "qos", "constraint", "exclude"),
)


@dataclass(frozen=True)
class Stage:
    """One run of a pipeline.

    Attributes:
        command: of the module.
        config: recipe, as the file says it.
        overrides: `key=value`, with references to other stages.
        resources: launcher flags.
        after: stages that have to be done first, those referred to among them.
        members: of a sweep, the overrides that each run has besides; empty: one run.
        best: by which later stages choose among the members.
        skips_failed: whether they do so although some members have failed.
    """

    name: str
    kind: str
    command: str
    config: str
    overrides: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    after: tuple[str, ...] = ()
    module: str = "egovl"
    members: tuple[tuple[str, ...], ...] = ()
    best: Best | None = None
    skips_failed: bool = False

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """All overrides of each of its runs."""
        return [(*self.overrides, *words) for words in self.members or ((),)]


@dataclass(frozen=True)
class Pipeline:
    """Stages in an order in which each comes after those it waits for."""

    name: str
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """Return a stage.

        Raises:
            ConfigError: if there is none of this name.
        """
        for each in self.stages:
            if each.name == name:
                return each
        names = [each.name for each in self.stages]
        raise ConfigError(unknown_name(f"stage of pipeline {self.name}", name, names))

    def following(self, name: str) -> set[str]:
        """Return a stage and all that come after it."""
        found = {self.stage(name).name}
        for each in self.stages:
            if found.intersection(each.after):
                found.add(each.name)
        return found

    def override(self, words: Sequence[str]) -> Pipeline:
        """Return the pipeline with `stage.key=value` added to the stages named.

        Raises:
            ConfigError: if a word names no stage.
        """
        added: dict[str, list[str]] = {}
        for word in words:
            name, dot, rest = word.partition(".")
            if not dot or "=" in name:
                raise ConfigError(f"{word!r}: write stage.key=value, as pretrain.optim.lr=3e-5")
            added.setdefault(self.stage(name).name, []).append(rest)
        stages = [
            replace(each, overrides=(*each.overrides, *added.get(each.name, ())))
            for each in self.stages
        ]
        return Pipeline(self.name, _ordered(stages, f"pipeline {self.name}"))


def load_pipeline(path: Path, name: str | None = None) -> Pipeline:
    """Read a pipeline.

    Args:
        path: the yaml.
        name: instead of the file's.

    Raises:
        ConfigError: naming the file and the entry that makes no sense.
    """
    values = read_yaml(path)
    refuse_unknown(values, ("name", "stages"), str(path))
    name = name or as_text(values.get("name")) or path.stem
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: name {name!r}: lower case letters, digits, _ and - only")
    entries = as_mapping(values.get("stages"), f"{path}: stages")
    if not entries:
        raise ConfigError(f"{path}: no stages")
    stages = [_read_stage(key, entry, f"{path}: stage {key}") for key, entry in entries.items()]
    return Pipeline(name, _ordered(stages, str(path)))


def fill_references(word: str, runs: Mapping[str, Path]) -> str:
    """Return an override with each reference replaced by that stage's run folder, or its link."""
    return _REFERENCE.sub(lambda found: f"{runs[_stage_of(found)]}{found[2]}", word)


def stand_in_references(word: str, folder: Path) -> str:
    """Return an override whose references lead to empty files and folders, made below `folder`.

    What a stage reads of another is not there when its configuration is judged.
    """

    def stand_in(found: re.Match[str]) -> str:
        path = Path(f"{folder / _stage_of(found)}{found[2]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if found[2]:
            path.touch()
        else:
            path.mkdir(exist_ok=True)
        return str(path)

    return _REFERENCE.sub(stand_in, word)


def _stage_of(found: re.Match[str]) -> str:
    return found[1].rpartition(".")[0]


def _read_stage(name: str, entry: Any, where: str) -> Stage:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: its name: lower case letters, digits, _ and - only")
    values = as_mapping(entry, where)
    refuse_unknown(values, _STAGE_KEYS, where)
    texts = {key: as_text(values.get(key)) for key in ("kind", "command", "config")}
    missing = [key for key, text in texts.items() if text is None]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing")
    overrides = tuple(str(word) for word in as_list(values.get("overrides"), f"{where}: overrides"))
    for word in overrides:
        if "=" not in word[1:]:
            raise ConfigError(f"{where}: overrides: not key=value: {word!r}")
    return Stage(
        name=name,
        kind=str(texts["kind"]),
        command=str(texts["command"]),
        config=str(texts["config"]),
        overrides=overrides,
        resources=_read_resources(values.get("resources"), f"{where}: resources"),
        after=as_words(values.get("after")),
        module=as_text(values.get("module")) or "egovl",
        **_read_sweep(values, where),
    )


def _read_sweep(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = [key for key in ("best", "failed_members") if key in values]
    if "sweep" not in values:
        if given:
            raise ConfigError(f"{where}: {given[0]}: only a stage with sweep: has members")
        return {}
    members = expand_entry(values["sweep"], f"{where}: sweep")
    if len(members) > MAX_STAGE_MEMBERS:
        raise ConfigError(f"{where}: a sweep of {len(members)} runs: at most {MAX_STAGE_MEMBERS}")
    failed = as_text(values.get("failed_members")) or "stop"
    if failed not in ("stop", "skip"):
        raise ConfigError(
            f"{where}: failed_members: " + unknown_name("way", failed, ("stop", "skip"))
        )
    found: dict[str, Any] = {"members": tuple(members), "skips_failed": failed == "skip"}
    if "best" in values:
        best = as_mapping(values["best"], f"{where}: best")
        refuse_unknown(best, ("metric", "mode"), f"{where}: best")
        metric, mode = as_text(best.get("metric")), as_text(best.get("mode")) or "max"
        if metric is None:
            raise ConfigError(f"{where}: best: metric missing, as egomcq/inter_video")
        if mode not in MODES:
            raise ConfigError(f"{where}: best: " + unknown_name("mode", mode, MODES))
        found["best"] = Best(metric, mode)
    return found


def _read_resources(value: Any, where: str) -> dict[str, Any]:
    given = as_mapping(value, where)
    refuse_unknown(given, RESOURCE_FLAGS, where)
    flags: dict[str, Any] = {key: as_text(each) for key, each in given.items()}
    for key in _COUNTS:
        if flags.get(key) is None:
            continue
        if not flags[key].isdecimal():
            raise ConfigError(f"{where}: {key}: not a whole number: {flags[key]!r}")
        flags[key] = int(flags[key])
    return flags


def _ordered(stages: Sequence[Stage], where: str) -> tuple[Stage, ...]:
    """Return the stages sorted, references added to `after`.

    Raises:
        ConfigError: if one waits for a stage that is not there, or for itself.
    """
    waiting = {each.name: _with_references(each, where) for each in stages}
    for stage in waiting.values():
        for name in stage.after:
            if name not in waiting:
                words = unknown_name("stage", name, waiting)
                raise ConfigError(f"{where}: stage {stage.name} waits for another: {words}")
        _check_references(stage, waiting, where)
    ordered: list[Stage] = []
    while waiting:
        ready = [each for each in waiting.values() if not waiting.keys() & set(each.after)]
        if not ready:
            circle = ", ".join(sorted(waiting))
            raise ConfigError(f"{where}: stages wait for each other in a circle: {circle}")
        ordered.append(ready[0])
        del waiting[ready[0].name]
    return tuple(ordered)


def _references(stage: Stage) -> list[re.Match[str]]:
    words = dict.fromkeys(word for line in stage.lines for word in line)
    return [found for word in words for found in _REFERENCE.finditer(word)]


def _with_references(stage: Stage, where: str) -> Stage:
    after = list(stage.after)
    for found in _references(stage):
        if found[1].rpartition(".")[2] not in ("run", "best") or ".." in found[2]:
            raise ConfigError(
                f"{where}: stage {stage.name}: {found[0]}: only ${{stage.run}}, ${{stage.best}} "
                "and what is below it"
            )
        after.append(_stage_of(found))
    return replace(stage, after=tuple(dict.fromkeys(after)))


def _check_references(stage: Stage, stages: Mapping[str, Stage], where: str) -> None:
    """Refuse what is asked of a sweep and of a single run the wrong way round."""
    where = f"{where}: stage {stage.name}"
    swept = {word.partition("=")[0] for words in stage.members for word in words}
    if both := swept & {word.partition("=")[0] for word in stage.overrides}:
        raise ConfigError(f"{where}: {', '.join(sorted(both))}: both given and swept")
    for found in _references(stage):
        other, is_best = stages[_stage_of(found)], found[1].endswith(".best")
        if other.members and not is_best:
            raise ConfigError(f"{where}: {found[0]}: a sweep of many runs: ${{{other.name}.best}}")
        if is_best and not other.members:
            raise ConfigError(f"{where}: {found[0]}: a single run: ${{{other.name}.run}}")
        if is_best and other.best is None:
            raise ConfigError(f"{where}: {found[0]}: that stage needs best: {{metric: ...}}")
