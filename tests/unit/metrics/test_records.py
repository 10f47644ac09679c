"""Prediction files: what was written is read, and what is no record is reported with its line."""

from pathlib import Path

import pytest

from mtdnn.errors import DataError
from mtdnn.metrics.records import read_records, score, write_records

RECORDS = [
    {"id": "1", "prediction": "yes", "label": None, "scores": {"yes": 0.75, "no": 0.25}},
    {"id": "2\u2028", "prediction": 1.5, "label": 2.0},
]


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_records(tmp_path / "rte.dev.jsonl", RECORDS)
    assert read_records(tmp_path / "rte.dev.jsonl") == RECORDS


def test_every_line_that_is_no_record_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rte.dev.jsonl"
    path.write_text('{"id": "1"}\n\n{"id": "2", "prediction": 1, "label": 1}\n{"id": "3", "predic', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert [line.split(": ")[0] for line in caught.value.lines] == [f"{path}:1", f"{path}:4"]


def test_a_file_of_rows_gives_its_first_errors_and_the_number_of_others(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": "1", "text": "A kite."}\n' * 5000, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        score(path)
    assert len(caught.value.lines) == 21
    assert caught.value.lines[-1] == f"{path}: 4980 more errors like these"


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ('"prediction": ["a"], "label": {"a": "much"}', "label: 'much' for 'a' is not a number. Give a number."),
        ('"prediction": [["a"]], "label": {"a": 1}', "prediction: ['a'] is not a candidate name. Give names only."),
        (
            '"prediction": "a", "label": "a", "scores": {"a": null}',
            "scores: None for 'a' is not a number. Give a number.",
        ),
        (
            '"prediction": [], "label": [], "scores": {"nll": "x", "tokens": 1}',
            "scores: 'x' for 'nll' is not a number.",
        ),
        (
            '"prediction": "a", "label": "b", "scores": "a"',
            "scores: 'a' is not a mapping of names to numbers. Give one",
        ),
        (f'"prediction": "a", "label": "b", "scores": {{"a": {10**400}}}', "scores: 1000"),
        ('"prediction": "a", "label": "b", "scores": {"a": NaN}', "scores: nan for 'a' is not finite. Give a number."),
        ('"prediction": ["a"], "label": {"a": Infinity}', "label: inf for 'a' is not finite. Give a number."),
        ('"prediction": {"a": 1}, "label": 2.5', "prediction: {'a': 1}, where the label is a number. Give a number."),
        ('"prediction": ["a"], "label": "a"', "prediction: ['a'], where the label is a text. Give a text."),
        ('"prediction": null, "label": "a"', "prediction: None, where the label is a text. Give a text."),
        (f'"prediction": 1, "label": {10**400}', "label: 1000"),
        (f'"prediction": "a", "label": {"[" * 100_000}', "not a prediction record."),
        (f'"prediction": "a", "label": {"9" * 10_000}', "not a prediction record."),
    ],
)
def test_scores_and_relevances_are_numbers(tmp_path: Path, line: str, reported: str) -> None:
    path = tmp_path / "rte.dev.jsonl"
    path.write_text(f'{{"id": "1", "prediction": "a", "label": "a"}}\n{{"id": "2", {line}}}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        score(path)
    assert str(caught.value).startswith(f"{path}:2: {reported}")
    assert len(str(caught.value)) < 500


def test_whole_numbers_of_more_than_64_bits_are_numbers() -> None:
    """Expected by hand: of 1, 2, 3·2⁷⁰ and itself; each difference is 0."""
    values = [1, 2, 3 * 2**70]
    records = [{"id": str(value), "prediction": value, "label": value} for value in values]
    found = score(records, metrics=["pearson", "spearman", "mse", "mae"])
    assert found == pytest.approx({"pearson": 1.0, "spearman": 1.0, "mse": 0.0, "mae": 0.0, "rows": 3})
