"""HierVL's aggregator, whole model, MIL-NCE, training step and state dict."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from egovl.convert import hiervl
from egovl.data.types import Batch
from egovl.engine.task import Embedded
from egovl.losses.configs import (
    ChildNCEConfig,
    EgoNCEConfig,
    InfoNCEConfig,
    LossConfig,
    MaxMarginConfig,
    NormSoftmaxConfig,
)
from egovl.losses.hierarchical import mil_nce
from egovl.models.aggregator import AggregatorBlock, SelfAttentionAggregator
from egovl.models.configs import TIMM_STYLE, DualEncoderConfig, HFTextConfig, VideoTowerConfig
from egovl.models.hierarchical_encoder import HierarchicalEncoder, ParentInputs, ParentOutput
from egovl.models.hierarchy_configs import (
    AggregatorConfig,
    AverageConfig,
    HierarchicalEncoderConfig,
    SelfAttentionConfig,
)
from egovl.tasks.hierarchical import Hierarchical
from egovl.tasks.hierarchy_configs import HierarchicalConfig, Term
from tests.parity.golden import GoldenCase

Options = Mapping[str, Any]

# --- aggregator ---------------------------------------------------------------------------------


def check_aggregator(case: GoldenCase) -> None:
    """Output, input gradient, used and unused parameters, constants, wrong lengths."""
    golden, weights = case.json, case.group("weights")
    width, clips = golden["embed_dim"], golden["clips"]
    config = SelfAttentionConfig(
        num_clips=clips,
        depth=golden["depth"],
        heads=golden["heads"],
        drop_path=golden.get("drop_path_rate", 0.1),
        clip_count="legacy_broadcast",
    )
    own = SelfAttentionAggregator(config, width).eval()
    _check_parameters(case, own, weights)
    hiervl.load_aggregator(own, weights)
    inputs, outputs = case.group("inputs"), case.group("outputs")
    if "embeds" in inputs:
        embeds = inputs["embeds"].clone().requires_grad_()
        result = own(embeds.unflatten(0, (-1, clips)))
        if "aggregated" in outputs:
            case.close("aggregated", result, outputs["aggregated"], "F")
        if "grad_embeds" in outputs:
            (result * inputs["cotangent"]).sum().backward()
            case.close("grad_embeds", embeds.grad, outputs["grad_embeds"], "G")
    if "one_token_broadcast" in outputs:
        result = own(inputs["one_token"][:, None])
        case.close("one_token_broadcast", result, outputs["one_token_broadcast"], "F")
    if "eight_tokens" in golden:
        count = 8 if clips != 8 else 4
        case.raises("eight_tokens", lambda: own(torch.zeros(2, count, width)))


def _check_parameters(
    case: GoldenCase, own: SelfAttentionAggregator, weights: Mapping[str, Tensor]
) -> None:
    golden = case.json
    published = hiervl.AGGREGATOR_KEYS.publish(own.state_dict())
    sizes = hiervl.UnusedSizes(
        classes=golden.get("num_classes", 1000),
        frames=weights["time_embed"].shape[1] if "time_embed" in weights else 8,
        patch_size=golden.get("patch_size", 16),
    )
    unused = hiervl.unused_shapes(own.config, golden["embed_dim"], sizes)
    if "used_params" in golden:
        case.exact("used_params", sorted(published), sorted(golden["used_params"]))
    if "unused_params" in golden:
        case.exact("unused_params", sorted(unused), sorted(golden["unused_params"]))
    shapes = {name: list(tensor.shape) for name, tensor in published.items()}
    shapes |= {name: list(shape) for name, shape in unused.items()}
    for name, tensor in weights.items():
        case.exact(f"shape {name}", shapes[name], list(tensor.shape))
    blocks = [block for block in own.blocks if isinstance(block, AggregatorBlock)]
    if "drop_path_rates" in golden:
        rates = [block.drop_path.rate for block in blocks]
        case.close("drop_path_rates", rates, golden["drop_path_rates"], "F")
    if "layernorm_eps" in golden:
        eps = {m.eps for m in own.modules() if isinstance(m, nn.LayerNorm)}
        case.exact("layernorm_eps", list(eps), [golden["layernorm_eps"]])
    if "qkv_bias" in golden:
        bias = [block.attn.qkv.bias is not None for block in blocks]
        case.exact("qkv_bias", bias, [golden["qkv_bias"]] * len(blocks))
    for name, (mean, std) in golden.get("init_mean_std", {}).items():
        if std == 0 and name in published:  # drawn values are nobody's to compare
            values = published[name]
            case.exact(f"init {name}", [values.mean(), values.std(correction=0)], [mean, std])


# --- model --------------------------------------------------------------------------------------


def check_model(case: GoldenCase) -> None:
    """The five outputs of the whole model."""
    model = _model(case.json).eval()
    weights = case
    if file := case.json.get("weights_file"):
        weights = case.sibling(file)
    hiervl.load_state(model, weights.group("weights"))
    output = model.encode_parents(_inputs(case.group("inputs"), case.json["clips"]))
    own = {
        "summary_embeds": output.summary,
        "video_clip_embeds": output.clips,
        "text_parent": output.text_parent,
        "video_parent": output.video_parent,
        "text_clip_embeds": output.narrations,
    }
    for name, golden in case.group("outputs").items():
        value = own[name]
        assert value is not None, name
        case.close(name, value.flatten(0, -2), golden, "F")


def _model(golden: Options) -> HierarchicalEncoder:
    video, text = golden["video_tower"], golden["text_tower"]
    encoder = DualEncoderConfig(
        video=VideoTowerConfig(
            image_size=video["img_size"],
            patch_size=video["patch_size"],
            width=video["embed_dim"],
            depth=video["depth"],
            heads=video["num_heads"],
            num_frames=golden["num_frames"],
            **TIMM_STYLE,
        ),
        text=HFTextConfig(
            vocab_size=text["vocab"],
            context_length=text["maxpos"],
            width=text["dim"],
            heads=text["heads"],
            depth=text["layers"],
            hidden_width=text["hidden"],
            dropout=0.0,
            attention_dropout=0.0,
        ),
        embed_dim=golden["projection_dim"],
        projection="identity" if golden.get("projection") == "" else "frozen_in_time",
        normalize=False,
    )
    aggregator: AggregatorConfig = AverageConfig()
    if golden["kind"] == "self-attention":
        sizes = golden["aggregator"]
        aggregator = SelfAttentionConfig(
            num_clips=golden["clips"],
            depth=sizes["depth"],
            heads=sizes["num_heads"],
            drop_path=0.0,
        )
    return HierarchicalEncoder(HierarchicalEncoderConfig(encoder=encoder, aggregator=aggregator))


def _inputs(inputs: Mapping[str, Tensor], clips: int) -> ParentInputs:
    parents = ParentInputs()
    if "video" in inputs:
        parents.video = inputs["video"].unflatten(0, (-1, clips)).transpose(2, 3)
    if "text/input_ids" in inputs:
        parents.summary = inputs["text/input_ids"]
        parents.summary_mask = inputs["text/attention_mask"]
    if "aggregated_text/input_ids" in inputs:
        ids = inputs["aggregated_text/input_ids"]
        mask = inputs["aggregated_text/attention_mask"]
        parents.narrations = ids.unflatten(0, (-1, clips))
        parents.narration_mask = mask.unflatten(0, (-1, clips))
    return parents


def check_state_dict_keys_full(case: GoldenCase) -> None:
    """Names and shapes of the released model on the meta device; what it never uses apart."""
    golden = case.json["tensors"]
    state = {name: torch.empty(shape, device="meta") for name, shape in golden.items()}
    config = hiervl.hierarchical_config(state)
    with torch.device("meta"):
        model = config.build()
        whole = hiervl.publish(config, model.state_dict(), _unused_sizes(golden))["state_dict"]
    own = {name.removeprefix("module."): list(tensor.shape) for name, tensor in whole.items()}
    case.exact("tensors", own, golden)
    if "n_params" in case.json:
        case.exact("n_params", sum(t.numel() for t in whole.values()), case.json["n_params"])
    if "n_tensors" in case.json:
        case.exact("n_tensors", len(whole), case.json["n_tensors"])


def _unused_sizes(shapes: Mapping[str, list[int]]) -> hiervl.UnusedSizes:
    """Sizes that only what is never used has."""
    if "aggregation.head.weight" not in shapes:
        return hiervl.UnusedSizes()
    return hiervl.UnusedSizes(
        classes=shapes["aggregation.head.weight"][0],
        frames=shapes["aggregation.time_embed"][1],
        patch_size=shapes["aggregation.patch_embed.proj.weight"][2],
    )


# --- losses -------------------------------------------------------------------------------------


def check_mil_nce(case: GoldenCase) -> None:
    """Values and gradients of MIL-NCE; sizes that do not divide are refused."""
    inputs, outputs = case.group("inputs"), case.group("outputs")
    temperature = case.json.get("temperature", 0.05)
    for name, parents in case.json.get("num_samples", {}).items():
        similarity = inputs[name].clone().requires_grad_()
        loss = mil_nce(similarity, parents, temperature)
        loss.backward()
        if name in case.json.get("values", {}):
            case.close(name, loss.item(), case.json["values"][name], "F")
        if f"grad/{name}" in outputs:
            case.close(f"grad/{name}", similarity.grad, outputs[f"grad/{name}"], "G")
    if "not_divisible_case" in case.json:
        entry = case.json["not_divisible_case"]
        shape, parents = entry["shape"], entry["num_samples"]
        case.raises("not_divisible", lambda: mil_nce(torch.zeros(*shape), parents))


def check_train_step(case: GoldenCase) -> None:
    """Loss, gradient norms and parameters without gradient of every case."""
    weights = case.group("weights")
    if file := case.json.get("weights_file"):
        weights = case.sibling(file).group("weights")
    for name, entry in case.json["cases"].items():
        options = {**case.json, **entry}
        options["kind"] = entry.get("aggregator") or case.json["kind"]
        options["aggregator"] = case.json["aggregator"]
        model = _model(options).train()
        hiervl.load_state(model, weights)
        random.seed(options.get("python_random_seed", 0))
        loss = _step_loss(case, model, options)
        if loss.requires_grad:
            loss.backward()
        case.close(f"{name} loss", loss.item(), entry["loss"], "F")
        _check_gradients(case, name, model, entry)


def _step_loss(case: GoldenCase, model: HierarchicalEncoder, options: Options) -> Tensor:
    """What the task makes of the embeddings; its normalisation of pixels is left out."""
    task = Hierarchical(_task_config(options))
    inputs = case.group(f"inputs/{options['hierarchy']}")
    labels = {kind: inputs[f"{kind}_vec"] for kind in ("noun", "verb") if f"{kind}_vec" in inputs}
    tokens, mask = inputs["text/input_ids"], inputs["text/attention_mask"]
    batch = Batch(torch.arange(len(tokens)), None, tokens, mask, labels)
    if options["hierarchy"] == "child":
        output = model(inputs["video"].transpose(1, 2), tokens, mask)
        shared = {"scale": output.logit_scale}
        return task.loss(Embedded({"video": output.video, "text": output.text}, shared), batch).loss
    parents = _inputs(inputs, options["clips"])
    batch.narrations = parents.narrations
    family = model(parents=parents)
    assert isinstance(family, ParentOutput)
    names = ("summary", "video_parent", "text_parent", "clips", "narrations")
    rows = {name: getattr(family, name) for name in names}
    return task.loss(Embedded(rows, {"scale": family.logit_scale}), batch).loss


def _task_config(options: Options) -> HierarchicalConfig:
    terms: tuple[Term, ...] = ("text_summary", "video_summary")
    if options.get("only_video_with_summary"):
        terms = ("video_summary",)
    if options.get("only_sa_no_summary"):  # wins over the other
        terms = ("text_video",)
    mil = bool(options.get("mil_losses"))
    children = ChildNCEConfig(
        intra=mil,
        inter=mil,
        num_positives=options.get("num_positives", 8),
        temperature=options.get("temperature", 0.05),
    )
    return HierarchicalConfig(loss=_loss_config(options), terms=terms, child_nce=children)


def _loss_config(options: Options) -> LossConfig:
    known = {
        "EgoNCE": (EgoNCEConfig, ("temperature", "noun", "verb")),
        "NormSoftmaxLoss": (NormSoftmaxConfig, ("temperature",)),
        "MaxMarginRankingLoss": (MaxMarginConfig, ("margin", "fix_norm")),
        "InfoNCE": (InfoNCEConfig, ()),
    }
    config, fields = known[options["loss_type"]]
    return config(**{field: options[field] for field in fields if field in options})


def _check_gradients(
    case: GoldenCase, name: str, model: HierarchicalEncoder, entry: Options
) -> None:
    grads = {n: p.grad for n, p in model.named_parameters() if n != "logit_scale"}
    own = hiervl.KEYS.publish({n: g for n, g in grads.items() if g is not None})
    for parameter, norm in entry.get("grad_norms", {}).items():
        case.close(f"{name} {parameter}", own[parameter].norm().item(), norm, "G")
    if "params_without_grad" in entry:
        without = hiervl.KEYS.publish({n: torch.empty(0) for n, g in grads.items() if g is None})
        golden = [n for n in entry["params_without_grad"] if not hiervl.is_unused(n)]
        case.exact(f"{name} without grad", sorted(without), sorted(golden))
