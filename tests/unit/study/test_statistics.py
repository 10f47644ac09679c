"""Means, intervals and tests over repeated runs; expected numbers are SciPy's or worked by hand."""

import math
from dataclasses import replace

import pytest
from scipy import stats

from mtdnn.metrics.base import Scales
from mtdnn.study.statistics import best_of, compared, entries, no_better_than_chance, pooled_over_tasks, spread
from mtdnn.study.table import Line


def line(value: float | None, *, metric: str = "accuracy", task: str = "rte", split: str = "dev", **axes: str) -> Line:
    outcome = "finished" if value is not None else "diverged"
    metric, split = (metric, split) if value is not None else ("", "")
    return Line("fine_tune", axes, outcome, task, split, 100, metric, value, "cells/x/run", Scales()[metric])


def test_mean_and_sample_deviation_by_hand() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0])
    assert (found.count, found.mean) == (4, 2.5)
    assert found.std == pytest.approx(math.sqrt(5 / 3))  # squares 2.25, 0.25, 0.25, 2.25 over n − 1


def test_one_value_has_no_deviation_and_no_interval() -> None:
    found = spread([0.7])
    assert (found.count, found.mean, found.std, found.low, found.high) == (1, 0.7, None, None, None)
    assert math.isnan(spread([]).mean)


def test_the_interval_is_that_of_scipys_t_distribution() -> None:
    values = [0.52, 0.61, 0.58, 0.70, 0.66, 0.49, 0.63]
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = spread(values)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    by_hand = spread([1.0, 2.0])  # mean 1.5, standard error ½, t of one degree of freedom 12.706
    assert by_hand.low == pytest.approx(1.5 - 6.353, abs=1e-3)
    assert (spread([0.5, 0.5]).low, spread([0.5, 0.5]).high) == (0.5, 0.5)


def test_nested_repeats_are_averaged_and_their_outermost_axis_is_the_unit() -> None:
    """Three fine-tunings of each of three multi-task runs: the spread is that of three means, not of nine runs."""
    runs = {"mt-dnn": [(0.70, 0.72, 0.74), (0.60, 0.62, 0.64), (0.80, 0.82, 0.84)], "encoder": [(0.5, 0.6, 0.7)] * 3}
    lines = [
        line(value, init=init, upstream=str(upstream), seed=str(100 + 3 * upstream + place))
        for init, of_upstream in runs.items()
        for upstream, values in enumerate(of_upstream)
        for place, value in enumerate(values)
    ]
    repeats = ("upstream", "seed")
    found = {entry.label: entry for entry in entries(lines, compare="init", reference="encoder", repeats=repeats)}
    assert set(found) == {"mt-dnn", "encoder"}  # the axis of the upstream run is no part of the label
    nested = found["mt-dnn"]
    assert len(nested.values) == 9 and (nested.spread.count, nested.spread.mean) == (3, pytest.approx(0.72))
    assert nested.spread.std == pytest.approx(0.1)
    assert nested.comparison is not None and nested.comparison.difference.count == 3
    assert nested.comparison.t_p == pytest.approx(stats.ttest_1samp([0.12, 0.02, 0.22], 0).pvalue)
    assert nested.comparison.by_unit == pytest.approx({"0": 0.12, "1": 0.02, "2": 0.22})


def test_a_unit_is_compared_over_the_runs_that_both_have() -> None:
    """The reference has one run of the second multi-task seed; the other run of the method does not count there."""
    lines = [line(value, init="a", upstream=u, seed=s) for u, s, value in (("1", "1", 0.5), ("2", "1", 0.5))]
    lines += [line(value, init="b", upstream=u, seed=s) for u, s, value in (("1", "1", 0.6), ("2", "1", 0.7))]
    lines.append(line(0.1, init="b", upstream="2", seed="2"))
    found = {e.label: e for e in entries(lines, compare="init", repeats=("upstream", "seed"))}["b"]
    assert found.comparison is not None
    assert found.comparison.by_unit == pytest.approx({"1": 0.1, "2": 0.2})
    assert found.spread.mean == pytest.approx((0.6 + 0.4) / 2)


