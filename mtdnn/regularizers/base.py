"""What a regularizer is, and all it sees of a training step: `ForwardPass` in, terms of the loss out.

Dimensions: B rows, N sequences (N = B unless a row holds several), T tokens, E size of the word embeddings.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.config.tasks import Named
from mtdnn.errors import ConfigError, fault
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import has_token_types, position_ids
from mtdnn.registry import Registry
from mtdnn.seeding import derive_seed, preserved_default_generators, seed_default_generators, torch_generator
from mtdnn.task_types.base import option_faults

logger = logging.getLogger(__name__)

REGULARIZERS: Registry[type[Regularizer]] = Registry(
    "regularizer", base=lambda: Regularizer, own=("name", "penalty or losses")
)

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
        """[B]: ℓ_s of this task, per row; differentiable in both. False: KL(q‖p) alone, q being the reference."""
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


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class Terms:
    """What is sent backward at once.

    Attributes:
        loss: the part that is a mean over labels, a scalar.
        penalty: the part that is a mean over rows, times its weight, a scalar; None without one.
        measured: the penalty without its weight, for the log.
        then_update: the optimizer moves right after this backward pass, though the step goes on.
        log_share: factor of the loss in the log, where several losses of a step are its replays.
    """

    loss: Tensor
    penalty: Tensor | None = None
    measured: Tensor | None = None
    then_update: bool = False
    log_share: float = 1.0


@dataclass(frozen=True)
class RunPrecision:
    """The numbers a run computes with.

    Attributes:
        name: bf16, fp16, tf32, float32, float64.
        spacing: distance from 1 to the next number.
        of_logits: the task's logits are such numbers too; otherwise they are no coarser than float32.
    """

    name: str
    spacing: float
    of_logits: bool = False

    @classmethod
    def of(cls, dtype: torch.dtype) -> RunPrecision:
        """That of a dtype."""
        names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        return cls(names.get(dtype, str(dtype).removeprefix("torch.")), torch.finfo(dtype).eps)


class RegularizerOptions(BaseModel):
    """Options every regularizer has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="λ, factor of the penalty; 0 turns it off.")
    every: int = Field(1, ge=1, description="Apply at each k-th step of the task, the penalty k·λ-fold; 1 = all.")


class Regularizer:
    """Something added to a task's loss, or put in its place.

    A method that adds to the loss gives `penalty`; one that goes backward several times, or replaces the loss, gives
    `losses`. One object serves one task.

    Class attributes:
        name: the registered name, also the one in the log.
        Options: checked by pydantic.
        task_types: names of the task types it can be used with; None = every one.
        moves_within_step: whether the optimizer moves between its backward passes, which parts of a batch must not.
    Attributes:
        tell: what takes the lines that `prepare` has for the log; a run lets through what several tasks say once.
    """

    name: ClassVar[str]
    Options: ClassVar[type[RegularizerOptions]] = RegularizerOptions
    task_types: ClassVar[tuple[str, ...] | None] = None
    moves_within_step: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        self.options: Any = self.Options(**options)
        self.steps_seen = 0
        self.precision: Precision = "run"
        self.tell: Callable[[str], object] = logger.info

    @classmethod
    def faults(cls, named: Named, where: str, key: str, task_type: str | None = None) -> list[str]:
        """Everything in `{name: …, options}` that cannot be used, as `file:line: key: …` lines.

        Args:
            where, key: place and key of the block, e.g. "run.yml:9", "regularizer".
            task_type: name of the type of the task it is for; None when that is not known.
        """
        found_in = option_faults(cls.Options, named.options)
        faults = [fault(where, f"{key}.{option}", found) for option, found in found_in]
        if cls.task_types is not None and task_type is not None and task_type not in cls.task_types:
            found = f"{cls.name} is not defined for {task_type}; it is for {', '.join(cls.task_types)}"
            faults.append(fault(where, key, found, "Use another regularizer, or `none`, for this task."))
        return faults

    @property
    def weight(self) -> float:
        """λ; 0 = off."""
        return float(self.options.weight)

    @property
    def is_due(self) -> bool:
        """Whether it applies at the step at hand."""
        return self.weight > 0 and self.steps_seen % self.options.every == 0

    @property
    def cost(self) -> float:
        """Forward units of a step: forward 1, backward 2, backward to the input only 1; a plain step is 3."""
        raise NotImplementedError

    def prepare(self, *, embedding_rms: float, embedding_size: int, precision: RunPrecision) -> None:
        """Settle, before the first step, what depends on the encoder and on the run's precision."""

    @property
    def needs_resolution(self) -> bool:
        """Whether it is worth loading the encoder for `precision_faults`."""
        return False

    def precision_faults(
        self, where: str, key: str, *, embedding_rms: float, embedding_size: int, precision: RunPrecision
    ) -> list[str]:
        """What `prepare` would refuse, as lines with its place, for `check`."""
        return []

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        """A scalar ≥ 0, the mean over the rows of the batch, without its weight."""
        raise NotImplementedError

    def losses(self, forward_pass: ForwardPass) -> Iterator[Terms]:
        """Terms of the task's loss, each sent backward before the next is asked for."""
        loss = forward_pass.loss(forward_pass.logits)
        penalty = self.penalty(forward_pass)
        yield Terms(loss, self.weight * self.options.every * penalty, penalty)

    def after_step(self) -> None:
        """The optimizer has moved after a step of this task."""
        self.steps_seen += 1

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars about the last step it applied to, on the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"steps_seen": self.steps_seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.steps_seen = state["steps_seen"]
