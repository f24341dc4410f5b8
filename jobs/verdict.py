"""How an attempt ended, read from the files of its ranks: exit codes cannot say it."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.run_folder import AttemptFolder, RunFolder, read_json


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended.

    Attributes:
        state: done; stopped (all saved, nothing lost); failed (a rank says so); lost (a rank left
            without a word); or open (ranks are missing that may still write).
        message: for people.
        may_retry: False if a rank says that starting again cannot help.
    """

    state: str
    message: str = ""
    may_retry: bool = True


def read_verdict(run: RunFolder, attempt: AttemptFolder, world_size: int) -> Verdict:
    """Return how the attempt ended as far as its ranks' files tell."""
    exits = {rank: read_json(attempt.exit_json(rank)) for rank in range(world_size)}
    failed = {rank: each for rank, each in exits.items() if each and each.get("state") == "failed"}
    if failed:
        rank, words = min(failed.items(), key=lambda item: (not item[1].get("message"), item[0]))
        may_retry = all(each.get("retry", True) for each in failed.values())
        return Verdict("failed", f"rank {rank}: {words.get('message') or 'no reason'}", may_retry)
    missing = [rank for rank, each in exits.items() if each is None]
    if missing:
        listed = ", ".join(str(rank) for rank in missing)
        return Verdict("open", f"no word from rank {listed}; see {attempt.logs}")
    states = {str(each["state"]) for each in exits.values() if each}
    if states == {"done"}:
        return Verdict("done")
    saved = [each.get("saved_step") for each in exits.values() if each]
    commit = run.last_commit_step()
    steps = [step for step in saved if isinstance(step, int)]
    if steps and (commit is None or commit < max(steps)):
        return Verdict("lost", f"step {max(steps)} was saved, the last COMMIT is {commit}")
    return Verdict("stopped", f"at step {max(steps, default=0)}")
