"""`configs/defaults.yaml`: what a launcher takes when its flags say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs.budgets import read_budgets
from jobs.errors import ConfigError, unknown_name
from jobs.snapshot_rules import SnapshotRules, read_snapshot_rules
from jobs.yaml_file import as_mapping, as_text, read_yaml, refuse_unknown


@dataclass(frozen=True)
class Settings:
    """The defaults file.

    Attributes:
        cluster: name of a profile in `configs/clusters`, or `auto`.
        runs: folder of the runs; a relative one starts at the project's root.
        snapshots: folder of the code copies, on a disk that the nodes see.
        recipes: kind of run -> yaml of the recipe.
        resume_via: auto, successor or requeue, where the cluster's profile says nothing.
        budgets: continuations per cause, as (name, number) pairs, below those of the profile.
        snapshot: what a code copy holds beside what git would, and how large it may be.
    """

    cluster: str = "auto"
    runs: Path = Path("runs")
    snapshots: Path = Path("runs/.snapshots")
    recipes: Mapping[str, str] = field(default_factory=dict[str, str])
    resume_via: str = "auto"
    budgets: tuple[tuple[str, int], ...] = ()
    snapshot: SnapshotRules = field(default_factory=SnapshotRules)

    def recipe(self, kind: str) -> str:
        """Return the recipe for a kind of run.

        Raises:
            ConfigError: if the defaults name none for it.
        """
        if kind not in self.recipes:
            known = unknown_name("recipe", kind, self.recipes)
            raise ConfigError(f"{known}; name one with --config or under `recipes:`")
        return self.recipes[kind]


def load_settings(configs: Path) -> Settings:
    """Read `<configs>/defaults.yaml`; folders come out absolute.

    Raises:
        ConfigError: if it is missing or holds something else.
    """
    path = configs / "defaults.yaml"
    values = read_yaml(path)
    known = ("cluster", "runs", "snapshots", "snapshot", "recipes", "resume_via", "budgets")
    refuse_unknown(values, known, str(path))
    home = configs.resolve().parent
    runs = home / Path(as_text(values.get("runs")) or "runs").expanduser()
    snapshots = as_text(values.get("snapshots"))
    recipes = as_mapping(values.get("recipes"), f"{path}: recipes")
    return Settings(
        cluster=as_text(values.get("cluster")) or "auto",
        runs=runs,
        snapshots=home / Path(snapshots).expanduser() if snapshots else runs / ".snapshots",
        recipes={kind: str(recipe) for kind, recipe in recipes.items()},
        resume_via=as_text(values.get("resume_via")) or "auto",
        budgets=read_budgets(values.get("budgets"), str(path)),
        snapshot=read_snapshot_rules(values.get("snapshot"), f"{path}: snapshot"),
    )
