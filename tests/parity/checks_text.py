"""Tokenizers on made-up vocabularies, and CLIP's on its real one."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovl.data.caption_tokens import load_caption_tokenizer
from egovl.data.configs import CLIPBPEConfig, HFTokenizerConfig
from egovl.data.text import CLIPTokenizer, HFTokenizer, load_clip_tokenizer, load_hf_tokenizer
from egovl.data.text import _wheel_vocabulary as wheel_vocabulary
from tests.parity.golden import GoldenCase


def check_tokenisation(case: GoldenCase) -> None:
    """EgoVLP: WordPiece ids and masks, padded to the longest text."""
    golden = case.json
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _word_piece(Path(folder), golden["vocab"], golden["model_max_length"])
        ids, mask = tokenizer(golden["texts"])
        case.exact("input_ids", ids, golden["input_ids"])
        case.exact("attention_mask", mask.long(), golden["attention_mask"])
        vocabulary = golden["vocab"]
        pad, *marks = (vocabulary.index(mark) for mark in ("[PAD]", "[CLS]", "[SEP]"))
        words = golden.get("tokens") or [None] * len(golden["texts"])
        for text, row, tokens in zip(golden["texts"], golden["input_ids"], words, strict=True):
            alone = tokenizer([text])[0][0].tolist()
            case.exact(f"alone {text!r}", alone, [i for i in row if i != pad])
            own = [vocabulary[i] for i in alone if i not in marks]
            if tokens is not None:  # all of the text's, the ids are cut
                case.exact(f"tokens {text!r}", own, tokens[: len(own)])


def _word_piece(folder: Path, vocabulary: Sequence[str], longest: int) -> HFTokenizer:
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "DistilBertTokenizer", "model_max_length": longest}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "distilbert"}))
    return load_hf_tokenizer(HFTokenizerConfig(folder=folder))


def check_tokenizers(case: GoldenCase) -> None:
    """LaViLa: CLIP's byte pairs, DistilBERT's and GPT-2's wrappers, decoding."""
    if block := case.json.get("clip_tiny"):
        merges = [
            tuple(line.split()) for line in block["merges_lines"] if not line.startswith("#v")
        ]
        tokenizer = CLIPTokenizer(merges, legacy_truncate=True)  # pyright: ignore
        case.exact(
            "clip_tiny ids", [tokenizer.start_id, tokenizer.end_id], [block["sot"], block["eot"]]
        )
        _check_clip(case, "clip_tiny", block, tokenizer)
    if block := case.json.get("clip_real"):
        tokenizer = load_clip_tokenizer(CLIPBPEConfig(legacy_truncate=True))
        packed = wheel_vocabulary().read_bytes()
        if "gz_sha256" in block:
            case.exact("clip_real file", hashlib.sha256(packed).hexdigest(), block["gz_sha256"])
        _check_clip(case, "clip_real", block, tokenizer)
    if block := case.json.get("bert_tiny"):
        _check_bert(case, block)
    if block := case.json.get("gpt2_tiny"):
        _check_gpt2(case, block)


def _check_clip(
    case: GoldenCase, name: str, block: Mapping[str, Any], tokenizer: CLIPTokenizer
) -> None:
    if "vocab_size" in block:
        case.exact(f"{name} vocab_size", tokenizer.vocab_size, block["vocab_size"])
    encoded = [tokenizer.encode(text) for text in block["texts"]]
    if "encode" in block:
        case.exact(f"{name} encode", encoded, block["encode"])
    for key, rows in block.items():
        if key.startswith("call_"):
            tokenizer.context_length = int(key.removeprefix("call_"))
            case.exact(f"{name} {key}", tokenizer(block["texts"])[0], rows)
    if "decode" in block:
        case.exact(f"{name} decode", [tokenizer.decode(ids) for ids in encoded], block["decode"])


def _check_bert(case: GoldenCase, block: Mapping[str, Any]) -> None:
    """The published wrapper pads to 77 and cuts the end token off; ours keeps the end."""
    length = len((block.get("ids") or block["mask"])[0])
    with tempfile.TemporaryDirectory() as folder:
        _word_piece(Path(folder), block["vocab"], length)
        config = HFTokenizerConfig(folder=Path(folder), context_length=length, legacy_truncate=True)
        ids, mask = load_hf_tokenizer(config)(block["texts"])
    for name, rows in {"ids": ids, "mask": mask.float()}.items():
        if name in block:
            case.exact(f"bert_tiny {name}", _padded(rows, length), block[name])


def _padded(rows: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, length - rows.shape[1]))


def _check_gpt2(case: GoldenCase, block: Mapping[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(block["vocab"]))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(block["merges"]) + "\n")
        tokenizer = load_caption_tokenizer(folder, legacy_decode=True)
    special = [tokenizer.end_id, tokenizer.end_id, tokenizer.pad_id]
    case.exact("gpt2_tiny bos, eos, pad", special, block["bos_eos_pad"])
    for key, rows in block.items():
        if key.startswith("call_"):
            tokenizer.context_length = int(key.split("_")[1])
            tokenizer.add_start = key.endswith("bos1")
            case.exact(f"gpt2_tiny {key}", tokenizer(block["texts"])[0], rows)
    for number, entry in enumerate(block.get("decode_one", [])):
        text = tokenizer.decode(entry["ids"])
        case.exact(f"gpt2_tiny decode_one {number}", text, entry["text"])
