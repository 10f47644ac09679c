"""The choice of a learning rate per method, from lines written by hand."""

from experiments.balancing.rates import means, report
from mtdnn.metrics.base import Scale
from mtdnn.study.table import Line


def line(method: str, lr: str, task: str, value: float | None, metric: str = "auc") -> Line:
    axes, scale = {"method": method, "lr": lr, "seed": "1"}, Scale("maximize", percent=True)
    if value is None:
        return Line("together", axes, "diverged", task, "", None, "", None, "run", Scale())
    return Line("together", axes, "finished", task, "tune", 9, metric, value, "run", scale)


def test_the_best_rate_is_that_of_the_largest_mean_over_tasks_and_no_run_diverged():
    """fixed: (0.6 + 0.8) ∕ 2 = 0.7 against (0.7 + 0.9 of two seeds' mean) ∕ 2; famo diverges at the larger rate."""
    lines = [
        line("fixed", "2e-4", "a", 0.6), line("fixed", "2e-4", "a", 0.99, "accuracy"), line("fixed", "2e-4", "b", 0.8),
        line("fixed", "4e-4", "a", 0.7), line("fixed", "4e-4", "b", 0.85), line("fixed", "4e-4", "b", 0.95),
        line("famo", "2e-4", "a", 0.5), line("famo", "2e-4", "b", 0.5),
        line("famo", "4e-4", "a", 0.9), line("famo", "4e-4", "b", None),
    ]  # fmt: skip
    found = means(lines)
    assert {rate: round(value or 0, 6) for rate, value in found["fixed"].items()} == {"2e-4": 0.7, "4e-4": 0.8}
    assert found["famo"] == {"2e-4": 0.5, "4e-4": None}
    assert [each.split() for each in report(lines).splitlines()] == [
        ["method", "2e-4", "4e-4", "best"], ["fixed", "70.0", "80.0", "4e-4"], ["famo", "50.0", "–", "2e-4"],
    ]  # fmt: skip
