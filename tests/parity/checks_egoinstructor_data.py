"""Egoinstructor's text, frames, second-features, pairs and sampler."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egovl.data.bootstrap import bootstrap_ranks
from egovl.data.caption_frames import (
    chunk_names,
    chunked_reads,
    clip_frame_ids,
    spread_frame_ids,
    whole_reads,
)
from egovl.data.prompt_tokens import PromptTokenizer, load_prompt_tokenizer
from egovl.data.prompts import (
    PromptStyle,
    choose_supports,
    exchange_of,
    finish_text,
    format_example,
    prompt_text,
    reference_of,
    tidy_answer,
    tidy_question,
)
from egovl.data.sampling import DrawInteger, VideoFacts
from egovl.data.second_sampling import evaluation_seconds, seconds_of, training_seconds
from egovl.data.transforms import normalize_channels, squash
from egovl.data.view_pairs import ViewClip, ViewPairs, clip_text, read_view_clips
from egovl.data.word_tokens import clean_narration, word_tokens
from egovl.losses.answer_labels import PromptMarks, answer_labels
from tests.parity.golden import GoldenCase

ASSETS = Path(__file__).parent / "assets"
TOKENIZER = ASSETS / "tiny_neox_tokenizer.json"

Entry = Mapping[str, Any]


def numpy_draw(seed: int | None) -> DrawInteger:
    """The published draws: numpy's old generator."""
    state = np.random.RandomState(seed)
    return lambda low, high: int(state.randint(low, high + 1))


# --- text ---------------------------------------------------------------------------------------


def check_text_processing(case: GoldenCase) -> None:
    """Words, narrations, questions, answers, and whole samples with ids, labels, clips."""
    for text, golden in case.json.get("clear_narration", []):
        case.exact(f"clean {text}", clean_narration(text), golden)
    for text, golden in case.json.get("word_tokenize", []):
        case.exact(f"words {text}", word_tokens(text), golden)
    for text, seed, golden in case.json.get("pre_question", []):
        case.exact(f"question {text}", tidy_question(text, random.Random(seed)), golden)
    for text, words, golden in case.json.get("pre_answer", []):
        case.exact(f"answer {text}", tidy_answer(text, words), golden)
    for text, golden in case.json.get("post_process_generation", []):
        case.exact(f"finish {text}", finish_text(text), golden)
    for number, entry in enumerate(case.json.get("samples", [])):
        _check_sample(case, entry, f"sample {number}")


def _check_sample(case: GoldenCase, entry: Entry, label: str) -> None:
    options = {**case.json.get("default_options", {}), **entry["options"]}
    records, ids = case.json["dataset"], entry["support_ids"]
    key = _query_key(case, entry)
    style = PromptStyle(
        format=options["inst_format"],
        system=options["wrap_sys"],
        clean_narrations=options["clean_narration"],
        use_chat=options["use_chat"],
    )
    draws = random.Random(entry["seed"])
    chosen: list[str] = []
    clips: list[float] = []
    exchanges = []
    if options["xview"] and options["max_shot"]:

        def is_readable(candidate: int) -> bool:
            vid = records[ids[candidate]]["image_ids"][0]["vid"]
            return vid != "bad" and not entry["failall"]

        def pick(found: Sequence[int], missing: int) -> Sequence[int]:
            # the supports that were read have their questions by now
            exchanges.extend(exchange_of(records[ids[i]], style, draws) for i in found)
            return draws.choices(found, k=missing)

        supports = choose_supports(len(ids), options["max_shot"], is_readable, pick)
        chosen = [ids[i] for i in supports.records]
        # names of supports end in their number
        clips = [0.0 if i is None else float(ids[i].rpartition("_")[2]) for i in supports.clips]
    elif options["xview"]:
        chosen = [format_example(key)]
    exchanges += [exchange_of(records[k], style, draws) for k in [*chosen, key][len(exchanges) :]]
    text = prompt_text(exchanges, style, is_open=options["is_testing"])
    tokenizer = load_prompt_tokenizer(TOKENIZER, options["max_seq_len"], legacy_truncate=True)
    tokens, _ = tokenizer(text)
    found = {
        "query": text,
        "answer": reference_of(records[key], style),
        "input_ids": tokens[0],
        "clip_order": [*clips, 0.0],
        "labels": answer_labels(tokens, _marks(tokenizer))[0],
    }
    for name, value in found.items():
        if name in entry:
            case.exact(f"{label}/{name}", value, entry[name])
    if "patch_shape" in entry:
        count = [len(clips) + 1, options["resample_frames"]]
        case.exact(f"{label}/patch_shape", count, entry["patch_shape"][:2])
    for name, token in case.json.get("special_ids", {}).items():
        case.exact(f"{label}/{name}", _SPECIAL[name](tokenizer), token)


