"""Pairs of views, the evaluation sets and the captioner's prompts, from small files."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egovl.data.configs import LoaderConfig
from egovl.data.datasets.caption_prompts import CaptionPrompts
from egovl.data.datasets.view_configs import CaptionPromptsConfig, ViewPairsConfig, ViewSetConfig
from egovl.data.decode import DecodeError
from egovl.data.features import FeatureFacts, FeatureWriter
from egovl.data.loader import build_eval_loader, build_train_loader
from egovl.data.prompt_tokens import PromptTokenizer, load_prompt_tokenizer
from egovl.data.view_pairs import mine_partners, read_view_clips
from egovl.shards import ShardWriter
from tests.egovl.data.numbered_video import write_video
from tests.parity.checks_egoinstructor_data import TOKENIZER

LOADER = LoaderConfig(batch_size=2, eval_batch_size=3, num_workers=0, num_frames=4, image_size=16)


def tokens(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """A tokenizer of one token: the length of a text."""
    lengths = torch.tensor([[len(text)] for text in texts])
    return lengths, torch.ones_like(lengths, dtype=torch.bool)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Row i of a video is filled with i."""
    folder = tmp_path / "features"
    writer = FeatureWriter(folder, FeatureFacts(width=3))
    for name, length in (("a", 30), ("b", 12)):
        writer.write(name, np.repeat(np.arange(length, dtype=np.float32)[:, None], 3, axis=1))
    return folder


def view_records(*rows: tuple[str, float, float, list[int], list[int], list[int]]) -> Any:
    names = ("vid", "start_second", "end_second", "noun", "verb", "nv_index")
    records = [dict(zip(names, row, strict=True)) | {"text": f"#C C {row[0]}"} for row in rows]
    return {str(i): record for i, record in enumerate(records)}


@pytest.fixture
def pairs(tmp_path: Path, features: Path) -> ViewPairsConfig:
    ego = view_records(("a", 2, 8, [1], [2], [0]), ("b.mp4", 1, 4, [1], [3], [1]))
    exo = view_records(("b", 3, 9, [1], [2], []), ("a", 20, 21, [5], [3], []))
    for name, records in (("ego", ego), ("exo", exo)):
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    return ViewPairsConfig(
        ego=tmp_path / "ego.json",
        exo=tmp_path / "exo.json",
        ego_features=features,
        exo_features=features,
        num_nouns=6,
        num_verbs=4,
    )


def test_training_batches_hold_an_anchor_and_its_partner_side_by_side(
    pairs: ViewPairsConfig,
) -> None:
    loader = build_train_loader(
        pairs.build(), LOADER, tokens, seed=0, rank=0, world_size=1, start_sample=0
    )
    rows: dict[int, Any] = {}
    for _ in range(2):  # an epoch
        batch = next(loader)
        assert batch.video is not None and batch.tokens is not None
        assert batch.video.shape == (2, 2, 4, 3) and batch.tokens.shape == (2, 2, 1)
        for row, index in enumerate(batch.index.tolist()):
            rows[index] = (batch.video[row], batch.labels["noun"][row])
    assert sorted(rows) == [0, 1, 2, 3]
    video, nouns = rows[0]
    assert video[0].min() >= 2 and video[0].max() < 8 and video[1].min() >= 3
    assert nouns.argmax(dim=1).tolist() == [1, 1]
    video, nouns = rows[1]  # its partner shares no noun: the clip stands for itself
    assert nouns.argmax(dim=1).tolist() == [1, 1]
    video, _ = rows[3]  # a second of the other view is widened on both sides
    assert video.min() >= 15 and video.max() < 26


def test_every_second_sample_is_read_as_the_dataset_reads_it(pairs: ViewPairsConfig) -> None:
    (batch,) = build_eval_loader(pairs.build(), LOADER, tokens, rank=0, world_size=1, every=2)
    assert batch.index.tolist() == [0, 2]
    assert batch.video is not None and batch.video.shape == (2, 2, 4, 3)


def test_a_video_without_features_is_named(pairs: ViewPairsConfig, tmp_path: Path) -> None:
    (tmp_path / "features" / "b.npy").unlink()
    with pytest.raises(DecodeError, match=r"b: .* has no features of 'b'"):
        pairs.build().read_item(1, LOADER, None)


def test_a_missing_number_among_the_keys_is_named() -> None:
    with pytest.raises(ValueError, match="no key '1'"):
        read_view_clips(
            {"0": {"vid": "a", "start_second": 0, "end_second": 1}, "2": {}}, is_exo=False
        )


