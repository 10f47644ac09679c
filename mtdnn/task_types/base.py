"""What a task type is: everything in which one type of task differs from another.

Dimensions: B rows, N sequences (B, or more where a row holds several), T tokens, H hidden, C outputs of the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel

from mtdnn.batch import Batch
from mtdnn.config.options import Named, NoOptions, Options, named_faults, option_faults, options_of
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import ConfigError, Fault, unknown
from mtdnn.metrics.base import METRICS, Record, metric_of
from mtdnn.networks.head_options import HEAD_OPTIONS, READS_PAIRS
from mtdnn.registry import Registry
from mtdnn.rows.example import MISSING_LABEL_MARKS, UNLABELLED, Example, RowError
from mtdnn.tokens.ragged import Column, Records

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from mtdnn.networks import heads, losses
else:
    heads = deferred("mtdnn.networks.heads")
    losses = deferred("mtdnn.networks.losses")

TASK_TYPES: Registry[type[TaskType]] = Registry(
    "task type",
    base=lambda: TaskType,
    own=("default_metrics", "default_loss", "losses", "metrics", "label_dtype"),
)


def label_faults(task: TaskDef) -> list[Fault]:
    """Labels that no row can have: empty, or the mark of "no label", or not as a cell comes out when it is stripped."""
    found = []
    for label in task.labels:
        plain = label.strip()
        if plain in UNLABELLED:
            found.append(f"{label!r} in a row means that it has no label")
        elif plain != label:
            found.append(f"{label!r} comes in no row, as spaces around a label are not read")
    return [task.fault("labels", each, "Name it otherwise, here and in the rows.") for each in found]


LogitsOf = Literal["classes", "number", "candidates", "parts"]

TokenizeBatch = Callable[[Sequence[tuple[str, ...]]], dict[str, Column]]
"""Texts of N sequences → input_ids (Ragged int32), token_type_ids (Ragged int8, where the tokenizer makes them),
segments (the same, 0 and 1 for the texts of a pair, where token_type_ids do not tell) and truncated ([N] bool: cut to
the task's max_length)."""


class Part(ABC):
    """What the three parts of a task type share.

    Attributes:
        task: its definition.
        heads: the registered names that make sense for this type; the first is the default.
    """

    task: TaskDef
    heads: ClassVar[tuple[str, ...]] = ("pooled",)

    @classmethod
    def settled_head(cls, task: TaskDef) -> Named:
        """The head the block names, or else the first of this type's."""
        return task.head if "head" in task.model_fields_set else Named(name=cls.heads[0])


class Format(Part):
    """Rows of a task → the columns of its prepared store. Needs no PyTorch: `check` and `prepro` use this part alone.

    Class attributes:
        Options: keys of this type alone, checked by pydantic.
        num_inputs: allowed numbers of text columns.
        default_metrics, default_loss: where the task names none.
        losses, metrics: the registered names that make sense for this type.
        label_dtype: of the numbers in the `label` column of a prepared store.
        soft_labels: whether it has `soft_label`, `soft_record` and `soft_loss`, and so can learn from a teacher.
        missing_label_marks: what a label may be in a row that has none, in addition to an empty one and `-`.
        repeats_last: the last column of a row may come any number of times; its value is then a list.
        store_format: raised, to more than 2, when `encode` makes something else of a row: older stores are remade.
        sample_block, sample_rows: a task and three rows for the contract tests; rows as in a TSV file.
    """

    Options: ClassVar[type[Options]] = NoOptions
    num_inputs: ClassVar[tuple[int, ...]] = (1, 2)
    default_metrics: ClassVar[tuple[str, ...]]
    default_loss: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    label_dtype: ClassVar[str]
    soft_labels: ClassVar[bool] = False
    missing_label_marks: ClassVar[tuple[str, ...]] = MISSING_LABEL_MARKS
    repeats_last: ClassVar[bool] = False
    store_format: ClassVar[int] = 1
    sample_block: ClassVar[Mapping[str, Any]]
    sample_rows: ClassVar[tuple[str, str, str]]

    def __init__(self, task: TaskDef) -> None:
        """Take a task that `faults` finds nothing wrong with."""
        self.task = task
        self.options = self.Options.model_validate(task.options)
        self.metric_names = task.metrics or self.default_metrics
        self.tokenizer: PreTrainedTokenizerBase | None = None

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the run's tokenizer, before `encode` and `complete`; most types never look at it."""
        self.tokenizer = tokenizer

    def bound_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of `bind`, for types that need one.

        Raises:
            ValueError: there was no `bind` before.
        """
        if self.tokenizer is None:
            raise ValueError(f"task '{self.task.name}' has no tokenizer yet; call bind first")
        return self.tokenizer

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        """Everything in the block that this type cannot use, as `file:line: key: …` lines; empty when all is well."""
        return cls.key_faults(task) + cls._pair_faults(task)

    @classmethod
    def key_faults(cls, task: TaskDef) -> list[Fault]:
        """Keys that this type cannot use whatever the others say."""
        found = []
        if len(task.inputs) not in cls.num_inputs:
            allowed = " or ".join(map(str, cls.num_inputs))
            found.append(task.fault("inputs", f"{len(task.inputs)} text columns", f"{cls.__name__} takes {allowed}."))
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
        if task.distill is not None and not cls.soft_labels:
            able = ", ".join(name for name in TASK_TYPES if TASK_TYPES.get(name).soft_labels)
            found.append(task.fault("distill", f"{task.task_type} has no soft labels", f"Remove it. Some: {able}."))
        return found + cls._head_faults(task) + cls._option_faults(task)

    @classmethod
    def _head_faults(cls, task: TaskDef) -> list[Fault]:
        """A head that does not fit the type, and options it does not have or cannot take."""
        named = cls.settled_head(task)
        if named.name not in cls.heads and "." not in named.name:
            return [task.fault("head", unknown("head", named.name, cls.heads))]
        if named.name in HEAD_OPTIONS:
            return _key_faults(task, HEAD_OPTIONS[named.name], named.options, prefix="head.")
        return _named_faults(task, heads.HEADS, named, "head")  # of one's own, which loads PyTorch anyway

    @classmethod
    def _pair_faults(cls, task: TaskDef) -> list[Fault]:
        """A head that reads a pair of texts, for rows of one."""
        name = cls.settled_head(task).name
        if len(task.inputs) != 1 or cls._head_faults(task):
            return []
        if not (name in READS_PAIRS if name in HEAD_OPTIONS else heads.HEADS.get(name).min_texts > 1):
            return []
        found = f"'{name}' reads a pair of texts, and the rows have 1 ({task.inputs[0]})"
        return [task.fault("head", found, f"Name a second one in `inputs`, or use head: {cls.heads[0]}.")]

    @classmethod
    def _option_faults(cls, task: TaskDef) -> list[Fault]:
        """Keys of the block that belong to no task, and values pydantic refuses."""
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

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a row in a file without header, in order."""
        return ("id", "label", *self.task.inputs)

    @property
    def group_by(self) -> str | None:
        """The column whose equal values join rows, wherever they stand in the file, into one by `join`; None: never."""
        return None

    def join(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One row's values, for `read`, from those of the rows of a group, in the order of the file.

        Raises:
            RowError: they do not go together.
        """
        raise NotImplementedError(f"{type(self).__name__} does not join rows")

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
        texts = tuple(values[name] for name in self.task.inputs)
        for name, text in zip(self.task.inputs, texts, strict=True):
            if not isinstance(text, str):
                raise RowError(name, f"a {type(text).__name__} in place of a text", "Give a text.")
            if not text.strip():
                raise RowError(name, "empty text", "Give the text, or remove the row.")
        label = str(values.get("label", "")).strip()
        return Example(str(values["id"]), texts, None if label in UNLABELLED else self.parse_label(label))

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        """Columns of the prepared store for some rows: id, label, and the tokenizer's.

        A type that keeps further columns adds them, texts as JSON where they are lists; `complete` gets them back. A
        row that is several sequences (candidates, windows of a long text) has them end to end in `input_ids`,
        `token_type_ids` and `segments`, and their lengths in a further column `sequence_lengths` (Ragged int32).
        Collating then lays out N sequences, and puts how many each row has into `batch.extras["sequences"]` [B].

        Args:
            tokenize: texts of many rows → the tokenizer's columns, truncated to the task's max_length.
        """
        labels = [self.stored_label(example.label) for example in examples]
        return {
            "id": [example.id for example in examples],
            "label": np.asarray(labels, dtype=self.label_dtype),
            **tokenize([example.texts for example in examples]),
        }

    def unread(self, examples: Sequence[Example], columns: Mapping[str, Any]) -> list[str]:
        """What of some rows no token stands for, though the type reads it at a token: words; none by default.

        Args:
            examples: the rows.
            columns: what `encode` makes of them.
        """
        return []

    def label_counts(self, stored: Any) -> Counter[Any]:
        """How often each label comes in some rows, and under None how many have none; sums over parts of a split.

        Args:
            stored: the `label` column of these rows.
        """
        values, counts = np.unique(stored, return_counts=True)
        names = [self.label_name(value) for value in values.tolist()]
        return Counter(dict(zip(names, counts.tolist(), strict=True)))

    def label_summary(self, counts: Counter[Any]) -> dict[str, Any]:
        """What the labels of a split are like, as plain JSON values: `unlabelled` rows, and `counts` by name.

        Args:
            counts: `label_counts` of all its rows.
        """
        names = self.task.labels or [name for name in counts if name is not None]
        return {"unlabelled": counts[None], "counts": {name: counts[name] for name in names}}

    def label_parts(self, label: Any) -> Sequence[str | float]:
        """What of a row's label a check counts: names, or a number; the label itself, where it is one, by default."""
        return [label] if isinstance(label, (str, float)) else []

    def encodes_like(self, other: Format) -> bool:
        """Whether rows that both can read become the same tokens."""
        return (self.task.max_length, self.options) == (other.task.max_length, other.options)

    @abstractmethod
    def stored_label(self, label: Any) -> Any:
        """The label as it lies in the store; the type's mark of "none" for None."""

    @abstractmethod
    def label_name(self, stored: Any) -> Any:
        """A stored label as it reads in predictions and histograms: a name or a number; None for "none"."""


class Learner(Part):
    """Columns of a batch of rows → a head, logits, a loss, and the distance between two predictions.

    Class attributes:
        float32_logits: whether the head computes in float32 in a bf16 run too, so that regularizers can compare passes.
        logits_of: what a row's logits belong to: classes [B, C], a number [B, 1], candidates [B, K], or parts of its
            text. Regularizers that are not for all of them name those that they are for.
    """

    default_loss: ClassVar[str]
    float32_logits: ClassVar[bool] = True
    logits_of: ClassVar[LogitsOf] = "classes"

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """C, the size of the head's output."""

    @cached_property
    def loss_function(self) -> Callable[..., Tensor]:
        """The registered loss that the block names, or else the type's own."""
        return losses.loss_of(self.task.loss or Named(name=self.default_loss))

    def collate_labels(self, records: Records) -> Tensor:
        """Labels of a batch, from the columns of its rows; for types whose labels need no more than these."""
        raise NotImplementedError(f"{type(self).__name__} gives a batch its labels in `complete`")

    def complete(self, batch: Batch, records: Records, *, seed: int) -> Batch:
        """A batch of padded inputs, given its labels and what else the type needs; masked_lm changes the inputs too.

        Args:
            batch: without labels.
            records: columns of its rows.
            seed: of random draws: another for each training step, always the same for evaluation. A type that draws
                derives a generator per row from it and the row's id, so that draws do not depend on the batch.
        """
        return replace(batch, labels=self.collate_labels(records))

    def build_head(self, hidden_size: int, *, family: Mapping[str, str], word_embeddings: nn.Embedding) -> nn.Module:
        """A new head for this task.

        Args:
            hidden_size: H of the encoder.
            family: `activation`, and options such as `pooling`, as the encoder's family has them in its own
                classification head; a head takes those that it knows and that the block leaves open.
            word_embeddings: the encoder's, for a head whose output layer is tied to them.
        """
        named = self.settled_head(self.task)
        head = heads.HEADS.get(named.name, where=self.task.where("head"), key=f"{self.task.name}.head")
        given = {key: value for key, value in named.options.items() if value is not None}
        known = {"activation", *head.Options.model_fields}
        options = {**{key: value for key, value in family.items() if key in known}, **given}
        return head(hidden_size, self.num_outputs, dropout=self.task.dropout, **options)

    def logits(self, head: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        """The head's output for hidden states [N, T, H]; [B, C] by default.

        Args:
            head: this task's head.
            hidden: [N, T, H] the encoder's hidden states.
            batch: the rows, as the collator made them.
        """
        output: Tensor = head(hidden, batch)
        return output

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The task's own loss, a scalar: the mean over what is labelled, 0 when nothing is."""

    def training_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """What training minimises: `loss` or, where the batch has soft labels, (1 − w)·loss + w·soft_loss, a scalar."""
        soft, distill = batch.extras.get("soft"), self.task.distill
        if soft is None or distill is None:
            return self.loss(logits, batch)
        soft_loss = self.soft_loss(logits, soft, batch, temperature=distill.temperature)
        return (1 - distill.weight) * self.loss(logits, batch) + distill.weight * soft_loss

    def soft_loss(self, logits: Tensor, soft: Tensor, batch: Batch, *, temperature: float) -> Tensor:
        """Distance from the soft labels [B, C], a scalar: the mean over rows that have one, 0 when none has.

        Args:
            logits: the head's output for the batch.
            soft: [B, C] soft labels, NaN where a row has none.
            batch: the rows, as the collator made them.
            temperature: of the softmax of both sides.
        """
        raise NotImplementedError(f"{type(self).__name__} has no soft labels")

    @abstractmethod
    def label_count(self, batch: Batch) -> int:
        """Over how many things `loss` takes its mean; parts of a split batch are weighted by it."""

    @abstractmethod
    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """ℓ_s of SMART, per row: [B], ≥ 0, differentiable in both.

        Args:
            symmetric: KL(p‖q) + KL(q‖p); False gives KL(q‖p) alone, q being the reference. No matter for regression.
            logits_p: [B, …] the predictions compared, not normalised.
            logits_q: [B, …] the reference predictions, not normalised.
            batch: the rows, as the collator made them.
        """


class Teller(Part):
    """Logits → what is reported: prediction records, and what reports, exports and joint predictions ask of them.

    Class attributes:
        problem_type: of transformers' configuration, for a task with a pooled head that is exported; None: it has none.
        same_rows: types with an equal word here read the same rows, so that their tasks can be predicted together; a
            type reads the same rows as itself.
    """

    problem_type: ClassVar[str | None] = None
    same_rows: ClassVar[str | None] = None

    @abstractmethod
    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """One record per row: `id`, `prediction`, `label` (None when there is none), `scores`; plain JSON values."""

    def settle(self, records: list[dict[str, Any]], head: nn.Module, *, tune: bool) -> list[dict[str, Any]]:
        """The records of a whole split as they are written and measured; as they are, by default.

        Args:
            head: this task's; what is chosen on the dev split (span: the threshold of "no answer") lies in a buffer of
                it, and so in every checkpoint.
            tune: choose anew, from these records: on the dev split while training.
            records: of a whole split.
        """
        return records

    def soft_label(self, record: Mapping[str, Any]) -> list[float]:
        """[C] numbers that a teacher's prediction record holds, whose mean over several teachers makes sense.

        Raises:
            RowError: it is no record of this task.
        """
        raise NotImplementedError(f"{type(self).__name__} has no soft labels")

    def soft_record(self, soft: Sequence[float]) -> dict[str, Any]:
        """`prediction` and `scores` of a record that holds these numbers."""
        raise NotImplementedError(f"{type(self).__name__} has no soft labels")

    @property
    def confusion_labels(self) -> tuple[str, ...]:
        """The labels, in order, whose confusions a report counts; empty where predictions are no single labels."""
        return ()

    def predicts_with(self, other: Teller) -> bool:
        """Whether rows of this task can be given to the other one: as many texts, read in the same way."""
        alike = type(other) is type(self) or (self.same_rows is not None and self.same_rows == other.same_rows)
        return alike and len(other.task.inputs) == len(self.task.inputs)

    def mistake(self, record: Record) -> float | None:
        """How far a labelled prediction is from its label, in [0, 1] or in units of the label; None where it is right.

        The worst errors of a report are those with the largest values; None by default, and then there are none.
        """
        return None

    def shown(self, answers: Sequence[Any]) -> str:
        """A label, or what several models predict for a row, as a text for a table; the most frequent, by default."""
        return Counter(map(str, answers)).most_common(1)[0][0]


class TaskType(Format, Learner, Teller):
    """One task seen through its type: rows → labels → loss → predictions.

    The trainer, the collator, evaluation, reports and regularizers call these methods and never ask which type it is.
    """


def wrong_answer(record: Record) -> float | None:
    """The probability of the answer where it is not the label, 1 without probabilities; None where it is."""
    if record["label"] is None or record["prediction"] == record["label"]:
        return None
    return float((record.get("scores") or {}).get(record["prediction"], 1.0))


def _import_faults(task: TaskDef, key: str, word: str, look_up: Callable[..., object]) -> list[Fault]:
    """Why what a word names, a dotted path mostly, cannot be used under that key of the block."""
    try:
        look_up(word, where=task.where(key), key=f"{task.name}.{key}")
    except ConfigError as error:
        return list(error.faults)
    return []


def _named_faults(task: TaskDef, registry: Registry[Any], given: Named, key: str) -> list[Fault]:
    """What cannot be used of a plug-in that the block names under that key."""
    return [task.fault(each.key, each.found, each.fix) for each in named_faults(registry, given, key)]


def _key_faults(
    task: TaskDef, model: type[BaseModel], options: Mapping[str, Any], *, prefix: str = "", known: Sequence[str] = ()
) -> list[Fault]:
    """A fault for each key that is no field of the model, and each other one whose value pydantic refuses.

    Args:
        prefix: what stands before the keys in the block, as in "head.".
        known: names to suggest before the model's fields.
    """
    return [task.fault(prefix + each.key, each.found, each.fix) for each in option_faults(model, options, known)]
