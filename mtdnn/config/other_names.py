"""Names of settings in other libraries, or under other keys here → the key of a run that is the same setting.

The first are those of transformers' TrainingArguments and of its example scripts; docs/from_run_glue.md explains them.
"""

from __future__ import annotations

from collections.abc import Iterable

KEYS = {
    "model_name_or_path": "encoder",
    "output_dir": "output",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation_steps": "accumulate",
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "head_lr": "optimizer.head_lr",
    "layer_decay": "optimizer.layer_decay",
    "warmup": "schedule.warmup",
    "turns": "mixing.turns",
    "layout": "execution.layout",
    "patience": "early_stopping.patience",
    "weight_decay": "optimizer.weight_decay",
    "optim": "optimizer",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "adam_epsilon": "optimizer.eps",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "schedule.warmup",
    "warmup_steps": "schedule.warmup",
    "max_grad_norm": "clip_norm",
    "bf16": "precision: bf16",
    "fp16": "precision: fp16",
    "torch_compile": "compile",
    "eval_strategy": "evaluate_every",
    "evaluation_strategy": "evaluate_every",
    "eval_steps": "evaluate_every",
    "save_strategy": "checkpoint_every",
    "save_steps": "checkpoint_every",
    "save_total_limit": "keep_checkpoints",
    "metric_for_best_model": "select_by",
    "load_best_model_at_end": "select_by",
    "logging_steps": "log_every",
    "train_sampling_strategy": "group_by_length",
    "report_to": "trackers",
    "max_train_samples": "subset",
}
"""Name → key of a run, with its value if it has one."""

KEYS_OF_A_TASK = (
    *("task_type", "inputs", "labels", "metrics", "splits", "columns", "dropout", "loss", "weight", "max_rows"),
    *("head", "head_of", "init_head", "rows", "source", "class_weights"),
)

ELSEWHERE = {
    **dict.fromkeys(
        ("max_seq_length", "max_length"),
        "It is `max_length` of a task, in the task definitions, as `mtdnn prepro` cuts rows.",
    ),
    **dict.fromkeys(
        ("label_smoothing_factor", "label_smoothing"),
        "It is `label_smoothing` of a task, in the task definitions.",
    ),
    "pooling": "It is an option of a task's head, in the task definitions: `head: {name: pooled, pooling: mean}`.",
    **{key: f"It is `{key}` of a task, in the task definitions." for key in KEYS_OF_A_TASK},
    "resume_from_checkpoint": "It is `mtdnn train RUN.yml --resume`, or resume=True in Python.",
    "overwrite_output_dir": "No run is overwritten: remove its folder, or name another `output`.",
    "dry_run": "It is a command of its own: mtdnn check TASKS --run RUN.yml.",
    "do_train": "Leave it out: `mtdnn train` trains.",
    "do_eval": "Leave it out: `mtdnn train` also evaluates, every `evaluate_every`.",
    "do_predict": "It is a command of its own: mtdnn predict.",
    "task_name": "Tasks are blocks of the file `tasks`; `train` chooses among them.",
}  # fmt: skip
"""Name → what to do here, where that is no key of a run."""


def ours(name: str, *, flag: bool = False, within: str = "") -> str:
    """What to write here in place of a name of another library: ` Did you mean 'optimizer.lr'?`; empty if unknown.

    Args:
        name: the name, without dashes before it.
        flag: suggest a flag, such as `--precision fp16`, in place of a key.
        within: the key whose block the name was found in, such as `optimizer`; only keys of that block are suggested.
            `tasks` is a block of task definitions, where nothing refers a key of other types to these definitions.
    """
    if within == "tasks":
        return "" if ELSEWHERE.get(name, "").startswith(f"It is `{name}` of a task") else ours(name)
    if within:
        block, _, option = KEYS.get(name, "").partition(".")
        return f" Did you mean '{option}'?" if option not in ("", name) and block == within else ""
    if name in ELSEWHERE:
        return f" {ELSEWHERE[name]}"
    key = KEYS.get(name)
    if key is None:
        return ""
    return f" Did you mean '--{key.replace(': ', ' ')}'?" if flag else f" Did you mean '{key}'?"


def dotted(name: str, known: Iterable[str]) -> str:
    """What to write in a run's file in place of a dotted key, which flags and studies take; empty for other keys.

    Args:
        name: the key.
        known: the keys of a run.
    """
    block, _, option = name.partition(".")
    if not option or block not in known:
        return ""
    if block == "tasks":
        return " Options of a task are in the task definitions; only a study takes them with dots."
    return f" Keys with dots are for flags and studies; write it as a block: `{block}: {{{option}: …}}`."
