"""The loop: what is kept as the best, when patience runs out, what a resumed run takes over, what stops it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.base import Regularizer
from mtdnn.regularizers.free_at import FreeAT
from mtdnn.training.meter import NonFiniteLoss
from mtdnn.training.objective import Objective
from mtdnn.training.plan import Plan
from mtdnn.training.trainer import Trainer
from tests.reference.tiny import SameBatches, make_batch, make_model


def trainer_of(
    model: MultiTaskModel,
    *,
    scores: Sequence[float | None] = (),
    saved: list[tuple[str, int]] | None = None,
    regularizer: Regularizer | None = None,
    lr: float = 0.1,
    clip_norm: float | None = 1.0,
    rule: Callable[..., Optimizer] = torch.optim.SGD,
    **plan: Any,
) -> Trainer:
    """A trainer whose evaluations, after each step, have these scores; what it saves comes into a list."""
    optimizer = rule(model.parameters(), lr=lr)
    coming = iter(scores)
    return Trainer(
        model=model,
        objective=Objective(model, {"nli": regularizer}, seed=1),
        loader=SameBatches(),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        accelerator=Accelerator(cpu=True),
        plan=Plan(**{"total_steps": len(scores) or 1, "evaluate_every": 1, "checkpoint_every": "never", **plan}),
        evaluate=lambda: ({}, next(coming, None)),
        save=lambda kind, trainer: (saved if saved is not None else []).append((kind, trainer.progress.step)),
        clip_norm=clip_norm,
    )


def test_any_rise_is_the_best_though_patience_asks_for_a_larger_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    saved: list[tuple[str, int]] = []
    trainer = trainer_of(make_model(), scores=[0.80, 0.808, 0.805, 0.9], saved=saved, patience=2, min_delta=0.01)
    progress = trainer.train()
    assert (progress.best_score, progress.best_step, progress.step) == (0.808, 2, 3)
    assert saved == [("best", 1), ("best", 2), ("last", 3)]
    assert (
        "stopped after step 3 of 4: the dev score has not risen by more than 0.01 in the last 2 evaluations; its best "
        "value is 0.8080, at step 2" in caplog.text
    )


def test_small_rises_that_add_up_to_a_larger_one_renew_patience() -> None:
    trainer = trainer_of(make_model(), scores=[0.80, 0.808, 0.815, 0.82, 0.82], patience=2, min_delta=0.01)
    progress = trainer.train()
    assert (progress.patience_score, progress.without_rise, progress.step) == (0.815, 2, 5)


def test_a_checkpoint_without_a_score_of_patience_resumes_with_the_best_one() -> None:
    trainer = trainer_of(make_model(), scores=[0.8, 0.7])
    trainer.train()
    state = trainer.state_dict()
    assert state["progress"].pop("patience_score") == 0.8
    resumed = trainer_of(make_model())
    resumed.load_state_dict(state)
    assert resumed.progress == trainer.progress


def weights_of(model: MultiTaskModel) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_move() -> None:
    model = make_model()
    model.heads["nli"].output.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = weights_of(model)
    rows = ", ".join(make_batch().row_ids)
    reported = rf"step 1: task 'nli': the norm of the gradient is (inf|nan); rows {rows}\. The weights have not moved; "
    with pytest.raises(NonFiniteLoss, match=reported):
        trainer_of(model).train()
    assert all(torch.equal(*pair) for pair in zip(before, weights_of(model), strict=True))


def test_of_a_gradient_summed_over_processes_the_rows_are_those_of_one_process() -> None:
    """Another process may have the rows that it comes from."""
    model = make_model()
    model.heads["nli"].output.weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer = trainer_of(model)
    trainer.updater.reduce = lambda tensors: None
    reported = r"the norm of the gradient of all processes is (inf|nan); rows of this process "
    with pytest.raises(NonFiniteLoss, match=reported + ", ".join(make_batch().row_ids)):
        trainer.train()


def test_without_clipping_only_the_loss_is_looked_at() -> None:
    model = make_model()
    model.heads["nli"].output.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteLoss, match=r"step 2: .* the loss is nan; .* The weights have not moved; lower"):
        trainer_of(model, clip_norm=None, total_steps=2).train()


def test_a_step_in_which_the_weights_have_moved_before_says_so() -> None:
    model = make_model()
    trainer = trainer_of(model, regularizer=FreeAT(steps=4), lr=1e300)
    with pytest.raises(NonFiniteLoss, match=r"step 1: .* The weights have moved (once|\d times) within this step; "):
        trainer.train()
