"""Rows of tables with named columns: Parquet files and Hugging Face data sets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mtdnn.config.task import Source
from mtdnn.errors import NOWHERE, DataError, Fault, Place, fault, first_line, shortened
from mtdnn.files import file_sha256
from mtdnn.rows.arrow_values import (
    expanded_size,
    has_path,
    largest_dictionary,
    schema_paths,
    text_size,
    texts_in_lists,
    values_of,
)
from mtdnn.rows.source import (
    MAX_ROW_BYTES,
    PART_BYTES,
    RENAME_COLUMN,
    Part,
    Row,
    RowColumns,
    RowSource,
    long_row_fault,
    missing_columns,
    named_values,
    roots,
    unreadable_fault,
    with_nested,
)

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_PER_PART = PART_BYTES // 200  # a pair of sentences is about 200 bytes
ROWS_READ_AT_ONCE = 1000
MAX_COLUMNS = 10_000  # of a .csv without declared columns; pandas converts columns after these
NO_NUMBER = ("", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "null", "NULL", "None")  # in columns of numbers


PARQUET_ERRORS = (OSError, ValueError, OverflowError, NotImplementedError, LookupError, TypeError)
"""What pyarrow raises for damaged pages; its own exceptions are subclasses of these."""

MAX_ERROR_CHARACTERS = 200

BATCH_BYTES = 64 << 20
"""Size of the rows decoded at once, by what the file states of its pages; a row that is larger is decoded alone."""

MAX_EXPANSION = 100
"""A column's size when read, relative to its size in the file; texts have at most 50."""

ANY_EXPANSION_BYTES = 256 << 20
"""What a column of a row group, or the rows of a file, may expand to however small the file is."""


