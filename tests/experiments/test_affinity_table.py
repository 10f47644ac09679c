"""The table of the study of affinities, from lines written by hand."""

from experiments.affinity.table import gains, report
from mtdnn.metrics.base import Scale
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
    text = report(lines, affinities).splitlines()
    assert [each.split()[:4] for each in text[1:4]] == [
        ["rte", "mrpc", "+3", "+3.0"], ["rte", "stsb", "+1", "+2.0"], ["rte", "cola", "-2", "-1.0"],
    ]  # fmt: skip
    assert text[-1].startswith("rte: Spearman's ρ 1.00")
