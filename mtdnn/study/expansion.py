"""A study's stages → their cells: one run for every combination of axis values; every error in one report."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mtdnn.config.earlier import with_unused
from mtdnn.config.json_source import sorted_json
from mtdnn.config.run import EncoderSource, RunConfig, load_run_config
from mtdnn.config.shipped import definitions_file
from mtdnn.config.tasks import TaskDef, task_defs_in
from mtdnn.config.yaml_source import KeyPath, YamlSource, dump_yaml, read_yaml
from mtdnn.errors import ConfigError, Fault, did_you_mean, fault, unknown
from mtdnn.runs.folder import FREE_TO_CHANGE
from mtdnn.runs.plug_ins import resolved
from mtdnn.study.definition import Options, Stage, Study, name_of_value, value_names
from mtdnn.study.grid import Cell, of_cell
from mtdnn.study.table import FIXED, SCALE
from mtdnn.study.variables import filled, unknown_variables

MAX_NAME = 246
"""Characters of the values in the name of a cell's folder: with the hash 255, the most that file systems allow."""

TASK_OPTION = re.compile(r"tasks\.([A-Za-z0-9_-]+)\.(\w+)")


class Expansion:
    """The cells of a study; collects every error before it raises.

    Args:
        study: as its document defines it.
        source: the document.
        variables: name → value.
    """

    def __init__(self, study: Study, source: YamlSource, variables: Options) -> None:
        self.study, self.source, self.variables = study, source, variables
        self.faults: list[Fault] = []
        self._reported: set[Fault] = set()  # of cells, without their names: what several cells have is said once
        self._sources: dict[str, YamlSource] = {}
        self._definitions: dict[tuple[str, str | None], dict[str, TaskDef]] = {}
        self._by_stage: dict[str, list[Cell]] = {}

    def cells(self) -> list[Cell]:
        """The cells, stage by stage.

        Raises:
            ConfigError: every error in the study, and in the runs of its cells.
        """
        for name, stage in self.study.stages.items():
            self._check_axis_names(name, stage)
            self._check_values(name, stage)
            self._by_stage[name] = [] if self.faults else list(self._stage_cells(name, stage))
        self._check_report()
        if self.faults:
            raise ConfigError(list(dict.fromkeys(self.faults)))
        cells = [cell for stage in self._by_stage.values() for cell in stage]
        if not cells:
            raise ConfigError(fault(self.source.path, "stages", "no cell is left", "Check `skip`."))
        return cells

    def _check_axis_names(self, name: str, stage: Stage) -> None:
        for kind, names in (("axes", stage.axes), ("labels", stage.labels)):
            for axis in names:
                where = self.source.where(("stages", name, kind, axis))
                if axis in (*FIXED, *SCALE):
                    self.faults.append(fault(where, axis, "is already a column of results.csv", "Rename the axis."))
                elif kind == "labels" and axis in stage.axes:
                    self.faults.append(fault(where, axis, "is already an axis of the stage", "Rename the label."))
        groups: list[tuple[KeyPath, Mapping[str, tuple[str, ...]]]]
        groups = [(("skip", number), rule) for number, rule in enumerate(stage.skip)]
        groups += [(("cases", number, "when"), case.when) for number, case in enumerate(stage.cases)]
        for keys, rule in groups:
            where, key = self.source.where(("stages", name, *keys)), ".".join(map(str, ("stages", name, *keys)))
            for axis, words in rule.items():
                if axis not in stage.axes:
                    self.faults.append(fault(where, key, unknown("axis", axis, stage.axes)))
                    continue
                known = value_names(stage.axes[axis])
                self.faults += [fault(where, key, unknown("value", word, known)) for word in words if word not in known]

    def _check_values(self, name: str, stage: Stage) -> None:
        for axis, values in stage.axes.items():
            names = value_names(values)
            for number, word in enumerate(names):
                if word in names[:number]:
                    keys = ("stages", name, "axes", axis)
                    where, key = self.source.where((*keys, number)), ".".join(keys)
                    self.faults.append(fault(where, key, f"the value '{word}' is given twice", "Remove one."))

    def _check_report(self) -> None:
        """Require that what the report compares exists: axes of any stage, and a value of the compared axis."""
        report, stages = self.study.report, self.study.stages.values()
        if report is None:
            return
        known = list(dict.fromkeys(axis for stage in stages for axis in (*stage.axes, *stage.labels)))
        named = [
            ("compare", report.compare),
            ("across", report.across),
            *(("best_over", axis) for axis in report.best_over),
        ]
        if "repeats" in report.model_fields_set:
            named += [("repeats", axis) for axis in report.repeats]
        for key, axis in named:
            if axis is not None and axis not in known:
                self._add_report_fault(key, unknown("axis", axis, known))
        values = [word for stage in stages for word in value_names(stage.axes.get(report.compare, ()))]
        values += [stage.labels[report.compare] for stage in stages if report.compare in stage.labels]
        if report.compare in known and report.reference is not None and report.reference not in values:
            self._add_report_fault("reference", unknown(f"value of '{report.compare}'", report.reference, values))

    def _add_report_fault(self, key: str, found: str) -> None:
        self.faults.append(fault(self.source.where(("report", key)), f"report.{key}", found))

    def _stage_cells(self, name: str, stage: Stage) -> Iterator[Cell]:
        here = ("stages", name)
        choices = [_choices(axis, values, (*here, "axes", axis)) for axis, values in stage.axes.items()]
        below = (_settings(self.study.run, ("run",)), _settings(stage.run, (*here, "run")))
        cases = [
            (case.when, _settings(case.run, (*here, "cases", number, "run"))) for number, case in enumerate(stage.cases)
        ]
        for combination in itertools.product(*choices):
            axes = dict(zip(stage.axes, (value for value, _ in combination), strict=True))
            if any(_matches(rule, axes) for rule in stage.skip):
                continue
            of_cases = (settings for when, settings in cases if _matches(when, axes))
            settings = _merged(*below, *(settings for _, settings in combination), *of_cases)
            given_at = {key: setting.keys for key, setting in settings.items()}
            try:
                yield self._cell(name, stage, axes, self._options(settings, axes), given_at)
            except ConfigError as error:
                new = [each for each in error.faults if each not in self._reported]
                self._reported.update(new)
                self.faults += [of_cell(each, self.source, stage=name, axes=axes, given_at=given_at) for each in new]

    def _options(self, settings: Mapping[str, _Setting], axes: Mapping[str, str]) -> Options:
        """The options of a cell's run, with every ${name} replaced; raises ConfigError for names that do not exist."""
        given = {key: setting.value for key, setting in settings.items()}
        known = {**axes, **self.variables}
        if faults := [each for key, value in given.items() for each in unknown_variables(key, value, known)]:
            raise ConfigError(faults)
        options: Options = filled(given, known)
        return options

    def _cell(
        self, stage_name: str, stage: Stage, axes: dict[str, str], options: Options, given_at: Mapping[str, KeyPath]
    ) -> Cell:
        options, needs = self._resolve_runs(options, axes)
        blocks = {key: options.pop(key) for key in list(options) if TASK_OPTION.fullmatch(key)}
        config = load_run_config(None, {**options, "output": "."})
        task_source = self._task_source(config.tasks, blocks)
        task_file = dump_yaml(task_source.value) if blocks else None
        fingerprint = _fingerprint(config, _used_blocks(config, task_source.value), needs, stage.evaluate)
        words = "_".join(_plain(value) for value in axes.values())
        name = f"{stage_name}/{words[:MAX_NAME]}-{fingerprint[:8]}"
        folder = Path(self.study.output) / "cells" / name
        updates: Options = {"output": str(folder / "run")}
        if task_file is not None:
            updates["tasks"] = str(folder / "tasks.yml")
        return Cell(
            name=name, stage=stage_name, axes={**axes, **stage.labels}, config=config.model_copy(update=updates),
            fingerprint=fingerprint, folder=folder, definitions=self._defined(task_source, task_file),
            task_file=task_file, needs=tuple(cell.name for cell in needs),
            evaluate=stage.evaluate, keep=stage.keep, given_at=given_at,
        )  # fmt: skip

    def _resolve_runs(self, options: Options, axes: Mapping[str, str]) -> tuple[Options, list[Cell]]:
        """`encoder: {run: {stage: …, axis: value}}` → the folder of that cell's run."""
        encoder = options.get("encoder")
        wanted = encoder.get("run") if isinstance(encoder, dict) else None
        if not isinstance(encoder, dict) or not isinstance(wanted, dict):
            return options, []
        cell = self._find(wanted, axes)
        return {**options, "encoder": {**encoder, "run": str(cell.run_folder)}}, [cell]

    def _find(self, wanted: Mapping[str, Any], axes: Mapping[str, str]) -> Cell:
        """The cell of an earlier stage with the wanted values; an axis that is not named has this cell's own value,
        unless the earlier stage has only one."""
        earlier, stage = self._earlier(wanted)
        values = {axis: value_names(stage.axes[axis]) for axis in stage.axes}
        chosen = {
            axis: name_of_value(wanted[axis]) if axis in wanted else known[0] if len(known) == 1 else axes.get(axis)
            for axis, known in values.items()
        }
        found = [cell for cell in earlier if all(cell.axes[axis] == value for axis, value in chosen.items())]
        if not found:
            raise ConfigError(_no_such_cell(str(wanted["stage"]), chosen, values))
        if stage.keep == "results":
            fix = f"Set keep: weights in stage '{wanted['stage']}'."
            raise ConfigError(fault("", "encoder.run", f"the weights of {found[0].name} are not kept", fix))
        return found[0]

    def _earlier(self, wanted: Mapping[str, Any]) -> tuple[list[Cell], Stage]:
        """The cells of an earlier stage, and the stage; ConfigError for an unknown one, or an axis it does not have."""
        name = str(wanted.get("stage"))
        if name not in self._by_stage:
            raise ConfigError(fault("", "encoder.run", unknown("stage", name, self._by_stage)))
        stage = self.study.stages[name]
        unknown_axes = [axis for axis in wanted if axis != "stage" and axis not in stage.axes]
        if unknown_axes:
            raise ConfigError(fault("", "encoder.run", unknown("axis", unknown_axes[0], stage.axes)))
        return self._by_stage[name], stage

    def _defined(self, source: YamlSource, text: str | None) -> dict[str, TaskDef]:
        """The tasks of a document of definitions; `text` is None unless options changed it. Errors in the file are
        collected once; raises ConfigError for those in options."""
        key = (source.path, text)
        if key not in self._definitions:
            blocks = task_defs_in(source)
            of_options = [each for each in blocks.faults if not each.place.name]
            self.faults += [each for each in blocks.faults if each.place.name]
            if of_options:
                raise ConfigError(of_options)
            self._definitions[key] = blocks.tasks
        return self._definitions[key]

    def _task_source(self, path: str, overrides: Options) -> YamlSource:
        """A file of task definitions, with options of its tasks replaced; their places are flags."""
        if path not in self._sources:
            self._sources[path] = read_yaml(definitions_file(path))
        source = self._sources[path]
        blocks, lines, flags = dict(source.value), source.lines, []
        for key, value in overrides.items():
            _, task, option = key.split(".")
            if task not in blocks:
                raise ConfigError(fault("", key, unknown("task", task, blocks)))
            blocks[task] = {**blocks[task], option: value}
            lines = {keys: line for keys, line in lines.items() if keys[:2] != (task, option)}
            flags.append((task, option))
        return replace(source, value=blocks, lines=lines, flags=flags) if overrides else source


