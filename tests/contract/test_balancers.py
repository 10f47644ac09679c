"""What holds for every registered way to balance, whoever wrote it, and with every regularizer and proximal term.

With every task type: tests/contract/test_task_types.py.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from importlib import import_module

import pytest
import torch

import mtdnn.balancing
import mtdnn.regularizers
from mtdnn.balancing.base import BALANCERS
from mtdnn.config.options import Named, named_faults
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.training.objective import Objective
from tests.reference.balanced import Made, assert_pcgrad, own_gradients
from tests.reference.tiny import make_batch, make_model

assert mtdnn.balancing and mtdnn.regularizers


@pytest.mark.parametrize("name", list(BALANCERS))
def test_name_file_source_cost_and_defaults_are_as_everywhere(name: str) -> None:
    kind = BALANCERS.get(name)
    assert (kind.name, kind.__module__) == (name, f"mtdnn.balancing.{name}")
    assert name == "fixed" or "Source: " in (import_module(kind.__module__).__doc__ or "")
    assert "Cost: " in (inspect.getdoc(kind) or "")
    for option, field in kind.Options.model_fields.items():
        assert field.description, f"{name}.{option} has no description"
        assert not field.is_required(), f"{name}.{option} has no default"
    assert named_faults(BALANCERS, Named(name=name), "balance") == []


def regularized(name: str) -> Made:
    """The tiny model of two tasks, one of them with a penalty or both with the proximal term, away from its teacher."""
    model = make_model(dropout=0.1)  # without it `r_drop` has nothing to compare
    proximal = PROXIMAL.get(name)(model, total_steps=2) if name in PROXIMAL else None
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=draws, dtype=weight.dtype))
    regularizers = {} if name in PROXIMAL else {"nli": REGULARIZERS.get(name)()}
    return model, Objective(model, regularizers, proximal, seed=1, autocast=nullcontext)


@pytest.mark.parametrize("name", [*(name for name in REGULARIZERS if name != "free_at"), *PROXIMAL])
def test_a_penalty_is_part_of_its_tasks_gradient(name: str) -> None:
    """`free_at` moves the weights within a step, and is in tests/unit/training with every way to balance."""
    model, objective = regularized(name)
    batches = [make_batch("nli"), make_batch("similarity", seed=1)]
    with_penalty = own_gradients(model, objective, batches[0])
    without = own_gradients(model, Objective(model, seed=1, autocast=nullcontext), batches[0])
    assert any(not torch.equal(with_penalty[key], without[key]) for key in without)
    assert_pcgrad(lambda: regularized(name), batches)
