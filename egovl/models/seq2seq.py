"""T5 family, or another encoder-decoder of Hugging Face, as generation wants it.

Letters: B texts, S their tokens, R rows being written, L tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from egovl.models.decoder_configs import Seq2SeqConfig


class Seq2Seq(nn.Module):
    """A text in, another out."""

    forward_methods = ("encode", "read")

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.model: Any = _from_sizes(config)

    def load_folder(self, folder: Path) -> int:
        """Become the model of a Hugging Face folder, whatever its sizes; the number of tensors.

        Raises:
            FileNotFoundError: there is none.
        """
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no config.json: download a T5 paraphraser there (config.json, "
                "model.safetensors, tokenizer files) and name it in init.text"
            )
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
        own = self.model.config
        ids = {"start_id": own.decoder_start_token_id, "end_id": own.eos_token_id}
        self.config = replace(self.config, **ids, pad_id=own.pad_token_id)
        return len(self.model.state_dict())

    def forward(self, tokens_BS: Tensor, written_BL: Tensor) -> Tensor:
        """Return logits [B, L, V] of the token behind each written one."""
        return self.model(input_ids=tokens_BS, decoder_input_ids=written_BL).logits

    def example_inputs(self) -> tuple[Tensor, Tensor]:
        """Return inputs of one text, on the present default device."""
        return torch.zeros(1, 32, dtype=torch.long), torch.zeros(1, 32, dtype=torch.long)

    def encode(self, tokens_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """Return what the decoder looks at [B, S, D]."""
        encoder = self.model.get_encoder()
        return encoder(input_ids=tokens_BS, attention_mask=mask_BS).last_hidden_state

    def read(self, tokens_RL: Tensor, state: Seq2SeqState) -> Tensor:
        """Read tokens into a state; logits [R, V] behind the last one."""
        output = self.model(
            encoder_outputs=(state.encoded_RSD,),
            attention_mask=state.mask_RS,
            decoder_input_ids=tokens_RL,
            past_key_values=state.cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    def writer(self, tokens_BS: Tensor, mask_BS: Tensor) -> Seq2SeqWriter:
        """`Decoder` of generation for these texts."""
        return Seq2SeqWriter(self, tokens_BS, mask_BS)


@dataclass(frozen=True)
class Seq2SeqState:
    """The texts looked at, by row, and the cache of what was written."""

    encoded_RSD: Tensor  # noqa: N815
    mask_RS: Tensor  # noqa: N815
    cache: Any

    def select(self, rows_R: Tensor) -> Seq2SeqState:
        """The state of these rows."""
        self.cache.reorder_cache(rows_R)
        return Seq2SeqState(self.encoded_RSD[rows_R], self.mask_RS[rows_R], self.cache)


@dataclass(frozen=True)
class Seq2SeqWriter:
    """`Decoder` of generation: a prompt for each text."""

    model: Seq2Seq
    tokens_BS: Tensor  # noqa: N815
    mask_BS: Tensor  # noqa: N815

    def start(
        self, tokens_BL: Tensor, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, Seq2SeqState]:
        """Encode the texts and read the prompts."""
        assert mask_BL is None, "a decoder's start token needs no padding"
        encoded = self.model.encode(self.tokens_BS, self.mask_BS)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        state = Seq2SeqState(encoded, self.mask_BS, cache)
        return self.model.read(tokens_BL, state), state

    def advance(self, tokens_R: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """Read one more token of each row."""
        return self.model.read(tokens_R[:, None], state), state


def _from_sizes(config: Seq2SeqConfig) -> Any:
    sizes = T5Config(
        vocab_size=config.vocab_size,
        d_model=config.width,
        d_kv=config.width // config.heads,
        d_ff=config.hidden_width,
        num_layers=config.depth,
        num_heads=config.heads,
        dropout_rate=0.0,
        eos_token_id=config.end_id,
        pad_token_id=config.pad_id,
    )
    sizes.decoder_start_token_id = config.start_id
    return T5ForConditionalGeneration(sizes)
