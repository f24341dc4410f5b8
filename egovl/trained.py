"""A trained model by the path of its run folder, or of a file that `export` or `convert` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import nn

from egovl.convert.initialize import load_weights
from egovl.convert.own import read_weights_file
from egovl.recipe import load_recipe, model_config
from egovl.run import load_run

Model = TypeVar("Model", bound=nn.Module)


def load_trained(checkpoint: Path, kind: type[Model]) -> Model:
    """The model, in eval mode.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it holds another kind of model.
    """
    if checkpoint.is_dir():
        _, model, _ = load_run(checkpoint, load_recipe)
    else:
        described, state = read_weights_file(checkpoint)
        model = model_config(described, checkpoint).build()
        load_weights(model, "egovl", state)
    if not isinstance(model, kind):
        raise ValueError(f"{checkpoint} holds a {type(model).__name__}, not a {kind.__name__}")
    return model.eval()
