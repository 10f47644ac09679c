"""transformers' `Trainer` with SMART, or any other regularizer of this project, added to the loss of its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput
from transformers.trainer import Trainer
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from mtdnn.batch import Batch
from mtdnn.errors import ConfigError, fault
from mtdnn.integrations.functional import ONE_TASK, PlugIn, Terms, regularizers_of

STATE_FILE = "mtdnn_terms.pt"
"""In a checkpoint's folder: counters and, with a proximal term, the teacher's weights."""


class RegularizedTrainer(Trainer):  # type: ignore[misc]  # the linter takes transformers as untyped
    """A `Trainer` whose steps minimise the model's loss + λ·penalty + μ·D_Breg.

    Evaluation, logging, checkpoints, accumulation, mixed precision and DistributedDataParallel are `Trainer`'s own. A
    batch may name its task under the key `task`, and its rows under `row_ids`, on which noise then depends.

    Args:
        args: positional arguments of `Trainer`.
        regularizer: such as "smart" or {"name": "smart", "epsilon": 1e-3}; all but `free_at`. None: none.
        proximal: such as "momentum" or {"name": "momentum", "mu": 1}; None: none.
        tasks: task → its regularizer, where several share the model's head, in place of `regularizer`.
        keywords: the others of `Trainer`.
    Raises:
        ConfigError: an unknown name or option; at the first step: a model that cannot be used, or settings of `Trainer`
            that these terms do not work with.

    Example:
        trainer = RegularizedTrainer(model, arguments, train_dataset=rows, regularizer="smart", proximal="momentum")
        trainer.train()
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
        regularizers_of({ONE_TASK: regularizer} if tasks is None else tasks)  # so that a typo ends it here
        self._require_usable()
        self._terms: Terms | None = None
        self._resumed_from: Path | None = None
        self._sums: dict[str, Tensor] = {}
        self._parts_seen = 0
        self.add_callback(_AfterStep(self))

    def _require_usable(self) -> None:
        """Raise ConfigError for ways of training in which the weights are not whole on every process."""
        reasons = {
            "deepspeed": self.is_deepspeed_enabled,
            "fsdp": self.is_fsdp_enabled,
            "DataParallel on several devices": self.args.n_gpu > 1,
        }
        for way, is_on in reasons.items():
            if is_on:
                fix = "Start one process per device with torchrun or accelerate launch."
                raise ConfigError(fault("", "args", f"{way} with regularizer or proximal", fix))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Send every loss of a batch backward; the sum of them, detached.

        Args:
            model: as accelerate wrapped it.
            inputs: the batch.
            num_items_in_batch: labels of all batches of the step, where the loss is a mean over them.
        """
        model.train()
        terms = self._terms or self._make_terms(model)
        task, row_ids = inputs.pop("task", None), inputs.pop("row_ids", None)
        inputs = self._prepare_inputs(inputs)
        share = 1.0 / self.current_gradient_accumulation_steps
        given = inputs if row_ids is None else {**inputs, "row_ids": row_ids}
        total = torch.zeros((), device=self.args.device)
        for part in terms.parts(
            given,
            task=_one_word(task),
            part=self._parts_seen,
            row_share=share,
            label_share=1.0 if self._loss_is_a_share(num_items_in_batch) else share,
            loss_of=lambda logits, batch: self._loss_of(model, inputs, logits, batch, num_items_in_batch),
        ):
            self.accelerator.backward(part.loss)
            total += part.loss.detach()
            for name, value in part.named.items():
                self._sums[name] = self._sums.get(name, torch.zeros_like(total)) + value
        self._parts_seen += 1
        return total

    def _make_terms(self, model: nn.Module) -> Terms:
        """Of this run; as they were at the checkpoint it resumes from."""
        terms = Terms(
            model,
            **self._wanted,
            total_steps=self.state.max_steps,
            seed=self.args.seed,
            autocast=self.accelerator.autocast,
        )
        if self._resumed_from is not None:
            state = torch.load(self._resumed_from, map_location=self.args.device, weights_only=True)
            terms.load_state_dict(state)
        self._terms = terms
        return terms

    def _loss_is_a_share(self, num_items_in_batch: Tensor | int | None) -> bool:
        """Whether the loss is over the labels of the whole step already, as `Trainer.training_step` has it."""
        if self.loss_is_scaled_for_ga is not None:
            return bool(self.loss_is_scaled_for_ga)
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
        """What `compute_loss` makes of logits: with label smoothing or a loss of the user's, if there is one."""
        replay = _Replay(self.accelerator.unwrap_model(model), cast(Terms, self._terms), logits, batch)
        loss = self.compute_loss(replay, dict(inputs), num_items_in_batch=num_items_in_batch)
        return cast(Tensor, loss)

    def log(self, logs: dict[str, float], *args: Any, **keywords: Any) -> None:
        """Log `task`, the regularizer's name and `proximal` too: means over the steps since the last line, unweighted.

        Args:
            logs: values by name.
            args: further arguments of `Trainer.log`.
            keywords: the same.
        """
        if "loss" in logs and self._sums and self._terms is not None:
            steps = max(self._terms.step - self._logged_at, 1)
            logs = {**logs, **{name: round(float(value) / steps, 6) for name, value in self._sums.items()}}
            self._sums, self._logged_at = {}, self._terms.step
        super().log(logs, *args, **keywords)

    _logged_at = 0

    def after_optimizer_step(self) -> None:
        """Let counters and the teacher follow, unless overflow made the optimizer skip the step."""
        self._parts_seen = 0
        if self._terms is not None and not self.accelerator.optimizer_step_was_skipped:
            self._terms.after_step()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._terms is not None and self.args.should_save:
            torch.save(self._terms.state_dict(), Path(output_dir) / STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self._terms = None  # made anew at the first step, with this run's weights and length
        self._resumed_from = None if checkpoint is None else Path(checkpoint) / STATE_FILE
        if self._resumed_from is not None and not self._resumed_from.is_file():
            fix = "Resume from a checkpoint that RegularizedTrainer wrote without save_only_model."
            raise ConfigError(fault(str(checkpoint), "resume_from_checkpoint", f"no {STATE_FILE}", fix))


class _AfterStep(TrainerCallback):  # type: ignore[misc]
    """Calls the trainer once the optimizer has moved."""

    def __init__(self, trainer: RegularizedTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        self.trainer.after_optimizer_step()


class _Replay(nn.Module):
    """Stands for the model within `Trainer.compute_loss`: returns logits that are known already, and their loss."""

    def __init__(self, model: nn.Module, terms: Terms, logits: Tensor, batch: Batch) -> None:
        super().__init__()
        self._name = type(model).__name__
        self._answers, self._logits, self._batch = terms.answers, logits, batch

    def _get_name(self) -> str:
        return self._name

    def forward(self, num_items_in_batch: Tensor | int | None = None, **inputs: Any) -> Any:
        """The output of the model for its own inputs.

        Args:
            num_items_in_batch: labels of all batches of the step.
            inputs: the batch; without labels there is no loss.
        """
        keywords = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
        labelled = "labels" in inputs or "start_positions" in inputs
        loss = self._answers.own_loss(self._logits, self._batch, **keywords) if labelled else None
        if self._answers.is_span:
            starts, ends = self._logits.unbind(1)
            return QuestionAnsweringModelOutput(loss=loss, start_logits=starts, end_logits=ends)
        return SequenceClassifierOutput(loss=loss, logits=self._logits)


def _one_word(task: Any) -> str | None:
    """The task of a batch, given once or for each row.

    Raises:
        ConfigError: rows of several tasks.
    """
    if task is None or isinstance(task, str):
        return task
    names = {str(each) for each in task}
    if len(names) != 1:
        found = f"rows of {', '.join(sorted(names))} in one batch"
        raise ConfigError(fault("", "task", found, "Put rows of one task into a batch."))
    return names.pop()
