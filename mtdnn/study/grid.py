"""A study and its cells, and the description of them in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from mtdnn.config.json_source import read_json
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.config.yaml_source import KeyPath, YamlSource
from mtdnn.errors import DataError, Fault, Place, fault
from mtdnn.files import write_text
from mtdnn.study.definition import Study


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: `<stage>/<values>-<hash>`, also its folder below `cells`.
        axes: axis → value name, in the order of the YAML, including the stage's labels.
        config: the run, resolved; its output is `<folder>/run`.
        task_file: text of the task definitions, if options of a task are an axis; None = the file is unchanged.
        definitions: name → every task in the run's file of definitions.
        needs: names of the cells that this cell starts from.
        evaluate, keep: as in the stage.
        given_at: option of the run → path of keys to it in the study's YAML.
    """

    name: str
    stage: str
    axes: Mapping[str, str]
    config: RunConfig
    fingerprint: str
    folder: Path
    definitions: Mapping[str, TaskDef] = field(default_factory=dict, repr=False, compare=False)
    task_file: str | None = None
    needs: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    keep: str = "weights"
    given_at: Mapping[str, KeyPath] = field(default_factory=dict, repr=False, compare=False)

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config.output)


@dataclass
class Grid:
    """A study and its cells, in an order in which they can run, and the document that defines them."""

    study: Study
    cells: list[Cell]
    source: YamlSource

    @property
    def folder(self) -> Path:
        """The folder of the study."""
        return Path(self.study.output)

    @property
    def axes(self) -> list[str]:
        """Every axis of every stage, each once."""
        return list(dict.fromkeys(axis for cell in self.cells for axis in cell.axes))


def of_cell(
    found: Fault, source: YamlSource, *, stage: str, axes: Mapping[str, str], given_at: Mapping[str, KeyPath]
) -> Fault:
    """An error of a cell's run, at the line that sets its key: `study.yml:7: stage (axis value, …): key: …`.

    An error in another file, such as one of task definitions, keeps its place, after `study.yml: stage (…)`.

    Args:
        found: the error, whose place is a file, a flag that sets an option of the run, or none.
        source: the study's document.
        stage: name of the stage.
        axes: axis → value name.
        given_at: option of the run → path of keys to it in the document.
    """
    cell = f"{stage} ({', '.join(f'{axis} {value}' for axis, value in axes.items())})"
    found = found.within(f"{source.path}: {cell}")
    if found.place.name:
        return found
    keys = _keys_of(found.key, given_at) or _keys_of(f"tasks.{found.key}", given_at)  # a task's own option
    place = source.where(keys) if keys else Place(source.path)
    return found.at(replace(place, part=cell))


def _keys_of(key: str, given_at: Mapping[str, KeyPath]) -> KeyPath | None:
    """Where a study sets a dotted key, or the option it is part of, or else a part of it; None if nowhere."""
    words = key.split(".")
    for end in range(len(words), 0, -1):
        option = ".".join(words[:end])
        if option in given_at:
            return (*given_at[option], *words[end:])
    return next((keys for option, keys in given_at.items() if option.startswith(f"{key}.")), None)


class PlannedCell(TypedDict):
    """A cell in study.json; `needs`, the cells it starts from, is missing in files of earlier versions."""

    name: str
    stage: str
    axes: dict[str, str]
    needs: NotRequired[list[str]]


class PlannedReport(TypedDict):
    """What the report of a study compares, as study.json has it."""

    compare: str
    reference: NotRequired[str | None]
    across: NotRequired[str | None]
    repeats: NotRequired[str | list[str]]
    margin: NotRequired[float]
    best_over: NotRequired[list[str]]
    labels_axis: NotRequired[bool]


class PlannedStudy(TypedDict):
    """The study in study.json, as far as its report reads it."""

    report: NotRequired[PlannedReport | None]


class Plan(TypedDict):
    """The shape of study.json."""

    study: PlannedStudy
    axes: list[str]
    cells: list[PlannedCell]


def read_plan(folder: Path) -> Plan:
    """The content of a study's study.json.

    Raises:
        DataError: there is no study.json, or it is damaged.
    """
    path, fix = folder / "study.json", "Run mtdnn study again, which writes this file."
    try:
        plan: Plan = read_json(path, Plan, fix=fix)
    except FileNotFoundError as error:
        raise DataError(fault(str(path), "", "is missing", fix)) from error
    return plan


def write_study_files(grid: Grid) -> None:
    """Write `study.json`, for the report, and each cell's own task file."""
    grid.folder.mkdir(parents=True, exist_ok=True)
    plan = {
        "study": grid.study.model_dump(mode="json"),
        "axes": grid.axes,
        "cells": [
            {"name": cell.name, "stage": cell.stage, "axes": dict(cell.axes), "needs": list(cell.needs)}
            for cell in grid.cells
        ],
    }
    write_text(grid.folder / "study.json", json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
    for cell in grid.cells:
        cell.folder.mkdir(parents=True, exist_ok=True)
        if cell.task_file is not None:
            write_text(cell.folder / "tasks.yml", cell.task_file)
