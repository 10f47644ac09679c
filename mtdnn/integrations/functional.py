"""SMART and every other regularizer for your own training loop over a Hugging Face model.

Source: Jiang et al. 2020, arXiv 1911.03437, equation 2; for other regularizers see `mtdnn.regularizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from accelerate.utils import is_compiled_module
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from mtdnn.batch import Batch
from mtdnn.config.options import Named, named, named_faults
from mtdnn.errors import ConfigError, Fault, fault, unknown
from mtdnn.integrations.headed import Answers, HeadedModel, LossOf, batch_of
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.base import REGULARIZERS, Regularizer, RunPrecision
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.proximal import PROXIMAL, Proximal
from mtdnn.seeding import preserved_default_generators
from mtdnn.training.loss_scale import LossScale
from mtdnn.training.objective import LossPart, Objective

PlugIn = str | Mapping[str, Any] | None
"""A name, as in YAML, or a mapping of `name` and options; None: no plug-in."""

ONE_TASK = "task"


class Terms:
    """The losses of a step: the model's loss, and the weighted terms of a regularizer and of SMART's proximal point.

    Args:
        model: an `AutoModelForSequenceClassification`, `…TokenClassification` or `…QuestionAnswering`, possibly wrapped
            by peft or DistributedDataParallel; on its device, in training mode while training.
        regularizer: such as "smart" or {"name": "smart", "epsilon": 1e-3}; all but `free_at`.
        proximal: such as "momentum"; needs `total_steps`.
        tasks: task → its regularizer, if several tasks share the model; in place of `regularizer`.
        total_steps: number of optimizer steps of the run.
        seed: seed of noise and dropout masks, which depend on it and on the step.
        autocast: context of the forward passes, such as `accelerator.autocast`.
        scaler: what scales the losses of an fp16 loop, such as `accelerator.scaler`; gradients towards a perturbation
            are scaled by it too, as they would underflow. None: no scaling.
    Raises:
        ConfigError: an unknown name or option, or a model that cannot be used.

    Example:
        >>> terms = Terms(model, {"name": "smart", "epsilon": 1e-3}, "momentum", total_steps=len(loader))
        >>> for batch in loader:
        ...     for loss in terms.losses(batch):
        ...         loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     terms.after_step()
    """

    def __init__(
        self,
        model: nn.Module,
        regularizer: PlugIn = None,
        proximal: PlugIn = None,
        *,
        tasks: Mapping[str, PlugIn] | None = None,
        total_steps: int | None = None,
        seed: int = 0,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        scaler: GradScaler | None = None,
    ) -> None:
        wanted = named_regularizers(regularizer, tasks)
        if is_compiled_module(model):
            found = "compiled: its passes have dropout masks and a precision of their own"
            raise ConfigError(fault("", "model", found, "Give the model before torch.compile."))
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        self._headed = HeadedModel(cast(PreTrainedModel, bare), tuple(wanted))
        self._task = next(iter(wanted)) if len(wanted) == 1 else None
        self.objective = Objective(
            cast(MultiTaskModel, self._headed),  # it has all that objective and regularizers need of a model
            self._fitting(regularizers_of(wanted)),
            self._proximal(proximal, total_steps),
            seed=seed,
            autocast=autocast,
            loss_scale=None if scaler is None else LossScale(next(bare.parameters()).device, scaler=scaler),
        )
        self._require_fine_weights()
        self._wanted = self._wanted_terms(proximal_block(proximal))
        self._headed.go_through(model)
        self._checked = self._checked_padded = False
        self.step = 0

    @property
    def answers(self) -> Answers:
        """The loss of the model's head, and ℓ_s."""
        return self._headed.answers

    def _fitting(self, regularizers: dict[str, Regularizer]) -> dict[str, Regularizer]:
        """These regularizers; ConfigError for one that is not made for the model's logits."""
        owner = type(self._headed.model).__name__
        faults = [
            each
            for task, method in regularizers.items()
            for each in method.logits_faults(self.answers.logits_of, owner, "", key_of(task))
        ]
        if faults:
            raise ConfigError(faults)
        return regularizers

    def _require_fine_weights(self) -> None:
        """Raise ConfigError where passes are to be in float32, but the weights themselves have 16 bits."""
        dtype = next(self._headed.parameters()).dtype
        names = [each.name for each in self.objective.regularizers.values() if each.precision == "float32"]
        if names and dtype in (torch.bfloat16, torch.float16):
            found = f"weights in {RunPrecision.of(dtype).name}, but the passes of {names[0]} need float32"
            fix = "Load it with dtype=torch.float32: the run may still have bf16 or fp16. Or give larger sizes."
            raise ConfigError(fault("", "model", found, fix))

    def _wanted_terms(self, proximal: Named | None) -> dict[str, Any]:
        """Names and all options of the terms, as plain values: equal where the terms are."""
        terms = {
            key_of(task): {"name": each.name, **each.options.model_dump(mode="json")}
            for task, each in self.objective.regularizers.items()
        }
        if proximal is not None and self.objective.proximal is not None:
            options = self.objective.proximal.options.model_dump(mode="json")
            terms["proximal"] = {"name": proximal.name, **options}
        return terms

    def _proximal(self, given: PlugIn, total_steps: int | None) -> Proximal | None:
        block = proximal_block(given)
        if block is None:
            return None
        if total_steps is None:
            raise ConfigError(fault("", "total_steps", "missing", "Give the number of optimizer steps of the run."))
        return PROXIMAL.get(block.name)(self._headed, total_steps=total_steps, **block.options)

    def losses(self, inputs: Mapping[str, Any], *, task: str | None = None) -> Iterator[Tensor]:
        """The losses for `backward`, each to be used before the next is requested: one, or several (`free_lb`).

        Args:
            inputs: the batch: `input_ids`, `attention_mask`, labels and other inputs of the model.
            task: the batch's task, if there are several.
        """
        for part in self.parts(inputs, task=task):
            yield part.loss

    def parts(
        self,
        inputs: Mapping[str, Any],
        *,
        task: str | None = None,
        part: int = 0,
        row_share: float = 1.0,
        label_share: float = 1.0,
        loss_of: LossOf | None = None,
    ) -> Iterator[LossPart]:
        """As `losses`, with the values of each term by name. The default random generators are not changed.

        Args:
            inputs: the batch.
            task: the batch's task, if there are several.
            part: number of this part of the step's batch (gradient accumulation).
            row_share: factor of the penalties: this part's share of the step's rows.
            label_share: factor of the loss.
            loss_of: (logits, batch) → the loss; None: the model's loss.
        """
        batch = self.batch_of(inputs, task=task, part=part)
        self.answers.loss_of = self.answers.own_loss if loss_of is None else loss_of
        found = self.objective.parts(batch, step=self.step, part=part, row_share=row_share, label_share=label_share)
        while True:
            with preserved_default_generators():
                each = next(found, None)
            if each is None:
                return
            yield each

    def penalty(self, inputs: Mapping[str, Any], *, task: str | None = None) -> Tensor:
        """The regularizer's term of a batch without its weight, a scalar ≥ 0 with gradient.

        Args:
            inputs: the batch.
            task: the batch's task, if there are several.
        Raises:
            ConfigError: there is no regularizer, or it replaces the loss (adversarial training).
        """
        batch = self.batch_of(inputs, task=task)
        method = self.objective.regularizers.get(batch.task)
        if method is None:
            raise ConfigError(fault("", "regularizer", f"none for '{batch.task}'", "Give one to Terms."))
        with preserved_default_generators():
            terms = next(method.losses(self._forward_pass(batch, method)))
        if terms.measured is None:
            raise ConfigError(fault("", "regularizer", f"{method.name} replaces the loss", "Use losses()."))
        return terms.measured

    def proximal(self, inputs: Mapping[str, Any], *, task: str | None = None) -> Tensor:
        """D_Breg of a batch without its weight, a scalar ≥ 0 with gradient.

        Args:
            inputs: the batch.
            task: the batch's, where there are several.
        Raises:
            ConfigError: there is no proximal term.
        """
        term = self.objective.proximal
        if term is None:
            raise ConfigError(fault("", "proximal", "none", "Give one to Terms."))
        with preserved_default_generators():
            return term.penalty(self._forward_pass(self.batch_of(inputs, task=task), None))

    def _forward_pass(self, batch: Batch, method: Regularizer | None) -> ForwardPass:
        scale = self.objective.loss_scale
        return ForwardPass(
            self.objective.model,
            batch,
            seed=self.objective.seed,
            step=self.step,
            rank=self.objective.rank,
            precision="run" if method is None else method.precision,
            autocast=self.objective.autocast,
            loss_scale=None if scale is None else scale.factor,
        )

    def batch_of(self, inputs: Mapping[str, Any], *, task: str | None = None, part: int = 0) -> Batch:
        """The batch for regularizers; with the first one, and the first one with padding, also a check that the
        model accepts word embeddings.

        Args:
            inputs: the batch.
            task: the batch's task, if there are several.
            part: number of this part of the step's batch.
        Raises:
            ConfigError: there is no task of that name, or none is named and there are several; see also `batch_of` and
                `HeadedModel.require_embeddings_fit`.
        """
        known = self._headed.task_types
        name = task or self._task
        if name not in known:
            found = unknown("task", name, known) if name else "the batch does not name one of several"
            raise ConfigError(fault("", "task", found, "Name the batch's task."))
        rank = self.objective.rank
        batch = batch_of(inputs, task=name, row_names=lambda place: f"{rank}-{part}-{place}")
        if not self._checked_padded:
            # Heads of decoders look for the last token in the ids, which is seen only in a batch with padding.
            padded = not bool(batch.inputs["mask"].all())
            if padded or not self._checked:
                self._headed.require_embeddings_fit(batch)
            self._checked, self._checked_padded = True, padded
        return batch

    def after_step(self) -> None:
        """Update counters and the teacher after an optimizer step."""
        self.objective.after_step()
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs, with the teacher's weights; tensors and plain values."""
        return {**self.objective.state_dict(), "step": self.step, "terms": self._wanted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            ConfigError: it is of other terms.
        """
        if state.get("terms", self._wanted) != self._wanted:
            found = f"of training with {shown(state['terms'])}, but this is with {shown(self._wanted)}"
            raise ConfigError(fault("", "state", found, "Give the same terms, or start without it."))
        self.objective.load_state_dict(state)
        self.step = state["step"]


def named_regularizers(regularizer: PlugIn, tasks: Mapping[str, PlugIn] | None) -> dict[str, PlugIn]:
    """Task → its regularizer, as named; ConfigError if both are given."""
    if tasks is not None and regularizer is not None:
        raise ConfigError(fault("", "regularizer", "given in addition to tasks", "Give one of the two."))
    return {ONE_TASK: regularizer} if tasks is None else dict(tasks)


def key_of(task: str) -> str:
    """Where a task's regularizer is given, for messages."""
    return "regularizer" if task == ONE_TASK else f"tasks.{task}"


def shown(terms: Mapping[str, Any]) -> str:
    """Terms by name with their options, for a message."""
    return ", ".join(f"{key} {block}" for key, block in terms.items()) or "no term"


def proximal_block(given: PlugIn) -> Named | None:
    """The proximal term as a `Named`; None without one; ConfigError if its name or an option is unknown."""
    block = _block(given, "proximal")
    if block is not None and (faults := named_faults(PROXIMAL, block, "proximal")):
        raise ConfigError(faults)
    return block


def _block(given: PlugIn, key: str) -> Named | None:
    """The plug-in as a `Named`; None for None and `none`; ConfigError for a value that names none."""
    if given is None:
        return None
    try:
        block = Named.model_validate(named(dict(given) if isinstance(given, Mapping) else given))
    except ValueError as error:
        fix = "Give a name, or a mapping of `name` and its options."
        raise ConfigError(fault("", key, f"{given!r} names no plug-in", fix)) from error
    return None if block.name == "none" else block


def regularizers_of(wanted: Mapping[str, PlugIn]) -> dict[str, Regularizer]:
    """Task → its own regularizer.

    Raises:
        ConfigError: a name or option is unknown, or a method moves the optimizer within a step; reports every error.
    """
    found, faults = dict[str, Regularizer](), list[Fault]()
    for task, given in wanted.items():
        key = key_of(task)
        try:
            block = _block(given, key)
        except ConfigError as error:
            faults += error.faults
            continue
        if block is None:
            continue
        if refused := named_faults(REGULARIZERS, block, key):
            faults += refused
            continue
        kind = REGULARIZERS.get(block.name)
        if kind.moves_within_step:
            fix = "Use `mtdnn train`, whose loop lets it."
            faults.append(fault("", key, f"{block.name} moves the optimizer within a step", fix))
            continue
        found[task] = kind(**block.options)
    if faults:
        raise ConfigError(faults)
    return found
