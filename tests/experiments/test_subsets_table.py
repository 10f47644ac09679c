"""The tables of SNLI with other rows for each seed: which tests there are, and their pairs."""

import numpy as np
import pytest
from scipy import stats

from experiments.outcomes import holm_of
from experiments.robustness.subsets import PRIMARY, SECONDARY, document_of, outcomes, values_of
from experiments.wrong_labels import CONFIDENCE, EQUAL_TIME, PLAIN, SMART
from mtdnn.errors import DataError
from mtdnn.metrics.base import Scale
from mtdnn.report.document import to_markdown
from mtdnn.study.inference import holm
from mtdnn.study.table import Line

SEEDS = ("201", "202", "203", "204")


def lines() -> list[Line]:
    """Made-up values of four seeds."""
    rng, found = np.random.default_rng(0), []
    for seed in SEEDS:
        for method in (PLAIN, SMART, EQUAL_TIME):
            for task, metrics in (("snli", ("accuracy", *CONFIDENCE)), ("mnli", ("accuracy",))):
                for metric in metrics:
                    percent = metric == "accuracy"
                    scale, axes = (
                        Scale("maximize" if percent else "minimize", percent=percent),
                        {"seed": seed, "method": method},
                    )
                    value = float(rng.uniform(0.5, 0.9))
                    found.append(Line("fine_tune", axes, "finished", task, "dev", 9, metric, value, "run", scale))
    return found


def test_the_three_primary_tests_are_those_of_the_protocol() -> None:
    values = values_of(lines())
    found = outcomes(values, PRIMARY)
    assert [each.name for each in found] == [
        "SMART − plain, snli", "SMART − plain, mnli", "SMART − plain for SMART's time, snli"
    ]  # fmt: skip
    ours, theirs = ([values["accuracy", "snli", method][seed] for seed in SEEDS] for method in (SMART, EQUAL_TIME))
    assert found[-1].comparison.t_p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert holm_of(found) == pytest.approx(holm([each.comparison.t_p for each in found]))
    assert len(outcomes(values, SECONDARY)) == 5
    page = to_markdown(document_of(lines()), pictures="")
    assert "p corrected by Holm over these 3 tests." in page and "plain for SMART's time" in page


def test_an_arm_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="of both 'SMART' and 'plain for SMART's time'"):
        outcomes(values_of([line for line in lines() if line.axes["method"] != EQUAL_TIME]), PRIMARY)
