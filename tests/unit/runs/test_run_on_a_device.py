"""A run on the pretended GPU from its first part to its last: built, trained, logged, stored, resumed, evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from mtdnn.config.run import load_run_config
from mtdnn.runs import opened, setup
from mtdnn.runs import train as training
from mtdnn.training.updater import Updater
from tests.conftest import Demo
from tests.reference.interrupted import stopped_and_resumed
from tests.reference.pretended_gpu import GPU, OnGPU, pretended_gpu, waiting_allowed

SETTINGS: dict[str, Any] = {
    "train": ["demo_nli"],
    "max_steps": 4,
    "epochs": 1,
    "batch_size": 8,
    "log_every": 2,
    "evaluate_every": "never",
    "checkpoint_every": 2,
    "ema": 0.9,
    "execution": {"deterministic": True},
    "regularizer": {"name": "smart", "epsilon": 1e-3},
    "proximal": {"name": "momentum"},
}


class OneGPU:
    """What a run asks of accelerate, for one process with one GPU."""

    device, num_processes, process_index, is_main_process = GPU, 1, 0, True


def built_on_the_host(build: Callable[..., Any]) -> Callable[..., Any]:
    """The same function outside of the pretended GPU: transformers builds models on the meta device first."""

    def built(*given: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return build(*given, **options)

    return built


def on_the_host(value: Any) -> Any:
    """The numbers of a tensor on the device, as a stored one is read: with `map_location="cpu"`."""
    return value.numbers.clone() if isinstance(value, OnGPU) else value


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_is_trained_evaluated_stored_and_resumed_on_a_device(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (setup, opened, training):
        monkeypatch.setattr(place, "Accelerator", OneGPU)
    for place, name in ((setup, "build_model"), (opened, "stored_encoder")):
        monkeypatch.setattr(place, name, built_on_the_host(getattr(place, name)))
    configs = [load_run_config(None, demo.run_values(tmp_path / name, **SETTINGS)) for name in ("whole", "resumed")]
    in_order, update = [], Updater.update

    def watched(*given: Any, **options: Any) -> Any:
        in_order.append(torch.are_deterministic_algorithms_enabled())
        return update(*given, **options)

    monkeypatch.setattr(Updater, "update", watched)
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda values, *given: save(tree_map(on_the_host, values), *given))
    with pretended_gpu() as gpu, waiting_allowed(gpu):
        whole = training.train(configs[0], progress=False)
        resumed = stopped_and_resumed(configs[1], step=3)
    assert whole == resumed and whole
    assert in_order == [True] * len(in_order) and len(in_order) >= 8
    assert not torch.are_deterministic_algorithms_enabled()
    logs = [lines_of(tmp_path / name) for name in ("whole", "resumed")]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == [2, 4]
