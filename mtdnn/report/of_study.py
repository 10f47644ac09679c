"""The folder of a study → its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdnn.report.document import Block, Document, Text
from mtdnn.report.sections import (
    agreement_section,
    confusion_section,
    loss_section,
    unknown_scales_note,
    worst_section,
)
from mtdnn.report.study_tables import other_metrics, overview, starting_points, task_across
from mtdnn.report.study_tests import tests_against_reference
from mtdnn.report.study_view import (
    StudyView,
    all_predictions,
    by_label,
    predictions_of,
    read_study,
    records_of_runs,
    representatives,
    which_runs,
)
from mtdnn.report.together import together_of_study


def study_document(folder: Path, *, annotators: Mapping[str, Sequence[str]], worst: int) -> Document:
    """The report of a study.

    Args:
        folder: of the run or study.
        annotators: row id → the annotators' labels.
        worst: how many of the worst errors to show.
    Raises:
        DataError: no cell of it is finished.
    """
    view = read_study(folder)
    document = Document(f"Study {folder.resolve().name}")
    document.add(*_about(view))
    if not view.main:
        document.add(Text(f"No run that `{view.compare}` is compared over has a result yet."))
    elif not view.across:
        document.add(*overview(view))
    for task in dict.fromkeys(entry.task for entry in view.main) if view.across else ():
        document.add(*task_across(view, task))
    document.add(*tests_against_reference(view), *other_metrics(view), *starting_points(view))
    document.add(*_together(view))
    document.add(*unknown_scales_note(view.of_unknown_scale))
    runs = representatives(view)
    document.add(*loss_section(by_label(runs)))
    predictions = predictions_of(view, runs)
    document.add(*confusion_section(predictions, view.labels, of=which_runs(view)))
    if annotators:
        records, labels = _by_heading(view)
        document.add(*agreement_section(records, annotators, labels))
    document.add(*worst_section(all_predictions(view), view.types, count=worst))
    return document


def _by_heading(view: StudyView) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
    """Heading → the records of the compared runs, and → the labels of their task."""
    records, labels = dict[str, Any](), dict[str, Sequence[str]]()
    for (task, split), found in records_of_runs(view).items():
        heading = f"{task}, {split}" if split else task
        records[heading], labels[heading] = found, view.labels[task]
    return records, labels


def _together(view: StudyView) -> list[Block]:
    """Each task alone and with others, by the compared runs and by those of other stages."""
    best = {line.run for line in view.compared}
    lines = [line for line in view.lines if view.compare not in line.axes or line.run in best]
    return together_of_study(
        lines, compare=view.compare, repeats=view.repeats, reference=view.reference, across=view.across,
        label_of=view.label_of,
    )  # fmt: skip


def _about(view: StudyView) -> list[Block]:
    found = {cell["name"]: view.outcome(cell["name"]) for cell in view.cells}
    finished = [outcome for outcome in found.values() if outcome]
    diverged = sum(outcome["outcome"] == "diverged" for outcome in finished)
    made_by = [outcome["results"].get("_run", {}) for outcome in finished if outcome["results"]]
    commits = {each.get("commit", "unknown") for each in made_by}
    hours = sum(outcome.get("seconds", 0.0) for outcome in finished) / 3600
    explanation = (
        f"{len(finished)} of {len(view.cells)} cells finished, {diverged} of them diverged; {hours:.1f} h of runs."
    )
    if commits:
        explanation = f"{explanation} Commit {', '.join(f'`{commit}`' for commit in sorted(commits))}."
    if not view.main:
        return [Text(explanation)]
    axes = "` and `".join(view.repeats[1:])
    inner = f"; each is the mean of the runs that differ in `{axes}` alone" if axes else ""
    method = (
        f"Values are mean ± sample standard deviation over `{view.repeats[0]}`, with their number in brackets{inner}. "
        f"Intervals are 95 % t intervals of the mean; tests are paired by `{view.repeats[0]}` against "
        f"`{view.reference}`."
    )
    return [Text(explanation), Text(method, note=True)]
