from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from jobs.run_folder import RunFolder, append_line, create_json, read_json, write_json_atomic


def commit(run: RunFolder, step: int, text: str | None = None) -> None:
    folder = run.checkpoints / f"step-{step}"
    folder.mkdir(parents=True)
    (folder / "COMMIT").write_text(text if text is not None else json.dumps({"step": step}))


def test_written_json_is_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    write_json_atomic(path, {"a": 1})
    write_json_atomic(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert os.listdir(path.parent) == ["state.json"]


def test_missing_broken_and_foreign_json_reads_as_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "half.json").write_text('{"a": ')
    assert read_json(tmp_path / "half.json") is None
    (tmp_path / "list.json").write_text("[1]")
    assert read_json(tmp_path / "list.json") is None
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert read_json(tmp_path / "binary.json") is None


def test_second_creation_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "claim.json"
    assert create_json(path, {"by": "one"})
    assert not create_json(path, {"by": "two"})
    assert read_json(path) == {"by": "one"}
    assert os.listdir(tmp_path) == ["claim.json"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_creation_is_exclusive_on_a_disk_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "claim.json"
    assert create_json(path, {"by": "one"})
    assert not create_json(path, {"by": "two"})
    assert read_json(path) == {"by": "one"}


def test_link_whose_reply_was_lost_counts_as_won(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def lose_reply(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "sent again")

    monkeypatch.setattr(os, "link", lose_reply)
    assert create_json(tmp_path / "claim.json", {})


def _race(path: str, number: int, token: str, barrier: object, won: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    if RunFolder(Path(path)).claim_attempt(number, token, 0):
        won.append(token)  # type: ignore[attr-defined]


def test_one_of_many_claims_on_an_attempt_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        for number in range(1, 11):
            barrier, won = manager.Barrier(6), manager.list()
            racers = [
                context.Process(target=_race, args=(str(tmp_path), number, f"t{k}", barrier, won))
                for k in range(6)
            ]
            for each in racers:
                each.start()
            for each in racers:
                each.join()
            holder = RunFolder(tmp_path).attempt(number).holder
            assert holder is not None
            assert list(won) == [holder.token]


def test_claims_are_found_by_token_and_restart(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.latest_attempt() == 0
    assert run.claim_attempt(1, "a", 0)
    assert run.claim_attempt(2, "a", 1)
    assert run.claim_attempt(10, "b", 0)
    assert run.attempt_numbers() == [1, 2, 10]
    assert run.latest_attempt() == 10
    assert [run.find_claim("a", 1), run.find_claim("b", 0), run.find_claim("b", 1)] == [2, 10, None]


def test_attempt_folder_without_a_claim_does_not_count(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.attempt(3).path.mkdir(parents=True)
    assert run.latest_attempt() == 0


def test_last_commit_is_read_from_whole_marks_only(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.last_commit_step() is None
    commit(run, 5)
    commit(run, 20)
    commit(run, 30, text='{"st')
    commit(run, 40, text="{}")
    (run.checkpoints / "step-50").mkdir()
    (run.checkpoints / ".tmp-60").mkdir()
    assert run.last_commit_step() == 20


def test_claim_says_from_which_commit_its_attempt_begins(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    commit(run, 5)
    run.claim_attempt(1, "a", 0)
    assert (read_json(run.attempt(1).claim_json) or {})["commit"] == 5


def test_state_carries_the_last_commit(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_state() == {}
    commit(run, 7)
    run.write_state("running", attempt=2)
    state = run.read_state()
    assert (state["state"], state["attempt"], state["step"]) == ("running", 2, 7)


def test_appended_lines_of_one_file_stay_whole(tmp_path: Path) -> None:
    for number in range(3):
        append_line(tmp_path / "x" / "ledger.jsonl", {"n": number})
    lines = (tmp_path / "x" / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [0, 1, 2]
