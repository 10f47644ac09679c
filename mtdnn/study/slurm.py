"""The cells of a study as jobs of a SLURM cluster, submitted as arrays by submitit.

A job takes the same lock and writes the same files as a process of any other launcher, so that several may share the
folder of a study. Before its time is up, a job writes a checkpoint and puts itself back into the queue.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mtdnn.errors import ConfigError, fault, first_line
from mtdnn.registry import is_trusted, trusted
from mtdnn.study.cells import Ended, RunCell, Status, locked, run_cell_once
from mtdnn.study.grid import Cell
from mtdnn.study.slurm_options import SlurmOptions

logger = logging.getLogger(__name__)

MAX_ARRAY = 1000
"""Jobs of one array; SLURM's own limit (MaxArraySize) is 1001 where it is not set."""


class Slurm:
    """Runs cells as jobs of a SLURM cluster; those that may start at the same time are one array.

    Every node must have the study's folder, the prepared rows and the encoder under the same paths.

    Args:
        run_cell: function that runs a cell, at the top level of a module, since it is sent to the jobs.
        folder: folder of the study; the jobs and their output are in `slurm/` below it.
        jobs: cells at a time; None = as many as SLURM starts.
        gpus: GPUs of each cell: 0 or 1.
        options: what each job asks for.
        cluster: slurm; `local` runs the jobs as processes of this machine, in tests.
    Raises:
        ConfigError: submitit is not installed, or this machine has no SLURM.
    """

    busy_seconds = 60.0
    """Between two looks at a cell that a job of an earlier call is running."""

    poll_seconds = 5.0
    """Between two looks at the results."""

    gone_seconds = 60.0
    """How long after the end of a job its result may appear on a shared file system."""

    def __init__(
        self,
        run_cell: RunCell,
        *,
        folder: Path,
        jobs: int | None = None,
        gpus: int = 0,
        options: SlurmOptions | None = None,
        cluster: str = "slurm",
    ) -> None:
        options = options or SlurmOptions()
        self.jobs, self._work = jobs, CellJob(run_cell, is_trusted())
        self._executor = _executor(folder / "slurm", cluster, options.requeue)
        self._executor.update_parameters(**options.parameters(gpus=gpus))
        self._next: list[Cell] = []
        self._running: list[tuple[Any, Cell]] = []
        self._gone: dict[str, float] = {}
        self._has_submitted = False

    def has_room(self) -> bool:
        """Whether fewer than `jobs` cells are submitted."""
        return self.jobs is None or len(self._running) + len(self._next) < self.jobs

    def start(self, cell: Cell) -> None:
        """Store the cell; `wait` submits it, in an array with the others."""
        self._next.append(cell)

    def wait(self, seconds: float) -> list[Ended]:
        """Submit the stored cells, and return those whose jobs have ended, or that a job of an earlier call runs."""
        chosen, self._next = self._next[:MAX_ARRAY], self._next[MAX_ARRAY:]
        free, ended = list[Cell](), list[Ended]()
        for cell in chosen:
            if _is_free(cell):
                free.append(cell)
            else:
                ended.append(Ended(cell, "busy"))
        if free and not self._submit(free):
            self._next += free
        time.sleep(self.poll_seconds)
        running, self._running = self._running, []
        for job, cell in running:
            if self._has_ended(job):
                ended.append(_ended(job, cell))
            else:
                self._running.append((job, cell))
        return ended

    def _submit(self, cells: Sequence[Cell]) -> bool:
        """Submit an array; False if that is refused now, as it is when too many jobs are in the queue."""
        from submitit.helpers import clean_env

        try:
            with clean_env():  # this process may be a job itself, and sbatch would read its limits
                jobs = self._executor.map_array(self._work, cells)
        except RuntimeError as error:  # submitit's FailedSubmissionError has what sbatch printed
            found = f"no job can be submitted: {last_words(error)}"
            if self._has_submitted:
                logger.warning("%s; it is tried again", found)
                return False
            fix = "Check the options --slurm.…, and that sbatch works."
            raise ConfigError(fault("--launcher", "", found, fix)) from error
        self._has_submitted = True
        self._running += zip(jobs, cells, strict=True)
        return True

    def _has_ended(self, job: Any) -> bool:
        """Whether a job has a result, or has been gone for a while without one."""
        if job.paths.result_pickle.exists():
            return True
        if not job.done() and job.state != "PREEMPTED":
            self._gone.pop(job.job_id, None)  # it was put back into the queue
            return False
        since = self._gone.setdefault(job.job_id, time.monotonic())
        return time.monotonic() - since >= self.gone_seconds

    def close(self) -> None:
        """Cancel the running jobs, which write checkpoints; the cells resume next time."""
        for job, _ in self._running:
            job.cancel(check=False)
        self._next, self._running = [], []


def _executor(folder: Path, cluster: str, requeue: int) -> Any:
    try:
        import submitit
    except ImportError as error:
        fix = "Install it with: pip install 'mtdnn[slurm]'."
        raise ConfigError(fault("--launcher", "", "submitit is not installed", fix)) from error
    try:
        return submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=requeue)
    except RuntimeError as error:
        fix = "Run the study where sbatch and srun are, such as a login node."
        raise ConfigError(fault("--launcher", "", f"no SLURM on this machine: {first_line(error)}", fix)) from error


def _is_free(cell: Cell) -> bool:
    """Whether no process, of a call that ended before its jobs did, runs the cell."""
    with locked(cell) as ours:
        return ours


def _ended(job: Any, cell: Cell) -> Ended:
    """How a job ended: its result, or that it has none; an error outside the cell is in its text."""
    if not job.paths.result_pickle.exists():
        return Ended(cell, "lost", f"its job {job.job_id} ended without a result (state {job.state})")
    error = job.exception()
    if error is not None:
        return Ended(cell, "broken", str(error))
    return Ended(cell, job.result())


def last_words(error: BaseException) -> str:
    """The last line of an error's text, where sbatch says what is wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1].rstrip(".") if lines else type(error).__name__


class CellJob:
    """What a job does: run a cell. submitit calls it, and `checkpoint` before the job is put back into the queue.

    Args:
        run_cell: function that runs a cell.
        trust: whether files may name code.
    """

    def __init__(self, run_cell: RunCell, trust: bool) -> None:
        self.run_cell, self.trust = run_cell, trust

    def __call__(self, cell: Cell) -> Status:
        """Run the cell; at the signal that time is up, a run in training finishes its step and writes a checkpoint."""
        warning = _warning_signal()
        requeue, at_rest = signal.getsignal(warning), signal.getsignal(signal.SIGTERM)
        warned: list[FrameType | None] = []

        def stop(number: int, frame: FrameType | None) -> None:
            if signal.getsignal(signal.SIGTERM) != at_rest:  # it is training, and ends after its checkpoint
                warned.append(frame)
                os.kill(os.getpid(), signal.SIGTERM)
            elif callable(requeue):
                requeue(number, frame)

        signal.signal(warning, stop)
        try:
            with trusted(self.trust):  # jobs do not have this process's environment everywhere
                return run_cell_once(cell, self.run_cell)
        except SystemExit:
            if warned and callable(requeue):
                requeue(warning, warned[0])
            raise
        finally:
            signal.signal(warning, requeue)

    def checkpoint(self, cell: Cell) -> Any:
        """What submitit runs when the job starts again: the same, which resumes from the newest checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, cell)


def _warning_signal() -> int:
    """The signal that submitit lets SLURM send before it ends a job."""
    from submitit import JobEnvironment

    return int(getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))
