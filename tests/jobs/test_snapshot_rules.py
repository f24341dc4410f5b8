from __future__ import annotations

import logging
from pathlib import Path

import pytest

from jobs.errors import ConfigError, SnapshotError
from jobs.settings import load_settings
from jobs.snapshot import take_snapshot
from jobs.snapshot_rules import SnapshotRules, with_patterns
from tests.architecture.source import ROOT


def read(folder: Path, text: str) -> SnapshotRules:
    (folder / "defaults.yaml").write_text(text)
    return load_settings(folder).snapshot


def test_the_defaults_file_sets_patterns_and_sizes(tmp_path: Path) -> None:
    text = "snapshot: {include: [build/*.so, third/lib], warn_mb: 20, refuse_mb: 80.5}\n"
    assert read(tmp_path, text) == SnapshotRules(("build/*.so", "third/lib"), 20, 80.5)
    assert read(tmp_path, "snapshot:\n") == read(tmp_path, "cluster: auto\n") == SnapshotRules()
    assert load_settings(ROOT / "configs").snapshot == SnapshotRules((), 50, 500)


def test_flags_add_to_the_defaults() -> None:
    rules = with_patterns(SnapshotRules(("a",), 1, 2), ["b"])
    assert rules == SnapshotRules(("a", "b"), 1, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snapshot: {includes: [a]}", "did you mean 'include'"),
        ("snapshot: {warn_mb: many}", "warn_mb: a number of megabytes above 0, got 'many'"),
        ("snapshot: {refuse_mb: 0}", "refuse_mb"),
        ("snapshot: {refuse_mb: nan}", "refuse_mb"),
        ("snapshot: [a]", "expected `key: value`"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value) and "defaults.yaml" in str(caught.value)


def test_limits_are_the_users(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "large.bin").write_bytes(b"x" * 3_000_000)
    rules = SnapshotRules(warn_mb=1, refuse_mb=4)
    with caplog.at_level(logging.WARNING):
        take_snapshot(source, tmp_path / "store", rules=rules)
    assert "large.bin (3 MB)" in caplog.text and "snapshot: warn_mb" in caplog.text
    with pytest.raises(SnapshotError, match=r"limit is 2 MB.*snapshot: refuse_mb") as caught:
        take_snapshot(source, tmp_path / "store", rules=SnapshotRules(refuse_mb=2))
    assert caught.value.exit_code == 2
