"""The forest plot over all studies: its pooled means, and that its numbers are those of the studies' pages."""

import html
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.across.forest import (
    DIFFERENCES,
    GROUPS,
    Difference,
    document_of,
    in_group,
    main,
    pooled,
    read_differences,
)
from mtdnn.report.document import to_markdown
from tests.conftest import REPOSITORY

FOUND = read_differences(DIFFERENCES)


def difference(mean: float, error: float, pairs: int = 10) -> Difference:
    """A difference with the standard error `error`."""
    half = stats.t.ppf(0.975, pairs - 1) * error
    return Difference("a study", "235", True, mean, mean - half, mean + half, pairs, "")


def test_the_spread_of_effects_solves_the_equation_of_paule_and_mandel() -> None:
    """The weighted squares at that spread are as many as there are degrees of freedom; Hartung and Knapp by hand."""
    means, errors = [0.5, -1.0, 2.0, 0.1], [0.3, 0.5, 0.4, 0.2]
    found = pooled([difference(mean, error) for mean, error in zip(means, errors, strict=True)])
    weights = 1 / (np.square(errors) + found.tau**2)
    assert found.mean == pytest.approx(np.average(means, weights=weights))
    assert weights @ np.square(np.subtract(means, found.mean)) == pytest.approx(3, abs=1e-4)
    error = np.sqrt(weights @ np.square(np.subtract(means, found.mean)) / 3 / weights.sum())
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 3) * error)
    beyond = stats.t.ppf(0.975, 2) * np.hypot(found.tau, error)
    assert (found.next_low, found.next_high) == pytest.approx((found.mean - beyond, found.mean + beyond))


def test_effects_that_differ_by_less_than_chance_have_no_spread() -> None:
    """Their mean is weighted by precision alone."""
    found = pooled([difference(0.5, 0.5), difference(0.6, 1.0), difference(0.4, 1.0)])
    assert found.tau == 0
    assert found.mean == pytest.approx((4 * 0.5 + 0.6 + 0.4) / 6)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(6))


@pytest.mark.parametrize("line", FOUND, ids=lambda line: f"{line.group}, {line.name}")
def test_each_number_is_on_the_page_of_its_study(line: Difference) -> None:
    page, _, heading = line.result.partition("#")
    text = (REPOSITORY / "experiments" / page).read_text(encoding="utf-8").replace("*", "")
    numbers = (_pattern(each) for each in (line.mean, line.low, line.high))
    assert re.search("{}(?:, | \\| ){} … {}".format(*numbers), text)
    anchors = {
        re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in re.findall(r"^#+ (.*)$", text, re.M)
    }
    assert heading in anchors


def _pattern(points: float) -> str:
    return "[+−]?0\\.0" if points == 0 else re.escape(f"{points:+.1f}".replace("-", "−"))


def test_what_shares_rows_or_models_is_shown_and_not_pooled() -> None:
    few = [difference(0.5, 0.5), difference(0.6, 1.0)]
    assert in_group(few, "235") == (few, None)
    shared = replace(difference(9.0, 0.1), pooled=False)
    several = [*few, shared, difference(0.4, 1.0)]
    members, total = in_group(several, "235")
    assert members == several
    assert total == pooled([each for each in several if each.pooled])


def test_the_page_and_the_picture_have_every_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "forest.svg"
    monkeypatch.setattr(sys, "argv", ["forest", "--picture", str(picture)])
    main()
    printed = capsys.readouterr().out
    assert printed == to_markdown(document_of(FOUND), pictures="")
    assert set(GROUPS) == {each.group for each in FOUND}
    svg = picture.read_text(encoding="utf-8")
    assert printed.count("mean effect") == svg.count("MEAN: ") == len({each.group for each in FOUND if each.pooled})
    assert all(html.escape(each.name, quote=False) in svg for each in FOUND)
    page = (REPOSITORY / "experiments/across/README.md").read_text(encoding="utf-8")
    shown = [line for line in printed.splitlines() if line.startswith("| ") and "---" not in line]
    assert all(_cells(line) in {_cells(other) for other in page.splitlines()} for line in shown)


def _cells(line: str) -> tuple[str, ...]:
    """The cells of a line of a table, without emphasis and links."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line.replace("*", ""))
    return tuple(each.strip() for each in plain.strip("|").split("|"))
