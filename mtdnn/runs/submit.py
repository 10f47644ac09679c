"""Trained runs → an archive for the leaderboard of GLUE or SuperGLUE."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mtdnn.config.arguments import keywords_checked
from mtdnn.data.store import open_store
from mtdnn.errors import DataError, Fault, MtdnnError, fault
from mtdnn.metrics.base import Record
from mtdnn.runs.opened import Run, open_run
from mtdnn.runs.submission import Choice, File, content, files_of, write_archive
from mtdnn.training.distillation import averaged


@dataclass(frozen=True)
class Answered:
    """A task of a run whose test split it can predict."""

    run: Run
    task: str


@keywords_checked()
def submit(
    benchmark: str,
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    data: str | Path | None = None,
    checkpoint: str = "best",
) -> dict[str, int]:
    """Predict every test split of a benchmark, and write the archive that its server takes.

    Each task is answered by the runs that have it; the probabilities, or numbers, of several are averaged, of types
    whose predictions have a mean; files of the others need one run that has the task. AX is answered by the
    head of MNLI. The archive is checked before it is written.

    Args:
        benchmark: glue or superglue.
        runs: their folders; one multi-task run, or one for each task, or several of some.
        out: the archive, a .zip file.
        data: folder made by `mtdnn prepro`; None takes each run's own.
        checkpoint: best, last or step-N.
    Returns:
        File in the archive → its rows.
    Raises:
        DataError: everything that is missing or does not fit the benchmark, in one list.
    """
    files, opened = files_of(benchmark), [open_run(run, checkpoint=checkpoint) for run in runs]
    contents, faults, counts = dict[str, str](), list[Fault](), dict[str, int]()
    for file in files:
        found = [(run, task_for(file, run.tasks)) for run in opened]
        nearest = min((match.distance for _, match in found if match is not None), default=0)
        able = [Answered(run, match.task) for run, match in found if match and match.distance == nearest]
        if not able:
            fix = f"Add a run with the task '{file.task}'."
            faults.append(fault(file.name, "", f"no run of {', '.join(map(str, runs))} answers it", fix))
            continue
        try:
            records = predictions(file, able, data)
            contents[file.name], counts[file.name] = content(file, records), len(records)
        except MtdnnError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    write_archive(Path(out), contents, checked=True)
    return counts


class Match(NamedTuple):
    """A task that answers a file.

    Attributes:
        task: its name.
        distance: 0: it is named as in `task_defs/`; 1: as the file; 2: it is another that answers it. SuperGLUE has an
            RTE.jsonl, whose rows are not those of GLUE's task `rte`.
    """

    task: str
    distance: int


def task_for(file: File, tasks: Iterable[str]) -> Match | None:
    """The task of a run that answers a file: of its name, or of one that reads alike (SST-2 and sst2), or another."""
    names = list(tasks)
    for distance, wanted in enumerate(((file.task,), (file.name.rpartition(".")[0],), file.others)):
        letters = {_letters(each) for each in wanted}
        if found := next((name for name in names if _letters(name) in letters), None):
            return Match(found, distance)
    return None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def predictions(file: File, able: Sequence[Answered], data: str | Path | None) -> Sequence[Record]:
    """Records of the file's rows; of several runs, those of their mean probabilities.

    Args:
        file: of a benchmark.
        able: the runs that answer it.
        data: folder of prepared rows; None takes each run's own.
    Raises:
        DataError: the split is not prepared, or several runs of a task whose predictions have no mean.
    """
    task_type = able[0].run.model.task_types[able[0].task]
    if len(able) > 1 and not task_type.soft_labels:
        found = f"{len(able)} runs answer it, and predictions of {task_type.task.task_type} have no mean"
        raise DataError(fault(file.name, "", found, "Give one run with this task."))
    of_runs = [_records(file, each, data) for each in able]
    if len(of_runs) == 1:
        return of_runs[0]
    return averaged(of_runs, task_type, places=[str(each.run.folder.path) for each in able])


def _records(file: File, answered: Answered, data: str | Path | None) -> Sequence[Record]:
    """One run's records of the test split, the chosen text of COPA replaced by its number."""
    run, task = answered.run, answered.run.tasks[answered.task]
    split = file.split if file.split in task.split_names else "test"
    store = open_store(Path(data or run.config.data), task, split, tokenizer=run.tokenizer)
    records = run.records(store, answered.task)
    if not isinstance(file, Choice):
        return records
    names = [json.loads(text) for text in store.take(np.arange(len(store)))["candidate_names"]]
    return [
        {**record, "prediction": choices.index(record["prediction"])}
        for record, choices in zip(records, names, strict=True)
    ]
