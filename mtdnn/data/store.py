"""Prepared rows of a task, memory-mapped; a store made for another tokenizer or task block is refused."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mtdnn.config.tasks import TaskDef
from mtdnn.data.arrow import DATA_FILE, SplitFile
from mtdnn.data.manifest import Manifest, read_manifest, read_with, shared_folder, store_format, stored_block
from mtdnn.data.sharing import LABELLED, TaskColumns
from mtdnn.errors import DataError, Fault, fault
from mtdnn.tokens.ragged import Column, Ragged
from mtdnn.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Store:
    """Rows of one or several prepared splits of a task, concatenated. Opening reads no rows.

    Attributes:
        files, manifests: one per split.
        chosen: numbers of the selected rows, counted over all splits; None: all.
        added: further columns in memory, each [rows of this store, …].
    """

    files: tuple[SplitFile | TaskColumns, ...]
    manifests: tuple[Manifest, ...]
    chosen: np.ndarray | None = None
    added: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.files)) if self.chosen is None else len(self.chosen)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the first split."""
        return self.manifests[0]

    @cached_property
    def lengths(self) -> np.ndarray:
        """[rows] int32, number of tokens of each row; token ids are not read."""
        lengths = np.concatenate([file.lengths() for file in self.files])
        return lengths if self.chosen is None else lengths[self.chosen]

    @property
    def ids(self) -> list[str]:
        """The ids of all rows."""
        ids = [row_id for file in self.files for row_id in file.column("id")]
        return ids if self.chosen is None else [ids[row] for row in self.chosen]

    @property
    def labels(self) -> Column:
        """The `label` column of all rows; token ids are not loaded."""
        parts = [file.column("label") for file in self.files]
        rows = np.arange(sum(map(len, self.files))) if self.chosen is None else self.chosen
        return _joined(parts, rows)

    @property
    def is_shared(self) -> bool:
        """Whether several tasks share the rows."""
        return all(isinstance(file, TaskColumns) for file in self.files)

    @cached_property
    def labelled(self) -> np.ndarray:
        """[rows] bool, True = has a label; for rows that several tasks share."""
        known = np.concatenate([file.column(LABELLED) for file in self.files])
        return known if self.chosen is None else known[self.chosen]

    def take(self, rows: np.ndarray) -> dict[str, Any]:
        """The columns of the rows with these numbers, in the given order.

        Raises:
            IndexError: there is no such row.
        """
        added = {name: values[rows] for name, values in self.added.items()}
        rows = rows if self.chosen is None else self.chosen[rows]
        columns = self.files[0].take(rows) if len(self.files) == 1 else self._from_several(rows)
        return {**columns, **added}

    def select(self, rows: np.ndarray) -> Store:
        """A store of these rows only."""
        added = {name: values[rows] for name, values in self.added.items()}
        return Store(self.files, self.manifests, rows if self.chosen is None else self.chosen[rows], added)

    def of_task(self, task: str) -> Store:
        """The same rows with the columns of one of the tasks that share them."""
        files = tuple(TaskColumns(file, task) for file in self.files if isinstance(file, SplitFile))
        return replace(self, files=files)

    def with_column(self, name: str, values: np.ndarray) -> Store:
        """A store with the same rows and a further column, [rows, …]."""
        if len(values) != len(self):
            raise ValueError(f"column '{name}' has {len(values)} rows, the store {len(self)}")
        return replace(self, added={**self.added, name: values})

    def _from_several(self, rows: np.ndarray) -> dict[str, Any]:
        """Rows gathered file by file, then put into the given order."""
        starts = np.cumsum([0, *map(len, self.files)])
        numbers = np.searchsorted(starts, rows, side="right") - 1
        used = np.unique(numbers)
        taken = [self.files[number].take(rows[numbers == number] - starts[number]) for number in used]
        back = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
        return {name: _joined([columns[name] for columns in taken], back) for name in taken[0]}


def _joined(parts: list[Any], order: np.ndarray) -> Column:
    if isinstance(parts[0], Ragged):
        return Ragged.join(parts).take(order)
    if isinstance(parts[0], list):
        texts = [text for part in parts for text in part]
        return [texts[place] for place in order]
    joined: np.ndarray = np.concatenate(parts)[order]
    return joined


