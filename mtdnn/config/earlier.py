"""Compatibility with runs written by versions up to commit dc63209, and with cells of studies finished by them.

These versions wrote every option of every optimizer and schedule, used or not. The switches of `execution` were three
keys. The margin of a ranking loss was a key of the task, used or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRST_LINE = b"# commit: "
"""The first bytes of a run.yml written by training."""

COMMON = {"optimizer": ("name", "lr", "head_lr", "weight_decay", "layer_decay"), "schedule": ("name",)}
OPTIONS: dict[str, dict[str, Any]] = {
    "optimizer": {"betas": [0.9, 0.999], "eps": 1e-8, "momentum": 0.0},
    "schedule": {"warmup": 0.1, "power": 2.0, "cut_fraction": 0.1, "ratio": 32.0},
}
"""The options of these versions, with their defaults."""

USED: dict[str, dict[str, tuple[str, ...]]] = {
    "optimizer": {**dict.fromkeys(("adamw", "adamax", "radam"), ("betas", "eps")), "sgd": ("momentum",)},
    "schedule": {
        **dict.fromkeys(("linear", "cosine", "constant"), ("warmup",)),
        "polynomial": ("warmup", "power"),
        "slanted_triangular": ("cut_fraction", "ratio"),
    },
}
"""The names of these versions, each with the options that it used."""


def is_of_a_run(path: str | Path) -> bool:
    """Whether a file is the run.yml that training wrote into a run's folder, or a copy of it."""
    with Path(path).open("rb") as file:
        return file.read(len(FIRST_LINE)) == FIRST_LINE


def without_unused(run: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run.yml, without options that an earlier version wrote but did not use."""
    return {key: _block_without_unused(key, block) if key in OPTIONS else block for key, block in run.items()}


def _block_without_unused(key: str, block: Any) -> Any:
    written = isinstance(block, Mapping) and set(block) == {*COMMON[key], *OPTIONS[key]}
    if not written or block["name"] not in USED[key]:
        return block
    kept = (*COMMON[key], *USED[key][block["name"]])
    return {name: value for name, value in block.items() if name in kept}


ADDED: dict[str, Any] = {
    "tasks_per_step": 1,
    "ema": None,
    "balance": {"name": "fixed"},
    "log_conflicts": 0,
    "also_evaluate": [],
    "log_affinity": 0,
    "sharding": "none",
    "trackers": [{"name": "tensorboard", "project": "mtdnn", "group": None}],
}
"""Keys that these versions did not have, with the values at which a run is as it was without them."""


def with_unused(run: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run as an earlier version wrote them; the hashes of finished cells were computed from these."""
    written = {
        key: {**OPTIONS[key], **block} if key in OPTIONS and block["name"] in USED[key] else block
        for key, block in run.items()
    }
    written = {key: value for key, value in written.items() if key not in ADDED or value != ADDED[key]}
    switches = written.get("execution")
    if isinstance(switches, Mapping):
        added = {name: value for name, value in switches.items() if ADDED_SWITCHES.get(name, value) != value}
        written |= {key: switches[name] for name, key in SWITCHES.items()} | added
    return written


SWITCHES = {"layout": "execution", "dropout": "dropout_masks", "products": "products"}
"""Switch of `execution` → the key it had in these versions."""

ADDED_SWITCHES: dict[str, Any] = {"attention": "auto", "deterministic": False}
"""Switches that these versions did not have, with the values at which a run is as it was without them."""


def with_execution(run: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run with the three earlier keys of execution moved into one mapping."""
    layout = run.get("execution", "auto")
    old = {name: run[key] for name, key in SWITCHES.items() if key in run and key != "execution"}
    if not old or not isinstance(layout, str):
        return dict(run)
    kept = {key: value for key, value in run.items() if key not in SWITCHES.values()}
    return {**kept, "execution": {"layout": layout, **old}}


MARGIN = "margin"
TYPES_WITH_MARGIN = ("ranking", "multiple_choice")
"""The task types that had this key; only `loss: pairwise_margin` used it."""


def with_loss_options(blocks: Mapping[str, Any]) -> dict[str, Any]:
    """The blocks of a run's tasks.yml, with the key `margin` moved into the options of the loss that used it."""
    return {name: _with_loss_options(block) for name, block in blocks.items()}


def without_margin(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A task's block as stored in a manifest, without the margin, which does not affect stored rows."""
    options = stored.get("options")
    if stored.get("task_type") not in TYPES_WITH_MARGIN or not isinstance(options, Mapping):
        return dict(stored)
    return {**stored, "options": {key: value for key, value in options.items() if key != MARGIN}}


def _with_loss_options(block: Any) -> Any:
    if not isinstance(block, Mapping) or block.get("task_type") not in TYPES_WITH_MARGIN:
        return block
    kept = {key: value for key, value in block.items() if key != MARGIN}
    if MARGIN in block and block.get("loss") == "pairwise_margin":
        kept["loss"] = {"name": "pairwise_margin", MARGIN: block[MARGIN]}
    return kept
