"""Atomic writes: a file or folder is complete or absent. It is written next to its path, flushed, then renamed.

A temporary file that a killed process leaves has the process id in its name, and is removed by the next process that
writes to the same path. Devices and pipes are written to directly, links are followed. One process at a time writes to
a folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

from mtdnn.errors import DataError, fault

T = TypeVar("T")

LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<process>\d+)(?:-(?P<start>\d+))?")
"""Name of the temporary file or folder that will become `name`; the host is a hash, as host names may hold anything.

A container that is started again gives its processes the same ids as before: the start time distinguishes it.
"""

ABANDONED_AFTER_SECONDS = 24 * 3600
"""Age after which a temporary file of another host counts as abandoned; processes of this host can be looked up."""


def temporary_path(path: Path) -> Path:
    """Where this process writes the future content of `path`: in the same folder, so that a rename is enough."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{_start_of(os.getpid())}")


def _start_of(process: int) -> int:
    """When a process of this host was started, in ticks since the host was; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders that killed processes left in a folder.

    Args:
        folder: the folder; its subfolders are not searched.
        name: only those that would have become this file or folder; None: all.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        found = LEFTOVER.fullmatch(path.name)
        if found is not None and name in (None, found["name"]) and _is_abandoned(path, found):
            _remove(path)


def _is_abandoned(path: Path, found: re.Match[str]) -> bool:
    """Whether nobody will finish it: its process on this host has ended, or another host left it unchanged for long."""
    if found["host"] == _host():
        process = int(found["process"])
        return not _is_alive(process) or (found["start"] or "0") not in ("0", str(_start_of(process)))
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > ABANDONED_AFTER_SECONDS
    return False


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it exists, but belongs to another user
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is either complete or gone: if killed, the next writer removes the remains."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        aside = temporary_path(folder)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces `path` when the block succeeds, and is removed otherwise.

    A link is followed. For a device or a pipe, which a rename would replace, the path itself is given.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    remove_leftovers(path.parent, path.name)
    temporary = temporary_path(path)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; it is on the disk when this returns."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk; file systems without fsync are ignored."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush every file below a folder to the disk, and the names of them: what is done before it gets its own name."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_once(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """A decorator that caches a reader of files per file until the file changes: every cell of a study reads the same.

    The value is shared by all callers and must not be modified. A file has changed when its inode, time or size has; a
    file renamed into place has another inode.

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
    """Inode, modification time (ns) and size (bytes) of a file, to detect changes.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def named_file(path: Path) -> Iterator[Path]:
    """`whole_file` at a path given by the user; its folder is created.

    Raises:
        DataError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            yield temporary
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise DataError(fault(str(path), "", found, "Free disk space, or choose another path.")) from error


def same_file(path: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, existing or not; links are followed."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


@contextmanager
def exclusive(lock: Path, *, wait: bool) -> Iterator[bool]:
    """Yield True while this process has the lock; False, without `wait`, if another process has it.

    The system releases the lock when the process ends, even if it is killed, so that there is nothing to clean up.

    Args:
        lock: the lock file; it is not removed afterwards, as a process that waits would then lock a file that is gone.
        wait: wait until the other process releases the lock.
    Raises:
        DataError: the file cannot be created, or the file system has no locks.
    """
    from filelock import FileLock, Timeout

    file_lock = FileLock(lock, timeout=-1 if wait else 0)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire()
    except Timeout:
        yield False
        return
    except NotImplementedError as error:
        fix = "Use a local disk, or mount this one with locks."
        raise DataError(fault(str(lock.parent), "", "this file system has no file locks", fix)) from error
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise DataError(fault(str(lock.parent), "", found, "Free disk space, or choose another folder.")) from error
    try:
        yield True
    finally:
        file_lock.release()


@contextmanager
def sole_writer(folder: Path, *, command: str) -> Iterator[None]:
    """Create the folder and lock it against other writers; if nothing is written before an error, it is removed again.

    Args:
        folder: the folder that is written to.
        command: the command that writes there, for the message.
    Raises:
        DataError: another process is writing there, or the folder cannot be written.
    """
    lock, created = folder / ".lock", [each for each in (folder, *folder.parents) if not each.exists()]
    with exclusive(lock, wait=False) as ours:
        if not ours or not lock.exists():  # it was opened before another process removed it
            fix = "Wait until it is done, or choose another folder."
            raise DataError(fault(str(folder), "", f"another {command} is writing here", fix))
        remove_leftovers(folder)
        try:
            yield
        except BaseException:
            if created:
                _remove_if_empty(lock, created)
            raise


def _remove_if_empty(lock: Path, folders: Iterable[Path]) -> None:
    """Remove folders in which nothing but a lock of this process is, and the lock; the inner ones first."""
    with suppress(OSError):  # something was written there since; Windows keeps a file that is open
        if list(lock.parent.iterdir()) == [lock]:
            lock.unlink()
            for folder in folders:
                folder.rmdir()
