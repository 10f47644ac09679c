"""What holds for every registered regularizer, whoever wrote it."""

from __future__ import annotations

import inspect
import io
from importlib import import_module
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mtdnn.config.options import Named, named_faults
from mtdnn.regularizers.base import REGULARIZERS, Regularizer
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.objective import Objective
from tests.reference.tiny import make_batch, make_model

TASK_TYPES_OF_TESTS = {"nli": "classification", "similarity": "regression"}
PRESETS_OF_ANOTHER_FILE = {"smart-mtdnn-release": "smart_release", "smart-tuned": "smart_tuned"}


class Operations(TorchDispatchMode):
    """Counts floating point operations; PyTorch's own counter cannot follow `torch.autograd.grad`."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def step(
    objective: Objective, model: torch.nn.Module, task: str = "nli", **batch: Any
) -> tuple[dict[str, float], list[torch.Tensor | None]]:
    """Named values of one step, and the gradients it leaves."""
    named: dict[str, float] = {}
    for part in objective.parts(make_batch(task, **batch), step=0):
        part.loss.backward()
        assert all(not value.requires_grad for value in part.named.values())
        for name, value in part.named.items():
            named[name] = named.get(name, 0.0) + float(value)
    gradients = [weight.grad for weight in model.parameters()]
    model.zero_grad(set_to_none=True)
    return named, gradients


def test_the_methods_of_the_papers_tables_are_there() -> None:
    assert set(REGULARIZERS) >= {
        "smart", "smart-mtdnn-release", "smart-tuned", "adversarial", "free_at", "free_lb", "r_drop", "r3f", "vat",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_name_file_source_and_defaults_are_as_everywhere(name: str) -> None:
    kind = REGULARIZERS.get(name)
    assert kind.name == name
    assert kind.__module__ == f"mtdnn.regularizers.{PRESETS_OF_ANOTHER_FILE.get(name, name)}"
    assert "Source: " in (import_module(kind.__module__).__doc__ or "")
    assert "Cost: " in (inspect.getdoc(kind) or "")
    for option, field in kind.Options.model_fields.items():
        assert field.description, f"{name}.{option} has no description"
        assert not field.is_required(), f"{name}.{option} has no default"
    assert named_faults(REGULARIZERS, Named(name=name), "regularizer") == []
    assert kind.type_faults(TASK_TYPES.get("classification"), "run.yml:1", "regularizer") == []


@pytest.mark.parametrize("name", list(REGULARIZERS))
@pytest.mark.parametrize("option", [{"weight": -1}, {"weight": "much"}, {"every": 0}, {"wieght": 1}])
def test_bad_options_are_refused_with_their_place(name: str, option: dict[str, Any]) -> None:
    (found,) = named_faults(REGULARIZERS, Named(name=name, **option), "regularizer", where="run.yml:1")
    assert str(found).startswith(f"run.yml:1: regularizer.{next(iter(option))}: ")


@pytest.mark.parametrize("name", list(REGULARIZERS))
@pytest.mark.parametrize("task", list(TASK_TYPES_OF_TESTS))
def test_a_step_gives_finite_values_and_gradients(name: str, task: str) -> None:
    model = make_model(dropout=0.1, dtype=torch.float32, scale=1.0)
    objective = Objective(model, {task: REGULARIZERS.get(name)()}, seed=1)
    named, gradients = step(objective, model, task)
    assert named["task"] > 0
    assert named.get(name, 0.0) >= 0
    assert sum(each is not None for each in gradients) > 20
    assert all(torch.isfinite(each).all() for each in gradients if each is not None)
    objective.after_step()
    assert all(isinstance(value, float) for values in objective.diagnostics().values() for value in values.values())


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_weight_zero_is_the_plain_run_bit_for_bit(name: str) -> None:
    model = make_model(dropout=0.2)
    plain = step(Objective(model, seed=1), model)
    off = step(Objective(model, {"nli": REGULARIZERS.get(name)(weight=0)}, seed=1), model)
    assert plain[0] == off[0]
    assert all(a is b or torch.equal(a, b) for a, b in zip(plain[1], off[1], strict=True))


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_a_step_is_a_function_of_seed_and_step(name: str) -> None:
    model = make_model(dropout=0.2)
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        results.append(step(Objective(model, {"nli": REGULARIZERS.get(name)()}, seed=1), model))
    assert results[0][0] == results[1][0]
    assert all(a is b or torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    other = step(Objective(model, {"nli": REGULARIZERS.get(name)()}, seed=2), model)
    assert other[0] != results[0][0]


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_padding_changes_nothing(name: str) -> None:
    model = make_model()
    short, long = (
        step(Objective(model, {"nli": REGULARIZERS.get(name)()}, seed=1), model, padding=padding) for padding in (0, 6)
    )
    assert short[0] == pytest.approx(long[0], rel=1e-7)
    for mine, theirs in zip(short[1], long[1], strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-10)  # float64, sums in another order


@pytest.mark.parametrize("name", list(REGULARIZERS))
@pytest.mark.parametrize("options", [{}, {"every": 2}])
def test_the_floating_point_operations_of_a_step_are_the_cost_it_claims(name: str, options: dict[str, Any]) -> None:
    model = make_model(dropout=0.1, dtype=torch.float32)
    method = REGULARIZERS.get(name)(**options)
    operations = {}
    for kind, objective in {
        "plain": Objective(model, seed=1),
        "with": Objective(model, {"nli": method}, seed=1),
    }.items():
        with Operations() as counter:
            for _ in range(2):
                step(objective, model, rows=8)
                objective.after_step()
        operations[kind] = counter.total
    # attention has no weights: its backward pass to the input alone is 2, not 1, up to 4 % more here; gradients of
    # weights computed needlessly in an inner step would be 12 % more
    assert operations["with"] / operations["plain"] == pytest.approx(method.cost / 3, rel=0.05)


def test_the_momentum_term_costs_one_forward_pass() -> None:
    model = make_model(dtype=torch.float32)
    operations = []
    for proximal in (None, PROXIMAL.get("momentum")(model, total_steps=9)):
        with Operations() as counter:
            step(Objective(model, {"nli": REGULARIZERS.get("smart")()}, proximal, seed=1), model)
        operations.append(counter.total)
    assert operations[1] / operations[0] == pytest.approx(9 / 8, rel=0.02)


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_state_survives_a_file(name: str) -> None:
    method = REGULARIZERS.get(name)(every=3)
    model = make_model()
    Objective(model, {"nli": method}, seed=1)
    method.after_step(model)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    resumed: Regularizer = REGULARIZERS.get(name)(every=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.state_dict() == method.state_dict()
    assert not resumed.is_due


def test_a_method_that_keeps_state_sees_the_moved_weights() -> None:
    class Remembers(Regularizer):
        name = "remembers"
        seen = 0.0

        def penalty(self, forward_pass: ForwardPass) -> torch.Tensor:
            return forward_pass.logits.square().mean()

        def after_step(self, model: torch.nn.Module) -> None:
            super().after_step(model)
            self.seen = float(next(model.parameters()).detach().sum())

    model, method = make_model(), Remembers()
    objective = Objective(model, {"nli": method}, seed=1)
    for part in objective.parts(make_batch(), step=0):
        part.loss.backward()
    with torch.no_grad():
        next(model.parameters()).fill_(1.0)
    objective.after_step()
    assert method.seen == next(model.parameters()).numel() and method.steps_seen == 1
