"""An update in which some tasks share their rows, and so one pass of the encoder: the same weights, the same log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import mtdnn.balancing
from mtdnn.balancing.base import BALANCERS
from mtdnn.batch import Batch, SharedInputs
from mtdnn.execution.processes import Processes
from mtdnn.execution.sharding import Parts
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.smart import Smart
from mtdnn.training.combination import Conflicts
from mtdnn.training.objective import Objective
from mtdnn.training.plan import Plan
from mtdnn.training.turn import Turn
from mtdnn.training.updater import Updater
from tests.reference import tiny
from tests.reference.tiny import make_batch, make_model, slice_batch

assert mtdnn.balancing
KINDS = {"alone": "classes", "nli": "classes", "similarity": "number"}


@pytest.fixture(autouse=True)
def third_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.BLOCKS, "alone", tiny.BLOCKS["nli"])


class Noted:
    """A recorder that keeps the conflicts."""

    found: Conflicts

    def conflicts(self, step: int, found: Conflicts) -> None:
        self.found = found


def updated(
    parts: Sequence[Batch], *, balance: str = "fixed", regularizers: Any = None, recorder: Any = None, **plan: Any
) -> MultiTaskModel:
    """A model after one update by plain gradient descent."""
    model, accelerator = make_model(), Accelerator(cpu=True)
    Updater(
        model=model,
        objective=Objective(model, regularizers, seed=1),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        balancer=BALANCERS.get(balance)(KINDS),
        processes=Processes(accelerator),
        device=accelerator.device,
        parts=Parts(model),
        plan=Plan(total_steps=1, **plan),
        recorder=recorder,
        clip_norm=None,
    ).update(Turn.of(parts), step=0)
    return model


def on_rows_of_nli(task: str, labels: list[float]) -> Batch:
    values = torch.tensor(labels, dtype=torch.double if task == "similarity" else torch.long)
    return replace(make_batch("nli"), task=task, labels=values)


@pytest.mark.parametrize("measured", [{}, {"log_conflicts": 1}, {"balance": "pcgrad"}])
@pytest.mark.parametrize("rows_of_first", [1, 4])
def test_a_first_task_in_one_part_does_not_lose_the_gradients_of_tasks_in_several(
    rows_of_first: int, measured: dict[str, Any]
) -> None:
    """Where gradients were needed apart, only the first part of the shared pass reached the encoder."""
    alone = replace(make_batch("nli", seed=7), task="alone")
    of_alone = [slice(0, 1)] if rows_of_first == 1 else [slice(0, 2), slice(2, 4)]
    shared, apart = [slice_batch(alone, rows) for rows in of_alone], [slice_batch(alone, rows) for rows in of_alone]
    inputs = [SharedInputs(slice_batch(make_batch(), rows).inputs) for rows in (slice(0, 2), slice(2, 4))]
    for task in ("nli", "similarity"):
        batch = on_rows_of_nli(task, [0, 2, 1, 0])
        parts = [slice_batch(batch, rows) for rows in (slice(0, 2), slice(2, 4))]
        apart += parts
        shared += [replace(part, shared=each) for part, each in zip(parts, inputs, strict=True)]
    for one, other in zip(
        updated(shared, **measured).parameters(), updated(apart, **measured).parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_conflicts_are_of_the_tasks_they_name_where_one_in_the_middle_cannot_share() -> None:
    """A task with a regularizer and fewer sequences has a pass of its own; the names of the last two were exchanged."""
    first, last = on_rows_of_nli("nli", [0, 2, 1, 0]), on_rows_of_nli("alone", [0, 1, 2, 0])
    middle = slice_batch(on_rows_of_nli("similarity", [9, -9, 0, 0]), slice(0, 2))
    inputs = SharedInputs(first.inputs, first=torch.tensor([0, 1]))
    norms = []
    for shared in (None, inputs):
        noted = Noted()
        parts = [replace(batch, shared=shared) for batch in (first, middle, last)]
        updated(parts, regularizers={"similarity": Smart()}, recorder=noted, log_conflicts=1)
        norms.append(dict(zip(noted.found.tasks, noted.found.norm, strict=True)))
    assert norms[0] == pytest.approx(norms[1]) and norms[0]["similarity"] > 2 * norms[0]["alone"]
