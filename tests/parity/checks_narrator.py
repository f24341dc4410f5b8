"""LaViLa's narrator: forward, loss and gradients, state keys, pooler, warpers, generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from egovl.convert import narrator as convert
from egovl.convert.load import Tolerated, load_published
from egovl.losses.language import caption_loss, text_perplexity
from egovl.models.configs import TIMM_STYLE, VideoTowerConfig
from egovl.models.decoder_configs import GPT2Config, NarratorConfig, PoolerConfig
from egovl.models.generation.configs import GenerationConfig
from egovl.models.generation.generate import generate, pick_tokens
from egovl.models.generation.warp import warp_logits
from egovl.models.layers.attention_pooler import AttentionPooler
from egovl.models.narrator import Narrator
from tests.parity.golden import GoldenCase

Json = Mapping[str, Any]


def check_forward(case: GoldenCase) -> None:
    """Image tokens, logits, loss, gradients of the trainable set, names of everything."""
    model = _loaded(case)
    inputs, outputs = case.group("inputs"), case.group("outputs")
    text, video = inputs.get("text"), inputs.get("video")
    golden_labels = outputs.get("labels")
    if text is not None and golden_labels is not None:
        case.exact("labels", text[:, 1:], golden_labels)
    if text is not None and "logits_no_visual" in outputs:
        blind = model.decode(None, text[:, :-1])
        case.close("logits_no_visual", blind, outputs["logits_no_visual"], "F")
    if video is not None and text is not None:
        _check_seen(case, model, video, text)
    if "trainable_when_frozen" in case.json:
        keys = convert.keys_of(model.config)
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        published = sorted(str(keys.to_published(name)) for name in names)
        case.exact("trainable", published, sorted(case.json["trainable_when_frozen"]))
    if golden := case.json.get("all_state_keys"):
        state = convert.publish(model.config, model.state_dict())
        own = {name: [list(t.shape), str(t.dtype)] for name, t in state.items()}
        case.exact("all_state_keys", own, golden)


def _check_seen(case: GoldenCase, model: Narrator, video: Tensor, text: Tensor) -> None:
    outputs = case.group("outputs")
    tokens = model.encode_video(video)
    logits = model.decode(tokens, text[:, :-1])
    result = caption_loss(logits, text[:, 1:], pad_id=case.json["pad"], legacy_mean=True)
    own: dict[str, Tensor] = {
        "image_tokens": tokens,
        "logits_bcl": logits.transpose(1, 2),
        "loss": result.loss,
        "caption_loss": result.loss,
        "ppl": result.perplexity,
    }
    for name in own.keys() & outputs.keys():
        case.close(name, own[name], outputs[name], "F")
    if "caption_acc" in outputs:
        case.close("caption_acc", result.accuracy, outputs["caption_acc"], "M")
    result.loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    if "grad_norm" in outputs:
        norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
        case.close("grad_norm", norm, outputs["grad_norm"], "G")
    published = convert.keys_of(model.config).publish(grads)
    for name, golden in case.group("grads").items():
        case.close(f"grads/{name}", published[name], golden, "G")


def check_pooler(case: GoldenCase) -> None:
    """The attention pooler alone."""
    sizes = case.json
    weights = _weights_of(case).group("weights")
    factor = weights["ff.2.weight"].shape[1] // sizes["dim"] if "ff.2.weight" in weights else 0
    pooler = AttentionPooler(
        sizes["dim"],
        sizes["context_dim"],
        sizes["heads"],
        sizes["dim_head"],
        norm_context=sizes.get("norm_context", True),
        parallel_mlp=factor,
    )
    load_published(pooler, weights, convert.POOLER_KEYS, Tolerated(dropped=convert.CONSTANTS))
    inputs = case.group("inputs")
    for name, golden in case.group("outputs").items():
        case.close(name, pooler(inputs["q"], inputs["context"]), golden, "F")


def check_warper(case: GoldenCase) -> None:
    """Temperature, top-k, top-p, typical."""
    outputs = case.group("outputs")
    for name, options in case.json["options"].items():
        if name not in outputs:
            continue
        warpers = {key: value for key, value in options.items() if key != "num_beams"}
        config = GenerationConfig(**{**warpers, "temperature": warpers.get("temperature") or 1.0})
        keep = 2 if options.get("num_beams", 1) > 1 else 1
        own = warp_logits(case.tensors["inputs/logits"], config, keep)
        case.close(name, own.clamp(min=-1e30), outputs[name], "F")


def check_generate(case: GoldenCase) -> None:
    """Ids, scores and perplexities of every case, under the published quirks."""
    model = _loaded(_weights_of(case), like=case)
    clips = case.tensors["inputs/image_tokens"]
    for name, options in case.json["cases"].items():
        golden = {
            key: case.tensors[f"outputs/{key}"]
            for key in (name, options.get("scores"), options.get("ppl"))
            if key is not None and f"outputs/{key}" in case.tensors
        }
        if golden and not _is_note(case, name):
            _check_generation(case, model, clips, options, golden)


def _check_generation(
    case: GoldenCase, model: Narrator, clips: Tensor, options: Json, golden: Mapping[str, Tensor]
) -> None:
    config = _generation_config(case, options)
    prompt = clips.new_full((len(clips), 1), case.json["bos=eos"], dtype=torch.int64)
    target = case.tensors["inputs/target"] if options.get("target") else None
    seed = options.get("torch_seed")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    rows = torch.arange(len(clips)).repeat_interleave(config.num_return_sequences)
    if target is not None and options.get("teacher_forcing"):
        ids, scores = _forced_ids(model, clips, target, config, generator, rows)
    else:
        found, scores = generate(model.writer(clips), prompt, config, generator)
        ids = torch.cat([prompt[rows], found], dim=1)
    if target is not None:
        read = target[rows] if options.get("teacher_forcing") else ids
        logits = model.decode(
            clips[rows], read[:, : min(target.shape[1] - 1, config.max_new_tokens)]
        )
        labels = target[rows, 1 : logits.shape[1] + 1]
        scores = text_perplexity(logits, labels, labels != case.json["pad"])
    for name, tensor in golden.items():
        is_ids = not tensor.is_floating_point()
        case.close(name, ids if is_ids else scores, tensor, "X" if is_ids else "F")


def _forced_ids(
    model: Narrator,
    clips: Tensor,
    target: Tensor,
    config: GenerationConfig,
    generator: torch.Generator | None,
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """What would be written behind each prefix of the target."""
    length = config.max_new_tokens + 1
    logits = model.decode(clips, target[:, : length - 1])[rows]
    picked = [pick_tokens(step, config, generator) for step in logits.unbind(1)]
    return torch.stack([target[rows, 0], *picked], dim=1), torch.zeros(len(rows))


_STRATEGIES = {"beam_sample": "beam_sample", "group_beam_search": "diverse_beam"}


def _generation_config(case: GoldenCase, options: Json) -> GenerationConfig:
    method = options["method"]
    steps = options["max_text_length"] - 1
    settings: dict[str, Any] = {
        "strategy": _STRATEGIES.get(method, "sample"),
        "max_new_tokens": steps,
        "eos_id": options.get("eos_token_id", case.json["bos=eos"]),
        "pad_id": case.json["pad"],
        "temperature": options.get("temperature") or 1.0,
    }
    for name in ("top_k", "top_p", "typical_p", "num_return_sequences"):
        if options.get(name) is not None:
            settings[name] = options[name]
    if method == "generate":
        return GenerationConfig(
            **settings,
            legacy_run_on=True,
            legacy_early_stop=options.get("early_stopping", False),
            legacy_entropy_score=True,
        )
    for name in ("num_beams", "num_beam_groups", "length_penalty"):
        if name in options:
            settings[name] = options[name]
    return GenerationConfig(**settings, legacy_beam_scores=True)


def _is_note(case: GoldenCase, name: str) -> bool:
    """True for draws of another torch, and for records."""
    same = case.json.get("torch", "").split(".")[:2] == torch.__version__.split(".")[:2]
    notes = case.json.get("notes_only", [])
    return name in notes or (name in case.json.get("notes_only_unless_same_torch", []) and not same)


def _weights_of(case: GoldenCase) -> GoldenCase:
    file = case.json.get("weights_file")
    return case.sibling(file) if file else case


def _loaded(case: GoldenCase, like: GoldenCase | None = None) -> Narrator:
    sizes = {**_weights_of(case).json, **case.json, **(like.json if like else {})}
    visual = sizes["visual"]
    video = VideoTowerConfig(
        image_size=visual["img"],
        patch_size=visual["ps"],
        width=visual["dim"],
        depth=visual["depth"],
        heads=visual["heads"],
        num_frames=visual["frames"],
        gated_time=visual.get("gated", False),
    )
    decoder = GPT2Config(
        vocab_size=sizes["vocab"],
        context_length=sizes["n_positions"],
        width=sizes["width"],
        depth=sizes["layers"],
        heads=sizes["heads"],
        norm_eps=sizes.get("ln_eps", 1e-5),
        dropout=sizes.get("dropout", 0.0),
        cross_every=sizes["cross_attn_freq"],
        gated=sizes["gated"],
        frozen=True,
    )
    pooler = PoolerConfig(sizes["num_img_queries"], sizes["pool_heads"], sizes["pool_dim_head"])
    config = NarratorConfig(
        video=video if visual["clip"] else replace(video, **TIMM_STYLE),
        pooler=pooler,
        decoder=decoder,
    )
    model = Narrator(config).eval()
    convert.load_state(model, _weights_of(case).group("weights"))
    return model
