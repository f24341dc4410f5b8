"""Checks of the grounding model, its losses and its released layouts (GroundNLQ)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from egovl.convert import groundnlq
from egovl.convert.groundnlq_config import read_loss, read_model
from egovl.convert.keys import KeyMap
from egovl.convert.load import load_published
from egovl.losses.grounding import (
    GroundingLosses,
    advance_normalizer,
    assign_points,
    distance_iou_loss,
    grounding_loss,
    iou_loss,
    sigmoid_focal_loss,
)
from egovl.losses.grounding_configs import GroundingLossConfig
from egovl.metrics.span_decoding import TimeGrid, candidates, suppress, to_seconds
from egovl.models.grounder.attention import NORM_EPS, ConvAttention, TextAttention
from egovl.models.grounder.block import ConvBlock, GroundingBlock
from egovl.models.grounder.configs import STAR, GrounderConfig
from egovl.models.grounder.convolution import TimeConv
from egovl.models.grounder.grounder import Grounder, PointScores, sinusoid_table
from egovl.models.grounder.heads import points_of
from egovl.models.grounder.neck import IdentityNeck, PyramidNeck
from tests.parity.checks_grounding_spans import decoding_of
from tests.parity.golden import GoldenCase

Options = Mapping[str, Any]
Output = tuple[Tensor, Tensor | None]


def channels_last(x_BCT: Tensor) -> Tensor:
    return x_BCT.transpose(1, 2)


def loaded(module: nn.Module, state: Mapping[str, Tensor], keys: KeyMap) -> nn.Module:
    load_published(module, state, keys)
    return module.eval()


# --- modules ------------------------------------------------------------------------------------


def check_blocks(case: GoldenCase) -> None:
    """Every module on ragged sequences, the position table, the points."""
    for name, options in case.json.get("modules", {}).items():
        if options["module"] in ("FPN1D", "FPNIdentity"):
            check_neck(case, name, options)
            continue
        x, mask = sequence(case, options["on"])
        with torch.no_grad():
            out, out_mask = _MODULES[options["module"]](case, name, options)(x, mask)
        case.close(name, out.transpose(1, 2), case.tensors[f"outputs/{name}"], "F")
        golden_mask = case.tensors.get(f"outputs/{name}_mask")
        if golden_mask is not None and out_mask is not None:
            case.close(f"{name} mask", out_mask[:, None].float(), golden_mask, "X")
    check_sinusoid(case)
    check_points(case)


def sequence(case: GoldenCase, name: str) -> tuple[Tensor, Tensor]:
    x, mask = case.tensors[f"inputs/{name}"], case.tensors[f"inputs/{name}_mask"]
    return channels_last(x), mask[:, 0] > 0


def _width(case: GoldenCase, options: Options) -> int:
    return case.tensors[f"inputs/{options['on']}"].shape[1]


Call = Callable[[Tensor, Tensor], Output]


def _norm(case: GoldenCase, name: str, options: Options) -> Call:
    norm = nn.LayerNorm(_width(case, options), eps=NORM_EPS)
    norm = loaded(norm, case.group(f"weights/{name}"), groundnlq.NORM_KEYS)
    return lambda x, mask: (norm(x), None)


def _conv(case: GoldenCase, name: str, options: Options) -> Call:
    width = _width(case, options)
    assert options["padding"] == options["kernel"] // 2, options
    assert options["groups"] in (1, width), options
    conv = TimeConv(
        width,
        options["out"],
        options["kernel"],
        stride=options["stride"],
        depthwise=options["groups"] > 1,
        bias=options["bias"],
    )
    conv = loaded(conv, case.group(f"weights/{name}"), groundnlq.CONV_KEYS)
    return lambda x, mask: (conv(x, mask), mask[:, :: options["stride"]])


def _attention(case: GoldenCase, name: str, options: Options) -> Call:
    stride = options["q_stride"]
    assert stride == options["kv_stride"], options
    local = options["module"] == "LocalMaskedMHCA"
    attention = ConvAttention(
        _width(case, options),
        options.get("heads", case.json["heads"]),
        stride=stride,
        window=options.get("window", case.json.get("window", -1)) if local else -1,
        relative_positions=options.get("rel_pe", False),
    )
    attention = loaded(attention, case.group(f"weights/{name}"), groundnlq.ATTENTION_KEYS)
    return lambda x, mask: (attention(x, mask), mask[:, ::stride])


def _text_attention(case: GoldenCase, name: str, options: Options) -> Call:
    attention = TextAttention(_width(case, options), options.get("heads", case.json["heads"]))
    attention = loaded(attention, case.group(f"weights/{name}"), groundnlq.TEXT_ATTENTION_KEYS)
    other = sequence(case, options["cross"]) if "cross" in options else None
    return lambda x, mask: (attention(x, mask, *(other or (x, mask))), mask)


def _block(case: GoldenCase, name: str, options: Options) -> Call:
    block = GroundingBlock(
        _width(case, options),
        options.get("heads", case.json["heads"]),
        window=options["window"],
        stride=options["stride"],
        cross_modal=options["cross_modal"],
        relative_positions=options.get("rel_pe", options.get("use_rel_pe", False)),
        drop_path=options["path_pdrop"],
    )
    block = loaded(block, case.group(f"weights/{name}"), groundnlq.BLOCK_KEYS)
    text = sequence(case, options["cross"]) if "cross" in options else None
    return lambda x, mask: block(x, mask, text)


def _conv_block(case: GoldenCase, name: str, options: Options) -> Call:
    expansion = options.get("expansion_factor", options.get("expansion", 2))
    block = ConvBlock(
        _width(case, options),
        kernel=options["kernel"],
        stride=options["stride"],
        expansion=expansion,
    )
    block = loaded(block, case.group(f"weights/{name}"), groundnlq.CONV_BLOCK_KEYS)
    return lambda x, mask: block(x, mask)


_MODULES: Mapping[str, Callable[[GoldenCase, str, Options], Call]] = {
    "LayerNorm": _norm,
    "MaskedConv1D": _conv,
    "MaskedMHCA": _attention,
    "LocalMaskedMHCA": _attention,
    "MaskedMHA": _text_attention,
    "TransformerBlock": _block,
    "ConvBlock": _conv_block,
}


def check_neck(case: GoldenCase, name: str, options: Options) -> None:
    levels = [sequence(case, f"feat{i}") for i in range(options["levels"])]
    widths = [x.shape[2] for x, _ in levels]
    state = case.group(f"weights/{name}")
    with_norm = any("fpn_norms" in key for key in state)
    if options["module"] == "FPN1D":
        scale = int(options["scale_factor"])
        neck: nn.Module = PyramidNeck(widths, options["out"], scale, with_norm)
    else:
        neck = IdentityNeck(len(levels), widths[0], with_norm)
    if state:
        neck = loaded(neck, state, groundnlq.NECK_KEYS)
    with torch.no_grad():
        found = neck.eval()(levels)
    for level, (x, mask) in enumerate(found):
        case.close(
            f"{name} {level}", channels_last(x), case.tensors[f"outputs/{name}_{level}"], "F"
        )
        golden = case.tensors.get(f"outputs/{name}_mask_{level}")
        if golden is not None:
            case.close(f"{name} mask {level}", mask[:, None].float(), golden, "X")


def check_sinusoid(case: GoldenCase) -> None:
    sizes = case.json.get("sinusoid")
    if sizes:
        length, width = sizes["n_position"], sizes["d_hid"]
        golden = case.tensors[f"outputs/sinusoid_{length}x{width}"]
        case.close("sinusoid", sinusoid_table(length, width).T[None], golden, "F")


def check_points(case: GoldenCase) -> None:
    options = case.json.get("points")
    if options:
        names = ("level_lengths", "strides", "regression_range")
        points = points_of(*(options[name] for name in names))
        for level, own in enumerate(points):
            case.close(f"points {level}", own, case.tensors[f"outputs/points_{level}"], "X")


def check_state_dict_shapes(case: GoldenCase) -> None:
    """Names and shapes of the full-size model, and its sizes read off them."""
    shapes = {key: torch.empty(shape, device="meta") for key, shape in case.json.items()}
    config = groundnlq.grounder_config(shapes)
    with torch.device("meta"):
        own = config.build().state_dict()
    own.pop(groundnlq.NORMALIZER)
    published = groundnlq.GROUNDER_KEYS.publish(own)
    case.exact("names", sorted(published), sorted(case.json))
    for name, tensor in published.items():
        case.exact(name, list(tensor.shape), case.json[name])
    if config.layers == STAR:
        case.exact("star", config.layers.cross_branch > 0, True)


# --- the whole model ----------------------------------------------------------------------------


def check_model(case: GoldenCase) -> None:
    """Features, logits, offsets, labels, decoded spans, two losses and their gradients."""
    config = model_config(case.json["model"])
    model = config.build()
    weights = case.group("weights") or case.sibling(case.json["weights_file"]).group("weights")
    groundnlq.load_state(model, weights)
    model.eval()
    inputs = padded_inputs(case, config)
    with torch.no_grad():
        backbone, _ = model.encode_levels(*inputs)
        scores = model(*inputs)
    for level, (x, mask) in enumerate(backbone):
        compare(case, f"backbone_{level}", channels_last(x), "F")
        compare(case, f"mask_{level}", mask[:, None].float(), "X")
    for level, found in enumerate(scores):
        compare(case, f"cls_logits_{level}", channels_last(found.logits), "F")
        compare(case, f"offsets_{level}", channels_last(found.offsets), "F")
    check_results(case, scores)
    if "losses_call1" in case.json:
        check_losses_of_model(case, model, inputs)


def model_config(section: Options) -> GrounderConfig:
    return read_model(section, section["train_cfg"])


def compare(case: GoldenCase, name: str, own: Tensor, tolerance: str) -> None:
    golden = case.tensors.get(f"outputs/{name}")
    if golden is not None:
        case.close(name, own, golden, tolerance)


def numbered(case: GoldenCase, name: str) -> list[Tensor]:
    found = []
    while (tensor := case.tensors.get(f"inputs/{name}_{len(found)}")) is not None:
        found.append(tensor)
    return found


def padded(sequences: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """[C, T] each to [B, length, C] and its mask."""
    rows = torch.zeros(len(sequences), length, sequences[0].shape[0])
    mask = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        rows[row, : sequence.shape[1]] = sequence.T
        mask[row, : sequence.shape[1]] = True
    return rows, mask


def padded_inputs(case: GoldenCase, config: GrounderConfig) -> tuple[Tensor, ...]:
    feats, texts = numbered(case, "feats"), numbered(case, "query_feats")
    longest = max(text.shape[1] for text in texts)
    return *padded(feats, config.max_length), *padded(texts, longest)


def check_results(case: GoldenCase, scores: list[PointScores]) -> None:
    section, facts = case.json["model"], case.json
    config = decoding_of(section["test_cfg"])
    grid = TimeGrid(facts["feat_stride"] / facts["fps"], facts["feat_num_frames"] / facts["fps"])
    for row, duration in enumerate(facts.get("durations", [])):
        found = suppress(
            candidates(
                [level.logits[row] for level in scores],
                [level.offsets[row] for level in scores],
                [level.mask[row] for level in scores],
                [level.points for level in scores],
                config,
            ),
            config,
        )
        seconds = to_seconds(found, grid, duration, config)
        compare(case, f"result_{row}_segments", torch.from_numpy(seconds.spans), "F")
        compare(case, f"result_{row}_scores", torch.from_numpy(seconds.scores), "F")
        compare(case, f"result_{row}_labels", torch.from_numpy(seconds.labels), "X")


def check_losses_of_model(case: GoldenCase, model: Grounder, inputs: tuple[Tensor, ...]) -> None:
    """Two calls in training mode without dropped paths; the normaliser moves before each."""
    loss_config = read_loss(case.json["model"]["train_cfg"])
    for call in (1, 2):
        model.zero_grad()
        losses = losses_of(case, model, inputs, loss_config)
        for name, own in (
            ("cls_loss", losses.classification),
            ("reg_loss", losses.regression),
            ("final_loss", losses.total),
        ):
            golden = case.json.get(f"losses_call{call}", {}).get(name)
            if golden is not None:
                case.close(f"call {call} {name}", own.item(), golden, "F")
        after = case.json.get("loss_normalizer_after", [])
        if len(after) >= call:
            case.close(f"normaliser {call}", model.normalizer.item(), after[call - 1], "F")
    losses.total.backward()
    check_gradients(case, model)


def losses_of(
    case: GoldenCase, model: Grounder, inputs: tuple[Tensor, ...], config: GroundingLossConfig
) -> GroundingLosses:
    scores = model(*inputs)
    spans, hot = numbered(case, "segments"), numbered(case, "one_hot_labels")
    most = max(len(span) for span in spans)
    table = torch.zeros(len(spans), most, 2, dtype=torch.float64)
    classes = torch.zeros(len(spans), most, model.config.num_classes)
    for row, (span, one_hot) in enumerate(zip(spans, hot, strict=True)):
        table[row, : len(span)], classes[row, : len(span)] = span, one_hot.float()
    counts = torch.tensor([len(span) for span in spans])
    points = torch.cat([level.points for level in scores])
    targets = assign_points(points, table, counts, classes, config)
    for row in range(len(spans)):
        compare_targets(
            case, f"gt_cls_{row}", f"gt_offset_{row}", targets.classes[row], targets.offsets[row]
        )
    valid = torch.cat([level.mask for level in scores], dim=1)
    positives = (targets.is_positive & valid).sum()
    model.normalizer.copy_(advance_normalizer(model.normalizer, positives))
    return grounding_loss(
        torch.cat([level.logits for level in scores], dim=1),
        torch.cat([level.offsets for level in scores], dim=1),
        valid,
        targets,
        model.normalizer,
        config,
    )


def compare_targets(
    case: GoldenCase, cls_name: str, reg_name: str, classes: Tensor, offsets: Tensor
) -> None:
    """Classes exactly; offsets where a point answers for a span, elsewhere they mean nothing."""
    golden_cls = case.tensors.get(f"outputs/{cls_name}")
    golden_reg = case.tensors.get(f"outputs/{reg_name}")
    if golden_cls is None:
        return
    case.close(cls_name, classes, golden_cls, "X")
    if golden_reg is not None:
        rows = golden_cls.sum(-1) > 0
        case.close(reg_name, offsets[rows], golden_reg[rows], "F")


def check_gradients(case: GoldenCase, model: Grounder) -> None:
    own = groundnlq.GROUNDER_KEYS.publish(
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    )
    for name, norm in case.group("outputs/grad_norm").items():
        gradient = own.get(name)
        case.close(
            f"grad_norm {name}", torch.zeros(()) if gradient is None else gradient.norm(), norm, "G"
        )
    for name, gradient in case.group("outputs/grad").items():
        case.close(f"grad {name}", own[name], gradient, "G")
    if "total_grad_norm_call2" in case.json:
        total = torch.stack([gradient.norm() for gradient in own.values()]).norm()
        case.close("total_grad_norm", total.item(), case.json["total_grad_norm_call2"], "G")


# --- losses and labels --------------------------------------------------------------------------


def check_labels(case: GoldenCase) -> None:
    """Which points answer for hand-made and random spans."""
    config = GroundingLossConfig(
        center_sample=case.json["center_sample"], radius=case.json["radius"]
    )
    points = case.tensors["inputs/points"]
    for number, spans in enumerate(numbered(case, "segments")):
        hot = case.tensors[f"inputs/one_hot_{number}"]
        targets = assign_points(points, spans[None], torch.tensor([len(spans)]), hot[None], config)
        compare_targets(
            case, f"cls_{number}", f"reg_{number}", targets.classes[0], targets.offsets[0]
        )


_REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "sum": torch.Tensor.sum,
    "mean": torch.Tensor.mean,
}


def check_losses(case: GoldenCase) -> None:
    """Values and gradients of the focal and overlap losses."""
    for name, options in case.json["options"].items():
        golden = case.tensors.get(f"outputs/{name}")
        if golden is None:
            continue
        if options["loss"] == "sigmoid_focal":
            source = case.tensors["inputs/focal_logits"].clone().requires_grad_()
            targets = case.tensors[options["targets"]]
            value = sigmoid_focal_loss(
                source, targets, alpha=options["alpha"], gamma=options["gamma"]
            )
        else:
            source = case.tensors["inputs/offsets_pred"].clone().requires_grad_()
            loss = {"ctr_diou_1d": distance_iou_loss, "ctr_giou_1d": iou_loss}[options["loss"]]
            value = loss(source, case.tensors["inputs/offsets_gt"])
        value = _REDUCTIONS[options.get("reduction", "none")](value)
        case.close(name, value, golden, "F")
        gradient = case.tensors.get(f"outputs/{name}_grad")
        if gradient is not None:
            value.sum().backward()
            case.close(f"{name} gradient", source.grad, gradient, "G")
