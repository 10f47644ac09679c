"""Tables of studies refuse a folder that is no study, or another one, in one line and with status 2."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from mtdnn.metrics.base import Scale
from mtdnn.study.table import Line, to_csv
from tests.conftest import REPOSITORY

SCRIPTS = sorted(
    f"experiments.{path.parent.name}.{path.stem}"
    for name in ("table", "rates", "chosen", "domains", "subsets")
    for path in (REPOSITORY / "experiments").glob(f"*/{name}.py")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_study_and_another_study_are_refused(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, axes = tmp_path / "other", {"colour": "red"}
    other.mkdir()
    line = Line("s", axes, "finished", "rte", "dev", 9, "f1", 0.5, "cells/s/red/run", Scale("maximize", percent=True))
    (other / "results.csv").write_text(to_csv([line], ["colour"]))
    cells = [{"name": "s/red", "stage": "s", "axes": axes}]
    (other / "study.json").write_text(json.dumps({"study": {}, "axes": ["colour"], "cells": cells}))
    for folder, found in ((tmp_path / "none", "results.csv"), (other, "this table is of another study")):
        monkeypatch.setattr(sys, "argv", ["table", str(folder)])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(script).main()
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert found in message and message.count("\n") == 1


def test_every_script_of_this_kind_is_tested() -> None:
    assert len(SCRIPTS) >= 14
