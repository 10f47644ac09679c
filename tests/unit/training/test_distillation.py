"""Soft labels: read, averaged over teachers, put in batches by row id, and what they cost, by hand and by PyTorch."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.batch import Batch
from mtdnn.config.run import no_run
from mtdnn.config.tasks import TaskDef, task_def_from
from mtdnn.data.collate import collate
from mtdnn.data.jobs import block_faults
from mtdnn.data.loaders import without_labels
from mtdnn.data.prepro import prepare
from mtdnn.data.store import Store, open_store
from mtdnn.errors import DataError
from mtdnn.runs.length import train_part
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.training.distillation import averaged, with_soft_labels
from tests.reference.project import WORDS, Project, save_encoder


def typed(task: TaskDef) -> TaskType:
    return TASK_TYPES.get(task.task_type)(task)


def classification(**distill: Any) -> TaskType:
    block = {"task_type": "classification", "labels": ["yes_", "no_"], "inputs": ["premise", "hypothesis"]}
    return typed(task_def_from("nli", {**block, "distill": {"from": "soft.jsonl", **distill}}))


def regression(**distill: Any) -> TaskType:
    return typed(task_def_from("like", {"task_type": "regression", "distill": {"from": "soft.jsonl", **distill}}))


def batch_of(labels: Tensor, soft: list[list[float]] | Tensor) -> Batch:
    rows = [str(number) for number in range(len(labels))]
    return Batch("t", {"mask": torch.ones(len(rows), 1).bool()}, labels, rows, {"soft": torch.as_tensor(soft)})


def test_the_loss_of_labels_and_soft_labels_by_hand() -> None:
    # T = 2 makes (0.9, 0.1) into (3, 1)/4; softmax((2 ln 3, 0)/2) is (3, 1)/4 too, and the label has probability 9/10
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    logits, batch = torch.tensor([[2 * math.log(3), 0.0]]), batch_of(torch.tensor([0]), [[0.9, 0.1]])
    task_type = classification(temperature=2, weight=0.25)
    expected = 0.75 * -math.log(0.9) + 0.25 * 4 * entropy
    assert task_type.training_loss(logits, batch).item() == pytest.approx(expected, rel=1e-6)  # float32
    # equal logits: 2² · ln 2 for the soft label, ln 2 for the label
    flat = task_type.training_loss(torch.zeros(1, 2), batch).item()
    assert flat == pytest.approx(0.75 * math.log(2) + 0.25 * 4 * math.log(2), rel=1e-6)


def test_the_loss_of_numbers_by_hand() -> None:
    # prediction 2: (2 − 4)² = 4 from the label, (2 − 1)² = 1 from the teacher
    loss = regression(weight=0.25).training_loss(torch.tensor([[2.0]]), batch_of(torch.tensor([4.0]), [[1.0]]))
    assert loss.item() == pytest.approx(0.75 * 4 + 0.25 * 1)


def test_the_soft_loss_is_the_kl_divergence_of_pytorch_up_to_the_teachers_entropy() -> None:
    torch.manual_seed(0)
    teacher, student, temperature = torch.randn(5, 2), torch.randn(5, 2, requires_grad=True), 3.0
    batch = batch_of(torch.zeros(5, dtype=torch.long), teacher.softmax(-1))
    found = classification(temperature=temperature, weight=1).training_loss(student, batch)
    q = (teacher / temperature).softmax(-1)
    divergence = F.kl_div((student / temperature).log_softmax(-1), q, reduction="batchmean")
    entropy = -(q * q.log()).sum(-1).mean()
    torch.testing.assert_close(found, temperature**2 * (divergence + entropy))
    (gradient,) = torch.autograd.grad(found, student)
    (expected,) = torch.autograd.grad(temperature**2 * divergence, student)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("task_type", [classification(weight=0.5), regression(weight=0.5)])
def test_rows_without_a_soft_label_do_not_count_and_nothing_is_0(task_type: TaskType) -> None:
    width = task_type.num_outputs
    labels = torch.zeros(2) if width == 1 else torch.zeros(2, dtype=torch.long)
    soft = torch.tensor([[1.0] * (width - 1) + [0.0], [math.nan] * width])
    logits = torch.randn(2, width, requires_grad=True)
    batch = batch_of(labels, soft)
    alone = task_type.soft_loss(logits[:1], soft[:1], batch_of(labels[:1], soft[:1]), temperature=1)
    assert task_type.soft_loss(logits, soft, batch, temperature=1).item() == pytest.approx(alone.item())
    loss = task_type.training_loss(logits, without_labels(batch))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and float(gradient.abs().max()) == 0


def test_a_probability_of_0_leaves_loss_and_gradient_finite() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = classification(temperature=4, weight=1).training_loss(logits, batch_of(torch.tensor([0]), [[1.0, 0.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(16 * math.log(2)) and bool(logits.grad.isfinite().all())


def test_a_row_without_weight_is_not_learnt_from_its_soft_label_either() -> None:
    task_type = classification(weight=1.0)
    batch = batch_of(torch.tensor([0, 0]), [[0.5, 0.5], [0.5, 0.5]])
    weighted = replace(batch, extras={**batch.extras, "weights": torch.tensor([0.0, 0.5])})
    found = task_type.training_loss(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), weighted)
    assert found.item() == pytest.approx(0.5 * math.log(2) / 2)  # of two rows, as the loss of labels divides


def test_without_soft_labels_the_loss_is_the_tasks_own() -> None:
    batch = replace(batch_of(torch.tensor([0]), [[0.9, 0.1]]), extras={})
    task_type, logits = classification(), torch.tensor([[0.3, -0.2]])
    assert torch.equal(task_type.training_loss(logits, batch), task_type.loss(logits, batch))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    encoder = save_encoder(tmp_path / "encoder", WORDS)
    prepare(project.tasks, data=project.data, encoder=encoder, out=project.out, num_workers=1)
    return project


def soft_file(path: Path, scores: dict[str, Any]) -> str:
    """A prediction file of these probabilities of "yes_", or of these whole records."""
    records = [
        {"id": row_id, "prediction": "yes_", "label": None, "scores": {"no_": 1 - value, "yes_": value}}
        if isinstance(value, float)
        else {"id": row_id, "label": None, **value}
        for row_id, value in scores.items()
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def student(project: Project, *files: str, name: str = "nli", **changes: Any) -> tuple[Store, TaskType]:
    task = task_def_from(name, {**project.tasks[name].model_dump(exclude={"name", "options"}), **changes})
    task = task.model_copy(
        update={"distill": task_def_from("t", {"task_type": "", "distill": {"from": files}}).distill}
    )
    store = open_store(project.out, task, "train")
    store = train_part(store, no_run(), task) if name == "nli" else store
    return store, typed(task)


def test_soft_labels_reach_the_batch_by_row_id_and_teachers_are_averaged(project: Project, tmp_path: Path) -> None:
    first = soft_file(tmp_path / "a.jsonl", {"n3": 0.5, "more": 0.1, "n1": 0.25, "n2": 1.0})
    second = soft_file(tmp_path / "b.jsonl", {"n1": 0.75, "n2": 0.0, "n3": 0.5})
    store, task_type = student(project, first, second)
    with_teachers = with_soft_labels(store, task_type)
    batch = collate(with_teachers.take(np.array([2, 0, 1])), task_type, pad_token_id=0)
    assert batch.row_ids == ["n3", "n1", "n2"]
    assert batch.extras["soft"].dtype == torch.float32
    assert batch.extras["soft"].tolist() == [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    alone = with_soft_labels(*student(project, first))
    assert alone.take(np.array([2, 0, 1]))["soft"][:, 0].tolist() == [0.5, 0.25, 1.0]  # "yes_" is the first label
    assert alone.select(np.array([1, 2])).take(np.array([1]))["soft"].tolist() == [[0.5, 0.5]]
    assert "soft" not in store.take(np.array([0]))


def test_numbers_reach_the_batch(project: Project, tmp_path: Path) -> None:
    path = soft_file(tmp_path / "a.jsonl", {"l2": {"prediction": 1.5, "scores": {}}, "l1": {"prediction": 3}})
    with_teachers = with_soft_labels(*student(project, path, name="like"))
    assert with_teachers.take(np.array([0, 1]))["soft"].tolist() == [[3.0], [1.5]]


def test_only_the_rows_that_are_trained_on_need_soft_labels(project: Project, tmp_path: Path) -> None:
    path = soft_file(tmp_path / "a.jsonl", {"n1": 0.25, "n2": 1.0})
    store, task_type = student(project, path)
    assert len(with_soft_labels(store.select(np.array([0, 1])), task_type)) == 2


OTHER = {"prediction": "a", "scores": {"a": 0.5, "b": 0.5}}
ALL = {"n1": 0.5, "n2": 0.5, "n3": 0.5}


@pytest.mark.parametrize(
    ("scores", "reported"),
    [
        (
            {"n1": 0.5},
            "{path}: id: no soft label for 'n2', 'n3' (2 of 3 train rows of nli). Predict all of them: "
            "mtdnn predict TEACHER --soft --task nli --input ROWS --output {path}",
        ),
        (
            {**ALL, "n2": OTHER},
            "{path}: scores: row 'n2': labels: a, b; nli.labels (nli): yes_, no_. Give a teacher of this task.",
        ),
        (
            {**ALL, "n1": {"prediction": 2.5, "scores": {}}},
            "{path}: scores: row 'n1': labels: none; nli.labels (nli): yes_, no_. Give a teacher of this task.",
        ),
        (
            {**ALL, "n1": {"prediction": "no_", "scores": {"yes_": 0.5, "no_": 0.7}}},
            "{path}: scores: row 'n1': [0.5, 0.7] are not probabilities of all labels. They must add up to 1.",
        ),
    ],
)
def test_bad_soft_labels_are_reported_by_row(
    project: Project, tmp_path: Path, scores: dict[str, Any], reported: str
) -> None:
    path = soft_file(tmp_path / "soft.jsonl", scores)
    with pytest.raises(DataError) as caught:
        with_soft_labels(*student(project, path))
    assert caught.value.lines == (reported.format(path=path),)


def test_more_bad_soft_labels_are_reported(project: Project, tmp_path: Path) -> None:
    path = soft_file(tmp_path / "soft.jsonl", {f"n{number}": OTHER for number in range(9)})
    with pytest.raises(DataError) as caught:
        with_soft_labels(*student(project, path))
    assert len(caught.value.lines) == 6 and caught.value.lines[-1] == f"{path}: 4 more errors like these"
    Path(path).write_text(Path(soft_file(tmp_path / "b", ALL)).read_text() * 2)
    with pytest.raises(DataError, match="id: row 'n1' occurs twice"):
        with_soft_labels(*student(project, path))
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        with_soft_labels(*student(project, str(tmp_path / "gone.jsonl")))
    numbers = soft_file(tmp_path / "n.jsonl", {"l1": {"prediction": "yes_"}, "l2": {"prediction": 2.0}})
    with pytest.raises(DataError, match=r"n\.jsonl: prediction: row 'l1': 'yes_' is not a number"):
        with_soft_labels(*student(project, numbers, name="like"))


def test_two_rows_of_one_id_are_refused(project: Project, tmp_path: Path) -> None:
    store, task_type = student(project, soft_file(tmp_path / "a.jsonl", ALL))
    with pytest.raises(DataError, match="two rows have the id 'n1'"):
        with_soft_labels(store.select(np.array([0, 1, 0])), task_type)


def test_records_of_several_teachers_are_averaged() -> None:
    def record(value: float) -> dict[str, Any]:
        scores = {"yes_": value, "no_": 1 - value}
        return {"id": "a", "prediction": max(scores, key=scores.get), "label": "no_", "scores": scores}

    found = averaged([[record(0.75)], [record(0.125)]], classification(), places=["x", "y"])
    assert found == [{"id": "a", "prediction": "no_", "label": "no_", "scores": {"yes_": 0.4375, "no_": 0.5625}}]
    numbers = [[{"id": "a", "prediction": value, "label": None, "scores": {}}] for value in (1.0, 2.5)]
    expected = {"id": "a", "prediction": 1.75, "label": None, "scores": {}}
    assert averaged(numbers, regression(), places=["x", "y"]) == [expected]
    with pytest.raises(DataError, match="y: scores: row 'a': labels: none"):
        averaged([[record(0.5)], numbers[0]], classification(), places=["x", "y"])


@pytest.mark.parametrize(
    ("block", "reported"),
    [
        (
            {"task_type": "span", "inputs": ["c", "q"]},
            "t.distill: span has no soft labels. Remove it. Types with soft labels: class",
        ),
        ({"task_type": "regression", "distill": {"from": "f", "temperature": 2}}, "t.distill.temperature: a number"),
    ],
)
def test_tasks_that_cannot_are_reported_at_check(block: dict[str, Any], reported: str) -> None:
    (found,) = map(str, block_faults(task_def_from("t", {"distill": {"from": "f"}, **block})))
    assert reported in found
