"""The table of the study of affinities, from lines written by hand."""

import pytest

from experiments.affinity.table import Agreement, agreement, agreement_lines, gains, permuted, report, targets_of
from mtdnn.metrics.base import Scale
from mtdnn.report.read import TaskAgreement
from mtdnn.study.table import Line

HELPERS = ("mrpc", "stsb", "cola")


def line(task: str, tasks: str, seed: int, value: float) -> Line:
    axes = {"tasks": tasks, "seed": str(seed)}
    scale = Scale("maximize", percent=True)
    return Line("pairs", axes, "finished", task, "dev", 9, "accuracy", value, f"{tasks}{seed}", scale)


def test_helpers_are_ordered_by_affinity_next_to_what_pairs_gained():
    """Gains of 3, 2 and −1 points in each of two seeds, affinities in the same order: ρ is 1."""
    lines = [line("rte", "rte alone", seed, 0.5 + seed / 100) for seed in (1, 2)]
    for helper, gain in zip(HELPERS, (0.03, 0.02, -0.01), strict=True):
        name = f"rte with {helper}" if helper != "stsb" else "stsb with rte"
        lines += [line("rte", name, seed, 0.5 + seed / 100 + gain) for seed in (1, 2)]
        lines += [line("mrpc", name, 1, 0.9)]
    assert {helper: round(found.difference.mean, 6) for helper, found in gains(lines, "rte").items()} == {
        "mrpc": 0.03, "stsb": 0.02, "cola": -0.01,
    }  # fmt: skip
    affinities = {("mrpc", "rte"): [0.02, 0.04], ("stsb", "rte"): [0.01], ("cola", "rte"): [-0.02]}
    cosines = {("mrpc", "rte"): [-0.3, -0.1], ("stsb", "rte"): [0.0], ("cola", "rte"): [0.5]}
    assert targets_of(lines) == ["rte"]
    text = report(lines, TaskAgreement(["rte", *HELPERS], cosines, affinities)).splitlines()
    assert [each.split()[:5] for each in text[1:4]] == [
        ["rte", "mrpc", "+3", "-0.20", "+3.0"], ["rte", "stsb", "+1", "+0.00", "+2.0"],
        ["rte", "cola", "-2", "+0.50", "−1.0"],
    ]  # fmt: skip
    assert text[4].startswith("affinity, rte: Spearman's ρ 1.00")
    assert text[6].startswith("cosine, rte: Spearman's ρ -1.00")


def test_targets_are_pooled_by_their_mean_correlation_and_permuted_within_each():
    """Three numbers have 6 orders. Both targets are as far as can be from no order in 2 · 2 of 36 pairs of orders, of
    which half have one sign: |mean ρ| = 1 in 2 of 36."""
    groups = [([1.0, 2.0, 3.0], [5.0, 6.0, 9.0]), ([1.0, 2.0, 3.0], [-1.0, 0.0, 4.0])]
    mean, p = permuted(groups)
    assert mean == pytest.approx(1.0)
    assert p == pytest.approx(2 / 36, abs=0.01)  # 9,999 draws: a standard error of 0.0023


def test_targets_of_two_helpers_have_no_correlation():
    assert agreement("affinity", {("a", "t"): 1.0, ("b", "t"): 2.0}, {("a", "t"): 1.0, ("b", "t"): 2.0}) is None


def test_a_target_whose_helpers_are_all_equal_says_nothing():
    """Equal numbers have no order: with them ρ would be undefined and p, of no number, 0.0001."""
    predicted = {(helper, target): number for target in "tu" for number, helper in enumerate(HELPERS)}
    gained = {(helper, "t"): number / 10 for number, helper in enumerate(HELPERS)}
    found = agreement("affinity", predicted, {**gained, **{(helper, "u"): 0.1 for helper in HELPERS}})
    assert found is not None and list(found.by_target) == ["t"] and found.mean == pytest.approx(1.0)
    assert agreement("affinity", predicted, {(helper, "u"): 0.1 for helper in HELPERS}) is None


def test_p_of_the_two_predictors_are_corrected_together_by_holm():
    """The smaller of two is doubled, the larger stays."""
    found = [Agreement("affinity", {}, 0.5, 0.02), Agreement("cosine", {}, 0.1, 0.4)]
    assert [line.rsplit(" ", 1)[1] for line in agreement_lines(found)] == ["0.0400", "0.4000"]