def _query_key(case: GoldenCase, entry: Entry) -> str:
    """The only record that is no support; named where a file says which."""
    if "query_id" in entry:
        return entry["query_id"]
    first = sorted(case.json["dataset"])[0]
    assert first not in entry["support_ids"], "the query is among its supports"
    return first


_SPECIAL = {
    "endofchunk": lambda t: t.end_id,
    "image": lambda t: t.image_id,
    "answer": lambda t: t.answer_id,
    "pad": lambda t: t.pad_id,
    "eos_bos": lambda t: t.end_of_text_id,
}


def _marks(tokenizer: PromptTokenizer) -> PromptMarks:
    return PromptMarks(tokenizer.answer_id, tokenizer.end_id, tokenizer.image_id, tokenizer.pad_id)


# --- frames -------------------------------------------------------------------------------------


def check_frame_sampling(case: GoldenCase) -> None:
    """Ids of segments, reads of chunked and of whole videos, ids over a whole file."""
    for number, entry in enumerate(case.json.get("get_frame_ids", [])):
        bounds = (entry["start"], entry["end"], entry["n"])
        for name in (key for key in entry if key.startswith(("center", "jitter"))):
            seed = case.json.get("jitter_np_seed") if name.startswith("jitter") else None
            draw = numpy_draw(seed) if name.startswith("jitter") else None
            if isinstance(entry[name], str):
                case.raises(f"ids {number}/{name}", lambda b=bounds, d=draw: clip_frame_ids(*b, d))
                continue
            case.exact(f"ids {number}/{name}", clip_frame_ids(*bounds, draw), entry[name])
    for number, entry in enumerate(case.json.get("chunked", [])):
        _check_reads(case, f"chunked {number}", entry, _chunked)
    for number, entry in enumerate(case.json.get("whole", [])):
        _check_reads(case, f"whole {number}", entry, _whole)
    for number, entry in enumerate(case.json.get("demo_linspace", [])):
        case.exact(f"demo {number}", spread_frame_ids(entry["n"], entry["k"]), entry["ids"])


def _check_reads(case: GoldenCase, label: str, entry: Entry, plan: Any) -> None:
    if "error" in entry:
        case.raises(label, lambda: plan(case, entry))
        return
    golden = [[file, ids] for file, ids in entry["reads"] if ids]
    case.exact(label, plan(case, entry), golden)


def _chunked(case: GoldenCase, entry: Entry) -> list[list[object]]:
    where = case.json["video_roots"]["chunked"]
    folder = f"{where['root']}/{entry.get('vid', where.get('vid'))}"

    def frames(chunk: int) -> int:
        return case.json["videos"][f"{folder}/{chunk_names(chunk)[0]}"]["frames"]

    span = (entry["second"], entry["end_second"])
    chunk_sec, fps = entry["chunk_len"], entry["fps"]
    reads = chunked_reads(span, entry["clip_length"], frames, chunk_sec=chunk_sec, fps=fps)
    return [[f"{folder}/{chunk_names(chunk)[0]}", ids] for chunk, ids in reads]


def _whole(case: GoldenCase, entry: Entry) -> list[list[object]]:
    file = f"{case.json['video_roots']['whole']['root']}/{entry['vid']}.mp4"
    facts = case.json["videos"][file]
    span = (entry["second"], entry["end_second"])
    video = VideoFacts(facts["frames"], facts["fps"])
    return [[file, whole_reads(span, entry["clip_length"], video)]]


