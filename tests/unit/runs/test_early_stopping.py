"""A run that patience ends says which score did not rise, its best value, and at which step that was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mtdnn
from mtdnn.errors import ConfigError
from mtdnn.runs.folder import RunFolder
from tests.conftest import Demo


def test_what_needs_measuring_is_refused_where_nothing_is_measured(demo: Demo, tmp_path: Path) -> None:
    values = {"train": ["demo_nli"], "evaluate_every": "never", "early_stopping": {"patience": 2}}
    with pytest.raises(ConfigError, match=r"early_stopping: nothing is measured on dev, as evaluate_every is never"):
        mtdnn.train(**demo.run_values(tmp_path / "run", **values), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ({"train": ["demo_nli"]}, "dev accuracy of demo_nli"),
        (
            {"train": ["demo_nli", "demo_similarity"]},
            "the mean of dev accuracy of demo_nli and pearson of demo_similarity",
        ),
        ({"train": ["demo_nli", "demo_similarity"], "select_by": "demo_similarity"}, "dev pearson of demo_similarity"),
    ],
)
def test_the_score_that_did_not_rise_is_named(
    demo: Demo, tmp_path: Path, caplog: pytest.LogCaptureFixture, values: dict[str, Any], score: str
) -> None:
    caplog.set_level("INFO", logger="mtdnn")
    stopping = {"max_steps": 6, "evaluate_every": 1, "early_stopping": {"patience": 2, "min_delta": 2.0}}
    mtdnn.train(**demo.run_values(tmp_path / "run", **values, **stopping), progress=False)
    (line,) = [each for each in caplog.messages if each.startswith("stopped")]
    assert line.startswith(f"stopped after step 3 of 6: {score} has not risen by more than 2 in the last 2 evaluations")
    best = RunFolder(tmp_path / "run").checkpoint("best")
    assert f", at step {mtdnn.open_run(tmp_path / 'run').step}" in line and best.is_dir()
