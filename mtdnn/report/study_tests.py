"""What a study's runs show: each method against the reference, with intervals, corrected p and a verdict in words.

The words follow the numbers: *ahead* and *behind* only where p, corrected over the table, is below 0.05; *equal* where
two one-sided tests exclude a difference of the margin; *open* otherwise, with the number of pairs that would find the
margin, where that is more than there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtdnn.metrics.base import Record, Scale
from mtdnn.metrics.records import RecordFiles
from mtdnn.report.document import Block, Heading, Place, Table, Text, row
from mtdnn.report.study_view import StudyView, in_order
from mtdnn.runs.folder import RunFolder
from mtdnn.study.inference import (
    SIGNIFICANT,
    RowInterval,
    bootstrap_over_rows,
    false_discovery,
    holm,
    mcnemar_p,
    pairs_needed,
)
from mtdnn.study.statistics import INNER, Comparison, Entry, compared, pooled_over_tasks, repeat_of

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Finding:
    """One line of a table of tests.

    Attributes:
        names: what its first columns hold.
        scale: of the metric.
        comparison: the tested difference.
    """

    names: Sequence[str]
    scale: Scale
    comparison: Comparison


def tests_against_reference(view: StudyView) -> list[Block]:
    """Each method minus the reference, per task and column: by the main metric, by the others, and over all tasks."""
    across = [view.across] if view.across else []
    main = [
        Finding([entry.task, *_column(view, entry), entry.label], entry.scale, entry.comparison)
        for entry in in_order(view)
        if entry.comparison is not None
    ]
    rest = [
        Finding(
            [entry.task, entry.split, *_column(view, entry), entry.label, entry.metric], entry.scale, entry.comparison
        )
        for entry in view.table
        if entry.comparison is not None and (entry.split, entry.metric) != view.first[entry.task]
    ]
    title, other = f"Difference to {view.reference}, per task", f"Difference to {view.reference}, other metrics"
    return [
        *_section(view, title, ["task", *across, view.compare], main, note=True),
        *_untested(view, [Heading(title)] if not main else []),
        *shared_starts(view),
        *_section(
            view, f"Does the difference depend on {view.across}?", ["task", view.compare, "change"], _changes(view)
        ),
        *_section(view, "Mean over the tasks", [*across, view.compare], _pooled(view)),
        *over_rows(view),
        *_section(view, other, ["task", "split", *across, view.compare, "metric"], rest),
    ]


def _untested(view: StudyView, heading: Sequence[Heading]) -> list[Block]:
    """Which methods have no line, because no finished run of the reference has the same task, column and repeat.

    Args:
        view: of the study.
        heading: before the text, where no table is.
    """
    found = [each for each in in_order(view) if each.values and each.comparison is None and each.label != each.against]
    if not found:
        return []
    names = ", ".join(" ".join([f"`{each.task}`", *_column(view, each), each.label]) for each in found)
    text = f"Not compared, as {view.reference} has no finished run of the same task and `{view.repeats[0]}`: {names}."
    return [*heading, Text(text, note=True)]


def _column(view: StudyView, entry: Entry) -> list[str]:
    return [entry.across] if view.across else []


def _section(
    view: StudyView, title: str, names: Sequence[str], findings: Sequence[Finding], *, note: bool = False
) -> list[Block]:
    """A table of findings; p is corrected over its lines."""
    if not findings:
        return []
    corrected = false_discovery([finding.comparison.t_p for finding in findings])
    lines = [_line(finding, p, view.margin) for finding, p in zip(findings, corrected, strict=True)]
    head = [
        *names,
        f"minus {view.reference}",
        "95 % interval",
        "pairs",
        "t-test p",
        "corrected",
        "Wilcoxon p",
        "verdict",
    ]
    words = [*range(1, len(names)), len(head) - 1]
    points = f"{100 * view.margin:g} point{'' if view.margin == 0.01 else 's'}"
    explanation = (
        "Intervals are t intervals; p is that of the paired t-test, corrected over the table by Benjamini and "
        f"Hochberg. Ahead and behind, in bold: corrected p below {SIGNIFICANT}. Equal: two one-sided t-tests exclude a "
        f"difference of {points}. Open: neither; then, if it is more than there are, the number of pairs with which a "
        f"test that is not corrected would find {points} with a chance of 80 %, at the spread found here. The t-test "
        "has no p where all differences are the same; with n pairs "
        "Wilcoxon's p cannot be below 2/2ⁿ."
    )
    return [Heading(title), Table(head, lines, words=words), *([Text(explanation, note=True)] if note else [])]


def _line(finding: Finding, corrected: float | None, margin: float) -> list[Place]:
    found, scale = finding.comparison.difference, finding.scale
    word = verdict(finding.comparison, scale, corrected=corrected, margin=margin)
    trend = {"ahead": "up", "behind": "down"}.get(word.split(",")[0], "")
    sure = corrected is not None and corrected < SIGNIFICANT and scale.direction != "unknown"
    places = row(*finding.names)
    places.append(Place(scale.difference(found.mean), strong=sure, trend=trend))
    ps = (finding.comparison.t_p, corrected, finding.comparison.wilcoxon_p)
    return [*places, *row(scale.interval(found.low, found.high), str(found.count), *map(shown_p, ps), word)]


def verdict(comparison: Comparison, scale: Scale, *, corrected: float | None, margin: float) -> str:
    """`ahead`, `behind`, `differs`, `equal within 1` or `open`, as the numbers allow.

    Args:
        comparison: the tested difference.
        scale: of the metric.
        corrected: p of the t-test, corrected over the table; None without one.
        margin: differences below count as none.
    """
    within = f"within {100 * margin:g}"
    equal = comparison.equivalence_p is not None and comparison.equivalence_p < SIGNIFICANT
    if corrected is not None and corrected < SIGNIFICANT:
        gain = scale.gain(comparison.difference.mean)
        word = "ahead" if gain > 0 else "behind" if gain < 0 else "differs"
        return f"{word}, {within}" if equal else word
    if equal:
        return f"equal {within}"
    if not comparison.difference.std or not scale.percent:  # one pair, or no spread to plan with
        return "open"
    needed = pairs_needed(comparison.difference.std, margin)
    return "open" if needed is None or needed <= comparison.difference.count else f"open: {needed} pairs"


def shown_p(value: float | None) -> str:
    """A p as tables show it; a dash where there is none."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _changes(view: StudyView) -> list[Finding]:
    """Each method's difference in a column minus its difference in the first column, unit by unit."""
    if not view.across:
        return []
    by_place = {(entry.task, entry.label, entry.across): entry for entry in view.main}
    found = []
    for entry in in_order(view):
        first = by_place.get((entry.task, entry.label, view.columns[0]))
        if entry.comparison is None or first is None or first is entry or first.comparison is None:
            continue
        margin = view.margin if entry.scale.percent else None
        change = compared(entry.comparison.by_unit, first.comparison.by_unit, margin=margin)
        if change is not None:
            names = [entry.task, entry.label, f"{view.across} {entry.across} minus {first.across}"]
            found.append(Finding(names, entry.scale, change))
    return found


