"""`python -m egovl convert IN --origin lavila --out FILE`: weights from one layout to another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egovl.convert.released import Converted

_EPILOG = """\
origins:
  lavila   dual encoders and classifiers of LaViLa's model zoo
  egovlp   EgoVLP's released dual encoders
  hiervl   HierVL's released encoders; what its aggregator never uses is reported as dropped
  egoinstructor   its released retriever, and the trained part of its captioner
  clip     OpenAI's CLIP with a vision transformer
  groundnlq  GroundNLQ's grounding models, base and star (raw weights; --ema for their average)
  egovl    a file that `export` or `convert` wrote

The file is read without running anything it contains. Sizes are read off the tensors; names that
nothing knows are reported and left out (--strict refuses them).

examples:
  python -m egovl convert egovlp_pt_best.pth --origin egovlp --out egovlp.safetensors
  python -m egovl convert egovlp_pt_best.pth --origin egovlp --to lavila --half --out egovlp_f16.pth
  python -m egovl convert mine.safetensors --origin egovl --to lavila --out mine.pth
"""

SHOWN = 20
_TORCH = (".pth", ".pt")
_SUFFIXES = {
    "egovl": (".safetensors",),
    "lavila": _TORCH,
    "egovlp": _TORCH,
    "hiervl": _TORCH,
    "groundnlq": (".tar", *_TORCH),
    "egoinstructor": _TORCH,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, metavar="IN", help="the weights to read")
    parser.add_argument(
        "--origin",
        required=True,
        choices=("lavila", "egovlp", "hiervl", "groundnlq", "egoinstructor", "clip", "egovl"),
        help="who wrote IN",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--to",
        default="egovl",
        choices=tuple(_SUFFIXES),
        help="layout of FILE: ours, one safetensors file (default), or a published one",
    )
    parser.add_argument("--half", action="store_true", help="store float16, half the size")
    parser.add_argument("--ema", action="store_true", help="the file's moving average of weights")
    parser.add_argument("--strict", action="store_true", help="refuse names that nothing knows")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Convert; 2 is the exit status of wrong words and files."""
    if args.out.suffix not in _SUFFIXES[args.to]:
        return _refuse(f"--out {args.out}: a file for {args.to} ends in {_SUFFIXES[args.to][0]}")
    # kept out of the top so that --help loads no torch
    from egovl.convert.save import save_checkpoint, save_weights

    try:
        converted = _read(args)
        _print_report(args.file, converted)
        weights = _in_half(converted.weights) if args.half else converted.weights
        if args.to == "egovl":
            save_weights(args.out, weights, config=_described(converted.config))
        else:
            save_checkpoint(args.out, _published(converted.config, weights, args.to))
    except (OSError, ValueError) as error:
        return _refuse(error)
    print(f"{args.out}: {len(weights)} tensors, {args.out.stat().st_size / 2**20:.0f} MiB")
    return 0


def _published(config: Any, weights: dict[str, Any], layout: str) -> dict[str, Any]:
    if layout == "egoinstructor":
        from egovl.convert import egoinstructor_files

        return egoinstructor_files.publish(config, weights)
    from egovl.convert.released import publish

    return publish(config, weights, layout)


def _read(args: argparse.Namespace) -> Converted:
    from egovl.convert.released import convert_released

    if args.origin == "egoinstructor":
        from egovl.convert.egoinstructor_files import convert_file

        return convert_file(args.file)
    if args.origin != "egovl":
        return convert_released(args.file, args.origin, strict=args.strict, averaged=args.ema)
    from egovl.convert.own import read_weights_file
    from egovl.recipe import model_config

    described, state = read_weights_file(args.file)
    return convert_own(args.file, model_config(described, args.file), state)


def convert_own(file: Path, config: Any, state: dict[str, Any]) -> Converted:
    """Check a file of ours against the sizes that its header states."""
    import torch

    from egovl.convert.egoinstructor_files import match_own
    from egovl.convert.released import Converted
    from egovl.convert.unpickle import CheckpointError

    with torch.device("meta"):
        own = config.build().state_dict()
    try:
        return Converted(config, *match_own(config, own, state))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _described(config: Any) -> str:
    from egovl.recipe import dump_model

    return dump_model(config)


def _in_half(weights: dict[str, Any]) -> dict[str, Any]:
    return {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}


def _print_report(file: Path, converted: Converted) -> None:
    report = converted.report
    print(f"{file}: {report}")
    for title, names in (
        ("missing, kept their initial value", report.missing),
        ("unknown, left out", report.unexpected),
        ("dropped", report.dropped),
    ):
        if names:
            print(f"{title}: {_some(names)}")


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _refuse(error: object) -> int:
    print(f"egovl: {error}", file=sys.stderr)
    return 2
