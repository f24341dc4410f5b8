"""Towers, dual encoders, and everything that brings published weights into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.convert import clip, egovlp, lavila
from egovl.convert.keys import KeyMap
from egovl.convert.load import load_published
from egovl.convert.space_time import SPACE_TIME_KEYS, inflate_temporal
from egovl.engine.optim import param_groups
from egovl.losses.classification import classification_loss, multi_head_loss
from egovl.losses.contrastive import info_nce
from egovl.losses.similarity import cosine_matrix
from egovl.models.classifier import Classifier
from egovl.models.configs import (
    TIMM_STYLE,
    ClassifierConfig,
    DualEncoderConfig,
    HFTextConfig,
    ImageTowerConfig,
    TextTowerConfig,
    VideoTowerConfig,
)
from egovl.models.dual_encoder import DualEncoder
from egovl.models.video_transformer import SpaceTimeTransformer
from egovl.models.zero_shot import class_embeddings, class_prompts, class_scores, pool_views
from tests.parity.checks_training import check_dual_encoder_step
from tests.parity.golden import GoldenCase

# --- lavila -------------------------------------------------------------------------------------


def check_tower(case: GoldenCase) -> None:
    """Forward of the tower, with fewer frames too, parameter count, gradients."""
    config = _visual_config(case.json["config"])
    config = replace(config, norm_eps=case.json.get("norm_eps", config.norm_eps))
    tower = _loaded_tower(config, _weights(case))
    if "num_params" in case.json:
        case.exact(
            "num_params", sum(p.numel() for p in tower.parameters()), case.json["num_params"]
        )
    inputs = case.group("inputs")
    for name, golden in case.group("outputs").items():
        kind, _, suffix = name.partition("_")
        video = inputs[f"video_{suffix}" if suffix else "video"]
        forward = {"cls": tower.forward, "tokens": tower.forward_tokens}[kind]
        case.close(name, forward(video), golden, "F")
    if grads := case.group("grads"):
        video = inputs["video"].clone().requires_grad_()
        (tower(video) * inputs["grad_weight"]).sum().backward()
        _check_grads(case, tower, SPACE_TIME_KEYS, grads, {"x": video})


def check_temporal_inflate(case: GoldenCase) -> None:
    """Temporal embeddings at other lengths: LaViLa's rule, pixel centres."""
    inputs = case.group("inputs")
    for name, golden in case.group("outputs").items():
        mode, _, pair = name.partition("_")
        assert mode in ("bilinear", "zeros", "interp")
        case.close(name, inflate_temporal(inputs[pair], golden.shape[1], mode), golden, "F")


def check_clip_inflate(case: GoldenCase) -> None:
    """OpenAI CLIP into the space-time tower: names and shapes, the tower, the ViT, the text."""
    state = case.group("weights/clip") or _weights(case)
    config = _clip_dual_encoder_config(case.json["clip"] | {"visual": case.json["visual"]})
    model = DualEncoder(replace(config, normalize=False)).eval()
    report = clip.load_dual_encoder(model, state)
    _check_clip_names(case, model, state, report.missing)
    values = _clip_values(case, model, state)
    for name, golden in case.group("outputs").items():
        case.close(name, values[name](), golden, "F")


def _check_clip_names(
    case: GoldenCase, model: DualEncoder, state: Mapping[str, Tensor], missing: tuple[str, ...]
) -> None:
    filled = {
        name: tensor
        for name, tensor in model.video.state_dict().items()
        if f"video.{name}" not in missing
    }
    shapes = {name: list(t.shape) for name, t in SPACE_TIME_KEYS.publish(filled).items()}
    if "remapped_key_shapes" in case.json:
        case.exact("remapped_key_shapes", shapes, case.json["remapped_key_shapes"])
    if "missing_keys_after_inflation" in case.json:
        published = [SPACE_TIME_KEYS.to_published(name.removeprefix("video.")) for name in missing]
        golden = case.json["missing_keys_after_inflation"]
        case.exact("missing_keys_after_inflation", sorted(map(str, published)), sorted(golden))
    if "unexpected" in case.json:
        report = clip.load_image_tower(model.video, state)
        case.exact("unexpected", report.unexpected, case.json["unexpected"])


