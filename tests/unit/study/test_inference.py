"""Intervals, tests and corrections against SciPy, published tables, simulation, and cases worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from mtdnn.study.inference import (
    bootstrap_over_rows,
    equivalence_p,
    false_discovery,
    holm,
    mcnemar_p,
    pairs_needed,
    power_of,
    t_interval,
)

SAMPLE = [0.4, -0.2, 0.9, 0.1, 0.6]


def test_the_t_interval_by_hand_and_by_scipy() -> None:
    low, high = t_interval([1.0, 2.0, 3.0])  # standard error 1/√3, t of two degrees of freedom 4.3027
    assert (low, high) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)
    error = np.std(SAMPLE, ddof=1) / math.sqrt(5)
    assert t_interval(SAMPLE) == pytest.approx(stats.t.interval(0.95, 4, np.mean(SAMPLE), error), rel=1e-12)


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_the_t_interval_covers_what_it_promises_with_few_runs(runs: int) -> None:
    """Of 4,000 studies without an effect 95 % have an interval around 0; three standard deviations are 1 %."""
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(size=runs).tolist()) for _ in range(4000)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.0104)


def test_equivalence_is_the_larger_of_two_one_sided_tests() -> None:
    """By hand: mean 0.36, standard error 0.1913; (0.36 − 1)/0.1913 = −3.345 with four degrees of freedom."""
    assert np.std(SAMPLE, ddof=1) / math.sqrt(5) == pytest.approx(0.19131, abs=1e-5)
    assert equivalence_p(SAMPLE, 1.0) == pytest.approx(stats.t.cdf((0.36 - 1) / 0.191311, 4), abs=1e-5)
    assert equivalence_p([-value for value in SAMPLE], 1.0) == pytest.approx(equivalence_p(SAMPLE, 1.0))
    assert equivalence_p(SAMPLE, 0.3) > 0.5  # the mean itself is beyond
    assert (equivalence_p([0.1, 0.1], 0.2), equivalence_p([0.3, 0.3], 0.2)) == (0.0, 1.0)


@pytest.mark.parametrize(("ours", "theirs"), [(57, 56), (91, 90)])
def test_a_difference_of_just_the_margin_is_never_equivalent(ours: int, theirs: int) -> None:
    """One row of 100 in every pair: as floats 0.57 − 0.56 is below 0.01 and 0.91 − 0.9 above it."""
    difference = ours / 100 - theirs / 100
    assert difference != 0.01
    assert (equivalence_p([difference] * 3, 0.01), equivalence_p([-difference] * 3, 0.01)) == (1.0, 1.0)


def test_the_interval_at_90_percent_is_within_the_margin_where_the_test_says_so() -> None:
    """The known identity: two one-sided tests at 5 % reject where the 90 % interval is within ± the margin."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        values = rng.normal(0.1, 0.5, size=6).tolist()
        found = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        assert (equivalence_p(values, 0.5) < 0.05) == (found.low > -0.5 and found.high < 0.5)


def test_holms_correction_by_hand() -> None:
    """Smallest first: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04, which may not be below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_the_false_discovery_correction_is_scipys_and_leaves_out_what_has_no_p() -> None:
    """By hand: 0.01 · 3/1 = 0.03, 0.02 · 3/2 = 0.03, 0.5 · 3/3."""
    assert false_discovery([0.02, None, 0.01, 0.5]) == pytest.approx([0.03, None, 0.03, 0.5])
    ps = [0.001, 0.2, 0.03, 0.04, 0.9]
    assert false_discovery(ps) == pytest.approx(stats.false_discovery_control(ps).tolist())
    assert false_discovery([None, None]) == [None, None]


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_the_pairs_for_80_percent_power_are_those_of_published_tables(effect: float, pairs: int) -> None:
    """Cohen's small, medium and large effect in a paired t-test at 5 %, two-sided, as G*Power has them."""
    assert pairs_needed(1.0, effect) == pairs
    assert power_of(pairs, effect) >= 0.8 > power_of(pairs - 1, effect)


def test_power_is_the_share_of_simulated_studies_that_find_the_effect() -> None:
    rng = np.random.default_rng(0)
    found = stats.ttest_1samp(rng.normal(0.5, 1.0, size=(4000, 20)), 0, axis=1).pvalue < 0.05
    assert power_of(20, 0.5) == pytest.approx(found.mean(), abs=0.025)  # three standard deviations of 4,000 draws
    assert pairs_needed(0.0, 0.01) == 2 and pairs_needed(10.0, 0.01) is None


def test_mcnemar_is_the_binomial_test_of_the_rows_that_differ() -> None:
    """Nine rows won, two lost: twice the chance of two or fewer heads in eleven throws, (1 + 11 + 55)/2¹¹."""
    ours, theirs = [True] * 9 + [False] * 2 + [True] * 50, [False] * 9 + [True] * 2 + [True] * 50
    assert mcnemar_p(ours, theirs) == pytest.approx(2 * 67 / 2**11)
    assert mcnemar_p([True, False], [True, False]) == 1.0


def test_the_interval_over_units_and_rows_holds_both_sources_of_chance() -> None:
    """Variance of the mean of u_i + r_j: that of the units' mean, plus that of the rows' mean."""
    rng = np.random.default_rng(0)
    of_units, of_rows = rng.normal(0, 1, size=40), rng.normal(0, 1, size=60)
    (found,) = bootstrap_over_rows([of_units[:, None] + of_rows[None, :] + 3])
    expected = 1.96 * math.sqrt(of_units.var() / 40 + of_rows.var() / 60)
    assert found.mean == pytest.approx(3 + of_units.mean() + of_rows.mean())
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.05)  # of 9,999 draws about 1.5 %
    others = [of_units[:3, None] + of_rows[None, :], of_units[:, None] + of_rows[None, :] + 3]
    assert found == bootstrap_over_rows(others)[1]  # whatever it is drawn together with


def test_one_unit_varies_by_its_rows_alone() -> None:
    rows = np.random.default_rng(0).normal(size=(1, 200))
    (found,) = bootstrap_over_rows([rows])
    theirs = stats.bootstrap((rows[0],), np.mean, method="percentile", rng=np.random.default_rng(1))
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)
