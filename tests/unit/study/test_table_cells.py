"""results.csv: texts that a spreadsheet would compute are kept from it, and read back as they were."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.errors import DataError
from mtdnn.metrics.base import Scale
from mtdnn.study.table import Line, read_csv, to_csv

FORMULAS = ["=HYPERLINK(A1)", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "-inf", "'=1"]


def line_of(value: str, **parts: str) -> Line:
    texts = {"stage": "one", "task": "nli", "split": "dev", "metric": "accuracy", "run": "cells/a/run", **parts}
    return Line(axes={"method": value}, outcome="finished", train_rows=8, value=-0.5, scale=Scale(), **texts)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_spreadsheets_compute_gets_a_quote_before_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.csv"
    lines = [line_of(text), line_of("plain", split=text, metric=text)]
    path.write_text(to_csv(lines, ["method"]), encoding="utf-8", newline="")
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for record in csv.reader(file) for cell in record]
    assert [cell for cell in cells if cell[:1] and cell[0] in "=+-@\t\r"] == ["-0.5", "-0.5"], "numbers stay numbers"
    assert read_csv(path) == lines


@pytest.mark.parametrize("number", ["-1", "+0.5", "-1e-05"])
def test_an_axis_of_numbers_stays_one(number: str) -> None:
    assert f",{number}," in to_csv([line_of(number)], ["method"])


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "\0" not in text))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "results.csv"
    path.write_bytes(to_csv([line_of(text)], ["method"]).encode("utf-8"))
    assert read_csv(path) == [line_of(text)]


@pytest.mark.parametrize("text", ["", "'", "''"])
def test_an_empty_value_differs_from_a_stage_without_the_axis(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.csv"
    lines = [line_of(text), replace(line_of(text), axes={}), replace(line_of(text), axes={"": text})]
    path.write_text(to_csv(lines, ["method", ""]), encoding="utf-8", newline="")
    assert read_csv(path) == lines


@pytest.mark.parametrize("run", ["../../elsewhere/run", "/etc", "cells/../../run"])
def test_a_run_outside_of_the_study_is_refused(tmp_path: Path, run: str) -> None:
    (tmp_path / "results.csv").write_text(to_csv([line_of("a", run=run)], ["method"]), encoding="utf-8")
    with pytest.raises(DataError, match="is no run within this study"):
        read_csv(tmp_path / "results.csv")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"\xff\xfe" + content, "results.csv: damaged: 'utf-8' codec"),
        (lambda content: content.replace(b"dev", b'"dev', 1), "results.csv:2: damaged: its cells are not those of"),
        (lambda content: content.replace(b",8,", b",eight,"), "results.csv: damaged: invalid literal for int"),
        (lambda content: content.replace(b",-0.5,", b",nan,"), "damaged: the value 'nan' of accuracy is"),
        (lambda content: content.replace(b",-0.5,", b",1e999,"), "damaged: the value '1e999' of accuracy is"),
        (lambda content: content.replace(b",-0.5,", b",,"), "damaged: a metric without a value"),
        (lambda content: content.replace(b",accuracy,", b",,"), "damaged: a metric without a value"),
        (lambda content: content.replace(b",False", b",wahr"), "damaged: percent is 'wahr', neither True nor"),
        (lambda content: content + b"one,two\n", "results.csv:3: damaged: its cells are not those of the header. Run"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(damage(to_csv([line_of("a")], ["method"]).encode()))
    with pytest.raises(DataError, match=re.escape(message)):
        read_csv(path)


def test_a_table_that_a_spreadsheet_has_written_again_has_the_same_scales(tmp_path: Path) -> None:
    """It writes a mark before the header, and TRUE: values were shown as if the metric were none in percent."""
    path, line = tmp_path / "results.csv", replace(line_of("a"), value=0.5, scale=Scale("maximize", percent=True))
    path.write_text(to_csv([line], ["method"]).replace(",True\n", ",TRUE\n"), encoding="utf-8-sig", newline="")
    assert read_csv(path) == [line]
