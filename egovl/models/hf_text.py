"""DistilBERT, or another encoder of a local folder, as a text tower.

The only model file that imports transformers.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
)

from egovl.models.configs import HFTextConfig


class HFTextTransformer(nn.Module):
    """Token ids to the sentence feature of a Hugging Face encoder."""

    def __init__(self, config: HFTextConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _build_encoder(config)
        self.width: int = self.model.config.hidden_size
        self._pooled = self.model.config.model_type == "bert"

    def forward(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return the feature [B, D] of a text; tokens whose mask is 0 are not attended to."""
        output = self.model(input_ids=tokens_BL, attention_mask=token_mask_BL)
        return output.pooler_output if self._pooled else output.last_hidden_state[:, 0]

    def forward_tokens(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return the last hidden state of every token [B, L, D]."""
        return self.model(input_ids=tokens_BL, attention_mask=token_mask_BL).last_hidden_state


def _build_encoder(config: HFTextConfig) -> PreTrainedModel:
    if config.folder is not None:
        _require_folder(config.folder)
        sizes = AutoConfig.from_pretrained(config.folder, local_files_only=True)
        # DistilBERT's names and BERT's of the same rates
        rates = {
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
        }
        for name, rate in rates.items():
            if hasattr(sizes, name):
                setattr(sizes, name, rate)
        return AutoModel.from_pretrained(config.folder, config=sizes, local_files_only=True)
    return DistilBertModel(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.context_length,
            dim=config.width,
            n_heads=config.heads,
            n_layers=config.depth,
            hidden_dim=config.hidden_width,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )
    )


def _require_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json: download distilbert-base-uncased (config.json, "
            "model.safetensors, vocab.txt) and name its folder in text.folder"
        )
