"""Parameter groups, update rules and schedules, with numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from mtdnn.config.options import Named, named_faults
from mtdnn.config.run import OptimizerConfig
from mtdnn.errors import ConfigError
from mtdnn.training.optim import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule, parameter_groups

pytestmark = pytest.mark.usefixtures("files_may_name_code")


class TwoLayers(nn.Module):
    """Names as in a MultiTaskModel: embeddings, two layers with normalisation, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "embeddings": nn.Embedding(5, 4),
                "layer": nn.ModuleList([nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)]) for _ in range(2)]),
            }
        )
        self.heads = nn.ModuleDict({"rte": nn.Linear(4, 2)})


def layer_of(name: str) -> int:
    return 0 if "embeddings" in name else int(name.split("layer.")[1][0]) + 1


def groups_by_name(model: nn.Module, **changed: Any) -> dict[str, tuple[float, float]]:
    """Name of each grouped parameter → (learning rate, weight decay)."""
    arguments: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.1, "layer_of": layer_of, "num_layers": 2}
    groups = parameter_groups(model.named_parameters(), **{**arguments, **changed})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(each)]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}


def test_biases_and_normalisation_weights_have_no_weight_decay() -> None:
    found = groups_by_name(TwoLayers())
    decayed = {name for name, (_, decay) in found.items() if decay}
    layers = {f"encoder.layer.{layer}.0.weight" for layer in (0, 1)}
    assert decayed == {"encoder.embeddings.weight", *layers, "heads.rte.weight"}
    assert set(found) == {name for name, _ in TwoLayers().named_parameters()}
    assert {decay for _, decay in found.values()} == {0.0, 0.1}


def test_learning_rates_fall_from_layer_to_layer_and_heads_have_their_own() -> None:
    found = groups_by_name(TwoLayers(), lr=8.0, head_lr=100.0, layer_decay=0.5)
    rates = {name.removesuffix(".weight"): rate for name, (rate, _) in found.items() if name.endswith(".weight")}
    assert rates == {
        "encoder.embeddings": 2.0,
        "encoder.layer.0.0": 4.0,
        "encoder.layer.0.1": 4.0,
        "encoder.layer.1.0": 8.0,
        "encoder.layer.1.1": 8.0,
        "heads.rte": 100.0,
    }
    assert groups_by_name(TwoLayers(), lr=8.0, layer_decay=0.5)["heads.rte.bias"] == (8.0, 0.0)


def test_a_frozen_encoder_leaves_only_the_heads() -> None:
    model = TwoLayers()
    model.encoder.requires_grad_(False)
    assert set(groups_by_name(model)) == {"heads.rte.weight", "heads.rte.bias"}
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter is trainable"):
        groups_by_name(model)


def optimizer_of(
    name: str, weight: torch.Tensor, *, lr: float = 0.1, weight_decay: float = 0.0, **options: Any
) -> Optimizer:
    group = {"params": [weight], "lr": lr, "weight_decay": weight_decay}
    return build_optimizer(name, [group], lr=1.0, **options)


def after_steps(name: str, gradients: list[float], **options: Any) -> float:
    weight = nn.Parameter(torch.tensor([[1.0]], dtype=torch.float64))
    optimizer = optimizer_of(name, weight, **options)
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    return weight.item()


def test_the_first_step_of_each_rule_by_hand() -> None:
    tolerance = {"abs": 1e-7}  # eps = 1e-8 beside a gradient of 2
    assert after_steps("adamw", [2.0]) == pytest.approx(1 - 0.1, **tolerance)  # lr · g ∕ |g|
    assert after_steps("adamax", [2.0]) == pytest.approx(1 - 0.1, **tolerance)
    assert after_steps("radam", [2.0]) == pytest.approx(1 - 0.1 * 2, **tolerance)  # not rectified yet: lr · g
    assert after_steps("sgd", [2.0]) == pytest.approx(1 - 0.1 * 2, **tolerance)


def test_momentum_of_sgd_by_hand() -> None:
    assert after_steps("sgd", [2.0, 0.0], momentum=0.5) == pytest.approx(1 - 0.1 * 2 - 0.1 * 1)


def test_a_head_whose_task_comes_later_starts_its_momentum_then() -> None:
    """PyTorch's fused rule stops at the first such weight: "expected Tensor as element 1 … but got NoneType"."""
    first, later = (nn.Parameter(torch.ones(1, 1)) for _ in range(2))
    optimizer = build_optimizer(
        "sgd", [{"params": [first, later], "lr": 0.1, "weight_decay": 0.0}], lr=0.1, momentum=0.5
    )
    for gradients in ((2.0, None), (0.0, 2.0)):
        for weight, gradient in zip((first, later), gradients, strict=True):
            weight.grad = None if gradient is None else torch.full_like(weight, gradient)
        optimizer.step()
    assert [first.item(), later.item()] == pytest.approx([1 - 0.2 - 0.1, 1 - 0.2])


