"""What a user did wrong, said so that it can be mended: where, what was found, what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence


class MtdnnError(Exception):
    """A mistake in what the user gave, or a state of the machine only the user can change.

    The command line prints the faults, one a line, and ends with status 2; there is no traceback.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class ConfigError(MtdnnError):
    """A fault in a task definition, a run, a study, or in a word given on the command line."""


class DataError(MtdnnError):
    """A fault in rows, in a prepared store, in predictions or in a checkpoint."""


def fault(where: str, key: str, found: str, fix: str = "") -> str:
    """One line `<where>: <key>: <found>. <fix>`; an empty part is left out, punctuation with it."""
    place = ": ".join(part for part in (where, key) if part)
    text = f"{place}: {found}" if place else found
    if not fix:
        return text
    return f"{text} {fix}" if text.endswith("?") else f"{text.rstrip('.')}. {fix}"


def first_of(faults: Sequence[str], number: int, place: str, limit: int) -> list[str]:
    """The first `limit` of a file's faults, and how many more of the `number` there are."""
    more = number - limit
    return [*faults[:limit], *([fault(place, "", f"{more} more faults like these")] if more > 0 else [])]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'accuracy'?` for the nearest known word, in whatever case; empty when none is near."""
    names = list(known)
    near = difflib.get_close_matches(word.casefold(), [name.casefold() for name in names], n=1, cutoff=0.6)
    alike = [name for name in names if name.casefold() in near]
    best = difflib.get_close_matches(word, alike, n=1, cutoff=0.0)
    return f" Did you mean '{best[0]}'?" if best else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """`unknown metric 'acuracy'; known: accuracy, f1. Did you mean 'accuracy'?`; each name once."""
    names = list(dict.fromkeys(known))
    if not names:
        return f"unknown {kind} '{word}'; there is none here"
    return f"unknown {kind} '{word}'; known: {', '.join(names)}.{did_you_mean(word, names)}"


def is_full_disk(error: BaseException) -> bool:
    """Whether a write failed for want of room, whoever tells it: the system, safetensors (Rust) or PyTorch (C++)."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in numbers
    told = str(error)
    words = ("PytorchStreamWriter", "unexpected pos", "iostream error", *(f"(os error {number})" for number in numbers))
    return any(word in told for word in words)
