"""The interface of a task type: everything that differs between types of tasks.

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
from mtdnn.errors import ConfigError, Fault, did_you_mean, unknown
from mtdnn.metrics.base import METRICS, Record, metric_of
from mtdnn.networks.head_options import HEAD_OPTIONS, READS_PAIRS
from mtdnn.registry import Registry
from mtdnn.rows.example import MISSING_LABEL_MARKS, UNLABELLED, Example, RowError, declared
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
    """Errors for labels that no row can have: empty, a mark for a missing label, or with spaces around them."""
    found = []
    for label in task.labels:
        plain = label.strip()
        if plain in UNLABELLED:
            found.append(f"{label!r} marks a missing label in a row")
        elif plain != label:
            found.append(f"{label!r} occurs in no row, as spaces around a label are removed")
    return [task.fault("labels", each, "Rename it, here and in the rows.") for each in found]


LogitsOf = Literal["classes", "labels", "number", "candidates", "parts"]

TokenizeBatch = Callable[[Sequence[tuple[str, ...]]], dict[str, Column]]
"""Texts of N sequences → input_ids (Ragged int32), token_type_ids (Ragged int8, if the tokenizer has them), segments
(Ragged int8, 0 and 1 for the texts of a pair, if token_type_ids do not separate them) and truncated ([N] bool: cut to
the task's max_length)."""


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


class Format(Part):
    """Rows of a task → the columns of its prepared store. Needs no PyTorch: `check` and `prepro` use only this part.

    Class attributes:
        Options: keys specific to this type, a pydantic model.
        num_inputs: allowed numbers of text columns.
        default_metrics, default_loss: used if the task names none.
        losses, metrics: names of the losses and metrics that can be used with this type.
        label_dtype: dtype of the `label` column of a prepared store.
        soft_labels: whether it has `soft_label`, `soft_record` and `soft_loss`, and can learn from a teacher.
        missing_label_marks: marks for a missing label, in addition to an empty cell and `-`.
        repeats_last: the last column of a row may be repeated; its value is then a list.
        stratifies: rows have classes, so that a file can be cut into parts in which each has the same share.
        needs_decoder: the encoder must be that of an encoder-decoder, whose decoder is the head.
        unstored: keys of `Options` that do not affect the store; changing them needs no new prepro.
        shared_sequences: which sequences of a row the task reads where several tasks share the rows: "first", the only
            one of a type with one sequence a row, or "all"; None: its rows cannot be shared.
        store_format: increased, to more than 2, when `encode` changes: older stores are then refused.
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
    stratifies: ClassVar[bool] = False
    needs_decoder: ClassVar[bool] = False
    unstored: ClassVar[tuple[str, ...]] = ()
    shared_sequences: ClassVar[Literal["first", "all"] | None] = None
    store_format: ClassVar[int] = 1
    sample_block: ClassVar[Mapping[str, Any]]
    sample_rows: ClassVar[tuple[str, str, str]]

    def __init__(self, task: TaskDef) -> None:
        """Take a task for which `faults` finds no errors."""
        self.task = task
        self.options = self.Options.model_validate(task.options)
        self.metric_names = task.metrics or self.default_metrics
        self._index = {label: index for index, label in enumerate(task.labels)}
        self.tokenizer: PreTrainedTokenizerBase | None = None

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the run's tokenizer, before `encode` and `complete`; most types do not use it."""
        self.tokenizer = tokenizer

    def bound_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer set by `bind`, for types that need it.

        Raises:
            ValueError: `bind` was not called.
        """
        if self.tokenizer is None:
            raise ValueError(f"task '{self.task.name}' has no tokenizer yet; call bind first")
        return self.tokenizer

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        """Every error that this type finds in the block, with its place; empty if the block is valid."""
        found = cls.key_faults(task)
        return found + cls._pair_faults(task) + ([] if found else cls._row_faults(task))

    @classmethod
    def key_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in single keys, whatever the values of the other keys."""
        found = []
        if len(task.inputs) not in cls.num_inputs:
            allowed = " or ".join(map(str, cls.num_inputs))
            found.append(task.fault("inputs", f"{len(task.inputs)} text columns", f"{cls.__name__} needs {allowed}."))
        if task.rows is not None and cls.shared_sequences is None:
            able = ", ".join(name for name in TASK_TYPES if TASK_TYPES.get(name).shared_sequences)
            found.append(task.fault("rows", f"{task.task_type} has rows of its own", f"Types that share: {able}."))
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
            found.append(
                task.fault(
                    "distill", f"{task.task_type} has no soft labels", f"Remove it. Types with soft labels: {able}."
                )
            )
        return found + cls._head_faults(task) + cls._option_faults(task)

    @classmethod
    def _head_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in the head: its name is not one of this type's, or its options are unknown or invalid."""
        named = cls.head_named(task)
        if named.name not in cls.heads and "." not in named.name:
            return [task.fault("head", unknown("head", named.name, cls.heads))]
        if named.name in HEAD_OPTIONS:
            return _key_faults(task, HEAD_OPTIONS[named.name], named.options, prefix="head.")
        return _named_faults(
            task, heads.HEADS, named, "head"
        )  # a head of the user's own; importing it loads PyTorch anyway

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
    def _row_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in how rows are read: columns that the type does not have, and parts by label without labels."""
        found = []
        if task.columns:
            known = cls(task).columns
            strange = [name for name in task.columns if name not in known]
            found += [task.fault(f"columns.{name}", unknown("column", name, known)) for name in strange]
        if task.columns and task.source is not None:
            found.append(task.fault("columns", "the rows come from `source`", "Name them under source.columns."))
        if any(cut.stratify for cut in task.cuts.values()) and not cls.stratifies:
            what = f"{task.task_type} has no classes that could have the same share in each part"
            found.append(task.fault("splits", what, "Remove `stratify`."))
        return found

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

    def _declared_label(self, text: str, fix: str = "Fix the row, or add the label.") -> str:
        """The label as the task declares it.

        Args:
            text: of the row.
            fix: what to do where there is no such label.
        Raises:
            RowError: the task has no such label.
        """
        label = declared(text, self._index)
        if label not in self._index:
            place = f"{self.task.name}.labels ({self.task.where('labels')})"
            known = f"{', '.join(self.task.labels)}.{did_you_mean(label, self._index)}"
            raise RowError("label", f"'{label}' is not in {place}: {known}", fix)
        return label

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a row, in their order in a file without header."""
        return ("id", "label", *self.task.inputs)

    @property
    def group_by(self) -> str | None:
        """The column by which rows with equal values, anywhere in the file, are joined by `join`; None: no joining."""
        return None

    def join(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The values of one row, for `read`, from the rows of a group, in the order of the file.

        Raises:
            RowError: the rows cannot be joined.
        """
        raise NotImplementedError(f"{type(self).__name__} does not join rows")

    @abstractmethod
    def parse_label(self, text: str) -> Any:
        """The label in a row's `label` column, which is not empty.

        Raises:
            RowError: it is not a label of this task.
        """

    def _text_fix(self, name: str, value: object) -> str:
        """What to do about the value of an input that is not a text."""
        if not isinstance(value, Mapping) or not value:
            return "Give a text."
        path = f"{self.task.columns.get(name, name)}.{next(iter(value))}"
        return f"Give a text, or its path in the task's `columns`, such as {{{name}: {path}}}."

    def read(self, values: Mapping[str, Any]) -> Example:
        """The example in a row's values.

        Raises:
            RowError: a text is empty, or the label is invalid.
        """
        given = (values[name] for name in self.task.inputs)
        texts = tuple(given if self.task.rows is None else map(joined_words, given))
        for name, text in zip(self.task.inputs, texts, strict=True):
            if not isinstance(text, str):
                raise RowError(name, f"a {type(text).__name__}; expected a text", self._text_fix(name, text))
            if not text.strip():
                raise RowError(name, "empty text", "Give the text, or remove the row.")
        label = str(values.get("label", "")).strip()
        return Example(str(values["id"]), texts, None if label in UNLABELLED else self.parse_label(label))

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        """Columns of the prepared store for some rows: id, label, and the tokenizer's columns.

        A type may add columns, lists of texts as JSON; `complete` gets them. A row with several sequences (candidates,
        windows of a long text) has them concatenated in `input_ids`, `token_type_ids` and `segments`, and their lengths
        in the column `sequence_lengths` (Ragged int32). The collator then makes N sequences, and stores the number per
        row in `batch.extras["sequences"]` [B].

        Args:
            examples: the rows.
            tokenize: texts of many rows → the tokenizer's columns, truncated to the task's max_length.
        """
        labels = [self.stored_label(example.label) for example in examples]
        return {
            "id": [example.id for example in examples],
            "label": np.asarray(labels, dtype=self.label_dtype),
            **tokenize([example.texts for example in examples]),
        }

    def own_columns(self, examples: Sequence[Example], tokens: Mapping[str, Column]) -> dict[str, Column]:
        """The columns of this task alone, for rows whose tokens are stored for several tasks: `label` and others.

        Args:
            examples: the rows.
            tokens: the columns that `encode` of the task with all sequences of a row has returned.
        """
        found = self.encode(examples, lambda texts: {})
        return {name: column for name, column in found.items() if name != "id"}

    def words_without_token(self, examples: Sequence[Example], columns: Mapping[str, Any]) -> list[str]:
        """Words that have no token and so are never learnt; empty for types that do not label words.

        Args:
            examples: the rows.
            columns: the columns returned by `encode` for them.
        """
        return []

    def label_counts(self, stored: Any) -> Counter[Any]:
        """Label → its number of rows; None → unlabelled rows. Counts of parts of a split can be added.

        Args:
            stored: the `label` column of some rows.
        """
        values, counts = np.unique(stored, return_counts=True)
        names = [self.label_name(value) for value in values.tolist()]
        return Counter(dict(zip(names, counts.tolist(), strict=True)))

    def label_summary(self, counts: Counter[Any]) -> dict[str, Any]:
        """Summary of the labels of a split, as plain JSON values: `unlabelled` rows, and `counts` by name.

        Args:
            counts: `label_counts` of all rows.
        """
        names = self.task.labels or [name for name in counts if name is not None]
        return {"unlabelled": counts[None], "counts": {name: counts[name] for name in names}}

    def counted_labels(self, label: Any) -> Sequence[str | float]:
        """The names or numbers in a row's label that `check` counts; by default the label itself, if it is one."""
        return [label] if isinstance(label, (str, float)) else []

    def encodes_like(self, other: Format) -> bool:
        """Whether both tasks encode the same row to the same tokens."""
        ours, theirs = ((each.task.max_length, each.shared_sequences, each.stored_options) for each in (self, other))
        return ours == theirs

    @property
    def stored_options(self) -> dict[str, Any]:
        """The options that change what is stored of a row and are not at their defaults."""
        return self.options.model_dump(exclude={*self.unstored}, exclude_defaults=True)

    @abstractmethod
    def stored_label(self, label: Any) -> Any:
        """The label as stored; for None the type's mark for a missing label."""

    @abstractmethod
    def label_name(self, stored: Any) -> Any:
        """A stored label as shown in predictions and histograms: a name or a number; None if it is missing."""


class Learner(Part):
    """Columns of a batch → head, logits, loss, and the divergence between two predictions.

    Class attributes:
        default_loss: used if the task names none.
        float32_logits: whether the head uses float32 also in a bf16 run, so that regularizers can compare passes.
        logits_of: what the logits of a row are for: classes [B, C], labels [B, C] with a probability each, a number
            [B, 1], candidates [B, K], or parts of its text. Regularizers that do not support all of them name those
            that they support.
    """

    default_loss: ClassVar[str]
    float32_logits: ClassVar[bool] = True
    logits_of: ClassVar[LogitsOf] = "classes"

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """C, the size of the head's output."""

    @property
    def reads_label_counts(self) -> bool:
        """Whether `learn_label_counts` must be called before the loss is computed."""
        return False

    def learn_label_counts(self, counts: Counter[Any]) -> None:
        """Set how often each label occurs in the training rows.

        Args:
            counts: see `Format.label_counts`.
        """

    @cached_property
    def loss_function(self) -> Callable[..., Tensor]:
        """The loss named in the block, or else the default of the type."""
        return losses.loss_of(self.task.loss or Named(name=self.default_loss))

    def collate_labels(self, records: Records) -> Tensor:
        """Labels of a batch, from the columns of its rows; for types whose `complete` needs nothing else."""
        raise NotImplementedError(f"{type(self).__name__} sets the labels of a batch in `complete`")

    def complete(self, batch: Batch, records: Records, *, seed: int) -> Batch:
        """The batch with labels and other values that the type needs; masked_lm also changes the inputs.

        Args:
            batch: padded inputs without labels.
            records: columns of its rows.
            seed: seed of random draws, different for each training step, constant in evaluation. A type that draws
                derives a generator per row from it and the row's id, so that draws do not depend on the batch.
        """
        return replace(batch, labels=self.collate_labels(records))

    def build_head(self, hidden_size: int, *, family: Mapping[str, Any], word_embeddings: nn.Embedding) -> nn.Module:
        """A new head for this task.

        Args:
            hidden_size: H of the encoder.
            family: `activation`, and options such as `pooling`, of the encoder family's own classification head; used
                for options that the head has and the block does not set. `backbone`: the encoder of transformers.
            word_embeddings: those of the encoder, for a head whose output layer is tied to them.
        """
        named = self.head_named(self.task)
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
        """The task loss, a scalar: the mean over what is labelled, 0 if nothing is."""

    def training_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss for training, a scalar: `loss` or, with soft labels, (1 − w)·loss + w·soft_loss."""
        soft, distill = batch.extras.get("soft"), self.task.distill
        if soft is None or distill is None:
            return self.loss(logits, batch)
        soft_loss = self.soft_loss(logits, soft, batch, temperature=distill.temperature)
        return (1 - distill.weight) * self.loss(logits, batch) + distill.weight * soft_loss

    def soft_loss(self, logits: Tensor, soft: Tensor, batch: Batch, *, temperature: float) -> Tensor:
        """Distance from the soft labels, a scalar: the mean over rows that have one, 0 if none has.

        Args:
            logits: the head's output for the batch.
            soft: [B, C] soft labels, NaN where a row has none.
            batch: the rows, as the collator made them.
            temperature: temperature of both softmaxes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no soft labels")

    @abstractmethod
    def label_count(self, batch: Batch) -> int:
        """Number of values over which `loss` takes the mean; parts of a split batch are weighted by it."""

    @abstractmethod
    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """ℓ_s of SMART, per row: [B], ≥ 0, differentiable in both.

        Args:
            logits_p: [B, …] the predictions compared, not normalised.
            logits_q: [B, …] the reference predictions, not normalised.
            batch: the rows, as the collator made them.
            symmetric: True: KL(p‖q) + KL(q‖p); False: only KL(q‖p), where q is the reference. Not used by regression.
        """


class Predictor(Part):
    """Logits → prediction records, and what reports, exports and joint predictions need of them.

    Class attributes:
        problem_type: that of transformers' configuration, for an exported task with a pooled head; None without one.
        hub_task: the hub's word for the kind of task, for model cards.
        same_rows: types with the same word here read the same rows, so that their tasks can be predicted together; a
            type reads the same rows as itself.
    """

    problem_type: ClassVar[str | None] = None
    hub_task: ClassVar[str] = "other"
    same_rows: ClassVar[str | None] = None

    @abstractmethod
    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """One record per row: `id`, `prediction`, `label` (None if it is missing), `scores`; plain JSON values."""

    def answer(self, logits: Tensor, batch: Batch, *, head: nn.Module, hidden: Tensor) -> list[dict[str, Any]]:
        """The records of `predict`; for types whose predictions need more than the logits, such as generated texts.

        Args:
            logits: the head's output for the batch.
            batch: the rows, as the collator made them.
            head: this task's head.
            hidden: [N, T, H] the encoder's hidden states.
        """
        return self.predict(logits, batch)

    def logit_factor(self, head: nn.Module) -> float:
        """Factor of the logits of an exported model, so that it has the predicted probabilities; 1 by default.

        Args:
            head: this task's head.
        """
        return 1.0

    def exported_settings(self, head: nn.Module) -> dict[str, Any]:
        """Further keys for the configuration of an exported model, as plain JSON values; none by default.

        Args:
            head: this task's head.
        """
        return {}

    def settle(self, records: list[dict[str, Any]], head: nn.Module, *, tune: bool) -> list[dict[str, Any]]:
        """The final records of a whole split, to be written and evaluated; unchanged by default.

        Args:
            records: the records of a whole split.
            head: this task's head; what is chosen on the dev split (span: the threshold of "no answer") is stored in
                one of its buffers, and so in every checkpoint.
            tune: choose it again from these records; set for the dev split in training.
        """
        return records

    def soft_label(self, record: Mapping[str, Any]) -> list[float]:
        """[C] numbers of a teacher's prediction record, which can be averaged over several teachers.

        Raises:
            RowError: it is not a record of this task.
        """
        raise NotImplementedError(f"{type(self).__name__} has no soft labels")

    def soft_record(self, soft: Sequence[float]) -> dict[str, Any]:
        """`prediction` and `scores` of a record with these numbers."""
        raise NotImplementedError(f"{type(self).__name__} has no soft labels")

    @property
    def confusion_labels(self) -> tuple[str, ...]:
        """The labels of a report's confusion matrix, in order; empty if predictions are not single labels."""
        return ()

    def label_scores(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        """Label → name → value of scores for this label, for a report; empty by default.

        Args:
            records: the labelled records of a split.
        """
        return {}

    def predicts_with(self, other: Predictor) -> bool:
        """Whether rows of this task can be used for the other one: the same number of texts, read in the same way."""
        alike = type(other) is type(self) or (self.same_rows is not None and self.same_rows == other.same_rows)
        return alike and len(other.task.inputs) == len(self.task.inputs)

    def mistake(self, record: Record) -> float | None:
        """How far a prediction is from its label, in [0, 1] or in units of the label; None if it is correct.

        A report lists the largest values as the worst errors; the default is None, so that there are none.
        """
        return None

    def shown(self, answers: Sequence[Any]) -> str:
        """A label, or several models' predictions for a row, as a text for a table; by default the most frequent."""
        return Counter(map(str, answers)).most_common(1)[0][0]


class TaskType(Format, Learner, Predictor):
    """One task with its type: rows → labels → loss → predictions.

    The trainer, the collator, evaluation, reports and regularizers call these methods; none depends on a specific type.
    """


def joined_words(value: Any) -> Any:
    """A text; words in a list, as tasks that tag them have, joined by spaces."""
    whole = isinstance(value, (list, tuple)) and value and all(isinstance(word, str) for word in value)
    return " ".join(value) if whole else value


def wrong_answer(record: Record) -> float | None:
    """The probability of a wrong prediction, 1 without probabilities; None if it is correct or there is no label."""
    if not isinstance(record["label"], str) or record["prediction"] == record["label"]:
        return None
    return float((record.get("scores") or {}).get(record["prediction"], 1.0))


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
    return [task.fault(prefix + each.key, each.found, each.fix) for each in option_faults(model, options, known)]