def test_mined_partners_share_a_noun_and_a_verb() -> None:
    ego = read_view_clips(view_records(("a", 0, 1, [1, 2], [3], [])), is_exo=False)
    rows = [("b", 0, 1, [2], [3], []), ("b", 0, 1, [2], [4], []), ("b", 0, 1, [1], [3, 4], [])]
    exo = read_view_clips(view_records(*rows), is_exo=True)  # type: ignore[arg-type]
    assert mine_partners(ego, exo) == [[0, 2]]
    assert mine_partners(ego, exo, most=1) == [[0]]


def set_batch(tmp_path: Path, features: Path, name: str, record: Mapping[str, Any]) -> Any:
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps({"0": record}))
    config = ViewSetConfig(benchmark=name, annotations=file, features=features)  # type: ignore[arg-type]
    dataset = config.build()
    (batch,) = build_eval_loader(dataset, LOADER, tokens, rank=0, world_size=1)
    return dataset, batch


def test_every_json_set_reads_its_own_fields(tmp_path: Path, features: Path) -> None:
    span = {"start_second": 2, "end_second": 8}
    (features / "7").mkdir()
    (features / "7" / "a.npy").symlink_to("../a.npy")
    dataset, batch = set_batch(
        tmp_path, features, "youcook", {**span, "video_id": "a", "task": 7, "text": "cut"}
    )
    assert dataset.kind == "pairs" and batch.video.shape == (1, 1, 4, 3)
    assert batch.tokens.tolist() == [[3]]
    record = {
        f"{view}_{key}": value
        for view, vid in (("ego", "a"), ("exo", "b"))
        for key, value in {**span, "vid": vid}.items()
    }
    dataset, batch = set_batch(tmp_path, features, "charades_ego", record)
    assert dataset.query_is_clip and batch.video.shape == (1, 2, 4, 3) and batch.tokens is None
    clip = {**span, "video_id": "a", "text": "x"}
    choice = {"answer": 1, "types": 2, "query": clip, "choices": {"0": clip, "1": clip}}
    dataset, batch = set_batch(tmp_path, features, "egolearn", choice)
    assert dataset.kind == "choice" and batch.video.shape == (1, 3, 4, 3)
    assert (batch.labels["answer"].tolist(), batch.labels["type"].tolist()) == ([1], [2])
    option = {"video_uid": "a", "clip_start": 2, "clip_end": 8, "clip_text": "x"}
    choice = {
        "answer": 0,
        "types": 1,
        "query": {"clip_text": "#C C cuts"},
        "choices": {"0": option},
    }
    dataset, batch = set_batch(tmp_path, features, "egomcq", choice)
    assert batch.tokens.tolist() == [[4]]  # "cuts", cleaned
    option = {"vid": "a", "start_sec": 2, "end_sec": 8, "summary_text": "x"}
    choice = {"answer": 0, "types": 1, "query": {"summary_text": "sums"}, "choices": {"0": option}}
    dataset, batch = set_batch(tmp_path, features, "egosumm", choice)
    assert batch.video.shape == (1, 1, 4, 3)


def test_a_file_of_another_set_is_refused_naming_the_record(tmp_path: Path, features: Path) -> None:
    with pytest.raises(ValueError, match=r"record 0: .*is it the file of egosumm"):
        set_batch(tmp_path, features, "egosumm", {"video_id": "a"})


# --- prompts ------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer() -> PromptTokenizer:
    return load_prompt_tokenizer(TOKENIZER, 256)


@pytest.fixture
def prompts(tmp_path: Path) -> CaptionPromptsConfig:
    """An ego clip in its second chunk, three supports of which one has no file."""
    ego, exo = tmp_path / "ego" / "e", tmp_path / "exo"
    ego.mkdir(parents=True)
    exo.mkdir()
    write_video(ego / "0001.mp4", 60)
    for name in ("x1", "x3"):
        write_video(exo / f"{name}.mp4", 60)
    places = {"e": (2.5, 3.5), "x1": (0, 1), "gone": (0, 1), "x3": (0.5, 1.5)}
    records = {
        f"T_INS_{i:06d}": {
            "instruction": "Describe it.",
            "answer": f"says {vid}",
            "image_ids": [{"vid": vid, "start_second": span[0], "end_second": span[1]}],
        }
        for i, (vid, span) in enumerate(places.items())
    }
    (tmp_path / "i.json").write_text(json.dumps({"data": records}))
    (tmp_path / "c.json").write_text(json.dumps({"T_INS_000000": sorted(records)[1:]}))
    return CaptionPromptsConfig(
        instructions=tmp_path / "i.json",
        supports=tmp_path / "c.json",
        ego_root=tmp_path / "ego",
        exo_root=exo,
        max_shot=2,
        ego_chunk_sec=2,
    )


def changed(config: CaptionPromptsConfig, **changes: Any) -> CaptionPrompts:
    return dataclasses.replace(config, **changes).build()


