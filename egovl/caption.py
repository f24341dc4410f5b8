"""``python -m egovl caption``: what happens in ego clips, with clips of how others do it.

Reads the published demo's json as it is: a list of ``{"ego_video": path, "exo_video": [{"path",
"caption"}, ...]}`` (Egoinstructor spec 3.2, 7).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from egovl.data.prompt_tokens import PromptTokenizer
    from egovl.models.captioner.captioner import Captioner

INSTRUCTION = "Describe the content of the video"
"""Of the published demo: no full stop, and not in lower case."""
EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--testdata", type=Path, required=True, help="json of clips")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="run folder or file of a captioner"
    )
    parser.add_argument(
        "--base", type=Path, help="folder of the base model, where the file is its trained part"
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="tokenizer.json (default: in --base, or the run's own)"
    )
    parser.add_argument("--max-shot", type=int, default=4, help="supports, 0 to 4 (default 4)")
    parser.add_argument("--frames", type=int, help="frames of a clip (default: as trained)")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument(
        "--legacy-demo-order",
        action="store_true",
        help="clips in the published demo's order, the ego clip first, though texts have it last",
    )
    parser.add_argument("--out", type=Path, help="also write the captions as json lines")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Caption every entry; 2 is the exit status of wrong words and files."""
    from egovl.data.decode import DecodeError

    try:
        entries = load_entries(args.testdata, args.max_shot)
        writer = _load_writer(args)
        lines = []
        for entry in entries:
            caption = writer.write(entry)
            print(f"{entry['ego_video']}: {caption}", flush=True)
            lines.append(json.dumps({"ego_video": str(entry["ego_video"]), "caption": caption}))
        if args.out is not None:
            args.out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except (OSError, ValueError, DecodeError) as error:
        print(f"egovl: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def load_entries(path: Path, max_shot: int) -> list[dict[str, Any]]:
    """Entries of a demo file, their paths found, at most `max_shot` supports each.

    Raises:
        FileNotFoundError: a video is neither where the file says nor beside the file; names both.
        ValueError: another kind of file, or fewer supports than asked for.
    """
    if max_shot < 0:
        raise ValueError(f"--max-shot {max_shot}: must be 0 or more")
    if not path.is_file():
        raise FileNotFoundError(f"--testdata {path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no json: {error}") from error
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} holds no list of entries")
    entries = []
    for number, entry in enumerate(content):
        try:
            exo = [(support["path"], support["caption"]) for support in entry["exo_video"]]
            ego = entry["ego_video"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, entry {number}: {error!r} is missing; an entry is "
                '{"ego_video": path, "exo_video": [{"path": ..., "caption": ...}]}'
            ) from error
        if len(exo) < max_shot:
            raise ValueError(f"{path}, entry {number}: {len(exo)} supports, --max-shot {max_shot}")
        found = [(find_video(name, path), caption) for name, caption in exo[:max_shot]]
        entries.append({"ego_video": find_video(ego, path), "exo_video": found})
    return entries


def find_video(name: str, testdata: Path) -> Path:
    """A video as written, or by its base name beside the json.

    Raises:
        FileNotFoundError: it is at neither place.
    """
    written, beside = Path(name), testdata.parent / Path(name).name
    for place in (written, beside):
        if place.is_file():
            return place
    raise FileNotFoundError(f"{testdata}: no video at {written}, nor at {beside}")


def _load_writer(args: argparse.Namespace) -> CaptionWriter:
    from egovl.convert.egoinstructor_files import (
        convert_file,
        load_base,
        load_own_captioner,
        read_base_config,
    )
    from egovl.data.prompt_tokens import load_prompt_tokenizer
    from egovl.models.captioner.captioner import Captioner
    from egovl.trained import load_trained

    if args.base is not None:
        model = read_base_config(args.base).build()
        load_base(model, args.base)
        if args.checkpoint.suffix == ".safetensors":
            from egovl.convert.own import read_weights_file

            load_own_captioner(model, read_weights_file(args.checkpoint)[1])
        else:
            load_own_captioner(model, convert_file(args.checkpoint).weights)
    else:
        model = load_trained(args.checkpoint, Captioner)
    source = args.tokenizer or args.base or _tokenizer_of(args.checkpoint)
    tokenizer = load_prompt_tokenizer(source, model.config.decoder.context_length)
    rows = model.config.decoder.vocab_size
    if tokenizer.vocab_size > rows:
        raise ValueError(f"{source} has {tokenizer.vocab_size} tokens, the model {rows} rows")
    return CaptionWriter(model.eval(), tokenizer, args)


def _tokenizer_of(checkpoint: Path) -> Path:
    """The tokenizer that a run was trained with."""
    from egovl.recipe import load_recipe

    if not checkpoint.is_dir():
        raise ValueError("--tokenizer is missing: a file of weights does not say which it needs")
    described = load_recipe(checkpoint / "config.yaml").tokenizer
    return described.file


class CaptionWriter:
    """A captioner with its tokenizer, for demo entries."""

    def __init__(
        self, model: Captioner, tokenizer: PromptTokenizer, args: argparse.Namespace
    ) -> None:
        import torch

        from egovl.data.reader_cache import ReaderCache
        from egovl.models.generation.configs import GenerationConfig

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device)
        self._tokenizer = tokenizer
        self._readers = ReaderCache("auto", 8, 60.0)
        self._frames = args.frames or model.config.resampler.max_frames or 1
        self._ego_first = args.legacy_demo_order
        self._config = GenerationConfig(
            strategy="beam" if args.beams > 1 else "greedy",
            num_beams=args.beams,
            max_new_tokens=args.max_new_tokens,
            no_repeat_ngram_size=3,
            bad_words=tokenizer.bad_words(),
            eos_id=tokenizer.end_id,
            pad_id=tokenizer.end_id,
        )

    def write(self, entry: Mapping[str, Any]) -> str:
        """The caption of one entry of `load_entries`."""
        import torch

        from egovl.data.prompts import Exchange, PromptStyle, finish_text, prompt_text, tidy_answer
        from egovl.models.captioner.writing import Writer
        from egovl.models.generation.generate import generate

        supports = entry["exo_video"]
        items = [Exchange(INSTRUCTION, tidy_answer(caption)) for _, caption in supports]
        text = prompt_text([*items, Exchange(INSTRUCTION, "")], PromptStyle(), is_open=True)
        ids = self._tokenizer.encode_prompt(text, is_open=True)
        ids = ids[1:] if self._ego_first else ids  # the published demo has no begin token
        tokens = torch.tensor([ids], device=self._device)
        exo = [path for path, _ in supports]
        order = [entry["ego_video"], *exo] if self._ego_first else [*exo, entry["ego_video"]]
        with torch.no_grad():
            media = self._model.encode_clips(self._clips(order))
            writer = Writer(self._model, media, self._tokenizer.image_id)
            written = generate(writer, tokens, self._config).ids[0].tolist()
        return finish_text(self._tokenizer.decode(written))

    def _clips(self, paths: Sequence[Path]) -> Tensor:
        """Normalised pixels ``[1, T, F, C, H, W]``."""
        import torch

        from egovl.data.clip_files import read_spread, to_pixels
        from egovl.data.transforms import normalize_video

        size = self._model.config.vision.image_size
        clips = [
            to_pixels(read_spread(self._readers, path, self._frames), size, as_float=True)
            for path in paths
        ]
        pixels = torch.stack(clips)[None].to(self._device)
        return normalize_video(pixels.transpose(2, 3), "clip_rounded").transpose(2, 3)
