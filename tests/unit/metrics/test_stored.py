"""Records in a temporary file: the same as in memory, in their order, and nothing is left of the file."""

import os
import random
import tempfile
from pathlib import Path

import pytest

from mtdnn.metrics import stored
from mtdnn.metrics.stored import RecordsByRow, Stored, kept

RECORDS = [
    {"id": str(row), "prediction": ("yes", "no")[row % 2], "label": None if row % 3 else [row, 0.1], "scores": {}}
    for row in range(50)
]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "HELD_RECORDS", 10)
    monkeypatch.setattr(stored, "READ_AT_ONCE", 7)
    monkeypatch.setattr(stored, "MOST_RUNS", 2)


def test_few_records_are_a_list_and_many_are_not() -> None:
    assert kept(iter(RECORDS[:10])) == RECORDS[:10]
    many = kept(iter(RECORDS[:11]))
    assert isinstance(many, Stored) and list(many) == RECORDS[:11]


def test_stored_records_are_a_sequence() -> None:
    found = kept(RECORDS)
    assert isinstance(found, Stored) and len(found) == len(RECORDS)
    assert (found[0], found[-1], found[-3:5:-2]) == (RECORDS[0], RECORDS[-1], RECORDS[-3:5:-2])
    assert list(zip(found, found, strict=True)) == [(each, each) for each in RECORDS]
    assert list(reversed(found)) == RECORDS[::-1]
    with pytest.raises(IndexError):
        found[len(RECORDS)]


@pytest.mark.parametrize("count", [10, 11, 50])
def test_records_are_in_the_order_of_their_rows_however_they_came(count: int) -> None:
    found, rows = RecordsByRow(), list(range(count))
    random.Random(0).shuffle(rows)
    for start in range(0, count, 4):
        chosen = rows[start : start + 4]
        found.add(chosen, [RECORDS[row] for row in chosen])
        assert list(found.items()) == [(row, RECORDS[row]) for row in sorted(rows[: start + 4])]
    assert isinstance(found.in_order(), list if count <= 10 else Stored)
    assert list(found.in_order()) == RECORDS[:count]


@pytest.mark.skipif(os.name == "nt", reason="Windows removes the file when it is closed")
def test_the_file_has_no_name_that_a_killed_process_could_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = kept(RECORDS)
    assert list(found) == RECORDS
    assert list(tmp_path.iterdir()) == []
    file = found._file
    del found
    assert file.closed
