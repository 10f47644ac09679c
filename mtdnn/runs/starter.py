"""The first files of a project: a task definition and a run for a file of rows, or a folder with rows of its own."""

from __future__ import annotations

import os
import random
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from mtdnn.config.task import checked_task_name
from mtdnn.config.tasks import load_task_defs
from mtdnn.config.yaml_source import dump_yaml
from mtdnn.errors import ConfigError, DataError, MtdnnError, fault
from mtdnn.files import write_text
from mtdnn.runs.guess import Guess, guessed
from mtdnn.runs.row_check import report_on

ROWS = Path("data") / "reviews.csv"
NUM_ROWS = 240

PRAISE = ("a joy", "well made", "worth every coin", "quick and quiet", "better than the old one", "easy to clean")
BLAME = ("a let-down", "badly made", "too dear", "slow and loud", "worse than the old one", "hard to clean")
THINGS = ("kettle", "lamp", "radio", "bicycle", "tent", "clock", "mixer", "heater", "camera", "umbrella")
OPENINGS = ("The {} is {}.", "I bought this {} in May; it is {}.", "My sister says the {} is {}.", "This {}? It is {}.")


def start(
    folder: Path,
    *,
    rows: Path | None,
    encoder: str,
    name: str | None = None,
    label: str | None = None,
    texts: Sequence[str] = (),
) -> str:
    """Write `tasks.yml` and `run.yml` into a folder, and without a file of rows also some generated ones.

    Args:
        folder: made if it does not exist; its other files are left as they are.
        rows: the file to learn from; None: generated rows, `data/reviews.csv`.
        encoder: hub name or folder, for the run.
        name: of the task; None: that of the file.
        label, texts: the columns of the labels and of the texts; None and empty: guessed.
    Returns:
        What was guessed and why, and the commands that follow.
    Raises:
        ConfigError: a file exists already, the rows have no such column, or no task may have the name.
        DataError: the rows do not show what is to be learnt, or have errors; nothing is written.
    """
    if name is not None:
        try:
            checked_task_name(name)
        except ValueError as error:
            raise ConfigError(fault("--name", "", f"'{name}': {error}", "Give another one.")) from error
    files = [folder / "tasks.yml", folder / "run.yml", *([folder / ROWS] if rows is None else [])]
    if existing := [path for path in files if path.exists()]:
        raise ConfigError(
            [fault(str(path), "", "exists already", "Remove it, or name another folder.") for path in existing]
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rows is None:
            (folder / ROWS).parent.mkdir(exist_ok=True)
            write_text(folder / ROWS, "id,review,verdict\n" + "".join(generated_rows()))
        try:
            guess = _checked(rows or folder / ROWS, name=name, label=label, texts=texts)
        except MtdnnError:
            if rows is None:  # else the corrected command would find them in its way
                (folder / ROWS).unlink()
            raise
        encoder = _seen_from(folder, Path(encoder)) if Path(encoder).exists() else encoder
        write_text(folder / "tasks.yml", guess.as_yaml())
        write_text(folder / "run.yml", run_text(encoder))
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise DataError(fault(str(folder), "", found, "Name another folder.")) from error
    data = _seen_from(folder, (rows or folder / ROWS).parent)
    return "\n".join([guess.as_yaml(), *next_commands(folder, data=data, encoder=encoder)])


def _seen_from(folder: Path, place: Path) -> str:
    """A path as the commands that are run in a folder name it; an absolute one stays as it is."""
    return str(place) if place.is_absolute() else os.path.relpath(place.resolve(), folder.resolve())


def generated_rows() -> Iterator[str]:
    """Lines of a .csv: id, a review of a thing, and whether it is good or bad."""
    draw = random.Random(1)
    for number in range(1, NUM_ROWS + 1):
        verdict = draw.choice(("good", "bad"))
        said = draw.choice(PRAISE if verdict == "good" else BLAME)
        yield f'{number},"{draw.choice(OPENINGS).format(draw.choice(THINGS), said)}",{verdict}\n'


def _checked(rows: Path, *, name: str | None, label: str | None, texts: Sequence[str]) -> Guess:
    """The guess for a file, with which all of its rows can be read.

    Args:
        rows: the file.
        name, label, texts: as for `guessed`.
    Raises:
        DataError: rows have errors, or the file does not show what is to be learnt.
    """
    guess = guessed(rows, name=name, label=label, texts=texts)
    tasks = load_task_defs({guess.name: guess.block})
    faults = report_on(tasks, data=rows.parent, num_workers=1).faults
    if faults:
        raise DataError(faults)
    return guess


def run_text(encoder: str) -> str:
    """A run of every task in `tasks.yml`."""
    run = {"tasks": "tasks.yml", "data": "prepared", "encoder": encoder, "output": "runs/first"}
    return dump_yaml({**run, "epochs": 3, "batch_size": 16, "optimizer": {"lr": 5e-5}})


def next_commands(folder: Path, *, data: str, encoder: str) -> list[str]:
    """What to do with the files of a folder.

    Args:
        folder: that has them.
        data: folder of the rows, as seen from there.
        encoder: of the run.
    """
    arguments = shlex.join(["tasks.yml", "--data", data, "--encoder", encoder])
    return [
        f"Written: {folder / 'tasks.yml'}, {folder / 'run.yml'}. Correct what was guessed wrongly, then:",
        "",
        *([f"cd {shlex.quote(str(folder))}"] if folder != Path() else []),
        f"mtdnn check {arguments}",
        f"mtdnn prepro {arguments} --out prepared",
        "mtdnn train run.yml",
    ]
