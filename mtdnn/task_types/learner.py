"""Columns of a batch → head, logits, loss, and the divergence between two predictions.

Dimensions: B rows, N sequences (B, or more where a row holds several), T tokens, H hidden, C outputs of the head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mtdnn.batch import Batch
from mtdnn.config.options import Named
from mtdnn.deferred import deferred
from mtdnn.task_types.declaration import Part
from mtdnn.tokens.ragged import Records

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtdnn.networks import heads, losses
    from mtdnn.networks.heads import Head
else:
    heads = deferred("mtdnn.networks.heads")
    losses = deferred("mtdnn.networks.losses")

LogitsOf = Literal["classes", "labels", "number", "candidates", "parts"]


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

    @property
    def named_loss(self) -> Named:
        """The loss named in the block, or else the default of the type."""
        return self.task.loss or Named(name=self.default_loss)

    @cached_property
    def loss_function(self) -> Callable[..., Tensor]:
        """`named_loss` with its options bound."""
        return losses.loss_of(self.named_loss)

    @property
    def head_class(self) -> type[Head]:
        """The class of the task's head."""
        name = self.head_named(self.task).name
        return heads.HEADS.get(name, where=self.task.where("head"), key=f"{self.task.name}.head")

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
        given = {key: value for key, value in self.head_named(self.task).options.items() if value is not None}
        known = {"activation", *self.head_class.Options.model_fields}
        options = {**{key: value for key, value in family.items() if key in known}, **given}
        return self.head_class(hidden_size, self.num_outputs, dropout=self.task.dropout, **options)

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
