"""results.csv: what is written is read back, and so is what earlier versions wrote."""

from pathlib import Path

import pytest

from mtdnn.metrics.base import RATE, UNBOUNDED, Scale, Scales
from mtdnn.study.table import Line, lines_of, read_csv, to_csv

BLEU = Scale("maximize", (0.0, 100.0))


@pytest.fixture
def lines() -> list[Line]:
    results = {
        "nli": {"dev": {"own.bleu": 35.2, "accuracy": 0.75, "ece": 0.1, "own.odd": 3.0, "rows": 12}},
        "_metrics": {"own.bleu": BLEU.as_json(), "accuracy": Scales()["accuracy"].as_json()},
    }
    finished = lines_of("a", {"seed": "1"}, {"outcome": "finished", "results": results}, run="cells/x/run")
    diverged = lines_of("a", {"seed": "2"}, {"outcome": "diverged", "results": {}}, run="cells/y/run", lost=["nli"])
    return [*finished, *diverged]


def test_a_line_has_the_scale_that_the_results_hold_or_this_version_knows(lines: list[Line]) -> None:
    scales = {line.metric: line.scale for line in lines}
    assert scales["own.bleu"] == BLEU
    assert scales["accuracy"] == Scale("maximize", RATE, percent=True)
    assert scales["ece"] == Scale("minimize", RATE)
    assert scales["own.odd"] == scales[""] == Scale("unknown", UNBOUNDED)


def test_lines_are_read_back_with_direction_and_percent(tmp_path: Path, lines: list[Line]) -> None:
    path = tmp_path / "results.csv"
    path.write_text(to_csv(lines, ["seed"]), encoding="utf-8")
    read = read_csv(path)
    assert [(line.metric, line.value, line.axes, line.outcome) for line in read] == [
        (line.metric, line.value, line.axes, line.outcome) for line in lines
    ]
    assert [(line.scale.direction, line.scale.percent) for line in read] == [
        (line.scale.direction, line.scale.percent) for line in lines
    ]


def test_a_file_of_an_earlier_version_has_the_scales_this_one_knows(tmp_path: Path, lines: list[Line]) -> None:
    path = tmp_path / "results.csv"
    text = to_csv(lines, ["seed"])
    path.write_text("".join(line.rsplit(",", 2)[0] + "\n" for line in text.splitlines()), encoding="utf-8")
    assert path.read_text().startswith("stage,seed,outcome,task,split,train_rows,metric,value,run\n")
    scales = {line.metric: line.scale for line in read_csv(path)}
    assert scales["accuracy"] == Scale("maximize", RATE, percent=True)
    assert scales["own.bleu"] == Scale()
