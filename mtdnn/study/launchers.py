"""Launchers of a study's cells: this process, further processes, or a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import current_process, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mtdnn.errors import ConfigError, fault, first_line, unknown
from mtdnn.execution.machine import interrupts_held, usable_cores, visible_gpus
from mtdnn.execution.ray_cluster import as_submitted, connected_ray, num_cpus
from mtdnn.registry import is_trusted
from mtdnn.study.cells import Ended, RunCell, Status, run_cell_once
from mtdnn.study.grid import Cell
from mtdnn.study.slurm_options import SlurmOptions

logger = logging.getLogger(__name__)

LAUNCHERS = ("here", "local", "ray", "slurm")

BUSY_SECONDS = 1.0
"""How long to wait before another try at a cell that another study runs."""

STOP_SECONDS = 60.0
"""How long a process may take to write a checkpoint when the study is stopped."""

UNGUARDED = 78
"""Exit status of a process that was to start the study again, since it imports a script that does."""


class Here:
    """Runs cells one by one in this process: for notebooks and tests.

    Args:
        run_cell: function that runs a cell.
    """

    busy_seconds = BUSY_SECONDS

    def __init__(self, run_cell: RunCell) -> None:
        self.run_cell = run_cell
        self._next: Cell | None = None

    def has_room(self) -> bool:
        """Whether a further cell may be started."""
        return self._next is None

    def start(self, cell: Cell) -> None:
        """Store the cell; `wait` runs it."""
        self._next = cell

    def wait(self, seconds: float) -> list[Ended]:
        """Run the stored cell."""
        if self._next is None:
            time.sleep(seconds)
            return []
        cell, self._next = self._next, None
        return [Ended(cell, run_cell_once(cell, self.run_cell))]

    def close(self) -> None:
        """Drop the stored cell."""
        self._next = None


class Processes:
    """Runs cells in processes of this machine, each of which takes one cell after another.

    When a process dies (out of memory, say) only its own cell is lost, and a new one takes its place. When the study
    itself is killed, its processes end at once, so that a restarted study finds the cells unlocked.

    Args:
        run_cell: function that runs a cell, at the top level of a module, since it is sent to other processes.
        jobs: processes; the cores are divided among them, and each has a GPU to itself as long as there are enough.
        gpus: names as in CUDA_VISIBLE_DEVICES; None: those that this process sees.
    """

    busy_seconds = BUSY_SECONDS

    def __init__(self, run_cell: RunCell, *, jobs: int, gpus: Sequence[str] | None = None) -> None:
        self.run_cell, self.jobs = run_cell, jobs
        self._gpus = visible_gpus() if gpus is None and jobs > 1 else list(gpus or ())
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def has_room(self) -> bool:
        """Whether a process is idle, or may be started."""
        return len(self._busy) < self.jobs

    def start(self, cell: Cell) -> None:
        """Give the cell to a process."""
        self._idle = [worker for worker in self._idle if worker.process.is_alive()]
        worker = self._idle.pop() if self._idle else self._new_worker()
        worker.give(cell)
        self._busy.append(worker)

    def _new_worker(self) -> _Worker:
        """A process with its share of the cores, on the GPU that the fewest others use."""
        used = Counter(worker.gpu for worker in (*self._idle, *self._busy))
        gpu = min(self._gpus, key=lambda name: used[name], default=None)
        return _Worker(self.run_cell, threads=threads_each(self.jobs), gpu=gpu)

    def wait(self, seconds: float) -> list[Ended]:
        """The cells that have ended; waits for one."""
        if not self._busy:
            time.sleep(seconds)
            return []
        wait([worker.connection for worker in self._busy], timeout=seconds)
        ended = []
        for worker in [worker for worker in self._busy if worker.connection.poll()]:
            self._busy.remove(worker)
            ended.append(worker.take())
            if worker.process.is_alive():
                self._idle.append(worker)
        return ended

    def close(self) -> None:
        """Ask every process to stop, and wait until it has."""
        workers = [*self._idle, *self._busy]
        for worker in self._busy:
            worker.process.terminate()  # SIGTERM: the run writes a checkpoint to resume from
        for worker in self._idle:
            worker.connection.close()
        for worker in workers:
            worker.process.join(STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
        self._idle, self._busy = [], []


class _Worker:
    """One process and the cell it runs."""

    def __init__(self, run_cell: RunCell, *, threads: int | None, gpu: str | None) -> None:
        context, self.gpu = get_context("spawn"), gpu
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, run_cell, threads, gpu))
        with interrupts_held():
            self.process.start()
        theirs.close()  # so that the connection ends when the process does
        self.cell: Cell | None = None

    def give(self, cell: Cell) -> None:
        """Send it a cell."""
        self.cell = cell
        with suppress(OSError):  # it has died since its last cell: `take` returns this one as lost
            self.connection.send(cell)

    def take(self) -> Ended:
        """The cell and how it ended; lost if the process died."""
        if self.cell is None:
            raise RuntimeError("this process was given no cell")
        try:
            return Ended(self.cell, self.connection.recv())
        except (EOFError, OSError):
            self.process.join()
            if self.process.exitcode == UNGUARDED:
                found = "the script starts the study again in each of its processes, which import the script"
                fix = 'Put the call under `if __name__ == "__main__":`, or give launcher="here".'
                raise ConfigError(fault("", "run_study()", found, fix)) from None
            return Ended(self.cell, "lost", death(self.process.exitcode))


def end_where_imported() -> None:
    """End a process that would start a study while it still imports the script of the process that spawned it."""
    if getattr(current_process(), "_inheriting", False):  # what Python looks at, too, before it refuses such a process
        raise SystemExit(UNGUARDED)


def death(exit_code: int | None) -> str:
    """How a process ended that was not asked to."""
    if exit_code is not None and exit_code < 0:
        killed = " (out of memory?)" if exit_code == -9 else ""
        return f"its process was ended by signal {-exit_code}{killed}"
    return f"its process ended with status {exit_code}"


def threads_each(jobs: int) -> int | None:
    """Threads of each of several processes; None if the environment sets them, or there is one process."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, usable_cores() // jobs)


