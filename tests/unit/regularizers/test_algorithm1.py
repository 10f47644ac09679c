"""SMART against `tests/reference/algorithm1.py`, in float64 with dropout off; gradients also against differences."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

from mtdnn.batch import Batch
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.regularizers.smart import Smart
from mtdnn.training.objective import Objective
from tests.reference import algorithm1
from tests.reference.tiny import make_batch, make_model

SEED = 3
EXACT = {"rtol": 0.0, "atol": 1e-9}  # float64; both sum the same terms in another order, over padded or single rows
DIVERGENCE = {"nli": algorithm1.symmetric_kl, "similarity": algorithm1.squared}
P = {"inf": torch.inf, "l2": 2.0}
LAMBDA, MU, NOISE, EPSILON, ETA = 3.0, 1.0, 1e-2, 2e-2, 3e-2


def settings(*, norm: str, steps: int, inner_steps: int = 1, proximal: str = "momentum") -> algorithm1.Settings:
    beta, beta_late = (0.9, 0.99) if proximal == "momentum" else (0.0, 0.0)
    return algorithm1.Settings(EPSILON, ETA, steps, P[norm], LAMBDA, MU, inner_steps, beta, beta_late, 0.1)


def smart(*, norm: str, steps: int) -> Smart:
    return Smart(epsilon=EPSILON, eta=ETA, noise=NOISE, norm=norm, steps=steps, weight=LAMBDA)


def pass_of(model: MultiTaskModel, batch: Batch, step: int = 0) -> ForwardPass:
    return ForwardPass(model, batch, seed=SEED, step=step)


def noises(model: MultiTaskModel, batch: Batch, step: int) -> list[Tensor]:
    """The implementation's ν, cut to the real tokens of each row: chance is the one thing both must share."""
    noise = pass_of(model, batch, step).noise(NOISE)
    return [row[None, : int(mask.sum())] for row, mask in zip(noise, batch.mask, strict=True)]


@pytest.mark.parametrize("task", ["nli", "similarity"])
@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_x_tilde_penalty_and_all_its_gradients_equal_the_algorithm(task: str, norm: str, steps: int) -> None:
    model, batch, config = make_model(layers=2), make_batch(task), settings(norm=norm, steps=steps)
    method, given, ell = smart(norm=norm, steps=steps), pass_of(model, batch), DIVERGENCE[task]
    given_noises = noises(model, batch, 0)

    delta = method.perturbation(given, given.embeddings.detach(), given.logits.detach())
    for row, example, nu in zip(delta, algorithm1.examples(batch), given_noises, strict=True):
        x_tilde = algorithm1.adversarial_x(model, example, nu, ell, config)
        expected = x_tilde - algorithm1.x_of(model, example).detach()
        torch.testing.assert_close(row[None, : expected.shape[1]], expected, **EXACT)

    value, expected_value = (
        method.penalty(pass_of(model, batch)),
        algorithm1.smoothness(model, batch, given_noises, ell, config),
    )
    assert value.item() > 1e-5, "so small a penalty would prove little"
    torch.testing.assert_close(value, expected_value, **EXACT)
    weights = [weight for name, weight in model.named_parameters()]
    gradients = torch.autograd.grad(value, weights, allow_unused=True)
    expected_gradients = torch.autograd.grad(expected_value, weights, allow_unused=True)
    assert sum(each is not None for each in gradients) > 20
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert (gradient is None) == (expected_gradient is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected_gradient, **EXACT)


@pytest.mark.parametrize("task", ["nli", "similarity"])
def test_bregman_divergence_and_its_gradients_equal_the_algorithm(task: str) -> None:
    model, batch = make_model(), make_batch(task)
    proximal = PROXIMAL.get("momentum")(model, total_steps=10)
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(
                0.05 * torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1))
            )
    value = proximal.penalty(pass_of(model, batch))
    expected = algorithm1.bregman(model, teacher, batch, DIVERGENCE[task])
    assert value.item() > 1e-3
    torch.testing.assert_close(value, expected, **EXACT)
    weights = list(model.parameters())
    for mine, reference in zip(
        torch.autograd.grad(value, weights, allow_unused=True),
        torch.autograd.grad(expected, weights, allow_unused=True),
        strict=True,
    ):
        if mine is not None:
            torch.testing.assert_close(mine, reference, **EXACT)


