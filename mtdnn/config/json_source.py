"""JSON text → validated values, or a DataError with the place; every JSON file is read by this module.

Our files may be damaged and other files may be malicious: bytes that are not UTF-8, half of a file, lists nested a
thousand levels deep, numbers of ten thousand digits, a device in place of a file. No other exception leaves this
module.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from mtdnn.config.expectations import expectation
from mtdnn.config.yaml_source import MAX_DEPTH
from mtdnn.errors import DataError, Fault, Place, fault

MAX_FILE_BYTES = 256 << 20
"""Largest JSON file that is read as one value; our files are far smaller."""

MAX_LINE_BYTES = 64 << 20
"""Longest line of a JSON lines file."""

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair: an escape in JSON may have one alone, which cannot be written, drawn or printed."""

BLOCK_BYTES = 1 << 16
"""Bytes of lines that are read at a time from a file that is not kept open."""


def json_value(text: str | bytes, place: Place, fix: str = "", *, unique: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: a text, or bytes in UTF-8.
        place: where the text is, for the message.
        fix: what to do if it is invalid, for the message.
        unique: refuse an object that has a name twice; else the last value of the name is taken.
    Raises:
        DataError: it is not UTF-8, not JSON, nested too deeply, or has a number that is too large or a text that UTF-8
            has no bytes for.
    """
    hook = _with_unique_names if unique else None
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, object_pairs_hook=hook)
    except UnicodeDecodeError as error:
        raise DataError(fault(place, "", f"not UTF-8 (byte {error.start})", fix)) from error
    except RecursionError as error:
        raise DataError(fault(place, "", _too_deep(), fix)) from error
    except ValueError as error:
        raise DataError(fault(place, "", f"not JSON: {str(error)[:200]}", fix)) from error
    if _deeper_than(value, MAX_DEPTH):
        raise DataError(fault(place, "", _too_deep(), fix))
    if _has_surrogate_escape(text) and not _is_text(value):
        raise DataError(fault(place, "", "an unpaired surrogate (\\ud8… alone); both halves are expected", fix))
    return value


def _with_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these names and values.

    Raises:
        ValueError: a name comes twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice in an object")
    return found


def _has_surrogate_escape(text: str | bytes) -> bool:
    """Whether a JSON text may have unpaired surrogates: an escape, or a Python text that was not decoded from UTF-8."""
    if isinstance(text, bytes):
        return b"\\ud" in text or b"\\uD" in text
    return "\\ud" in text or "\\uD" in text or (not text.isascii() and SURROGATE.search(text) is not None)


def _is_text(value: Any) -> bool:
    """Whether UTF-8 can encode every text in a value, keys included."""
    return SURROGATE.search(json.dumps(value, ensure_ascii=False)) is None


def sorted_json(value: Any, *, default: Callable[[Any], Any] = str, ascii: bool = False) -> str:
    """JSON text that is the same for equal values whatever the order of their keys, to compute digests of.

    YAML and Python allow keys that JSON does not have, or that have no order among each other: those become texts.

    Args:
        value: lists, mappings and plain values.
        default: gives what represents a value that JSON does not have.
        ascii: whether other characters are escaped.
    """
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=ascii, default=default)
    except TypeError:
        return json.dumps(_with_text_keys(value), sort_keys=True, ensure_ascii=ascii, default=default)


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _with_text_keys(each) for key, each in value.items()}
    return [_with_text_keys(each) for each in value] if isinstance(value, (list, tuple)) else value


def read_json(path: Path, shape: Any, *, fix: str) -> Any:
    """The value in a JSON file, validated against its shape.

    Args:
        path: the file.
        shape: the expected type: a TypedDict, a pydantic model, or a type such as `dict[str, str]`.
        fix: what to do about a damaged file, for the message.
    Raises:
        FileNotFoundError: there is no such file.
        DataError: it cannot be read, is too large, is not JSON, or has values of other types; the key is reported.
    """
    return checked(json_value(_bytes_of(path, fix), Place(str(path)), fix), shape, Place(str(path)), fix)


def checked(value: object, shape: Any, place: Place, fix: str = "") -> Any:
    """A value read from JSON, validated against its shape.

    Args:
        value: as returned by `json_value`.
        shape: as for `read_json`.
        place: where the value is, for the message.
        fix: what to do if it does not match, for the message.
    Raises:
        DataError: reports the first ten values of another type, each with its key.
    """
    adapter = _adapter(shape)
    try:
        # Strict mode accepts a mapping for these only in JSON.
        if is_dataclass(shape) or (isinstance(shape, type) and issubclass(shape, BaseModel)):
            return adapter.validate_json(json.dumps(value), strict=True)
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)[:10]
        faults = [_value_fault(place, each["loc"], expectation(each), fix) for each in details]
        raise DataError(list(dict.fromkeys(faults))) from error


def json_lines(path: Path, shape: Any, *, fix: str, cut_last: bool = False) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of each line of a JSON lines file; blank lines are skipped.

    Args:
        path: the file.
        shape: the expected type of every line, as for `read_json`.
        fix: what to do about a damaged line, for the message.
        cut_last: skip a last line without a line feed, as a killed writer leaves it.
    Raises:
        DataError: the file cannot be read, or a line is damaged; the first such line is reported.
    """
    for number, line in raw_lines(path):
        if cut_last and not line.endswith(b"\n"):
            return
        if line.strip():
            place = Place(str(path), number)
            yield number, checked(json_value(line, place, fix), shape, place, fix)


def raw_lines(path: Path, *, reopened: bool = False) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of each line of a file, including its line feed, without a byte order mark.

    Args:
        path: the file.
        reopened: close the file after every `BLOCK_BYTES`, for loops over more files than a process may have open.
    Raises:
        DataError: the file cannot be read, or a line is longer than `MAX_LINE_BYTES`.
    """
    try:
        for number, line in enumerate(_blockwise(path) if reopened else _lines(path), 1):
            if len(line) > MAX_LINE_BYTES:
                found = f"a line of more than {MAX_LINE_BYTES >> 20} MiB"
                raise DataError(fault(Place(str(path), number), "", found, "Give a file of JSON lines."))
            yield number, line.removeprefix(BOM_UTF8) if number == 1 else line
    except OSError as error:
        found = f"cannot be read: {error.strerror or error}"
        raise DataError(fault(str(path), "", found, "Check the path and its permissions.")) from error


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            yield line


def _blockwise(path: Path) -> Iterator[bytes]:
    """The lines of a file that is open only while a block of them is read."""
    start = 0
    while True:
        lines: list[bytes] = []
        with path.open("rb") as file:
            file.seek(start)
            while file.tell() < start + BLOCK_BYTES and (line := file.readline(MAX_LINE_BYTES + 1)):
                lines.append(line)
            start = file.tell()
        if not lines:
            return
        yield from lines


def _bytes_of(path: Path, fix: str) -> bytes:
    """The content of a regular file, without the byte order mark that editors of Windows put before UTF-8.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is a folder or a device, too large, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(fault(str(path), "", "is a folder or a device, not a file", fix))
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(fault(str(path), "", f"larger than {MAX_FILE_BYTES >> 20} MiB", fix))
        return path.read_bytes().removeprefix(BOM_UTF8)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(fault(str(path), "", f"cannot be read: {error.strerror or error}", fix)) from error


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _value_fault(place: Place, keys: tuple[int | str, ...], message: str, fix: str) -> Fault:
    return fault(place, ".".join(str(key)[:80] for key in keys), f"damaged: {message}", fix)


def _too_deep() -> str:
    return f"more than {MAX_DEPTH} nested lists or mappings"


def _deeper_than(value: object, limit: int) -> bool:
    """Whether lists and mappings are nested deeper than a limit; level by level, to avoid deep recursion."""
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
