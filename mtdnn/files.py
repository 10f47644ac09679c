"""A file is whole or not there: written beside its place, then renamed. A folder has one process that writes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtdnn.errors import DataError, fault


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once the block has ended well, and vanishes otherwise."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path, *, command: str) -> Iterator[None]:
    """Make the folder, and keep out other processes that ask the same; the lock of a killed one is free.

    Args:
        command: what writes there, for the message.
    Raises:
        DataError: another process is writing there, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        found = f"another {command} is writing here"
        raise DataError(fault(str(folder), "", found, "Wait until it is done, or choose another folder.")) from error
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise DataError(fault(str(folder), "", found, "Make room, or choose another folder.")) from error
    try:
        yield
    finally:
        lock.release()