def check_frame_transform(case: GoldenCase) -> None:
    """Bicubic resize with and without antialiasing, then the rounded constants."""
    inputs = case.group("inputs")
    for name, golden in case.group("outputs").items():
        source, _, flag = name.rpartition("_antialias")
        resized = squash(inputs[source], case.json["size"], antialias=flag == "True")
        pixels = normalize_channels(resized, case.json["mean255"], case.json["std255"])
        case.close(name, pixels.transpose(0, 1)[None], golden, "F")


def check_bootstrap(case: GoldenCase) -> None:
    """Rows of every rank."""
    for number, entry in enumerate(case.json.get("cases", [])):
        seeds = torch.Generator().manual_seed(case.json["torch_seed"])
        ranks = bootstrap_ranks(
            entry["dataset_len"], entry["batch_size"], entry["world_size"], seeds
        )
        case.exact(f"{number}", ranks, entry["ranks"])
        if "num_samples" in entry:
            case.exact(f"{number}/num", sum(map(len, ranks)), entry["num_samples"])


# --- second-features ----------------------------------------------------------------------------


def check_retrieval_dataset(case: GoldenCase) -> None:
    """Seconds of training and evaluation clips, times, texts, pairs."""
    lengths, options = case.json.get("feature_lengths", {}), case.json.get("options", {})
    for number, entry in enumerate(case.json.get("train", [])):
        length = lengths[entry["vid"]]
        ids = training_seconds(
            (entry["start"], entry["end"]),
            entry["clip_length"],
            length,
            is_exo=bool(entry["exo"]),
            expand_sec=options["expand_period"],
            draw=numpy_draw(entry["seed"]) if entry["training"] else None,
        )
        if isinstance(entry["seq"], str):  # published: an error; ours: the last second
            assert max(ids) == length, entry
            continue
        case.exact(f"train {number}", ids, entry["seq"])
    for number, entry in enumerate(case.json.get("eval", [])):
        length = lengths[entry["vid"]]
        ids = evaluation_seconds((entry["start"], entry["end"]), entry["clip_length"], length)
        case.exact(f"eval {number}", np.arange(length)[ids], entry["seq"])
    for is_exo, text, golden in case.json.get("clean", []):
        case.exact(f"clean {text}", clip_text(text, is_exo=bool(is_exo)), golden)
    for time, golden in case.json.get("datetime2sec", []):
        case.close(f"time {time}", seconds_of(time), golden, "M")
    if case.json.get("pairs"):
        _check_pairs(case)


def _check_pairs(case: GoldenCase) -> None:
    options, lengths = case.json["pairs_options"], case.json["feature_lengths"]
    ego = read_view_clips(case.json["pairs_ego"], is_exo=False)
    exo = read_view_clips(case.json["pairs_exo"], is_exo=True)
    pairs = ViewPairs(ego, exo, pair_num=options["pair_num"], legacy_pair_vectors=True)
    for entry in case.json["pairs"]:
        draw = numpy_draw(entry.get("seed", 0))
        members = pairs.members(entry["index"], draw)
        found = {
            "captions": [member.text for member in members],
            "second_values": [_seconds(member.clip, options, lengths) for member in members],
            "nouns": [sorted(member.nouns) for member in members],
            "verbs": [sorted(member.verbs) for member in members],
            "uid": members[0].clip.uid,
        }
        for name, value in found.items():
            if name in entry:
                case.exact(f"pair {entry['index']}/{name}", value, entry[name])


def _seconds(clip: ViewClip, options: Entry, lengths: Mapping[str, int]) -> list[float]:
    length = lengths[clip.video]
    draw = numpy_draw(0) if options["is_training"] else None
    ids = training_seconds(
        clip.span_sec, options["clip_length"], length, is_exo=clip.is_exo, draw=draw
    )
    return [float(min(i, length - 1)) for i in ids]