def open_store(
    prepared: str | Path, task: TaskDef, splits: str | Sequence[str], *, tokenizer: Tokenizer | None = None
) -> Store:
    """The prepared rows of one or several splits of a task.

    Args:
        prepared: folder made by `mtdnn prepro`.
        task: the task's definition.
        splits: names of the splits.
        tokenizer: the tokenizer of the encoder that will read the rows; None: any.
    Raises:
        DataError: a split is missing, damaged, or made for another tokenizer or task block; the message has the command
            that prepares it.
    """
    names = (splits,) if isinstance(splits, str) else tuple(splits)
    files, manifests = [], []
    faults: list[Fault] = []
    for split in names:
        try:
            manifest, file = _open_split(Path(prepared), task, split, tokenizer)
        except DataError as error:
            faults += error.faults
            continue
        files.append(file)
        manifests.append(manifest)
    if faults:
        raise DataError(faults)
    return Store(tuple(files), tuple(manifests))


def same_rows(stores: Mapping[tuple[str, str], Store]) -> list[dict[tuple[str, str], Store]]:
    """The splits in groups that have the same rows: one split, or that of all tasks that share it.

    Args:
        stores: (task, split) → its rows.
    """
    groups: dict[tuple[str, str], dict[tuple[str, str], Store]] = {}
    for (task, split), store in stores.items():
        unit = shared_folder(store.manifest.block["rows"]["file"]) if store.is_shared else task
        groups.setdefault((unit, split), {})[task, split] = store
    return list(groups.values())


def open_prepared(folder: Path) -> Store:
    """The rows of the split in one folder, without a check of task and tokenizer.

    Raises:
        DataError: there is no store, or it is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise DataError(fault(str(folder), "", "no prepared rows", "Run mtdnn prepro."))
    return Store((_opened(folder, manifest, "Run mtdnn prepro again."),), (manifest,))


def _open_split(
    prepared: Path, task: TaskDef, split: str, tokenizer: Tokenizer | None
) -> tuple[Manifest, SplitFile | TaskColumns]:
    folder = prepared / task.name / split
    manifest = read_manifest(folder)
    fix = prepro_command(prepared, task, tokenizer, manifest)
    if manifest is None:
        raise DataError(fault(str(folder), "", "this split is not prepared", fix))
    made_with = manifest.tokenizer if tokenizer is None else {"encoder": tokenizer.name, "sha256": tokenizer.sha256}
    wanted = Manifest(
        task=task.name,
        split=split,
        tokenizer=made_with,
        block=stored_block(task),
        source=read_with(task, split),
        store_format=manifest.store_format if tokenizer is None else store_format(task, tokenizer),
    )
    different = manifest.differences(wanted)
    if different:
        raise DataError(fault(str(folder), "", f"the prepared rows do not match: {'; '.join(different)}", fix))
    shared = manifest.block.get("rows")
    if shared is None:
        return manifest, _opened(folder, manifest, fix)
    return manifest, TaskColumns(_opened(prepared / shared_folder(shared["file"]) / split, manifest, fix), task.name)


def _opened(folder: Path, manifest: Manifest, fix: str) -> SplitFile:
    path = folder / DATA_FILE
    if (damage := manifest.damage(path)) is not None:
        raise DataError(fault(str(path), "", f"damaged: {damage}", fix))
    try:
        return SplitFile(folder)
    except (OSError, pa.ArrowException) as error:  # a store of an earlier version has no digest
        raise DataError(fault(str(path), "", f"damaged: {error}", f"Remove {folder}. {fix}")) from error


def prepro_command(prepared: Path, task: TaskDef, tokenizer: Tokenizer | None, manifest: Manifest | None) -> str:
    """`Run: mtdnn prepro …`, with the known arguments; for rows in memory, the call in Python.

    Args:
        prepared: folder made by `mtdnn prepro`.
        task: the task's definition.
        tokenizer: the tokenizer of the run's encoder, if known.
        manifest: manifest of the existing split; None without one.
    """
    if manifest is not None and manifest.source.get("in_memory"):
        return f"Call mtdnn.prepare with the rows of '{task.name}' again."
    definitions = task.definitions or "TASKS.yml"
    data = manifest.source.get("data") if manifest is not None else None if task.source else "DATA"
    encoder = tokenizer.name if tokenizer is not None else manifest.tokenizer["encoder"] if manifest else "ENCODER"
    rows = ["--data", data] if data else []
    words = [definitions, *rows, "--encoder", encoder, "--out", str(prepared), "--tasks", task.name]
    return f"Run: mtdnn prepro {shlex.join(words)}"
