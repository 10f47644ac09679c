"""Ranking the candidates of a question: which sentence answers it, which document is relevant.

Dimensions: B rows (questions), N candidates of all rows (sequences), K largest number of candidates in a row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from mtdnn.batch import Batch
from mtdnn.config.options import Options
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import Fault
from mtdnn.rows.example import UNLABELLED, Example, RowError, refuse_beyond_32_bits, refuse_broken_list
from mtdnn.rows.lists import written_list
from mtdnn.task_types.base import TASK_TYPES, TaskType, TokenizeBatch, label_faults
from mtdnn.tokens.ragged import Column, Ragged, Records

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mtdnn.networks import divergences, losses, means
else:
    torch = deferred("torch")
    divergences = deferred("mtdnn.networks.divergences")
    means = deferred("mtdnn.networks.means")
    losses = deferred("mtdnn.networks.losses")


class RankingOptions(Options):
    """Keys specific to ranking."""

    group_by: str | None = Field(
        None, description="Read rows `id, label, texts` and join those with the same text in this column into one."
    )
    one_best: bool = Field(False, description="Refuse rows in which several candidates are the most relevant.")


@TASK_TYPES.register("ranking")
class Ranking(TaskType):
    """Orders candidates by a score for each pair of the first text and a candidate.

    A row is `id, ids of the candidates, labels, text, candidate, candidate, …`; ids and labels are separated by commas,
    or given as lists, one for each candidate. A label is a relevance ≥ 0 or, if the task has labels, one of them, whose
    index in the list is the relevance: `labels: [not_entailment, entailment]`. With `group_by` the rows are those of a
    classification task. A row without a relevant candidate is used neither for training nor for evaluation.
    """

    Options: ClassVar[type[Options]] = RankingOptions
    num_inputs: ClassVar[tuple[int, ...]] = (2,)
    default_metrics: ClassVar[tuple[str, ...]] = ("map", "mrr", "accuracy_at_1", "ndcg")
    default_loss = "listwise"
    losses = ("listwise", "pairwise_margin")
    metrics: ClassVar[tuple[str, ...]] = default_metrics
    heads = ("pooled", "san")
    logits_of = "candidates"
    problem_type = "regression"
    hub_task = "text-ranking"
    label_dtype = "float32"
    repeats_last = True
    sample_block = {"task_type": "ranking", "inputs": ["question", "candidate"]}
    sample_rows = (
        "1\ta,b,c\t0,1,0\tWhere do herons nest?\tHerons eat fish.\tThey nest in tall trees.\tA heron flew by.",
        "2\td,e\t0,2\tWho wrote the letter?\tIt rained.\tThe letter was written by Ida.",
        "3\tf\t1\tWhen does the shop open?\tThe shop opens at nine.",
    )

    options: Any

    # Format: rows → columns of the prepared store, without PyTorch.

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task) + label_faults(task)
        column = task.options.get("group_by")
        if column is not None and column not in task.inputs[:-1]:
            fix = f"Name {' or '.join(task.inputs[:-1])}: the rows of a group differ in their last text."
            found.append(task.fault("group_by", f"{column!r} cannot join rows", fix))
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        if self.group_by is not None:
            return ("id", "label", *self.task.inputs)
        return ("id", "candidate_ids", "label", *self.task.inputs)

    @property
    def group_by(self) -> str | None:
        column: str | None = self.options.group_by
        return column

    def join(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rows of one question as one row, with the id of the first.

        Raises:
            RowError: only some of them have a label.
        """
        name = self.task.inputs[-1]
        labels = [str(row.get("label", "")).strip() for row in rows]
        if all(label in UNLABELLED for label in labels):
            labels = []
        elif any(label in UNLABELLED for label in labels):
            found = f"{sum(label in UNLABELLED for label in labels)} of {len(labels)} rows of this group have no label"
            raise RowError("label", found, "Label all of them, or none.")
        ids = [str(row["id"]) for row in rows]
        candidates = [each for row in rows for each in _listed(row[name])]
        return {**rows[0], "id": ids[0], "candidate_ids": ids, "label": labels, name: candidates}

    def read(self, values: Mapping[str, Any]) -> Example:
        """A question, its candidates, and the relevance of each.

        Raises:
            RowError: there is no candidate, a text is empty, the number of ids or labels is not that of the candidates,
                an id is repeated, a relevance is invalid, or several candidates are best where one is expected.
        """
        name = self.task.inputs[-1]
        given = _listed(values[name])
        for key, value in [(key, values[key]) for key in self.task.inputs[:-1]] + [(name, each) for each in given]:
            if not (value is None or isinstance(value, (str, int, float))):
                fix = "Give each as a text." if key == name and len(given) > 1 else self._text_fix(key, value)
                raise RowError(key, f"a {type(value).__name__}; expected a text", fix)
        candidates = ["" if each is None or each != each else str(each) for each in given]
        if not candidates:
            raise RowError(name, "no candidates", "Give at least one, or remove the row.")
        if len(candidates) == 1:
            refuse_broken_list(candidates[0], name)
        texts = (*(str(values[each]) for each in self.task.inputs[:-1]), *candidates)
        names = (*self.task.inputs[:-1], *(f"{name} {number}" for number in range(1, len(candidates) + 1)))
        for key, text in zip(names, texts, strict=True):
            if not text.strip():
                raise RowError(key, "empty text", "Give the text, or remove the candidate.")
        label = self._label(values.get("label", ""), candidates)
        more = {"ids": self._ids(values, candidates), "count": len(candidates)}
        return Example(str(values["id"]), texts, label, more)

    def _ids(self, values: Mapping[str, Any], candidates: Sequence[str]) -> list[str]:
        ids = _split(values.get("candidate_ids", "")) or [str(number) for number in range(len(candidates))]
        _refuse_other_count("candidate_ids", ids, candidates)
        if len(set(ids)) < len(ids):
            repeated = next(each for each in ids if ids.count(each) > 1)
            raise RowError("candidate_ids", f"'{repeated}' is the id of two candidates", "Rename one of them.")
        return ids

    def _label(self, value: Any, candidates: Sequence[str]) -> list[float] | None:
        labels = _split(value)
        if not labels or labels == ["-"]:
            return None
        _refuse_other_count("label", labels, candidates)
        relevance = [self.parse_label(each) for each in labels]
        if self.options.one_best and relevance.count(max(relevance)) > 1:
            found = f"{relevance.count(max(relevance))} best candidates; expected one"
            raise RowError("label", found, "Mark one, or set one_best: false.")
        return relevance

    def parse_label(self, text: str) -> float:
        if self._index:
            return float(self._index[self._declared_label(text)])
        try:
            value = float(text)
        except ValueError as error:
            raise RowError("label", f"'{text}' is not a number", "Give a relevance such as 0 or 1.") from error
        if not 0 <= value < np.inf:
            raise RowError("label", f"'{text}' is not a relevance", "Give a number ≥ 0.")
        refuse_beyond_32_bits(value)
        return value

    def stored_label(self, label: list[float] | None) -> list[float]:
        return label or []

    def label_name(self, stored: float) -> float | None:
        return None if np.isnan(stored) else float(stored)

    def label_counts(self, stored: Any) -> Counter[Any]:
        """Number of rows with a relevant candidate, without one and without a label, and of all candidates."""
        rows = [stored.row(row) for row in range(len(stored))]
        relevant = sum(bool((row > 0).any()) for row in rows)
        unlabelled = sum(bool(np.isnan(row).any()) for row in rows)
        return Counter(
            {
                "with a relevant candidate": relevant,
                "with none": len(rows) - relevant - unlabelled,
                "candidates": len(stored.values),
                None: unlabelled,
            }
        )

    @property
    def shown_texts(self) -> tuple[str, ...]:
        (texts,) = self.pairs(Example("", super().shown_texts, None, {"count": 1}))
        return texts

    def pairs(self, example: Example) -> list[tuple[str, ...]]:
        """The texts of the sequence of each candidate."""
        first = example.texts[: -example.values["count"]]
        return [(*first, candidate) for candidate in example.texts[len(first) :]]

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        """One sequence per candidate, its relevance (NaN without a label) and its name."""
        columns: dict[str, Any] = dict(tokenize([pair for example in examples for pair in self.pairs(example)]))
        counts = [example.values["count"] for example in examples]
        of_rows = Ragged.from_lengths(columns["input_ids"].lengths.astype(np.int32), counts)
        starts = columns["input_ids"].offsets[of_rows.offsets]
        for name in ("input_ids", "token_type_ids", "segments"):
            if name in columns:
                columns[name] = Ragged(columns[name].values, starts)
        cut = np.add.reduceat(columns["truncated"], of_rows.offsets[:-1]) > 0
        labels = [self.stored_label(each.label) or [np.nan] * each.values["count"] for each in examples]
        return {
            "id": [each.id for each in examples],
            "label": Ragged.from_rows(labels, np.float32),
            **columns,
            "truncated": cut,
            "sequence_lengths": of_rows,
            "candidate_names": [json.dumps(self.names(each), ensure_ascii=False) for each in examples],
        }

    def names(self, example: Example) -> list[str]:
        """The names of a row's candidates in predictions."""
        ids: list[str] = example.values["ids"]
        return ids

    # Learner: columns of a batch → labels, logits, loss, divergence.

    @property
    def num_outputs(self) -> int:
        """1, the score of a candidate."""
        return 1

    def complete(self, batch: Batch, records: Records, *, seed: int) -> Batch:
        """The batch with labels [B, K], the relevances; `present` [B, K] bool, True = a candidate; and their names.

        Args:
            batch: the rows, as the collator made them.
            records: columns of the batch's rows.
            seed: not used.
        """
        label: Ragged = records["label"]
        labels = np.nan_to_num(label.padded(losses.UNKNOWN, np.float32), nan=losses.UNKNOWN)
        return replace(
            batch,
            labels=torch.from_numpy(labels),
            extras={**batch.extras, "present": torch.from_numpy(label.mask())},
            row_values={**batch.row_values, "names": [json.loads(text) for text in records["candidate_names"]]},
        )

    def logits(self, head: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        """[B, K] scores; −inf where there is no candidate.

        Args:
            head: this task's head.
            hidden: [N, T, H] the encoder's hidden states.
            batch: the rows, as the collator made them.
        """
        scores: Tensor = head(hidden, batch)
        return means.scores_by_row(scores[:, 0], batch.extras["present"], absent=-torch.inf)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.loss_function(logits, batch.labels)

    def label_count(self, batch: Batch) -> int:
        """Number of rows with a relevant candidate."""
        return 0 if batch.labels is None else int((batch.labels > 0).any(dim=1).sum())

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """[B]: divergence between the distributions over a row's candidates.

        Args:
            logits_p: [B, …] the predictions compared, not normalised.
            logits_q: [B, …] the reference predictions, not normalised.
            batch: the rows, as the collator made them.
            symmetric: both directions; False: KL(q‖p) alone.
        """
        return divergences.divergence_per_example(logits_p, logits_q, symmetric=symmetric)

    # Predictor: logits → records, and what reports need of them.

    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`prediction`: candidate names, the best first; `label`: name → relevance; `scores`: name → probability."""
        shares = torch.softmax(logits.float(), dim=-1).tolist()
        labels = (
            logits.new_full(logits.shape, losses.UNKNOWN).tolist() if batch.labels is None else batch.labels.tolist()
        )
        rows = zip(batch.row_ids, batch.row_values["names"], shares, labels, strict=True)
        return [self.record(*row) for row in rows]

    def record(self, row_id: str, names: list[str], shares: list[float], relevance: list[float]) -> dict[str, Any]:
        """One prediction record; numbers after the row's candidates are padding.

        Args:
            row_id: id of the row.
            names: names of the candidates.
            shares: softmax of the scores.
            relevance: relevance of each candidate.
        """
        order = sorted(range(len(names)), key=lambda place: -shares[place])
        label = dict(zip(names, relevance, strict=False)) if max(relevance) > 0 else None
        scores = {names[place]: shares[place] for place in order}
        return {"id": row_id, "prediction": [names[place] for place in order], "label": label, "scores": scores}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _split(value: Any) -> list[str]:
    """The comma-separated texts of a cell, or the items of a list as texts; empty for an empty cell.

    A cell that writes a list is read as one, as in a .csv that pandas wrote: `['a', 'b']`, `[0, 1]`.
    """
    listed = value if isinstance(value, (list, tuple)) else written_list(str(value).strip())
    if listed is not None:
        return [str(each).strip() for each in listed]
    return [each.strip() for each in str(value).split(",")] if str(value).strip() else []


def _refuse_other_count(key: str, values: Sequence[str], candidates: Sequence[str]) -> None:
    if len(values) != len(candidates):
        found = f"{len(values)} for {len(candidates)} candidates"
        raise RowError(key, found, "Give one for each candidate, separated by commas.")
