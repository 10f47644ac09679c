"""The report's tables of conflicts and affinities, and its picture of weights, from a log written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtdnn.errors import DataError
from mtdnn.report.balance import balance_section
from mtdnn.report.document import Heading, Picture, Table

LINES = [
    {"step": 1, "train": {"a": {"task": 1.0, "balance.weight": 0.5}, "b": {"task": 2.0, "balance.weight": 1.5}}},
    {"step": 1, "conflicts": {"tasks": ["a", "b"], "cosine": [[1.0, -0.5], [-0.5, 1.0]], "norm": [1.0, 2.0]}},
    {"step": 2, "conflicts": {"tasks": ["a", "b"], "cosine": [[1.0, 0.1], [0.1, 1.0]], "norm": [1.0, 2.0]}},
    {"step": 2, "conflicts": {"tasks": ["b", "c"], "cosine": [[1.0, 0.3], [0.3, 1.0]], "norm": [1.0, 2.0]}},
    {"step": 3, "conflicts": {"tasks": ["b", "c"], "cosine": [[1.0, -0.304], [-0.304, 1.0]], "norm": [1.0, 2.0]}},
    {"step": 3, "affinity": {"a": {"a": 0.02, "b": -0.01}, "b": {"a": 0.004, "b": 0.03}}},
    {"step": 3, "train": {"a": {"task": 1.0, "balance.weight": 0.6}, "b": {"task": 2.0, "balance.weight": 1.4}}},
]


def test_conflicts_affinities_and_weights_are_shown(tmp_path: Path) -> None:
    """Mean of −0.5 and 0.1 is −0.2, one of two below 0; of 0.3 and −0.304 it is no −0.00;
    a pair never seen together has a dash."""
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    blocks = balance_section(tmp_path)
    headings = [block.text for block in blocks if isinstance(block, Heading)]
    assert headings == ["Conflicts between tasks", "Affinities between tasks", "Weights of the tasks"]
    conflicts, affinities = (block for block in blocks if isinstance(block, Table))
    assert [[place.text for place in line] for line in conflicts.rows] == [
        ["a", "–", "−0.20 (50)", "–"],
        ["b", "−0.20 (50)", "–", "0.00 (50)"],
        ["c", "–", "0.00 (50)", "–"],
    ]
    assert [place.heat for place in conflicts.rows[1]] == [None, 0.5, None, 0.5]
    assert [place.text for place in affinities.rows[0]] == ["a", "+2", "−1", "–"]
    assert [place.trend for place in affinities.rows[0]] == ["", "", "down", ""]
    (picture,) = (block for block in blocks if isinstance(block, Picture))
    assert picture.svg.startswith("<svg") or "<svg" in picture.svg


@pytest.mark.parametrize(
    ("value", "shown"), [(1.234, "+120"), (-0.0004, "−0.04"), (0.0, "+0"), (0.0567, "+5.7"), (-12.0, "−1200")]
)
def test_affinities_have_two_digits_and_no_power_of_ten(tmp_path: Path, value: float, shown: str) -> None:
    found = {"a": {"a": 0.02, "b": value}, "b": {"a": 0.0, "b": 0.0}}
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 3, "affinity": found}) + "\n")
    (table,) = (block for block in balance_section(tmp_path) if isinstance(block, Table))
    assert table.rows[0][2].text == shown


def test_a_run_that_logged_none_of_it_has_no_such_section(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "train": {"a": {"task": 1.0}}}) + "\n")
    assert balance_section(tmp_path) == []


def test_a_matrix_of_another_size_is_refused_with_its_line(tmp_path: Path) -> None:
    conflicts = {"tasks": ["a", "b"], "cosine": [[1.0, 0.5]]}
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "conflicts": conflicts}) + "\n")
    message = r"log.jsonl:1: conflicts: damaged: expected a matrix of 2 by 2 numbers, as there are 2 tasks. Remove"
    with pytest.raises(DataError, match=message):
        balance_section(tmp_path)
