from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

import jobs.garbage
from jobs import gc_command
from jobs.configuration_check import CHECKED
from jobs.errors import RunError
from jobs.garbage import LAUNCH_SEC, collect_garbage
from jobs.run_folder import RunFolder, create_json, write_json_atomic
from jobs.snapshot import (
    HALF_WRITTEN,
    REMOVED,
    USED,
    Snapshot,
    take_snapshot,
    verify_snapshot,
)
from jobs.snapshot_rules import SnapshotRules
from tests.jobs.test_snapshot import stored, write

HOUR = 3600
OLD = 2 * HOUR


class Place:
    def __init__(self, root: Path) -> None:
        self.source = root / "source"
        self.store = root / "store"
        self.runs = root / "runs"
        self.runs.mkdir()
        write(self.source / "same.py", "same in all\n" * 500)

    def take(self, text: str, age_sec: float = OLD) -> Snapshot:
        """A snapshot that a launch took some time ago."""
        write(self.source / "code.py", text)
        snapshot = take_snapshot(self.source, self.store, exclude=[self.runs])
        self.age(snapshot, age_sec)
        return snapshot

    def age(self, snapshot: Snapshot, age_sec: float) -> None:
        then = time.time() - age_sec
        for path in [snapshot.path, *(self.store / USED).glob(f"{snapshot.tree_hash}.*")]:
            os.utime(path, (then, then))

    def refer(self, name: str, snapshot: Snapshot, state: str = "running") -> RunFolder:
        run = RunFolder(self.runs / "pretrain" / name)
        facts = {"snapshot": str(snapshot.path), "snapshot_hash": snapshot.tree_hash}
        create_json(run.run_json, facts)
        write_json_atomic(run.state_json, {"state": state, "updated": time.time() - OLD})
        return run

    def collect(self, **options: object) -> list[str]:
        garbage = collect_garbage(self.store, self.runs, **options)  # type: ignore[arg-type]
        return [each.name for each in garbage.snapshots]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_only_snapshots_that_no_run_refers_to_go(place: Place) -> None:
    used, unused = place.take("used"), place.take("unused")
    place.refer("a", used, "done")
    for snapshot in (used, unused):
        write(place.store / CHECKED / f"{snapshot.tree_hash}.0.json", "{}")
    assert place.collect(dry_run=True) == [unused.tree_hash]
    assert sorted(stored(place.store)) == sorted([used.tree_hash, unused.tree_hash])
    assert place.collect() == [unused.tree_hash]
    assert stored(place.store) == [used.tree_hash]
    verify_snapshot(used.path)
    assert place.collect() == []
    for folder in (USED, CHECKED):
        assert {path.name[:40] for path in (place.store / folder).iterdir()} == {used.tree_hash}


def test_a_snapshot_that_a_launch_took_a_moment_ago_stays(place: Place) -> None:
    place.take("just now", age_sec=60)
    assert place.collect() == []
    old = place.take("a week ago", age_sec=7 * 24 * HOUR)
    day_old = place.take("a day ago", age_sec=25 * HOUR)
    assert place.collect(older_than_sec=30 * 24 * HOUR) == []
    assert place.collect(older_than_sec=2 * 24 * HOUR) == [old.tree_hash]
    assert place.collect() == [day_old.tree_hash]


@pytest.mark.parametrize(
    ("states", "goes"),
    [
        (["done"], True),
        (["failed", "cancelled"], True),
        (["done", "stopped"], False),
        (["done", "queued"], False),
        (["waiting"], False),
        (["running"], False),
    ],
)
def test_snapshots_of_ended_runs_go_when_asked(place: Place, states: list[str], goes: bool) -> None:
    snapshot = place.take("x")
    for number, state in enumerate(states):
        place.refer(str(number), snapshot, state)
    assert place.collect() == []
    assert place.collect(finished=True) == [snapshot.tree_hash] * goes


def test_a_run_that_ended_a_moment_ago_still_has_its_last_words_to_say(place: Place) -> None:
    snapshot = place.take("x")
    run = place.refer("a", snapshot)
    run.write_state("done")
    assert place.collect(finished=True) == []


def test_an_array_holds_its_snapshot_until_every_member_has_ended(place: Place) -> None:
    snapshot = place.take("x")
    index = place.runs / ".arrays/0/index.jsonl"
    shared = {"schema": 1, "facts": {"kind": "pretrain", "snapshot_hash": snapshot.tree_hash}}
    lines = [shared, ["a", "n", []], ["b", "n", []]]
    write(index, "".join(json.dumps(line) + "\n" for line in lines))
    place.refer("a", snapshot, "done")
    assert place.collect() == place.collect(finished=True) == []
    place.refer("b", snapshot, "failed")
    assert place.collect() == []
    assert place.collect(finished=True) == [snapshot.tree_hash]


def test_runs_of_another_checkout_that_share_the_store_count(place: Place, tmp_path: Path) -> None:
    snapshot = place.take("shared")
    other = Place(tmp_path / "other") if (tmp_path / "other").mkdir() is None else place
    other.store = place.store
    theirs = other.take("theirs")
    other.refer("a", theirs)
    assert place.collect() == [snapshot.tree_hash]
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(RunError, match=r"other/runs.*is not there.*\.users"):
        place.collect()
    assert stored(place.store) == [theirs.tree_hash]


