"""The choice of a setting per method, from lines written by hand."""

from experiments.smart_regimes.chosen import best, report
from mtdnn.metrics.base import Scale
from mtdnn.study.table import Line


def lines_of(method: str, seed: str, *, auc: float | None, accuracy: float = 0.5) -> list[Line]:
    axes, scale = {"method": method, "seed": seed}, Scale("maximize", percent=True)
    if auc is None:
        return [Line("fine_tune", axes, "diverged", "scitail", "", None, "", None, "run", Scale())]
    return [
        Line("fine_tune", axes, "finished", "scitail", "tune", 9, metric, value, "run", scale)
        for metric, value in (("accuracy", accuracy), ("auc", auc))
    ]


def test_the_best_setting_has_the_largest_mean_auc_and_no_run_that_diverged():
    """sign, λ 3: (0.9 + 0.6) ∕ 2 = 0.75 against (0.7 + 0.7) ∕ 2; R-Drop diverges at 16; accuracy decides nothing."""
    lines = [
        *lines_of("plain", "1", auc=0.7), *lines_of("plain", "2", auc=0.7),
        *lines_of("sign, λ 1", "1", auc=0.7, accuracy=0.9), *lines_of("sign, λ 1", "2", auc=0.7, accuracy=0.9),
        *lines_of("sign, λ 3", "1", auc=0.9), *lines_of("sign, λ 3", "2", auc=0.6),
        *lines_of("R-Drop, weight 4", "1", auc=0.6), *lines_of("R-Drop, weight 4", "2", auc=0.6),
        *lines_of("R-Drop, weight 16", "1", auc=0.9), *lines_of("R-Drop, weight 16", "2", auc=None),
    ]  # fmt: skip
    assert best(lines) == {"plain": "", "sign": "λ 3", "R-Drop": "weight 4"}
    shown = [line.split() for line in report(lines).splitlines()]
    assert ["sign", "λ", "3", "75.0", "50.0", "chosen"] in shown
    assert ["sign", "λ", "1", "70.0", "90.0"] in shown
    assert ["R-Drop", "weight", "16", "–", "–"] in shown
