"""Predictions of trained models (teachers) → soft labels of the rows that another model (the student) learns from.

Source: Liu et al. 2019, arXiv 1904.09482: a student learns from the averaged probabilities of an ensemble of teachers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from mtdnn.data.store import Store
from mtdnn.errors import DataError, Fault, fault, first_of
from mtdnn.metrics.base import Record
from mtdnn.metrics.records import RecordFiles
from mtdnn.metrics.stored import kept
from mtdnn.rows.example import RowError
from mtdnn.task_types.base import TaskType

FAULTS_SHOWN = 5  # of one file
IDS_SHOWN = 5


def with_soft_labels(store: Store, task_type: TaskType) -> Store:
    """The store, with a column `soft` [rows, C] if the task learns from teachers.

    Rows are matched by id; further rows in the files are ignored.

    Raises:
        DataError: a file cannot be read or is of another task, a row has no soft label, or two rows have the same id.
    """
    task = task_type.task
    if task.distill is None:
        return store
    ids = store.ids
    duplicates = [row_id for row_id, count in Counter(ids).items() if count > 1]
    if duplicates:
        fix = "Soft labels are matched by id. Rename one of the rows."
        raise DataError(
            fault(task.where("distill"), f"{task.name}.distill", f"two rows have the id '{duplicates[0]}'", fix)
        )
    teachers = []
    for path in task.distill.from_:
        soft = soft_labels(RecordFiles(path), task_type, place=path)
        _require_all([row_id for row_id in ids if row_id not in soft], len(ids), task_type, place=path)
        teachers.append(np.array([soft[row_id] for row_id in ids], dtype=np.float64))
    return store.with_column("soft", np.mean(teachers, axis=0).astype(np.float32))


def teacher_faults(task_type: TaskType) -> list[Fault]:
    """What `check` reports about files of soft labels: unreadable files, and records that do not fit the task.

    That every train row has a soft label is checked by training, which knows the rows it uses.
    """
    faults: list[Fault] = []
    for path in task_type.task.distill.from_ if task_type.task.distill is not None else ():
        try:
            soft_labels(RecordFiles(path), task_type, place=path)
        except DataError as error:
            faults += error.faults
    return faults


def averaged(
    predictions: Sequence[Sequence[Record]], task_type: TaskType, *, places: Sequence[str]
) -> Sequence[Record]:
    """One record per row with the mean of several models' soft labels; its id and label are the first model's.

    Args:
        predictions: of each model for the same rows.
        places: name of each model, for messages.
        task_type: the task seen through its type.
    Raises:
        DataError: a model predicts other labels than the task has, or for other rows than the first.
    """
    teachers = [
        soft_labels(records, task_type, place=place) for records, place in zip(predictions, places, strict=True)
    ]
    for place, each in zip(places, teachers, strict=True):
        if others := sorted(each.keys() ^ teachers[0].keys()):
            shown = f"{len(others)} rows are not in both, such as '{others[0]}'"
            raise DataError(fault(place, "", f"other rows than {places[0]}: {shown}", "Predict the same split."))

    def mean(record: Record) -> Record:
        soft = task_type.soft_record(np.mean([each[record["id"]] for each in teachers], axis=0).tolist())
        found = {"id": record["id"], "label": record["label"], **soft}
        return {key: found[key] for key in ("id", "prediction", "label", "scores")}

    return kept(map(mean, predictions[0]))


def soft_labels(records: Iterable[Record], task_type: TaskType, *, place: str) -> dict[str, list[float]]:
    """Row id → its soft label, as the task type reads it from the record.

    Args:
        records: a teacher's predictions.
        task_type: the task seen through its type.
        place: file or folder, for the message.
    Raises:
        DataError: records that do not fit this task, and duplicate ids, by row id.
    """
    found: dict[str, list[float]] = {}
    faults = []
    for record in records:
        row_id = str(record["id"])
        if row_id in found:
            faults.append(fault(place, "id", f"row '{row_id}' occurs twice", "Remove one of the two."))
            continue
        try:
            found[row_id] = task_type.soft_label(record)
        except RowError as error:
            faults.append(fault(place, error.key, f"row '{row_id}': {error.found}", error.fix))
    if faults:
        raise DataError(first_of(faults, len(faults), place, FAULTS_SHOWN))
    return found


def _require_all(missing: Sequence[str], num_rows: int, task_type: TaskType, *, place: str) -> None:
    if not missing:
        return
    more = f" and {len(missing) - IDS_SHOWN} more" if len(missing) > IDS_SHOWN else ""
    named = ", ".join(f"'{row_id}'" for row_id in missing[:IDS_SHOWN])
    task = task_type.task
    found = f"no soft label for {named}{more} ({len(missing)} of {num_rows} train rows of {task.name})"
    fix = f"Predict all of them: mtdnn predict TEACHER --soft --task {task.name} --input ROWS --output {place}"
    raise DataError(fault(place, "id", found, f"{fix}"))
