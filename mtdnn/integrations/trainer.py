"""transformers' `Trainer` with SMART, or any other regularizer of mtdnn, added to the model's loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput
from transformers.trainer import Trainer
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import OptimizerNames, TrainingArguments

from mtdnn.batch import Batch
from mtdnn.errors import ConfigError, fault
from mtdnn.integrations.functional import PlugIn, Terms, named_regularizers, proximal_block, regularizers_of

STATE_FILE = "mtdnn_terms.pt"
"""File in a checkpoint's folder with counters and, for a proximal term, the teacher's weights."""


OURS = ("task", "row_ids")
"""Keys of a batch that are not inputs of the model."""


class RegularizedTrainer(Trainer):  # type: ignore[misc]  # the linter takes transformers as untyped
    """A `Trainer` that minimises the model's loss + λ·penalty + μ·D_Breg.

    Evaluation, logging, checkpoints, accumulation, mixed precision and DistributedDataParallel are those of `Trainer`,
    but that `ddp_broadcast_buffers` is false where it is not set.
    A batch may have its task under the key `task`, and names of its rows under `row_ids`, on which noise then depends.

    Args:
        args: positional arguments of `Trainer`.
        regularizer: such as "smart" or {"name": "smart", "epsilon": 1e-3}; all but `free_at`. None: none.
        proximal: such as "momentum" or {"name": "momentum", "mu": 1}; None: none.
        tasks: task → its regularizer, if several tasks share the model's head; in place of `regularizer`.
        keywords: keyword arguments of `Trainer`.
    Raises:
        ConfigError: a name or option is unknown; at the first step: the model, or a setting of `Trainer`, cannot be
            used with these terms.

    Example:
        >>> trainer = RegularizedTrainer(model, arguments, train_dataset=rows, regularizer="smart", proximal="momentum")
        >>> trainer.train()
    """

    def __init__(
        self,
        *args: Any,
        regularizer: PlugIn = None,
        proximal: PlugIn = None,
        tasks: Mapping[str, PlugIn] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(*args, **keywords)
        self._wanted: dict[str, Any] = {"regularizer": regularizer, "proximal": proximal, "tasks": tasks}
        regularizers_of(named_regularizers(regularizer, tasks))  # so that typing errors are reported here
        proximal_block(proximal)
        self._require_usable()
        self._keep_buffers()
        self._resumed_from: Path | None = None
        self.begin()
        self.add_callback(_Steps(self))

    def _require_usable(self) -> None:
        """Raise ConfigError where a pass cannot be repeated as it was, or a process does not have all weights."""
        reasons = {
            "deepspeed": self.is_deepspeed_enabled,
            "fsdp": self.is_fsdp_enabled,
            "DataParallel on several devices": self.args.n_gpu > 1,
        }
        for way, is_on in reasons.items():
            if is_on:
                fix = "Start one process per device with torchrun or accelerate launch."
                raise ConfigError(fault("", "args", f"{way} with regularizer or proximal", fix))
        if self.args.torch_compile:
            found = "compiled passes have dropout masks and a precision of their own"
            raise ConfigError(fault("", "args.torch_compile", found, "Leave it out, or train without these terms."))
        if self.args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO):
            found = f"{self.args.optim.value} moves the weights in each backward pass, of which a step has several"
            raise ConfigError(fault("", "args.optim", found, "Give another optimizer, such as adamw_torch."))

    def _keep_buffers(self) -> None:
        """Have DistributedDataParallel leave buffers alone, unless `ddp_broadcast_buffers` is set.

        A batch has several passes before the backward pass that they share; a buffer overwritten in between, such as
        BERT's position_ids, is an error of autograd.
        """
        handler = self.accelerator.ddp_handler
        if handler is not None and self.args.ddp_broadcast_buffers is None:
            handler.broadcast_buffers = False

    def begin(self) -> None:
        """Forget the terms and sums of earlier training: terms are made at the first step, with the weights then."""
        self._terms: Terms | None = None
        self._sums: dict[str, Tensor] = {}
        self._parts_seen = 0
        self._rows_of_step: int | None = None
        self._logged_at = 0

    def get_batch_samples(self, *args: Any, **keywords: Any) -> Any:
        """As `Trainer.get_batch_samples`; the rows of all batches of the step are counted.

        Args:
            args, keywords: arguments of `Trainer.get_batch_samples`.
        Returns:
            The batches, and the number of labels in them.
        """
        batches, num_items = super().get_batch_samples(*args, **keywords)
        self._rows_of_step = sum(map(_num_rows, batches))
        return batches, num_items

    def train(self, *args: Any, **keywords: Any) -> Any:
        """As `Trainer.train`; each call has terms of its own.

        Args:
            args, keywords: arguments of `Trainer.train`.
        Returns:
            What `Trainer.train` returns.
        Raises:
            ConfigError: see the class.
        """
        self._resumed_from = None
        return super().train(*args, **keywords)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Call backward for every loss of a batch; returns their sum, detached.

        Args:
            model: the model as wrapped by accelerate.
            inputs: the batch.
            num_items_in_batch: number of labels in all batches of the step, if the loss is a mean over them.
        """
        model.train()
        if callable(to_training := getattr(self.optimizer, "train", None)):  # of optimizers without a schedule
            to_training()
        terms = self._terms or self._make_terms(model)
        task, row_ids = inputs.pop("task", None), inputs.pop("row_ids", None)
        inputs = self._prepare_inputs(inputs)
        share = 1.0 / self.current_gradient_accumulation_steps
        row_share = _num_rows(inputs) / self._rows_of_step if self._rows_of_step else share
        given = inputs if row_ids is None else {**inputs, "row_ids": row_ids}
        total = torch.zeros((), device=self.args.device)
        for part in terms.parts(
            given,
            task=_one_word(task),
            part=self._parts_seen,
            row_share=row_share,
            label_share=1.0 if self._loss_is_a_share(num_items_in_batch) else share,
            loss_of=lambda logits, batch: self._loss_of(model, inputs, logits, batch, num_items_in_batch),
        ):
            self.accelerator.backward(part.loss)
            total += part.loss.detach()
            for name, value in part.named.items():
                self._sums[name] = self._sums.get(name, torch.zeros_like(total)) + value
        self._parts_seen += 1
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        return total

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **keywords: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """As `Trainer.prediction_step`; the task and the names of rows are not inputs of the model.

        Args:
            model: the model as wrapped by accelerate.
            inputs: the batch.
            args, keywords: further arguments of `Trainer.prediction_step`.
        Returns:
            Loss, logits and labels, as far as there are any.
        """
        kept = {name: value for name, value in inputs.items() if name not in OURS}
        found: tuple[Tensor | None, Tensor | None, Tensor | None] = super().prediction_step(
            model, kept, *args, **keywords
        )
        return found

    def _make_terms(self, model: nn.Module) -> Terms:
        """The terms of this run, with the state of the checkpoint it resumes from."""
        terms = Terms(
            model,
            **self._wanted,
            total_steps=self.state.max_steps,
            seed=self.args.seed,
            autocast=self.accelerator.autocast,
            scaler=self.accelerator.scaler,
        )
        if self._resumed_from is not None:
            state = torch.load(self._resumed_from, map_location=self.args.device, weights_only=True)
            terms.load_state_dict(state)
        self._terms, self._logged_at = terms, self.state.global_step
        return terms

    def _loss_is_a_share(self, num_items_in_batch: Tensor | int | None) -> bool:
        """Whether the loss is already divided by the labels of the whole step, as in `Trainer.training_step`."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)  # transformers 5.7 does not have it
        if scaled is not None:
            return bool(scaled)
        by_model = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return by_model or self.compute_loss_func is not None

    def _loss_of(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        logits: Tensor,
        batch: Batch,
        num_items_in_batch: Tensor | int | None,
    ) -> Tensor:
        """The result of `compute_loss` for logits, with label smoothing or the user's own loss, if set."""
        replay = _Replay(self.accelerator.unwrap_model(model), cast(Terms, self._terms), logits, batch)
        loss = self.compute_loss(replay, dict(inputs), num_items_in_batch=num_items_in_batch)
        return cast(Tensor, loss)

    def log(self, logs: dict[str, float], *args: Any, **keywords: Any) -> None:
        """Also log `task`, the regularizer's name and `proximal`: unweighted means over the steps since the last line.

        Args:
            logs: values by name.
            args, keywords: further arguments of `Trainer.log`.
        """
        if "loss" in logs and self._sums and self._terms is not None:
            steps = max(self.state.global_step - self._logged_at, 1)
            means = {name: float(f"{value / steps:.6g}") for name, value in self._sums_over_processes().items()}
            logs = {**logs, **means}
            self._sums, self._logged_at = {}, self.state.global_step
        super().log(logs, *args, **keywords)

    def _sums_over_processes(self) -> dict[str, float]:
        """The sums of the terms since the last line, means over the processes, as `Trainer` has its loss."""
        own = {name: float(value) for name, value in self._sums.items()}
        if self.accelerator.num_processes == 1:
            return own
        of_all = gather_object([own])  # processes may have had batches of other tasks, and thus other terms
        names = dict.fromkeys(name for each in of_all for name in each)
        return {name: sum(each.get(name, 0.0) for each in of_all) / len(of_all) for name in names}

    def after_optimizer_step(self) -> None:
        """Update counters and the teacher, unless the optimizer skipped the step because of an overflow."""
        self._parts_seen = 0
        if self._terms is not None and not self.accelerator.optimizer_step_was_skipped:
            self._terms.after_step()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._terms is not None and self.args.should_save:
            torch.save(self._terms.state_dict(), Path(output_dir) / STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self._resumed_from = None if checkpoint is None else Path(checkpoint) / STATE_FILE
        if self._resumed_from is not None and not self._resumed_from.is_file():
            fix = "Resume from a checkpoint that RegularizedTrainer wrote without save_only_model."
            raise ConfigError(fault(str(checkpoint), "resume_from_checkpoint", f"no {STATE_FILE}", fix))


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Calls the trainer when training begins, and after each optimizer step."""

    def __init__(self, trainer: RegularizedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        self.trainer.begin()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        self.trainer.after_optimizer_step()


class _Replay(nn.Module):
    """A replacement for the model in `Trainer.compute_loss`: returns logits computed before, and their loss."""

    def __init__(self, model: nn.Module, terms: Terms, logits: Tensor, batch: Batch) -> None:
        super().__init__()
        self._name = type(model).__name__
        self._answers, self._logits, self._batch = terms.answers, logits, batch

    def _get_name(self) -> str:
        return self._name

    def forward(self, num_items_in_batch: Tensor | int | None = None, **inputs: Any) -> Any:
        """The model's output for its own inputs.

        Args:
            num_items_in_batch: number of labels in all batches of the step.
            inputs: the batch; without labels there is no loss.
        """
        keywords = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
        labelled = "labels" in inputs or "start_positions" in inputs
        loss = self._answers.own_loss(self._logits, self._batch, **keywords) if labelled else None
        if self._answers.is_span:
            starts, ends = self._logits.unbind(1)
            return QuestionAnsweringModelOutput(loss=loss, start_logits=starts, end_logits=ends)
        return SequenceClassifierOutput(loss=loss, logits=self._logits)


def _num_rows(inputs: Mapping[str, Any]) -> int:
    """Rows of a batch; 0 without ids, which is an error elsewhere."""
    return len(inputs["input_ids"]) if "input_ids" in inputs else 0


def _one_word(task: Any) -> str | None:
    """The task of a batch, given once or for each row.

    Raises:
        ConfigError: the rows have different tasks.
    """
    if task is None or isinstance(task, str):
        return task
    names = {str(each) for each in task}
    if len(names) != 1:
        found = f"rows of {', '.join(sorted(names))} in one batch"
        raise ConfigError(fault("", "task", found, "Put rows of one task into a batch."))
    return names.pop()
