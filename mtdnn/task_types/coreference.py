"""What a pronoun refers to: the Winograd schemas of WNLI, WSC and PDP, by a hybrid of two scores.

Dimensions: B rows, N sequences (two for each candidate), T tokens, H hidden, K largest number of candidates in a row,
M masked tokens of the batch, V vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from mtdnn.batch import IGNORED, Batch
from mtdnn.config.options import Options
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import ConfigError, Fault
from mtdnn.metrics.base import Record
from mtdnn.metrics.stored import kept
from mtdnn.metrics.thresholds import accuracy_threshold
from mtdnn.rows.example import UNLABELLED, Example, RowError, refuse_broken_list, whole
from mtdnn.task_types.base import TASK_TYPES, TaskType, TokenizeBatch, label_faults, wrong_answer
from mtdnn.tokens.candidates import CandidateSequence, candidate_sequences
from mtdnn.tokens.ragged import Column, Ragged, Records
from mtdnn.tokens.windows import as_batch, sequence_columns

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from mtdnn.networks import divergences, heads, losses, means
else:
    torch = deferred("torch")
    heads = deferred("mtdnn.networks.heads")
    divergences = deferred("mtdnn.networks.divergences")
    means = deferred("mtdnn.networks.means")
    losses = deferred("mtdnn.networks.losses")


class CoreferenceOptions(Options):
    """Keys specific to coreference."""

    marker: str = Field("*", min_length=1, description="What encloses the pronoun in the text: He said *it* rained.")
    threshold: float = Field(
        0.25, ge=0, le=1, description="Score above which the only candidate of a row is the antecedent."
    )
    tune_threshold: bool = Field(False, description="Choose this threshold on the dev split, by accuracy.")


@TASK_TYPES.register("coreference")
class Coreference(TaskType):
    """Chooses the antecedent of a pronoun among candidates, by a language model and a semantic similarity.

    A row is `id, label, text, candidate, candidate, …`; the pronoun in the text is between two markers. The label is
    the number of the right candidate, from 0. If the task has two labels, such as `labels: ["no", "yes"]`, it is one of
    them: whether the first candidate is the antecedent; other candidates of such a row are its rivals, of which one is
    the antecedent if the first is not, and a row may have none.

    Each candidate is scored by ½ (P(candidate) + σ(cᵀ W p)). P is the geometric mean of the probabilities of its tokens
    where masks replace the pronoun; c and p are attention-weighted sums over the tokens of the candidate and of the
    pronoun in the sequence of the text and the candidate. The prediction is the softmax of γ times the scores. A
    candidate without rivals competes with `threshold`.

    Source: He et al. 2019, arXiv 1907.11983, sections 2 and 3; the bilinear similarity, γ = 10 and the margin 0.6 are
    those of the authors' script. Different here: a row may have any number of rivals; their code ranks two.
    """

    Options = CoreferenceOptions
    num_inputs = (2,)
    default_metrics = ("accuracy",)
    default_loss = "hybrid"
    losses = ("hybrid",)
    metrics = ("accuracy", "f1", "mcc")
    heads = ("hybrid",)
    logits_of = "parts"
    label_dtype = "float32"
    repeats_last = True
    unstored = ("threshold", "tune_threshold")
    sample_block = {"task_type": "coreference", "inputs": ["text", "candidate"]}
    sample_rows = (
        "1\t0\tThe drawer stuck, so Ola oiled *it* twice.\tThe drawer\tOla",
        "2\t1\tMia thanked Ida because *she* had waited.\tMia\tIda",
        "3\t1\tThe ball hit the vase and *it* broke.\tThe ball\tthe vase\tthe shelf",
    )
    options: CoreferenceOptions

    # Format: rows → columns of the prepared store, without PyTorch.

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task) + label_faults(task)
        if task.labels and len(task.labels) != 2:
            fix = 'Give two, for "it is not the first candidate" and "it is": ["no", "yes"]; or none.'
            found.append(task.fault("labels", f"{len(task.labels)} labels", fix))
        of_labels = [name for name in task.metrics if name in ("f1", "mcc")]
        if of_labels and not task.labels:
            fix = "Set metrics: [accuracy], or give two labels."
            found.append(task.fault("metrics", f"{', '.join(of_labels)} without labels", fix))
        if task.options.get("tune_threshold") is True and not task.labels:
            found.append(task.fault("tune_threshold", "no threshold without labels", "Remove it."))
        return found

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.mask_token_id is None or not tokenizer.is_fast:
            lack = "mask token" if tokenizer.mask_token_id is None else "offsets of its tokens in the text"
            found = f"{type(tokenizer).__name__} has no {lack}"
            raise ConfigError(self.task.fault("task_type", found, "Choose an encoder trained with a mask token."))
        super().bind(tokenizer)

    def read(self, values: Mapping[str, Any]) -> Example:
        """The text without markers, the candidates, and the characters of the pronoun.

        Raises:
            RowError: there is no pronoun between two markers, a text is empty, or the label is not one of this row.
        """
        text_name, name = self.task.inputs
        text, start, end = self._marked(str(values[text_name]))
        given = values[name]
        listed = given if isinstance(given, (list, tuple)) else [given]
        candidates = ["" if each is None else str(each).strip() for each in listed]
        if not candidates or not all(candidates):
            raise RowError(name, "empty text" if candidates else "no candidates", "Give at least one.")
        if len(candidates) == 1:
            refuse_broken_list(candidates[0], name)
        if len(candidates) < 2 and not self.task.labels:
            fix = 'Give two or more; or set labels: ["no", "yes"], to ask whether it is this one.'
            raise RowError(name, "one candidate to choose from", fix)
        label = str(values.get("label", "")).strip()
        flags = None if label in UNLABELLED else self._flags(label, len(candidates))
        more = {"start": start, "end": end}
        return Example(str(values["id"]), (text, *candidates), flags, more)

    def _marked(self, text: str) -> tuple[str, int, int]:
        """The text without markers, and the pronoun's first character and the one after its last."""
        parts, mark = text.split(self.options.marker), self.options.marker
        if len(parts) != 3 or not parts[1].strip():
            found = f"'{mark}' comes {len(parts) - 1} times" if len(parts) != 3 else f"nothing between two '{mark}'"
            fix = f"Put the pronoun, and nothing else, between two: {mark}it{mark}."
            raise RowError(self.task.inputs[0], found, fix)
        return "".join(parts), len(parts[0]), len(parts[0]) + len(parts[1])

    def _flags(self, label: str, count: int) -> list[float]:
        """[K]: 1 for each candidate that can be the antecedent according to the label, else 0."""
        if self.task.labels:
            is_first = float(self._index[self._declared_label(label)])
            return [is_first] + [1.0 - is_first] * (count - 1)
        number = whole(label)
        if not number.isdecimal() or int(number) >= count:
            found = f"'{label}' is not the number of one of the {count} candidates"
            raise RowError("label", found, f"Give 0 to {count - 1}.")
        return [float(place == int(number)) for place in range(count)]

    def parse_label(self, text: str) -> str:
        return text

    def stored_label(self, label: list[float] | None) -> list[float]:
        return label or []

    def label_name(self, stored: Sequence[float]) -> str | None:
        """With labels, one of them; else the number of the right candidate."""
        flags = list(stored)
        if not flags or np.isnan(flags[0]):
            return None
        return self.task.labels[int(flags[0])] if self.task.labels else str(flags.index(1.0))

    def label_counts(self, stored: Any) -> Counter[Any]:
        """Label, or number of the right candidate, → rows; None → unlabelled rows."""
        return Counter(self.label_name(stored.row(row).tolist()) for row in range(len(stored)))

    def counted_labels(self, label: list[float]) -> list[str]:
        name = self.label_name(label)
        return [] if name is None else [name]

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        """Two sequences for each candidate: the text with masks in the pronoun's place, and text and candidate.

        `targets` has the tokens under the masks, `roles` says which tokens are the pronoun's and the candidate's.
        """
        rows = [self._sequences(example) for example in examples]
        labels = [self.stored_label(each.label) or [np.nan] * (len(each.texts) - 1) for each in examples]
        return {
            "id": [each.id for each in examples],
            "label": Ragged.from_rows(labels, np.float32),
            **sequence_columns(self.bound_tokenizer(), rows),
            "truncated": np.array([any(each.truncated for each in row) for row in rows], dtype=bool),
            "candidate_names": [json.dumps(each.texts[1:], ensure_ascii=False) for each in examples],
            "targets": Ragged.from_rows([[one for each in row for one in each.targets] for row in rows], np.int32),
            "roles": Ragged.from_rows([[one for each in row for one in each.roles] for row in rows], np.int8),
        }

    def _sequences(self, example: Example) -> list[CandidateSequence]:
        """The sequences of a row, two for each candidate."""
        text, *candidates = example.texts
        tokenizer, place = self.bound_tokenizer(), {**example.values, "max_length": self.task.max_length}
        return [each for one in candidates for each in candidate_sequences(tokenizer, text, one, **place)]

    # Learner: columns of a batch → labels, logits, loss, divergence.

    @property
    def num_outputs(self) -> int:
        """2, the parts of a candidate's score."""
        return 2

    def build_head(self, hidden_size: int, *, family: Mapping[str, Any], word_embeddings: nn.Embedding) -> nn.Module:
        named = self.head_named(self.task)
        head = self.head_class(hidden_size, word_embeddings, dropout=self.task.dropout, **named.options)
        heads.add_tuned(head, "threshold", torch.tensor(self.options.threshold))
        return head

    def complete(self, batch: Batch, records: Records, *, seed: int) -> Batch:
        """The batch with labels [B, K], 1 = can be the antecedent, 0 = cannot, UNKNOWN = no label or no candidate.

        Its extras are `present` [B, K] bool; `places` [M], where the M masks are in the flattened sequences that have
        them, and `targets` [M], the ids of the tokens under them; and `roles` [N, T].

        Args:
            batch: the rows, as the collator made them.
            records: columns of the batch's rows.
            seed: not used.
        """
        label: Ragged = records["label"]
        lengths = records["sequence_lengths"]
        labels = np.nan_to_num(label.padded(losses.UNKNOWN, np.float32), nan=losses.UNKNOWN)
        targets = as_batch(records["targets"], lengths, batch.mask, IGNORED)[0::2].flatten()
        places = (targets != IGNORED).nonzero().flatten()
        return replace(
            batch,
            labels=torch.from_numpy(labels),
            extras={
                **batch.extras,
                "present": torch.from_numpy(label.mask()),
                "places": places,
                "targets": targets[places],
                "roles": as_batch(records["roles"], lengths, batch.mask, 0),
            },
            row_values={**batch.row_values, "names": [json.loads(text) for text in records["candidate_names"]]},
        )

    def logits(self, head: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        """[B, K, 2]: log P of each candidate's tokens, their mean, and its similarity cᵀ W p; 0 without a candidate.

        Args:
            head: this task's head.
            hidden: [N, T, H] the encoder's hidden states.
            batch: the rows, as the collator made them.
        """
        scores: Tensor = head(hidden, batch)
        return means.scores_by_row(scores, batch.extras["present"], absent=0.0)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.loss_function(logits, batch.labels)

    def label_count(self, batch: Batch) -> int:
        """Number of labelled rows."""
        return 0 if batch.labels is None else int((batch.labels >= 0).any(dim=1).sum())

    def competition(self, logits: Tensor, present: Tensor, threshold: float | None = None) -> Tensor:
        """[B, K + 1]: γ times the score of each candidate, and of the threshold where a row has one candidate.

        Args:
            logits: [B, K, 2], see `logits`.
            present: [B, K] bool, True = a candidate.
            threshold: None takes the option.
        """
        scores = losses.hybrid_scores(logits).masked_fill(~present, -torch.inf)
        alone = present.sum(dim=1, keepdim=True) == 1
        rival = scores.new_full(alone.shape, self.options.threshold if threshold is None else threshold)
        return self._gamma * torch.cat([scores, rival.masked_fill(~alone, -torch.inf)], dim=1)

    @cached_property
    def _gamma(self) -> float:
        """γ of the loss; for a loss of the user's own that has none, the default of `hybrid`."""
        return float(losses.loss_options(self.named_loss).get("gamma", losses.HybridOptions().gamma))

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """[B]: the divergence of the distributions over a row's candidates.

        Args:
            logits_p: [B, K, 2] the predictions compared.
            logits_q: [B, K, 2] the reference predictions.
            batch: the rows, as the collator made them.
            symmetric: both directions; False: KL(q‖p) alone.
        """
        p, q = (self.competition(each, batch.extras["present"]) for each in (logits_p, logits_q))
        return divergences.divergence_per_example(p, q, symmetric=symmetric)

    # Predictor: logits → records, and what reports need of them.

    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`prediction`: the text of the best candidate or, with labels, one of them; `scores`: its probabilities.

        `candidates` has, for each, the two parts of its score: `language_model` and `similarity`.
        """
        present = batch.extras["present"]
        shares = torch.softmax(self.competition(logits, present), dim=-1).tolist()
        words, similarities = logits.float()[..., 0].exp().tolist(), logits.float()[..., 1].sigmoid().tolist()
        unknown = present.new_full(present.shape, False).float() + losses.UNKNOWN
        labels = (unknown if batch.labels is None else batch.labels).tolist()
        rows = zip(batch.row_ids, batch.row_values["names"], shares, labels, words, similarities, strict=True)
        return [self._record(*row) for row in rows]

    def _record(
        self,
        row_id: str,
        names: list[str],
        shares: list[float],
        flags: list[float],
        words: list[float],
        similarities: list[float],
    ) -> dict[str, Any]:
        known = None if flags[0] < 0 else self.label_name(flags)
        parts = [
            {"text": name, "language_model": word, "similarity": similarity}
            for name, word, similarity in zip(names, words, similarities, strict=False)
        ]
        if not self.task.labels:
            scores = {name: 0.0 for name in names}
            for name, share in zip(names, shares, strict=False):
                scores[name] += share
            prediction, label = max(scores, key=scores.__getitem__), None if known is None else names[int(known)]
        else:
            scores = dict(zip(self.task.labels, (1.0 - shares[0], shares[0]), strict=True))
            prediction, label = self.task.labels[int(shares[0] >= max(shares[1:]))], known
        return {"id": row_id, "prediction": prediction, "label": label, "scores": scores, "candidates": parts}

    def settle(self, records: Sequence[Record], head: nn.Module, *, tune: bool) -> Sequence[Record]:
        """The records; rows with one candidate are decided by the head's threshold.

        Args:
            records: the records of a whole split.
            head: this task's head.
            tune: with `tune_threshold`, choose the threshold from these records.
        """
        if not self.task.labels:
            return records
        buffer = head.get_buffer("threshold")
        if tune and self.options.tune_threshold:
            alone = [each for each in records if len(each["candidates"]) == 1 and each["label"]]
            if scored := [(_score(each), each["label"] == self.task.labels[1]) for each in alone]:
                buffer.fill_(accuracy_threshold(scored))
        threshold = float(buffer)
        return kept(self._settled(each, threshold) if len(each["candidates"]) == 1 else each for each in records)

    def _settled(self, record: dict[str, Any], threshold: float) -> dict[str, Any]:
        above = self._gamma * (_score(record) - threshold)
        share = 1.0 / (1.0 + float(np.exp(-above)))
        scores = dict(zip(self.task.labels, (1.0 - share, share), strict=True))
        return {**record, "prediction": self.task.labels[int(above >= 0)], "scores": scores}

    @property
    def confusion_labels(self) -> tuple[str, ...]:
        return self.task.labels

    def mistake(self, record: Record) -> float | None:
        return wrong_answer(record)


def _score(record: Mapping[str, Any]) -> float:
    """The score of a record's first candidate."""
    first = record["candidates"][0]
    return (float(first["language_model"]) + float(first["similarity"])) / 2
