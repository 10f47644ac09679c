"""One choice of those a row brings along: texts put together, numbers of the right ones, answers as strings."""

import pytest
import torch

from mtdnn.config.tasks import task_def_from
from mtdnn.metrics.base import applicable, compute
from mtdnn.rows.example import RowError
from mtdnn.task_types.multiple_choice import MultipleChoice

COPA = {"task_type": "multiple_choice", "inputs": ["premise", "question", "choice"]}
CLOZE = {**COPA, "placeholder": "@gap", "several": True, "metrics": ["span_f1", "exact_match"]}
ROW = {
    "id": "1",
    "label": "1",
    "premise": "It froze.",
    "question": "What happened?",
    "choice": ["Sun.", "She slipped."],
}


def test_the_choice_follows_the_question_or_takes_the_place_of_the_placeholder(make):
    assert make(COPA, [ROW]).type.pairs(make(COPA, [ROW]).examples[0]) == [
        ("It froze.", "What happened? Sun."),
        ("It froze.", "What happened? She slipped."),
    ]
    made = make(CLOZE, [{**ROW, "question": "@gap fell .", "choice": ["Ada", "Ida"]}])
    assert made.type.pairs(made.examples[0]) == [("It froze.", "Ada fell ."), ("It froze.", "Ida fell .")]
    made = make({**COPA, "inputs": ["premise", "choice"]}, [ROW])
    assert made.type.pairs(made.examples[0]) == [("It froze.", "Sun."), ("It froze.", "She slipped.")]


def test_answers_are_written_back_as_strings(make):
    made = make(COPA, [ROW, {**ROW, "id": "2", "label": ""}])
    records = made.type.predict(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), made.batch())
    assert [(each["prediction"], each["label"]) for each in records] == [
        ("Sun.", "She slipped."),
        ("She slipped.", None),
    ]
    assert compute(["accuracy"], records) == {"accuracy": 0.0}


def test_choices_with_the_same_text_are_one_with_the_sum_of_their_shares(make):
    made = make(COPA, [{**ROW, "label": "0", "choice": ["yes", "yes", "no"]}])
    (record,) = made.type.predict(torch.tensor([[0.5, 0.1, 0.4]]).log(), made.batch())
    assert record["prediction"] == "yes" and record["scores"] == pytest.approx({"yes": 0.6, "no": 0.4})


def test_metrics_of_classes_are_not_computed_from_choices_that_differ_by_row(make):
    made = make(COPA, [ROW, {**ROW, "id": "2", "choice": ["Rain.", "He fell."]}])
    records = made.type.predict(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), made.batch())
    found = applicable(records)
    assert {"accuracy", "cross_entropy_at_best_temperature"} & set(found) == {"accuracy"}
    assert not {"auc", "average_precision", "kappa", "weighted_kappa", "mcc", "f1_macro"} & set(found)


def test_a_cloze_may_have_several_right_choices(make):
    made = make(CLOZE, [{**ROW, "label": "0,2", "question": "@gap fell", "choice": ["Ada Birch", "Ida", "Birch"]}])
    records = made.type.predict(torch.tensor([[0.0, 0.0, 3.0]]), made.batch())
    assert records[0]["prediction"] == "Birch" and records[0]["label"] == ["Ada Birch", "Birch"]
    assert compute(["span_f1", "exact_match"], records) == {"span_f1": 1.0, "exact_match": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "2"}, "label: '2' is not the number of one of the 2 choices. Give 0 to 1."),
        ({"label": "She slipped."}, "label: 'She slipped.' is not the number of one of the 2 choices."),
        ({"label": "0,1"}, "label: 2 correct choices; expected one. Mark one of them."),
        ({"choice": []}, "choice: no candidates."),
    ],
)
def test_bad_rows_are_refused(make, changes, message):
    task_type = make(COPA, [ROW]).type
    with pytest.raises(RowError) as caught:
        task_type.read({**ROW, **changes})
    assert str(caught.value).startswith(message)


def test_a_text_without_the_placeholder_is_refused(make):
    with pytest.raises(RowError, match=r"question: '@gap' is not in it. Put it where the choice belongs"):
        make(CLOZE, [ROW])


def test_options_that_do_not_go_together_are_reported():
    def faults(**changes):
        return [each.key for each in MultipleChoice.faults(task_def_from("task", {**COPA, **changes}))]

    assert faults() == []
    assert faults(several=True) == ["task.several"]
    assert faults(several=True, metrics=["span_f1"]) == faults(metrics=["accuracy"]) == []
    assert faults(metrics=["span_f1"]) == ["task.metrics"]
    assert faults(placeholder="@gap", inputs=["text", "choice"]) == ["task.placeholder"]
    assert faults(labels=["a", "b"]) == ["task.labels"]
    assert faults(group_by="premise") == ["task.group_by", "task.group_by"][: len(faults(group_by="premise"))]