@dataclass(frozen=True)
class ParquetRows(RowSource):
    """Rows of a Parquet file; a part is some of its row groups, or a slice of a large one."""

    path: Path
    _readers: list[_SequentialReader] = field(default_factory=list, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[ParquetRows], tuple[Path]]:
        return type(self), (self.path,)

    @property
    def place(self) -> str:  # type: ignore[override]
        return str(self.path)

    def _open(self) -> Any:
        import pyarrow.parquet

        try:
            metadata = pyarrow.parquet.read_metadata(self.path, memory_map=True)
            shared = texts_in_lists(metadata)
            self._refuse_expanding(metadata, shared)
            return pyarrow.parquet.ParquetFile(self.path, memory_map=True, metadata=metadata, read_dictionary=shared)
        except pyarrow.ArrowInvalid as error:
            found = f"not a Parquet file: {error}"
            raise DataError(fault(self.place, "", found, "Check how it was written.")) from error
        except OSError as error:
            raise DataError(unreadable_fault(self.place, error)) from error

    def _refuse_expanding(self, metadata: Any, in_lists: Container[str]) -> None:
        """Raise DataError for a column of a row group that would fill the memory: a kilobyte can hold gigabytes."""
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                path = column.path_in_schema
                expanded = expanded_size(column, in_lists=path in in_lists)
                self._refuse_expansion(column.total_compressed_size, expanded, column=path)

    def _refuse_expansion(self, stored: int, expanded: int, *, column: str = "") -> None:
        if expanded > ANY_EXPANSION_BYTES and expanded > MAX_EXPANSION * max(stored, 1):
            found = f"expands from {stored} bytes to {expanded >> 20} MiB or more"
            fix = "Check its texts; one of them is repeated or padded."
            raise DataError(fault(self.place, column, found, fix))

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        step, start, stop = max(1, size * ROWS_PER_PART // PART_BYTES), 0, 0
        for rows in _rows_in_groups(self._open()):
            if start < stop and stop + rows - start > step:
                yield Part(start, stop, start + 1)
                start = stop
            stop += rows
            while stop - start > step:
                yield Part(start, start + step, start + 1)
                start += step
        if start < stop:
            yield Part(start, stop, start + 1)

    def names(self) -> list[str]:
        return schema_paths(self._open().schema_arrow)

    def sha256(self) -> str:
        return file_sha256(self.path)

    def faults(self, columns: RowColumns) -> list[Fault]:
        try:
            missing = _missing_paths(columns.needed, self._open().schema_arrow)
        except DataError as error:
            return list(error.faults)
        return super().faults(columns) + ([fault(self.place, "", missing, RENAME_COLUMN)] if missing else [])

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        reader = self._readers.pop() if self._readers else None  # of this process: parts are mostly consecutive
        if reader is None or reader.columns != columns:
            reader = _SequentialReader(self._open(), columns, self.path)
        try:
            for number, values in reader.rows(part):
                size = text_size(values)
                reader.characters += size
                self._refuse_expansion(reader.file_bytes, reader.characters)
                where = Place(self.place, number)
                long = size > MAX_ROW_BYTES
                nested = with_nested(values, columns)
                yield long_row_fault(where) if long else Row(named_values(nested, columns, number), where)
        except PARQUET_ERRORS as error:
            found = f"damaged: {shortened(str(error), MAX_ERROR_CHARACTERS)}"
            raise DataError(fault(self.place, "", found, "Write the file again.")) from error
        self._readers[:] = [reader]


class _SequentialReader:
    """Reads parts of a Parquet file; if the parts are in order, no row group is decoded twice.

    A row group can only be decoded from its start. The last decoded batch is kept, so that the next part continues
    there. Memory: one page of each column, and one batch of `BATCH_BYTES` or a single row.

    Attributes:
        characters: of the texts of all rows read.
        file_bytes: size of the file.
    """

    def __init__(self, file: Any, columns: RowColumns, path: Path) -> None:
        self.columns = columns
        self.characters = 0
        self.file_bytes = path.stat().st_size
        self._file = file
        self._wanted = roots(map(columns.theirs, columns.names), file.schema_arrow.names)
        self._starts = list(
            accumulate(_rows_in_groups(file), initial=0)
        )  # first row of each group, then the number of rows
        with path.open("rb") as opened:
            largest = max(largest_dictionary(opened, file.metadata), _largest_mean_row(file.metadata))
        self._rows_at_once = max(1, min(ROWS_READ_AT_ONCE, BATCH_BYTES // largest))
        self._go_to_group(0)

    def _go_to_group(self, group: int) -> None:
        groups = list(range(group, self._file.num_row_groups))
        self._batches = self._file.iter_batches(self._rows_at_once, row_groups=groups, columns=self._wanted)
        self._first = self._starts[group]  # number, from 0, of the first row of the last decoded batch
        self._batch: Any = ()

    def rows(self, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
        """(row number from 1, values) of the rows of a part."""
        group = bisect_right(self._starts, part.start) - 1
        if part.start < self._first or self._first + len(self._batch) < self._starts[group]:
            self._go_to_group(group)
        while True:
            first, behind = max(self._first, part.start), self._first + len(self._batch)
            if behind > first:
                chosen = self._batch.slice(first - self._first, part.stop - first)
                names, columns = chosen.schema.names, map(values_of, chosen.columns)
                rows = zip(*columns, strict=True) if names else ((),) * len(chosen)
                for number, values in enumerate(rows, first + 1):
                    yield number, dict(zip(names, values, strict=True))
            if behind >= part.stop:
                return
            self._first, self._batch = behind, next(self._batches)


def _largest_mean_row(metadata: Any) -> int:
    """Bytes of a row of all columns, in the row group where rows are the longest on average; at least 1."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return max([1, *(group.total_byte_size // max(1, group.num_rows) for group in groups)])


def _rows_in_groups(file: Any) -> list[int]:
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _missing_paths(needed: Sequence[str], schema: Any) -> str:
    """As `missing_columns`, where a name may also be a path into a column.

    Args:
        needed: names or paths.
        schema: a `pyarrow.Schema`.
    """
    missing = [path for path in needed if not has_path(schema, path)]
    return missing_columns(missing, schema_paths(schema))


@dataclass(frozen=True)
class HubRows(RowSource):
    """Rows of one split of a Hugging Face data set; class numbers are read as class names.

    Attributes:
        dataset: the split, memory-mapped.
        renamed: our column → theirs.
    """

    column_fix: ClassVar[str] = "Name theirs under the task's `source.columns`."

    place: str  # type: ignore[misc]
    dataset: Dataset
    renamed: dict[str, str]

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        yield from equal_parts(len(self.dataset), size)

    def names(self) -> list[str]:
        return schema_paths(self._schema)

    @property
    def _schema(self) -> Any:
        return self.dataset.features.arrow_schema

    def sha256(self) -> str:
        """The fingerprint of the `datasets` library for this content."""
        return str(self.dataset._fingerprint)

    def faults(self, columns: RowColumns) -> list[Fault]:
        theirs = self._theirs(columns)
        renamed = {*self.renamed, *columns.renamed}
        asked = [name for ours, name in theirs.items() if ours in renamed or ours not in columns.optional]
        missing = _missing_paths(asked, self._schema)
        return super().faults(columns) + ([fault(self.place, "", missing, self.column_fix)] if missing else [])

    def _theirs(self, columns: RowColumns) -> dict[str, str]:
        """Our column → theirs: as the data set's source renames it, or else as the task does."""
        return {ours: self.renamed.get(ours, columns.theirs(ours)) for ours in columns.names}

    @cached_property
    def _class_names(self) -> dict[str, list[str]]:
        """Path → class names, for classes and lists of classes, nested or not; numbers of paths are left out."""
        return dict(_class_names(self.dataset.features))

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        theirs, named_as_ours = self._theirs(columns), replace(columns, renamed={})
        paths = RowColumns(tuple(dict.fromkeys(theirs.values())))
        chosen = self.dataset.select_columns(roots(paths.names, self.dataset.column_names))
        number = part.first
        for start in range(part.start, part.stop, ROWS_READ_AT_ONCE):
            block = chosen[start : min(start + ROWS_READ_AT_ONCE, part.stop)]
            for values in zip(*block.values(), strict=True):
                record = with_nested(dict(zip(block, values, strict=True)), paths)
                named = {path: self._named(self._names_at(path), record.get(path)) for path in paths.names}
                ours = {ours: named[path] for ours, path in theirs.items()}
                yield Row(named_values(ours, named_as_ours, number), Place(self.place, number))
                number += 1

    def _names_at(self, path: str) -> list[str] | None:
        """The class names of what a path leads to; None if it is no class."""
        if path in self.dataset.column_names:
            return self._class_names.get(path)
        return self._class_names.get(".".join(name for name in path.split(".") if not name.isdecimal()))

    def _named(self, names: list[str] | None, value: Any) -> Any:
        """The name of a class number, also in a list; None for −1, which means no class."""
        if names is not None and isinstance(value, list):
            return [self._named(names, each) for each in value]
        if names is None or not isinstance(value, int):
            return value
        return names[value] if value >= 0 else None


def _class_names(features: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, list[str]]]:
    """(path, class names) of the classes among the features of a data set."""
    for name, feature in features.items():
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
        if hasattr(inner, "names"):
            yield f"{within}{name}", inner.names
        elif isinstance(inner, Mapping):
            yield from _class_names(inner, f"{within}{name}.")


def equal_parts(num_rows: int, size: int) -> Iterator[Part]:
    """Parts of a table with `num_rows` rows, each of about `size` bytes."""
    step = max(1, size * ROWS_PER_PART // PART_BYTES)
    for start in range(0, num_rows, step):
        yield Part(start, min(start + step, num_rows), start + 1)


def hub_rows(source: Source, split: str, *, where: Place = NOWHERE) -> HubRows:
    """The rows of a split of the data set that is a task's source.

    Args:
        source: the task's `source`.
        split: name of the split.
        where: file:line of the task's `source`, for the message.
    Raises:
        DataError: the data set, its configuration or the split cannot be loaded.
    """
    import datasets

    theirs = source.splits.get(split, split)
    if _is_saved(Path(source.path)):
        return HubRows(f"{source.path}/{theirs}", _saved_split(source, theirs, where), dict(source.columns))
    try:
        texts = _cells_as_texts(datasets.load_dataset_builder(source.path, source.name))
        dataset = datasets.load_dataset(source.path, source.name, split=theirs, **texts)
    except Exception as error:  # the library raises some twenty kinds, from network to YAML of the data set card
        found = f"cannot load split '{theirs}' of {source.path}: {first_line(error)}"
        fix = "Check name, configuration and split, and the network; `source.splits` renames splits."
        raise DataError(fault(where, "source", found, fix)) from error
    name = "/".join(part for part in (source.path, source.name, theirs) if part)
    return HubRows(name, dataset, dict(source.columns))


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of a data set or of a DatasetDict wrote the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _saved_split(source: Source, split: str, where: Place) -> Dataset:
    """A split of a folder that `save_to_disk` wrote; of a data set without splits, its one split is `train`.

    Raises:
        DataError: the folder is damaged, or has no such split.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(source.path)
    except Exception as error:  # the library raises what Arrow, JSON and the file system raise
        found = f"cannot load {source.path}: {first_line(error)}"
        raise DataError(fault(where, "source", found, "Save the data set again.")) from error
    alone = isinstance(saved, datasets.Dataset)
    splits = {str(saved.split or "train"): saved} if alone else dict(saved)
    if split in splits:
        return splits[split]
    found = f"{source.path} has no split '{split}'; there are: {', '.join(splits)}"
    cut = "splits: {train: {file: NAME, part: 0.9}, dev: {rest: NAME}}".replace("NAME", next(iter(splits), "train"))
    fix = f"Cut it in the task's `{cut}`." if alone else "Name its split under `source.splits`."
    raise DataError(fault(where, "source", found, fix))


def _cells_as_texts(builder: Any) -> dict[str, Any]:
    """Arguments with which the `datasets` library does not convert the cells of .csv and .tsv files.

    By default pandas reads `null`, `NA` and `None` as missing, and `007` and `1.50` as numbers. Columns that the data
    set declares as numbers stay numbers.
    """
    config = builder.config
    if not hasattr(config, "converters") or len(config.sep or "") != 1 or config.engine == "python":
        return {}
    declared = config.features or builder.info.features
    if declared is None:
        return {"converters": dict.fromkeys(range(MAX_COLUMNS), _text_or_none), "keep_default_na": False}
    texts = [name for name, feature in declared.items() if hasattr(feature, "names") or feature.dtype == "string"]
    return {
        "converters": dict.fromkeys(texts, _text_or_none),
        "keep_default_na": False,
        "na_values": {name: list(NO_NUMBER) for name in declared if name not in texts},
    }


def _text_or_none(cell: str) -> str | None:
    return cell or None
