"""Masked language modelling: continued pre-training on texts of a domain, alone or together with other tasks.

Dimensions: B rows, N pieces of text (sequences), T tokens, M hidden tokens of the batch, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from mtdnn.batch import IGNORED, NO_WORD, Batch
from mtdnn.config.options import Options
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import ConfigError, Fault
from mtdnn.rows.example import Example, RowError
from mtdnn.seeding import numpy_generator
from mtdnn.task_types.base import TASK_TYPES, TaskType, TokenizeBatch
from mtdnn.tokens.ragged import Column, Ragged, Records
from mtdnn.tokens.windows import as_batch, sequence_columns, windows

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from mtdnn.networks import divergences, means
else:
    torch = deferred("torch")
    divergences = deferred("mtdnn.networks.divergences")
    means = deferred("mtdnn.networks.means")


class MaskedLMOptions(Options):
    """Keys specific to masked_lm."""

    hidden_share: float = Field(0.15, gt=0, lt=1, description="Share of a text's tokens that are predicted.")
    mask_share: float = Field(0.8, ge=0, le=1, description="Share of these replaced by the mask token.")
    random_share: float = Field(
        0.1, ge=0, le=1, description="Share of these replaced by a random token; others are unchanged."
    )
    whole_words: bool = Field(False, description="Hide all sub-words of a word, or none of them.")

    @model_validator(mode="after")
    def _shares(self) -> MaskedLMOptions:
        if self.mask_share + self.random_share > 1:
            raise ValueError("mask_share + random_share is more than 1")
        return self


@TASK_TYPES.register("masked_lm")
class MaskedLM(TaskType):
    """Predicts hidden tokens of a text; they are chosen again for each training batch.

    Rows have no label; a text longer than max_length is split into pieces, and nothing is cut off. In each piece
    round(share · tokens) tokens are hidden, at least one, and with whole words at least that many, drawn from the
    batch's seed and the row's id, so that evaluation always hides the same tokens. In a row with the tokenizer's mask
    token, only these tokens are hidden and there is no label: `mtdnn predict` fills them in.

    Source: Devlin et al. 2019, arXiv 1810.04805, appendix A.1 (80 / 10 / 10); whole words: their code of May 2019.
    """

    Options = MaskedLMOptions
    num_inputs = (1,)
    hub_task = "fill-mask"
    default_metrics = ("perplexity", "token_accuracy")
    default_loss = "cross_entropy"
    losses = ("cross_entropy",)
    metrics = default_metrics
    heads = ("masked_lm",)
    logits_of = "parts"
    label_dtype = "int64"
    float32_logits = False  # its size is the vocabulary's, so that float32 would slow down the whole step
    sample_block = {"task_type": "masked_lm", "inputs": ["text"]}
    sample_rows = (
        "1\tThe ferry to the island leaves at noon.",
        "2\tNobody had seen the lighthouse keeper since the storm.",
        "3\tRain.",
    )
    options: MaskedLMOptions

    # Format: rows → columns of the prepared store, without PyTorch.

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task)
        if task.labels:
            found.append(task.fault("labels", "a masked_lm task has no labels", "Remove the key."))
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        return ("id", *self.task.inputs)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.mask_token_id is None:
            found = f"{type(tokenizer).__name__} has no mask token"
            raise ConfigError(self.task.fault("task_type", found, "Choose an encoder trained with a mask token."))
        super().bind(tokenizer)

    def read(self, values: Mapping[str, Any]) -> Example:
        """A row's text; the label True means that the row can be used for training."""
        return replace(super().read({**values, "label": ""}), label=True)

    def parse_label(self, text: str) -> Any:
        raise RowError("label", "a row of text has no label", "Leave it out.")

    def stored_label(self, label: Any) -> int:
        return 0

    def label_name(self, stored: Any) -> None:
        return None

    def label_counts(self, stored: Any) -> Counter[Any]:
        """Empty: there are no labels to count."""
        return Counter()

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        """The pieces of each row, and `words`: the number of each token's word in its row, −1 for special ones."""
        tokenizer = self.bound_tokenizer()
        texts = [example.texts[0] for example in examples]
        rows = windows(tokenizer, texts, max_length=self.task.max_length, overlap=0)
        columns = sequence_columns(tokenizer, rows)
        words = [each.words for row in rows for each in row]
        return {
            "id": [each.id for each in examples],
            "label": np.zeros(len(examples), np.int64),
            **columns,
            "words": Ragged(np.concatenate([np.zeros(0, np.int32), *words]), columns["input_ids"].offsets),
        }

    # Learner: columns of a batch → labels, logits, loss, divergence.

    @property
    def num_outputs(self) -> int:
        """V, the size of the tokenizer's vocabulary; the encoder's may be larger."""
        return len(self.bound_tokenizer())

    @cached_property
    def _replacements(self) -> np.ndarray:
        """Ids of all tokens except the special ones."""
        tokenizer = self.bound_tokenizer()
        return np.setdiff1d(np.arange(len(tokenizer)), np.array(tokenizer.all_special_ids))

    def complete(self, batch: Batch, records: Records, *, seed: int) -> Batch:
        """The batch with hidden tokens; labels [N, T]: their ids, IGNORED elsewhere; `places` [M] of them.

        Args:
            batch: the rows, as the collator made them.
            records: columns of the batch's rows.
            seed: seed of the random draws.
        """
        words = as_batch(records["words"], records["sequence_lengths"], batch.mask, NO_WORD).numpy()
        ids = batch.inputs["input_ids"].numpy().copy()
        mask_id = self.bound_tokenizer().mask_token_id
        hidden, labels = np.zeros(ids.shape, bool), np.full(ids.shape, IGNORED, np.int64)
        given = ids == mask_id
        rows = batch.row_of_sequence.tolist()
        pieces: Counter[int] = Counter()
        given_rows = {row for row, has in zip(rows, given.any(axis=1).tolist(), strict=True) if has}
        for number, row in enumerate(rows):
            if row in given_rows:
                hidden[number] = given[number]
                continue
            places, generator = self._choose(words[number], seed, batch.row_ids[row], pieces[row])
            pieces[row] += 1
            hidden[number, places] = True
            labels[number, places] = ids[number, places]
            self._hide(ids[number], places, mask_id, generator)
        return replace(
            batch,
            inputs={**batch.inputs, "input_ids": torch.from_numpy(ids)},
            labels=torch.from_numpy(labels),
            extras={**batch.extras, "places": torch.from_numpy(np.flatnonzero(hidden))},
            row_values={**batch.row_values, "given": [row in given_rows for row in range(len(batch))]},
        )

    def _choose(self, words: np.ndarray, seed: int, row_id: str, piece: int) -> tuple[np.ndarray, np.random.Generator]:
        """Positions [M] of the tokens to hide in one piece, in order, and the generator for further draws."""
        generator = numpy_generator(seed, "hidden words", row_id, piece)
        tokens = np.flatnonzero(words != NO_WORD)
        if not len(tokens):
            return tokens, generator
        count = max(1, round(self.options.hidden_share * len(tokens)))
        if not self.options.whole_words:
            return np.sort(generator.choice(tokens, count, replace=False)), generator
        order, sizes = np.unique(words[tokens], return_counts=True)
        shuffled = generator.permutation(len(order))
        enough = int(np.searchsorted(np.cumsum(sizes[shuffled]), count)) + 1
        return tokens[np.isin(words[tokens], order[shuffled[:enough]])], generator

    def _hide(self, ids: np.ndarray, places: np.ndarray, mask_id: int, generator: np.random.Generator) -> None:
        """Replace the chosen tokens of one piece by the mask token or a random token, or leave them unchanged."""
        draw = generator.random(len(places))
        replaced = draw < self.options.mask_share + self.options.random_share
        ids[places[replaced]] = generator.choice(self._replacements, int(replaced.sum()))
        ids[places[draw < self.options.mask_share]] = mask_id

    def build_head(self, hidden_size: int, *, family: Mapping[str, Any], word_embeddings: nn.Embedding) -> nn.Module:
        dropout = self.task.dropout if "dropout" in self.task.model_fields_set else 0.0  # BERT's has none
        return self.head_class(hidden_size, word_embeddings, dropout=dropout, **self.head_named(self.task).options)

    def logits(self, head: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        """[M, V], for the hidden tokens only, piece by piece: logits of all tokens would need too much memory.

        Args:
            head: this task's head.
            hidden: [N, T, H] the encoder's hidden states.
            batch: the rows, as the collator made them.
        """
        scores: Tensor = head(batch.at_places(hidden), batch)
        return scores

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.loss_function(logits, self._labels(batch))

    def _labels(self, batch: Batch) -> Tensor:
        """[M] ids of the hidden tokens; IGNORED if unknown."""
        if batch.labels is None:
            return torch.full_like(batch.extras["places"], IGNORED)
        return batch.at_places(batch.labels)

    def label_count(self, batch: Batch) -> int:
        return 0 if batch.labels is None else int((batch.labels != IGNORED).sum())

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """[B]: the mean over a row's hidden tokens.

        Args:
            logits_p: [B, …] the predictions compared, not normalised.
            logits_q: [B, …] the reference predictions, not normalised.
            batch: the rows, as the collator made them.
            symmetric: both directions; False: KL(q‖p) alone.
        """
        per_token = divergences.divergence_per_example(logits_p, logits_q, symmetric=symmetric)
        return means.mean_by_row(per_token, batch.row_of_place, len(batch))

    # Predictor: logits → records, and what reports need of them.

    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`prediction` and `label` are lists of tokens in the order of the text; `scores` is for `perplexity`."""
        labels = self._labels(batch)
        nll = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
        tokens = self.bound_tokenizer().convert_ids_to_tokens
        unknown = [True] * len(batch) if batch.labels is None else batch.row_values["given"]
        records: list[dict[str, Any]] = [
            {"id": row_id, "prediction": [], "label": None if given else [], "scores": {"nll": 0.0, "tokens": 0}}
            for row_id, given in zip(batch.row_ids, unknown, strict=True)
        ]
        found = zip(batch.row_of_place.tolist(), logits.argmax(-1).tolist(), labels.tolist(), nll.tolist(), strict=True)
        for row, guess, label, value in found:
            record = records[row]
            record["prediction"].append(tokens(guess))
            if label != IGNORED:
                record["label"].append(tokens(label))
                record["scores"]["nll"] += value
                record["scores"]["tokens"] += 1
        return records