def test_weight_decay_is_decoupled_in_adamw_and_radam_and_added_to_the_gradient_in_sgd() -> None:
    for name in ("adamw", "radam"):
        assert after_steps(name, [0.0], weight_decay=0.5) == pytest.approx(1 - 0.1 * 0.5)
    assert after_steps("sgd", [1.0], weight_decay=0.5) == pytest.approx(1 - 0.1 * (1 + 0.5))


def test_adamw_equals_the_unfused_rule_of_pytorch() -> None:
    start = torch.linspace(-1, 1, 12).reshape(3, 4)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = optimizer_of("adamw", ours, weight_decay=0.1, betas=(0.8, 0.9))
    other = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1, betas=(0.8, 0.9), fused=False, foreach=False)
    assert one.defaults["fused"]
    for step in range(5):
        for weight, optimizer in ((ours, one), (theirs, other)):
            weight.grad = (start + step).sin()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)  # float32 defaults: another order of the same operations


def rates(name: str, num_steps: int, *, peak: float = 1.0, **options: Any) -> list[float]:
    """The learning rate of each step of a run."""
    optimizer = optimizer_of("sgd", nn.Parameter(torch.zeros(2, 2)), lr=peak)
    scheduler = build_schedule(name, optimizer, num_steps=num_steps, **options)
    found = []
    for _ in range(num_steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return [*found, scheduler.get_last_lr()[0]]


def test_schedules_by_hand() -> None:
    assert rates("linear", 6, warmup=0.3) == pytest.approx([0, 0.5, 1, 3 / 4, 2 / 4, 1 / 4, 0])
    assert rates("constant", 5, warmup=0.4) == pytest.approx([0, 0.5, 1, 1, 1, 1])
    assert rates("constant", 3, warmup=0.0) == pytest.approx([1, 1, 1, 1])
    assert rates("polynomial", 5, warmup=0.2, power=2) == pytest.approx([0, 1, 9 / 16, 4 / 16, 1 / 16, 0])
    half = math.sqrt(0.5)  # cosine of 45°
    assert rates("cosine", 5, warmup=0.2) == pytest.approx([0, 1, (1 + half) / 2, 1 / 2, (1 - half) / 2, 0])


def test_a_tenth_of_thirty_steps_is_three() -> None:
    assert rates("constant", 30, warmup=0.1)[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_slanted_triangular_is_equation_3_of_howard_and_ruder() -> None:
    num_steps, cut_fraction, ratio, peak = 200, 0.1, 32, 0.01
    cut = math.floor(num_steps * cut_fraction)
    expected = []
    for t in range(num_steps + 1):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_fraction - 1))
        expected.append(peak * (1 + p * (ratio - 1)) / ratio)
    found = rates("slanted_triangular", num_steps, peak=peak)
    assert found == pytest.approx(expected, rel=1e-9)  # float64
    lowest, halfway = 0.01 / 32, 0.01 * (1 + 31 / 2) / 32
    assert [found[step] for step in (0, 10, 20, 110, 200)] == pytest.approx([lowest, halfway, 0.01, halfway, lowest])


@pytest.mark.parametrize("num_steps", [1, 2, 9, 15, 19])
def test_slanted_triangular_stays_positive_however_few_the_steps(num_steps: int) -> None:
    # At 15 steps equation 3 as printed ends at a factor of −0.51.
    assert min(rates("slanted_triangular", num_steps, ratio=32)) == pytest.approx(1 / 32)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_schedule_scales_each_group_by_its_own_peak_and_resumes(name: str) -> None:
    def build() -> tuple[Optimizer, Any]:
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr, "weight_decay": 0.0} for lr in (1.0, 10.0)]
        optimizer = build_optimizer("sgd", groups, lr=1.0)
        return optimizer, build_schedule(name, optimizer, num_steps=10)

    optimizer, scheduler = build()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    low, high = scheduler.get_last_lr()
    assert 0 < low <= 1 and high == pytest.approx(10 * low)
    resumed_optimizer, resumed = build()
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for _ in range(3):
        for each in (optimizer, scheduler, resumed_optimizer, resumed):
            each.step()
        assert resumed.get_last_lr() == scheduler.get_last_lr()


def test_unknown_words_are_answered_with_the_known_ones() -> None:
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match=r"optimizer: unknown optimizer 'adam'; known: adamax, adamw, radam"):
        build_optimizer("adam", [{"params": [weight]}], lr=0.1)
    with pytest.raises(ConfigError, match=r"unknown schedule 'cosin'; .* Did you mean 'cosine'\?"):
        build_schedule("cosin", optimizer_of("sgd", weight), num_steps=10)
    assert OPTIMIZERS.names() == ["adamax", "adamw", "radam", "sgd"]


