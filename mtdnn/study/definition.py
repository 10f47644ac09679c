"""The keys of a study's YAML: stages, axes, cases, and what the report compares."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from mtdnn.config.options import Frozen, PathText
from mtdnn.config.words import Words

Options = dict[str, Any]


class Case(Frozen):
    """Run options for some cells of a stage only."""

    when: dict[str, Words] = Field(description="Axis → value names; applies to the cells whose values are all listed.")
    run: Options = Field({}, description="Run options that replace those of the axes.")


class Stage(Frozen):
    """Runs of one kind."""

    run: Options = Field({}, description="Run options of every cell; they replace the study's.")
    axes: dict[str, list[Any] | dict[str, Options | None]] = Field(
        description="Axis → values: a list (the axis is then a run option), or value name → run options."
    )
    labels: dict[str, str] = Field({}, description="Columns of results.csv that are the same in every cell.")
    skip: list[dict[str, Words]] = Field([], description="Combinations left out: axis → value names.")
    cases: list[Case] = Field([], description="Run options for some combinations.")
    evaluate: Words = Field((), description="Roles or splits measured after training, in addition to the dev splits.")
    keep: Literal["weights", "results"] = Field(
        "weights", description="results: a finished cell's checkpoints are removed; no other stage may start from it."
    )

    @field_validator("axes")
    @classmethod
    def _has_values(cls, axes: dict[str, Any]) -> dict[str, Any]:
        empty = [name for name, values in axes.items() if not values]
        if empty:
            raise ValueError(f"the axis '{empty[0]}' has no value")
        return axes


class ReportConfig(Frozen):
    """What the tables and pictures of a study compare."""

    compare: str = Field(description="Axis whose values are the rows of the tables and the lines of the pictures.")
    reference: str | None = Field(
        None, description="Value of that axis the others are tested against. Default: the first."
    )
    across: str | None = Field(None, description="Axis of the columns, and of the learning curve. Default: none.")
    repeats: Words = Field(
        ("seed",), description="Axes that repeat a run, the outermost first: its values are the units of the tests."
    )
    margin: float = Field(
        0.01, gt=0, allow_inf_nan=False, description="Differences below count as none (metrics shown in percent)."
    )
    best_over: Words = Field((), description="Axes tuned on the dev split: only the best value of each is shown.")
    labels_axis: bool = Field(False, description="Draw curves against the number of training rows, on a log axis.")

    @field_validator("reference", mode="before")
    @classmethod
    def _as_the_axis_has_it(cls, value: Any) -> Any:
        return name_of_value(value) if isinstance(value, (int, float)) else value


class Study(Frozen):
    """A grid of runs."""

    output: PathText = Field(description="Folder of the study.")
    variables: dict[str, Any] = Field({}, description="${name} → value; null must be given as --name.")
    run: Options = Field({}, description="Run options of every cell; dotted keys as on the command line of `train`.")
    stages: dict[str, Stage] = Field(description="Name → runs. A later stage may start from runs of an earlier one.")
    report: ReportConfig | None = Field(None, description="Default: every axis value separately.")

    @field_validator("stages")
    @classmethod
    def _plain_names(cls, stages: dict[str, Stage]) -> dict[str, Stage]:
        for name in stages:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"'{name}' names a folder and has only letters, digits, '_' and '-'")
        return stages


def value_names(values: Sequence[Any] | Mapping[str, Any]) -> list[str]:
    """The names of an axis's values in cell names, tables and results.csv."""
    return [name_of_value(value) for value in values]


def name_of_value(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    except TypeError:  # keys or values that JSON does not have; the run they are for refuses them
        return str(value)
