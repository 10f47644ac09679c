"""A Hugging Face model with its own head, with the interface for regularizers: word embeddings in, logits out.

Dimensions: B rows, T tokens, C classes, E size of the word embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mtdnn.batch import IGNORED, Batch
from mtdnn.errors import ConfigError, fault
from mtdnn.networks import divergences, means
from mtdnn.networks.encoder import embedding_rms
from mtdnn.networks.modes import evaluation_mode
from mtdnn.task_types.base import LogitsOf
from mtdnn.tokens.families import position_offset

SEQUENCE, TOKEN, SPAN = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"
"""transformers' names for the losses of the three kinds of models (`PreTrainedModel.loss_type`)."""

NUMBERS = "regression"
SEVERAL_LABELS = "multi_label_classification"
"""transformers' names for kinds of labels (`PreTrainedConfig.problem_type`)."""

NOT_INPUTS = ("labels", "start_positions", "end_positions", "attention_mask", "row_ids")
TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit, between a pass from ids and one from their word embeddings. It is
smaller than the effect of a wrong token, and larger than the rounding error of bf16 passes of a few layers."""

LossOf = Callable[[Tensor, Batch], Tensor]


class HeadedModel(nn.Module):
    """Any `AutoModelFor(SequenceClassification|TokenClassification|QuestionAnswering)`, fed by `Batch`.

    Args:
        model: a model of transformers, or one that peft made of it.
        tasks: names of tasks that batches may have; all use the model's one head.
    Raises:
        ConfigError: the model is of another kind.
    """

    def __init__(self, model: PreTrainedModel, tasks: tuple[str, ...]) -> None:
        super().__init__()
        if model.loss_type not in (SEQUENCE, TOKEN, SPAN):
            found = f"{type(model).__name__}, whose loss is {model.loss_type}"
            raise ConfigError(fault("", "model", found, f"Give a model with one of: {SEQUENCE}, {TOKEN}, {SPAN}."))
        self.model = model
        self.answers = Answers(model)
        self.task_types = dict.fromkeys(tasks, self.answers)
        self._through: list[Callable[..., Any]] = []

    @property
    def encoder(self) -> WordEmbeddings:
        """The part of the model that looks up word embeddings."""
        return WordEmbeddings(self.model)

    def go_through(self, wrapper: nn.Module) -> None:
        """Make all passes through a wrapper of the model, such as DistributedDataParallel, so that its hooks run."""
        self._through = [] if wrapper is self.model else [wrapper]

    def forward(self, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Logits [B, C], [B, T, C] or, for spans, [B, 2, T]; float32 at least.

        Args:
            batch: as returned by `batch_of`.
            embeddings: [B, T, E], word embeddings in place of those of the batch's tokens.
        """
        inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "mask"}
        if embeddings is not None:
            inputs["inputs_embeds"] = embeddings
            del inputs["input_ids"]
        call = self._through[0] if self._through else self.model
        with without_wrapped_forward(self.model):
            outputs = call(attention_mask=batch.mask.long(), **inputs)
        logits = self.answers.logits(outputs)
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    @torch.no_grad()
    def require_embeddings_fit(self, batch: Batch) -> None:
        """Raise ConfigError if passes from token ids and from their word embeddings differ.

        The heads of decoders, for example, look for the last token in the ids.
        """
        name, through, self._through = type(self.model).__name__, self._through, []
        fix = "Regularize it as an encoder of a task definition, with `mtdnn train`."
        try:
            with evaluation_mode(self):
                from_ids = self(batch)
                from_embeddings = self(batch, self.encoder.embed(batch.inputs["input_ids"]))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ConfigError(fault("", "model", f"{name} takes no word embeddings ({error})", fix)) from error
        finally:
            self._through = through
        difference = (from_ids - from_embeddings).abs().max()
        if difference > TOLERANCE * from_ids.abs().max().clamp(min=torch.finfo(from_ids.dtype).tiny):
            found = f"{name} returns other logits (by up to {difference:.1e}) for word embeddings than for their ids"
            raise ConfigError(fault("", "model", found, f"Pad on the other side. {fix}"))


@dataclass(frozen=True)
class WordEmbeddings:
    """The interface of an encoder for regularizers."""

    model: PreTrainedModel

    @property
    def backbone(self) -> nn.Module:
        """The model without its head."""
        base: nn.Module = self.model.base_model
        return base

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def position_offset(self) -> int:
        """Number of the first position."""
        return position_offset(self.model.base_model)

    def embed(self, input_ids: Tensor) -> Tensor:
        """[B, T] token ids → [B, T, E]."""
        embeddings: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeddings

    def embedding_rms(self) -> float:
        """Root mean square of all word embeddings."""
        return embedding_rms(self.model.get_input_embeddings())

    @property
    def embedding_size(self) -> int:
        """E, the size of a word embedding."""
        return int(self.model.get_input_embeddings().weight.shape[1])


@dataclass(frozen=True)
class _Weight:
    weight: float = 1.0


