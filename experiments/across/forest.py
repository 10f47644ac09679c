"""SMART minus plain fine-tuning in accuracy over all frozen studies: a table, pooled means, and a forest plot.

    python -m experiments.across.forest [--picture FILE.svg]

Reads `differences.csv` next to this file, in points, as the tables of the studies print them.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtdnn.files import write_text
from mtdnn.metrics.base import Scale
from mtdnn.report.document import Document, Heading, Table, row, standing_alone, to_markdown
from mtdnn.report.pictures import Panel, Point, Series, interval_panels
from mtdnn.study.inference import CONFIDENCE

DIFFERENCES = Path(__file__).with_name("differences.csv")
GROUPS = {
    "235": "235 labels",
    "1000": "1,000 to 3,000 labels",
    "other": "Rows unlike those trained on",
    "time": "Minus plain of SMART's time",
}
"""Value of the column `group` → its heading."""
FEWEST = 3
"""Differences that a mean effect is of, at least."""
POINTS = Scale("maximize", percent=True)


@dataclass(frozen=True)
class Difference:
    """One study's mean difference in points, and its 95 % t interval over `pairs` pairs.

    `pooled` is False of differences that the mean effect leaves out, as they share their models or training rows.
    """

    name: str
    group: str
    pooled: bool
    mean: float
    low: float
    high: float
    pairs: int
    result: str

    @property
    def variance(self) -> float:
        """Of the mean, by the interval's width."""
        return ((self.high - self.low) / (2 * _quantile(self.pairs - 1))) ** 2


@dataclass(frozen=True)
class Pooled:
    """Mean by `weights` with its 95 % interval, the spread `tau` of the effects, and where a further one would be."""

    mean: float
    low: float
    high: float
    tau: float
    next_low: float
    next_high: float
    weights: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="also draw the differences, as SVG")
    given = parser.parse_args()
    found = read_differences(DIFFERENCES)
    print(to_markdown(document_of(found), pictures=""), end="")
    if given.picture is not None:
        write_text(given.picture, standing_alone(picture_of(found, name=given.picture.stem)) + "\n")


def read_differences(path: Path) -> list[Difference]:
    """The differences in the order of the file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Difference(
                name=line["name"],
                group=line["group"],
                pooled=line["pooled"] == "yes",
                mean=float(line["mean"]),
                low=float(line["low"]),
                high=float(line["high"]),
                pairs=int(line["pairs"]),
                result=line["result"],
            )
            for line in csv.DictReader(file)
        ]


def pooled(differences: Sequence[Difference]) -> Pooled:
    """The mean effect over studies that differ in more than chance: a random-effects model.

    The spread of effects by Paule and Mandel 1982 (J. Res. NBS 87); the interval by the t distribution, which with this
    spread is that of Hartung and Knapp 2001 (Statist. Med. 20), but never narrower than chance within the studies makes
    it (Röver et al. 2015, BMC Med. Res. Methodol. 15); the prediction interval of Higgins et al. 2009 (J. R. Statist.
    Soc. A 172).

    Args:
        differences: three or more.
    """
    import numpy as np
    from statsmodels.stats.meta_analysis import combine_effects

    effects, variances = (
        np.array([each.mean for each in differences]),
        np.array([each.variance for each in differences]),
    )
    found = combine_effects(effects, variances, method_re="pm", use_t=True)
    mean, tau2, variance = float(found.mean_effect_re), float(found.tau2), float(found.sd_eff_w_re) ** 2
    half = _quantile(len(differences) - 1) * math.sqrt(variance)
    beyond = _quantile(len(differences) - 2) * math.sqrt(tau2 + variance)
    return Pooled(
        mean, mean - half, mean + half, math.sqrt(tau2), mean - beyond, mean + beyond, tuple(found.weights_rel_re)
    )


def _quantile(degrees: int) -> float:
    """How many standard errors a 95 % interval goes to either side, by the t distribution."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees))


def document_of(differences: Sequence[Difference]) -> Document:
    """For each group its differences and, of those that are pooled, the mean and the interval of a further study."""
    document = Document("SMART minus plain, over all studies")
    for group, title in GROUPS.items():
        members, total = in_group(differences, group)
        weights = iter(total.weights if total else ())
        lines = [
            row(
                each.name,
                _shown(each.mean),
                _interval(each.low, each.high),
                str(each.pairs),
                f"{100 * next(weights):.0f} %" if total and each.pooled else "–",
            )
            for each in members
        ]
        if total:
            lines.append(row("mean effect", _shown(total.mean), _interval(total.low, total.high), "", ""))
            further = _interval(total.next_low, total.next_high)
            lines.append(row("effect of a further study", "", further, "", ""))
            lines.append(row("spread of the effects", f"{total.tau:.1f}", "", "", ""))
        head = ["", "accuracy, points", "95 % interval", "pairs", "weight in the mean"]
        document.add(Heading(title), Table(head, lines))
    return document


def in_group(differences: Sequence[Difference], group: str) -> tuple[list[Difference], Pooled | None]:
    """The differences of a group, and their mean effect where enough of them are pooled."""
    members = [each for each in differences if each.group == group]
    found = [each for each in members if each.pooled]
    return members, pooled(found) if len(found) >= FEWEST else None


def _shown(points: float) -> str:
    return POINTS.difference(points / 100)


def _interval(low: float, high: float) -> str:
    return POINTS.interval(low / 100, high / 100)


def picture_of(differences: Sequence[Difference], *, name: str) -> str:
    """A forest plot: the studies of each group in one colour, and their mean effect below them."""
    series = []
    for color, (group, title) in enumerate(GROUPS.items()):
        members, total = in_group(differences, group)
        series += [Series(each.name, [Point(0.0, each.mean, each.low, each.high)], color) for each in members]
        if total:
            series.append(Series(f"MEAN: {title}", [Point(0.0, total.mean, total.low, total.high)], color))
    return interval_panels([Panel("SMART − plain, accuracy, points", series, floor=0.0)], name=name)


if __name__ == "__main__":
    main()
