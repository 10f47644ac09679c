"""What types say of their records: which tasks share rows, what is a mistake, and how it is shown."""

import pytest

from mtdnn.config.tasks import task_def_from
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.task_types.regression import Regression


class Probability(Regression):
    """A type of one's own."""


def of(name, **block):
    kind = Probability if name == "probability" else TASK_TYPES.get(name)
    return kind(task_def_from(name, {**kind.sample_block, **block}))


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("classification", "regression", True),
        ("probability", "classification", True),
        ("ranking", "multiple_choice", False),
        ("classification", "ranking", False),
        ("span", "classification", False),
        ("masked_lm", "sequence_labeling", False),
    ],
)
def test_types_that_read_the_same_rows_predict_together(first, second, together):
    assert of(first).predicts_with(of(second)) is of(second).predicts_with(of(first)) is together


def test_tasks_of_other_numbers_of_texts_do_not_predict_together():
    assert not of("classification").predicts_with(of("regression", inputs=["text"]))


def test_options_that_change_the_tokens_of_a_row_need_a_pass_of_their_own():
    assert not of("span", stride=8).encodes_like(of("span"))
    assert of("classification").encodes_like(of("regression"))


def test_a_wrong_label_is_off_by_its_probability_and_without_one_by_1():
    record = {"id": "a", "label": "neutral", "prediction": "entailment", "scores": {"entailment": 0.7, "neutral": 0.3}}
    assert of("classification").mistake(record) == 0.7
    assert of("classification").mistake({**record, "scores": None}) == 1.0
    assert of("classification").shown(["neutral", "entailment", "neutral"]) == "neutral"


def test_a_number_is_off_by_its_distance_and_several_are_shown_by_their_mean():
    record = {"id": "a", "label": 2.5, "prediction": 1.0, "scores": {}}
    assert of("regression").mistake(record) == 1.5
    assert of("regression").shown([1.0, 2.0]) == "1.50"


def test_a_choice_is_a_mistake_where_one_is_right_and_none_is_where_several_may_be():
    record = {"id": "a", "label": "She slipped.", "prediction": "The sun rose.", "scores": {"The sun rose.": 0.6}}
    assert of("multiple_choice").mistake(record) == 0.6
    several = of("multiple_choice", several=True, metrics=["span_f1"])
    assert several.mistake({**record, "label": ["She slipped."]}) is None


def test_a_check_counts_names_numbers_and_tags():
    assert of("classification").counted_labels("neutral") == ["neutral"]
    assert of("regression").counted_labels(2.5) == [2.5]
    assert of("sequence_labeling").counted_labels(["O", "B-PER"]) == ["O", "B-PER"]
    assert of("ranking").counted_labels([0.0, 1.0]) == [] == of("masked_lm").counted_labels(True)
