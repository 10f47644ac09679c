"""An update of several tasks: what the optimizer moves by, against plain autograd over the same losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

import mtdnn.balancing
from mtdnn.balancing.base import BALANCERS, Balancer
from mtdnn.batch import Batch
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.base import Regularizer
from mtdnn.regularizers.free_at import FreeAT
from mtdnn.regularizers.free_lb import FreeLB
from mtdnn.regularizers.smart import Smart
from mtdnn.training.combination import Conflicts
from mtdnn.training.objective import Objective
from mtdnn.training.plan import Plan
from mtdnn.training.trainer import Trainer
from tests.reference.tiny import make_batch, make_model, slice_batch

assert mtdnn.balancing
UPDATE = [make_batch("nli"), make_batch("similarity", seed=1)]
KINDS = {"nli": "classes", "similarity": "number"}
LR = 0.05


class Updates:
    """Epochs of three steps, each of the same update."""

    def __init__(self, parts: Sequence[Batch]) -> None:
        self.parts = parts

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return 3

    def from_step(self, step: int) -> Any:
        return iter([self.parts] * (3 - step))


class Noted:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def train(self, *given: Any) -> None:
        pass

    def conflicts(self, step: int, found: Conflicts) -> None:
        self.found.append((step, found))

    def affinity(self, step: int, found: Any) -> None:
        self.found.append((step, found))


def trained(
    name: str = "fixed",
    parts: Sequence[Batch] = UPDATE,
    *,
    options: dict[str, Any] | None = None,
    regularizers: dict[str, Regularizer] | None = None,
    model: MultiTaskModel | None = None,
    recorder: Any = None,
    steps: int = 1,
    **plan: Any,
) -> Trainer:
    """A trainer that has done some steps by plain gradient descent, without clipping."""
    model = model or make_model()
    balancer: Balancer = BALANCERS.get(name)(KINDS, **(options or {}))
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": LR}]
    if balancer.parameters():
        groups.append({"params": balancer.parameters(), "lr": 0.1})
    optimizer = torch.optim.SGD(groups)
    trainer = Trainer(
        model=model,
        objective=Objective(model, regularizers, seed=1),
        loader=Updates(parts),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        accelerator=Accelerator(cpu=True),
        plan=Plan(**{"total_steps": steps, "evaluate_every": "never", "checkpoint_every": "never", **plan}),
        evaluate=lambda: ({}, None),
        save=lambda kind, trainer: None,
        balancer=balancer,
        recorder=recorder,
        clip_norm=None,
    )
    trainer.train()
    return trainer


def gradients_of(model: MultiTaskModel, batch: Batch) -> dict[str, Tensor]:
    """Name → gradient of the task's own loss, by autograd."""
    loss = model.task_types[batch.task].loss(model(batch), batch)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: each for name, each in zip(named, found, strict=True) if each is not None}


def moved(model: MultiTaskModel) -> dict[str, Tensor]:
    """Name → what one step has taken off, in units of the learning rate."""
    start = dict(make_model().named_parameters())
    return {name: (start[name] - weight).detach() / LR for name, weight in model.named_parameters()}


