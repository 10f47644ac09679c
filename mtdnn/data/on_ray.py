"""Parts of rows encoded by the tasks of a Ray cluster, each written to its file; a few are in flight at a time.

Every machine of the cluster must have the rows and the folder of the prepared rows under the same paths. Rows in
memory are sent to the machines.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from typing import Any

from mtdnn.data.encode import EncodedPart, Job, encode_part, with_bar
from mtdnn.data.part_files import PartFiles
from mtdnn.errors import DataError, MtdnnError, fault, first_line
from mtdnn.execution.ray_cluster import as_submitted, connected_ray, num_cpus
from mtdnn.registry import is_trusted
from mtdnn.rows.source import Part
from mtdnn.tokens.tokenizer import Tokenizer

MAX_RETRIES = 3
"""How often a part is encoded again after its process or its machine died."""

PER_CPU = 2
"""Tasks in flight for each CPU of the cluster: one runs, one waits, so that no process is idle."""


def encoded_on_ray(
    jobs: Sequence[Job],
    parts: Sequence[Sequence[Part]],
    tokenizer: Tokenizer,
    files: Sequence[PartFiles],
    *,
    num_tasks: int | None = None,
    progress: bool = False,
) -> Generator[tuple[int, EncodedPart], None, None]:
    """(number of the job, its next part), in the order of jobs and parts; parts that have a file are not made again.

    Args:
        jobs: splits to prepare.
        parts: of each.
        tokenizer: of the run's encoder.
        files: of each split.
        num_tasks: how many tasks are in flight; None: two for each CPU of the cluster, of which one runs.
        progress: whether to show a bar on standard error.
    Raises:
        ConfigError: ray is not installed, or the cluster cannot be reached.
        DataError: rows cannot be read, or a machine was lost again and again.
    """
    missing = {(index, number) for index, each in enumerate(files) for number in each.missing(range(len(parts[index])))}
    made = _by_tasks(jobs, parts, tokenizer, files, missing=missing, num_tasks=num_tasks)
    yield from with_bar(made, jobs, total=len(_order(parts)), progress=progress)


def _by_tasks(
    jobs: Sequence[Job],
    parts: Sequence[Sequence[Part]],
    tokenizer: Tokenizer,
    files: Sequence[PartFiles],
    *,
    missing: set[tuple[int, int]],
    num_tasks: int | None,
) -> Iterator[tuple[int, EncodedPart]]:
    """The parts in order; a bounded number of those that are missing is in flight."""
    ray = connected_ray()
    limit = num_tasks or PER_CPU * num_cpus(ray)
    shared = ray.put((tuple(jobs), tokenizer, tuple(files), is_trusted(), os.getcwd()))
    encode = ray.remote(max_retries=MAX_RETRIES, num_cpus=1)(_encode)
    waiting, running = deque(sorted(missing)), dict[Any, tuple[int, int]]()
    try:
        for place in _order(parts):
            while place in missing:
                while waiting and len(running) < limit:
                    index, number = waiting.popleft()
                    running[encode.remote([shared], index, number, parts[index][number])] = (index, number)
                (handle,), _ = ray.wait([*running], num_returns=1)
                _require_success(ray, handle, jobs[place[0]])
                missing.remove(running.pop(handle))
            yield place[0], files[place[0]].read(place[1])
    finally:
        for handle in running:
            ray.cancel(handle, force=True)


def _order(parts: Sequence[Sequence[Part]]) -> list[tuple[int, int]]:
    """(number of the job, number of its part), in order."""
    return [(index, number) for index, of_job in enumerate(parts) for number in range(len(of_job))]


def _require_success(ray: Any, handle: Any, job: Job) -> None:
    """Raise the error of a task that has ended: user errors as they are, the loss of its machine as a DataError."""
    try:
        ray.get(handle)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, (MtdnnError, OSError)) else error from None
    except ray.exceptions.RayError as error:
        found = f"a task of the Ray cluster was lost: {first_line(error)}"
        fix = "Run the same command again: finished parts are kept."
        raise DataError(fault("/".join(job.key), "", found, fix)) from error


def _encode(shared: list[Any], index: int, number: int, part: Part) -> None:
    """Encode one part and write its file, in a process of the cluster."""
    jobs, tokenizer, files, trust, folder = _received(shared[0])
    with as_submitted(folder, trust=trust):
        files[index].write(number, encode_part(jobs[index], part, tokenizer))


@lru_cache(maxsize=1)
def _received(reference: Any) -> Any:
    """What all tasks share; unpacked once in each process, as a tokenizer takes a good part of a second."""
    import ray

    return ray.get(reference)
