"""Commands and scripts in processes of their own, forked from one that has imported everything once.

A fresh interpreter would import the same for seconds. What must be seen from a fresh one (which modules are imported,
`python -m` itself, a launcher) is started by `subprocess` instead.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.reference.imported_once"])


@dataclass
class Started:
    """A process that was started.

    Attributes:
        process: to wait for, or to send signals.
        output, errors: files that it writes to.
    """

    process: ForkServerProcess
    output: Path
    errors: Path

    def finished(self, limit: int = 300) -> tuple[int, str, str]:
        """Exit status (negative: of the signal), output and errors; at the time limit, in seconds, it is killed."""
        self.process.join(limit)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"{limit} seconds: {self.errors.read_text(encoding='utf-8')[-2000:]}")
        assert self.process.exitcode is not None
        texts = (path.read_text(encoding="utf-8", errors="replace") for path in (self.output, self.errors))
        return (self.process.exitcode, *texts)


def start(*words: str, environment: Mapping[str, str] | None = None, folder: Path | None = None,
          site: Path | None = None) -> Started:  # fmt: skip
    """Start a module (`-m`, its name) or a script with arguments.

    Args:
        words: as on Python's command line.
        environment: variables to add.
        folder: the current one; None: this process's.
        site: a folder of installed packages, first on the path.
    """
    with contextlib.chdir(REPOSITORY):  # where the common process finds the tests
        forkserver.ensure_running()
    kept = Path(tempfile.mkdtemp(prefix="forks-"))
    files = (kept / "output", kept / "errors")
    given = {**os.environ, **(environment or {})}
    process = CONTEXT.Process(target=_become, args=(words, given, folder or Path.cwd(), site, files))
    process.start()
    return Started(process, *files)


def finished(*words: str, environment: Mapping[str, str] | None = None, folder: Path | None = None,
             site: Path | None = None) -> tuple[int, str, str]:  # fmt: skip
    """Exit status, output and errors of a module or script.

    Args:
        words, environment, folder, site: as for `start`.
    """
    return start(*words, environment=environment, folder=folder, site=site).finished()


def launched(number: int, *words: str, limit: int = 300) -> tuple[int, str, str]:
    """Exit status (1 if one has another than 0), output and errors of a module or script in several processes over
    gloo, as torchrun starts them.

    Args:
        number: of processes.
        words: as on Python's command line.
        limit: seconds.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {
        "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    started = [start(*words, environment=rank) for rank in ranks]
    try:
        statuses, outputs, errors = zip(*(each.finished(limit) for each in started), strict=True)
    finally:
        for each in started:
            each.process.kill()
    return int(any(statuses)), "".join(outputs), "".join(errors)


def _become(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, site: Path | None, files: tuple[Path, Path]
) -> None:
    """Be the process of these words: runs in the child."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if site is not None:
        sys.path.insert(0, str(site))
    for number, (stream, path) in enumerate(zip((sys.stdout, sys.stderr), files, strict=True), 1):
        stream.flush()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    if words[0] == "-m":
        sys.path.insert(0, os.getcwd())  # as `python -m` does
        sys.argv = [*words[1:]]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*words]
        runpy.run_path(words[0], run_name="__main__")
