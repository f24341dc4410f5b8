"""From what a person types to a run: a folder, a name or its beginning, a job id, `last`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.errors import ConfigError, RunError, unknown_name
from jobs.run_facts import list_run_folders, read_facts
from jobs.run_folder import RunFolder, read_json

LAST = ("-", "last")
_JOB_ID = re.compile(r"\d+(_\d+)?")
_LEDGER = ".ledger.jsonl"


def runs_folder(asked: str | None) -> Path:
    """Return the folder of all runs: the asked one, else that of `configs/defaults.yaml`.

    The defaults are those of the project in the working directory, else of the one that this
    package is part of.

    Raises:
        ConfigError: if the asked folder is missing, or there are no defaults.
    """
    if asked is not None:
        if not Path(asked).is_dir():
            raise ConfigError(f"--runs {asked}: no such folder")
        return Path(asked).resolve()
    from jobs.settings import load_settings  # reads yaml, which --runs does without

    for home in (Path.cwd(), Path(__file__).resolve().parents[1]):
        if (home / "configs" / "defaults.yaml").is_file():
            return load_settings(home / "configs").runs
    raise ConfigError(
        f"no configs/defaults.yaml in {Path.cwd()}: go to the project's folder, or name the folder "
        "of the runs with --runs"
    )


def find_run(text: str, runs: str | None, *, begins: bool = False) -> RunFolder:
    """Return the run that a person means.

    Args:
        text: a run folder's path, `kind/name`, a name or its unique beginning, a job id, or one of
            `LAST` for the run that was launched last.
        runs: the folder of all runs as asked for; None for that of the defaults.
        begins: whether it may be an array's member that waits in the queue; its folder is made.

    Raises:
        RunError: if there is no such run, or several; with the closest names.
        ConfigError: if the folder of all runs is not known.
        SubmitError: if Slurm would have to say which job a waiting member is, and does not answer.
    """
    path = Path(text)
    if text not in LAST and _is_run(path):
        return RunFolder(path.resolve())
    folder = runs_folder(runs)
    known = {f"{kind}/{name}": path for path, kind, name in list_run_folders(folder)}
    known = {name: path for name, path in known.items() if _is_run(Path(path))}
    if text in LAST and known:
        return RunFolder(Path(max(known.values(), key=_launched)))
    matches = _match(text.strip("/"), known)
    if not matches and _JOB_ID.fullmatch(text):
        matches = _find_job(text, folder, known)
    if not matches and (folder / ".arrays").is_dir():
        member = _find_waiting(text.strip("/"), folder, begins=begins)
        if member is not None:
            return member
    if not known:
        raise RunError(f"no runs in {folder} yet")
    if len(matches) == 1:
        return RunFolder(Path(known[matches[0]]))
    if matches:
        newest = sorted(matches, key=lambda name: _launched(known[name]), reverse=True)
        more = f" and {len(newest) - 8} more" if len(newest) > 8 else ""
        raise RunError(f"{text!r} may be {', '.join(newest[:8])}{more}: write more of the name")
    if _JOB_ID.fullmatch(text):
        raise RunError(f"no run in {folder} has had the job {text}")
    raise RunError(_unknown(text, known))


def _find_waiting(text: str, folder: Path, *, begins: bool) -> RunFolder | None:
    """Return the array's member of this name or job id that has no folder yet; None if none is."""
    from jobs.array_member import member_of_job, waiting_members  # only a name without a run pays
    from jobs.ledger import comment_tag

    members = {f"{each.kind}/{each.folder}": each for each in waiting_members(folder)}
    matches = [members[name] for name in _match(text, members)]
    if not matches and _JOB_ID.fullmatch(text):
        array_id, _, task = text.partition("_")
        line = _ledger_line(array_id, folder)
        token = str(line.get("tag", "")).removeprefix(comment_tag(""))
        if token and not task and "/.arrays/" in str(line.get("run")):
            raise RunError(f"{text} is an array of many runs: name one of them, as {text}_0")
        member = member_of_job(folder, token, int(task)) if token and task else None
        matches = [member] if member is not None else []
    if len(matches) > 1:
        names = ", ".join(each.folder for each in matches[:8])
        raise RunError(f"{text!r} may be {names}: write more of the name")
    if not matches:
        return None
    (member,) = matches
    if member.has_begun:
        return member.run
    if begins:
        return member.begin()
    raise RunError(f"{member.kind}/{member.folder} has not begun: it waits in its array's queue")


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() or (path / "state.json").is_file()


def _launched(path: str) -> float:
    """Return when a run was first launched: `run.json` is written once."""
    try:
        return os.stat(f"{path}/run.json").st_mtime
    except OSError:
        return 0.0


def _match(text: str, known: Iterable[str]) -> list[str]:
    """Return the runs of this name, else those whose name begins so."""
    short = {name: name.partition("/")[2] for name in known}
    exact = [name for name in short if text in (name, short[name])]
    return exact or [n for n in short if n.startswith(text) or short[n].startswith(text)]


def _find_job(job_id: str, folder: Path, known: dict[str, str]) -> list[str]:
    """Return the run that has or had a job: by the ledger, else by every run's own notes."""
    by_path = {path: name for name, path in known.items()}
    if (path := _find_in_ledger(job_id, folder)) in by_path:
        return [by_path[path]]
    return [name for name, path in known.items() if job_id in _job_ids(path)]


def _find_in_ledger(job_id: str, folder: Path) -> str:
    return str(_ledger_line(job_id, folder).get("run", ""))


def _ledger_line(job_id: str, folder: Path) -> dict[str, Any]:
    """Return the newest line about a job; empty where there is none."""
    try:
        text = (folder / _LEDGER).read_text(encoding="utf-8")
    except OSError:
        return {}
    for line in reversed(text.splitlines()):
        if job_id not in line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:  # a line that its writer could not finish
            continue
        if str(entry.get("job_id")) == job_id:
            return entry
    return {}


def _job_ids(path: str) -> set[str]:
    facts = read_facts(path, "", "")
    found = {facts.job_id} if facts else set[str]()
    for each in (Path(path) / "submission").glob("*.json"):
        if each.name.count(".") == 1:  # others hold specs
            found.add(str((read_json(each) or {}).get("job_id")))
    return found


def _unknown(text: str, known: dict[str, str]) -> str:
    import difflib  # only a typing error pays for it

    short = [name.partition("/")[2] for name in known]
    close = difflib.get_close_matches(text, [*known, *short], n=1, cutoff=0.5)
    if not close:  # a name without the hash at its end, misspelt
        stems = {name.rpartition("-")[0]: name for name in short}
        close = [stems[each] for each in difflib.get_close_matches(text, stems, n=1, cutoff=0.5)]
    if len(known) <= 8 and not close:
        return unknown_name("run", text, known)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown run: {text!r}; {hint}see them all: python -m jobs list --all"
