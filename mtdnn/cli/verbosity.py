"""How much a command prints next to its answer: `-q` errors only, `-v` also details."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

QUIET, NORMAL, VERBOSE = logging.WARNING, logging.INFO, logging.DEBUG

VERBOSITY_FLAGS = {
    QUIET: (("-q", "--quiet"), "No progress and no messages, only warnings, errors and the answer."),
    VERBOSE: (("-v", "--verbose"), "Also messages about details, such as how the encoder is executed."),
}
"""Level of the log → flags and help."""

_LEVEL: ContextVar[int] = ContextVar("level", default=NORMAL)


def without_verbosity(words: Sequence[str]) -> tuple[list[str], int]:
    """The words of a command without `-q`, `-v`, and the level of the log they ask for; the last one counts."""
    levels = {flag: level for level, (flags, _) in VERBOSITY_FLAGS.items() for flag in flags}
    asked = [levels[word] for word in words if word in levels]
    return [word for word in words if word not in levels], asked[-1] if asked else NORMAL


def shows_progress() -> bool:
    """Whether commands show progress bars."""
    return _LEVEL.get() < QUIET


def current_level() -> int:
    """The lowest level of the log that is printed."""
    return _LEVEL.get()


@contextmanager
def verbosity(level: int) -> Iterator[None]:
    """A context in which commands print messages from this level on."""
    token = _LEVEL.set(level)
    try:
        yield
    finally:
        _LEVEL.reset(token)
