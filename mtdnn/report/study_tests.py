"""What a study's runs show: each method against the reference, with intervals, corrected p and a verdict in words.

The words follow the numbers: *ahead* and *behind* only where p, corrected over the table, is below 0.05; *equal* where
two one-sided tests exclude a difference of the margin; *open* otherwise, with the number of pairs that would decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtdnn.metrics.base import Record, Scale
from mtdnn.metrics.records import RecordFiles
from mtdnn.report.document import Block, Heading, Place, Table, Text, row
from mtdnn.report.study_view import StudyView, in_order
from mtdnn.runs.folder import RunFolder
from mtdnn.study.inference import SIGNIFICANT, bootstrap_over_rows, false_discovery, holm, mcnemar_p, pairs_needed
from mtdnn.study.statistics import INNER, Comparison, Entry, compared, repeat_of


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
        *shared_starts(view),
        *_section(
            view, f"Does the difference depend on {view.across}?", ["task", view.compare, "change"], _changes(view)
        ),
        *_section(view, "Mean over the tasks", [*across, view.compare], _pooled(view)),
        *over_rows(view),
        *_section(view, other, ["task", "split", *across, view.compare, "metric"], rest),
    ]


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
        f"difference of {points}. Open: neither; then the number of pairs that would find {points} with a chance of "
        "80 %, at the spread found here. The t-test has no p where all differences are the same; with n pairs "
        "Wilcoxon's p cannot be below 2/2ⁿ."
    )
    return [Heading(title), Table(head, lines, words=words), *([Text(explanation, note=True)] if note else [])]


def _line(finding: Finding, corrected: float | None, margin: float) -> list[Place]:
    found, scale = finding.comparison.difference, finding.scale
    interval = "" if found.low is None or found.high is None else (
        f"{scale.difference(found.low)} … {scale.difference(found.high)}"
    )  # fmt: skip
    word = verdict(finding.comparison, scale, corrected=corrected, margin=margin)
    trend = {"ahead": "up", "behind": "down"}.get(word.split(",")[0], "")
    sure = corrected is not None and corrected < SIGNIFICANT and scale.direction != "unknown"
    places = row(*finding.names)
    places.append(Place(scale.difference(found.mean), strong=sure, trend=trend))
    ps = (finding.comparison.t_p, corrected, finding.comparison.wilcoxon_p)
    return [*places, *row(interval, str(found.count), *map(_p, ps), word)]


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
    if comparison.difference.std is None or not scale.percent:
        return "open"
    needed = pairs_needed(comparison.difference.std, margin)
    return "open" if needed is None else f"open: {needed} pairs"


def _p(value: float | None) -> str:
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

    Over tasks whose metric is shown in percent, and units that all of them have: it holds for these tasks.
    """
    places: dict[tuple[str, ...], list[Entry]] = {}
    for entry in in_order(view):
        if entry.comparison is not None and entry.scale.percent and entry.scale.direction == "maximize":
            places.setdefault((*_column(view, entry), entry.label), []).append(entry)
    found = []
    for names, group in places.items():
        differences = [entry.comparison.by_unit for entry in group if entry.comparison is not None]
        shared = [unit for unit in differences[0] if all(unit in each for each in differences)]
        means = {unit: sum(each[unit] for each in differences) / len(differences) for unit in shared}
        pooled = compared(means, dict.fromkeys(means, 0.0), margin=view.margin)
        if len(group) > 1 and pooled is not None:
            found.append(Finding(names, group[0].scale, pooled))
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
    lines = []
    for entry in in_order(view):
        reference = right.get((entry.task, entry.against, entry.across))
        ours = right.get((entry.task, entry.label, entry.across))
        if entry.comparison is None or not reference or not ours or entry.metric != "accuracy":
            continue
        pairs = [(ours[repeat], reference[repeat]) for repeat in ours if repeat in reference]
        units = [repeat.partition(INNER)[0] for repeat in ours if repeat in reference]
        ids = _rows_of_all(pairs)
        if ids:
            names = [entry.task, *_column(view, entry), entry.label]
            lines.append([*row(*names), *_over_rows_line(pairs, ids, units, entry.scale)])
    if not lines:
        return []
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


def _right_rows(view: StudyView) -> dict[tuple[str, str, str], dict[str, dict[str, bool]]]:
    """(task, label, column) → repeat → row id → whether it is predicted right, on each task's first split."""
    found: dict[tuple[str, str, str], dict[str, dict[str, bool]]] = {}
    for line in view.compared:
        if line.metric != "accuracy" or view.first.get(line.task) != (line.split, "accuracy"):
            continue
        place = (line.task, view.label_of(line), line.axes.get(view.across or "", ""))
        path = RunFolder(view.folder / line.run).prediction_file(line.task, line.split)
        if path.exists():
            found.setdefault(place, {})[repeat_of(line, view.repeats)] = _right(RecordFiles(path))
    return found


def _right(records: Iterable[Record]) -> dict[str, bool]:
    return {str(each["id"]): each["prediction"] == each["label"] for each in records if each["label"] is not None}


Pair = tuple[Mapping[str, bool], Mapping[str, bool]]
"""For two models: row id → whether it is predicted right."""


def _rows_of_all(pairs: Sequence[Pair]) -> list[str]:
    """The ids that every model of every pair has; none if a file of predictions is of other rows, or damaged."""
    return [row_id for row_id in pairs[0][0] if all(row_id in each for pair in pairs for each in pair)] if pairs else []


def _over_rows_line(pairs: Sequence[Pair], ids: Sequence[str], units: Sequence[str], scale: Scale) -> list[Place]:
    import numpy as np

    right = [[[pair[side][row_id] for row_id in ids] for side in (0, 1)] for pair in pairs]
    of_unit: dict[str, list[Any]] = {}
    for unit, (ours, theirs) in zip(units, right, strict=True):
        of_unit.setdefault(unit, []).append(np.array(ours, dtype=float) - np.array(theirs, dtype=float))
    found = bootstrap_over_rows(np.array([np.mean(group, axis=0) for group in of_unit.values()]))
    ps = holm([mcnemar_p(ours, theirs) for ours, theirs in right])
    differing = sum(p < SIGNIFICANT for p in ps)
    interval = f"{scale.difference(found.low)} … {scale.difference(found.high)}"
    return row(
        scale.difference(found.mean), interval, str(len(of_unit)), f"{len(ids):,}", f"{differing} of {len(pairs)}"
    )