def test_pairs_are_matched_by_repeat_and_tested_as_scipy_does() -> None:
    ours = {"1": 0.71, "2": 0.65, "3": 0.80, "4": 0.77, "9": 0.1}
    theirs = {"3": 0.74, "2": 0.66, "1": 0.63, "4": 0.70, "8": 0.9}
    found = compared(ours, theirs)
    assert found is not None
    first, second = [0.71, 0.65, 0.80, 0.77], [0.63, 0.66, 0.74, 0.70]
    assert found.difference.mean == pytest.approx(0.05)
    assert found.t_p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert found.equivalence_p is None
    within = compared(ours, theirs, margin=0.2)
    assert within is not None and 0 < within.equivalence_p < 0.05


def test_a_method_whose_runs_all_diverged_has_the_scale_of_its_metric() -> None:
    lines = [line(None, method="a", seed="1"), line(0.5, method="b", seed="1"), line(0.7, method="b", seed="2")]
    found = {entry.label: entry for entry in entries(lines, compare="method")}
    assert found["a"].diverged == 1
    assert found["a"].scale == found["b"].scale == Scales()["accuracy"]


def test_what_cannot_be_tested_is_not() -> None:
    assert compared({"1": 0.5}, {"2": 0.5}) is None
    one = compared({"1": 0.6}, {"1": 0.5})
    assert one is not None and (one.t_p, one.wilcoxon_p) == (None, None)
    same = compared({"1": 0.6, "2": 0.7}, {"1": 0.6, "2": 0.7})
    assert same is not None and (same.t_p, same.wilcoxon_p) == (1.0, 1.0)


@pytest.mark.parametrize("ours", [{"1": 0.5, "2": 0.75}, {"1": 0.32, "2": 0.57}])
def test_a_difference_that_is_the_same_in_every_pair_has_no_t_test(ours: dict[str, float]) -> None:
    """The second differs by 0.07 twice, but for rounding; Wilcoxon of two equal signs is 2/2² by hand."""
    found = compared(ours, {"1": 0.25, "2": 0.5})
    assert found is not None and (found.t_p, found.wilcoxon_p) == (None, 0.5)


def test_what_rounding_leaves_of_tasks_that_cancel_out_is_no_difference() -> None:
    """A row of 100 won on one task and lost on the other, in each of five pairs: what is left, about −5e-17, had a t of
    SciPy's with p below 0.01."""
    won = {"1": (57, 56), "2": (57, 56), "3": (57, 56), "4": (57, 56), "5": (29, 28)}
    lost = {"1": (90, 91), "2": (90, 91), "3": (90, 91), "4": (90, 91), "5": (90, 91)}
    tasks = [
        compared({seed: a / 100 for seed, (a, _) in pairs.items()}, {seed: b / 100 for seed, (_, b) in pairs.items()})
        for pairs in (won, lost)
    ]
    pooled = pooled_over_tasks([each for each in tasks if each is not None], margin=0.01)
    assert pooled is not None and any(pooled.by_unit.values())
    assert stats.ttest_1samp(list(pooled.by_unit.values()), 0).pvalue < 0.01
    assert (pooled.t_p, pooled.wilcoxon_p, pooled.equivalence_p) == (1.0, 1.0, 0.0)


def test_the_rank_test_is_exact_with_a_difference_of_nothing_and_with_equal_ones() -> None:
    """By hand: the pair without a difference is left out; four of one sign have 2/2⁴, as SciPy has it from 1.15 on."""
    theirs = {"1": 0.5, "2": 0.5, "3": 0.5, "4": 0.5, "5": 0.5}
    found = compared({"1": 0.5, "2": 0.625, "3": 0.625, "4": 0.75, "5": 0.875}, theirs)
    assert found is not None and found.wilcoxon_p == 0.125


def test_differences_of_the_same_number_of_rows_have_the_same_rank() -> None:
    """0.8 − 0.7 and 0.3 − 0.2 differ in the last digit; SciPy's exact p of +1, +1, −1, +2, +3 tenths is 0.25."""
    ours = {"1": 0.8, "2": 0.3, "3": 0.2, "4": 0.7, "5": 0.9}
    theirs = {"1": 0.7, "2": 0.2, "3": 0.3, "4": 0.5, "5": 0.6}
    found = compared(ours, theirs)
    assert found is not None and found.wilcoxon_p == stats.wilcoxon([1, 1, -1, 2, 3]).pvalue


