"""task_defs/*.yml → frozen TaskDef, with the file:line of each key.

Only the shape of a block is checked here. Names of plug-ins (task type, metrics, loss, regularizer) are checked against
their registries where tasks are assembled.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, field_validator

from mtdnn.config import legacy
from mtdnn.config.options import Frozen, Named, NamedOrWord, PathText, args_from_fields
from mtdnn.config.shipped import definitions_file
from mtdnn.config.splits import ROLES, Cut, SplitNames, with_cuts
from mtdnn.config.words import Words, WordToWord
from mtdnn.config.yaml_source import KeyPath, YamlSource, read_yaml, validated
from mtdnn.errors import ConfigError, Fault, Place, fault, home_expanded, keywords_checked, unknown

logger = logging.getLogger(__name__)


def _checked_name(name: str, what: str) -> str:
    """The name; raises ValueError if it cannot name a folder on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"{what} may have only letters, digits, '_' and '-'")
    return name


class Source(Frozen):
    """A Hugging Face data set from which the rows are read, in place of files."""

    path: PathText = Field(description="Data set name on the hub, or a local folder.")
    name: str | None = Field(None, description="Configuration of the data set.")
    columns: dict[str, str] = Field({}, description="Our name → theirs, for columns named differently there.")
    splits: dict[str, str] = Field({}, description="Our name → theirs, for splits named differently there.")


class SharedRows(Frozen):
    """Rows that several tasks read, each its own columns of them."""

    file: str = Field(description="Name of the rows, in place of the task's: `<data>/<file>/<split>.jsonl`.")
    columns: dict[str, str] = Field({}, description="Our name → theirs: `label`, `id`, and names of `inputs`.")

    @field_validator("file")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return _checked_name(name, "the name of shared rows")


class InitHead(Frozen):
    """A trained head from which a new one is initialised."""

    from_: str = Field(alias="from", description="Task of the run named by `encoder: {run: …}`.")
    labels: WordToWord = Field(
        {}, description="Our label → theirs, for output rows to initialise. Empty: the dense layer only."
    )


