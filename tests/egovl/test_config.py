from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from egovl.config import ConfigError, Context, build, dump, find_context, load_tree


@dataclass(frozen=True)
class Square:
    name: Literal["square"] = "square"
    side: float = 1.0


@dataclass(frozen=True)
class Circle:
    name: Literal["circle"] = "circle"
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius={self.radius} must be above 0")


@dataclass(frozen=True)
class Drawing:
    shape: Square | Circle
    more: dict[str, Square | Circle] = field(default_factory=dict)
    file: Path | None = None
    sizes: tuple[int, ...] = ()
    rate: float = 0.1
    name: Literal["ink", "pencil"] = "ink"


HERE = Context(Path("/home/project"), {"videos": "/disk/videos", "near": "data/near"})


def test_a_tree_becomes_nested_dataclasses_with_the_named_variant() -> None:
    drawing = build(
        Drawing,
        {"shape": {"name": "circle", "radius": "3e-5"}, "more": {"a": {"name": "square"}}},
        HERE,
    )
    assert drawing == Drawing(Circle(radius=3e-5), {"a": Square()})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"shape": {"name": "circle", "radios": 1}}, r"shape\.radios: .*did you mean 'radius'"),
        (
            {"shape": {"name": "circel"}},
            r"shape\.name: unknown name 'circel'; did you mean 'circle'",
        ),
        ({"shape": {"radius": 1}}, r"shape\.name: unknown name None.*circle, square"),
        ({"shape": {"name": "square", "side": "long"}}, r"side: expected float, got 'long'"),
        ({"shape": {"name": "circle", "radius": -1}}, r"radius=-1.0 must be above 0"),
        ({"shape": {"name": "square"}, "more": {"b": {"name": "sqare"}}}, r"more\.b\.name.*square"),
        ({"shape": {"name": "square"}, "file": "$vidoes/a"}, r"'vidoes'.*did you mean 'videos'"),
        (
            {"shape": {"name": "square"}, "name": "pensil"},
            r"name: expected 'ink' or 'pencil', got 'pensil'; did you mean 'pencil'",
        ),
        ({"shape": {"name": "square"}, "file": 3}, r"file: expected a path, got 3"),
        ({"shape": 3}, r"shape"),
        ({}, r"shape: missing"),
    ],
)
def test_what_is_wrong_is_named_with_the_closest_right_word(
    tree: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Drawing, tree, HERE)


def test_paths_start_at_a_named_root_or_at_the_project() -> None:
    square = {"name": "square"}
    assert build(Drawing, {"shape": square, "file": "$videos/x"}, HERE).file == Path(
        "/disk/videos/x"
    )
    assert build(Drawing, {"shape": square, "file": "$near"}, HERE).file == Path(
        "/home/project/data/near"
    )
    assert build(Drawing, {"shape": square, "file": "a/b"}, HERE).file == Path("/home/project/a/b")


def test_overrides_and_one_base_are_merged_and_the_dump_loads_again(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("shape: {name: circle, radius: 2}\nrate: 1e-3\n")
    recipe = tmp_path / "high.yaml"
    recipe.write_text("base: low.yaml\nshape: {radius: 5}\n")
    tree = load_tree(recipe, ["sizes=[1, 2]", "more.x.name=square", "more.x.side=4"])
    drawing = build(Drawing, tree, HERE)
    assert drawing == Drawing(Circle(radius=5), {"x": Square(side=4)}, None, (1, 2), 1e-3)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump(drawing))
    assert build(Drawing, load_tree(resolved), HERE) == drawing


def test_another_variant_replaces_the_block_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("shape: {name: circle, radius: 2}\n")
    (tmp_path / "high.yaml").write_text("base: low.yaml\nshape: {name: square}\n")
    assert build(Drawing, load_tree(tmp_path / "high.yaml"), HERE).shape == Square()


def test_an_empty_block_clears_that_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("shape: {name: square}\nmore: {x: {name: square}}\n")
    (tmp_path / "high.yaml").write_text("base: low.yaml\nmore: {}\n")
    assert build(Drawing, load_tree(tmp_path / "high.yaml"), HERE).more == {}


@pytest.mark.parametrize("override", ["rate", "=3", "rate=[1", "rate.x=3"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    (tmp_path / "a.yaml").write_text("shape: {name: square}\nrate: 1.0\n")
    with pytest.raises(ConfigError, match="override"):
        load_tree(tmp_path / "a.yaml", [override])


def test_a_missing_recipe_names_the_closest_file(tmp_path: Path) -> None:
    (tmp_path / "pretrain.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"did you mean 'pretrain\.yaml'"):
        load_tree(tmp_path / "pretrian.yaml")


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("shape: {name: square}\nrate: 0.1\nrate: 0.2\n")
    with pytest.raises(ConfigError, match=r"'rate' stands twice: remove one(.|\n)*line 3"):
        load_tree(tmp_path / "twice.yaml")


def test_a_key_that_overrides_a_merged_one_stands_once(tmp_path: Path) -> None:
    text = "low: &b {a: 1, c: 2}\ndeep: {er: {x: &x {<<: *b, a: 3}}}\nend: {<<: *x, d: 4}\n"
    (tmp_path / "merged.yaml").write_text(text)
    assert load_tree(tmp_path / "merged.yaml")["end"] == {"a": 3, "c": 2, "d": 4}


def test_data_roots_come_from_the_nearest_paths_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EGOVL_HOME", raising=False)
    (tmp_path / "configs/a").mkdir(parents=True)
    (tmp_path / "configs/paths.yaml").write_text("near: data/near\nunset:\n")
    context = find_context(tmp_path / "configs/a/x.yaml")
    assert context.path("$near/v") == tmp_path.resolve() / "data/near/v"
    assert "unset" not in context.roots
    monkeypatch.setenv("EGOVL_HOME", "/elsewhere")
    assert find_context(tmp_path / "configs/a/x.yaml").path("$near") == Path("/elsewhere/data/near")


def test_a_section_without_a_name_is_the_default_variant(tmp_path: Path) -> None:
    from egovl.models.configs import DualEncoderConfig, ImageTowerConfig, VideoTowerConfig

    context = Context(tmp_path)
    plain = build(DualEncoderConfig, {"video": {"width": 32, "heads": 2}}, context)
    assert plain.video == VideoTowerConfig(width=32, heads=2)
    other = build(DualEncoderConfig, {"video": {"name": "clip_vit", "depth": 3}}, context)
    assert other.video == ImageTowerConfig(depth=3)
    with pytest.raises(ConfigError, match=r"text\.name: unknown name None"):
        build(DualEncoderConfig, {"text": {"width": 32}}, context)
