"""How the tasks of a run agree: cosines of their gradients, affinities, and the weights they were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from mtdnn.report.document import Block, Heading, Picture, Place, Table
from mtdnn.report.pictures import Panel, Point, Series, line_panels
from mtdnn.report.read import Agreement, read_agreement, read_curves

WEIGHT = "balance.weight"


def balance_section(folder: Path) -> list[Block]:
    """Conflicts, affinities and weights of a run; empty where none were logged."""
    found = read_agreement(folder)
    blocks: list[Block] = []
    if found.cosines:
        blocks += [Heading("Conflicts between tasks"), _conflicts(found)]
    if found.affinities:
        blocks += [Heading("Affinities between tasks"), _affinities(found)]
    weights = {task: values[WEIGHT] for task, values in read_curves(folder).losses.items() if WEIGHT in values}
    if weights:
        blocks += [Heading("Weights of the tasks"), _weights(weights)]
    return blocks


def _conflicts(found: Agreement) -> Table:
    """Mean cosine, and the share of the logged steps with a cosine below 0."""
    lines = []
    for task in found.tasks:
        places = [Place(task)]
        for other in found.tasks:
            values = found.cosines.get((task, other), [])
            share = sum(value < 0 for value in values) / len(values) if values else 0.0
            shown = f"{fmean(values):.2f} ({100 * share:.0f})" if values and other != task else "–"
            places.append(Place(shown))
        lines.append(places)
    caption = (
        "Mean cosine of two tasks' gradients over the shared weights; in brackets the percentage of the logged steps "
        "in which it is below 0."
    )
    return Table(["task", *found.tasks], lines, caption=caption, words=[0])


def _affinities(found: Agreement) -> Table:
    """Mean affinity, in percent of the loss."""
    lines = []
    for task in found.tasks:
        values = [found.affinities.get((task, other), []) for other in found.tasks]
        lines.append([Place(task), *(Place(f"{100 * fmean(each):+.2g}" if each else "–") for each in values)])
    caption = (
        "By what percentage a step on the task of the row lowers the loss of the task of the column, on the same "
        "batches; mean over the logged steps."
    )
    return Table(["task", *found.tasks], lines, caption=caption, words=[0])


def _weights(weights: Mapping[str, Sequence[tuple[int, float]]]) -> Picture:
    series = [Series(task, [Point(step, value) for step, value in points]) for task, points in weights.items()]
    picture = line_panels([Panel("", series, "step", "weight")], name="weights")
    return Picture("weights", picture, "The factor of each task's loss or gradient, mean between two lines of the log.")
