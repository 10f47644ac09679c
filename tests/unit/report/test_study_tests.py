"""What a study's report tests: words that follow the corrected p, nested runs, changes, pooled estimates."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from mtdnn.metrics.base import METRICS, Scales
from mtdnn.report import study_tests
from mtdnn.report.document import Document, Table, Text, to_markdown
from mtdnn.report.study_tests import over_rows, shared_starts, verdict
from mtdnn.report.study_view import StudyView
from mtdnn.study.statistics import compared, entries
from mtdnn.study.table import Line

ACCURACY = METRICS.get("accuracy").scale
LOSS = METRICS.get("cross_entropy").scale


def line(value: float, *, metric: str = "accuracy", task: str = "nli", name: str = "x", **axes: str) -> Line:
    run = f"cells/fine_tune/{name}/run"
    return Line("fine_tune", axes, "finished", task, "dev", 100, metric, value, run, Scales()[metric])


def view_of(
    lines: list[Line],
    folder: Path = Path("study"),
    *,
    across: str | None = None,
    repeats: Sequence[str] = ("seed",),
    cells: Sequence[dict[str, Any]] = (),
) -> StudyView:
    table = entries(lines, compare="method", reference="plain", across=across, repeats=repeats)
    return StudyView(
        folder,
        lines,
        lines,
        table,
        list(cells),
        "method",
        "plain",
        across,
        tuple(repeats),
        False,  # type: ignore[arg-type]
    )


def study(differences: dict[str, list[float]], **axes: str) -> list[Line]:
    """Runs of plain at 0.5, 0.6, …, and of methods that differ from it by so much, seed by seed."""
    plain = [0.5 + 0.1 * (seed % 3) for seed in range(max(map(len, differences.values())))]
    lines = [line(value, method="plain", seed=str(seed), **axes) for seed, value in enumerate(plain)]
    return lines + [
        line(plain[seed] + gain, method=method, seed=str(seed), **axes)
        for method, gains in differences.items()
        for seed, gain in enumerate(gains)
    ]


def table_after(blocks: Sequence[Any], heading: str) -> list[list[str]]:
    """Texts of the table below a heading."""
    place = next(n for n, block in enumerate(blocks) if getattr(block, "text", "").startswith(heading))
    table = next(block for block in blocks[place:] if isinstance(block, Table))
    return [[cell.text for cell in cells] for cells in table.rows]


def words(differences: Sequence[float], corrected: float | None, scale: Any = ACCURACY) -> str:
    values = {str(n): value for n, value in enumerate(differences)}
    margin = 0.01 if scale.percent else None
    found = compared(values, dict.fromkeys(values, 0.0), margin=margin)
    assert found is not None
    return verdict(found, scale, corrected=corrected, margin=0.01)


def test_ahead_and_behind_need_a_corrected_p_below_five_percent() -> None:
    far = [0.03, 0.05, 0.04, 0.06]
    assert words(far, 0.01) == "ahead" and words([-each for each in far], 0.01) == "behind"
    assert words(far, 0.06).startswith("open")
    assert words(far, 0.01, LOSS) == "behind"  # a larger loss is worse
    assert words([0.001, 0.002, 0.0015, 0.0012], 0.01) == "ahead, within 1"


def test_no_effect_is_a_result_only_where_one_point_is_excluded() -> None:
    assert words([0.001, -0.001, 0.002, -0.002], 0.9) == "equal within 1"
    wide = [0.02, -0.02, 0.01, -0.01]  # deviation 1.826 points: 29 pairs for one point, see test_inference
    assert words(wide, 0.9) == "open: 29 pairs"
    assert words([0.02], None) == "open"
    more = [0.008 + each for each in wide] * 8  # 32 pairs, and p is not small after its correction
    assert words(more, 0.06) == "open"
    assert words(wide, 0.9, LOSS) == "open"


def test_without_spread_no_number_of_pairs_is_planned() -> None:
    assert words([0.05, 0.05, 0.05], None) == "open"


def test_p_is_corrected_over_all_lines_of_the_table() -> None:
    gains = {"a": [0.02, 0.03, 0.01, 0.025], "b": [0.01, -0.02, 0.005, 0.01], "c": [-0.01, 0.03, 0.0, 0.01]}
    rows = table_after(study_tests.tests_against_reference(view_of(study(gains))), "Difference to plain, per task")
    raw = [stats.ttest_1samp(values, 0).pvalue for values in gains.values()]
    assert [row[5] for row in rows] == [f"{p:.3f}" for p in raw]
    assert [row[6] for row in rows] == [f"{p:.3f}" for p in stats.false_discovery_control(raw)]
    assert raw[0] < 0.05 and [row[-1].split(":")[0] for row in rows] == ["ahead", "open", "open"]


def test_a_difference_that_changes_with_the_column_is_tested_unit_by_unit() -> None:
    clean, noisy = [0.001, 0.004, -0.002, 0.001], [0.021, 0.026, 0.016, 0.023]
    lines = study({"SMART": clean}, noise="0") + study({"SMART": noisy}, noise="0.3")
    blocks = study_tests.tests_against_reference(view_of(lines, across="noise"))
    (row,) = table_after(blocks, "Does the difference depend on noise?")
    changes = [b - a for a, b in zip(clean, noisy, strict=True)]
    assert row[:4] == ["nli", "SMART", "noise 0.3 minus 0", "+2.1"]
    assert row[6] == "< 0.001" and stats.ttest_1samp(changes, 0).pvalue < 0.001


def test_the_mean_over_tasks_is_that_of_each_units_differences() -> None:
    first = study({"SMART": [0.02, 0.00, 0.01]})
    second = [Line(**{**each.__dict__, "task": "other"}) for each in study({"SMART": [0.00, 0.02, 0.03]})]
    (row,) = table_after(study_tests.tests_against_reference(view_of([*first, *second])), "Mean over the tasks")
    assert row[:2] == ["SMART", "+1.3"] and row[3] == "3"  # 1, 1 and 2 points
    assert row[4] == f"{stats.ttest_1samp([0.01, 0.01, 0.02], 0).pvalue:.3f}"
    assert not [
        b
        for b in study_tests.tests_against_reference(view_of(first))
        if getattr(b, "text", "") == "Mean over the tasks"
    ]


def test_a_task_of_which_a_method_has_lost_every_run_is_named_beside_its_mean() -> None:
    tasks = {name: study({"SMART": [0.02, 0.00, 0.01]}) for name in ("nli", "other", "third")}
    lines = [Line(**{**each.__dict__, "task": name}) for name, found in tasks.items() for each in found]
    lost = {"outcome": "diverged", "split": "", "metric": "", "value": None}
    lines = [
        Line(**{**each.__dict__, **lost}) if (each.task, each.axes["method"]) == ("third", "SMART") else each
        for each in lines
    ]
    (row,) = table_after(study_tests.tests_against_reference(view_of(lines)), "Mean over the tasks")
    assert row[:2] == ["SMART (without third)", "+1.0"]


def test_repeats_that_start_from_one_run_are_warned_of() -> None:
    lines = [line(0.5 + n / 100, method=m, seed=str(n), name=f"{m}{n}") for m in ("plain", "mt") for n in range(3)]
    start = [{"name": f"fine_tune/mt{n}", "needs": ["multi_task/1"]} for n in range(3)]
    (warning,) = shared_starts(view_of(lines, cells=start))
    assert isinstance(warning, Text)
    assert "start from the same run of an earlier stage: mt (3 from one run, 1 such runs)" in warning.text
    own = [{"name": f"fine_tune/mt{n}", "needs": [f"multi_task/{n}"]} for n in range(3)]
    assert shared_starts(view_of(lines, cells=own)) == []
    assert shared_starts(view_of(lines, cells=[{"name": f"fine_tune/mt{n}"} for n in range(3)])) == []


def test_nested_runs_of_one_start_are_one_unit_and_no_warning() -> None:
    lines, cells = [], []
    for method in ("plain", "mt"):
        for upstream in "12":
            for seed in "345":
                name = f"{method}{upstream}{seed}"
                value = 0.5 + int(upstream) / 50 + int(seed) / 100 + 0.02 * (method == "mt") * int(upstream)
                lines.append(line(value, method=method, upstream=upstream, seed=seed, name=name))
                if method == "mt":
                    cells.append({"name": f"fine_tune/{name}", "needs": [f"multi_task/{upstream}"]})
    view = view_of(lines, repeats=("upstream", "seed"), cells=cells)
    assert shared_starts(view) == []
    (row,) = table_after(study_tests.tests_against_reference(view), "Difference to plain, per task")
    assert row[1:3] == ["mt", "+3.0"] and row[4] == "2"  # two multi-task runs, six fine-tunings


@pytest.fixture
def predicted(tmp_path: Path) -> StudyView:
    """Two methods, three seeds, twenty rows: SMART is right on three rows more in each seed."""
    lines = []
    for method, right in (("plain", 10), ("SMART", 13)):
        for seed in range(3):
            name = f"{method}{seed}"
            folder = tmp_path / "cells/fine_tune" / name / "run/predictions"
            folder.mkdir(parents=True)
            records = [
                {"id": str(n), "prediction": "yes" if n < right + seed else "no", "label": "yes", "scores": {}}
                for n in range(20)
            ]
            (folder / "nli.dev.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
            lines.append(line((right + seed) / 20, method=method, seed=str(seed), name=name))
    return view_of(lines, tmp_path)


def test_rows_are_a_second_source_of_chance(predicted: StudyView) -> None:
    (row,) = table_after(over_rows(predicted), "Over runs and rows")
    assert row[:3] == ["nli", "SMART", "+15.0"] and row[4:6] == ["3", "20"]
    low, high = (float(part.replace("−", "-")) for part in row[3].split(" … "))
    # Of twenty rows three or four differ: one standard deviation of their share is 8 points
    assert -2 <= low < 5 and 27 < high <= 36
    assert row[6] == "0 of 3"  # three rows won, none lost: p 0.25
    text = to_markdown(_document(study_tests.tests_against_reference(predicted)), pictures="")
    assert "## Over runs and rows" in text


def test_an_empty_file_of_predictions_leaves_no_row_to_draw(predicted: StudyView, tmp_path: Path) -> None:
    (tmp_path / "cells/fine_tune/SMART1/run/predictions/nli.dev.jsonl").write_text("")
    assert over_rows(predicted) == []


def _document(blocks: Sequence[Any]) -> Any:
    from mtdnn.report.document import Document

    document = Document("study")
    document.add(*blocks)
    return document


def test_methods_without_a_finished_run_of_the_reference_are_named() -> None:
    """Of one task the reference has no run yet, of the other it has those of other seeds."""
    tested = study({"SMART": [0.01, 0.02, 0.03]}, task="rte")
    alone = [line(0.5, task="mrpc", method="SMART", seed="0")]
    apart = [line(0.5, task="cola", method=method, seed=seed) for method, seed in (("plain", "1"), ("SMART", "2"))]
    named = "Not compared, as plain has no finished run of the same task and `seed`: "
    blocks = study_tests.tests_against_reference(view_of([*tested, *alone, *apart]))
    assert [each.text for each in blocks if isinstance(each, Text) and each.text.startswith("Not compared")] == [
        f"{named}`mrpc` SMART, `cola` SMART."
    ]
    heading, text = study_tests.tests_against_reference(view_of(alone))
    assert heading.text == "Difference to plain, per task" and text.text == f"{named}`mrpc` SMART."
    assert named not in to_markdown_of(study_tests.tests_against_reference(view_of(tested)))


def to_markdown_of(blocks: Sequence[Any]) -> str:
    document = Document("A study")
    document.add(*blocks)
    return to_markdown(document, pictures="")
