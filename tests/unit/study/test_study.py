"""A study: its cells, that each is run once, and what becomes of broken, diverged and contested ones."""

import json
import multiprocessing
import os
import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mtdnn.config.run import RunConfig
from mtdnn.errors import ConfigError
from mtdnn.study import launchers, scheduler
from mtdnn.study.cells import (
    Diverged,
    Ended,
    Outcome,
    locked,
    read_error,
    read_outcome,
    run_cell_once,
    writing_results,
)
from mtdnn.study.grid import Cell, Grid, write_study_files
from mtdnn.study.launchers import Here, Processes, Ray, _Worker, threads_each
from mtdnn.study.load import load_study
from mtdnn.study.run import chosen_cells
from mtdnn.study.scheduler import MAX_LOSSES, Summary, run_cells, write_results
from mtdnn.study.statistics import best_of
from mtdnn.study.table import read_csv
from mtdnn.study.variables import as_in_yaml

TASKS = {
    "rte": {"task_type": "classification", "labels": ["yes", "no"], "inputs": ["premise", "hypothesis"]},
    "mrpc": {"task_type": "classification", "labels": ["0", "1"], "inputs": ["one", "two"]},
}


def a_study(folder: Path, **changes: Any) -> Path:
    """A study of two stages: 1 run of both tasks, then 2 methods × 2 tasks × 2 seeds that start from it or not."""
    (folder / "tasks.yml").write_text(yaml.safe_dump(TASKS), encoding="utf-8")
    study: dict[str, Any] = {
        "output": str(folder / "study"),
        "variables": {"encoder": "tiny"},
        "run": {"tasks": "${here}/tasks.yml", "data": "prepared", "encoder": "${encoder}", "optimizer.lr": 1e-4},
        "stages": {
            "multi_task": {"run": {"train": ["rte", "mrpc"]}, "axes": {"seed": [1]}},
            "fine_tune": {
                "axes": {
                    "init": {"encoder": None, "mt-dnn": {"encoder": {"run": {"stage": "multi_task"}}}},
                    "data_set": {"rte": {"train": ["${data_set}"]}, "mrpc": {"train": ["${data_set}"]}},
                    "seed": [1, 2],
                }
            },
        },
    }
    study.update(changes)
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def grid_of(folder: Path, **changes: Any) -> Grid:
    return load_study(a_study(folder, **changes))


def cell_of(grid: Grid, **axes: str) -> Cell:
    found = [cell for cell in grid.cells if all(cell.axes.get(axis) == value for axis, value in axes.items())]
    assert len(found) == 1, [cell.name for cell in found]
    return found[0]


def score_of_seed(cell: Cell) -> Outcome:
    """Stands in for a training run: an accuracy that tells the cell's seed."""
    tasks = cell.config.train or ()
    return {"results": {task: {"dev": {"accuracy": cell.config.seed / 10, "rows": 5}} for task in tasks}, "rows": {}}


def dev_and_test_scores(cell: Cell) -> Outcome:
    """As a run whose splits are `dev: validation, test: test` gives them: in the order of the roles."""
    dev, test = (0.7, 0.6) if cell.config.optimizer.lr == 1e-4 else (0.6, 0.7)
    splits = {"validation": {"accuracy": dev, "rows": 5}, "test": {"accuracy": test, "rows": 5}}
    return {"results": {"rte": splits}, "rows": {}}


def breaks_for_seed_2_of_mrpc(cell: Cell) -> Outcome:
    if cell.config.seed == 2 and cell.config.train == ("mrpc",):
        raise ConfigError("data/mrpc/train: is not prepared. Run mtdnn prepro.")
    return score_of_seed(cell)


def breaks_in_the_first_stage(cell: Cell) -> Outcome:
    if cell.stage == "multi_task":
        raise RuntimeError("no luck")
    return score_of_seed(cell)


def diverges_for_seed_2(cell: Cell) -> Outcome:
    if cell.config.seed == 2:
        raise Diverged("step 7: task 'rte': the loss is nan")
    return score_of_seed(cell)


def diverges_in_the_first_stage(cell: Cell) -> Outcome:
    if cell.stage == "multi_task":
        raise Diverged("step 7: the loss is nan")
    return score_of_seed(cell)