def _clip_values(
    case: GoldenCase, model: DualEncoder, state: Mapping[str, Tensor]
) -> dict[str, Callable[[], Tensor]]:
    image, text = case.tensors.get("inputs/image"), case.tensors.get("inputs/text")
    # CLIP's ViT is the tower on one frame with CLIP's eps
    eps = case.json.get("clip_layernorm_eps", 1e-5)
    vit = replace(_visual_config(case.json["visual"]), num_frames=1, norm_eps=eps).build().eval()
    clip.load_image_tower(vit, state)
    for name, parameter in vit.named_parameters():
        if "time" in name:  # CLIP has none of it
            nn.init.zeros_(parameter)

    def frames(count: int) -> Tensor:
        assert image is not None
        return image.unsqueeze(2).expand(-1, -1, count, -1, -1)

    def vit_projected() -> Tensor:
        return model.video_projection(vit(frames(1)))

    def still(name: str) -> Callable[[], Tensor]:
        count = int(re.findall(r"\d+", name)[0])
        return lambda: model.video(frames(count))

    names = case.group("outputs")
    values: dict[str, Callable[[], Tensor]] = {
        name: still(name) for name in names if name.startswith("tsf_")
    }
    by_frame = replace(model.config, video=_frame_config(model.config.video)).build().eval()
    clip.load_dual_encoder(by_frame, state)
    return values | {
        "vit_prepool_norm": lambda: vit(frames(1)),
        "vit_projected": vit_projected,
        "clip_video_mean": lambda: by_frame.encode_video(frames(3)),
        "clip_image_embed": lambda: F.normalize(vit_projected(), dim=-1),
        "vit_tokens_no_ln_post_no_cls": lambda: by_frame.video.forward_tokens(frames(1)),
        "clip_text": lambda: model.encode_text(_given(text)),
        "clip_text_embed": lambda: F.normalize(model.encode_text(_given(text)), dim=-1),
        "logit_scale": lambda: model.logit_scale.exp().squeeze(0),
    }


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "an output without its input"
    return tensor


def _frame_config(tower: VideoTowerConfig) -> ImageTowerConfig:
    sizes = ("image_size", "patch_size", "width", "depth", "heads")
    return ImageTowerConfig(**{name: getattr(tower, name) for name in sizes})


def check_dual_encoder_clip(case: GoldenCase) -> None:
    """Embeddings with and without normalisation; InfoNCE and its gradients."""
    config = _clip_dual_encoder_config(case.json)
    _check_embeddings(case, config)
    options = case.json.get("train")
    outputs, grads = case.group("outputs"), case.group("grads")
    if options is None or "loss" not in outputs:
        return
    assert options["loss"] == "CLIPLoss", options
    model = _loaded_lavila(replace(config, normalize=options["norm_embed"]), case).train()
    embeds = model(case.tensors["inputs/video"], case.tensors["inputs/text"])
    result = info_nce(embeds.video, embeds.text, embeds.logit_scale)
    result.loss.backward()
    case.close("loss", result.loss, outputs["loss"], "F")
    if "clip_acc" in outputs:
        case.close("clip_acc", result.accuracy, outputs["clip_acc"], "M")
    if "grad_norm" in outputs:
        norms = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
        case.close("grad_norm", norms.norm(), outputs["grad_norm"], "G")
    _check_grads(case, model, lavila.DUAL_ENCODER_KEYS, grads, {})


