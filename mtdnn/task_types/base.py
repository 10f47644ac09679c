"""What a task type is: everything in which one type of task differs from another.

Dimensions: B rows, N sequences (B, or more where a row holds several), T tokens, H hidden, C outputs of the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.errors import fault, unknown
from mtdnn.heads import HEADS
from mtdnn.losses import LOSSES
from mtdnn.metrics import METRICS
from mtdnn.registry import Registry
from mtdnn.task_def import TaskDef

TASK_TYPES: Registry[type[TaskType]] = Registry("task type")

UNLABELLED = ("", "-")


class RowError(Exception):
    """One value of one row that cannot be used; the reader adds file and line."""

    def __init__(self, key: str, found: str, fix: str = "") -> None:
        self.key, self.found, self.fix = key, found, fix
        super().__init__(fault("", key, found, fix))


@dataclass(frozen=True)
class Example:
    """One row, understood.

    Attributes:
        id: as in the file.
        texts: the texts, in the order of the task's inputs.
        label: by task type; None when the row has none.
    """

    id: str
    texts: tuple[str, ...]
    label: Any


class NoOptions(BaseModel):
    """Options of a task type that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


TokenizeBatch = Callable[[Sequence[tuple[str, ...]]], Mapping[str, list[Any]]]


class TaskType(ABC):
    """One task seen through its type: rows → labels → loss → predictions.

    The trainer, the collator, evaluation and regularizers call these methods and never ask which type it is.

    Class attributes:
        Options: keys of this type alone, checked by pydantic.
        num_inputs: allowed numbers of text columns.
        default_metrics, default_loss: where the task names none.
        losses, heads, metrics: the registered names that make sense for this type.
        label_dtype: of the `label` column in a prepared store.
        sample_block, sample_rows: a task and three rows for the contract tests; rows as in a TSV file.
    """

    Options: ClassVar[type[BaseModel]] = NoOptions
    num_inputs: ClassVar[tuple[int, ...]] = (1, 2)
    default_metrics: ClassVar[tuple[str, ...]]
    default_loss: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    heads: ClassVar[tuple[str, ...]] = ("pooled",)
    label_dtype: ClassVar[str]
    sample_block: ClassVar[Mapping[str, Any]]
    sample_rows: ClassVar[tuple[str, str, str]]

    def __init__(self, task: TaskDef) -> None:
        """Take a task that `faults` finds nothing wrong with."""
        self.task = task
        self.options = self.Options.model_validate(task.options)
        self.metric_names = task.metrics or self.default_metrics
        self.loss_function = LOSSES.get(task.loss or self.default_loss)

    @classmethod
    def faults(cls, task: TaskDef) -> list[str]:
        """Everything in the block that this type cannot use, as `file:line: key: …` lines; empty when all is well."""
        found = []
        if len(task.inputs) not in cls.num_inputs:
            allowed = " or ".join(map(str, cls.num_inputs))
            found.append(task.fault("inputs", f"{len(task.inputs)} text columns", f"{cls.__name__} takes {allowed}."))
        known_metrics = [name for name in cls.metrics if name in METRICS]
        for metric in task.metrics:
            if metric not in known_metrics and "." not in metric:
                found.append(task.fault("metrics", unknown("metric", metric, known_metrics)))
        if task.loss is not None and task.loss not in cls.losses and "." not in task.loss:
            found.append(task.fault("loss", unknown("loss", task.loss, cls.losses)))
        if task.head.name not in cls.heads and "." not in task.head.name:
            found.append(task.fault("head", unknown("head", task.head.name, cls.heads)))
        return found + cls._option_faults(task)

    @classmethod
    def _option_faults(cls, task: TaskDef) -> list[str]:
        """Keys of the block that belong to no task, and values pydantic refuses."""
        known = [*(name for name in TaskDef.model_fields if name not in ("name", "options")), *cls.Options.model_fields]
        strange = [key for key in task.options if key not in cls.Options.model_fields]
        faults = [task.fault(key, unknown("key", key, known)) for key in strange]
        if not strange:
            faults += [task.fault(key, found) for key, found in option_faults(cls.Options, task.options)]
        return faults

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a row in a file without header, in order."""
        return ("id", "label", *self.task.inputs)

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """C, the size of the head's output."""

    @abstractmethod
    def parse_label(self, text: str) -> Any:
        """The label in a row's `label` column, which is not empty.

        Raises:
            RowError: it is none.
        """

    def read(self, values: Mapping[str, Any]) -> Example:
        """A row's named values, understood.

        Raises:
            RowError: an empty text, or a label that is none.
        """
        texts = tuple(str(values[name]) for name in self.task.inputs)
        for name, text in zip(self.task.inputs, texts, strict=True):
            if not text.strip():
                raise RowError(name, "empty text", "Give the text, or remove the row.")
        label = str(values.get("label", "")).strip()
        return Example(str(values["id"]), texts, None if label in UNLABELLED else self.parse_label(label))

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, list[Any]]:
        """Columns of the prepared store for some rows: id, input_ids, token_type_ids (where made), label.

        Args:
            tokenize: texts of many rows → the tokenizer's columns, truncated to the task's max_length.
        """
        columns = dict(tokenize([example.texts for example in examples]))
        columns["id"] = [example.id for example in examples]
        columns["label"] = [self.stored_label(example.label) for example in examples]
        return columns

    @abstractmethod
    def stored_label(self, label: Any) -> Any:
        """The label as it lies in the store; the type's mark of "none" for None."""

    @abstractmethod
    def label_name(self, stored: Any) -> Any:
        """A stored label as it reads in predictions and histograms: a name or a number; None for "none"."""

    @abstractmethod
    def collate_labels(self, records: Mapping[str, np.ndarray]) -> Tensor:
        """Labels of a batch, from the columns of its rows."""

    def build_head(self, hidden_size: int, *, activation: str) -> nn.Module:
        """A new head for this task.

        Args:
            hidden_size: H of the encoder.
            activation: the one the encoder's family uses in its own classification head.
        """
        head = HEADS.get(self.task.head.name, where=self.task.where("head"), key=f"{self.task.name}.head")
        options = {"activation": activation, **self.task.head.options}
        return head(hidden_size, self.num_outputs, dropout=self.task.dropout, **options)

    def logits(self, head: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        """The head's output for hidden states [N, T, H]; [B, C] by default."""
        output: Tensor = head(hidden, batch)
        return output

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The task's own loss, a scalar: the mean over what is labelled, 0 when nothing is."""

    @abstractmethod
    def label_count(self, batch: Batch) -> int:
        """Over how many things `loss` takes its mean; parts of a split batch are weighted by it."""

    @abstractmethod
    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """ℓ_s of SMART, per row: [B], ≥ 0, differentiable in both.

        Args:
            symmetric: KL(p‖q) + KL(q‖p); False gives KL(q‖p) alone, q being the reference. No matter for regression.
        """

    @abstractmethod
    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """One record per row: `id`, `prediction`, `label` (None when there is none), `scores`; plain JSON values."""


def option_faults(model: type[BaseModel], options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong) for each option pydantic refuses."""
    from pydantic import ValidationError

    try:
        model.model_validate(options)
    except ValidationError as error:
        return [(".".join(map(str, each["loc"])), f"{each['input']!r}: {each['msg']}") for each in error.errors()]
    return []
