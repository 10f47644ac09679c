"""The agreement with annotators in the report of a study: which rows, which runs, and what counts as one of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mtdnn.report.of_study import _by_heading
from mtdnn.report.sections import Agreements, _agreements
from mtdnn.report.study_view import read_study, representatives, which_runs

LABELS = ["a", "b"]
TASKS = (
    "t:\n  task_type: classification\n  inputs: [text]\n  labels: [a, b]\n  splits: {{train: train, dev: [{splits}]}}\n"
)


def study_of(
    folder: Path, cells: Sequence[tuple[dict[str, str], dict[str, list[str]]]], report: dict[str, Any]
) -> Path:
    """A study of finished cells: axes, and split → predictions of its rows, whose labels are all "a"."""
    lines = [",".join(["stage", *cells[0][0], "outcome,task,split,train_rows,metric,value,run,direction,percent"])]
    plan: list[dict[str, Any]] = []
    for number, (axes, splits) in enumerate(cells):
        run = folder / "cells" / "s" / str(number) / "run"
        (run / "predictions").mkdir(parents=True)
        (run / "tasks.yml").write_text(TASKS.format(splits=", ".join(splits)))
        plan.append({"name": f"s/{number}", "stage": "s", "axes": axes, "needs": []})
        for split, predicted in splits.items():
            prefix = "r" if split == "dev" else split
            rows = [{"id": f"{prefix}{n}", "label": "a", "prediction": each, "scores": {"a": 0.6, "b": 0.4}}
                    for n, each in enumerate(predicted)]  # fmt: skip
            (run / "predictions" / f"t.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            right = predicted.count("a") / len(predicted)
            lines.append(
                f"s,{','.join(axes.values())},finished,t,{split},9,accuracy,{right},{run.relative_to(folder)},maximize,True"
            )
    (folder / "study.json").write_text(json.dumps({"study": {"report": report}, "axes": [*cells[0][0]], "cells": plan}))
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return folder


def found_in(folder: Path, votes: dict[str, list[str]]) -> dict[str, dict[str, Agreements]]:
    """Heading → label → what is shown of the only pattern."""
    records, labels = _by_heading(read_study(folder))
    assert all([*labels[heading]] == LABELS for heading in records)
    return {
        heading: {label: next(iter(_agreements(units, votes, LABELS).values())) for label, units in of_labels.items()
                  if _agreements(units, votes, LABELS)}
        for heading, of_labels in records.items()
    }  # fmt: skip


VOTES = {f"r{n}": ["a", "a"] for n in range(4)}


def test_the_units_of_nested_repeats_are_those_of_the_other_tables(tmp_path: Path) -> None:
    cells = [
        ({"method": "plain", "upstream": u, "draw": d}, {"dev": ["a"] * n + ["b"] * (4 - n)})
        for u, rights in (("1", (4, 2, 3)), ("2", (1, 2, 0)))
        for d, n in zip("123", rights, strict=True)
    ]
    folder = study_of(tmp_path, cells, {"compare": "method", "repeats": ["upstream", "draw"]})
    accuracy = found_in(folder, VOTES)["t"]["plain"].accuracy
    assert (accuracy.count, accuracy.mean) == (2, pytest.approx(50))
    assert accuracy.std == pytest.approx(50 / 2**0.5)  # of 75 and 25


def test_runs_that_differ_in_another_axis_are_not_one(tmp_path: Path) -> None:
    cells = [
        ({"method": "smart", "weight": weight, "seed": "1"}, {"dev": predicted})
        for weight, predicted in (("1", ["a"] * 4), ("3", ["b"] * 4))
    ]
    found = found_in(study_of(tmp_path, cells, {"compare": "method"}), VOTES)["t"]
    assert {label: each.accuracy.mean for label, each in found.items()} == {
        "smart, weight 1": pytest.approx(100), "smart, weight 3": pytest.approx(0),
    }  # fmt: skip


def test_votes_belong_to_the_rows_of_one_split_where_splits_have_the_same_ids(tmp_path: Path) -> None:
    """Ids of the second split were looked up, too: half of the answers were counted as wrong."""
    for name, other, headings in (("same", "r", ["t, dev", "t, r"]), ("others", "x", ["t"])):
        folder = tmp_path / name
        folder.mkdir()
        cells = [({"method": "plain", "seed": "1"}, {"dev": ["a"] * 4, other: ["b"] * 4})]
        found = found_in(study_of(folder, cells, {"compare": "method"}), VOTES)
        assert list(found) == headings
        assert found[headings[0]]["plain"].accuracy.mean == pytest.approx(100)


def test_a_method_without_the_last_column_is_shown_at_its_own_last(tmp_path: Path) -> None:
    """It was left out, and the reason given was that no row had votes."""
    cells = [
        ({"method": method, "fraction": fraction, "seed": "1"}, {"dev": ["a"] * 4})
        for method, fractions in (("plain", ("0.01", "0.1")), ("smart", ("0.01",)))
        for fraction in fractions
    ]
    view = read_study(study_of(tmp_path, cells, {"compare": "method", "across": "fraction"}))
    assert list(found_in(tmp_path, VOTES)["t"]) == ["plain", "smart"]
    assert {label: path.parent.name for (_, label), path in representatives(view).items()} == {
        "plain": "1",
        "smart": "2",
    }
    assert which_runs(view) == "first run of each at the last fraction it has"