class Answers:
    """The loss of a model's head and the distance ℓ_s between two of its outputs.

    Args:
        model: the model with the head.
    """

    float32_logits = False
    task = _Weight()

    def __init__(self, model: PreTrainedModel) -> None:
        self.kind: str = model.loss_type
        self.config, self._loss = model.config, model.loss_function
        self.loss_of: LossOf = self.own_loss

    @property
    def is_span(self) -> bool:
        """Whether there are two sets of logits, of an answer's first and last token."""
        return self.kind == SPAN

    @property
    def logits_of(self) -> LogitsOf:
        """What the logits of a row are for, as in the task types; "classes" if only a batch can show several."""
        if self.kind != SEQUENCE:
            return "parts"
        if self.config.problem_type == SEVERAL_LABELS:
            return "labels"
        is_number = self.config.problem_type == NUMBERS or self.config.num_labels == 1
        return "number" if is_number else "classes"

    def logits(self, outputs: Any) -> Tensor:
        """The part of a model's output that is compared and scored."""
        if self.kind == SPAN:
            return torch.stack([outputs.start_logits, outputs.end_logits], dim=1)
        logits: Tensor = outputs.logits
        return logits

    def training_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss against the batch's labels, a scalar."""
        return self.loss_of(logits, batch)

    def own_loss(self, logits: Tensor, batch: Batch, **keywords: Any) -> Tensor:
        """The loss that the model itself computes from these logits, a scalar.

        Args:
            logits: the logits of the batch.
            batch: a batch with labels.
            keywords: further arguments of the model's loss function.
        Raises:
            ConfigError: the batch has no labels.
        """
        if batch.labels is None:
            raise ConfigError(fault("", "labels", "missing in the batch", "Give the labels under the model's names."))
        if self.kind == SPAN:
            starts, ends = batch.labels.unbind(1)
            loss: Tensor = self._loss(logits[:, 0], logits[:, 1], starts, ends, **keywords)
        elif self.kind == TOKEN:
            loss = self._loss(logits, batch.labels, self.config, **keywords)
        else:
            loss = self._loss(labels=batch.labels, pooled_logits=logits, config=self.config, **keywords)
        return loss

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """[B]: ℓ_s per row, as in the task types of mtdnn, see `mtdnn.task_types`.

        Args:
            logits_p: the predictions compared, not normalised.
            logits_q: the reference predictions, not normalised.
            batch: the rows.
            symmetric: both directions; False: KL(q‖p) alone. Not used by regression.
        """
        mask, problem = batch.mask.to(logits_p.device), self._problem(batch)
        if problem == NUMBERS:
            return means.masked_mean_per_example((logits_p - logits_q).square())
        if problem == SEVERAL_LABELS:
            return divergences.binary_divergence_per_example(logits_p, logits_q, symmetric=symmetric)
        if self.kind == SPAN:
            p, q = (x.masked_fill(~mask.unsqueeze(1), -torch.inf) for x in (logits_p, logits_q))
            return 2 * divergences.divergence_per_example(p, q, symmetric=symmetric)
        counts = None
        if self.kind == TOKEN:
            counts = mask if batch.labels is None else mask & (batch.labels != IGNORED)
        return divergences.divergence_per_example(logits_p, logits_q, counts, symmetric=symmetric)

    def _problem(self, batch: Batch) -> str | None:
        """The configuration's `problem_type`; without one, what transformers infers from the labels."""
        if self.kind != SEQUENCE or self.config.problem_type is not None:
            return self.config.problem_type if self.kind == SEQUENCE else None
        if self.config.num_labels == 1:
            return NUMBERS
        several = batch.labels is not None and batch.labels.is_floating_point()
        return SEVERAL_LABELS if several else "single_label_classification"


def batch_of(inputs: Mapping[str, Any], *, task: str, row_names: Callable[[int], str]) -> Batch:
    """The `Batch` of a mapping of tensors, as transformers has them.

    Args:
        inputs: `input_ids` [B, T]; `attention_mask` [B, T], all ones if missing; other inputs of the model; labels
            under the model's names; `row_ids`, B names of the rows, on which noise then depends.
        task: the batch's task.
        row_names: position in the batch → name of a row, used without `row_ids`.
    Raises:
        ConfigError: there are no `input_ids`.
    """
    if not isinstance(inputs.get("input_ids"), Tensor):
        raise ConfigError(fault("", "input_ids", "missing in the batch", "Give the tokens' ids: they are what moves."))
    ids = inputs["input_ids"]
    attention = inputs.get("attention_mask")
    mask = torch.ones_like(ids, dtype=torch.bool) if attention is None else attention.bool()
    names = inputs.get("row_ids")
    kept = {name: value for name, value in inputs.items() if name not in NOT_INPUTS and isinstance(value, Tensor)}
    return Batch(
        task=task,
        inputs={**kept, "mask": mask},
        labels=_labels(inputs),
        row_ids=[row_names(place) for place in range(len(ids))] if names is None else [str(name) for name in names],
    )


def _labels(inputs: Mapping[str, Any]) -> Tensor | None:
    """The labels, or for spans first and last position [B, 2]."""
    if "start_positions" in inputs:
        return torch.stack([inputs["start_positions"], inputs["end_positions"]], dim=1)
    return inputs.get("labels")


@contextmanager
def without_wrapped_forward(model: nn.Module) -> Iterator[None]:
    """A context in which `model.forward` is that of its class: accelerate replaces it, to choose the precision."""
    wrapped = model.__dict__.pop("forward", None) if "_original_forward" in model.__dict__ else None
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped
