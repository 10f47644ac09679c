"""Classification: which metrics go with how many labels."""

import pytest

import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.config.tasks import task_def_from
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.task_types.classification import Classification

BLOCK = {"task_type": "classification", "labels": ["contradiction", "neutral", "entailment"]}


@pytest.mark.parametrize("kind", ["classification", "regression", "sequence_labeling", "ranking"])
def test_an_input_is_not_named_as_another_column_of_the_row(kind):
    """The label of a row was its text."""
    inputs = ["label", "text"] if kind == "ranking" else ["label"]
    block = {"task_type": kind, "inputs": inputs, "columns": {"label": "verdict"}}
    block |= {"labels": ["0", "1"]} if kind in ("classification", "sequence_labeling") else {}
    (found,) = map(str, TASK_TYPES.get(kind).faults(task_def_from("t", block)))
    assert "t.inputs: 'label' is a column of its own (id," in found and "columns: {text: label}" in found


def test_weights_of_labels_may_be_given_by_number():
    """AttributeError: YAML reads {0: 1.0} with a number as its key."""
    block = {"task_type": "classification", "labels": [0, 1]}
    task = task_def_from("t", {**block, "class_weights": {0: 1.0, 1: 5.0}})
    assert Classification.faults(task) == [] and Classification(task)._class_weights == [1.0, 5.0]
    (found,) = map(str, Classification.faults(task_def_from("t", {**block, "class_weights": {0: 1.0, 2: 5.0}})))
    assert "unknown label '2'" in found
    (found,) = map(str, Classification.faults(task_def_from("t", {**block, "class_weights": {False: 1.0}})))
    assert "put the word in quotes" in found and "function-before" not in found


@pytest.mark.parametrize("metrics", [["f1"], ["accuracy", "precision"], ["precision", "recall"]])
def test_metrics_of_two_labels_are_refused_where_there_are_three(metrics):
    (found,) = map(str, Classification.faults(task_def_from("nli", {**BLOCK, "metrics": metrics})))
    of_two = [name for name in metrics if name != "accuracy"]
    assert found == (
        f"nli: nli.metrics: {', '.join(of_two)} with 3 labels. "
        f"Use f1_macro or f1_micro; {of_two[0]} is computed for the second of two labels."
    )
    two = {**BLOCK, "labels": BLOCK["labels"][:2]}
    assert Classification.faults(task_def_from("nli", {**two, "metrics": metrics})) == []
