from __future__ import annotations

import pytest

from jobs.budgets import Budgets, Ended, exhausted, left, make_budgets, read_budgets, spent
from jobs.errors import ConfigError

BUDGETS = Budgets()
HOUR = 3600.0


def attempts(*causes: str, steps: int = 0, start: int = 0, seconds: float = 60.0) -> list[Ended]:
    """Attempts that each commit `steps` more steps."""
    found: list[Ended] = []
    for cause in causes:
        found.append(Ended(cause, start or None, start + steps or None, seconds))
        start += steps
    return found


@pytest.mark.parametrize(
    ("cause", "limit"), [("timeout", 100), ("node_fail", 10), ("crash", 3), ("hang", 1)]
)
def test_each_cause_may_be_continued_as_often_as_its_budget_says(cause: str, limit: int) -> None:
    history = attempts(*[cause] * limit, steps=10)
    assert exhausted(BUDGETS, history) is None
    assert left(BUDGETS, history)[cause] == 0
    reason = exhausted(BUDGETS, attempts(*[cause] * (limit + 1), steps=10))
    assert reason is not None
    assert f"the budget for {cause} is spent: {limit + 1} attempts" in reason


def test_preemptions_are_free() -> None:
    history = attempts(*["preempt"] * 500, steps=10)
    assert exhausted(BUDGETS, history) is None
    assert left(BUDGETS, history)["preempt"] is None


def test_one_cause_does_not_draw_on_anothers_budget() -> None:
    history = attempts("crash", "crash", "node_fail", "timeout", "hang", "crash", steps=10)
    assert exhausted(BUDGETS, history) is None
    assert left(BUDGETS, history) == {
        "preempt": None,
        "timeout": 99,
        "node_fail": 9,
        "crash": 0,
        "hang": 0,
        "no_progress": 2,
    }


def test_failed_preflight_draws_on_the_budget_for_nodes() -> None:
    history = attempts(*["node_fail"] * 6, *["preflight"] * 4)
    assert left(BUDGETS, history)["node_fail"] == 0
    assert exhausted(BUDGETS, [*history, *attempts("preflight")]) is not None


def test_crashes_are_forgotten_after_a_thousand_good_steps() -> None:
    three = attempts("crash", "crash", "crash", steps=10)
    assert exhausted(BUDGETS, [*three, Ended("crash", 30, 1029)]) is not None
    assert exhausted(BUDGETS, [*three, Ended("crash", 30, 1030)]) is None
    # gathered over attempts that ended for other reasons
    between = [Ended("preempt", 30, 530), Ended("timeout", 530, 1030)]
    assert spent(BUDGETS, [*three, *between])["crash"] == 0
    assert spent(BUDGETS, [*three, between[0], Ended("crash", 530, 600)])["crash"] == 4


def test_two_attempts_that_reach_their_limit_without_a_commit_end_the_run() -> None:
    assert exhausted(BUDGETS, attempts("timeout")) is None
    reason = exhausted(BUDGETS, attempts("timeout", "timeout"))
    assert reason is not None
    assert "no progress" in reason


def test_early_preemptions_neither_count_as_no_progress_nor_excuse_it() -> None:
    early = attempts(*["preempt"] * 20, seconds=600.0)
    assert exhausted(BUDGETS, early) is None
    history = [*attempts("timeout"), *early, *attempts("timeout")]
    assert "no progress" in (exhausted(BUDGETS, history) or "")


def test_long_attempts_that_save_nothing_count_whatever_ended_them() -> None:
    long = attempts("preempt", "node_fail", seconds=HOUR)
    assert "no progress" in (exhausted(BUDGETS, long) or "")


def test_new_commit_gives_the_progress_budget_back() -> None:
    history = [*attempts("timeout"), Ended("timeout", None, 5), Ended("timeout", 5, 5)]
    assert exhausted(BUDGETS, history) is None
    assert left(BUDGETS, history)["no_progress"] == 1


def test_causes_without_a_budget_are_not_counted() -> None:
    history = attempts(*["requeued"] * 30)
    assert exhausted(BUDGETS, history) is None


def test_yaml_may_change_any_number_and_lift_any_limit() -> None:
    pairs = read_budgets({"crash": 5, "timeout": "unlimited", "no_progress": 0}, "x.yaml")
    budgets = make_budgets(pairs)
    assert exhausted(budgets, attempts(*["crash"] * 5)) is None
    assert exhausted(budgets, attempts(*["timeout"] * 300)) is None
    assert left(budgets, attempts("timeout"))["timeout"] is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crashes": 3}, "did you mean 'crash'"),
        ({"crash": "many"}, "crash: 'many'"),
        ({"crash": -2}, "-2"),
    ],
)
def test_wrong_budgets_are_named_with_their_file(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_budgets(values, "clusters/x.yaml")
    assert "clusters/x.yaml" in str(caught.value)
