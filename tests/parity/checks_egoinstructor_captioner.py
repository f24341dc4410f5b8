"""Egoinstructor's captioner: forward, labels, loss, gradients, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from egovl.convert import egoinstructor_captioner as convert
from egovl.data.prompt_tokens import load_prompt_tokenizer
from egovl.engine.optim import param_groups
from egovl.losses.answer_labels import IGNORED, PromptMarks, answer_labels
from egovl.losses.language import caption_loss
from egovl.models.captioner.captioner import Captioner, is_decayed, is_trained
from egovl.models.captioner.writing import UncachedWriter, Writer
from egovl.models.generation.configs import GenerationConfig
from egovl.models.generation.generate import generate
from tests.parity.checks_egoinstructor_data import TOKENIZER
from tests.parity.golden import GoldenCase


def _captioner(case: GoldenCase) -> Captioner:
    """The model of a case; weights and what its json lacks come from ``weights_file``."""
    name = case.json.get("weights_file", case.path.name)
    owner = case if name.rpartition(".")[0] == case.path.stem else case.sibling(name)
    sizes = {**owner.json, **case.json}
    config = convert.captioner_config(sizes["config"], sizes["widths"])
    model = config.build().eval()
    convert.load_captioner(model, owner.group("weights"))
    return model


def _marks(case: GoldenCase) -> PromptMarks:
    ids = case.json
    return PromptMarks(
        answer=ids["answer_token_id"],
        end=ids["eoc_token_id"],
        media=ids["media_token_id"],
        pad=ids["pad_token_id"],
    )


def check_captioner(case: GoldenCase) -> None:
    """Tokens of frames, latents, inputs of layers, logits, labels, loss, gradients, lists."""
    model, inputs = _captioner(case), case.group("inputs")
    if "input_ids" in inputs:
        _check_forward(case, model, inputs)
        _check_training(case, model, inputs)
    _check_lists(case, model)


def _check_forward(case: GoldenCase, model: Captioner, inputs: Mapping[str, Tensor]) -> None:
    outputs = case.group("outputs")
    mask = inputs["attention_mask"].bool()
    clips = (inputs["input_ids"] == case.json["media_token_id"]).long().cumsum(dim=1)
    with torch.no_grad():
        values = {"vision_tokens": model.encode_frames(inputs["vision_x"])}
        values["perceiver"] = media = model.encode_clips(inputs["vision_x"])
        layers: list[Tensor] = []
        hidden, _ = model.read_words(
            inputs["input_ids"], mask, clips, model.make_keys(media), inputs=layers
        )
        values["logits"] = model.embed.logits(hidden)
    values |= {f"hidden_{i}": layer for i, layer in enumerate(layers)}
    labels = inputs.get("labels", answer_labels(inputs["input_ids"], _marks(case)))
    values["loss"] = _loss(values["logits"], labels)
    for name, golden in outputs.items():
        case.close(name, values[name], golden, "F")


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return caption_loss(logits[:, :-1], labels[:, 1:], pad_id=IGNORED).loss


def _check_training(case: GoldenCase, model: Captioner, inputs: Mapping[str, Tensor]) -> None:
    labels = answer_labels(inputs["input_ids"], _marks(case))
    if "labels" in inputs:
        case.exact("labels", labels, inputs["labels"])
    model.train()
    logits = model(
        inputs["vision_x"],
        inputs["input_ids"],
        inputs["attention_mask"],
        inputs["input_ids"] == case.json["media_token_id"],
    )
    loss = _loss(logits, labels)
    loss.backward()
    if "train_loss" in case.json:
        case.close("train_loss", loss.item(), case.json["train_loss"], "F")
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    published = convert.publish(grads)
    for name, golden in case.group("grads").items():
        case.close(f"grad/{name}", published[name], golden, "G")
    if norms := case.json.get("grad_norms"):
        case.exact("grad_norms/names", sorted(published), sorted(norms))
        for name, golden in norms.items():
            case.close(f"grad_norm/{name}", published[name].norm().item(), golden, "G")
    if "total_grad_norm" in case.json:
        total = torch.stack([g.norm() for g in grads.values()]).norm()
        case.close("total_grad_norm", total.item(), case.json["total_grad_norm"], "G")


def _check_lists(case: GoldenCase, model: Captioner) -> None:
    tensors = model.state_dict()
    lists: dict[str, Callable[[], Any]] = {
        "trainable": lambda: convert.publish({k: v for k, v in tensors.items() if is_trained(k)}),
        "frozen": lambda: convert.publish({k: v for k, v in tensors.items() if not is_trained(k)}),
        "decay_params": lambda: convert.publish(
            {name: tensors[name] for name in param_groups(model, 0.1, is_decayed)[0]["names"]}
        ),
        "checkpoint_keys": lambda: convert.publish(tensors, trained_only=True),
    }
    for name, found in lists.items():
        if name in case.json:
            case.exact(name, sorted(found()), sorted(case.json[name]))
    learned = {name for name, param in model.named_parameters() if param.requires_grad}
    assert learned == {name for name in tensors if is_trained(name)}


# --- writing ------------------------------------------------------------------------------------


def check_generation(case: GoldenCase) -> None:
    """Logits of the prompt, greedy and beam ids, with the cache and without it."""
    model, inputs = _captioner(case), case.group("inputs")
    if "input_ids" not in inputs:
        return
    prompt, notes = inputs["input_ids"], set(case.json.get("notes_only", ()))
    with torch.no_grad():
        media = model.encode_clips(inputs["vision_x"])
        golden = case.tensors.get("outputs/prompt_logits")
        if golden is not None:
            logits = model(
                inputs["vision_x"], prompt, inputs["attention_mask"], prompt == _media_id(case)
            )
            case.close("prompt_logits", logits, golden, "F")
    for name, settings in case.json.get("settings", {}).items():
        golden = case.tensors.get(f"outputs/{name}")
        if golden is None or f"outputs/{name}" in notes:
            continue
        config = _generation_config(case, settings)
        for kind in (Writer, UncachedWriter):
            writer: Any = kind(model, media, _media_id(case))
            mask = inputs["attention_mask"].bool()
            written = generate(writer, prompt, config, mask=mask)
            ids = torch.cat([prompt, written.ids], dim=1)
            case.exact(f"{name} {kind.__name__}", ids, golden)
            if len(ids) == 1 and f"{name}_text" in case.json:
                tokenizer = load_prompt_tokenizer(TOKENIZER)
                text = tokenizer.decode(ids[0].tolist())
                case.exact(f"{name}_text", text, case.json[f"{name}_text"])
        new = case.json.get("new_tokens", {}).get(name)
        if new is not None:
            case.exact(f"{name} new", golden.shape[1] - prompt.shape[1], new)


def _media_id(case: GoldenCase) -> int:
    return case.json["media_token_id"]


def _generation_config(case: GoldenCase, settings: Mapping[str, Any]) -> GenerationConfig:
    banned = "bad_words" in settings or "bad_words_ids" in settings
    words = settings.get("bad_words_ids", case.json.get("bad_words_ids", [])) if banned else []
    beams = settings.get("num_beams", 1)
    end = settings.get("eos_token_id", case.json["eos_token_id"])
    return GenerationConfig(
        strategy="beam" if beams > 1 else "greedy",
        num_beams=beams,
        max_new_tokens=settings.get("max_new_tokens", case.json["max_new_tokens"]),
        length_penalty=settings.get("length_penalty", 1.0),
        no_repeat_ngram_size=settings.get("no_repeat_ngram_size", 0),
        stop_at_num_beams=settings.get("early_stopping", False),
        bad_words=tuple(map(tuple, words)),
        eos_id=end,
        pad_id=end,
    )
