"""``python -m egovl COMMAND``: everything egovl does, by hand or under torchrun.

    python -m egovl train --config configs/debug/demo.yaml --run-dir runs/try
    torchrun --nproc-per-node 2 -m egovl train --config F --run-dir D optim.lr=1e-4
    python -m egovl eval --config F --run-dir D
    python -m egovl check --config F trainer.steps=10

Under a launcher the run folder comes from EGOVL_RUN_DIR. A recipe's values are overridden by
``key=value`` words; ``check`` prints the resolved recipe and refuses wrong values and missing
files, without torch.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from egovl.engine.heartbeat import beat
from egovl.engine.signals import StopRequest

if TYPE_CHECKING:
    from egovl.work import Done

EXIT_USAGE = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command; 2 is the exit status of wrong words, recipes and files."""
    parser = build_parser()
    args = parser.parse_args(argv)
    rank = os.environ.get("RANK", "0")
    logging.basicConfig(
        level=logging.INFO if rank == "0" else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s"
        if rank == "0"
        else f"[rank {rank}] %(message)s",
        datefmt="%H:%M:%S",
    )
    return args.call(args)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m egovl",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("train", "train a recipe; resumes where the run folder's newest checkpoint is"),
        ("eval", "evaluate a recipe's `evaluate:` section with the weights of its `init:`"),
        ("rephrase", "other words for narrations: a recipe's `write:` section"),
        ("filter", "keep the texts that a dual encoder believes: a recipe's `write:` section"),
        ("check", "check a recipe and print it with every default spelled out"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(call=_check if name == "check" else _run)
        _add_recipe_arguments(command)
        if name != "train":
            command.add_argument(
                "--only", metavar="NAME", help="of the evaluations, this one (a key of evaluate:)"
            )
        if name == "check":
            command.add_argument(
                "--no-files", action="store_true", help="do not ask for the data to be there"
            )
        else:
            _add_run_dir(command)
    from egovl.narration.command import add_arguments as add_demo_arguments

    narrate = commands.add_parser("narrate", help="write what clips, or a video of yours, show")
    add_demo_arguments(narrate)
    _add_recipe_arguments(narrate, required=False)
    _add_run_dir(narrate)
    narrate.set_defaults(call=_narrate)
    from egovl.export import add_arguments as add_export_arguments

    text = "one file of a run's newest weights, or of their moving average"
    add_export_arguments(commands.add_parser("export", help=text, description=text))
    text = "write a recipe's `features:` of many videos into a store; goes on where it stopped"
    extract = commands.add_parser("extract", help=text, description=text)
    _add_recipe_arguments(extract)
    extract.add_argument(
        "--video",
        type=Path,
        action="append",
        metavar="FILE",
        help="a video of your own, instead of the recipe's; may be given again",
    )
    extract.set_defaults(call=_extract)
    from egovl.ground_configs import add_arguments as add_ground_arguments

    text = "spans of a video that answer a question, and a page that shows them"
    ground = commands.add_parser("ground", help=text, description=text)
    add_ground_arguments(ground)
    ground.set_defaults(call=_ground)
    from egovl.data.prepare.command import add_arguments

    prepare = commands.add_parser("prepare", help="make data: videos, annotations, tags")
    add_arguments(prepare)
    from egovl.convert.command import add_arguments as add_convert_arguments

    text = "released weights into ours, or ours into a published layout"
    add_convert_arguments(commands.add_parser("convert", help=text, description=text))
    _add_view_commands(commands)
    return parser


def _add_view_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from egovl.caption import add_arguments as add_caption_arguments
    from egovl.ensemble import add_arguments as add_ensemble_arguments

    text = "captions of ego clips, with clips of how others do it"
    add_caption_arguments(commands.add_parser("caption", help=text, description=text))
    text = "for every ego clip the instructional clips that show the same: a recipe's `supports:`"
    retrieve = commands.add_parser("retrieve", help=text, description=text)
    _add_recipe_arguments(retrieve)
    retrieve.set_defaults(call=_retrieve)
    text = "spans of several grounding models as one submission"
    add_ensemble_arguments(commands.add_parser("ensemble", help=text, description=text))


def _add_run_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=os.environ.get("EGOVL_RUN_DIR"),
        help="folder for config, checkpoints, metrics and result (default: $EGOVL_RUN_DIR)",
    )


