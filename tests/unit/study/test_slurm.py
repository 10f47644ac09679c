"""A study by submitit: on its executor of local processes, and on SLURM commands that start local processes."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import submitit

from mtdnn.errors import ConfigError
from mtdnn.study.cells import Outcome, locked
from mtdnn.study.grid import Cell
from mtdnn.study.launchers import Here
from mtdnn.study.scheduler import run_cells
from mtdnn.study.slurm import CellJob, Slurm, SlurmOptions
from mtdnn.training.signals import stop_signals
from tests.unit.study.test_study import attempts, cell_of, dies_once, grid_of, score_of_seed

COMMANDS = {
    "sbatch": """\
#!/bin/bash
script=$(mktemp "$FAKE_SLURM/XXXXXX.sh")  # a copy, as sbatch makes one: submitit moves its own away
cp "$1" "$script"
cp "$1" "$FAKE_SLURM/sbatch.txt"
env > "$FAKE_SLURM/environment"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
export SLURM_ARRAY_JOB_ID=42
for number in $(seq 0 "$last"); do
    SLURM_JOB_ID=$((43 + number)) SLURM_ARRAY_TASK_ID=$number setsid bash "$script" > /dev/null 2>&1 &
done
echo "Submitted batch job 42"
""",
    "srun": """\
#!/bin/bash
while [[ $1 == -* ]]; do
    [[ $1 == --unbuffered ]] || shift
    shift
done
exec "$@"
""",
    "sacct": """\
#!/bin/bash
echo 'JobID|State|NodeList'
cat "$FAKE_SLURM/states" 2> /dev/null
true
""",
    "scancel": """\
