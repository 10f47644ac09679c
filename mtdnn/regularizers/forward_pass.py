"""What a regularizer sees of a step: embeddings, logits, the loss, and reruns of the batch with other embeddings.

Dimensions: B rows, N sequences (N = B unless a row holds several), T tokens, E size of the word embeddings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from mtdnn.batch import Batch, on_device
from mtdnn.errors import ConfigError, fault
from mtdnn.execution.products import whole_float32
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import has_token_types, position_ids
from mtdnn.networks.modes import evaluation_mode
from mtdnn.regularizers.shared_pass import SharedPass
from mtdnn.seeding import derive_seed, preserved_default_generators, seed_default_generators, torch_generator

DropoutMode = Annotated[Literal["same", "independent", "off"], BeforeValidator(lambda mode: mode or "off")]
"""YAML reads a bare `off` as false."""


Precision = Literal["run", "float32"]


Autocast = Callable[[], AbstractContextManager[Any]]


NOISE_CHUNK = 64
"""Tokens whose noise is drawn at once: a multiple of every vector width of PyTorch, so that a token's noise does not
depend on the padding of its row."""


class ForwardPass:
    """The forward pass of one batch: everything a regularizer sees.

    Nothing here depends on the task type. The clean pass runs once, when `logits` is first used.

    Args:
        model: the model; in evaluation mode no pass has dropout.
        batch: rows of one task.
        seed, step, part, rank: dropout masks and noise are functions of these (and of row ids) alone.
        precision: run = that of `autocast`; float32 = every pass in full float32.
        autocast: context of the run's passes.
        shared: a pass of the encoder that the clean pass takes its hidden states from, with other tasks; None: its own.
        loss_scale: factor of every loss that goes backward, a scalar, in a run with loss scaling; None: no scaling.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        batch: Batch,
        *,
        seed: int,
        step: int,
        part: int = 0,
        rank: int = 0,
        precision: Precision = "run",
        autocast: Autocast = nullcontext,
        shared: SharedPass | None = None,
        loss_scale: Tensor | None = None,
    ) -> None:
        self.loss_scale = loss_scale
        self._shared = shared if precision == "run" else None
        self.model, self.batch, self.precision = model, batch, precision
        self._seed, self._step, self._part, self._rank = seed, step, part, rank
        self._autocast = autocast
        self._independent_passes = 0

    @cached_property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    @cached_property
    def mask(self) -> Tensor:
        """[N, T] bool, True = a real token; on the model's device."""
        return on_device(self.batch.mask, self.device)

    @property
    def labels(self) -> Tensor | None:
        """Labels of the batch."""
        return self.batch.labels

    @cached_property
    def generator(self) -> torch.Generator:
        """The regularizer's own random stream for this step, on the batch's device."""
        return torch_generator(self._seed, "regularizer", self._step, self._part, self._rank, device=self.device)

    @cached_property
    def embeddings(self) -> Tensor:
        """[N, T, E]: the word embeddings of the batch, with gradient."""
        return self.embed()

    def embed(self) -> Tensor:
        """[N, T, E]: the same, looked up again, for methods with several backward passes."""
        seed_default_generators(*self._dropout_stream, "embeddings")  # a hook on the lookup may draw, as NEFTune's does
        with self._in_precision(self.precision):
            embeddings: Tensor = self.model.encoder.embed(self.batch.inputs["input_ids"])
            return embeddings

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the clean pass, with gradient."""
        if self._shared is not None:
            with self._in_precision(self.precision):
                return self.model.task_logits(self.batch.task, self._shared.hidden(self.batch), self.batch)
        embeddings = self.embeddings
        seed_default_generators(*self._dropout_stream)
        with self._in_precision(self.precision):
            logits: Tensor = self.model(self.batch, embeddings)
            return logits

    @property
    def has_logits(self) -> bool:
        """Whether the clean pass has run."""
        return "logits" in self.__dict__

    def rerun(self, embeddings: Tensor, *, dropout: DropoutMode = "same", precision: Precision | None = None) -> Tensor:
        """Logits of the same batch for other word embeddings; the default random states are left unchanged.

        Args:
            embeddings: [N, T, E]; gradients flow through them and into the weights.
            dropout: same = the masks of the clean pass; independent = new masks at each call; off = none.
            precision: None takes that of the clean pass.
        """
        with preserved_default_generators(), self._dropout(dropout), self._in_precision(precision or self.precision):
            logits: Tensor = self.model(self.batch, embeddings)
            return logits

    def rerun_with(self, model: nn.Module) -> Tensor:
        """Logits of the same batch from a model with other weights, without dropout or gradient."""
        with torch.no_grad(), evaluation_mode(model), self._in_precision(self.precision):
            logits: Tensor = model(self.batch)
            return logits

    def gradient(self, loss: Tensor, at: Tensor) -> Tensor:
        """The gradient of a scalar at a tensor, and of no weight.

        Args:
            loss: not scaled.
            at: what it depends on, such as changed word embeddings.
        """
        if self.loss_scale is None:
            return torch.autograd.grad(loss, at)[0]
        return self.unscaled(torch.autograd.grad(loss * self.loss_scale, at)[0])

    def unscaled(self, gradient: Tensor) -> Tensor:
        """A gradient of a scaled loss as that of the loss itself; 0 where it has overflowed, which is no direction."""
        if self.loss_scale is None:
            return gradient
        return torch.nan_to_num(gradient / self.loss_scale, nan=0.0, posinf=0.0, neginf=0.0)

    def embedding_block(self, embeddings: Tensor, *, dropout: DropoutMode = "same") -> Tensor:
        """[N, T, E]: word embeddings after the encoder's embedding block (positions, types, LayerNorm, dropout).

        Raises:
            ConfigError: the encoder has no such block, or its output has another size than the word embeddings.
        """
        block = getattr(self.model.encoder.backbone, "embeddings", None)
        if block is None:
            raise ConfigError(fault("", "regularizer", "this encoder has no embedding block", "Use embeddings: word."))
        accepted = inspect.signature(block.forward).parameters
        types = self.batch.inputs.get("token_type_ids") if has_token_types(self.model.encoder.config) else None
        available = {
            "token_type_ids": types,
            "position_ids": position_ids(self.mask, self.model.encoder.position_offset),
            "mask": self.mask,
        }
        given: dict[str, Tensor | None] = {
            name: value for name, value in available.items() if name in accepted and value is not None
        }
        if "input_ids" in accepted:
            given["input_ids"] = None  # DistilBERT's has no default
        with preserved_default_generators(), self._dropout(dropout), self._in_precision(self.precision):
            output: Tensor = block(inputs_embeds=embeddings, **given)
        if output.shape != embeddings.shape:
            found = f"the embedding block returns {output.shape[-1]} numbers per token, not {embeddings.shape[-1]}"
            raise ConfigError(fault("", "regularizer", found, "Use embeddings: word."))
        return output

    def divergence(self, logits_p: Tensor, logits_q: Tensor, *, symmetric: bool = True) -> Tensor:
        """[B]: ℓ_s of this task, per row, differentiable in both arguments.

        Args:
            logits_p: [B, …] the predictions compared, not normalised.
            logits_q: [B, …] the reference predictions, not normalised.
            symmetric: False = KL(q‖p) alone, with q as the reference.
        """
        task_type = self.model.task_types[self.batch.task]
        return task_type.divergence(logits_p, logits_q, self.batch, symmetric=symmetric)

    def loss(self, logits: Tensor) -> Tensor:
        """Scalar: the task's own loss against its labels, and its soft labels if it has any."""
        return self.model.task_types[self.batch.task].training_loss(logits, self.batch)

    def noise(self, size: float, *, uniform: bool = False) -> Tensor:
        """[N, T, E]: N(0, size²), or uniform in [−size, size]; zero at padding.

        A row's noise is a function of seed, step and row id: it does not depend on padding, on the parts a batch is
        computed in, or on the rank that has the row.
        """
        embeddings = self.embeddings
        if size == 0:
            return torch.zeros_like(embeddings, requires_grad=False)
        generator = torch.Generator(device=embeddings.device)
        draws = []
        for name in self._sequence_names():
            generator.manual_seed(derive_seed(self._seed, "noise", self._step, *name))
            draws.append(_draw(embeddings, generator, uniform))
        return (torch.stack(draws) * size).masked_fill(~self.mask.unsqueeze(-1), 0.0)

    def _sequence_names(self) -> list[tuple[str, int]]:
        """The seed names of each sequence's noise: its row id and its position within the row."""
        counts = self.batch.extras.get("sequences")
        places = [1] * len(self.batch) if counts is None else counts.tolist()
        return [
            (row_id, place) for row_id, count in zip(self.batch.row_ids, places, strict=True) for place in range(count)
        ]

    @property
    def _dropout_stream(self) -> tuple[int, str, int, int, int]:
        return dropout_stream(self._seed, step=self._step, part=self._part, rank=self._rank)

    @contextmanager
    def _dropout(self, dropout: DropoutMode) -> Iterator[None]:
        """Run the passes inside with the given dropout; use it inside `preserved_default_generators`."""
        if dropout == "off":
            with evaluation_mode(self.model):
                yield
            return
        if dropout == "same":
            seed_default_generators(*self._dropout_stream)
        else:
            self._independent_passes += 1
            seed_default_generators(*self._dropout_stream, "rerun", self._independent_passes)
        yield

    @contextmanager
    def _in_precision(self, precision: Precision) -> Iterator[None]:
        """Run the passes inside with the run's autocast; for float32 without autocast and without TF32."""
        if precision == "run":
            with self._autocast():
                yield
            return
        with whole_float32(), torch.autocast(self.device.type, enabled=False):
            yield


def dropout_stream(seed: int, *, step: int, part: int = 0, rank: int = 0) -> tuple[int, str, int, int, int]:
    """The seed names of the dropout masks of a part of a step.

    Args:
        seed: of the run.
        step, part, rank: as for `ForwardPass`.
    """
    return seed, "dropout", step, part, rank


def _draw(like: Tensor, generator: torch.Generator, uniform: bool) -> Tensor:
    """[T, E] standard normal, or uniform in [−1, 1], in the dtype of `like` [N, T, E]."""
    _, tokens, size = like.shape
    options: dict[str, Any] = {"generator": generator, "device": like.device, "dtype": like.dtype}
    draw = torch.rand if uniform else torch.randn
    noise = torch.cat([draw(NOISE_CHUNK, size, **options) for _ in range(0, tokens, NOISE_CHUNK)])[:tokens]
    return noise.mul_(2).sub_(1) if uniform else noise
