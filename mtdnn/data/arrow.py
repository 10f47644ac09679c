"""Columns of a prepared split ↔ one Arrow file, which the `datasets` library can open as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mtdnn.tokens.ragged import Column, Ragged

DATA_FILE = "data-00000-of-00001.arrow"


def record_batch(columns: Mapping[str, Column]) -> pa.RecordBatch:
    """The columns of some rows as a record batch, without copying numbers."""
    return pa.RecordBatch.from_pydict({name: _array(column) for name, column in columns.items()})


def _array(column: Column) -> pa.Array:
    if isinstance(column, Ragged):
        return pa.ListArray.from_arrays(pa.array(column.offsets, pa.int32()), pa.array(column.values))
    return pa.array(column, pa.string()) if isinstance(column, list) else pa.array(column)


def columns_of(batch: pa.RecordBatch) -> dict[str, Column]:
    """The columns of a record batch, as they were given to `record_batch`."""
    return {name: _column(batch.column(name)) for name in batch.schema.names}


def _column(array: pa.Array) -> Column:
    if pa.types.is_list(array.type):
        return Ragged(array.values.to_numpy(), array.offsets.to_numpy().astype(np.int64))
    if pa.types.is_string(array.type):
        texts: list[str] = array.to_pylist()
        return texts
    numbers: np.ndarray = array.to_numpy(zero_copy_only=False)
    return numbers


class SplitWriter:
    """Writes a split batch by batch; written batches are not kept in memory.

    Args:
        folder: folder of the split, created here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; the first batch determines the columns."""
        if self._writer is None:
            from datasets import Features

            self._schema = Features.from_arrow_schema(batch.schema).arrow_schema
            self._writer = pa.ipc.new_stream(str(self.folder / DATA_FILE), self._schema)
        self._writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=self._schema))

    def close(self, fingerprint: str) -> None:
        """Finish the file, and write the other files that `datasets.load_from_disk` needs."""
        from datasets import DatasetInfo, Features

        self._writer.close()
        DatasetInfo(features=Features.from_arrow_schema(self._schema)).write_to_directory(str(self.folder))
        state: dict[str, Any] = {
            "_data_files": [{"filename": DATA_FILE}],
            "_fingerprint": fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self.folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")

    def abandon(self) -> None:
        """Remove what was written."""
        if self._writer is not None:
            with suppress(OSError):  # the disk may be full
                self._writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class SplitFile:
    """The rows of one prepared split, memory-mapped; opening reads no rows.

    An Arrow file is a sequence of record batches. All rows of a batch are gathered at once by their positions in the
    mapped file; `_Flat.first` has the start of each record batch in the file, per buffer.

    Raises:
        OSError, pyarrow.ArrowInvalid: the file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        with pa.memory_map(str(folder / DATA_FILE)) as mapped:
            self._buffer = mapped.read_buffer()
        batches = [batch for batch in pa.ipc.open_stream(self._buffer) if batch.num_rows]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._columns = {
            field.name: _Column(self._buffer, [batch.column(index) for batch in batches])
            for index, field in enumerate(pa.ipc.open_stream(self._buffer).schema)
        }

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns)

    def take(self, rows: np.ndarray, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Columns of the chosen rows, in the given order.

        Args:
            rows: their numbers.
            names: of the columns; None: all.
        Raises:
            IndexError: there is no such row.
        """
        chunks, places = self._find(rows)
        chosen = self._columns if names is None else {name: self._columns[name] for name in names}
        return {name: column.take(chunks, places) for name, column in chosen.items()}

    def column(self, name: str) -> Any:
        """One column of all rows, in memory."""
        parts = [self._columns[name].take(*rows) for rows in self._batch_by_batch()]
        if isinstance(parts[0], Ragged):
            return Ragged.join(parts)
        return [text for part in parts for text in part] if isinstance(parts[0], list) else np.concatenate(parts)

    def lengths(self, name: str = "input_ids") -> np.ndarray:
        """[rows] int32: how many numbers each row of a ragged column has; the numbers are not read."""
        column = self._columns[name]
        return np.concatenate([column.lengths(*rows).astype(np.int32) for rows in self._batch_by_batch()])

    def _batch_by_batch(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The result of `_find` for all rows, one record batch at a time, as it takes 24 bytes per row."""
        for number, size in enumerate(np.diff(self._starts).tolist()):
            yield np.full(size, number), np.arange(size)

    def _find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row the number of its record batch, and its number in that batch."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a split of {len(self)}")
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        return chunks, rows - self._starts[chunks]


class _Column:
    """One column over all record batches."""

    def __init__(self, buffer: pa.Buffer, chunks: list[pa.Array]) -> None:
        self.type = chunks[0].type
        self._is_text, self._is_ragged = pa.types.is_string(self.type), pa.types.is_list(self.type)
        if self._is_text:
            self._offsets = _Flat(buffer, np.dtype(np.int32), [chunk.buffers()[1] for chunk in chunks])
            self._values = _Flat(buffer, np.dtype(np.uint8), [chunk.buffers()[2] for chunk in chunks])
        elif self._is_ragged:
            self._offsets = _Flat(buffer, np.dtype(np.int32), [chunk.buffers()[1] for chunk in chunks])
            dtype = np.dtype(self.type.value_type.to_pandas_dtype())
            self._values = _Flat(buffer, dtype, [chunk.values.buffers()[1] for chunk in chunks])
        elif pa.types.is_boolean(self.type):
            self._values = _Flat(buffer, np.dtype(np.uint8), [chunk.buffers()[1] for chunk in chunks])
        else:
            dtype = np.dtype(self.type.to_pandas_dtype())
            self._values = _Flat(buffer, dtype, [chunk.buffers()[1] for chunk in chunks])

    def take(self, chunks: np.ndarray, places: np.ndarray) -> Any:
        """The values at the given positions of record batches."""
        if self._is_text or self._is_ragged:
            ragged = self._ragged(chunks, places)
            return _texts(ragged) if self._is_text else ragged
        if pa.types.is_boolean(self.type):
            eighths = self._values.data[self._values.first[chunks] + places // 8]
            return ((eighths >> (places % 8)) & 1).astype(bool)
        return self._values.data[self._values.first[chunks] + places]

    def lengths(self, chunks: np.ndarray, places: np.ndarray) -> np.ndarray:
        """How many numbers the rows at the given positions of record batches have."""
        at = self._offsets.first[chunks] + places
        lengths: np.ndarray = self._offsets.data[at + 1] - self._offsets.data[at]
        return lengths

    def _ragged(self, chunks: np.ndarray, places: np.ndarray) -> Ragged:
        at = self._offsets.first[chunks] + places
        starts = self._offsets.data[at].astype(np.int64)
        lengths = self._offsets.data[at + 1] - starts
        return Ragged.gather(self._values.data, self._values.first[chunks] + starts, lengths)


class _Flat:
    """The mapped file as an array of one dtype, and the index at which each record batch starts."""

    def __init__(self, file: pa.Buffer, dtype: np.dtype, chunks: list[pa.Buffer]) -> None:
        self.data = np.frombuffer(file, dtype, count=file.size // dtype.itemsize)
        self.first = np.array([(chunk.address - file.address) // dtype.itemsize for chunk in chunks], np.int64)


def _texts(ragged: Ragged) -> list[str]:
    raw, ends = ragged.values.tobytes(), ragged.offsets.tolist()
    return [raw[start:end].decode() for start, end in pairwise(ends)]
