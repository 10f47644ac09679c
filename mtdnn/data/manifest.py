"""`manifest.json` of a prepared split: what it was made from, and counts of its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict

from mtdnn.config.earlier import without_margin
from mtdnn.config.json_source import checked, read_json
from mtdnn.config.tasks import TaskDef
from mtdnn.errors import DataError, Place, fault
from mtdnn.files import file_sha256, read_once, write_text
from mtdnn.rows.summaries import quantiles
from mtdnn.tokens.tokenizer import Tokenizer

STORE_FORMAT = 1
"""Format of most stores; a task type increases its `store_format` when its columns change: older stores are refused."""

SEGMENTS_FORMAT = 2
"""Format for pairs of texts if the token_type_ids do not separate them: the store has a column `segments`."""

STORED_KEYS = ("task_type", "inputs", "labels", "max_length", "source", "options")
"""The keys of a task block that affect what is stored; a change of any other key needs no new prepro."""


READ_WITH = ("cut", "columns")
"""The keys of a manifest's source that say which part of a file was read, and what its columns were named there."""


@with_config(extra="allow")  # what a later version adds is kept
class Source(TypedDict, total=False):
    """Where the rows of a store are from.

    Attributes:
        path, sha256: the file, and the digest of its rows.
        data: the given folder; None for a task with a `source` of its own.
        in_memory: the rows were given in Python.
        cut, columns: see `READ_WITH`.
    """

    path: str
    sha256: str
    data: str | None
    in_memory: bool
    cut: dict[str, Any]
    columns: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """What a prepared split was made from, and counts of its rows.

    Attributes:
        task, split: their names.
        tokenizer: `encoder` (as given) and `sha256` of its tokenizer.
        block: the task's keys that affect what is stored, and `sha256` of them.
        source: where the rows are from.
        rows, truncated_rows: number of rows.
        bytes, sha256: size and digest of the Arrow file, to detect damage; stores of the first versions have no digest.
        labels: unlabelled rows, and counts by name or quartiles, by task type.
        lengths: quantiles of the number of tokens in a row, and `total`.
        store_format, mtdnn_version: format, and the version that wrote it.
    """

    task: str
    split: str
    tokenizer: dict[str, str]
    block: dict[str, Any]
    source: Source
    rows: int = 0
    truncated_rows: int = 0
    bytes: int = 0
    sha256: str = ""
    labels: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, float] = field(default_factory=dict)
    store_format: int = STORE_FORMAT
    mtdnn_version: str = ""

    def differences(self, wanted: Manifest) -> list[str]:
        """How this store differs from the wanted one, one phrase per difference; empty if it does not."""
        found = []
        if self.store_format != wanted.store_format:
            found.append(f"its format is {self.store_format}, this version writes {wanted.store_format}")
        if self.tokenizer["sha256"] != wanted.tokenizer["sha256"]:
            theirs, ours = self.tokenizer["encoder"], wanted.tokenizer["encoder"]
            found.append(f"it was made with the tokenizer of {theirs}, which is not that of {ours}")
        for key in (*STORED_KEYS, "rows"):
            if self.block.get(key) != wanted.block.get(key):
                found.append(f"its {key} was {_shown(self.block.get(key))}, now {_shown(wanted.block.get(key))}")
        for key in READ_WITH:
            if self.source.get(key) != wanted.source.get(key):
                found.append(f"its {key} was {_shown(self.source.get(key))}, now {_shown(wanted.source.get(key))}")
        if "sha256" in wanted.source and self.source["sha256"] != wanted.source["sha256"]:
            found.append(f"its rows in {wanted.source['path']} have changed")
        return found

    def damage(self, file: Path) -> str | None:
        """What is wrong with the Arrow file, or None; a process reads an unchanged file only once."""
        try:
            stamp = file.stat()
        except OSError:
            return "missing"
        if not file.is_file() or stamp.st_size != self.bytes:
            return f"{stamp.st_size} bytes; {self.bytes} bytes were written"
        if self.sha256 and _digest(file) != self.sha256:
            return "its content differs from what was written"
        return None

    def write(self, folder: Path) -> None:
        """Write `manifest.json`; it must be the last file written to a store."""
        write_text(folder / "manifest.json", json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


_digest = read_once(file_sha256)


def shared_folder(file: str) -> str:
    """Name of the folder of rows that several tasks share; no task can have it, as it has a dot."""
    return f"shared.{file}"


def store_format(task: TaskDef, tokenizer: Tokenizer) -> int:
    """The format in which a task's rows are stored for a tokenizer."""
    from mtdnn.task_types.base import TASK_TYPES  # here, as reading manifests needs no torch

    plain = len(task.inputs) < 2 or tokenizer.separates_pairs
    return max(TASK_TYPES.get(task.task_type).store_format, STORE_FORMAT if plain else SEGMENTS_FORMAT)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in the folder of a split; None if there is no store.

    Raises:
        DataError: the manifest cannot be read.
    """
    try:
        return _read(folder / "manifest.json")
    except OSError:  # there is no such file, or the parent folder is a file
        return None


@read_once
def _read(path: Path) -> Manifest:
    """The manifest in a file. Raises as `read_manifest`, and OSError if there is no file."""
    fix = f"Remove {path.parent} and run mtdnn prepro again."
    values = read_json(path, dict[str, Any], fix=fix)
    known = {each.name for each in fields(Manifest)}
    manifest = checked({key: value for key, value in values.items() if key in known}, Manifest, Place(str(path)), fix)
    manifest = replace(manifest, block=without_margin(manifest.block))
    lacking = [key for key in STORED_KEYS if key not in manifest.block]
    lacking += [key for key in ("encoder", "sha256") if key not in manifest.tokenizer]
    lacking += ["source.sha256"] if "sha256" not in manifest.source else []
    if lacking:
        raise DataError(fault(str(path), lacking[0], "is missing", fix))
    return manifest


def stored_block(task: TaskDef) -> dict[str, Any]:
    """The keys of a task block that affect what is stored, as JSON values, and `sha256` of them."""
    from mtdnn.task_types.base import TASK_TYPES  # here, as above

    block = task.model_dump(mode="json", include=set(STORED_KEYS))
    unstored = TASK_TYPES.get(task.task_type).unstored
    block["options"] = {key: value for key, value in block["options"].items() if key not in unstored}
    if task.rows is not None:
        block["rows"] = task.rows.model_dump(mode="json")
    values = json.loads(json.dumps(block, sort_keys=True))
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return {**values, "sha256": digest}


def read_with(task: TaskDef, split: str) -> Source:
    """What of a task decides how the file of a split is read, under the keys `READ_WITH`; unused ones are left out.

    Args:
        task: the task's definition.
        split: name of the split.
    """
    found = Source()
    if (cut := task.cuts.get(split)) is not None:
        found["cut"] = cut.as_json()
    if task.columns:
        found["columns"] = dict(task.columns)
    return found


def length_summary(counts: Mapping[int, int]) -> dict[str, float]:
    """Quantiles, mean and total of the number of tokens in a row.

    Args:
        counts: number of tokens → number of rows.
    """
    if not counts:
        return {"total": 0}
    names = ("min", "q05", "q25", "median", "q75", "q95", "max")
    found = [round(each, 2) for each in quantiles(counts, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))]
    total = sum(length * rows for length, rows in counts.items())
    return {**dict(zip(names, found, strict=True)), "mean": round(total / sum(counts.values()), 2), "total": total}


def mtdnn_version() -> str:
    """The installed version; "unknown" in a checkout that is not installed."""
    try:
        return version("mtdnn")
    except PackageNotFoundError:
        return "unknown"


def _shown(value: Any) -> str:
    if isinstance(value, (list, Mapping)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
