from __future__ import annotations

from jobs.blame import SILENT_SEC, excluded_nodes, silent_nodes


def agent(name: str, time: float, state: str = "running") -> dict[str, object]:
    return {"name": name, "time": time, "state": state}


def test_node_of_the_last_attempt_is_excluded_once_and_twice_blamed_for_good() -> None:
    assert excluded_nodes([]) == []
    assert excluded_nodes([[], ["n2"]]) == ["n2"]
    assert excluded_nodes([["n2"], []]) == []
    assert excluded_nodes([["n2"], [], ["n2", "n3"]]) == ["n2", "n3"]
    assert excluded_nodes([["n2"], ["n2"], [], []]) == ["n2"]


def test_node_whose_agent_fell_silent_before_the_others_is_blamed() -> None:
    old = 1000.0 - SILENT_SEC - 1
    assert silent_nodes([agent("n1", 1000.0), agent("n2", old)]) == ["n2"]
    assert silent_nodes([agent("n1", 1000.0), agent("n2", 990.0)]) == []
    assert silent_nodes([agent("n1", 1000.0), agent("n2", old, "ended")]) == []
    assert silent_nodes([]) == []
