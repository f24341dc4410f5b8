"""DistilBERT as a text tower; the only model file that imports transformers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertModel

from egovl.models.configs import HFTextConfig


class HFTextTransformer(nn.Module):
    """Token ids to the last hidden state of token 0."""

    def __init__(self, config: HFTextConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _build_distilbert(config)
        self.width: int = self.model.config.dim

    def forward(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return the feature [B, D] of token 0; tokens whose mask is 0 are not attended to."""
        return self.forward_tokens(tokens_BL, token_mask_BL)[:, 0]

    def forward_tokens(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return the last hidden state of every token [B, L, D]."""
        return self.model(input_ids=tokens_BL, attention_mask=token_mask_BL).last_hidden_state


def _build_distilbert(config: HFTextConfig) -> DistilBertModel:
    if config.folder is not None:
        _require_folder(config.folder)
        sizes = DistilBertConfig.from_pretrained(config.folder, local_files_only=True)
        sizes.dropout, sizes.attention_dropout = config.dropout, config.attention_dropout
        return DistilBertModel.from_pretrained(config.folder, config=sizes, local_files_only=True)
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
