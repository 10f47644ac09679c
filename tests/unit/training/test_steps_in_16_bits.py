"""Steps in bf16 and fp16 on a GPU, in every way of attention: every tensor has the type and the device that it needs.

On the CPU, with a device that computes autocast and the kernels of a GPU; `tests/gpu` has the same on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch

from mtdnn.config.execution import Execution
from mtdnn.config.tasks import task_def_from
from mtdnn.data.loaders import EvalLoader
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.evaluation import predict_rows
from mtdnn.training.loss_scale import LossScale
from tests.contract.test_task_types import Case
from tests.reference.pretended_gpu import GPU, pretended_gpu, waiting_allowed
from tests.reference.tiny import BLOCKS, make_batch
from tests.unit.networks.test_encoder import backbone
from tests.unit.training.test_no_waiting import CASES, smart, take_steps, trainer_on

FAMILIES = ("bert", "modernbert", "llama")
"""With absolute positions; with rotary ones and a window; with rotary ones, causal, and keys shared by heads."""

FLASH, EFFICIENT = {"flash", "flash_backward"}, {"efficient", "efficient_backward"}


def model_of(family: str, attention: str, dropout: float) -> MultiTaskModel:
    """A random encoder of a family with the tasks of `BLOCKS`."""
    encoder = Encoder(backbone(family), execution=Execution(layout="packed", attention=attention))
    for module in encoder.modules():
        for name in ("p", "attention_dropout", "attention_probs_dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)
    tasks = {name: task_def_from(name, {**block, "dropout": 0.0}) for name, block in BLOCKS.items()}
    return MultiTaskModel(encoder, {name: TASK_TYPES.get(each.task_type)(each) for name, each in tasks.items()})


def losses(
    model: Callable[[], MultiTaskModel], precision: torch.dtype | None, **given: Any
) -> tuple[dict[str, Any], set[str]]:
    """The mean losses of a step, and the kernels it used: on the host in float32 for None, else on the device."""
    steps = [[make_batch()]]
    if precision is None:
        made = {name: value() if callable(value) else value for name, value in given.items()}
        trainer = trainer_on(None, model(), **made)
        take_steps(trainer, steps)
        return trainer.meter.take()["nli"], set()
    with pretended_gpu() as gpu:
        with waiting_allowed(gpu):
            made = {name: value() if callable(value) else value for name, value in given.items()}
            scale = LossScale(GPU) if precision == torch.float16 else None
        autocast = partial(torch.autocast, "cuda", precision, enabled=precision != torch.float32)
        trainer = trainer_on(gpu, model(), autocast=autocast, loss_scale=scale, **made)
        take_steps(trainer, [[each.pin_memory() for each in step] for step in steps])
        with waiting_allowed(gpu):
            return trainer.meter.take()["nli"], gpu.kernels


@cache
def loss_on_the_host(family: str) -> float:
    """Of a step in float32, without dropout."""
    found, _ = losses(partial(model_of, family, "auto", 0.0), None, regularizers=lambda: {"nli": smart()})
    return float(found["task"])


@pytest.mark.parametrize(
    ("family", "attention", "dropout", "kernels"),
    [
        ("bert", "auto", 0.0, FLASH),
        ("bert", "kernel", 0.1, FLASH),
        pytest.param("bert", "squares", 0.1, set(), marks=pytest.mark.slow),
        pytest.param("bert", "padded", 0.1, set(), marks=pytest.mark.slow),
        ("modernbert", "auto", 0.0, FLASH),
        pytest.param("modernbert", "auto", 0.1, set(), marks=pytest.mark.slow),
        ("modernbert", "kernel", 0.1, FLASH),
        ("modernbert", "flex", 0.0, set()),
        ("llama", "auto", 0.0, FLASH),
        ("llama", "kernel", 0.1, FLASH),
        pytest.param("llama", "squares", 0.1, set(), marks=pytest.mark.slow),
        ("llama", "flex", 0.0, set()),
    ],
)
def test_steps_in_bf16_in_every_way_of_attention(
    family: str, attention: str, dropout: float, kernels: set[str]
) -> None:
    """bf16 has a precision of 2^-8, which two layers and the head multiply: 3 % of a loss near 1."""
    model = partial(model_of, family, attention, dropout)
    found, used = losses(model, torch.bfloat16, regularizers=lambda: {"nli": smart()})
    assert found["task"] == pytest.approx(loss_on_the_host(family), rel=0.03 if dropout == 0 else 0.3)
    assert used == kernels


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_in_float32_by_the_memory_efficient_kernel(family: str) -> None:
    """Sums in another order: 1e-5. Layers with a window, of which ModernBERT has one in two, take the padded square."""
    model = partial(model_of, family, "kernel", 0.0)
    (found, used), (expected, _) = losses(model, torch.float32), losses(model, None)
    assert found == pytest.approx(expected, rel=1e-5) and used == EFFICIENT


@pytest.mark.parametrize(("name", "attention"), [("smart", "auto"), ("free_at", "kernel"), ("adversarial", "auto")])
def test_steps_in_fp16_with_a_loss_scale(attention: str, name: str) -> None:
    """fp16 has a precision of 2^-11: 1 % of the loss."""
    model = partial(model_of, "bert", attention, 0.0)
    given = {"regularizers": lambda: {"nli": REGULARIZERS.get(name)(precision="run") if name != "smart" else smart()}}
    (found, used), (expected, _) = (losses(model, precision, **given) for precision in (torch.float16, None))
    assert found["task"] == pytest.approx(expected["task"], rel=0.01) and used == FLASH


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(*request.param, tmp_path_factory.mktemp(request.param[0]))


def test_predictions_of_every_task_type_in_bf16(case: Case) -> None:
    """Every row once, and no operation without a deterministic algorithm: a run may be evaluated while it trains."""
    with pretended_gpu() as gpu, waiting_allowed(gpu):
        model = case.model().eval().to(GPU)
        loader = EvalLoader(case.stores["dev"], model.task_types["task"], 2, 0)
        autocast = partial(torch.autocast, "cuda", torch.bfloat16)
        records = predict_rows(model, loader, ["task"], device=GPU, autocast=autocast)["task"]
        assert [record["id"] for record in records] == list(case.stores["dev"].ids)