def check_dual_encoder_distilbert(case: GoldenCase) -> None:
    """Both projections with a padding mask; names and shapes of the state dict."""
    sizes = case.json["distilbert"]
    config = DualEncoderConfig(
        video=_visual_config(case.json["visual"]),
        text=HFTextConfig(
            vocab_size=sizes["vocab_size"],
            context_length=sizes["max_position_embeddings"],
            width=sizes["dim"],
            heads=sizes["n_heads"],
            depth=sizes["n_layers"],
            hidden_width=sizes["hidden_dim"],
            dropout=sizes["dropout"],
            attention_dropout=sizes["attention_dropout"],
        ),
        embed_dim=case.json["embed_dim"],
        projection={"default": "linear"}.get(case.json["projection"], case.json["projection"]),
        temperature_init=case.json.get("temperature_init", 0.07),
    )
    if golden := case.json.get("state_keys"):
        with torch.device("meta"):
            shapes = _published_shapes(config.build(), lavila.DUAL_ENCODER_KEYS)
        case.exact(
            "state_keys", shapes, {k: v for k, v in golden.items() if "position_ids" not in k}
        )
    _check_embeddings(case, config)


def check_param_groups_clip(case: GoldenCase) -> None:
    """Which parameters decay, under their published names."""
    with torch.device("meta"):
        model = _clip_dual_encoder_config(case.json).build()
    decayed, spared = param_groups(model, weight_decay=0.01)
    for key, group in (("decay", decayed), ("no_decay", spared)):
        if key in case.json:
            published = [lavila.DUAL_ENCODER_KEYS.to_published(name) for name in group["names"]]
            case.exact(key, sorted(map(str, published)), sorted(case.json[key]))


def _check_embeddings(case: GoldenCase, config: DualEncoderConfig) -> None:
    inputs = case.group("inputs")
    video, text, mask = inputs.get("video"), inputs.get("text"), inputs.get("mask")
    for name, golden in case.group("outputs").items():
        kind, _, norm = name.partition("_norm")
        model = _loaded_lavila(replace(config, normalize=norm == "1"), case).eval()
        forward = {
            "image_embed": lambda m: m.encode_video(_given(video)),
            "text_embed": lambda m: m.encode_text(_given(text), mask),
            "logit_scale": lambda m: m.logit_scale.exp().squeeze(0),
            "visual": lambda m: m.video(_given(video)),
            "text_last_hidden": lambda m: m.text.forward_tokens(_given(text), mask),
        }.get(kind)
        if forward is not None:
            case.close(name, forward(model), golden, "F")


def _clip_dual_encoder_config(sizes: Mapping[str, Any]) -> DualEncoderConfig:
    return DualEncoderConfig(
        video=_visual_config(sizes["visual"]),
        text=TextTowerConfig(
            vocab_size=sizes["vocab_size"],
            context_length=sizes["context_length"],
            width=sizes["text_width"],
            heads=sizes["text_heads"],
            depth=sizes["text_layers"],
        ),
        embed_dim=sizes["embed_dim"],
        temperature_init=sizes.get("temperature_init", 0.07),
    )


def _loaded_lavila(config: DualEncoderConfig, case: GoldenCase) -> DualEncoder:
    model = DualEncoder(config)
    lavila.load_state(model, _weights(case))
    return model


def _visual_config(sizes: Mapping[str, Any]) -> VideoTowerConfig:
    config = VideoTowerConfig(
        image_size=sizes["img"],
        patch_size=sizes["ps"],
        width=sizes["dim"],
        depth=sizes["depth"],
        heads=sizes["heads"],
        num_frames=sizes["frames"],
        gated_time=sizes.get("gated", False),
    )
    return config if sizes["clip"] else replace(config, **TIMM_STYLE)


