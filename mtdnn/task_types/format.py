"""Rows of a task → the columns of its prepared store. Needs no PyTorch: `check` and `prepro` use only this part.

Dimensions: N sequences (one for each row, or more where a row holds several).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mtdnn.config.tasks import TaskDef
from mtdnn.errors import Fault, did_you_mean, unknown
from mtdnn.rows.example import MISSING_LABEL_MARKS, UNLABELLED, Example, RowError, declared
from mtdnn.task_types.declaration import Declaration
from mtdnn.tokens.ragged import Column

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenizeBatch = Callable[[Sequence[tuple[str, ...]]], dict[str, Column]]
"""Texts of N sequences → input_ids (Ragged int32), token_type_ids (Ragged int8, if the tokenizer has them), segments
(Ragged int8, 0 and 1 for the texts of a pair, if token_type_ids do not separate them) and truncated ([N] bool: cut to
the task's max_length)."""


class Format(Declaration):
    """Rows of a task → the columns of its prepared store. Needs no PyTorch: `check` and `prepro` use only this part.

    Class attributes:
        label_dtype: dtype of the `label` column of a prepared store.
        soft_labels: whether it has `soft_label`, `soft_record` and `soft_loss`, and can learn from a teacher.
        missing_label_marks: marks for a missing label, in addition to an empty cell and `-`.
        repeats_last: the last column of a row may be repeated; its value is then a list.
        stratifies: rows have classes, so that a file can be cut into parts in which each has the same share.
        needs_decoder: the encoder must be that of an encoder-decoder, whose decoder is the head.
        tuned_on_dev: keys of `Options` that have something fitted on the dev split while a run is evaluated.
        unstored: keys of `Options` that do not affect the store; changing them needs no new prepro.
        shared_sequences: which sequences of a row the task reads where several tasks share the rows: "first", the only
            one of a type with one sequence a row, or "all"; None: its rows cannot be shared.
        store_format: increased, to more than 2, when `encode` changes: older stores are then refused.
        sample_block, sample_rows: a task and three rows for the contract tests; rows as in a TSV file.
    """

    label_dtype: ClassVar[str]
    soft_labels: ClassVar[bool] = False
    missing_label_marks: ClassVar[tuple[str, ...]] = MISSING_LABEL_MARKS
    repeats_last: ClassVar[bool] = False
    stratifies: ClassVar[bool] = False
    needs_decoder: ClassVar[bool] = False
    tuned_on_dev: ClassVar[tuple[str, ...]] = ()
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
    def row_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in how rows are read: columns that the type does not have, and parts by label without labels."""
        found, known = [], cls(task).columns
        for name in dict.fromkeys(task.inputs):
            if known.count(name) > 1:
                own = ", ".join(each for each in known if each not in task.inputs or known.count(each) > 1)
                fix = f"Name it otherwise here; for a file with named columns, say `columns: {{text: {name}}}`."
                found.append(task.fault("inputs", f"'{name}' is a column of its own ({own})", fix))
        if task.columns:
            strange = [name for name in task.columns if name not in known]
            found += [task.fault(f"columns.{name}", unknown("column", name, known)) for name in strange]
        if task.columns and task.source is not None:
            found.append(task.fault("columns", "the rows come from `source`", "Name them under source.columns."))
        if any(cut.stratify for cut in task.cuts.values()) and not cls.stratifies:
            what = f"{task.task_type} has no classes that could have the same share in each part"
            found.append(task.fault("splits", what, "Remove `stratify`."))
        return found

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
    def decoder_lengths(self) -> Mapping[str, int]:
        """Option → the largest number of tokens that a decoder reads by it; empty for a type that needs no decoder."""
        return {}

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

    @property
    def shown_texts(self) -> tuple[str, ...]:
        """The texts of one sequence as the model reads them, with the names of the inputs in their places."""
        return tuple(f"{name} …" for name in self.task.inputs)

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


def joined_words(value: Any) -> Any:
    """A text; words in a list, as tasks that tag them have, joined by spaces."""
    whole = isinstance(value, (list, tuple)) and value and all(isinstance(word, str) for word in value)
    return " ".join(value) if whole else value
