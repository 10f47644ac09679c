"""Results by the annotators' agreement, against numbers worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from mtdnn.errors import DataError
from mtdnn.metrics.probabilities import best_temperature
from mtdnn.report.agreement import by_agreement, pattern, read_annotators
from mtdnn.report.document import Table
from mtdnn.report.sections import agreement_section

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
    assert found[0].entropy == pytest.approx(0.0, abs=1e-9)
    assert found[1].entropy == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))


def test_any_of_the_most_frequent_labels_is_right() -> None:
    votes = {name: ["neutral", "neutral", "entailment", "entailment", "contradiction"] for name in "abc"}
    records = [record("a", "neutral"), record("b", "entailment"), record("c", "contradiction")]
    (found,) = by_agreement(records, votes, labels=LABELS)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.cross_entropy is None and found.tempered is None and found.temperature is None


def test_a_model_that_is_only_less_sure_is_no_nearer_at_the_best_temperature() -> None:
    generator = np.random.default_rng(0)
    votes = {str(number): generator.choice(LABELS, 5, p=(0.6, 0.3, 0.1)).tolist() for number in range(200)}
    sure, unsure = [], []
    for row_id, given in votes.items():
        logits = np.array([given.count(label) for label in LABELS]) + generator.normal(size=3)
        for records, temperature in ((sure, 0.5), (unsure, 4.0)):
            shares = softmax(logits / temperature).tolist()
            records.append(record(row_id, "neutral", **dict(zip(LABELS, shares, strict=True))))
    first, second = (by_agreement(records, votes, labels=LABELS) for records in (sure, unsure))
    assert first[0].temperature / second[0].temperature == pytest.approx(4.0 / 0.5, rel=1e-3)
    for one, other in zip(first, second, strict=True):
        assert one.cross_entropy != pytest.approx(other.cross_entropy, rel=0.1)
        assert one.tempered == pytest.approx(other.tempered, rel=1e-3)


def test_the_best_temperature_is_that_of_logits_scaled_by_it() -> None:
    shares = np.random.default_rng(1).dirichlet((1, 1, 1), size=50)
    sharpened = shares**3 / (shares**3).sum(axis=1, keepdims=True)
    assert best_temperature(sharpened, shares) == pytest.approx(3.0, rel=1e-3)
    assert best_temperature(shares, shares) == pytest.approx(1.0, rel=1e-3)


def test_rows_without_five_votes_or_with_other_labels_are_left_out() -> None:
    votes = {"a": ["neutral"] * 4, "b": ["neutral"] * 4 + ["maybe"]}
    records = [record("a", "neutral"), record("b", "neutral"), record("c", "neutral")]
    assert by_agreement(records, votes, labels=LABELS, votes=5) == []


def test_patterns_name_labels_nobody_voted_for() -> None:
    assert pattern({"x": 3, "y": 2}, 3) == "3/2/0"


def test_a_file_of_annotators_that_cannot_be_read_is_reported_in_words(tmp_path: Path) -> None:
    path = tmp_path / "annotators.tsv"
    with pytest.raises(DataError, match=rf"^{path}: cannot be read: No such file or directory\. Give lines of"):
        read_annotators(path)
    path.write_bytes(b"a\tx\xff")
    with pytest.raises(DataError, match=rf"^{path}: not UTF-8 \(byte 3\)\. Give lines of"):
        read_annotators(path)


def test_annotators_are_read_and_faults_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "annotators.tsv"
    path.write_text("a\tx,y,x\r\nb\tx\n\n", encoding="utf-8")
    assert read_annotators(path) == {"a": ["x", "y", "x"], "b": ["x"]}
    path.write_text("a\tx,,x\n\tx\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_annotators(path)
    assert [fault.split(": ")[0] for fault in caught.value.lines] == [f"{path}:1", f"{path}:2"]


def test_a_row_with_two_lines_of_different_labels_is_reported_and_errors_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "annotators.tsv"
    path.write_text("a\tx,y\nb\tx,x\na\tx,y\n", encoding="utf-8")
    assert read_annotators(path) == {"a": ["x", "y"], "b": ["x", "x"]}
    path.write_text("a\tx,y\nb\tx,x\na\tx,x\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_annotators(path)
    found = "other labels of row 'a' than in an earlier line"
    assert str(caught.value) == f"{path}:3: {found}. Give one line for each row."
    path.write_text("a\n" * 25, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_annotators(path)
    assert len(caught.value.lines) == 21 and caught.value.lines[-1] == f"{path}: 5 more errors like these"


def test_predictions_without_probabilities_have_a_dash_for_what_needs_them() -> None:
    records = [{"id": "r", "prediction": "yes", "label": "yes"}]
    blocks = agreement_section({"nli": {"one": [[records]]}}, {"r": ["yes", "yes", "no"]}, {"nli": ["yes", "no"]})
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert [place.text for place in table.rows[0]] == ["one", "2/1", "1", "100.0", "–", "–", "–", "0.637"]
