"""User errors as records (place, key, what was found, what to do), printed as lines or given to editors."""

from __future__ import annotations

import difflib
import errno
import inspect
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


MAX_LINE = 300
"""Characters of another library's message that ours repeat."""

MAX_REPORTED_ERRORS = 20
"""Errors of one file, or of one split, that a report lists, so that they do not hide those of others."""


@dataclass(frozen=True)
class Place:
    """Where an error was found.

    Attributes:
        name: a file, a folder, a data set, or the name of a task made in Python; empty if the place is only flags.
        line: line of the file, or row of the data set, counted from 1.
        flags: command-line flags, such as `--optimizer.lr`.
        context: what refers to the place, such as the cell of a study that names the file.
        part: the part of the file that the place is for, such as a cell of a study.
    """

    name: str = ""
    line: int | None = None
    flags: tuple[str, ...] = ()
    context: str = ""
    part: str = ""

    def __str__(self) -> str:
        """`study.yml: fine (seed 1): tasks.yml:3 and --tasks`, or `study.yml:7: fine (seed 1)`."""
        named = f"{self.name}:{self.line}" if self.line is not None else self.name
        here = " and ".join(part for part in (named, *self.flags) if part)
        return ": ".join(part for part in (self.context, here, self.part) if part)

    def __bool__(self) -> bool:
        return bool(self.name or self.flags or self.context)

    @classmethod
    def of_flag(cls, key: str) -> Place:
        """The place of a dotted key that was given as a flag."""
        return cls(flags=(f"--{key}",))


NOWHERE = Place()


@dataclass(frozen=True)
class Fault:
    """One user error, printed as one line `<place>: <key>: <found>. <fix>`.

    Attributes:
        place: where it was found; may be empty (`NOWHERE`).
        key: the key, column or word it is about; may be empty.
        found: what was found and what is expected.
        fix: what to do; may be empty.
    """

    place: Place
    key: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        """One printable line; empty parts, and a key equal to its place, are left out with their punctuation."""
        before = ": ".join(dict.fromkeys(part for part in (str(self.place), self.key) if part))
        text = f"{before}: {self.found}" if before else self.found
        if self.fix:
            text = f"{text} {self.fix}" if text.endswith("?") else f"{text.rstrip('.')}. {self.fix}"
        return printable(text)

    def at(self, place: Place) -> Fault:
        """The same error at another place; the key is left out where the place is the key's own flag."""
        return replace(self, place=place, key="" if place == Place.of_flag(self.key) else self.key)

    def within(self, context: str) -> Fault:
        """The same error with a context, such as a study's cell that set the keys; a flag becomes the key it sets."""
        place = self.place
        if place.flags and not place.name:
            return replace(self, place=Place(context=context), key=self.key or place.flags[0].removeprefix("--"))
        return replace(self, place=replace(place, context=": ".join(filter(None, (context, place.context)))))

    def as_dict(self) -> dict[str, str | int | None]:
        """The record as `check --json` prints it: place (as text), file, line, key, found, fix."""
        place = self.place
        return {
            "place": str(place), "file": place.name or None, "line": place.line,
            "key": self.key, "found": self.found, "fix": self.fix,
        }  # fmt: skip


class MtdnnError(Exception):
    """An error in the user's input, or a state of the machine that only the user can change.

    The command line prints the errors, one per line, and exits with status 2, without a traceback.

    Attributes:
        faults: all errors, as records.
    """

    __signature__ = inspect.Signature([inspect.Parameter("faults", inspect.Parameter.POSITIONAL_OR_KEYWORD)])

    def __new__(cls, *args: object, **keywords: object) -> Self:
        """A new error; an unknown or missing keyword is a ConfigError, as of all public names."""
        place = f"{cls.__name__}()"
        wrong = [fault(place, "", unknown("keyword", word, ["faults"])) for word in keywords if word != "faults"]
        if not args and not keywords:
            wrong.append(fault(place, "faults", "is missing", "Give it."))
        if wrong:
            raise ConfigError(wrong)
        return super().__new__(cls, *args)

    def __init__(self, faults: Fault | str | Sequence[Fault | str]) -> None:
        several = (faults,) if isinstance(faults, (Fault, str)) else faults
        self.faults = tuple(each if isinstance(each, Fault) else Fault(NOWHERE, "", each) for each in several)
        super().__init__("\n".join(map(str, self.faults)))

    @property
    def lines(self) -> tuple[str, ...]:
        """The errors as they are printed."""
        return tuple(map(str, self.faults))


class ConfigError(MtdnnError):
    """An error in a task definition, a run, a study, a keyword argument or a command-line argument.

    Args:
        faults: one error or several, as records or texts; available as `faults`, and as printed as `lines`.

    Example:
        >>> import mtdnn
        >>> try:
        ...     mtdnn.train(tasks="tasks.yml", data="prepared", encoder="encoder", output="runs/third", epoch=3)
        ... except mtdnn.ConfigError as error:
        ...     print(error.lines[0].split(";")[0], error.lines[0].split(".")[-1])
        train(): unknown keyword 'epoch'  Did you mean 'epochs'?
    """


