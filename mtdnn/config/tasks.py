"""task_defs/*.yml, or a mapping, → TaskDefs; what several blocks say of each other is checked here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtdnn.config import legacy
from mtdnn.config.arguments import keywords_checked
from mtdnn.config.refusals import validated
from mtdnn.config.shipped import definitions_file
from mtdnn.config.task import TaskDef
from mtdnn.config.yaml_source import YamlSource, parse_value, read_yaml
from mtdnn.errors import ConfigError, Fault, fault, unknown

logger = logging.getLogger(__name__)


Definitions = str | Path | Mapping[str, Any]
"""A YAML file of task definitions, or a mapping task name → TaskDef or block (keys and values as in YAML)."""


@keywords_checked()
def load_task_defs(definitions: Definitions) -> dict[str, TaskDef]:
    """Task definitions; each block is checked on its own.

    Args:
        definitions: a YAML file, in our schema or the original toolkit's; the name of one that comes with the package,
            such as `glue`; or a mapping from task names to such blocks or to `TaskDef`.
    Returns:
        Task name → TaskDef, in the order of the file.
    Raises:
        ConfigError: reports every error of every block, with file:line.

    Example:
        >>> import mtdnn
        >>> list(mtdnn.load_task_defs("tasks.yml"))
        ['rte', 'mrpc']
        >>> tasks = mtdnn.load_task_defs({"stars": {"task_type": "regression", "inputs": ["review"]}})
        >>> tasks["stars"].inputs
        ('review',)
    """
    blocks = read_task_defs(definitions)
    if blocks.faults:
        raise ConfigError(blocks.faults)
    return blocks.tasks


@dataclass(frozen=True)
class PartialBlock:
    """The valid keys of a malformed block.

    Attributes:
        task: made of the valid keys, with defaults in place of the refused ones.
        refused: keys with invalid values.
    """

    task: TaskDef
    refused: frozenset[str]


@dataclass
class Blocks:
    """The blocks of task definitions, well formed and malformed.

    Attributes:
        tasks: name → definition, of the well-formed blocks.
        others: names of the malformed blocks.
        parts: the valid keys of malformed blocks with a task type, so that the type can check them as well.
        faults: every error found in the form of the blocks.
    """

    tasks: dict[str, TaskDef] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    parts: list[PartialBlock] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def read_task_defs(definitions: Definitions) -> Blocks:
    """The well-formed blocks, and every error of the others.

    Raises:
        ConfigError: the file as a whole cannot be read.
    """
    if isinstance(definitions, Mapping):
        source = YamlSource("tasks", dict(definitions))
        blocks = task_defs_in(source, in_memory=True)
    else:
        source = read_yaml(definitions_file(definitions))
        blocks = task_defs_in(source)
    if not source.value:
        fix = "Give a name and a block of keys for each, such as `stars: {task_type: regression}`."
        blocks.faults.append(fault(source.path, "", "defines no task", fix))
    return blocks


def task_defs_in(source: YamlSource, *, in_memory: bool = False) -> Blocks:
    """The well-formed blocks of a document, and every error of the others.

    Args:
        source: the document.
        in_memory: the document is not a file; the place of a block is then its name.
    Raises:
        ConfigError: it is in the original toolkit's schema and cannot be translated.
    """
    value = source.value
    if legacy.is_legacy(value):
        try:
            value, remarks = legacy.translate(value)
        except ConfigError as error:
            raise ConfigError([source.placed(each) for each in error.faults]) from error
        for remark in remarks:
            logger.info("%s: %s", source.path, remark)
    blocks, file = Blocks(), None if in_memory else source
    for name, block in value.items():
        if isinstance(name, bool) or name is None:
            word = _written(source, name)
            found = (
                f"YAML reads {word} without quotes as {'nothing' if name is None else str(name).lower()}, not a name"
            )
            blocks.faults.append(fault(source.where((word,)), "", found, "Put it in quotes."))
            continue
        try:
            blocks.tasks[str(name)] = _task_def_of(str(name), block, file)
        except ConfigError as error:
            blocks.others.append(str(name))
            blocks.faults += error.faults
            blocks.parts += _partial_block(str(name), block, file, error)
    known = [str(name) for name in value]
    blocks.faults += [line for task in blocks.tasks.values() for line in _head_of_faults(task, blocks.tasks, known)]
    blocks.faults += _sharing_faults(blocks.tasks)
    return blocks


def _written(source: YamlSource, name: bool | None) -> str:
    """A key at the top of a document as it is written there, such as `no`, of which YAML makes no word."""
    keys = (str(keys[0]) for keys in source.lines if len(keys) == 1)
    return next((key for key in keys if parse_value(key, where="") is name), str(name))


def row_units(tasks: Mapping[str, TaskDef]) -> dict[str, list[str]]:
    """Unit → names of its tasks: one task with its own rows, or all that share the same rows. In the tasks' order."""
    units: dict[str, list[str]] = {}
    for name, task in tasks.items():
        units.setdefault(task.unit, []).append(name)
    return units


def _sharing_faults(tasks: Mapping[str, TaskDef]) -> list[Fault]:
    """Why tasks cannot share rows, as `rows` demands."""
    faults = []
    for unit, names in row_units(tasks).items():
        sharing = [tasks[name] for name in names if tasks[name].rows is not None]
        for task in sharing:
            faults += _unit_faults(task, next((each for each in sharing if each.head_of is None), task))
            if unit in tasks and tasks[unit].rows is None:
                fix = "Give the rows, or that task, another name."
                faults.append(task.fault("rows", f"'{unit}' is also the name of a task with its own rows", fix))
    return faults