def refused(given: Named) -> list[str]:
    """What is reported of a run's block that names an optimizer or a schedule."""
    is_rule = isinstance(given, OptimizerConfig)
    found = named_faults(OPTIMIZERS if is_rule else SCHEDULES, given, "optimizer" if is_rule else "schedule")
    return [str(each) for each in found]


def test_a_key_of_another_optimizer_or_schedule_is_refused_with_whose_it_is() -> None:
    keys = "name, lr, head_lr, weight_decay, layer_decay, betas, eps"
    assert refused(OptimizerConfig(name="adamw", momentum=0.9)) == [
        f"optimizer.momentum: unknown key 'momentum'; known: {keys}. It is an option of sgd."
    ]
    assert refused(OptimizerConfig(name="adamax", beta=[0.9, 0.98])) == [
        f"optimizer.beta: unknown key 'beta'; known: {keys}. Did you mean 'betas'?"
    ]
    assert refused(Named(name="linear", ratio=5)) == [
        "schedule.ratio: unknown key 'ratio'; known: warmup. It is an option of slanted_triangular."
    ]
    assert refused(Named(name="slanted_triangular", warmup=0.1)) == [
        "schedule.warmup: unknown key 'warmup'; known: cut_fraction, ratio. "
        "It is an option of constant, cosine, linear, polynomial."
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (OptimizerConfig(betas=[2, 0.9]), "optimizer.betas.0: 2: input should be less than 1"),
        (OptimizerConfig(betas=[0.9, 1]), "optimizer.betas.1: 1: input should be less than 1"),
        (OptimizerConfig(name="sgd", momentum=1), "optimizer.momentum: 1: input should be less than 1"),
        (Named(name="polynomial", power=float("inf")), "schedule.power: inf: input should be a finite number"),
        (Named(name="cosine", warmup=1), "schedule.warmup: 1: input should be less than 1"),
    ],
)
def test_values_out_of_range_are_refused(given: Named, line: str) -> None:
    (found,) = refused(given)
    assert found.startswith(line)


def test_an_optimizer_of_pytorch_is_named_by_its_path_and_takes_its_own_arguments() -> None:
    """The first step of NAdam by hand: momentum decay 0 gives mu = beta1 / 2 at every step, with g = 2 and v = g²."""
    given = OptimizerConfig(name="torch.optim.NAdam", betas=(0.9, 0.999), momentum_decay=0.0)
    assert refused(given) == []
    step = 0.1 * ((1 - 0.45) / (1 - 0.45) + 0.45 * 0.1 / (1 - 0.45 * 0.45))
    assert after_steps(given.name, [2.0], **given.options) == pytest.approx(1 - step, abs=1e-7)  # eps = 1e-8
    (line,) = refused(OptimizerConfig(name="torch.optim.NAdam", momentum_deca=0.1))
    assert line.startswith("optimizer.momentum_deca: unknown key 'momentum_deca'; known: name, lr, ")
    assert line.endswith("Did you mean 'momentum_decay'?")


def halves(optimizer: Optimizer, *, num_steps: int, after: float, floor: float = 0.0) -> Any:
    """Half the peak from a fraction of the steps on: a schedule of one's own, whose arguments are its options."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1.0 if step < after * num_steps else max(0.5, floor)
    )


def test_a_function_of_one_s_own_is_a_schedule_and_its_arguments_are_options() -> None:
    path = f"{__name__}.halves"
    assert rates(path, 4, after=0.5) == pytest.approx([1, 1, 0.5, 0.5, 0.5])
    assert refused(Named(name=path)) == ["schedule.after: is missing. Add it."]
    assert refused(Named(name=path, after="late")) == ["schedule.after: 'late': expected a number. Give another value."]
    (line,) = refused(Named(name=path, after=0.5, flor=0.7))
    assert line == "schedule.flor: unknown key 'flor'; known: after, floor. Did you mean 'floor'?"


@pytest.mark.parametrize("path", ["torch.nn.Linear", "os.getcwd"])
def test_what_is_no_optimizer_is_refused(path: str) -> None:
    (line,) = refused(OptimizerConfig(name=path))
    expected = "expected a function of (groups, lr), or a class derived from torch.optim.optimizer.Optimizer."
    assert f"{expected} Known by name: adamax, adamw, radam, sgd." in line


def test_a_value_that_only_the_rule_itself_refuses_is_reported_by_its_name() -> None:
    reported = (
        r"optimizer: torch\.optim\.NAdam rejects its options: Invalid beta parameter at index 0: 2\. Change them\."
    )
    with pytest.raises(ConfigError, match=reported):
        optimizer_of("torch.optim.NAdam", nn.Parameter(torch.zeros(1)), betas=(2, 0.9))
