"""A study killed with SIGKILL and started again ends as an unbroken one, and two on one folder share the work."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from mtdnn.report.write import write_report
from mtdnn.study.cells import read_outcome
from mtdnn.study.checks import stored_rows
from mtdnn.study.grid import Cell, Grid
from mtdnn.study.launchers import Here
from mtdnn.study.load import load_study
from mtdnn.study.run import changed_rows_lines, train_cell
from mtdnn.study.scheduler import run_cells
from mtdnn.study.table import read_csv
from tests.conftest import REPOSITORY, Demo
from tests.reference.forks import Started, start

LONGEST_WAIT_SECONDS = 600


def write_study(demo: Demo, folder: Path) -> Path:
    """One multi-task run, then part of another task from the encoder and from that run."""
    study = {
        "output": str(folder / "study"),
        "run": {**demo.run_values(folder), "epochs": 2, "checkpoint_every": 5, "evaluate_every": "never"},
        "stages": {
            "multi_task": {"run": {"train": ["demo_nli", "demo_similarity"]}, "axes": {"seed": [1]}},
            "fine_tune": {
                "run": {
                    "train": ["demo_target"],
                    "subset": {"demo_target": {"fraction": 0.5, "seed": "${seed}"}},
                    "max_steps": 16,
                },
                "axes": {
                    "init": {"encoder": None, "mt-dnn": {"encoder": {"run": {"stage": "multi_task"}}}},
                    "seed": [1],
                },
                "keep": "results",
            },
        },
        "report": {"compare": "init", "reference": "encoder"},
    }
    del study["run"]["output"]
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def unbroken(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    torch.set_num_threads(1)  # as the processes started below: the order of a sum depends on the number of threads
    grid = load_study(write_study(demo, tmp_path_factory.mktemp("unbroken")))
    summary = run_cells(grid, Here(train_cell), progress=False)
    assert summary.finished == 3, summary.broken
    return grid


def started(path: Path) -> Started:
    """`mtdnn study` in a process of its own."""
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return start("-m", "mtdnn", "study", str(path), environment=environment, folder=REPOSITORY)


def wait_until(true: Callable[[], bool], study: Started) -> None:
    """Look every few milliseconds; the process must not end before."""
    until = time.monotonic() + LONGEST_WAIT_SECONDS
    while not true():
        assert study.process.is_alive(), "the study ended too early"
        assert time.monotonic() < until, "the study hangs"
        time.sleep(0.005)


def events(cell: Cell) -> list[str]:
    return [json.loads(line)["event"] for line in (cell.folder / "attempts.jsonl").read_text().splitlines()]


def worker_of(cell: Cell) -> int:
    return int(json.loads((cell.folder / "attempts.jsonl").read_text().splitlines()[-1])["pid"])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]


def test_a_study_killed_in_the_middle_and_started_again_gives_the_same_results(
    unbroken: Grid, demo: Demo, tmp_path: Path
) -> None:
    path = write_study(demo, tmp_path)
    grid = load_study(path)
    second = grid.cells[1]
    study = started(path)
    wait_until((second.run_folder / "log.jsonl").exists, study)
    study.process.kill()
    study.process.join()
    finished = [cell for cell in grid.cells if read_outcome(cell) is not None]
    assert 1 <= len(finished) < 3
    until = time.monotonic() + 10
    while is_alive(worker_of(second)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(worker_of(second)), "a killed study leaves its process behind"

    summary = run_cells(load_study(path), Here(train_cell), progress=False)
    assert (summary.finished, summary.before) == (3, len(finished))
    assert (grid.folder / "results.csv").read_bytes() == (unbroken.folder / "results.csv").read_bytes()
    assert all(events(cell).count("finished") == 1 and events(cell)[-1] == "finished" for cell in grid.cells)
    assert all(events(cell) == ["start", "finished"] for cell in finished)


@pytest.mark.slow  # tests/unit/test_study.py shows the same in seconds, without training
def test_two_studies_on_one_folder_run_no_cell_twice(unbroken: Grid, demo: Demo, tmp_path: Path) -> None:
    path = write_study(demo, tmp_path)
    grid = load_study(path)
    study = started(path)
    wait_until((grid.cells[0].folder / "attempts.jsonl").exists, study)
    summary = run_cells(load_study(path), Here(train_cell), progress=False)
    assert study.finished(LONGEST_WAIT_SECONDS)[0] == 0
    assert summary.finished == 3
    assert all(events(cell) == ["start", "finished"] for cell in grid.cells)
    assert (grid.folder / "results.csv").read_bytes() == (unbroken.folder / "results.csv").read_bytes()


def test_the_cells_trained_on_what_the_study_says(unbroken: Grid) -> None:
    lines = read_csv(unbroken.folder / "results.csv")
    rows = {line.task: line.train_rows for line in lines}
    assert rows == {"demo_nli": 60, "demo_similarity": 60, "demo_target": 30}
    assert not (unbroken.cells[-1].run_folder / "best").exists()
    assert (unbroken.cells[0].run_folder / "best").exists()


def test_the_cells_remember_the_rows_they_were_run_on(unbroken: Grid) -> None:
    for cell in unbroken.cells:
        outcome = read_outcome(cell)
        assert outcome is not None and outcome["stored_rows"] == stored_rows(cell) != {}
    assert changed_rows_lines(unbroken.cells) == []


def test_its_report_has_a_line_for_each_initialisation(unbroken: Grid) -> None:
    text = write_report(unbroken.folder)[0].read_text(encoding="utf-8")
    assert "| encoder |" in text and "| mt-dnn |" in text and "## Worst errors" in text
