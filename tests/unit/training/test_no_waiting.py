"""Between two log lines the host never waits for the device: it would idle until the host has queued the next step.

On the CPU, with a device that has shapes and no numbers; `tests/gpu` has the same on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mtdnn.balancing  # noqa: F401  registers them
from mtdnn.balancing.base import BALANCERS
from mtdnn.batch import IGNORED, Batch
from mtdnn.config.execution import Execution
from mtdnn.execution.layout import Layout
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.losses import LOSSES
from mtdnn.regularizers.base import REGULARIZERS, Regularizer
from mtdnn.regularizers.proximal import Momentum
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.average import MovingAverage
from mtdnn.training.objective import Objective
from mtdnn.training.optim import build_optimizer
from mtdnn.training.plan import Plan
from mtdnn.training.trainer import Trainer
from tests.contract.test_task_types import Case
from tests.reference.pretended_gpu import (
    GPU,
    WAITING,
    HostWaits,
    NoDeterministicAlgorithm,
    PretendedGPU,
    pretended_gpu,
    waiting_allowed,
)
from tests.reference.tiny import make_batch, make_model

CASES = [
    (name, head)
    for name in TASK_TYPES
    for head in TASK_TYPES.get(name).heads
    if head != "san" or name == "classification"  # one head, whatever the type
]
ON_GPU = SimpleNamespace(device=GPU, num_processes=1, process_index=0, is_main_process=True)
ON_HOST = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0, is_main_process=True)
Steps = Sequence[Sequence[Batch]]


def trainer_of(model: MultiTaskModel, accelerator: Any, *, mu: float = 0.0, ema: float = 0.0, **given: Any) -> Trainer:
    """A trainer that does not log.

    Args:
        model: on the host; it is put on the accelerator's device.
        accelerator: of the run.
        mu: factor of the proximal term; 0: none.
        ema: decay of the average of the weights; 0: none.
        given: `regularizers`, `autocast` and `loss_scale` of the objective; the rest is the trainer's.
    """
    term = Momentum(model, total_steps=100, mu=mu) if mu else None
    of_objective = {name: given.pop(name) for name in ("regularizers", "autocast", "loss_scale") if name in given}
    objective = Objective(model, proximal=term, seed=1, **of_objective)
    average = MovingAverage(model, ema) if ema else None
    for each in (model, term and term.teacher, average and average.teacher):
        if each:
            each.to(accelerator.device)
    model.train()
    optimizer = build_optimizer("adamw", [{"params": list(model.parameters()), "weight_decay": 0.01}], lr=1e-3)
    return Trainer(
        model=model,
        objective=objective,
        loader=SizedLoader(),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=9),
        accelerator=accelerator,
        plan=Plan(total_steps=100, evaluate_every="never", checkpoint_every="never", log_every=50),
        evaluate=lambda: ({}, None),
        save=lambda kind, trainer: None,
        average=average,
        **given,
    )


def trainer_on(gpu: PretendedGPU | None, model: MultiTaskModel, **given: Any) -> Trainer:
    """A trainer on the device, or on the host for None; `given` as for `trainer_of`."""
    if gpu is None:
        return trainer_of(model, ON_HOST, **given)
    with waiting_allowed(gpu):
        return trainer_of(model, ON_GPU, **given)


def without_dropout(model_of: Callable[[], MultiTaskModel]) -> MultiTaskModel:
    """A model without dropout, whose masks differ between the host and a device."""
    made = model_of()
    for module in made.modules():
        for name in ("p", "dropout", "prediction_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return made


class SizedLoader:
    """What a trainer asks of a loader outside `train`."""

    def __len__(self) -> int:
        return 50


def take_steps(trainer: Trainer, steps: Steps) -> None:
    """Steps, each followed by what the loop does after it."""
    for parts in steps:
        trainer.train_step(parts)
        trainer._after_step()


def test_what_makes_the_host_wait_is_found() -> None:
    with pretended_gpu() as gpu:
        values = gpu.pin(torch.arange(6.0)).to(GPU, non_blocking=True)
        chosen = values > 2
        for waiting in (
            lambda: values.sum().item(),
            lambda: values.tolist(),
            lambda: values.cpu(),
            lambda: bool(chosen.any()),
            lambda: chosen.nonzero(),
            lambda: values[chosen],
            lambda: values.masked_select(chosen),
            lambda: values.index_put_((chosen,), values[:3]),
            lambda: torch.tensor([1.0], device=GPU),
            lambda: torch.zeros(3).to(GPU),
            lambda: torch.zeros(3).to(GPU, non_blocking=True),
            lambda: values[torch.tensor([1, 2])],
            lambda: values.unique(),
            lambda: torch.equal(values, values),
        ):
            with pytest.raises(HostWaits):
                waiting()
        torch.where(chosen, values, 0.0).masked_fill(chosen, 1.0).index_select(0, values.argsort())


def test_what_has_no_deterministic_algorithm_is_found() -> None:
    with pretended_gpu() as gpu:
        values = gpu.pin(torch.arange(6.0)).to(GPU, non_blocking=True)
        values.long().cumsum(0)
        for refused in (
            lambda: values.cumsum(0),
            lambda: values.histc(),
            lambda: values.median(0),
            lambda: values.long().bincount(minlength=6),
        ):
            with pytest.raises(NoDeterministicAlgorithm):
                refused()


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "ordinal"])
def test_every_loss_of_classes_has_a_deterministic_algorithm_and_does_not_wait(loss: str) -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, IGNORED, 1])
    expected = LOSSES.get(loss)(logits, labels)
    with pretended_gpu() as gpu:
        found = LOSSES.get(loss)(*(gpu.pin(each).to(GPU, non_blocking=True) for each in (logits, labels)))
        with waiting_allowed(gpu):
            assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(*request.param, tmp_path_factory.mktemp(request.param[0]))


def smart() -> Regularizer:
    return REGULARIZERS.get("smart")(epsilon=1e-2, eta=1e-2, noise=1e-2)


def losses_on_both(model_of: Callable[[], MultiTaskModel], steps: Steps, **given: Any) -> list[dict[str, Any]]:
    """The mean losses of the tasks over the steps: on the host, and on the device without a wait.

    Args:
        model_of: returns the same model each time.
        steps: batches of each step.
        given: as for `trainer_on`; functions are called for each of the two.
    """
    found = []
    on_host = trainer_on(None, model_of(), **_made(given, "cpu"))
    take_steps(on_host, steps)
    found.append(on_host.meter.take())
    with pretended_gpu() as gpu:
        with waiting_allowed(gpu):
            made = _made(given, GPU)
        trainer = trainer_on(gpu, model_of(), **made)
        take_steps(trainer, [[each.pin_memory() for each in step] for step in steps])
        with waiting_allowed(gpu):
            found.append(trainer.meter.take())
    return found


def _made(given: Mapping[str, Any], device: Any) -> dict[str, Any]:
    """The values, and those that functions return for a device."""
    return {name: value(device=device) if callable(value) else value for name, value in given.items()}


def require_equal(on_host: Mapping[str, Mapping[str, float]], on_gpu: Mapping[str, Mapping[str, float]]) -> None:
    """Require equal losses, up to the order of sums: attention on a GPU is computed over the padded batch."""
    assert on_host.keys() == on_gpu.keys()
    for task, values in on_host.items():
        assert on_gpu[task] == pytest.approx(values, rel=2e-4, abs=1e-7)


def test_steps_of_every_task_type(case: Case) -> None:
    if case.backbone().config.model_type in WAITING:
        pytest.skip("its encoder waits with this version of transformers")
    model = partial(without_dropout, case.model)
    steps = [[case.batch(model())]]
    require_equal(*losses_on_both(model, steps, regularizers=lambda device: {"task": smart()}, mu=1.0))


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_steps_with_every_regularizer(name: str) -> None:
    steps = [[make_batch(seed=number)] for number in range(2)]
    model = partial(make_model, layers=2, dtype=torch.float32, scale=1.0)
    require_equal(*losses_on_both(model, steps, regularizers=lambda device: {"nli": REGULARIZERS.get(name)()}))


HOST_SOLVES = {"pcgrad", "cagrad", "upgrad", "imtl"}
"""Methods on gradients: the host waits once for their inner products, and finds the weights."""


@pytest.mark.parametrize("name", [name for name in BALANCERS if name not in HOST_SOLVES])
def test_steps_with_every_way_to_balance_that_the_device_computes(name: str) -> None:
    options = {"weights": {"nli": 2.0}} if name == "fixed" else {}
    types = make_model().task_types
    logits = {task: types[task].logits_of for task in types}
    steps = [[make_batch("nli", seed=number), make_batch("similarity", seed=number)] for number in range(3)]
    balancer = partial(BALANCERS.get(name), logits, **options)
    require_equal(*losses_on_both(make_model, steps, balancer=balancer))


def test_all_passes_of_a_step_share_one_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    compute = Layout.of
    monkeypatch.setattr(Layout, "of", lambda *given, **options: made.append(1) or compute(*given, **options))
    trainer = trainer_of(make_model(), ON_HOST, regularizers={"nli": smart()})
    made.clear()
    take_steps(trainer, [[make_batch()], [make_batch(seed=1)]])
    assert len(made) == 2  # of three passes each; the mask of a batch stays the same tensor


def test_a_method_on_gradients_waits_once_for_their_inner_products() -> None:
    logits = {task: kind.logits_of for task, kind in make_model().task_types.items()}
    with pretended_gpu() as gpu:
        trainer = trainer_on(gpu, make_model(), balancer=BALANCERS.get("pcgrad")(logits, device=GPU))
        with pytest.raises(HostWaits, match=r"a copy to the host: \[2, 2\]"):
            take_steps(trainer, [[make_batch(task).pin_memory() for task in ("nli", "similarity")]])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("execution", [{"layout": "packed"}, {"layout": "padded"}, {"attention": "squares"}], ids=str)
def test_plain_steps_in_every_execution_in_parts_with_an_average(execution: dict[str, Any], dropout: float) -> None:
    def model() -> MultiTaskModel:
        made = make_model(dropout=dropout, layers=2)
        backbone = made.encoder.backbone
        backbone.set_attn_implementation("sdpa")
        made.encoder = Encoder(backbone, execution=Execution(**execution))
        return made

    steps = [[make_batch(seed=number, padding=number), make_batch(seed=9)] for number in range(2)]
    on_host, on_gpu = losses_on_both(model, steps, ema=0.9)
    if dropout == 0:
        require_equal(on_host, on_gpu)


def test_the_weights_after_steps_on_the_device_are_those_of_the_host() -> None:
    def moved(gpu: PretendedGPU | None) -> list[torch.Tensor]:
        trainer = trainer_on(gpu, make_model(), regularizers={"nli": smart()}, mu=1.0)
        take_steps(trainer, [[make_batch(seed=number).pin_memory()] for number in range(2)])
        with waiting_allowed(gpu) if gpu else nullcontext():
            return [weight.detach().cpu() for weight in trainer.model.parameters()]

    with pretended_gpu() as gpu:
        on_gpu = moved(gpu)
        on_host = moved(None)
    for mine, theirs in zip(on_gpu, on_host, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)  # float64, sums in another order