def _at_home(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Paths with `~` as the home directory."""
    return tuple(map(home_expanded, paths))


class Distill(Frozen):
    """Distillation: soft labels for a task, predicted by trained models, its teachers."""

    from_: Annotated[Words, AfterValidator(_at_home)] = Field(
        alias="from", min_length=1, description="Teachers' predictions for the train rows: files, averaged."
    )
    temperature: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Temperature of both softmaxes; 1 changes nothing."
    )
    weight: float = Field(
        0.5, ge=0, le=1, description="Weight of the soft loss; 1 − weight for the labels' loss. 0: off."
    )


@args_from_fields
class TaskDef(Frozen):
    """One task: what its rows contain, how it is learnt and how it is evaluated.

    Raises:
        ConfigError: an unknown keyword, or an invalid value.

    Example:
        >>> import mtdnn
        >>> task = mtdnn.TaskDef(name="rte", task_type="classification", labels=["entailment", "not_entailment"])
        >>> task.labels, task.dropout
        (('entailment', 'not_entailment'), 0.1)
    """

    name: str = Field(description="Letters, digits, '_' and '-'; also the folder of its rows.")
    task_type: str = Field(description="Name of a task type: classification, regression, ranking, multiple_choice, …")
    inputs: Words = Field(("text",), description="Names of the text columns, in order.")
    labels: Words = Field((), description="Label names; their order is the order of the logits.")
    metrics: Words = Field((), description="Reported metrics, the main one first. Default: by task type.")
    splits: dict[str, SplitNames] = Field(
        {"train": SplitNames(("train",)), "dev": SplitNames(("dev",))},
        description="Role (train, dev, test) → names of the splits, or a part of one file.",
    )
    columns: dict[str, str] = Field(
        {}, description="Our name → the file's, for columns named differently in .csv, .jsonl and .parquet."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the output layer; 0 turns it off.")
    loss: NamedOrWord | None = Field(None, description="With its options. Default: by task type.")
    weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Factor of this task's loss.")
    batch_size: int | None = Field(None, ge=1, description="Rows in a batch. Default: the run's.")
    max_length: int = Field(256, ge=3, description="Tokens of a row, special ones included; longer rows are cut.")
    max_rows: int | None = Field(None, ge=1, description="Use only this many train rows (seeded choice). Default: all.")
    regularizer: NamedOrWord | None = Field(None, description="Replaces the run's for this task; `none` turns it off.")
    distill: Distill | None = Field(None, description="Soft labels to learn from as well. Default: none.")
    head: NamedOrWord = Field(Named(name="pooled"), description="Output layer on top of the encoder, with its options.")
    head_of: str | None = Field(None, description="Task whose head this one uses; this task is then only evaluated.")
    init_head: InitHead | None = Field(None, description="A trained head to start from. Default: a new one.")
    rows: SharedRows | None = Field(None, description="Rows shared with other tasks. Default: the task's own.")
    source: Source | None = Field(None, description="Hugging Face data set. Default: files under --data.")
    options: dict[str, Any] = Field({}, description="Keys specific to this task type; in YAML next to the others.")

    _yaml: YamlSource | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return _checked_name(name, "a task's name")

    @field_validator("labels", "inputs", "metrics")
    @classmethod
    def _no_duplicates(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({word for word in words if words.count(word) > 1})
        if repeated:
            raise ValueError(f"'{repeated[0]}' is given twice")
        return words

    @field_validator("splits")
    @classmethod
    def _known_roles(cls, splits: dict[str, SplitNames]) -> dict[str, SplitNames]:
        for role, names in splits.items():
            if role not in ROLES:
                raise ValueError(f"unknown role '{role}'; known: {', '.join(ROLES)}")
            files = () if names.given is None else (names.given.file or names.given.rest or "",)
            for name in (*names, *files):
                if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
                    raise ValueError(f"{name!r} cannot name a split, as it names a folder; give a name without '/'")
        return with_cuts(splits)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits of all roles, each once."""
        return tuple(dict.fromkeys(name for names in self.splits.values() for name in names))

    @property
    def cuts(self) -> dict[str, Cut]:
        """Split → the rows of a file that it has, for splits that are cut from one."""
        return {name: cut for names in self.splits.values() for name, cut in names.cuts.items()}

    @property
    def trainable(self) -> bool:
        """Whether a run may train on it: it has a train split and its own head."""
        return bool(self.splits.get("train")) and self.head_of is None

    @property
    def unit(self) -> str:
        """What is mixed: the rows it shares with other tasks, or the task itself."""
        return self.name if self.rows is None else self.rows.file

    def their_column(self, column: str) -> str:
        """The name that a column has in the rows."""
        return column if self.rows is None else self.rows.columns.get(column, column)

    @property
    def regularizer_off(self) -> bool:
        """Whether the block has `regularizer: none`."""
        return self.regularizer is not None and self.regularizer.name == "none"

    def where(self, key: str = "") -> Place:
        """File and line of a key of this block (dots for nested keys), or the task's name if it was made in Python."""
        if self._yaml is None:
            return Place(self.name)
        keys: KeyPath = (self.name, *key.split(".")) if key else (self.name,)
        return self._yaml.where(keys)

    @property
    def definitions(self) -> str | None:
        """The file of this block; None if it was made in Python."""
        return None if self._yaml is None else self._yaml.path

    def fault(self, key: str, found: str, fix: str = "") -> Fault:
        """The record of an error in one key of this block, with its place.

        Args:
            key: the key; empty for the block as a whole.
            found: what was found and what is expected.
            fix: what to do; may be empty.
        """
        return fault(self.where(key), f"{self.name}.{key}" if key else self.name, found, fix)


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
        return task_defs_in(YamlSource("tasks", dict(definitions)), in_memory=True)
    return task_defs_in(read_yaml(definitions_file(definitions)))


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
            faults += _unit_faults(task, sharing[0])
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
    pairs: list[tuple[str, object, object]] = [("inputs", own, other)]
    for key in ("max_length", "max_rows", "batch_size"):
        pairs.append((key, getattr(task, key), getattr(first, key)))
    pairs.append(("splits", task.splits.get("train"), first.splits.get("train")))
    for key, mine, its in pairs:
        if mine != its and task.head_of is None:
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
