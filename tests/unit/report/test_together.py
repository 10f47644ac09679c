"""Each task alone and with others: from the runs of a study, and from folders of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtdnn.errors import DataError
from mtdnn.metrics.base import Scale
from mtdnn.report.document import Document, to_markdown
from mtdnn.report.together import together_of_runs, together_of_study
from mtdnn.study.table import Line
from tests.conftest import Demo

ACCURACY, LOSS = Scale("maximize", percent=True), Scale("minimize")


def line(task: str, run: str, value: float, *, method: str, seed: int, trained: bool = True, metric: str = "a") -> Line:
    axes = {"method": method, "seed": str(seed)}
    rows = 9 if trained else None
    return Line("s", axes, "finished", task, "dev", rows, metric, value, run, ACCURACY if metric == "a" else LOSS)


def shown(blocks) -> str:
    document = Document("Report")
    document.add(*blocks)
    return to_markdown(document, pictures="pictures")


def study_lines() -> list[Line]:
    """A task with values alone of 50, 60 and 70 %, and 60, 65 and 80 % with another one."""
    lines = []
    for seed, alone, together in ((1, 0.5, 0.6), (2, 0.6, 0.65), (3, 0.7, 0.8)):
        lines += [line("rte", f"alone{seed}", alone, method="alone", seed=seed)]
        lines += [line("rte", f"both{seed}", together, method="fixed", seed=seed)]
        lines += [line("rte", f"both{seed}", 0.1, method="fixed", seed=seed, metric="other")]
        lines += [line("mrpc", f"both{seed}", 0.9, method="fixed", seed=seed)]
        lines += [line("ax", f"alone{seed}", 0.3, method="alone", seed=seed, trained=False)]
    return lines


def test_differences_of_a_study_are_paired_by_seed_with_a_t_interval():
    """Differences 10, 5, 10: mean 8.33, sd 2.89, t(2) = 4.303: 8.33 ± 7.17, p = 0.038."""
    text = shown(together_of_study(study_lines(), compare="method", repeats=("seed",)))
    assert "| rte | 60.0 | 68.3 | **+8.3** | +1.2 … +15.5 | 3 |" in text
    assert "mrpc" not in text and "ax" not in text  # never alone, never trained


def test_methods_have_a_line_each_and_are_corrected_together():
    more = [line("rte", f"up{seed}", 0.5, method="upgrad", seed=seed) for seed in (1, 2)]
    more += [line("mrpc", f"up{seed}", 0.5, method="upgrad", seed=seed) for seed in (1, 2)]
    text = shown(together_of_study([*study_lines(), *more], compare="method", repeats=("seed",)))
    assert "| rte | fixed | 60.0 | 68.3 | +8.3 | +1.2 … +15.5 | 3 |" in text  # 2 · 0.038 is not below 0.05
    assert "| rte | upgrad | 60.0 | 50.0 | -5.0 |" in text.replace("−", "-")


def test_of_several_ways_to_train_a_task_alone_the_references_counts():
    """The runs of the second method are of the same seeds; without a reference there is a line for each method."""
    more = [line("rte", f"smart{seed}", 0.9, method="SMART alone", seed=seed) for seed in (1, 2, 3)]
    lines = [*study_lines(), *more]
    text = shown(together_of_study(lines, compare="method", repeats=("seed",), reference="alone"))
    assert "| rte | 60.0 | 68.3 | **+8.3** | +1.2 … +15.5 | 3 |" in text and "90.0" not in text
    text = shown(together_of_study(lines, compare="method", repeats=("seed",), reference="fixed"))
    assert "| rte | alone | 60.0 | 68.3 | +8.3 |" in text.replace("**", "")
    assert "| rte | SMART alone | 90.0 | 68.3 | -21.7 |" in text.replace("−", "-").replace("**", "")


def test_ways_of_training_together_in_another_stage_have_a_line_each():
    """A stage without the compared axis has two kinds of runs of several tasks: neither replaces the other."""
    lines = [line("rte", f"alone{seed}", 0.7, method="single", seed=seed) for seed in (1, 2)]
    for objective, value in (("plain", 0.8), ("smart", 0.6)):
        for seed in "12":
            axes, run = {"objective": objective, "seed": seed}, f"{objective}{seed}"
            lines += [
                Line("multi_task", axes, "finished", task, "dev", 9, "a", value, run, ACCURACY)
                for task in ("rte", "mrpc")
            ]
    text = shown(together_of_study(lines, compare="method", repeats=("seed",)))
    assert "| rte | multi_task, objective plain | 70.0 | 80.0 | +10.0 |" in text
    assert "| rte | multi_task, objective smart | 70.0 | 60.0 | −10.0 |" in text


def test_runs_are_compared_with_those_in_their_column():
    lines = [
        Line("s", {"method": method, "fraction": fraction, "seed": seed}, "finished", task, "dev", 9, "a", value,
             f"{method}{fraction}{seed}", ACCURACY)
        for fraction, low in (("0.1", 0.5), ("1", 0.7))
        for seed in "12"
        for method, tasks, value in (("alone", ["rte"], low), ("both", ["rte", "mrpc"], low + 0.1))
        for task in tasks
    ]  # fmt: skip
    text = shown(together_of_study(lines, compare="method", repeats=("seed",), across="fraction"))
    assert "| rte | 0.1 | 50.0 | 60.0 | +10.0 |" in text and "| rte | 1 | 70.0 | 80.0 | +10.0 |" in text


def test_a_study_without_runs_of_single_tasks_has_no_such_table():
    lines = [each for each in study_lines() if each.run.startswith("both")]
    assert together_of_study(lines, compare="method", repeats=("seed",)) == []


def run_folder(demo: Demo, path: Path, *, train: list[str], seed: int, accuracy: float) -> Path:
    """The folder of a finished run, without weights."""
    from mtdnn.config.run import load_run_config

    path.mkdir()
    (path / "tasks.yml").write_text(demo.tasks.read_text())
    config = load_run_config(None, demo.run_values(path, train=train, seed=seed))
    (path / "run.yml").write_text(config.to_yaml())
    results = {task: {"dev": {"accuracy": accuracy, "rows": 24}} for task in train}
    (path / "results.json").write_text(json.dumps({**results, "_run": {"seed": seed}}))
    return path


def test_runs_given_by_their_folders_are_paired_by_seed(demo: Demo, tmp_path: Path):
    alone = [run_folder(demo, tmp_path / f"a{n}", train=["demo_nli"], seed=n, accuracy=0.5) for n in (1, 2, 4)]
    both = ["demo_nli", "demo_sentiment"]
    together = [run_folder(demo, tmp_path / f"b{n}", train=both, seed=n, accuracy=0.5 + n / 10) for n in (1, 2, 3)]
    text = shown(together_of_runs(together, alone))
    assert "| demo_nli | 50.0 | 70.0 | +15.0 |" in text and "| 2 |" in text and "demo_sentiment" not in text
    one = shown(together_of_runs(together[:1], alone[:1]))
    assert "| demo_nli | 50.0 | 60.0 | +10.0 | – | 1 |" in one


def test_a_run_of_several_tasks_is_not_alone_and_seeds_occur_once(demo: Demo, tmp_path: Path):
    both = run_folder(demo, tmp_path / "b", train=["demo_nli", "demo_sentiment"], seed=1, accuracy=0.5)
    again = run_folder(demo, tmp_path / "c", train=["demo_nli", "demo_sentiment"], seed=1, accuracy=0.5)
    with pytest.raises(DataError, match=r"trains demo_nli, demo_sentiment, not one task\. Give runs of single tasks"):
        together_of_runs([], [both])
    with pytest.raises(DataError, match="a second run of 'demo_nli' with seed 1"):
        together_of_runs([both, again], [])


def test_runs_measured_in_two_ways_are_not_subtracted(demo: Demo, tmp_path: Path):
    alone = run_folder(demo, tmp_path / "a", train=["demo_nli"], seed=1, accuracy=0.5)
    both = run_folder(demo, tmp_path / "b", train=["demo_nli", "demo_sentiment"], seed=1, accuracy=0.6)
    (alone / "results.json").write_text(json.dumps({"demo_nli": {"dev": {"mcc": 0.2, "accuracy": 0.5, "rows": 24}}}))
    with pytest.raises(DataError) as caught:
        together_of_runs([both], [alone])
    assert str(caught.value) == (
        f"{both}: 'demo_nli' is measured by accuracy on dev, and in {alone} by mcc on dev. "
        "Give runs of one definition of the task."
    )


def test_runs_of_which_none_make_a_pair_are_reported_with_their_seeds(demo: Demo, tmp_path: Path):
    alone = run_folder(demo, tmp_path / "a", train=["demo_nli"], seed=2, accuracy=0.5)
    both = run_folder(demo, tmp_path / "b", train=["demo_nli", "demo_sentiment"], seed=1, accuracy=0.6)
    with pytest.raises(DataError) as caught:
        together_of_runs([both], [alone])
    assert str(caught.value) == (
        f"{both}: alone: no two runs have a task and a seed in common; alone: demo_nli with seed 2; with others: "
        "demo_nli with seed 1; demo_sentiment with seed 1. Give runs of one task with these seeds."
    )
    with pytest.raises(DataError, match="alone: none; with others: demo_nli with seed 1"):
        together_of_runs([both], [])


def test_the_command_adds_the_table_to_the_report_of_a_run(demo: Demo, tmp_path: Path):
    from mtdnn.cli.main import main

    alone = run_folder(demo, tmp_path / "a", train=["demo_nli"], seed=1, accuracy=0.5)
    both = run_folder(demo, tmp_path / "b", train=["demo_nli", "demo_sentiment"], seed=1, accuracy=0.6)
    main(["report", str(both), "--alone", str(alone)])
    assert "## Alone and together" in (both / "report.md").read_text(encoding="utf-8")