def _add_recipe_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    help_text = "a recipe: configs/.../x.yaml"
    parser.add_argument("--config", type=Path, required=required, help=help_text)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values to change, as optim.lr=3e-5"
    )


def _check(args: argparse.Namespace) -> int:
    from egovl.config import ConfigError, dump
    from egovl.recipe import load_recipe, missing_inputs

    try:
        recipe = load_recipe(args.config, args.overrides).only(args.only)
    except ConfigError as error:
        return _refuse(error)
    sys.stdout.write(dump(recipe))
    missing = [] if args.no_files else missing_inputs(recipe)
    if missing:
        lines = "\n  ".join(missing)
        return _refuse(
            f"{args.config}: not there:\n  {lines}\n"
            "set the data roots in configs/paths.yaml, or the value with key=value"
        )
    return 0


def _run(args: argparse.Namespace) -> int:
    # before torch: under proctrack/linuxproc Slurm's SIGTERM comes straight to the ranks
    stop = StopRequest().install()
    beat("start", 0)
    from egovl.config import ConfigError
    from egovl.recipe import load_recipe

    if args.run_dir is None:
        return _refuse(
            "--run-dir is missing (and EGOVL_RUN_DIR is not set): where should it write?"
        )
    try:
        recipe = load_recipe(args.config, args.overrides)
        if args.command == "eval":
            recipe = recipe.only(args.only)
    except ConfigError as error:
        return _refuse(error)
    from egovl.run import run

    return run(recipe, Path(args.run_dir), stop, args.command)


def _extract(args: argparse.Namespace) -> int:
    stop = StopRequest().install()
    from egovl.config import ConfigError
    from egovl.recipe import load_recipe
    from egovl.work import Done, run_work

    words = list(args.overrides)
    if args.video:
        listed = ", ".join(f"'{file.resolve()}'" for file in args.video)
        words += [f"features.dataset.files=[{listed}]", "features.dataset.manifest=null"]
    try:
        recipe = load_recipe(args.config, words)
        if recipe.features is None and recipe.tokens is None:
            raise ConfigError(f"{args.config} has no features: or tokens: section")
        run_dir = os.environ.get("EGOVL_RUN_DIR")
        recipe = recipe.with_stores_in(Path(run_dir) if run_dir else None)
    except ConfigError as error:
        return _refuse(error)

    def work() -> Done:
        from egovl.extract import extract  # torch comes after the recipe is known to be right
        from egovl.query_tokens import extract_tokens

        if recipe.tokens is not None:
            extract_tokens(recipe)
        return extract(recipe, stop.requested) if recipe.features is not None else Done(True)

    return run_work(work)


def _retrieve(args: argparse.Namespace) -> int:
    stop = StopRequest().install()
    from egovl.config import ConfigError
    from egovl.recipe import load_recipe

    try:
        recipe = load_recipe(args.config, args.overrides)
        if recipe.supports is None:
            raise ConfigError(f"{args.config} has no supports: section")
    except ConfigError as error:
        return _refuse(error)
    from egovl.retrieve import retrieve  # torch comes after the recipe is known to be right
    from egovl.work import run_work

    return run_work(lambda: retrieve(recipe, stop.requested))


def _narrate(args: argparse.Namespace) -> int:
    if (args.video is None) == (args.config is None):
        return _refuse("narrate takes --config RECIPE (a corpus) or --video FILE (yours)")
    if args.config is not None:
        return _run(args)
    from egovl.narration.command import main as narrate_video

    return narrate_video(args)


def _ground(args: argparse.Namespace) -> int:
    from egovl.ground_configs import request_of

    request = request_of(args)
    from egovl.ground import main as ground  # torch comes after the words are known to be right

    return ground(request)


def _refuse(error: object) -> int:
    sys.stderr.write(f"egovl: {error}\n")
    return EXIT_USAGE


if __name__ == "__main__":
    raise SystemExit(main())
