"""A file is whole or not there: written beside its place, then renamed. A folder has one process that writes it."""

from __future__ import annotations

import hashlib
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


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all, and on the disk when this returns."""
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def named_file(path: Path) -> Iterator[Path]:
    """`whole_file` at a place that the user named, with its folder.

    Raises:
        DataError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            yield beside
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise DataError(fault(str(path), "", found, "Make room, or name another.")) from error


def same_file(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file, whether it is there or not; links are followed."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


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