def check_classifier(case: GoldenCase) -> None:
    """Logits of one head and of several, label-smoothed losses."""
    inputs, outputs, smoothing = case.group("inputs"), case.group("outputs"), 0.1
    smoothing = case.json.get("label_smoothing", smoothing)
    logits: dict[str, Tensor] = {}
    if "single" in case.json:
        single = _classifier(case, {"action": case.json["single"]}, "single")
        logits["single"] = single(inputs["video"])["action"]
    if "heads" in case.json:
        sizes = dict(zip(_LABELS, case.json["heads"], strict=True))
        logits |= _classifier(case, sizes, "multi")(inputs["video"])
    losses: dict[str, Callable[[], Tensor]] = {
        "loss_single": lambda: classification_loss(
            logits["single"], inputs["action"], smoothing=smoothing
        ),
        "loss_multi": lambda: multi_head_loss(
            [logits[label] for label in _LABELS],
            [inputs[label] for label in _LABELS],
            smoothing=smoothing,
        ),
    }
    for name, golden in outputs.items():
        case.close(name, losses[name]() if name in losses else logits[name], golden, "F")


_LABELS = ("verb", "noun", "action")


def _classifier(case: GoldenCase, heads: dict[str, int], kind: str) -> Classifier:
    config = ClassifierConfig(
        heads=heads,
        video=_visual_config(case.json["visual"]),
        dropout=case.json.get("dropout", 0.5),
    )
    model = config.build().eval()
    file = case.json.get("weights_file")
    lavila.load_state(model, (case.sibling(file) if file else case).group(f"weights/{kind}"))
    return model


def check_zeroshot_eval(case: GoldenCase) -> None:
    """Scores of clips and views against class texts, similarity of pairs, multiple choice."""
    model = _loaded_lavila(_clip_dual_encoder_config(case.json), case).eval()
    unit = replace(model.config, normalize=True).build().eval()
    unit.load_state_dict(model.state_dict())
    inputs, outputs = case.group("inputs"), case.group("outputs")
    for name, templates in case.json.get("template_sets", {}).items():
        texts, owners = class_prompts(case.json["labels"], templates)
        embed = unit.encode_text(_stored_tokens(case, texts))
        classes = class_embeddings(embed, torch.tensor(owners), len(case.json["labels"]))
        if golden := _maybe(outputs, f"{name}_single"):
            own = class_scores(unit.encode_video(inputs["videos"])[:, None], classes).squeeze(1)
            case.close(f"{name}_single", own, *golden, "F")
        if golden := _maybe(outputs, f"{name}_multiview_max_softmax"):
            views = sorted(
                (n for n in inputs if re.fullmatch(r"view\d+", n)), key=lambda n: int(n[4:])
            )
            video = torch.stack([unit.encode_video(inputs[view]) for view in views], dim=1)
            own = pool_views(class_scores(video, classes))
            case.close(f"{name}_multiview", own, *golden, "F")
    if golden := _maybe(outputs, "similarity"):
        text = unit.encode_text(inputs["sim_texts"])
        case.close("similarity", unit.encode_video(inputs["videos"]) @ text.T, *golden, "F")
    if golden := _maybe(outputs, "mcq_preds"):
        _check_choices(case, model, *golden)


def _stored_tokens(case: GoldenCase, texts: Sequence[str]) -> Tensor:
    rows = [case.json["token_ids"][text] for text in texts]
    length = case.json["pad_to"]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def _check_choices(case: GoldenCase, model: DualEncoder, golden: Tensor) -> None:
    free = replace(model.config, normalize=False).build().eval()
    free.load_state_dict(model.state_dict())
    videos, queries = case.tensors["inputs/mcq_options"], case.tensors["inputs/mcq_query_tokens"]
    choices = free.encode_video(videos.flatten(0, 1)).unflatten(0, videos.shape[:2])
    own = torch.einsum("bkd,bd->bk", choices, free.encode_text(queries))
    case.close("mcq_preds", own, golden, "F")


# --- egovlp -------------------------------------------------------------------------------------


