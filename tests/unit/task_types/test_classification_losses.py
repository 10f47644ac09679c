"""Losses of classification: weights of classes, smoothed labels, focal loss, ordered classes.

Numbers are PyTorch's, scikit-learn's or worked by hand.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mtdnn
from mtdnn.batch import IGNORED, Batch
from mtdnn.cli.main import main
from mtdnn.config.tasks import task_def_from
from mtdnn.data.collate import collate
from mtdnn.data.manifest import stored_block
from mtdnn.data.prepro import prepare
from mtdnn.data.store import open_store
from mtdnn.networks.losses import cross_entropy, focal, ordinal
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.task_types.classification import Classification
from tests.conftest import Demo
from tests.reference.project import WORDS, Project, save_encoder

LABELS = torch.tensor([0, 2, IGNORED, 1, 2])


def logits() -> Tensor:
    drawn = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.requires_grad_()


def made(**more: Any) -> Classification:
    return Classification(task_def_from("nli", {"task_type": "classification", "labels": ["a", "b", "c"], **more}))


def batch(labels: Tensor = LABELS) -> Batch:
    return Batch("nli", {"mask": torch.ones(len(labels), 1).bool()}, labels, [str(row) for row in range(len(labels))])


def test_smoothed_labels_are_those_of_pytorch() -> None:
    wanted = torch.nn.functional.cross_entropy(logits(), LABELS, label_smoothing=0.1)
    of_loss = {"loss": {"name": "cross_entropy", "label_smoothing": 0.1}}
    for block in (of_loss, {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "loss": "cross_entropy"}):
        torch.testing.assert_close(made(**block).loss(logits(), batch()), wanted)


def test_the_focal_loss_is_its_formula_and_cross_entropy_without_gamma() -> None:
    known = LABELS != IGNORED
    right = logits().softmax(-1)[known].gather(1, LABELS[known].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(focal(logits(), LABELS, gamma=2.0), (-((1 - right) ** 2) * right.log()).mean())
    torch.testing.assert_close(focal(logits(), LABELS, gamma=0.0), cross_entropy(logits(), LABELS))
    sure = torch.tensor([[60.0, 0, 0]], dtype=torch.float64, requires_grad=True)  # p is 1 to the last digit
    focal(sure, torch.tensor([0]), gamma=0.5).backward()
    assert sure.grad is not None and bool(sure.grad.isfinite().all())


def test_the_ordinal_loss_grows_with_the_distance_from_the_label() -> None:
    """All mass on class k, label y: |k − y|. A uniform one of three, label 0: (1/3 − 1)² + (2/3 − 1)² = 5/9."""
    certain = 100.0 * torch.eye(3)
    assert [float(ordinal(certain[k : k + 1], torch.tensor([0]))) for k in range(3)] == pytest.approx([0, 1, 2])
    assert float(ordinal(torch.zeros(1, 3), torch.tensor([0]))) == pytest.approx(5 / 9)
    assert float(ordinal(torch.zeros(1, 3), torch.tensor([IGNORED]))) == 0


@pytest.mark.parametrize("loss", [cross_entropy, focal, ordinal])
def test_weights_are_factors_of_the_rows_and_the_mean_is_over_rows(loss: Any) -> None:
    weights = torch.tensor([0.5, 2, 9, 1, 2], dtype=torch.float64)
    single = [loss(logits()[row : row + 1], LABELS[row : row + 1]) for row in range(5)]
    wanted = sum(weight * each for weight, each in zip(weights, single, strict=True)) / 4
    torch.testing.assert_close(loss(logits(), LABELS, weights=weights), wanted)
    torch.testing.assert_close(loss(logits(), LABELS, weights=torch.ones(5)), loss(logits(), LABELS))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    rows = ["a"] * 6 + ["b"] * 3 + ["c"]
    task_type = made(class_weights="balanced")
    assert task_type.reads_label_counts and not made().reads_label_counts
    task_type.learn_label_counts(Counter(rows))
    wanted = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=rows)
    assert task_type._class_weights == pytest.approx(list(wanted))
    weights = torch.tensor(wanted)[LABELS.clamp(min=0)]
    torch.testing.assert_close(task_type.loss(logits(), batch()), cross_entropy(logits(), LABELS, weights=weights))


def test_given_weights_are_by_label_and_1_for_the_others() -> None:
    weights = torch.tensor([1.0, 1, 1, 4, 1])
    found = made(class_weights={"b": 4}).loss(logits(), batch())
    torch.testing.assert_close(found, cross_entropy(logits(), LABELS, weights=weights))


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        ({"class_weights": {"d": 1}}, "nli.class_weights.d: unknown label 'd'; known: a, b, c"),
        ({"class_weights": {"a": -1}}, "greater than or equal to 0"),
        ({"class_weights": "balance"}, "nli.class_weights"),
        ({"label_smoothing": 1}, "nli.label_smoothing: 1: input should be less than 1"),
        ({"label_smoothing": 0.1, "loss": "focal"}, "nli.label_smoothing: 'focal' has no such option. Leave it out"),
        (
            {"label_smoothing": 0.1, "loss": {"name": "cross_entropy", "label_smoothing": 0.2}},
            "nli.label_smoothing: is an option of `loss` as well. Keep one of them.",
        ),
        ({"gamma": 1}, "Write loss: {name: focal, gamma: 1}"),
        ({"loss": {"name": "cross_entropy", "label_smoothing": 1}}, "nli.loss.label_smoothing: "),
        ({"loss": {"name": "focal", "gamma": -1}}, "nli.loss.gamma: "),
        ({"loss": {"name": "ordinal", "gamma": 2}}, "It is an option of "),
    ],
)
def test_bad_values_are_refused(more: dict[str, Any], reported: str) -> None:
    task = task_def_from("nli", {"task_type": "classification", "labels": ["a", "b", "c"], **more})
    faults = Classification.faults(task)
    assert any(reported in str(each) for each in faults), faults


def test_rows_need_not_be_prepared_again_for_other_weights_and_tasks_of_both_share_a_pass() -> None:
    plain, weighted = made(), made(class_weights="balanced", label_smoothing=0.1)
    assert stored_block(plain.task) == stored_block(weighted.task)
    assert plain.encodes_like(weighted)
    assert plain.encodes_like(TASK_TYPES.get("regression")(task_def_from("other", {"task_type": "regression"})))


def test_a_run_counts_the_labels_of_the_rows_it_trains_on(demo: Demo, tmp_path: Any) -> None:
    from mtdnn.config.run import load_run_config
    from mtdnn.runs.setup import Setup

    tasks = mtdnn.load_task_defs(demo.tasks)
    own = {"demo_nli": tasks["demo_nli"].model_copy(update={"options": {"class_weights": "balanced"}})}
    values = demo.run_values(tmp_path / "run", train=["demo_nli"], **{"subset.demo_nli.rows": 20})
    setup = Setup.of(load_run_config(None, values), own)
    labels = setup.train_stores["demo_nli"].labels
    counts = [int((labels == number).sum()) for number in range(len(own["demo_nli"].labels))]
    assert sum(counts) == 20
    present = sum(count > 0 for count in counts)
    expected = [20 / (present * count) if count else 0 for count in counts]
    assert setup.model.task_types["demo_nli"]._class_weights == pytest.approx(expected)


def test_weights_of_rows_are_read_stored_and_multiply_the_loss(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.define(
        "nli: {task_type: classification, labels: [a, b], max_length: 16, row_weights: true, class_weights: {b: 3},"
        " splits: {train: train}}\n"
    )
    project.rows("nli/train", ["1\ta\t0.5\tA red kite.", "2\tb\t\tA boat.", "3\tb\t2\tThe barn."])
    encoder = save_encoder(tmp_path / "encoder", WORDS)
    prepare(project.tasks, data=project.data, encoder=encoder, out=project.out, num_workers=1)
    task = project.tasks["nli"]
    task_type, store = Classification(task), open_store(project.out, task, "train")
    found = collate(store.take(np.arange(3)), task_type, pad_token_id=0, seed=0)
    assert found.extras["weights"].tolist() == [0.5, 1, 2]
    scores = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    rows = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 1]), reduction="none")
    torch.testing.assert_close(task_type.loss(scores, found), (rows * torch.tensor([0.5, 3, 6])).mean())
    assert not task_type.predicts_with(made(labels=["a", "b"])) and task_type.predicts_with(Classification(task))


@pytest.mark.parametrize(
    ("cell", "reported"), [("heavy", "'heavy' is not a number"), ("-2", "'-2' is not a finite number")]
)
def test_check_refuses_a_bad_weight_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cell: str, reported: str
) -> None:
    project = Project(tmp_path)
    project.define("nli: {task_type: classification, labels: [a, b], row_weights: true, splits: {train: train}}\n")
    project.rows("nli/train", ["1\ta\t1\tA red kite.", f"2\tb\t{cell}\tA boat."])
    assert main(["check", str(project.definitions), "--data", str(project.data)]) == 2
    assert f"train.tsv:2: weight: {reported}" in capsys.readouterr().err