def _no_such_cell(stage: str, chosen: Mapping[str, str | None], values: Mapping[str, Sequence[str]]) -> Fault:
    """The error for a cell to start from that is not there.

    Args:
        stage: name of the earlier stage.
        chosen: axis → the wanted value; None: it is not known which.
        values: axis → the values that the stage has.
    """
    for axis in (axis for axis, value in chosen.items() if value is None):
        found = f"stage '{stage}' has several values of '{axis}', and this cell has none"
        return fault("", "encoder.run", found, f"Give one: {axis}: {' or '.join(values[axis])}.")
    named = ", ".join(f"{axis} {value}" for axis, value in chosen.items())
    near = "".join(did_you_mean(str(value), values[axis]) for axis, value in chosen.items())
    return fault("", "encoder.run", f"stage '{stage}' has no cell {named}", near.strip())


def _used_blocks(config: RunConfig, blocks: Mapping[str, Any]) -> Options:
    """The task blocks that decide a run."""
    unknown_tasks = [task for task in config.train or () if task not in blocks]
    if unknown_tasks:
        raise ConfigError(fault("", "train", unknown("task", unknown_tasks[0], blocks), f"They are in {config.tasks}."))
    named = (*(config.train or blocks), *config.also_evaluate)
    return {task: block for task, block in blocks.items() if task in named or block.get("head_of") in named}