def _pooled(view: StudyView) -> list[Finding]:
    """Per method and column the mean over the tasks of the differences of a unit, where there are several tasks.

    Over tasks whose metric is shown in percent, and units that all of them have: it holds for these tasks. Tasks of
    which a method has runs but no difference, as all of them diverged, are named.
    """
    places: dict[tuple[str, ...], list[Entry]] = {}
    for entry in in_order(view):
        if entry.label != entry.against and entry.scale.percent and entry.scale.direction == "maximize":
            places.setdefault((*_column(view, entry), entry.label), []).append(entry)
    found = []
    for (*column, label), group in places.items():
        compared_in = [entry.comparison for entry in group if entry.comparison is not None]
        pooled = pooled_over_tasks(compared_in, margin=view.margin)
        if len(compared_in) > 1 and pooled is not None:
            without = [entry.task for entry in group if entry.comparison is None]
            name = f"{label} (without {', '.join(without)})" if without else label
            found.append(Finding([*column, name], group[0].scale, pooled))
    return found


def shared_starts(view: StudyView) -> list[Block]:
    """A warning where several units of a method start from one run of an earlier stage.

    Their spread then leaves out what another such run would change, and their p is too small.
    """
    needs = {cell["name"]: cell.get("needs", []) for cell in view.cells}
    starts: dict[tuple[str, str], dict[str, set[str]]] = {}
    for line in view.compared:
        name = line.run.removeprefix("cells/").removesuffix("/run")
        for start in needs.get(name, []):
            place = starts.setdefault((line.axes[view.compare], line.axes.get(view.across or "", "")), {})
            place.setdefault(start, set()).add(line.axes.get(view.repeats[0], ""))
    shared: dict[str, str] = {}
    for (label, _), of_start in starts.items():
        most = max(len(found) for found in of_start.values())
        if most > 1:
            shared.setdefault(label, f"{label} ({most} from one run, {len(of_start)} such runs)")
    if not shared:
        return []
    text = (
        f"Repeats that start from the same run of an earlier stage: {'; '.join(shared.values())}. They are no "
        "independent evidence about that stage: the intervals and p above hold for these runs of it alone. To compare "
        "ways of training that stage, run it with several seeds and name their axis first in `repeats`."
    )
    return [Text(text)]


