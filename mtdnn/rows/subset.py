"""Subsets of a data set, determined by (row ids, fraction or size, seed): nested, and the same on every machine."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from mtdnn.config.json_source import json_value
from mtdnn.errors import ConfigError, DataError, Fault, Place, fault, unreadable
from mtdnn.files import named_file, same_file

if TYPE_CHECKING:
    import numpy as np


def subset_size(num_rows: int, fraction: float) -> int:
    """⌊num_rows · fraction⌋, with the fraction as a decimal number: 0.29 of 100 rows is 29, not 28.

    Raises:
        ConfigError: the fraction is outside (0, 1].
    """
    exact = Fraction(str(fraction)) if math.isfinite(fraction) else Fraction(0)
    if not 0 < exact <= 1:
        raise ConfigError(fault("", "fraction", f"{fraction} is not in (0, 1]", "0.01 keeps one row of a hundred."))
    return math.floor(num_rows * exact)


def size_fault(num_rows: int, *, rows: int | None = None, fraction: float | None = None) -> Fault | None:
    """The error in the size of a subset, for the key `rows` or `fraction`; None if the size is valid.

    Args:
        num_rows: number of available rows.
        rows, fraction: one of the two is the requested size.
    """
    if not num_rows:
        return fault("", "fraction" if rows is None else "rows", "there are no rows to choose from", "Add rows.")
    if rows is not None and not 0 < rows <= num_rows:
        return fault("", "rows", f"{rows} of {num_rows} rows", f"Give 1 to {num_rows}.")
    if rows is None and subset_size(num_rows, fraction or 0.0) == 0:
        least = _least_fraction(num_rows)
        return fault("", "fraction", f"{fraction} of {num_rows} rows is less than one row", f"Give {least} to 1.")
    return None


def _least_fraction(num_rows: int) -> str:
    """The smallest fraction, rounded up to three digits, that gives one row: 0.00834 of 120 rows."""
    digits = len(str(num_rows)) + 2
    return f"{math.ceil(Fraction(10**digits, num_rows)) / 10**digits:.{digits}f}".rstrip("0").rstrip(".")


def chosen_rows(ids: Sequence[str], size: int, *, seed: int) -> np.ndarray:
    """[size]: numbers of the chosen rows, in ascending order: the first ones of `hashed_order`.

    So a subset is contained in every larger one with the same seed, whatever the order of the rows and the name of the
    data set.

    Args:
        ids: ids of the rows.
        size: number of rows to choose.
        seed: seed of the choice.
    Raises:
        DataError: the size is 0, or larger than the number of rows.
    """
    import numpy as np

    if not 0 < size <= len(ids):
        found = f"a subset of {size} rows was asked for, and there are {len(ids)}"
        raise DataError(fault("", "subset", found, f"Give 1 to {len(ids)}." if len(ids) else "Add rows."))
    chosen: np.ndarray = np.sort(hashed_order(ids, seed=seed)[:size]).astype(np.int64)
    return chosen


def hashed_order(ids: Sequence[str], *, seed: int, strata: Sequence[str] | None = None) -> np.ndarray:
    """[rows]: numbers of the rows in the order of their hashes of (seed, id), from which parts of a data set are cut.

    The second row with a repeated id is hashed as "second of that id".

    Args:
        ids: ids of the rows.
        seed: seed of the hashes.
        strata: a label of each row; its rows are then spread evenly over the order, so that in any part of it each
            label has its share, to one row. None: the hashes alone decide.
    """
    import numpy as np

    seen: Counter[str] = Counter()
    draws = np.empty(len(ids), dtype=np.uint64)
    for row, row_id in enumerate(ids):
        draws[row] = _draw(seed, row_id, seen[row_id])
        seen[row_id] += 1
    order: np.ndarray = np.argsort(draws, kind="stable")
    if strata is None:
        return order
    sizes, before = Counter(strata), Counter[str]()
    places = np.empty(len(ids))
    for row in order.tolist():
        places[row] = (before[strata[row]] + 0.5) / sizes[strata[row]]
        before[strata[row]] += 1
    spread: np.ndarray = np.lexsort((draws, places))
    return spread


def _draw(seed: int, row_id: str, occurrence: int) -> int:
    """The 64-bit hash of one row."""
    text = f"{seed}\x1f{row_id}\x1f{occurrence}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class WrittenSubset:
    """A subset on disk.

    Attributes:
        rows: the file of the rows.
        ids: the file of their ids, one per line, next to `rows`.
        size, num_rows: number of rows in the subset and in the source.
    """

    rows: Path
    ids: Path
    size: int
    num_rows: int


def write_subset(
    source: Path, out: Path, *, seed: int, fraction: float | None = None, rows: int | None = None
) -> WrittenSubset:
    """Copy some lines of a file, unchanged and in order, and write their ids to a file next to it.

    Args:
        source: .tsv (id in the first column) or .jsonl (key `id`).
        out: the file to write; the ids go to the same name with the ending `.ids`.
        seed: seed of the choice.
        fraction, rows: one of the two is the size of the subset.
    Raises:
        ConfigError: neither or both sizes are given, the size is invalid, the format of the source is not supported, or
            `out` or the ids file would overwrite the source, a folder, or a file that is not from an earlier subset.
        DataError: a row has no id, or a file cannot be read or written.
    """
    if (fraction is None) == (rows is None):
        raise ConfigError(fault("", "subset", "give either a fraction or a number of rows", "As --fraction 0.01."))
    _refuse_bad_name(out, source)
    lines = _lines(source)
    ids = _ids(source, lines)
    if (wrong := size_fault(len(ids), rows=rows, fraction=fraction)) is not None:
        raise ConfigError(wrong)
    size = rows if rows is not None else subset_size(len(ids), fraction or 0.0)
    chosen, texts = chosen_rows(ids, size, seed=seed), list(lines.values())
    ids_file, chosen_ids = out.with_suffix(".ids"), [ids[row] for row in chosen]
    _refuse_taken(out, ids_file, chosen_ids)
    _write_lines(ids_file, chosen_ids)
    _write_lines(out, (texts[row] for row in chosen))
    return WrittenSubset(rows=out, ids=ids_file, size=size, num_rows=len(ids))


def _refuse_bad_name(out: Path, source: Path) -> None:
    """Raise ConfigError if `out` is a folder, the source, or has the ending of the ids file."""
    if out.is_dir():
        raise ConfigError(fault("--out", "", f"'{out}' is a folder", "Name a file, such as part.tsv."))
    if out.suffix == ".ids":
        raise ConfigError(
            fault(
                "--out", "", f"'{out}' is the name of the ids file", f"Name it, for example, {out.with_suffix('.tsv')}."
            )
        )
    if same_file(out, source) or same_file(out.with_suffix(".ids"), source):
        raise ConfigError(fault("--out", "", f"'{out}' would overwrite '{source}'", "Name another file."))


def _refuse_taken(out: Path, ids_file: Path, chosen_ids: Sequence[str]) -> None:
    """Raise ConfigError if `out` exists and is no subset, or the ids file belongs neither to this one nor to `out`."""
    if not ids_file.exists():
        if out.is_file():
            found = f"'{out}' exists, and has no ids file, so it is not from an earlier subset"
            raise ConfigError(fault("--out", "", found, "Name another file, or remove it."))
        return
    there = list(_lines_of_text(ids_file).values())
    with suppress(DataError):  # rows that cannot be read have no ids
        if there == list(chosen_ids) or (out.exists() and there == _ids(out, _lines(out))):
            return
    found = f"'{ids_file}', the ids file, exists and does not belong to a subset in '{out}'"
    raise ConfigError(fault("--out", "", found, "Name another file, or remove the ids file."))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a text file given by the user."""
    with named_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _lines(path: Path) -> dict[int, str]:
    """Line number → line, for the lines that are not blank."""
    if path.suffix not in (".tsv", ".jsonl"):
        raise ConfigError(fault(str(path), "", "not a .tsv or .jsonl file", "A run's `subset` reads every format."))
    return _lines_of_text(path)


def _lines_of_text(path: Path) -> dict[int, str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # a carriage return within a row is no end of a line
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(fault(str(path), "", unreadable(error), "Check the path.")) from error
    return {number: line.rstrip("\r") for number, line in enumerate(text.split("\n"), 1) if line.strip()}


def _ids(path: Path, lines: Mapping[int, str]) -> list[str]:
    ids: list[str] = []
    faults: list[Fault] = []
    for number, line in lines.items():
        place = Place(str(path), number)
        try:
            ids.append(_id_of(line, place, path.suffix))
        except DataError as error:
            faults += error.faults
            continue
        if not ids[-1]:
            faults.append(fault(place, "id", "the row has no id", "Give every row its own."))
    if faults:
        raise DataError(faults[:20])
    return ids


def _id_of(line: str, place: Place, suffix: str) -> str:
    """The id in a line; empty if it has none. Raises DataError for a line of a .jsonl file that is not JSON."""
    if suffix == ".tsv":
        return line.split("\t", 1)[0]
    record = json_value(line, place, "One object per line is expected.")
    found = record.get("id") if isinstance(record, dict) else None
    return "" if found is None else str(found)