def _matches(rule: Mapping[str, Sequence[str]], axes: Mapping[str, str]) -> bool:
    return all(axes[axis] in words for axis, words in rule.items())


class _Setting(NamedTuple):
    """The value of an option, and the path of keys to it in the study's document."""

    value: Any
    keys: KeyPath


_Settings = dict[str, _Setting]


def _settings(options: Mapping[str, Any], keys: KeyPath) -> _Settings:
    return {key: _Setting(value, (*keys, key)) for key, value in options.items()}


def _choices(
    axis: str, values: Sequence[Any] | Mapping[str, Options | None], keys: KeyPath
) -> list[tuple[str, _Settings]]:
    """(value name, run options) of each value of an axis.

    Args:
        axis: name of the axis, which is an option of the run if its values are a list.
        values: as in the stage.
        keys: path of keys to them in the study's document.
    """
    if isinstance(values, Mapping):
        return [(name, _settings(options or {}, (*keys, name))) for name, options in values.items()]
    return [(name_of_value(value), {axis: _Setting(value, (*keys, number))}) for number, value in enumerate(values)]


def _merged(*layers: _Settings) -> _Settings:
    """The layers merged, later ones first; a repeated key moves to the end, and removes keys set below it before."""
    merged: _Settings = {}
    for layer in layers:
        for key, setting in layer.items():
            for old in [old for old in merged if old == key or old.startswith(f"{key}.")]:
                del merged[old]
            merged[key] = setting
    return merged


def _fingerprint(config: RunConfig, tasks: Options, needs: Sequence[Cell], evaluate: Sequence[str]) -> str:
    """Hash of all that decides a cell's results, without the cell's folder.

    Files are identified by their paths: the same rows or encoder under another path make another cell. Task definitions
    are identified by their content, and a cell that this one starts from by its own hash. None means off and is left
    out, so that an option added by a later version does not change the hash. Neither does an option that an earlier
    version stored though it was not used.
    """
    given = resolved(config, ("optimizer", "schedule")).model_dump(mode="json", exclude_none=True)
    run = {key: value for key, value in with_unused(given).items() if key not in FREE_TO_CHANGE}
    run["tasks"] = tasks
    if isinstance(config.encoder, EncoderSource) and needs:
        run["encoder"]["run"] = needs[0].fingerprint
    text = sorted_json([run, list(evaluate)])
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: str) -> str:
    """A value's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", value).strip("-") or "x"