class DataError(MtdnnError):
    """An error in rows, in a prepared store, in predictions or in a checkpoint.

    Args:
        faults: one error or several, as records or texts; available as `faults`, and as printed as `lines`.

    Example:
        >>> import mtdnn
        >>> try:
        ...     mtdnn.score("runs/first/predictions/mnli.dev.jsonl")
        ... except mtdnn.DataError as error:
        ...     print(error.faults[0].place)
        runs/first/predictions/mnli.dev.jsonl
    """


def fault(place: Place | str, key: str, found: str, fix: str = "") -> Fault:
    """The record of one user error.

    Args:
        place: where it was found; a plain text is a file, a folder or a flag.
        key: the key or column it is about; may be empty.
        found: what was found and what is expected.
        fix: what to do; may be empty.
    """
    if isinstance(place, str):
        place = Place(flags=(place,)) if place.startswith("--") else Place(place)
    return Fault(place, key, found, fix)


def printable(text: str) -> str:
    """The text with control characters and surrogates escaped: they could control the terminal, or not be printed."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def first_of(faults: Sequence[Fault], number: int, place: str, limit: int) -> list[Fault]:
    """The first errors of a file, followed by one line with the number of the others.

    Args:
        faults: at least the first `limit` errors.
        number: how many there are in total.
        place: the file.
        limit: how many to keep.
    """
    more = number - limit
    return [*faults[:limit], *([fault(place, "", f"{more} more errors like these")] if more > 0 else [])]


def unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Why a text file cannot be read: `cannot be read: No such file or directory`, or `not UTF-8 (byte 3)`."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    return f"cannot be read: {error.strerror or error}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'accuracy'?` for the closest known word, ignoring case, or one that has the word between
    underscores; empty when there is none."""
    names = list(known)
    near = difflib.get_close_matches(word.casefold(), [name.casefold() for name in names], n=1, cutoff=0.6)
    alike = [name for name in names if name.casefold() in near]
    best = difflib.get_close_matches(word, alike, n=1, cutoff=0.0)
    best = best or [name for name in names if word in name.split("_")]
    return f" Did you mean '{best[0]}'?" if best else ""


def unknown(kind: str, word: str, known: Iterable[str], *, instead: str = "") -> str:
    """`unknown metric 'acuracy'; known: accuracy, f1. Did you mean 'accuracy'?`; each name once.

    Args:
        kind: what the word names, such as "metric".
        word: the word that was given.
        known: the known words.
        instead: what to write in place of the word, if that is known; it replaces the known words.
    """
    if instead:
        return f"unknown {kind} '{word}'.{instead}"
    names = list(dict.fromkeys(known))
    if not names:
        return f"unknown {kind} '{word}'; there is none here"
    return f"unknown {kind} '{word}'; known: {', '.join(names)}.{did_you_mean(word, names)}"


def is_full_disk(error: BaseException) -> bool:
    """Whether a write failed for lack of disk space, as reported by the system, safetensors (Rust) or PyTorch (C++)."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in numbers
    message = str(error)
    words = ("PytorchStreamWriter", "unexpected pos", "iostream error", *_numbers_in_rust(*numbers))
    return any(word in message for word in words)


def _numbers_in_rust(*numbers: int) -> tuple[str, ...]:
    """How libraries written in Rust give the number of a system error, for reading and for debugging."""
    return tuple(form.format(number) for number in numbers for form in ("(os error {})", "Os {{ code: {},"))


SYSTEM_ERRORS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EBUSY, errno.ESTALE),
)
"""System errors that only the user can fix: paths, permissions, limits, disks. A missing file is not one of them."""

NO_DESCRIPTORS = (os.strerror(errno.EMFILE), *_numbers_in_rust(errno.EMFILE, errno.ENFILE))
"""How Python, the loader of shared libraries and libraries written in Rust report that no file can be opened."""

MAX_PLACE_CHARACTERS = 200


def system_fault(error: BaseException, place: str) -> Fault | None:
    """The record of a system error: a full disk, an unusable path, or lack of memory; None for any other error.

    Args:
        error: any exception.
        place: where it was raised if the error names no file, such as the command.
    """
    name = getattr(error, "filename", None)
    where = shortened(printable(name), MAX_PLACE_CHARACTERS) if isinstance(name, str) else place
    if is_full_disk(error):
        return fault(where, "", "no space left on the disk", "Free disk space, then run the same command again.")
    is_explained = isinstance(name, str) or getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
    if isinstance(error, OSError) and error.errno in SYSTEM_ERRORS and is_explained:
        found = f"cannot be read or written: {error.strerror}"
        return fault(where, "", found, "Check the path, its permissions and the limits of open files.")
    if any(words in str(error) for words in NO_DESCRIPTORS):
        fix = "Raise the limit (`ulimit -n`) or close other programs, then run the same command again."
        return fault(place, "", "no file descriptors left", fix)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "CUDA out of memory" in str(error):
        fix = "Give fewer or shorter rows, a smaller batch_size or max_tokens, or more memory."
        return fault(place, "", "memory ran out", fix)
    return None


def shortened(text: str, length: int) -> str:
    """The text, or its beginning and `…` if it is longer."""
    return text if len(text) <= length else f"{text[:length]}…"


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank, without the full stop at its end; long ones are shortened.

    An error without a text gives the name of its class.
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return shortened(line.rstrip("."), MAX_LINE)
