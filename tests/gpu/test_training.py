"""Training and prediction on a GPU against the CPU, without a wait of the host, within memory, and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

import mtdnn.balancing  # noqa: F401  registers them
from mtdnn.balancing.base import BALANCERS
from mtdnn.batch import Batch, on_device
from mtdnn.config.execution import Execution
from mtdnn.config.run import load_run_config
from mtdnn.data.loaders import EvalLoader
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.runs.train import train
from mtdnn.training.evaluation import predict_rows
from tests.conftest import Demo
from tests.contract.test_task_types import CASES, Case
from tests.end_to_end.test_distributed import logged
from tests.end_to_end.test_resume import SETTINGS, assert_same_run
from tests.reference.interrupted import stopped_and_resumed
from tests.reference.tiny import make_batch, make_model
from tests.unit.training.test_no_waiting import HOST_SOLVES, Steps, smart, take_steps, trainer_of, without_dropout

CPU = torch.device("cpu")


@pytest.fixture
def waiting_refused(device: torch.device) -> Iterator[Callable[[], None]]:
    """A function after whose call PyTorch raises an error where the host would wait for the GPU."""

    def refuse() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")

    yield refuse
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that the host draws for every device, whose own generators differ."""
    draw = ForwardPass.noise

    def noise(self: ForwardPass, size: float, *, uniform: bool = False) -> Tensor:
        given = ForwardPass(self.model, self.batch, seed=self._seed, step=self._step)
        given.__dict__ |= {"embeddings": torch.empty_like(self.embeddings, device="cpu"), "mask": self.batch.mask}
        return on_device(draw(given, size, uniform=uniform), self.device)

    monkeypatch.setattr(ForwardPass, "noise", noise)


def losses_on_both(
    device: torch.device, model_of: Callable[[], MultiTaskModel], steps: Steps, refuse: Callable[[], None], **given: Any
) -> list[dict[str, Any]]:
    """The mean losses of the tasks on the CPU and on the device, where no step but the first may wait.

    Args:
        device: the GPU.
        model_of: returns the same model each time.
        steps: batches of each step.
        refuse: see `waiting_refused`.
        given: as for `trainer_of`; functions are called with each device.
    """
    found = []
    for place in (CPU, device):
        made = {name: value(device=place) if callable(value) else value for name, value in given.items()}
        trainer = trainer_of(model_of(), SimpleNamespace(**{**vars(ON_HOST), "device": place}), **made)
        take_steps(trainer, steps[:1])
        if place is device:
            refuse()
        take_steps(trainer, steps[1:])
        if place.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        found.append(trainer.meter.take())
    return found


ON_HOST = SimpleNamespace(device=CPU, num_processes=1, process_index=0, is_main_process=True)


def require_equal(on_host: Mapping[str, Mapping[str, float]], on_gpu: Mapping[str, Mapping[str, float]]) -> None:
    """Float32 sums in another order, through an optimizer that divides small gradients by their size: 2e-3 of a loss,
    1 % of a gradient's norm. Penalties are differences of nearly equal numbers: 5 %."""
    assert on_host.keys() == on_gpu.keys()
    for task, values in on_host.items():
        for name, value in values.items():
            rel = {"task": 2e-3, "steps": 0.0, "gradient_norm": 1e-2}.get(name, 5e-2)
            assert on_gpu[task][name] == pytest.approx(value, rel=rel, abs=1e-6), (task, name)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(*request.param, tmp_path_factory.mktemp(request.param[0]))


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("method", ["plain", "smart", "smart and momentum"])
@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_steps_of_every_task_type(
    device: torch.device, case: Case, layout: str, method: str, waiting_refused: Callable[[], None]
) -> None:
    model = partial(without_dropout, lambda: case.model(layout))
    regularizers = (lambda device: {"task": smart()}) if method != "plain" else None
    steps = [[case.batch(model())]] * 3
    mu = 1.0 if method == "smart and momentum" else 0.0
    require_equal(*losses_on_both(device, model, steps, waiting_refused, regularizers=regularizers, mu=mu))


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_steps_with_every_regularizer(device: torch.device, name: str, waiting_refused: Callable[[], None]) -> None:
    """Sums in another order, through several passes and steps along normalised gradients: 1 %."""
    model = partial(make_model, layers=2, dtype=torch.float32, scale=1.0)
    steps = [[make_batch(seed=number)] for number in range(3)]
    regularizers = {"regularizers": lambda device: {"nli": REGULARIZERS.get(name)()}}
    on_host, on_gpu = losses_on_both(device, model, steps, waiting_refused, **regularizers)
    assert on_gpu["nli"].keys() == on_host["nli"].keys()
    assert on_gpu["nli"]["task"] == pytest.approx(on_host["nli"]["task"], rel=1e-2)


@pytest.mark.parametrize("name", [name for name in BALANCERS if name not in HOST_SOLVES])
def test_steps_with_every_way_to_balance_that_the_device_computes(
    device: torch.device, name: str, waiting_refused: Callable[[], None]
) -> None:
    logits = {task: kind.logits_of for task, kind in make_model().task_types.items()}
    steps = [[make_batch("nli", seed=number), make_batch("similarity", seed=number)] for number in range(3)]
    balancer = partial(BALANCERS.get(name), logits)
    require_equal(*losses_on_both(device, make_model, steps, waiting_refused, balancer=balancer))


