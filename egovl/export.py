"""``python -m egovl export``: one file of a run's newest weights, for sharing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXIT_USAGE = 2
_SUFFIXES = {"egovl": (".safetensors",), "groundnlq": (".tar", ".pth", ".pt")}

_EPILOG = """\
A run with trainer.ema_decay keeps a moving average of its weights beside them; --ema exports that.
GroundNLQ's layout holds both, as state_dict and state_dict_ema; of a run without an average, the
weights twice. Other layouts: export, then `python -m egovl convert FILE --origin egovl --to NAME`.

examples:
  python -m egovl export --run-dir runs/pretrain/NAME --out model.safetensors
  python -m egovl export --run-dir runs/finetune/NAME --out model_ema.safetensors --ema
  python -m egovl export --run-dir runs/finetune/NAME --out epoch_009.pth.tar --to groundnlq
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--run-dir", type=Path, required=True, help="the run to export")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument(
        "--ema", action="store_true", help="the moving average of the weights; the run must have it"
    )
    parser.add_argument(
        "--to",
        default="egovl",
        choices=tuple(_SUFFIXES),
        help="layout of the file: ours, one safetensors file (default), or the published one",
    )
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Export; 2 is the exit status of wrong words and files."""
    if args.out.suffix not in _SUFFIXES[args.to]:
        return _refuse(f"--out {args.out}: a file for {args.to} ends in {_SUFFIXES[args.to][0]}")
    # kept out of the top so that --help loads no torch
    from egovl.engine.checkpoint import CheckpointError

    try:
        count, step = export(args.run_dir, args.out, layout=args.to, averaged=args.ema)
    except (OSError, ValueError, CheckpointError) as error:
        return _refuse(error)
    kind = "averaged tensors" if args.ema and args.to == "egovl" else "tensors"
    print(f"{args.out}: {count} {kind} of step {step}, {args.out.stat().st_size / 2**20:.1f} MiB")
    return 0


def export(
    run_dir: Path, out: Path, *, layout: str = "egovl", averaged: bool = False
) -> tuple[int, int]:
    """Write a run's newest weights; returns their number and step.

    Args:
        run_dir: of a training run.
        out: the file.
        layout: ``egovl`` or ``groundnlq``.
        averaged: take their moving average, or insist that there is one where the layout has both.

    Raises:
        FileNotFoundError: no config or no checkpoint there.
        egovl.engine.checkpoint.CheckpointError: the run kept no average.
        ValueError: that layout has no such model.
    """
    from egovl import config as configuration
    from egovl.convert import groundnlq
    from egovl.convert.save import save_checkpoint, save_weights
    from egovl.engine.checkpoint import has_average, read_weights
    from egovl.models.grounder.configs import GrounderConfig
    from egovl.recipe import load_recipe
    from egovl.run import load_run, newest_checkpoint

    recipe, model, step = load_run(run_dir, load_recipe)
    weights = model.state_dict()
    if layout == "egovl":
        tensors = read_weights(newest_checkpoint(run_dir), averaged=True) if averaged else weights
        save_weights(out, tensors, config=configuration.dump(recipe), step=step)
        return len(tensors), step
    if not isinstance(recipe.model, GrounderConfig):
        raise ValueError(f"{run_dir}: GroundNLQ has no model like a {type(recipe.model).__name__}")
    average = None
    if averaged or has_average(newest_checkpoint(run_dir)):
        average = read_weights(newest_checkpoint(run_dir), averaged=True)
    content = groundnlq.publish(weights, average)
    save_checkpoint(out, content)
    return len(content["state_dict"]), step


def _refuse(error: object) -> int:
    print(f"egovl: {error}", file=sys.stderr)
    return EXIT_USAGE
