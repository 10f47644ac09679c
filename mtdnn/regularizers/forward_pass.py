"""What a regularizer sees of a step: embeddings, logits, the loss, and the same batch run again from other embeddings.

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

from mtdnn.batch import Batch
from mtdnn.errors import ConfigError, fault
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import has_token_types, position_ids
from mtdnn.networks.modes import evaluation_mode
from mtdnn.seeding import derive_seed, preserved_default_generators, seed_default_generators, torch_generator

DropoutMode = Annotated[Literal["same", "independent", "off"], BeforeValidator(lambda mode: mode or "off")]
"""YAML reads a bare `off` as false."""


Precision = Literal["run", "float32"]


Autocast = Callable[[], AbstractContextManager[Any]]


NOISE_CHUNK = 64
"""Tokens whose noise is drawn at once: a multiple of every size PyTorch vectorises by, so that what a token gets does
not depend on how far its row is padded."""


class ForwardPass:
    """One batch on its way through the model: everything a regularizer sees.

    Nothing here names the type of the task. The clean pass runs once, when `logits` is first asked for.

    Args:
        model: in training mode during training; in evaluation mode no pass has dropout.
        batch: rows of one task.
        seed, step, part, rank: dropout masks and noise are functions of these (and of row ids) alone.
        precision: run = as `autocast` says; float32 = every pass in full float32.
        autocast: context of the run's passes.
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
    ) -> None:
        self.model, self.batch, self.precision = model, batch, precision
        self._seed, self._step, self._part, self._rank = seed, step, part, rank
        self._autocast = autocast
        self._independent_passes = 0

    @cached_property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @cached_property
    def mask(self) -> Tensor:
        """[N, T] bool, True = a real token; on the model's device."""
        return self.batch.mask.to(self.device)

    @property
    def labels(self) -> Tensor | None:
        """As in the batch."""
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
        """[N, T, E]: the same, looked up anew, for passes that are sent backward one by one."""
        with self._numbers(self.precision):
            embeddings: Tensor = self.model.encoder.embed(self.batch.inputs["input_ids"])
            return embeddings

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the clean pass, with gradient."""
        seed_default_generators(*self._dropout_stream)
        with self._numbers(self.precision):
            logits: Tensor = self.model(self.batch, self.embeddings)
            return logits

    @property
    def has_logits(self) -> bool:
        """Whether the clean pass has run."""
        return "logits" in self.__dict__

    def rerun(self, embeddings: Tensor, *, dropout: DropoutMode = "same", precision: Precision | None = None) -> Tensor:
        """Logits of the same batch for other word embeddings; random states outside stay as they are.

        Args:
            embeddings: [N, T, E]; gradients flow through them and into the weights.
            dropout: same = the masks of the clean pass; independent = new ones at each call; off = none.
            precision: None takes that of the clean pass.
        """
        with preserved_default_generators(), self._masks(dropout), self._numbers(precision or self.precision):
            logits: Tensor = self.model(self.batch, embeddings)
            return logits

    def rerun_with(self, model: nn.Module) -> Tensor:
        """Logits of the same batch through other weights: no dropout, no gradient."""
        with torch.no_grad(), evaluation_mode(model), self._numbers(self.precision):
            logits: Tensor = model(self.batch)
            return logits

    def embedding_block(self, embeddings: Tensor, *, dropout: DropoutMode = "same") -> Tensor:
        """[N, T, E]: word embeddings after the encoder's embedding block (positions, types, LayerNorm, dropout).

        Raises:
            ConfigError: the encoder has none, or its output has another size than its word embeddings.
        """
        block = getattr(self.model.encoder.backbone, "embeddings", None)
        if block is None:
            raise ConfigError(fault("", "regularizer", "this encoder has no embedding block", "Use embeddings: word."))
        known = inspect.signature(block.forward).parameters
        types = self.batch.inputs.get("token_type_ids") if has_token_types(self.model.encoder.config) else None
        offered = {
            "token_type_ids": types,
            "position_ids": position_ids(self.mask, self.model.encoder._position_offset),
            "mask": self.mask,
        }
        given: dict[str, Tensor | None] = {
            name: value for name, value in offered.items() if name in known and value is not None
        }
        if "input_ids" in known:
            given["input_ids"] = None  # DistilBERT's has no default
        with preserved_default_generators(), self._masks(dropout), self._numbers(self.precision):
            output: Tensor = block(inputs_embeds=embeddings, **given)
        if output.shape != embeddings.shape:
            found = f"the embedding block gives {output.shape[-1]} numbers per token, not {embeddings.shape[-1]}"
            raise ConfigError(fault("", "regularizer", found, "Use embeddings: word."))
        return output

    def divergence(self, logits_p: Tensor, logits_q: Tensor, *, symmetric: bool = True) -> Tensor:
        """[B]: ℓ_s of this task, per row; differentiable in both. False: KL(q‖p) alone, q being the reference.

        Args:
            logits_p: [B, …] the predictions compared, not normalised.
            logits_q: [B, …] the reference predictions, not normalised.
            symmetric: both directions; False: KL(q‖p) alone.
        """
        task_type = self.model.task_types[self.batch.task]
        return task_type.divergence(logits_p, logits_q, self.batch, symmetric=symmetric)

    def loss(self, logits: Tensor) -> Tensor:
        """The task's own loss against its labels, and soft labels where it has them, a scalar."""
        return self.model.task_types[self.batch.task].training_loss(logits, self.batch)

    def noise(self, size: float, *, uniform: bool = False) -> Tensor:
        """[N, T, E]: N(0, size²), or uniform in [−size, size]; zero at padding.

        A row's noise is a function of seed, step and row id: neither padding, nor the parts a batch is computed in, nor
        the rank that gets the row changes it.
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
        """What each sequence's noise is drawn by: its row id and its place within the row."""
        counts = self.batch.extras.get("sequences")
        places = [1] * len(self.batch) if counts is None else counts.tolist()
        return [
            (row_id, place) for row_id, count in zip(self.batch.row_ids, places, strict=True) for place in range(count)
        ]

    @property
    def _dropout_stream(self) -> tuple[int, str, int, int, int]:
        return self._seed, "dropout", self._step, self._part, self._rank

    @contextmanager
    def _masks(self, dropout: DropoutMode) -> Iterator[None]:
        """Dropout masks of the given kind for the passes inside; to be used inside `preserved_default_generators`."""
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
    def _numbers(self, precision: Precision) -> Iterator[None]:
        """Autocast as the run has it, or none, and no TF32, for float32."""
        if precision == "run":
            with self._autocast():
                yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            torch.set_float32_matmul_precision(before)


def _draw(like: Tensor, generator: torch.Generator, uniform: bool) -> Tensor:
    """[T, E] standard normal, or uniform in [−1, 1], in the dtype of `like` [N, T, E]."""
    _, tokens, size = like.shape
    options: dict[str, Any] = {"generator": generator, "device": like.device, "dtype": like.dtype}
    draw = torch.rand if uniform else torch.randn
    noise = torch.cat([draw(NOISE_CHUNK, size, **options) for _ in range(0, tokens, NOISE_CHUNK)])[:tokens]
    return noise.mul_(2).sub_(1) if uniform else noise
