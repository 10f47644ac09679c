"""How the tasks of a run agree: cosines of their gradients, affinities, and the weights they were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from mtdnn.report.document import Block, Heading, Picture, Place, Table
from mtdnn.report.pictures import Panel, Point, Series, line_panels
from mtdnn.report.read import TaskAgreement, read_agreement, read_curves

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


def _conflicts(found: TaskAgreement) -> Table:
    """Mean cosine, and the share of the logged steps with a cosine below 0."""
    lines = []
    for task in found.tasks:
        places = [Place(task)]
        for other in found.tasks:
            values = found.cosines.get((task, other), [])
            share = sum(value < 0 for value in values) / len(values) if values else 0.0
            is_pair = bool(values) and other != task
            shown = f"{fmean(values):z.2f} ({100 * share:.0f})".replace("-", "−") if is_pair else "–"
            places.append(Place(shown, heat=share if is_pair else None))
        lines.append(places)
    caption = (
        "Mean cosine of two tasks' gradients over the shared weights; in brackets, and as the shade, the percentage of "
        "the logged steps in which it is below 0."
    )
    return Table(["task", *found.tasks], lines, caption=caption, words=[0])


def _affinities(found: TaskAgreement) -> Table:
    """Mean affinity, in percent of the loss."""
    lines = []
    for task in found.tasks:
        values = [found.affinities.get((task, other), []) for other in found.tasks]
        lines.append([Place(task), *map(_affinity, values, (other == task for other in found.tasks))])
    caption = (
        "By what percentage a step on the task of the row lowers the loss of the task of the column, on the same "
        "batches; mean over the logged steps. Green: it helps another task; red: it harms it."
    )
    return Table(["task", *found.tasks], lines, caption=caption, words=[0])


def _affinity(values: Sequence[float], is_own: bool) -> Place:
    """The mean of some affinities; coloured where it is of two tasks."""
    if not values:
        return Place("–")
    mean = fmean(values)
    trend = "" if is_own or mean == 0 else "up" if mean > 0 else "down"
    rounded = float(f"{100 * mean:.2g}")  # two digits, and no power of ten for 120 %
    return Place(f"{rounded:+g}".replace("-", "−"), trend=trend)


def _weights(weights: Mapping[str, Sequence[tuple[int, float]]]) -> Picture:
    series = [Series(task, [Point(step, value) for step, value in points]) for task, points in weights.items()]
    picture = line_panels([Panel("", series, "step", "weight")], name="weights")
    return Picture("weights", picture, "The factor of each task's loss or gradient, mean between two lines of the log.")