@pytest.mark.parametrize("task", ["nli", "similarity"])
def test_gradient_of_the_penalty_equals_finite_differences(task: str) -> None:
    """x̃ − x held fixed, as the algorithm holds it, along random directions of all weights."""
    model, batch = make_model(), make_batch(task)
    first = pass_of(model, batch)
    delta = smart(norm="inf", steps=1).perturbation(first, first.embeddings.detach(), first.logits.detach())

    def penalty() -> Tensor:
        given = pass_of(model, batch)
        return given.divergence(given.rerun(given.embeddings + delta), given.logits).mean()

    weights = list(model.parameters())
    gradients = torch.autograd.grad(
        smart(norm="inf", steps=1).penalty(pass_of(model, batch)), weights, allow_unused=True
    )
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for _ in range(3):
        along = [torch.randn(weight.shape, dtype=weight.dtype, generator=generator) for weight in weights]
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, along, strict=True) if g is not None)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                torch._foreach_add_(weights, along, alpha=sign * step)
                values.append(float(penalty()))
                torch._foreach_add_(weights, along, alpha=-sign * step)
        # central differences: error of order step² · third derivative
        assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


GRID = list(itertools.product(["momentum", "vanilla"], [1, 3], [0, 1, 3], ["inf", "l2"], ["nli", "similarity"]))
DEFAULT = {  # every value of every factor; the rest is marked slow
    ("momentum", 1, 1, "inf", "nli"),
    ("momentum", 3, 3, "l2", "similarity"),
    ("momentum", 1, 0, "l2", "nli"),
    ("vanilla", 3, 1, "inf", "nli"),
    ("vanilla", 3, 0, "l2", "similarity"),
}


@pytest.mark.parametrize(
    ("proximal", "inner_steps", "steps", "norm", "task"),
    [pytest.param(*each, marks=() if each in DEFAULT else pytest.mark.slow) for each in GRID],
)
def test_trajectory_of_all_weights_equals_the_algorithm(
    proximal: str, inner_steps: int, steps: int, norm: str, task: str
) -> None:
    """20 optimizer steps (21 for S = 3, whole outer iterations), every weight after every step."""
    batches = [make_batch(task, rows=2, tokens=4, seed=each) for each in range(21 if inner_steps == 3 else 20)]
    model = make_model()
    reference = copy.deepcopy(model)

    def optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
        # eps keeps Adam from making whole steps out of gradients that are rounding errors
        return torch.optim.Adam(module.parameters(), lr=1e-3, eps=1e-4)

    options = {"beta": 0.9, "beta_late": 0.99} if proximal == "momentum" else {}
    term = PROXIMAL.get(proximal)(model, total_steps=len(batches), mu=MU, inner_steps=inner_steps, **options)
    objective, mover = Objective(model, {task: smart(norm=norm, steps=steps)}, term, seed=SEED), optimizer(model)
    trajectory = []
    for step, batch in enumerate(batches):
        mover.zero_grad()
        for part in objective.parts(batch, step=step):
            part.loss.backward()
        mover.step()
        objective.after_step()
        trajectory.append({name: weight.detach().clone() for name, weight in model.named_parameters()})

    config = settings(norm=norm, steps=steps, inner_steps=inner_steps, proximal=proximal)
    expected = algorithm1.run(reference, optimizer, batches, noises, DIVERGENCE[task], config)
    moved = max(float((trajectory[-1][name] - trajectory[0][name]).abs().max()) for name in trajectory[0])
    assert moved > 1e-2, "weights that hardly move would prove little"
    for mine, theirs in zip(trajectory, expected, strict=True):
        for name, weight in mine.items():
            torch.testing.assert_close(weight, theirs[name], **EXACT, msg=lambda text, name=name: f"{name}: {text}")
