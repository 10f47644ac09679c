"""Functions in processes of their own, and how much memory a process took at its peak."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def in_fresh_process(module: str, function: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """What `function(*arguments)` of a module of this folder returns there; arguments and result are JSON values.

    Raises:
        SystemExit: it failed; its own words went to standard error.
    """
    code = (
        f"import json, sys; from benchmarks.{module} import {function}; "
        f"print(json.dumps({function}(*json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise SystemExit(f"{module}.{function} failed with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def taking_turns(
    opened: Callable[..., AbstractContextManager[Callable[[], T]]], ways: Iterable[str], *arguments: Any
) -> Iterator[dict[str, Callable[[], T]]]:
    """Way → a function that waits for one call of that way's own function, in a fresh process of its own.

    Args:
        opened: called there with the way and the arguments; gives the function for as long as it is open.
        ways: their names.
        arguments: whatever a fresh process can be given.
    Raises:
        EOFError: a process ended; its own words went to standard error.
    """
    context, pipes, processes = get_context("spawn"), {}, []
    for way in ways:
        pipes[way], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(theirs, opened, way, *arguments), daemon=True))
        processes[-1].start()
        theirs.close()
    try:
        yield {way: partial(_asked, pipe) for way, pipe in pipes.items()}
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()


def _asked(pipe: Connection) -> Any:
    pipe.send(None)
    return pipe.recv()


def _serve(pipe: Connection, opened: Callable[..., AbstractContextManager[Callable[[], Any]]], *arguments: Any) -> None:
    """Send what the function returns, as often as it is asked for, until the other end closes."""
    with opened(*arguments) as function:
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send(function())


def resident() -> int:
    """Bytes of this process that lie in memory now."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The most bytes of this process that lay in memory since its start, or since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Hand freed memory back, then let the peak be what lies in memory now. Linux with glibc."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
