from __future__ import annotations

import pytest

from launchers.arguments import make_parser, parse_flags


def parse(*words: str) -> dict[str, object]:
    return parse_flags(make_parser("Try it.", recipe="pretrain"), list(words))


def test_what_is_not_given_is_none() -> None:
    flags = parse()
    assert flags.pop("overrides") == []
    assert flags.pop("dry_run") is False
    assert flags.pop("follow") is False
    assert flags.pop("forecast") is False
    assert set(flags.values()) == {None}


def test_recipe_values_may_stand_between_flags() -> None:
    flags = parse("a.b=1", "--nodes", "4", "c=d=e", "--partition", "a100", "lr=-3e-5")
    assert flags["overrides"] == ["a.b=1", "c=d=e", "lr=-3e-5"]
    assert (flags["nodes"], flags["partition"]) == (4, "a100")


def test_node_of_the_papers_readme_means_nodes() -> None:
    assert parse("--node", "2")["nodes"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--partion", "a100"], "unknown flag --partion; did you mean --partition?"),
        (["--xyzzy=1"], "unknown flag --xyzzy; see --help"),
        (["lr", "3e-5"], "not key=value: 'lr'"),
        (["=3"], "not key=value: '=3'"),
        (["--nodes", "four"], "argument --nodes: invalid int value: 'four'"),
        (["--executor", "slrm"], "invalid choice: 'slrm'"),
        (["--config"], "expected one argument"),
    ],
)
def test_wrong_argument_ends_with_2_and_a_hint(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(*words)
    assert left.value.code == 2
    assert message in capsys.readouterr().err