def dies_for_seed_2_of_mrpc(cell: Cell) -> Outcome:
    if cell.config.seed == 2 and cell.config.train == ("mrpc",):
        os.kill(os.getpid(), 9)
    return score_of_seed(cell)


def slow_score(cell: Cell) -> Outcome:
    time.sleep(0.2)
    return score_of_seed(cell)


def attempts(cell: Cell) -> list[str]:
    path = cell.folder / "attempts.jsonl"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


# -- the grid ---------------------------------------------------------------------------------------------------


def test_every_combination_is_a_cell_and_stages_come_in_order(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    assert [cell.stage for cell in grid.cells] == ["multi_task"] + ["fine_tune"] * 8
    assert grid.axes == ["seed", "init", "data_set"]
    names = [cell.name for cell in grid.cells]
    assert len(set(names)) == 9
    assert names[1].startswith("fine_tune/encoder_rte_1-")


def test_a_stage_starts_from_the_run_of_an_earlier_one(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    first = grid.cells[0]
    later = cell_of(grid, init="mt-dnn", data_set="rte", seed="2")
    assert later.needs == (first.name,)
    assert later.config.encoder.run == str(first.run_folder)  # type: ignore[union-attr]
    assert cell_of(grid, init="encoder", data_set="rte", seed="2").config.encoder == "tiny"


def test_an_axis_the_earlier_stage_shares_is_matched_by_value(tmp_path: Path) -> None:
    stages = yaml.safe_load(a_study(tmp_path).read_text())["stages"]
    stages["multi_task"]["axes"]["seed"] = [1, 2]
    grid = grid_of(tmp_path, stages=stages)
    for seed in ("1", "2"):
        (needed,) = cell_of(grid, init="mt-dnn", data_set="rte", seed=seed).needs
        assert needed.startswith(f"multi_task/{seed}-")


def test_the_name_changes_with_what_decides_the_numbers_and_with_nothing_else(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    run = yaml.safe_load(a_study(tmp_path).read_text())["run"]

    def names(**changes: Any) -> list[str]:
        return [cell.name for cell in grid_of(tmp_path, **changes).cells]

    same = [cell.name for cell in grid.cells]
    assert names(output=str(tmp_path / "elsewhere")) == same
    assert names(run={**run, "threads": 2, "log_every": 5}) == same
    assert not set(names(run={**run, "optimizer.lr": 2e-4})) & set(same)


def test_an_option_of_a_later_version_that_is_off_leaves_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, dump = [cell.name for cell in grid_of(tmp_path).cells], RunConfig.model_dump

    def with_new_option(self: RunConfig, *, exclude_none: bool = False, **options: Any) -> dict[str, Any]:
        return dump(self, exclude_none=exclude_none, **options) | ({} if exclude_none else {"new": None})

    monkeypatch.setattr(RunConfig, "model_dump", with_new_option)
    assert [cell.name for cell in grid_of(tmp_path).cells] == before


def test_a_changed_first_stage_renames_only_what_starts_from_it(tmp_path: Path) -> None:
    before = grid_of(tmp_path)
    stages = yaml.safe_load(a_study(tmp_path).read_text())["stages"]
    stages["multi_task"]["run"]["epochs"] = 7
    after = grid_of(tmp_path, stages=stages)
    names = {cell.name for cell in before.cells}
    changed = [cell for cell in after.cells if cell.name not in names]
    assert {cell.axes.get("init", cell.stage) for cell in changed} == {"multi_task", "mt-dnn"}
    assert len(changed) == 5


def test_a_task_option_can_be_an_axis_and_the_cell_gets_its_own_task_file(tmp_path: Path) -> None:
    stages = {"only": {"axes": {"tasks.rte.dropout": [0.0, 0.3], "train": [["rte"]]}}}
    grid = grid_of(tmp_path, stages=stages)
    run_cells(grid, Here(score_of_seed), progress=False)
    dropouts = [yaml.safe_load(Path(cell.config.tasks).read_text())["rte"]["dropout"] for cell in grid.cells]
    assert dropouts == [0.0, 0.3]
    assert "dropout" not in yaml.safe_load((tmp_path / "tasks.yml").read_text())["rte"]


def test_skip_and_cases_speak_of_some_combinations_only(tmp_path: Path) -> None:
    stages = yaml.safe_load(a_study(tmp_path).read_text())["stages"]
    stages["fine_tune"]["skip"] = [{"data_set": "mrpc", "seed": [2]}]
    stages["fine_tune"]["cases"] = [{"when": {"data_set": "rte", "init": "mt-dnn"}, "run": {"max_steps": 9}}]
    grid = grid_of(tmp_path, stages=stages)
    assert len(grid.cells) == 9 - 2
    steps = {(cell.axes.get("init"), cell.axes.get("data_set")): cell.config.max_steps for cell in grid.cells}
    assert steps == {(None, None): None, ("encoder", "rte"): None, ("encoder", "mrpc"): None,
                     ("mt-dnn", "rte"): 9, ("mt-dnn", "mrpc"): None}  # fmt: skip


def test_what_every_cell_has_wrong_is_reported_once(tmp_path: Path) -> None:
    stages = {"only": {"run": {"max_stps": 9}, "axes": {"seed": [1, 2, 3], "train": [["rte"]]}}}
    with pytest.raises(ConfigError) as caught:
        grid_of(tmp_path, stages=stages)
    (line,) = caught.value.lines
    assert "only (seed 1" in line and line.endswith("Did you mean 'max_steps'?")


def test_a_number_in_yaml_may_name_a_value(tmp_path: Path) -> None:
    axes = {"fraction": {0.01: {"subset": {"${data_set}": {"fraction": "${fraction}", "seed": "${seed}"}}}},
            "data_set": {"rte": {"train": ["rte"]}}, "seed": [3]}  # fmt: skip
    (cell,) = grid_of(tmp_path, stages={"only": {"axes": axes}}).cells
    assert cell.axes["fraction"] == "0.01"
    assert cell.config.subset["rte"].model_dump() == {"fraction": 0.01, "rows": None, "seed": 3}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"axes": {"seed": [1], "optimiser.lr": [1e-3]}}, "optimiser"),
        ({"axes": {"seed": []}}, "the axis 'seed' has no value"),
        (
            {"axes": {"seed": [1, 2]}, "labels": {"seed": "3"}},
            "seed: is already an axis of the stage. Rename the label.",
        ),
        ({"axes": {"seed": [1], "task": {"a": None}}}, "task: is already a column of results.csv"),
        ({"axes": {"seed": [1]}, "skip": [{"sed": ["1"]}]}, "unknown axis 'sed'; known: seed. Did you mean 'seed'?"),
        ({"axes": {"seed": [1]}, "skip": [{"seed": ["2"]}]}, "unknown value '2'; known: 1."),
        ({"axes": {"seed": [1]}, "run": {"train": ["rtee"]}}, "train: unknown task 'rtee'; known: mrpc, rte."),
        ({"axes": {"seed": [1]}, "run": {"encoder": {"run": {"stage": "first"}}}}, "unknown stage 'first'"),
        ({"axes": {"seed": [1]}, "run": {"tasks.rt.dropout": 0.2}}, "unknown task 'rt'"),
    ],
)
def test_faults_name_the_file_or_the_cell(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid_of(tmp_path, stages={"only": change})
    assert "study.yml" in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"axes": {"seed": [1]}, "run": {"max_stps": 9}}, "max_stps: 9"),
        ({"axes": {"seed": [1], "optimiser.lr": [0.1]}}, "- 0.1"),
        ({"axes": {"seed": [1], "method": {"a": {"optimizer": {"lr": -3}}}}}, "lr: -3"),
        ({"axes": {"fraction": {0.5: {"max_stps": 9}}}}, "max_stps: 9"),
        ({"axes": {"seed": [1]}, "cases": [{"when": {"seed": "1"}, "run": {"optimizer.lr": -1}}]}, "optimizer.lr: -1"),
        ({"axes": {"seed": [1]}, "run": {"train": ["rtee"]}}, "train:"),
        ({"axes": {"seed": [1]}, "run": {"tasks.rt.dropout": 0.2}}, "tasks.rt.dropout: 0.2"),
        ({"axes": {"seed": [1]}, "run": {"tasks.rte.dropout": 2}}, "tasks.rte.dropout: 2"),
    ],
)
def test_an_error_of_a_cell_is_reported_at_the_line_that_sets_the_option(
    tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        grid_of(tmp_path, stages={"only": change})
    (reported,) = caught.value.faults
    lines = (tmp_path / "study.yml").read_text(encoding="utf-8").splitlines()
    assert reported.place.name == str(tmp_path / "study.yml") and reported.place.line is not None
    assert lines[reported.place.line - 1].strip() == line
    assert re.search(r"study.yml:\d+: only \((seed 1|fraction 0.5)", str(reported))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"compare": "nosuch"}, "report.compare: unknown axis 'nosuch'; known: seed, init, data_set."),
        ({"across": "sed"}, "report.across: unknown axis 'sed'; known: seed, init, data_set. Did you mean 'seed'?"),
        ({"best_over": ["lr"]}, "report.best_over: unknown axis 'lr'"),
        ({"repeats": "sede"}, "report.repeats: unknown axis 'sede'"),
        ({"reference": "mtdnn"}, "report.reference: unknown value of 'init' 'mtdnn'; known: encoder, mt-dnn."),
    ],
)
def test_a_report_of_what_the_study_has_not_is_refused_with_its_line(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=rf"study.yml:\d+: {expected}"):
        grid_of(tmp_path, report={"compare": "init", **change})


