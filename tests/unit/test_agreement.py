"""Results by the annotators' agreement, against numbers worked by hand."""

import math
from pathlib import Path

import pytest

from mtdnn.agreement import by_agreement, pattern, read_annotators
from mtdnn.errors import DataError

LABELS = ("contradiction", "neutral", "entailment")


def record(row_id: str, prediction: str, **scores: float) -> dict:
    return {"id": row_id, "prediction": prediction, "label": None, "scores": scores}


def test_rows_are_grouped_by_votes_from_full_agreement_to_none() -> None:
    neutral, entailment, contradiction = ["neutral"], ["entailment"], ["contradiction"]
    votes = {"a": neutral * 5, "b": neutral * 4 + entailment, "c": neutral * 2 + entailment * 2 + contradiction}
    even = {"contradiction": 1 / 3, "neutral": 1 / 3, "entailment": 1 / 3}
    found = by_agreement([record(row_id, "neutral", **even) for row_id in votes], votes, labels=LABELS)
    assert [(entry.pattern, entry.count) for entry in found] == [("5/0/0", 1), ("4/1/0", 1), ("2/2/1", 1)]
    # An even distribution has cross-entropy ln 3 to any votes
    assert [entry.cross_entropy for entry in found] == [pytest.approx(math.log(3))] * 3
    assert found[0].entropy == pytest.approx(0.0)
    assert found[1].entropy == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))


def test_any_of_the_most_frequent_labels_is_right() -> None:
    votes = {name: ["neutral", "neutral", "entailment", "entailment", "contradiction"] for name in "abc"}
    records = [record("a", "neutral"), record("b", "entailment"), record("c", "contradiction")]
    (found,) = by_agreement(records, votes, labels=LABELS)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.cross_entropy is None


def test_rows_without_five_votes_or_with_other_labels_are_left_out() -> None:
    votes = {"a": ["neutral"] * 4, "b": ["neutral"] * 4 + ["maybe"]}
    records = [record("a", "neutral"), record("b", "neutral"), record("c", "neutral")]
    assert by_agreement(records, votes, labels=LABELS) == []


def test_patterns_name_labels_nobody_voted_for() -> None:
    assert pattern({"x": 3, "y": 2}, 3) == "3/2/0"


def test_annotators_are_read_and_faults_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "annotators.tsv"
    path.write_text("a\tx,y,x\r\nb\tx\n\n", encoding="utf-8")
    assert read_annotators(path) == {"a": ["x", "y", "x"], "b": ["x"]}
    path.write_text("a\tx,,x\n\tx\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_annotators(path)
    assert [fault.split(": ")[0] for fault in caught.value.faults] == [f"{path}:1", f"{path}:2"]