def check_video_tower(case: GoldenCase) -> None:
    """Tower at several frame numbers, block by block; gradient of the input, gradient norms."""
    tower = _loaded_tower(_egovlp_tower_config(case.json["config"]), _weights(case))
    videos = {k.removeprefix("video_"): v for k, v in case.group("inputs").items() if "video" in k}
    outputs = case.group("outputs")
    for tag, video in videos.items():
        blocks = _block_outputs(tower, _frames_third(video))
        for i, block in enumerate(blocks):
            if golden := _maybe(outputs, f"block{i}_{tag}"):
                case.close(f"block{i}_{tag}", block, *golden, "F")
        if golden := _maybe(outputs, f"cls_{tag}"):
            case.close(f"cls_{tag}", tower(_frames_third(video)), *golden, "F")
    norms = case.json.get("grad_norms", {})
    if not norms and "grad_video" not in outputs:
        return
    video = _gradient_video(videos, outputs).clone().requires_grad_()
    (tower(_frames_third(video)) * case.tensors["inputs/cotangent"]).sum().backward()
    if golden := _maybe(outputs, "grad_video"):
        case.close("grad_video", video.grad, *golden, "G")
    own = SPACE_TIME_KEYS.publish(
        {n: p.grad for n, p in tower.named_parameters() if p.grad is not None}
    )
    for name, norm in norms.items():
        case.close(f"grad_norm {name}", own[name].norm().item(), norm, "G")


def check_vit_init(case: GoldenCase) -> None:
    """A ViT loaded by name; all that acts in time at its initial value."""
    config = _egovlp_tower_config(case.json["config"])
    tower = config.build().eval()
    report = egovlp.load_vit(tower, case.group("inputs/vit"))
    missing = sorted(str(SPACE_TIME_KEYS.to_published(name)) for name in report.missing)
    if "missing_keys" in case.json:
        case.exact("missing_keys", missing, sorted(case.json["missing_keys"]))
    if "unexpected_keys" in case.json:
        golden = sorted(case.json["unexpected_keys"])
        case.exact("unexpected_keys", sorted(report.unexpected), golden)
    own = SPACE_TIME_KEYS.publish(tower.state_dict())
    case.exact("temporal_embed", own["temporal_embed"].abs().max(), 0.0)
    for name in (n for n in missing if "norm3" in n):
        case.exact(name, own[name].unique(), [1.0 if name.endswith("weight") else 0.0])
    if config.time_init == "rand":
        return  # random values are nobody's to compare
    for name, ends in case.json.get("time_attention_init_ranges", {}).items():
        case.exact(name, {"min": own[name].min(), "max": own[name].max()}, ends)
    if "inputs/video" in case.tensors:
        video = _frames_third(case.tensors["inputs/video"])
        case.close("cls", tower(video), case.tensors["outputs/cls"], "F")