def assert_moved_by(model: MultiTaskModel, expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    for name, found in moved(model).items():
        torch.testing.assert_close(found, expected.get(name, torch.zeros_like(found)), rtol=tolerance, atol=tolerance)


def flat(gradients: dict[str, Tensor]) -> Tensor:
    """The part of the shared weights, as one vector; every task of these touches all of them but some words."""
    names = [name for name, _ in make_model().named_parameters() if not name.startswith("heads.")]
    return torch.cat([gradients[name].reshape(-1) for name in names if name in gradients])


def test_fixed_adds_the_losses_up() -> None:
    own = [gradients_of(make_model(), batch) for batch in UPDATE]
    names = set(own[0]) | set(own[1])
    expected = {name: sum(each[name] for each in own if name in each) for name in names}
    assert_moved_by(trained().model, expected)  # type: ignore[arg-type]


def test_fixed_with_weights_adds_up_the_weighted_losses() -> None:
    own = [gradients_of(make_model(), batch) for batch in UPDATE]
    expected: dict[str, Tensor] = {}
    for factor, each in zip((0.5, 3.0), own, strict=True):
        for name, gradient in each.items():
            expected[name] = expected.get(name, torch.zeros(())) + factor * gradient
    model = trained(options={"weights": {"nli": 0.5, "similarity": 3.0}}).model
    assert_moved_by(model, expected, 1e-6)  # the weights are float32


@pytest.mark.parametrize("parts", [1, 2], ids=["whole", "accumulated"])
def test_pcgrad_projects_the_encoders_gradients_and_leaves_the_heads_theirs(parts: int) -> None:
    """Yu et al., Algorithm 1, for two tasks: each less its part against the other, if they conflict."""
    own = [gradients_of(make_model(), batch) for batch in UPDATE]
    one, two = map(flat, own)
    inner = one @ two
    first = one - min(inner, 0) / (two @ two) * two
    expected = first + two - min(inner, 0) / (one @ one) * one
    cut = [slice_batch(batch, rows) for batch in UPDATE for rows in (slice(0, 2), slice(2, 4))]
    found = moved(trained("pcgrad", cut if parts == 2 else UPDATE).model)
    torch.testing.assert_close(flat(found), expected, rtol=1e-9, atol=1e-9)
    for task, gradients in zip(KINDS, own, strict=True):
        for name in (name for name in gradients if name.startswith(f"heads.{task}.")):
            torch.testing.assert_close(found[name], gradients[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(BALANCERS))
def test_a_task_alone_in_an_update_moves_as_with_fixed(name: str) -> None:
    """`uncertainty` and `gradnorm` weight it too: exp(−0) = 1 and 1 at the first step."""
    one, fixed = trained(name, UPDATE[:1]).model, trained("fixed", UPDATE[:1]).model
    for found, expected in zip(one.parameters(), fixed.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_famo_weights_gradients_by_shares_over_losses() -> None:
    """Equal shares at the first step: c ∕ ℓ_i, c = 1 ∕ Σ 1 ∕ ℓ_i; heads too. Float32 logits: 1e-6."""
    model = make_model()
    losses = [model.task_types[batch.task].loss(model(batch), batch).item() for batch in UPDATE]
    factors = [(1 / loss) / sum(1 / each for each in losses) for loss in losses]
    expected: dict[str, Tensor] = {}
    for factor, batch in zip(factors, UPDATE, strict=True):
        for name, gradient in gradients_of(make_model(), batch).items():
            expected[name] = expected.get(name, torch.zeros(())) + factor * gradient
    trainer = trained("famo")
    assert_moved_by(trainer.model, expected, 1e-6)
    after = [trainer.model.task_types[batch.task].loss(trainer.model(batch), batch).item() for batch in UPDATE]
    falls = [torch.tensor(before / now).log() for before, now in zip(losses, after, strict=True)]
    faster = falls[0] > falls[1]  # its logit falls: Adam's first step has the size of its learning rate
    logits = [each.item() for each in trainer.balancer.logits.values()]  # type: ignore[attr-defined]
    assert (logits[0] < logits[1]) == faster


def test_gradnorm_sees_the_norms_at_the_last_shared_layer() -> None:
    """The weights move against the sign of G_i − mean at the first step, when no loss has fallen yet."""
    norms = []
    for batch in UPDATE:
        found = gradients_of(make_model(), batch)
        last = [each for name, each in found.items() if ".layer.0." in name and not name.startswith("heads.")]
        norms.append(torch.linalg.vector_norm(torch.cat([each.reshape(-1) for each in last])).item())
    mean = sum(norms) / 2
    raw = [1 - 0.1 * (1 if norm > mean else -1) * norm for norm in norms]
    kept = [max(value, 1e-3) for value in raw]
    expected = [2 * value / sum(kept) for value in kept]
    found_weights = [each.item() for each in trained("gradnorm").balancer.parameters()]
    assert found_weights == pytest.approx(expected, rel=1e-5)  # float32 weights


METHODS: list[tuple[str, Any]] = [
    ("free_lb", lambda: FreeLB(steps=2)),
    ("free_at", lambda: FreeAT(steps=2)),
    ("smart", lambda: Smart(epsilon=1e-3, eta=1e-3)),
]


@pytest.mark.parametrize("name", list(BALANCERS))
@pytest.mark.parametrize(("regularizer", "make"), METHODS, ids=[name for name, _ in METHODS])
def test_methods_work_with_regularizers_and_do_not_depend_on_what_is_logged(
    name: str, regularizer: str, make: Any
) -> None:
    """Rounding of sums in another order, in float64: 1e-9."""
    regularizers = {"nli": make()}
    plain = trained(name, regularizers=regularizers, steps=3).model
    regularizers, noted = {"nli": make()}, Noted()
    logged = trained(
        name, regularizers=regularizers, steps=3, recorder=noted, log_conflicts=1, log_affinity=2, log_every=1
    ).model
    for found, expected in zip(logged.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
        assert found.isfinite().all()
    assert [step for step, found in noted.found if isinstance(found, Conflicts)] == [1, 2, 3]


def test_conflicts_are_the_cosine_and_norms_of_the_encoders_gradients() -> None:
    noted, own = Noted(), [flat(gradients_of(make_model(), batch)) for batch in UPDATE]
    trained(recorder=noted, log_conflicts=1)
    ((step, found),) = noted.found
    cosine = torch.nn.functional.cosine_similarity(own[0], own[1], dim=0).item()
    assert (step, found.tasks) == (1, ["nli", "similarity"])
    assert found.cosine == [pytest.approx([1.0, cosine]), pytest.approx([cosine, 1.0])]
    assert found.norm == pytest.approx([each.norm().item() for each in own])


def test_affinity_is_the_fall_of_each_loss_by_a_step_on_each_task() -> None:
    """Fifty et al., equation 1, by a step of plain gradient descent on a copy's encoder."""
    expected: dict[str, dict[str, float]] = {}
    for batch in UPDATE:
        copy = make_model()
        gradients = gradients_of(copy, batch)
        before = {each.task: copy.task_types[each.task].loss(copy(each), each).item() for each in UPDATE}
        with torch.no_grad():
            for name, weight in copy.named_parameters():
                if not name.startswith("heads.") and name in gradients:
                    weight -= LR * gradients[name]
        after = {each.task: copy.task_types[each.task].loss(copy(each), each).item() for each in UPDATE}
        expected[batch.task] = {task: 1 - after[task] / before[task] for task in KINDS}
    noted = Noted()
    trained(recorder=noted, log_affinity=1)
    ((step, found),) = noted.found
    assert step == 1
    for task in KINDS:
        assert found[task] == pytest.approx(expected[task], rel=1e-9, abs=1e-12)


def test_a_step_of_several_movements_is_measured_once_with_its_weights_before_it() -> None:
    """The first of FreeAT's movements is the only one of `steps: 1`. Each was a line of its own in the log."""
    found = {}
    for steps in (1, 3):
        noted = Noted()
        methods = {task: FreeAT(steps=steps) for task in KINDS}
        trained(regularizers=methods, recorder=noted, log_conflicts=1, log_affinity=1)
        found[steps] = noted.found
    assert len(found[1]) == 2 and found[3] == found[1]


def straight_line_steps(model: MultiTaskModel, objective: Objective, optimizer: Any, updates: Any, clip: float) -> None:
    """The loop of one task a step, as it was before updates could hold several."""
    for step, parts in enumerate(updates):
        rows = sum(len(part) for part in parts)
        labels = sum(model.task_types[part.task].label_count(part) for part in parts)
        for index, batch in enumerate(parts):
            label_share = model.task_types[batch.task].label_count(batch) / labels
            shares = {"row_share": len(batch) / rows, "label_share": label_share}
            for part in objective.parts(batch, step=step, part=index, **shares):
                part.loss.backward()
                if part.then_update:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step()


@pytest.mark.parametrize(("regularizer", "make"), [("none", lambda: None), *METHODS])
def test_fixed_with_one_task_a_step_is_the_plain_loop_bit_for_bit(regularizer: str, make: Any) -> None:
    """Float32 with dropout; two parts a batch, but where the optimizer moves within it."""
    batches = [[batch] for batch in UPDATE] * 2
    if regularizer != "free_at":
        batches = [[slice_batch(batch, slice(0, 1)), slice_batch(batch, slice(1, 4))] for (batch,) in batches]
    given = [[_float32(part) for part in parts] for parts in batches]
    models = [make_model(dropout=0.1, dtype=torch.float32) for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in models]
    objectives = [Objective(model, {"nli": make()}, seed=3) for model in models]
    trainer = Trainer(
        model=models[0],
        objective=objectives[0],
        loader=Updates([]),
        optimizer=optimizers[0],
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizers[0], factor=1.0),
        accelerator=Accelerator(cpu=True),
        plan=Plan(total_steps=4),
        evaluate=lambda: ({}, None),
        save=lambda kind, trainer: None,
    )
    for parts in given:
        trainer.train_step(parts)
    straight_line_steps(models[1], objectives[1], optimizers[1], given, 1.0)
    for found, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(found, expected)


def _float32(batch: Batch) -> Batch:
    labels = batch.labels
    if labels is not None and labels.is_floating_point():
        labels = labels.float()
    return Batch(batch.task, batch.inputs, labels, batch.row_ids)