def test_the_reference_may_be_a_number_as_the_values_of_its_axis_may(tmp_path: Path) -> None:
    stages = {"only": {"axes": {"epochs": [1.0, 9], "seed": [1]}}}
    for reference, name in ((9, "9"), (1.0, "1.0"), ("9", "9")):
        report = grid_of(tmp_path, stages=stages, report={"compare": "epochs", "reference": reference}).study.report
        assert report is not None and report.reference == name


def test_the_folder_of_a_cell_with_long_values_has_a_name_that_file_systems_allow(tmp_path: Path) -> None:
    values = {"x" * 200 + str(number): {"max_steps": number} for number in (1, 2)}
    grid = grid_of(tmp_path, stages={"only": {"axes": {"one": values, "other": {"y" * 100: {}}}}})
    write_study_files(grid)
    assert len({cell.folder for cell in grid.cells}) == 2 and all(cell.folder.is_dir() for cell in grid.cells)


def test_a_value_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"study.yml:\d+: stages.only.axes.seed: the value '1' is given twice. Remove"
    ):
        grid_of(tmp_path, stages={"only": {"axes": {"seed": [1, 2, 1]}}})


def test_a_value_with_keys_that_have_no_order_is_refused_as_other_values_are(tmp_path: Path) -> None:
    stage = {"axes": {"seed": [1]}, "run": {"tasks.rte.max_rows": {True: 1, "a": 2}}}
    with pytest.raises(ConfigError, match=r"rte\.max_rows: \{True: 1, 'a': 2\}: expected a whole number"):
        grid_of(tmp_path, stages={"only": stage})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1000", 1000), ("-0.5", -0.5), ("true", True), ("007", "007"), ("1e3", "1e3"), ("0.10", "0.10"), ("no", "no"),
     ("null", "null"), ('"x"', '"x"'), ("[1]", "[1]")],
)  # fmt: skip
def test_a_variable_given_as_a_flag_is_what_it_would_be_in_the_file(text: str, value: Any) -> None:
    """`--variables.rows 1000`, the default, gave every cell another name, and ran it again."""
    found = as_in_yaml(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("variables", ["x", 3, ["x"], {1: "x"}, True])
def test_variables_that_are_no_mapping_are_refused(tmp_path: Path, variables: Any) -> None:
    message = r"study.yml:\d+: variables: not a mapping of names to values. Declare each as `name: value`"
    with pytest.raises(ConfigError, match=message):
        load_study(a_study(tmp_path, variables=variables))


def test_an_unknown_name_in_a_value_is_refused_with_the_names_that_exist(tmp_path: Path) -> None:
    path = a_study(tmp_path, variables={"encoder": "tiny"}, output="${folder}/s")
    with pytest.raises(ConfigError, match=r"study.yml:\d+: output: unknown variable 'folder'; known: encoder, here."):
        load_study(path)
    for written in ("${encodr}", ["${encodr}-a"], {"run": "${encodr}"}):
        run = {"tasks": "${here}/tasks.yml", "data": "prepared", "encoder": written}
        path = a_study(tmp_path, variables={"encoder": "tiny"}, run=run)
        message = r"study.yml:\d+: .*: encoder: unknown variable 'encodr'; known: encoder, .*Did you mean 'encoder'\?"
        with pytest.raises(ConfigError, match=message):
            load_study(path)


def test_a_variable_nobody_gave_is_reported_with_its_line(tmp_path: Path) -> None:
    path = a_study(tmp_path, variables={"encoder": None, "upstream": None})
    with pytest.raises(ConfigError) as refused:
        load_study(path)
    assert "variables.encoder: no value. Give --encoder." in str(refused.value)
    assert "variables.upstream: no value. Give --variables.upstream." in str(refused.value)
    path = a_study(tmp_path, variables={"encoder": None})
    assert load_study(path, variables={"encoder": "other"}).cells[0].config.encoder == "other"
    with pytest.raises(ConfigError, match="unknown variable 'encder'"):
        load_study(path, variables={"encder": "other"})


def test_a_stage_that_keeps_no_weights_cannot_be_started_from(tmp_path: Path) -> None:
    stages = yaml.safe_load(a_study(tmp_path).read_text())["stages"]
    stages["multi_task"]["keep"] = "results"
    with pytest.raises(ConfigError, match="are not kept"):
        grid_of(tmp_path, stages=stages)


# -- running ----------------------------------------------------------------------------------------------------


def test_results_have_one_line_per_cell_task_split_and_metric(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    summary = run_cells(grid, Here(score_of_seed), progress=False)
    assert (summary.finished, summary.before, summary.broken) == (9, 0, {})
    lines = read_csv(grid.folder / "results.csv")
    assert len(lines) == (2 + 8) * 2
    assert {(line.axes["seed"], line.value) for line in lines if line.metric == "accuracy"} == {("1", 0.1), ("2", 0.2)}
    assert all((grid.folder / line.run).parent.is_dir() for line in lines)


def test_the_dev_split_comes_first_and_is_tuned_on_whatever_its_name(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, stages={"only": {"axes": {"train": [["rte"]], "optimizer.lr": [1e-4, 1e-5]}}})
    run_cells(grid, Here(dev_and_test_scores), progress=False)
    lines = read_csv(grid.folder / "results.csv")
    assert [line.split for line in lines] == ["validation", "validation", "test", "test"] * 2
    kept = best_of(lines, compare="train", across=None, best_over=["optimizer.lr"])
    assert {line.axes["optimizer.lr"] for line in kept} == {"0.0001"}


def test_a_finished_study_runs_nothing_and_writes_the_same_bytes(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    run_cells(grid, Here(score_of_seed), progress=False)
    before = (grid.folder / "results.csv").read_bytes()
    summary = run_cells(grid_of(tmp_path), Here(dies_for_seed_2_of_mrpc), progress=False)
    assert (summary.before, (grid.folder / "results.csv").read_bytes()) == (9, before)
    assert all(attempts(cell) == ["start", "finished"] for cell in grid.cells)


def test_a_call_for_some_stages_leaves_what_the_others_found(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    run_cells(grid, Here(score_of_seed), progress=False)
    results, plan = ((grid.folder / name).read_bytes() for name in ("results.csv", "study.json"))
    (grid.cells[0].folder / "outcome.json").unlink()
    first = chosen_cells(grid, ["multi_task"])
    summary = run_cells(grid, Here(score_of_seed), cells=first, progress=False)
    assert (summary.cells, summary.finished, summary.before) == (1, 1, 0)
    assert [(grid.folder / name).read_bytes() for name in ("results.csv", "study.json")] == [results, plan]


def test_a_call_for_some_stages_runs_no_others(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    summary = run_cells(grid, Here(score_of_seed), cells=chosen_cells(grid, ["multi_task"]), progress=False)
    assert summary.cells == 1
    assert [bool(attempts(cell)) for cell in grid.cells] == [True] + [False] * 8
    assert len(json.loads((grid.folder / "study.json").read_text())["cells"]) == 9


def test_a_stage_runs_alone_once_what_it_starts_from_is_finished(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    with pytest.raises(
        ConfigError, match="'multi_task' is left out, but other stages start from its runs that are not fin"
    ):
        chosen_cells(grid, ["fine_tune"])
    run_cells(grid, Here(score_of_seed), cells=chosen_cells(grid, ["multi_task"]), progress=False)
    summary = run_cells(grid, Here(score_of_seed), cells=chosen_cells(grid, ["fine_tune"]), progress=False)
    assert (summary.cells, summary.finished, summary.before, summary.blocked) == (8, 8, 0, {})


def test_a_stage_that_runs_alone_is_blocked_by_a_diverged_run_of_another(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    run_cells(grid, Here(diverges_in_the_first_stage), cells=chosen_cells(grid, ["multi_task"]), progress=False)
    summary = run_cells(grid, Here(score_of_seed), cells=chosen_cells(grid, ["fine_tune"]), progress=False)
    assert (summary.cells, summary.finished, len(summary.blocked)) == (8, 4, 4)


def test_a_start_that_could_be_one_of_several_runs_is_reported(tmp_path: Path) -> None:
    stages = yaml.safe_load(a_study(tmp_path).read_text())["stages"]
    stages["multi_task"]["axes"]["epochs"] = [2, 3]
    with pytest.raises(ConfigError) as caught:
        grid_of(tmp_path, stages=stages)
    assert "encoder.run: stage 'multi_task' has several values of 'epochs', and this cell has none" in str(caught.value)
    assert "Give one: epochs: 2 or 3." in str(caught.value)


def test_names_of_which_there_are_none_are_reported_as_such(tmp_path: Path) -> None:
    stages = {"only": {"axes": {"seed": [1]}, "run": {"encoder": {"run": {"stage": "first"}}}}}
    with pytest.raises(ConfigError, match=r"unknown stage 'first'; there is none here$"):
        grid_of(tmp_path, stages=stages)


def test_results_are_looked_up_only_once_those_before_are_written(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    write_study_files(grid)
    other = threading.Thread(target=write_results, args=(grid,))
    with writing_results(grid.folder):
        other.start()
        other.join(0.1)
        assert other.is_alive() and not (grid.folder / "results.csv").exists()
        run_cell_once(grid.cells[0], score_of_seed)
    other.join()
    assert {line.stage for line in read_csv(grid.folder / "results.csv")} == {"multi_task"}


def test_a_broken_cell_says_why_the_others_go_on_and_it_is_tried_again_next_time(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    summary = run_cells(grid, Here(breaks_for_seed_2_of_mrpc), progress=False)
    assert (summary.finished, len(summary.broken)) == (7, 2)
    broken = cell_of(grid, init="encoder", data_set="mrpc", seed="2")
    assert read_error(broken) == "data/mrpc/train: is not prepared. Run mtdnn prepro."
    assert attempts(broken) == ["start", "broken"]
    summary = run_cells(grid, Here(score_of_seed), progress=False)
    assert (summary.finished, summary.broken, read_error(broken)) == (9, {}, None)


def test_cells_that_start_from_a_broken_one_are_blocked_not_broken(tmp_path: Path) -> None:
    summary = run_cells(grid_of(tmp_path), Here(breaks_in_the_first_stage), progress=False)
    assert (summary.finished, len(summary.broken), len(summary.blocked)) == (4, 1, 4)
    assert set(summary.blocked.values()) == set(summary.broken)


def test_cells_that_would_start_from_a_diverged_run_are_blocked(tmp_path: Path) -> None:
    for _ in range(2):  # found out while running, and from the disk
        summary = run_cells(grid_of(tmp_path), Here(diverges_in_the_first_stage), progress=False)
        assert (summary.finished, len(summary.diverged), len(summary.blocked), summary.broken) == (5, 1, 4, {})


def test_a_diverged_run_is_an_outcome_and_is_not_tried_again(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    summary = run_cells(grid, Here(diverges_for_seed_2), progress=False)
    assert (summary.finished, len(summary.diverged)) == (9, 4)
    diverged = [line for line in read_csv(grid.folder / "results.csv") if line.outcome == "diverged"]
    assert [(line.task, line.value) for line in diverged] == [("rte", None), ("mrpc", None)] * 2
    run_cells(grid, Here(score_of_seed), progress=False)
    assert attempts(cell_of(grid, init="encoder", data_set="rte", seed="2")) == ["start", "diverged"]


def test_a_diverged_run_counts_for_every_task_it_would_have_measured(tmp_path: Path) -> None:
    stages = {"only": {"axes": {"seed": [2], "method": {"a": None}}}}
    path = Path(grid_of(tmp_path, stages=stages).source.path)
    tasks = {**TASKS, "hans": {**TASKS["rte"], "splits": {"dev": "dev"}, "head_of": "rte"}}
    (tmp_path / "tasks.yml").write_text(yaml.safe_dump(tasks, sort_keys=False))
    grid = load_study(path)
    run_cells(grid, Here(diverges_for_seed_2), progress=False)
    assert [line.task for line in read_csv(grid.folder / "results.csv")] == ["rte", "mrpc", "hans"]


def test_an_outcome_cut_short_or_of_other_settings_does_not_count(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    cell = grid.cells[0]
    run_cell_once(cell, score_of_seed)
    assert read_outcome(cell) is not None
    path = cell.folder / "outcome.json"
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert read_outcome(cell) is None
    path.write_text(whole.replace(cell.fingerprint, "0" * 64))
    assert read_outcome(cell) is None


def test_a_cell_another_process_works_on_is_left_alone(tmp_path: Path) -> None:
    cell = grid_of(tmp_path).cells[0]
    with locked(cell) as ours:
        assert ours
        assert run_cell_once(cell, score_of_seed) == "busy"
    assert run_cell_once(cell, score_of_seed) == "finished"
    assert attempts(cell) == ["start", "finished"]


def test_checkpoints_of_a_stage_that_keeps_results_only_are_removed(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, stages={"only": {"axes": {"train": [["rte"]]}, "keep": "results"}})
    run = grid.cells[0].run_folder
    for name in ("best", "last", "checkpoints/step-3", "predictions"):
        (run / name).mkdir(parents=True)
    run_cells(grid, Here(score_of_seed), progress=False)
    assert [path.name for path in run.iterdir()] == ["predictions"]


# -- processes --------------------------------------------------------------------------------------------------


def test_a_process_that_dies_at_every_attempt_breaks_only_its_own_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MAX_LOSSES", 0)
    grid = grid_of(tmp_path)
    summary = run_cells(grid, Processes(dies_for_seed_2_of_mrpc, jobs=2), progress=False)
    assert (summary.finished, len(summary.broken)) == (7, 2)
    assert set(summary.broken.values()) == {"its process was ended by signal 9 (out of memory?)"}
    assert run_cells(grid, Processes(score_of_seed, jobs=2), progress=False).finished == 9


def dies_once(cell: Cell) -> Outcome:
    """A process that is ended, by the system or with its machine, in the middle of one cell."""
    mark = cell.folder / "died"
    if cell.axes.get("init") == "encoder" and not mark.exists() and cell.config.seed == 2:
        mark.touch()
        os.kill(os.getpid(), 9)
    return score_of_seed(cell)


def test_a_cell_whose_process_was_killed_is_run_again(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    cells = [cell_of(grid, init="encoder", data_set="rte", seed=seed) for seed in ("1", "2")]
    summary = run_cells(grid, Processes(dies_once, jobs=1), cells=cells, progress=False)
    assert (summary.finished, summary.broken) == (2, {})
    assert [attempts(cell) for cell in cells] == [["start", "finished"], ["start", "lost", "start", "finished"]]
    assert read_error(cells[1]) is None


class _Loses:
    """A launcher that loses every cell."""

    busy_seconds = 0.0

    def __init__(self, ended: Ended | None = None) -> None:
        self.started: list[Cell] = []
        self._running: list[Cell] = []
        self._ended = ended

    def has_room(self) -> bool:
        return True

    def start(self, cell: Cell) -> None:
        self.started.append(cell)
        self._running.append(cell)

    def wait(self, seconds: float) -> list[Ended]:
        ended, self._running = self._running, []
        if self._ended is not None:
            return [self._ended._replace(cell=cell) for cell in ended]
        return [Ended(cell, "lost", "its machine is gone") for cell in ended]

    def close(self) -> None: ...


def test_a_cell_given_to_a_process_that_has_just_died_is_lost_and_the_study_runs_on(tmp_path: Path) -> None:
    worker = object.__new__(_Worker)
    worker.connection, theirs = multiprocessing.Pipe()
    theirs.close()
    ended: Any = SimpleNamespace(is_alive=lambda: True, join=lambda: None, exitcode=-9)
    worker.process, worker.gpu = ended, None
    processes = Processes(score_of_seed, jobs=1)
    processes._idle.append(worker)
    cell = grid_of(tmp_path).cells[0]
    processes.start(cell)
    assert processes.wait(1.0) == [Ended(cell, "lost", "its process was ended by signal 9 (out of memory?)")]


def test_a_cell_that_is_lost_again_and_again_is_broken(tmp_path: Path) -> None:
    grid, launcher = grid_of(tmp_path), _Loses()
    summary = run_cells(grid, launcher, progress=False)
    first = grid.cells[0]
    assert launcher.started.count(first) == MAX_LOSSES + 1
    assert summary.broken[first.name] == "its machine is gone"
    assert attempts(first) == ["lost", "lost"]
    assert run_cells(grid, Here(score_of_seed), progress=False).finished == 9


def test_a_cell_that_finishes_where_its_files_are_not_seen_is_not_run_for_ever(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    launcher = _Loses(Ended(grid.cells[0], "finished"))
    summary = run_cells(grid, launcher, progress=False)
    first = grid.cells[0]
    assert launcher.started.count(first) == MAX_LOSSES + 1
    assert "its outcome is not in" in summary.broken[first.name] and "share" in summary.broken[first.name]


def test_a_cell_on_ray_is_run_where_the_study_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers begin where `ray start` was given; paths of a study are named from where it was started."""
    seen, cell = [], grid_of(tmp_path).cells[0]

    def notes_folder(cell: Cell) -> Outcome:
        seen.append(Path.cwd())
        return score_of_seed(cell)

    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path / "worker")
    assert launchers._run_on_ray(cell, notes_folder, False, str(tmp_path)) == "finished"
    assert seen == [tmp_path] and Path.cwd() == tmp_path / "worker"


def notes_its_gpu(cell: Cell) -> Outcome:
    (cell.folder / "gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    time.sleep(0.3)  # so that every process gets a cell
    return score_of_seed(cell)


@pytest.mark.parametrize(
    ("jobs", "gpus", "used"),
    [
        (4, ["0", "1", "2", "3"], {"0", "1", "2", "3"}),
        (3, ["GPU-a", "GPU-b"], {"GPU-a", "GPU-b"}),
        (2, [], {"none"}),
    ],
)
def test_each_job_has_a_gpu_to_itself_as_long_as_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, gpus: list[str], used: set[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    grid = grid_of(tmp_path)
    assert run_cells(grid, Processes(notes_its_gpu, jobs=jobs, gpus=gpus), progress=False).finished == 9
    found = [path.read_text() for path in grid.folder.rglob("gpu")]
    assert set(found) == used


def test_the_process_that_takes_the_place_of_a_dead_one_has_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MAX_LOSSES", 0)
    grid, launcher = grid_of(tmp_path), Processes(dies_for_seed_2_of_mrpc, jobs=2, gpus=["4", "5"])
    seen: list[list[str | None]] = []
    wait = launcher.wait

    def watched(seconds: float) -> list[Ended]:
        seen.append(sorted(str(worker.gpu) for worker in (*launcher._busy, *launcher._idle)))
        return wait(seconds)

    launcher.wait = watched  # type: ignore[method-assign]
    run_cells(grid, launcher, progress=False)
    assert ["4", "5"] in seen and all(each in (["4"], ["5"], ["4", "5"]) for each in seen)


@pytest.mark.parametrize(("jobs", "expected"), [(1, None), (2, 2), (3, 1), (9, 1)])
def test_the_cores_this_process_may_use_are_divided_among_the_jobs(
    monkeypatch: pytest.MonkeyPatch, jobs: int, expected: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5, 7}, raising=False)  # of a larger machine
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert threads_each(jobs) == expected


def study_in_a_process(path: Path, queue: "multiprocessing.Queue[Summary]") -> None:
    queue.put(run_cells(load_study(path), Here(slow_score), progress=False))


def test_two_studies_on_one_folder_share_the_cells_and_run_none_twice(tmp_path: Path) -> None:
    path = a_study(tmp_path)
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[Summary] = context.Queue()
    studies = [context.Process(target=study_in_a_process, args=(path, queue)) for _ in range(2)]
    for study in studies:
        study.start()
    summaries = [queue.get(timeout=300) for _ in studies]
    for study in studies:
        study.join()
    assert [summary.finished for summary in summaries] == [9, 9]
    grid = load_study(path)
    assert all(attempts(cell) == ["start", "finished"] for cell in grid.cells)
    workers = {json.loads((cell.folder / "attempts.jsonl").read_text().splitlines()[0])["pid"] for cell in grid.cells}
    assert len(workers) == 2


def test_ray_that_is_not_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray is not installed. Install it with: pip install 'mtdnn\[ray\]'"):
        Ray(score_of_seed)