def check_temporal_inflation(case: GoldenCase) -> None:
    """Temporal embeddings at other lengths: EgoVLP's rule, end points kept."""
    for entry in case.json["cases"]:
        tag, mode, frames = entry["tag"], entry["mode"], entry["target_frames"]
        if entry.get("ok", True):
            own = inflate_temporal(case.tensors[f"inputs/{tag}"], frames, mode, align_corners=True)
            case.close(tag, own, case.tensors[f"outputs/{tag}"], "F")
            continue
        # the spec calls this raising a bug and the nearest row right
        source = torch.arange(entry["source_frames"] * 2.0).view(1, -1, 2)
        own = inflate_temporal(source, frames, mode, align_corners=True)
        nearest = [i * entry["source_frames"] // frames for i in range(frames)]
        case.close(tag, own, source[:, nearest], "X")


def check_state_dict_keys_full(case: GoldenCase) -> None:
    """Names and shapes of the released model, built on the meta device."""
    golden = case.json["tensors"]
    state = {name: torch.empty(shape, device="meta") for name, shape in golden.items()}
    with torch.device("meta"):
        model = egovlp.dual_encoder_config(state).build()
    case.exact("tensors", _published_shapes(model, egovlp.DUAL_ENCODER_KEYS), golden)


def check_dual_encoder(case: GoldenCase) -> None:
    """Embeddings, token embeddings, similarity; the training step."""
    text = case.json["text_tower"]
    rate = case.json.get("train_options", {}).get("dropout", 0.0)
    config = DualEncoderConfig(
        video=_egovlp_tower_config(
            case.json["video_tower"] | {"num_frames": case.json["num_frames"]}
        ),
        text=HFTextConfig(
            vocab_size=text["vocab"],
            context_length=text["maxpos"],
            width=text["dim"],
            heads=text["heads"],
            depth=text["layers"],
            hidden_width=text["hidden"],
            dropout=rate,
            attention_dropout=rate,
        ),
        embed_dim=case.json["projection_dim"],
        projection="frozen_in_time" if case.json["projection"] == "minimal" else "identity",
        normalize=False,
    )
    model = DualEncoder(config).eval()
    egovlp.load_state(model, _weights(case))
    inputs = case.group("inputs")
    ids, mask, video = (inputs.get(name) for name in ("input_ids", "attention_mask", "video"))

    def texts() -> Tensor:
        return model.encode_text(_given(ids), mask)

    def videos() -> Tensor:
        return model.encode_video(_frames_third(_given(video)))

    own: dict[str, Callable[[], Tensor]] = {
        "text_embeds": texts,
        "video_embeds": videos,
        "sim_text_by_video": lambda: cosine_matrix(texts(), videos()),
        "text_token_embeds": lambda: model.encode_text_tokens(_given(ids), mask),
        "text_last_hidden": lambda: model.text.forward_tokens(_given(ids), mask),
    }
    for name, golden in case.group("outputs").items():
        if name in own:
            case.close(name, own[name](), golden, "F")
    check_dual_encoder_step(case, model)


def _egovlp_tower_config(sizes: Mapping[str, Any]) -> VideoTowerConfig:
    return VideoTowerConfig(
        image_size=sizes["img_size"],
        patch_size=sizes["patch_size"],
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        num_frames=sizes["num_frames"],
        time_init=sizes.get("time_init", "zeros"),
        **TIMM_STYLE,
    )


def _frames_third(video_BTCHW: Tensor) -> Tensor:
    return video_BTCHW.transpose(1, 2)


def _block_outputs(tower: SpaceTimeTransformer, video: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _args, output: seen.append(output))
        for block in tower.blocks
    ]
    tower.forward_tokens(video)
    for handle in handles:
        handle.remove()
    return seen


def _gradient_video(videos: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    """The clip that the gradients belong to: the one of their shape, else the longest."""
    shape = outputs["grad_video"].shape if "grad_video" in outputs else None
    longest = max(videos.values(), key=lambda video: video.shape[1])
    return next((video for video in videos.values() if video.shape == shape), longest)


def _maybe(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    return (tensors[name],) if name in tensors else ()


# --- both ---------------------------------------------------------------------------------------


def _weights(case: GoldenCase) -> dict[str, Tensor]:
    file = case.json.get("weights_file")
    return (case.sibling(file) if file else case).group("weights")


def _loaded_tower(config: VideoTowerConfig, weights: Mapping[str, Tensor]) -> SpaceTimeTransformer:
    tower = config.build().eval()
    load_published(tower, weights, SPACE_TIME_KEYS)
    return tower


def _published_shapes(model: nn.Module, keys: KeyMap) -> dict[str, list[int]]:
    own = {name: tensor for name, tensor in model.state_dict().items() if keys.to_published(name)}
    left_out = set(model.state_dict()) - set(own)
    assert left_out <= {"logit_scale"}, left_out
    return {name: list(tensor.shape) for name, tensor in keys.publish(own).items()}


def _check_grads(
    case: GoldenCase,
    model: nn.Module,
    keys: KeyMap,
    golden: Mapping[str, Tensor],
    leaves: Mapping[str, Tensor],
) -> None:
    own = keys.publish({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    own |= {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    for name, tensor in golden.items():
        case.close(f"grads/{name}", own[name], tensor, "G")
