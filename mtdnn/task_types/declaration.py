"""What a type of tasks declares: its keys, metrics, losses and heads; and the errors of a task's block against that."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from mtdnn.config.options import Named, NoOptions, Options, named_faults, option_faults, options_of
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import ConfigError, Fault, unknown
from mtdnn.metrics.base import METRICS, metric_of
from mtdnn.networks.head_options import HEAD_OPTIONS, READS_PAIRS
from mtdnn.registry import Registry
from mtdnn.rows.example import UNLABELLED

if TYPE_CHECKING:
    from mtdnn.networks import heads, losses
else:
    heads = deferred("mtdnn.networks.heads")
    losses = deferred("mtdnn.networks.losses")


class Part(ABC):
    """Base of the three parts of a task type.

    Attributes:
        task: the task's definition.
        heads: names of the heads that can be used with this type; the first is the default.
    """

    task: TaskDef
    heads: ClassVar[tuple[str, ...]] = ("pooled",)

    @classmethod
    def head_named(cls, task: TaskDef) -> Named:
        """The head named in the block, or else the default head of this type."""
        return task.head if "head" in task.model_fields_set else Named(name=cls.heads[0])


class Declaration(Part):
    """What a type declares, and the errors of a task's block against that. Needs no PyTorch for what mtdnn has itself.

    Class attributes:
        Options: keys specific to this type, a pydantic model.
        num_inputs: allowed numbers of text columns.
        default_metrics, default_loss: used if the task names none.
        losses, metrics: names of the losses and metrics that can be used with this type.
    """

    Options: ClassVar[type[Options]] = NoOptions
    num_inputs: ClassVar[tuple[int, ...]] = (1, 2)
    default_metrics: ClassVar[tuple[str, ...]]
    default_loss: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        """Every error that this type finds in the block, with its place; empty if the block is valid."""
        found = cls.key_faults(task)
        return found + cls._pair_faults(task) + ([] if found else cls.row_faults(task))

    @classmethod
    def key_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in single keys, whatever the values of the other keys."""
        found = []
        if len(task.inputs) not in cls.num_inputs:
            allowed = " or ".join(map(str, cls.num_inputs))
            found.append(task.fault("inputs", f"{len(task.inputs)} text columns", f"{cls.__name__} needs {allowed}."))
        known_metrics = [name for name in cls.metrics if name in METRICS]
        for metric in task.metrics:
            if "." in metric:
                found += _import_faults(task, "metrics", metric, metric_of)
            elif metric not in known_metrics:
                found.append(task.fault("metrics", unknown("metric", metric, known_metrics)))
        if task.loss is not None and task.loss.name not in cls.losses and "." not in task.loss.name:
            found.append(task.fault("loss", unknown("loss", task.loss.name, cls.losses)))
        elif task.loss is not None:
            found += _named_faults(task, losses.LOSSES, task.loss, "loss")
        return found + cls._head_faults(task) + cls._option_faults(task)

    @classmethod
    def _head_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in the head: its name is not one of this type's, or its options are unknown or invalid."""
        named = cls.head_named(task)
        if named.name not in cls.heads and "." not in named.name:
            return [task.fault("head", unknown("head", named.name, cls.heads))]
        if named.name in HEAD_OPTIONS:
            return _key_faults(task, HEAD_OPTIONS[named.name], named.options, prefix="head.")
        # A head of the user's own: importing it loads PyTorch anyway.
        return _named_faults(task, heads.HEADS, named, "head")

    @classmethod
    def _pair_faults(cls, task: TaskDef) -> list[Fault]:
        """An error for a head that needs pairs of texts, if rows have one text."""
        name = cls.head_named(task).name
        if len(task.inputs) != 1 or cls._head_faults(task):
            return []
        if not (name in READS_PAIRS if name in HEAD_OPTIONS else heads.HEADS.get(name).min_texts > 1):
            return []
        found = f"'{name}' needs pairs of texts, and the rows have 1 text ({task.inputs[0]})"
        return [task.fault("head", found, f"Name a second column in `inputs`, or use head: {cls.heads[0]}.")]

    @classmethod
    def row_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in how rows are read, of a block whose keys are valid."""
        return []

    @classmethod
    def _option_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in the keys specific to this type: unknown keys and invalid values."""
        common = [name for name in TaskDef.model_fields if name not in ("name", "options")]
        found = _key_faults(task, cls.Options, task.options, known=common)
        of_losses = {
            option: name
            for name in cls.losses
            for option in options_of(losses.LOSSES, losses.LOSSES.get(name)).model_fields
            if option in task.options and option not in cls.Options.model_fields
        }
        fixes = {
            f"{task.name}.{option}": f"Write loss: {{name: {name}, {option}: {task.options[option]}}}."
            for option, name in of_losses.items()
        }
        return [replace(each, fix=fixes.get(each.key, each.fix)) for each in found]


def label_faults(task: TaskDef) -> list[Fault]:
    """Errors for labels that no row can have: empty, a mark for a missing label, or with spaces around them."""
    found = []
    for label in task.labels:
        plain = label.strip()
        if plain in UNLABELLED:
            found.append(f"{label!r} marks a missing label in a row")
        elif plain != label:
            found.append(f"{label!r} occurs in no row, as spaces around a label are removed")
    return [task.fault("labels", each, "Rename it, here and in the rows.") for each in found]


def _import_faults(task: TaskDef, key: str, word: str, look_up: Callable[..., object]) -> list[Fault]:
    """The errors of looking up a name, mostly a dotted path, given under a key of the block."""
    try:
        look_up(word, where=task.where(key), key=f"{task.name}.{key}")
    except ConfigError as error:
        return list(error.faults)
    return []


def _named_faults(task: TaskDef, registry: Registry[Any], given: Named, key: str) -> list[Fault]:
    """The errors in a plug-in and its options, given under a key of the block."""
    return [task.fault(each.key, each.found, each.fix) for each in named_faults(registry, given, key)]


def _key_faults(
    task: TaskDef, model: type[BaseModel], options: Mapping[str, Any], *, prefix: str = "", known: Sequence[str] = ()
) -> list[Fault]:
    """An error for each unknown key and each invalid value of a model.

    Args:
        task: the task's definition.
        model: the pydantic model.
        options: key → value, as in the block.
        prefix: prefix of the keys in messages, such as "head.".
        known: further known names, listed before the model's fields.
    """
    found = option_faults(model, options, known, within="tasks")
    return [task.fault(prefix + each.key, each.found, each.fix) for each in found]
