"""A file or folder is whole or not there: written next to its place, flushed to the disk, then renamed.

What a killed process leaves next to a place has that process in its name, and is removed by the next one that writes to
the same place. Devices and pipes are written to, links followed. A folder has one process that writes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

from mtdnn.errors import DataError, fault

T = TypeVar("T")

LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<process>\d+)")
"""The name of what is being written next to `name`; the host's is a hash, as names of hosts may hold anything."""

FORGOTTEN_SECONDS = 24 * 3600
"""After this what a process of another host left counts as left for good; of this host it is known whether it lives."""


def temporary_place(path: Path) -> Path:
    """Where this process writes what will become `path`: in the same folder, so that a rename is enough."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}")


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half-written in a folder.

    Args:
        folder: it is looked at alone, not the folders in it.
        name: of the file or folder it would have become; None: of any.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        found = LEFTOVER.fullmatch(path.name)
        if found is not None and name in (None, found["name"]) and _is_left(path, found):
            _remove(path)


def _is_left(path: Path, found: re.Match[str]) -> bool:
    """Whether nobody will finish it: its process on this host has ended, or another host left it alone for long."""
    if found["host"] == _host():
        return not _is_alive(int(found["process"]))
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS
    return False


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is whole or gone: a kill in the middle leaves what the next writer clears."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        aside = temporary_place(folder)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once the block has ended well, and vanishes otherwise.

    A link is followed. A device or a pipe, which a rename would replace, is itself the path that is given.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    remove_leftovers(path.parent, path.name)
    beside = temporary_place(path)
    try:
        yield beside
        flush(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all, and on the disk when this returns."""
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; file systems that cannot are left alone."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_once(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """A reader of files that reads each again only when it has changed: a study asks for the same ones for every cell.

    What it returns is shared by all who ask, and not to be modified. A file has changed when its number, time or size
    has; one that is renamed into place has another number.

    Raises:
        OSError: there is no such file.
    """

    @lru_cache(maxsize=1 << 16)
    def of_stamp(path: Path, *stamp: int) -> T:
        return read(path)

    @wraps(read)
    def current(path: Path) -> T:
        return of_stamp(path, *file_stamp(path))

    return current


def file_stamp(path: Path) -> tuple[int, int, int]:
    """Number, time (ns) and size (bytes) of a file: one that has changed has another.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


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
def exclusive(lock: Path, *, wait: bool) -> Iterator[bool]:
    """True inside while this process alone holds a lock file; False, without `wait`, when another one does.

    The system lets go of the lock when the process ends, however it ends, so that a killed one leaves nothing to clear.

    Args:
        lock: the file; it stays, as removing it would give a second process a lock of its own.
        wait: until the other process is done.
    Raises:
        DataError: the file cannot be made, or the file system has no locks.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=-1 if wait else 0)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        yield False
        return
    except NotImplementedError as error:
        fix = "Use a local disk, or mount this one with locks."
        raise DataError(fault(str(lock.parent), "", "this file system has no file locks", fix)) from error
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise DataError(fault(str(lock.parent), "", found, "Make room, or choose another folder.")) from error
    try:
        yield True
    finally:
        held.release()


@contextmanager
def sole_writer(folder: Path, *, command: str) -> Iterator[None]:
    """Make the folder, and keep out other processes that ask the same.

    Args:
        folder: what is written to.
        command: what writes there, for the message.
    Raises:
        DataError: another process is writing there, or the folder cannot be written.
    """
    with exclusive(folder / ".lock", wait=False) as ours:
        if not ours:
            fix = "Wait until it is done, or choose another folder."
            raise DataError(fault(str(folder), "", f"another {command} is writing here", fix))
        remove_leftovers(folder)
        yield
