"""The average of weights with every task type, regularizer, execution and adapter, and every type cut from one file."""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import mtdnn.regularizers
import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.config.options import Named
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.jobs import readable_jobs
from mtdnn.metrics.base import measured
from mtdnn.model import MultiTaskModel
from mtdnn.networks.adapters import Adapter
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.rows.example import Example
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.average import MovingAverage
from mtdnn.training.objective import Objective
from tests.contract.test_adapters import stir
from tests.contract.test_task_types import Case

REGULARIZED: list[str | None] = [None, *REGULARIZERS.names()]
ADAPTED = [None, "lora", "dora", "ia3"]
LAYOUTS = ["padded", "packed"]
WAYS = [
    (regularizer, ADAPTED[number % len(ADAPTED)], LAYOUTS[number % 2 ^ number // len(ADAPTED) % 2])
    for number, regularizer in enumerate(REGULARIZED)
]
"""Each regularizer once, so that every adapter comes in both layouts over all."""
EVERY = 4
WALKED = [
    (name, *way)
    for place, name in enumerate(TASK_TYPES)
    for number, way in enumerate(WAYS)
    if (place + number) % EVERY == 0
]
"""Each type with every fourth way, from another one on, so that each way comes with several types."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Task type → its case; a test may use several ways of one."""
    kinds = {name: TASK_TYPES.get(name).heads[0] for name in TASK_TYPES}
    return {name: Case(name, head, tmp_path_factory.mktemp(name)) for name, head in kinds.items()}


def model_of(case: Case, adapter: str | None, layout: str) -> MultiTaskModel:
    torch.manual_seed(0)
    encoder = Encoder(case.backbone(), execution="padded" if case.kind.needs_decoder else layout)
    if adapter is not None:
        encoder.adapt(Adapter(Named(name=adapter, scope="task"), ("task",)), base="encoder", seed=0)
    task_type = case.kind(case.task)
    task_type.bind(case.tokenizer)
    model = MultiTaskModel(encoder, {"task": task_type})
    stir(model)
    return model.train()


def test_every_regularizer_adapter_and_layout_is_among_the_ways() -> None:
    assert {regularizer for regularizer, _, _ in WAYS} == {*REGULARIZED}
    assert {(adapter, layout) for _, adapter, layout in WAYS} == {*itertools.product(ADAPTED, LAYOUTS)}
    assert {way[0] for way in WALKED} == {*TASK_TYPES}
    assert {way[1:] for way in WALKED} == {*WAYS}


@pytest.mark.parametrize(("name", "regularizer", "adapter", "layout"), WALKED, ids=str)
def test_the_average_is_between_the_weights_and_is_evaluated(
    cases: dict[str, Case], name: str, regularizer: str | None, adapter: str | None, layout: str
) -> None:
    case = cases[name]
    kind = None if regularizer is None else REGULARIZERS.get(regularizer)
    if kind is not None and kind.logits_of is not None and case.kind.logits_of not in kind.logits_of:
        pytest.skip(f"{regularizer} is for logits of {', '.join(kind.logits_of)}")
    model = model_of(case, adapter, layout)
    trained = {key: each.detach().clone() for key, each in model.named_parameters() if each.requires_grad}
    average = MovingAverage(model, 0.9)
    objective = Objective(model, {"task": None if kind is None else kind()}, None, seed=1, autocast=nullcontext)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1e-3)
    for part in objective.parts(case.batch(model), step=0):
        part.loss.backward()
    optimizer.step()
    average.after_step(model)
    averaged, now = dict(average.model.named_parameters()), dict(model.named_parameters())
    for key, before in trained.items():
        expected = 0.1 * before + 0.9 * now[key].detach()  # β₁ = 1/10
        torch.testing.assert_close(averaged[key].detach(), expected)
    records = average.model.predict(case.batch(model), ["task"])["task"]
    values = measured(records, case.kind(case.task).metric_names, case.task.labels)
    assert all(value == value for value in values.values())  # no NaN
    restored = model_of(case, adapter, layout)
    restored.load_state_dict(copy.deepcopy(average.model.state_dict()))
    other = MovingAverage(restored, 0.9)
    other.load_state_dict(average.state_dict(model), restored)
    assert all(torch.equal(each, now[key]) for key, each in restored.named_parameters())
    assert all(torch.equal(each, averaged[key]) for key, each in other.model.named_parameters())


@pytest.mark.parametrize("name", list(TASK_TYPES))
def test_every_type_is_cut_from_one_file(name: str, tmp_path: Path) -> None:
    kind = TASK_TYPES.get(name)
    (tmp_path / "t").mkdir()
    rows = [row for number in range(8) for row in renamed(kind.sample_rows, number)]
    (tmp_path / "t" / "all.tsv").write_text("\n".join(rows) + "\n")
    cut = {"file": "all", "part": 0.5, "seed": 1, **({"stratify": True} if kind.stratifies else {})}
    block = {**kind.sample_block, "splits": {"train": cut, "dev": {"rest": "all"}}}
    jobs, faults = readable_jobs(load_task_defs({"t": block}), tmp_path)
    assert faults == []
    found = [[row for part in job.parts() for row in job.examples(part)] for job in jobs]
    assert all(isinstance(row, Example) for rows in found for row in rows)
    assert [len(rows) for rows in found] == [12, 12]
    assert len({row.id for rows in found for row in rows}) == 24


def renamed(rows: tuple[str, ...], number: int) -> list[str]:
    """The rows with other ids."""
    return [f"{number}x{row}" for row in rows]