def _unit_faults(task: TaskDef, first: TaskDef) -> list[Fault]:
    """Why a task cannot share the rows of another one."""
    faults = []
    if task.source is not None:
        faults.append(task.fault("rows", "given together with `source`", "Keep one of them."))
    if task.columns:
        faults.append(task.fault("columns", "given together with `rows`", "Give them under `rows.columns`."))
    if task.cuts:
        fix = "Cut the file into splits with mtdnn subset, or give the task its own rows."
        faults.append(task.fault("splits", "parts of a file, of rows that several tasks share", fix))
    known = ("id", "label", "weight", *task.inputs)
    for column in (name for name in (task.rows.columns if task.rows is not None else ()) if name not in known):
        faults.append(task.fault("rows.columns", unknown("column", column, known)))
    own, other = ([each.their_column(name) for name in ("id", *each.inputs)] for each in (task, first))
    pairs: list[tuple[str, object, object]] = [
        ("inputs", own, other),
        ("max_length", task.max_length, first.max_length),
    ]
    if task.head_of is None:  # else it is never trained, but it is evaluated on the same tokens
        pairs += [(key, getattr(task, key), getattr(first, key)) for key in ("max_rows", "batch_size")]
        pairs.append(("splits", task.splits.get("train"), first.splits.get("train")))
    for key, mine, its in pairs:
        if mine != its:
            found = f"{_plain(mine)}, but '{first.name}', which shares its rows, has {_plain(its)}"
            faults.append(task.fault(key, found, "Give both tasks the same."))
    return faults


def _plain(value: object) -> str:
    """A value for a message."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(str, value))}]"
    return "the default" if value is None else str(value)


def _head_of_faults(task: TaskDef, tasks: Mapping[str, TaskDef], known: Sequence[str]) -> list[Fault]:
    """Why this task cannot use the head of another task, as `head_of` demands."""
    if task.head_of is None:
        return []
    others = [name for name in known if name != task.name]
    if task.head_of not in others:
        return [fault(task.where("head_of"), f"{task.name}.head_of", unknown("task", task.head_of, others))]
    other = tasks.get(task.head_of)
    if other is None:  # its errors are reported already
        return []
    if other.head_of is not None:
        return [task.fault("head_of", f"'{other.name}' has no head of its own", f"Name '{other.head_of}'.")]
    for key in ("task_type", "labels"):
        own, its = getattr(task, key), getattr(other, key)
        if own != its:
            found = f"{_in_words(own)}, but it uses the head of '{other.name}', which has {_in_words(its)}"
            return [task.fault(key, found, "Give both tasks the same.")]
    return []


def _in_words(value: str | Sequence[str]) -> str:
    return f"'{value}'" if isinstance(value, str) else f"[{', '.join(value)}]"


def _task_def_of(name: str, block: object, source: YamlSource | None) -> TaskDef:
    """The TaskDef of a block; a TaskDef must have the name it is given under. Raises as `task_def_from`."""
    if not isinstance(block, TaskDef):
        return task_def_from(name, block, source)
    if block.name != name:
        found = f"the task under this name has the name '{block.name}'"
        raise ConfigError(fault(name, f"{name}.name", found, "Give both the same."))
    return block


def chosen_tasks(tasks: Mapping[str, TaskDef], names: Sequence[str] | None, *, key: str) -> dict[str, TaskDef]:
    """The named tasks, or all.

    Args:
        tasks: name → definition.
        names: names of the tasks; None: all tasks.
        key: the argument that gave the names, for the message.
    Raises:
        ConfigError: a name is unknown, or the list of names is empty.
    """
    if names is None:
        return dict(tasks)
    faults = [fault("", key, unknown("task", name, tasks)) for name in names if name not in tasks]
    if faults or not names:
        raise ConfigError(faults or fault("", key, "names no task", f"Known: {', '.join(tasks)}."))
    return {name: tasks[name] for name in names}


def task_def_from(name: str, block: object, source: YamlSource | None = None) -> TaskDef:
    """The TaskDef of one block; keys not common to all tasks become `options`, which the task type checks.

    Args:
        name: name of the task.
        block: keys and values of the task.
        source: the document that contains the block; None: made in Python.
    Raises:
        ConfigError: reports every error of the block.
    """
    source = source or YamlSource(path=name, value={})
    if not isinstance(block, Mapping):
        found = f"{block!r} is not a mapping of keys to values"
        raise ConfigError(fault(source.where((name,)), name, found, "See docs/task_definitions.md for the keys."))
    task = validated(TaskDef, _values_of(name, block), source, (name,))
    task._yaml = source if source.lines else None
    return task


def _values_of(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a block by field of TaskDef."""
    common = {
        key: value for key, value in block.items() if key in TaskDef.model_fields and key not in ("name", "options")
    }
    options = {str(key): value for key, value in block.items() if key not in common}
    return {"name": name, **common, "options": options}


def _partial_block(name: str, block: object, source: YamlSource | None, error: ConfigError) -> list[PartialBlock]:
    """The valid part of a malformed block; empty if it is not a mapping or has no valid task type.

    Args:
        name: name of the task.
        block: the malformed block.
        source: the document that contains it; None: made in Python.
        error: raised by `task_def_from`.
    """
    cause = error.__cause__
    if not isinstance(block, Mapping) or not isinstance(cause, ValidationError):
        return []
    refused = frozenset(str(detail["loc"][0]) for detail in cause.errors())
    if "task_type" in refused:
        return []
    rest = {key: value for key, value in block.items() if key not in refused}
    task = TaskDef.model_validate(_values_of("task", rest)).model_copy(
        update={"name": name}
    )  # the name may be invalid as well
    task._yaml = source if source is not None and source.lines else None
    return [PartialBlock(task, refused)]