#!/bin/bash
echo "$@" >> "$FAKE_SLURM/cancelled"
""",
}


@pytest.fixture
def slurm_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sbatch that starts the jobs of an array here, srun, sacct and scancel; the folder has what they were given."""
    folder = tmp_path / "slurm_commands"
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slurm, "poll_seconds", 0.1)
    monkeypatch.setattr(Slurm, "gone_seconds", 0.1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def two_cells(folder: Path) -> tuple[Any, list[Cell]]:
    grid = grid_of(folder)
    return grid, [cell_of(grid, init="encoder", data_set="rte", seed=seed) for seed in ("1", "2")]


def test_cells_run_as_jobs_and_one_whose_job_is_killed_is_run_again(tmp_path: Path) -> None:
    grid, cells = two_cells(tmp_path)
    summary = run_cells(grid, Slurm(dies_once, folder=grid.folder, cluster="local"), cells=cells, progress=False)
    assert (summary.finished, summary.broken) == (2, {})
    assert [attempts(cell) for cell in cells] == [["start", "finished"], ["start", "lost", "start", "finished"]]
    other = grid_of(tmp_path, output=str(tmp_path / "other"))
    run_cells(other, Here(score_of_seed), cells=[each for each in other.cells if each.name in {c.name for c in cells}])
    assert (other.folder / "results.csv").read_bytes() == (grid.folder / "results.csv").read_bytes()


def test_cells_that_can_start_together_are_one_array_with_the_options_given(
    tmp_path: Path, slurm_commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "4096")  # as within a job that runs the study
    grid, cells = two_cells(tmp_path)
    options = SlurmOptions(partition="gpu", account="me", time=30, mem=16, cpus_per_task=4, setup="module load cuda")
    launcher = Slurm(score_of_seed, folder=grid.folder, gpus=1, options=options)
    assert run_cells(grid, launcher, cells=cells, progress=False).finished == 2
    assert [attempts(cell) for cell in cells] == [["start", "finished"]] * 2
    script = (slurm_commands / "sbatch.txt").read_text()
    given = set(re.findall(r"^#SBATCH --(.*)$", script, re.MULTILINE))
    assert given >= {
        "array=0-1%2", "partition=gpu", "account=me", "time=30", "mem=16GB", "cpus-per-task=4", "gpus-per-node=1",
        "requeue", "open-mode=append", "job-name=mtdnn-study", "signal=USR2@90",
    }  # fmt: skip
    assert "SLURM_MEM_PER_NODE" not in (slurm_commands / "environment").read_text()
    assert script.index("module load cuda") < script.index("srun")


def test_a_job_that_is_gone_without_a_result_is_lost_and_one_in_the_queue_is_not(
    tmp_path: Path, slurm_commands: Path
) -> None:
    (slurm_commands / "sbatch").write_text("#!/bin/bash\necho 'Submitted batch job 7'\n")
    grid, cells = two_cells(tmp_path)
    launcher = Slurm(score_of_seed, folder=grid.folder)
    submitit.SlurmJob.watcher.clear()
    (slurm_commands / "states").write_text("7_0|NODE_FAIL|n1\n7_1|PENDING|\n")
    for cell in cells:
        launcher.start(cell)
    ended = [each for _ in range(4) for each in launcher.wait(0.1)]
    assert ended == [(cells[0], "lost", "its job 7_0 ended without a result (state NODE_FAIL)")]
    launcher.close()
    assert (slurm_commands / "cancelled").read_text() == "7_1\n"


def test_what_sbatch_refuses_is_an_error_of_the_user(tmp_path: Path, slurm_commands: Path) -> None:
    message = "sbatch: error: invalid partition specified: gpux"
    (slurm_commands / "sbatch").write_text(f"#!/bin/bash\necho '{message}' >&2\nexit 1\n")
    grid, cells = two_cells(tmp_path)
    with pytest.raises(ConfigError, match=f"--launcher: no job can be submitted: .*{message}"):
        run_cells(grid, Slurm(score_of_seed, folder=grid.folder), cells=cells, progress=False)


def test_a_later_submission_that_is_refused_is_tried_again(
    tmp_path: Path, slurm_commands: Path, caplog: pytest.LogCaptureFixture
) -> None:
    accepting = "#!/bin/bash\necho 'Submitted batch job 9'\n"
    (slurm_commands / "sbatch").write_text(accepting)
    grid, cells = two_cells(tmp_path)
    launcher = Slurm(score_of_seed, folder=grid.folder)
    launcher.start(cells[0])
    assert launcher.wait(0.1) == []
    (slurm_commands / "sbatch").write_text("#!/bin/bash\necho 'too many jobs' >&2\nexit 1\n")
    launcher.start(cells[1])
    assert launcher.wait(0.1) == []
    assert "no job can be submitted: " in caplog.text and "it is tried again" in caplog.text
    (slurm_commands / "sbatch").write_text(accepting)
    assert launcher.wait(0.1) == [] and [cell for _, cell in launcher._running] == cells


def test_a_cell_that_a_job_of_an_earlier_call_runs_is_not_submitted_again(tmp_path: Path) -> None:
    grid, cells = two_cells(tmp_path)
    launcher = Slurm(score_of_seed, folder=grid.folder, cluster="local")
    with locked(cells[0]):
        launcher.start(cells[0])
        assert launcher.wait(0.1) == [(cells[0], "busy", "")]
    assert launcher._running == []


def test_the_number_of_cells_at_a_time_is_kept(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    launcher = Slurm(score_of_seed, folder=grid.folder, jobs=2, cluster="local")
    for cell in grid.cells[:2]:
        assert launcher.has_room()
        launcher.start(cell)
    assert not launcher.has_room()


# -- the signal that time is up --------------------------------------------------------------------------------------


def trains_until_it_is_stopped(cell: Cell) -> Outcome:
    """As a run that is told, in the middle of a step, that its time is up."""
    with stop_signals() as received:
        os.kill(os.getpid(), signal.SIGUSR2)
        until = time.monotonic() + 5
        while not received and time.monotonic() < until:
            time.sleep(0.001)
        (cell.folder / "checkpoint").write_text(str(received))
    raise SystemExit(128 + received[0])


def is_evaluating(cell: Cell) -> Outcome:
    """As a run that is told the same while it does not train, and so has nothing to write."""
    os.kill(os.getpid(), signal.SIGUSR2)
    return score_of_seed(cell)


@pytest.mark.parametrize("run_cell", [trains_until_it_is_stopped, is_evaluating])
def test_a_job_whose_time_is_up_writes_a_checkpoint_before_it_is_put_back_into_the_queue(
    tmp_path: Path, run_cell: Any
) -> None:
    cell = grid_of(tmp_path).cells[0]

    def requeue(number: int, frame: Any) -> None:
        written.append((cell.folder / "checkpoint").exists())
        raise SystemExit(1)

    written: list[bool] = []
    before = signal.signal(signal.SIGUSR2, requeue), signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with pytest.raises(SystemExit):
            CellJob(run_cell, trust=False)(cell)
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert written == [run_cell is trains_until_it_is_stopped]
    assert attempts(cell) == ["start"]
    job = CellJob(score_of_seed, trust=False)
    assert job.checkpoint(cell).result() == "finished"  # what the job does when it starts again


# -- errors ----------------------------------------------------------------------------------------------------------


def test_submitit_that_is_not_installed_and_a_machine_without_slurm_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no SLURM on this machine: .* Run the study where sbatch and srun are"):
        Slurm(score_of_seed, folder=tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"submitit is not installed. Install it with: pip install 'mtdnn\[slurm\]'"):
        Slurm(score_of_seed, folder=tmp_path)


def test_options_are_those_that_are_declared() -> None:
    with pytest.raises(ConfigError, match=r"slurm.partitoin: unknown option 'partitoin'; .*Did you mean 'partition'"):
        SlurmOptions.of({"partitoin": "gpu"})
    with pytest.raises(ConfigError, match=r"slurm.mem: 0 is too small. Give 0.1 or more"):
        SlurmOptions.of({"mem": 0})
    with pytest.raises(ConfigError) as caught:
        SlurmOptions.of({"time": True, "cpus_per_task": "4", "mem": None})
    assert caught.value.lines == (
        "slurm.time: True: expected a whole number. Give 3 or more.",
        "slurm.cpus_per_task: '4': expected a whole number. Give 1 or more.",
    )
    with pytest.raises(ConfigError) as caught:
        SlurmOptions.of({"time": 3.5, "requeue": None, "partition": 5, "setup": ["a"]})
    assert caught.value.lines == (
        "slurm.time: 3.5: expected a whole number. Give 3 or more.",
        "slurm.requeue: None: expected a whole number. Give 0 or more.",
        "slurm.partition: 5: expected a text. Give one, or leave it out.",
        "slurm.setup: ['a']: expected a text. Give one, or leave it out.",
    )
    assert SlurmOptions.of({"partition": "gpu"}) == SlurmOptions(partition="gpu")
