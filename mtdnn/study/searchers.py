"""The processes of `mtdnn tune`, here or on a Ray cluster: each carries out trials until there are enough."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mtdnn.errors import MtdnnError, first_line
from mtdnn.execution.machine import visible_gpus
from mtdnn.execution.ray_cluster import as_submitted, connected_ray
from mtdnn.registry import is_trusted
from mtdnn.study.launchers import STOP_SECONDS, death, end_with_parent, threads_each

Work = Callable[[], None]


def work_in_processes(work: Work, jobs: int) -> list[str]:
    """Run a function in several processes of this machine, and wait until it has returned in all of them.

    The cores are divided among them, and each has a GPU to itself as long as there are enough. When one dies (out of
    memory, say) the others continue.

    Args:
        work: at the top level of a module, or a partial of such a function.
        jobs: number of processes.
    Returns:
        Why processes were lost.
    Raises:
        Exception: the function's in one of the processes, which stops the others.
    """
    gpus, started = visible_gpus(), list[tuple[Connection, BaseProcess]]()
    try:
        for number in range(jobs):
            gpu = gpus[number % len(gpus)] if gpus else None
            started.append(_started(work, threads=threads_each(jobs), gpu=gpu))
        return _outcomes(dict(started))
    finally:
        _stop([process for _, process in started])


def work_on_ray(work: Work, jobs: int, *, gpus: float) -> list[str]:
    """Run a function in several tasks of a Ray cluster, and wait until it has returned in all of them.

    Every machine of the cluster must have this process's current folder and what the function reads in it.

    Args:
        work: at the top level of a module, or a partial of such a function.
        jobs: number of tasks, each with a CPU.
        gpus: GPUs of each task; a part of one is shared with other tasks.
    Returns:
        Why tasks were lost.
    Raises:
        ConfigError: ray is not installed, or the cluster cannot be reached.
        Exception: the function's in one of the tasks, which stops the others.
    """
    ray, lost = connected_ray(), list[str]()
    task = ray.remote(max_retries=0, num_cpus=1, num_gpus=gpus)(_run_on_ray)
    running = [task.remote(work, is_trusted(), os.getcwd()) for _ in range(jobs)]
    try:
        while running:
            (ended, *_), running = ray.wait(running, num_returns=1)
            try:
                error = ray.get(ended)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as broken:
                lost.append(f"its Ray worker ended: {first_line(broken)}")
            else:
                if error is not None:
                    raise error
    finally:
        for each in running:
            ray.cancel(each, force=True)
    return lost


def _run_on_ray(work: Work, trust: bool, folder: str) -> MtdnnError | None:
    """Run the function as the process that submitted it would; an error to report is returned as it is."""
    with as_submitted(folder, trust=trust):
        try:
            work()
        except MtdnnError as error:
            return error
    return None


def _started(work: Work, *, threads: int | None, gpu: str | None) -> tuple[Connection, BaseProcess]:
    """A process that runs the function, and the connection on which it sends the error that ended it, or None."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, work, threads, gpu))
    process.start()
    theirs.close()  # so that the connection ends when the process does
    return ours, process


def _outcomes(running: dict[Connection, BaseProcess]) -> list[str]:
    lost = []
    while running:
        for connection in wait(list(running)):
            assert isinstance(connection, Connection), "only connections are waited for"
            process = running.pop(connection)
            try:
                error: Exception | None = connection.recv()
            except EOFError:
                process.join()
                lost.append(death(process.exitcode))
            else:
                if error is not None:
                    raise error
    return lost


def _stop(processes: Sequence[BaseProcess]) -> None:
    """End the processes that still run; a trial in training is recorded as failed."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(STOP_SECONDS)
        if process.is_alive():
            process.kill()


def _serve(connection: Connection, work: Work, threads: int | None, gpu: str | None) -> None:
    """Run the function, and send how it ended."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which Optuna records
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:  # read when CUDA is first used
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        work()
    except KeyboardInterrupt:
        return
    except Exception as error:
        if not isinstance(error, MtdnnError):
            error.add_note(traceback.format_exc())  # its own traceback is not sent
        connection.send(error)
    else:
        connection.send(None)