def _serve(connection: Connection, run_cell: RunCell, threads: int | None, gpu: str | None) -> None:
    """Run cells as they arrive, until the study closes the connection or dies."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:  # read when CUDA is first used
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    while True:
        try:
            cell: Cell = connection.recv()
        except EOFError:
            return
        _redirect_output(cell)
        connection.send(run_cell_once(cell, run_cell))


def end_with_parent() -> None:
    """End this process as soon as the study's has ended, even by SIGKILL."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _redirect_output(cell: Cell) -> None:
    """Append what this process prints and logs to `output.txt` of the cell."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with (cell.folder / "output.txt").open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        logging.getLogger("mtdnn").setLevel(logging.INFO)


def require_launchable(launcher: str, *, jobs: int, gpus: float, slurm: SlurmOptions | None = None) -> None:
    """Raise where a launcher does not exist, or cannot run so many cells at a time with so many GPUs each.

    Args:
        launcher: here, local, ray or slurm.
        jobs: cells at a time.
        gpus: GPUs of each cell, a process that uses one; 0 leaves them to the launcher.
        slurm: options of the launcher slurm.
    Raises:
        ConfigError: every error.
    """
    faults = []
    if launcher not in LAUNCHERS:
        faults.append(fault("", "launcher", unknown("launcher", launcher, LAUNCHERS)))
    if jobs < 1:
        faults.append(fault("", "jobs", f"{jobs} is not a valid number of processes", "Give 1 or more."))
    elif launcher == "here" and jobs > 1:
        faults.append(fault("", "jobs", f"{jobs}, but 'here' runs one cell after another", "Give launcher: local."))
    if gpus and launcher not in ("ray", "slurm"):
        fix = "A local study gives each of its jobs a GPU of those it sees."
        faults.append(fault("", "gpus", "is for the launchers ray and slurm", fix))
    elif not 0 <= gpus <= 1:
        fix = "Give 1, or for ray a part of one for cells that share it; --jobs says how many run at a time."
        faults.append(fault("", "gpus", f"{gpus:g} GPUs for each cell, which uses one", fix))
    elif launcher == "slurm" and gpus not in (0, 1):
        faults.append(fault("", "gpus", f"{gpus:g}, but SLURM gives whole GPUs", "Give 1."))
    if launcher != "slurm" and slurm not in (None, SlurmOptions()):
        faults.append(fault("", "slurm", "is for the launcher slurm", "Give --launcher slurm, or leave it out."))
    if faults:
        raise ConfigError(faults)


class Ray:
    """Runs cells on a Ray cluster, or on a local Ray when there is none.

    Every machine of the cluster must have the study's folder, the prepared rows and the encoder under the same paths.

    Args:
        run_cell: function that runs a cell.
        jobs: cells at a time; None = as many as Ray has CPUs.
        gpus: GPUs of each cell, at most 1; a part of one is shared with other cells.
    Raises:
        ConfigError: ray is not installed, or the cluster cannot be reached.
    """

    busy_seconds = BUSY_SECONDS

    def __init__(self, run_cell: RunCell, *, jobs: int | None = None, gpus: float = 0.0) -> None:
        ray = self._ray = connected_ray()
        self.jobs = jobs or num_cpus(ray)
        self._remote = ray.remote(max_retries=0, num_cpus=1, num_gpus=gpus)(_run_on_ray)
        self.run_cell = run_cell
        self._running: dict[Any, Cell] = {}

    def has_room(self) -> bool:
        """Whether fewer than `jobs` cells run."""
        return len(self._running) < self.jobs

    def start(self, cell: Cell) -> None:
        """Submit the cell to Ray."""
        self._running[self._remote.remote(cell, self.run_cell, is_trusted(), os.getcwd())] = cell

    def wait(self, seconds: float) -> list[Ended]:
        """The cells that have ended; waits for one."""
        if not self._running:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        ended = []
        for handle in done:
            cell = self._running.pop(handle)
            try:
                ended.append(Ended(cell, self._ray.get(handle)))
            except self._ray.exceptions.RayTaskError as error:  # outside of the cell: mtdnn cannot be imported, say
                ended.append(Ended(cell, "broken", f"its Ray worker cannot run it: {error}"))
            except self._ray.exceptions.RayError as error:
                ended.append(Ended(cell, "lost", f"its Ray worker ended: {first_line(error)}"))
        return ended

    def close(self) -> None:
        """Cancel the running cells; they resume from their checkpoints next time."""
        for handle in self._running:
            self._ray.cancel(handle, force=True)
        self._running = {}


def _run_on_ray(cell: Cell, run_cell: RunCell, trust: bool, folder: str) -> Status:
    with as_submitted(folder, trust=trust):
        return run_cell_once(cell, run_cell)
