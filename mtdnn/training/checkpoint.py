"""Save, verify and load checkpoints; a run killed at any moment leaves no damaged one behind.

A checkpoint is a folder: `model.safetensors`, `encoder/` (configuration and tokenizer), `state.json`, and, if
training can resume from it, `training.pt` (tensors and plain values only). `checksums.json` is written last, and the
folder gets its name only when all of it is on disk; without it, or with a file that does not match, it is damaged.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NotRequired

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from typing_extensions import TypedDict

from mtdnn.config.json_source import read_json
from mtdnn.errors import DataError, fault, first_line, is_full_disk
from mtdnn.execution.sharding import fill, units_of
from mtdnn.files import (
    exclusive,
    file_sha256,
    flush,
    flush_folder,
    read_once,
    remove_folder,
    remove_leftovers,
    temporary_path,
)

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
WEIGHTS = "model.safetensors"
TRAINING = "training.pt"
STATE = "state.json"
ENCODER = "encoder"

REPLACED_AFTER_SECONDS = 5
"""How long a trainer may take, at most, between the two renames that replace a checkpoint."""

SaveEncoder = Callable[[Path], None]

_digest = read_once(file_sha256)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    *,
    left_out: Collection[str] = (),
    save_encoder: SaveEncoder,
    state: dict[str, Any],
    training: dict[str, Any] | None,
) -> None:
    """Write a checkpoint atomically: `folder` is either the complete new one or unchanged.

    Args:
        left_out: names of weights that are stored elsewhere, and were not trained.
        save_encoder: writes the encoder's configuration and the tokenizer into the folder it is given.
        state: plain JSON values.
        training: optimizer and the like, tensors and plain values; None for weights alone.
        folder: of the checkpoint.
        model: encoder and heads.
    Raises:
        DataError: the disk is full or cannot be written.
    """
    with atomic_folder(folder) as partial:
        if left_out:
            kept = {name: value for name, value in model.state_dict().items() if name not in left_out}
            save_file({name: value.contiguous() for name, value in kept.items()}, str(partial / WEIGHTS))
        else:
            save_model(model, str(partial / WEIGHTS))
        save_encoder(partial / ENCODER)
        (partial / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        if training is not None:
            torch.save(training, partial / TRAINING)
        _write_checksums(partial)


def copy_weights(source: Path, folder: Path) -> None:
    """Write a checkpoint of the same weights as another, whole one, without what training could resume from.

    Raises:
        DataError: the disk is full or cannot be written.
    """
    with atomic_folder(folder) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(TRAINING, CHECKSUMS))
        _write_checksums(partial)


def _write_checksums(folder: Path) -> None:
    """The digest of every file in a checkpoint, which makes it whole."""
    sums = {str(path.relative_to(folder)): file_sha256(path) for path in files_below(folder)}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces `folder` when the block succeeds, and is removed when it fails.

    Raises:
        DataError: the disk is full or cannot be written.
    """
    partial = temporary_path(folder)
    try:
        remove_leftovers(folder.parent, folder.name)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        flush_folder(partial)
        _replace(partial, folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        if not isinstance(error, OSError) and not is_full_disk(error):
            raise
        fix = "Free disk space or choose another folder; what was there before is kept."
        why = getattr(error, "strerror", None) or ("no space left on the disk" if is_full_disk(error) else error)
        raise DataError(fault(str(folder), "", f"cannot be written: {why}", fix)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, folder: Path) -> None:
    """Rename `partial` to `folder`; an existing folder is renamed first and removed last."""
    if folder.exists():
        backup = _backup(folder)
        shutil.rmtree(backup, ignore_errors=True)
        folder.rename(backup)
        partial.rename(folder)
        shutil.rmtree(backup)
    else:
        partial.rename(folder)
    flush(folder.parent)


def _backup(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.before")


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None when it is whole."""
    try:
        sums = read_json(folder / CHECKSUMS, dict[str, str], fix="")
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except DataError as error:
        return f"{CHECKSUMS}: {error.faults[0].found}"
    for name in {WEIGHTS, STATE} - sums.keys():
        return f"{CHECKSUMS} does not name {name}"
    for name, expected in sums.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if _digest(path) != expected:
                return f"{name} does not match its checksum"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
    return None


def recover(folder: Path) -> Path:
    """`folder`, restored first if a kill came between the two renames that replace it."""
    backup = _backup(folder)
    if not folder.exists() and backup.exists():
        backup.rename(folder)
    return folder


def open_checkpoint(folder: Path) -> Path:
    """`folder`, after its checksums are verified.

    Raises:
        DataError: it is missing or damaged.
    """
    if not folder.exists() and _backup(folder).exists():
        _wait_for(folder)
    found = damage(folder) if folder.is_dir() else "there is no such checkpoint"
    if found is not None:
        raise DataError(fault(str(folder), "", found, f"{_others(folder)}"))
    return folder


def _wait_for(folder: Path) -> None:
    """Put back a checkpoint that a killed trainer left between two renames, or wait until a living one is done."""
    with exclusive(folder.parent / ".lock", wait=False) as ours:
        if ours:
            recover(folder)
    for _ in range(REPLACED_AFTER_SECONDS * 20):
        if folder.exists():
            return
        time.sleep(0.05)


def _others(folder: Path) -> str:
    """The other checkpoints of the run, for a message."""
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    known = [name for name in ("best", "last") if (run / name).is_dir()]
    known += [path.name for path in steps_of(run / "checkpoints")]
    return f"Checkpoints found: {', '.join(known)}." if known else "Train first."


def steps_of(folder: Path) -> list[Path]:
    """The `step-N` folders in a folder, oldest first."""
    return sorted((path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)), key=step_number)


def step_number(folder: Path) -> int:
    """N of a folder `step-N`."""
    return int(folder.name.removeprefix("step-"))


def newest_whole(folder: Path) -> Path | None:
    """The newest undamaged `step-N` in a folder; damaged ones are skipped with a warning."""
    for path in reversed(steps_of(folder)):
        found = damage(path)
        if found is None:
            return path
        logger.warning("%s: %s; using the checkpoint before it", path, found)
    return None


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the newest `count` `step-N` folders, and the partial files of killed runs there and above."""
    for path in steps_of(folder)[:-count]:
        remove_folder(path)
    remove_half_written(folder)


def remove_half_written(folder: Path) -> None:
    """Remove the partial files of killed runs among the checkpoints in a folder, and in the run's folder above."""
    for place in (folder, folder.parent):
        remove_leftovers(place)
        for path in place.iterdir() if place.is_dir() else ():  # the names of the first versions
            if re.fullmatch(r"\..+\.partial-\d+", path.name):
                shutil.rmtree(path, ignore_errors=True)


class TaskRows(TypedDict):
    """Identifies the train rows of a task: their number, and the digests of their files."""

    rows: int
    sha256: list[str]


class State(TypedDict):
    """The plain values of a checkpoint: its step, and what it was trained with, as far as its version states it."""

    step: int
    seed: NotRequired[int]
    rows: NotRequired[dict[str, TaskRows]]
    run: NotRequired[dict[str, Any]]
    tasks: NotRequired[dict[str, Any]]


def read_state(folder: Path) -> State:
    """The plain values of a whole checkpoint.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return read_json(folder / STATE, State, fix=_others(folder))
    except FileNotFoundError as error:
        raise DataError(fault(str(folder / STATE), "", "is missing", _others(folder))) from error


def read_training(folder: Path) -> dict[str, Any]:
    """Optimizer state and the like of a whole checkpoint, loaded without running code from the file.

    Raises:
        DataError: the checkpoint has weights only.
    """
    path = folder / TRAINING
    if not path.is_file():
        raise DataError(fault(str(folder), "", "has weights only", "Training resumes from checkpoints/step-N."))
    try:
        training = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
        found = f"cannot be read: {first_line(error)}"
        raise DataError(
            fault(str(path), "", found, f"Remove {folder}, so that the checkpoint before it is used.")
        ) from error
    if not isinstance(training, dict):
        raise DataError(fault(str(path), "", "has no training state", f"Remove {folder}."))
    return training


def load_weights(folder: Path, model: nn.Module, *, left_out: Collection[str] = ()) -> None:
    """Load the weights of a whole checkpoint into a model of the same encoder and tasks.

    Args:
        folder: of the checkpoint.
        model: encoder and heads.
        left_out: names of weights that the checkpoint does not hold; they stay as they are.
    Raises:
        DataError: names or shapes differ.
    """
    try:
        if left_out:
            found = model.load_state_dict(load_file(str(folder / WEIGHTS)), strict=False)
            if strange := sorted({*found.missing_keys} - {*left_out}) + found.unexpected_keys:
                raise RuntimeError(f"one of the two has no '{strange[0]}'")
        elif units_of(model):
            _fill_parts(model, folder / WEIGHTS)
        else:
            load_model(model, str(folder / WEIGHTS))
    except OSError as error:
        found = f"cannot be read: {first_line(error)}"
        fix = "If a run is being trained here, run the same command again."
        raise DataError(fault(str(folder / WEIGHTS), "", found, fix)) from error
    except (RuntimeError, SafetensorError) as error:
        found = f"weights do not fit this model: {first_line(error)}"
        raise DataError(fault(str(folder), "", found, "The encoder or the tasks differ from the run's.")) from error


def _fill_parts(model: nn.Module, file: Path) -> None:
    """Load weights into a model that is divided among processes, one after another, each process its parts."""
    names: dict[int, list[str]] = {}
    weights = model.state_dict(keep_vars=True)
    for name, weight in weights.items():
        names.setdefault(id(weight), []).append(name)
    with safe_open(str(file), framework="pt") as opened:
        stored = set(opened.keys())
        lacking = [own[0] for own in names.values() if not stored.intersection(own)]
        if strange := sorted([*lacking, *(stored - weights.keys())]):
            raise RuntimeError(f"one of the two has no '{strange[0]}'")
        for own in names.values():
            fill(weights[own[0]], opened.get_tensor(next(name for name in own if name in stored)))


def read_weights(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix (`encoder.`, `heads.rte.`) of a whole checkpoint, named without it."""
    try:
        weights = load_file(str(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        found = f"cannot be read: {first_line(error)}"
        raise DataError(fault(str(folder / WEIGHTS), "", found, _others(folder))) from error
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def load_tied(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights into a module; a tensor with several names in it, as T5's embeddings, needs one of them."""
    own = module.state_dict(keep_vars=True)
    given = {id(own[name]): value for name, value in weights.items() if name in own}
    also = {name: given[id(tensor)] for name, tensor in own.items() if name not in weights and id(tensor) in given}
    module.load_state_dict({**weights, **also})
