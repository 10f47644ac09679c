"""A study's YAML → its cells: one run for every combination of axis values, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtdnn.config.arguments import keywords_checked
from mtdnn.config.refusals import validated
from mtdnn.config.yaml_source import read_yaml
from mtdnn.errors import ConfigError
from mtdnn.study.definition import Options, Study, name_of_value
from mtdnn.study.expansion import Expansion
from mtdnn.study.grid import Grid
from mtdnn.study.variables import declared_variables, filled, unknown_variables, variable_values


@keywords_checked()
def load_study(
    path: str | Path, *, output: str | Path | None = None, variables: Mapping[str, Any] | None = None
) -> Grid:
    """The grid of runs in a study's YAML; nothing is run.

    Args:
        path: the file.
        output: folder of the study, in place of the file's.
        variables: values of the file's variables by name, as in `${data}`; `${here}`, the folder of the file, is always
            defined.
    Returns:
        The study and its cells, each with its axes and its run, in an order in which they can be run.
    Raises:
        ConfigError: every error, with the file's line, and the cell's name if it is in the run of a cell.

    Example:
        >>> import mtdnn
        >>> grid = mtdnn.load_study("study.yml", variables={"steps": 2})
        >>> [(cell.axes["seed"], cell.config.max_steps) for cell in grid.cells]
        [('1', 2), ('2', 2)]
    """
    source = read_yaml(path)
    raw = dict(source.value)
    if output is not None:
        raw["output"] = str(output)
    values = variable_values(source, declared_variables(source), variables or {})
    raw["stages"] = _with_named_values(raw.get("stages"))
    raw["variables"] = {name: value for name, value in values.items() if name != "here"}
    if faults := unknown_variables("output", raw.get("output"), values):
        raise ConfigError([each.at(source.where(("output",))) for each in faults])
    raw["output"] = filled(raw.get("output"), values)
    study = validated(Study, raw, source)
    return Grid(study=study, cells=Expansion(study, source, values).cells(), source=source)


def _with_named_values(stages: Any) -> Any:
    """The stages with every value name as text, also where YAML read a number: `fraction: {0.01: …}`."""
    if not isinstance(stages, dict):
        return stages
    named = {}
    for name, stage in stages.items():
        axes = stage.get("axes") if isinstance(stage, dict) else None
        if isinstance(axes, dict):
            texts = {axis: _texts(values) if isinstance(values, dict) else values for axis, values in axes.items()}
            stage = {**stage, "axes": texts}
        named[name] = stage
    return named


def _texts(values: Mapping[Any, Any]) -> Options:
    return {name_of_value(name): options for name, options in values.items()}
