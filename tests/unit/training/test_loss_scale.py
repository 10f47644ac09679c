"""Loss scaling: it changes no number where nothing overflows, and an update that overflows moves nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from mtdnn.config.run import load_run_config
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.runs.named import scaling_faults
from mtdnn.training.loss_scale import LossScale
from mtdnn.training.meter import NonFiniteLoss
from mtdnn.training.objective import Objective
from mtdnn.training.plan import Plan
from mtdnn.training.trainer import Trainer
from tests.reference.tiny import SameBatches, make_model

CPU = torch.device("cpu")
SMART = {"name": "smart", "epsilon": 0.01, "eta": 0.01}


class Log:
    """Keeps the values of the run from each line."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def train(self, step: int, tasks: Any, values: dict[str, float]) -> None:
        self.lines.append({**values, **tasks["nli"]})


def trainer_of(
    scale: LossScale | None, *, named: dict[str, Any] | None = None, half: bool = False, log: Log | None = None
) -> Trainer:
    """Three steps of AdamW with a regularizer, the proximal term and clipping."""
    model: MultiTaskModel = make_model().float().train()
    options = dict(named or SMART)
    method = REGULARIZERS.get(options.pop("name"))(**options)
    proximal = PROXIMAL.get("momentum")(model, total_steps=3)
    autocast = partial(torch.autocast, "cpu", dtype=torch.float16, enabled=half)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    return Trainer(
        model=model,
        objective=Objective(model, {"nli": method}, proximal, seed=1, autocast=autocast, loss_scale=scale),
        loader=SameBatches(),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        accelerator=Accelerator(cpu=True),
        plan=Plan(total_steps=3, evaluate_every="never", checkpoint_every="never", log_every=1),
        evaluate=lambda: ({}, None),
        save=lambda kind, trainer: None,
        recorder=log,  # type: ignore[arg-type]
        clip_norm=0.1,
    )


def weights_after(trainer: Trainer) -> list[torch.Tensor]:
    trainer.train()
    return [weight.detach().clone() for weight in trainer.model.parameters()]


@pytest.mark.parametrize("name", ["smart", "adversarial", "free_lb", "free_at", "vat"])
def test_in_float32_a_scaled_run_has_the_weights_of_an_unscaled_one_bit_for_bit(name: str) -> None:
    """2^10 changes exponents alone; also in the steps towards a perturbation, and between the moves of free_at."""
    named = SMART if name == "smart" else {"name": name}
    plain = weights_after(trainer_of(None, named=named))
    scaled = weights_after(trainer_of(LossScale(CPU, start=2.0**10), named=named))
    assert all(torch.equal(one, other) for one, other in zip(plain, scaled, strict=True))


def test_a_run_in_fp16_stays_near_one_in_float32() -> None:
    """fp16 has three significant digits; losses of three steps, which fall."""
    plain, half = Log(), Log()
    trainer_of(None, log=plain).train()
    trainer_of(LossScale(CPU), half=True, log=half).train()
    assert [line["skipped_updates"] for line in half.lines] == [0, 0, 0]
    for name in ("task", "gradient_norm"):
        assert [line[name] for line in half.lines] == pytest.approx([line[name] for line in plain.lines], rel=5e-3)
    assert half.lines[2]["task"] < half.lines[0]["task"] - 0.01


def test_an_update_that_overflows_moves_nothing_and_halves_the_scale() -> None:
    log = Log()
    trainer = trainer_of(LossScale(CPU, start=2.0**60), half=True, log=log)
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, weights_after(trainer), strict=True))
    assert [line["skipped_updates"] for line in log.lines] == [1, 2, 3]
    assert [line["loss_scale"] for line in log.lines] == [2.0**59, 2.0**58, 2.0**57]
    assert [line["gradient_norm"] for line in log.lines] == [0, 0, 0]


def test_a_resumed_run_has_the_scale_and_the_count() -> None:
    first, second = trainer_of(LossScale(CPU, start=2.0**60), half=True), trainer_of(LossScale(CPU), half=True)
    first.train()
    second.load_state_dict(first.state_dict())
    assert second.loss_scale is not None
    assert (second.loss_scale.value, second.loss_scale.skipped) == (2.0**57, 3)


def test_a_scale_that_never_ends_is_an_error() -> None:
    trainer = trainer_of(LossScale(CPU, start=2.0**-11), half=True, log=Log())
    with pytest.raises(NonFiniteLoss, match=r"step 1: gradients are not finite at a loss scale of 0.00049, and 0 upd"):
        trainer.train()


def test_an_overflow_in_another_process_skips_the_update_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient of 6 at S = 2 is 3; with a step of 1 the weight goes from 1 to -2, if all processes agree."""
    for elsewhere, expected in ((0.0, -2.0), (1.0, 1.0)):
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda value, op, new=elsewhere: value.fill_(new))
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer, scale = torch.optim.SGD([weight], lr=1.0), LossScale(CPU, start=2.0, agreed=True)
        weight.grad = torch.full((1,), 6.0)
        assert float(scale.unscale(optimizer)) == elsewhere
        scale.step(optimizer)
        assert (float(weight), scale.value, scale.skipped) == (expected, 2.0 - elsewhere, elsewhere)


def test_what_needs_gradients_apart_is_refused_with_the_reason() -> None:
    keys = {"balance": "gradnorm", "log_conflicts": 2, "log_affinity": 2, "log_gradients": True, "precision": "fp16"}
    places = {"tasks": "t", "data": "d", "encoder": "e", "output": "o"}
    found = [str(each) for each in scaling_faults(load_run_config(None, {**places, **keys}))]
    assert [line.split(":")[0] for line in found] == list(keys)[:-1]
    assert found[-1] == (
        "log_gradients: needs the gradient of each term, which fp16 scales and may overflow. "
        "Leave it out, or use bf16 or float32."
    )
    assert scaling_faults(load_run_config(None, {**places, **keys, "precision": "bf16"})) == []