@pytest.mark.parametrize("attention", ["auto", "kernel", "squares", "flex", "padded"])
@pytest.mark.parametrize("bf16", [False, True])
def test_steps_with_dropout_neither_wait_nor_diverge(
    device: torch.device, attention: str, bf16: bool, waiting_refused: Callable[[], None]
) -> None:
    def model() -> MultiTaskModel:
        made = make_model(dropout=0.1, layers=2, dtype=torch.float32, scale=1.0)
        made.encoder.backbone.set_attn_implementation("sdpa")
        made.encoder = Encoder(made.encoder.backbone, execution=Execution(layout="packed", attention=attention))
        return made

    steps = [[make_batch(rows=16, seed=number)] for number in range(6)]
    autocast = {"autocast": lambda device: partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)}
    on_host, on_gpu = losses_on_both(device, model, steps, waiting_refused, **autocast)
    assert on_gpu["nli"]["task"] == pytest.approx(on_host["nli"]["task"], rel=0.1)  # other masks on 96 rows


def test_predictions_are_those_of_the_cpu(device: torch.device, case: Case) -> None:
    model = case.model().eval()
    loader = EvalLoader(case.stores["dev"], model.task_types["task"], 2, 0)
    found = [
        predict_rows(model.to(place), loader, ["task"], device=place, autocast=nullcontext)["task"]
        for place in (CPU, device)
    ]
    for mine, theirs in zip(*found, strict=True):
        assert mine["id"] == theirs["id"] and mine["label"] == theirs["label"]
        assert _numbers(mine["scores"]) == pytest.approx(_numbers(theirs["scores"]), rel=1e-3, abs=1e-4)


def _numbers(scores: Any) -> list[float]:
    """The numbers in nested scores, in order."""
    if isinstance(scores, Mapping):
        return [number for value in scores.values() for number in _numbers(value)]
    return [float(scores)] if isinstance(scores, (int, float)) else []


def test_a_resumed_run_ends_with_bit_identical_weights(device: torch.device, demo: Demo, tmp_path: Path) -> None:
    """With deterministic algorithms, as `docs/gpu.md` says."""
    AcceleratorState._reset_state(reset_partial_state=True)
    assert Accelerator().device.type == device.type
    given = {**SETTINGS, "train": ["demo_nli", "demo_similarity"], "max_steps": 12}
    given |= {"execution": {"deterministic": True}}
    configs = [load_run_config(None, demo.run_values(tmp_path / name, **given)) for name in ("unbroken", "resumed")]
    train(configs[0], progress=False)
    stopped_and_resumed(configs[1], step=8)
    assert_same_run(tmp_path / "unbroken", tmp_path / "resumed")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_16_bits_learns_as_one_in_float32(
    device: torch.device, demo: Demo, tmp_path: Path, precision: str
) -> None:
    """With the loss scale of fp16; dropout masks are the same, losses after 12 steps agree to 10 %."""
    AcceleratorState._reset_state(reset_partial_state=True)
    assert Accelerator().device.type == device.type
    given = {"train": ["demo_nli", "demo_similarity"], "max_steps": 12, "log_every": 12}
    losses = []
    for each in ("float32", precision):
        output = tmp_path / each
        train(load_run_config(None, demo.run_values(output, precision=each, **given)), progress=False)
        losses.append({name: value for line in logged(output) for name, value in line.items() if ".task" in name})
    assert losses[0] and losses[1] == pytest.approx(losses[0], rel=0.1)


def many_rows(rows: int, tokens: int) -> Batch:
    """Rows of 1 to `tokens` tokens, a quarter of them long."""
    batch = make_batch(rows=rows, tokens=tokens)
    lengths = torch.tensor([tokens if row % 4 == 0 else 3 + row % 8 for row in range(rows)])
    batch.inputs["mask"] = torch.arange(tokens) < lengths[:, None]
    return batch


def peak_of_steps(gpu: torch.device, execution: dict[str, str]) -> tuple[int, int]:
    """Bytes at the peak of the second and of the sixth step, above what was there before."""
    made = make_model(dropout=0.1, layers=4, dtype=torch.float32, scale=1.0)
    made.encoder.backbone.set_attn_implementation("sdpa")
    made.encoder = Encoder(made.encoder.backbone, execution=Execution(**execution))
    trainer = trainer_of(made, SimpleNamespace(**{**vars(ON_HOST), "device": gpu}))
    batch, peaks = many_rows(256, 32), []
    for _ in range(6):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        take_steps(trainer, [[batch]])
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    return peaks[1], peaks[5]


def test_packed_rows_need_less_memory_and_no_step_more_than_the_one_before(gpu: torch.device) -> None:
    """Two thirds of the positions are padding. Whether squares need less than the padded square is measured here."""
    peaks = {}
    for attention in ("auto", "kernel", "squares"):
        second, sixth = peak_of_steps(gpu, {"layout": "packed", "attention": attention})
        assert sixth <= 1.02 * second, f"{attention}: memory grows"
        peaks[attention] = second
    padded, _ = peak_of_steps(gpu, {"layout": "padded"})
    print({**peaks, "padded layout": padded})
    assert all(peak < padded for peak in peaks.values())
