"""Caption training and evaluation: teacher-forced loss, perplexities, caption metrics.

Letters: B clips, L tokens of a text, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from egovl import dist
from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.losses.language import caption_loss, text_perplexity
from egovl.metrics.captions import caption_scores
from egovl.models.generation.generate import generate
from egovl.models.narrator import Narrator
from egovl.tasks.narration_configs import NarrationConfig

_IGNORED = -100


class Narration:
    """``TrainTask`` and ``EvalTask``: one clip and its text a sample."""

    def __init__(self, config: NarrationConfig) -> None:
        self.config = config
        self._tokenizer: Any = None

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the tokenizer, which must know the end of a caption.

        Raises:
            ValueError: it is no tokenizer of captions.
        """
        if not hasattr(tokenizer, "end_id") or not hasattr(tokenizer, "pad_id"):
            raise ValueError(
                "task narration writes with GPT-2's tokens: set tokenizer.name=gpt2 and "
                "tokenizer.folder to its vocab.json and merges.txt"
            )
        self._tokenizer = tokenizer
        ends = {"eos_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
        self._writing = replace(self.config.generation, **ends)

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Loss of this rank's captions; its mean over ranks is that of all tokens."""
        tokens_BL, labels_BL = self._texts(batch)
        logits = self._logits(model, batch, tokens_BL)
        if self.config.legacy_padding:
            result = caption_loss(
                logits, labels_BL, pad_id=self._tokenizer.pad_id, legacy_mean=True
            )
        else:
            count = (labels_BL != _IGNORED).sum().float()
            result = caption_loss(
                logits, labels_BL, pad_id=_IGNORED, num_tokens=dist.mean_over_ranks(count)
            )
        report = {"perplexity": result.perplexity, "token_accuracy": result.accuracy}
        return StepOutput(result.loss, report)

    def after_step(self, model: nn.Module) -> None:
        """Nothing has a range to stay in."""

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Perplexities, and with clips the ids written and those of the true text."""
        assert batch.tokens is not None
        tokens_BL, labels_BL = self._texts(batch, full=True)
        valid_BL = labels_BL != self._ignored()
        if self.config.text_only:
            logits = self._logits(model, batch, tokens_BL)
            return {"teacher_forced": text_perplexity(logits, labels_BL, valid_BL)}
        narrator = cast(Narrator, model)
        clips = narrator.encode_video(self._video(batch))
        logits = narrator.decode(clips, tokens_BL)
        written = self._write(narrator, clips, batch.tokens)
        # its own words so far, then the true next one
        free = narrator.decode(clips, self._own_prefix(written, batch.tokens))
        return {
            "teacher_forced": text_perplexity(logits, labels_BL, valid_BL),
            "free_running": text_perplexity(free, labels_BL, valid_BL),
            "written": written.to(torch.int32),
            "true": batch.tokens.to(torch.int32),
        }

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean perplexities; BLEU, METEOR, ROUGE-L and CIDEr in percent, CIDEr as it is."""
        found = {
            f"{name}_perplexity": rows[name].double().nanmean().item()
            for name in ("teacher_forced", "free_running")
            if name in rows
        }
        if "written" not in rows:
            return found
        count = self.config.generation.num_return_sequences
        truths = [self.words(ids) for ids in rows["true"].tolist()]
        # of several texts for a clip each counts as its own pair, as published
        pairs = [
            (truth, self.words(ids))
            for truth, texts in zip(truths, rows["written"].tolist(), strict=True)
            for ids in texts
        ]
        assert len(pairs) == count * len(truths)
        scores = caption_scores(
            [[truth] for truth, _ in pairs],
            [text for _, text in pairs],
            meteor_jar=self.config.meteor_jar,
            with_meteor=self.config.with_meteor,
        )
        return found | {k: v if k == "CIDEr" else 100 * v for k, v in scores.items()}

    def words(self, ids: list[int]) -> str:
        """The text of ids as the metrics compare it."""
        text = self._tokenizer.decode(ids)
        if self.config.words == "as_is":
            return text.strip()
        return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))

    def _texts(self, batch: Batch, *, full: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens to read and to predict [B, L - 1], cut to the longest text unless `full`."""
        assert batch.tokens is not None and batch.token_mask is not None
        labels = batch.tokens[:, 1:]
        if self.config.legacy_padding:
            return batch.tokens[:, :-1], labels
        labels = labels.masked_fill(~batch.token_mask[:, 1:], _IGNORED)
        longest = batch.tokens.shape[1] if full else int(batch.token_mask.sum(dim=1).max())
        return batch.tokens[:, : longest - 1], labels[:, : longest - 1]

    def _ignored(self) -> int:
        return self._tokenizer.pad_id if self.config.legacy_padding else _IGNORED

    def _logits(self, model: nn.Module, batch: Batch, tokens_BL: Tensor) -> Tensor:
        return model(tokens_BL) if self.config.text_only else model(self._video(batch), tokens_BL)

    def _video(self, batch: Batch) -> Tensor:
        assert batch.video is not None
        return normalize_video(batch.video[:, 0], self.config.normalization)

    def _write(self, narrator: Narrator, clips: Tensor, tokens_BL: Tensor) -> Tensor:
        """Ids [B, texts, 1 + most], the start token before them."""
        prompt = tokens_BL[:, :1]
        ids = generate(narrator.writer(clips), prompt, self._writing, _generator(prompt)).ids
        rows = torch.full(
            (len(ids), 1 + self._writing.max_new_tokens), self._writing.pad_id, device=ids.device
        )
        rows[:, :1] = prompt.repeat_interleave(len(ids) // len(prompt), dim=0)
        rows[:, 1 : 1 + ids.shape[1]] = ids
        return rows.unflatten(0, (len(prompt), -1))

    def _own_prefix(self, written: Tensor, tokens_BL: Tensor) -> Tensor:
        """The first text of each clip as long as the true one's inputs."""
        length = tokens_BL.shape[1] - 1
        first = written[:, 0, :length].to(tokens_BL.dtype)
        missing = length - first.shape[1]
        return torch.nn.functional.pad(first, (0, missing), value=self._writing.pad_id)


def _generator(like: Tensor) -> torch.Generator:
    """Draws of an evaluation, the same in every one."""
    return torch.Generator(like.device).manual_seed(0)
