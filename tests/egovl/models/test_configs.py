from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

import pytest

from egovl.models.configs import (
    TEXT_TOWERS,
    DualEncoderConfig,
    HFTextConfig,
    TextTowerConfig,
    VideoTowerConfig,
)


def test_importing_the_configs_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, egovl.models.configs\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (VideoTowerConfig, {"patch_size": 15}, "patch_size=15 .*divisor of image_size=224"),
        (VideoTowerConfig, {"heads": 7}, "heads=7 .*divisor of width=768"),
        (VideoTowerConfig, {"depth": 0}, "depth=0 .*at least 1"),
        (VideoTowerConfig, {"activation": "relu"}, "activation='relu' .*quick_gelu, gelu"),
        (VideoTowerConfig, {"time_init": "ones"}, "time_init='ones' .*zeros, rand"),
        (VideoTowerConfig, {"drop_path": 1.0}, "drop_path=1.0 .*below 1"),
        (VideoTowerConfig, {"mlp_ratio": 0.0}, "mlp_ratio=0.0 .*above 0"),
        (TextTowerConfig, {"heads": 7}, "heads=7 .*divisor of width=512"),
        (TextTowerConfig, {"name": "bert"}, "name='bert' .*clip_text"),
        (HFTextConfig, {"dropout": -0.1}, "dropout=-0.1 .*at least 0"),
        (DualEncoderConfig, {"projection": "mlp"}, "projection='mlp' .*linear, frozen_in_time"),
        (DualEncoderConfig, {"temperature_init": 0.0}, "temperature_init=0.0 .*above 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_what_is_allowed(
    config: type, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)


@pytest.mark.parametrize("name", sorted(TEXT_TOWERS))
def test_the_table_of_text_towers_agrees_with_the_name_field(name: str) -> None:
    assert asdict(TEXT_TOWERS[name]())["name"] == name
