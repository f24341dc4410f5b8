"""Captioning by a language model that looks at clips: answers of all items are learned.

Letters: B prompts, T clips, F frames, L tokens, N new tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from egovl import dist
from egovl.data.prompts import finish_text, without_full_stop
from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.losses.answer_labels import IGNORED, PromptMarks, answer_labels
from egovl.losses.language import caption_loss
from egovl.metrics.captions import caption_scores
from egovl.models.captioner.captioner import Captioner
from egovl.models.captioner.writing import Writer
from egovl.models.generation.generate import generate
from egovl.tasks.binding import take
from egovl.tasks.view_configs import CaptioningConfig


class Captioning:
    """``TrainTask`` and ``EvalTask`` of a captioner."""

    def __init__(self, config: CaptioningConfig) -> None:
        self.config = config
        self._tokenizer: Any = None
        self._references: list[str] = []

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the tokenizer, which must know the prompt's marks, and the true captions.

        Raises:
            ValueError: another tokenizer or dataset.
        """
        if not hasattr(tokenizer, "answer_id"):
            raise ValueError(
                "task captioning needs the prompt's marks: set tokenizer.name=prompt and "
                "tokenizer.file to GPT-NeoX-20B's tokenizer.json"
            )
        self._tokenizer = tokenizer
        self._references = take(dataset, "references", "captioning")
        self._marks = PromptMarks(
            tokenizer.answer_id, tokenizer.end_id, tokenizer.image_id, tokenizer.pad_id
        )
        self._writing = replace(
            self.config.generation,
            eos_id=tokenizer.end_id,
            pad_id=tokenizer.end_id,
            bad_words=tokenizer.bad_words() if self.config.ban_format_words else (),
        )

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Cross entropy of the answers; its mean over ranks is that of all their tokens."""
        tokens_BL, mask_BL = self._words(batch)
        logits = model(self._video(batch), tokens_BL, mask_BL, tokens_BL == self._marks.media)
        labels = answer_labels(tokens_BL, self._marks)[:, 1:]
        count = dist.mean_over_ranks((labels != IGNORED).sum().float())
        result = caption_loss(logits[:, :-1], labels, pad_id=IGNORED, num_tokens=count)
        if self.config.mask_lm_head:
            self._keep_answer_row(model)
        report = {"perplexity": result.perplexity, "token_accuracy": result.accuracy}
        return StepOutput(result.loss, report)

    def after_step(self, model: nn.Module) -> None:
        """Nothing has a range to stay in."""

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Ids [B, N] of what is written behind each prompt."""
        captioner = cast(Captioner, model)
        tokens_BL, mask_BL = self._words(batch)
        self._refuse_long(captioner, tokens_BL.shape[1])
        media = captioner.encode_clips(self._video(batch))
        writer = Writer(captioner, media, self._marks.media)
        written = generate(writer, tokens_BL, self._writing, _generator(tokens_BL), mask_BL).ids
        rows = torch.full(
            (len(written), self._writing.max_new_tokens), self._writing.pad_id, device=media.device
        )
        rows[:, : written.shape[1]] = written
        return {"written": rows, "row": batch.index}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """BLEU, METEOR, ROUGE-L in percent, CIDEr as it is; one reference a clip."""
        texts = [self.caption(ids) for ids in rows["written"].tolist()]
        truths = [self._compared(self._references[row].strip()) for row in rows["row"].tolist()]
        scores = caption_scores(
            [[truth] for truth in truths],
            [self._compared(text) for text in texts],
            with_meteor=self.config.with_meteor,
        )
        return {name: v if name == "CIDEr" else 100 * v for name, v in scores.items()}

    def caption(self, ids: list[int]) -> str:
        """The caption among written ids."""
        return finish_text(self._tokenizer.decode(ids))

    def _compared(self, text: str) -> str:
        return text if self.config.legacy_trailing_period else without_full_stop(text)

    def _refuse_long(self, model: Captioner, length: int) -> None:
        longest = model.config.decoder.context_length
        if length + self._writing.max_new_tokens > longest and not model.config.decoder.alibi:
            raise ValueError(
                f"a prompt of {length} tokens and {self._writing.max_new_tokens} new ones: the "
                f"decoder has {longest} positions; lower max_shot or generation.max_new_tokens"
            )

    def _words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.tokens is not None and batch.token_mask is not None
        return batch.tokens, batch.token_mask

    def _video(self, batch: Batch) -> Tensor:
        """Normalised pixels [B, T, F, C, H, W]."""
        assert batch.video is not None
        by_channel = batch.video.transpose(2, 3)
        return normalize_video(by_channel, self.config.normalization).transpose(2, 3)

    def _keep_answer_row(self, model: nn.Module) -> None:
        """Let only one row of the token table learn, from the backward that follows."""
        table = cast(Captioner, getattr(model, "module", model)).embed.tokens.weight
        answer = self._marks.answer

        def keep(gradient: Tensor) -> Tensor:
            kept = torch.zeros_like(gradient)
            kept[answer] = gradient[answer]
            handle.remove()
            return kept

        handle = table.register_hook(keep)


def _generator(like: Tensor) -> torch.Generator:
    """Draws of an evaluation, the same in every one."""
    return torch.Generator(like.device).manual_seed(0)
