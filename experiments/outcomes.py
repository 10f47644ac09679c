"""Tested differences of a study that the protocol froze, as tables: what `table.py` of several studies share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtdnn.errors import DataError
from mtdnn.files import write_text
from mtdnn.metrics.base import Scale
from mtdnn.report.document import Block, Heading, Table, Text, row, standing_alone
from mtdnn.report.pictures import Panel, Point, Series, interval_panels
from mtdnn.report.study_tests import shown_p, verdict
from mtdnn.study.grid import PlannedCell, read_plan
from mtdnn.study.inference import false_discovery, holm
from mtdnn.study.statistics import MARGIN, Comparison, Spread
from mtdnn.study.table import Line, read_csv


@dataclass(frozen=True)
class Outcome:
    """One tested difference: what it is, and the pairs."""

    name: str
    metric: str
    comparison: Comparison


def study_folder(description: str | None, words: Sequence[str] | None = None) -> Path:
    """The folder of the study that a table is asked of on its command line.

    Args:
        description: of the module, whose first line is shown as help.
        words: in place of those of the command line.
    """
    folder: Path = table_parser(description).parse_args(words).study
    return folder


def study_and_picture(description: str | None, words: Sequence[str] | None = None) -> tuple[Path, Path | None]:
    """As `study_folder`, and the file to which a picture of the primary outcomes is to be written; None = no picture.

    Args:
        description, words: as for `study_folder`.
    """
    parser = table_parser(description, picture=True)
    given = parser.parse_args(words)
    return given.study, given.picture


def table_parser(description: str | None, *, picture: bool = False) -> argparse.ArgumentParser:
    """The command line of a table: the study's folder, to which a script may add what else it reads.

    Args:
        description: of the module, whose first line is shown as help.
        picture: whether `--picture` may be given.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the study")
    if picture:
        parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="also draw the primary outcomes, as SVG")
    return parser


def finished_lines(folder: Path, *, axes: Sequence[str] = (), metrics: Sequence[str] = ()) -> list[Line]:
    """The numbers of a finished study.

    Args:
        folder: of the study.
        axes, metrics: that it must have.
    Raises:
        DataError: a cell has no result yet; other errors as of `lines_and_missing`.
    """
    lines, missing = lines_and_missing(folder, axes=axes, metrics=metrics)
    if missing:
        raise DataError(f"{folder}: {len(missing)} cells are not finished; the protocol looks at none before.")
    return lines


def lines_and_missing(
    folder: Path, *, axes: Sequence[str] = (), metrics: Sequence[str] = ()
) -> tuple[list[Line], list[PlannedCell]]:
    """The numbers that are there, and each cell that is not finished.

    Raises:
        DataError: no study is there, or it has not the axes and metrics of the one that is asked for.
    """
    lines, cells = read_csv(folder / "results.csv"), read_plan(folder)["cells"]
    for kind, wanted, known in (
        ("axis", axes, {axis for line in lines for axis in line.axes}),
        ("metric", metrics, {line.metric for line in lines}),
    ):
        for name in (name for name in wanted if name not in known):
            raise DataError(f"{folder / 'results.csv'}: no {kind} '{name}'; this table is of another study.")
    found = {line.run for line in lines}
    return lines, [cell for cell in cells if f"cells/{cell['name']}/run" not in found]


def mean_and_std(found: Spread | None, scale: Scale) -> str:
    """`mean ± deviation` over the units, as tables of means have it; a dash where there is none."""
    if found is None or not found.count:
        return "–"
    std = "" if found.std is None else f" ± {scale.shown(found.std)}"
    return f"{scale.shown(found.mean)}{std}"


def holm_of(outcomes: Sequence[Outcome]) -> list[float | None]:
    """p corrected by Holm; differences that are all the same have none, and count as 1."""
    ps = [outcome.comparison.t_p for outcome in outcomes]
    return [
        None if p is None else fixed for p, fixed in zip(ps, holm([1.0 if p is None else p for p in ps]), strict=True)
    ]


def discovery_of(outcomes: Sequence[Outcome]) -> list[float | None]:
    return false_discovery([outcome.comparison.t_p for outcome in outcomes])


def outcome_table(
    outcomes: Sequence[Outcome], scales: Mapping, corrected: Sequence[float | None], *, verdicts: bool
) -> Table:
    """One line for each outcome.

    Args:
        outcomes: the tested differences.
        scales: of each metric.
        corrected: p of each outcome.
        verdicts: whether the last column says one.
    """
    lines = []
    for outcome, p in zip(outcomes, corrected, strict=True):
        found, scale = outcome.comparison, scales[outcome.metric]
        interval = scale.interval(found.difference.low, found.difference.high)
        word = verdict(found, scale, corrected=p, margin=MARGIN) if verdicts else "interim"
        ps = [shown_p(each) for each in (found.t_p, p, found.equivalence_p)]
        mean, count = scale.difference(found.difference.mean), str(found.difference.count)
        lines.append(row(outcome.name, outcome.metric, mean, interval, count, *ps, word))
    head = ["difference", "metric", "mean", "95 % interval", "pairs", "p", "corrected", "equivalence p", "verdict"]
    return Table(head, lines, words=[1, 8])


def tested(title: str, outcomes: Sequence[Outcome], scales: Mapping, *, primary: bool) -> list[Block]:
    """A section of outcomes with their verdicts, and by what p is corrected.

    Args:
        title: of the section.
        outcomes, scales: as for `outcome_table`.
        primary: whether p is corrected by Holm; else by Benjamini and Hochberg.
    """
    corrected = holm_of(outcomes) if primary else discovery_of(outcomes)
    by = f"Holm over these {len(outcomes)} tests" if primary else "Benjamini and Hochberg over this table"
    table = outcome_table(outcomes, scales, corrected, verdicts=True)
    return [Heading(title), table, Text(f"p corrected by {by}.")]


def write_picture(path: Path, outcomes: Sequence[Outcome], scales: Mapping[str, Scale]) -> None:
    """Draw the mean of each difference, its 95 % interval and its pairs, one panel for each metric.

    Args:
        path: the SVG file.
        outcomes: the tested differences; a dotted line is drawn at no difference.
        scales: of each metric.
    """
    panels = [
        Panel(
            f"difference in {scales[metric].unit(metric)}",
            [Series(each.name, [_point(each, scales[metric])]) for each in outcomes if each.metric == metric],
            floor=0.0,
        )
        for metric in dict.fromkeys(each.metric for each in outcomes)
    ]
    write_text(path, standing_alone(interval_panels(panels, name=path.stem)) + "\n")


def _point(outcome: Outcome, scale: Scale) -> Point:
    found, factor = outcome.comparison, scale.factor
    low, high = (None if end is None else factor * end for end in (found.difference.low, found.difference.high))
    pairs = [factor * each for each in found.by_unit.values()]
    return Point(0.0, factor * found.difference.mean, low, high, pairs)
