from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from egovl.data.configs import CLIPBPEConfig, HFTokenizerConfig
from egovl.data.text import CLIPTokenizer, clean_text

GOLDEN = Path(__file__).parents[2] / "parity" / "golden" / "lavila" / "tokenizers.json"
LONG = "opens the door and " * 40


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPBPEConfig().build()


def test_ids_equal_the_published_ones_on_the_real_vocabulary(tokenizer: CLIPTokenizer) -> None:
    golden = json.loads(GOLDEN.read_text())["clip_real"]
    assert tokenizer.vocab_size == golden["vocab_size"]
    assert [tokenizer.encode(text) for text in golden["texts"]] == golden["encode"]
    legacy = CLIPBPEConfig(legacy_truncate=True).build()
    assert legacy(golden["texts"])[0].tolist() == golden["call_77"]


def test_a_small_vocabulary_is_the_most_frequent_merges() -> None:
    golden = json.loads(GOLDEN.read_text())["clip_tiny"]
    merges = [tuple(line.split()) for line in golden["merges_lines"][1:]]
    tiny = CLIPTokenizer(merges, legacy_truncate=True)  # type: ignore[arg-type]
    assert (tiny.start_id, tiny.end_id) == (golden["sot"], golden["eot"])
    assert tiny(golden["texts"])[0].tolist() == golden["call_77"]
    assert [tiny.decode(tiny.encode(text)) for text in golden["texts"]] == golden["decode"]
    small = CLIPBPEConfig(vocab_size=1000, context_length=32).build()
    tokens, _ = small(["#C C opens the drawer", LONG])
    assert small.vocab_size == 1000
    assert int(tokens.max()) == 999
    assert small.decode(small.encode("the red drawer")).strip() == "the red drawer"


def test_a_long_text_keeps_its_end_token_unless_legacy(tokenizer: CLIPTokenizer) -> None:
    tokens, mask = tokenizer(LONG)
    assert tokens.shape == mask.shape == (1, 77)
    assert tokens[0, -1] == tokenizer.end_id
    assert mask.all()
    legacy, _ = CLIPBPEConfig(legacy_truncate=True).build()(LONG)
    assert tokenizer.end_id not in legacy[0]
    assert legacy[0, :-1].tolist() == tokens[0, :-1].tolist()


def test_the_mask_covers_start_words_and_end(tokenizer: CLIPTokenizer) -> None:
    tokens, mask = tokenizer(["the door", ""])
    assert mask.sum(1).tolist() == [4, 2]
    assert tokens[0, 3] == tokens[1, 1] == tokenizer.end_id
    assert not tokens[~mask].any()


def test_cleaning_repairs_characters_and_entities() -> None:
    assert clean_text("The  DOOR &amp;amp; \tthe\nhand ") == "the door & the hand"
    assert clean_text("\u201cquoted\u201d caf\u00c3\u00a9") == '"quoted" caf\u00e9'


def test_reading_the_vocabulary_does_not_import_the_package_around_it() -> None:
    code = (
        "import sys; from egovl.data.configs import CLIPBPEConfig; CLIPBPEConfig().build()('a b')\n"
        "print([n for n in ('open_clip', 'torchvision', 'timm', 'transformers', 'ftfy')"
        " if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_missing_or_broken_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.vocabulary"):
        CLIPBPEConfig(vocabulary=tmp_path / "none.gz").build()
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"#version\na b\nonly\n"))
    with pytest.raises(ValueError, match="'only' is not a pair"):
        CLIPBPEConfig(vocabulary=broken).build()


def test_a_hugging_face_folder_gives_the_published_ids(tmp_path: Path) -> None:
    golden = json.loads((GOLDEN.parents[1] / "egovlp" / "tokenisation.json").read_text())
    (tmp_path / "vocab.txt").write_text("\n".join(golden["vocab"]) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 24}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = HFTokenizerConfig(folder=tmp_path).build()
    tokens, mask = tokenizer(golden["texts"])
    assert tokens.tolist() == golden["input_ids"]
    assert mask.int().tolist() == golden["attention_mask"]
    assert tokenizer.context_length == 24
    assert (
        HFTokenizerConfig(folder=tmp_path, context_length=5).build()("a a a a a a")[0].shape[1] == 5
    )
    with pytest.raises(FileNotFoundError, match="tokenizer folder"):
        HFTokenizerConfig(folder=tmp_path / "none").build()
