"""The table of the ablation reads what the runs of its shipped studies leave."""

import json
from pathlib import Path

import pytest

from experiments.smart_ablation.table import from_predictions
from mtdnn.metrics.base import Scales
from mtdnn.runs.folder import RunFolder
from mtdnn.study.table import Line


@pytest.mark.parametrize(
    ("scores", "found"), [([{"a": 0.9, "b": 0.1}, {"a": 0.4, "b": 0.6}], {"sure": 0.75}), ([{}, {}], {})]
)
def test_how_sure_a_run_is_is_asked_only_of_classes(tmp_path: Path, scores: list, found: dict) -> None:
    """full.yml has STS-B, whose answers are numbers: ValueError, after the study."""
    run = RunFolder(tmp_path)
    run.predictions.mkdir(parents=True)
    lines = [{"id": str(n), "prediction": "a", "label": "a", "scores": each} for n, each in enumerate(scores)]
    run.prediction_file("t", "dev").write_text("".join(json.dumps(line) + "\n" for line in lines))
    line = Line("s", {}, "finished", "t", "dev", 9, "accuracy", 0.5, "cells/x/run", Scales()["accuracy"])
    assert from_predictions(run, line) == pytest.approx(found)
