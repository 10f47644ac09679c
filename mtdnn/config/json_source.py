"""JSON text → values of a known shape, or one message that says where and what: every JSON file is read here.

Files of ours may be damaged and strangers' files may be hostile: bytes that are not UTF-8, half of a file, lists nested
a thousand deep, numbers of ten thousand digits, a device in place of a file. Each is refused as a DataError with its
place; nothing else leaves this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mtdnn.errors import DataError, Fault, Place, fault

LARGEST_FILE = 256 << 20
"""Bytes of a JSON file that is read as one value; none of ours comes near."""

LONGEST_LINE = 64 << 20
"""Bytes of one line of JSON lines."""

DEEPEST = 64
"""Lists and mappings within each other; none of ours has more than ten."""


def json_value(text: str | bytes, place: Place, fix: str = "") -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8 when it is bytes.
        place: of the text, for the message.
        fix: what to do about a text that is none.
    Raises:
        DataError: it is not UTF-8, not JSON, nested too deep, or holds a number nothing can hold.
    """
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise DataError(fault(place, "", f"not UTF-8 (byte {error.start})", fix)) from error
    except RecursionError as error:
        raise DataError(fault(place, "", _too_deep(), fix)) from error
    except ValueError as error:
        raise DataError(fault(place, "", f"not JSON: {str(error)[:200]}", fix)) from error
    if _deeper_than(value, DEEPEST):
        raise DataError(fault(place, "", _too_deep(), fix))
    return value


def read_json(path: Path, shape: Any, *, fix: str) -> Any:
    """The value in a JSON file, checked against its shape.

    Args:
        path: the file.
        shape: what it must hold: a TypedDict, a pydantic model, or a type such as `dict[str, str]`.
        fix: what to do about a damaged file.
    Raises:
        FileNotFoundError: there is none.
        DataError: it cannot be read, is too large, is no JSON, or holds values of other types; with the key.
    """
    return checked(json_value(_bytes_of(path, fix), Place(str(path)), fix), shape, Place(str(path)), fix)


def checked(value: object, shape: Any, place: Place, fix: str = "") -> Any:
    """A value read from JSON, if it has the shape.

    Args:
        value: as `json_value` gives it.
        shape: as for `read_json`.
        place: for the message.
        fix: what to do otherwise.
    Raises:
        DataError: the first ten values of another type, each with its key.
    """
    adapter = _adapter(shape)
    try:
        if is_dataclass(shape):  # whose instances alone are right in strict mode, but for JSON
            return adapter.validate_json(json.dumps(value), strict=True)
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)[:10]
        faults = [_misfit(place, each["loc"], each["msg"], fix) for each in details]
        raise DataError(list(dict.fromkeys(faults))) from error


def json_lines(path: Path, shape: Any, *, fix: str, cut_last: bool = False) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of each line of a file of JSON lines; blank lines are passed over.

    Args:
        path: the file.
        shape: of every line, as for `read_json`.
        fix: what to do about a damaged line.
        cut_last: pass over a last line without its line feed, as a killed writer leaves it.
    Raises:
        DataError: the file cannot be read; or the first line that is damaged, with its number.
    """
    for number, line in raw_lines(path):
        if cut_last and not line.endswith(b"\n"):
            return
        if line.strip():
            place = Place(str(path), number)
            yield number, checked(json_value(line, place, fix), shape, place, fix)


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of each line of a file, its line feed included.

    Raises:
        DataError: the file cannot be read, or a line is longer than any that a command writes.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    found = f"a line of more than {LONGEST_LINE >> 20} MiB"
                    raise DataError(fault(Place(str(path), number), "", found, "Give a file of JSON lines."))
                yield number, line
    except OSError as error:
        found = f"cannot be read: {error.strerror or error}"
        raise DataError(fault(str(path), "", found, "Check the path and its permissions.")) from error


def _bytes_of(path: Path, fix: str) -> bytes:
    """The content of a regular file.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is a folder or a device, too large, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(fault(str(path), "", "is a folder or a device, not a file", fix))
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(fault(str(path), "", f"larger than {LARGEST_FILE >> 20} MiB", fix))
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(fault(str(path), "", f"cannot be read: {error.strerror or error}", fix)) from error


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _misfit(place: Place, keys: tuple[int | str, ...], message: str, fix: str) -> Fault:
    found = f"damaged: {message[:1].lower()}{message[1:]}"
    return fault(place, ".".join(str(key)[:80] for key in keys), found, fix)


def _too_deep() -> str:
    return f"more than {DEEPEST} lists or mappings within each other"


def _deeper_than(value: object, limit: int) -> bool:
    """Whether lists and mappings are nested deeper than a limit; level by level, so that it cannot recurse."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for each in level
            if isinstance(each, (list, dict))
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (list, dict))
        ]
        if not level:
            return False
    return True
