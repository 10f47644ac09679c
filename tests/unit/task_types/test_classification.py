"""Classification: which metrics go with how many labels."""

import pytest

from mtdnn.config.tasks import task_def_from
from mtdnn.task_types.classification import Classification

BLOCK = {"task_type": "classification", "labels": ["contradiction", "neutral", "entailment"]}


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
