"""Rows of Hugging Face data sets: from the hub, or from a folder that `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mtdnn.config.task import Source
from mtdnn.errors import NOWHERE, DataError, Fault, Place, did_you_mean, fault, first_line
from mtdnn.rows.arrow_values import missing_paths, schema_leaves, schema_paths
from mtdnn.rows.source import (
    PART_BYTES,
    ROWS_READ_AT_ONCE,
    Part,
    Row,
    RowColumns,
    RowSource,
    asked_for,
    equal_parts,
    named_values,
    roots,
    with_nested,
)

if TYPE_CHECKING:
    from datasets import Dataset

MAX_COLUMNS = 10_000  # of a .csv without declared columns; pandas converts columns after these
NO_NUMBER = ("", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "null", "NULL", "None")  # in columns of numbers


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

    def leaves(self) -> list[str]:
        return schema_leaves(self._schema)

    @property
    def _schema(self) -> Any:
        return self.dataset.features.arrow_schema

    def sha256(self) -> str:
        """The fingerprint of the `datasets` library for this content."""
        return str(self.dataset._fingerprint)

    def faults(self, columns: RowColumns) -> list[Fault]:
        theirs, given = self._theirs(columns), {*self.renamed, *columns.renamed}
        renamed = {ours: name for ours, name in theirs.items() if ours in given}
        missing = missing_paths(asked_for(replace(columns, renamed=renamed), self.names()), self._schema)
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
                yield self._row(record, theirs, named_as_ours, Place(self.place, number))
                number += 1

    def _row(
        self, record: Mapping[str, Any], theirs: Mapping[str, str], columns: RowColumns, where: Place
    ) -> Row | Fault:
        """The row of a record.

        Args:
            record: the values, by path.
            theirs: our column → path.
            columns: the task's, by our names.
            where: place of the row.
        """
        ours = dict[str, Any]()
        for name, path in theirs.items():
            classes = self._names_at(path)
            try:
                ours[name] = self._named(classes, record.get(path))
            except IndexError:
                found = f"{record.get(path)} is no number of one of its {len(classes or ())} classes"
                return fault(where, path, found, "Correct the row, or the names of the classes of the data set.")
        return Row(named_values(ours, columns, where.line), where)

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
    from datasets import ClassLabel

    for name, feature in features.items():
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
        if isinstance(inner, ClassLabel):
            yield f"{within}{name}", inner.names
        elif isinstance(inner, Mapping):
            yield from _class_names(inner, f"{within}{name}.")


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
    found = f"{source.path} has no split '{split}'; there are: {', '.join(splits)}.{did_you_mean(split, splits)}"
    cut = "splits: {train: {file: NAME, part: 0.9}, dev: {rest: NAME}}".replace("NAME", next(iter(splits), "train"))
    fix = f"Cut it in the task's `{cut}`." if alone else "Name its split under `source.splits`."
    raise DataError(fault(where, "source", found, fix))


def _cells_as_texts(builder: Any) -> dict[str, Any]:
    """Arguments with which the `datasets` library does not convert the cells of .csv and .tsv files.

    By default pandas reads `null`, `NA` and `None` as missing, and `007` and `1.50` as numbers. Columns that the data
    set declares as numbers stay numbers.
    """
    from datasets import ClassLabel

    config = builder.config
    if not hasattr(config, "converters") or len(config.sep or "") != 1 or config.engine == "python":
        return {}
    declared = config.features or builder.info.features
    if declared is None:
        return {"converters": dict.fromkeys(range(MAX_COLUMNS), _text_or_none), "keep_default_na": False}
    texts = [name for name, each in declared.items() if isinstance(each, ClassLabel) or each.dtype == "string"]
    return {
        "converters": dict.fromkeys(texts, _text_or_none),
        "keep_default_na": False,
        "na_values": {name: list(NO_NUMBER) for name in declared if name not in texts},
    }


def _text_or_none(cell: str) -> str | None:
    return cell or None