def test_a_support_without_a_file_is_left_out_and_the_next_takes_its_place(
    prompts: CaptionPromptsConfig, tokenizer: PromptTokenizer
) -> None:
    (batch,) = build_eval_loader(prompts.build(), LOADER, tokenizer, rank=0, world_size=1)
    assert batch.video is not None and batch.tokens is not None
    assert batch.video.shape == (1, 3, 4, 3, 16, 16) and batch.video.dtype == torch.uint8
    text = tokenizer.decode(batch.tokens[0].tolist())
    assert "says x1." in text and "says x3." in text and "gone" not in text
    assert text.endswith("GPT:<answer>") and text.count("<image>") == 3
    assert prompts.build().references == ["says e"]


def test_training_prompts_end_with_their_answer(
    prompts: CaptionPromptsConfig, tokenizer: PromptTokenizer
) -> None:
    config = LoaderConfig(batch_size=1, num_workers=0, num_frames=4, image_size=16)
    loader = build_train_loader(
        prompts.build(), config, tokenizer, seed=0, rank=0, world_size=1, start_sample=0
    )
    batch = next(loader)
    assert batch.tokens is not None
    text = tokenizer.decode(batch.tokens[0].tolist())
    assert text.endswith("says e.<|endofchunk|><|endoftext|>")


def test_shots_of_zero_and_no_supports(
    prompts: CaptionPromptsConfig, tokenizer: PromptTokenizer
) -> None:
    none = changed(prompts, with_supports=False).read_item(0, LOADER, None)
    assert none.clips.shape[0] == 1 and none.text.count("<image>") == 1
    zero = changed(prompts, max_shot=0).read_item(0, LOADER, None)
    assert zero.clips.shape[0] == 1 and zero.text.count("<image>") == 2
    assert "says x1." in zero.text


def test_too_few_supports_are_repeated(prompts: CaptionPromptsConfig) -> None:
    four = changed(prompts, max_shot=4).read_item(0, LOADER, None)
    assert four.clips.shape[0] == 5
    assert torch.equal(four.clips[0], four.clips[2]) and torch.equal(four.clips[1], four.clips[3])


def test_a_clip_that_was_read_is_not_read_again(
    prompts: CaptionPromptsConfig, tmp_path: Path
) -> None:
    kept, unkept = changed(prompts), changed(prompts, kept_clips_mb=0.0)
    first = kept.read_item(0, LOADER, None)
    assert torch.equal(first.clips, unkept.read_item(0, LOADER, None).clips)
    small = dataclasses.replace(LOADER, image_size=8)
    assert kept.read_item(0, small, None).clips.shape[-1] == 8
    for file in tmp_path.rglob("*.mp4"):
        file.unlink()
    assert torch.equal(kept.read_item(0, LOADER, None).clips, first.clips)
    sent = pickle.loads(pickle.dumps(kept))  # to a process, which reads for itself
    for dataset in (unkept, sent):
        with pytest.raises(DecodeError):
            dataset._readers = None  # files that are open stay readable
            dataset.read_item(0, LOADER, None)


def test_supports_come_from_a_folder_of_shards_too(
    prompts: CaptionPromptsConfig, tmp_path: Path
) -> None:
    writer = ShardWriter(tmp_path / "shards", 0, 1)
    writer.append([{"key": "T_INS_000000", "supports": ["T_INS_000003"]}])
    dataset = changed(prompts, supports=tmp_path / "shards", max_shot=1)
    assert "says x3." in dataset.read_item(0, LOADER, None).text


def test_a_support_that_is_no_record_is_refused(
    prompts: CaptionPromptsConfig, tmp_path: Path
) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"T_INS_000000": ["T_INS_000009"]}))
    with pytest.raises(ValueError, match=r"T_INS_000009 .* is no record"):
        prompts.build()


def test_an_ego_clip_without_a_file_is_an_error_that_names_both_chunks(
    prompts: CaptionPromptsConfig, tmp_path: Path
) -> None:
    (tmp_path / "ego/e/0001.mp4").rename(tmp_path / "ego/e/1.mp4")
    assert len(prompts.build().read_item(0, LOADER, None).clips) == 3  # the published cutter's name
    (tmp_path / "ego/e/1.mp4").unlink()
    with pytest.raises(DecodeError, match=r"0001.mp4.*nor 1.mp4"):
        prompts.build().read_item(0, LOADER, None)


def test_a_tokenizer_survives_being_sent_to_a_process(tokenizer: PromptTokenizer) -> None:
    again = pickle.loads(pickle.dumps(tokenizer))
    text = "<image>User:cut it. GPT:<answer>"
    assert again.encode_prompt(text) == tokenizer.encode_prompt(text)
    assert (again.image_id, again.pad_id) == (tokenizer.image_id, tokenizer.pad_id)
    assert again.context_length == tokenizer.context_length == 256