def test_entries_compare_each_label_with_the_reference_at_the_same_place() -> None:
    lines = [
        line(value, init=init, fraction=fraction, seed=seed)
        for init, fraction, values in [
            ("encoder", "0.01", (0.5, 0.6)),
            ("encoder", "1.0", (0.9,)),
            ("mt-dnn", "0.01", (0.7, 0.7)),
            ("mt-dnn", "1.0", (0.8,)),
        ]
        for seed, value in zip("12", values, strict=False)
    ]
    found = {(e.label, e.across): e for e in entries(lines, compare="init", reference="encoder", across="fraction")}
    assert found["encoder", "0.01"].comparison is None
    assert found["mt-dnn", "0.01"].comparison.difference.mean == pytest.approx(0.15)
    assert found["mt-dnn", "1.0"].comparison.difference.mean == pytest.approx(-0.1)
    assert found["mt-dnn", "0.01"].train_rows == 100


def test_a_reference_that_was_run_once_is_that_of_every_value_of_the_other_axes() -> None:
    """As a baseline beside three weights of a method: there was no test at all."""
    plain = [line(0.5 + seed / 100, method="plain", weight="1", seed=str(seed)) for seed in range(3)]
    others = [
        line(0.6 + seed * int(weight) / 100, method="smart", weight=weight, seed=str(seed))
        for weight in "13"
        for seed in range(3)
    ]
    found = {entry.label: entry for entry in entries([*plain, *others], compare="method", reference="plain")}
    assert {label: entry.against for label, entry in found.items()} == dict.fromkeys(found, "plain") and len(found) == 3
    difference = found["smart, weight 3"].comparison
    assert difference is not None and difference.difference.mean == pytest.approx(0.12)
    both = [*plain, *others, *(line(0.4, method="plain", weight="3", seed=str(seed)) for seed in range(3))]
    alike = {entry.label: entry.against for entry in entries(both, compare="method", reference="plain")}
    assert alike["smart, weight 3"] == "plain, weight 3"


def test_diverged_runs_are_counted_and_never_averaged() -> None:
    lines = [line(0.8, init="a", seed="1"), line(None, init="a", seed="2"), line(0.6, init="a", seed="3")]
    (found,) = entries(lines, compare="init")
    assert (found.spread.count, found.spread.mean, found.diverged) == (2, pytest.approx(0.7), 1)


def test_a_method_whose_runs_all_diverge_keeps_its_place() -> None:
    lines = [
        line(None, init="a", seed="1"), line(None, init="a", seed="2"),
        line(0.8, init="b", seed="1"), line(0.7, metric="f1", init="b", seed="1"),
        line(0.4, split="test", init="b", seed="1"),
    ]  # fmt: skip
    found = {(e.split, e.metric, e.label): (e.spread.count, e.diverged) for e in entries(lines, compare="init")}
    places = [("dev", "accuracy"), ("dev", "f1"), ("test", "accuracy")]
    assert list(found.items()) == [((*place, "a"), (0, 2)) for place in places] + [
        ((*place, "b"), (1, 0)) for place in places
    ]
    assert all(entry.comparison is None for entry in entries(lines, compare="init", reference="b"))


def test_runs_no_better_than_the_most_frequent_label_are_counted() -> None:
    lines = [line(value, init="a", seed=str(n)) for n, value in enumerate((0.5, 0.53, 0.6))]
    (found,) = entries(lines, compare="init")
    assert no_better_than_chance(found, 0.53) == 2


def test_axes_that_vary_in_addition_to_the_compared_one_are_distinguished() -> None:
    lines = [line(0.5, init="a", lr="1e-5", seed="1"), line(0.7, init="a", lr="1e-4", seed="1")]
    assert [entry.label for entry in entries(lines, compare="init")] == ["a, lr 1e-5", "a, lr 1e-4"]


def test_runs_of_two_stages_with_the_same_values_are_kept_apart() -> None:
    """The last of the two would otherwise be the only one: 0.9, and 0.8 with the stage that has seed 2 alone."""
    stages = {"one": ((0.5, "1"), (0.6, "2")), "two": ((0.9, "1"), (0.8, "2"))}
    lines = [
        replace(line(value + gain, init=init, seed=seed), stage=stage)
        for init, gain in (("a", 0.0), ("b", 0.1))
        for stage, runs in stages.items()
        for value, seed in runs
    ]
    found = {entry.label: entry for entry in entries(lines, compare="init", reference="a")}
    means = {"a, stage one": 0.55, "a, stage two": 0.85, "b, stage one": 0.65, "b, stage two": 0.95}
    assert {label: entry.spread.mean for label, entry in found.items()} == pytest.approx(means)
    assert found["b, stage two"].comparison is not None
    assert found["b, stage two"].comparison.by_unit == pytest.approx({"1": 0.1, "2": 0.1})