def test_what_cannot_be_read_might_refer_to_anything(place: Place) -> None:
    place.take("x")
    run = place.refer("a", place.take("y"))
    run.run_json.write_text('{"schema": 1, "snap')
    with pytest.raises(RunError, match=r"a/run\.json is damaged"):
        place.collect()
    assert len(stored(place.store)) == 2


def test_leftovers_of_killed_copies_and_removals_go_after_a_while(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = place.take("x")
    place.refer("a", snapshot)
    for name in (f"{HALF_WRITTEN}abc-1", f"{REMOVED}abc-2"):
        write(place.store / name / "half.py", "x" * 10_000)
    garbage = collect_garbage(place.store, place.runs)
    assert garbage.leftovers == []
    monkeypatch.setattr(jobs.garbage, "LAUNCH_SEC", -1)  # ages cannot be set: ctime is the kernel's
    garbage = collect_garbage(place.store, place.runs)
    assert len(garbage.leftovers) == 2 and garbage.freed >= 20_000
    assert stored(place.store) == [snapshot.tree_hash]


def test_a_snapshot_in_use_whose_remover_was_killed_comes_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = place.take("x")
    place.refer("a", snapshot)
    snapshot.path.rename(place.store / f"{REMOVED}{snapshot.tree_hash}-12345678")
    monkeypatch.setattr(jobs.garbage, "LAUNCH_SEC", -1)
    assert collect_garbage(place.store, place.runs).leftovers == []
    verify_snapshot(snapshot.path)


def test_bytes_are_those_that_nothing_else_shares(place: Place) -> None:
    first, second = place.take("first " * 5000), place.take("second " * 5000)
    place.refer("a", first)
    before = disk_usage(place.store)
    garbage = collect_garbage(place.store, place.runs, dry_run=True)
    assert [each.name for each in garbage.snapshots] == [second.tree_hash]
    assert collect_garbage(place.store, place.runs) == garbage
    assert before - disk_usage(place.store) == garbage.freed > 0


def disk_usage(folder: Path) -> int:
    """Bytes of files below a folder, shared ones once."""
    states = [p.lstat() for p in folder.rglob("*") if p.is_file() and USED not in p.parts]
    return sum({state.st_ino: state.st_blocks * 512 for state in states}.values())


def _launch_again_and_again(root: Path, count: int, results: object) -> None:
    """Take the snapshot as a launch does, and look whether it is there to use."""
    place = Place.__new__(Place)
    place.source, place.store, place.runs = root / "source", root / "store", root / "runs"
    missing = 0
    for _ in range(count):
        snapshot = take_snapshot(place.source, place.store, exclude=[place.runs])
        try:
            verify_snapshot(snapshot.path)
        except jobs.errors.SnapshotError:
            time.sleep(0.05)  # renamed away for a moment, put back as it is in use
            missing += 1
            verify_snapshot(snapshot.path)
        # the next launch comes after a long while: what a remover may take
        for note in (place.store / USED).glob("*"):
            os.utime(note, (1, 1))
        os.utime(snapshot.path, (1, 1))
        time.sleep(0.002)
    results.put(missing)  # type: ignore[attr-defined]


def _collect_until(root: Path, stop: object, results: object) -> None:
    removed = 0
    while not stop.is_set():  # type: ignore[attr-defined]
        removed += len(collect_garbage(root / "store", root / "runs").snapshots)
    results.put(removed)  # type: ignore[attr-defined]


def test_a_launch_never_ends_up_with_a_snapshot_that_was_removed(
    place: Place, tmp_path: Path
) -> None:
    """Real processes: one launches the same tree, another removes all the while."""
    place.take("x")
    context = multiprocessing.get_context("fork")
    stop, launched, removed = context.Event(), context.Queue(), context.Queue()
    remover = context.Process(target=_collect_until, args=(tmp_path, stop, removed))
    launcher = context.Process(target=_launch_again_and_again, args=(tmp_path, 40, launched))
    remover.start()
    launcher.start()
    try:
        launched.get(timeout=60)
    finally:
        stop.set()
    assert removed.get(timeout=30) > 0, "nothing was removed: the race was not run"
    launcher.join()
    remover.join()
    assert launcher.exitcode == 0


def test_the_command_reports_and_explains(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = place.take("x" * 100_000)
    parser = argparse.ArgumentParser()
    gc_command.add_arguments(parser)
    where = ["--runs", str(place.runs), "--snapshots", str(place.store)]
    assert gc_command.run(parser.parse_args([*where, "--dry-run"])) == 0
    assert "would free 0.1 MB in 1; 0 stay" in capsys.readouterr().out
    assert gc_command.run(parser.parse_args([*where, "--older-than", "30d", "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["snapshots"] == []
    assert gc_command.run(parser.parse_args([*where, "--json"])) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["snapshots"][0]["name"] == snapshot.tree_hash and shown["freed"] > 100_000
    assert gc_command.HELP


def test_a_store_that_is_not_there_holds_nothing(place: Place) -> None:
    assert collect_garbage(place.store, place.runs).kept == 0
    assert LAUNCH_SEC >= 600
    assert SnapshotRules().refuse_mb == 500
