"""A function in a fresh process, and how much memory a process took at its peak."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