def over_rows(view: StudyView) -> list[Block]:
    """Accuracy once more, with the rows of the split as a second source of chance, where predictions are kept."""
    right = _right_rows(view)
    found = []
    for entry in in_order(view):
        reference = right.get((entry.task, entry.against, entry.across))
        ours = right.get((entry.task, entry.label, entry.across))
        if entry.comparison is None or not reference or not ours or entry.metric != "accuracy":
            continue
        if (pairs := _row_pairs(entry, ours, reference)) is not None:
            found.append(pairs)
    if not found:
        return []
    intervals = bootstrap_over_rows([pairs.differences for pairs in found])
    lines = [_over_rows_line(view, *line) for line in zip(found, intervals, strict=True)]
    head = ["task", *([view.across] if view.across else []), view.compare, f"minus {view.reference}"]
    head += ["95 % interval", "pairs", "rows", "McNemar"]
    explanation = (
        "Accuracy over pairs and rows: both are resampled, so that the interval also holds for other rows like these; "
        "for fewer than about ten pairs it is too narrow, as with every bootstrap. "
        "McNemar: in how many pairs the exact test finds a difference between the two models (p below 0.05 after "
        "Holm's correction over the pairs)."
    )
    words = [1, 2] if view.across else [1]
    return [Heading("Over runs and rows"), Table(head, lines, words=words), Text(explanation, note=True)]


@dataclass(frozen=True)
class RightRows:
    """Whether a model is right, row by row.

    Attributes:
        ids: of the rows; runs of the same rows share the list.
        right: [rows], bool.
    """

    ids: list[str]
    right: np.ndarray

    def of(self, ids: list[str]) -> np.ndarray:
        """Those of some rows, in their order."""
        if ids is self.ids:
            return self.right
        place = {row_id: number for number, row_id in enumerate(self.ids)}
        chosen: np.ndarray = self.right[[place[row_id] for row_id in ids]]
        return chosen


@dataclass(frozen=True)
class RowPairs:
    """A method and the reference on the rows that all their runs have.

    Attributes:
        entry: the method's.
        pairs: of each pair of runs whether they are right, [rows] each.
        differences: [units, rows], right minus right; of a unit the mean of its pairs.
    """

    entry: Entry
    pairs: Sequence[tuple[np.ndarray, np.ndarray]]
    differences: np.ndarray


def _right_rows(view: StudyView) -> dict[tuple[str, str, str], dict[str, RightRows]]:
    """(task, label, column) → repeat → whether each row is predicted right, on each task's first split."""
    found: dict[tuple[str, str, str], dict[str, RightRows]] = {}
    shared: dict[tuple[str, ...], list[str]] = {}
    for line in view.compared:
        if line.metric != "accuracy" or view.first.get(line.task) != (line.split, "accuracy"):
            continue
        place = (line.task, view.label_of(line), line.axes.get(view.across or "", ""))
        path = RunFolder(view.folder / line.run).prediction_file(line.task, line.split)
        if path.exists():
            found.setdefault(place, {})[repeat_of(line, view.repeats)] = _right(RecordFiles(path), shared)
    return found


def _right(records: Iterable[Record], shared: dict[tuple[str, ...], list[str]]) -> RightRows:
    """The labelled rows of a run; `shared` keeps one list of ids for all runs of the same rows."""
    import numpy as np

    right = {str(each["id"]): each["prediction"] == each["label"] for each in records if each["label"] is not None}
    ids = tuple(right)
    return RightRows(shared.setdefault(ids, list(ids)), np.fromiter(right.values(), dtype=bool, count=len(right)))


def _row_pairs(entry: Entry, ours: Mapping[str, RightRows], theirs: Mapping[str, RightRows]) -> RowPairs | None:
    """The pairs of runs of the same repeat; None without a row that all of them have, as of damaged files."""
    import numpy as np

    repeats = [repeat for repeat in ours if repeat in theirs]
    ids = _ids_of_all([each[repeat].ids for repeat in repeats for each in (ours, theirs)])
    if not ids:
        return None
    pairs = [(ours[repeat].of(ids), theirs[repeat].of(ids)) for repeat in repeats]
    of_unit: dict[str, list[np.ndarray]] = {}
    for repeat, (right, other) in zip(repeats, pairs, strict=True):
        of_unit.setdefault(repeat.partition(INNER)[0], []).append(right.astype(float) - other.astype(float))
    return RowPairs(entry, pairs, np.array([np.mean(group, axis=0) for group in of_unit.values()]))


def _ids_of_all(lists: Sequence[list[str]]) -> list[str]:
    """The ids that are in every list; the list itself if all are the same."""
    if all(each is lists[0] for each in lists):
        return lists[0] if lists else []
    known = [set(each) for each in lists[1:]]
    return [row_id for row_id in lists[0] if all(row_id in each for each in known)]


def _over_rows_line(view: StudyView, found: RowPairs, over_rows: RowInterval) -> list[Place]:
    entry, scale, (units, rows) = found.entry, found.entry.scale, found.differences.shape
    differing = sum(p < SIGNIFICANT for p in holm([mcnemar_p(*pair) for pair in found.pairs]))
    names = [entry.task, *_column(view, entry), entry.label, scale.difference(over_rows.mean)]
    return row(
        *names,
        scale.interval(over_rows.low, over_rows.high),
        str(units),
        f"{rows:,}",
        f"{differing} of {len(found.pairs)}",
    )