def test_stages_that_share_no_place_are_one_label() -> None:
    lines = [replace(line(0.5, init="a", seed="1"), stage="one"), replace(line(0.7, init="a", seed="2"), stage="two")]
    (found,) = entries(lines, compare="init")
    assert (found.label, found.spread.mean) == ("a", 0.6)


def test_an_axis_that_only_names_the_task_is_not_part_of_the_label() -> None:
    lines = [line(0.5, init="a", data="rte", seed="1"), line(0.7, task="mrpc", init="a", data="mrpc", seed="1")]
    assert [(entry.task, entry.label) for entry in entries(lines, compare="init")] == [("rte", "a"), ("mrpc", "a")]


def test_tuned_axes_show_their_best_value_per_task_and_label() -> None:
    grid = {("a", "1"): (0.5, 0.6), ("a", "2"): (0.7, 0.5), ("b", "1"): (0.9, 0.8), ("b", "2"): (0.1, 0.2)}
    lines = [
        line(value, init=init, lr=lr, seed=seed)
        for (init, lr), values in grid.items()
        for seed, value in zip("12", values, strict=True)
    ]
    kept = best_of(lines, compare="init", across=None, best_over=["lr"])
    assert {(each.axes["init"], each.axes["lr"]) for each in kept} == {("a", "2"), ("b", "1")}
    found = entries(lines, compare="init", best_over=["lr"])
    assert {entry.label: entry.spread.mean for entry in found} == {"a": pytest.approx(0.6), "b": pytest.approx(0.85)}


def test_each_label_has_a_best_value_of_its_own() -> None:
    """Both poolings are of the method `a`, and are tuned apart."""
    grid = {("first", "1"): 0.9, ("first", "2"): 0.1, ("mean", "1"): 0.5, ("mean", "2"): 0.8}
    lines = [
        line(value, init="a", pooling=pooling, lr=lr, seed=seed)
        for (pooling, lr), value in grid.items()
        for seed in "12"
    ]
    found = entries(lines, compare="init", best_over=["lr"])
    assert {entry.label: entry.spread.mean for entry in found} == {"a, pooling first": 0.9, "a, pooling mean": 0.8}


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_a_tuned_value_that_diverges_more_often_is_not_the_best(metric: str) -> None:
    good, better = (0.69, 0.70) if metric == "accuracy" else (0.70, 0.69)
    runs = {"often": [better, None, None, None, None], "always": [None] * 5, "never": [good] * 5}
    lines = [
        line(value, metric=metric, init="a", lr=lr, seed=str(seed))
        for lr, values in runs.items()
        for seed, value in enumerate(values)
    ]
    kept = best_of(lines, compare="init", across=None, best_over=["lr"])
    assert {each.axes["lr"] for each in kept} == {"never"}
    kept = best_of(lines[:10], compare="init", across=None, best_over=["lr"])
    assert [each.axes["lr"] for each in kept] == ["often"] * 5
    (found,) = entries(lines[:10], compare="init", best_over=["lr"])
    assert (found.spread.count, found.diverged) == (1, 4)


def test_a_method_that_diverges_at_every_tuned_value_is_shown_at_the_first() -> None:
    lines = [line(None, init="a", lr=lr, seed="1") for lr in "12"] + [line(0.5, init="b", lr="1", seed="1")]
    found = entries(lines, compare="init", best_over=["lr"])
    assert [(entry.label, entry.spread.count, entry.diverged) for entry in found] == [("a", 0, 1), ("b", 1, 0)]


def test_an_error_is_tuned_to_be_small() -> None:
    lines = [line(value, metric="mse", init="a", lr=lr, seed="1") for lr, value in (("1", 0.4), ("2", 0.3))]
    kept = best_of(lines, compare="init", across=None, best_over=["lr"])
    assert [each.axes["lr"] for each in kept] == ["2"]
