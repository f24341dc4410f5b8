from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from egovl.engine.configs import OptimConfig
from egovl.engine.optim import build_optimizer, lr_at, param_groups, set_lr


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 3)
        self.ln_table = nn.Parameter(torch.ones(2, 2))
        self.norm = nn.LayerNorm(3)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 3))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)
        self.tied = self.proj


def test_vectors_and_the_named_parts_do_not_decay() -> None:
    decayed, spared = param_groups(Block(), 0.3)
    assert decayed["names"] == ["pos_embed", "proj.weight"]
    names = ["ln_table", "logit_scale", "proj.bias", "norm.weight", "norm.bias"]
    assert spared["names"] == names
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    model = dict(Block().named_parameters())
    for group in (decayed, spared):
        shapes = [model[name].shape for name in group["names"]]
        assert [param.shape for param in group["params"]] == shapes


def test_another_rule_may_decide_what_decays() -> None:
    decayed, spared = param_groups(Block(), 0.3, lambda name, param: name.startswith("norm"))
    assert decayed["names"] == ["norm.weight", "norm.bias"]
    assert len(spared["names"]) == 5


def test_only_decaying_parameters_shrink_without_a_gradient() -> None:
    model = Block()
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5))
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    after = dict(model.named_parameters())
    torch.testing.assert_close(after["proj.weight"], before["proj.weight"] * 0.95)
    for name in ("proj.bias", "norm.weight", "ln_table", "logit_scale", "frozen"):
        assert torch.equal(after[name], before[name]), name


def test_the_config_reaches_the_optimizer() -> None:
    config = OptimConfig(lr=0.2, betas=(0.8, 0.95), eps=1e-6)
    adamw = build_optimizer(Block(), config)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["betas"], adamw.defaults["eps"]) == ((0.8, 0.95), 1e-6)
    sgd = build_optimizer(Block(), OptimConfig(name="sgd", lr=0.2, momentum=0.7))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.7
    set_lr(sgd, 0.05)
    assert [group["lr"] for group in sgd.param_groups] == [0.05, 0.05]


def test_a_group_without_parameters_is_left_out_and_a_frozen_model_is_refused() -> None:
    bias_only = nn.Linear(2, 2)
    bias_only.weight.requires_grad_(False)
    assert len(build_optimizer(bias_only, OptimConfig()).param_groups) == 1
    with pytest.raises(ValueError, match="Linear has no trainable parameter"):
        build_optimizer(bias_only.requires_grad_(False), OptimConfig())


def test_warm_up_and_cosine_follow_the_published_arrays() -> None:
    config = OptimConfig(schedule="cosine", lr=2.0, warmup_steps=5, lr_start=0.5, lr_end=0.1)
    warm = np.linspace(0.5, 2.0, 5)
    steps = np.arange(12)
    cosine = 0.1 + 0.5 * (2.0 - 0.1) * (1 + np.cos(np.pi * steps / 12))
    rates = [lr_at(step, config, 17) for step in range(17)]
    np.testing.assert_allclose(rates, np.concatenate([warm, cosine]), rtol=1e-12)
    assert lr_at(17, config, 17) == pytest.approx(0.1)


def test_a_constant_schedule_is_constant_from_the_first_step() -> None:
    assert {lr_at(step, OptimConfig(lr=3e-5), 9) for step in range(10)} == {3e-5}
    warm = OptimConfig(lr=1.0, lr_start=0.0, warmup_steps=3)
    assert [lr_at(step, warm, 5) for step in range(5)] == [0.0, 0.5, 1.0, 1.0, 1.0]


def test_a_warm_up_may_be_one_step_or_the_whole_run_but_not_longer() -> None:
    config = OptimConfig(schedule="cosine", lr=1.0, lr_start=0.25, warmup_steps=1)
    assert lr_at(0, config, 1) == 0.25
    assert lr_at(1, config, 4) == 1.0
    with pytest.raises(ValueError, match="warm-up of 1 steps"):
        lr_at(0, config, 0)


def test_a_warm_up_in_epochs_has_to_be_counted_in_steps_first() -> None:
    config = OptimConfig(warmup_epochs=1.5)
    with pytest.raises(ValueError, match="in_steps"):
        lr_at(0, config, 100)
    counted = config.in_steps(7)
    assert (counted.warmup_steps, counted.warmup_epochs) == (10, 0.0)
    assert counted.in_steps(7) == counted


def test_milestones_lower_the_rate_after_whole_epochs() -> None:
    config = OptimConfig(lr=1.0, schedule="milestones", milestones=(1, 3), milestone_factor=0.5)
    with pytest.raises(ValueError, match="in_steps"):
        lr_at(0, config, 8)
    rates = [lr_at(step, config.in_steps(2), 8) for step in range(8)]
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_milestones_without_their_schedule_are_refused() -> None:
    with pytest.raises(ValueError, match="milestones"):
        OptimConfig(milestones=(1,))
    with pytest.raises(ValueError, match="legacy_lr_after_epoch1"):
        OptimConfig(legacy_lr_after_epoch1=2e-4)
    with pytest.raises(ValueError, match="fused"):
        OptimConfig(name="legacy_adamw", fused=True)


def test_the_backbone_may_learn_slower_than_the_heads() -> None:
    model = nn.ModuleDict(
        {"video": nn.Linear(2, 2), "heads": nn.ModuleDict({"a": nn.Linear(2, 3)})}
    )
    optimizer = build_optimizer(model, OptimConfig(backbone_lr_scale=0.1))
    scales = {
        id(param): group["lr_scale"]
        for group in optimizer.param_groups
        for param in group["params"]
    }
    for name, param in model.named_parameters():
        assert scales[id(param)] == (1.0 if name.startswith("heads.") else 0.1), name


def test_the_legacy_optimizer_differs_from_torchs_only_near_eps() -> None:
    for size, close in ((1.0, True), (1e-7, False)):
        moved = []
        for name in ("adamw", "legacy_adamw"):
            param = nn.Parameter(torch.ones(4))
            config = OptimConfig(name=name, lr=0.1, eps=1e-6, weight_decay=0.0)
            optimizer = build_optimizer(nn.ParameterDict({"p": param}), config)
            for step in range(3):
                param.grad = size * torch.tensor([1.0, -2.0, 0.5, step])
                optimizer.step()
            moved.append(param.detach())
        assert torch.allclose(*moved, atol=1e-4) is close


def test_all_parameters_decay_where_asked_for() -> None:
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3, decay_all=True))
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(2, 0.3)]
