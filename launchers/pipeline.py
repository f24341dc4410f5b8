"""Run a graph of stages, each a run, each once those before it are done.

python launchers/pipeline.py --config configs/pipelines/debug.yaml --follow
python launchers/pipeline.py --config configs/pipelines/debug.yaml --status
python launchers/pipeline.py --config configs/pipelines/debug.yaml pretrain.optim.lr=3e-5 --dry-run

Values are written stage.key=value. Launched again a pipeline goes on: stages that are done or at
work are left alone. Stages whose code or values have changed are new runs, and so are those after
them, but for what --from keeps.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import make_parser, parse_flags  # noqa: E402


def main() -> int:
    """Read the flags and launch."""
    parser = make_parser(__doc__ or "", recipe="pipeline")
    parser.add_argument("--status", action="store_true", help="show the stages, start nothing")
    parser.add_argument(
        "--from",
        dest="start_at",
        metavar="STAGE",
        help="keep the runs of the stages before this one, whatever has changed since",
    )
    flags = parse_flags(parser, sys.argv[1:])

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.pipeline_request import run_pipeline

    return run_pipeline(Path(HOME), flags)


if __name__ == "__main__":
    sys.exit(main())
