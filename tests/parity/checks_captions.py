"""Caption metrics of LaViLa and Egoinstructor against the coco-caption scorers' values."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from egovl.metrics.captions import Score, every_score
from egovl.metrics.meteor import MeteorMissing, meteor
from tests.parity.golden import GoldenCase

_OURS = {f"Bleu_{n}": f"BLEU-{n}" for n in range(1, 5)} | {"ROUGE_L": "ROUGE-L"}


def check_caption_metrics(case: GoldenCase) -> None:
    """Corpus and per caption, in either system's layout of the json."""
    blocks = case.json.get("cases")
    for block in [case.json] if blocks is None else blocks:
        references = block.get("references", block.get("reference"))
        candidates = block.get("hypotheses", block.get("hypothesis"))
        if references and candidates and block.get("scores"):
            _check_block(case, block, references, candidates)


def _check_block(
    case: GoldenCase, block: Mapping[str, Any], references: Sequence[Any], candidates: list[str]
) -> None:
    truths = [[r] if isinstance(r, str) else list(r) for r in references]
    found = every_score(truths, candidates, with_meteor=False)
    if any(name.startswith("METEOR") for name in block["scores"]) and meteor_runs():
        found["METEOR"] = Score(*meteor(truths, candidates))
    where = block.get("case", "")
    for name, golden in block["scores"].items():
        metric = name.removesuffix("_each")
        score = found.get(_OURS.get(metric, metric))
        if score is None:
            assert metric == "METEOR", f"{case.name}: no metric {name}"
            continue
        if isinstance(golden, Mapping):
            for part in golden.keys() & {"corpus", "per"}:
                value = score.corpus if part == "corpus" else score.each
                case.close(f"{where} {name} {part}", value, golden[part], "M")
        else:
            value = score.each if name.endswith("_each") else score.corpus
            case.close(f"{where} {name}", value, golden, "M")


@functools.cache
def meteor_runs() -> bool:
    """True where Java and the jar are there; any other failure of METEOR fails the test."""
    try:
        meteor([["a"]], ["a"])
    except MeteorMissing:
        return False
    return True
