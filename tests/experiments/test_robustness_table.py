"""The tables of robustness: units are seeds, of each the mean over the three kinds of errors."""

from pathlib import Path

import pytest
from scipy import stats

from experiments.outcomes import study_and_picture, write_picture
from experiments.robustness.table import CHANGED, CLEAN, document_of, lost, on_changed_rows, values_of
from mtdnn.metrics.base import METRICS
from mtdnn.report.document import to_markdown
from mtdnn.study.table import Line

ACCURACY = METRICS.get("accuracy").scale
PLAIN = {"1": (0.80, 0.70, 0.72, 0.74), "2": (0.82, 0.74, 0.70, 0.78), "3": (0.78, 0.71, 0.71, 0.71)}
SMART = {"1": (0.80, 0.73, 0.72, 0.77), "2": (0.81, 0.75, 0.73, 0.79), "3": (0.80, 0.70, 0.72, 0.74)}
"""Seed → accuracy on clean rows, and with each kind of error."""


@pytest.fixture
def lines() -> list[Line]:
    return [
        Line("fine_tune", {"seed": seed, "data_set": "mrpc", "method": method}, "finished", "mrpc", split, 9,
             "accuracy", value, f"{method}{seed}", ACCURACY)
        for method, of_method in (("plain", PLAIN), ("SMART", SMART))
        for seed, found in of_method.items()
        for split, value in zip((CLEAN, *CHANGED), found, strict=True)
    ]  # fmt: skip


def test_methods_are_compared_on_the_mean_of_the_kinds_of_errors(lines: list[Line]) -> None:
    """Sums over the kinds differ by 6, 5 and 3 points: 2.0, 1.7 and 1.0 in the mean."""
    (found,) = on_changed_rows(values_of(lines))
    gains = [0.06 / 3, 0.05 / 3, 0.03 / 3]
    assert found.name == "mrpc: SMART − plain"
    assert found.comparison.difference.mean == pytest.approx(sum(gains) / 3)
    assert found.comparison.t_p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)


def test_what_errors_cost_is_counted_from_each_methods_own_clean_rows(lines: list[Line]) -> None:
    """On clean rows SMART is 0, −1 and 2 points ahead: of what errors cost it saves 2.0, 2.7 and −1.0."""
    (found,) = lost(values_of(lines))
    assert list(found.comparison.by_unit.values()) == pytest.approx([0.02, 0.05 / 3 + 0.01, 0.01 - 0.02])


def test_all_tables(lines: list[Line]) -> None:
    page = to_markdown(document_of(lines), pictures="")
    assert "| task | method | dev | dev_typos | dev_dropped | dev_swapped |" in page
    assert "| mrpc | plain | 80.0 ± 2.0 | 71.7 ± 2.1 |" in page
    assert page.count("SMART − plain") == 2


def test_the_primary_outcomes_are_drawn_with_their_intervals(lines: list[Line], tmp_path: Path) -> None:
    """A panel in percentage points, the name of each difference, and one small dot for each pair."""
    write_picture(tmp_path / "typos.svg", on_changed_rows(values_of(lines)), {"accuracy": ACCURACY})
    svg = (tmp_path / "typos.svg").read_text()
    assert ">difference in accuracy, %</text>" in svg
    assert ">mrpc: SMART − plain</text>" in svg
    assert svg.count("<use ") > 3


def test_the_command_line_names_a_study_and_a_picture() -> None:
    assert study_and_picture("A table.", ["study"]) == (Path("study"), None)
    assert study_and_picture("A table.", ["study", "--picture", "a.svg"]) == (Path("study"), Path("a.svg"))
